"""Move spectra between pixels: whole-pixel shifts and exact-overlap rebinning. Edges in Å."""

from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from scalespec.kernels.lsf import BandOperator, banded

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Scalar = TypeVar("Scalar", bound=np.generic)


def shift_pixels(
    array: npt.NDArray[Scalar], n: npt.NDArray[np.integer[Any]], fill: float | int | bool
) -> npt.NDArray[Scalar]:
    """Move each row by its own whole number of pixels: no interpolation, noise stays white.

    Parameters
    ----------
    array : (n_spectrum, n_pixel) any dtype
        Flux, ivar, mask.
    n : (n_spectrum,) int
        Pixels by which the row's features sit too far to the red (positive: the star recedes).
    fill : float, int or bool
        Value where ``i + n`` lies outside the row.

    Returns
    -------
    (n_spectrum, n_pixel) dtype of `array`
        ``result[row, i] = array[row, i + n[row]]``.

    Raises
    ------
    ValueError
        If `n` is not one integer per row.

    Examples
    --------
    >>> shift_pixels(np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([1, -2]), fill=0)
    array([[2, 3, 4, 0],
           [0, 0, 5, 6]])
    """
    if n.shape != array.shape[:1] or n.dtype.kind not in "iu":
        raise ValueError(f"want one integer per row of {array.shape}, got {n.dtype}{n.shape}")
    n_pixel = array.shape[1]
    result = np.full_like(array, fill)
    # A survey has a dozen distinct shifts: copying slices by shift beats indexing each pixel.
    for shift in np.unique(n):
        rows = n == shift
        start, stop = max(0, -int(shift)), min(n_pixel, n_pixel - int(shift))
        if start < stop:
            result[rows, start:stop] = array[rows, start + shift : stop + shift]
    return result


@dataclass(frozen=True, slots=True)
class RebinOperator:
    """Exact-overlap rebinning from one grid to another.

    Attributes
    ----------
    overlap : (n_out, n_in) sparse float64 [Å]
        Length that output pixel j and input pixel i share.
    width : (n_out,) float64 [Å]
        Width of the output pixels.
    band : BandOperator
        Overlap over width, as it is applied.
    """

    overlap: sparse.csr_array
    width: FloatArray
    band: BandOperator

    def apply(self, flux: FloatArray, ivar: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rebin flux densities and their inverse variances.

        Parameters
        ----------
        flux, ivar : (n_spectrum, n_in) float
            Flux per Å and its inverse variance; pixels of ``ivar <= 0``, or where either is not
            finite, carry no weight.

        Returns
        -------
        flux, ivar : (n_spectrum, n_out) dtype of `flux`
            Overlap-weighted mean of the good pixels and the inverse of its variance; both 0 where
            less than half of the output pixel lies under good input. Neighbors that share an
            input pixel are correlated; `correlation.noise_correlation` says what that does to fits.

        Raises
        ------
        ValueError
            If the arrays do not have ``n_in`` pixels.

        References
        ----------
        Carnall 2017, arXiv:1705.05165 (SpectRes), eqs. 3 and 4: with o = P_ij Δλ_i,
        f_j = Σ o f / Σ o and var_j = Σ o² var / (Σ o)², the sums over good pixels here.

        Examples
        --------
        >>> operator = rebin_operator(np.arange(5.0), np.array([0.0, 2.0, 4.0]))
        >>> operator.apply(np.array([[1.0, 3.0, 5.0, 9.0]]), np.array([[4.0, 4.0, 1.0, 0.0]]))
        (array([[2., 5.]]), array([[8., 1.]]))
        """
        if flux.shape != ivar.shape or flux.shape[1:] != (self.overlap.shape[1],):
            wanted = f"(n, {self.overlap.shape[1]})"
            raise ValueError(f"operator wants {wanted}, got flux {flux.shape}, ivar {ivar.shape}")
        return self.band.apply(flux, ivar)


def rebin_operator(edges_in: FloatArray, edges_out: FloatArray) -> RebinOperator:
    """Build the operator that rebins from one grid of pixels to another; reuse it for all spectra.

    Parameters
    ----------
    edges_in, edges_out : (n_in + 1,), (n_out + 1,) float [Å]
        Increasing pixel edges.

    Raises
    ------
    ValueError
        If edges do not increase.

    Examples
    --------
    >>> rebin_operator(np.array([0.0, 1.0, 3.0]), np.array([0.5, 2.0])).overlap.toarray()
    array([[0.5, 1. ]])
    """
    for name, edges in (("edges_in", edges_in), ("edges_out", edges_out)):
        if len(edges) < 2 or not np.all(np.diff(edges) > 0):
            raise ValueError(f"{name} must be at least two increasing edges, got {edges}")
    # Between two neighbors in the union of all edges lies one input and one output pixel, if any.
    breaks = np.union1d(edges_in, edges_out)
    middle = (breaks[:-1] + breaks[1:]) / 2
    column = np.searchsorted(edges_in, middle) - 1
    row = np.searchsorted(edges_out, middle) - 1
    n_in, n_out = len(edges_in) - 1, len(edges_out) - 1
    both = (column >= 0) & (column < n_in) & (row >= 0) & (row < n_out)
    overlap = sparse.csr_array(
        (np.diff(breaks)[both], (row[both], column[both])), shape=(n_out, n_in)
    )
    width = np.diff(edges_out)
    return RebinOperator(overlap, width, banded(sparse.diags_array(1 / width) @ overlap))


def rebin(
    flux: FloatArray, ivar: FloatArray, edges_in: FloatArray, edges_out: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Rebin spectra once: `rebin_operator` and its `RebinOperator.apply`, which says the formula.

    Examples
    --------
    >>> flux, ivar = np.ones((1, 4)), np.full((1, 4), 100.0)
    >>> rebin(flux, ivar, np.arange(5.0), np.array([1.0, 3.0, 7.0]))
    (array([[1., 0.]]), array([[200.,   0.]]))
    """
    return rebin_operator(edges_in, edges_out).apply(flux, ivar)
