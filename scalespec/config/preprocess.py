"""``[preprocess]`` and its tables: raw spectra to what models see."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from scalespec.config.table import Range, Table, check_ordered

SURVEY_BITS = ("BAD_PIXEL", "BAD_TRACE", "NO_SKY", "OFF_CCD", "NO_DATA", "COSMIC_RAY")


class ContinuumTable(Table):
    """``[preprocess] continuum``: how spectra are normalized."""

    method: Literal["gaussian", "quantile", "chebyshev", "spline", "median", "range", "none"] = (
        "gaussian"
    )
    """Mean of the good pixels under a Gaussian; a running quantile; Chebyshev polynomials or the
    median, chip by chip; a clipped smoothing spline; scaling from low to high quantile; nothing."""
    width_angstrom: float = Field(default=50.0, gt=0)
    """Width L of the Gaussian, or how far a running quantile looks to either side."""
    convention: Literal["sigma", "exp"] = "sigma"
    """L is a standard deviation, exp(-dλ²/2L²), or √2 of them, exp(-dλ²/L²)."""
    weights: Literal["mask", "ivar"] = "mask"
    """Of pixels under the Gaussian."""
    passes: int = Field(default=1, ge=1, le=5)
    """How often a Gaussian normalizes. A slope within the Gaussian moves its mean towards the
    brighter side, so that lines of red and blue stars come out otherwise by half a percent; each
    pass takes most of it away. More than one wants a model trained on such spectra."""
    chips: tuple[Range, ...] = ()
    """Limits in vacuum Å of chips or arms, each with its own polynomial or median; empty: one."""
    pixels: tuple[Range, ...] = ()
    """Windows in vacuum Å, rest frame, that polynomials are fitted in; empty: everywhere."""
    degree: int = Field(default=2, ge=0, le=20)
    """Of the polynomials."""
    quantile: float = Field(default=0.9, ge=0, le=1)
    """Of the running quantile."""
    coefficients: int = Field(default=60, ge=4)
    """Of the spline."""


class VelocityTable(Table):
    """``[preprocess.velocity]``: cross-correlation, for step "velocity"."""

    templates: str
    """A spectra store of rest-frame spectra in our schema, or a model."""
    n_templates: int = Field(default=24, ge=1)
    """How many spectra of it serve, spread evenly over its rows."""
    max_kms: float = Field(default=1000.0, gt=0)
    """Velocities searched, either side of 0."""
    every: bool = False
    """Replace velocities that the survey gives, too."""


class GridTable(Table):
    """``[preprocess.grid]``: other pixels, and a lower resolution, for step "regrid".

    One of the steps, or `resolving_power`, sets the pixels; arms are joined on them.
    """

    min_angstrom: float = Field(gt=0)
    """First edge, or first pixel where a step is given."""
    max_angstrom: float = Field(gt=0)
    """What the last does not pass."""
    step_log10: float | None = Field(default=None, gt=0)
    """Pixels even in log10(λ)."""
    step_angstrom: float | None = Field(default=None, gt=0)
    """Pixels even in Å; such a grid cannot be moved to rest, nor fitted with a velocity."""
    resolving_power: float | None = Field(default=None, gt=0)
    """R that the spectra are degraded to; by itself it sets pixels even in log10(λ)."""
    pixels_per_fwhm: float = Field(default=2.0, gt=0)
    """Pixels per resolution element where `resolving_power` sets them: 2 is Nyquist's."""
    match_levels: bool = False
    """Scale each arm to the one before it where they overlap."""

    @model_validator(mode="after")
    def _one_grid(self) -> "GridTable":
        check_ordered("min_angstrom", self.min_angstrom, "max_angstrom", self.max_angstrom)
        if self.step_log10 is not None and self.step_angstrom is not None:
            raise ValueError("give one of step_log10 and step_angstrom")
        if (self.step_log10, self.step_angstrom, self.resolving_power) == (None, None, None):
            raise ValueError("give step_log10, step_angstrom or resolving_power")
        return self


BandName = Literal["GU", "GV", "GI"]


def _some_throughput() -> dict[BandName, float]:
    return {"GU": 0.15, "GV": 0.3, "GI": 0.3}


class SimulateTable(Table):
    """``[preprocess.simulate]``: as a slitless space telescope would see it, for step "simulate".

    Pixels where the source has no flux stay empty: GU and most of GI from LAMOST, for one.
    """

    bands: tuple[BandName, ...] = ("GU", "GV", "GI")
    """Gratings, next to each other."""
    resolving_power: float = Field(default=200.0, gt=0)
    """λ/FWHM in every band."""
    pixels_per_fwhm: float = Field(default=2.0, gt=0)
    """Pixels per resolution element."""
    snr: float | None = Field(default=None, gt=0)
    """S/N of the median pixel after noise is added; where data are noisier they stay so."""
    magnitude: float | None = None
    """Instead of `snr`: AB magnitude in GV."""
    throughput: dict[BandName, float] = Field(default_factory=_some_throughput)
    """Part of the photons counted mid-band. Round numbers: nothing is published."""
    exposure_s: float = Field(default=600.0, gt=0)
    """Total time; with `magnitude`."""
    background: float = Field(default=100.0, ge=0)
    """Variance per pixel of sky, dark current and reading [electrons²]; with `magnitude`."""
    second_order: float = Field(default=0.0, ge=0, lt=1)
    """Second-order light over first-order light of the same wavelength: orders overlap at 2 λ."""

    @model_validator(mode="after")
    def _one_noise(self) -> "SimulateTable":
        if self.snr is not None and self.magnitude is not None:
            raise ValueError("give one of snr and magnitude; neither adds no noise")
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise ValueError("bands must be a list of different gratings")
        if "GU" in self.bands and "GI" in self.bands and "GV" not in self.bands:
            raise ValueError("bands must lie next to each other: GU and GI want GV")
        return self


class LibraryTable(Table):
    """``[preprocess.library]``: theory that is made first, and then preprocessed as a survey is.

    Of our own line synthesis, not for science: in the ultraviolet the edges of metals are missing.
    """

    n_spectra: int = Field(ge=1)
    """Stars, drawn over the range of labels."""
    labels: tuple[str, ...] = ("teff", "logg", "fe_h")
    """What differs between them."""
    min_angstrom: float = Field(default=2500.0, gt=0)
    """First wavelength, vacuum; lines are known from 2480 to 17060."""
    max_angstrom: float = Field(default=10_150.0, gt=0)
    """What the last does not pass."""
    resolving_power: float = Field(default=2000.0, gt=0)
    """λ/FWHM, everywhere."""
    pixels_per_fwhm: float = Field(default=2.0, gt=0)
    """Pixels per resolution element, even in log10(λ)."""

    @model_validator(mode="after")
    def _some_range(self) -> "LibraryTable":
        check_ordered("min_angstrom", self.min_angstrom, "max_angstrom", self.max_angstrom)
        return self


class VisitsTable(Table):
    """``[preprocess.visits]``: after all steps, the spectra of each star put together.

    Below the folder of the spectra come to lie ``visits/<digest>/spectra.zarr``, a row per star,
    and tables of which spectra those are and how far velocities of plates are off each other.
    """

    star: str = "source_id"
    """Column, of the store or its index, that is the same for all spectra of a star. A spectrum
    without it is a star of its own."""
    plate: str = ""
    """Regular expression on file names whose first group names the plate; given, the plates' zero
    points are found and taken out of the stars' velocities: ``"spec-(.+)-\\d+.fits"``."""
    clip_sigma: float = Field(default=5.0, gt=0)
    """A pixel so far from the mean of at least two other visits, by weight, is left out."""

    @field_validator("plate")
    @classmethod
    def _one_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        if value and groups < 1:
            raise ValueError("wanted is a regular expression with a (group) that names the plate")
        return value


StepName = Literal["mask", "velocity", "regrid", "rest", "cut", "simulate", "normalize", "features"]
STEPS: tuple[StepName, ...] = ("mask", "rest", "cut", "normalize")


class PreprocessTable(Table):
    """``[preprocess]``: raw spectra to masked, rest-frame, normalized ones on one grid."""

    source: str = ""
    """Instead of what [ingest] read: a spectra store in our schema, as a library of theory."""
    library: LibraryTable | None = None
    steps: tuple[StepName, ...] = STEPS
    """What is done, in this order: bad pixels lose their weight; velocities are measured; pixels
    and resolution changed; the star brought to rest by whole pixels; the limits below applied; a
    space telescope simulated; the continuum divided out; line windows measured and spectra folded
    into images."""
    wavelength_min_angstrom: float = Field(default=3750.0, gt=0)
    """First wavelength kept, vacuum."""
    wavelength_max_angstrom: float = Field(default=8950.0, gt=0)
    """Last wavelength kept, vacuum."""
    continuum: ContinuumTable = ContinuumTable()
    bad_bits: tuple[str, ...] = SURVEY_BITS
    """Survey mask bits (names of ``schema.MaskBit``) whose pixels lose their weight. Add
    BRIGHT_SKY for the APOGEE mask of bits 0-7 and 12; or_BAD_PIXEL and the like are LAMOST's
    ORMASK, bad in any exposure."""
    windows: tuple[Literal["SKY_LINE", "ARM_JOIN", "TELLURIC"], ...] = (
        "SKY_LINE",
        "ARM_JOIN",
        "TELLURIC",
    )
    """Windows of the observer's frame that are masked: `kernels.mask.LAMOST` lists them. A store
    already at rest has no such frame: none is masked."""
    velocity: VelocityTable | None = None
    grid: GridTable | None = None
    simulate: SimulateTable | None = None
    line_windows: tuple[str, ...] = ()
    """For step "features": windows of `kernels.features.AIR_WINDOWS`, as CH_G, the G band, whose
    equivalent widths become columns ``ew_<name>`` [Å] and ``ew_<name>_ivar``, 0 where most of a
    window is lost."""
    fold_width: int = Field(default=0, ge=0)
    """For step "features": pixels per line of the image ``image`` that each spectrum is folded
    into, every other line backwards; 64 by 64 of 4,096 pixels. 0 makes none."""
    visits: VisitsTable | None = None
    resolving_power: float | None = Field(default=None, gt=0)
    """R of the data, where you know better than their reader; models are brought to it."""
    spike_sigma: float = Field(default=6.0, gt=0)
    """Pixels this many sigma above the continuum, and more than `spike_height`, are masked."""
    spike_height: float = Field(default=0.3, gt=0)
    """Least height of such a pixel above the continuum, in units of it."""
    statistics: bool = False
    """Sum up what was made: S/N, coverage, cost of masks, mean spectrum per class."""
    components: int = Field(default=0, ge=0)
    """With `statistics`: so many principal components of the normalized spectra, and each
    spectrum's coordinates along them."""

    @model_validator(mode="after")
    def _ordered(self) -> "PreprocessTable":
        ends = self.wavelength_min_angstrom, self.wavelength_max_angstrom
        check_ordered("wavelength_min_angstrom", ends[0], "wavelength_max_angstrom", ends[1])
        for step, table in (
            ("velocity", self.velocity),
            ("regrid", self.grid),
            ("simulate", self.simulate),
        ):
            if step in self.steps and table is None:
                name = {"regrid": "grid"}.get(step, step)
                raise ValueError(f"step '{step}' wants a [preprocess.{name}] table")
        if len(set(self.steps)) != len(self.steps):
            raise ValueError("each step may be taken once")
        if self.components and not self.statistics:
            raise ValueError("components want statistics = true")
        if ("features" in self.steps) != bool(self.line_windows or self.fold_width):
            raise ValueError("step 'features' goes with line_windows or fold_width")
        if self.source and self.library:
            raise ValueError("give one of source and library")
        if self.visits and self.visits.plate and (self.source or self.library):
            raise ValueError("visits.plate is read of file names, and a source has none")
        return self
