"""Noise that pixels share: how much less lines know than their pixels, one by one, say they do."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.kernels.compiled import compiled
from scalespec.kernels.lsf import FWHM, BandOperator

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.int64]


def noise_correlation(
    operator: BandOperator, edges: FloatArray, resolving_power: npt.ArrayLike
) -> FloatArray:
    """Return by what the variance of a line's depth, and of its place, exceeds that of white noise.

    Output pixels that share input pixels have errors in common. A fit that takes each for itself
    has the variance of a depth too small by f = Σ_k ρ_jk c_jk: ρ is the correlation of two pixels'
    noise, from A Aᵀ and white noise of one size, c that of two lines of the resolution at their
    places, exp(-d² / 4 σ²). For a velocity it is that of lines' slopes, c (1 - d² / 2 σ²). Features
    wider than a line have up to Σ_k ρ_jk; χ² per pixel is 1 all the same.

    Parameters
    ----------
    operator : BandOperator
        To pixels with these edges.
    edges : (n_out + 1,) float [Å]
    resolving_power : float or (n_out,) float
        λ/FWHM of what comes out, without its pixels; where it is not positive, lines have no end.

    Returns
    -------
    (n_out, 2) float64
        Of depths and of velocities; 1 where noise is white, where there is no input, and for
        velocities where pixels are too wide to show a line's slope.

    References
    ----------
    Variance of weighted least squares whose weights are not the noise's: Aitken 1936, Proc. R. Soc.
    Edinburgh 55, 42.

    Examples
    --------
    Moved by half a pixel, neighbors share half of their noise; errors of R = 1800 are a third
    larger.

    >>> from scalespec.kernels.resample import rebin_operator
    >>> edges = 10 ** (3.7 + 1e-4 * np.arange(50.0))
    >>> operator = rebin_operator(edges, edges * 10**0.5e-4)
    >>> noise_correlation(operator.band, edges * 10**0.5e-4, 1800.0)[20].round(2)
    array([1.8 , 1.45])
    """
    ln = np.log(edges)
    power = np.broadcast_to(np.asarray(resolving_power, np.float64), len(ln) - 1)
    known = np.isfinite(power) & (power > 0)
    sigma = np.where(known, 1 / (FWHM * np.where(known, power, 1)), np.inf)
    # Pixels widen a line by their own width.
    variance = sigma**2 + np.diff(ln) ** 2 / 12
    made: FloatArray = _correlation(
        operator.first, operator.weights, (ln[:-1] + ln[1:]) / 2, variance
    )
    return np.maximum(made, 1.0)


def row_means(
    correlation: FloatArray, ivar: FloatArray, which: IntArray | None = None
) -> FloatArray:
    """Return each spectrum's mean of `noise_correlation` over its good pixels, 1 if it has none.

    Parameters
    ----------
    correlation : (n_pixel, 2) or (n_operator, n_pixel, 2) float
    ivar : (n_spectrum, n_pixel) float
    which : (n_spectrum, n_pixel) int64, optional
        Of several operators the one that made each pixel.

    Returns
    -------
    (n_spectrum, 2) float64

    Examples
    --------
    >>> ivar = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> row_means(np.array([[2.0, 1.0], [4.0, 1.0]]), ivar).tolist()
    [[3.0, 1.0], [4.0, 1.0], [1.0, 1.0]]
    """
    if which is None:
        correlation, which = correlation[np.newaxis], np.zeros((1, ivar.shape[1]), np.int64)
    made: FloatArray = _row_means(np.ascontiguousarray(correlation), ivar, which)
    return made


@compiled
def _row_means(correlation: FloatArray, ivar: FloatArray, which: IntArray) -> FloatArray:
    result = np.ones((len(ivar), 2))
    for row in range(len(ivar)):
        count, depth, slope = 0, 0.0, 0.0
        of_pixel = which[min(row, len(which) - 1)]  # one for all, or its own
        for j in range(ivar.shape[1]):
            if ivar[row, j] > 0:
                count += 1
                depth += correlation[of_pixel[j], j, 0]
                slope += correlation[of_pixel[j], j, 1]
        if count:
            result[row] = depth / count, slope / count
    return result


@compiled
def _correlation(
    first: IntArray, weights: FloatArray, place: FloatArray, variance: FloatArray
) -> FloatArray:
    n_out, width = weights.shape
    own = np.zeros(n_out)
    for j in range(n_out):
        for i in range(width):
            own[j] += weights[j, i] * weights[j, i]
    result = np.ones((n_out, 2))
    for j in range(n_out):
        for k in range(j + 1, n_out if own[j] > 0 else 0):
            offset = first[k] - first[j]
            if offset >= width:
                break
            if own[k] == 0 or offset < 0:  # a row without input begins anywhere
                continue
            shared = 0.0
            for i in range(width - offset):
                shared += weights[j, i + offset] * weights[k, i]
            off = (place[k] - place[j]) ** 2 / (variance[j] + variance[k])
            shared *= np.exp(-off / 2) / np.sqrt(own[j] * own[k])
            for one in (j, k):
                result[one, 0] += shared
                result[one, 1] += shared * (1 - off)
    return result
