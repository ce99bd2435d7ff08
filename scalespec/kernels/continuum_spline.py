"""Normalization by a smoothing spline from which lines and spikes are clipped. Pixels."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

from scalespec.kernels.compiled import compiled
from scalespec.kernels.mask import known

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]

BAND = 4
"""Cubic splines: four of them at a pixel, three neighbors either side in the matrix."""


def spline_continuum(
    flux: FloatArray,
    ivar: FloatArray,
    *,
    n_coefficient: int = 60,
    smoothness: float = 1.0,
    clip: tuple[float, float] = (1.5, 3.0),
    rounds: int = 5,
) -> tuple[Float32Array, BoolArray]:
    """Fit cubic splines with a penalty on their bends, and again without what sticks out.

    Lines are many and deep, cosmic rays rare: what lies `clip[0]` scatters below or `clip[1]`
    above is left out of the next round. The scatter is that of the spectrum's own residuals, not
    its ivar's, so the choice does not change with S/N where lines outweigh noise.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
        Pixels of ``ivar <= 0``, or where either is not finite, do not count; over gaps the penalty
        carries the curve on.
    n_coefficient : int
        Of the spline, evenly spaced in pixels.
    smoothness : float
        Weight of the squared second differences of coefficients, in pixels per coefficient.
    clip : (float, float)
        Limits below and above, in scatters.
    rounds : int
        Of clipping.

    Returns
    -------
    continuum : (n_spectrum, n_pixel) float32
        0 where `bad`.
    bad : (n_spectrum, n_pixel) bool
        All of a spectrum with fewer than four good pixels; elsewhere where it is not positive.

    Raises
    ------
    ValueError
        If shapes differ, or there are fewer pixels than coefficients, or fewer of those than four.

    References
    ----------
    Eilers & Marx 1996, Statistical Science 11, 89 (P-splines); clipped as in SLAM, Zhang, Liu &
    Deng 2020, ApJS 246, 9.

    Examples
    --------
    >>> flux = np.full((1, 300), 5.0)
    >>> flux[0, 100:105] = 1.0  # a line
    >>> continuum, bad = spline_continuum(flux, flux**0, n_coefficient=10)
    >>> bool(np.abs(continuum - 5).max() < 1e-3)
    True
    """
    if flux.shape != ivar.shape or flux.ndim != 2:
        raise ValueError(f"flux {flux.shape} and ivar {ivar.shape} must be alike in (n, n_pixel)")
    if not BAND <= n_coefficient <= flux.shape[1]:
        raise ValueError(
            f"want between 4 and {flux.shape[1]} coefficients, one a pixel; got {n_coefficient}"
        )
    if not (smoothness > 0 and clip[0] > 0 and clip[1] > 0 and rounds >= 0):
        raise ValueError(f"want positive smoothness and limits, got {smoothness}, {clip}, {rounds}")
    first, basis = _basis(flux.shape[1], n_coefficient)
    penalty = smoothness * flux.shape[1] / n_coefficient
    fit = _fits(
        np.ascontiguousarray(flux, np.float64),
        known(flux, ivar),
        (first, basis),
        (penalty, float(clip[0]), float(clip[1])),
        (n_coefficient, rounds),
    )
    bad = ~(fit > 0)
    return np.where(bad, np.float32(0), fit.astype(np.float32)), bad


def _basis(n_pixel: int, n_coefficient: int) -> tuple[IntArray, FloatArray]:
    """Return each pixel's first spline and its four values there."""
    interval = (n_pixel - 1) / (n_coefficient - 3)
    knots = interval * np.arange(-3, n_coefficient + 1)
    place = np.clip(np.arange(n_pixel) / interval, 0, n_coefficient - 3 - 1e-9)
    whole = BSpline.design_matrix(place * interval, knots, 3).toarray()
    first = np.floor(place).astype(np.int64)
    return first, np.take_along_axis(whole, first[:, np.newaxis] + np.arange(BAND), axis=1)


@compiled
def _fits(
    flux: FloatArray,
    good: BoolArray,
    splines: tuple[IntArray, FloatArray],
    limits: tuple[float, float, float],
    counts: tuple[int, int],
) -> FloatArray:
    first, basis = splines
    penalty, below, above = limits
    n_coefficient, rounds = counts
    result = np.zeros(flux.shape)
    for row in range(flux.shape[0]):
        use = good[row].copy()
        if use.sum() < BAND:
            continue
        for turn in range(rounds + 1):
            matrix, right = _normal(flux[row], use, first, basis)
            _penalize(matrix, penalty, n_coefficient)
            coefficient = _solve(matrix, right)
            _evaluate(coefficient, first, basis, result[row])
            if turn == rounds or not _clip(flux[row], good[row], use, result[row], below, above):
                break
    return result


@compiled
def _normal(
    flux: FloatArray, use: BoolArray, first: IntArray, basis: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the lower band of Bᵀ B and Bᵀ f over pixels in use."""
    n = first[-1] + BAND
    matrix, right = np.zeros((n, BAND)), np.zeros(n)
    for i in range(len(flux)):
        if use[i]:
            start = first[i]
            for a in range(BAND):
                right[start + a] += basis[i, a] * flux[i]
                for b in range(a + 1):
                    matrix[start + a, a - b] += basis[i, a] * basis[i, b]
    return matrix, right


@compiled
def _penalize(matrix: FloatArray, penalty: float, n: int) -> None:
    """Add squared second differences: matrix[i, d] is the element (i, i - d)."""
    for k in range(n - 2):
        difference = (1.0, -2.0, 1.0)
        for a in range(3):
            for b in range(a + 1):
                matrix[k + a, a - b] += penalty * difference[a] * difference[b]


@compiled
def _back(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solve L D Lᵀ x = right."""
    n = len(right)
    solution = right.copy()
    for i in range(n):
        for d in range(1, min(BAND - 1, i) + 1):
            solution[i] -= matrix[i, d] * solution[i - d]
    for i in range(n):
        solution[i] /= matrix[i, 0]
    for i in range(n - 1, -1, -1):
        for d in range(1, min(BAND - 1, n - 1 - i) + 1):
            solution[i] -= matrix[i + d, d] * solution[i + d]
    return solution


@compiled
def _solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solve a banded positive definite system by LDLᵀ, in place."""
    n = len(right)
    for i in range(n):
        for d in range(min(BAND - 1, i), -1, -1):
            j = i - d
            total = matrix[i, d]
            for e in range(d + 1, min(BAND - 1, i) + 1):
                k = i - e
                if j - k < BAND:
                    total -= matrix[i, e] * matrix[j, j - k] * matrix[k, 0]
            matrix[i, d] = total / matrix[j, 0] if d > 0 else total
        # A stretch without pixels is held by the penalty; its first moments may vanish.
        if matrix[i, 0] <= 1e-12:
            matrix[i, 0] = 1e-12
    return _back(matrix, right)


@compiled
def _evaluate(coefficient: FloatArray, first: IntArray, basis: FloatArray, out: FloatArray) -> None:
    for i in range(len(out)):
        total = 0.0
        for a in range(BAND):
            total += basis[i, a] * coefficient[first[i] + a]
        out[i] = total


@compiled
def _clip(
    flux: FloatArray, good: BoolArray, use: BoolArray, fit: FloatArray, below: float, above: float
) -> bool:
    """Choose the pixels of the next round; say whether the choice changed and is enough."""
    square, n = 0.0, 0
    for i in range(len(flux)):
        if use[i]:
            square += (flux[i] - fit[i]) ** 2
            n += 1
    scatter = np.sqrt(square / n)
    changed, left = False, 0
    chosen = np.zeros(len(flux), np.bool_)
    for i in range(len(flux)):
        # A hair of tolerance: a fit that is exact must not clip its own rounding.
        hair = 1e-9 * abs(fit[i])
        residual = flux[i] - fit[i]
        chosen[i] = good[i] and -below * scatter - hair <= residual <= above * scatter + hair
        changed = changed or chosen[i] != use[i]
        left += chosen[i]
    if not changed or left < 2 * BAND:
        return False
    use[:] = chosen
    return True
