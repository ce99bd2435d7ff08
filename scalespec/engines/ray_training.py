"""Training on Ray Train, and searches for settings on Ray Tune."""

import logging
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any

import ray

from scalespec.config import RayTable
from scalespec.engines.places import LOOK_S, RESTARTS, Place, await_places
from scalespec.engines.worker import last_line
from scalespec.errors import StageError
from scalespec.plan import Training

log = logging.getLogger(__name__)

STARTS = 10
"""How often Ray Train looks for room, a minute each time, before a training that had it ends."""


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


def train(training: Training, table: RayTable) -> None:
    """Run a loop on Ray Train workers; a lost one brings all back to the last checkpoint.

    Raises
    ------
    StageError
        If not all workers have a place, at first or later (see `await_places`), or the loop fails.
    """
    import ray.train.torch

    def loop() -> None:
        training.loop(_RayContext())

    place = Place(gpus=table.gpus_per_worker)
    await_places(training.name, place, table.workers, table)
    trainer = ray.train.torch.TorchTrainer(
        loop,
        scaling_config=ray.train.ScalingConfig(
            num_workers=table.workers,
            use_gpu=place.gpus > 0,
            resources_per_worker=place.resources,
        ),
        run_config=ray.train.RunConfig(
            # Checkpoints are ours, in the workspace: a used name would resume Ray's own state.
            name=f"{training.name}-{uuid.uuid4().hex[:8]}",
            storage_path=tempfile.mkdtemp(prefix="scalespec-train-"),
            failure_config=ray.train.FailureConfig(
                max_failures=RESTARTS,
                controller_failure_limit=STARTS - 1,  # without, Ray looks for room for ever
            ),
        ),
    )
    try:
        _aside(trainer.fit, _Lookout(training.name, place, table.workers))
    except ray.train.ControllerError as error:
        why = last_line(error).partition(". ")[0]
        raise StageError(f"{training.name}: {why}; {place.short()}") from error
    except Exception as error:  # whatever a worker died of ends the stage
        raise StageError(f"{training.name}: {last_line(error)}") from error


class _Lookout:
    """Says when nodes are gone that a training wants, once each time."""

    def __init__(self, name: str, place: Place, n: int) -> None:
        self._name, self._place, self._n = name, place, n
        self._said = False

    def __call__(self) -> None:
        """Look."""
        lacks = self._place.room() < self._n
        if lacks and not self._said:
            log.warning(
                "%s wants %d workers, some of whose nodes are gone: it goes on from its last "
                "checkpoint if they are back within minutes; %s",
                *(self._name, self._n, self._place.short()),
            )
        self._said = lacks


def _aside(call: Callable[[], Any], look: Callable[[], None]) -> None:
    """Call in a thread of its own, and look on: in the main one Ray Train takes Ctrl-C for good."""
    ended: Future[Any] = Future()

    def run() -> None:
        try:
            ended.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # left behind by Ctrl-C, it ends with Ray
    while not wait([ended], LOOK_S).done:
        look()
    ended.result()


def search(
    name: str, n: int, trial: Callable[[int], float], table: RayTable
) -> dict[int, float | str]:
    """Run `n` trials on Ray Tune; return what each measured, or why it did not.

    Raises
    ------
    StageError
        If not even one trial has a place; see `await_places`.
    """
    from ray import tune  # seconds: only a search needs it

    def trainable(drawn: dict[str, Any]) -> None:
        tune.report({"loss": trial(drawn["trial"])})

    place = Place(gpus=table.gpus_per_worker)
    await_places(name, place, 1, table)
    tuner = tune.Tuner(
        tune.with_resources(trainable, place.resources),
        param_space={"trial": tune.grid_search(list(range(n)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=table.workers),
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
