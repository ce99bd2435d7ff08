"""Pairs of near points on the unit sphere, by cubes of space: no pole, no RA = 0, no tree.

Space is cut into cubes. The cube of a point is one integer, and the cubes along z that a ball
reaches are a range of integers: two bisections of a sorted array for each of the one to four
columns of cubes that it touches. Sorting and bisecting arrays takes half the time that a tree does.
"""

import numpy as np
import numpy.typing as npt

from scalespec.kernels.sky import ARCSEC

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_SIDE_IN_RADII = 4  # a ball reaches two cubes at most; larger ones hold more points to look at
_SMALLEST_SIDE = 2.0**-19  # 0.4 arcsec; the number of a cube then fits in 21 bits an axis
_CANDIDATES_AT_ONCE = 1 << 21  # bounds memory where fields are crowded


def pairs_within(
    left_xyz: FloatArray, right_xyz: FloatArray, radius_arcsec: float
) -> tuple[IntArray, IntArray]:
    """List all pairs of unit vectors within an angle and a hair more.

    Parameters
    ----------
    left_xyz, right_xyz : (n_left, 3), (n_right, 3) float64
        Unit vectors; rows of NaN are in no pair.
    radius_arcsec : float
        The angle.

    Returns
    -------
    left, right : (n_pair,) int64
        Rows, in no order; no pair twice.

    Examples
    --------
    >>> left, right = pairs_within(np.eye(3), np.eye(3)[::-1], 1.0)
    >>> sorted(zip(left.tolist(), right.tolist()))
    [(0, 2), (1, 1), (2, 0)]
    """
    # a hair more: the separation settles which pairs are in, not rounding of the chord
    chord = 2.0 * np.sin(min(radius_arcsec * ARCSEC / 2.0, np.pi / 2)) * (1 + 1e-9) + 1e-14
    if len(left_xyz) > len(right_xyz):  # the larger side is sorted, the smaller one looks it up
        right, left = _near(right_xyz, left_xyz, chord)
        return left, right
    return _near(left_xyz, right_xyz, chord)


def _near(
    asking_xyz: FloatArray, listed_xyz: FloatArray, chord: float
) -> tuple[IntArray, IntArray]:
    side = max(_SIDE_IN_RADII * chord, _SMALLEST_SIDE)
    listed, key = _by_cube(listed_xyz, _cubes(listed_xyz, side))
    low = _cubes(asking_xyz - chord, side)
    asking, _ = _by_cube(asking_xyz, low)  # bisections of neighbors share the cache
    low, high = low[asking], _cubes(asking_xyz[asking] + chord, side)
    found = [_candidates(low, high, key, column) for column in np.ndindex(2, 2)]
    place, first, count = (np.concatenate(parts) for parts in zip(*found, strict=True))
    ends = np.cumsum(count)
    pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for start in range(0, int(ends[-1]) if len(ends) else 0, _CANDIDATES_AT_ONCE):
        some = slice(*np.searchsorted(ends, (start, start + _CANDIDATES_AT_ONCE), side="right"))
        i = asking[np.repeat(place[some], count[some])]
        j = listed[_ranges(first[some], count[some])]
        x, y, z = (asking_xyz[i] - listed_xyz[j]).T
        near = x * x + y * y + z * z <= chord * chord
        pairs.append((i[near], j[near]))
    return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])


def _by_cube(xyz: FloatArray, cubes: IntArray) -> tuple[IntArray, IntArray]:
    """Rows that have a position, in the order of their cubes, and the numbers of these."""
    rows = np.flatnonzero(~np.isnan(xyz[:, 0]))
    key = _cube(cubes[rows])
    order = np.argsort(key)
    return rows[order], key[order]


def _cubes(xyz: FloatArray, side: float) -> IntArray:
    """(n, 3) numbers of cubes along each axis; not negative within a side of the sphere."""
    with np.errstate(invalid="ignore"):  # NaN: rows without a position are left out later
        return ((xyz + (1.0 + side)) * (1.0 / side)).astype(np.int64)


def _cube(xyz: IntArray) -> IntArray:
    return (xyz[:, 0] << 42) | (xyz[:, 1] << 21) | xyz[:, 2]


def _candidates(
    low: IntArray, high: IntArray, key: IntArray, column: tuple[int, ...]
) -> tuple[IntArray, IntArray, IntArray]:
    """Places of left rows whose ball reaches a column of cubes, and their ranges of right rows."""
    reaches = (high[:, :2] - low[:, :2] >= column).all(axis=1)
    place = np.flatnonzero(reaches)
    bottom = low[place]
    bottom[:, :2] += column
    base = _cube(bottom)
    first = np.searchsorted(key, base)
    top = base + (high[place, 2] - low[place, 2])
    some = np.flatnonzero(np.append(key, np.iinfo(np.int64).max)[first] <= top)
    place, first = place[some], first[some]
    return place, first, np.searchsorted(key, top[some], side="right") - first


def _ranges(first: IntArray, count: IntArray) -> IntArray:
    """Numbers ``first[i]``, ``first[i] + 1``, ... of each range, one after another."""
    return np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
