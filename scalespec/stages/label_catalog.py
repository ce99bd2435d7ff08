"""A label catalog's rows under our names and in our units: what a run file's mapping means."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scalespec.config import CrossmatchTable
from scalespec.errors import ConfigError
from scalespec.kernels.ids import identifiers, inexact, twomass_ids
from scalespec.kernels.match import splitmix64
from scalespec.kernels.where import columns_in, where
from scalespec.stages.label_units import POSITION, as_numbers, in_our_unit, unit_of
from scalespec.store.batches import Piece, iterate_piece

Array = npt.NDArray[Any]

FASTEST_MAS = 11_000.0
"""No star moves faster, in mas/yr (Barnard's: 10,393, Gaia DR3); what does is no motion."""
ID = "_id"
"""Columns whose names, ours, end so are identifiers: kept exactly, and no labels."""


def iterate_catalog(
    piece: Piece, table: CrossmatchTable, rows: int, numbers: frozenset[str] = frozenset()
) -> Iterator[pd.DataFrame]:
    """Read what a run takes of a piece of a label catalog, some rows at a time.

    Parameters
    ----------
    piece : Piece
    table : CrossmatchTable
    rows : int
        How many at a time.
    numbers : frozenset of str
        Labels, by our names, that must be numbers beside those whose names say it.

    Yields
    ------
    pd.DataFrame
        ``right`` (row of the catalog), ra, dec [deg], pmra, pmdec [mas/yr], epoch [Julian year],
        ``star`` (hash of the star's id), ``tie`` (what orders rows of equal distance), ``id`` if
        rows are joined by one, ``magnitude`` if it is looked at, and every label column; those
        named ``..._id`` are int64 (-1: none) or str ('': none).

    Raises
    ------
    StoreError
        If the catalog cannot be read or lacks a column.
    ConfigError
        If a column holds several numbers a row, text for numbers, ids that went through float64
        or, as a label, whole numbers that float64 would change; or a unit is none.
    """
    first = piece.first
    for source in iterate_piece(piece, columns_wanted(table), rows):
        yield catalog_rows(source, table, first, numbers)
        first += len(next(iter(source.values())))


def columns_wanted(table: CrossmatchTable) -> list[str]:
    """Return the columns of a catalog that its table names."""
    named = {getattr(table, ours) for ours in POSITION} | {table.star_id, *table.key.values()}
    named |= {table.magnitude.theirs} if table.magnitude else set()
    named |= {table.epoch} if isinstance(table.epoch, str) else set()
    named |= {*table.columns.values(), *columns_in(table.where or "0")}
    return sorted(named - {""})


def catalog_rows(
    source: dict[str, Array],
    table: CrossmatchTable,
    first: int,
    numbers: frozenset[str] = frozenset(),
) -> pd.DataFrame:
    """Put rows of a catalog that begin with row `first` under our names; see `iterate_catalog`."""
    if wide := [name for name, values in source.items() if values.ndim > 1]:
        raise ConfigError(f"{table.catalog}: {wide} hold several numbers a row: choose others")
    n = len(next(iter(source.values())))
    keep = where(table.where, source) if table.where else np.ones(n, bool)
    right = np.arange(first, first + n)
    made: dict[str, Any] = {"right": right} | {ours: np.zeros(n) for ours in POSITION}
    position = {ours: getattr(table, ours) for ours in POSITION if getattr(table, ours)}
    for ours, theirs in (position | table.columns).items():
        sexagesimal = ours in ("ra", "dec") and ours in table.units
        values = source[theirs]
        if ours.endswith(ID):
            made[ours] = _exact_ids(values, table, f"column {theirs!r}")
            continue
        if values.dtype.kind in "iu" and inexact(float(values.max(initial=0))):
            raise ConfigError(
                f"{table.catalog}: column {theirs!r} holds whole numbers over 2^53, as "
                f"{values.max()}, which labels, being float64, would change: call it "
                f"'{ours}{ID}' to keep it as it is"
            )
        if not sexagesimal and (unit_of(ours) or ours.endswith("_err") or ours in numbers):
            values = as_numbers(ours, theirs, values, keep, table.catalog)
        made[ours] = in_our_unit(ours, _known(values, table.missing), table)
    too_fast = np.hypot(np.nan_to_num(made["pmra"]), np.nan_to_num(made["pmdec"])) > FASTEST_MAS
    made |= {name: np.where(too_fast, np.nan, made[name]) for name in ("pmra", "pmdec")}
    made["epoch"] = np.full(n, np.nan if isinstance(table.epoch, str) else table.epoch)
    if isinstance(table.epoch, str):
        epoch = as_numbers("epoch", table.epoch, source[table.epoch], keep, table.catalog)
        made["epoch"] = _known(epoch, table.missing)
    stars = right
    if table.star_id:
        stars = _exact_ids(source[table.star_id], table, f"star_id {table.star_id!r}")
    made["star"] = star_hash(stars, right) if table.star_id else star_hash(right)
    for theirs in table.key.values():
        made["id"] = key_values(source[theirs], table)
    made["tie"] = stars if table.star_id else made.get("id", right)
    if table.magnitude:
        theirs = table.magnitude.theirs
        magnitude = as_numbers("magnitude", theirs, source[theirs], keep, table.catalog)
        made["magnitude"] = _known(magnitude, table.missing)
    return pd.DataFrame(made)[keep].reset_index(drop=True)


def key_values(values: Array, table: CrossmatchTable) -> Array:
    """Return identifiers that join, as int64 (-1: none) or str ('': none), in one spelling.

    Raises
    ------
    ConfigError
        If they cannot be told from each other: a Gaia id that went through float64.
    """
    if table.key_kind == "twomass":
        return twomass_ids(values)
    return _exact_ids(values, table, f"key {sorted(table.key.values())}")


def _exact_ids(values: Array, table: CrossmatchTable, what: str) -> Array:
    """Return identifiers as int64 (-1: none) or str ('': none), whatever a piece lacks."""
    if values.dtype.kind == "f":
        values = _known(values, table.missing)
    try:
        ids, there = identifiers(values)
    except ValueError as error:
        raise ConfigError(f"{table.catalog}: {what}: {error}") from error
    return np.where(there, ids, -1) if ids.dtype.kind == "i" else ids


def _known(values: Array, missing: tuple[float, ...]) -> Array:
    """Return a label column with NaN for what the catalog means by "not known"."""
    if values.dtype.kind not in "iufb":
        return values
    number = values.astype(np.float64)
    unknown = np.zeros(len(number), bool)
    for sentinel in missing:
        # A catalog's float32 -9999.99 is not the float64 one: compare as loosely as float32 does.
        unknown |= np.abs(number - sentinel) <= 1e-8 + 1e-6 * abs(sentinel)
    return np.where(unknown, np.nan, number)


def star_hash(ids: Array, row: Array | None = None) -> npt.NDArray[np.int64]:
    """Return a non-negative int64 per identifier, the same in any order and process.

    Parameters
    ----------
    ids : (n,) int or str
        Identifiers of stars, as `identifiers` reads them.
    row : (n,) int, optional
        Rows without an id (-1, 0, '') are stars of their own, told by these.

    Examples
    --------
    >>> a, b, c = star_hash(np.array(["2M01", "2M02", "2M01"]))
    >>> bool(a == c != b)
    True
    """
    if ids.dtype.kind in "iu":
        hashes = splitmix64(ids.astype(np.uint64))
        known = ids > 0
    else:
        known = ids != ""
        values, back = np.unique(ids.astype(str), return_inverse=True)
        digests = [hashlib.blake2b(v.encode(), digest_size=8).digest() for v in values.tolist()]
        hashes = np.array([int.from_bytes(d, "big") for d in digests], np.uint64)[back]
    if row is not None:
        hashes = np.where(known, hashes, splitmix64(~row.astype(np.uint64)))
    return (hashes >> np.uint64(2)).astype(np.int64)
