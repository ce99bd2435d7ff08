"""Pixels not to trust: wavelength windows, survey bits, spikes. Wavelengths in vacuum Å."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
MaskArray: TypeAlias = npt.NDArray[np.uint32]
Windows: TypeAlias = Sequence[tuple[float, float]]

LAMOST: Mapping[str, Windows] = {
    # Lines of the night sky around air wavelengths turned to vacuum: Hg 4046.56, 4358.34, 5460.75
    # (streetlamps; NIST Atomic Spectra Database), [O I] 5577.34, 6300.30, 6363.78 and OH 6863.96
    # (Osterbrock et al. 1996, PASP 108, 277). The first four ±3 Å; the last three ±5 Å, for their
    # residuals in LAMOST stars stay above twice the noise out to 4.5 Å.
    "SKY_LINE": (
        (4044.70, 4050.70),
        (4356.57, 4362.57),
        (5459.27, 5465.27),
        (5575.89, 5581.89),
        (6297.04, 6307.04),
        (6360.54, 6370.54),
        (6860.86, 6870.86),
    ),
    # The arms meet at 5700-5900 Å with little light in either (Luo et al. 2015, RAA 15, 1095); Na I
    # D, within the window, is interstellar too.
    "ARM_JOIN": ((5800.0, 6000.0),),
    # Bands of O2 (γ, B, A) and H2O (the other three), from their heads to where they fade at this
    # resolution; Smette et al. 2015, A&A 576, A77. The survey has corrected most of them, and what
    # it leaves is smooth, but not the star's alone.
    "TELLURIC": (
        (6276.0, 6320.0),
        (6866.0, 6950.0),
        (7160.0, 7340.0),
        (7590.0, 7710.0),
        (8125.0, 8345.0),
        (8930.0, 9800.0),
    ),
}
"""Windows of LAMOST's low-resolution spectra in vacuum Å, by name of their mask bit.

They stand still in the observer's frame: mask before moving spectra to rest.
"""

APOGEE_BAD = 0x10FF
"""Bits 0-7 and 12 of APOGEE's PIXMASK: bad pixels of every kind, no sky, and strong sky lines.

The bits: 0 BADPIX, 1 CRPIX, 2 SATPIX, 3 UNFIXABLE, 4 BADDARK, 5 BADFLAT, 6 BADERR, 7 NOSKY, 12
SIG_SKYLINE; Holtzman et al. 2015, AJ 150, 148. In our own bits (a reader translates): BAD_PIXEL,
COSMIC_RAY, NO_SKY and BRIGHT_SKY.
"""

FLANK = 3
"""Pixels: a spike is narrower than this to either side; at R = 1800 so is a cosmic ray."""


def window_mask(wavelength: FloatArray, windows: Windows) -> BoolArray:
    """Say which pixels lie in any of the windows.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å]
        In the medium of `windows`.
    windows : sequence of (low, high) [Å]
        Closed intervals.

    Returns
    -------
    (n_pixel,) bool

    Raises
    ------
    ValueError
        If a window ends before it begins.

    Examples
    --------
    >>> window_mask(np.array([5577.0, 5700.0, 5900.0]), LAMOST["ARM_JOIN"])
    array([False, False,  True])
    """
    inside = np.zeros(wavelength.shape, np.bool_)
    for low, high in windows:
        if not low <= high:
            raise ValueError(f"window must not end before it begins, got ({low}, {high}) Å")
        inside |= (wavelength >= low) & (wavelength <= high)
    return inside


def flag(mask: MaskArray, where: BoolArray, bit: int) -> MaskArray:
    """Return `mask` with `bit` set where `where` says so.

    Parameters
    ----------
    mask : (n_spectrum, n_pixel) uint32
    where : bool, broadcast to `mask`
    bit : int
        The value, not its number: ``1 << 25``.

    Raises
    ------
    ValueError
        If `bit` does not fit 32 bits.

    Examples
    --------
    >>> flag(np.array([[1, 2, 0]], np.uint32), np.array([True, False, True]), 4)
    array([[5, 2, 4]], dtype=uint32)
    """
    return mask | np.where(where, _bits(bit), np.uint32(0))


def known(flux: FloatArray, ivar: FloatArray) -> BoolArray:
    """Return where a spectrum has information: ivar above 0, it and flux finite.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float

    Returns
    -------
    (n_spectrum, n_pixel) bool

    Examples
    --------
    >>> known(np.array([1.0, np.nan, 1.0, 1.0]), np.array([4.0, 4.0, 0.0, np.inf]))
    array([ True, False, False, False])
    """
    there: BoolArray = (ivar > 0) & (ivar < np.inf) & np.isfinite(flux)
    return there


def apply_policy(
    ivar: FloatArray, mask: MaskArray, bad_bits: int, policy_bit: int
) -> tuple[FloatArray, MaskArray]:
    """Take the weight from pixels that the survey's own bits call bad.

    Parameters
    ----------
    ivar : (n_spectrum, n_pixel) float
    mask : (n_spectrum, n_pixel) uint32
    bad_bits : int
        Any of these bits makes a pixel bad; 0 trusts all.
    policy_bit : int
        Set on the pixels that were found bad.

    Returns
    -------
    ivar : (n_spectrum, n_pixel) dtype of `ivar`
        0 on bad pixels.
    mask : (n_spectrum, n_pixel) uint32

    Raises
    ------
    ValueError
        If bits do not fit 32 bits.

    Examples
    --------
    >>> apply_policy(np.ones((1, 3)), np.array([[1, 2, 4]], np.uint32), 1 | 4, 8)
    (array([[0., 1., 0.]]), array([[ 9,  2, 12]], dtype=uint32))
    """
    bad = mask & _bits(bad_bits) != 0
    return np.where(bad, ivar.dtype.type(0), ivar), flag(mask, bad, policy_bit)


def spikes(
    flux_norm: FloatArray, ivar_norm: FloatArray, *, threshold_sigma: float, floor: float = 0.3
) -> BoolArray:
    """Find cosmic rays and sky residuals: narrow, and high above continuum and surroundings.

    A pixel must stand out from the continuum *and* from the pixels three to its left and right:
    between the line blends of cool stars the spectrum tops a Gaussian-smoothed continuum by
    30 % over several pixels, and that is the star.

    Parameters
    ----------
    flux_norm, ivar_norm : (n_spectrum, n_pixel) float
        Normalized flux and inverse variance. A neighbor of ``ivar <= 0`` counts as continuum.
    threshold_sigma : float
        Least height in units of the pixel's own noise.
    floor : float
        Least height in units of the continuum, whatever the noise: keeps the narrow emission
        cores of hot and active stars that are lower.

    Returns
    -------
    (n_spectrum, n_pixel) bool

    Raises
    ------
    ValueError
        If the arrays differ in shape, or a threshold is not positive.

    Examples
    --------
    >>> flux = np.array([[1.0, 1.0, 1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0]])
    >>> np.flatnonzero(spikes(flux, np.full((1, 9), 100.0), threshold_sigma=6.0))
    array([4])
    """
    if flux_norm.shape != ivar_norm.shape:
        raise ValueError(f"flux {flux_norm.shape} and ivar {ivar_norm.shape} differ in shape")
    if not (threshold_sigma > 0 and floor > 0):
        raise ValueError(f"want positive thresholds, got {threshold_sigma} sigma, {floor}")
    good = ivar_norm > 0
    level = np.pad(np.where(good, flux_norm, 1), ((0, 0), (FLANK, FLANK)), constant_values=1)
    surroundings = np.maximum(level[:, : -2 * FLANK], level[:, 2 * FLANK :])
    height = level[:, FLANK:-FLANK] - np.maximum(surroundings, 1)
    # height > threshold * sigma, squared to spare a root and a division per pixel.
    found: BoolArray = good & (height > floor) & (height**2 * ivar_norm > threshold_sigma**2)
    return found


def mask_cost(mask: MaskArray) -> FloatArray:
    """Return the fraction of pixels that carry each bit.

    Parameters
    ----------
    mask : (...) uint32

    Returns
    -------
    (32,) float64
        By bit number; all 0 for an empty mask.

    Examples
    --------
    >>> mask_cost(np.array([[0, 1, 5, 4]], np.uint32))[:3]
    array([0.5, 0. , 0.5])
    """
    cost = np.zeros(32)
    present = int(np.bitwise_or.reduce(mask, axis=None))
    for number in range(32):
        if present >> number & 1:
            cost[number] = np.count_nonzero(mask & np.uint32(1 << number)) / mask.size
    return cost


@dataclass(frozen=True, slots=True)
class PolicyCost:
    """What a mask policy takes from spectra.

    Attributes
    ----------
    pixels : float
        Part of the pixels with information that lose it.
    information : float
        Part of Σ flux² ivar, that is of the squared signal-to-noise ratio, that goes with them.
    by_bit, by_bit_alone : (32,) float64
        Part of the pixels that a bit takes, and that no other bit of the policy would take.
    """

    pixels: float
    information: float
    by_bit: FloatArray
    by_bit_alone: FloatArray


def policy_cost(flux: FloatArray, ivar: FloatArray, mask: MaskArray, bad_bits: int) -> PolicyCost:
    """Count what `apply_policy` with the same bits would take.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
        Before the policy.
    mask : (n_spectrum, n_pixel) uint32
    bad_bits : int
        Of the policy.

    Returns
    -------
    PolicyCost
        All zeros where there is no information.

    Raises
    ------
    ValueError
        If bits do not fit 32 bits.

    Examples
    --------
    >>> flux, ivar = np.ones((1, 4)), np.array([[1.0, 1.0, 2.0, 0.0]])
    >>> cost = policy_cost(flux, ivar, np.array([[0, 1, 3, 1]], np.uint32), 1 | 2)
    >>> round(cost.pixels, 3), cost.information, cost.by_bit_alone[:2].round(3)
    (0.667, 0.75, array([0.333, 0.   ]))
    """
    bits, good = mask & _bits(bad_bits), ivar > 0
    n = max(int(np.count_nonzero(good)), 1)
    light = np.where(good, np.where(good, flux, 0).astype(np.float64) ** 2 * ivar, 0)
    taken = good & (bits != 0)
    by_bit, alone = np.zeros(32), np.zeros(32)
    for number in range(32):
        one = np.uint32(1 << number)
        if bad_bits >> number & 1:
            by_bit[number] = np.count_nonzero(good & (bits & one != 0)) / n
            alone[number] = np.count_nonzero(good & (bits == one)) / n
    whole = float(light.sum())
    lost = float(light[taken].sum()) / whole if whole > 0 else 0.0
    return PolicyCost(int(np.count_nonzero(taken)) / n, lost, by_bit, alone)


def _bits(value: int) -> np.uint32:
    if not 0 <= value < 1 << 32:
        raise ValueError(f"mask bits want 0 <= value < 2**32, got {value}")
    return np.uint32(value)
