"""Line spread functions: a star's spectrum shifted, broadened and sampled in one pass.

A model on an even log grid is a band-limited function: between its pixels it is interpolated by a
windowed sinc, and the Gaussian that an instrument adds is folded into that kernel. So shifts and
widths may differ from pixel to pixel and from fibre to fibre at no further cost.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from scalespec.kernels.compiled import compiled
from scalespec.kernels.wavelength import C_KMS

FloatArray = npt.NDArray[np.float64]
Array32 = npt.NDArray[np.float32]

FWHM = 2.354820045
"""Full width at half maximum of a Gaussian of sigma 1."""
_REACH = 8  # model pixels that the windowed sinc reaches to each side
_WIDTHS, _PHASES = 33, 64  # of the tabulated kernels: widths, and places between two pixels
_TAIL = 4.5  # sigmas at which a Gaussian ends


@dataclass(frozen=True)
class LogGrid:
    """Wavelengths even in their logarithm: pixel i lies at ``10 ** (start + step * i)`` Å.

    Attributes
    ----------
    start, step : float
        log10 of Å.
    n_pixel : int
    """

    start: float
    step: float
    n_pixel: int

    @property
    def wavelength(self) -> FloatArray:
        """Wavelengths [Å] of the pixels."""
        return np.asarray(10 ** (self.start + self.step * np.arange(self.n_pixel)))

    def sigma_pixels(self, resolving: npt.ArrayLike) -> FloatArray:
        """Return the sigma, in pixels, of a Gaussian of this resolving power."""
        return np.asarray(1 / (FWHM * np.log(10) * self.step * np.asarray(resolving, np.float64)))


def log_grid_of(wavelength: FloatArray) -> LogGrid:
    """Return the log grid that wavelengths make.

    Raises
    ------
    ValueError
        If they are not even in their logarithm, or fewer than two.

    Examples
    --------
    >>> grid = log_grid_of(10 ** (3.5 + 1e-4 * np.arange(100)))
    >>> round(grid.start, 9), round(grid.step, 12), grid.n_pixel
    (3.5, 0.0001, 100)
    """
    if len(wavelength) < 2:
        raise ValueError(f"a grid wants two wavelengths or more, got {wavelength}")
    place = np.log10(wavelength)
    step = float(place[-1] - place[0]) / (len(place) - 1)
    uneven = float(np.max(np.abs(np.diff(place) - step))) / step
    if uneven > 1e-3:
        raise ValueError(
            f"a mock survey wants a model on wavelengths even in their logarithm; steps from "
            f"{wavelength[0]:.2f} Å on differ by {uneven:.2g} of {step:.6g} dex"
        )
    return LogGrid(float(place[0]), step, len(place))


def observed_profile(
    flux: Array32,
    grid: LogGrid,
    wavelength: FloatArray,
    *,
    rv: FloatArray,
    sigma: FloatArray,
) -> tuple[Array32, npt.NDArray[np.bool_]]:
    """Shift spectra by their velocities, broaden them and take them at other wavelengths.

    Parameters
    ----------
    flux : (n, n_model) float32
        On `grid`, at rest.
    grid : LogGrid
        Fine enough for `flux`: 2 pixels per sigma of its lines lose 1e-5 of their depth, 1 pixel
        0.4 %.
    wavelength : (n_pixel,) or (n, n_pixel) float64 [Å]
        Where the flux is wanted.
    rv : (n,) float64 [km/s]
        Positive to the red.
    sigma : (n, n_pixel) float64 [pixels of `grid`]
        Of the Gaussian to broaden by, varying slowly; 0 leaves the lines as they are.

    Returns
    -------
    flux : (n, n_pixel) float32
        The value of the broadened spectrum at each wavelength, not a mean over the pixel: count the
        pixel's width in `sigma` where it matters.
    covered : (n, n_pixel) bool
        Whether the model reaches as far as the kernel does; elsewhere flux means nothing.

    Raises
    ------
    ValueError
        If a sigma is negative or not finite.

    Examples
    --------
    A line of sigma 3 pixels and depth 0.5, blurred by 4, has sigma 5 and depth 0.3, here 10 pixels
    to the red:

    >>> grid, away = LogGrid(3.7, 1e-4, 200), (np.arange(200) - 100) / 3
    >>> flux = np.float32([1 - 0.5 * np.exp(-0.5 * away**2)])
    >>> rv, sigma = C_KMS * np.tanh([10 * 1e-4 * np.log(10)]), np.full((1, 200), 4.0)
    >>> seen, covered = observed_profile(flux, grid, grid.wavelength, rv=rv, sigma=sigma)
    >>> (1 - seen[0, [105, 110, 115]]).round(3), (0.3 * np.exp(-0.5)).round(3), covered[0, [0, 110]]
    (array([0.182, 0.3  , 0.182], dtype=float32), np.float64(0.182), array([False,  True]))
    """
    if not np.all(np.isfinite(sigma)) or np.min(sigma, initial=0.0) < 0:
        raise ValueError(f"sigma must be 0 or more pixels, got {np.min(sigma):.6g}")
    beta = np.asarray(rv, np.float64) / C_KMS
    shift = 0.5 * np.log10((1 + beta) / (1 - beta)) / grid.step
    place = np.atleast_2d((np.log10(wavelength) - grid.start) / grid.step)
    widest = float(max(np.ceil(8 * np.max(sigma, initial=0.0)) / 8, 0.125))
    table = kernel_table(widest)
    out = np.zeros(sigma.shape, np.float32)
    covered = np.zeros(sigma.shape, np.bool_)
    _fold(flux, place, shift, sigma.astype(np.float32), np.float32(widest), table, out, covered)
    return out, covered


@lru_cache(maxsize=16)
def kernel_table(widest: float) -> Array32:
    """Return kernels of `_WIDTHS` sigmas from 0 to `widest`, at `_PHASES` + 1 places in a pixel.

    Returns
    -------
    (n_width, n_phase, n_tap) float32
        Weights that add to 1; tap k is the model's pixel ``k - n_tap / 2 + 1`` after the one
        below the place wanted.
    """
    half = _REACH + int(np.ceil(_TAIL * widest))
    fine = 64  # samples per pixel
    x = np.arange(-(half + 1) * fine, (half + 1) * fine) / fine
    window = np.where(
        np.abs(x) < _REACH, np.i0(8 * np.sqrt(np.clip(1 - (x / _REACH) ** 2, 0, 1))), 0
    )
    spectrum = np.fft.rfft(np.fft.ifftshift(np.sinc(x) * window / np.i0(8.0)))
    frequency = np.fft.rfftfreq(len(x), 1 / fine)
    sigmas = np.linspace(0, widest, _WIDTHS)
    damping = np.exp(-2 * (np.pi * sigmas[:, None] * frequency) ** 2)
    smooth = np.fft.fftshift(np.fft.irfft(spectrum * damping, len(x)), axes=1)
    taps = np.arange(-half + 1, half + 1)
    at = taps - np.arange(_PHASES + 1)[:, None] / _PHASES
    index = np.rint((at + half + 1) * fine).astype(np.int64)
    table = smooth[:, np.minimum(index, len(x) - 1)]
    return np.ascontiguousarray(table / table.sum(2, keepdims=True), np.float32)


@compiled
def _fold(
    flux: Array32,
    place: FloatArray,
    shift: FloatArray,
    sigma: Array32,
    widest: np.float32,
    table: Array32,
    out: Array32,
    covered: npt.NDArray[np.bool_],
) -> None:
    """Take each wanted pixel from its neighbours with a kernel between four of the table's."""
    n_width, n_phase, n_tap = table.shape
    rows, last = place.shape[0], flux.shape[1] - n_tap
    weights = np.zeros(n_tap, np.float32)
    for row in range(out.shape[0]):
        places = place[row if rows > 1 else 0]
        for i in range(out.shape[1]):
            at = places[i] - shift[row]
            below = int(np.floor(at))
            first = below - n_tap // 2 + 1
            covered[row, i] = 0 <= first <= last
            first = min(max(first, 0), last)
            phase = np.float32((at - below) * (n_phase - 1))
            p = min(int(phase), n_phase - 2)
            b = phase - np.float32(p)
            width = sigma[row, i] / widest * np.float32(n_width - 1)
            s = min(int(width), n_width - 2)
            # mixed by their variances, so that the mixture has the variance wanted
            a = (width * width - np.float32(s * s)) / np.float32(2 * s + 1)
            low, high = table[s], table[s + 1]
            for k in range(n_tap):
                here = low[p, k] + a * (high[p, k] - low[p, k])
                beyond = low[p + 1, k] + a * (high[p + 1, k] - low[p + 1, k])
                weights[k] = here + b * (beyond - here)
            total = np.float32(0)
            for k in range(n_tap):
                total += weights[k] * flux[row, first + k]
            out[row, i] = total
