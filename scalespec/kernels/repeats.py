"""What stars observed twice say of velocities: their scatter, and zero points of plates. km/s."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import splu

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

HUBER = 1.345
"""Where residuals, in σ, begin to count less: 95 % efficient for a Gaussian (Huber 1981)."""
COLUMNS_AT_ONCE = 256
"""Of an inverse whose diagonal alone is kept."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of one star's observations, each with its next in time or in the order given.

    Attributes
    ----------
    first, second : (n_pair,) int64
        Rows.
    difference : (n_pair,) float64
        Value of `second` less that of `first`.
    error : (n_pair,) float64
        √(err₁² + err₂²).
    """

    first: IntArray
    second: IntArray
    difference: FloatArray
    error: FloatArray


def repeat_pairs(star: IntArray, value: FloatArray, error: FloatArray) -> Pairs:
    """Pair each observation of a star with its next.

    Parameters
    ----------
    star : (n,) int
        Which star each row observed; negative: unknown.
    value, error : (n,) float
        Rows where either is not finite, or the error not positive, take no part.

    Examples
    --------
    >>> pairs = repeat_pairs(np.array([5, 7, 5]), np.array([1.0, 2.0, 4.0]), np.ones(3))
    >>> pairs.first, pairs.second, pairs.difference
    (array([0]), array([2]), array([3.]))
    """
    usable = (star >= 0) & np.isfinite(value) & np.isfinite(error) & (error > 0)
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(star[rows], kind="stable")]
    same = star[rows[1:]] == star[rows[:-1]]
    first, second = rows[:-1][same], rows[1:][same]
    return Pairs(
        first,
        second,
        (value[second] - value[first]).astype(np.float64),
        np.hypot(error[second], error[first]).astype(np.float64),
    )


def robust_scatter(difference: FloatArray) -> float:
    """Return 1.4826 times the median absolute difference from the median; NaN of nothing.

    Examples
    --------
    >>> round(robust_scatter(np.array([-1.0, 0.0, 1.0, 50.0])), 3)
    1.483
    """
    if not difference.size:
        return float("nan")
    return float(1.4826 * np.median(np.abs(difference - np.median(difference))))


def plate_zero_points(
    rv: FloatArray, rv_err: FloatArray, star: IntArray, plate: IntArray, *, rounds: int = 20
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Find by how much each plate's velocities are off, from stars observed on several.

    Each observation is its star's velocity plus its plate's zero point; stars whose velocity
    changes count less, by Huber's weights.

    Parameters
    ----------
    rv, rv_err : (n,) float [km/s]
    star : (n,) int
        Negative: unknown.
    plate : (n,) int
        From 0; negative: unknown.
    rounds : int
        Of reweighting.

    Returns
    -------
    zero_point, zero_point_err : (n_plate,) float64 [km/s]
        To subtract from a plate's velocities. Plates that common stars link have a zero mean,
        weighted by their observations: only differences are measured. A plate that none links to
        another has 0 and an infinite error.
    group : (n_plate,) int64
        Which plates are linked; their zero points compare, those of two groups do not.

    Raises
    ------
    ValueError
        If lengths differ.

    Examples
    --------
    >>> star, plate = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])
    >>> rv = np.array([10.0, 16.0, -50.0, -44.0, 3.0])
    >>> zero, error, group = plate_zero_points(rv, np.ones(5), star, plate)
    >>> zero.round(3), error.round(3), group
    (array([-3.,  3.,  0.]), array([0.5, 0.5, inf]), array([0, 0, 1]))
    """
    if not len(rv) == len(rv_err) == len(star) == len(plate):
        raise ValueError(f"lengths differ: {len(rv)}, {len(rv_err)}, {len(star)}, {len(plate)}")
    n_plate = int(plate.max(initial=-1)) + 1
    usable = (star >= 0) & (plate >= 0) & np.isfinite(rv) & np.isfinite(rv_err) & (rv_err > 0)
    rows = np.flatnonzero(usable)
    names, own = np.unique(star[rows], return_inverse=True)
    rows, own = _on_several_plates(rows, own, plate, len(names))
    group = _linked(own, plate[rows], len(names), n_plate)
    if not len(rows):
        return np.zeros(n_plate), np.full(n_plate, np.inf), group
    solution, weight = _huber_fit(
        rv[rows].astype(np.float64), rv_err[rows], (own, plate[rows]), (len(names), group), rounds
    )
    share = np.bincount(plate[rows], minlength=n_plate).astype(np.float64)
    share /= np.maximum(np.bincount(group, share), 1)[group]  # of its group's observations
    zero = solution - np.bincount(group, share * solution)[group]
    normal, _ = _normal(weight, own, plate[rows], (len(names), n_plate))
    return np.where(share > 0, zero, 0), _errors(normal, group, share), group


def _on_several_plates(
    rows: IntArray, own: IntArray, plate: IntArray, n_star: int
) -> tuple[IntArray, IntArray]:
    """Keep observations of stars that more than one plate has: others say nothing."""
    low, high = np.full(n_star, np.iinfo(np.int64).max), np.full(n_star, -1)
    np.minimum.at(low, own, plate[rows])
    np.maximum.at(high, own, plate[rows])
    kept = (high > low)[own]
    return rows[kept], own[kept]


def _linked(own: IntArray, plate: IntArray, n_star: int, n_plate: int) -> IntArray:
    edges = sparse.coo_array(
        (np.ones(len(own)), (plate, n_plate + own)), shape=(n_plate + n_star,) * 2
    )
    _, label = sparse.csgraph.connected_components(edges, directed=False)
    _, group = np.unique(label[:n_plate], return_inverse=True)
    return group.astype(np.int64)


def _normal(
    weight: FloatArray, own: IntArray, plate: IntArray, counts: tuple[int, int]
) -> tuple[sparse.csc_array, sparse.csr_array]:
    """Return the normal matrix of plates, stars' velocities eliminated; and what eliminates them.

    The first is a weighted graph's Laplacian: plates that share no star do not touch, so that it is
    as sparse as the sky is wide.
    """
    n_star, n_plate = counts
    cross = sparse.coo_array((weight, (plate, own)), shape=(n_plate, n_star)).tocsr()
    total: FloatArray = np.asarray(cross.sum(axis=0)).ravel()
    scaled = (cross @ sparse.diags_array(1 / np.where(total > 0, total, 1))).tocsr()
    own_weight: FloatArray = np.asarray(cross.sum(axis=1)).ravel()
    return (sparse.diags_array(own_weight) - scaled @ cross.T).tocsc(), scaled


def _free(group: IntArray) -> IntArray:
    """Return all plates but the first of each group, which is pinned: differences are known."""
    _, first = np.unique(group, return_index=True)
    return np.setdiff1d(np.arange(len(group)), first)


def _huber_fit(
    rv: FloatArray,
    error: FloatArray,
    index: tuple[IntArray, IntArray],
    kinds: tuple[int, IntArray],
    rounds: int,
) -> tuple[FloatArray, FloatArray]:
    """Return plates' zero points by reweighted least squares, and the last weights."""
    own, plate = index
    n_star, group = kinds
    free = _free(group)
    solution: FloatArray = np.zeros(len(group))
    weight = 1 / error.astype(np.float64) ** 2
    for _ in range(rounds):
        normal, scaled = _normal(weight, own, plate, (n_star, len(group)))
        light = np.bincount(own, weight * rv, n_star)
        right = np.bincount(plate, weight * rv, len(group)) - scaled @ light
        before, solution = solution, np.zeros(len(group))
        solution[free] = splu(normal[free][:, free]).solve(right[free])
        total = np.bincount(own, weight, n_star)
        light = np.bincount(own, weight * (rv - solution[plate]), n_star)
        star = light / np.where(total > 0, total, 1)  # those on one plate alone take no part
        pull = np.abs(rv - star[own] - solution[plate]) / error
        weight = np.minimum(1, HUBER / np.maximum(pull, HUBER)) / error**2
        if np.max(np.abs(solution - before)) < 1e-6:
            break
    return solution, weight


def _errors(normal: sparse.csc_array, group: IntArray, share: FloatArray) -> FloatArray:
    """Return 1σ of zero points whose group's mean, weighted by `share`, is 0.

    With G the inverse of the pinned normal matrix, the covariance is (1 - 1 wᵀ) G (1 - w 1ᵀ).
    """
    free = _free(group)
    factors = splu(normal[free][:, free])
    diagonal: FloatArray = np.zeros(len(group))
    mixed: FloatArray = np.zeros(len(group))
    mixed[free] = factors.solve(share[free])
    for start in range(0, len(free), COLUMNS_AT_ONCE):
        here = np.arange(start, min(start + COLUMNS_AT_ONCE, len(free)))
        unit = np.zeros((len(free), len(here)))
        unit[here, here - start] = 1
        diagonal[free[here]] = factors.solve(unit)[here, here - start]
    variance = diagonal - 2 * mixed + np.bincount(group, share * mixed)[group]
    alone = np.bincount(group)[group] < 2
    return np.where(alone, np.inf, np.sqrt(np.maximum(variance, 0)))
