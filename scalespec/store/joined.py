"""Parquet parts, in their order, -> one Parquet file; memory holds a few parts."""

import io
from collections.abc import Iterable, Iterator
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.errors import StoreError
from scalespec.store import paths, streams
from scalespec.store.formats import row_groups


def join_parquet(url: str, parts: Iterable[str]) -> int:
    """Write the rows of all parts to one file; units and descriptions of columns are kept.

    Parameters
    ----------
    url : str
        Where; the file appears, whole, only if nothing fails.
    parts : iterable of str
        URLs of Parquet files with the same columns.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    StoreError
        If there is no part, one cannot be read, or it has other columns than the first.
    """
    return write_tables(url, _tables(parts))


def write_tables(url: str, tables: Iterable[pa.Table]) -> int:
    """Write tables with the same columns, of the first one's types, as `join_parquet` does parts.

    Raises
    ------
    StoreError
        If there is no table, or the file cannot be written.
    """
    rest = iter(tables)
    first = next(rest, None)
    if first is None:
        raise StoreError(f"{url}: there are no parts to join")
    rows, alike = 0, (table.cast(first.schema) for table in chain([first], rest))
    with (
        streams.written(url) as sink,
        pq.ParquetWriter(sink, first.schema, compression="zstd") as writer,
    ):
        for group in row_groups(alike):
            writer.write_table(group, row_group_size=max(group.num_rows, 1))
            rows += group.num_rows
    return rows


def _tables(parts: Iterable[str]) -> Iterator[pa.Table]:
    schema: pa.Schema | None = None
    for part in parts:
        data = paths.read_bytes(part)
        try:
            table = pq.read_table(io.BytesIO(data))
        except pa.ArrowException as error:
            raise StoreError(f"{part}: not the Parquet it should be ({error})") from error
        schema = schema or table.schema
        if not table.schema.equals(schema):
            raise StoreError(
                f"{part}: has the columns {table.schema.names}, the first part {schema.names}, "
                "or other types; remove the parts and write them anew"
            )
        yield table
