"""Identifiers of stars and spectra as columns that join: int64 or text, in one spelling."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.where import as_text

_TWOMASS = re.compile(r"(?:2MASS\s*J?|2M|J)?(\d{8}[+-]\d{7})", re.IGNORECASE)


def inexact(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Say which numbers are floats so large that a whole number's last digits are lost: over 2^53.

    Examples
    --------
    >>> inexact([6917528997577384321.0, 5.0, np.nan]), inexact([6917528997577384321])
    (array([ True, False, False]), array([False]))
    """
    ids = np.asarray(values)
    if ids.dtype.kind != "f":
        return np.zeros(ids.shape, bool)
    largest = 2.0 ** (np.finfo(ids.dtype).nmant + 1)  # 2^53 of float64, 2^24 of float32
    return np.asarray(np.abs(ids) > largest)


def identifiers(values: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Read identifiers as int64 or str, and say which of them are ids at all.

    Raises
    ------
    ValueError
        If floats are not exact, or an integer is beyond int64.

    Examples
    --------
    >>> identifiers(np.array([5.0, np.nan]))
    (array([ 5, -1]), array([ True, False]))
    """
    ids = np.asarray(values)
    if ids.dtype.kind == "f":
        whole = np.isnan(ids) | ((ids == np.floor(ids)) & ~inexact(ids))
        if not whole.all():
            raise ValueError(
                f"{ids[~whole][0]} is no exact id: a floating-point column loses digits of numbers "
                "over 2^53; write it as 64-bit integers (FITS 'K') or as text"
            )
        ids = np.where(np.isnan(ids), -1, ids)
    if ids.dtype.kind in "fiu":
        if ids.size and ids.max() > np.iinfo(np.int64).max:
            raise ValueError(f"an id must fit in int64, got {ids.max()}")
        ids = ids.astype(np.int64)
        return ids, ids >= 0
    text = np.strings.strip(as_text(ids))
    return text, text != ""


def source_ids(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Read Gaia source ids, as numbers or as text; -1 for what is none (0, -9999, nothing).

    Raises
    ------
    ValueError
        If floats are not exact, or a text is no number.

    Examples
    --------
    >>> source_ids(["2851858288640", " ", "-9999"])
    array([2851858288640,            -1,            -1])
    """
    ids, there = identifiers(values)
    if ids.dtype.kind in "UO":
        numbers = np.full(ids.shape, -1, np.int64)
        for i in np.flatnonzero(there):
            try:
                numbers[i] = int(ids[i])
            except ValueError:
                raise ValueError(f"{str(ids[i])!r} is no Gaia source id") from None
        ids = numbers
    return np.where(ids > 0, ids, -1)


def twomass_ids(values: npt.ArrayLike) -> npt.NDArray[np.str_]:
    """Write 2MASS identifiers in one way, ``00003119+1516179``; '' for what is none of them.

    Parameters
    ----------
    values : (n,) str
        With or without a prefix ``2M``, ``J`` or ``2MASS J``.

    Examples
    --------
    >>> twomass_ids(["2M00003119+1516179", "2MASS J00003119+1516179", "AP00003119+1516179"])
    array(['00003119+1516179', '00003119+1516179', ''], dtype='<U16')
    """
    found = (_TWOMASS.fullmatch(text.strip()) for text in as_text(values).tolist())
    return np.array([match[1] if match else "" for match in found], dtype="U16")
