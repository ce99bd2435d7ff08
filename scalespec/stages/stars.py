"""What calibration knows of each star, block by block, and the join that brings them together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalespec.config import CalibrateTable, RunConfig
from scalespec.errors import ConfigError
from scalespec.kernels.ids import identifiers
from scalespec.kernels.where import columns_in, where
from scalespec.plan import Block, BlockResult
from scalespec.stages import folders
from scalespec.stages.columns import label_names
from scalespec.stages.ingest import read_index
from scalespec.stages.label_catalog import star_hash
from scalespec.stages.samples import Rows
from scalespec.store import paths
from scalespec.store.batches import iterate_piece, list_pieces
from scalespec.store.catalog import (
    iterate_parts,
    read_part,
    read_row_range,
    read_schema,
    write_part,
)
from scalespec.store.joined import write_tables
from scalespec.store.ledger import write_json
from scalespec.store.spectra import read_spectra
from scalespec.store.stars import StarTable, opened_stars
from scalespec.store.tables import read_table

Array = npt.NDArray[Any]
Known = tuple[pa.Table, dict[str, Array], dict[str, pa.Table]]
"""A block's fit, its spectra's S/N and stars, and its matches by catalog."""

PIECE_ROWS = 262_144
"""Listed pairs in memory at a time."""
WIDTHS = ("vsini", "lsf")
"""What a fit may have beside labels, with an error each."""


@dataclass(frozen=True)
class Sources:
    """What stars are read from, found once: to name a folder, whole tables upstream are read.

    Attributes
    ----------
    store, best : str
        The store of spectra, the folder of fits.
    columns : tuple of str
        Those of the fit that are read.
    star_id, raw : str
        What identifies a star, and the folder of raw spectra that knows it; "" if the store does.
    matches : mapping of str to str
        Each reference's table.
    """

    store: str
    best: str
    columns: tuple[str, ...]
    star_id: str = "source_id"
    raw: str = ""
    matches: Mapping[str, str] = field(default_factory=dict)


def star_sources(config: RunConfig, table: CalibrateTable, labels: Iterable[str]) -> Sources:
    """Return what the stars of a run are read from.

    Raises
    ------
    ConfigError
        If the fit lacks a label by which trends are told.
    """
    best = folders.best_url(config)
    names = read_schema(best).names
    if lacking := [name for name in ("teff", "logg") if name not in names]:
        raise ConfigError(f"calibrate: the model has no {lacking}, by which trends are told")
    bits = [n for n in ("at_bound", "prior_dominated") if n in names]
    errors = (f"{name}_err" for name in labels)
    wanted = dict.fromkeys([*label_names(names), "teff", "logg", *labels, *errors])
    return Sources(
        store=folders.spectra_store(config),
        best=best,
        columns=("row", "fit_status", *bits, *wanted),
        star_id=table.star_id,
        raw=folders.raw_url(config) if table.star_id != "source_id" else "",
        matches={
            name: paths.join(folders.matches_url(config, name), "matches.parquet")
            for name in table.references
        },
    )


def read_stars(block: Block, sources: Sources) -> Known:
    """Read a block's fit, its stars' identifiers and S/N, and what references say."""
    best = read_part(sources.best, block, columns=sources.columns)
    scalars = read_spectra(sources.store, block.start, block.stop, names=("snr", "source_id"))
    ids = scalars["source_id"].to_numpy()
    if sources.raw:
        star_id, index = sources.star_id, read_index(sources.raw, block)
        if star_id not in index:
            raise ConfigError(f"calibrate.star_id: no column {star_id!r}, only {list(index)}")
        ids = index[star_id].to_numpy()
    matches = {name: read_row_range(url, block) for name, url in sources.matches.items()}
    return best, {"snr": scalars["snr"].to_numpy(), "star": star_numbers(ids)}, matches


def star_numbers(ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return identifiers as int64 that join: numbers as they are, text by its hash; -1 for none.

    Examples
    --------
    >>> star_numbers([12, -1, 0])
    array([12, -1, -1])
    """
    known, there = identifiers(ids)
    if known.dtype.kind == "i":
        return np.where(known > 0, known, -1)
    return np.where(there, star_hash(known), -1)


def block_stars(
    _: None,
    data: Known,
    labels: tuple[str, ...],
) -> pa.Table:
    """Return the trusted labels of a block's good stars, and what references say of them.

    Returns
    -------
    pa.Table
        row, star, snr, teff, logg; ``value:<label>`` and ``<reference>:<label>``, each with its
        error; NaN where unknown or not to be trusted.
    """
    best, known, matches = data
    columns = {name: best[name].to_numpy() for name in best.column_names}
    rows = Rows(columns, fitted_labels(best.column_names))
    made: dict[str, Array] = {"row": columns["row"], **known}
    # An unknown star is one of its own: it pairs with none and repeats none.
    made["star"] = np.where(known["star"] > 0, known["star"], -1 - columns["row"])
    for name in ("teff", "logg"):
        made[name] = np.where(rows.good, columns[name], np.nan).astype(np.float32)
    for name in labels:
        trusted = rows.trusted(name)
        for column in (name, f"{name}_err"):
            made[f"value:{column}"] = np.where(trusted, columns[column], np.nan).astype(np.float32)
    for name, table in matches.items():
        made |= _referred(name, table, columns["row"], labels)
    return pa.table({n: pa.array(v) for n, v in made.items()}).filter(pa.array(rows.good))


def fitted_labels(names: Sequence[str]) -> list[str]:
    """Return the labels of a fit's columns, in the order in which bits count them."""
    return [name for name in label_names(names) if name not in WIDTHS]


def _referred(
    name: str, table: pa.Table, rows: npt.NDArray[np.int64], labels: tuple[str, ...]
) -> dict[str, Array]:
    place = table["row"].to_numpy() - (rows[0] if len(rows) else 0)
    made = {}
    for label in labels:
        for column in (label, f"{label}_err"):
            values = np.full(len(rows), np.nan, np.float32)
            if column in table.column_names:
                values[place] = table[column].to_numpy()
            made[f"{name}:{column}"] = values
    return made


def write_stars(block: Block, stars: pa.Table, url: str) -> BlockResult:
    """Store one block's stars, then commit it."""
    return write_part(url, block, stars, counts={"good": stars.num_rows})


def join_stars(url: str, table: CalibrateTable) -> None:
    """Join the blocks' stars with pairs, with each other, with references and cluster members.

    Written below `url`: ``pairs.parquet``, ``repeats.parquet``, ``references.parquet``, and
    ``clusters.parquet`` where there are clusters; what stands is left alone.
    """
    marker = paths.join(url, "joined.json")
    if paths.exists(marker):
        return
    rows = {}
    with opened_stars(iterate_parts(paths.join(url, "stars"))) as stars:
        if table.pairs is not None:
            rows["pairs"] = write_tables(
                paths.join(url, "pairs.parquet"), stars.pairs(_listed(table))
            )
        rows["repeats"] = write_tables(paths.join(url, "repeats.parquet"), stars.repeats())
        if table.clusters is not None:
            rows["clusters"] = write_tables(
                paths.join(url, "clusters.parquet"), _members(stars, table)
            )
    parts = iterate_parts(paths.join(url, "stars"))
    rows["references"] = write_tables(
        paths.join(url, "references.parquet"), map(_with_reference, parts)
    )
    write_json(marker, rows)


def _listed(table: CalibrateTable) -> Iterator[pa.Table]:
    """Yield the identifiers of the catalog's pairs."""
    pairs = table.pairs
    if pairs is None:
        return
    columns = [pairs.id_1, pairs.id_2, *columns_in(pairs.where or "0 == 0")]
    for piece in list_pieces(pairs.catalog, PIECE_ROWS):
        for part in iterate_piece(piece, list(dict.fromkeys(columns)), PIECE_ROWS):
            keep = where(pairs.where, part) if pairs.where else np.ones(len(part[pairs.id_1]), bool)
            ids = [star_numbers(part[name][keep]) for name in (pairs.id_1, pairs.id_2)]
            yield pa.table({"id_1": ids[0], "id_2": ids[1]})


def _members(stars: StarTable, table: CalibrateTable) -> Iterator[pa.Table]:
    """Yield the spectra of cluster members, with the name of their cluster."""
    clusters = table.clusters
    if clusters is None:
        return
    found = read_table(clusters.catalog, [clusters.id, clusters.name])
    members = {
        "star": star_numbers(found[clusters.id]),
        "cluster": found[clusters.name].astype(str),
    }
    yield from stars.members(pa.table(members))


def _with_reference(stars: pa.Table) -> pa.Table:
    known = np.zeros(stars.num_rows, bool)
    for name in stars.column_names:
        if ":" in name and not name.startswith("value:"):
            known |= np.isfinite(stars[name].to_numpy())
    return stars.filter(pa.array(known))
