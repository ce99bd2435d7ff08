"""Systematic trends of labels, from pairs that share them and from references; error floors.

A measured label is ``x = truth + c(teff)``, c a spline per luminosity class. The two stars of a
wide binary have one composition, so their difference shows c but for a constant, which is pinned; a
star with a high-resolution label shows it directly. Temperatures in K, labels in their own units.

Niu, Yuan & Liu 2023, ApJ 950, 104 (wide binaries); Huber 1981, Robust Statistics, ch. 7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DEGREE = 3
HUBER = 1.345
"""Residuals beyond this many standard deviations pull no stronger than at it: 95 % efficient."""
ROUNDS = 30
"""Most rounds of reweighting; it ends when no coefficient moves by 1e-6."""
REJECT_SIGMA = 4.0
"""Differences further off are no repeats of one star: they have no say in error floors."""
PIN_TEFF = 5772.0
"""Where a correction from pairs alone is 0: the Sun's temperature."""


class CalibrationStatus(IntFlag):
    """Why a star's calibrated labels may be no better than its raw ones; 0 is good."""

    BEYOND_TREND = 1 << 0
    NO_TREND = 1 << 1


@dataclass(frozen=True)
class Trend:
    """A correction as a function of temperature, one spline per luminosity class.

    Attributes
    ----------
    knots : (n_knot,) float64 [K]
        Of the cubic B-splines, ends repeated; beyond them the correction is that of the end.
    coefficients : (n_class, n_basis) float64
        In the label's unit.
    covariance : (n_class * n_basis, n_class * n_basis) float64
        Of the coefficients.
    """

    knots: FloatArray
    coefficients: FloatArray
    covariance: FloatArray

    def __call__(self, teff: npt.ArrayLike, kind: npt.ArrayLike = 0) -> FloatArray:
        """Return the trend of stars of some temperatures [K] and luminosity classes (from 0).

        A star whose temperature is NaN has a trend of NaN.

        Raises
        ------
        ValueError
            If a class is none of the trend's.
        """
        teff, kind = self._checked(teff, kind)
        basis = _basis(teff.ravel(), self.knots)
        rows = self.coefficients[kind.ravel()]
        return np.asarray(np.einsum("nb,nb->n", basis, rows).reshape(teff.shape))

    def error(self, teff: npt.ArrayLike, kind: npt.ArrayLike = 0) -> FloatArray:
        """Return the standard error of the trend, as of calling it."""
        teff, kind = self._checked(teff, kind)
        rows = _rows(teff.ravel(), kind.ravel(), self.knots, len(self.coefficients))
        variance = np.einsum("ni,ij,nj->n", rows, self.covariance, rows)
        return np.asarray(np.sqrt(np.maximum(variance, 0)).reshape(teff.shape))

    def _checked(self, teff: npt.ArrayLike, kind: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
        values, kinds = np.broadcast_arrays(np.asarray(teff, float), np.asarray(kind, np.int64))
        if wrong := sorted(set(kinds.ravel().tolist()) - set(range(len(self.coefficients)))):
            raise ValueError(f"no class {wrong[0]}; there are 0 to {len(self.coefficients) - 1}")
        return values, kinds

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "knots": self.knots.tolist(),
            "coefficients": self.coefficients.tolist(),
            "covariance": self.covariance.tolist(),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the trend that `to_dict` wrote."""
        return cls(
            *(np.array(plain[name], float) for name in ("knots", "coefficients", "covariance"))
        )


def spline_knots(low: float, high: float, n_interior: int) -> FloatArray:
    """Return knots of cubic splines on [`low`, `high`] with `n_interior` even ones inside.

    Raises
    ------
    ValueError
        If the range is empty or there are fewer than 0 knots.

    Examples
    --------
    >>> spline_knots(4000.0, 7000.0, 2)
    array([4000., 4000., 4000., 4000., 5000., 6000., 7000., 7000., 7000., 7000.])
    """
    if not low < high or n_interior < 0:
        raise ValueError(f"knots want low < high and n >= 0, got {low}, {high} and {n_interior}")
    inside = np.linspace(low, high, n_interior + 2)
    return np.concatenate([[low] * DEGREE, inside, [high] * DEGREE])


def _basis(teff: FloatArray, knots: FloatArray) -> FloatArray:
    """Return all B-splines (n, n_basis) at some temperatures, those of the ends beyond them."""
    inside = np.clip(np.nan_to_num(teff, nan=knots[0]), knots[0], knots[-1])
    if not len(inside):  # which SciPy refuses
        return np.zeros((0, len(knots) - DEGREE - 1))
    basis = BSpline.design_matrix(inside, knots, DEGREE).toarray()
    return np.where(np.isnan(teff)[:, None], np.nan, basis)


def _rows(teff: FloatArray, kind: IntArray, knots: FloatArray, n_class: int) -> FloatArray:
    """Return the design (n, n_class * n_basis) of the trend at some stars."""
    basis = _basis(teff, knots)
    rows = np.zeros((len(teff), n_class, basis.shape[1]))
    rows[np.arange(len(teff)), kind] = basis
    return rows.reshape(len(teff), n_class * basis.shape[1])


def fit_pair_trend(
    teff: FloatArray,
    difference: FloatArray,
    sigma: FloatArray,
    *,
    kind: IntArray | None = None,
    knots: FloatArray,
    smoothness: float = 1.0,
) -> Trend:
    """Fit the trend that makes the stars of each pair agree.

    Parameters
    ----------
    teff : (n_pair, 2) float64 [K]
        Of both stars.
    difference : (n_pair,) float64
        Label of the first star less that of the second.
    sigma : (n_pair,) float64
        Error of the difference, intrinsic scatter of pairs included.
    kind : (n_pair, 2) int, optional
        Luminosity class of both stars, 0, 1, ...; all alike if not given.
    knots : (n_knot,) float64 [K]
        See `spline_knots`.
    smoothness : float
        Weight of the squared second differences of coefficients, in units of the data's weight per
        coefficient over 1,000.

    Returns
    -------
    Trend
        0 at `PIN_TEFF` for class 0: pairs know differences only. To calibrate, subtract it.

    Raises
    ------
    ValueError
        If shapes differ, a number is not finite, an error is not positive, or there are no pairs.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> teff = rng.uniform(4000, 7000, (500, 2))
    >>> wrong = lambda t: 1e-4 * (t - 5772)
    >>> difference = wrong(teff[:, 0]) - wrong(teff[:, 1])
    >>> knots = spline_knots(4e3, 7e3, 3)
    >>> trend = fit_pair_trend(teff, difference, np.full(500, 0.05), knots=knots)
    >>> trend([4500.0, 5772.0]).round(3)
    array([-0.127,  0.   ])
    """
    kind = np.zeros(teff.shape, np.int64) if kind is None else kind
    if teff.shape != (len(difference), 2) or kind.shape != teff.shape:
        raise ValueError(
            f"{len(difference)} pairs want teff and kind of both stars, got {teff.shape}"
        )
    n_class = int(kind.max(initial=0)) + 1
    first, second = (_rows(teff[:, i], kind[:, i], knots, n_class) for i in (0, 1))
    solved = _solve(first - second, difference, sigma, n_class, smoothness)
    return _pinned(Trend(knots, *solved))


def _pinned(trend: Trend) -> Trend:
    """Return the trend less its value at the pin, with the errors of that difference."""
    n_class, n_basis = trend.coefficients.shape
    at = _rows(np.array([PIN_TEFF]), np.array([0]), trend.knots, n_class)[0]
    # B-splines sum to 1 everywhere: a constant is that constant in all coefficients.
    move = np.eye(n_class * n_basis) - at[None, :]
    coefficients = (move @ trend.coefficients.ravel()).reshape(n_class, n_basis)
    return Trend(trend.knots, coefficients, move @ trend.covariance @ move.T)


def fit_reference_trend(
    teff: FloatArray,
    difference: FloatArray,
    sigma: FloatArray,
    *,
    kind: IntArray | None = None,
    knots: FloatArray,
    smoothness: float = 1.0,
) -> Trend:
    """Fit the trend of measured less reference labels, zero point included.

    Parameters
    ----------
    teff : (n,) float64 [K]
    difference : (n,) float64
        Measured label less the reference's.
    sigma : (n,) float64
        Error of the difference.
    kind, knots, smoothness
        As of `fit_pair_trend`.

    Raises
    ------
    ValueError
        As `fit_pair_trend` does.

    Examples
    --------
    >>> teff = np.linspace(4000, 7000, 200)
    >>> knots = spline_knots(4e3, 7e3, 3)
    >>> trend = fit_reference_trend(teff, 0.1 + 0 * teff, np.full(200, 0.05), knots=knots)
    >>> trend(5000.0).round(3)
    np.float64(0.1)
    """
    kind = np.zeros(len(teff), np.int64) if kind is None else kind
    if teff.shape != difference.shape or kind.shape != teff.shape:
        raise ValueError(f"teff {teff.shape}, difference {difference.shape} and kind must fit")
    n_class = int(kind.max(initial=0)) + 1
    design = _rows(teff, kind, knots, n_class)
    return Trend(knots, *_solve(design, difference, sigma, n_class, smoothness))


def _solve(
    design: FloatArray, target: FloatArray, sigma: FloatArray, n_class: int, smoothness: float
) -> tuple[FloatArray, FloatArray]:
    """Return coefficients (n_class, n_basis) and covariance of a smooth, robust fit."""
    if sigma.shape != target.shape or not len(target):
        raise ValueError(f"wanted at least one difference and as many errors, got {target.shape}")
    if not np.all(np.isfinite(target)) or not np.all(np.isfinite(design)):
        raise ValueError("labels and temperatures must be finite: leave others out")
    if not np.all((sigma > 0) & np.isfinite(sigma)):
        wrong = sigma[~((sigma > 0) & np.isfinite(sigma))]
        raise ValueError(f"errors must be positive and finite, got {float(wrong[0]):.6g}")
    n_basis = design.shape[1] // n_class
    second = np.diff(np.eye(n_basis), 2, axis=0)
    scale = float(np.sum(sigma**-2)) / design.shape[1] / 1000
    penalty = np.kron(np.eye(n_class), smoothness * scale * second.T @ second)
    penalty += 1e-6 * scale * np.eye(len(penalty))  # a constant that no pair shows stays 0
    weight: FloatArray = sigma**-2
    found, normal = np.zeros(design.shape[1]), penalty
    for _ in range(ROUNDS):
        before = found.copy()
        normal = (design * weight[:, None]).T @ design + penalty
        found[:] = np.linalg.solve(normal, (design * weight[:, None]).T @ target)
        pull = np.abs(target - design @ found) / sigma
        weight = sigma**-2 * np.minimum(1, HUBER / np.maximum(pull, 1e-12))
        if np.max(np.abs(found - before)) < 1e-6:
            break
    inverse: FloatArray = np.linalg.inv(normal)
    # Where a tenth of the pairs is wrong, errors are as large as the residuals say.
    spread = max(1.0, float(np.sum(weight * (target - design @ found) ** 2)) / len(target))
    coefficients: FloatArray = found.reshape(n_class, n_basis)
    return coefficients, inverse * spread


def bootstrap_trend(
    fit: Any, arrays: Sequence[npt.NDArray[Any]], *, n: int, seed: int
) -> list[Trend]:
    """Return trends of `n` resamples with replacement: their spread is the error of a trend.

    Parameters
    ----------
    fit : callable
        Makes a `Trend` of the arrays.
    arrays : sequence of (n_pair, ...) arrays
        What is resampled, row by row together.
    n, seed : int

    Examples
    --------
    >>> teff, knots = np.linspace(4e3, 7e3, 100), spline_knots(4e3, 7e3, 1)
    >>> noise = np.random.default_rng(1).normal(0, 0.05, 100)
    >>> fit = lambda t, d: fit_reference_trend(t, d, np.full(100, 0.05), knots=knots)
    >>> made = bootstrap_trend(fit, (teff, noise), n=50, seed=1)
    >>> bool(0.003 < np.std([trend(5500.0) for trend in made]) < 0.02)
    True
    """
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, len(arrays[0]), len(arrays[0])) for _ in range(n)]
    return [fit(*(array[row] for array in arrays)) for row in rows]


def error_floor(
    difference: FloatArray, sigma: FloatArray, group: IntArray, n_group: int
) -> tuple[FloatArray, FloatArray]:
    """Return what to add in quadrature to errors so that repeats agree, per group.

    The floor maximizes the likelihood of ``difference ~ N(0, sigma² + 2 floor²)``, each of the two
    measurements having the floor; differences beyond 4 sigma of what a median says do not count.

    Parameters
    ----------
    difference : (n,) float64
        First measurement of a star less the second.
    sigma : (n,) float64
        Error of the difference as stated.
    group : (n,) int
        Bin of each repeat (by S/N, say), 0 to `n_group` - 1.
    n_group : int

    Returns
    -------
    floor, floor_err : (n_group,) float64
        NaN where a group has fewer than 3 repeats with finite errors.

    Raises
    ------
    ValueError
        If shapes differ or an error is not positive.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> difference = rng.normal(0, np.sqrt(0.03**2 + 2 * 0.05**2), 4000)
    >>> floor, _ = error_floor(difference, np.full(4000, 0.03), np.zeros(4000, int), 1)
    >>> floor.round(2)
    array([0.05])
    """
    if not difference.shape == sigma.shape == group.shape:
        raise ValueError(f"{difference.shape}, {sigma.shape} and {group.shape} must be alike")
    if not np.all(sigma > 0):
        raise ValueError(f"errors must be positive, got {float(np.min(sigma, initial=0)):.6g}")
    floor, error = np.full((2, n_group), np.nan)
    for index in range(n_group):
        inside = (group == index) & np.isfinite(difference) & np.isfinite(sigma)
        if inside.sum() >= 3:
            floor[index], error[index] = _one_floor(difference[inside] ** 2, sigma[inside] ** 2)
    return floor, error


def _one_floor(square: FloatArray, variance: FloatArray) -> tuple[float, float]:
    """Return the floor of one group by Fisher scoring on its square, and its error."""
    excess = max(float(np.median(square)) / 0.455 - float(np.median(variance)), 0.0)
    for _ in range(ROUNDS):
        total = variance + excess
        weight = np.where(square <= REJECT_SIGMA**2 * total, total**-2, 0.0)
        if not weight.any():
            break
        step = float(np.sum(weight * (square - total)) / np.sum(weight))
        excess = max(excess + step, 0.0)
        if abs(step) < 1e-9 * (excess + float(np.min(variance))):
            break
    deviation = np.sqrt(2 / np.sum((variance + excess) ** -2))  # of excess = 2 floor²
    floor = np.sqrt(excess / 2)
    return float(floor), float(deviation / (4 * floor) if floor > 0 else np.sqrt(deviation / 2))
