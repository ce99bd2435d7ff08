"""FITS tables of many spectra: some rows of a column, by any of the names that it goes by."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.surveys.cards import made_id
from scalespec.surveys.fits import HDU

Table = Mapping[str, np.ndarray]


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
    """Return the first integer column of several names that is there; -1 for what is no id."""
    for name in names:
        column = table.get(name)
        if column is not None and column.ndim == 1 and column.dtype.kind in "iu":
            values = column[rows].astype(np.int64)
            return np.where(values > 0, values, -1)
    return np.full(rows.stop - rows.start, -1, np.int64)


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
