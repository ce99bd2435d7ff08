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
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from isal import isal_zlib

from scalespec.errors import StoreError
from scalespec.store import fits_table, paths
from scalespec.store.columns import Array, arrow_column, fits_column, votable_column
from scalespec.store.inflate import inflated

log = logging.getLogger(__name__)

Columns = dict[str, Array | None]
"""Columns by name; None is one of a type that no label comes in."""
Choice = Callable[[Sequence[str]], list[str]]
"""From the names a file has to the names to read."""

_LARGEST_CSV_BLOCK = 2**31 - 1  # bytes; Arrow counts them in int32
DAMAGE: tuple[Any, ...] = (
    *(isal_zlib.error, EOFError, ValueError, TypeError, LookupError, pa.ArrowException),
)
"""What readers of tables raise for bytes that are none."""
HEAD_BYTES = 1024
UNKNOWN = (*pacsv.ConvertOptions().null_values, "--")
"""What stands in a CSV column of numbers for one that is not known; the last is astropy's."""
_DELIMITERS = (",", "|", "\t", ";")


def read_table(url: str, columns: Sequence[str] | None = None) -> dict[str, Array]:
    r"""Read a label or release catalog; its content, not its name, says which format it is.

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

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     name = f"{folder}/labels"  # CSV all the same
    ...     _ = Path(name).write_text("star|teff\nSun|5777\nVega|\n")
    ...     read_table(name, ["teff", "star"])
    {'teff': array([5777.,   nan]), 'star': array(['Sun', 'Vega'], dtype='<U4')}
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

    Examples
    --------
    What astropy reads of it:

    >>> import tempfile
    >>> from astropy.table import Table
    >>> columns = {"star": ["Sun", "Vega"], "teff": np.array([5777.0, 9600.0])}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_table(f"{folder}/stars.fits", columns, units={"teff": "K"})
    ...     table = Table.read(f"{folder}/stars.fits")
    >>> table["teff"].unit, table["star"][1], table["teff"][1]
    (Unit("K"), 'Vega', np.float64(9600.0))
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
        convert_options=pacsv.ConvertOptions(null_values=UNKNOWN),
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


def _read_fits(source: Path | bytes, choose: Choice) -> Columns:
    with first_table(source) as hdu:
        return {name: fits_column(hdu, name) for name in choose(hdu.columns.names)}


@contextmanager
def first_table(source: Any) -> Iterator[Any]:
    """Open the first table of a FITS file: a path, bytes or a stream; HDUs behind it are not read.

    Raises
    ------
    ValueError
        If it has none.
    """
    from astropy.io import fits

    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    with fits.open(opened, memmap=isinstance(source, Path)) as hdus:
        tables = (hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU))
        if (first := next(tables, None)) is None:
            raise ValueError(f"no table among its {len(hdus)} HDUs")
        yield first


def _read_votable(source: Path | bytes, choose: Choice) -> dict[str, Array | None]:
    from astropy.io.votable import parse_single_table

    opened = io.BytesIO(source if isinstance(source, bytes) else source.read_bytes())
    table = parse_single_table(opened, verify="ignore").to_table(use_names_over_ids=True)
    return {name: votable_column(table[name]) for name in choose(table.colnames)}


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
