"""Labels + matches -> one catalog: a row for every planned spectrum, whatever became of it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr

from scalespec.config import RunConfig
from scalespec.errors import ConfigError, StageError
from scalespec.optimize.result import FitStatus
from scalespec.plan import Block, BlockResult, Stage
from scalespec.schema import status_names
from scalespec.stages import folders
from scalespec.stages.columns import NOTES, describe, label_names
from scalespec.stages.ingest import read_index
from scalespec.store import paths
from scalespec.store.catalog import (
    read_part,
    read_row_range,
    read_schema,
    write_catalog,
    write_part,
)
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import read_spectra

log = logging.getLogger(__name__)

STORE_COLUMNS = {
    "obsid": "obsid",
    "source_id": "source_id",
    "ra": "ra",
    "dec": "dec",
    "mjd": "mjd",
    "snr": "snr",
    "status": "spectrum_status",
    "rv": "survey_rv",
    "rv_err": "survey_rv_err",
    "rv_shift": "rv_shift",
    "continuum_median": "continuum_median",
}
"""Per-spectrum variables of the store, and what the catalog calls them."""

FACTS = ("unit", "description")
NOT_PUBLISHED = {"row", "obsid", "star", "rank", "n_candidates", "by_id"}
"""Columns of a match table that are bookkeeping, or known already."""


@dataclass(frozen=True)
class Sources:
    """Folders that a catalog is made of."""

    raw: str
    spectra: str
    first: str
    best: str
    matches: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pieces:
    """What one block's rows are made of; every table but the matches has the block's rows."""

    block: Block
    spectra: xr.Dataset
    index: pd.DataFrame
    first: pa.Table
    best: pa.Table
    matches: Mapping[str, pa.Table]


def join_block(pieces: Pieces) -> pa.Table:
    """Put what is known of each spectrum of a block into one row.

    Returns
    -------
    pa.Table
        One row per spectrum of the block, in store order. Missing floats are null, missing
        integers -1, missing strings empty; fields carry unit and description.

    Raises
    ------
    StageError
        If a table has other rows than the block, or two columns would have one name.
    """
    rows = np.arange(pieces.block.start, pieces.block.stop, dtype=np.int64)
    obsid = pieces.spectra["obsid"].to_numpy()
    for name, table in (("first", pieces.first), ("best", pieces.best)):
        if not np.array_equal(table["row"], rows) or not np.array_equal(table["obsid"], obsid):
            raise StageError(
                f"block {pieces.block.index}: '{name}' holds {table.num_rows} rows that are not "
                f"the store's {pieces.block.start}:{pieces.block.stop}: run {name} again"
            )
    best = {name: pieces.best[name] for name in pieces.best.column_names}
    first = {_first_name(name): pieces.first[name] for name in pieces.first.column_names}
    kept = [n for n in STORE_COLUMNS if n in pieces.spectra]
    groups: list[Mapping[str, pa.Array]] = [
        {"row": pa.array(rows)},
        {STORE_COLUMNS[name]: pa.array(pieces.spectra[name].to_numpy()) for name in kept},
        {name: best[name] for name in best if name not in ("row", "obsid")},
        {name: first[name] for name in first if name not in ("row", "obsid")},
        {str(name): pa.array(values, from_pandas=True) for name, values in pieces.index.items()},
        *(_matched(name, table, rows) for name, table in pieces.matches.items()),
    ]
    return _assembled(groups, tuple(pieces.matches))


def _first_name(name: str) -> str:
    return "first_model" if name == "model" else name


def _assembled(groups: Sequence[Mapping[str, pa.Array]], catalogs: Sequence[str]) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for group in groups:
        if twice := sorted(set(group) & set(columns)):
            raise StageError(f"two columns would be called {twice}: rename the crossmatch table")
        columns |= group
    made = {name: _plain(values) for name, values in columns.items()}
    facts = {name: dict(zip(FACTS, describe(name, catalogs), strict=True)) for name in made}
    fields = [pa.field(name, v.type, metadata=facts[name]) for name, v in made.items()]
    return pa.table(list(made.values()), schema=pa.schema(fields))


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column in the one way the catalog says a kind of value."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    kind = values.type
    if pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.fill_null(values.cast(pa.string()), "")
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _fixed_lists(values)
    return values


def _fixed_lists(values: pa.Array) -> pa.Array:
    """Return lists of one length as fixed-size lists; null where the first element is NaN."""
    cells = np.stack(values.to_numpy(zero_copy_only=False)).astype(np.float32)
    unknown = pa.array(np.isnan(cells[:, 0]))
    kind = pa.list_(pa.field("element", pa.float32()), cells.shape[1])  # named as Parquet does
    return pa.FixedSizeListArray.from_arrays(cells.ravel(), type=kind, mask=unknown)


def _matched(name: str, table: pa.Table, rows: np.ndarray) -> dict[str, pa.Array]:
    """Return a match table's columns on the block's rows: a left join by row."""
    position = table["row"].to_numpy() - (rows[0] if len(rows) else 0)
    place = np.full(len(rows), -1)
    place[position] = np.arange(table.num_rows)
    taken = table.take(pa.array(place, mask=place < 0))
    return {
        f"{name}_{column}": _left(taken[column])
        for column in table.column_names
        if column not in NOT_PUBLISHED
    }


def _left(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Say -1 where an integer has no match; small unsigned ones are widened to have room for it."""
    if not pa.types.is_integer(values.type):
        return values
    kind = pa.int16() if pa.types.is_uint8(values.type) else pa.int64()
    return pc.fill_null(values.cast(kind), -1)


def select_columns(wanted: Sequence[str], names: Sequence[str]) -> list[str] | None:
    """Return the columns that ``[publish] columns`` means, in its order; None: all of them.

    ``labels`` stands for every label and its error, ``status`` for all status columns.

    Raises
    ------
    ConfigError
        If it names a column that the catalog does not have.
    """
    if not wanted:
        return None
    labels = [name for name in label_names(names) if f"first_{name}" in names]
    groups = {
        "labels": [n for label in labels for n in (label, f"{label}_err")],
        "status": ["spectrum_status", "first_status", "fit_status"],
    }
    chosen = [name for want in wanted for name in groups.get(want, [want])]
    if unknown := sorted(set(chosen) - set(names)):
        raise ConfigError(
            f"publish.columns: the catalog has no {unknown}; it has {sorted(names)} "
            "and the groups 'labels' and 'status'"
        )
    return list(dict.fromkeys(chosen))


def catalog_sources(config: RunConfig) -> Sources:
    """Return the folders that the run's catalog is made of."""
    return Sources(
        raw=folders.raw_url(config),
        spectra=folders.spectra_url(config),
        first=folders.first_url(config),
        best=folders.best_url(config),
        matches={name: folders.matches_url(config, name) for name in config.crossmatch or {}},
    )


def publish(config: RunConfig) -> Iterator[Stage]:
    """Yield the stage that joins every block's tables, then write the catalog.

    Raises
    ------
    StageError
        If a block is neither fitted nor known to have failed, matches are missing, or the
        catalog's rows are not the planned ones.
    """
    url = folders.catalog_url(config)
    sources = catalog_sources(config)
    blocks = folders.planned_blocks(config)
    here = _publishable(sources, blocks)
    yield Stage(
        name="publish",
        url=url,
        blocks=here,
        read=partial(read_pieces, sources=sources),
        compute=_compute,
        write=partial(write_joined, url=url),
        runs_on="dask",
    )
    combine(config, url, blocks, here)


def _publishable(sources: Sources, blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that were fitted; every other one must have failed somewhere upstream."""
    fitted = Ledger(sources.best).done()
    upstream = (sources.raw, sources.spectra, sources.first, sources.best)
    failed = {index for folder in upstream for index in Ledger(folder).failures()}
    if open_ends := [b.index for b in blocks if b.index not in fitted | failed]:
        raise StageError(f"blocks {open_ends} are not fitted yet: run fit first")
    return [block for block in blocks if block.index in fitted]


def read_pieces(block: Block, sources: Sources) -> Pieces:
    """Read what one block's rows are made of."""
    store = paths.join(sources.spectra, "spectra.zarr")
    return Pieces(
        block=block,
        spectra=read_spectra(store, block.start, block.stop, names=STORE_COLUMNS),
        index=read_index(sources.raw, block),
        first=read_part(sources.first, block),
        best=read_part(sources.best, block),
        matches={
            name: read_row_range(paths.join(folder, "matches.parquet"), block)
            for name, folder in sources.matches.items()
        },
    )


def _compute(_: None, pieces: Pieces) -> pa.Table:
    return join_block(pieces)


def write_joined(block: Block, table: pa.Table, url: str) -> BlockResult:
    """Store one block of the catalog, then commit it."""
    counts = status_names(table["fit_status"].to_numpy(), FitStatus)
    return write_part(url, block, table, counts=counts)


def combine(config: RunConfig, url: str, blocks: Sequence[Block], here: Sequence[Block]) -> None:
    """Write the catalog from the committed blocks, unless the run was stopped before its end.

    Parameters
    ----------
    config : RunConfig
    url : str
        The catalog's folder.
    blocks, here : sequence of Block
        All blocks of the plan, and those that could be published.

    Raises
    ------
    StageError
        If nothing was fitted, or a block does not hold every planned spectrum once.
    """
    ledger = Ledger(url)
    commits = ledger.commits()
    ended = commits.keys() | ledger.failures().keys()
    if any(block.index not in ended for block in here):
        log.info("%s: stopped before the last block; no catalog yet", url)
        return
    if not commits:
        raise StageError(f"{url}: nothing to publish: no block was fitted")
    for block in here:
        if block.index in commits and commits[block.index].rows != block.size:
            rows = commits[block.index].rows
            raise StageError(f"{url}: block {block.index}: {rows} rows, planned {block.size}")
    table = config.publish
    names = read_schema(url).names
    columns = select_columns(table.columns if table else (), names)
    write_catalog(url, blocks=blocks, columns=columns, notes=NOTES)
