"""Log grids that all files of a survey share: whole-pixel placing, and rebinning of what is off."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.kernels.correlation import noise_correlation, row_means
from scalespec.kernels.resample import rebin, rebin_operator
from scalespec.kernels.wavelength import log_grid, pixel_edges
from scalespec.schema import MaskBit

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
MaskArray: TypeAlias = npt.NDArray[np.uint32]
Row: TypeAlias = tuple[np.ndarray, np.ndarray, MaskArray]
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Lattice:
    """A grid evenly spaced in log10 wavelength, of which each file has a stretch.

    Attributes
    ----------
    start, step : float
        log10 of the first wavelength [Å, vacuum], and of the ratio of neighbors.
    n : int
        Number of pixels.
    tolerance : float
        Pixels by which a file may miss the grid and still be taken as on it.
    """

    start: float
    step: float
    n: int
    tolerance: float

    @cached_property
    def wavelength(self) -> npt.NDArray[np.float64]:
        """(n,) float64 [Å, vacuum]."""
        grid = np.asarray(log_grid(self.start, self.step, self.n), np.float64)
        grid.flags.writeable = False
        return grid

    def put(
        self, flux: np.ndarray, ivar: np.ndarray, bits: MaskArray, grid: FloatArray
    ) -> tuple[Row, bool]:
        """Put one spectrum on the grid.

        Parameters
        ----------
        flux, ivar, bits, grid : (n_file,) arrays
            As the file has them; wavelengths [Å, vacuum] increase.

        Returns
        -------
        flux, ivar, mask : (n,) float32, float32, uint32
            Pixels that the file does not have are OUTSIDE.
        resampled : bool
            Whether it was off the grid and had to be rebinned; else no number is changed.

        Raises
        ------
        SurveyFileError
            With reason ``bad_grid``, if nothing of it falls on the grid, or its pixels are of
            another size.

        Examples
        --------
        >>> lattice = Lattice(3.0, 0.1, 4, tolerance=0.01)
        >>> one, grid = np.ones(2, np.float32), 10 ** np.array([3.1, 3.2])
        >>> (flux, ivar, mask), resampled = lattice.put(3 * one, one, np.zeros(2, np.uint32), grid)
        >>> flux, mask, resampled
        (array([0., 3., 3., 0.], dtype=float32), array([1, 0, 0, 1], dtype=uint32), False)
        """
        offset = self.offset(grid)
        if offset is None:
            return self.resample(flux, ivar, bits, grid), True
        return self.place(flux, ivar, bits, offset), False

    def offset(self, grid: FloatArray) -> int | None:
        """Return by how many pixels a file starts after the grid; None if it is off it.

        Parameters
        ----------
        grid : (n_file,) float64 [Å, vacuum]

        Raises
        ------
        SurveyFileError
            With reason ``bad_grid``, if nothing of it falls on the grid.
        """
        offset = round((math.log10(grid[0]) - self.start) / self.step)
        ours = slice(max(0, offset), min(self.n, offset + len(grid)))
        if ours.start >= ours.stop:
            raise SurveyFileError(
                f"wavelengths {grid[0]:.6g} ... {grid[-1]:.6g} Å lie outside the survey's",
                "bad_grid",
            )
        theirs = grid[ours.start - offset : ours.stop - offset]
        apart = np.abs(theirs - self.wavelength[ours])
        near = apart <= self.tolerance * self.step * math.log(10) * self.wavelength[ours]
        return offset if bool(near.all()) else None

    def place(self, flux: np.ndarray, ivar: np.ndarray, bits: MaskArray, offset: int) -> Row:
        """Put a file's pixels where they belong, by its `offset`: no number is changed."""
        (cut_flux, cut_ivar, cut_mask), first = self.cut(flux, ivar, bits, offset)
        ours = slice(first, first + len(cut_flux))
        row_flux, row_ivar = np.zeros((2, self.n), np.float32)
        mask = np.full(self.n, MaskBit.OUTSIDE, np.uint32)
        row_flux[ours], row_ivar[ours], mask[ours] = cut_flux, cut_ivar, cut_mask
        return row_flux, row_ivar, mask

    def cut(
        self, flux: np.ndarray, ivar: np.ndarray, bits: MaskArray, offset: int
    ) -> tuple[Row, int]:
        """Return those of a file's pixels that lie on the grid, and the first one's place there."""
        first = max(0, offset)
        theirs = slice(first - offset, min(self.n, offset + len(flux)) - offset)
        flux, ivar, reason = clean(flux[theirs], ivar[theirs])
        reason |= bits[theirs]
        return (flux, ivar, reason), first

    def resample(
        self, flux: np.ndarray, ivar: np.ndarray, bits: MaskArray, grid: FloatArray
    ) -> Row:
        """Rebin a file that is off the grid; a pixel has the bits of all it came from."""
        step = float(np.median(np.diff(np.log10(grid)))) / self.step
        if not 0.5 < step < 2:  # another instrument's: its LSF would not be the survey's either
            raise SurveyFileError(f"pixels are {step:.3g} of the survey's", "bad_grid")
        flux, ivar, reason = clean(flux, ivar)
        ours, theirs = pixel_edges(self.wavelength), pixel_edges(grid)
        new_flux, new_ivar = (row[0] for row in rebin(flux[None], ivar[None], theirs, ours))
        first = np.searchsorted(theirs, ours[:-1], side="right") - 1
        last = np.searchsorted(theirs, ours[1:], side="left") - 1
        inside = (last >= 0) & (first < len(flux))
        mask = np.where(inside, np.uint32(0), np.uint32(MaskBit.OUTSIDE))
        bits = bits | reason
        for k in range(int(np.max(last - first)) + 1):
            source = np.clip(first + k, 0, len(flux) - 1)
            mask |= np.where(inside & (first + k <= last), bits[source], np.uint32(0))
        mask[new_ivar > 0] &= ~np.uint32(MaskBit.NOT_FINITE | MaskBit.NO_IVAR)  # the rest sufficed
        mask[inside & (new_ivar == 0)] |= np.uint32(MaskBit.RESAMPLED_GAP)
        return new_flux, new_ivar, mask

    def correlation(self, ivar: np.ndarray, grid: FloatArray, resolving_power: float) -> FloatArray:
        """Return the ``noise_correlation`` (2,) of what `resample` made of a file.

        Parameters
        ----------
        ivar : (n,) float32
            Of `resample`.
        grid : (n_file,) float64 [Å, vacuum]
        resolving_power : float
            λ/FWHM of the survey's lines.
        """
        edges = pixel_edges(self.wavelength)
        band = rebin_operator(pixel_edges(grid), edges).band
        made: FloatArray = row_means(
            noise_correlation(band, edges, resolving_power), ivar[np.newaxis]
        )[0]
        return made


def median_snr(flux: FloatArray, ivar: FloatArray) -> float | None:
    """Return the median of flux·√ivar where ivar > 0, as a finite number; None if it is nowhere.

    Examples
    --------
    >>> median_snr(np.array([2.0, 3.0, 9.0]), np.array([4.0, 4.0, 0.0]))
    5.0
    """
    good = ivar > 0
    if not (n := int(np.count_nonzero(good))):
        return None
    snr = np.sqrt(ivar)
    snr *= flux
    if n < len(snr):
        np.copyto(snr, np.inf, where=~good)  # behind all others: faster than to take it out
    half = n // 2
    snr.partition(half)  # at one place: two places cost eight times as much
    high = float(snr[half])
    low = high if n % 2 else float(snr[:half].max())
    middle = (low + high) / 2  # of damaged flux near the largest it may be infinite
    return min(max(middle, -_LARGEST), _LARGEST)


@np.errstate(over="ignore", invalid="ignore")  # files hold NaN, and float64 beyond float32
def clean(flux: np.ndarray, ivar: np.ndarray) -> Row:
    """Return float32 flux and ivar, finite and ivar >= 0, and bits that say what was not.

    Examples
    --------
    >>> flux, ivar, reason = clean(np.array([1.0, np.nan, 3.0]), np.array([4.0, 4.0, -1.0]))
    >>> flux.tolist(), ivar.tolist(), [MaskBit(int(bits)).name for bits in reason[1:]]
    ([1.0, 0.0, 3.0], [4.0, 0.0, 0.0], ['NOT_FINITE', 'NO_IVAR'])
    """
    flux, ivar = flux.astype(np.float32), ivar.astype(np.float32)
    reason = np.zeros(flux.shape, np.uint32)
    if not flux.size:
        return flux, ivar, reason
    lowest = ivar.min()
    # Sums of squares that are finite vouch for all numbers, at a fraction of asking each of them.
    if lowest >= 0 and math.isfinite(np.vdot(flux, flux) + np.vdot(ivar, ivar)):
        if lowest == 0:
            reason = (ivar == 0).astype(np.uint32)
            reason *= np.uint32(MaskBit.NO_IVAR)
            ivar += 0  # of -0.0 it makes 0.0
        return flux, ivar, reason
    finite, positive = np.isfinite(flux) & np.isfinite(ivar), ivar > 0
    if not finite.all():
        reason[~finite] = MaskBit.NOT_FINITE
        flux[~finite] = ivar[~finite] = 0
    if not positive.all():
        reason[finite & ~positive] = MaskBit.NO_IVAR
        ivar[~positive] = 0
    return flux, ivar, reason


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def inverse_variance(error: np.ndarray) -> FloatArray:
    """Return 1/error², and 0 where the error is no positive number.

    Examples
    --------
    >>> inverse_variance(np.array([2.0, 0.0, np.nan, -1.0]))
    array([0.25, 0.  , 0.  , 0.  ])
    """
    error = np.asarray(error, np.float64)
    return np.where(np.isfinite(error) & (error > 0), 1 / error**2, 0.0)


def check_increasing(grid: FloatArray) -> FloatArray:
    """Return wavelengths [Å] if they increase within 1e3-1e5 Å.

    Raises
    ------
    SurveyFileError
        With reason ``bad_grid``, if they do not.
    """
    if not (1e3 < grid[0] < 1e5 and bool(np.all(grid[1:] > grid[:-1])) and grid[-1] < 1e5):
        raise SurveyFileError(
            f"wavelengths {grid[0]:.6g} ... {grid[-1]:.6g} Å do not increase within 1e3-1e5 Å",
            "bad_grid",
        )
    return grid
