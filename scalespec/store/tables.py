"""Catalogs of other people (Parquet, CSV, FITS, VOTable) as NumPy columns; and ours for them."""

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
from isal import isal_zlib

from scalespec.errors import StoreError
from scalespec.store import fits_table, paths
from scalespec.store.inflate import inflated

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Columns = dict[str, Array | None]
"""Columns by name; None is one of a type that no label comes in."""
Choice = Callable[[Sequence[str]], list[str]]
"""From the names a file has to the names to read."""

_LARGEST_EXACT = 2**53  # whole numbers up to here survive float64
_LARGEST_CSV_BLOCK = 2**31 - 1  # bytes; Arrow counts them in int32
DAMAGE: tuple[Any, ...] = (
    *(isal_zlib.error, EOFError, ValueError, TypeError, LookupError, pa.ArrowException),
)
"""What readers of tables raise for bytes that are none."""
HEAD_BYTES = 1024
_DELIMITERS = (",", "|", "\t", ";")


def read_table(url: str, columns: Sequence[str] | None = None) -> dict[str, Array]:
    """Read a label or release catalog; its content, not its name, says which format it is.

    Parquet, CSV (separated by ``,``, ``|``, tab or ``;``, with a header line), VOTable and the
    first table of a FITS file, each also inside gzip.

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
        return list(names) if columns is None else chosen(names, columns)

    with paths.explained(url, *DAMAGE):
        source: Path | bytes = (
            paths.read_bytes(url) if paths.is_remote(url) else paths.local_path(url)
        )
        read = _read_parquet
        head = _head(source)
        if head.startswith(b"\x1f\x8b"):
            source = inflated(source if isinstance(source, bytes) else source.read_bytes())
            head = _head(source)
        if head.startswith(b"SIMPLE  ="):
            read = _read_fits
        elif is_votable(head):
            read = _read_votable
        elif not head.startswith(b"PAR1"):
            read = _read_csv
        found = read(source, choose)
    return readable(found, url, asked=columns is not None)


def readable(
    found: Mapping[str, Array | None], url: str, *, asked: bool = True
) -> dict[str, Array]:
    """Return the columns that could be read; one that was `asked` for must be.

    Raises
    ------
    StoreError
        If it is not.
    """
    unread = [name for name, values in found.items() if values is None]
    if unread and asked:
        raise StoreError(f"{url}: cannot read columns of this type: {', '.join(unread)}")
    if unread:
        log.info("%s: left out columns of types not read: %s", url, ", ".join(unread))
    return {name: values for name, values in found.items() if values is not None}


def arrow_columns(table: pa.Table, names: Sequence[str], url: str) -> dict[str, Array]:
    """Return columns of an Arrow table as `read_table` does.

    Raises
    ------
    StoreError
        If one is of a type that no label comes in.
    """
    return readable({name: arrow_column(table[name]) for name in names}, url)


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
    name = url.partition("?")[0] if paths.is_remote(url) else url
    if name.endswith(".parquet"):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue()
    elif name.endswith(".fits"):
        data = _fits_bytes(table)
    else:
        raise StoreError(f"{url}: a table is written as .parquet or .fits")
    paths.write_bytes(url, data)
    return paths.sha256(data)


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    with source.open("rb") as file:
        return file.read(HEAD_BYTES)


def is_votable(head: bytes) -> bool:
    """Whether a file that begins with `head` is a VOTable."""
    return head.lstrip(b"\xef\xbb\xbf \r\n").startswith(b"<") and b"<VOTABLE" in head.upper()


def chosen(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the columns wanted, all of which must be among `names`.

    Raises
    ------
    ValueError
        If one is not; it names the closest.
    """
    for name in wanted:
        if name not in names:
            spelled = {known.lower(): known for known in names}
            close = difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)
            hint = ", ".join(spelled[c] for c in close) or ", ".join(list(names)[:20])
            raise ValueError(f"no column {name!r} among {len(names)}; did you mean {hint}?")
    return list(wanted)


def _read_parquet(source: Path | bytes, choose: Choice) -> Columns:
    with pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source) as file:
        names = choose(file.schema_arrow.names)
        table = file.read(columns=names)
    return {name: arrow_column(table[name]) for name in names}


def _read_csv(source: Path | bytes, choose: Choice) -> Columns:
    data = source if isinstance(source, bytes) else source.read_bytes()
    table = pacsv.read_csv(
        pa.BufferReader(data),
        # one block: a column's type is decided by all of its values, not by the first megabyte
        read_options=pacsv.ReadOptions(block_size=min(len(data) + 1, _LARGEST_CSV_BLOCK)),
        parse_options=csv_options(data[: data.find(b"\n")]),
    )
    return csv_table(table, choose)


def csv_options(first_line: bytes) -> pacsv.ParseOptions:
    """Return how to parse a CSV file by its header line.

    Raises
    ------
    ValueError
        If it is no text, or the beginning of XML.
    """
    header = first_line.decode("utf-8-sig", "replace")
    if "\0" in header or header.startswith("<"):
        raise ValueError("no Parquet, CSV or FITS table")
    return pacsv.ParseOptions(delimiter=max(_DELIMITERS, key=header.count))


def csv_table(table: pa.Table, choose: Choice = list) -> Columns:
    """Return the columns of a CSV file's rows, whose header may be commented and padded.

    Raises
    ------
    ValueError
        If two columns have one name.
    """
    names = csv_names(table.column_names)
    table = table.rename_columns(names)
    return {name: arrow_column(table[name]) for name in choose(names)}


def csv_names(header: Sequence[str]) -> list[str]:
    """Return the names in a CSV header, which may be commented and padded: ``# id``.

    Raises
    ------
    ValueError
        If two columns have one name.
    """
    names = [name.lstrip("# ").strip() for name in header]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns {', '.join(twice)} are there twice")
    return names


def arrow_column(column: pa.ChunkedArray) -> Array | None:
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
    values = arrow_column(pc.list_flatten(column))
    if len(widths) != 1 or values is None or (values.dtype.kind == "U" and not known.all()):
        return None
    rows = values.reshape(-1, int(widths[0]))
    if known.all():
        return rows
    matrix = np.full((len(known), rows.shape[1]), np.nan)
    matrix[known] = rows
    return matrix


def _read_fits(source: Path | bytes, choose: Choice) -> Columns:
    with first_table(source) as hdu:
        return {name: fits_column(hdu, name) for name in choose(hdu.columns.names)}


def read_fits_rows(path: Path, rows: int) -> Iterator[Columns]:
    """Yield the first table of a FITS file, so many rows at a time.

    Raises
    ------
    ValueError
        If it has no table.
    """
    with first_table(path) as hdu:
        for start in range(0, len(hdu.data), rows):
            part = slice(start, start + rows)
            yield {name: fits_column(hdu, name, part) for name in hdu.columns.names}


@contextmanager
def first_table(source: Path | bytes) -> Iterator[Any]:
    """Open the first table of a FITS file.

    Raises
    ------
    ValueError
        If it has none.
    """
    from astropy.io import fits

    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    with fits.open(opened, memmap=isinstance(source, Path)) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if not tables:
            raise ValueError(f"no table among its {len(hdus)} HDUs")
        yield tables[0]


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


def _read_votable(source: Path | bytes, choose: Choice) -> dict[str, Array | None]:
    from astropy.io.votable import parse_single_table

    opened = io.BytesIO(source if isinstance(source, bytes) else source.read_bytes())
    table = parse_single_table(opened, verify="ignore").to_table(use_names_over_ids=True)
    return {name: _votable_column(table[name]) for name in choose(table.colnames)}


def _votable_column(column: Any) -> Array | None:
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
