"""Tables that come part by part -> one file, Parquet, FITS or VOTable, in the memory of few."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.store import fits_table, streams, votable

Parts = Callable[[Sequence[str] | None], Iterator[pa.Table]]
"""From column names to the tables of all blocks, in order."""
Notes = Mapping[str, Mapping[str, str]]
"""What coded values mean, ``{column: {code: meaning}}``."""
ROW_GROUP_ROWS = 65_536
"""A row group is as many whole blocks as reach this: a footer entry per column costs 100 bytes."""


def row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield whole blocks together, `ROW_GROUP_ROWS` or more at a time."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(t.num_rows for t in held) >= ROW_GROUP_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def write_parquet(url: str, schema: pa.Schema, parts: Parts) -> str:
    """Write all parts as one Parquet file; return the SHA-256 of its bytes."""
    with streams.written(url) as sink:
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for group in row_groups(parts(schema.names)):
                writer.write_table(group, row_group_size=max(group.num_rows, 1))
        return sink.sha256


def write_fits(url: str, schema: pa.Schema, parts: Parts, notes: Notes) -> str:
    """Write all parts as one FITS file; return the SHA-256 of its bytes."""
    rows, widths = _measured(schema, parts)
    with streams.written(url) as sink:
        sink.write(fits_table.header_bytes(schema, widths, rows=rows, notes=notes))
        for table in parts(schema.names):
            sink.write(fits_table.row_bytes(table, widths))
        sink.write(b"\0" * (-sink.tell() % fits_table.BLOCK_BYTES))
        return sink.sha256


def write_votable(url: str, schema: pa.Schema, parts: Parts, notes: Notes) -> str:
    """Write all parts as one VOTable; return the SHA-256 of its bytes."""
    rows, widths = _measured(schema, parts)
    with streams.written(url) as sink:
        sink.write(votable.head(schema, widths, rows=rows, notes=notes))
        for piece in votable.stream(parts(schema.names), schema, widths):
            sink.write(piece)
        return sink.sha256


def _measured(schema: pa.Schema, parts: Parts) -> tuple[int, dict[str, int]]:
    """Return the rows of all parts, and the longest text of each column of text."""
    strings = [field.name for field in schema if pa.types.is_string(field.type)]
    widths = dict.fromkeys(strings, 1)
    rows = 0
    for table in parts(strings or schema.names[:1]):
        rows += table.num_rows
        for name in strings:
            widths[name] = max(widths[name], fits_table.string_width(table[name]))
    return rows, widths
