"""Spectra at a lower resolution on another grid: line spread and pixels in one operator. Å."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse, special

from scalespec.kernels.compiled import compiled

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.int64]

LEAST_COVERAGE = 0.5
"""An output pixel wants this part of its line spread on good input pixels."""
ROUNDING = 1e-5
"""Of a coverage summed in float32: exactly half is enough."""
FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
"""Full width at half maximum of a Gaussian in standard deviations."""
CUT = 5.0
"""Where the line spread ends, in standard deviations."""


@dataclass(frozen=True, slots=True)
class BandOperator:
    """A banded matrix A from one grid to another whose rows sum to at most 1.

    Attributes
    ----------
    n_in : int
        Input pixels.
    first : (n_out,) int64
        First input pixel of each row's band.
    weights : (n_out, width) float64
        The bands; A_ji = weights[j, i - first[j]]. A row sums to the part of its line spread that
        lies on the input grid.
    """

    n_in: int
    first: IntArray
    weights: FloatArray

    @property
    def matrix(self) -> sparse.csr_array:
        """(n_out, n_in) A as a sparse matrix."""
        row = np.repeat(np.arange(len(self.first)), self.weights.shape[1])
        column = (self.first[:, np.newaxis] + np.arange(self.weights.shape[1])).ravel()
        kept = self.weights.ravel() != 0
        entries = (self.weights.ravel()[kept], (row[kept], column[kept]))
        return sparse.csr_array(entries, shape=(len(self.first), self.n_in))

    def smooth(self, values: FloatArray) -> FloatArray:
        """Return A applied to each row: for models, which have no bad pixels.

        Parameters
        ----------
        values : (n_row, n_in) float

        Returns
        -------
        (n_row, n_out) dtype of `values`

        Raises
        ------
        ValueError
            If the rows do not have ``n_in`` pixels.
        """
        self._check(values, self.n_in)
        values = np.ascontiguousarray(values)
        return _smooth(values, self.first, self.weights.astype(values.dtype))

    def adjoint(self, values: FloatArray) -> FloatArray:
        """Return Aᵀ applied to each row, (n_row, n_out) to (n_row, n_in)."""
        self._check(values, len(self.first))
        values = np.ascontiguousarray(values)
        return _adjoint(values, self.first, self.weights.astype(values.dtype), self.n_in)

    def apply(self, flux: FloatArray, ivar: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Degrade flux densities and their inverse variances, by the good pixels alone.

        Parameters
        ----------
        flux, ivar : (n_spectrum, n_in) float
            Flux per Å; pixels of ``ivar <= 0``, or where either is not finite, carry no weight.

        Returns
        -------
        flux, ivar : (n_spectrum, n_out) dtype of `flux`
            A(m f) / A(m) and (A m)² / A²(m σ²), m = 1 on good pixels; both 0 where less than half
            of the line spread lies on them. Neighbors share pixels and so noise, which is not
            returned: from R = 1800 to 200 its correlation is 0.39 at one output pixel per FWHM,
            0.73 at two; `correlation.noise_correlation` says what it does to fits.

        Raises
        ------
        ValueError
            If the arrays do not have ``n_in`` pixels.

        Examples
        --------
        >>> edges = np.exp(np.linspace(8.3, 8.32, 101))
        >>> operator = degrade_operator(edges, edges[[40, 50, 60]], 2000.0, 500.0)
        >>> flux, ivar = operator.apply(np.full((1, 100), 3.0), np.full((1, 100), 4.0))
        >>> flux.round(6), bool((ivar > 40).all())  # of more than ten pixels each
        (array([[3., 3.]]), True)
        """
        self._check(flux, self.n_in)
        if ivar.shape != flux.shape:
            raise ValueError(f"flux {flux.shape} and ivar {ivar.shape} differ in shape")
        weights = self.weights.astype(flux.dtype)
        flux, ivar = np.ascontiguousarray(flux), np.ascontiguousarray(ivar, flux.dtype)
        return _apply(flux, ivar, self.first, weights)

    def _check(self, values: FloatArray, n: int) -> None:
        if values.ndim != 2 or values.shape[1] != n:
            raise ValueError(f"operator wants (n, {n}) values, got {values.shape}")


def banded(matrix: sparse.csr_array) -> BandOperator:
    """Return a sparse matrix, whose rows each fill one short band, as a `BandOperator`.

    Parameters
    ----------
    matrix : (n_out, n_in) sparse
        Its rows sum to at most 1.

    Examples
    --------
    >>> operator = banded(sparse.csr_array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> operator.smooth(np.array([[1.0, 3.0, 8.0]]))
    array([[2., 0., 8.]])
    """
    n_out, n_in = matrix.shape
    sorted_rows = matrix.sorted_indices()
    counts = np.diff(sorted_rows.indptr)
    filled = np.flatnonzero(counts)
    low, high = np.zeros(n_out, np.int64), np.zeros(n_out, np.int64)
    low[filled] = sorted_rows.indices[sorted_rows.indptr[filled]]
    high[filled] = sorted_rows.indices[sorted_rows.indptr[filled + 1] - 1] + 1
    width = max(int((high - low).max(initial=1)), 1)
    first = np.minimum(low, n_in - width)
    weights = np.zeros((n_out, width))
    row = np.repeat(np.arange(n_out), counts)
    weights[row, sorted_rows.indices - first[row]] = sorted_rows.data
    return BandOperator(n_in, first, weights)


def degrade_operator(
    edges_in: FloatArray,
    edges_out: FloatArray,
    resolving_power_in: npt.ArrayLike,
    resolving_power_out: npt.ArrayLike,
) -> BandOperator:
    """Build the operator from one grid and resolution to another; reuse it for all spectra.

    Gaussians in ln λ of σ = √(R_out⁻² - R_in⁻²) / 2.3548, integrated over input and output pixel
    exactly, times the input pixel's width: flux per Å goes in and comes out.

    Parameters
    ----------
    edges_in, edges_out : (n_in + 1,), (n_out + 1,) float [Å]
        Increasing pixel edges.
    resolving_power_in, resolving_power_out : float or (n_out,) float
        λ / FWHM of the data, and the one wanted, at the output pixels.

    Raises
    ------
    ValueError
        If edges do not increase from above 0, or a resolving power is not positive or would rise:
        what was not resolved cannot be sharpened.

    References
    ----------
    A Gaussian's integral over two intervals is the second difference of u Φ(u) + φ(u), whose
    second derivative φ is. Masks and variances: Carnall 2017, arXiv:1705.05165, eqs. 3 and 4.

    Examples
    --------
    >>> edges = np.exp(np.linspace(8.3, 8.32, 101))
    >>> degrade_operator(edges, edges[::10], 200.0, 200.0)
    Traceback (most recent call last):
        ...
    ValueError: cannot sharpen: R = 200 wanted of data with R = 200
    """
    for name, edges in (("edges_in", edges_in), ("edges_out", edges_out)):
        if len(edges) < 2 or not (edges[0] > 0 and np.all(np.diff(edges) > 0)):
            raise ValueError(f"{name} must be at least two edges increasing from 0, got {edges}")
    sigma = _extra_width(resolving_power_in, resolving_power_out, len(edges_out) - 1)
    ln_in, ln_out = np.log(edges_in), np.log(edges_out)
    low, high = ln_out[:-1] - CUT * sigma, ln_out[1:] + CUT * sigma
    n_in = len(edges_in) - 1
    first = np.clip(np.searchsorted(ln_in, low, side="right") - 1, 0, n_in - 1)
    last = np.clip(np.searchsorted(ln_in, high, side="left"), first + 1, n_in)
    width = min(int((last - first).max()), n_in)
    first = np.minimum(first, n_in - width)
    column = first[:, np.newaxis] + np.arange(width)
    inside = (ln_in[column + 1] > low[:, np.newaxis]) & (ln_in[column] < high[:, np.newaxis])
    weights = np.where(inside, _overlap(ln_in, ln_out, column, sigma), 0)
    weights *= np.diff(edges_in)[column] / np.diff(ln_in)[column]
    # All that the spread would gather of a constant, on the grid or beside it: ∫∫ g λ dlnλ dlnλ'.
    whole = np.diff(edges_out) * np.exp(sigma**2 / 2) * special.erf(CUT / np.sqrt(2))
    return BandOperator(n_in, first.astype(np.int64), _of_whole(weights, whole))


def _of_whole(weights: FloatArray, whole: FloatArray) -> FloatArray:
    """Return weights whose sum is 1 on the grid: what is gathered is all, up to the cut's rim."""
    # What rounding leaves beyond the cut becomes, squared, a denormal: thirty times slower.
    weights = np.where(weights < 1e-9 * whole[:, np.newaxis], 0, weights)
    part = weights.sum(axis=1) / whole
    scale = np.where(part > 1 - 1e-4, weights.sum(axis=1), whole)
    result: FloatArray = weights / scale[:, np.newaxis]
    return result


def _overlap(
    ln_in: FloatArray, ln_out: FloatArray, column: IntArray, sigma: FloatArray
) -> FloatArray:
    """Return the Gaussian's integral over input and output pixel, (n_out, width)."""
    scale = sigma[:, np.newaxis]
    c, d = ln_in[column], ln_in[column + 1]
    a, b = ln_out[:-1, np.newaxis], ln_out[1:, np.newaxis]

    def twice(u: FloatArray) -> FloatArray:
        """Return u Φ(u) + φ(u) less its asymptote: small where it should be, to all digits."""
        z = np.abs(u / scale)
        near: FloatArray = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) - z * special.ndtr(-z)
        return scale * near

    def ramp(u: FloatArray) -> FloatArray:
        """Return the asymptote."""
        return np.maximum(u, 0)

    smooth = twice(b - c) - twice(a - c) - twice(b - d) + twice(a - d)
    sharp = ramp(b - c) - ramp(a - c) - ramp(b - d) + ramp(a - d)
    return np.maximum(smooth + sharp, 0)


def _extra_width(before: npt.ArrayLike, after: npt.ArrayLike, n: int) -> FloatArray:
    """Return the σ in ln λ that is missing, by output pixel."""
    r_in = np.broadcast_to(np.asarray(before, np.float64), n)
    r_out = np.broadcast_to(np.asarray(after, np.float64), n)
    if not (np.all(r_in > 0) and np.all(r_out > 0)):
        worst = f"{r_in.min():g} and {r_out.min():g}"
        raise ValueError(f"resolving powers must be positive, got {worst}")
    at = int(np.argmax(r_out / r_in))
    if r_out[at] >= r_in[at]:
        raise ValueError(f"cannot sharpen: R = {r_out[at]:g} wanted of data with R = {r_in[at]:g}")
    result: FloatArray = np.sqrt(r_out**-2 - r_in**-2) / FWHM
    return result


@compiled
def _dots(values: FloatArray, first: IntArray, weights: FloatArray) -> FloatArray:
    """Return the bands of one spectrum times their weights, summed."""
    n_out, width = weights.shape
    result = np.empty(n_out, values.dtype)
    for j in range(n_out):
        band, weight = values[first[j] : first[j] + width], weights[j]
        total = values.dtype.type(0)
        for k in range(width):
            total += weight[k] * band[k]
        result[j] = total
    return result


@compiled
def _smooth(values: FloatArray, first: IntArray, weights: FloatArray) -> FloatArray:
    result = np.empty((values.shape[0], weights.shape[0]), values.dtype)
    for row in range(values.shape[0]):
        result[row] = _dots(values[row], first, weights)
    return result


@compiled
def _adjoint(values: FloatArray, first: IntArray, weights: FloatArray, n_in: int) -> FloatArray:
    n_out, width = weights.shape
    result = np.zeros((values.shape[0], n_in), values.dtype)
    for row in range(values.shape[0]):
        for j in range(n_out):
            for k in range(width):
                result[row, first[j] + k] += weights[j, k] * values[row, j]
    return result


@compiled
def _apply(
    flux: FloatArray, ivar: FloatArray, first: IntArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    n, n_out = flux.shape[0], weights.shape[0]
    flux_out, ivar_out = np.zeros((2, n, n_out), flux.dtype)
    squares = weights * weights
    for row in range(n):
        scale, good, light, noise = prepared(flux[row], ivar[row])
        coverage = _dots(good, first, weights)
        total = _dots(light, first, weights)
        variance = _dots(noise, first, squares)
        for j in range(n_out):
            if coverage[j] >= LEAST_COVERAGE - ROUNDING and variance[j] > 0:
                flux_out[row, j] = total[j] / coverage[j]
                ivar_out[row, j] = scale * (coverage[j] * coverage[j] / variance[j])
    return flux_out, ivar_out


@compiled
def prepared(
    flux: FloatArray, ivar: FloatArray
) -> tuple[np.floating[Any], FloatArray, FloatArray, FloatArray]:
    """Return the largest ivar, the mask, the flux on it and the variance times that ivar.

    A pixel whose flux or ivar is no number, or infinite, has no information.
    """
    one, zero = flux.dtype.type(1), flux.dtype.type(0)
    good, light, noise = np.empty_like(flux), np.empty_like(flux), np.empty_like(flux)
    # Relative to the least variance: that of a flux of 1e-17 leaves float32.
    scale = zero
    for i in range(len(ivar)):
        if scale < ivar[i] < np.inf:
            scale = ivar[i]
    for i in range(len(flux)):
        use = 0 < ivar[i] < np.inf and np.isfinite(flux[i])
        good[i] = one if use else zero
        light[i] = flux[i] if use else zero
        noise[i] = scale / ivar[i] if use else zero
    return scale, good, light, noise
