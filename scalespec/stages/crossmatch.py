"""Positions, ids -> matches with label catalogs.

The label catalog is cut once into HEALPix cells, each with a margin around it; every block of
spectra then loads the cells it touches and no more. Where ids exist they come first; the sky is for
rows that no id joined.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from scalespec.config import CrossmatchTable, RunConfig
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.match import (
    Motion,
    Pairs,
    best_pairs,
    match_ids,
    match_sky,
    split_by_star,
)
from scalespec.kernels.sky import cells_with_margin, healpix_nested
from scalespec.kernels.where import columns_in, where
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.stages import folders
from scalespec.stages.gather import OWN_COLUMNS, gather
from scalespec.stages.ingest import read_index
from scalespec.store import paths
from scalespec.store.catalog import write_part
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import count_spectra, read_spectra
from scalespec.store.tables import read_table

CELL_ORDER = 3
"""768 cells, 7.3° wide: a survey field is in a few of them."""
OBSERVED = (2000.0, 2040.0)
"""Years in which spectra are taken: bounds how far a star may have moved from its catalog place."""
FRACTIONS = (0.8, 0.1, 0.1)
"""Stars for training, validation and test."""
POSITION = ("ra", "dec", "pmra", "pmdec")
RESERVED = OWN_COLUMNS | {"right", "id", *POSITION}
"""Names that no label may have."""


@dataclass(frozen=True)
class Spectra:
    """What is known of one block's spectra: a column per name, and their rows in the store."""

    rows: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Found:
    """Matches of one block before the labels are put beside them: left place, right record."""

    left: npt.NDArray[np.int64]
    pairs: Pairs
    right: pd.DataFrame
    by_id: bool


def read_catalog(table: CrossmatchTable) -> pd.DataFrame:
    """Read what a run takes of a label catalog, under our names; missing labels are NaN.

    Returns
    -------
    pd.DataFrame
        ``right`` (row of the catalog), ra, dec, pmra, pmdec, ``star`` (hash of the star's id),
        ``id`` if rows are joined by one, and every label column.

    Raises
    ------
    StoreError
        If the catalog cannot be read or lacks a column.
    ConfigError
        If a column holds several numbers a row.
    """
    position = {ours: getattr(table, ours) for ours in POSITION if getattr(table, ours)}
    key = next(iter(table.key.values()), "")
    wanted = {*position.values(), *table.columns.values(), *columns_in(table.where or "0")}
    wanted |= {name for name in (key, table.star_id) if name}
    source = read_table(table.catalog, sorted(wanted))
    if wide := [name for name, values in source.items() if values.ndim > 1]:
        raise ConfigError(f"{table.catalog}: {wide} hold several numbers a row: choose others")
    n = len(next(iter(source.values())))
    keep = where(table.where, source) if table.where else np.ones(n, bool)
    made: dict[str, Any] = {"right": np.arange(n)}
    made |= {ours: np.zeros(n) for ours in POSITION if ours not in position}
    taken = position | table.columns
    made |= {ours: _known(source[theirs], table.missing) for ours, theirs in taken.items()}
    made["star"] = star_hash(_star_ids(source[table.star_id]) if table.star_id else np.arange(n))
    if key:
        made["id"] = source[key]
    return pd.DataFrame(made)[keep].reset_index(drop=True)


def _known(values: npt.NDArray[Any], missing: tuple[float, ...]) -> npt.NDArray[Any]:
    """Return a label column with NaN for what the catalog means by "not known"."""
    if values.dtype.kind not in "iufb":
        return values
    number = values.astype(np.float64)
    # A catalog's float32 -9999.99 is not the float64 one: compare as loosely as float32 does.
    unknown = np.isclose(number[:, None], np.array(missing, float)[None, :], rtol=1e-6).any(axis=1)
    return np.where(unknown, np.nan, number)


def _star_ids(ids: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Return stars' ids as text; rows without one (-1, NaN, '') are stars of their own."""
    known = ids > 0 if ids.dtype.kind in "iuf" else ids != ""
    rows = np.strings.add("row ", np.arange(len(ids)).astype(str))
    return np.where(known, ids.astype(str), rows)


def star_hash(ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return a non-negative int64 per identifier, the same in any order and process.

    Examples
    --------
    >>> a, b, c = star_hash(np.array(["2M01", "2M02", "2M01"]))
    >>> bool(a == c != b)
    True
    """
    values, back = np.unique(np.asarray(ids).astype(str), return_inverse=True)
    digests = [hashlib.blake2b(v.encode(), digest_size=8).digest() for v in values]
    hashes = np.array([int.from_bytes(d, "big") >> 2 for d in digests], np.int64)
    return hashes[back]


def partition_catalog(table: CrossmatchTable) -> dict[str, bytes]:
    """Cut a label catalog into cells with margins; one Parquet file each.

    Returns
    -------
    dict
        ``cell-<n>.parquet``; ``all.parquet`` where rows are joined by id; ``none.parquet``, the
        catalog's columns without a row.
    """
    catalog = read_catalog(table)
    parts = {"none.parquet": catalog.iloc[:0].to_parquet(index=False)}
    if table.key:
        parts["all.parquet"] = catalog.to_parquet(index=False)
    if table.ra:
        years = max(abs(table.epoch - year) for year in OBSERVED)
        motion = np.hypot(*np.nan_to_num(catalog[["pmra", "pmdec"]].to_numpy()).T)
        margin = table.radius_arcsec + motion / 1000 * years
        rows, cells = cells_with_margin(catalog["ra"], catalog["dec"], CELL_ORDER, margin)
        for cell, part in catalog.iloc[rows].groupby(cells):
            parts[f"cell-{cell}.parquet"] = part.to_parquet(index=False)
    return parts


def match_block(spectra: Spectra, cells_url: str, table: CrossmatchTable) -> pd.DataFrame:
    """Find the best match of each spectrum: by id where one exists, else on the sky.

    Parameters
    ----------
    spectra : Spectra
        One block, with ra, dec [deg, ICRS], mjd, and the id columns of `table`.
    cells_url : str
        Folder of the catalog's cells.
    table : CrossmatchTable

    Returns
    -------
    pd.DataFrame
        One row per matched spectrum: row, obsid, star, separation_arcsec (NaN by id), rank,
        n_candidates, by_id, and the catalog's labels.
    """
    open_rows = np.arange(len(spectra.rows))
    parts = [no_matches(cells_url)]
    for ours in table.key:
        right = _cell(cells_url, "all.parquet")
        pairs = best_pairs(match_ids(spectra.columns[ours], right["id"].to_numpy()))
        parts.append(_matched(spectra, Found(pairs.left, pairs, right, by_id=True)))
        open_rows = np.setdiff1d(open_rows, pairs.left)
    if table.ra:
        parts += [_matched(spectra, one) for one in _on_sky(spectra, open_rows, cells_url, table)]
    return pd.concat(parts).sort_values("row").reset_index(drop=True)


def no_matches(cells_url: str) -> pd.DataFrame:
    """Return a table of matches with all its columns and no row: some blocks match nothing."""
    nobody = Spectra(np.zeros(0, np.int64), {"obsid": np.zeros(0, np.int64)})
    none = match_ids([], [])
    return _matched(nobody, Found(none.left, none, _cell(cells_url, "none.parquet"), by_id=False))


def _on_sky(
    spectra: Spectra, places: npt.NDArray[np.int64], cells_url: str, table: CrossmatchTable
) -> Iterator[Found]:
    """Match the spectra at `places`, cell by cell, at each one's epoch."""
    columns = {name: spectra.columns[name][places] for name in ("ra", "dec", "mjd")}
    cells = healpix_nested(columns["ra"], columns["dec"], CELL_ORDER)
    mjd = np.where(columns["mjd"] > 0, columns["mjd"], np.nan)  # undated: compared as listed
    epoch = 2000.0 + (mjd - 51544.5) / 365.25
    for cell in np.unique(cells[cells >= 0]):
        right = _cell(cells_url, f"cell-{cell}.parquet")
        if not len(right):
            continue
        here = np.flatnonzero(cells == cell)
        motion = Motion(
            right["pmra"].to_numpy(), right["pmdec"].to_numpy(), table.epoch, epoch[here]
        )
        pairs = match_sky(
            columns["ra"][here],
            columns["dec"][here],
            right["ra"].to_numpy(),
            right["dec"].to_numpy(),
            radius_arcsec=table.radius_arcsec,
            right_key=right["right"].to_numpy(),
            motion=motion,
        )
        best = best_pairs(pairs)
        yield Found(places[here[best.left]], best, right, by_id=False)


@lru_cache(maxsize=64)
def _cell(cells_url: str, name: str) -> pd.DataFrame:
    url = paths.join(cells_url, name)
    if not paths.exists(url):
        return pd.DataFrame()
    return pd.read_parquet(io.BytesIO(paths.read_bytes(url)))


def _matched(spectra: Spectra, found: Found) -> pd.DataFrame:
    pairs = found.pairs
    labels = found.right.iloc[pairs.right].reset_index(drop=True)
    beside = labels.drop(columns=["right", "ra", "dec", "pmra", "pmdec", "id"], errors="ignore")
    match = pd.DataFrame(
        {
            "row": spectra.rows[found.left],
            "obsid": spectra.columns["obsid"][found.left],
            "separation_arcsec": pairs.separation_arcsec.astype(np.float32),
            "rank": pairs.rank,
            "n_candidates": pairs.n_candidates,
            "by_id": found.by_id,
        }
    )
    return pd.concat([match, beside], axis=1)


def read_left(block: Block, raw_url: str, table: CrossmatchTable) -> Spectra:
    """Read what matching needs of one block of raw spectra: scalars, and strings if they join."""
    store = paths.join(raw_url, "spectra.zarr")
    names = ("obsid", "source_id", "ra", "dec", "mjd", "status")
    scalars = read_spectra(store, block.start, block.stop, names=names)
    columns = {name: scalars[name].to_numpy() for name in names}
    if set(table.key) - set(names):
        index = read_index(raw_url, block)
        columns |= {str(name): index[name].to_numpy() for name in index}
        # Catalogs name a spectrum by its file, without folder and compression.
        columns["name"] = np.array(
            [f.rpartition("/")[2].removesuffix(".gz") for f in index["file"]]
        )
    if lacking := sorted(set(table.key) - set(columns)):
        raise ConfigError(
            f"crossmatch key {lacking[0]!r} is no column of ours; there are {sorted(columns)}"
        )
    return Spectra(np.arange(block.start, block.stop), columns)


def crossmatch(config: RunConfig) -> Iterator[Stage]:
    """Per label catalog: cut it, match every block, and gather the matched spectra densely."""
    raw = folders.raw_url(config)
    for name, table in (config.crossmatch or {}).items():
        _check(name, table)
        url = folders.matches_url(config, name)
        cells = paths.join(url, "cells")
        yield Stage(
            name=f"{name} cells",
            url=cells,
            blocks=[Block("healpix", 0, 0, 12 * 4**CELL_ORDER)],
            read=_nothing,
            compute=partial(_partition, table=table),
            write=partial(_write_cells, url=cells),
            runs_on="dask",
        )
        if not (ledger := Ledger(cells)).done():  # matched with no cells, no star has a label
            why = ledger.failures().get(0)
            raise StageError(f"{name}: cannot cut the catalog: {why}; then run with --retry-failed")
        yield Stage(
            name=f"match {name}",
            url=url,
            blocks=_committed_blocks(config, raw),
            read=partial(read_left, raw_url=raw, table=table),
            compute=partial(_match, cells_url=cells, table=table),
            write=partial(_write_matches, url=url),
            runs_on="dask",
        )
        combine_matches(url, config.run.seed)
        if config.preprocess is not None:
            yield from gather(config, name)


def _check(name: str, table: CrossmatchTable) -> None:
    if taken := sorted(RESERVED & set(table.columns)):
        raise ConfigError(f"crossmatch.{name}.columns: {taken} are names of ours: choose others")
    if len(table.key) > 1:
        raise ConfigError(f"crossmatch.{name}.key: one id joins, got {sorted(table.key)}")


def _committed_blocks(config: RunConfig, url: str) -> list[Block]:
    n = count_spectra(paths.join(url, "spectra.zarr"))
    there = Ledger(url).done()
    return [b for b in plan_blocks(n, config.run.spectra_per_block) if b.index in there]


def combine_matches(url: str, seed: int) -> None:
    """Put the committed parts together, in block order, with the split of their stars."""
    parts = [no_matches(paths.join(url, "cells"))]
    for _, result in sorted(Ledger(url).commits().items()):
        key = next(iter(result.objects))
        parts.append(pd.read_parquet(io.BytesIO(paths.read_bytes(paths.join(url, key)))))
    matches = pd.concat(parts, ignore_index=True)
    matches["split"] = split_by_star(matches["star"].to_numpy(), fractions=FRACTIONS, seed=seed)
    paths.write_bytes(paths.join(url, "matches.parquet"), matches.to_parquet(index=False))


def _nothing(block: Block) -> None:
    """Nothing to read: the catalog is the stage's own business."""


def _partition(_: None, __: None, table: CrossmatchTable) -> dict[str, bytes]:
    return partition_catalog(table)


def _write_cells(block: Block, parts: dict[str, bytes], url: str) -> BlockResult:
    for name, data in parts.items():
        paths.write_bytes(paths.join(url, name), data)
    objects = {name: paths.sha256(data) for name, data in parts.items()}
    return Ledger(url).commit(block, BlockResult(block.size, objects, {"cells": len(parts)}))


def _match(_: None, spectra: Spectra, cells_url: str, table: CrossmatchTable) -> pd.DataFrame:
    return match_block(spectra, cells_url, table)


def _write_matches(block: Block, matches: pd.DataFrame, url: str) -> BlockResult:
    counts = {"matched": len(matches), "by_id": int(matches["by_id"].sum())}
    counts["unmatched"] = block.size - len(matches)
    return write_part(
        url, block, pa.Table.from_pandas(matches, preserve_index=False), counts=counts
    )
