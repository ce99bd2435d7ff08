"""What a release catalog names: its rows, as files in the order of the sky."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from scalespec.config import IngestTable
from scalespec.kernels.sky import healpix_nested
from scalespec.kernels.where import columns_in, where
from scalespec.store import paths
from scalespec.store.batches import column_names, iterate_piece, list_pieces
from scalespec.store.listing import Entry, identify
from scalespec.surveys.rows import Survey

PLAN_ORDER = 6
"""HEALPix order that rows are sorted by when a release catalog gives positions beforehand."""
BATCH_ROWS = 65_536


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

    What is known of 10^7 files is held in columns meanwhile: about 1 GB.
    """
    batches = [_named(columns, table, survey) for columns in _rows(table, survey)]
    found = pa.concat_tables(batches)
    del batches
    found = found.combine_chunks()
    order = pc.sort_indices(found, [("cell", "ascending"), ("path", "ascending")])
    base = paths.plain(table.root).rstrip("/") + "/"
    query = table.root[len(paths.plain(table.root)) :]
    for start in range(0, len(order), BATCH_ROWS):
        part = found.take(order.slice(start, BATCH_ROWS))
        columns = (part[name].to_pylist() for name in ("path", "size", "modified", "etag"))
        for path, size, modified, etag in zip(*columns, strict=True):
            yield Entry(f"{base}{path}{query}", size, modified, etag)


def _rows(table: IngestTable, survey: Survey) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the columns of a release catalog that planning asks for, a batch of rows at a time."""
    there = column_names(table.catalog)
    wanted = [*survey.catalog_columns, *columns_in(table.where or "0 == 0")]
    wanted += [name for name in ("ra", "dec") if name in there]
    for piece in list_pieces(table.catalog, BATCH_ROWS):
        yield from iterate_piece(piece, list(dict.fromkeys(wanted)), BATCH_ROWS)


def _named(columns: Mapping[str, npt.NDArray[Any]], table: IngestTable, survey: Survey) -> pa.Table:
    """Return where the selected rows of a batch of a release catalog lie, as the survey says."""
    n = len(next(iter(columns.values()), ()))
    rows = np.flatnonzero(where(table.where, columns)) if table.where else np.arange(n)
    row, names = _Row(columns), []
    for place in rows.tolist():
        row.place = place
        names.append(survey.catalog_path(row))
    known = identify([paths.join(table.root, name) for name in names])
    cells = np.zeros(len(rows), np.int64)
    if "ra" in columns and "dec" in columns:
        cells = healpix_nested(columns["ra"][rows], columns["dec"][rows], PLAN_ORDER)
    return pa.table(
        {
            "path": pa.array(names, pa.large_string()),
            "cell": pa.array(cells.astype(np.int32)),
            "size": pa.array([entry.size for entry in known], pa.int64()),
            "modified": pa.array([entry.modified for entry in known], pa.float64()),
            "etag": pa.array([entry.etag for entry in known], pa.large_string()),
        }
    )
