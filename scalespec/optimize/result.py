"""What a fit gives back: one row per star, and the bits that say why a row is not to be trusted.

Labels and their covariance are in physical units (K, dex, km/s), velocities in km/s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntFlag
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scalespec.optimize.domain import Domain

FloatArray = NDArray[np.float32]


class FitStatus(IntFlag):
    """Why a star has no labels, or why to look twice at those it has; 0 is a good fit."""

    MAX_STEPS = 1 << 0  # out of steps while a lower chi2 was still in sight
    STALLED = 1 << 1  # no step lowers chi2 though the gradient promises one: a kink of the model
    AT_BOUND = 1 << 2  # at least one label ended on the edge of the model's box
    RV_AT_LIMIT = 1 << 3  # the velocity ended on the edge of its search range
    NONFINITE = 1 << 4  # NaN or infinity in the spectrum, or in the model at the start
    NO_PIXELS = 1 << 5  # fewer usable pixels than parameters + 1
    LOW_SNR = 1 << 6  # median signal-to-noise per used pixel under the run's limit
    POOR_FIT = 1 << 7  # chi2 per degree of freedom above the run's limit
    OUT_OF_DOMAIN = 1 << 8  # the star is not of the kind that the model knows (see distance)
    BAD_SPECTRUM = 1 << 9  # the spectrum's own status forbids a fit (set by the stage)
    NOT_SELECTED = 1 << 10  # the run did not ask for this star (set by the stage)
    PRIOR_DOMINATED = 1 << 11  # of some label the box or prior says as much as the spectrum
    MULTIPLE_OPTIMA = 1 << 12  # another set of labels, far from this one, fits nearly as well
    FEW_PIXELS = 1 << 13  # a small part of the model's pixels has weight
    WIDTH_AT_LIMIT = 1 << 14  # vsini or the LSF's width ended on the edge of its range


NOT_FITTED = (
    FitStatus.NONFINITE | FitStatus.NO_PIXELS | FitStatus.BAD_SPECTRUM | FitStatus.NOT_SELECTED
)
"""Any of these bits: the row holds no labels."""


@dataclass(frozen=True)
class FitResult:
    """Labels of ``n`` stars with covariance, quality and status; NaN where nothing was fitted.

    Attributes
    ----------
    labels : (n, K) float32 [K, dex, km/s]
        Best-fit labels.
    label_cov : (n, K, K) float32 [products of the labels' units]
        Inverse Hessian of chi2 / 2 over the free labels, velocity marginalized. A label that noise
        drove to its bound has the spread of the truncated normal within it, and the others know.
        One that wants more than 3 sigma beyond has that of a uniform density over its range,
        (maximum - minimum)^2 / 12, without correlations. No variance exceeds that one.
    rv, rv_err : (n,) float32 [km/s]
        Velocity of the star against the spectrum as given, and its 1 sigma.
    chi2 : (n,) float32
        At the best fit, with the emulator's scatter in the weights; of pixels each for itself,
        whatever noise they share.
    dof : (n,) int32
        Pixels used less parameters that could move.
    n_used : (n,) int32
        Pixels with weight.
    n_steps : (n,) int32
        Steps tried.
    at_bound : (n,) uint64
        Bit k is set if label k ended on a bound.
    prior_dominated : (n,) uint64
        Bit k is set if the box or the prior says as much of label k as the spectrum does.
    distance : (n,) float32
        Sigmas that the bounds cost: the root of the fall of chi2 that is promised beyond them.
    training_distance : (n,) float32
        Distance from the labels that the model learned from, 1 as far as the farthest of them
        (`scalespec.optimize.domain`); NaN if the model does not know them.
    widths, width_err : (n, W) float32 [km/s]
        Line widths that were fitted, vsini first, and their 1 sigma.
    status : (n,) uint32
        `FitStatus` bits.
    """

    labels: FloatArray
    label_cov: FloatArray
    rv: FloatArray
    rv_err: FloatArray
    chi2: FloatArray
    dof: NDArray[np.int32]
    n_used: NDArray[np.int32]
    n_steps: NDArray[np.int32]
    at_bound: NDArray[np.uint64]
    prior_dominated: NDArray[np.uint64]
    distance: FloatArray
    training_distance: FloatArray
    widths: FloatArray
    width_err: FloatArray
    status: NDArray[np.uint32]

    def __len__(self) -> int:
        """Return the number of stars."""
        return len(self.labels)

    @property
    def label_err(self) -> FloatArray:
        """(n, K) float32: 1 sigma of each label, the root of the covariance's diagonal."""
        return np.sqrt(np.diagonal(self.label_cov, axis1=1, axis2=2))

    @property
    def fitted(self) -> NDArray[np.bool_]:
        """(n,) bool: rows that hold labels."""
        fitted: NDArray[np.bool_] = self.status & np.uint32(NOT_FITTED.value) == 0
        return fitted

    @classmethod
    def empty(cls, n: int, n_label: int, *, status: int = 0, n_width: int = 0) -> Self:
        """Return `n` rows without a fit, all of one `status`.

        Examples
        --------
        >>> FitResult.empty(2, 3, status=FitStatus.NOT_SELECTED).fitted
        array([False, False])
        """
        return cls(
            labels=np.full((n, n_label), np.nan, np.float32),
            label_cov=np.full((n, n_label, n_label), np.nan, np.float32),
            rv=np.full(n, np.nan, np.float32),
            rv_err=np.full(n, np.nan, np.float32),
            chi2=np.full(n, np.nan, np.float32),
            dof=np.zeros(n, np.int32),
            n_used=np.zeros(n, np.int32),
            n_steps=np.zeros(n, np.int32),
            at_bound=np.zeros(n, np.uint64),
            prior_dominated=np.zeros(n, np.uint64),
            distance=np.full(n, np.nan, np.float32),
            training_distance=np.full(n, np.nan, np.float32),
            widths=np.full((n, n_width), np.nan, np.float32),
            width_err=np.full((n, n_width), np.nan, np.float32),
            status=np.full(n, status, np.uint32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Put the rows of `parts` below each other.

        Raises
        ------
        ValueError
            If there are no parts; the number of labels would be unknown.
        """
        if not parts:
            raise ValueError("no results to concatenate: use FitResult.empty(0, n_label)")
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )

    def raise_flag(self, flag: FitStatus, rows: NDArray[np.integer] | NDArray[np.bool_]) -> None:
        """Set `flag` in the status of the chosen rows, in place."""
        self.status[rows] |= np.uint32(flag.value)

    def flag_doubts(self, *, reduced_chi2_max: float, pixels_min: float, n_pixel: int) -> None:
        """Flag fits of few pixels, and those that are far off them, in place.

        Parameters
        ----------
        reduced_chi2_max : float
            Chi2 per degree of freedom over which a fit is flagged POOR_FIT.
        pixels_min : float
            Part of the model's pixels under which a fit is flagged FEW_PIXELS.
        n_pixel : int
            The model's.

        Examples
        --------
        >>> fits = FitResult.empty(3, 1)
        >>> fits.chi2[:], fits.dof[:], fits.n_used[:] = (90.0, 9.0, 9.0), 9, (10, 10, 2)
        >>> fits.flag_doubts(reduced_chi2_max=5.0, pixels_min=0.25, n_pixel=20)
        >>> [FitStatus(int(status)).name for status in fits.status]
        ['POOR_FIT', None, 'FEW_PIXELS']
        """
        few = self.n_used < pixels_min * n_pixel
        self.raise_flag(FitStatus.FEW_PIXELS, self.fitted & few)
        poor = self.chi2 > reduced_chi2_max * self.dof
        self.raise_flag(FitStatus.POOR_FIT, self.fitted & poor)

    def flag_unlike(self, domain: Domain | None, *, distance_max: float) -> None:
        """Measure how far stars are from those the model knows, and flag the far ones, in place.

        Parameters
        ----------
        domain : Domain, optional
            Of the model.
        distance_max : float
            `distance` over which a fit is flagged OUT_OF_DOMAIN; over 1, `training_distance` is.

        Examples
        --------
        >>> fits = FitResult.empty(2, 1)
        >>> fits.labels[:], fits.label_cov[:] = [[4100.0], [7900.0]], 100.0
        >>> fits.flag_unlike(Domain.of(np.linspace(4e3, 5e3, 11)[:, None]), distance_max=10.0)
        >>> fits.training_distance.round(2), [FitStatus(int(s)).name for s in fits.status]
        (array([0.8, 6.8], dtype=float32), [None, 'OUT_OF_DOMAIN'])
        """
        if domain is not None:
            self.training_distance[:] = domain.distance(self.labels, self.label_cov)
        far = (self.distance > distance_max) | (self.training_distance > 1)
        self.raise_flag(FitStatus.OUT_OF_DOMAIN, self.fitted & far)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Self:
        """Return the chosen rows, in the order given."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})
