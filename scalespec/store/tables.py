"""Catalogs of other people, in Parquet, CSV or FITS, as plain NumPy columns; and ours for them."""

import difflib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from isal import igzip, isal_zlib

from scalespec.errors import StoreError
from scalespec.store import fits_table, paths

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Choice = Callable[[Sequence[str]], list[str]]
"""From the names a file has to the names to read."""

_LARGEST_EXACT = 2**53  # whole numbers up to here survive float64
_LARGEST_CSV_BLOCK = 2**31 - 1  # bytes; Arrow counts them in int32
_DELIMITERS = (",", "|", "\t", ";")


def read_table(url: str, columns: Sequence[str] | None = None) -> dict[str, Array]:
    """Read a label or release catalog; its content, not its name, says which format it is.

    Parquet, CSV (separated by ``,``, ``|``, tab or ``;``, with a header line) and the first table
    of a FITS file, each also inside gzip.

    Parameters
    ----------
    url : str
        Local path or object.
    columns : sequence of str, optional
        Columns wanted, spelled as in the file; all that can be read by default.

    Returns
    -------
    dict of str to (n,) or (n, k) array
        In the file's order, or as asked. Numbers in native byte order: floats keep their type and
        have NaN for what is missing; an integer column with missing values becomes float64, or,
        where float64 would not hold it exactly (an id), int64 with -1. Strings are str, stripped,
        '' where missing; dates are ISO strings. Vector cells are rows of a matrix.

    Raises
    ------
    StoreError
        If the file is missing, damaged or of another format, or has no such column; it then names
        the closest.
    """

    def choose(names: Sequence[str]) -> list[str]:
        return list(names) if columns is None else _chosen(names, columns)

    with _explained(url):
        source: Path | bytes = (
            paths.read_bytes(url) if paths.is_remote(url) else paths.local_path(url)
        )
        read = _read_parquet
        head = _head(source)
        if head.startswith(b"\x1f\x8b"):
            source = igzip.decompress(source if isinstance(source, bytes) else source.read_bytes())
            head = _head(source)
        if head.startswith(b"SIMPLE  ="):
            read = _read_fits
        elif not head.startswith(b"PAR1"):
            read = _read_csv
        found = read(source, choose)
    unread = [name for name, values in found.items() if values is None]
    if unread and columns is not None:
        raise StoreError(f"{url}: cannot read columns of this type: {', '.join(unread)}")
    if unread:
        log.info("%s: left out columns of types not read: %s", url, ", ".join(unread))
    return {name: values for name, values in found.items() if values is not None}


def write_table(
    url: str,
    columns: Mapping[str, npt.ArrayLike],
    *,
    units: Mapping[str, str] | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> str:
    """Write a table as Parquet or, where the name says ``.fits``, FITS; same columns, same bytes.

    Parameters
    ----------
    url : str
        Where, ending in ``.parquet`` or ``.fits``.
    columns : mapping of str to (n,) or (n, k) array
        Numbers, bools or str.
    units, descriptions : mapping of str to str, optional
        What a column's numbers are in, and mean.

    Returns
    -------
    str
        SHA-256 of the bytes.

    Raises
    ------
    StoreError
        If the name ends otherwise, or it cannot be written.
    """
    facts = {"unit": units or {}, "description": descriptions or {}}
    arrays = {name: _arrow(np.asarray(values)) for name, values in columns.items()}
    schema = pa.schema([
        pa.field(
            name, array.type, metadata={key: known.get(name, "") for key, known in facts.items()}
        )
        for name, array in arrays.items()
    ])  # fmt: skip
    table = pa.Table.from_arrays(list(arrays.values()), schema=schema)
    if url.endswith(".parquet"):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue()
    elif url.endswith(".fits"):
        data = _fits_bytes(table)
    else:
        raise StoreError(f"{url}: a table is written as .parquet or .fits")
    paths.write_bytes(url, data)
    return paths.sha256(data)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Say which file it was."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{url}: not found") from error
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub says instance, not class
        raise StoreError(f"{url}: broken gzip stream: {error}") from error
    except (OSError, EOFError, ValueError, TypeError, LookupError, pa.ArrowException) as error:
        text = " ".join(str(error).split())[:400]
        raise StoreError(f"{url}: {text or type(error).__name__}") from error


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:9]
    with source.open("rb") as file:
        return file.read(9)


def _chosen(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in names:
            spelled = {known.lower(): known for known in names}
            close = difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)
            hint = ", ".join(spelled[c] for c in close) or ", ".join(list(names)[:20])
            raise ValueError(f"no column {name!r} among {len(names)}; did you mean {hint}?")
    return list(wanted)


def _read_parquet(source: Path | bytes, choose: Choice) -> dict[str, Array | None]:
    with pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source) as file:
        names = choose(file.schema_arrow.names)
        table = file.read(columns=names)
    return {name: _column(table[name]) for name in names}


def _read_csv(source: Path | bytes, choose: Choice) -> dict[str, Array | None]:
    data = source if isinstance(source, bytes) else source.read_bytes()
    header = data[: data.find(b"\n")].decode("utf-8-sig", "replace")
    if "\0" in header or header.startswith("<"):
        raise ValueError("no Parquet, CSV or FITS table")
    delimiter = max(_DELIMITERS, key=header.count)
    table = pacsv.read_csv(
        pa.BufferReader(data),
        # one block: a column's type is decided by all of its values, not by the first megabyte
        read_options=pacsv.ReadOptions(block_size=min(len(data) + 1, _LARGEST_CSV_BLOCK)),
        parse_options=pacsv.ParseOptions(delimiter=delimiter),
    )
    names = [
        name.lstrip("# ").strip() for name in table.column_names
    ]  # "#id" of a commented header
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns {', '.join(twice)} are there twice")
    table = table.rename_columns(names)
    return {name: _column(table[name]) for name in choose(names)}


def _column(column: pa.ChunkedArray) -> Array | None:
    """One Arrow column as NumPy; None if it is of a type that no label comes in."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif pa.types.is_null(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
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
    values = _column(pc.list_flatten(column))
    if len(widths) != 1 or values is None or (values.dtype.kind == "U" and not known.all()):
        return None
    rows = values.reshape(-1, int(widths[0]))
    if known.all():
        return rows
    matrix = np.full((len(known), rows.shape[1]), np.nan)
    matrix[known] = rows
    return matrix


def _read_fits(source: Path | bytes, choose: Choice) -> dict[str, Array | None]:
    from astropy.io import fits

    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    with fits.open(opened, memmap=isinstance(source, Path)) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if not tables:
            raise ValueError(f"no table among its {len(hdus)} HDUs")
        return {name: _fits_column(tables[0], name) for name in choose(tables[0].columns.names)}


def _fits_column(hdu: Any, name: str) -> Array | None:
    description = hdu.columns[name]
    if any(letter in description.format for letter in "PQCMX"):  # ragged, complex, bits
        return None
    values = np.asarray(hdu.data[name])
    if values.dtype.kind in "SU":
        return _text(values)
    values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind in "iu" and description.null is not None:
        values = _with_missing(values, values == description.null)
    return values if values.ndim < 3 else values.reshape(len(values), -1)


def _arrow(values: Array) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _fits_bytes(table: pa.Table) -> bytes:
    widths = {
        field.name: max(fits_table.string_width(table[field.name]), 1)
        for field in table.schema
        if pa.types.is_string(field.type)
    }
    header = fits_table.header_bytes(table.schema, widths, rows=table.num_rows, notes={})
    data = header + fits_table.row_bytes(table, widths)
    return data + b"\0" * (-len(data) % fits_table.BLOCK_BYTES)
