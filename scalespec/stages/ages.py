"""Labels + isochrones -> ages of subgiants: posteriors on a grid, block by block on Dask."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalespec.config import AgesTable, RunConfig
from scalespec.errors import ConfigError
from scalespec.kernels.isochrone import (
    IsochroneCube,
    ModelStars,
    age_posterior,
    is_subgiant,
    model_stars,
    refine,
)
from scalespec.kernels.photometry import EXTINCTION
from scalespec.kernels.subgiant import subgiant_by_gravity, total_metals
from scalespec.plan import Block, BlockResult, Stage
from scalespec.schema import status_names
from scalespec.stages import folders
from scalespec.stages.samples import Rows
from scalespec.stages.standing import blocks_done
from scalespec.stages.stars import fitted_labels
from scalespec.store import paths
from scalespec.store.batches import column_names
from scalespec.store.catalog import read_part, read_row_range, read_schema, write_part
from scalespec.store.isochrones import read_isochrones

FloatArray = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]

KNOWN_MAGNITUDE = 0.03
"""Error of a K magnitude whose catalog states none."""
REGION = {"teff": (4500.0, 7300.0), "m_k": (-0.8, 4.5), "logg": (2.9, 4.6)}
"""Where model stars are kept when only subgiants are asked for: well around them."""
POOR_CHI2 = 16.0
"""Least chi² of three observables above which no model is like the star: one star in 900."""


class AgeStatus(IntFlag):
    """Why a star has no age, or a doubtful one; 0 is good."""

    NOT_SUBGIANT = 1 << 0
    UNKNOWN_LABEL = 1 << 1
    NO_MODEL = 1 << 2
    POOR_MATCH = 1 << 3


@dataclass(frozen=True)
class Sources:
    """What a block's stars are read from, found once: to name a folder, whole tables are read.

    Attributes
    ----------
    best, calibrated : str
        The folders of fits and of calibrated labels; "" where those are not asked for.
    matches : mapping of str to str
        Each catalog's table.
    """

    best: str
    calibrated: str = ""
    matches: Mapping[str, str] = field(default_factory=dict)


def ages(config: RunConfig) -> Iterator[Stage]:
    """Yield the stage that dates every block's stars.

    Raises
    ------
    ConfigError
        If a label or column that the run file names is not there.
    """
    table = config.ages
    if table is None:
        raise ConfigError("the run file has no [ages] table")
    _check(config, table)
    sources = _sources(config, table)
    url = folders.ages_url(config)
    yield Stage(
        name="ages",
        url=url,
        blocks=blocks_done(config, sources.best),
        read=partial(_read, sources=sources, table=table),
        compute=partial(_dated, table=table),
        write=partial(_write, url=url),
        runs_on="dask",
        setup=partial(load_models, table),
        memory_bytes=1 << 30,
    )


def _check(config: RunConfig, table: AgesTable) -> None:
    there = fitted_labels(read_schema(folders.best_url(config)).names)
    metal = next((n for n in ("fe_h", "m_h") if n in there), "fe_h")
    wanted = ["teff", metal, *([table.alpha] if table.alpha else [])]
    wanted += ["logg"] if table.brightness == "logg" else []
    if lacking := [name for name in wanted if name not in there]:
        raise ConfigError(f"ages: the fit has no {lacking}, only {there}")
    named = filter(None, (table.magnitude, table.parallax, table.reddening))
    errors = [f"{table.parallax}_err"] if table.brightness == "m_k" else []
    for name in (*named, *errors):
        catalog, _, column = name.partition(".")
        if catalog not in (config.crossmatch or {}):
            raise ConfigError(f"ages: '{name}' wants a [crossmatch.{catalog}] table")
        url = paths.join(folders.matches_url(config, catalog), "matches.parquet")
        if column not in (found := column_names(url)):
            raise ConfigError(f"ages: no column {column!r} among the matches: {sorted(found)}")


def _sources(config: RunConfig, table: AgesTable) -> Sources:
    calibrated = config.calibrate is not None and table.calibrated
    named = filter(None, (table.magnitude, table.parallax, table.reddening))
    return Sources(
        best=folders.best_url(config),
        calibrated=folders.calibrated_url(config) if calibrated else "",
        matches={
            catalog: paths.join(folders.matches_url(config, catalog), "matches.parquet")
            for catalog in sorted({name.partition(".")[0] for name in named})
        },
    )


def load_models(table: AgesTable) -> ModelStars:
    """Return the model stars that a run file asks for."""
    return make_models(read_isochrones(table.isochrones), table)


def make_models(cube: IsochroneCube, table: AgesTable) -> ModelStars:
    """Return a grid's model stars, refined, without those far from any subgiant."""
    steps = dict(zip(("fe_h", "age", "eep"), table.refine, strict=True))
    fine = refine(cube, **steps)
    if table.subgiants:
        inside = np.ones(fine.mass.shape, bool)
        for name in ("teff", table.brightness):
            low, high = REGION[name]
            inside &= (fine.columns[name] > low) & (fine.columns[name] < high)
        kept = {name: np.where(inside, values, np.nan) for name, values in fine.columns.items()}
        fine = IsochroneCube(fine.fe_h, fine.age, fine.mass, kept)
    return model_stars(fine, (table.brightness, "teff", "fe_h"))


def _read(block: Block, sources: Sources, table: AgesTable) -> Columns:
    """Read a block's trusted labels, calibrated if there are such, and what catalogs add."""
    best = read_part(sources.best, block)
    labels = fitted_labels(best.column_names)
    columns = {name: best[name].to_numpy() for name in best.column_names if name != "label_cov"}
    rows = Rows(columns, labels)
    made: Columns = {"row": columns["row"], "obsid": columns["obsid"]}
    metal = "fe_h" if "fe_h" in labels else "m_h"
    names = {"teff": "teff", "logg": "logg", "fe_h": metal, "alpha": table.alpha}
    calibrated = read_part(sources.calibrated, block) if sources.calibrated else None
    for ours, label in names.items():
        if label not in labels:
            continue
        for end in ("", "_err"):
            values = columns[f"{label}{end}"]
            if calibrated is not None and f"{label}_cal{end}" in calibrated.column_names:
                values = calibrated[f"{label}_cal{end}"].to_numpy()
            made[f"{ours}{end}"] = np.where(rows.trusted(label), values, np.nan).astype(float)
    return made | _catalogs(block, sources, table, made["row"])


def _catalogs(
    block: Block, sources: Sources, table: AgesTable, rows: npt.NDArray[np.int64]
) -> Columns:
    made: Columns = {}
    tables = {name: read_row_range(url, block) for name, url in sources.matches.items()}
    named = {"k": table.magnitude, "parallax": table.parallax, "ebv": table.reddening}
    for ours, name in named.items():
        if not name:
            continue
        catalog, _, column = name.partition(".")
        found = tables[catalog]
        place = found["row"].to_numpy() - rows[0]
        for end in ("", "_err"):
            values = np.full(len(rows), np.nan)
            if f"{column}{end}" in found.column_names:
                values[place] = found[f"{column}{end}"].to_numpy()
            made[f"{ours}{end}"] = values
    return made


def absolute_k(columns: Mapping[str, npt.NDArray[Any]], snr_min: float) -> Columns:
    """Return absolute K magnitudes and errors of stars with a sure parallax; NaN for others.

    Parameters
    ----------
    columns : mapping of str to (n,) float
        k, k_err [mag], parallax, parallax_err [mas]; ebv [mag], if known: NaN counts as 0.
    snr_min : float
        Least parallax over its error.

    Examples
    --------
    >>> one = {"k": 10.0, "k_err": 0.02, "parallax": 1.0, "parallax_err": 0.01}
    >>> made = absolute_k({name: np.array([value]) for name, value in one.items()}, 5.0)
    >>> made["m_k"].round(2), made["m_k_err"].round(3)
    (array([0.]), array([0.03]))
    """
    parallax, error = columns["parallax"], columns["parallax_err"]
    with np.errstate(invalid="ignore", divide="ignore"):
        sure = (parallax > 0) & (parallax / error >= snr_min)
        distance = 5 * np.log10(np.where(sure, parallax, np.nan)) - 10
        relative = 5 / np.log(10) * error / parallax
    dust = np.nan_to_num(columns.get("ebv", np.zeros(len(parallax))))
    known = np.where(columns["k_err"] > 0, columns["k_err"], KNOWN_MAGNITUDE)
    m_k = columns["k"] - EXTINCTION["k"] * dust + distance
    return {"m_k": m_k, "m_k_err": np.where(np.isnan(m_k), np.nan, np.hypot(known, relative))}


def date_stars(models: ModelStars, columns: Columns, table: AgesTable) -> pa.Table:
    """Return ages of a block's stars.

    Parameters
    ----------
    models : ModelStars
    columns : dict of str to (n,) array
        row, obsid; teff, fe_h, and logg or m_k, with errors; alpha, if it is asked for.

    Returns
    -------
    pa.Table
        row, obsid, age, age_err, age_p16, age_p84 [Gyr], m_k, m_k_err where made, age_status.
    """
    n = len(columns["row"])
    seen = dict(columns)
    if table.alpha:
        seen["fe_h"] = total_metals(seen["fe_h"], seen["alpha"])
        seen["fe_h_err"] = np.hypot(seen["fe_h_err"], 0.7 * seen["alpha_err"])
    observed = np.stack([seen[name] for name in models.names], axis=1)
    errors = [np.maximum(seen[f"{m}_err"], table.least_errors.get(m, 1e-6)) for m in models.names]
    sigma = np.stack(errors, axis=1)
    known = np.isfinite(observed).all(axis=1) & np.isfinite(sigma).all(axis=1)
    asked = known.copy()
    if table.subgiants:
        choose = is_subgiant if table.brightness == "m_k" else subgiant_by_gravity
        asked &= choose(seen["teff"], seen[table.brightness], columns["fe_h"])
    found = age_posterior(models, observed[asked], sigma[asked])
    status = np.where(known, 0, AgeStatus.UNKNOWN_LABEL).astype(np.uint32)
    status[known & ~asked] = AgeStatus.NOT_SUBGIANT
    rows = np.flatnonzero(asked)
    status[rows[np.isnan(found.mean)]] = AgeStatus.NO_MODEL
    status[rows[np.isfinite(found.mean) & (found.chi2 > POOR_CHI2)]] = AgeStatus.POOR_MATCH
    low, middle, high = found.quantiles.T
    values = {"age": middle, "age_err": found.std, "age_p16": low, "age_p84": high}
    made: Columns = {"row": columns["row"], "obsid": columns["obsid"]}
    for name, some in values.items():
        made[name] = np.full(n, np.nan, np.float32)
        made[name][rows] = some
    for name in (f"{table.brightness}{end}" for end in ("", "_err")):
        if table.brightness == "m_k":
            made[name] = seen[name].astype(np.float32)
    return pa.table({**made, "age_status": status})


def _dated(models: ModelStars, columns: Columns, table: AgesTable) -> pa.Table:
    if table.brightness == "m_k":
        columns = columns | absolute_k(columns, table.parallax_snr_min)
    return date_stars(models, columns, table)


def _write(block: Block, made: pa.Table, url: str) -> BlockResult:
    counts = status_names(made["age_status"].to_numpy(), AgeStatus)
    return write_part(url, block, made, counts=counts)
