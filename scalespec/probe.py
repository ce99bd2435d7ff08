"""What a run will take, from a few blocks of it that are run beforehand and thrown away.

The probe is a run of its own, on the engines of the run file, in ``<workspace>/probe``: a few
blocks per worker and a shortened training. Stages that go over the spectra are extrapolated by
their blocks, others (a library, a label catalog) are done whole.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from scalespec.config import RunConfig, TrainTable
from scalespec.errors import ConfigError, ScalespecError
from scalespec.plan import BlockReport
from scalespec.run import EngineChoice, Progress, run
from scalespec.stages import folders
from scalespec.stages.inputs import count_inputs
from scalespec.stages.named_inputs import check_inputs
from scalespec.store import paths
from scalespec.store.ledger import read_json, write_json
from scalespec.store.listing import iterate_files

log = logging.getLogger(__name__)

BLOCKS_PER_WORKER = 3
"""The first block of a worker pays its imports and its model: it is no measure of the others."""
ROUNDS = 3
"""Rounds of training that the probe makes; the others are longer, at the same price a step."""
EPOCHS = 2
NOT_PROBED = ("report", "compare")
LEFT_OUT = ("posterior", "binaries", "calibrate")
"""What few spectra do not have: the stars that were chosen, pairs and references enough; and what
takes as many mock stars for few as for many."""
PREDICTION = "prediction.json"


@dataclass(frozen=True)
class Prices:
    """What a provider takes, in one currency.

    Attributes
    ----------
    worker_hour : float
        Of one worker: a core with its share of memory, or a GPU.
    gb_month : float
        Of 10^9 bytes stored.
    put_1000, get_1000 : float
        Of a thousand requests that write or list, and that read.
    """

    worker_hour: float = 0.0
    gb_month: float = 0.0
    put_1000: float = 0.0
    get_1000: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Prices":
        """Return prices given as ``worker_hour=0.05,gb_month=0.023``.

        Raises
        ------
        ConfigError
            If a name is not known or a price is no number.

        Examples
        --------
        >>> Prices.parse("worker_hour=0.05").worker_hour
        0.05
        """
        given = dict(part.partition("=")[::2] for part in text.split(",") if part.strip())
        try:
            return cls(**{name.strip(): float(value) for name, value in given.items()})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"prices '{text}': wanted as {asdict(cls())}: {error}") from error


@dataclass(frozen=True)
class Predicted:
    """One stage, as it will be.

    Attributes
    ----------
    stage : str
    blocks : int
    seconds : float
        Wall time with that many workers, the engine's start included where it starts here.
    start_seconds : float
        Of them, what has to be before blocks go at their pace: engine, imports, model. It is the
        same for few blocks and for many, and the part that another day is least like.
    worker_seconds : float
        Time that workers are at work, all of them together.
    bytes : int
        Stored.
    memory_bytes : int
        Most that a worker's process held.
    puts, gets : int
        Requests to the store that write, and that read: one per object.
    """

    stage: str
    blocks: int
    seconds: float
    worker_seconds: float
    bytes: int = 0
    memory_bytes: int = 0
    puts: int = 0
    gets: int = 0
    start_seconds: float = 0.0

    def cost(self, prices: Prices, workers: int) -> float:
        """Return what it costs: workers for its time, a month of what it stores, requests."""
        hours = workers * self.seconds / 3600
        return (
            hours * prices.worker_hour
            + self.bytes / 1e9 * prices.gb_month
            + self.puts / 1000 * prices.put_1000
            + self.gets / 1000 * prices.get_1000
        )


@dataclass
class _Seen:
    """What the probe saw of one stage."""

    planned: int
    began: float
    ended: list[tuple[float, BlockReport]] = field(default_factory=list)


class _Watch:
    """Notes when what happened."""

    def __init__(self) -> None:
        self.stages: dict[str, _Seen] = {}

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.report is None:
            self.stages[progress.stage] = _Seen(progress.planned, now)
        else:
            self.stages[progress.stage].ended.append((now, progress.report))


def probe_run(
    config: RunConfig,
    *,
    engine: EngineChoice = None,
    workers: int | None = None,
    blocks_per_worker: int = BLOCKS_PER_WORKER,
) -> list[Predicted]:
    """Run a few blocks of every stage and say what the whole run will take.

    Parameters
    ----------
    config : RunConfig
    engine : {"local", "dask", "ray"}, optional
        Use this engine for everything.
    workers : int, optional
        How many the run will have; by default as many as the probe has.
    blocks_per_worker : int
        Of the probe.

    Returns
    -------
    list of Predicted
        Stage by stage, as far as the probe came. It is kept as ``<workspace>/prediction.json``
        where it is for the same number of workers; the report compares it with the run.

    Raises
    ------
    ConfigError
        If there are no spectra to probe, or the run would end with one.
    """
    check_inputs(config)
    n, _ = count_inputs(config)
    if not n or config.ingest is None:
        raise ConfigError("a probe wants [ingest] and spectra to read")
    ours = 1 if engine == "local" else config.engine.dask.workers
    size = config.run.spectra_per_block
    short = _shortened(config, size * blocks_per_worker * ours)
    watch = _Watch()
    try:
        _run_short(config, short, engine, watch)
        probed = -(-min(n, blocks_per_worker * ours * size) // size)
        blocks = (-(-n // size), probed)
        share = ours / (workers or ours)
        found = [_predicted(short, *seen, blocks, share) for seen in watch.stages.items()]
        found = _with_reads(_with_training(config, short, found))
    finally:
        paths.delete_tree(short.run.workspace)
    if workers in (None, ours):
        record = {"workers": ours, "stages": [asdict(one) for one in found]}
        write_json(paths.join(config.run.workspace, PREDICTION), record)
    return found


def _shortened(config: RunConfig, limit: int) -> RunConfig:
    """Return the run of the probe: its own workspace, few spectra, little training."""
    ingest, train = config.ingest, config.train
    least = min(limit, (ingest.limit if ingest else None) or limit)
    changed: dict[str, Any] = dict.fromkeys(LEFT_OUT) | {
        "run": config.run.model_copy(
            update={"workspace": paths.join(config.run.workspace, "probe")}
        ),
        "ingest": ingest.model_copy(update={"limit": least}) if ingest else None,
    }
    if train is not None:
        few = {"rounds": train.rounds[:ROUNDS], "epochs": min(train.epochs, EPOCHS)}
        changed["train"] = train.model_copy(update=few | {"checkpoint_every": 1})
    return config.model_copy(update=changed)


def _run_short(config: RunConfig, short: RunConfig, engine: EngineChoice, watch: _Watch) -> None:
    verbs = [verb for verb in short.stages() if verb not in NOT_PROBED]
    try:
        run(short, verbs=verbs, engine=engine, listener=watch)
    except ScalespecError as error:  # too few matched stars to learn from, say
        if isinstance(error, ConfigError) and not _lacks_columns(config, error):
            raise
        log.warning("the probe ended early, later stages are not predicted: %s", error)


def _lacks_columns(config: RunConfig, error: ConfigError) -> bool:
    """Whether it may be the probe alone that cannot publish: it leaves out tables with columns."""
    left_out = any(getattr(config, name) is not None for name in LEFT_OUT)
    return left_out and str(error).startswith("publish.")


def _predicted(
    short: RunConfig, stage: str, seen: _Seen, blocks: tuple[int, int], share: float
) -> Predicted:
    """Extrapolate one stage; `share` is the probe's workers over the run's."""
    whole, probed = blocks
    n = whole if seen.planned == probed else seen.planned
    if stage.endswith(("train.zarr", "hats")):  # as many matches, or rows a partition, as probed
        n = -(-seen.planned * whole // probed)
    if not seen.ended:
        return Predicted(stage, n, 0.0, 0.0)
    warm, steady = _rates(seen)
    done = [report for _, report in seen.ended]
    working = sum(report.seconds for report in done) / len(done)
    sizes = _stored(short, stage)
    factor = n / len(done)
    return Predicted(
        stage=stage,
        blocks=n,
        seconds=warm + max(n - _warm_blocks(seen), 0) * steady * share,
        worker_seconds=working * n,
        bytes=round(sum(sizes) * factor),
        memory_bytes=max(report.memory_bytes for report in done),
        puts=round((len(sizes) + len(done)) * factor),  # objects, and a commit of each block
        start_seconds=max(warm - _warm_blocks(seen) * steady * share, 0.0),
    )


def _warm_blocks(seen: _Seen) -> int:
    """Return how many blocks had ended when every worker had ended its first."""
    last, known = 0, set()
    for i, (_, report) in enumerate(seen.ended):
        if report.worker not in known:
            known.add(report.worker)
            last = i + 1
    return last


def _rates(seen: _Seen) -> tuple[float, float]:
    """Return seconds until every worker was warm, and per block, over all workers, since then."""
    first = _warm_blocks(seen)
    warm = seen.ended[first - 1][0]
    later = len(seen.ended) - first
    if later:
        return warm - seen.began, (seen.ended[-1][0] - warm) / later
    known: set[str] = set()
    others = [  # one worker came last: by the time that the others' blocks took
        report.seconds
        for _, report in seen.ended
        if report.worker in known or known.add(report.worker)  # type: ignore[func-returns-value]
    ]
    if others:
        return warm - seen.began, sum(others) / len(others) / len(known)
    return warm - seen.began, (warm - seen.began) / first


def _stored(short: RunConfig, stage: str) -> list[int]:
    """Return the sizes of the objects that a stage's blocks wrote, commits left out."""
    timings = [
        url
        for key in paths.list_keys(short.run.workspace)
        if key.endswith("/timing.json")
        and read_json(url := paths.join(short.run.workspace, key))["stage"] == stage
    ]
    return [
        entry.size
        for url in timings
        for entry in iterate_files(paths.split(url)[0])
        if "/commits/" not in entry.url and not entry.url.endswith(("timing.json", "/zarr.json"))
    ]


def _with_training(
    config: RunConfig, short: RunConfig, found: Sequence[Predicted]
) -> list[Predicted]:
    """Add to the training the rounds and epochs that the probe left out."""
    table, little = config.train, short.train
    if table is None or little is None or not any(one.stage == "train" for one in found):
        return list(found)
    gaps = _gaps(short)
    made = []
    for one in found:
        if one.stage != "train":
            made.append(one)
            continue
        total = one.seconds + _left_out(table, little, gaps, one.seconds)
        start = max(total - _steps(table, little, gaps), 0.0)
        facts = {"blocks": 1, "seconds": total, "worker_seconds": total, "start_seconds": start}
        made.append(Predicted(**(asdict(one) | facts)))
    return made


def _steps(table: TrainTable, little: TrainTable, gaps: Sequence[float]) -> float:
    """Return seconds of all steps at the price of the last ones made."""
    if table.epochs:
        return table.epochs * gaps[-1]
    once, each = _price(little.rounds, gaps)
    return once * len(table.rounds) + each * sum(table.rounds)


def _left_out(table: TrainTable, little: TrainTable, gaps: Sequence[float], whole: float) -> float:
    """Return seconds of the steps left out, where the last ones took `gaps`, all `whole`."""
    left, last = table.rounds[len(little.rounds) :], gaps[-1]
    if not little.epochs:
        once, each = _price(little.rounds, gaps)
        return once * len(left) + each * sum(left)
    # Most of a short training is its start: to evaluate all spectra costs no more than an epoch.
    a_round = min(max(whole - little.epochs * last, 0.0) / max(sum(little.rounds), 1), last)
    return (table.epochs - little.epochs) * last + sum(left) * a_round


def _price(rounds: Sequence[int], gaps: Sequence[float]) -> tuple[float, float]:
    """Return seconds that a round takes whatever its steps are, and those of a step."""
    if not rounds or not rounds[-1]:
        return 0.0, gaps[-1]
    if len(gaps) > 1 and len(rounds) > 1 and rounds[-1] > rounds[-2]:
        each = (gaps[-1] - gaps[-2]) / (rounds[-1] - rounds[-2])
        once = gaps[-1] - each * rounds[-1]
        if each > 0 and once > 0:
            return once, each
    return 0.0, gaps[-1] / rounds[-1]


def _gaps(short: RunConfig) -> list[float]:
    """Return the seconds between the last checkpoints of the probe's training, at least one."""
    url = paths.join(folders.model_url(short), "checkpoints")
    times = sorted(entry.modified for entry in iterate_files(url) if entry.url.endswith(".json"))
    return [later - one for one, later in pairwise(times)] or [0.0]


def _with_reads(found: Sequence[Predicted]) -> list[Predicted]:
    """Add the requests that read: every object that a stage's predecessors wrote, once."""
    made, before = [], 0
    for one in found:
        made.append(Predicted(**(asdict(one) | {"gets": max(before, one.blocks)})))
        before = one.puts
    return made


def priced(
    found: Sequence[Predicted], prices: Prices, workers: int | None, config: RunConfig
) -> list[dict[str, Any]]:
    """Return predictions as plain data, each with its cost for so many workers."""
    n = workers or config.engine.dask.workers
    return [asdict(one) | {"cost": one.cost(prices, n)} for one in found]


def compare(config: RunConfig) -> list[tuple[str, float, float]]:
    """Return stage, predicted and measured seconds of every stage that has both."""
    url = paths.join(config.run.workspace, PREDICTION)
    if not paths.exists(url):
        return []
    predicted: Mapping[str, float] = {s["stage"]: s["seconds"] for s in read_json(url)["stages"]}
    workspace = config.run.workspace
    timings = [
        read_json(paths.join(workspace, key))
        for key in paths.list_keys(workspace)
        if key.endswith("/timing.json")
    ]
    return [
        (t["stage"], predicted[t["stage"]], float(t["seconds"]))
        for t in timings
        if t["stage"] in predicted
    ]
