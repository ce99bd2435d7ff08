"""Stateful blocks on Ray actors, and training on Ray Train: a local Ray, or one by address."""

import logging
import os
import signal
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from scalespec.config import RayTable
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
RESTARTS = 3
"""How often a lost actor's call, or a lost training worker, is started again."""
LOOK_S = 5.0
"""How often actors that do not answer yet are looked at; the wait after one that ended so."""
START_S = 60.0
"""An actor that has not answered for so long is said to be missing; the others go on."""
NOBODY_S = 600.0
"""How long a run waits while no actor at all answers: a new node is there in minutes."""
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


class _RayContext:
    """A training loop's surroundings on a Ray Train worker."""

    def __init__(self) -> None:
        import ray.train.torch  # seconds, and torch: only a training worker needs it

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device = str(ray.train.torch.get_device())

    def wrap(self, model: Any) -> Any:
        """Return the module on this worker's device, its gradients averaged over all workers."""
        return ray.train.torch.prepare_model(model)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Report to Ray Train; every rank calls it at the same epochs."""
        ray.train.report(dict(metrics))


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
            await_workers(table, lambda: self._room(1.0), "Ray")

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
        gpus = self._table.gpus_per_worker
        start = _RemoteActor.options(num_cpus=stage.cpus, num_gpus=gpus).remote
        crew = _Crew(stage.name, self._fitting(stage), start, partial(self._short, stage))
        try:
            run = partial(crew.run, ray.put(light(stage)))
            yield from run_calls(stage, blocks, run, CALLS_PER_ACTOR * crew.size)
        finally:
            crew.end()

    def _fitting(self, stage: Stage) -> int:
        """Actors to start: no more than the nodes hold, or than there are calls."""
        room = self._room(stage.cpus)
        if room < 1:
            raise StageError(f"{stage.name}: no node has room for an actor; {self._short(stage)}")
        calls = -(-max(len(stage.blocks), 1) // stage.blocks_per_call)
        return min(self._table.workers, room, calls)

    def _room(self, cpus: float) -> int:
        """Return how many actors of so many CPUs the nodes that have joined can hold."""
        gpus = self._table.gpus_per_worker
        nodes = _nodes()
        room = [_times(node.get("CPU", 0), cpus) for node in nodes]
        if gpus:  # a part of a GPU is part of one: three times 0.6 want three GPUs
            size, parts = (gpus, 1) if gpus >= 1 else (1, _times(1, gpus))
            held = [parts * _times(node.get("GPU", 0), size) for node in nodes]
            room = [min(both) for both in zip(room, held, strict=True)]
        return sum(room)

    def _short(self, stage: Stage) -> str:
        """Say what one actor wants and what there is."""
        nodes = _nodes()
        cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
        return (
            f"Ray has {cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} nodes, one actor wants "
            f"{stage.cpus:g} and {self._table.gpus_per_worker:g} on one node: add nodes or lower "
            "engine.ray.gpus_per_worker"
        )

    def train(self, training: Training) -> None:
        """Run the loop on Ray Train workers; a lost one brings all back to the last checkpoint."""
        import ray.train.torch

        def loop() -> None:
            training.loop(_RayContext())

        gpus = self._table.gpus_per_worker
        trainer = ray.train.torch.TorchTrainer(
            loop,
            scaling_config=ray.train.ScalingConfig(
                num_workers=self._table.workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": 1, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=ray.train.RunConfig(
                # Checkpoints are ours, in the workspace: a used name would resume Ray's own state.
                name=f"{training.name}-{uuid.uuid4().hex[:8]}",
                storage_path=tempfile.mkdtemp(prefix="scalespec-train-"),
                failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            ),
        )
        try:
            _aside(trainer.fit)
        except Exception as error:  # whatever a worker died of ends the stage
            raise StageError(f"{training.name}: {last_line(error)}") from error

    def search(self, name: str, n: int, trial: Callable[[int], float]) -> dict[int, float | str]:
        """Run `n` trials on Ray Tune; return what each measured, or why it did not."""
        from ray import tune  # seconds: only a search needs it

        def trainable(drawn: dict[str, Any]) -> None:
            tune.report({"loss": trial(drawn["trial"])})

        gpus = self._table.gpus_per_worker
        wants = {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}
        tuner = tune.Tuner(
            tune.with_resources(trainable, wants),
            param_space={"trial": tune.grid_search(list(range(n)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=self._table.workers),
            run_config=tune.RunConfig(
                name=f"{name}-{uuid.uuid4().hex[:8]}",
                storage_path=tempfile.mkdtemp(prefix="scalespec-search-"),
                verbose=0,
            ),
        )
        outcomes: dict[int, float | str] = {}
        for one in tuner.fit():
            found = (one.metrics or {}).get("loss")
            failed = last_line(one.error) if one.error else "it reported nothing"
            drawn = one.config or {}
            outcomes[int(drawn["trial"])] = failed if found is None else float(found)
        return outcomes

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


def _aside(call: Callable[[], Any]) -> None:
    """Call in a thread of its own, and wait: in the main one Ray Train takes Ctrl-C for good."""
    ended: Future[Any] = Future()

    def run() -> None:
        try:
            ended.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # left behind by Ctrl-C, it ends with Ray
    ended.result()


def _nodes() -> list[dict[str, float]]:
    """Return what each node that is there has, taken or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _times(has: float, wants: float) -> int:
    """Return how often a want fits, whatever binary fractions make of tenths."""
    return int(has / max(wants, 1e-9) + 1e-6)


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
