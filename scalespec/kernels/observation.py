"""Made-up observations: Doppler shift, slope, throughput, noise, sky lines, bad pixels, spikes.

NumPy float32 on LAMOST's low-resolution pixels; wavelengths vacuum Å, flux in counts of no unit.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Array32 = npt.NDArray[np.float32]

SKY_LINES = (4047.7, 4359.6, 5462.3, 5578.9, 5891.6, 5897.6, 6302.0, 6365.5, 6865.8)
"""Vacuum wavelengths [Å] where the subtracted sky leaves residuals."""
THROUGHPUT = (
    (
        3650.0,
        3800.0,
        4000.0,
        4500.0,
        5000.0,
        5600.0,
        5880.0,
        6200.0,
        7000.0,
        8000.0,
        8700.0,
        9200.0,
    ),
    (0.10, 0.20, 0.45, 0.75, 0.95, 1.00, 0.55, 1.00, 1.30, 1.35, 1.10, 0.60),
)
"""S/N per pixel of a flat spectrum over that at 5600 Å; the blue end and the join are poor."""
BANDS = ((3700, 4000), (4000, 5500), (5620, 6890), (6910, 8190), (8250, 9100))
"""Wavelengths [Å] of the S/N in u, g, r, i, z."""
BAD_PIXEL, SKY_TOO_BRIGHT, NO_DATA = 1, 8, 32  # values of ANDMASK and ORMASK
TAPS = 16  # points of the interpolating polynomials
LONGEST_CUT = 3  # pixels that a file may lack of the survey's grid


@dataclass(frozen=True)
class Spectra:
    """What a telescope would have seen, and what there was to see.

    Attributes
    ----------
    flux, ivar, andmask, ormask, normalized : (n, n_pixel) float32
        As in the survey's files; `normalized` is flux over the true continuum.
    truth, continuum : (n, n_pixel) float32
        Noiseless flux and its continuum.
    snr : (n,) float64
        True median S/N per pixel.
    snr_bands : (n, 5) float64
        The same in `BANDS`.
    first_pixel, n_pixel : (n,) int64
        Which pixels of the grid the file has.
    """

    flux: Array32
    ivar: Array32
    andmask: Array32
    ormask: Array32
    normalized: Array32
    truth: Array32
    continuum: Array32
    snr: npt.NDArray[np.float64]
    snr_bands: npt.NDArray[np.float64]
    first_pixel: npt.NDArray[np.int64]
    n_pixel: npt.NDArray[np.int64]


def shifted(
    flux: Array32, pixels: FloatArray, *, start: float, stride: int, n_pixel: int
) -> tuple[Array32, npt.NDArray[np.bool_]]:
    """Move spectra by fractions of a pixel along a log grid, and take every `stride`-th pixel.

    Parameters
    ----------
    flux : (n, n_model) float32
        Spectra on the model's grid.
    pixels : (n,) float
        How far to the red, in the model's pixels.
    start : float
        Where on the model's grid the first pixel wanted lies, for no shift.
    stride : int
        Model pixels per pixel wanted.
    n_pixel : int
        Pixels wanted.

    Returns
    -------
    flux : (n, n_pixel) float32
        Interpolated by polynomials through 16 points. Unresolved lines of 2 pixels' sigma are wrong
        by 1e-5 of their depth at most, those of 1 pixel by 0.4 % (sampling knows no better).
    covered : (n, n_pixel) bool
        Whether the model has all the points; elsewhere flux means nothing.

    Examples
    --------
    >>> x = np.arange(40.0, dtype=np.float32)[None]
    >>> shifted(x, np.array([0.25]), start=10.0, stride=2, n_pixel=3)[0].round(3)
    array([[ 9.75, 11.75, 13.75]], dtype=float32)
    """
    at = start - np.asarray(pixels, np.float64)
    whole = np.floor(at).astype(np.int64)
    nodes = np.arange(TAPS) - (TAPS // 2 - 1)
    weights = np.ones((len(at), TAPS))
    for k in range(TAPS):
        for j in range(TAPS):
            if j != k:
                weights[:, k] *= (at - whole - nodes[j]) / (nodes[k] - nodes[j])
    first = whole + nodes[0]
    span = stride * (n_pixel - 1) + 1
    left = max(0, -int(first.min()))
    right = max(0, int(first.max()) + TAPS - 1 + span - flux.shape[1])
    padded = np.pad(flux, ((0, 0), (left, right)), mode="edge")
    moved = np.zeros((len(flux), n_pixel), np.float32)
    for row, begin in enumerate(first + left):
        for k in range(TAPS):
            taken = padded[row, begin + k : begin + k + span : stride]
            moved[row] += np.float32(weights[row, k]) * taken
    place = first[:, None] + stride * np.arange(n_pixel)
    return moved, (place >= 0) & (place <= flux.shape[1] - TAPS)


def continuum(wavelength: FloatArray, teff: FloatArray, rng: np.random.Generator) -> Array32:
    """Return made-up continua (n, n_pixel): a black body seen through a smooth, odd response."""
    w = np.asarray(wavelength, np.float32)
    x = np.float32(1.43878e8) / (w * np.asarray(teff, np.float32)[:, None])
    middle = np.float32(1.43878e8 / 5600.0) / np.asarray(teff, np.float32)[:, None]
    planck = (np.float32(5600.0) / w) ** 5 * np.expm1(middle) / np.expm1(x)
    terms = np.linspace(-1.0, 1.0, w.size)
    basis = np.polynomial.legendre.legvander(terms, 4)[:, 1:].astype(np.float32)
    bends = rng.normal(size=(len(x), 4)) * (0.15, 0.08, 0.05, 0.03)  # together about 30 %
    level = 10 ** rng.uniform(1.5, 4.0, len(x))
    response = np.exp(bends.astype(np.float32) @ basis.T)
    return np.asarray(level.astype(np.float32)[:, None] * planck * response)


def observe(
    normalized: Array32,
    covered: npt.NDArray[np.bool_],
    wavelength: FloatArray,
    teff: FloatArray,
    rng: np.random.Generator,
) -> Spectra:
    """Observe stars of known normalized flux at S/N of 5 to 200.

    Parameters
    ----------
    normalized : (n, n_pixel) float32
        Noiseless flux over continuum.
    covered : (n, n_pixel) bool
        Where that is known; elsewhere ivar is 0.
    wavelength : (n_pixel,) float [Å]
    teff : (n,) float [K]
    rng : Generator
    """
    n, n_pixel = normalized.shape
    slope = continuum(wavelength, teff, rng)
    truth = slope * normalized
    middle = slope[:, n_pixel // 2, None]
    throughput = np.interp(wavelength, *THROUGHPUT).astype(np.float32)
    photons = np.sqrt((np.float32(0.2) + np.float32(0.8) * normalized) * slope * middle)
    residue = _sky_residue(wavelength) * np.asarray(rng.gamma(2.0, 1.0, n), np.float32)[:, None]
    sigma = photons / throughput * (1 + residue)
    snr = np.exp(rng.uniform(np.log(5.0), np.log(200.0), n))
    sigma *= (np.median(truth / sigma, axis=1) / snr).astype(np.float32)[:, None]
    ivar = sigma**-2
    flux = truth + sigma * rng.standard_normal((n, n_pixel), np.float32)
    andmask, ormask = _damage(flux, ivar, sigma, wavelength, rng)
    ivar[~covered], flux[~covered] = 0, 0
    cut = rng.integers(LONGEST_CUT + 1, size=n)
    bands = [(wavelength > low) & (wavelength < high) for low, high in BANDS]
    return Spectra(
        flux,
        ivar,
        andmask,
        ormask,
        flux / slope,
        truth,
        slope,
        snr,
        np.stack([np.median(truth[:, b] / sigma[:, b], axis=1) for b in bands], axis=1),
        rng.integers(cut + 1),
        n_pixel - cut,
    )


def _sky_residue(wavelength: FloatArray) -> Array32:
    """Return how much a sky line raises the noise: a bump of 2 Å on each."""
    lines = np.array(SKY_LINES)[:, None]
    bumps = np.exp(-0.5 * ((wavelength - lines) / 2.0) ** 2)
    return np.asarray(bumps.sum(axis=0), np.float32)


def _damage(
    flux: Array32, ivar: Array32, sigma: Array32, wavelength: FloatArray, rng: np.random.Generator
) -> tuple[Array32, Array32]:
    """Spoil some pixels, in place, and return ANDMASK and ORMASK.

    Sky lines are flagged in half of the spectra (their noise is in `sigma`); dead pixels and, in
    one spectrum of twenty, the join of the arms have no ivar; cosmic rays are spikes that ivar
    knows nothing of, nine of ten of them flagged in ORMASK.
    """
    n, n_pixel = flux.shape
    andmask, ormask = np.zeros((2, n, n_pixel), np.float32)
    near_sky = _sky_residue(wavelength) > 0.3
    bright, always = rng.random((2, n, 1))
    ormask[(bright < 0.5) & near_sky] = SKY_TOO_BRIGHT
    andmask[(bright < 0.5) & (always < 0.4) & near_sky] = SKY_TOO_BRIGHT
    dead = rng.random((n, n_pixel), np.float32) < 0.002
    known = dead & (rng.random((n, 1)) < 0.5)
    andmask[known] = ormask[known] = BAD_PIXEL
    gap = (rng.random((n, 1)) < 0.05) & (wavelength > 5830.0) & (wavelength < 5890.0)
    andmask[gap] = ormask[gap] = NO_DATA
    rows = np.repeat(np.arange(n), rng.poisson(1.0, n))
    column = rng.integers(n_pixel - 1, size=len(rows))
    height = (10 ** rng.uniform(1.0, 2.0, len(rows))).astype(np.float32)
    flagged = rng.random(len(rows)) < 0.9
    for offset, share in ((0, 1.0), (1, 0.5)):
        place = rows, column + offset
        flux[place] += np.float32(share) * height * sigma[place]
        ormask[rows[flagged], column[flagged] + offset] = BAD_PIXEL
    ivar[dead | gap], flux[dead | gap] = 0, 0
    return andmask, ormask
