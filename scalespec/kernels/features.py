"""Few numbers that stand for a spectrum: line windows, principal components. Vacuum Å."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.kernels.wavelength import air_to_vacuum

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

AIR_WINDOWS: Mapping[str, tuple[float, float]] = {
    "CH_G": (4280.0, 4330.0),  # the CH G band alone
    "CARBON": (4000.0, 5500.0),  # the wide window of the CEMP work: CH, CN and C2 Swan bands
    "CA_K": (3926.7, 3940.7),
    "H_BETA": (4847.9, 4876.6),
    "MG_B": (5160.1, 5192.6),
    "FE_5270": (5245.7, 5285.7),
    "NA_D": (5876.9, 5909.4),
    "CA_TRIPLET": (8484.0, 8682.0),
}
"""Windows in air Å. Lick indices: Worthey et al. 1994, ApJS 94, 687; the others as said."""


def window(name: str) -> tuple[float, float]:
    """Return a named window in vacuum.

    Raises
    ------
    ValueError
        If there is no window of that name.

    Examples
    --------
    >>> [round(edge, 1) for edge in window("CH_G")]
    [4281.2, 4331.2]
    """
    if name not in AIR_WINDOWS:
        raise ValueError(f"window '{name}' is none of {', '.join(AIR_WINDOWS)}")
    low, high = air_to_vacuum(np.array(AIR_WINDOWS[name]))
    return float(low), float(high)


def equivalent_widths(
    flux: FloatArray,
    ivar: FloatArray,
    edges: FloatArray,
    windows: Mapping[str, tuple[float, float]],
) -> tuple[FloatArray, FloatArray]:
    """Measure what lines take from a normalized spectrum: ∫ (1 - f) dλ over windows.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
        Normalized.
    edges : (n_pixel + 1,) float [Å]
        Of the pixels; those cut by a window's edge count in part.
    windows : mapping of name to (low, high) [Å]

    Returns
    -------
    width, width_err : (n_spectrum, n_window) float64 [Å]
        Masked pixels are taken to be as deep as the rest of the window's mean. NaN and infinity
        where less than half of a window lies on good pixels.

    Raises
    ------
    ValueError
        If shapes differ, or a window ends before it begins.

    Examples
    --------
    >>> flux = np.array([[1.0, 0.4, 1.0]])
    >>> width, error = equivalent_widths(flux, 100 * flux**0, np.arange(4.0), {"x": (0.5, 2.5)})
    >>> width.round(3), error.round(3)
    (array([[0.6]]), array([[0.122]]))
    """
    if flux.shape != ivar.shape or len(edges) != flux.shape[1] + 1:
        raise ValueError(f"flux {flux.shape}, ivar {ivar.shape}, {len(edges)} edges do not fit")
    shape = (len(flux), len(windows))
    width, error = np.full(shape, np.nan), np.full(shape, np.inf)
    good = ivar > 0
    variance = np.where(good, 1 / np.where(good, ivar, 1), 0)
    for i, (low, high) in enumerate(windows.values()):
        if not low < high:
            raise ValueError(f"window must not end before it begins, got ({low}, {high}) Å")
        length = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
        seen = good @ length
        known = seen >= 0.5 * (high - low)
        scale = (high - low) / np.where(known, seen, 1)
        taken = np.where(good, 1 - np.where(good, flux, 1), 0) @ length
        width[:, i] = np.where(known, scale * taken, np.nan)
        error[:, i] = np.where(known, scale * np.sqrt(variance @ length**2), np.inf)
    return width, error


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over some spectra, from which principal components are made; add them to merge.

    Attributes
    ----------
    n : (n_pixel,) float64
        Spectra with information per pixel.
    total : (n_pixel,) float64
        Sum of their flux - 1.
    product : (n_pixel, n_pixel) float64
        Sum of products of flux - 1, where a pixel without information counts as 0.
    """

    n: FloatArray
    total: FloatArray
    product: FloatArray

    def __add__(self, other: "Moments") -> "Moments":
        """Return the sums over both sets of spectra."""
        return Moments(self.n + other.n, self.total + other.total, self.product + other.product)


def moments(flux: FloatArray, ivar: FloatArray) -> Moments:
    """Return the sums over a block of normalized spectra: one pass, any number of blocks.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
        Normalized; a pixel of ``ivar <= 0`` counts as continuum, 1.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    Blocks add up; the masked pixel counts as continuum, whatever its flux:

    >>> flux = np.array([[1.0, 0.5], [0.8, 0.5], [0.6, 9.0]])
    >>> ivar = np.array([[1, 1], [1, 1], [1, 0]])
    >>> sums = moments(flux[:1], ivar[:1]) + moments(flux[1:], ivar[1:])
    >>> sums.n, sums.total.round(2), sums.product.round(2)
    (array([3., 2.]), array([-0.6, -1. ]), array([[0.2, 0.1],
           [0.1, 0.5]]))
    """
    if flux.shape != ivar.shape or flux.ndim != 2:
        raise ValueError(f"flux {flux.shape} and ivar {ivar.shape} must be alike in (n, n_pixel)")
    good = ivar > 0
    # About 1 and not 0: of sums of squares near 1 float64 would lose what is left of them.
    depth = np.where(good, np.where(good, flux, 1) - 1.0, 0.0)
    return Moments(good.sum(axis=0, dtype=np.float64), depth.sum(axis=0), depth.T @ depth)


@dataclass(frozen=True, slots=True)
class Components:
    """Principal components of spectra.

    Attributes
    ----------
    mean : (n_pixel,) float64
    vectors : (n_component, n_pixel) float64
        Orthonormal, by falling variance; the largest element of each is positive.
    variance : (n_component,) float64
        Of the spectra along each.
    total_variance : float
        Over all pixels: what the components could explain.
    """

    mean: FloatArray
    vectors: FloatArray
    variance: FloatArray
    total_variance: float

    def project(self, flux: FloatArray, ivar: FloatArray) -> FloatArray:
        """Return (n_spectrum, n_component) coordinates; pixels without information are the mean."""
        depth = np.where(ivar > 0, np.where(ivar > 0, flux, 0) - self.mean, 0)
        scores: FloatArray = depth @ self.vectors.T
        return scores

    def reconstruct(self, scores: FloatArray) -> FloatArray:
        """Return the spectra, (n_spectrum, n_pixel), that coordinates stand for."""
        flux: FloatArray = self.mean + scores @ self.vectors
        return flux


def principal_components(sums: Moments, n_spectrum: int, n_component: int) -> Components:
    """Return the leading principal components from sums over all blocks.

    Parameters
    ----------
    sums : Moments
        Of all blocks, added in one order: then the result is the same to the bit.
    n_spectrum : int
        How many spectra they are of.
    n_component : int

    Raises
    ------
    ValueError
        If there are fewer than two spectra, or more components than pixels or spectra.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> flux = 1 + np.outer(rng.normal(size=50), [0.6, -0.8, 0.0])
    >>> found = principal_components(moments(flux, flux**0), 50, 1)
    >>> found.vectors.round(3), found.project(flux, flux**0).shape
    (array([[-0.6,  0.8,  0. ]]), (50, 1))
    """
    n_pixel = len(sums.total)
    if not (n_spectrum >= 2 and 1 <= n_component <= min(n_pixel, n_spectrum)):
        raise ValueError(
            f"{n_component} components of {n_spectrum} spectra of {n_pixel} pixels: want at least "
            "two spectra, and no more components than either"
        )
    mean = sums.total / n_spectrum
    covariance = (sums.product / n_spectrum - np.outer(mean, mean)) * n_spectrum / (n_spectrum - 1)
    values, vectors = np.linalg.eigh(covariance)
    leading = vectors[:, ::-1][:, :n_component].T
    largest = np.argmax(np.abs(leading), axis=1)
    sign = np.sign(leading[np.arange(n_component), largest])
    variance = np.maximum(values[::-1][:n_component], 0)
    return Components(
        1 + mean, leading * sign[:, np.newaxis], variance, float(np.trace(covariance))
    )
