"""Made-up observations: from what stands above the air to the numbers of a survey's pipeline.

One path for every instrument: light, line spread, air, electrons, noise, sky subtraction, flux
calibration, damage. NumPy float32, a block of spectra at a time.
"""

from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from scalespec.kernels.observation_instrument import Arm, Instrument, along, line_sigma
from scalespec.kernels.observation_light import air_transmission, sky_light, star_light
from scalespec.kernels.observation_lsf import LogGrid, observed_profile
from scalespec.kernels.wavelength import C_KMS

FloatArray = npt.NDArray[np.float64]
Array32 = npt.NDArray[np.float32]

PHOTONS = 5.0341e-10
"""Photons in 1e-17 erg at 1 Å: wavelength over hc."""
SLOPES = (0.15, 0.08, 0.05, 0.03)
"""Sizes of the Legendre terms of a flux calibration's error, for `slope` 1."""
_DEEP = 0.02  # of the air's bands: what is flagged as telluric


class Damage(IntFlag):
    """What happened to a pixel; each survey has its own bits for it."""

    DEAD = 1  # no signal: no weight
    COSMIC = 2  # a cosmic ray that the pipeline saw
    SKY = 4  # on a bright sky line
    TELLURIC = 8  # in a band of the air that was divided out
    NO_DATA = 16  # no detector, or the model ends: no weight
    UNSEEN = 32  # a cosmic ray that nobody saw: no mask of a survey says so
    CONTAMINATED = 64  # another star's light
    LOST = 128  # without weight, for a reason that the survey does not tell


def _bits(damage: Damage) -> np.uint8:
    return np.uint8(damage.value)


_DARK = _bits(Damage.DEAD | Damage.NO_DATA | Damage.LOST)  # no weight
_EMPTY = _bits(Damage.DEAD | Damage.NO_DATA)  # nor flux


@dataclass(frozen=True)
class Sources:
    """What is looked at, one row per spectrum.

    Attributes
    ----------
    normalized : (n, n_model) float32
        Flux over continuum at rest, on `grid`.
    grid : LogGrid
    resolving_power : float
        Of `normalized`.
    teff, g, ebv, rv : (n,) float64 [K, mag, mag, km/s]
    """

    normalized: Array32
    grid: LogGrid
    resolving_power: float
    teff: FloatArray
    g: FloatArray
    ebv: FloatArray
    rv: FloatArray


@dataclass(frozen=True)
class Conditions:
    """How it was looked at, one row per spectrum.

    Attributes
    ----------
    slit : (n,) float64
        Place in the slit, -1 to 1: the ends are blurred.
    throughput : (n,) float64
        Light and time relative to the instrument's: weather, longer exposures.
    sky_velocity : (n,) float64 [km/s]
        Of the wavelengths' frame against the telescope: what stands still at the telescope lies
        this far to the red in the file.
    ivar_factor : (blue, red)
        Stated over true ivar at the arm's ends; (1, 1) for an honest survey.
    noise_sigma : float or None [pixel]
        In place of the instrument's.
    """

    slit: FloatArray
    throughput: FloatArray
    sky_velocity: FloatArray
    ivar_factor: tuple[float, float] = (1.0, 1.0)
    noise_sigma: float | None = None

    @property
    def overstated(self) -> float:
        """Stated over true S/N in the middle of an arm."""
        return float((self.ivar_factor[0] * self.ivar_factor[1]) ** 0.25)


@dataclass(frozen=True)
class Observed:
    """One arm of a block of spectra.

    Attributes
    ----------
    flux, ivar : (n, n_pixel) float32
        As the survey would give them, in its unit.
    damage : (n, n_pixel) uint8
        `Damage` bits.
    truth : (n, n_pixel) float32
        What `flux` would be without noise and damage, errors of its calibration included.
    continuum : (n, n_pixel) float32
        The same without lines and without air: truth over it is the star's normalized flux times,
        where the pipeline leaves them in, the air's bands.
    sky : (n, n_pixel) float32
        The sky that was subtracted.
    transmission : (n, n_pixel) float32
        Of the air.
    snr : (n,) float64
        True median S/N over pixels with weight.
    """

    flux: Array32
    ivar: Array32
    damage: npt.NDArray[np.uint8]
    truth: Array32
    continuum: Array32
    sky: Array32
    transmission: Array32
    snr: FloatArray


@lru_cache(maxsize=32)
def _surroundings(instrument: Instrument, arm: Arm) -> tuple[Array32, Array32, Array32]:
    """Return sky, transmission and electrons per flux unit, each (n_pixel,), for one arm."""
    w = arm.wavelength
    if instrument.ground:
        sky = sky_light(w, line_sigma(arm), instrument.sky_magnitude)
        air = air_transmission(w)
    else:
        sky = np.full(len(w), sky_light(w[:1], w[:1], instrument.sky_magnitude)[0])
        air = np.ones(len(w))
    efficiency = along(arm.efficiency, w)
    width = np.gradient(w)
    gain = PHOTONS * w * width * instrument.area * instrument.exposure * efficiency
    return sky.astype(np.float32), air.astype(np.float32), gain.astype(np.float32)


def observe_arm(
    instrument: Instrument,
    arm: Arm,
    sources: Sources,
    conditions: Conditions,
    rng: np.random.Generator,
) -> Observed:
    """Observe a block of stars with one arm of an instrument.

    Parameters
    ----------
    instrument : Instrument
    arm : Arm
        One of its arms.
    sources : Sources
    conditions : Conditions
    rng : Generator
        All chance comes from it, in a fixed order.

    Raises
    ------
    ValueError
        If a star has no finite magnitude, temperature or velocity.

    Notes
    -----
    Variance in electrons: star + 2 sky (it is subtracted with fibres as noisy) + read noise² +
    (residual x sky)² + (flat error x star)². The sky residual has one sign over a spectrum, so its
    pixels are alike, but over many spectra each is as noisy as its ivar says.

    Examples
    --------
    Five magnitudes are 100 times the light, and 10 times the S/N where all noise is the light's:

    >>> arm = Arm("a", 5000.0, 1.0, 500, ((5000, 1800.0),), ((5000, 0.1),), log=False)
    >>> plain = Instrument("plain", (arm,), 1e5, 1000.0, 40.0, 0.0, ground=False, flat_error=0.0,
    ...                    slope=0.0, level_step=0.0, sky_residual=0.0, cosmic_rays=0.0, dead=0.0)
    >>> one, grid = np.ones(2), LogGrid(3.69, 5e-5, 2000)
    >>> stars = Sources(np.ones((2, 2000), np.float32), grid, 5000.0, 6000 * one,
    ...                 np.array([10.0, 15.0]), 0 * one, 0 * one)
    >>> conditions = Conditions(slit=0 * one, throughput=one, sky_velocity=0 * one)
    >>> seen = observe_arm(plain, arm, stars, conditions, np.random.default_rng(0))
    >>> (seen.truth[0] / seen.truth[1]).mean().round(2), (seen.snr[0] / seen.snr[1]).round(2)
    (np.float32(100.0), np.float64(10.0))
    >>> np.std((seen.flux - seen.truth) * np.sqrt(seen.ivar)).round(1)
    np.float32(1.0)
    """
    _check(sources)
    lines, covered = _through_slit(instrument, arm, sources, conditions)
    sky, air, gain = _at_telescope(instrument, arm, conditions)
    light = star_light(arm.wavelength, sources.teff, sources.g, sources.ebv)
    seen = light * lines * air
    sigma, noise = _noise(instrument, (seen, sky, gain), conditions, rng)
    response = _response(instrument, arm, len(seen), rng)
    if instrument.counts:
        response = response * gain
    elif instrument.relative:
        response = response * conditions.throughput.astype(np.float32)[:, None]
    continuum = light * response
    if instrument.telluric_corrected:
        wrong = instrument.telluric_error * rng.standard_normal((len(seen), 1), np.float32)
        response = np.asarray(response / air ** (1 + wrong), np.float32)
    truth, sigma = seen * response, sigma * response
    alive = (gain > 0) & arm.on_chip()
    ivar = np.divide(1, sigma**2, out=np.zeros_like(sigma), where=alive)
    flux = truth + np.where(alive, noise * response, 0)
    damage = _damage(instrument, arm, (flux, sigma, truth, sky, air), rng)
    damage[~(covered & alive)] |= _bits(Damage.NO_DATA)
    ivar[damage & _DARK > 0] = 0
    flux[damage & _EMPTY > 0] = 0
    snr = median_snr(truth, ivar)
    if conditions.ivar_factor != (1.0, 1.0):
        ivar *= np.geomspace(*conditions.ivar_factor, arm.n_pixel).astype(np.float32)
    return Observed(flux, ivar, damage, truth, continuum, sky * response, air, snr)


def _check(sources: Sources) -> None:
    for name in ("teff", "g", "ebv", "rv"):
        if not np.all(np.isfinite(getattr(sources, name))):
            raise ValueError(f"{name} of a star to observe must be finite")


def _at_telescope(
    instrument: Instrument, arm: Arm, conditions: Conditions
) -> tuple[Array32, Array32, Array32]:
    """Return sky, transmission and electrons per flux unit of each spectrum, (n, n_pixel)."""
    sky, air, gain = _surroundings(instrument, arm)
    shape = len(conditions.throughput), arm.n_pixel
    if instrument.ground:
        sky, air = (_in_frame(x, arm.wavelength, conditions) for x in (sky, air))
    else:
        sky, air = (np.broadcast_to(x, shape) for x in (sky, air))
    return sky, air, gain * conditions.throughput.astype(np.float32)[:, None]


def _through_slit(
    instrument: Instrument, arm: Arm, sources: Sources, conditions: Conditions
) -> tuple[Array32, npt.NDArray[np.bool_]]:
    """Return normalized flux in the file's frame at the arm's resolution, and where it is known."""
    w = arm.wavelength
    R = arm.resolving_power(w, instrument.fibre_droop * conditions.slit**2)
    wanted = sources.grid.sigma_pixels(R)
    given = sources.grid.sigma_pixels(sources.resolving_power)
    added = np.sqrt(np.maximum(wanted**2 - given**2, 0))  # a model can be blurred, not sharpened
    return observed_profile(sources.normalized, sources.grid, w, rv=sources.rv, sigma=added)


def _in_frame(curve: Array32, wavelength: FloatArray, conditions: Conditions) -> Array32:
    """Move what stands still at the telescope into each file's frame."""
    if not np.any(conditions.sky_velocity):
        return np.broadcast_to(curve, (len(conditions.sky_velocity), len(curve)))
    beta = conditions.sky_velocity / C_KMS
    factor = np.sqrt((1 - beta) / (1 + beta))
    rows = [np.interp(wavelength * f, wavelength, curve) for f in factor]
    return np.asarray(rows, np.float32)


def _noise(
    instrument: Instrument,
    light: tuple[Array32, Array32, Array32],
    conditions: Conditions,
    rng: np.random.Generator,
) -> tuple[Array32, Array32]:
    """Return sigma and a draw of the noise, in the unit of the light."""
    seen, sky, gain = light
    per_electron = np.divide(1, gain, out=np.zeros_like(gain), where=gain > 0)
    counts = (np.maximum(seen, 0) + 2 * sky) * per_electron
    counts += (np.float32(instrument.read_noise) * per_electron) ** 2
    counts += (np.float32(instrument.flat_error) * seen) ** 2
    residual = np.float32(instrument.sky_residual) * sky
    white = rng.standard_normal(seen.shape, np.float32)
    width = instrument.noise_sigma if conditions.noise_sigma is None else conditions.noise_sigma
    common = rng.standard_normal((len(seen), 1), np.float32)
    noise = np.sqrt(counts) * _alike(white, width) + residual * common
    return np.sqrt(counts + residual**2), noise


def _alike(white: Array32, sigma: float) -> Array32:
    """Return noise whose neighbours are alike by a Gaussian, each still of variance 1."""
    if sigma == 0:
        return white
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= np.sqrt(np.sum(kernel**2))
    wrapped = np.concatenate([white[:, -reach:], white, white[:, :reach]], axis=1)
    n = white.shape[1]
    smooth = np.zeros_like(white)
    for k, weight in enumerate(kernel):
        smooth += np.float32(weight) * wrapped[:, k : k + n]
    return smooth


def _response(instrument: Instrument, arm: Arm, n: int, rng: np.random.Generator) -> Array32:
    """Return what the flux calibration makes of a flux unit: smooth errors, steps, the unit."""
    terms = np.linspace(-1.0, 1.0, arm.n_pixel)
    basis = np.polynomial.legendre.legvander(terms, len(SLOPES))[:, 1:].astype(np.float32)
    bends = instrument.slope * rng.normal(size=(n, len(SLOPES))) * SLOPES
    steps = 1 + instrument.level_step * rng.normal(size=(n, len(arm.joins) + 1))
    segment = np.searchsorted(arm.joins, arm.wavelength)
    response = np.exp(bends.astype(np.float32) @ basis.T)
    response *= (instrument.unit * steps).astype(np.float32)[:, segment]
    return np.asarray(response)


def _damage(
    instrument: Instrument,
    arm: Arm,
    images: tuple[Array32, Array32, Array32, Array32, Array32],
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Spoil some pixels of the flux, in place, and say which."""
    flux, sigma, truth, sky, air = images
    n, n_pixel = flux.shape
    damage = np.zeros(flux.shape, np.uint8)
    count = rng.poisson(instrument.dead * n_pixel, n)
    rows = np.repeat(np.arange(n), count)
    damage[rows, rng.integers(n_pixel, size=len(rows))] |= _bits(Damage.DEAD)
    if np.isfinite(instrument.flag_sky):
        dark = np.quantile(sky, 0.1, axis=1, keepdims=True)
        damage[sky > np.float32(instrument.flag_sky) * dark] |= _bits(Damage.SKY)
    if instrument.telluric_corrected:
        damage[air < 1 - _DEEP] |= _bits(Damage.TELLURIC)
    _hit(instrument, (flux, sigma, damage), rng)
    _contaminate(instrument, (flux, truth, damage), rng)
    snr = np.median(truth / sigma, axis=1) if instrument.lost else np.zeros(n)
    for lost in instrument.lost:
        part = (rng.random(n) < lost.fraction) & (snr < lost.snr_below)
        first, last = (a + (b - a) * rng.random((n, 1)) for a, b in (lost.first, lost.last))
        w = arm.wavelength
        inside = part[:, None] & (w >= first) & (w <= last)
        damage[inside] |= _bits(Damage.LOST | (Damage.DEAD if lost.flagged else Damage(0)))
        flux[inside & lost.empty] = 0
    if np.isfinite(instrument.least_snr):
        damage[truth < np.float32(instrument.least_snr) * sigma] |= _bits(Damage.LOST)
    return damage


def _hit(
    instrument: Instrument,
    images: tuple[Array32, Array32, npt.NDArray[np.uint8]],
    rng: np.random.Generator,
) -> None:
    """Let cosmic rays fall: spikes over two pixels, nine of ten of them seen by the pipeline."""
    flux, sigma, damage = images
    n, n_pixel = flux.shape
    rows = np.repeat(np.arange(n), rng.poisson(instrument.cosmic_rays, n))
    column = rng.integers(n_pixel - 1, size=len(rows))
    height = (10 ** rng.uniform(1.0, 2.0, len(rows))).astype(np.float32)
    bit = np.where(rng.random(len(rows)) < 0.9, Damage.COSMIC, Damage.UNSEEN).astype(np.uint8)
    for offset, share in ((0, 1.0), (1, 0.5)):
        place = rows, column + offset
        np.add.at(flux, place, np.float32(share) * height * sigma[place])
        np.bitwise_or.at(damage, place, bit)


def _contaminate(
    instrument: Instrument,
    images: tuple[Array32, Array32, npt.NDArray[np.uint8]],
    rng: np.random.Generator,
) -> None:
    """Let the spectra of neighbours fall on a tenth of some spectra, as happens without a slit."""
    if not instrument.contaminated:
        return
    flux, truth, damage = images
    n, n_pixel = flux.shape
    rows = np.flatnonzero(rng.random(n) < instrument.contaminated)
    width = max(n_pixel // 10, 1)
    first = rng.integers(n_pixel - width, size=len(rows))
    share = rng.uniform(0.1, 1.0, len(rows)).astype(np.float32)
    for row, start, part in zip(rows, first, share, strict=True):
        there = slice(start, start + width)
        flux[row, there] += part * np.mean(truth[row])
        damage[row, there] |= _bits(Damage.CONTAMINATED)


def median_snr(truth: Array32, ivar: Array32) -> FloatArray:
    """Return the median S/N (n,) over pixels with weight; 0 where there is none."""
    pulls = truth * np.sqrt(ivar)
    used = [row[weight > 0] for row, weight in zip(pulls, ivar, strict=True)]
    return np.array([float(np.median(row)) if row.size else 0.0 for row in used])
