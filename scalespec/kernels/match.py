"""Which rows of two tables are one star: positions in degrees (ICRS), separations in arcseconds."""

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from scalespec.kernels.cubes import pairs_within
from scalespec.kernels.ids import identifiers
from scalespec.kernels.sky import moved_vectors, separation_arcsec, unit_vectors

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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


@dataclass(frozen=True)
class Brightness:
    """What it takes to leave out pairs of different brightness.

    Attributes
    ----------
    left, right : (n_left,), (n_right,) float [mag]
        Magnitudes in bands near to each other; NaN contradicts nothing.
    tolerance : float [mag]
        Greatest difference of a pair.
    """

    left: npt.ArrayLike
    right: npt.ArrayLike
    tolerance: float


def match_sky(
    left_ra: npt.ArrayLike,
    left_dec: npt.ArrayLike,
    right_ra: npt.ArrayLike,
    right_dec: npt.ArrayLike,
    *,
    radius_arcsec: float,
    right_key: npt.ArrayLike | None = None,
    motion: Motion | None = None,
    brightness: Brightness | None = None,
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
    brightness : Brightness, optional
        Pairs that differ by more in magnitude are no candidates.

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
        left, right = pairs_within(left_xyz, right_xyz, radius_arcsec)
        separation = separation_arcsec(left_xyz[left], right_xyz[right])
    else:
        track = _track(right_ra, right_dec, motion)
        left_epoch = np.broadcast_to(np.asarray(motion.left_epoch, float), len(left_xyz))
        left, right = _within_reach(left_xyz, left_epoch, track, radius_arcsec)
        separation = separation_arcsec(left_xyz[left], _at_epoch(track[:, right], left_epoch[left]))
    near = separation <= radius_arcsec
    if brightness is not None:
        left_mag, right_mag = (np.asarray(m, float) for m in (brightness.left, brightness.right))
        near &= ~(np.abs(left_mag[left] - right_mag[right]) > brightness.tolerance)
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
    left_value, left_known = identifiers(left_id)
    right_value, right_known = identifiers(right_id)
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


def select_pairs(pairs: Pairs, mode: Literal["best", "all", "mutual"]) -> Pairs:
    """Keep each left row's nearest, only those that are each other's nearest, or all.

    Examples
    --------
    >>> pairs = match_ids([7, 7], [7, 7])
    >>> [len(select_pairs(pairs, mode).left) for mode in ("best", "all", "mutual")]
    [2, 4, 1]
    """
    chosen = {"best": pairs.rank == 0, "mutual": pairs.mutual}.get(mode)
    if chosen is None:
        return pairs
    return Pairs(**{field.name: getattr(pairs, field.name)[chosen] for field in fields(Pairs)})


def best_pairs(pairs: Pairs) -> Pairs:
    """Keep each left row's nearest.

    Examples
    --------
    >>> best_pairs(match_ids([7], [7, 7])).right
    array([0])
    """
    return select_pairs(pairs, "best")


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
    key = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    mixed = splitmix64(ids.astype(np.uint64) ^ key)
    uniform = (mixed >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(np.cumsum(fractions[:2]), uniform, side="right").astype(np.uint8)


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
    for rows in filter(len, (np.flatnonzero(~fast), np.flatnonzero(fast))):
        furthest = radius_arcsec + reach[rows].max(initial=0.0)
        left, near = pairs_within(left_xyz, right_xyz[rows], furthest)
        found.append((left, rows[near]))
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *(f[0] for f in found)]), np.concatenate(
        [none, *(f[1] for f in found)]
    )


def _ranked(
    left: IntArray, right: IntArray, separation: FloatArray, right_key: npt.ArrayLike | None
) -> Pairs:
    """Put pairs in order and count them."""
    order = np.argsort(left, kind="stable")
    left, right, separation = left[order], right[order], separation[order]
    start = _group_starts(left)
    count = np.diff(start, append=len(left))
    size = np.repeat(count, count)
    several = np.flatnonzero(size > 1)  # most rows have one candidate: only the others need order
    tie = right[several]
    if right_key is not None:
        tie = np.unique(np.asarray(right_key)[tie], return_inverse=True)[1]
    inside = several[np.lexsort((right[several], tie, separation[several], left[several]))]
    right[several], separation[several] = right[inside], separation[inside]
    rank = np.arange(len(left)) - np.repeat(start, count)
    return Pairs(
        left=left,
        right=right,
        separation_arcsec=separation,
        rank=rank.astype(np.int32),
        n_candidates=size.astype(np.int32),
        mutual=_nearest_of_right(right, separation) & (rank == 0),
    )


def _nearest_of_right(right: IntArray, separation: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether a pair, of those ordered by left row, is its right row's nearest."""
    nearest = np.ones(len(right), dtype=np.bool_)
    shared = np.flatnonzero(np.bincount(right)[right] > 1) if len(right) else right
    order = shared[np.lexsort((separation[shared], right[shared]))]  # stable: ties by left row
    nearest[shared] = False
    nearest[order[_group_starts(right[order])]] = True
    return nearest


def _group_starts(ordered: IntArray) -> IntArray:
    return np.flatnonzero(np.diff(ordered, prepend=-1))


def splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the output of the generator splitmix64 in each state: a hash of 64 bits.

    Examples
    --------
    >>> splitmix64(np.array([1234567], np.uint64))
    array([6457827717110365317], dtype=uint64)
    """
    # wraps around 2**64 on purpose
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
