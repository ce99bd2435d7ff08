"""What every worker does with the blocks it is given: read ahead, compute, write behind."""

import logging
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from scalespec.plan import Block, BlockReport, BlockResult, Stage

log = logging.getLogger(__name__)
T = TypeVar("T")
Call = list[Block]
Ended = tuple[Call, list[BlockReport] | Exception]

TRIES = 3
"""How often a block is tried when the machine, not the data, fails it."""
PAUSE_S = 0.2
"""Wait before the second try; it doubles."""
CALL_S = 0.25
"""Shorter blocks share a call up to this; each costs an engine milliseconds, whatever it holds."""
SHARE = 500
"""A call grows to one part in so many of its stage: workers end together, and a stop is soon."""

THREAD_LIMITS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",  # two spinning workers on one core cost a factor of ten
    # Memory that a block let go of is kept for the next: handing pages back and asking for them
    # anew, as Dask's own setting has it, costs as much as the work itself.
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    # Blocks are computed beside the main thread, and memory of other threads' own arenas is handed
    # back whatever the limits above: StarNet is slower by a fifth then.
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of a worker process: one worker per core, one thread each, pages kept."""

_values: dict[tuple[str, str], Any] = {}


def _value(stage: Stage) -> Any:
    """Call the stage's ``setup`` once per process and keep its value."""
    key = (stage.name, stage.url)
    if key not in _values:
        _values.clear()  # one stage at a time: the last one's model need not stay
        _values[key] = stage.setup() if stage.setup else None
    return _values[key]


def _tried(call: Callable[[], T]) -> T:
    """Return what `call` gives, trying again after an OSError; never after the data's errors."""
    for attempt in range(TRIES - 1):
        try:
            return call()
        except OSError as error:
            log.warning("try %d of %d failed: %s", attempt + 1, TRIES, error)
            time.sleep(PAUSE_S * 2**attempt)
    return call()


def run_calls(
    stage: Stage,
    blocks: Iterable[Block],
    run: Callable[[Iterator[Call], int], Iterator[Ended]],
    in_flight: int,
) -> Iterator[BlockReport]:
    """Hand blocks out by calls, and yield a report for each, whatever becomes of its worker.

    Parameters
    ----------
    stage : Stage
        Says how many blocks a call takes at first; in a long stage of short blocks it grows.
    blocks : iterable of Block
        Drawn as calls are handed out.
    run : callable
        Runs calls, so many at a time, and yields each with its reports, or with the error that lost
        it and its worker.
    in_flight : int
        Calls at a time.
    """
    queue, lost, size = iter(blocks), [], stage.blocks_per_call
    calls = iter(lambda: list(islice(queue, size)), [])
    for call, ended in run(calls, in_flight):
        if isinstance(ended, Exception):
            log.warning("blocks %s lost: %s", [block.index for block in call], last_line(ended))
            lost += call
        else:
            size = _fitting(stage, ended)
            yield from ended
    # A worker that dies takes along what waits for it. Alone, each block answers for itself.
    for (block,), ended in run(([block] for block in lost), 1):
        if isinstance(ended, Exception):
            error = f"lost with its worker: {type(ended).__name__}: {last_line(ended)}"
            yield BlockReport(block, None, error)
        else:
            yield from ended


def _fitting(stage: Stage, ended: list[BlockReport]) -> int:
    """Return how many blocks the next call takes, from what the blocks of one took."""
    per_block = sum(report.seconds for report in ended) / len(ended)
    fit = int(CALL_S / max(per_block, 1e-6))
    return max(stage.blocks_per_call, min(fit, 2 * len(ended), len(stage.blocks) // SHARE))


def light(stage: Stage) -> Stage:
    """Return a stage as it travels with every call: without the list of all its blocks."""
    return replace(stage, blocks=())


def await_workers(table: Any, joined: Callable[[], int], place: str) -> None:
    """Wait as long as the run file says until its number of workers has joined a cluster.

    Parameters
    ----------
    table : DaskTable or RayTable
    joined : callable
        Says how many there are now.
    place : str
        What to call the cluster.
    """
    end = time.monotonic() + table.wait_seconds
    while (found := joined()) < table.workers and time.monotonic() < end:
        time.sleep(PAUSE_S)
    if found < table.workers:
        log.warning("%s has %d workers, the run file wants %d", place, found, table.workers)


def last_line(error: Exception) -> str:
    """Return what happened, without a cluster's frames."""
    return ([line for line in str(error).splitlines() if line.strip()] or [""])[-1]


def run_blocks(stage: Stage, blocks: Iterable[Block]) -> Iterator[BlockReport]:
    """Do every block of an iterable in order, and yield a report for each.

    The next block is read while this one is computed and the last one written, each by one thread.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: tuple[Block, Future[Any]] | None = None
        behind: tuple[Block, Future[BlockResult], float] | None = None
        for block in [*blocks, None]:
            following = None
            if block is not None:
                following = (block, reader.submit(_tried, lambda b=block: stage.read(b)))
            if ahead is not None:
                started = time.monotonic()
                written = _computed(stage, *ahead, writer)
                if behind is not None:
                    yield _report(*behind)
                behind = (ahead[0], written, started)
            ahead = following
        if behind is not None:
            yield _report(*behind)


def _computed(
    stage: Stage, block: Block, data: "Future[Any]", writer: ThreadPoolExecutor
) -> "Future[BlockResult]":
    """Compute one block and hand it to the writer; an error becomes the future's."""
    future: Future[BlockResult] = Future()
    try:
        read = data.result()
        result = _tried(lambda: stage.compute(_value(stage), read))
    except Exception as error:  # noqa: BLE001 - a task's error is a report, never the end of a run
        future.set_exception(error)
        return future
    return writer.submit(_tried, lambda: stage.write(block, result))


def _report(block: Block, written: "Future[BlockResult]", started: float) -> BlockReport:
    try:
        result = written.result()
    except Exception as error:  # noqa: BLE001 - as above
        log.debug("block %d failed:\n%s", block.index, traceback.format_exc())
        why = f"{type(error).__name__}: {error}"
        return BlockReport(block, None, why, _since(started), *_here())
    return BlockReport(block, result, "", _since(started), *_here())


def _here() -> tuple[str, int]:
    """Return this machine and process, and the most bytes it has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{platform.node()}:{os.getpid()}", most * unit


def _since(started: float) -> float:
    return time.monotonic() - started
