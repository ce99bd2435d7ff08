"""A run on 10 to 1,000 workers, simulated from what its blocks took on two cores.

::

    scalespec run RUN.toml --log run.jsonl
    python benchmarks/simulate.py run.jsonl --scaling scaling.json --json F.json

Discrete events (simpy): a driver and a scheduler that handle one block after another, workers
that read, compute, write and sometimes straggle or die, and a store whose bandwidth and requests
they share. Durations are drawn from those in the log, scaled to blocks of 4,096 spectra; driver and
scheduler are those that ``scaling.py noop --single`` measured; everything else is an assumption,
named in ``Site``. What is full while others wait is called the limit: the driver, the scheduler,
the store's bandwidth or requests, the start of the workers, too few blocks for so many of them, or
the workers themselves. ``--scaling`` also simulates the runs that were measured, to compare.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import simpy

ROWS = 4096


@dataclass(frozen=True)
class Traffic:
    """What a stage reads and writes: kB per spectrum, and requests per block."""

    read_kb: float
    written_kb: float
    gets: int
    puts: int


TRAFFIC = {  # gzipped files, one a spectrum; flux, ivar and mask as stored, an object an array
    "ingest": Traffic(41.0, 21.0, ROWS, 17),
    "preprocess": Traffic(21.0, 20.0, 17, 17),
    "infer": Traffic(20.0, 0.1, 8, 2),
    "fit": Traffic(20.0, 0.5, 9, 2),
    "publish": Traffic(1.0, 0.5, 3, 3),
}


@dataclass(frozen=True)
class Site:
    """What is assumed of a cluster.

    Attributes
    ----------
    driver_ms, scheduler_ms : float
        Their time for one block, by ``scaling.py noop --single``.
    stream_mb_s, store_gb_s : float
        Bandwidth of one reader or writer, and of the store in all.
    request_ms, in_flight : float, int
        Until a request is answered, and how many a worker has going.
    requests_per_s : float
        That the store answers in all.
    start_s : float
        Until workers are there, and when one comes back.
    straggle, slower : float
        Share of blocks that take so many times as long.
    mean_life_h : float
        Mean time until a worker dies; its block is done again by another.
    list_s_per_1000 : float
        Of the ledger, at the start.
    """

    driver_ms: float = 1.0
    scheduler_ms: float = 4.0
    stream_mb_s: float = 100.0
    store_gb_s: float = 10.0
    request_ms: float = 30.0
    in_flight: int = 32
    requests_per_s: float = 20_000.0
    start_s: float = 30.0
    straggle: float = 0.01
    slower: float = 5.0
    mean_life_h: float = 24.0
    list_s_per_1000: float = 0.05


IDEAL = Site(
    driver_ms=0,
    scheduler_ms=0,
    stream_mb_s=np.inf,
    request_ms=0,
    requests_per_s=np.inf,
    start_s=0,
    straggle=0,
    mean_life_h=np.inf,
    list_s_per_1000=0,
)
"""Nothing but workers: what blocks took holds all that reading and writing cost."""


class Run:
    """One stage of one run.

    Parameters
    ----------
    site : Site
    traffic : Traffic
    seconds : array
        What blocks took, to draw from.
    n_blocks, workers : int
    rows : int
        Spectra per block.
    """

    def __init__(
        self,
        site: Site,
        traffic: Traffic,
        seconds: np.ndarray,
        n_blocks: int,
        workers: int,
        rows: int = ROWS,
    ) -> None:
        self.site, self.seconds, self.rows = site, seconds, rows
        self.env = simpy.Environment()
        self.rng = np.random.default_rng([n_blocks, workers])
        streams = site.store_gb_s * 1000 / site.stream_mb_s if site.stream_mb_s < np.inf else 0
        self.places = {
            "driver": 1,
            "scheduler": 1,
            "requests": 1,
            "store": max(round(streams), 1),
            "workers": workers,
        }
        self.resources = {
            name: simpy.Resource(self.env, places)
            for name, places in self.places.items()
            if name != "workers"
        }
        self.left, self.done, self.redone = n_blocks, 0, 0
        self.n_blocks, self.workers = n_blocks, workers
        self.busy = dict.fromkeys(self.places, 0.0)
        self.read, self.written = (
            (
                n,
                max(
                    kb * rows / 1000 / site.stream_mb_s, n * site.request_ms / 1e3 / site.in_flight
                ),
            )
            for n, kb in ((traffic.gets, traffic.read_kb), (traffic.puts, traffic.written_kb))
        )
        self.ended = self.env.event()

    def worker(self) -> Iterator[simpy.Event]:
        """Take blocks until there are none; die now and then."""
        site, env = self.site, self.env
        yield env.timeout(site.start_s + self.n_blocks / 1000 * site.list_s_per_1000)
        dies = env.now + self.life()
        while self.left > 0:
            self.left -= 1
            yield from self.held("driver", site.driver_ms / 1000)
            yield from self.held("scheduler", site.scheduler_ms / 1000)
            began = env.now
            yield from self.moved(*self.read)
            compute = self.rng.choice(self.seconds)
            if self.rng.random() < site.straggle:
                compute *= site.slower
            yield env.timeout(compute)
            yield from self.moved(*self.written)
            self.busy["workers"] += env.now - began
            if env.now > dies:
                self.left += 1
                self.redone += 1
                yield env.timeout(site.start_s)
                dies = env.now + self.life()
                continue
            self.done += 1
            if self.done == self.n_blocks:
                self.ended.succeed()

    def life(self) -> float:
        """Draw how long a worker lives."""
        hours = self.site.mean_life_h
        return self.rng.exponential(hours * 3600) if hours < np.inf else np.inf

    def moved(self, requests: int, seconds: float) -> Iterator[simpy.Event]:
        """Read or write: requests by turns, bytes beside those of as many as there is room for."""
        yield from self.held("requests", requests / self.site.requests_per_s)
        yield from self.held("store", seconds)

    def held(self, name: str, seconds: float) -> Iterator[simpy.Event]:
        """Wait for a place, hold it for its time."""
        if not seconds:
            return
        with self.resources[name].request() as place:
            yield place
            yield self.env.timeout(seconds)
            self.busy[name] += seconds

    def row(self) -> dict:
        """Run it, and say how long it took and what was full."""
        for _ in range(self.workers):
            self.env.process(self.worker())
        self.env.run(self.ended)
        site, wall = self.site, float(self.env.now)
        working = wall - site.start_s - self.n_blocks / 1000 * site.list_s_per_1000
        alone = float(self.seconds.mean()) + self.read[1] + self.written[1]
        full = {name: self.busy[name] / n / working for name, n in self.places.items()}
        return {
            "spectra": self.n_blocks * self.rows,
            "workers": self.workers,
            "hours": round(wall / 3600, 4),
            "spectra_per_s": round(self.n_blocks * self.rows / wall),
            "efficiency": round(alone * self.n_blocks / self.workers / wall, 3),
            **{name: round(full[name], 3) for name in self.resources},
            "redone": self.redone,
            "limit": limit(full, wall, working),
        }


def limit(full: dict[str, float], wall: float, working: float) -> str:
    """What keeps it from being faster."""
    most = max(("driver", "scheduler", "requests", "store"), key=full.__getitem__)
    if full[most] > 0.9:
        return most
    if working < 0.7 * wall:
        return "start"
    return "workers" if full["workers"] > 0.8 else "blocks"


def measured(log: Path) -> dict[str, np.ndarray]:
    """Seconds of a block of 4,096 spectra, by stage, the first of every worker left out."""
    seconds, known = defaultdict(list), set()
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["event"] != "block" or not event["ok"] or event["stage"] not in TRAFFIC:
            continue
        if (event["stage"], event["worker"]) in known:
            rows = event["stop"] - event["start"]
            seconds[event["stage"]].append(event["seconds"] * ROWS / rows)
        known.add((event["stage"], event["worker"]))
    return {stage: np.array(values) for stage, values in seconds.items()}


def overhead(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Driver and scheduler milliseconds for one block, by engine, as they were measured."""
    return {
        row["engine"]: {
            "driver_ms": row["driver_cpu_ms_per_block"],
            "scheduler_ms": row["scheduler_cpu_ms_per_block"],
        }
        for row in rows
        if row["what"] == "no-op blocks, one a call"
    }


ENGINE = {"ingest": "dask", "preprocess": "dask", "infer": "ray", "fit": "ray", "publish": "dask"}


def compared(rows: list[dict]) -> list[dict]:
    """Simulate the measured runs on one and two workers, by the blocks of the run on one."""
    strong = [r for r in rows if r["what"] == "stage" and r["kind"] == "strong" and r["block_s"]]
    found = []
    for one in (row for row in strong if row["workers"] == 1):
        same = [r for r in strong if (r["stage"], r["engine"]) == (one["stage"], one["engine"])]
        seconds, size = np.array(one["block_s"]), one["rows"] / one["blocks"]
        for row in (row for row in same if row["workers"] <= 2):
            n = len(row["block_s"])
            run = Run(IDEAL, Traffic(0, 0, 0, 0), seconds, n, row["workers"], 1)
            run.row()
            rate = size * n / float(run.env.now)
            found.append(
                {name: row[name] for name in ("stage", "engine", "workers")}
                | {
                    "spectra_per_s": row["spectra_per_s"],
                    "simulated": round(rate, 1),
                    "error": round(rate / row["spectra_per_s"] - 1, 3),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--scaling", type=Path, help="what scaling.py measured")
    parser.add_argument("--workers", nargs="+", type=int, default=[10, 30, 100, 300, 1000])
    parser.add_argument("--spectra", nargs="+", type=float, default=[1e7, 1e8])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    known = json.loads(arguments.scaling.read_text())["rows"] if arguments.scaling else []
    rows, site, costs = [], Site(), overhead(known)
    for stage, seconds in measured(arguments.log).items():
        here = replace(site, **costs.get(ENGINE[stage], {}))
        for n in arguments.spectra:
            for workers in arguments.workers:
                run = Run(here, TRAFFIC[stage], seconds, -(-int(n) // ROWS), workers)
                facts = {"stage": stage, "block_s": round(float(seconds.mean()), 2)}
                rows.append(facts | run.row())
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    checks = compared(known)
    for row in checks:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if arguments.json:
        record = {"site": asdict(site), "engines": costs, "against_measured": checks, "rows": rows}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
