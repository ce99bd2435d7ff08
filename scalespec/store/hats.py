"""A catalog cut by HEALPix, as HATS has it: partitions of rows, and what tells readers of them.

HATS, IVOA Note 2025 (https://www.ivoa.net/documents/Notes/HATS/). Partitions are written by workers
as any object is; the `hats` package then writes properties and metadata, in a folder of its own
from which they are copied, so that a catalog may lie in an object store.
"""

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.errors import StoreError
from scalespec.store import paths, streams, votable

IntArray = npt.NDArray[np.int64]

INDEX = "_healpix_29"
"""Column of each row's HEALPix pixel, order 29, nested; rows are in its order."""
INDEX_ORDER = 29
HIGHEST_ORDER = 8
"""Partitions are no smaller than 0.23°: a denser one holds more rows."""
ROW_GROUP_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Partition:
    """A HEALPix pixel whose rows are one file."""

    order: int
    pixel: int

    @property
    def reach(self) -> tuple[int, int]:
        """First pixel of order 29 in it, and first behind it."""
        shift = 2 * (INDEX_ORDER - self.order)
        return self.pixel << shift, (self.pixel + 1) << shift

    @property
    def key(self) -> str:
        """Path of its file in the catalog."""
        folder = 10_000 * (self.pixel // 10_000)
        return f"dataset/Norder={self.order}/Dir={folder}/Npix={self.pixel}.parquet"


def plan_partitions(counts: IntArray, rows: int, *, order: int = HIGHEST_ORDER) -> list[Partition]:
    """Cut the sky into the largest pixels of no more than `rows` rows.

    Parameters
    ----------
    counts : (12 * 4**order,) int64
        Rows of each pixel, nested.
    rows : int
    order : int
        Of the counts; a pixel of it may hold more rows.

    Returns
    -------
    list of Partition
        In the order of the sky; pixels without rows are left out.

    Examples
    --------
    >>> counts = np.zeros(48, int)
    >>> counts[[0, 1, 9]] = 5
    >>> plan_partitions(counts, 9, order=1)
    [Partition(order=1, pixel=0), Partition(order=1, pixel=1), Partition(order=0, pixel=2)]
    """
    found: list[Partition] = []
    covered = np.zeros(12, bool)
    for level in range(order + 1):
        here = counts.reshape(12 * 4**level, -1).sum(axis=1)
        fits = (here <= rows) if level < order else np.ones(len(here), bool)
        chosen = np.flatnonzero(~covered & (here > 0) & fits)
        found += [Partition(level, pixel) for pixel in chosen.tolist()]
        covered = np.repeat(covered | ((here > 0) & fits), 4)
    return sorted(found, key=lambda one: one.reach)


def write_partition(url: str, partition: Partition, table: pa.Table) -> tuple[str, str]:
    """Write a partition's rows, sorted; return its key below `url` and the SHA-256 of its bytes."""
    ordered = table.sort_by([(INDEX, "ascending"), ("row", "ascending")])
    buffer = io.BytesIO()
    pq.write_table(ordered, buffer, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    data = buffer.getvalue()
    paths.write_bytes(paths.join(url, partition.key), data)
    return partition.key, paths.sha256(data)


def write_properties(
    url: str, partitions: Sequence[Partition], schema: pa.Schema, *, name: str, about: str
) -> dict[str, str]:
    """Write what makes partitions a HATS catalog.

    Parameters
    ----------
    url : str
        Folder of the catalog, whose partitions are there.
    partitions : sequence of Partition
    schema : pa.Schema
        Of the partitions; units, UCDs and descriptions go into ``_common_metadata``.
    name, about : str
        Of the catalog.

    Returns
    -------
    dict of str to str
        SHA-256 of each object, by its key below `url`.

    Raises
    ------
    StoreError
        If the package hats is not installed, or a partition cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="scalespec-hats-") as folder:
        _collect(url, Path(folder), partitions, schema)
        _describe(Path(folder), partitions, name=name, about=about)
        hashes = {}
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                key = file.relative_to(folder).as_posix()
                data = file.read_bytes()
                paths.write_bytes(paths.join(url, key), data)
                hashes[key] = paths.sha256(data)
    return hashes


def _collect(url: str, folder: Path, partitions: Sequence[Partition], schema: pa.Schema) -> None:
    """Write ``_metadata``, the footers of all partitions, and ``_common_metadata``."""
    footers = []
    for one in partitions:
        with streams.opened(paths.join(url, one.key)) as source:
            footer = pq.read_metadata(source)
        footer.set_file_path(one.key.removeprefix("dataset/"))
        footers.append(footer)
    target = folder / "dataset"
    target.mkdir()
    pq.write_metadata(schema, target / "_metadata", metadata_collector=footers)
    told = {b"IVOA.VOTable-Parquet.version": b"1.0"}
    told |= {b"IVOA.VOTable-Parquet.content": votable.document(schema)}
    pq.write_metadata(schema.with_metadata(told), target / "_common_metadata")


def _describe(folder: Path, partitions: Sequence[Partition], *, name: str, about: str) -> None:
    try:
        from hats.catalog.dataset.table_properties import TableProperties
        from hats.catalog.partition_info import PartitionInfo
        from hats.pixel_math.healpix_pixel import HealpixPixel
    except ImportError as error:
        raise StoreError("formats = ['hats'] wants the package hats: pip install hats") from error
    rows = pq.read_metadata(folder / "dataset" / "_metadata").num_rows
    pixels = [HealpixPixel(one.order, one.pixel) for one in partitions]
    PartitionInfo.from_healpix(pixels).write_to_file(catalog_path=folder)
    facts: dict[str, Any] = {
        "obs_collection": name,
        "dataproduct_type": "object",
        "hats_nrows": rows,
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": INDEX,
        "hats_col_healpix_order": INDEX_ORDER,
        "hats_builder": "scalespec",
        "obs_description": about,
    }
    TableProperties(**facts).to_properties_file(folder)
