"""How well pixels tell lines that are no wider than the instrument makes them. Edges in Å."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from scalespec.kernels.lsf import FWHM, degrade_operator
from scalespec.kernels.resample import rebin_operator

FloatArray = npt.NDArray[np.floating[Any]]

_PHASES = 8
_REACH = 6.0  # FWHM to either side of a line
_CENTER = 5e5  # Å, of a line 1 Å wide: what is added to it stays positive
_FEWEST = 0.1  # pixels per FWHM: with fewer a line is as lost
_FREQUENCIES = np.linspace(0.0, 6.0, 6001)  # cycles per pixel


def pixels_per_fwhm(edges: FloatArray, resolving_power: npt.ArrayLike) -> FloatArray:
    """Return how many pixels a line's FWHM has, at each pixel.

    Parameters
    ----------
    edges : (n + 1,) float [Å]
        Increasing.
    resolving_power : float or (n,) float
        λ/FWHM.

    Examples
    --------
    >>> pixels_per_fwhm(np.array([5999.0, 6001.0, 6003.0]), 1500.0).round(2)
    array([2., 2.])
    """
    middle = (edges[1:] + edges[:-1]) / 2
    count: FloatArray = middle / np.asarray(resolving_power) / np.diff(edges)
    return count


def untold_depth(pixels: float) -> float:
    """Return the part of a line's depth that its pixels do not tell: beyond Nyquist's frequency.

    About as much is wrong in the line when its spectrum is moved by half a pixel, whatever
    interpolates.

    Parameters
    ----------
    pixels : float
        Per FWHM of a Gaussian line.

    References
    ----------
    The transforms of a Gaussian and of a pixel: Bracewell 2000, The Fourier Transform and Its
    Applications, chapters 4 and 10.

    Examples
    --------
    >>> [round(untold_depth(n), 4) for n in (1.0, 1.5, 2.0, 2.4)]
    [0.0916, 0.0255, 0.0045, 0.0008]
    """
    sigma = pixels / FWHM
    line = np.exp(-2 * (np.pi * sigma * _FREQUENCIES) ** 2) * np.sinc(_FREQUENCIES)
    return float(np.abs(line[_FREQUENCIES > 0.5].sum()) / line.sum())


def rebinned_depth(before: float, after: float, wider: float = 1.0) -> float:
    """Measure by how much of its depth a line is wrong on other pixels, wherever they begin.

    A Gaussian line is put on pixels, brought to others by `rebin_operator`, or `degrade_operator`
    if it is to be wider, and compared with what the others would have seen themselves.

    Parameters
    ----------
    before : float
        Pixels per FWHM of the line.
    after : float
        Other pixels per FWHM of the line as it is there.
    wider : float
        FWHM there over FWHM before, 1 or more.

    Returns
    -------
    float
        Largest error of a pixel over the line's depth, of 8 places of either pixels.

    Examples
    --------
    The coarser the pixels, the more a line is blurred; one that is made wider hardly is:

    >>> [round(rebinned_depth(n, n), 2) for n in (1.5, 2.0, 3.0, 5.0)]
    [0.22, 0.14, 0.07, 0.03]
    >>> round(rebinned_depth(2.0, 3.0, wider=3.0), 3)
    0.012
    """
    parts = np.arange(_PHASES) / _PHASES
    width, other = 1 / max(before, _FEWEST), wider / max(after, _FEWEST)
    line = _CENTER + parts * max(width, other)
    reach = _REACH * wider + 2 * max(width, other)
    old = _CENTER + np.arange(-2 * reach, 2 * reach, width)  # all that the others gather
    worst = 0.0
    for part in parts:
        new = _CENTER + np.arange(-reach, reach, other) + part * other
        operator = rebin_operator(old, new).band
        if wider > 1:
            operator = degrade_operator(old, new, _CENTER, _CENTER / wider)
        seen = _seen(old, line, 1.0)
        found, _ = operator.apply(seen, np.ones_like(seen))
        wanted = _seen(new, line, wider)
        worst = max(worst, float((np.abs(found - wanted).max(axis=1) / wanted.max(axis=1)).max()))
    return worst


def _seen(edges: FloatArray, center: FloatArray, fwhm: float) -> FloatArray:
    """Return the means over pixels (n, n_pixel) of lines at centers (n,), of unit area."""
    passed = special.ndtr((edges - center[:, np.newaxis]) * FWHM / fwhm)
    mean: FloatArray = np.diff(passed, axis=1) / np.diff(edges)
    return mean
