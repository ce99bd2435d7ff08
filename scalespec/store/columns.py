"""A column of a table, as Arrow, FITS or VOTable has it -> NumPy.

Numbers are in native byte order. Floats have NaN for what is missing, strings ''; an integer column
with missing values becomes float64, or int64 with -1 where float64 would not hold it exactly.
Names come with the units that the file says, spelled as it spells them.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[Any]

_VOPARQUET = b"IVOA.VOTable-Parquet.content"
"""Where a Parquet file keeps a VOTable of its columns (IVOA Note VOParquet 1.0, 2025)."""
_LARGEST_EXACT = 2**53  # whole numbers up to here survive float64


def arrow_column(column: pa.ChunkedArray) -> Array | None:
    """One Arrow column as NumPy; None if it is of a type that no label comes in."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif pa.types.is_null(kind) or pa.types.is_decimal(kind):
        column = _undecimal(column)
    elif pa.types.is_boolean(kind):
        column = column.fill_null(False)
    kind = column.type
    if pa.types.is_integer(kind):
        return _with_missing(column.fill_null(0).to_numpy(), column.is_null().to_numpy())
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_temporal(kind):
        return _text(column.cast(pa.string()).fill_null("").to_numpy())
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return _matrix(column)
    return None


def fits_column(hdu: Any, name: str, part: slice = slice(None)) -> Array | None:
    """Return rows of a column of a FITS table; None if no label comes in its type."""
    description = hdu.columns[name]
    if any(letter in description.format for letter in "PQCMX"):  # ragged, complex, bits
        return None
    values = np.asarray(hdu.data[part][name])
    if values.dtype.kind in "SU":
        return _text(values)
    values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind in "iu" and description.null is not None:
        values = _with_missing(values, values == description.null)
    return values if values.ndim < 3 else values.reshape(len(values), -1)


def votable_column(column: Any) -> Array | None:
    """Return a column of a VOTable as astropy has it; None if no label comes in its type."""
    values = np.asarray(getattr(column, "data", column))
    missing = np.broadcast_to(getattr(column, "mask", False), column.shape)
    if values.dtype.kind in "SUO":
        whole = all(isinstance(value, str | bytes) for value in values.flat)
        return _text(np.where(missing, "", values.astype(np.str_))) if whole else None
    values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind in "iu" and values.ndim == 1:
        return _with_missing(values, missing)
    if values.dtype.kind == "f":
        return np.where(missing, values.dtype.type(np.nan), values)
    return values if values.dtype.kind in "iub" else None


def arrow_units(schema: pa.Schema) -> dict[str, str]:
    """Return the names of a Parquet file's columns, and the unit of each, "" if it says none.

    Examples
    --------
    >>> ra = pa.field("ra", pa.float64(), metadata={"unit": "rad"})
    >>> arrow_units(pa.schema([ra, pa.field("id", pa.int64())]))
    {'ra': 'rad', 'id': ''}
    """
    described = votable_units((schema.metadata or {}).get(_VOPARQUET, b""))
    said = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in schema}
    return {name: unit or described.get(name, "") for name, unit in said.items()}


def fits_units(hdu: Any) -> dict[str, str]:
    """Return the names of a FITS table's columns, and the unit (TUNIT) of each."""
    return {column.name: (column.unit or "").strip() for column in hdu.columns}


def votable_units(source: Any) -> dict[str, str]:
    """Return the names of the columns of a VOTable's first table, and the unit of each.

    Parameters
    ----------
    source : bytes or binary stream
        Read as far as its data.

    Raises
    ------
    ValueError
        If it is not XML.

    Examples
    --------
    >>> fields = '<FIELD name="teff" unit="K"/><FIELD name="star"/><DATA/>'
    >>> votable_units(f"<VOTABLE><RESOURCE><TABLE>{fields}</TABLE></RESOURCE></VOTABLE>".encode())
    {'teff': 'K', 'star': ''}
    """
    from astropy.utils.xml.iterparser import get_xml_iterator

    found: dict[str, str] = {}
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    if source == b"":
        return found
    with get_xml_iterator(stream) as parts:
        for starts, tag, facts, _ in parts:
            if starts and tag == "FIELD":
                found[facts.get("name", facts.get("ID", ""))] = facts.get("unit", "").strip()
            if tag == "DATA" or (tag == "TABLE" and not starts):
                break
    return found


def _undecimal(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return decimals as int64 if they have no fraction, as a database's ids, else as float64."""
    if pa.types.is_decimal(column.type) and column.type.scale == 0:
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:  # beyond int64
            pass
    return column.cast(pa.float64())


def _with_missing(values: Array, missing: npt.NDArray[np.bool_]) -> Array:
    """Mark what is missing in an integer column: NaN where float64 holds the others, else -1."""
    if not missing.any():
        return values
    known = values[~missing]
    if known.size and max(abs(int(known.min())), abs(int(known.max()))) > _LARGEST_EXACT:
        return np.where(missing, -1, values.astype(np.int64))
    return np.where(missing, np.nan, values.astype(np.float64))


def _text(values: Array) -> Array:
    return np.strings.strip(values.astype(np.str_))


def _matrix(column: pa.ChunkedArray) -> Array | None:
    known = column.is_valid().to_numpy()
    widths = np.unique(pc.list_value_length(column).drop_null().to_numpy())
    values = arrow_column(pc.list_flatten(column))
    if len(widths) != 1 or values is None or (values.dtype.kind == "U" and not known.all()):
        return None
    rows = values.reshape(-1, int(widths[0]))
    if known.all():
        return rows
    matrix = np.full((len(known), rows.shape[1]), np.nan)
    matrix[known] = rows
    return matrix
