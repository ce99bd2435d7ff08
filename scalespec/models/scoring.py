"""The scatter of a pixel and the weights that follow from it, in one pass over its spectra."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Function = TypeVar("Function", bound=Callable[..., object])
MOST_STEPS = 30
"""Of Fisher scoring; it ends when a step is a tenth of what is asked of the last."""


def _compiled(function: Function) -> Function:
    """Compile with sums reordered and fused; infinity keeps its meaning."""
    faster = {"contract", "reassoc", "arcp", "nsz"}
    return cast(Function, numba.njit(cache=True, fastmath=faster, nogil=True)(function))


@_compiled
def score(
    variance: Array, residual: Array, square: Array, tolerance: float, out: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Raise the likelihood of each pixel's scatter, and weigh its residuals.

    Parameters
    ----------
    variance : (p, n) float
        Of the noise; infinite where there is no information.
    residual : (p, n) float
    square : (p,) float
        Scatter², moved in place.
    tolerance : float
        Largest last step, in standard errors of scatter².
    out : (weight, pull), (p, n) each
        Filled with ``1 / (variance + scatter²)`` and that times the residuals.

    Returns
    -------
    change, error : (p,) float
        By how much scatter² moved, and its standard error.

    Raises
    ------
    ValueError
        If shapes differ, or a pixel has no spectrum with information.

    References
    ----------
    Osborne 1992, Int. Stat. Rev. 60, 99 (Fisher's scoring).

    Examples
    --------
    Residuals of 0.05 where the noise is 0.03: the scatter is 0.04, since 0.03² + 0.04² = 0.05².

    >>> variance = np.full((1, 100), 0.03**2)
    >>> residual = np.tile([0.05, -0.05], 50)[None]
    >>> square, out = np.zeros(1), (np.empty((1, 100)), np.empty((1, 100)))
    >>> _ = score(variance, residual, square, 1e-6, out)
    >>> round(np.sqrt(square[0]), 6), round(out[0][0, 0], 3), round(out[1][0, 1], 3)
    (np.float64(0.04), np.float64(400.0), np.float64(-20.0))
    """
    weights, pulls = out
    if not variance.shape == residual.shape == weights.shape == pulls.shape:
        raise ValueError("variance, residual, weight and pull must have the same shape")
    if len(square) != len(variance):
        raise ValueError("there must be one scatter² per pixel of variance")
    n_pixel, n = variance.shape
    change, error = np.empty(n_pixel), np.empty(n_pixel)
    for i in range(n_pixel):
        start = s = square[i]
        information = 0.0
        for _ in range(MOST_STEPS):
            excess = information = 0.0
            for j in range(n):
                w = 1.0 / (variance[i, j] + s)
                pull = w * residual[i, j]
                excess += pull * pull - w
                information += w * w
            if information == 0.0:
                raise ValueError(f"pixel {i} has no spectrum with information: leave it out")
            step = max(excess / information, -s)
            s += step
            if abs(step) <= 0.1 * tolerance * np.sqrt(2.0 / information):
                break
        for j in range(n):
            w = 1.0 / (variance[i, j] + s)
            weights[i, j] = w
            pulls[i, j] = w * residual[i, j]
        square[i] = s
        change[i] = s - start
        error[i] = np.sqrt(2.0 / information)
    return change, error
