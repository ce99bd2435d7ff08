"""Stateful blocks on Ray actors: a local Ray, or one by address."""

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from scalespec.config import RayTable
from scalespec.engines import ray_training
from scalespec.engines.places import LOOK_S, NOBODY_S, RESTARTS, Place
from scalespec.engines.worker import (
    THREAD_LIMITS,
    Call,
    Ended,
    await_workers,
    last_line,
    light,
    run_blocks,
    run_calls,
)
from scalespec.errors import StageError
from scalespec.plan import Block, BlockReport, Stage, Training

log = logging.getLogger(__name__)

CALLS_PER_ACTOR = 2
"""Calls in flight per actor: one at work, one waiting."""
START_S = 60.0
"""An actor that has not answered for so long is said to be missing; the others go on."""
OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a local Ray: spectra never pass through it, only block numbers and reports."""


class _Actor:
    """Holds what a stage's ``setup`` made, and does the blocks it is given."""

    def ready(self) -> None:
        """Answer: this actor has found its place."""

    def run(self, stage: Stage, blocks: Call) -> list[BlockReport]:
        return list(run_blocks(stage, blocks))


# Ray restarts none: a call to an actor that it cannot place again would wait for ever.
_RemoteActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(_Actor)
_LOST = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError)


class RayEngine:
    """Runs blocks on Ray actors."""

    def __init__(self, table: RayTable) -> None:
        self._table = table
        os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "runtime_env": {"env_vars": dict(THREAD_LIMITS)},
        }
        if table.address:
            options["address"] = table.address
        else:
            options["address"] = "local"  # never another Ray of this machine, or RAY_ADDRESS
            options["num_cpus"] = table.workers
            options["include_dashboard"] = False
            options["object_store_memory"] = OBJECT_STORE_BYTES
        try:
            with _own_sigterm():
                ray.init(**options)
        except Exception as error:  # a start that takes over half a minute is a bare one
            if not table.address:
                raise StageError(
                    f"Ray does not start on this machine ({last_line(error)}); run again when it "
                    "is less busy, or start a Ray with: ray start --head"
                ) from error
            raise StageError(
                f"no Ray answers at '{table.address}' ({error}); start one with: "
                "ray start --head, and more nodes with: ray start --address HOST:6379"
            ) from error
        if table.address and table.wait_seconds:
            place = Place(gpus=table.gpus_per_worker)
            with place.asked(table.workers):
                await_workers(table, place.room, "Ray")

    @property
    def workers(self) -> int:
        """Actors that will run."""
        return self._table.workers

    def map(self, stage: Stage, blocks: Iterable[Block]) -> Iterator[BlockReport]:
        """Yield one report per block, as they finish.

        Raises
        ------
        StageError
            If no actor fits on a node, or none has answered for `NOBODY_S`.
        """
        start = _RemoteActor.options(num_cpus=stage.cpus, num_gpus=stage.gpus).remote
        short = Place(stage.cpus, stage.gpus).short
        crew = _Crew(stage.name, self._fitting(stage), start, short)
        try:
            run = partial(crew.run, ray.put(light(stage)))
            yield from run_calls(stage, blocks, run, CALLS_PER_ACTOR * crew.size)
        finally:
            crew.end()

    def _fitting(self, stage: Stage) -> int:
        """Actors to start: no more than the nodes hold, or than there are calls."""
        place = Place(stage.cpus, stage.gpus)
        if (room := place.room()) < 1:
            raise StageError(f"{stage.name}: no node has room for an actor; {place.short()}")
        calls = -(-max(len(stage.blocks), 1) // stage.blocks_per_call)
        return min(self._table.workers, room, calls)

    def train(self, training: Training) -> None:
        """Run the loop on Ray Train workers; see `scalespec.engines.ray_training`."""
        ray_training.train(training, self._table)

    def search(self, name: str, n: int, trial: Callable[[int], float]) -> dict[int, float | str]:
        """Run `n` trials on Ray Tune; return what each measured, or why it did not."""
        return ray_training.search(name, n, trial, self._table)

    def close(self) -> None:
        """Leave Ray; a Ray that was started here ends."""
        ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's own answer to SIGTERM: Ray's leaves at once, blocks in flight or not."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere Ray sets none
            signal.signal(signal.SIGTERM, before)


@dataclass(eq=False)
class _Worker:
    """One actor, and how many calls it may be given now."""

    actor: Any
    room: int = 0  # none until it answers
    proven: bool = False  # has ended a call


@dataclass
class _Crew:
    """Actors for one stage: calls go to those that have answered, a lost one is replaced.

    No call is bound to an actor that has no place, and none that is at work is ever given up: Ray
    says itself when an actor that had answered, or its node, is gone. Until then it is busy.
    """

    name: str
    size: int
    start: Callable[[], Any]
    short: Callable[[], str]
    _workers: list[_Worker] = field(default_factory=list)
    _starting: dict[Any, _Worker] = field(default_factory=dict)  # reference to its answer
    _calls: dict[Any, tuple[_Worker, Call]] = field(default_factory=dict)  # to its reports
    _next_start: float = 0.0
    _seen: float = field(default_factory=time.monotonic)  # when one was there
    _whole: float = field(default_factory=time.monotonic)  # when all were
    _why: str = "no node has room now"
    _said: bool = False

    def run(self, stage: Any, calls: Iterator[Call], in_flight: int) -> Iterator[Ended]:
        """Give every actor its next call when it has ended one; `stage` is a reference to it.

        A call that is lost with its actor goes to another, `RESTARTS` times.
        """
        waiting: list[Call] = []  # drawn, and with no actor
        losses: Counter[int] = Counter()
        while True:
            self._fill_up()
            while len(self._calls) < in_flight and (free := self._free()):
                waiting = waiting or list(islice(calls, 1))
                if not waiting:
                    break
                self._give(free, stage, waiting.pop(0))
            if not self._calls:  # nobody is free, or nothing is left
                waiting = waiting or list(islice(calls, 1))
                if not waiting:
                    return
            for worker, call, ended in self._ended():
                if isinstance(ended, _LOST):
                    for lost in self._lose(worker, call, ended):
                        losses[lost[0].index] += 1
                        if losses[lost[0].index] > RESTARTS:
                            yield lost, ended
                        else:
                            waiting.append(lost)
                else:
                    worker.room += 1 if worker.proven else CALLS_PER_ACTOR
                    worker.proven = True
                    yield call, ended

    def end(self) -> None:
        """Let the actors go, those without a place, too."""
        for worker in self._workers:
            ray.kill(worker.actor)

    def _fill_up(self) -> None:
        """Start what is missing; say once that some do not answer, and give up when none does."""
        now = time.monotonic()
        if now >= self._next_start:
            for _ in range(self.size - len(self._workers)):
                worker = _Worker(self.start())
                self._workers.append(worker)
                self._starting[worker.actor.ready.remote()] = worker
        there = len(self._workers) - len(self._starting)
        if there:
            self._seen = now
        if there == self.size:
            self._whole = now
        if now - self._seen > NOBODY_S:
            raise StageError(
                f"{self.name}: for {now - self._seen:.0f} s none of {self.size} actors has "
                f"answered ({self._why}); {self.short()}"
            )
        if now - self._whole > START_S and not self._said:
            self._said = True
            log.warning(
                "%s: %d of %d actors do not answer (%s), the run goes on with %d; %s",
                *(self.name, self.size - there, self.size, self._why, there, self.short()),
            )

    def _free(self) -> _Worker | None:
        return next((worker for worker in self._workers if worker.room), None)

    def _give(self, worker: _Worker, stage: Any, call: Call) -> None:
        self._calls[worker.actor.run.remote(stage, call)] = (worker, call)
        worker.room -= 1

    def _ended(self) -> Iterator[tuple[_Worker, Call, list[BlockReport] | Exception]]:
        """Wait a while for one answer; yield the call that has ended, if any."""
        references = [*self._starting, *self._calls]  # the first that is there is taken
        if not references:
            time.sleep(LOOK_S)
            return
        for ref in ray.wait(references, num_returns=1, timeout=LOOK_S)[0]:
            ended = _got(ref)
            if ref in self._calls:
                yield (*self._calls.pop(ref), ended)
                continue
            worker = self._starting.pop(ref)
            if isinstance(ended, Exception):
                self._workers.remove(worker)
                self._next_start = time.monotonic() + LOOK_S
                self._why = last_line(ended)
            else:
                worker.room = 1  # and more when it has ended one: others may answer soon

    def _lose(self, worker: _Worker, call: Call, error: Exception) -> list[Call]:
        """Let an actor go; return the calls it held."""
        log.info("%s: an actor is lost: %s", self.name, last_line(error))
        held = {ref: (one, other) for ref, (one, other) in self._calls.items() if one is worker}
        for ref in held:
            del self._calls[ref]
        self._workers.remove(worker)
        # One that cannot be reached may live, but what it was doing is lost to us: make room.
        ray.kill(worker.actor)
        return [call, *(other for _, other in held.values())]


def _got(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except Exception as error:  # noqa: BLE001 - a lost actor is a report, never the end of a run
        return error
