"""Which stars change their velocity: repeats against a constant, and what chance gives. km/s.

Maoz, Badenes & Bickerton 2012, ApJ 751, 143 (greatest difference); Troup et al. 2016, AJ 151, 85.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from scalespec.kernels.calibration import error_floor
from scalespec.kernels.repeats import repeat_pairs

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Variability:
    """Velocities of stars with two or more visits, in order of their number.

    Attributes
    ----------
    star, n_visit : (n_star,) int64
    mean, mean_err : (n_star,) float64
        Weighted by errors, the floor in them.
    scatter, difference : (n_star,) float64
        Standard deviation, and greatest less least.
    p_value : (n_star,) float64
        Chance that a constant star scatters as much or more.
    floor : float
        What was added to the errors in quadrature.
    """

    star: IntArray
    n_visit: IntArray
    mean: FloatArray
    mean_err: FloatArray
    scatter: FloatArray
    difference: FloatArray
    p_value: FloatArray
    floor: float


def velocity_floor(star: IntArray, rv: FloatArray, rv_err: FloatArray) -> float:
    """Return the error that stated ones leave out, by repeats; variable stars count for little.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> star = np.repeat(np.arange(2000), 2)
    >>> round(velocity_floor(star, rng.normal(0, 5, 4000), np.full(4000, 3.0)), 0)
    4.0
    """
    pairs = repeat_pairs(star, rv, rv_err)
    if len(pairs.difference) < 3:
        return 0.0
    zeros = np.zeros(len(pairs.difference), np.int64)
    difference, error = (np.asarray(x, np.float64) for x in (pairs.difference, pairs.error))
    floor, _ = error_floor(difference, error, zeros, 1)
    return float(np.nan_to_num(floor[0]))


def variability(
    star: IntArray,
    rv: npt.NDArray[np.floating[Any]],
    rv_err: npt.NDArray[np.floating[Any]],
    *,
    floor: float | None = None,
) -> Variability:
    """Test each star's velocities against a constant.

    Parameters
    ----------
    star : (n,) int
        Which star each row observed; negative: unknown.
    rv, rv_err : (n,) float [km/s]
        Rows where either is not finite, or the error not positive, take no part.
    floor : float, optional
        Added to errors in quadrature; by default `velocity_floor`.

    Raises
    ------
    ValueError
        If lengths differ.

    Examples
    --------
    >>> made = variability(np.array([7, 7, 3]), np.array([0.0, 30.0, 1.0]), np.ones(3), floor=1.0)
    >>> made.star, made.n_visit, made.difference, bool(made.p_value[0] < 1e-9)
    (array([7]), array([2]), array([30.]), True)
    """
    if not len(star) == len(rv) == len(rv_err):
        raise ValueError(f"lengths differ: {len(star)}, {len(rv)}, {len(rv_err)}")
    usable = (star >= 0) & np.isfinite(rv) & np.isfinite(rv_err) & (rv_err > 0)
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(star[rows], kind="stable")]
    value, error = rv[rows].astype(np.float64), rv_err[rows].astype(np.float64)
    added = velocity_floor(star[rows], value, error) if floor is None else floor
    weight = 1 / (error**2 + added**2)
    names, start, n = np.unique(star[rows], return_index=True, return_counts=True)
    if not len(rows):
        nobody, none = np.zeros(0, np.int64), np.zeros(0)
        return Variability(nobody, nobody, none, none, none, none, none, added)
    total = np.add.reduceat(weight, start)
    mean = np.add.reduceat(weight * value, start) / total
    left = value - np.repeat(mean, n)
    chi2 = np.add.reduceat(weight * left**2, start)
    plain = np.add.reduceat(value, start) / n
    square = np.add.reduceat((value - np.repeat(plain, n)) ** 2, start)
    spread = np.maximum.reduceat(value, start) - np.minimum.reduceat(value, start)
    several = n > 1
    scatter = np.sqrt(square[several] / (n[several] - 1))
    return Variability(
        names[several].astype(np.int64),
        n[several].astype(np.int64),
        mean[several],
        1 / np.sqrt(total[several]),
        scatter,
        spread[several],
        np.asarray(chdtrc(n[several] - 1, chi2[several])),
        added,
    )
