"""Spectra as a slitless space telescope would take them: bands, throughput, orders, noise. Å.

The China Space Station Telescope's three gratings serve as the pattern. Its band edges and R are
those of its public descriptions; efficiencies and backgrounds are not public and are round numbers
here: name your own where they matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

BANDS: Mapping[str, tuple[float, float]] = {
    "GU": (2550.0, 4000.0),
    "GV": (4000.0, 6200.0),
    "GI": (6200.0, 10_000.0),
}
"""Band edges [Å, vacuum]; Zhan 2021, Chinese Science Bulletin 66, 1290."""

AB_FLUX = 0.10885
"""f_λ of AB magnitude 0 times λ² [erg s⁻¹ cm⁻² Å⁻¹ Å²]: 10^(-48.6/2.5) c in Å/s."""
ERG_ANGSTROM = 1.98644586e-8
"""Planck's constant times c [erg Å]: a photon's energy times its wavelength (CODATA 2018)."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """What turns flux into counts.

    Attributes
    ----------
    throughput : mapping of band name to float
        Part of the photons that are counted at the middle of each band used, in the order of
        wavelength; the telescope's, grating's and detector's together.
    edge : float
        Part of a band over which its throughput rises from half at its edge.
    area_cm2, exposure_s : float
        Collecting area and total time.
    background : float
        Variance per pixel besides the source's photons [electrons²]: sky, dark current, reading.
    second_order : float
        Counts of second-order light at 2 λ over those of first order at λ; it overlaps the next
        band's first order. 0: blocked.
    """

    throughput: Mapping[str, float]
    edge: float = 0.02
    area_cm2: float = 31_400.0  # 2 m mirror
    exposure_s: float = 600.0
    background: float = 100.0
    second_order: float = 0.0


def throughput(wavelength: FloatArray, instrument: Instrument) -> FloatArray:
    """Return the part of photons counted at each wavelength: bands with soft edges.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å, vacuum]
    instrument : Instrument

    Returns
    -------
    (n_pixel,) float64
        Half a band's value at its edges, all of it `edge` inside, 0 outside the bands.

    Raises
    ------
    ValueError
        If a band is none of `BANDS`.

    Examples
    --------
    >>> throughput(np.array([3000.0, 4001.0, 5000.0]), Instrument({"GV": 0.3})).round(2)
    array([0.  , 0.15, 0.3 ])
    """
    result = np.zeros(len(wavelength))
    for name, value in instrument.throughput.items():
        if name not in BANDS:
            raise ValueError(f"band '{name}' is none of {', '.join(BANDS)}")
        low, high = BANDS[name]
        inside = (wavelength >= low) & (wavelength <= high)
        depth = np.minimum(wavelength - low, high - wavelength) / (high - low)
        rise = np.clip(depth / instrument.edge, 0, 1) if instrument.edge > 0 else 1.0
        result[inside] = np.broadcast_to(value * (0.5 + 0.5 * rise), result.shape)[inside]
    return result


def order_overlap(wavelength: FloatArray, instrument: Instrument) -> FloatArray:
    """Return the matrix that adds second-order light of λ/2 to the flux at λ.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å, vacuum]
        Increasing, two or more.
    instrument : Instrument

    Returns
    -------
    (n_pixel, n_pixel) float64
        The identity, and ``second_order`` times the ratio of what λ/2 and λ leave on a detector
        per flux and Å: throughput times λ. Linear between pixels; 0 where λ/2 is not on the grid.

    Raises
    ------
    ValueError
        If a band is none of `BANDS`, or there are fewer than two pixels.

    Examples
    --------
    >>> wavelength = np.array([4000.0, 8000.0])
    >>> order_overlap(wavelength, Instrument({"GV": 0.3, "GI": 0.3}, 0.0, second_order=0.1))
    array([[1.   , 0.   ],
           [0.025, 1.   ]])
    """
    _check_grid(wavelength)
    half = wavelength / 2
    right = np.clip(np.searchsorted(wavelength, half, side="right"), 1, len(wavelength) - 1)
    left = right - 1
    part = (half - wavelength[left]) / (wavelength[right] - wavelength[left])
    counted = throughput(wavelength, instrument)
    # On a first-order pixel Δλ fall Δλ/2 around λ/2, with half the photons per flux.
    light = 0.25 * instrument.second_order * np.where(counted > 0, 1, 0)
    there = (half >= wavelength[0]) & (half <= wavelength[-1])
    source = np.interp(half, wavelength, counted)
    share = np.where(there, light * source / np.where(counted > 0, counted, 1), 0)
    matrix = np.eye(len(wavelength))
    rows = np.arange(len(wavelength))
    np.add.at(matrix, (rows, left), share * (1 - part))
    np.add.at(matrix, (rows, right), share * part)
    return matrix


def noise_at_snr(
    flux: FloatArray, wavelength: FloatArray, instrument: Instrument, snr: float
) -> FloatArray:
    """Return the variance that photon noise gives spectra whose median pixel has a wanted S/N.

    Parameters
    ----------
    flux : (n_spectrum, n_pixel) float
        Flux per Å in any unit; what is not positive counts as 0.
    wavelength : (n_pixel,) float [Å, vacuum]
        Of pixels; their widths are taken from it.
    instrument : Instrument
        Its throughput; area, time and background do not matter here.
    snr : float
        Of the median pixel that counts photons.

    Returns
    -------
    (n_spectrum, n_pixel) float64 [flux²]
        Infinite where no photon is counted.

    Raises
    ------
    ValueError
        If `snr` is not positive, or there are fewer than two pixels.

    Examples
    --------
    >>> wavelength = np.linspace(4500.0, 5000.0, 101)
    >>> variance = noise_at_snr(np.ones((1, 101)), wavelength, Instrument({"GV": 0.3}), 50.0)
    >>> round(float(np.median(1 / np.sqrt(variance))), 3)
    50.0
    """
    if not snr > 0:
        raise ValueError(f"a signal-to-noise ratio must be positive, got {snr}")
    light = _light(flux)
    counts = light * _photons_per_flux(wavelength, instrument)
    lit = counts > 0
    middle = np.ones((len(flux), 1))
    for row in np.flatnonzero(lit.any(axis=1)):
        middle[row] = np.median(counts[row, lit[row]])
    ratio = snr * np.sqrt(counts / middle)
    return np.where(lit, (light / np.where(lit, ratio, 1)) ** 2, np.inf)


def noise_at_magnitude(
    flux: FloatArray,
    wavelength: FloatArray,
    instrument: Instrument,
    magnitude: float,
    *,
    band: tuple[float, float] = BANDS["GV"],
) -> FloatArray:
    """Return the variance of spectra of stars of a given AB magnitude.

    Parameters
    ----------
    flux : (n_spectrum, n_pixel) float
        Flux per Å in any unit: only its shape counts; what is not positive counts as 0.
    wavelength : (n_pixel,) float [Å, vacuum]
    instrument : Instrument
    magnitude : float
        AB, of the photon-weighted mean flux within `band`.
    band : (low, high) [Å]

    Returns
    -------
    (n_spectrum, n_pixel) float64 [flux²]
        Of photons and background; infinite where no photon is counted.

    Raises
    ------
    ValueError
        If no pixel lies in the band, or there are fewer than two pixels.

    References
    ----------
    AB magnitudes: Oke & Gunn 1983, ApJ 266, 713.

    Examples
    --------
    Of a star of AB magnitude 20 at all frequencies, 10^(-0.4 (20 + 48.6)) / h photons come per
    cm², s and unit of ln λ; 0.3 of them are counted, and S/N² is their number:

    >>> wavelength = np.linspace(5000.0, 5010.0, 11)
    >>> flux = 1 / wavelength[np.newaxis] ** 2
    >>> csst = Instrument({"GV": 0.3}, area_cm2=31_400.0, exposure_s=600.0, background=0.0)
    >>> variance = noise_at_magnitude(flux, wavelength, csst, 20.0)
    >>> photons = 10 ** (-0.4 * 68.6) / 6.62607e-27 * 31_400 * 600 * 0.3 / 5005
    >>> round((flux**2 / variance)[0, 5], 1), round(photons, 1)
    (np.float64(61.9), 61.9)
    """
    inside = (wavelength >= band[0]) & (wavelength <= band[1])
    if not inside.any():
        raise ValueError(f"no pixel between {band[0]} and {band[1]} Å to give a magnitude in")
    width = _widths(wavelength)
    reference = AB_FLUX * 10 ** (-0.4 * magnitude) / wavelength**2
    weight = np.where(inside, wavelength * width, 0)
    light = _light(flux)
    mean = light @ weight
    physical = np.where(mean > 0, (reference @ weight) / np.where(mean > 0, mean, 1), 0)
    exposure = instrument.area_cm2 * instrument.exposure_s / ERG_ANGSTROM
    per_flux = exposure * physical[:, np.newaxis] * _photons_per_flux(wavelength, instrument)
    counts = light * per_flux
    lit = per_flux > 0
    return np.where(lit, (counts + instrument.background) / np.where(lit, per_flux, 1) ** 2, np.inf)


def observe(
    flux: FloatArray, ivar: FloatArray, variance: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Bring spectra to a variance by adding the noise that they lack.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
        Degraded spectra with what noise they have; infinite ivar is none, 0 no information.
    variance : (n_spectrum, n_pixel) float
        Wanted. Where data are noisier already they stay so: noise cannot be taken away.
    rng : np.random.Generator

    Returns
    -------
    flux, ivar : (n_spectrum, n_pixel) float64
        Both 0 where there is no information or the variance is infinite.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> flux, ivar = np.ones((1, 40_000)), np.full((1, 40_000), 1 / 9.0)
    >>> noisy, ivar = observe(flux, ivar, np.full(flux.shape, 25.0), rng)
    >>> round(float(noisy.std()), 1), ivar[0, 0].round(6)  # 4² were missing
    (4.0, np.float64(0.04))
    """
    known = (ivar > 0) & np.isfinite(variance)
    own = np.where(known & np.isfinite(ivar), 1 / np.where(known, ivar, 1), 0.0)
    missing = np.where(known, np.maximum(variance - own, 0), 0)
    noisy = flux + np.sqrt(missing) * rng.standard_normal(flux.shape)
    total = own + missing
    some = known & (total > 0)
    return np.where(some, noisy, 0), np.where(some, 1 / np.where(some, total, 1), 0)


def _photons_per_flux(wavelength: FloatArray, instrument: Instrument) -> FloatArray:
    """Return what a pixel counts per flux and Å, but for area, time and the photon's energy."""
    counted: FloatArray = throughput(wavelength, instrument) * wavelength * _widths(wavelength)
    return counted


def _light(flux: FloatArray) -> FloatArray:
    """Return flux where there is some: a pixel of NaN must not take its spectrum's level along."""
    return np.where(flux > 0, flux, 0)


def _check_grid(wavelength: FloatArray) -> None:
    if len(wavelength) < 2:
        raise ValueError(f"pixels have widths where there are two or more, got {wavelength} Å")


def _widths(wavelength: FloatArray) -> FloatArray:
    _check_grid(wavelength)
    widths: FloatArray = np.gradient(wavelength)
    return widths
