"""An Arrow table as the bytes of a FITS binary table, piece by piece."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

BLOCK_BYTES = 2880
"""FITS files are multiples of this (FITS standard 4.0, section 3.1)."""

_FORMATS = {
    "bool": ("L", "u1"),  # the letters T and F, or 0 for unknown
    "uint8": ("B", "u1"),
    "int16": ("I", ">i2"),
    "int32": ("J", ">i4"),
    "int64": ("K", ">i8"),
    "uint32": ("J", ">i4"),
    "uint64": ("K", ">i8"),
    "float": ("E", ">f4"),
    "double": ("D", ">f8"),
}
NULL_IN_LIST = -32768
"""Element of a list of integers where the whole list is unknown."""
_SPELLED = {"σ": "sigma", "χ²": "chi2", "Å": "Angstrom"}
_ZEROS = {"uint32": 1 << 31, "uint64": 1 << 63}  # FITS has signed integers, and TZERO


def string_width(column: pa.ChunkedArray) -> int:
    """Return the characters of the longest string of a column, as `ascii_text` spells it.

    Examples
    --------
    >>> string_width(pa.chunked_array([["a", "abc"]])), string_width(pa.chunked_array([["σ Ori"]]))
    (3, 9)
    """
    for letters, name in _SPELLED.items():
        column = pc.replace_substring(column, letters, name)
    return int(pc.max(pc.utf8_length(column)).as_py() or 0)


def _format(field: pa.Field, widths: Mapping[str, int]) -> tuple[str, str, tuple[int, ...]]:
    """Return TFORM, the NumPy type and the shape of a cell."""
    if pa.types.is_string(field.type):
        width = widths[field.name]
        return f"{width}A", f"S{width}", ()
    if pa.types.is_fixed_size_list(field.type):
        code, dtype = _FORMATS[str(field.type.value_type)]
        n = field.type.list_size
        return f"{n}{code}", dtype, (n,)
    code, dtype = _FORMATS[str(field.type)]
    return code, dtype, ()


def header_bytes(
    schema: pa.Schema,
    widths: Mapping[str, int],
    *,
    rows: int,
    notes: Mapping[str, Mapping[str, str]],
) -> bytes:
    """Return the primary HDU and the table's header.

    Parameters
    ----------
    schema : pa.Schema
        Columns; field metadata ``unit``, ``ucd`` and ``description`` become TUNIT, TUCD, the
        comment of TTYPE (as much as a card holds) and TCOMM (all of it).
    widths : mapping
        Characters of each string column.
    rows : int
        Rows that will follow.
    notes : mapping
        Column -> code -> meaning, written as COMMENT cards.
    """
    from astropy.io import fits

    columns = []
    for field in schema:
        form, _, _ = _format(field, widths)
        signed = pa.types.is_signed_integer(field.type)
        null = -1 if signed else None
        if pa.types.is_fixed_size_list(field.type) and pa.types.is_signed_integer(
            field.type.value_type
        ):
            null = NULL_IN_LIST
        columns.append(
            fits.Column(
                name=field.name,
                format=form,
                unit=fact(field, "unit") or None,
                bzero=_ZEROS.get(str(field.type)),
                null=null,
            )
        )
    header = fits.BinTableHDU.from_columns(columns, nrows=0, name="CATALOG").header
    header["NAXIS2"] = rows
    for number, field in enumerate(schema, start=1):
        about = ascii_text(fact(field, "description"))
        header.comments[f"TTYPE{number}"] = _shortened(about, 45 - max(len(field.name), 8))
        header.set(f"TCOMM{number}", about, after=f"TFORM{number}")
        if fact(field, "ucd"):
            header.set(f"TUCD{number}", fact(field, "ucd"), after=f"TCOMM{number}")
    for name, meanings in notes.items():
        for code, meaning in meanings.items():
            header.add_comment(ascii_text(f"{name} {code}: {meaning}"))
    text: str = fits.PrimaryHDU().header.tostring() + header.tostring()
    return text.encode("ascii")


def fact(field: pa.Field, key: str) -> str:
    """Return what a field's metadata says under a key; '' if nothing."""
    facts: dict[bytes, bytes] = field.metadata or {}
    return facts.get(key.encode(), b"").decode()


def ascii_text(text: str) -> str:
    """Return text as ASCII, the letters of our units spelled out, others as ``?``."""
    for letters, name in _SPELLED.items():
        text = text.replace(letters, name)
    return text.encode("ascii", "replace").decode()


def _shortened(text: str, width: int) -> str:
    """Cut `text` at a word so that it fits a card."""
    if len(text) <= width:
        return text
    return text[: width - 2].rpartition(" ")[0] + " .."


def row_bytes(table: pa.Table, widths: Mapping[str, int]) -> bytes:
    """Return the rows of `table` as FITS stores them: big-endian, NaN for a null float.

    Examples
    --------
    >>> row_bytes(pa.table({"n": pa.array([1, -1], pa.int16())}), {}).hex(" ", 2)
    '0001 ffff'
    """
    layout = [(field.name, *_format(field, widths)[1:]) for field in table.schema]
    rows = np.zeros(table.num_rows, np.dtype([(n, t, s) for n, t, s in layout]))
    for field in table.schema:
        rows[field.name] = _values(table[field.name], field, rows[field.name].shape)
    return rows.tobytes()


def _values(column: pa.ChunkedArray, field: pa.Field, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    kind = str(field.type)
    if pa.types.is_boolean(field.type):
        letters = {True: ord("T"), False: ord("F"), None: 0}
        return np.array([letters[value] for value in column.to_pylist()], np.uint8)
    if pa.types.is_string(field.type):
        texts = column.fill_null("").to_pylist()
        return np.array([ascii_text(text) for text in texts], np.bytes_)
    if pa.types.is_fixed_size_list(field.type):
        floating = pa.types.is_floating(field.type.value_type)
        cells = np.full(shape, np.nan if floating else NULL_IN_LIST, np.float64)
        known = column.drop_null().combine_chunks()
        cells[column.is_valid().to_numpy()] = known.flatten().to_numpy().reshape(-1, shape[1])
        return cells
    values: npt.NDArray[Any] = column.to_numpy()
    if kind in _ZEROS:  # TZERO is the sign bit: taking it off is turning it over
        sign = values.dtype.type(_ZEROS[kind])
        values = (values ^ sign).view(values.dtype.str.replace("u", "i"))
    return values
