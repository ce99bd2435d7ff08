"""Several spectra of one star into one: arms of one exposure, visits of one star. Å."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.kernels.compiled import compiled
from scalespec.kernels.correlation import noise_correlation, row_means
from scalespec.kernels.mask import known
from scalespec.kernels.resample import rebin_operator
from scalespec.kernels.wavelength import pixel_edges

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
MaskArray: TypeAlias = npt.NDArray[np.uint32]
IntArray: TypeAlias = npt.NDArray[np.int64]
Arm: TypeAlias = tuple[FloatArray, FloatArray, FloatArray, MaskArray]
"""Wavelength (n_pixel,) or (n_spectrum, n_pixel), flux, ivar and mask (n_spectrum, n_pixel)."""

TIE = 1e-6
"""Visits whose distances from the others differ by no larger part are as far off as each other."""


def regrid(arm: Arm, edges: FloatArray) -> tuple[FloatArray, FloatArray, MaskArray]:
    """Bring spectra to other pixels by exact overlap, their masks with them.

    Parameters
    ----------
    arm : tuple
        Wavelength [Å, increasing], flux per Å, ivar and mask. Rows may have each their own
        wavelengths, padded with zeros; fewer than two above 0 are no spectrum.
    edges : (n_out + 1,) float [Å]
        Of the pixels wanted.

    Returns
    -------
    flux, ivar : (n_spectrum, n_out) float32
        As `resample.RebinOperator.apply` gives them.
    mask : (n_spectrum, n_out) uint32
        All bits of the input pixels that an output pixel overlaps.

    Raises
    ------
    ValueError
        If wavelengths do not increase.

    Examples
    --------
    >>> mask = np.array([[0, 4, 1]], np.uint32)
    >>> arm = np.array([1.0, 2.0, 3.0]), np.ones((1, 3)), np.ones((1, 3)), mask
    >>> regrid(arm, np.array([1.0, 2.2]))[2]
    array([[4]], dtype=uint32)
    """
    return regrid_correlated(arm, edges, np.nan)[:3]


def regrid_correlated(
    arm: Arm, edges: FloatArray, resolving_power: float
) -> tuple[FloatArray, FloatArray, MaskArray, FloatArray]:
    """Do as `regrid`, and say how much of their noise neighbors share.

    Parameters
    ----------
    arm, edges
        As of `regrid`.
    resolving_power : float
        λ/FWHM of the spectra; NaN: their lines have no end.

    Returns
    -------
    flux, ivar, mask
        As of `regrid`.
    correlation : (n_spectrum, 2) float64
        Means of `correlation.noise_correlation` over good pixels.

    Examples
    --------
    >>> wavelength, ones = np.arange(100.0, 120.0), np.ones((1, 20))
    >>> arm = wavelength, ones, ones, np.zeros((1, 20), np.uint32)
    >>> regrid_correlated(arm, np.arange(105.0, 115.0), 50.0)[3].round(2)
    array([[1.68, 1.32]])
    """
    wavelength, flux, ivar, mask = arm
    if wavelength.ndim == 1:
        return _regridded((wavelength, flux, ivar, mask), edges, resolving_power)
    n = len(flux)
    flux_out, ivar_out = np.zeros((2, n, len(edges) - 1), np.float32)
    made: tuple[npt.NDArray[Any], ...] = (
        *(flux_out, ivar_out),
        np.zeros((n, len(edges) - 1), np.uint32),
        np.ones((n, 2)),
    )
    for row in range(n):  # each row has its own operator
        there = wavelength[row] > 0
        if np.count_nonzero(there) >= 2:
            one, own = slice(row, row + 1), wavelength[row, there]
            cut = own, flux[one, there], ivar[one, there], mask[one, there]
            for whole, part in zip(made, _regridded(cut, edges, resolving_power), strict=True):
                whole[one] = part
    return made[0], made[1], made[2], made[3]


def _regridded(
    arm: Arm, edges: FloatArray, resolving_power: float
) -> tuple[FloatArray, FloatArray, MaskArray, FloatArray]:
    wavelength, flux, ivar, mask = arm
    operator = rebin_operator(pixel_edges(wavelength), edges)
    new_flux, new_ivar = operator.apply(flux.astype(np.float64), ivar.astype(np.float64))
    touched = touched_bits(mask, pixel_edges(wavelength), edges)
    shared = row_means(noise_correlation(operator.band, edges, resolving_power), new_ivar)
    return new_flux.astype(np.float32), new_ivar.astype(np.float32), touched, shared


def touched_bits(mask: MaskArray, edges_in: FloatArray, edges_out: FloatArray) -> MaskArray:
    """Return all bits of the input pixels that each output pixel overlaps.

    Parameters
    ----------
    mask : (n_spectrum, n_in) uint32
    edges_in, edges_out : (n_in + 1,), (n_out + 1,) float [Å]
        Increasing.

    Returns
    -------
    (n_spectrum, n_out) uint32

    Examples
    --------
    >>> mask = np.array([[1, 2, 4]], np.uint32)
    >>> touched_bits(mask, np.arange(4.0), np.array([0.5, 2.0, 9.0]))
    array([[3, 4]], dtype=uint32)
    """
    n_in = len(edges_in) - 1
    first = np.clip(np.searchsorted(edges_in, edges_out[:-1], side="right") - 1, 0, n_in)
    last = np.clip(np.searchsorted(edges_in, edges_out[1:], side="left"), 0, n_in)
    return _any_bits(np.ascontiguousarray(mask), first, last)


@compiled
def _any_bits(mask: MaskArray, first: IntArray, last: IntArray) -> MaskArray:
    result = np.zeros((mask.shape[0], len(first)), np.uint32)
    for row in range(mask.shape[0]):
        for j in range(len(first)):
            bits = np.uint32(0)
            for i in range(first[j], last[j]):
                bits |= mask[row, i]
            result[row, j] = bits
    return result


def join_arms(
    arms: Sequence[Arm], edges: FloatArray, *, match_levels: bool = False
) -> tuple[FloatArray, FloatArray, MaskArray]:
    """Put the arms of each spectrum on one grid; where they overlap, take the ivar-weighted mean.

    Parameters
    ----------
    arms : sequence of tuple
        As `regrid` takes them, in order of wavelength, rows alike.
    edges : (n_out + 1,) float [Å]
    match_levels : bool
        Scale each arm to the one before it by their weighted ratio where both have pixels. Where
        they do not overlap nothing is scaled.

    Returns
    -------
    flux, ivar : (n_spectrum, n_out) float32
        Both 0 where no arm has information.
    mask : (n_spectrum, n_out) uint32
        Where some arm has weight, the bits of those that have; elsewhere of all arms.

    Raises
    ------
    ValueError
        If there is no arm, or rows differ.

    Examples
    --------
    >>> blue = np.array([1.0, 2.0]), np.array([[1.0, 2.0]]), np.ones((1, 2))
    >>> red = np.array([2.0, 3.0]), np.array([[4.0, 5.0]]), np.ones((1, 2))
    >>> mask = np.zeros((1, 2), np.uint32)
    >>> flux, ivar, _ = join_arms([(*blue, mask), (*red, mask)], np.array([1.5, 2.4]))
    >>> flux.round(2), ivar.round(2)
    (array([[3.]], dtype=float32), array([[2.]], dtype=float32))
    """
    if not arms or len({len(arm[1]) for arm in arms}) != 1:
        raise ValueError(f"want arms of the same spectra, got {[len(arm[1]) for arm in arms]} rows")
    return merge([regrid(arm, edges) for arm in arms], match_levels=match_levels)


def merge(
    arms: Sequence[tuple[FloatArray, FloatArray, MaskArray]], *, match_levels: bool = False
) -> tuple[FloatArray, FloatArray, MaskArray]:
    """Average arms that are on one grid already, as `join_arms` says.

    Parameters
    ----------
    arms : sequence of (flux, ivar, mask)
        (n_spectrum, n_pixel) each; pixels that `mask.known` does not know carry no weight.
    match_levels : bool

    Returns
    -------
    flux, ivar, mask
        As of `join_arms`.

    Raises
    ------
    ValueError
        If there is no arm, or one is not as large as the others.

    Examples
    --------
    >>> mask = np.zeros((1, 2), np.uint32)
    >>> blue = np.array([[1.0, 0.0]]), np.array([[3.0, 0.0]]), mask
    >>> red = np.array([[5.0, 7.0]]), np.array([[1.0, 1.0]]), mask
    >>> flux, ivar, _ = merge([blue, red])
    >>> flux.tolist(), ivar.tolist()
    ([[2.0, 7.0]], [[4.0, 1.0]])
    """
    shapes = {np.shape(part) for arm in arms for part in arm}
    if len(shapes) != 1:
        raise ValueError(f"want arms of one shape, got {sorted(shapes)}")
    cleaned = ((*_cleaned(*arm[:2]), arm[2]) for arm in arms)
    flux, ivar, mask = next(cleaned)
    for more in cleaned:
        level = _level_ratio(flux, ivar, *more[:2]) if match_levels else np.ones(len(flux))
        scale = level[:, np.newaxis]
        scaled = more[0] * scale, more[1] / scale**2, more[2]
        flux, ivar, mask = _merged(flux, ivar, mask, scaled)
    return flux.astype(np.float32), ivar.astype(np.float32), mask


def _cleaned(flux: FloatArray, ivar: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return flux that is finite, 0 times NaN would spread, and ivar 0 without information."""
    return np.where(np.isfinite(flux), flux, 0), np.where(known(flux, ivar), ivar, 0)


def _merged(
    flux: FloatArray,
    ivar: FloatArray,
    mask: MaskArray,
    more: tuple[FloatArray, FloatArray, MaskArray],
) -> tuple[FloatArray, FloatArray, MaskArray]:
    # float64: ivar of fluxes of 1e-17 times another leaves float32.
    w, v = ivar.astype(np.float64), more[1].astype(np.float64)
    total = w + v
    mean = np.where(total > 0, (w * flux + v * more[0]) / np.where(total > 0, total, 1), 0)
    used = np.where(w > 0, mask, 0) | np.where(v > 0, more[2], 0)
    bits = np.where(total > 0, used, mask | more[2]).astype(np.uint32)
    return mean, total, bits


def _level_ratio(
    flux: FloatArray, ivar: FloatArray, other: FloatArray, other_ivar: FloatArray
) -> FloatArray:
    """Return by what `other` is multiplied to lie on `flux`: 1 where they share too little."""
    both = (ivar > 0) & (other_ivar > 0)
    top = np.sum(np.where(both, flux, 0), axis=1, dtype=np.float64)
    bottom = np.sum(np.where(both, other, 0), axis=1, dtype=np.float64)
    usable = (np.count_nonzero(both, axis=1) >= 3) & (top > 0) & (bottom > 0)
    ratio: FloatArray = np.where(usable, top / np.where(usable, bottom, 1), 1)
    return ratio


def combine_visits(
    flux: FloatArray,
    ivar: FloatArray,
    mask: MaskArray,
    star: IntArray,
    *,
    clip_sigma: float = 5.0,
) -> tuple[FloatArray, FloatArray, MaskArray, IntArray]:
    """Average the rest-frame spectra of each star by ivar, without what one visit alone shows.

    Parameters
    ----------
    flux, ivar, mask : (n_visit, n_pixel) float, float, uint32
        On one grid, normalized or of one level; pixels that `mask.known` does not know carry no
        weight.
    star : (n_visit,) int
        Which visits belong together.
    clip_sigma : float
        A pixel as far from the weighted mean of at least two other visits is left out, the worst
        one first; the visits that stay are then compared anew. Of two visits neither is left out:
        nothing says which.

    Returns
    -------
    flux, ivar : (n_star, n_pixel) float32
        Σ w f / Σ w and Σ w.
    mask : (n_star, n_pixel) uint32
        Bits that all of a star's visits share.
    star : (n_star,) int64
        In increasing order.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> flux, ivar = np.array([[1.0], [4.0], [7.0]]), np.array([[2.0], [1.0], [5.0]])
    >>> combine_visits(flux, ivar, np.zeros((3, 1), np.uint32), np.array([3, 3, 9]))[:2]
    (array([[2.],
           [7.]], dtype=float32), array([[3.],
           [5.]], dtype=float32))
    """
    if not flux.shape == ivar.shape == mask.shape or star.shape != flux.shape[:1]:
        shapes = f"{flux.shape}, {ivar.shape}, {mask.shape}, {star.shape}"
        raise ValueError(f"flux, ivar, mask and star must fit, got {shapes}")
    names, group = np.unique(star, return_inverse=True)
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(len(names) + 1))
    shape = (len(names), flux.shape[1])
    made_flux, made_ivar = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    made_mask = np.zeros(shape, np.uint32)
    for i in range(len(names)):
        rows = order[bounds[i] : bounds[i + 1]]
        light, own = _cleaned(flux[rows], ivar[rows])
        weight = _unclipped(light, own.astype(np.float64), clip_sigma)
        total = weight.sum(axis=0)
        mean = np.sum(weight * light, axis=0)
        made_flux[i] = np.where(total > 0, mean / np.where(total > 0, total, 1), 0)
        made_ivar[i] = total
        made_mask[i] = np.bitwise_and.reduce(mask[rows], axis=0)
    return made_flux, made_ivar, made_mask, names.astype(np.int64)


def _unclipped(flux: FloatArray, ivar: FloatArray, clip_sigma: float) -> FloatArray:
    """Return weights, 0 for pixels that stand out from the mean of at least two other visits."""
    weight = ivar.copy()
    light = flux.astype(np.float64)
    columns = np.arange(flux.shape[1])
    for _ in range(len(flux) - 2):
        pull = _pulls(light[:, columns], weight[:, columns])
        worst = pull.max(axis=0)
        out = worst > clip_sigma**2
        # Of those as far off as each other none is better: all go, in whatever order they came.
        out = out & (pull >= (1 - TIE) * worst)
        columns = columns[out.any(axis=0)]
        if not len(columns):
            break
        weight[:, columns] = np.where(out[:, out.any(axis=0)], 0, weight[:, columns])
    return weight


def _pulls(flux: FloatArray, weight: FloatArray) -> FloatArray:
    """Return (flux - weighted mean of the others)² over its variance; 0 among fewer than three.

    Without noise, one visit that is off has the largest, however unlike the weights: the others are
    off a mean that has the rest of them in it, too.
    """
    good = weight > 0
    others = weight.sum(axis=0) - weight
    usable = good & (others > 0) & (good.sum(axis=0) >= 3)
    share = np.where(usable, others, 1)
    mean = ((weight * flux).sum(axis=0) - weight * flux) / share
    variance = 1 / np.where(usable, weight, 1) + 1 / share
    return np.where(usable, (flux - mean) ** 2 / variance, 0)
