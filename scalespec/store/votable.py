"""An Arrow table as a VOTable 1.4 in its BINARY2 form, piece by piece.

VOTable 1.4, IVOA Recommendation 2019 (https://www.ivoa.net/documents/VOTable/20191021/), 5.4 and 6:
a row is a bit per column that says whether it is null, then the cells, big-endian.
"""

import binascii
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalespec.store.fits_table import ascii_text, fact

_TYPES = {
    "bool": ("boolean", "u1"),
    "uint8": ("unsignedByte", "u1"),
    "int16": ("short", ">i2"),
    "int32": ("int", ">i4"),
    "int64": ("long", ">i8"),
    "uint32": ("long", ">i8"),  # VOTable has no unsigned integers but bytes
    "uint64": ("long", ">i8"),
    "float": ("float", ">f4"),
    "double": ("double", ">f8"),
}
NO_UNIT = ("dex",)
"""Units that VOUnits does not know; they are said in the description."""
GROUP_BYTES = 3
"""Bytes that make four letters of base64."""


def _cell(field: pa.Field, widths: Mapping[str, int]) -> tuple[str, str, tuple[int, ...], str]:
    """Return datatype, NumPy type, shape of a cell and VOTable's arraysize."""
    if pa.types.is_string(field.type):
        width = max(widths.get(field.name, 1), 1)
        return "char", f"S{width}", (), str(width) if field.name in widths else "*"
    if pa.types.is_fixed_size_list(field.type):
        name, dtype = _TYPES[str(field.type.value_type)]
        return name, dtype, (field.type.list_size,), str(field.type.list_size)
    name, dtype = _TYPES[str(field.type)]
    return name, dtype, (), ""


def head(
    schema: pa.Schema,
    widths: Mapping[str, int],
    *,
    rows: int,
    notes: Mapping[str, Mapping[str, str]],
) -> bytes:
    """Return everything before the rows.

    Parameters
    ----------
    schema : pa.Schema
        Columns; field metadata ``unit``, ``ucd`` and ``description`` are said of each.
    widths : mapping
        Characters of each string column.
    rows : int
        Rows that will follow.
    notes : mapping
        Column -> code -> meaning, added to the column's description.
    """
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
        "<RESOURCE>",
        '<COOSYS ID="icrs" system="ICRS"/>',
        f'<TABLE name="catalog" nrows="{rows}">',
    ]
    lines += [_field(field, widths, notes.get(field.name, {})) for field in schema]
    return "\n".join([*lines, "<DATA><BINARY2>", '<STREAM encoding="base64">', ""]).encode()


def document(schema: pa.Schema) -> bytes:
    """Return a VOTable of columns alone, as Parquet files keep it in their metadata.

    VOParquet convention 1.0, IVOA Note 2025 (https://www.ivoa.net/documents/Notes/VOParquet/).
    """
    text = head(schema, {}, rows=0, notes={}).partition(b"<DATA>")[0].replace(b' nrows="0"', b"")
    return text + b"</TABLE>\n</RESOURCE>\n</VOTABLE>\n"


TAIL = b"</STREAM>\n</BINARY2></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n"


def _field(field: pa.Field, widths: Mapping[str, int], codes: Mapping[str, str]) -> str:
    datatype, _, _, size = _cell(field, widths)
    unit, about = fact(field, "unit"), ascii_text(fact(field, "description"))
    if unit in NO_UNIT:
        unit, about = "", f"{about} [{unit}]"
    if codes:
        about += ". " + "; ".join(f"{code}: {ascii_text(text)}" for code, text in codes.items())
    facts = {"name": field.name, "datatype": datatype, "arraysize": size, "unit": unit}
    facts |= {"ucd": fact(field, "ucd")}
    if fact(field, "ucd").startswith(("pos.eq.ra", "pos.eq.dec")):
        facts["ref"] = "icrs"
    said = " ".join(f"{key}={quoteattr(value)}" for key, value in facts.items() if value)
    return f"<FIELD {said}><DESCRIPTION>{escape(about)}</DESCRIPTION></FIELD>"


class RowStream:
    """Turns tables into base64; what does not fill four letters waits for the next rows."""

    def __init__(self, schema: pa.Schema, widths: Mapping[str, int]) -> None:
        self._schema, self._widths = schema, widths
        self._left = b""

    def encode(self, table: pa.Table) -> bytes:
        """Return the text of some rows."""
        data = self._left + row_bytes(table, self._schema, self._widths)
        whole = len(data) - len(data) % GROUP_BYTES
        self._left = data[whole:]
        return binascii.b2a_base64(data[:whole])

    def end(self) -> bytes:
        """Return the text of what is left."""
        return binascii.b2a_base64(self._left)


def row_bytes(table: pa.Table, schema: pa.Schema, widths: Mapping[str, int]) -> bytes:
    """Return rows as BINARY2 stores them.

    Examples
    --------
    >>> table = pa.table({"n": pa.array([1, None], pa.int16())})
    >>> row_bytes(table, table.schema, {}).hex(" ", 3)
    '000001 800000'
    """
    n_flag = -(-len(schema) // 8)
    layout: list[Any] = [("null flags", "u1", (n_flag,))]
    layout += [(field.name, *_cell(field, widths)[1:3]) for field in schema]
    rows = np.zeros(table.num_rows, np.dtype(layout))
    null = np.zeros((table.num_rows, 8 * n_flag), bool)
    for number, field in enumerate(schema):
        column = table[field.name].combine_chunks()
        null[:, number] = column.is_null().to_numpy(zero_copy_only=False)
        rows[field.name] = _values(column, field, null[:, number], rows[field.name])
    rows["null flags"] = np.packbits(null, axis=1)
    return rows.tobytes()


def _values(
    column: Any, field: pa.Field, null: npt.NDArray[np.bool_], blank: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    if pa.types.is_string(field.type):
        return np.array([ascii_text(text) for text in column.fill_null("").to_pylist()], np.bytes_)
    if pa.types.is_boolean(field.type):
        letters = column.fill_null(False).to_numpy(zero_copy_only=False)
        return np.where(null, ord("?"), np.where(letters, ord("T"), ord("F")))
    if pa.types.is_fixed_size_list(field.type):
        cells = blank.astype(blank.dtype.newbyteorder("="))
        if cells.dtype.kind == "f":
            cells[null] = np.nan
        known = column.drop_null().flatten().to_numpy(zero_copy_only=False)
        cells[~null] = known.reshape(-1, cells.shape[1])
        return cells
    if pa.types.is_floating(field.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    return np.asarray(values.astype(np.int64))


def stream(
    tables: Iterator[pa.Table], schema: pa.Schema, widths: Mapping[str, int]
) -> Iterator[bytes]:
    """Yield the text of all rows, a table's at a time, and the end of the file."""
    rows = RowStream(schema, widths)
    for table in tables:
        yield rows.encode(table)
    yield rows.end() + TAIL
