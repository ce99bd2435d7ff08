"""Stateful blocks on Ray actors, and training on Ray Train: a local Ray, or one by address."""

import logging
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from typing import Any

import ray

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

CALLS_PER_ACTOR = 2
"""Calls in flight per actor: one at work, one waiting."""
RESTARTS = 3
"""How often a lost actor's call, or a lost training worker, is started again."""
OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a local Ray: spectra never pass through it, only block numbers and reports."""


class _Actor:
    """Holds what a stage's ``setup`` made, and does the blocks it is given."""

    def run(self, stage: Stage, blocks: Call) -> list[BlockReport]:
        return list(run_blocks(stage, blocks))


_RemoteActor: Any = ray.remote(max_restarts=-1, max_task_retries=RESTARTS)(_Actor)


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
        """Yield one report per block, as they finish."""
        gpus = self._table.gpus_per_worker
        actors = [
            _RemoteActor.options(num_cpus=stage.cpus, num_gpus=gpus).remote()
            for _ in range(self._fitting(stage))
        ]
        try:
            run = partial(_run, ray.put(light(stage)), actors)
            yield from run_calls(stage, blocks, run, CALLS_PER_ACTOR * len(actors))
        finally:
            for actor in actors:
                ray.kill(actor)

    def _fitting(self, stage: Stage) -> int:
        """Actors the cluster has room for: one that never starts would keep its blocks waiting."""
        room = self._room(stage.cpus)
        if room < 1:
            resources = ray.cluster_resources()
            raise StageError(
                f"{stage.name}: Ray has {resources.get('CPU', 0):g} CPUs and "
                f"{resources.get('GPU', 0):g} GPUs, one actor wants {stage.cpus:g} and "
                f"{self._table.gpus_per_worker:g}: add nodes or lower engine.ray.gpus_per_worker"
            )
        calls = -(-max(len(stage.blocks), 1) // stage.blocks_per_call)
        return min(self._table.workers, room, calls)

    def _room(self, cpus: float) -> int:
        """Return how many actors of so many CPUs the nodes that have joined can hold."""
        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0) / max(cpus, 1e-9))
        if self._table.gpus_per_worker:
            room = min(room, int(resources.get("GPU", 0) / self._table.gpus_per_worker))
        return room

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
            trainer.fit()
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


def _run(stage: Any, actors: list[Any], calls: Iterator[Call], in_flight: int) -> Iterator[Ended]:
    """Give every actor its next call when it has ended one; `stage` is a reference to it."""
    pending: dict[Any, tuple[Any, Call]] = {}
    for actor, call in zip(islice(cycle(actors), in_flight), calls, strict=False):
        pending[actor.run.remote(stage, call)] = (actor, call)
    while pending:
        (ref,), _ = ray.wait(list(pending), num_returns=1)
        actor, call = pending.pop(ref)
        yield call, _ended(ref)
        for following in islice(calls, 1):
            pending[actor.run.remote(stage, following)] = (actor, following)


def _ended(ref: Any) -> list[BlockReport] | Exception:
    try:
        reports: list[BlockReport] = ray.get(ref)
    except Exception as error:  # noqa: BLE001 - a lost actor is a report, never the end of a run
        return error
    return reports
