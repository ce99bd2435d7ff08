"""Positions, ids -> matches with label catalogs.

Catalog and spectra are each cut once into cells of the sky, the catalog with a margin around each,
and into cells of identifiers; a partition is a range of cells, matched by itself. Where ids exist
they come first; the sky is for rows that no id joined.
"""

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from scalespec.config import CrossmatchTable, RunConfig, digest
from scalespec.errors import ConfigError, StageError
from scalespec.plan import Block, BlockResult, Stage
from scalespec.stages import folders
from scalespec.stages.gather import gather
from scalespec.stages.ingest import read_index
from scalespec.stages.label_catalog import key_values
from scalespec.stages.label_units import with_stated_units
from scalespec.stages.match_notes import CONFLICTING, note_matches
from scalespec.stages.matches import Split, combine_matches
from scalespec.stages.matching import (
    ROWS_PER_PIECE,
    WIDEST_ARCSEC,
    CatalogEntries,
    choose_matches,
    margin_arcsec,
    match_partition,
    spectra_entries,
)
from scalespec.stages.merged import merge_catalogs
from scalespec.stages.partitions import (
    SKY_CELLS,
    Sorted,
    count_cells,
    plan_partitions,
    sorted_tables,
    write_sorted,
)
from scalespec.stages.standing import blocks_done
from scalespec.store import paths
from scalespec.store.batches import Piece, column_units, list_pieces
from scalespec.store.catalog import write_part
from scalespec.store.ledger import Ledger, read_json, write_json
from scalespec.store.spectra import read_spectra

CHOSEN_FROM = "chosen_from.json"
"""Beside mutual matches: names the pairs that they were chosen from."""


def spectra_rows(block: Block, raw_url: str, table: CrossmatchTable) -> pd.DataFrame:
    """Read what matching needs of one block of raw spectra.

    Returns
    -------
    pd.DataFrame
        row, obsid, ra, dec [deg], epoch [Julian year, NaN: undated], spectrum_snr, and ``id``,
        ``magnitude`` where the table wants them.

    Raises
    ------
    ConfigError
        If a column that the table names is none of ours.
    """
    store = paths.join(raw_url, "spectra.zarr")
    names = ("obsid", "source_id", "ra", "dec", "mjd", "status", "snr")
    scalars = read_spectra(store, block.start, block.stop, names=names)
    columns = {name: scalars[name].to_numpy() for name in names}
    wanted = {*table.key, *([table.magnitude.ours] if table.magnitude else [])}
    if wanted - set(names):
        index = read_index(raw_url, block)
        columns |= {str(name): index[name].to_numpy() for name in index}
        # Catalogs name a spectrum by its file, without folder and compression.
        columns["name"] = np.array(
            [file.rpartition("/")[2].removesuffix(".gz") for file in index["file"]]
        )
    if lacking := sorted(wanted - set(columns)):
        raise ConfigError(
            f"crossmatch: {lacking[0]!r} is no column of ours; there are {sorted(columns)}"
        )
    mjd = np.where(columns["mjd"] > 0, columns["mjd"], np.nan)  # undated: compared as listed
    made: dict[str, Any] = {"row": np.arange(block.start, block.stop), "obsid": columns["obsid"]}
    made |= {"ra": columns["ra"], "dec": columns["dec"], "spectrum_snr": columns["snr"]}
    made["epoch"] = 2000.0 + (mjd - 51544.5) / 365.25
    for ours in table.key:
        made["id"] = key_values(columns[ours], table)
    if table.magnitude:
        made["magnitude"] = np.asarray(columns[table.magnitude.ours], np.float64)
    return pd.DataFrame(made)


def crossmatch(config: RunConfig) -> Iterator[Stage]:
    """Per label catalog: cut it, match every block, and gather the matched spectra densely.

    Raises
    ------
    ConfigError
        If Gaia identifiers of two releases would be joined.
    StageError
        If a catalog cannot be cut, a partition or block not matched, or not gathered: rows without
        a match would not be told from rows that were never looked at.
    """
    for name, table in (config.crossmatch or {}).items():
        if table.sources:
            merge_catalogs(config, name)
        else:
            nobody = yield from _match_catalog(config, name, table)
            split = Split(table.training.fractions, config.run.seed)
            combine_matches(folders.matches_url(config, name), split, nobody)
        if config.preprocess is not None:
            for stage in gather(config, name):
                yield from _whole(name, stage)


def _match_catalog(
    config: RunConfig, name: str, table: CrossmatchTable
) -> Generator[Stage, None, pd.DataFrame]:
    """Yield the stages of one catalog; return a table of matches without a row."""
    raw, url = folders.raw_url(config), folders.matches_url(config, name)
    _check_release(raw, name, table)
    right_url, left_url = paths.join(url, "catalog"), paths.join(url, "spectra")
    yield from _whole(name, _catalog_stage(config, name, right_url))
    if not (blocks := blocks_done(config, raw)):
        raise StageError(f"{raw}: not one block of spectra is there to match: run ingest first")
    margin = _left_margin(right_url, table)
    yield from _whole(name, _spectra_stage(name, left_url, (raw, blocks, margin), table))
    left, right = sorted_tables(left_url, "cell"), sorted_tables(right_url, "cell")
    pairs_url = paths.join(url, "pairs", digest(left.keys))  # spectra that come later: all anew
    match_all = Stage(
        name=f"{name} pairs",
        url=pairs_url,
        blocks=plan_partitions(count_cells(left), count_cells(right)),
        read=partial(_read_partition, left=left, right=right),
        compute=partial(_match, table=table),
        write=partial(_write_pairs, url=pairs_url),
        runs_on="dask",
    )
    yield from _whole(name, match_all)
    if table.mode == "mutual":
        _forget_others(url, paths.split(pairs_url)[1])
    pairs = sorted_tables(pairs_url, "row")
    nobody = match_partition(left.read("cell", 0, 0), right.read("cell", 0, 0), table, by_id=False)
    choose = Stage(
        name=f"match {name}",
        url=url,
        blocks=blocks,
        read=partial(_read_pairs, pairs=pairs, nobody=nobody),
        compute=_choose,
        write=partial(_write_matches, url=url),
        runs_on="dask",
    )
    yield from _whole(name, choose)
    note_matches(name, table, url, (left, right))
    return nobody.drop(columns=CONFLICTING)


def _catalog_stage(config: RunConfig, name: str, url: str) -> Stage:
    table = (config.crossmatch or {})[name]
    pieces = list_pieces(table.catalog, ROWS_PER_PIECE)
    table = with_stated_units(name, table, column_units(table.catalog))
    return Stage(
        name=f"{name} catalog",
        url=url,
        blocks=[
            Block("row", i, piece.first, piece.first + max(piece.stop - piece.start, 0))
            for i, piece in enumerate(pieces)
        ],
        read=partial(_piece, pieces=pieces),
        compute=partial(_catalog_entries, table=table, numbers=config.numbers_of(name)),
        write=partial(_write_catalog_entries, url=url),
        runs_on="dask",
    )


def _spectra_stage(
    name: str, url: str, source: tuple[str, Sequence[Block], float], table: CrossmatchTable
) -> Stage:
    raw, blocks, margin = source
    return Stage(
        name=f"{name} spectra",
        url=url,
        blocks=blocks,
        read=partial(spectra_rows, raw_url=raw, table=table),
        compute=partial(_spectra_entries, table=table, margin=margin),
        write=partial(_write_spectra_entries, url=url),
        runs_on="dask",
    )


def _check_release(raw_url: str, name: str, table: CrossmatchTable) -> None:
    """Refuse Gaia ids of another release than the survey's."""
    if "source_id" not in table.key:
        return
    ours = read_spectra(paths.join(raw_url, "spectra.zarr"), 0, 0).attrs.get(
        "source_id_kind", "gaia_dr3"
    )
    if ours != table.key_kind:
        raise ConfigError(
            f"crossmatch.{name}: the survey's source_id is {ours}, "
            f"'{table.key['source_id']}' is {table.key_kind}: these ids are never joined; match on "
            "the sky"
        )


def _whole(name: str, stage: Stage) -> Iterator[Stage]:
    """Yield a stage, and go on only if none of its blocks failed: it would pass for no match."""
    yield stage
    if failures := Ledger(stage.url).failures():
        index, why = min(failures.items())
        raise StageError(
            f"{name}: {len(failures)} blocks of {stage.url} failed, block {index}: {why}; "
            "then run with --retry-failed"
        )


def _forget_others(url: str, pairs: str) -> None:
    """Take back the commits of mutual matches that were chosen from other pairs than these.

    A spectrum that comes late may be nearer to a star than the one that had it. The record of the
    pairs is written last, so that a kill in between does this again; the parts that no commit names
    are for `clean`.
    """
    record, ours = paths.join(url, CHOSEN_FROM), {"pairs": pairs}
    if paths.exists(record) and read_json(record) == ours:
        return
    for kind in ("commits", "failed"):
        paths.delete_tree(paths.join(url, kind))
    write_json(record, ours)


def _left_margin(url: str, table: CrossmatchTable) -> float:
    """Return the margin [arcsec] with which a right row sees all the spectra that it may match."""
    if table.mode != "mutual":
        return 0.0
    widest = max((r.counts["margin_mas"] for r in Ledger(url).commits().values()), default=0)
    return min(widest / 1000 + table.radius_arcsec, WIDEST_ARCSEC)


def _piece(block: Block, pieces: Sequence[Piece]) -> Piece:
    return pieces[block.index]


def _catalog_entries(
    _: None, piece: Piece, table: CrossmatchTable, numbers: frozenset[str]
) -> CatalogEntries:
    return CatalogEntries(piece, table, numbers)


def _write_catalog_entries(block: Block, entries: CatalogEntries, url: str) -> BlockResult:
    widest = 0.0

    def watched() -> Iterator[pd.DataFrame]:
        nonlocal widest
        for table in entries:
            widest = max(widest, margin_arcsec(table, entries.table).max(initial=0.0))
            yield table
        counts["margin_mas"] = int(np.ceil(widest * 1000))

    counts: dict[str, int] = {}
    return write_sorted(url, block, watched(), counts)


def _spectra_entries(
    _: None, rows: pd.DataFrame, table: CrossmatchTable, margin: float
) -> pd.DataFrame:
    return spectra_entries(rows, table, margin)


def _write_spectra_entries(block: Block, entries: pd.DataFrame, url: str) -> BlockResult:
    return write_sorted(url, block, [entries], {})


def _read_partition(
    block: Block, left: Sorted, right: Sorted
) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    sides = (side.read("cell", block.start, block.stop) for side in (left, right))
    return (*sides, block.start >= SKY_CELLS)


def _match(
    _: None, read: tuple[pd.DataFrame, pd.DataFrame, bool], table: CrossmatchTable
) -> pd.DataFrame:
    left, right, by_id = read
    return match_partition(left, right, table, by_id=by_id)


def _write_pairs(block: Block, pairs: pd.DataFrame, url: str) -> BlockResult:
    return write_sorted(url, block, [pairs], {"pairs": len(pairs)})


def _read_pairs(block: Block, pairs: Sorted, nobody: pd.DataFrame) -> pd.DataFrame:
    if not pairs.keys:
        return nobody
    return pairs.read("row", block.start, block.stop)


def _choose(_: None, pairs: pd.DataFrame) -> pd.DataFrame:
    return choose_matches(pairs)


def _write_matches(block: Block, matches: pd.DataFrame, url: str) -> BlockResult:
    best = matches[matches["rank"] == 0]
    counts = {"matched": len(best), "by_id": int(best["by_id"].sum())}
    counts["unmatched"] = block.size - len(best)
    if n := int(best[CONFLICTING].sum()):
        counts[CONFLICTING] = n
    kept = pa.Table.from_pandas(matches.drop(columns=CONFLICTING), preserve_index=False)
    return write_part(url, block, kept, counts=counts)
