"""Tables cut into cells of the sky and of identifiers, so that what may match lies together.

Each block of spectra, and each piece of a label catalog, is sorted by cell on its own and stored;
a partition is a range of cells, read from all of them. So nothing ever holds a whole catalog.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.kernels.sky import cells_with_margin, healpix_nested
from scalespec.plan import Block, BlockResult
from scalespec.stages.label_catalog import star_hash
from scalespec.store import paths
from scalespec.store.batches import read_sorted_range
from scalespec.store.ledger import Ledger, new_attempt

IntArray = npt.NDArray[np.int64]

CELL_ORDER = 8
"""786,432 cells, 0.23° wide: fine enough for the densest fields, and wider than any margin."""
SKY_CELLS = 12 * 4**CELL_ORDER
ID_BITS = 16
"""Identifiers are dealt to 65,536 cells behind those of the sky, by their hash."""
N_CELLS = SKY_CELLS + 2**ID_BITS
ROWS_PER_PARTITION = 1 << 17
"""Rows of spectra and catalog that a partition holds, about: what one worker has in memory."""
ROW_GROUP_ROWS = 1 << 14


@dataclass(frozen=True)
class Sorted:
    """Stored tables that are sorted by cell, or another column: where, and their least and most."""

    url: str
    keys: tuple[str, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]

    def read(self, column: str, start: int, stop: int) -> pd.DataFrame:
        """Return all rows with ``start <= column < stop``; without any, all the columns."""
        reach = [
            key
            for key, low, high in zip(self.keys, self.low, self.high, strict=True)
            if low < stop and high >= start
        ]
        urls = [paths.join(self.url, key) for key in reach or self.keys[:1]]
        tables = [read_sorted_range(url, column, start, stop) for url in urls]
        # Tables that an older version cut may lack a column.
        found: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
        return found


def sky_entries(rows: pd.DataFrame, margin_arcsec: npt.ArrayLike) -> pd.DataFrame:
    """Repeat rows for every cell that they are in, or near the edge of.

    Parameters
    ----------
    rows : pd.DataFrame
        With ra, dec [deg]; a row without a position is in no cell.
    margin_arcsec : (n,) or scalar float
        How near an edge is near.

    Returns
    -------
    pd.DataFrame
        The same columns, and ``cell``, ``own`` (whether it is the row's own cell).
    """
    if not np.any(margin_arcsec):
        cells = healpix_nested(rows["ra"], rows["dec"], CELL_ORDER)
        places = np.flatnonzero(cells >= 0)
        return rows.iloc[places].assign(cell=cells[places], own=True)
    places, cells = cells_with_margin(rows["ra"], rows["dec"], CELL_ORDER, margin_arcsec)
    home = healpix_nested(rows["ra"], rows["dec"], CELL_ORDER)
    return rows.iloc[places].assign(cell=cells, own=cells == home[places])


def id_entries(rows: pd.DataFrame) -> pd.DataFrame:
    """Put rows that have an ``id`` into the cells of identifiers."""
    ids = rows["id"].to_numpy()
    known = ids >= 0 if ids.dtype.kind in "iu" else ids != ""
    hashes = star_hash(ids[known] if ids.dtype.kind in "iu" else ids[known].astype(str))
    cells = SKY_CELLS + (hashes & (2**ID_BITS - 1))
    return rows[known].assign(cell=cells, own=True)


def write_sorted(
    url: str, block: Block, tables: Iterable[pd.DataFrame], counts: Mapping[str, int]
) -> BlockResult:
    """Store tables one by one, sorted by ``cell``, or by ``row`` if they have none; then commit."""
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    attempt, rows = new_attempt(), 0
    objects: dict[str, str] = {}
    for number, table in enumerate(tables):
        by = "cell" if "cell" in table else "row"
        arranged = table.iloc[np.argsort(table[by].to_numpy(), kind="stable")]
        buffer = io.BytesIO()
        made = pa.Table.from_pandas(arranged, preserve_index=False)
        # Read twice, then done with: neither dictionaries nor statistics of other columns pay.
        pq.write_table(
            made,
            buffer,
            compression="lz4",
            row_group_size=ROW_GROUP_ROWS,
            use_dictionary=False,
            write_statistics=[by],
        )
        key = f"parts/{block.index:06d}-{number:04d}-{attempt}.parquet"
        paths.write_bytes(paths.join(url, key), data := buffer.getvalue())
        objects[key] = paths.sha256(data)
        rows += len(table)
    return ledger.commit(block, BlockResult(rows, objects, counts, attempt))


def sorted_tables(url: str, column: str) -> Sorted:
    """Return the committed tables of a folder, and how far each reaches in its sorted column."""
    keys = [
        key for _, result in sorted(Ledger(url).commits().items()) for key in sorted(result.objects)
    ]
    reach = [_reach(paths.join(url, key), column) for key in keys]
    return Sorted(url, tuple(keys), tuple(r[0] for r in reach), tuple(r[1] for r in reach))


def _reach(url: str, column: str) -> tuple[int, int]:
    """Return the least and most value of a sorted column; (0, -1) without a row."""
    with pq.ParquetFile(io.BytesIO(paths.read_bytes(url))) as file:
        which = file.schema_arrow.names.index(column)
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        found = [g.column(which).statistics for g in groups if g.num_rows]
        return (int(found[0].min), int(found[-1].max)) if found else (0, -1)


def count_cells(tables: Sorted) -> IntArray:
    """Count the rows of all cells, one table in memory at a time.

    Returns
    -------
    (N_CELLS,) int64
    """
    total = np.zeros(N_CELLS, np.int64)
    for key in tables.keys:
        with pq.ParquetFile(io.BytesIO(paths.read_bytes(paths.join(tables.url, key)))) as file:
            total += np.bincount(file.read(columns=["cell"])["cell"].to_numpy(), minlength=N_CELLS)
    return total


def plan_partitions(left: IntArray, right: IntArray) -> list[Block]:
    """Cut the cells into ranges that hold about as many rows each, where both tables have any.

    Parameters
    ----------
    left, right : (N_CELLS,) int64
        Rows of both tables in each cell.

    Returns
    -------
    list of Block
        Ranges of cells; sky and identifiers are never in one.
    """
    both = np.flatnonzero((left > 0) & (right > 0))
    # Rows of cells that only one table has count, too: a range that spans them reads them.
    before = np.concatenate([[0], np.cumsum(left + right)])
    part = before[both] // ROWS_PER_PARTITION + (both >= SKY_CELLS) * (before[-1] + 1)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    stops = np.append(starts, len(both))[1:] - 1
    return [
        Block("healpix", i, int(both[a]), int(both[b]) + 1)
        for i, (a, b) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True))
    ]
