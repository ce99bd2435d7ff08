"""What is done per pixel between matrix products, fused over one star at a time for the processor.

Every function works on C-contiguous rows of one dtype, float32 or float64; a star's stencil starts
at rest-frame pixel ``first`` and its number of taps is a multiple of 8. Pixels outside repeat the
edge. Sums over pixels are in float64.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., object])


def _compiled(function: Function) -> Function:
    """Compile with sums reordered and fused; NaN and infinity keep their meaning.

    A division by 0 is infinite, as in NumPy: a check for it would keep loops from being vectors.
    """
    faster = {"contract", "reassoc", "arcp", "nsz"}
    return cast(
        Function, numba.njit(cache=True, fastmath=faster, nogil=True, error_model="numpy")(function)
    )


@_compiled
def _stretch(row: Array, first: int, out: Array) -> None:
    """Copy ``row[first:]`` to `out`, repeating the edges where it has no pixels."""
    n = len(row)
    for j in range(min(max(-first, 0), len(out))):
        out[j] = row[0]
    low, high = max(first, 0), min(first + len(out), n)
    if high > low:
        out[low - first : high - first] = row[low:high]
    for j in range(max(n - first, 0), len(out)):
        out[j] = row[n - 1]


@_compiled
def _correlate(pad: Array, taps: Array, out: Array) -> None:
    """out[i] = sum over t of taps[t] pad[i + t]."""
    for g in range(0, len(taps), 8):
        a, b, c, d = taps[g], taps[g + 1], taps[g + 2], taps[g + 3]
        e, f, h, k = taps[g + 4], taps[g + 5], taps[g + 6], taps[g + 7]
        part = pad[g:]
        if g == 0:
            for i in range(len(out)):
                low = a * part[i] + b * part[i + 1] + c * part[i + 2] + d * part[i + 3]
                out[i] = low + e * part[i + 4] + f * part[i + 5] + h * part[i + 6] + k * part[i + 7]
        else:
            for i in range(len(out)):
                low = a * part[i] + b * part[i + 1] + c * part[i + 2] + d * part[i + 3]
                out[i] += (
                    low + e * part[i + 4] + f * part[i + 5] + h * part[i + 6] + k * part[i + 7]
                )


@_compiled
def _pull(back: Array, first: int, taps: Array, scratch: Array, out: Array) -> None:
    """Apply the transpose: a gradient by shifted pixels `back` to one by rest-frame pixels.

    `scratch` (2, P + 2 T) holds back between T zeros on either side, and the stretched result.
    """
    n, size = len(back), len(taps)
    padded, stretched = scratch[0, : n + 2 * size - 2], scratch[1, : n + size - 1]
    padded[: size - 1] = 0
    padded[size - 1 : n + size - 1] = back
    padded[n + size - 1 :] = 0
    _correlate(padded, taps[::-1].copy(), stretched)
    n_rest = len(out)
    out[:] = 0
    low, high = max(first, 0), min(first + len(stretched), n_rest)
    if high > low:
        out[low:high] = stretched[low - first : high - first]
    for j in range(min(max(-first, 0), len(stretched))):
        out[0] += stretched[j]
    for j in range(max(n_rest - first, 0), len(stretched)):
        out[n_rest - 1] += stretched[j]


@_compiled
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@_compiled
def clean(
    data: tuple[Array, Array], inside: tuple[Integers, Integers], out: tuple[Array, Array]
) -> None:
    """Copy flux and ivar (n, P) as flux and weight of the pixels that count, 0 for the others.

    A pixel counts with ivar above 0; its weight, if it is from the first to the last one inside.
    """
    flux, ivar = data
    first, last = inside
    clean_flux, weight = out
    for s in range(len(flux)):
        for i in range(flux.shape[1]):
            counts = ivar[s, i] > 0
            clean_flux[s, i] = flux[s, i] if counts else 0
            weight[s, i] = ivar[s, i] if counts else 0
        weight[s, : min(max(first[s], 0), flux.shape[1])] = 0
        weight[s, max(last[s] + 1, 0) :] = 0


@_compiled
def finite(flux: Array, ivar: Array, out: NDArray[np.bool_]) -> None:
    """Say of each star whether ivar is a number everywhere, and flux where ivar is above 0."""
    for s in range(len(flux)):
        bad = 0
        for i in range(flux.shape[1]):
            # a number less itself is 0, infinity or NaN less itself is not
            known = ivar[s, i] - ivar[s, i] == 0
            needed = ivar[s, i] > 0 or not known
            bad += not known or (needed and flux[s, i] - flux[s, i] != 0)
        out[s] = bad == 0


@_compiled
def weigh(
    data: tuple[Array, Array],
    model: tuple[Array, Array],
    begin: int,
    snr: float,
    out: tuple[Array, Array, NDArray[np.float64], Integers],
) -> None:
    """Compare some pixels of spectra (n, P) with one spectrum's, in one pass per star.

    Parameters
    ----------
    data : flux (n, P), ivar (n, P)
    model : flux (B,), scatter squared (B,)
        Of the pixels from `begin` on.
    begin : int
    snr : float
    out : weight (n, B), weight times residual (n, B), chi2 (n,), counts (n, 3)
        To chi2 is added; and to the number of pixels that count, 1 if any is no number that should
        be, and the number of those that count with a signal-to-noise below `snr`.

    Examples
    --------
    >>> flux, ivar = np.float32([[1.5, 9.0]]), np.float32([[4.0, 0.0]])
    >>> out = flux.copy(), flux.copy(), np.zeros(1), np.zeros((1, 3), np.int64)
    >>> weigh((flux, ivar), (np.float32([1.0, 1.0]), np.float32([0.25, 0.25])), 0, 3.5, out)
    >>> [one.tolist() for one in out]
    [[[2.0, 0.0]], [[1.0, 0.0]], [0.5], [[1, 0, 1]]]
    """
    flux, ivar = data
    center, variance = model
    weight, pulled, chi2, counts = out
    size = len(center)
    zero, one = ivar.dtype.type(0), ivar.dtype.type(1)
    least, infinite = ivar.dtype.type(snr * snr), ivar.dtype.type(np.inf)
    for s in range(len(flux)):
        y, v = flux[s, begin : begin + size], ivar[s, begin : begin + size]
        w, p = weight[s], pulled[s]
        # all of one type, numbers of pixels too: twice as many at a time
        total, off, used, faint = zero, zero, zero, zero
        for i in range(size):
            known = v[i] if v[i] > 0 else zero
            w[i] = known / (one + known * variance[i])
            residual = y[i] - center[i] if v[i] > 0 else zero
            p[i] = w[i] * residual
            total += p[i] * residual
            off += zero if abs(v[i]) < infinite else one
            used += one if v[i] > 0 else zero
            faint += one if v[i] > 0 and y[i] * abs(y[i]) * known < least else zero
        chi2[s] += total
        counts[s, 0] += np.int64(used)
        counts[s, 1] += np.int64(0) if off == 0 and abs(total) < infinite else np.int64(1)
        counts[s, 2] += np.int64(faint)


@_compiled
def block_sums(
    weight: Array, blocks: tuple[Integers, Array], known: bool, out: NDArray[np.float64]
) -> None:
    """Sum over blocks of pixels.

    Parameters
    ----------
    weight : (n, P)
    blocks : edges (B + 1,), profile (P,) or of no pixels
    known : bool
        Only pixels with a weight count.
    out : (5, n, B)
        Sums of the weight, of its product with the profile, of 1, the profile and its square.

    Examples
    --------
    >>> out, half = np.empty((5, 1, 2)), np.full(4, 0.5)
    >>> block_sums(np.array([[2.0, 0.0, 4.0, 4.0]]), (np.array([0, 2, 4]), half), True, out)
    >>> out[:, 0].tolist()
    [[2.0, 8.0], [1.0, 4.0], [1.0, 2.0], [0.5, 1.0], [0.25, 0.5]]
    """
    edges, profile = blocks
    for s in range(len(weight)):
        for b in range(len(edges) - 1):
            w = weight[s, edges[b] : edges[b + 1]]
            total, along, width, first, second = 0.0, 0.0, 0.0, 0.0, 0.0
            if len(profile):
                shape = profile[edges[b] : edges[b + 1]]
                for i in range(len(w)):
                    part = np.float64(shape[i])
                    counts = 1.0 if w[i] > 0 or not known else 0.0
                    total += np.float64(w[i])
                    along += np.float64(w[i]) * part
                    width += counts
                    first += counts * part
                    second += counts * part * part
            else:
                for i in range(len(w)):
                    total += np.float64(w[i])
                    width += 1.0 if w[i] > 0 or not known else 0.0
            out[0, s, b], out[1, s, b], out[2, s, b] = total, along, width
            out[3, s, b], out[4, s, b] = first, second


@_compiled
def part_from_blocks(
    given: tuple[Array, Array],
    blocks: tuple[Integers, Array],
    most: float,
    out: tuple[Array, Array, Integers],
) -> None:
    """Part what weights have beside those that blocks tell into little and much.

    Parameters
    ----------
    given : weight (n, P), coefficients (n, B) or (n, 2 B)
    blocks : edges (B + 1,), profile (P,) or of no pixels
    most : float
        Part of what is told from which it is much.
    out : little (n, P), much (n, P), how many pixels have much (n,)

    Examples
    --------
    >>> weight, none = np.array([[2.0, 0.0, 2.5, 3.0]]), np.empty(0)
    >>> out = weight.copy(), weight.copy(), np.empty(1, np.int64)
    >>> part_from_blocks((weight, np.array([[2.0]])), (np.array([0, 4]), none), 0.5, out)
    >>> [one.tolist() for one in out]
    [[[0.0, 0.0, 0.5, 1.0]], [[0.0, -2.0, 0.0, 0.0]], [1]]
    """
    weight, coefficients = given
    edges, profile = blocks
    little, much, count = out
    n_block = len(edges) - 1
    zero, limit = weight.dtype.type(0), weight.dtype.type(most)
    for s in range(len(weight)):
        far = 0
        for b in range(n_block):
            pixels = slice(edges[b], edges[b + 1])
            w, even, odd = weight[s, pixels], little[s, pixels], much[s, pixels]
            flat = coefficients[s, b]
            along = coefficients[s, n_block + b] if len(profile) else zero
            shape = profile[pixels] if len(profile) else w
            for i in range(len(w)):
                told = flat + along * shape[i]
                wrong = w[i] - told
                apart = abs(wrong) > limit * told
                odd[i] = wrong if apart else zero
                even[i] = zero if apart else wrong
                far += 1 if apart else 0
        count[s] = far


@_compiled
def shift(flux: Array, first: Integers, taps: Array, out: Array) -> None:
    """Shift rest-frame `flux` (n, P) by stencils `taps` (n, T) into `out` (n, P)."""
    n, n_pixel = flux.shape
    pad = np.empty(n_pixel + taps.shape[1] - 1, flux.dtype)
    for s in range(n):
        _stretch(flux[s], first[s], pad)
        _correlate(pad, taps[s], out[s])


@_compiled
def pull(back: Array, first: Integers, taps: Array, out: Array) -> None:
    """Apply the transpose of `shift` to `back` (n, P)."""
    n, n_pixel = back.shape
    scratch = np.empty((2, n_pixel + 2 * taps.shape[1]), back.dtype)
    for s in range(n):
        _pull(back[s], first[s], taps[s], scratch, out[s])


@_compiled
def slope_products(
    flux: Array, first: Integers, slopes: Array, back: Array, out: NDArray[np.float64]
) -> None:
    """Sum over pixels of `back` (n, P) times the derivatives of the shifted flux: `out` (n, D)."""
    n, n_pixel = flux.shape
    pad = np.empty(n_pixel + slopes.shape[2] - 1, flux.dtype)
    moved = np.empty(n_pixel, flux.dtype)
    for s in range(n):
        _stretch(flux[s], first[s], pad)
        for d in range(slopes.shape[1]):
            _correlate(pad, slopes[s, d], moved)
            out[s, d] = _dot(moved, back[s])


@_compiled
def compare(
    flux: Array,
    stencil: tuple[Integers, Array, Array],
    data: tuple[Array, Array, Integers],
    out: tuple[Array, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Shift, compare with the data and pull the weighted residual back, in one pass per star.

    Parameters
    ----------
    flux : (n, P)
        Rest-frame model.
    stencil : first (n,), taps (n, T), slopes (n, D, T)
    data : flux (N, P), weight (N, P), rows (n,)
        All stars' data, and which of them are compared.
    out : back (n, P), chi2 (n,), gradient (n, D)
        Half the gradient of chi2 by rest-frame pixels; chi2; half its gradient by line parameters.

    Examples
    --------
    A stencil that begins at pixel 1 moves the line a pixel down; the edge repeats:

    >>> flux, taps = np.array([[1.0, 0.5, 1.0, 1.0]]), np.eye(8)[:1]
    >>> stencil = np.array([1]), taps, taps[:, np.newaxis]
    >>> out = np.empty((1, 4)), np.empty(1), np.empty((1, 1))
    >>> compare(flux, stencil, (flux, np.full((1, 4), 4.0), np.array([0])), out)
    >>> [one.tolist() for one in out]
    [[[0.0, -2.0, 2.0, 0.0]], [2.0], [[1.0]]]
    """
    first, taps, slopes = stencil
    observed, weight, rows = data
    back, chi2, gradient = out
    n, n_pixel = flux.shape
    size = taps.shape[1]
    pad = np.empty(n_pixel + size - 1, flux.dtype)
    scratch = np.empty((2, n_pixel + 2 * size), flux.dtype)
    moved, residual = np.empty(n_pixel, flux.dtype), np.empty(n_pixel, flux.dtype)
    for s in range(n):
        _stretch(flux[s], first[s], pad)
        _correlate(pad, taps[s], moved)
        y, w, total = observed[rows[s]], weight[rows[s]], 0.0
        for i in range(n_pixel):
            r = moved[i] - y[i]
            residual[i] = w[i] * r
            total += np.float64(residual[i] * r)
        chi2[s] = total
        for d in range(slopes.shape[1]):
            _correlate(pad, slopes[s, d], moved)
            gradient[s, d] = _dot(moved, residual)
        _pull(residual, first[s], taps[s], scratch, back[s])
