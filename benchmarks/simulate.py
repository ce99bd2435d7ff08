"""A run on 10 to 1,000 workers, simulated from what its blocks took on two cores.

::

    scalespec run RUN.toml --log run.jsonl
    python benchmarks/simulate.py run.jsonl --json F.json

Discrete events (simpy): a driver that hands out and hears of one block after another, workers
that read, compute, write and sometimes straggle or die, and a store whose bandwidth they share.
Durations are drawn from those in the log, scaled to blocks of 4,096 spectra; everything else is an
assumption, named in ``Site``. What is full while others wait is called the limit: the driver, the
store, the start of the workers, too few blocks for so many of them, or the workers themselves.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import simpy

ROWS = 4096
KB_PER_SPECTRUM = {  # read, written: gzipped files; flux, ivar and mask as stored
    "ingest": (41.0, 21.0),
    "preprocess": (21.0, 20.0),
    "infer": (20.0, 0.1),
    "fit": (20.0, 0.5),
    "publish": (1.0, 0.5),
}


@dataclass(frozen=True)
class Site:
    """What is assumed of a cluster.

    Attributes
    ----------
    driver_ms : float
        The driver's time for one block, by ``scaling.py noop``.
    stream_mb_s, store_gb_s : float
        Bandwidth of one reader or writer, and of the store in all.
    start_s : float
        Until workers are there, and when one comes back.
    straggle, slower : float
        Share of blocks that take so many times as long.
    mean_life_h : float
        Mean time until a worker dies; its block is done again by another.
    list_s_per_1000 : float
        Of the ledger, at the start.
    """

    driver_ms: float = 5.0
    stream_mb_s: float = 100.0
    store_gb_s: float = 10.0
    start_s: float = 30.0
    straggle: float = 0.01
    slower: float = 5.0
    mean_life_h: float = 24.0
    list_s_per_1000: float = 0.05


class Run:
    """One stage of one run."""

    def __init__(self, site: Site, stage: str, seconds: np.ndarray, n_blocks: int, workers: int):
        self.site, self.seconds = site, seconds
        self.env = simpy.Environment()
        self.rng = np.random.default_rng([n_blocks, workers, len(stage)])
        self.driver = simpy.Resource(self.env, 1)
        self.streams = max(1, round(site.store_gb_s * 1000 / site.stream_mb_s))
        self.store = simpy.Resource(self.env, self.streams)
        self.left, self.done, self.redone = n_blocks, 0, 0
        self.n_blocks, self.workers = n_blocks, workers
        self.busy = dict.fromkeys(("driver", "store", "workers"), 0.0)
        self.read_s, self.write_s = (
            kb * ROWS / 1000 / site.stream_mb_s for kb in KB_PER_SPECTRUM[stage]
        )
        self.ended = self.env.event()

    def worker(self) -> Iterator[simpy.Event]:
        """Take blocks until there are none; die now and then."""
        site, env = self.site, self.env
        yield env.timeout(site.start_s + self.n_blocks / 1000 * site.list_s_per_1000)
        dies = env.now + self.rng.exponential(site.mean_life_h * 3600)
        while self.left > 0:
            self.left -= 1
            yield from self.held(self.driver, "driver", site.driver_ms / 1000)
            began = env.now
            yield from self.held(self.store, "store", self.read_s)
            compute = self.rng.choice(self.seconds)
            if self.rng.random() < site.straggle:
                compute *= site.slower
            yield env.timeout(compute)
            yield from self.held(self.store, "store", self.write_s)
            self.busy["workers"] += env.now - began
            if env.now > dies:
                self.left += 1
                self.redone += 1
                yield env.timeout(site.start_s)
                dies = env.now + self.rng.exponential(site.mean_life_h * 3600)
                continue
            self.done += 1
            if self.done == self.n_blocks:
                self.ended.succeed()

    def held(self, resource: simpy.Resource, name: str, seconds: float) -> Iterator[simpy.Event]:
        """Wait for a place, hold it for its time."""
        with resource.request() as place:
            yield place
            yield self.env.timeout(seconds)
            self.busy[name] += seconds

    def row(self, stage: str) -> dict:
        """Run it, and say how long it took and what was full."""
        for _ in range(self.workers):
            self.env.process(self.worker())
        self.env.run(self.ended)
        site = self.site
        wall = self.env.now
        working = wall - site.start_s - self.n_blocks / 1000 * site.list_s_per_1000
        alone = float(self.seconds.mean()) + self.read_s + self.write_s
        places = {"driver": 1, "store": self.streams, "workers": self.workers}
        full = {name: self.busy[name] / places[name] / working for name in places}
        return {
            "stage": stage,
            "spectra": self.n_blocks * ROWS,
            "workers": self.workers,
            "hours": round(wall / 3600, 3),
            "spectra_per_s": round(self.n_blocks * ROWS / wall),
            "efficiency": round(alone * self.n_blocks / self.workers / wall, 3),
            "driver": round(full["driver"], 3),
            "store": round(full["store"], 3),
            "redone": self.redone,
            "limit": limit(full, wall, working),
        }


def limit(full: dict[str, float], wall: float, working: float) -> str:
    """What keeps it from being faster."""
    if full["driver"] > 0.9:
        return "driver"
    if full["store"] > 0.9:
        return "store"
    if working < 0.7 * wall:
        return "start"
    return "workers" if full["workers"] > 0.8 else "blocks"


def measured(log: Path) -> dict[str, np.ndarray]:
    """Seconds of a block of 4,096 spectra, by stage, the first of every worker left out."""
    seconds, known = defaultdict(list), set()
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["event"] != "block" or not event["ok"] or event["stage"] not in KB_PER_SPECTRUM:
            continue
        if (event["stage"], event["worker"]) in known:
            rows = event["stop"] - event["start"]
            seconds[event["stage"]].append(event["seconds"] * ROWS / rows)
        known.add((event["stage"], event["worker"]))
    return {stage: np.array(values) for stage, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--workers", nargs="+", type=int, default=[10, 30, 100, 300, 1000])
    parser.add_argument("--spectra", nargs="+", type=float, default=[1e7, 1e8])
    parser.add_argument("--driver-ms", type=float, default=Site.driver_ms)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    site = Site(driver_ms=arguments.driver_ms)
    rows = []
    for stage, seconds in measured(arguments.log).items():
        for n in arguments.spectra:
            for workers in arguments.workers:
                row = Run(site, stage, seconds, -(-int(n) // ROWS), workers).row(stage)
                rows.append(row | {"block_s": round(float(seconds.mean()), 2)})
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if arguments.json:
        record = {"site": asdict(site), "rows": rows}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
