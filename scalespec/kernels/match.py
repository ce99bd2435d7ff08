"""Which rows of two tables are one star: positions in degrees (ICRS), separations in arcseconds."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from scalespec.kernels.sky import ARCSEC, moved_vectors, separation_arcsec, unit_vectors
from scalespec.kernels.where import as_text

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LARGEST_EXACT = 2**53  # whole numbers up to here survive float64


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows that may be one star, ordered by (left, rank); every field is ``(n_pair,)``.

    Attributes
    ----------
    left, right : int64
        Row of the left table, row of the right table.
    separation_arcsec : float64
        Angle between the two; NaN where they were joined by id.
    rank : int32
        0 for the left row's nearest, then 1, 2, ...; ties go by the right key, then the right row.
    n_candidates : int32
        How many right rows the left row has.
    mutual : bool
        Each is the other's nearest (for the right row, ties go by left row).
    """

    left: IntArray
    right: IntArray
    separation_arcsec: FloatArray
    rank: npt.NDArray[np.int32]
    n_candidates: npt.NDArray[np.int32]
    mutual: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Motion:
    """What it takes to look at each pair at the time of its left row.

    Attributes
    ----------
    pmra, pmdec : (n_right,) float [mas/yr]
        Proper motion of the right rows, `pmra` with its cos(dec); NaN is no motion.
    epoch : (n_right,) or scalar float [Julian year]
        When the right positions hold.
    left_epoch : (n_left,) or scalar float [Julian year]
        When the left positions hold; a NaN epoch, here or above, moves nothing.
    """

    pmra: npt.ArrayLike
    pmdec: npt.ArrayLike
    epoch: npt.ArrayLike
    left_epoch: npt.ArrayLike


def match_sky(
    left_ra: npt.ArrayLike,
    left_dec: npt.ArrayLike,
    right_ra: npt.ArrayLike,
    right_dec: npt.ArrayLike,
    *,
    radius_arcsec: float,
    right_key: npt.ArrayLike | None = None,
    motion: Motion | None = None,
) -> Pairs:
    """Find all pairs within a radius on the sky.

    The result does not depend on what else is in the tables, so matching in partitions (see
    `cells_with_margin`) gives the same pairs, separations and ranks to the last bit.

    Parameters
    ----------
    left_ra, left_dec : (n_left,) float [deg]
        Left positions; a row without a finite one matches nothing.
    right_ra, right_dec : (n_right,) float [deg]
        Right positions.
    radius_arcsec : float
        Largest separation, itself included; less than half the sphere.
    right_key : (n_right,) int or str, optional
        What orders right rows of equal separation (a source id); the row number by default.
    motion : Motion, optional
        Compare each pair at the left row's epoch, by the right row's proper motion.

    Returns
    -------
    Pairs

    Raises
    ------
    ValueError
        If the radius is not in (0, 324000).

    Examples
    --------
    >>> pairs = match_sky([359.9999], [0.0], [0.0001, 0.0, 5.0], [0.0, 0.0, 0.0], radius_arcsec=1.0)
    >>> pairs.right, pairs.separation_arcsec.round(4), pairs.rank
    (array([1, 0]), array([0.36, 0.72]), array([0, 1], dtype=int32))
    """
    if not 0 < radius_arcsec < 324_000:
        raise ValueError(f"radius_arcsec must be more than 0, less than 324000: {radius_arcsec}")
    left_xyz = unit_vectors(left_ra, left_dec)
    if motion is None:
        right_xyz = unit_vectors(right_ra, right_dec)
        left, right = _within(left_xyz, right_xyz, radius_arcsec)
        separation = separation_arcsec(left_xyz[left], right_xyz[right])
    else:
        track = _track(right_ra, right_dec, motion)
        left_epoch = np.broadcast_to(np.asarray(motion.left_epoch, float), len(left_xyz))
        left, right = _within_reach(left_xyz, left_epoch, track, radius_arcsec)
        separation = separation_arcsec(left_xyz[left], _at_epoch(track[:, right], left_epoch[left]))
    near = separation <= radius_arcsec
    return _ranked(left[near], right[near], separation[near], right_key)


def match_ids(
    left_id: npt.ArrayLike, right_id: npt.ArrayLike, *, right_key: npt.ArrayLike | None = None
) -> Pairs:
    """Join two tables by identifier; a repeated id gives every pair, ranked by the right key.

    Parameters
    ----------
    left_id, right_id : (n_left,), (n_right,) int or str
        Identifiers; -1 (any negative number), '', None and NaN match nothing. Floats are taken
        only where every one of them is a whole number that float64 holds exactly.
    right_key : (n_right,) int or str, optional
        What orders right rows of the same id; the row number by default.

    Returns
    -------
    Pairs
        With NaN separations.

    Raises
    ------
    ValueError
        If one side holds numbers and the other strings, or floats are not exact.

    Examples
    --------
    >>> pairs = match_ids([7, -1, 5], [5, 7, -1, 7])
    >>> pairs.left, pairs.right, pairs.rank
    (array([0, 0, 2]), array([1, 3, 0]), array([0, 1, 0], dtype=int32))
    """
    left_value, left_known = _identifiers(left_id)
    right_value, right_known = _identifiers(right_id)
    both = left_known.any() and right_known.any()
    if both and left_value.dtype.kind != right_value.dtype.kind:
        raise ValueError(
            f"ids are of two kinds, {left_value.dtype} left and {right_value.dtype} right: "
            "match a number with a number, a string with a string"
        )
    left_rows, right_rows = np.flatnonzero(left_known), np.flatnonzero(right_known)
    left_rows = left_rows[np.argsort(left_value[left_rows])]  # for the cache
    right_rows = right_rows[np.argsort(right_value[right_rows])]
    value, sorted_right = left_value[left_rows], right_value[right_rows]
    first = np.searchsorted(sorted_right, value, side="left")
    count = np.searchsorted(sorted_right, value, side="right") - first
    left = np.repeat(left_rows, count)
    within = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
    right = right_rows[np.repeat(first, count) + within]
    pairs = _ranked(left, right, np.zeros(len(left)), right_key)
    return replace(pairs, separation_arcsec=np.full(len(left), np.nan))


def best_pairs(pairs: Pairs) -> Pairs:
    """Keep each left row's nearest.

    Examples
    --------
    >>> best_pairs(match_ids([7], [7, 7])).right
    array([0])
    """
    best = pairs.rank == 0
    return Pairs(**{field.name: getattr(pairs, field.name)[best] for field in fields(Pairs)})


def split_by_star(
    star_id: npt.ArrayLike, *, fractions: tuple[float, float, float], seed: int
) -> npt.NDArray[np.uint8]:
    """Deal stars to training, validation and test by a hash of the star, never of the spectrum.

    Every spectrum of a star lands in one part, whatever other rows there are and in any order.

    Parameters
    ----------
    star_id : (n,) int
        Identifier of the star, >= 0.
    fractions : tuple of three floats
        Expected shares of training, validation and test; their sum is 1.
    seed : int
        Another seed deals anew.

    Returns
    -------
    (n,) uint8
        0 training, 1 validation, 2 test.

    Raises
    ------
    ValueError
        If an id is negative (all stars without an id would share one fate) or not an integer, or
        the fractions are negative or do not sum to 1.

    References
    ----------
    splitmix64: Steele, Lea & Flood 2014, OOPSLA, doi:10.1145/2660193.2660195.

    Examples
    --------
    >>> split_by_star([1, 2, 3, 1], fractions=(0.8, 0.1, 0.1), seed=1)
    array([2, 0, 0, 2], dtype=uint8)
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be >= 0 and sum to 1, got {fractions}")
    ids = np.asarray(star_id)
    if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0):
        raise ValueError(
            f"a star id is an integer >= 0, got {ids.dtype} with a least value of {ids.min()}: "
            "give stars without one an id of their own"
        )
    key = _splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    mixed = _splitmix64(ids.astype(np.uint64) ^ key)
    uniform = (mixed >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(np.cumsum(fractions[:2]), uniform, side="right").astype(np.uint8)


def _within(
    left_xyz: FloatArray, right_xyz: FloatArray, radius_arcsec: float
) -> tuple[IntArray, IntArray]:
    """All pairs within the radius and a hair more, in no order."""
    left = np.flatnonzero(np.isfinite(left_xyz).all(axis=1))
    right = np.flatnonzero(np.isfinite(right_xyz).all(axis=1))
    # a hair more: the separation settles which pairs are in, not rounding inside the tree
    chord = 2.0 * np.sin(min(radius_arcsec * ARCSEC / 2.0, np.pi / 2)) * (1 + 1e-9) + 1e-14
    trees = [
        cKDTree(points, leafsize=32, balanced_tree=False, compact_nodes=False)
        for points in (left_xyz[left], right_xyz[right])
    ]
    found = trees[0].sparse_distance_matrix(trees[1], chord, output_type="ndarray")
    return left[found["i"]], right[found["j"]]


def _track(ra: npt.ArrayLike, dec: npt.ArrayLike, motion: Motion) -> FloatArray:
    """Rows ra, dec, pmra, pmdec, epoch; an unknown motion is none."""
    values = (ra, dec, motion.pmra, motion.pmdec, motion.epoch)
    track = np.stack(np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in values)))
    track[2:4] = np.nan_to_num(track[2:4])
    return track


def _at_epoch(track: FloatArray, epoch: FloatArray | float) -> FloatArray:
    ra, dec, pmra, pmdec, since = track
    return moved_vectors(ra, dec, pmra, pmdec, epoch - since)


def _within_reach(
    left_xyz: FloatArray, left_epoch: FloatArray, track: FloatArray, radius_arcsec: float
) -> tuple[IntArray, IntArray]:
    """Pairs that may come within the radius at the left row's epoch."""
    dated = left_epoch[~np.isnan(left_epoch)]
    low, high = (dated.min(), dated.max()) if dated.size else (np.nan, np.nan)
    middle = (low + high) / 2
    years = np.full(track.shape[1], high - middle)
    if dated.size < left_epoch.size:  # undated left rows see the right ones where they are listed
        years = np.fmax(years, np.abs(middle - track[4]))
    reach = np.nan_to_num(np.hypot(track[2], track[3]) * years / 1000)
    right_xyz = _at_epoch(track, middle)
    fast = reach > radius_arcsec  # apart, so that one fast star does not widen the search for all
    found = []
    for rows in (np.flatnonzero(~fast), np.flatnonzero(fast)):
        furthest = radius_arcsec + reach[rows].max(initial=0.0)
        left, near = _within(left_xyz, right_xyz[rows], furthest)
        found.append((left, rows[near]))
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def _ranked(
    left: IntArray, right: IntArray, separation: FloatArray, right_key: npt.ArrayLike | None
) -> Pairs:
    """Put pairs in order and count them."""
    tie = right
    if right_key is not None:
        tie = np.unique(np.asarray(right_key)[right], return_inverse=True)[1]
    order = np.lexsort((right, tie, separation, left))
    left, right, separation = left[order], right[order], separation[order]
    start = _group_starts(left)
    count = np.diff(start, append=len(left))
    rank = np.arange(len(left)) - np.repeat(start, count)
    by_right = np.lexsort((separation, right))  # stable: ties stay in the order of left rows
    mutual = np.zeros(len(left), dtype=np.bool_)
    mutual[by_right[_group_starts(right[by_right])]] = True
    return Pairs(
        left=left,
        right=right,
        separation_arcsec=separation,
        rank=rank.astype(np.int32),
        n_candidates=np.repeat(count, count).astype(np.int32),
        mutual=mutual & (rank == 0),
    )


def _group_starts(ordered: IntArray) -> IntArray:
    return np.flatnonzero(np.diff(ordered, prepend=-1))


def _identifiers(values: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Ids as int64 or str, and which of them are ids at all."""
    ids = np.asarray(values)
    if ids.dtype.kind == "f":
        whole = np.isnan(ids) | ((ids == np.floor(ids)) & (np.abs(ids) <= _LARGEST_EXACT))
        if not whole.all():
            raise ValueError(f"{ids[~whole][0]} is no exact id: read the column as int64 or string")
        ids = np.where(np.isnan(ids), -1, ids)
    if ids.dtype.kind in "fiu":
        if ids.size and ids.max() > np.iinfo(np.int64).max:
            raise ValueError(f"an id must fit in int64, got {ids.max()}")
        ids = ids.astype(np.int64)
        return ids, ids >= 0
    text = np.strings.strip(as_text(ids))
    return text, text != ""


def _splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Output of the generator in that state; wraps around 2**64 on purpose."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
