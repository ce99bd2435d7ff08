"""Whether actors are kept busy: a stage on Ray and its computing alone, turn by turn.

::

    python benchmarks/utilization.py RUN.toml --verb fit --minutes 15   # a run done up to the stage

Timed one after another, both tell little: a shared machine changes by more from minute to minute
than an engine costs. Here all processes are there from the start, and every few seconds others of
them are awake, by SIGSTOP and SIGCONT: Ray's actors, as many bare processes that compute the same
blocks from memory, one of these alone. Blocks that were begun go on in the next turn, and a kind's
rate is its blocks over the time of its turns.

The stage's blocks are taken again and again, read and written as often; nothing of them is kept.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
from scaling import Watch, first_stage, passed

from scalespec.config import EngineTable, RayTable, load_config
from scalespec.engines.worker import THREAD_LIMITS
from scalespec.plan import Block, BlockResult, Stage

MANY = 100_000
"""More blocks than end in any time."""


def again(stage: Stage, url: str) -> Stage:
    """Return a stage of so many blocks that it does not end, and with a folder of its own."""
    own = list(stage.blocks)
    blocks = [replace(own[i % len(own)], index=i) for i in range(MANY)]
    return replace(
        stage,
        url=url,
        blocks=blocks,
        read=partial(read_again, read=stage.read, own=own),
        write=partial(write_again, write=stage.write, url=(stage.url, url)),
    )


def read_again(block: Block, read: Any, own: Sequence[Block]) -> Any:
    """Read the block that this one repeats."""
    return read(own[block.index % len(own)])


def write_again(block: Block, data: Any, write: Any, url: tuple[str, str]) -> BlockResult:
    """Write as the stage does, into another folder."""
    assert write.keywords["url"] == url[0]
    return partial(write, url=url[1])(block, data)


def compute_alone(run_file: str, verb: str, ready: Any, done: Synchronized) -> None:
    """Compute a stage's blocks from memory for ever, and count spectra."""
    stage = first_stage(load_config(run_file), verb)
    made = None if stage.setup is None else stage.setup()
    data = [stage.read(block) for block in stage.blocks]
    stage.compute(made, data[0])
    ready.release()
    while True:
        for block, one in zip(stage.blocks, data, strict=True):
            stage.compute(made, one)
            done.value += block.size


class Turns:
    """Wakes one kind of processes at a time, and notes what each did in its turns."""

    def __init__(self, seconds: float, kinds: dict[str, tuple[Any, Any]]) -> None:
        self.seconds, self.kinds = seconds, kinds
        self.rates: dict[str, list[float]] = {name: [] for name in kinds}

    def take(self, n: int) -> None:
        """Give every kind `n` turns; all are awake at the end."""
        pids = {pid for of, _ in self.kinds.values() for pid in of()}
        for _ in range(n):
            for name, (of, count) in self.kinds.items():
                for pid in pids:
                    os.kill(pid, signal.SIGCONT if pid in of() else signal.SIGSTOP)
                began, before = time.monotonic(), count()
                time.sleep(self.seconds)
                done = count() - before
                self.rates[name].append(done / (time.monotonic() - began))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the stage on Ray and alone, turn by turn; return rates and their ratios."""
    workers = arguments.workers
    tables = EngineTable(ray=RayTable(workers=workers))
    config = load_config(arguments.run_file).model_copy(update={"engine": tables})
    stage = first_stage(config, arguments.verb)
    spawn = multiprocessing.get_context("spawn")
    ready, alone = spawn.Semaphore(0), [spawn.Value("q", 0) for _ in range(workers)]
    given = arguments.run_file, arguments.verb, ready
    bare = [spawn.Process(target=compute_alone, args=(*given, one), daemon=True) for one in alone]
    for process in bare:
        process.start()
    for _ in bare:
        ready.acquire()
    watch = Watch()
    watch.stop_after = MANY

    def actors() -> set[int]:
        return {int(report.worker.rpartition(":")[2]) for report in watch.reports}

    turns = Turns(
        arguments.turn_seconds,
        {
            "ray": (actors, lambda: sum(report.block.size for report in watch.reports)),
            "alone": (lambda: {process.pid for process in bare}, lambda: sum(_values(alone))),
            "one alone": (lambda: {bare[0].pid}, lambda: alone[0].value),
        },
    )

    over = threading.Event()

    def conduct() -> None:
        for process in bare:
            os.kill(process.pid, signal.SIGSTOP)
        while len(actors()) < workers:
            if over.wait(1):  # the stage ended before all were there
                return
        turns.take(max(2, round(60 * arguments.minutes / (3 * arguments.turn_seconds))))
        for process in bare:
            process.kill()
        watch.stop_after = 0

    thread = threading.Thread(target=conduct)
    thread.start()
    folder = tempfile.mkdtemp(prefix="utilization-")
    try:
        passed(config, "ray", again(stage, folder), watch)
    finally:
        over.set()
        thread.join()
        for process in bare:  # a stopped one would not hear that it should end
            process.kill()
        shutil.rmtree(folder)
    assert all(report.ok for report in watch.reports)
    rates = {name: np.array(values) for name, values in turns.rates.items()}
    return {
        "stage": arguments.verb,
        "workers": workers,
        "spectra_per_block": max(block.size for block in stage.blocks),
        "turns": len(rates["ray"]),
        "turn_seconds": arguments.turn_seconds,
        **{f"{name}_per_s": round(float(one.mean()), 1) for name, one in rates.items()},
        "of_as_many_alone": ratio(rates["ray"], rates["alone"]),
        "of_one_alone_each": ratio(rates["ray"], workers * rates["one alone"]),
        "block_s": round(float(np.mean([report.seconds for report in watch.reports])), 3),
    }


def ratio(ours: np.ndarray, others: np.ndarray) -> list[float]:
    """Return a ratio of means, and its standard error by drawing turns again."""
    draws = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    drawn = ours[draws].mean(axis=1) / others[draws].mean(axis=1)
    return [round(float(ours.mean() / others.mean()), 3), round(float(drawn.std()), 3)]


def _values(counters: Sequence[Any]) -> list[int]:
    return [one.value for one in counters]


def main() -> None:
    """Print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run_file")
    parser.add_argument("--verb", default="fit")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--turn-seconds", type=float, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ |= THREAD_LIMITS
    row = measure(arguments)
    for name, value in row.items():
        print(f"{name:20} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
