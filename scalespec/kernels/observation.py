"""Model spectra moved by fractions of a pixel, and random slopes for libraries to be learned from.

NumPy float32; wavelengths vacuum Å, flux in counts of no unit. What telescopes make of spectra is
in the modules `observation_*` beside this one.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Array32 = npt.NDArray[np.float32]

TAPS = 16  # points of the interpolating polynomials


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
    left = max(0, -int(first.min(initial=0)))
    right = max(0, int(first.max(initial=0)) + TAPS - 1 + span - flux.shape[1])
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
