"""The catalog's parts -> HATS: rows dealt to pixels of the sky, one file each, by any worker."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.config import digest
from scalespec.errors import StageError
from scalespec.kernels.sky import healpix_nested
from scalespec.plan import Block, BlockResult, Stage
from scalespec.stages.standing import refuse_failures
from scalespec.store import hats, paths, streams
from scalespec.store.catalog import MANIFEST, iterate_parts
from scalespec.store.ledger import Ledger, new_attempt, read_json, write_json

FOLDER = "hats"
"""Below the catalog's."""
PLAN = "plan.json"
"""In that folder: names the plan that its partitions and commits are of."""


@dataclass(frozen=True)
class HatsPlan:
    """Partitions of a catalog, in the order of the sky, and the parts that hold rows of each.

    Attributes
    ----------
    partitions : tuple of Partition
    sources : mapping of int to tuple of str
        Keys of the parts, by number of the partition.
    rows : int
        Rows that have a position: those of all partitions.
    """

    partitions: tuple[hats.Partition, ...]
    sources: Mapping[int, tuple[str, ...]]
    rows: int

    @property
    def name(self) -> str:
        """What tells this plan from one of other parts, or of other partitions."""
        return digest([(one.key, self.sources[i]) for i, one in enumerate(self.partitions)])


def plan_hats(url: str, rows: int) -> HatsPlan:
    """Return the partitions, of `rows` rows at most, of the catalog whose parts lie at `url`."""
    cells = [_cells(table) for table in iterate_parts(url, ["ra", "dec"])]
    counts = np.zeros(12 * 4**hats.HIGHEST_ORDER, np.int64)
    for part in cells:
        counts += np.bincount(part, minlength=len(counts))
    partitions = hats.plan_partitions(counts, rows)
    shift = 2 * (hats.INDEX_ORDER - hats.HIGHEST_ORDER)
    starts = np.array([one.reach[0] >> shift for one in partitions], np.int64)
    keys = [_part_key(result) for _, result in sorted(Ledger(url).commits().items())]
    sources: dict[int, list[str]] = {i: [] for i in range(len(partitions))}
    for key, part in zip(keys, cells, strict=True):
        for index in np.unique(np.searchsorted(starts, part, side="right") - 1).tolist():
            sources[index].append(key)
    made_of = {index: tuple(found) for index, found in sources.items()}
    return HatsPlan(tuple(partitions), made_of, int(counts.sum()))


def make_room(url: str, plan: HatsPlan) -> None:
    """Remove the partitions of another plan from the catalog at `url`, and their commits.

    Commits know a partition by its number alone, and a block that is fitted late changes what rows
    a partition holds, or all partitions. The plan's record is written last, so that a kill in
    between does this again; the manifest was gone before.
    """
    target = paths.join(url, FOLDER)
    record, ours = paths.join(target, PLAN), {"plan": plan.name}
    if paths.exists(record) and read_json(record) == ours:
        return
    paths.delete_tree(target)
    write_json(record, ours)


def hats_stage(url: str, plan: HatsPlan, columns: Sequence[str] | None) -> Stage:
    """Return the stage that writes the partitions of a catalog.

    Parameters
    ----------
    url : str
        The catalog's folder, whose parts are there.
    plan : HatsPlan
    columns : sequence of str, optional
        Columns of the catalog; all of them if not given. Rows without a position are left out.
    """
    target = paths.join(url, FOLDER)
    kept = None if columns is None else list(dict.fromkeys(["row", "ra", "dec", *columns]))
    return Stage(
        name="publish hats",
        url=target,
        blocks=[Block("healpix", i, *one.reach) for i, one in enumerate(plan.partitions)],
        read=partial(_read, url=url, sources=plan.sources, columns=kept),
        compute=_whole,
        write=partial(_write, url=target, partitions=plan.partitions),
        runs_on="dask",
    )


def _part_key(result: BlockResult) -> str:
    return next(key for key in result.objects if key.startswith("parts/"))


def _placed(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows have a position."""
    ra, dec = (np.isfinite(table[name].to_numpy()) for name in ("ra", "dec"))
    return np.asarray(ra & dec)


def _cells(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the pixels of rows that have a position."""
    ra, dec = (table[name].to_numpy() for name in ("ra", "dec"))
    placed = _placed(table)
    return np.asarray(healpix_nested(ra[placed], dec[placed], hats.HIGHEST_ORDER), np.int64)


def _read(
    block: Block, url: str, sources: Mapping[int, tuple[str, ...]], columns: list[str] | None
) -> pa.Table:
    """Read the rows of a partition from the parts that hold some."""

    def pieces() -> Iterator[pa.Table]:
        for key in sources[block.index]:
            data = paths.read_bytes(paths.join(url, key))
            table = _indexed(pq.read_table(io.BytesIO(data), columns=columns))
            cell = table[hats.INDEX].to_numpy()
            yield table.filter(pa.array((cell >= block.start) & (cell < block.stop)))

    return pa.concat_tables(pieces())


def _indexed(table: pa.Table) -> pa.Table:
    """Put the pixel of order 29 before the other columns; leave out rows without a position."""
    ra, dec = (table[name].to_numpy() for name in ("ra", "dec"))
    placed = _placed(table)
    index = healpix_nested(ra[placed], dec[placed], hats.INDEX_ORDER).astype(np.int64)
    about = {"unit": "", "ucd": "", "description": "HEALPix pixel of order 29, nested, ICRS"}
    field = pa.field(hats.INDEX, pa.int64(), metadata=about)
    return table.filter(pa.array(placed)).add_column(0, field, pa.array(index))


def _whole(_: None, table: pa.Table) -> pa.Table:
    return table


def _write(
    block: Block, table: pa.Table, url: str, partitions: Sequence[hats.Partition]
) -> BlockResult:
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    key, sha256 = hats.write_partition(url, partitions[block.index], table)
    result = BlockResult(table.num_rows, {key: sha256}, {"rows": table.num_rows}, new_attempt())
    return ledger.commit(block, result)


def finish_hats(url: str, plan: HatsPlan, *, name: str, about: str) -> dict[str, str]:
    """Write what makes the partitions a HATS catalog.

    Returns
    -------
    dict of str to str
        SHA-256 of its objects, by name below `url`.

    Raises
    ------
    StageError
        If a partition failed, or rows are lacking: a catalog of part of the sky would look whole.
    """
    target = paths.join(url, FOLDER)
    refuse_failures(target, unit="partition")
    commits = Ledger(target).commits().values()
    if (rows := sum(one.rows for one in commits)) != plan.rows:  # a worker of another plan
        paths.delete(paths.join(target, PLAN))  # so that the next run makes room
        raise StageError(
            f"{target}: its partitions hold {rows} rows, {plan.rows} have a position; "
            "run again: they are made anew"
        )
    hashes = {key: sha for one in commits for key, sha in one.objects.items()}
    with streams.opened(paths.join(target, plan.partitions[0].key)) as source:
        schema = pq.read_schema(source)
    hashes |= hats.write_properties(target, plan.partitions, schema, name=name, about=about)
    return {f"{FOLDER}/{key}": sha for key, sha in sorted(hashes.items())}


def verify_hats(url: str) -> list[str]:
    """Say so if the HATS form of the catalog at `url` does not hold every row that has a position.

    Of partitions, and of the metadata that readers know them by, only footers are read.

    Raises
    ------
    StoreError
        If there is no complete catalog, or something cannot be read.
    """
    target = paths.join(url, FOLDER)
    keys = [key for key in read_json(paths.join(url, MANIFEST))["objects"] if _is_partition(key)]
    if not keys:
        return []
    counted = {
        f"{len(keys)} partitions": sum(_rows(paths.join(url, paths.below(key))) for key in keys),
        "dataset/_metadata": _rows(paths.join(target, "dataset", "_metadata")),
    }
    parts = iterate_parts(url, ["ra", "dec"])
    placed = sum(np.count_nonzero(_placed(table)) for table in parts)
    return [
        f"{target}: {rows} rows in {where}, {placed} of the catalog have a position: `scalespec "
        "verify --mend` withdraws them, and the next run makes them anew"
        for where, rows in counted.items()
        if rows != placed
    ]


def _is_partition(key: str) -> bool:
    return key.startswith(f"{FOLDER}/") and "/Npix=" in key


def _rows(url: str) -> int:
    with streams.opened(url) as source:
        return int(pq.read_metadata(source).num_rows)


def withdraw_hats(url: str) -> None:
    """Let the next run make all partitions of the catalog at `url` anew, whatever is committed."""
    paths.delete(paths.join(url, FOLDER, PLAN))
