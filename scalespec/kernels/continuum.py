"""Normalization by Gaussian smoothing: the mean of the good pixels around. Wavelengths in Å."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

LEAST_COVERAGE = 0.01
"""A continuum wants this part of the kernel's weight on good pixels."""
ROWS = 256
"""Spectra worked on at a time: their temporaries stay in cache, and memory is bounded."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A dense piece of a banded matrix.

    Attributes
    ----------
    out_start, out_stop, in_start, in_stop : int
        Output pixels (rows) and input pixels (columns) of the piece, half-open.
    matrix : (out_stop - out_start, in_stop - in_start) float32
    """

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int
    matrix: Float32Array


@dataclass(frozen=True, slots=True)
class SmoothingOperator:
    """A banded symmetric matrix K as tiles, each holding all that K has in its rows.

    Attributes
    ----------
    n_pixel : int
    tiles : tuple of Tile
        In order of wavelength; their output ranges cover ``[0, n_pixel)`` once.
    """

    n_pixel: int
    tiles: tuple[Tile, ...]

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
        if values.ndim != 2 or values.shape[1] != self.n_pixel:
            raise ValueError(f"operator wants (n, {self.n_pixel}) values, got {values.shape}")
        values = values.astype(np.float32, copy=False)
        result = np.empty(values.shape, np.float32)
        for tile in self.tiles:
            np.matmul(
                values[:, tile.in_start : tile.in_stop],
                tile.matrix.T,
                out=result[:, tile.out_start : tile.out_stop],
            )
        return result


def gaussian_smoothing(
    wavelength: FloatArray, width_angstrom: float, *, cut: float = 5.0, tile: int = 128
) -> SmoothingOperator:
    """Build K_ij = exp(-(λ_i - λ_j)² / (2 L²)), cut off at `cut` L and not normalized.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å]
        Increasing.
    width_angstrom : float [Å]
        L, a standard deviation.
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
    The smoothing kernel of Ho et al. 2017, ApJ 836, 5, where L = 50 Å.

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
    reach = cut * width_angstrom
    tiles = []
    for start in range(0, len(center), tile):
        out = center[start : start + tile]
        first = int(np.searchsorted(center, out[0] - reach, side="left"))
        last = int(np.searchsorted(center, out[-1] + reach, side="right"))
        distance = np.subtract.outer(out, center[first:last])
        kernel = np.exp(-0.5 * (distance / width_angstrom) ** 2)
        # Products of denormals make a matrix multiplication six times slower.
        kernel[(np.abs(distance) > reach) | (kernel < 1e-12)] = 0
        tiles.append(Tile(start, start + len(out), first, last, kernel.astype(np.float32)))
    return SmoothingOperator(len(center), tuple(tiles))


def normalize(
    flux: Float32Array, ivar: Float32Array, operator: SmoothingOperator
) -> tuple[Float32Array, Float32Array, Float32Array, BoolArray]:
    """Divide spectra by their smoothed selves: continuum = K(m f) / K(m), m = 1 where ivar > 0.

    The weights are the mask, not ivar: an ivar-weighted mean leans to line cores by an amount that
    depends on S/N. To compare a model with the result, pass it through the same masked operator.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float32
        Flux and inverse variance; flux counts, and must be finite, where ``ivar > 0``.
    operator : SmoothingOperator
        From `gaussian_smoothing` on the same grid.

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
        If shapes differ from each other or the operator's.

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
    flux_norm, ivar_norm, continuum = (np.empty(flux.shape, np.float32) for _ in range(3))
    bad = np.empty(flux.shape, np.bool_)
    least = LEAST_COVERAGE * operator.apply(np.ones((1, operator.n_pixel), np.float32))
    for start in range(0, len(flux), ROWS):
        rows = slice(start, start + ROWS)
        good = ivar[rows] > 0
        coverage = operator.apply(good)
        smoothed = operator.apply(np.where(good, flux[rows], np.float32(0)))
        bad[rows] = ~((smoothed > 0) & (coverage >= least))
        # What divides by 0 here is overwritten in the line after it.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            np.divide(smoothed, coverage, out=continuum[rows])
            np.copyto(continuum[rows], 0, where=bad[rows])
            # ivar first: continuum² alone leaves float32 for fluxes of 1e-23.
            np.multiply(ivar[rows], continuum[rows], out=ivar_norm[rows])
            ivar_norm[rows] *= continuum[rows]
            np.copyto(ivar_norm[rows], 0, where=~good)
            np.divide(flux[rows], continuum[rows], out=flux_norm[rows])
            np.copyto(flux_norm[rows], 0, where=ivar_norm[rows] == 0)
    return flux_norm, ivar_norm, continuum, bad
