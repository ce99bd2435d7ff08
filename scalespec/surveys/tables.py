"""FITS tables of many spectra: some rows of a column, by any of the names that it goes by."""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.kernels.ids import inexact
from scalespec.surveys.cards import made_id
from scalespec.surveys.fits import HDU

log = logging.getLogger(__name__)

Table = Mapping[str, np.ndarray]
LOST = -2
"""An id of which digits are lost."""


def named(hdus: Sequence[HDU], *names: str) -> HDU:
    """Return the first HDU that has one of some names, in their order.

    Raises
    ------
    SurveyFileError
        With reason ``bad_layout``, if there is none.
    """
    by_name: dict[str, HDU] = {hdu.name.upper(): hdu for hdu in reversed(hdus)}
    for name in names:
        if name in by_name:
            return by_name[name]
    found = [hdu.name or f"HDU {i}" for i, hdu in enumerate(hdus)]
    raise SurveyFileError(f"no HDU {' or '.join(names)} in {found}", "bad_layout")


def table_of(hdu: HDU, *wanted: str) -> dict[str, np.ndarray]:
    """Return a table's columns by lower-case name.

    Raises
    ------
    SurveyFileError
        With reason ``bad_layout``, if it is no table or a wanted column is missing.
    """
    if not isinstance(hdu.data, dict):
        raise SurveyFileError(f"HDU '{hdu.name}' is no table", "bad_layout")
    columns = {name.lower(): column for name, column in hdu.data.items()}
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise SurveyFileError(f"no columns {missing} in HDU '{hdu.name}'", "bad_layout")
    return columns


def length(table: Table) -> int:
    """Return the rows of a table."""
    return min((len(column) for column in table.values()), default=0)


def check_range(first: int, count: int, n: int) -> slice:
    """Return planned rows of a container as a slice.

    Raises
    ------
    SurveyFileError
        With reason ``truncated``, if it does not have them.
    """
    if first + count > n:
        raise SurveyFileError(
            f"spectra {first}:{first + count} were planned, the file has {n}", "truncated"
        )
    return slice(first, first + count)


def numbers(
    table: Table, rows: slice, *names: str, missing: float = math.nan
) -> npt.NDArray[np.float64]:
    """Return the first column of several names that is there, float64; `missing` without one.

    Sentinels below -9990 and what is not finite become `missing`.
    """
    for name in names:
        column = table.get(name)
        if column is not None and column.ndim == 1 and column.dtype.kind in "fiu":
            values = column[rows].astype(np.float64)
            return np.where(np.isfinite(values) & (values > -9990), values, missing)
    return np.full(rows.stop - rows.start, missing)


def ids(table: Table, rows: slice, *names: str) -> npt.NDArray[np.int64]:
    """Return the first column of several names that is there, of numbers or digits.

    It is -1 for what is no id, and `LOST` for one that is a floating-point number over 2^53: of its
    last digits nobody knows any more.
    """
    for name in names:
        column = table.get(name)
        if column is not None and column.ndim == 1 and column.dtype.kind in "fiuS":
            return _whole(column[rows], name)
    return np.full(rows.stop - rows.start, -1, np.int64)


def _whole(values: np.ndarray, name: str) -> npt.NDArray[np.int64]:
    if values.dtype.kind == "S":
        digits = [text.strip() if text.strip().isdigit() else b"-1" for text in values.tolist()]
        whole = [int(text) for text in digits]
        return np.array([n if 0 < n < 2**63 else -1 for n in whole], np.int64)
    with np.errstate(invalid="ignore"):
        there = np.isfinite(values) & (values > 0) & (values == np.floor(values))
    lost = there & inexact(values)
    if lost.any():
        _warn_of_lost(name)
    found = np.where(there & ~lost, values, values.dtype.type(0)).astype(np.int64)
    return np.where(lost, LOST, np.where(found > 0, found, -1))


@lru_cache(maxsize=64)
def _warn_of_lost(name: str) -> None:
    """Say it once a process, not once a file."""
    log.warning(
        "column '%s' holds ids over 2^53 as floating-point numbers, whose last digits are lost: "
        "they count as unknown. Write the column as 64-bit integers (FITS 'K') or "
        "text, or let a release catalog say them ([ingest] source_id)",
        name,
    )


def filled_ids(
    given: npt.NDArray[np.int64], survey: str, name: str, first: int
) -> npt.NDArray[np.int64]:
    """Return ids, those that are -1 made of the file's name and the row, wherever the file lies."""
    filled = given.copy()
    for i in np.flatnonzero(given < 0):
        filled[i] = made_id(survey, PurePath(name).name, first + i)
    return filled


def texts(table: Table, rows: slice, *names: str) -> npt.NDArray[Any]:
    """Return the first text column of several names that is there, as str; "" without one."""
    for name in names:
        column = table.get(name)
        if column is not None and column.ndim == 1 and column.dtype.kind == "S":
            return np.array([text.decode("latin-1").strip() for text in column[rows]], object)
    return np.full(rows.stop - rows.start, "", object)


def places(ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return ra, dec [deg]; NaN both where they are no place on the sky."""
    with np.errstate(invalid="ignore"):
        known = (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)
    return {"ra": np.where(known, ra % 360, math.nan), "dec": np.where(known, dec, math.nan)}


def vectors(table: Table, name: str, rows: slice, n_pixel: int) -> np.ndarray:
    """Return some rows of a column of vectors.

    Raises
    ------
    SurveyFileError
        With reason ``bad_layout``, if it has another shape or holds no numbers.
    """
    column = table[name]
    if column.ndim != 2 or column.shape[1] != n_pixel or column.dtype.kind not in "fiu":
        raise SurveyFileError(
            f"column '{name}' is {column.dtype}{column.shape}, wanted (n, {n_pixel})", "bad_layout"
        )
    return column[rows]
