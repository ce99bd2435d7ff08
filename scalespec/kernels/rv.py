"""Radial velocity by cross-correlation with templates on one log10 wavelength grid. km/s."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import fft

from scalespec.kernels.wavelength import C_KMS, pixels_to_velocity

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
ComplexArray: TypeAlias = npt.NDArray[np.complexfloating[Any, Any]]

ROWS = 256
"""Spectra worked on at a time: their transforms stay in cache, and memory is bounded."""
SEPARATION = 3
"""Pixels between the best peak and one that may count as the second."""


@dataclass(frozen=True, slots=True)
class RadialVelocity:
    """What cross-correlation found, one entry per spectrum.

    Attributes
    ----------
    rv : (n_spectrum,) float64 [km/s]
        Velocity of the data relative to the template, positive when the data are redder. 0 where
        no template has a positive match (no good pixels, for one).
    rv_err : (n_spectrum,) float64 [km/s]
        1σ from the curvature of χ², for the noise of ivar alone. Infinite where nothing matched
        or the best lag is the first or last allowed: then it is a bound and no peak.
    template : (n_spectrum,) int64
        Index of the best template, the first of equals; -1 where nothing matched.
    chi2_gain : (n_spectrum,) float64
        How much the best template at the best whole-pixel lag lowers χ² against a flat continuum.
    quality : (n_spectrum,) float64
        `chi2_gain` over that of the second peak, over all templates, at least three pixels away;
        infinite where there is no second, 0 where nothing matched. Near 1, the choice is a toss.
    """

    rv: FloatArray
    rv_err: FloatArray
    template: IntArray
    chi2_gain: FloatArray
    quality: FloatArray


def cross_correlate(
    flux: Float32Array,
    ivar: Float32Array,
    templates: FloatArray,
    *,
    max_lag: int,
    step_log10: float = 1e-4,
) -> RadialVelocity:
    """Find by how much, and with which template, spectra are shifted.

    For every template and whole-pixel lag, the amplitude of the template's lines is fitted (and
    must be positive); with d = flux - 1, t = template - 1 and w = ivar, χ² falls by
    (Σ w d t)² / Σ w t². Both sums are exact under gaps and uneven weights, by FFT for all lags at
    once. The peak between pixels is found on the band-limited functions those transforms stand for:
    at R = 1800 lines are barely sampled, and a parabola through three lags is off by up to 3 km/s.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float32
        Normalized flux and its inverse variance. Pixels of ``ivar <= 0`` or of NaN carry no
        weight.
    templates : (n_template, n_pixel) float
        Normalized as the data are, on the same grid; finite. Beyond its ends a template is 1.
    max_lag : int
        Lags -max_lag..max_lag are tried; positive: the data are redder.
    step_log10 : float
        Pixel size in log10(λ).

    Returns
    -------
    RadialVelocity

    Raises
    ------
    ValueError
        If grids differ, or `max_lag` is not in ``[1, n_pixel)``.

    References
    ----------
    Zucker 2003, MNRAS 342, 1291 (cross-correlation as maximum likelihood with free amplitude),
    with weights per pixel.

    Examples
    --------
    >>> pixel = np.arange(400.0)
    >>> template = 1 - 0.5 * np.exp(-0.5 * ((pixel - 150) / 2) ** 2)
    >>> data = 1 - 0.3 * np.exp(-0.5 * ((pixel - 153.4) / 2) ** 2)
    >>> found = cross_correlate(
    ...     data[np.newaxis], np.full((1, 400), 1e4), template[np.newaxis], max_lag=10
    ... )
    >>> found.rv.round(1), found.rv_err.round(1), found.template
    (array([234.7]), array([3.5]), array([0]))
    """
    n_spectrum, n_pixel = flux.shape
    if ivar.shape != flux.shape or templates.shape[1:] != (n_pixel,):
        shapes = f"flux {flux.shape}, ivar {ivar.shape}, templates {templates.shape}"
        raise ValueError(f"flux, ivar and templates must share one grid, got {shapes}")
    if not 1 <= max_lag < n_pixel:
        raise ValueError(f"max_lag must be in [1, {n_pixel}), got {max_lag}")
    lines = _transform(np.asarray(templates - 1, np.float32), max_lag)
    found: list[FloatArray] = [np.empty((5, 0))]
    for start in range(0, n_spectrum, ROWS):
        rows = slice(start, start + ROWS)
        found.append(_match(flux[rows], ivar[rows], lines))
    lag, lag_err, best, gain, quality = np.concatenate(found, axis=1)
    rv = pixels_to_velocity(lag, step_log10)
    km_s_per_pixel = C_KMS * np.log(10) * step_log10 * (1 - (rv / C_KMS) ** 2)
    return RadialVelocity(rv, lag_err * km_s_per_pixel, best.astype(np.int64), gain, quality)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Templates as transforms of `size` pixels, ready to be matched with any spectra."""

    size: int
    max_lag: int
    first: ComplexArray  # (n_template, n_frequency), of template - 1, as `second` of its square
    second: ComplexArray
    power: Float32Array  # (n_template,), mean square of template - 1


def _transform(depth: Float32Array, max_lag: int) -> _Lines:
    # Room for the largest lag, so that no end of a spectrum wraps onto the other.
    size = fft.next_fast_len(depth.shape[1] + max_lag, real=True)
    first, second = fft.rfft(depth, size), fft.rfft(depth**2, size)
    return _Lines(size, max_lag, first, second, np.mean(depth**2, axis=1))


def _match(flux: Float32Array, ivar: Float32Array, lines: _Lines) -> FloatArray:
    """Return lag, its error, best template, χ² gain and quality as (5, n_spectrum)."""
    good = (ivar > 0) & np.isfinite(flux) & np.isfinite(ivar)
    weight = np.where(good, ivar, 0).astype(np.float32)
    data = weight * (np.where(good, flux, 1) - 1).astype(np.float32)
    score, profile, best = _scores(data, weight, lines)
    peak, gain = np.argmax(score, axis=1), np.max(score, axis=1)
    whole = np.where(best >= 0, peak - lines.max_lag, 0)
    lag, lag_err = _refine(data, weight, lines, best, whole + _gaussian_peak(score, peak))
    inside = (best >= 0) & (peak > 0) & (peak < score.shape[1] - 1)
    quality = np.where(best >= 0, _peak_ratio(profile, peak, gain), 0.0)
    return np.stack(
        [np.where(inside, lag, whole), np.where(inside, lag_err, np.inf), best, gain, quality]
    )


def _scores(
    data: Float32Array, weight: Float32Array, lines: _Lines
) -> tuple[Float32Array, Float32Array, IntArray]:
    """Return the best template's χ² gain by lag, the highest gain at each lag, and the best."""
    data_f, weight_f = fft.rfft(data, lines.size), fft.rfft(weight, lines.size)
    least = 1e-4 * weight.sum(axis=1, keepdims=True)
    lags = np.arange(-lines.max_lag, lines.max_lag + 1) % lines.size
    score = np.zeros((len(data), len(lags)), np.float32)
    profile, best = np.zeros_like(score), np.full(len(data), -1)
    for index, mean_square in enumerate(lines.power):
        cross = fft.irfft(data_f * np.conj(lines.first[index]), lines.size)[:, lags]
        power = fft.irfft(weight_f * np.conj(lines.second[index]), lines.size)[:, lags]
        # Rounding of the transforms must not pass for a template that gaps have hidden.
        use = (cross > 0) & (power > least * mean_square)
        gain = np.where(use, cross * (cross / np.where(use, power, 1)), 0)
        better = gain.max(axis=1) > score.max(axis=1)
        score[better], best[better] = gain[better], index
        np.maximum(profile, gain, out=profile)
    return score, profile, best


def _refine(
    data: Float32Array, weight: Float32Array, lines: _Lines, best: IntArray, start: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the lag between pixels and its 1σ, by one Gauss-Newton step from lag `start`.

    The best template t and its derivative t' are moved there by Fourier phases and the data
    (already times the weight) fitted by a t + b t': what is left to move is b / a.
    """
    n_pixel = data.shape[1]
    omega = 2 * np.pi * fft.rfftfreq(lines.size).astype(np.float32)
    angle = np.multiply.outer(start.astype(np.float32), omega)
    phase = np.empty(angle.shape, np.complex64)  # exp(-i angle), four times faster in parts
    phase.real, phase.imag = np.cos(angle), -np.sin(angle)
    moved = lines.first[best] * phase
    t = fft.irfft(moved, lines.size)[:, :n_pixel]
    slope = fft.irfft(moved * (np.complex64(-1j) * omega), lines.size)[:, :n_pixel]
    p, q, r = _dot(weight * t, t), _dot(weight * t, slope), _dot(weight * slope, slope)
    c, e = _dot(data, t), _dot(data, slope)
    determinant = p * r - q**2
    a, b = r * c - q * e, p * e - q * c  # each times the determinant
    found = (determinant > 0) & (a > 0)
    a = np.where(found, a, 1)
    step = np.where(found, np.clip(b / a, -0.5, 0.5), 0)
    variance = np.where(found, p * determinant / a**2, np.inf)
    return start + step, np.sqrt(variance)


def _dot(x: FloatArray, y: FloatArray) -> FloatArray:
    result: FloatArray = np.vecdot(x, y).astype(np.float64)
    return result


def _gaussian_peak(score: FloatArray, peak: IntArray) -> FloatArray:
    """Return where, in pixels from `peak`, a Gaussian through three lags has its top."""
    three = np.clip(peak, 1, score.shape[1] - 2)[:, np.newaxis] + np.arange(-1, 2)
    values = np.take_along_axis(score, three, axis=1).astype(np.float64)
    # A neighbor that matches nothing has score 0; any small number keeps its logarithm finite.
    least = np.maximum(1e-6 * np.max(values, axis=1, keepdims=True), 1e-30)
    log = np.log(np.maximum(values, least))
    curvature = log[:, 0] - 2 * log[:, 1] + log[:, 2]
    offset = (log[:, 0] - log[:, 2]) / (2 * np.where(curvature < 0, curvature, -1))
    return np.where(curvature < 0, np.clip(offset, -0.5, 0.5), 0.0)


def _peak_ratio(profile: FloatArray, peak: IntArray, gain: FloatArray) -> FloatArray:
    """Return `gain` over the highest other local maximum of `profile`."""
    before = np.pad(profile, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    after = np.pad(profile, ((0, 0), (0, 1)), constant_values=-1)[:, 1:]
    away = np.abs(np.arange(profile.shape[1]) - peak[:, np.newaxis]) >= SEPARATION
    other = np.where(away & (profile > before) & (profile >= after), profile, 0).max(axis=1)
    return np.where(other > 0, gain / np.where(other > 0, other, 1), np.inf)
