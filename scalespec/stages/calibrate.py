"""Labels + pairs + references -> calibrated labels, error floors. Raw labels stay as they are.

Three maps over blocks, on Dask: what each block knows of its stars, put together by one join; one
correction per label; calibrated labels of every block. `trends` says what a correction is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalespec.config import CalibrateTable, RunConfig
from scalespec.errors import ConfigError
from scalespec.kernels.calibration import CalibrationStatus
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import status_names
from scalespec.stages import folders
from scalespec.stages.correction import Correction, LabelData, Measured, Referred
from scalespec.stages.standing import blocks_done, whole
from scalespec.stages.stars import (
    block_stars,
    fitted_labels,
    join_stars,
    read_stars,
    star_sources,
    write_stars,
)
from scalespec.stages.trends import fit_correction
from scalespec.store import paths
from scalespec.store.batches import column_names
from scalespec.store.catalog import read_part, read_schema, write_part
from scalespec.store.committed import commit_bytes
from scalespec.store.ledger import Ledger, read_json, write_json
from scalespec.store.spectra import read_spectra
from scalespec.store.tables import read_table

Array = npt.NDArray[Any]

ABUNDANCES = ("_fe", "_h", "_m")
"""How labels end that two stars born together share."""
RECORD = "calibration.json"


def calibrate(config: RunConfig) -> Iterator[Stage]:
    """Yield the stages that gather stars, fit corrections and apply them.

    Raises
    ------
    ConfigError
        If a label or column that the run file names is not there.
    StageError
        If blocks failed whose stars a correction would lack.
    """
    table, url = config.calibrate, folders.calibrated_url(config)
    if table is None:
        raise ConfigError("the run file has no [calibrate] table")
    labels = calibrated_labels(config, table)
    sources = star_sources(config, table, labels)
    blocks = blocks_done(config, sources.best)
    stars_url, trends_url = paths.join(url, "stars"), paths.join(url, "trends")
    yield Stage(
        name="calibrate stars",
        url=stars_url,
        blocks=blocks,
        read=partial(read_stars, sources=sources),
        compute=partial(block_stars, labels=tuple(labels)),
        write=partial(write_stars, url=stars_url),
        runs_on="dask",
    )
    if not whole(stars_url, len(blocks)):
        return
    join_stars(url, table)
    yield Stage(
        name="calibrate trends",
        url=trends_url,
        blocks=plan_blocks(len(labels), 1, axis="row"),
        read=partial(_read_label, url=url, labels=labels),
        compute=partial(_corrected, table=table, seed=config.run.seed),
        write=partial(_write_correction, url=trends_url),
        runs_on="dask",
    )
    if not whole(trends_url, len(labels)):
        return
    _keep(url, trends_url, labels, table)
    yield Stage(
        name="calibrate",
        url=url,
        blocks=blocks,
        read=partial(_read_block, store=sources.store, best=sources.best),
        compute=_calibrated,
        write=partial(_write_calibrated, url=url),
        runs_on="dask",
        setup=partial(read_corrections, url),
    )


def calibrated_labels(config: RunConfig, table: CalibrateTable) -> dict[str, tuple[str, ...]]:
    """Return the labels to calibrate, each with what speaks of it: ``pairs``, references.

    Raises
    ------
    ConfigError
        If the run file names a label that the fit does not have, or that nothing speaks of.
    """
    there = fitted_labels(read_schema(folders.best_url(config)).names)
    shared = tuple(name for name in there if name.endswith(ABUNDANCES))
    sources: dict[str, tuple[str, ...]] = {}
    if table.pairs is not None:
        sources["pairs"] = table.pairs.labels or shared
    for name, reference in table.references.items():
        url = paths.join(folders.matches_url(config, name), "matches.parquet")
        sources[name] = reference.labels or tuple(n for n in column_names(url) if n in there)
    named = {label for one in sources.values() for label in one} | set(table.labels)
    if unknown := sorted(named - set(there)):
        raise ConfigError(f"calibrate: the fit has no label {unknown}, only {there}")
    wanted = table.labels or tuple(name for name in there if name in named)
    found = {one: tuple(s for s, has in sources.items() if one in has) for one in wanted}
    if silent := [label for label, speaking in found.items() if not speaking]:
        raise ConfigError(f"calibrate.labels: neither pairs nor references speak of {silent}")
    return found


def _read_label(
    block: Block, url: str, labels: Mapping[str, tuple[str, ...]]
) -> tuple[int, str, LabelData]:
    """Read all that speaks of one label."""
    label, sources = list(labels.items())[block.start]
    pairs = _two(url, "pairs", label) if "pairs" in sources else None
    references = {name: _reference(url, name, label) for name in sources if name != "pairs"}
    clusters: dict[str, Measured] = {}
    if paths.exists(paths.join(url, "clusters.parquet")):
        found = _columns(url, "clusters", label, extra=("cluster",))
        members = _measured(found, label)
        for name in np.unique(found["cluster"]):
            clusters[str(name)] = members.take(found["cluster"] == name)
    data = LabelData(pairs, _two(url, "repeats", label), references, clusters)
    return block.index, label, data


def _columns(url: str, name: str, label: str, extra: Sequence[str] = ()) -> dict[str, Array]:
    names = [*_names(label).values(), *extra]
    return read_table(paths.join(url, f"{name}.parquet"), list(dict.fromkeys(names)))


def _names(label: str) -> dict[str, str]:
    """Return our columns of what `Measured` holds."""
    names = {"teff": "teff", "logg": "logg", "snr": "snr"}
    return names | {"value": f"value:{label}", "err": f"value:{label}_err"}


def _measured(columns: Mapping[str, Array], label: str) -> Measured:
    named = _names(label)
    return Measured(**{ours: columns[name].astype(np.float64) for ours, name in named.items()})


def _two(url: str, name: str, label: str) -> Measured:
    named = _names(label)
    wanted = list(dict.fromkeys(f"{one}_{side}" for one in named.values() for side in "12"))
    found = read_table(paths.join(url, f"{name}.parquet"), wanted)
    both = {n: np.stack([found[f"{one}_{s}"] for s in "12"], axis=1) for n, one in named.items()}
    return Measured(**{n: values.astype(np.float64) for n, values in both.items()})


def _reference(url: str, name: str, label: str) -> Referred:
    extra = ("star", f"{name}:{label}", f"{name}:{label}_err")
    found = _columns(url, "references", label, extra=extra)
    theirs, error = (found[column].astype(np.float64) for column in extra[1:])
    stars = _measured(found, label)
    beside = {"reference": theirs, "reference_err": np.nan_to_num(error), "star": found["star"]}
    return Referred(**vars(stars), **beside)


def _corrected(
    _: None, data: tuple[int, str, LabelData], table: CalibrateTable, seed: int
) -> Correction:
    index, label, known = data
    return fit_correction(label, known, table, seed=1000 * seed + index)


def _write_correction(block: Block, made: Correction, url: str) -> BlockResult:
    data = json.dumps(made.to_dict(), allow_nan=False).encode()
    counts = {step.source: step.n for step in made.steps}
    return commit_bytes(url, block, data, "json", rows=1, counts=counts)


def _keep(url: str, trends_url: str, labels: Mapping[str, Any], table: CalibrateTable) -> None:
    """Put the labels' corrections into one record, with the order of steps and its version."""
    commits = Ledger(trends_url).commits()
    made = [
        read_json(paths.join(trends_url, next(iter(commits[i].objects))))
        for i in range(len(labels))
    ]
    record = {
        "format": "scalespec calibration 1",
        "version": paths.split(url)[1].rpartition("/")[2],
        "order": ["pairs", *table.references, "floors"],
        "table": table.model_dump(mode="json"),
        "corrections": made,
    }
    write_json(paths.join(url, RECORD), record)


def read_corrections(url: str) -> list[Correction]:
    """Return the corrections of a folder of calibrated labels, one per label.

    Raises
    ------
    StoreError
        If there are none yet.
    """
    record = read_json(paths.join(url, RECORD))
    return [Correction.from_dict(plain) for plain in record["corrections"]]


def _read_block(block: Block, store: str, best: str) -> tuple[pa.Table, Array]:
    scalars = read_spectra(store, block.start, block.stop, names=("snr",))
    return read_part(best, block), scalars["snr"].to_numpy()


def _calibrated(made: Sequence[Correction], data: tuple[pa.Table, Array]) -> pa.Table:
    return calibrated_labels_of(*data, made)


def calibrated_labels_of(
    best: pa.Table, snr: npt.NDArray[Any], made: Sequence[Correction]
) -> pa.Table:
    """Return calibrated labels beside a block's rows.

    Parameters
    ----------
    best : pa.Table
        A fit: row, obsid, teff, logg, labels and errors.
    snr : (n,) float
    made : sequence of Correction

    Returns
    -------
    pa.Table
        row, obsid, ``<label>_cal``, ``<label>_cal_err`` (NaN where the fit has none),
        calibration_status.
    """
    columns = {"row": best["row"].to_numpy(), "obsid": best["obsid"].to_numpy()}
    teff, logg = (best[name].to_numpy().astype(np.float64) for name in ("teff", "logg"))
    status = np.zeros(len(teff), np.uint32)
    for one in made:
        value, err = (best[n].to_numpy() for n in (one.label, f"{one.label}_err"))
        stars = Measured(teff, logg, snr, value.astype(np.float64), err.astype(np.float64))
        value, err = one.calibrated(stars)
        columns |= {f"{one.label}_cal": value.astype(np.float32)}
        columns |= {f"{one.label}_cal_err": err.astype(np.float32)}
        known = np.isfinite(value)
        status[known & one.outside(teff, logg)] |= np.uint32(CalibrationStatus.BEYOND_TREND)
        status[known & one.without(logg)] |= np.uint32(CalibrationStatus.NO_TREND)
    return pa.table({**columns, "calibration_status": status})


def _write_calibrated(block: Block, made: pa.Table, url: str) -> BlockResult:
    counts = status_names(made["calibration_status"].to_numpy(), CalibrationStatus)
    return write_part(url, block, made, counts=counts)
