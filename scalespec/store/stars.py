"""Stars by identifier, joined by DuckDB in bounded memory: pairs of them, and their repeats.

Ten million rows are streamed in once and joined on disk; what does not fit in memory is spilled.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from scalespec.errors import StoreError

MEMORY_BYTES = 1 << 30
"""DuckDB's share of memory; beyond it joins go through the disk."""
BATCH_ROWS = 1 << 16


class StarTable:
    """Spectra by star, in a database that lives as long as `opened_stars`.

    Rows have ``row`` (int64, unique), ``star`` (int64 or str), ``snr`` and whatever else.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> None:
        self._connection = connection
        self._columns = tuple(columns)

    def pairs(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield pairs of which both stars are there: each star's spectrum of highest S/N.

        Parameters
        ----------
        tables : iterable of pa.Table
            ``id_1`` and ``id_2`` of each pair, of the type of ``star``.

        Yields
        ------
        pa.Table
            Every column of both, with ``_1`` and ``_2`` behind its name; in order of their rows,
            each pair once whatever its order and however often it is listed.
        """
        _load(self._connection, "listed", tables)
        self._choose_best()
        self._connection.execute(
            "CREATE OR REPLACE TABLE found AS "
            "SELECT DISTINCT least(x.row, y.row) AS row_1, greatest(x.row, y.row) AS row_2 "
            "FROM listed JOIN best x ON id_1 = x.star JOIN best y ON id_2 = y.star "
            "WHERE x.row != y.row"
        )
        yield from self._side_by_side()

    def repeats(self) -> Iterator[pa.Table]:
        """Yield each spectrum of a star with its next, as `pairs` does."""
        self._connection.execute(
            "CREATE OR REPLACE TABLE found AS SELECT * FROM (SELECT row AS row_1, "
            "lead(row) OVER (PARTITION BY star ORDER BY row) AS row_2 FROM stars) "
            "WHERE row_2 IS NOT NULL"
        )
        yield from self._side_by_side()

    def members(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield the stars that a table lists, each by its spectrum of highest S/N.

        Parameters
        ----------
        table : pa.Table
            ``star``, and columns to put beside.
        """
        _load(self._connection, "listed", [table])
        self._choose_best()
        yield from self._tables(
            "SELECT stars.*, listed.* EXCLUDE (star) FROM best JOIN listed USING (star) "
            "JOIN stars ON stars.row = best.row ORDER BY stars.row"
        )

    def _choose_best(self) -> None:
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS best AS "
            "SELECT star, arg_max(row, (snr, -row)) AS row FROM stars GROUP BY star"
        )

    def _side_by_side(self) -> Iterator[pa.Table]:
        sides = (("a", 1), ("b", 2))
        both = [f'{side}."{c}" AS "{c}_{n}"' for side, n in sides for c in self._columns]
        yield from self._tables(
            f"SELECT {', '.join(both)} FROM found "  # noqa: S608 - our own column names
            "JOIN stars a ON a.row = found.row_1 JOIN stars b ON b.row = found.row_2 "
            "ORDER BY found.row_1, found.row_2"
        )

    def _tables(self, query: str) -> Iterator[pa.Table]:
        """Yield what a query finds, or one table without a row."""
        reader = self._connection.sql(query).to_arrow_reader(BATCH_ROWS)
        some = False
        for batch in reader:
            some = True
            yield pa.Table.from_batches([batch])
        if not some:
            yield reader.schema.empty_table()


def _load(
    connection: duckdb.DuckDBPyConnection, name: str, tables: Iterable[pa.Table]
) -> tuple[str, ...]:
    """Stream tables into one of the database; return its columns."""
    parts = iter(tables)
    first = next(parts, None)
    if first is None:
        raise StoreError(f"no table of {name} to join")

    def batches() -> Iterator[pa.RecordBatch]:
        yield from first.to_batches()
        for part in parts:
            yield from part.cast(first.schema).to_batches()

    reader = pa.RecordBatchReader.from_batches(first.schema, batches())
    connection.register("incoming", reader)
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM incoming")  # noqa: S608
    connection.unregister("incoming")
    return tuple(first.schema.names)


@contextmanager
def opened_stars(
    tables: Iterable[pa.Table], *, memory_bytes: int = MEMORY_BYTES, threads: int = 2
) -> Iterator[StarTable]:
    """Stream spectra into a database on the local disk, gone when the block ends.

    Parameters
    ----------
    tables : iterable of pa.Table
        With ``row``, ``star``, ``snr`` and other columns, alike in all.
    memory_bytes, threads : int
        What DuckDB may use.

    Raises
    ------
    StoreError
        If there is no table, or the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="scalespec-stars-") as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_bytes >> 20}MiB",
            "temp_directory": str(Path(folder) / "spill"),
            "threads": str(threads),
            "preserve_insertion_order": "false",
        }
        try:
            with duckdb.connect(str(Path(folder) / "stars.db"), config=settings) as connection:
                yield StarTable(connection, _load(connection, "stars", tables))
        except duckdb.Error as error:
            raise StoreError(f"stars cannot be joined: {error}") from error
