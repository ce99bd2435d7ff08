"""What a release catalog names: its rows, as files in the order of the sky."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalespec.config import IngestTable
from scalespec.errors import ConfigError
from scalespec.kernels.ids import source_ids
from scalespec.kernels.sky import healpix_nested
from scalespec.kernels.where import columns_in, where
from scalespec.stages.known import Seen
from scalespec.store import paths
from scalespec.store.batches import column_names, iterate_piece, list_pieces
from scalespec.store.listing import Entry, identify
from scalespec.surveys.rows import Survey

PLAN_ORDER = 6
"""HEALPix order that rows are sorted by when a release catalog gives positions beforehand."""
BATCH_ROWS = 65_536
ZONES = 64
"""Ranges of cells that are sorted one after another."""


class _Row(Mapping[str, Any]):
    """One row of a table in columns; only what is asked for is looked up."""

    def __init__(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        self.columns, self.place = columns, 0

    def __getitem__(self, name: str) -> Any:
        return self.columns[name][self.place]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


def iterate_release(table: IngestTable, survey: Survey) -> Iterator[Entry]:
    """Yield the files of a release catalog's selected rows, by HEALPix cell, then path.

    A file that several rows name, as a container of many targets, or a row that is there twice, is
    one file: the first of them says its cell.

    What is known of 10^7 files is held in columns meanwhile, about 1 GB; they are put in order
    zone by zone, so that never all of them are copied.
    """
    base = paths.plain(table.root).rstrip("/") + "/"
    query = table.root[len(paths.plain(table.root)) :]
    zones: list[list[pa.Table]] = [[] for _ in range(ZONES)]
    seen = Seen()
    for columns in _rows(table, survey):
        _sort_into(zones, _named(columns, table, survey, seen))
    for pieces in zones:
        if not pieces:
            continue
        found = pa.concat_tables(pieces).combine_chunks()
        found = found.sort_by([("cell", "ascending"), ("path", "ascending")])
        for start in range(0, len(found), BATCH_ROWS):
            part = found.slice(start, BATCH_ROWS)
            lists = (part[name].to_pylist() for name in ("path", *Entry._fields[1:]))
            for path, *known in zip(*lists, strict=True):
                yield Entry(f"{base}{path}{query}", *known)


def _sort_into(zones: list[list[pa.Table]], rows: pa.Table) -> None:
    """Put rows into the zones of the sky, ranges of cells, that they belong to."""
    rows = rows.sort_by("cell")
    n_cell = 12 * 4**PLAN_ORDER
    edges = np.arange(len(zones) + 1) * n_cell // len(zones)
    cuts = np.searchsorted(rows["cell"].to_numpy(), edges)
    for pieces, start, stop in zip(zones, cuts[:-1], cuts[1:], strict=True):
        if stop > start:
            pieces.append(rows.slice(start, stop - start))


def _rows(table: IngestTable, survey: Survey) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the columns of a release catalog that planning asks for, a batch of rows at a time."""
    there = column_names(table.catalog)
    wanted = [*survey.catalog_columns, *columns_in(table.where or "0 == 0")]
    wanted += [name for name in ("ra", "dec") if name in there]
    wanted += [table.source_id] if table.source_id else []
    for piece in list_pieces(table.catalog, BATCH_ROWS):
        yield from iterate_piece(piece, list(dict.fromkeys(wanted)), BATCH_ROWS)


def _named(
    columns: Mapping[str, npt.NDArray[Any]], table: IngestTable, survey: Survey, seen: Seen
) -> pa.Table:
    """Return where the files lie that the selected rows of a batch name and none did before."""
    n = len(next(iter(columns.values()), ()))
    rows = np.flatnonzero(where(table.where, columns)) if table.where else np.arange(n)
    row, names = _Row(columns), []
    for place in rows.tolist():
        row.place = place
        names.append(paths.below(survey.catalog_path(row)))
    first = seen.first(names)  # before files are asked for: of a container once, not per target
    rows, names = rows[first], [names[i] for i in np.flatnonzero(first)]
    known = identify([paths.join(table.root, name) for name in names])
    cells = np.zeros(len(rows), np.int64)
    if "ra" in columns and "dec" in columns:
        cells = healpix_nested(columns["ra"][rows], columns["dec"][rows], PLAN_ORDER)
    sources = np.full(len(rows), -1, np.int64)
    if table.source_id:
        sources = _source_ids(columns[table.source_id][rows], table)
    return pa.table(
        {
            "path": pa.array(names, pa.large_string()),
            "cell": pa.array(cells.astype(np.int32)),
            "size": pa.array([entry.size for entry in known], pa.int64()),
            "modified": pa.array([entry.modified for entry in known], pa.float64()),
            "etag": pa.array([entry.etag for entry in known], pa.large_string()),
            "source_id": pa.array(sources),
        }
    )


def _source_ids(values: npt.NDArray[Any], table: IngestTable) -> npt.NDArray[np.int64]:
    try:
        return source_ids(values)
    except ValueError as error:
        raise ConfigError(
            f"ingest: column {table.source_id!r} of {paths.plain(table.catalog)}: {error}"
        ) from error
