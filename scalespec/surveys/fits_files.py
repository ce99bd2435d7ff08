"""FITS files, written: headers, images and tables as bytes, for the writers of made-up surveys.

Fast because simple: no scaling, no heap, no long strings. Same input, same bytes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

Value = bool | int | float | str
Card = tuple[str, Value, str] | tuple[str]
"""Keyword, value and comment; or one line to write as it is."""

BLOCK = 2880  # bytes, FITS Standard 4.0, section 3.1
_BITPIX = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}
_FORMATS = {"b1": "L", "u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D"}
_LONGEST = 68  # characters of a string in one card


def header(cards: Sequence[Card]) -> bytes:
    """Return a header of these cards and END, filled up to whole blocks.

    Raises
    ------
    ValueError
        If a number is not finite or a string does not fit its card.

    Examples
    --------
    >>> header([("SIMPLE", True, ""), ("RA", 10.5, "[deg]")])[80:160].decode().rstrip()
    'RA      =                 10.5 / [deg]'
    """
    lines = [card[0] if len(card) == 1 else _line(*card) for card in cards]
    text = "".join(line[:80].ljust(80) for line in [*lines, "END"])
    return padded(text.encode("ascii"), b" ")


def _line(key: str, value: Value, comment: str) -> str:
    if isinstance(value, bool | np.bool_):
        shown = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        quoted = value.replace("'", "''")
        if len(quoted) > _LONGEST:
            raise ValueError(f"{key} = {value!r} is longer than {_LONGEST} characters")
        shown = f"'{quoted:<8}'".ljust(20)
    elif isinstance(value, int | np.integer):
        shown = f"{int(value):>20}"
    elif np.isfinite(value):
        shown = f"{float(value)!r:>20}".upper()
    else:
        raise ValueError(f"{key} = {value}: FITS headers have no such number")
    return f"{key:<8}= {shown}" + (f" / {comment}" if comment else "")


def padded(data: bytes, filler: bytes = b"\0") -> bytes:
    """Return data filled up to whole blocks."""
    return data + filler * (-len(data) % BLOCK)


def primary(cards: Sequence[Card]) -> bytes:
    """Return a primary HDU without data."""
    fixed: list[Card] = [
        ("SIMPLE", True, "conforms to FITS standard"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 0, "number of array dimensions"),
        ("EXTEND", True, ""),
    ]
    return header([*fixed, *cards])


def image(array: npt.NDArray[np.generic] | None, cards: Sequence[Card]) -> bytes:
    """Return an image extension; None for one without data."""
    shape = () if array is None else array.shape
    kind = "u1" if array is None else array.dtype.str[1:]
    axes: list[Card] = [(f"NAXIS{i}", size, "") for i, size in enumerate(reversed(shape), start=1)]
    fixed: list[Card] = [
        ("XTENSION", "IMAGE", "Image extension"),
        ("BITPIX", _BITPIX[kind], "array data type"),
        ("NAXIS", len(shape), "number of array dimensions"),
        *axes,
        ("PCOUNT", 0, "number of parameters"),
        ("GCOUNT", 1, "number of groups"),
    ]
    data = b"" if array is None else array.astype(array.dtype.newbyteorder(">")).tobytes()
    return header([*fixed, *cards]) + padded(data)


def table(
    columns: Mapping[str, npt.NDArray[np.generic]],
    cards: Sequence[Card],
    *,
    units: Mapping[str, str] | None = None,
    dims: bool = False,
) -> bytes:
    """Return a binary table.

    Parameters
    ----------
    columns : mapping of str to (n_row, ...) array
        Of one length; bool, integers, floats, or bytes of fixed width.
    cards : sequence of Card
        Beyond what a table needs.
    units : mapping of str to str, optional
        By column.
    dims : bool
        Whether vectors state their shape, as astropy's tables do.

    Raises
    ------
    ValueError
        If columns differ in length.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns differ in length: {lengths}")
    rows = next(iter(lengths.values()))
    kinds = {name: _cell(column) for name, column in columns.items()}
    record = np.zeros(rows, np.dtype([(name, *kinds[name][1:]) for name in columns]))
    described: list[Card] = []
    for i, (name, column) in enumerate(columns.items(), start=1):
        record[name] = np.where(column, ord("T"), ord("F")) if column.dtype.kind == "b" else column
        described.append((f"TTYPE{i}", name, ""))
        described.append((f"TFORM{i}", kinds[name][0], ""))
        if dims and column.ndim > 1:
            described.append((f"TDIM{i}", f"({','.join(map(str, column.shape[:0:-1]))})", ""))
        if units and name in units:
            described.append((f"TUNIT{i}", units[name], ""))
    fixed: list[Card] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", record.dtype.itemsize, "length of dimension 1"),
        ("NAXIS2", rows, "length of dimension 2"),
        ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", len(columns), "number of table fields"),
    ]
    return header([*fixed, *cards, *described]) + padded(record.tobytes())


def _cell(column: npt.NDArray[np.generic]) -> tuple[str, str, tuple[int, ...]]:
    """Return a column's TFORM, and what one row of it is to NumPy."""
    shape = column.shape[1:]
    if column.dtype.kind == "S":
        return f"{column.dtype.itemsize}A", column.dtype.str, shape
    code = column.dtype.str[1:]
    count = int(np.prod(shape, dtype=np.int64))
    repeat = "" if not shape else str(count)
    stored = "u1" if code == "b1" else f">{code}"
    return f"{repeat}{_FORMATS[code]}", stored, shape


def gzipped(data: bytes) -> bytes:
    """Return a gzip stream of level 1, whose time stamp is 0."""
    return bytes(isal_zlib.compress(data, 1, wbits=31))
