"""Label catalogs piece by piece: Parquet, HATS, FITS, CSV and VOTable in memory that stays flat."""

import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from scalespec.errors import StoreError
from scalespec.store import paths, streams, tables
from scalespec.store.columns import arrow_units, fits_column, fits_units, votable_units

Array = npt.NDArray[Any]

HATS_PROPERTIES = ("hats.properties", "properties")
COLLECTION_PROPERTIES = "collection.properties"
CSV_BLOCK_BYTES = 1 << 24
HEADER_BYTES = 1 << 16
"""A CSV file's header line is shorter."""
_KINDS = (pa.int64(), pa.float64(), pa.string())
"""What a CSV column may be, the narrowest first."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``[start, stop)`` of one file, that are rows ``first`` and on of the catalog.

    A file that can only be read from its beginning (CSV, VOTable, gzip) is one piece; `stop` is -1.
    """

    url: str
    first: int
    start: int = 0
    stop: int = -1


def list_pieces(url: str, rows: int) -> list[Piece]:
    """Cut a catalog into pieces that workers can read apart from each other.

    Parameters
    ----------
    url : str
        A table that `tables.read_table` knows; a folder of Parquet files; a HATS catalog or
        collection.
    rows : int
        Rows of a piece, about.

    Returns
    -------
    list of Piece
        In the catalog's order, files by name.

    Raises
    ------
    StoreError
        If there is nothing, or a folder holds no Parquet file.
    """
    pieces: list[Piece] = []
    first = 0
    for file in table_files(url):
        with paths.explained(file, *tables.DAMAGE):
            n = _count_rows(file)
        if n is None:
            return [*pieces, Piece(file, first)]
        edges = [*range(0, n, rows), n] if n else [0, 0]
        pieces += [Piece(file, first + a, a, b) for a, b in pairwise(edges)]
        first += n
    return pieces


def table_files(url: str) -> list[str]:
    """Return the files of a catalog: itself, or a folder's Parquet files by name.

    Raises
    ------
    StoreError
        If there is nothing there.
    """
    if not paths.is_folder(url):
        return [url]
    if paths.exists(collection := paths.join(url, COLLECTION_PROPERTIES)):
        return table_files(paths.join(url, _properties(collection)["hats_primary_table_url"]))
    keys = [key for key in paths.list_keys(url) if key.endswith((".parquet", ".pq"))]
    if any(paths.exists(paths.join(url, name)) for name in HATS_PROPERTIES):
        keys = [key for key in keys if "Npix=" in key]  # not its metadata, nor its thumbnail
    keys = [key for key in keys if not key.rpartition("/")[2].startswith(("_", "."))]
    if not keys:
        raise StoreError(f"{url}: no Parquet file in this folder, nor below it")
    return [paths.join(url, key) for key in keys]


def _properties(url: str) -> dict[str, str]:
    lines = paths.read_bytes(url).decode().splitlines()
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _count_rows(url: str) -> int | None:
    """Return the rows of a file that is read at any place; None if it is not."""
    head = _first_bytes(url)
    if head.startswith(b"PAR1"):
        with opened(url) as source, pq.ParquetFile(source) as file:
            return int(file.metadata.num_rows)
    if head.startswith(b"SIMPLE  =") and not paths.is_remote(url):
        with tables.first_table(paths.local_path(url)) as hdu:
            return int(hdu.header["NAXIS2"])
    return None


def _first_bytes(url: str) -> bytes:
    with opened(url) as source:
        return bytes(source.read(tables.HEAD_BYTES))


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """Open a file or an object for reading at any place."""
    if paths.is_remote(url):
        with streams.opened(url) as source:
            yield source
    else:
        with paths.local_path(url).open("rb") as file:
            yield file


def iterate_piece(piece: Piece, columns: Sequence[str], rows: int) -> Iterator[dict[str, Array]]:
    """Yield columns of a piece, about so many rows at a time; values as `tables.read_table` does.

    A VOTable, and FITS inside gzip or an object store, are read whole before they are cut.

    Raises
    ------
    StoreError
        If it cannot be read or lacks a column.
    """
    with paths.explained(piece.url, *tables.DAMAGE):
        head = _first_bytes(piece.url)
        if head.startswith(b"PAR1"):
            yield _parquet_rows(piece, columns)
        elif piece.stop >= 0:
            yield _fits_rows(piece, columns)
        elif _is_csv(piece.url, head):
            yield from _csv_batches(piece.url, columns)
        else:
            whole = tables.read_table(piece.url, columns)
            n = len(next(iter(whole.values()))) if whole else 0
            for start in range(0, max(n, 1), rows):
                yield {name: values[start : start + rows] for name, values in whole.items()}


def _parquet_rows(piece: Piece, columns: Sequence[str]) -> dict[str, Array]:
    with opened(piece.url) as source, pq.ParquetFile(source) as file:
        chosen = tables.chosen(file.schema_arrow.names, columns)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum([0, *sizes])
        groups = np.flatnonzero((ends[:-1] < piece.stop) & (ends[1:] > piece.start))
        skipped = int(ends[groups[0]]) if len(groups) else 0
        parts, at = [], skipped
        # In batches: a file may be one row group of more rows than memory holds.
        for batch in file.iter_batches(1 << 16, row_groups=groups.tolist(), columns=chosen):
            start, stop = max(piece.start - at, 0), min(piece.stop - at, len(batch))
            at += len(batch)
            if start < stop:
                parts.append(batch.slice(start, stop - start))
            if at >= piece.stop:
                break
        schema = pa.schema([file.schema_arrow.field(name) for name in chosen])
        return tables.arrow_columns(pa.Table.from_batches(parts, schema), chosen, piece.url)


def _fits_rows(piece: Piece, columns: Sequence[str]) -> dict[str, Array]:
    with tables.first_table(paths.local_path(piece.url)) as hdu:
        chosen = tables.chosen(hdu.columns.names, columns)
        rows = slice(piece.start, piece.stop)
        return tables.readable({name: fits_column(hdu, name, rows) for name in chosen}, piece.url)


def _is_csv(url: str, head: bytes) -> bool:
    if head.startswith(b"\x1f\x8b"):
        with _csv_stream(url) as stream:
            head = stream.read(tables.HEAD_BYTES)
    known = (b"PAR1", b"SIMPLE  =")
    return not head.startswith(known) and not tables.is_votable(head)


@contextmanager
def _csv_stream(url: str) -> Iterator[Any]:
    """Open a text file, or what is in it if it is gzipped."""
    with opened(url) as source:
        zipped = source.read(2) == b"\x1f\x8b"
        source.seek(0)
        file = pa.PythonFile(source, mode="r")
        yield pa.CompressedInputStream(file, "gzip") if zipped else file


def _csv_batches(url: str, columns: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Read a CSV file twice: all rows of a column say what it holds, then they are parsed."""
    with _csv_stream(url) as stream:
        header = stream.read(HEADER_BYTES).partition(b"\n")[0]
    options = tables.csv_options(header)
    raw_names = pacsv.read_csv(io.BytesIO(header + b"\n"), parse_options=options).column_names
    names = dict(zip(tables.csv_names(raw_names), raw_names, strict=True))
    raw = [names[name] for name in tables.chosen(list(names), columns)]
    kinds = dict.fromkeys(raw, _KINDS[0])
    for batch in _parsed(url, options, dict.fromkeys(raw, pa.string()), nulls=True):
        kinds = {name: _widened(kind, batch[name]) for name, kind in kinds.items()}
    for batch in _parsed(url, options, kinds, nulls=False):
        yield tables.arrow_columns(batch.rename_columns(list(columns)), columns, url)


def _parsed(
    url: str, options: pacsv.ParseOptions, kinds: Mapping[str, pa.DataType], *, nulls: bool
) -> Iterator[pa.Table]:
    with _csv_stream(url) as stream:
        reader = pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
            parse_options=options,
            convert_options=pacsv.ConvertOptions(
                include_columns=list(kinds),
                column_types=kinds,
                strings_can_be_null=nulls,
                null_values=tables.UNKNOWN,
            ),
        )
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _widened(kind: pa.DataType, values: pa.ChunkedArray) -> pa.DataType:
    """Return the first type from `kind` on that all these strings can be read as."""
    for wider in _KINDS[_KINDS.index(kind) : -1]:
        try:
            pc.cast(values, wider)
        except pa.ArrowInvalid:
            continue
        return wider
    return _KINDS[-1]


def read_sorted_range(url: str, column: str, start: int, stop: int) -> pa.Table:
    """Read the rows with ``start <= column < stop`` of a Parquet file sorted by that column.

    Only the row groups that can hold them are read.

    Raises
    ------
    StoreError
        If the file is missing or damaged.
    """
    wanted = (pads.field(column) >= start) & (pads.field(column) < stop)
    with paths.explained(url, *tables.DAMAGE), opened(url) as source:
        fragment = pads.ParquetFileFormat().make_fragment(source)
        return fragment.to_table(filter=wanted)


def column_names(url: str) -> list[str]:
    """Return the names of a catalog's columns, spelled as in the file; little of it is read.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    return list(column_units(url))


def column_units(url: str) -> dict[str, str]:
    """Return a catalog's columns and the unit that its file says of each, "" if it says none.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    file = table_files(url)[0]
    with paths.explained(file, *tables.DAMAGE), opened(file) as source:
        zipped = source.read(2) == b"\x1f\x8b"
        source.seek(0)
        plain = gzip.GzipFile(fileobj=source) if zipped else source
        head = plain.read(tables.HEAD_BYTES)
        plain.seek(0)
        if head.startswith(b"PAR1"):
            return arrow_units(pq.read_schema(plain))
        if head.startswith(b"SIMPLE  ="):
            with tables.first_table(plain) as hdu:
                return fits_units(hdu)
        if tables.is_votable(head):
            return votable_units(plain)
        header = plain.read(HEADER_BYTES).partition(b"\n")[0]
        options = tables.csv_options(header)
        read = pacsv.read_csv(io.BytesIO(header + b"\n"), parse_options=options)
        return dict.fromkeys(tables.csv_names(read.column_names), "")
