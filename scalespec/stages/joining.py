"""What is known of one block's spectra -> rows of the catalog."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr

from scalespec.errors import StageError
from scalespec.plan import Block
from scalespec.stages.columns import describe
from scalespec.stages.covariance import compact_covariance
from scalespec.stages.ucds import ucd

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

FACTS = ("unit", "description", "ucd")
NOT_PUBLISHED = {"row", "obsid", "star", "rank", "n_candidates", "by_id"}
"""Columns of a match table that are bookkeeping, or known already."""


@dataclass(frozen=True)
class Pieces:
    """What one block's rows are made of; every table but the matches has the block's rows.

    ``first`` is None where labels are a regressor's, which are the best there are; ``beside`` is
    what later stages know of the rows: calibrated labels, ages, ...
    """

    block: Block
    spectra: xr.Dataset
    index: pd.DataFrame
    first: pa.Table | None
    best: pa.Table
    matches: Mapping[str, pa.Table]
    beside: Mapping[str, pa.Table] = field(default_factory=dict)


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
    estimates = {"first": pieces.first} if pieces.first is not None else {}
    for name, table in (*estimates.items(), ("best", pieces.best), *pieces.beside.items()):
        if not np.array_equal(table["row"], rows) or not np.array_equal(table["obsid"], obsid):
            raise StageError(
                f"block {pieces.block.index}: '{name}' holds {table.num_rows} rows that are not "
                f"the store's {pieces.block.start}:{pieces.block.stop}: run {name} again"
            )
    best = {name: pieces.best[name] for name in pieces.best.column_names}
    first = {_first_name(n): t[n] for t in estimates.values() for n in t.column_names}
    kept = [n for n in STORE_COLUMNS if n in pieces.spectra]
    beside = pieces.beside.values()
    groups: list[Mapping[str, pa.Array]] = [
        {"row": pa.array(rows)},
        {STORE_COLUMNS[name]: pa.array(pieces.spectra[name].to_numpy()) for name in kept},
        {name: best[name] for name in best if name not in ("row", "obsid")},
        *({n: t[n] for n in t.column_names if n not in ("row", "obsid")} for t in beside),
        {name: first[name] for name in first if name not in ("row", "obsid")},
        {str(name): pa.array(values, from_pandas=True) for name, values in pieces.index.items()},
        *(_matched(name, table, rows) for name, table in pieces.matches.items()),
    ]
    return assembled(groups, tuple(pieces.matches))


def as_labels(inferred: pa.Table) -> pa.Table:
    """Return what a regressor inferred under the names that a fit's labels have.

    Examples
    --------
    >>> as_labels(pa.table({"row": [0], "first_teff": [5e3], "first_status": [0]})).column_names
    ['row', 'teff', 'fit_status']
    """
    names = [name.removeprefix("first_") for name in inferred.column_names]
    return inferred.rename_columns([n if n != "status" else "fit_status" for n in names])


def _first_name(name: str) -> str:
    return "first_model" if name == "model" else name


def assembled(groups: Sequence[Mapping[str, pa.Array]], catalogs: Sequence[str] = ()) -> pa.Table:
    """Put columns into one table as a catalog has it.

    Parameters
    ----------
    groups : sequence of mapping of str to (n,) array
        Columns by name, in order.
    catalogs : sequence of str
        Crossmatch tables that columns are named after.

    Returns
    -------
    pa.Table
        Missing floats are null, missing strings empty; fields carry unit, description and UCD.

    Raises
    ------
    StageError
        If two columns would have one name.

    Examples
    --------
    >>> table = assembled([{"teff": pa.array([5777.0, np.nan])}])
    >>> table.schema.field("teff").metadata[b"unit"], table["teff"].null_count
    (b'K', 1)
    """
    columns: dict[str, pa.Array] = {}
    for group in groups:
        if twice := sorted(set(group) & set(columns)):
            raise StageError(f"two columns would be called {twice}: rename the crossmatch table")
        columns |= group
    made = {name: _plain(values) for name, values in columns.items()}
    facts = {
        name: dict(zip(FACTS, (*describe(name, catalogs), ucd(name, catalogs)), strict=True))
        for name in made
    }
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


def without_covariance(joined: pa.Table, instead: str) -> pa.Table:
    """Return rows with correlations in 16 bits (``instead`` "compact") or nothing for covariances.

    `covariance.full_covariance` gives covariances back.
    """
    place = joined.column_names.index("label_cov")
    covariance = joined["label_cov"].combine_chunks()
    joined = joined.remove_column(place)
    if instead == "none":
        return joined
    length = covariance.type.list_size
    cells = np.full((len(covariance), length), np.nan, np.float32)
    known = covariance.is_valid().to_numpy(zero_copy_only=False)
    cells[known] = covariance.drop_null().flatten().to_numpy().reshape(-1, length)
    made = compact_covariance(cells)
    kind = pa.list_(pa.field("element", pa.int16()), made.shape[1])
    values = pa.FixedSizeListArray.from_arrays(made.ravel(), type=kind, mask=pa.array(~known))
    facts = dict(zip(FACTS, (*describe("label_corr"), ucd("label_corr")), strict=True))
    return joined.add_column(place, pa.field("label_corr", kind, metadata=facts), values)
