"""What the fit of a pixel does spectrum by spectrum, each in one pass over its arrays."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Function = TypeVar("Function", bound=Callable[..., object])
LOGARITHMS = 8
"""Weights whose logarithms are taken together: their product is a number."""


def _compiled(function: Function) -> Function:
    """Compile with sums reordered and fused; infinity keeps its meaning."""
    faster = {"contract", "reassoc", "arcp", "nsz"}
    return cast(Function, numba.njit(cache=True, fastmath=faster, nogil=True)(function))


@_compiled
def count(flux: Array, ivar: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many spectra know each pixel, and how many of them have no finite flux there.

    Parameters
    ----------
    flux, ivar : (n, p) float
        A row per spectrum; no information where `ivar` is not positive.

    Returns
    -------
    used, lost : (p,) int64

    Examples
    --------
    >>> flux, ivar = np.array([[1.0, np.nan], [np.inf, np.nan]]), np.array([[4.0, 0.0], [9.0, 0.0]])
    >>> [part.tolist() for part in count(flux, ivar)]
    [[2, 0], [1, 0]]
    """
    n, n_pixel = flux.shape
    used, lost = np.zeros(n_pixel, np.int64), np.zeros(n_pixel, np.int64)
    for i in range(n):
        for j in range(n_pixel):
            known = ivar[i, j] > 0
            used[j] += known
            lost[j] += known and not np.isfinite(flux[i, j])
    return used, lost


@_compiled
def tidy(flux: Array, ivar: Array, least: float, out: tuple[Array, Array]) -> None:
    """Turn inverse variances into variances, and fill flux without information in.

    Parameters
    ----------
    flux, ivar : (p, n) float
        A row per pixel; no information where `ivar` is not positive.
    least : float
        The smallest variance.
    out : (flux, variance), (p, n) float64 each
        Filled: flux with the pixel's mean where there is no information, variance with infinity.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> flux, ivar = np.array([[0.8, np.nan, 1.0]]), np.array([[4.0, 0.0, np.inf]])
    >>> out = (np.empty((1, 3)), np.empty((1, 3)))
    >>> tidy(flux, ivar, 0.01, out)
    >>> [part.round(2).tolist() for part in out]
    [[[0.8, 0.9, 1.0]], [[0.25, inf, 0.01]]]
    """
    filled, variance = out
    if not flux.shape == ivar.shape == filled.shape == variance.shape:
        raise ValueError("flux, ivar and what is filled must have the same shape")
    n_pixel, n = flux.shape
    for i in range(n_pixel):
        total, known = 0.0, 0
        for j in range(n):
            used = ivar[i, j] > 0
            value = np.float64(flux[i, j]) if used else 0.0
            total += value
            known += used
            filled[i, j] = value
            variance[i, j] = max(1.0 / np.float64(ivar[i, j]), least) if used else np.inf
        if 0 < known < n:
            mean = total / known
            for j in range(n):
                if not ivar[i, j] > 0:
                    filled[i, j] = mean


@_compiled
def score(
    variance: Array, residual: Array, square: Array, steps: int, out: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Raise the likelihood of each pixel's scatter by steps of Fisher scoring.

    Parameters
    ----------
    variance : (p, n) float
        Of the noise; infinite where there is no information.
    residual : (p, n) float
    square : (p,) float
        Scatter², moved in place.
    steps : int
    out : (weight, pull), (p, n) each
        Filled with ``1 / (variance + scatter²)``, by the scatter that the last step began from, and
        that times the residuals.

    Returns
    -------
    change, error : (p,) float
        By how much the last step moved scatter², and its standard error.

    Raises
    ------
    ValueError
        If shapes differ, no step is to be taken, or a pixel has no spectrum with information.

    References
    ----------
    Osborne 1992, Int. Stat. Rev. 60, 99 (Fisher's scoring).

    Examples
    --------
    Residuals of 0.05 where the noise is 0.03: the scatter is 0.04, since 0.03² + 0.04² = 0.05².

    >>> variance = np.full((1, 100), 0.03**2)
    >>> residual = np.tile([0.05, -0.05], 50)[None]
    >>> square, out = np.zeros(1), (np.empty((1, 100)), np.empty((1, 100)))
    >>> _ = score(variance, residual, square, 2, out)
    >>> round(np.sqrt(square[0]), 6), round(out[0][0, 0], 3), round(out[1][0, 1], 3)
    (np.float64(0.04), np.float64(400.0), np.float64(-20.0))
    """
    weights, pulls = out
    if not variance.shape == residual.shape == weights.shape == pulls.shape:
        raise ValueError("variance, residual, weight and pull must have the same shape")
    if len(square) != len(variance):
        raise ValueError("there must be one scatter² per pixel of variance")
    if steps < 1:
        raise ValueError("at least one step is to be taken")
    n_pixel, n = variance.shape
    change, error = np.empty(n_pixel), np.empty(n_pixel)
    for i in range(n_pixel):
        s = square[i]
        for _ in range(steps):
            excess = information = 0.0
            for j in range(n):
                w = 1.0 / (variance[i, j] + s)
                pull = w * residual[i, j]
                excess += pull * pull - w
                information += w * w
                weights[i, j] = w
                pulls[i, j] = pull
            if information == 0.0:
                raise ValueError(f"pixel {i} has no spectrum with information: leave it out")
            change[i] = max(excess / information, -s)
            error[i] = np.sqrt(2.0 / information)
            s += change[i]
        square[i] = s
    return change, error


@_compiled
def likelihood(variance: Array, residual: Array, square: Array, rows: NDArray[np.int64]) -> Array:
    """Return ln L of some pixels, less its constant.

    Parameters
    ----------
    variance : (p, n) float64
        Of the noise; infinite where there is no information.
    residual : (p, n) float64
    square : (p,) float64
        Scatter².
    rows : (m,) int64
        The pixels.

    Returns
    -------
    (m,) float64
        ``-1/2 sum [w r² - ln w]``.

    Examples
    --------
    >>> variance, residual = np.array([[0.5, np.inf, 0.25]]), np.array([[1.0, 7.0, 0.5]])
    >>> found = likelihood(variance, residual, np.zeros(1), np.array([0]))
    >>> float(found[0])  # (2 + 1 - ln 2 - ln 4) / -2
    -0.4602792291600821
    """
    n, found = variance.shape[1], np.empty(len(rows))
    for k in range(len(rows)):
        i = rows[k]
        chi2 = logarithm = 0.0
        for begin in range(0, n, LOGARITHMS):
            product = 1.0
            for j in range(begin, min(begin + LOGARITHMS, n)):
                w = 1.0 / (variance[i, j] + square[i])
                chi2 += w * residual[i, j] ** 2
                product *= w if w > 0 else 1.0
            logarithm += np.log(product)
        found[k] = -0.5 * (chi2 - logarithm)
    return found
