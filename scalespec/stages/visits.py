"""Spectra of one star -> one spectrum; repeats -> zero points of plates. km/s.

A map to committed partials, one reduction, and a map over the stars it finds.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import xarray as xr

from scalespec.config import RunConfig, VisitsTable, digest
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.combine import combine_visits
from scalespec.kernels.repeats import plate_zero_points
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import (
    NOISE_CORRELATION,
    PER_SPECTRUM,
    UNREADABLE,
    SpectrumStatus,
    status_names,
)
from scalespec.stages.ingest import read_index
from scalespec.stages.label_catalog import star_hash
from scalespec.stages.regrid import correlation_of, median_snr, with_correlation
from scalespec.stages.stores import encoding
from scalespec.store import paths
from scalespec.store.batches import read_sorted_range
from scalespec.store.catalog import read_parts, write_part
from scalespec.store.committed import commit_spectra
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import (
    create_spectra,
    memory_bytes,
    read_rows,
    read_spectra,
)
from scalespec.surveys.rows import INDEX_COLUMNS

log = logging.getLogger(__name__)

NO_SPECTRUM = np.uint32(UNREADABLE | SpectrumStatus.PADDING)
ROW_GROUP_ROWS = 1 << 14
PIXELS = ("flux", "ivar", "mask")

Floats = npt.NDArray[np.float64]


def combine_stars(
    config: RunConfig, url: str, raw: str, blocks: Sequence[Block]
) -> Iterator[Stage]:
    """Yield the stages that put the spectra of each star in ``<url>/spectra.zarr`` together.

    In ``<url>/visits/<digest>`` come to lie ``spectra.zarr``, a row per star; ``stars.parquet``,
    which spectra each row is made of; and ``zero_points.parquet``, if plates are named.

    Parameters
    ----------
    config : RunConfig
    url : str
        Folder of the preprocessed spectra.
    raw : str
        Folder of the raw spectra, whose index names stars and files; "" if there is none.
    blocks : sequence of Block

    Raises
    ------
    ConfigError
        If there is no such column of stars.
    StageError
        If the repeats of a block cannot be read.
    """
    table = (config.preprocess and config.preprocess.visits) or VisitsTable()
    source, done = paths.join(url, "spectra.zarr"), Ledger(url).done()
    head = read_spectra(source, 0, 0)
    known = [*head.data_vars, *(INDEX_COLUMNS if raw else ())]
    if table.star not in known:
        raise ConfigError(f"visits.star = '{table.star}' is none of {sorted(map(str, known))}")
    there = [block for block in blocks if block.index in done]
    target = paths.join(url, "visits", digest([b.index for b in there], table))
    yield Stage(
        name="repeats",
        url=paths.join(target, "repeats"),
        blocks=there,
        read=partial(_read_repeats, source=source, raw=raw, star=table.star),
        compute=partial(_repeats, table=table),
        write=partial(_write_repeats, url=paths.join(target, "repeats")),
        runs_on="dask",
    )
    if lacking := len(there) - len(Ledger(paths.join(target, "repeats")).done()):
        raise StageError(f"{target}: {lacking} blocks of repeats are missing: --retry-failed")
    if there:
        yield _combine_stage(config, source, target, table)


def _combine_stage(config: RunConfig, source: str, target: str, table: VisitsTable) -> Stage:
    """Say which spectra are whose, make the store of stars, and return the stage that fills it."""
    stars, plates = find_stars(read_parts(paths.join(target, "repeats")).to_pandas())
    stars_url = paths.join(target, "stars.parquet")
    for name, found in (("stars", stars), ("zero_points", plates)):
        data = found.to_parquet(index=False, row_group_size=ROW_GROUP_ROWS)
        paths.write_bytes(paths.join(target, f"{name}.parquet"), data)
    n, size = int(stars["star"].max()) + 1 if len(stars) else 0, config.run.spectra_per_block
    template = combine_block(read_spectra(source, 0, 0), stars.iloc[:0], table)
    made = paths.join(target, "spectra.zarr")
    create_spectra(made, template, n_spectrum=n, shard_rows=size, encoding=encoding(config))
    visits = -(-len(stars) // max(n, 1))
    return Stage(
        name="visits",
        url=target,
        blocks=plan_blocks(n, size),
        read=partial(_read_visits, source=source, stars_url=stars_url),
        compute=partial(_combine, table=table),
        write=partial(_write_stars, url=target),
        runs_on="dask",
        memory_bytes=2 * memory_bytes(size * visits, template.sizes["wavelength"]),
    )


def repeat_rows(
    scalars: xr.Dataset,
    star: npt.NDArray[Any],
    files: Sequence[str],
    table: VisitsTable,
    first: int,
) -> pd.DataFrame:
    """Say of each spectrum of a block whose it is, on which plate, and how fast.

    Parameters
    ----------
    scalars : xr.Dataset
        rv, rv_err, status.
    star : (n,) array
        Names or numbers of stars.
    files : sequence of str
        Names of files; none where no plate is asked for.
    table : VisitsTable
    first : int
        Row of the block's first spectrum.

    Returns
    -------
    pd.DataFrame
        row, name (of the star, hashed), plate ('': unknown), rv, rv_err, for rows with a spectrum.
    """
    rows = np.arange(first, first + len(star))
    pattern = re.compile(table.plate)
    found = [pattern.search(file) for file in files] if table.plate else [None] * len(star)
    made = pd.DataFrame(
        {
            "row": rows,
            "name": star_hash(star, rows),
            "plate": pd.array([m.group(1) if m else "" for m in found], dtype="str"),
            "rv": scalars["rv"].to_numpy(),
            "rv_err": scalars["rv_err"].to_numpy(),
        }
    )
    kept: pd.DataFrame = made[scalars["status"].to_numpy() & NO_SPECTRUM == 0]
    return kept


def find_stars(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give the stars numbers and find the plates' zero points.

    Parameters
    ----------
    rows : pd.DataFrame
        Of `repeat_rows`, all blocks.

    Returns
    -------
    stars : pd.DataFrame
        star (from 0, in the order in which they first appear), row, plate, zero_point and
        zero_point_err [km/s; 0 and infinite where nothing links the plate], ordered by star, row.
    plates : pd.DataFrame
        plate, n_spectra, zero_point, zero_point_err, group (of plates that repeats link).
    """
    number, _ = pd.factorize(rows["name"])
    code, names = pd.factorize(rows["plate"].where(rows["plate"] != ""))
    zero, error, group = plate_zero_points(
        rows["rv"].to_numpy(), rows["rv_err"].to_numpy(), number, code
    )
    count = np.bincount(code[code >= 0], minlength=len(names))
    plates = pd.DataFrame({"plate": np.asarray(names, str), "n_spectra": count})
    # A plate behind the last one with a velocity has none to speak of.
    plates["zero_point"], plates["zero_point_err"] = zero, error
    plates["group"] = group
    if (several := len(np.unique(group))) > 1:
        log.warning("zero points: %d groups of plates that no star links: compare only within",
                    several)  # fmt: skip
    known = code >= 0
    made = rows[["row", "plate"]].assign(star=number)
    made["zero_point"] = np.where(known, np.append(zero, 0)[code], 0)
    made["zero_point_err"] = np.where(known, np.append(error, np.inf)[code], np.inf)
    return made.sort_values(["star", "row"], kind="stable").reset_index(drop=True), plates


def combine_block(spectra: xr.Dataset, visits: pd.DataFrame, table: VisitsTable) -> xr.Dataset:
    """Average the spectra of each star, and what is known of them.

    Parameters
    ----------
    spectra : xr.Dataset
        Preprocessed, in the order of `visits`.
    visits : pd.DataFrame
        Rows of `find_stars`.
    table : VisitsTable

    Returns
    -------
    xr.Dataset
        A row per star: ``rv`` and ``rv_err`` of all its visits, ``rv_scatter`` between them,
        ``n_visits``; obsid, position and identifiers of the visit of highest S/N, ``mjd`` the mean.
    """
    star = visits["star"].to_numpy(np.int64)
    flux, ivar, mask = (spectra[name].to_numpy() for name in PIXELS)
    flux, ivar, mask, names = combine_visits(flux, ivar, mask, star, clip_sigma=table.clip_sigma)
    group = np.searchsorted(names, star)
    best = _best(group, spectra["snr"].to_numpy())
    pixelless = [n for n in spectra.data_vars if spectra[n].dims == ("spectrum",)]
    kept = spectra[[*pixelless]].isel(spectrum=best)
    status = np.full(len(names), 0xFFFFFFFF, np.uint32)
    np.bitwise_and.at(status, group, spectra["status"].to_numpy())
    empty = ~(ivar > 0).any(axis=1)
    status[empty] |= np.uint32(SpectrumStatus.NO_PIXELS)
    columns: dict[str, npt.NDArray[Any]] = {**_velocities(spectra, visits, group, len(names))}
    columns["mjd"] = _mean(spectra["mjd"].to_numpy(), group, len(names))
    columns |= {"snr": median_snr(flux, ivar), "status": status}
    values = {
        name: ("spectrum", value.astype(PER_SPECTRUM.get(name, (np.float32,))[0], copy=False))
        for name, value in columns.items()
    }
    values["n_visits"] = ("spectrum", np.bincount(group, minlength=len(names)).astype(np.int32))
    dims = ("spectrum", "wavelength")
    pixels = {n: (dims, v) for n, v in zip(PIXELS, (flux, ivar, mask), strict=True)}
    made = kept.assign(values | pixels).assign_coords(wavelength=spectra["wavelength"])
    known = all(name in spectra for name in NOISE_CORRELATION)
    return _correlated(made, spectra, group) if known else made


def _correlated(stars: xr.Dataset, spectra: xr.Dataset, group: npt.NDArray[np.int64]) -> xr.Dataset:
    """Return the stars with the mean correlation of their visits' noise, by weight."""
    weight = np.maximum(spectra["snr"].to_numpy().astype(np.float64), 1e-3) ** 2
    n = stars.sizes["spectrum"]
    total = np.bincount(group, weight, n)
    of_visits = correlation_of(spectra)
    means = [np.bincount(group, weight * column, n) / total for column in of_visits.T]
    return with_correlation(stars, np.stack(means, axis=1))


def _best(group: npt.NDArray[np.int64], snr: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the place of the visit of highest S/N of each star, the first of equals."""
    order = np.lexsort((-snr, group))
    return order[np.unique(group[order], return_index=True)[1]]


def _mean(values: Floats, group: npt.NDArray[np.int64], n: int) -> Floats:
    """Return the mean of what is known, NaN where nothing is."""
    known = np.isfinite(values)
    count = np.bincount(group[known], minlength=n)
    total = np.bincount(group[known], values[known], n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _velocities(
    spectra: xr.Dataset, visits: pd.DataFrame, group: npt.NDArray[np.int64], n: int
) -> dict[str, Floats]:
    """Return velocities of stars, their plates' zero points taken out, by weight."""
    error = np.hypot(
        spectra["rv_err"].to_numpy(),
        np.where(np.isfinite(visits["zero_point_err"]), visits["zero_point_err"], 0),
    )
    rv = spectra["rv"].to_numpy() - visits["zero_point"].to_numpy()
    known = np.isfinite(rv) & np.isfinite(error) & (error > 0)
    weight = np.where(known, 1 / np.where(known, error, 1) ** 2, 0)
    value, count = np.where(known, rv, 0), np.bincount(group, known, n)
    total = np.bincount(group, weight, n)
    some = np.where(total > 0, total, 1)
    mean = np.bincount(group, weight * value, n) / some
    square = np.bincount(group, weight * (value - mean[group]) ** 2, n) / some
    scatter = np.sqrt(square * count / np.maximum(count - 1, 1))
    # Without one error there is no weight: then as good a mean as there is.
    plain = _mean(rv.astype(np.float64), group, n)
    return {
        "rv": np.where(total > 0, mean, plain),
        "rv_err": np.where(total > 0, 1 / np.sqrt(some), np.nan),
        "rv_scatter": np.where(count > 1, scatter, 0),
    }


Repeats = tuple[xr.Dataset, npt.NDArray[Any], list[str], int]


def _read_repeats(block: Block, source: str, raw: str, star: str) -> Repeats:
    names = {"rv", "rv_err", "status", star}
    scalars = read_spectra(source, block.start, block.stop, names=names)
    index = read_index(raw, block) if raw else pd.DataFrame()
    files = list(index["file"]) if raw else [""] * block.size
    own = scalars[star].to_numpy() if star in scalars else index[star].fillna("").to_numpy(str)
    return scalars, own, files, block.start


def _repeats(_: None, read: Repeats, table: VisitsTable) -> pd.DataFrame:
    scalars, star, files, first = read
    return repeat_rows(scalars, star, files, table, first)


def _write_repeats(block: Block, rows: pd.DataFrame, url: str) -> BlockResult:
    table = pa.Table.from_pandas(rows, preserve_index=False)
    return write_part(url, block, table, counts={"repeats": len(rows)})


def _read_visits(block: Block, source: str, stars_url: str) -> tuple[xr.Dataset, pd.DataFrame]:
    visits = read_sorted_range(stars_url, "star", block.start, block.stop).to_pandas()
    return read_rows(source, visits["row"].to_numpy()), visits


def _combine(_: None, read: tuple[xr.Dataset, pd.DataFrame], table: VisitsTable) -> xr.Dataset:
    return combine_block(*read, table)


def _write_stars(block: Block, stars: xr.Dataset, url: str) -> BlockResult:
    return commit_spectra(url, block, stars, count=_counts)


def _counts(stars: xr.Dataset) -> dict[str, int]:
    counts = status_names(stars["status"].to_numpy(), SpectrumStatus)
    return counts | {"repeated": int((stars["n_visits"] > 1).sum())}
