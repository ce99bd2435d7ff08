"""Matching in memory: spectra and a label catalog's rows, by cells, as pairs with labels."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from scalespec.config import CrossmatchTable
from scalespec.kernels.match import Brightness, Motion, match_ids, match_sky, select_pairs
from scalespec.stages.label_catalog import iterate_catalog
from scalespec.stages.partitions import id_entries, sky_entries
from scalespec.store.batches import Piece

log = logging.getLogger(__name__)

ROWS_PER_PIECE = 1 << 18
"""Rows of a label catalog that a worker has in memory while it cuts them into cells."""
OBSERVED = (2000.0, 2040.0)
"""Years in which spectra are taken: bounds how far a star may have moved from its catalog place."""
WIDEST_ARCSEC = 490.0
"""Widest margin of a cell."""
NO_LABELS = (
    "right",
    "tie",
    "cell",
    "own",
    "ra",
    "dec",
    "pmra",
    "pmdec",
    "epoch",
    "magnitude",
    "id",
)
"""Columns of a catalog's entries that no match keeps."""


@dataclass(frozen=True)
class CatalogEntries:
    """A piece of a label catalog, cut into cells each time it is iterated."""

    piece: Piece
    table: CrossmatchTable
    numbers: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """Yield tables of some hundred thousand rows."""
        for rows in iterate_catalog(self.piece, self.table, ROWS_PER_PIECE, self.numbers):
            yield catalog_entries(rows, self.table)


def catalog_entries(rows: pd.DataFrame, table: CrossmatchTable) -> pd.DataFrame:
    """Put rows of a label catalog into their cells, on the sky with a margin and by id."""
    parts = [rows.iloc[:0].assign(cell=np.zeros(0, np.int64), own=np.zeros(0, bool))]
    if table.ra:
        parts.append(sky_entries(rows, margin_arcsec(rows, table)))
    if table.key:
        parts.append(id_entries(rows))
    return pd.concat(parts, ignore_index=True)


def margin_arcsec(rows: pd.DataFrame, table: CrossmatchTable) -> npt.NDArray[np.float64]:
    """Return how far from its place each row of a catalog may match: radius and proper motion."""
    motion = np.hypot(*np.nan_to_num(rows[["pmra", "pmdec"]].to_numpy()).T) / 1000
    epoch = rows["epoch"].to_numpy()
    years = np.nan_to_num(np.maximum(abs(epoch - OBSERVED[0]), abs(epoch - OBSERVED[1])))
    margin = table.radius_arcsec + motion * years
    if beyond := int(np.sum(margin > WIDEST_ARCSEC)):
        log.warning("%s: %d stars move so far that only those of their path within %g arcsec of a "
                    "cell's edge are looked for", table.catalog, beyond, WIDEST_ARCSEC)  # fmt: skip
    limited: npt.NDArray[np.float64] = np.minimum(margin, WIDEST_ARCSEC)
    return limited


def spectra_entries(rows: pd.DataFrame, table: CrossmatchTable, margin: float) -> pd.DataFrame:
    """Put spectra into their cells; with a margin [arcsec] where matches are to be mutual."""
    parts = [rows.iloc[:0].assign(cell=np.zeros(0, np.int64), own=np.zeros(0, bool))]
    if table.ra:
        parts.append(sky_entries(rows, margin))
    if table.key:
        parts.append(id_entries(rows))
    return pd.concat(parts, ignore_index=True)


def match_partition(
    left: pd.DataFrame, right: pd.DataFrame, table: CrossmatchTable, *, by_id: bool
) -> pd.DataFrame:
    """Match the spectra and the catalog's rows of one range of cells.

    Parameters
    ----------
    left, right : pd.DataFrame
        Entries of `spectra_entries` and `catalog_entries`.
    table : CrossmatchTable
    by_id : bool
        Whether these are cells of identifiers.

    Returns
    -------
    pd.DataFrame
        One row per pair: row, obsid, spectrum_snr, right, separation_arcsec (NaN by id), rank,
        n_candidates, mutual, by_id, conflicting (its id is that of rows with other labels, too),
        star, and the catalog's labels.
    """
    # A row near an edge is there once per cell: its own entry goes before those of its guests.
    left = left.sort_values(["row", "own"], ascending=[True, False], kind="stable")
    left = left.drop_duplicates("row").reset_index(drop=True)
    right = right.drop_duplicates("right").sort_values("right").reset_index(drop=True)
    tie = right["tie"].to_numpy()
    if by_id:
        pairs = match_ids(left["id"].to_numpy(), right["id"].to_numpy(), right_key=tie)
    else:
        motion = Motion(right["pmra"], right["pmdec"], right["epoch"], left["epoch"])
        pairs = match_sky(
            left["ra"],
            left["dec"],
            right["ra"],
            right["dec"],
            radius_arcsec=table.radius_arcsec,
            right_key=tie,
            motion=motion,
            brightness=_brightness(left, right, table),
        )
    pairs = select_pairs(pairs, table.mode)
    home = left["own"].to_numpy()[pairs.left]
    labels = right.drop(columns=[name for name in NO_LABELS if name in right])
    places = left.iloc[pairs.left[home]].reset_index(drop=True)
    found = {
        "separation_arcsec": pairs.separation_arcsec[home].astype(np.float32),
        "rank": pairs.rank[home],
        "n_candidates": pairs.n_candidates[home],
        "by_id": by_id,
        "mutual": pairs.mutual[home],
        "right": right["right"].to_numpy()[pairs.right[home]],
        "conflicting": _conflicting(right, labels, by_id=by_id)[pairs.right[home]],
    }
    beside = labels.iloc[pairs.right[home]].reset_index(drop=True)
    known = places[["row", "obsid", "spectrum_snr"]].assign(**found)
    matched: pd.DataFrame = pd.concat([known, beside], axis=1)
    return matched


def _conflicting(
    right: pd.DataFrame, labels: pd.DataFrame, *, by_id: bool
) -> npt.NDArray[np.bool_]:
    """Return which rows of a catalog have the id of others that know another label."""
    found = np.zeros(len(right), bool)
    if not by_id:
        return found
    twice = np.flatnonzero(right.duplicated("id", keep=False))
    known = labels.drop(columns="star").iloc[twice].groupby(right["id"].to_numpy()[twice])
    if known.ngroups and labels.shape[1] > 1:
        found[twice] = (known.transform("nunique") > 1).any(axis=1)
    return found


def _brightness(
    left: pd.DataFrame, right: pd.DataFrame, table: CrossmatchTable
) -> Brightness | None:
    if table.magnitude is None:
        return None
    return Brightness(left["magnitude"], right["magnitude"], table.magnitude.tolerance)


def choose_matches(pairs: pd.DataFrame) -> pd.DataFrame:
    """Keep the matches by id of rows that have any, else those on the sky; by row, then rank."""
    joined = pairs.loc[pairs["by_id"], "row"]
    chosen: pd.DataFrame = pairs[pairs["by_id"] | ~pairs["row"].isin(joined)]
    if "conflicting" not in chosen or chosen["conflicting"].dtype != bool:  # of an older version
        known = chosen.get("conflicting", pd.Series(False, chosen.index))
        chosen = chosen.assign(conflicting=known.eq(True))
    return chosen.sort_values(["row", "rank"], kind="stable").reset_index(drop=True)


def repeats(matches: pd.DataFrame) -> pd.DataFrame:
    """Group the spectra of stars that have several.

    Returns
    -------
    pd.DataFrame
        star, n_spectra, star_rank (0: the highest S/N; ties by row), row, obsid, snr,
        separation_arcsec; ordered by star, then star_rank.
    """
    snr = matches["spectrum_snr"]
    named = matches[["star", "row", "obsid", "separation_arcsec"]].assign(snr=snr)
    ordered = named.sort_values(["star", "snr", "row"], ascending=[True, False, True])
    star = ordered.groupby("star")["row"]
    made = ordered.assign(n_spectra=star.transform("size"), star_rank=star.cumcount())
    columns = ["star", "n_spectra", "star_rank", "row", "obsid", "snr", "separation_arcsec"]
    grouped: pd.DataFrame = made.loc[made["n_spectra"] > 1, columns].reset_index(drop=True)
    return grouped
