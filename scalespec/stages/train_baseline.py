"""Spectra + labels -> a classical regressor: on one worker, or from sums over blocks of spectra."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from scalespec.config import RunConfig, TrainTable
from scalespec.errors import ConfigError, ModelError
from scalespec.models.baselines import Baseline
from scalespec.models.classical import BASELINES
from scalespec.models.elm import ExtremeLearning
from scalespec.models.regressor import RegressorSpec, Sample, describe
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.stages.elm import learn_elm, training_sample
from scalespec.stages.train_regressor import Labelled, labelled, regressor_spec
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.regressor import SKOPS, save_baseline
from scalespec.store.spectra import count_spectra, memory_bytes, read_spectra

KINDS = {kind.name: kind for kind in BASELINES}
"""Classical regressors by the name that ``train.model`` gives."""


def train_baseline(config: RunConfig, source: str, url: str) -> Iterator[Stage]:
    """Yield the stage that fits a classical regressor to a labelled store; then it is stored.

    Parameters
    ----------
    config : RunConfig
        With a ``[train]`` table whose model is one of `KINDS`; ``[train.network]`` gives ``inputs``
        and ``options``, those of its class.
    source : str
        Spectra store with labels.
    url : str
        Where the model is to be.

    Raises
    ------
    ConfigError
        If an option is unknown or wrong.
    ModelError
        If there is nothing to learn from.
    """
    table = config.train
    if table is None:
        raise ConfigError("the run file has no [train] table")
    if table.model == ExtremeLearning.name:
        yield from _train_elm(table, source, url, config.run.seed)
        return
    head = read_spectra(source, 0, 0)
    n = count_spectra(source)
    yield Stage(
        name="train",
        url=url,
        blocks=[Block("row", 0, 0, n)],
        read=partial(_read, source=source, table=table, seed=config.run.seed),
        compute=partial(_fit, table=table, seed=config.run.seed),
        write=partial(_save, url=url),
        runs_on="dask",
        memory_bytes=memory_bytes(n, head.sizes["wavelength"]),
    )


def _train_elm(table: TrainTable, source: str, url: str, seed: int) -> Iterator[Stage]:
    """Yield the stage of the sums; solve and store when it is done."""
    if table.network.inputs:
        raise ConfigError("train.network.inputs: the elm's sums are of spectra alone")
    head = read_spectra(source, 0, 0)
    blocks = plan_blocks(count_spectra(source), int(head.attrs["shard_rows"]))
    spectra = read_spectra(source, 0, blocks[0].stop)
    first = training_sample(spectra, table.labels, table.snr_min, seed=seed)
    if len(first) == 0:
        raise ModelError(f"{source}: no training spectrum of S/N >= {table.snr_min:g} at its start")
    spec = describe(
        table.model,
        table.labels,
        head["wavelength"].to_numpy(),
        first,
        normalization=head.attrs["normalization"],
        resolving_power=head.attrs.get("resolving_power"),
    )
    model = untrained_baseline(table, spec)
    if not isinstance(model, ExtremeLearning):
        raise ConfigError(f"train.model = '{table.model}' is no sum over blocks")
    sums = paths.join(url, "sums")
    yield from learn_elm(source, sums, model, blocks, seed=seed, snr_min=table.snr_min)
    save_baseline(url, model, {"source": source.rpartition("/")[2], "blocks": len(blocks)})


def untrained_baseline(table: TrainTable, spec: RegressorSpec) -> Baseline:
    """Return the classical regressor that a run file describes.

    Raises
    ------
    ConfigError
        If an option is unknown or wrong.
    """
    try:
        return KINDS[table.model](spec, **table.network.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"[train.network.options]: {table.model}: {error}") from error


def _read(
    block: Block, source: str, table: TrainTable, seed: int
) -> tuple[RegressorSpec, Sample, Sample]:
    if block.size == 0:
        raise ModelError(f"{source}: no spectra in it")
    training, validation, head = labelled(source, table, seed)
    return regressor_spec(table, training, head), _whole(training), _whole(validation)


def _whole(part: Labelled) -> Sample:
    """Return all of a part as one sample, without columns that there are not."""
    sample = part.spread(len(part.data.rows))
    if sample.extra is not None and sample.extra.shape[1] == 0:
        return Sample(sample.flux, sample.ivar, sample.labels, sample.label_err)
    return sample


def _fit(
    _: None, asked: tuple[RegressorSpec, Sample, Sample], table: TrainTable, seed: int
) -> tuple[Baseline, dict[str, Any]]:
    spec, training, validation = asked
    model = untrained_baseline(table, spec)
    history = model.fit(training, validation, seed=seed)
    sizes = {"n_training": len(training), "n_validation": len(validation)}
    return model, sizes | {"history": history}


def _save(block: Block, made: tuple[Baseline, dict[str, Any]], url: str) -> BlockResult:
    """Store the model, then commit it."""
    save_baseline(url, *made)
    objects = {
        key: paths.sha256(paths.read_bytes(paths.join(url, key))) for key in (SKOPS, "model.json")
    }
    return Ledger(url).commit(block, BlockResult(block.size, objects))
