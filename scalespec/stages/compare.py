"""Several models on one split, star by star, with repeated seeds: the field's comparison tables.

One block is one model on one split: it learns and predicts the stars it has not seen. Tables and
figures are made of the committed predictions.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from scalespec.config import RunConfig
from scalespec.config.compare import CompareModel, CompareTable
from scalespec.errors import ConfigError
from scalespec.kernels.attribution import integrated_gradients, line_segments
from scalespec.models.regressor import Estimator, Prediction, Sample, describe
from scalespec.plan import Block, BlockResult, Stage, Training
from scalespec.stages import folders
from scalespec.stages.contest import (
    Labelled,
    deal,
    load_labelled,
    masked_outside,
    seen,
    store_columns,
)
from scalespec.stages.leakage import Perturbed, leakage_matrix, load_perturbed, perturbed_stage
from scalespec.stages.match_notes import check_matched
from scalespec.stages.rivals import make_rival
from scalespec.stages.standing import refuse_failures
from scalespec.stages.verdict import write_verdict
from scalespec.store import paths
from scalespec.store.catalog import write_part
from scalespec.store.ledger import Ledger

TEST, BROKEN = "test", "broken"
"""Parts of the predictions: stars of the split, and of the store without correlations."""
ATTRIBUTION_STARS = 64
"""Test stars whose predictions are traced back to lines."""


@dataclass(frozen=True)
class Arena:
    """What every block needs: the stars, and those that test for leakage."""

    labelled: Labelled
    broken: Labelled | None
    perturbed: Perturbed | None


def block_of(table: CompareTable, block: Block) -> tuple[str, int]:
    """Return the model and the split of a block: models in order, splits within them.

    Examples
    --------
    >>> table = CompareTable(source="x", labels=("teff",), models={"a": {}, "b": {}}, seeds=3)
    >>> block_of(table, Block("row", 4, 4, 5))
    ('b', 1)
    """
    names = list(table.models)
    return names[block.index // table.seeds], block.index % table.seeds


def _in_precision(model: CompareModel) -> Any:
    """Return a context in which float32 products are as the table says; float64 ones stay."""
    lower = model.precision == "bfloat16"
    # The cache would hold the weights as they were before the first step.
    return torch.autocast("cpu", torch.bfloat16, enabled=lower, cache_enabled=False)


def compete(arena: Arena, name: str, split: int, table: CompareTable, seed: int) -> pa.Table:
    """Train one model on one split, and let it predict the stars that it has not seen.

    Parameters
    ----------
    arena : Arena
    name : str
        Of the model.
    split : int
    table : CompareTable
    seed : int
        Of the run.

    Returns
    -------
    pa.Table
        row, obsid, source_id, star, snr, part, model, split, out_of_domain; per label the true
        value ``<label>_true``, the prediction, ``<label>_sigma`` and ``<label>_epistemic``.
        Metadata ``facts``: history, sizes, leakage and attribution, as JSON.

    Raises
    ------
    ConfigError
        If a part of the split has no star, or the model cannot be made.
    """
    model, labelled = table.models[name], arena.labelled
    dealt = deal(labelled.star, table, split, seed)
    parts = [np.flatnonzero(dealt == k) for k in range(3)]
    if not all(len(rows) for rows in parts):
        raise ConfigError(
            f"compare: training, validation and test of split {split} have "
            f"{[len(rows) for rows in parts]} stars: give more stars, or other fractions"
        )
    (training, grid), (validation, _) = (seen(labelled, model, rows) for rows in parts[:2])
    estimator = prepared(name, table, training, grid, labelled.attrs)
    with _in_precision(model):
        history = estimator.fit(training, validation, seed=1000 * seed + split)
    facts: dict[str, Any] = {"sizes": [len(rows) for rows in parts], "history": _plain(history)}
    made = [_test_rows(estimator, labelled, model, parts[2], training, table)]
    beside = [(name, split, TEST)]
    if arena.broken is not None and _asked(table, name):
        every = np.arange(len(arena.broken))
        made.append(_test_rows(estimator, arena.broken, model, every, training, table))
        beside.append((name, split, BROKEN))
    if _traceable(model):
        if arena.perturbed is not None and _asked(table, name):
            facts["leakage"] = leakage_matrix(estimator, arena.perturbed, grid).tolist()
        if split == 0:
            facts["attribution"] = _attribution(estimator, labelled, model, parts[2], training)
    whole = pa.concat_tables(
        rows.append_column("model", pa.array([who] * len(rows)))
        .append_column("split", pa.array([at] * len(rows), pa.int16()))
        .append_column("part", pa.array([part] * len(rows)))
        for rows, (who, at, part) in zip(made, beside, strict=True)
    )
    return whole.replace_schema_metadata({"facts": json.dumps(facts, allow_nan=True)})


def prepared(
    name: str,
    table: CompareTable,
    training: Sample,
    grid: npt.NDArray[np.float64],
    attrs: dict[str, Any],
) -> Estimator:
    """Return a model that has not learned yet.

    Raises
    ------
    ConfigError
        If there is no such model, or an option is wrong.
    """
    model = table.models[name]
    try:
        spec = describe(
            name,
            table.labels,
            grid,
            training,
            inputs=table.extra if model.inputs == "both" else (),
            normalization=attrs.get("normalization", {"method": "none"}),
            resolving_power=attrs.get("resolving_power"),
        )
        return make_rival(model.estimator or name, spec, **table.options_of(name))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"compare.models.{name}: {error}") from error


def _test_rows(
    estimator: Estimator,
    labelled: Labelled,
    model: CompareModel,
    rows: npt.NDArray[np.int64],
    training: Sample,
    table: CompareTable,
) -> pa.Table:
    sample, grid = seen(labelled, model, rows)
    if model.window and model.fill == "mean":
        sample = masked_outside(sample, grid, model.window, training)
    with _in_precision(model):
        found = estimator.predict(sample.flux, sample.ivar, sample.extra)
    beside = {name: labelled.columns[name][rows] for name in ("obsid", "source_id", "snr")}
    return pa.table(
        {"row": labelled.rows[rows], "star": labelled.star[rows], **beside}
        | label_columns(found, sample, table.labels)
    )


def label_columns(
    found: Prediction, sample: Sample, labels: tuple[str, ...]
) -> dict[str, npt.NDArray[Any]]:
    """Return predictions, their errors and the truth as columns of a table."""
    columns: dict[str, npt.NDArray[Any]] = {"out_of_domain": found.out_of_domain}
    for k, label in enumerate(labels):
        columns[label] = found.labels[:, k]
        columns[f"{label}_sigma"] = found.sigma[:, k]
        columns[f"{label}_epistemic"] = found.sigma_epistemic[:, k]
        columns[f"{label}_true"] = sample.labels[:, k]
    return columns


def _asked(table: CompareTable, name: str) -> bool:
    chosen = table.leakage.models if table.leakage else ()
    return not chosen or name in chosen


def _traceable(model: CompareModel) -> bool:
    return model.inputs == "spectrum" and model.window is None


def _attribution(
    estimator: Estimator,
    labelled: Labelled,
    model: CompareModel,
    rows: npt.NDArray[np.int64],
    training: Sample,
) -> dict[str, list[float]]:
    """Return, by line, how much of the predictions' spread over stars it carries, per label."""
    some = rows[:: max(1, len(rows) // ATTRIBUTION_STARS)][:ATTRIBUTION_STARS]
    sample, grid = seen(labelled, model, some)
    good = training.ivar > 0
    total = np.where(good, training.flux, 0.0).sum(axis=0, dtype=np.float64)
    mean = (total / np.maximum(good.sum(axis=0), 1)).astype(np.float32)
    segments = line_segments(grid)

    def predict(flux: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        repeated = np.tile(sample.ivar, (len(flux) // len(sample), 1))
        return estimator.predict(flux, repeated).labels

    parts = integrated_gradients(predict, sample.flux, mean, list(segments.values()))
    carried = np.abs(parts).mean(axis=0)  # (n_segment, n_label)
    return {name: carried[k].tolist() for k, name in enumerate(segments)}


def _plain(value: Any) -> Any:
    """Return a history as plain JSON types."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def compare(config: RunConfig) -> Iterator[Stage | Training]:
    """Yield the stage that trains every model on every split, then write tables and figures.

    Raises
    ------
    ConfigError
        If the run file has no [compare] table.
    StageError
        If not one model was trained.
    """
    table = config.compare
    if table is None:
        raise ConfigError("the run file has no [compare] table")
    if table.catalog:
        check_matched(config, table.catalog, table.labels)
    source, url = folders.compared_url(config), folders.compare_url(config)
    perturbed = ""
    if table.leakage is not None:
        perturbed = paths.join(url, "perturbed")
        yield from perturbed_stage(config, table, source, perturbed)
    n_blocks = len(table.models) * table.seeds
    yield Stage(
        name="compare",
        url=url,
        blocks=[Block("row", i, i, i + 1) for i in range(n_blocks)],
        read=_nothing,
        compute=partial(_compute, table=table, seed=config.run.seed),
        write=partial(_write, url=url),
        runs_on="ray",
        setup=partial(enter, source, perturbed, table),
    )
    if not Ledger(url).done():
        refuse_failures(url)
        return  # stopped before the first was trained
    columns = store_columns(source)
    write_verdict(url, table, columns, name=config.run.name, seed=config.run.seed)


def enter(source: str, perturbed: str, table: CompareTable) -> Arena:
    """Read what every block needs, once per worker."""
    broken = table.leakage.broken if table.leakage else ""
    return Arena(
        load_labelled(source, table),
        load_labelled(broken, table, select=False) if broken else None,
        load_perturbed(perturbed, table.softening) if perturbed else None,
    )


def _nothing(block: Block) -> Block:
    return block


def _compute(arena: Arena, block: Block, table: CompareTable, seed: int) -> pa.Table:
    return compete(arena, *block_of(table, block), table, seed)


def _write(block: Block, made: pa.Table, url: str) -> BlockResult:
    return write_part(url, block, made, counts={"predictions": made.num_rows})
