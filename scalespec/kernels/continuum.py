"""Normalization by Gaussian smoothing: the mean of the good pixels around. Wavelengths in Å."""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.kernels.compiled import compiled
from scalespec.kernels.tiles import (
    KNOT_STEP,
    KNOT_TAPS,
    KNOTS_PER_TILE,
    Tile,
    interpolation_tiles,
    kernel_tiles,
    multiply,
)

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

LEAST_COVERAGE = 0.01
"""A continuum wants this part of the kernel's weight on good pixels."""
ROWS = 64
"""Spectra worked on at a time: their temporaries stay in cache, and memory is bounded."""


@dataclass(frozen=True, slots=True)
class SmoothingOperator:
    """A banded symmetric matrix K as tiles, each holding all that K has in its rows.

    Attributes
    ----------
    n_pixel : int
    tiles : tuple of Tile
        In order of wavelength; their output ranges cover ``[0, n_pixel)`` once.
    to_knots, from_knots : tuple of Tile
        The same K as two thinner matrices, pixels to knots and knots to pixels: what a Gaussian
        has smoothed is known everywhere from values 0.4 L apart. Empty where pixels are as far
        apart as knots.
    """

    n_pixel: int
    tiles: tuple[Tile, ...]
    to_knots: tuple[Tile, ...] = ()
    from_knots: tuple[Tile, ...] = ()

    def apply(self, values: FloatArray | BoolArray) -> Float32Array:
        """Return K applied to each row.

        Parameters
        ----------
        values : (n_row, n_pixel) float or bool
            Finite everywhere: 0 · NaN would spread.

        Returns
        -------
        (n_row, n_pixel) float32

        Raises
        ------
        ValueError
            If the rows do not have ``n_pixel`` pixels.
        """
        return multiply(self.tiles, self._rows(values))

    def smooth(self, values: FloatArray | BoolArray) -> Float32Array:
        """Return what `apply` does, by way of the knots: three times faster.

        The two differ by less than 1e-6 of K's row sum times the largest value.
        """
        rows = self._rows(values)
        if not self.to_knots:
            return multiply(self.tiles, rows)
        return multiply(self.from_knots, multiply(self.to_knots, rows))

    def _rows(self, values: FloatArray | BoolArray) -> Float32Array:
        if values.ndim != 2 or values.shape[1] != self.n_pixel:
            raise ValueError(f"operator wants (n, {self.n_pixel}) values, got {values.shape}")
        return values.astype(np.float32, copy=False)


def gaussian_sigma(width_angstrom: float, convention: Literal["sigma", "exp"] = "sigma") -> float:
    """Return the standard deviation of a kernel whose width is given in either convention.

    Parameters
    ----------
    width_angstrom : float [Å]
        L.
    convention : {"sigma", "exp"}
        ``exp(-d²/2L²)``, where L is the standard deviation, or ``exp(-d²/L²)``, where it is √2 of
        them.

    Raises
    ------
    ValueError
        If `convention` is neither.

    References
    ----------
    The first is that of Ho et al. 2017, ApJ 836, 5; the second of Xiang et al. 2019, ApJS 245, 34.

    Examples
    --------
    >>> round(gaussian_sigma(50.0, "exp"), 2)
    35.36
    """
    if convention not in ("sigma", "exp"):
        raise ValueError(f"the width's convention is 'sigma' or 'exp', got {convention!r}")
    return width_angstrom if convention == "sigma" else width_angstrom / math.sqrt(2)


def gaussian_smoothing(
    wavelength: FloatArray, width_angstrom: float, *, cut: float = 5.0, tile: int = 128
) -> SmoothingOperator:
    """Build K_ij = exp(-(λ_i - λ_j)² / (2 L²)), cut off at `cut` L and not normalized.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å]
        Increasing.
    width_angstrom : float [Å]
        L, a standard deviation; `gaussian_sigma` turns the other convention into it.
    cut : float
        Where the kernel ends, in L; beyond 5 lies 6e-7 of its weight.
    tile : int
        Output pixels per tile.

    Raises
    ------
    ValueError
        If wavelengths do not increase, or width, cut or tile is not positive.

    References
    ----------
    The smoothing kernel of Ho et al. 2017, ApJ 836, 5, where L = 50 Å. From knots by the best
    linear prediction of white noise so smoothed, whose covariance is exp(-d²/4L²).

    Examples
    --------
    >>> K = gaussian_smoothing(np.array([5000.0, 5050.0, 5300.0]), 50.0)
    >>> K.apply(np.eye(3)).round(4)
    array([[1.    , 0.6065, 0.    ],
           [0.6065, 1.    , 0.    ],
           [0.    , 0.    , 1.    ]], dtype=float32)
    """
    center = np.asarray(wavelength, np.float64)
    if not np.all(np.diff(center) > 0):
        raise ValueError("wavelengths must increase")
    if not (width_angstrom > 0 and cut > 0 and tile > 0):
        raise ValueError(
            f"want positive width, cut and tile, got {width_angstrom} Å, {cut}, {tile}"
        )
    tiles = kernel_tiles(center, center, (width_angstrom, cut), tile)
    if not len(center):
        return SmoothingOperator(0, tiles)
    step = KNOT_STEP * width_angstrom
    n_knot = int(np.ceil((center[-1] - center[0]) / step)) + KNOT_TAPS
    if n_knot >= len(center):
        return SmoothingOperator(len(center), tiles)
    knots = center[0] + step * (np.arange(n_knot) - KNOT_TAPS // 2 + 1)
    return SmoothingOperator(
        len(center),
        tiles,
        kernel_tiles(knots, center, (width_angstrom, cut), KNOTS_PER_TILE),
        interpolation_tiles(center, knots, tile),
    )


def normalize(
    flux: Float32Array,
    ivar: Float32Array,
    operator: SmoothingOperator,
    *,
    weights: Literal["mask", "ivar"] = "mask",
) -> tuple[Float32Array, Float32Array, Float32Array, BoolArray]:
    """Divide spectra by their smoothed selves: continuum = K(w f) / K(w), w = 1 on good pixels.

    An ivar-weighted mean leans to line cores by an amount that depends on S/N, and makes the
    operator another one for every star; the mask does so much less. To compare a model with the
    result, pass it through the same operator: `smoothed_model`.

    At the ends the kernel is one-sided, in a gap it holds what lies on either side of it; where
    less than 1 % of it lies on good pixels there is no continuum. A spectrum without a good pixel
    is bad all over. Arms of different level want each its own operator, or joining first.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float32
        Flux and inverse variance; pixels of ``ivar <= 0``, or where either is not finite, are
        masked.
    operator : SmoothingOperator
        From `gaussian_smoothing` on the same grid.
    weights : {"mask", "ivar"}
        w: 1 on good pixels, or ivar itself.

    Returns
    -------
    flux_norm, ivar_norm : (n_spectrum, n_pixel) float32
        ``flux / continuum`` and ``ivar * continuum**2``; both 0 where either is unknown.
    continuum : (n_spectrum, n_pixel) float32 [unit of flux]
        Known also where ivar is 0; 0 where `bad`.
    bad : (n_spectrum, n_pixel) bool
        No continuum here: not positive, or less than 1 % of the kernel lies on good pixels.

    Raises
    ------
    ValueError
        If shapes differ from each other or the operator's, or `weights` is neither.

    References
    ----------
    Ho et al. 2017, ApJ 836, 5, but for the weights.

    Examples
    --------
    >>> wavelength = np.linspace(5000.0, 5400.0, 401)
    >>> flux, ivar = np.full((1, 401), 8.0, np.float32), np.ones((1, 401), np.float32)
    >>> flux_norm, ivar_norm, continuum, bad = normalize(
    ...     flux, ivar, gaussian_smoothing(wavelength, 50.0)
    ... )
    >>> flux_norm[0, 200].round(4), ivar_norm[0, 200].round(4), bad.any()
    (np.float32(1.0), np.float32(64.0), np.False_)
    """
    if flux.shape != ivar.shape or flux.shape[1:] != (operator.n_pixel,):
        wanted = f"(n, {operator.n_pixel})"
        raise ValueError(f"operator wants {wanted}, got flux {flux.shape}, ivar {ivar.shape}")
    if weights not in ("mask", "ivar"):
        raise ValueError(f"weights are 'mask' or 'ivar', got {weights!r}")
    flux, ivar = flux.astype(np.float32, copy=False), ivar.astype(np.float32, copy=False)
    flux_norm, ivar_norm, continuum = (np.empty(flux.shape, np.float32) for _ in range(3))
    bad = np.empty(flux.shape, np.bool_)
    least = LEAST_COVERAGE * operator.apply(np.ones((1, operator.n_pixel), np.float32))[0]
    for start in range(0, len(flux), ROWS):
        rows = slice(start, start + ROWS)
        n = len(flux[rows])
        stacked = _weighted(flux[rows], ivar[rows], weights == "ivar")
        smoothed = operator.smooth(stacked)
        _divide(
            (flux[rows], ivar[rows]),
            (smoothed[:n], smoothed[n : 2 * n], smoothed[-n:] if n else smoothed),
            least,
            (flux_norm[rows], ivar_norm[rows], continuum[rows], bad[rows]),
        )
    return flux_norm, ivar_norm, continuum, bad


@compiled
def _weighted(flux: Float32Array, ivar: Float32Array, by_ivar: bool) -> Float32Array:
    """Return w f, w and, where w is not the mask, the mask, one below the other."""
    n, n_pixel = flux.shape
    result = np.zeros(((3 if by_ivar else 2) * n, n_pixel), np.float32)
    for row in range(n):
        # Relative to the largest: ivar itself times a hundred pixels may leave float32.
        scale = np.float32(1)
        if by_ivar:
            scale = np.float32(0)
            for i in range(n_pixel):
                scale = max(scale, ivar[row, i] if ivar[row, i] < np.inf else np.float32(0))
        for i in range(n_pixel):
            if 0 < ivar[row, i] < np.inf and np.isfinite(flux[row, i]):
                weight = ivar[row, i] / scale if by_ivar else np.float32(1)
                result[row, i] = weight * flux[row, i]
                result[n + row, i] = weight
                if by_ivar:
                    result[2 * n + row, i] = np.float32(1)
    return result


@compiled
def _divide(
    spectra: tuple[Float32Array, Float32Array],
    smoothed: tuple[Float32Array, Float32Array, Float32Array],
    least: Float32Array,
    out: tuple[Float32Array, Float32Array, Float32Array, BoolArray],
) -> None:
    flux, ivar = spectra
    above, below, coverage = smoothed
    flux_norm, ivar_norm, continuum, bad = out
    zero = np.float32(0)
    for row in range(flux.shape[0]):
        for i in range(flux.shape[1]):
            known = above[row, i] > 0 and below[row, i] > 0 and coverage[row, i] >= least[i]
            level = above[row, i] / below[row, i] if known else np.float32(1)
            # ivar first: level² alone leaves float32 for fluxes of 1e-23.
            weight = ivar[row, i] * level * level
            use = known and 0 < weight < np.inf and np.isfinite(flux[row, i])
            bad[row, i] = not known
            continuum[row, i] = level if known else zero
            ivar_norm[row, i] = weight if use else zero
            flux_norm[row, i] = flux[row, i] / level if use else zero


def smoothed_model(
    flux: FloatArray,
    jacobian: FloatArray,
    weights: FloatArray,
    operator: SmoothingOperator,
) -> tuple[Float32Array, Float32Array]:
    """Normalize a model and its derivatives as `normalize` does one star's data.

    Parameters
    ----------
    flux : (n_spectrum, n_pixel) float
        Model of each star.
    jacobian : (n_spectrum, n_label, n_pixel) float
        Its derivatives.
    weights : (n_spectrum, n_pixel) float
        The star's w: its mask, or its ivar.
    operator : SmoothingOperator

    Returns
    -------
    flux : (n_spectrum, n_pixel) float32
        F / S, where S = K(w F) / K(w); 0 where S is not positive or not known.
    jacobian : (n_spectrum, n_label, n_pixel) float32
        F' / S - F S' / S², exact: S is linear in F.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> K = gaussian_smoothing(np.linspace(5000.0, 5400.0, 401), 50.0)
    >>> flux, weights = np.full((1, 401), 3.0), np.ones((1, 401))
    >>> smoothed, slope = smoothed_model(flux, flux[:, np.newaxis], weights, K)
    >>> smoothed[0, 200].round(4), abs(slope[0, 0, 200]).round(4)  # a scale is invisible
    (np.float32(1.0), np.float32(0.0))
    """
    n, n_pixel = flux.shape
    if weights.shape != flux.shape or jacobian.shape[::2] != flux.shape:
        shapes = f"flux {flux.shape}, jacobian {jacobian.shape}, weights {weights.shape}"
        raise ValueError(f"flux, jacobian and weights must fit, got {shapes}")
    all_rows = np.concatenate([np.ones((n, 1, n_pixel)), flux[:, np.newaxis], jacobian], axis=1)
    weighted = (all_rows * weights[:, np.newaxis]).astype(np.float32)
    smooth = operator.smooth(weighted.reshape(-1, n_pixel)).reshape(weighted.shape)
    full = operator.apply(np.ones((1, n_pixel), np.float32))
    top = weights.max(axis=1, initial=0, keepdims=True)
    known = (smooth[:, 0] >= LEAST_COVERAGE * full * top) & (smooth[:, 0] > 0) & (smooth[:, 1] > 0)
    below = np.where(known, smooth[:, 0], 1)
    level = np.where(known, smooth[:, 1] / below, 1)
    made = np.where(known, flux / level, 0)
    slope = (jacobian - made[:, np.newaxis] * smooth[:, 2:] / below[:, np.newaxis]) / level[
        :, np.newaxis
    ]
    slope = np.where(known[:, np.newaxis], slope, 0)
    return made.astype(np.float32), slope.astype(np.float32)
