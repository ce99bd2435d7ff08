"""Wavelength scales: air and vacuum, Doppler shifts, log grids. Å, vacuum unless said; km/s."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

C_KMS = 299_792.458
"""Speed of light [km/s], exact (SI)."""


def vacuum_to_air(wavelength: npt.ArrayLike) -> FloatArray:
    """Convert vacuum wavelengths to standard air (dry, 15 °C, 1 atm, 450 ppm CO2).

    Parameters
    ----------
    wavelength : (...) float [Å, vacuum]
        Longer than 2000 Å, where air transmits and the formula was fitted.

    Returns
    -------
    (...) float64 [Å, air]

    Raises
    ------
    ValueError
        If a wavelength is not above 2000 Å, or is NaN.

    References
    ----------
    Morton 2000, ApJS 130, 403, eq. 8 (the refractive index of Birch & Downs 1994, Metrologia 31,
    315), as VALD3 uses it: https://www.astro.uu.se/valdwiki/Air-to-vacuum%20conversion

    Examples
    --------
    >>> vacuum_to_air([5000.0, 16000.0]).round(3)
    array([ 4998.606, 15995.63 ])
    """
    vacuum = _transparent(wavelength)
    return vacuum / _refractive_index(vacuum)


def air_to_vacuum(wavelength: npt.ArrayLike) -> FloatArray:
    """Convert standard-air wavelengths to vacuum: the inverse of `vacuum_to_air`.

    Parameters
    ----------
    wavelength : (...) float [Å, air]
        Longer than 2000 Å.

    Returns
    -------
    (...) float64 [Å, vacuum]

    Raises
    ------
    ValueError
        If a wavelength is not above 2000 Å, or is NaN.

    References
    ----------
    As `vacuum_to_air`, inverted by iteration rather than by VALD's fitted inverse.

    Examples
    --------
    >>> air_to_vacuum(6562.80).round(3)
    np.float64(6564.613)
    """
    air = _transparent(wavelength)
    vacuum = air
    # The index depends on the vacuum wavelength so weakly (dn/dlnλ about 1e-4 at 2000 Å, less
    # beyond) that each pass gains four digits: from 3e-4 relative, three reach float64.
    for _ in range(3):
        vacuum = air * _refractive_index(vacuum)
    return vacuum


def doppler_shift(wavelength: FloatArray, rv: FloatArray) -> FloatArray:
    """Move rest-frame wavelengths to where a star of velocity `rv` shows them.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å, vacuum]
        Rest-frame wavelengths.
    rv : (n_spectrum,) float [km/s]
        Barycentric radial velocity, positive when the star recedes.

    Returns
    -------
    (n_spectrum, n_pixel) float [Å, vacuum]
        Observed-frame wavelengths.

    Raises
    ------
    ValueError
        If any ``abs(rv)`` reaches the speed of light, or is NaN.

    References
    ----------
    Relativistic form for purely radial motion: Lindegren & Dravins 2003, A&A 401, 1185.

    Examples
    --------
    >>> doppler_shift(np.array([6564.61]), np.array([0.0, 100.0])).round(2)
    array([[6564.61],
           [6566.8 ]])
    """
    beta = _beta(rv)
    factor = np.sqrt((1 + beta) / (1 - beta))
    return factor[:, np.newaxis] * wavelength


def velocity_to_pixels(rv: npt.ArrayLike, step: float) -> FloatArray:
    """Say by how many pixels of a log10 grid a radial velocity moves a spectrum.

    Parameters
    ----------
    rv : (...) float [km/s]
        Positive when the star recedes.
    step : float
        Pixel size in log10(λ); 1e-4 is LAMOST's low-resolution grid.

    Returns
    -------
    (...) float64
        Pixels to the red: log10 of the Doppler factor over `step`. Exact, not rounded.

    Raises
    ------
    ValueError
        If any ``abs(rv)`` reaches the speed of light or is NaN, or `step` is not positive.

    References
    ----------
    As `doppler_shift`: ln sqrt((1 + β) / (1 - β)) = artanh β.

    Examples
    --------
    >>> velocity_to_pixels([69.03, -300.0], 1e-4).round(4)
    array([ 1.   , -4.346])
    """
    return np.arctanh(_beta(rv)) / _ln_step(step)


def pixels_to_velocity(n: npt.ArrayLike, step: float) -> FloatArray:
    """Say which radial velocity moves a spectrum by `n` pixels: inverse of `velocity_to_pixels`.

    Parameters
    ----------
    n : (...) int or float
        Pixels to the red.
    step : float
        Pixel size in log10(λ).

    Returns
    -------
    (...) float64 [km/s]
        Positive when the star recedes.

    Raises
    ------
    ValueError
        If `step` is not positive.

    Examples
    --------
    >>> pixels_to_velocity([1, -10], 1e-4).round(3)
    array([  69.03 , -690.296])
    """
    return C_KMS * np.tanh(np.asarray(n, np.float64) * _ln_step(step))


def log_grid(start: float, step: float, n: int) -> FloatArray:
    """Return `n` wavelengths, evenly spaced in log10.

    Parameters
    ----------
    start : float
        log10 of the first wavelength in Å (COEFF0 of a LAMOST or SDSS file).
    step : float
        Pixel size in log10(λ) (COEFF1).
    n : int
        Number of pixels.

    Returns
    -------
    (n,) float64 [Å]

    Raises
    ------
    ValueError
        If `step` or `n` is not positive.

    Examples
    --------
    >>> log_grid(3.5682, 1e-4, 3909)[[0, -1]].round(2)
    array([3699.99, 9099.13])
    """
    _ln_step(step)
    if n < 1:
        raise ValueError(f"a grid wants at least one pixel, got n = {n}")
    grid: FloatArray = 10.0 ** (start + step * np.arange(n))
    return grid


def linear_grid(start: float, step: float, n: int) -> FloatArray:
    """Return `n` wavelengths, evenly spaced in Å.

    Parameters
    ----------
    start, step : float [Å]
        First wavelength and pixel size, both positive.
    n : int
        Number of pixels.

    Returns
    -------
    (n,) float64 [Å]

    Raises
    ------
    ValueError
        If `start`, `step` or `n` is not positive.

    Examples
    --------
    >>> linear_grid(4000.0, 1.0, 4096)[[0, -1]]
    array([4000., 8095.])
    """
    if not (start > 0 and step > 0 and n > 0):
        raise ValueError(f"a grid wants positive start, step and n, got {start}, {step}, {n}")
    grid: FloatArray = start + step * np.arange(n)
    return grid


def resolution_edges(
    low: float, high: float, resolving_power: float, *, pixels_per_fwhm: float = 2.0
) -> FloatArray:
    """Return edges of pixels that are a fixed part of a resolution element: even in ln λ.

    Parameters
    ----------
    low, high : float [Å]
        The first edge, and what the last does not pass.
    resolving_power : float
        λ / FWHM.
    pixels_per_fwhm : float
        2 is Nyquist's; 1 undersamples.

    Returns
    -------
    (n + 1,) float64 [Å]

    Raises
    ------
    ValueError
        If anything is not positive, or no pixel fits.

    References
    ----------
    The 143 pixels of the residual-network work on LAMOST spectra at R = 200: one per FWHM from
    4,000 to 8,177 Å, for ln(8177 / 4000) 200 = 143.

    Examples
    --------
    >>> len(resolution_edges(4000.0, 8177.0, 200.0, pixels_per_fwhm=1.0)) - 1
    143
    """
    if not (0 < low < high and resolving_power > 0 and pixels_per_fwhm > 0):
        raise ValueError(
            f"want 0 < low < high, R > 0 and pixels > 0, got {low}, {high} Å, R = "
            f"{resolving_power}, {pixels_per_fwhm}"
        )
    per_ln = resolving_power * pixels_per_fwhm
    n = int(np.floor(np.log(high / low) * per_ln + 1e-9))
    if n < 1:
        raise ValueError(f"no pixel of ln λ = {1 / per_ln:.3g} between {low} and {high} Å")
    edges: FloatArray = low * np.exp(np.arange(n + 1) / per_ln)
    return edges


def log10_step(wavelength: FloatArray) -> float | None:
    """Return the step of a grid that is even in log10(λ), and None of one that is not.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å]

    Examples
    --------
    >>> log10_step(log_grid(3.5682, 1e-4, 3909)), log10_step(linear_grid(4000.0, 1.0, 100))
    (0.0001, None)
    """
    if len(wavelength) < 2 or not wavelength[0] > 0:
        return None
    logarithm = np.log10(wavelength)
    step = float(logarithm[-1] - logarithm[0]) / (len(wavelength) - 1)
    even = logarithm[0] + step * np.arange(len(wavelength))
    # A thousandth of a pixel; 12 digits are what float64 wavelengths of 10^4 Å hold.
    return round(step, 12) if np.max(np.abs(logarithm - even)) < 1e-3 * step else None


def pixel_edges(wavelength: FloatArray) -> FloatArray:
    """Return the edges of pixels, halfway between their centers in log wavelength.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å]
        Increasing centers, at least two.

    Returns
    -------
    (n_pixel + 1,) float64 [Å]
        The outer two mirror the nearest inner ones.

    Raises
    ------
    ValueError
        If there are fewer than two wavelengths, or they do not increase from above zero.

    Examples
    --------
    >>> pixel_edges(np.array([1.0, 4.0, 16.0]))
    array([ 0.5,  2. ,  8. , 32. ])
    """
    center = np.asarray(wavelength, np.float64)
    if center.ndim != 1 or len(center) < 2:
        raise ValueError(f"edges want at least two wavelengths in one row, got {center.shape}")
    if not (center[0] > 0 and np.all(np.diff(center) > 0)):
        raise ValueError(f"wavelengths must increase from above 0, got {center[0]:.6g} Å first")
    inner = np.sqrt(center[:-1] * center[1:])
    first, last = center[0] ** 2 / inner[0], center[-1] ** 2 / inner[-1]
    return np.concatenate([[first], inner, [last]])


def _transparent(wavelength: npt.ArrayLike) -> FloatArray:
    """Return float64 wavelengths, all of them where air transmits."""
    values = np.asarray(wavelength, np.float64)
    if not np.all(values > 2000):
        worst = float(np.min(values))
        raise ValueError(f"air wavelengths have a meaning above 2000 Å only, got {worst:.6g} Å")
    return values


def _refractive_index(vacuum: FloatArray) -> FloatArray:
    wavenumber2 = (1e4 / vacuum) ** 2  # [1/µm²]
    return 1 + 8.34254e-5 + 2.406147e-2 / (130 - wavenumber2) + 1.5998e-4 / (38.9 - wavenumber2)


def _beta(rv: npt.ArrayLike) -> FloatArray:
    beta: FloatArray = np.asarray(rv, np.float64) / C_KMS
    if not np.all(np.abs(beta) < 1):
        worst = float(np.max(np.abs(beta))) * C_KMS
        raise ValueError(f"rv must be slower than light, got {worst:.6g} km/s")
    return beta


def _ln_step(step: float) -> float:
    if not step > 0:
        raise ValueError(f"step in log10(wavelength) must be positive, got {step}")
    return float(step * np.log(10))
