"""``[binaries]``: which of the fitted stars are two."""

from typing import Annotated

from pydantic import Field, FiniteFloat, model_validator

from scalespec.config.table import Range, Table

MOCKS_PER_RATE = 10
"""Mock singles per false positive that is allowed: a threshold above which ten of them are."""
Ratio = Annotated[FiniteFloat, Field(gt=0, le=1)]


class BinariesTable(Table):
    """``[binaries]``: a fit of two stars beside that of one, for chosen stars.

    Two stars are believed where they lower chi2 by more than all but few of mock single stars do.
    Mocks have no continuum: where that slopes, smoothed spectra of single stars gain too much from
    a second one, and ``[fit] polynomial`` keeps the rate.
    """

    isochrone: str
    """One isochrone, whose main sequence says what a companion of given mass is: a table (CSV,
    Parquet, FITS, VOTable) with columns mass [Msun], teff [K] and logg, in order of mass; or what
    `ages.isochrones` reads, of one age and metallicity."""
    where: str = ""
    """Which fitted stars, by columns of store, index, matches and fit as the catalog calls them,
    ``logg > 4 and snr > 30``; empty: those of the main sequence's temperatures with logg > 3.8."""
    false_positive_rate: float = Field(default=0.001, gt=0, lt=0.5)
    """Share of single stars that may be taken for two."""
    mocks: int = Field(default=0, ge=0)
    """Mock single stars that tell the threshold, about so many: at labels, noise and masks of the
    chosen stars, by rows drawn with the run's seed; 0: ten over the rate."""
    q_starts: tuple[Ratio, ...] = (0.6, 0.9)
    """Mass ratios that fits of two stars begin with; chi2 has several minima in it."""
    dv_starts_kms: tuple[FiniteFloat, ...] = (-60.0, 60.0)
    """Velocities of the secondary against the primary that they begin with, each with each q."""
    q_range: Range = (0.3, 1.0)
    """Mass ratios that are searched."""
    dv_kms: float = Field(default=300.0, gt=0)
    """Velocities that are searched, to either side."""

    @model_validator(mode="after")
    def _can_be_searched(self) -> "BinariesTable":
        if self.n_mocks * self.false_positive_rate < 1:
            raise ValueError(
                f"mocks = {self.mocks} tell no rate of {self.false_positive_rate:g}: at least "
                f"{1 / self.false_positive_rate:.0f} do, ten times as many do well"
            )
        low, high = self.q_range
        if low <= 0 or high > 1:
            raise ValueError(f"q_range: [{low:g}, {high:g}] is not within 0 to 1: q = M2 / M1")
        if not self.q_starts or not all(low <= q <= high for q in self.q_starts):
            raise ValueError(f"q_starts = {list(self.q_starts)}: name some within q_range")
        if not self.dv_starts_kms or not all(abs(v) <= self.dv_kms for v in self.dv_starts_kms):
            raise ValueError(f"dv_starts_kms = {list(self.dv_starts_kms)}: name some up to dv_kms")
        return self

    @property
    def n_mocks(self) -> int:
        """Mock single stars that are wanted.

        Examples
        --------
        >>> BinariesTable(isochrone="i.csv", false_positive_rate=0.01).n_mocks
        1000
        """
        return self.mocks or round(MOCKS_PER_RATE / self.false_positive_rate)
