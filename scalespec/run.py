"""The loop: which blocks are left, who runs them, what is done."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scalespec.config import RunConfig
from scalespec.engines import open_engine
from scalespec.errors import StageError
from scalespec.plan import Block, BlockReport, BlockResult, Stage, Training
from scalespec.stages import VERBS
from scalespec.stages.named_inputs import check_inputs
from scalespec.store import paths
from scalespec.store.ledger import Ledger, find_json, note_step, set_current, write_json

EngineChoice = Literal["local", "dask", "ray"] | None


@dataclass(frozen=True)
class Progress:
    """One thing that happened: a stage began (`report` None), or a block of it ended.

    A `training` is one block, which goes on from its last checkpoint if it is left.
    """

    stage: str
    planned: int
    done_before: int
    report: BlockReport | None = None
    training: bool = False


Listener = Callable[[Progress], None]


@dataclass
class Summary:
    """What a run did: blocks done before, done now, failed, and left where it was stopped."""

    resumed: int = 0
    done: int = 0
    left: int = 0
    stopped: bool = False
    failed: dict[str, dict[int, str]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 done, 1 stopped before the end, 3 stored but some blocks failed."""
        if self.failed:
            return 3
        return 1 if self.stopped else 0


@dataclass
class Runner:
    """Runs stages one after another, on the engines they want.

    Attributes
    ----------
    config : RunConfig
    engine : {"local", "dask", "ray"} or None
        Use this engine for everything; None: the one each stage names.
    retry_failed : bool
        Take blocks again that failed in an earlier run.
    listener : callable
        Told of every stage begun and every block ended.
    stop : callable
        Asked before each block is handed out; True ends the run after the blocks in flight. A
        training is ended by a KeyboardInterrupt; if this is True then, the run ends in order.
    """

    config: RunConfig
    engine: EngineChoice = None
    retry_failed: bool = False
    listener: Listener = lambda _: None
    stop: Callable[[], bool] = lambda: False
    summary: Summary = field(default_factory=Summary)
    _open: tuple[str, Any] | None = None

    def run(self, verbs: Sequence[str]) -> Summary:
        """Run verbs in order; what is done is skipped.

        Raises
        ------
        StageError
            If an engine cannot be had, or training fails.
        """
        _write_provenance(self.config)
        try:
            for verb in verbs:
                for step in VERBS[verb](self.config):
                    self._step(step)
                    if self.stop():  # before the verb puts together what is not whole
                        self.summary.stopped = True
                        return self.summary
        finally:
            self.close()
        return self.summary

    def close(self) -> None:
        """Let go of the engine in use."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _step(self, step: Stage | Training) -> None:
        _set_current(self.config, step)
        if isinstance(step, Training):
            self._train(step)
        else:
            self.map(step)

    def _train(self, training: Training) -> None:
        started = time.monotonic()
        try:
            self.listener(Progress(training.name, 1, 0, training=True))
            engine = self._engine("ray")
            engine.train(training)
        except KeyboardInterrupt:
            if not self.stop():
                raise
            self.summary.left = 1
            return
        seconds = time.monotonic() - started
        _write_timing(training.url, training.name, engine.workers, (seconds, 1, 0.0))
        whole = BlockReport(Block("spectrum", 0, 0, 0), BlockResult(0, {}), "", seconds)
        self.listener(Progress(training.name, 1, 0, report=whole, training=True))

    def map(self, stage: Stage) -> None:
        """Run what is left of one stage."""
        ledger = Ledger(stage.url)
        done, failed = ledger.done(), ledger.failures()
        skip = done if self.retry_failed else done | set(failed)
        left = [block for block in stage.blocks if block.index not in skip]
        self.listener(Progress(stage.name, len(stage.blocks), len(stage.blocks) - len(left)))
        self.summary.resumed += len(done & _indices(stage))
        reports = self._reports(stage, left, ledger) if left else []
        self.summary.left = len(left) - len(reports)
        if missing := {i: e for i, e in ledger.failures().items() if i in _indices(stage)}:
            self.summary.failed[stage.name] = missing

    def _reports(self, stage: Stage, left: list[Block], ledger: Ledger) -> list[BlockReport]:
        """Hand the blocks out and record what becomes of them."""
        started = time.monotonic()
        engine = self._engine(stage.runs_on)
        reports = []
        for report in engine.map(stage, self._until_stopped(left)):
            reports.append(report)
            if report.ok:
                self.summary.done += 1
            else:
                ledger.record_failure(report.block, report.error)
            self.listener(Progress(stage.name, len(stage.blocks), 0, report))
        seconds = time.monotonic() - started
        rows = sum(report.rows for report in reports if report.ok)
        busy = sum(report.seconds for report in reports)
        _write_timing(stage.url, stage.name, engine.workers, (seconds, rows, busy))
        return reports

    def _until_stopped(self, blocks: Sequence[Block]) -> Iterator[Block]:
        for block in blocks:
            if self.stop():
                return
            yield block

    def _engine(self, wanted: Literal["dask", "ray"]) -> Any:
        """Return the engine in use; another is let go first: a machine holds one at a time."""
        name = self.engine or wanted
        if self._open is not None and self._open[0] != name:
            self.close()
        if self._open is None:
            self._open = (name, open_engine(name, self.config.engine))
        return self._open[1]


def run(
    config: RunConfig,
    *,
    verbs: Sequence[str] = (),
    engine: EngineChoice = None,
    retry_failed: bool = False,
    listener: Listener = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Run every stage that has a table in the run file, or `verbs`; what is done is skipped.

    Parameters
    ----------
    config : RunConfig
        The run file.
    verbs : sequence of str
        Only these stages.
    engine : {"local", "dask", "ray"}, optional
        Use this engine for everything.
    retry_failed : bool
        Take failed blocks again.
    listener : callable
        Told of every stage begun and every block ended.
    stop : callable
        Asked before each block; True ends the run after the blocks in flight.

    Returns
    -------
    Summary
        Blocks resumed, done, failed and left.

    Raises
    ------
    ConfigError
        If something that the run file names is not there, or not what it should be.
    StageError
        If a verb has no table, an engine cannot be had, or training fails.
    """
    chosen = tuple(verbs) or config.stages()
    if lacking := [verb for verb in chosen if verb not in config.stages()]:
        raise StageError(f"the run file has no [{lacking[0]}] table")
    check_inputs(config, chosen)
    return Runner(config, engine, retry_failed, listener, stop).run(chosen)


def _indices(stage: Stage) -> set[int]:
    return {block.index for block in stage.blocks}


def _set_current(config: RunConfig, step: Stage | Training) -> None:
    """Name the step's folder as the one in use, and say in it which blocks there are."""
    path = step.url.partition("?")[0]
    root = config.run.workspace.partition("?")[0].rstrip("/")
    place = path.removeprefix(root + "/")
    stage, _, name = place.rpartition("/")
    set_current(config.run.workspace, stage, name, stage=step.name)
    note_step(config.run.workspace, place)
    if isinstance(step, Stage):
        Ledger(step.url).plan(step.blocks)


def _write_timing(url: str, name: str, workers: int, spent: tuple[float, int, float]) -> None:
    """Add this run's seconds, rows and workers' seconds at work to the stage's record of time.

    The catalog never depends on it.
    """
    where = paths.join(url, "timing.json")
    before = find_json(where) or {"seconds": 0.0, "rows": 0}
    seconds, rows, busy = spent
    record = {
        "stage": name,
        "seconds": round(float(before["seconds"]) + seconds, 3),
        "rows": int(before["rows"]) + rows,
        "workers": workers,
        "worker_seconds": round(float(before.get("worker_seconds", 0.0)) + busy, 3),
    }
    write_json(where, record)


PACKAGES = ("numpy", "torch", "zarr", "xarray", "dask", "distributed", "ray", "astropy", "obstore")


def _write_provenance(config: RunConfig) -> None:
    """Keep the resolved run file and the versions that ran it in the workspace."""
    versions = {name: importlib.metadata.version(name) for name in ("scalespec", *PACKAGES)}
    record = {
        "config": config.model_dump(mode="json"),
        "python": platform.python_version(),
        "versions": versions,
    }
    write_json(paths.join(config.run.workspace, "run.json"), record)


def search(config: RunConfig) -> list[dict[str, Any]]:
    """Try the settings of ``[train.search]`` on Ray, keep the best model, and say how all did.

    Raises
    ------
    ScalespecError
        If there is nothing to try or to learn from, or every trial failed.
    """
    from scalespec.engines.ray import RayEngine
    from scalespec.stages.search import keep_best, search_trials

    check_inputs(config, ("train",))
    settings, trial = search_trials(config)
    engine = RayEngine(config.engine.ray)
    try:
        outcomes = engine.search("train-search", len(settings), trial)
    finally:
        engine.close()
    return keep_best(config, settings, outcomes)
