"""Normalization by order statistics: running quantile, chip median, min and max. Å."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.kernels.compiled import compiled
from scalespec.kernels.mask import known

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]


def running_quantile(
    flux: FloatArray,
    ivar: FloatArray,
    wavelength: FloatArray,
    *,
    half_width_angstrom: float,
    quantile: float = 0.9,
) -> tuple[Float32Array, BoolArray]:
    """Take a quantile of the good pixels within a distance of each pixel.

    A quantile above the median rises with the noise, so it serves to start from: to find
    continuum pixels, or to look at a spectrum.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
        Pixels of ``ivar <= 0``, or where either is not finite, do not count.
    wavelength : (n_pixel,) float [Å]
        Increasing.
    half_width_angstrom : float [Å]
        Pixels as far away as this count.
    quantile : float
        Between 0 and 1, linear between order statistics as ``numpy.quantile``.

    Returns
    -------
    continuum : (n_spectrum, n_pixel) float32
        0 where `bad`.
    bad : (n_spectrum, n_pixel) bool
        No good pixel that near, or a quantile that is not positive.

    Raises
    ------
    ValueError
        If shapes differ, or width or quantile are out of range.

    References
    ----------
    Ho et al. 2017, ApJ 836, 5: q = 0.9 within 50 Å.

    Examples
    --------
    >>> flux = np.array([[1.0, 5.0, 2.0, 3.0]])
    >>> running_quantile(
    ...     flux, flux**0, np.arange(4.0), half_width_angstrom=1.0, quantile=0.5
    ... )[0]
    array([[3. , 2. , 3. , 2.5]], dtype=float32)
    """
    _check_alike(flux, ivar)
    if not (half_width_angstrom > 0 and 0 <= quantile <= 1):
        raise ValueError(
            f"want a positive width and a quantile in [0, 1], got {half_width_angstrom} Å, "
            f"{quantile}"
        )
    if wavelength.shape != flux.shape[1:] or not np.all(np.diff(wavelength) > 0):
        raise ValueError(f"want {flux.shape[1]} increasing wavelengths, got {wavelength.shape}")
    first = np.searchsorted(wavelength, wavelength - half_width_angstrom, side="left")
    last = np.searchsorted(wavelength, wavelength + half_width_angstrom, side="right")
    values = np.ascontiguousarray(flux, np.float32)
    continuum = _quantiles(values, known(flux, ivar), first, last, quantile)
    bad = ~(continuum > 0)
    return np.where(bad, np.float32(0), continuum), bad


def chip_median(
    flux: FloatArray, ivar: FloatArray, chips: Sequence[tuple[int, int]]
) -> tuple[Float32Array, BoolArray]:
    """Take each chip's median good pixel as its continuum, as StarNet does.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
    chips : sequence of (start, stop)
        Pixels of each chip, half-open.

    Returns
    -------
    continuum : (n_spectrum, n_pixel) float32
        The same all over a chip; 0 where `bad`.
    bad : (n_spectrum, n_pixel) bool
        Between chips, on chips without a good pixel, and where the median is not positive.

    Raises
    ------
    ValueError
        If shapes differ.

    References
    ----------
    Fabbro et al. 2018, MNRAS 475, 2978.

    Examples
    --------
    >>> flux = np.array([[1.0, 3.0, 2.0, 7.0]])
    >>> chip_median(flux, flux**0, [(0, 3)])[0]
    array([[2., 2., 2., 0.]], dtype=float32)
    """
    _check_alike(flux, ivar)
    continuum = np.zeros(flux.shape, np.float32)
    for start, stop in chips:
        good = known(flux[:, start:stop], ivar[:, start:stop])
        level = _row_quantiles(flux[:, start:stop], good, 0.5)
        continuum[:, start:stop] = np.where(level > 0, level, 0)[:, np.newaxis]
    return continuum, continuum <= 0


def scale_to_range(
    flux: FloatArray, ivar: FloatArray, *, low: float = 0.001, high: float = 0.999
) -> tuple[Float32Array, Float32Array]:
    """Scale each spectrum so that a low quantile of its good pixels is 0 and a high one 1.

    The plain minimum and maximum hang on one cosmic ray; quantiles do not. What lies beyond them
    is clipped to [0, 1].

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
    low, high : float
        Quantiles in [0, 1]; 0 and 1 are the plain minimum and maximum.

    Returns
    -------
    flux, ivar : (n_spectrum, n_pixel) float32
        Both 0 where ivar is 0, where either is not finite, and in spectra without two different
        good pixels.

    Raises
    ------
    ValueError
        If shapes differ or the quantiles do not increase.

    Examples
    --------
    >>> flux = np.array([[2.0, 4.0, 3.0]])
    >>> scale_to_range(flux, flux**0, low=0.0, high=1.0)
    (array([[0. , 1. , 0.5]], dtype=float32), array([[4., 4., 4.]], dtype=float32))
    """
    _check_alike(flux, ivar)
    if not 0 <= low < high <= 1:
        raise ValueError(f"quantiles must increase in [0, 1], got {low}, {high}")
    good = known(flux, ivar)
    bottom, top = _row_quantiles(flux, good, low), _row_quantiles(flux, good, high)
    span = np.where(top > bottom, top - bottom, 1).astype(np.float64)[:, np.newaxis]
    use = good & (top > bottom)[:, np.newaxis]
    scaled = np.clip((np.where(use, flux, 0) - bottom[:, np.newaxis]) / span, 0, 1)
    weight = np.where(use, ivar, 0) * span * span
    return (
        np.where(use, scaled, 0).astype(np.float32),
        weight.astype(np.float32),
    )


def _row_quantiles(flux: FloatArray, good: BoolArray, quantile: float) -> FloatArray:
    """Return one quantile per row of its good pixels, 0 where there are none."""
    result = np.zeros(len(flux))
    for row in range(len(flux)):
        if good[row].any():
            result[row] = np.quantile(flux[row, good[row]], quantile)
    return result


def _check_alike(flux: FloatArray, ivar: FloatArray) -> None:
    if flux.shape != ivar.shape or flux.ndim != 2:
        raise ValueError(f"flux {flux.shape} and ivar {ivar.shape} must be alike in (n, n_pixel)")


@compiled
def _quantiles(
    flux: Float32Array, good: BoolArray, first: IntArray, last: IntArray, quantile: float
) -> Float32Array:
    """Return the quantile of ``flux[first:last]`` at each pixel: one sorted window slides along."""
    n, n_pixel = flux.shape
    result = np.zeros((n, n_pixel), np.float32)
    window = np.empty(n_pixel, np.float32)
    for row in range(n):
        size, start, stop = 0, 0, 0
        for i in range(n_pixel):
            while stop < last[i]:
                if good[row, stop]:
                    place = np.searchsorted(window[:size], flux[row, stop])
                    for k in range(size, place, -1):
                        window[k] = window[k - 1]
                    window[place] = flux[row, stop]
                    size += 1
                stop += 1
            while start < first[i]:
                if good[row, start]:
                    place = np.searchsorted(window[:size], flux[row, start])
                    for k in range(place, size - 1):
                        window[k] = window[k + 1]
                    size -= 1
                start += 1
            if size > 0:
                at = quantile * (size - 1)
                below = int(at)
                above = min(below + 1, size - 1)
                part = np.float32(at - below)
                result[row, i] = window[below] + part * (window[above] - window[below])
    return result
