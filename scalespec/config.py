"""The survey run file: one frozen model per table, checked once, here."""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scalespec.errors import ConfigError

STAGES = ("ingest", "preprocess", "crossmatch", "train", "infer", "fit", "publish", "report")
"""The verbs that `scalespec run` knows, in the order of the data."""

BUCKET_OPTIONS = frozenset({"endpoint", "region", "profile", "anonymous", "allow_http"})
"""What may stand in the query of an s3:// URL, and in ``[store]``; none of it is a secret."""
SURVEY_BITS = ("BAD_PIXEL", "BAD_TRACE", "NO_SKY", "OFF_CCD", "NO_DATA", "COSMIC_RAY")


class Table(BaseModel):
    """A table of the run file: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunTable(Table):
    """``[run]``: what holds for every stage."""

    name: str
    """Name of the run; it heads the report."""
    workspace: str
    """Folder or ``s3://`` prefix under which everything the run makes lies."""
    seed: int = Field(default=1, ge=0)
    """Seed of every random number."""
    spectra_per_block: int = Field(default=4096, ge=1)
    """Spectra per block: the unit of work, of storage (one Zarr shard) and of resuming."""


class IngestTable(Table):
    """``[ingest]``: survey files to raw spectra."""

    survey: str = "lamost_lrs"
    """Which reader: a key of ``scalespec.surveys.SURVEYS``."""
    description: str = ""
    """Of survey "table": a JSON file that says what its files' columns are."""
    files: str | tuple[str, ...] = ()
    """A glob, a folder, several of them, or ``@list.txt`` with one path a line."""
    catalog: str = ""
    """Instead of `files`: a release catalog whose rows name the files by the survey's path rule."""
    root: str = ""
    """Folder that the catalog's paths start from."""
    where: str = ""
    """Which rows of the catalog, as ``snrg > 10 and class == 'STAR'``."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many spectra."""

    @model_validator(mode="after")
    def _one_source(self) -> "IngestTable":
        if bool(self.files) == bool(self.catalog):
            raise ValueError("give either files or catalog")
        if self.where and not self.catalog:
            raise ValueError("where selects rows of a catalog: give catalog, too")
        return self


class StoreTable(Table):
    """``[store]``: how pixels are kept, and where a bucket is. Secrets have no place here.

    Credentials come from the standard chain of the process that reads or writes: environment, a
    web identity, the machine's role, or the `profile`'s files.
    """

    codec: Literal["blosc", "pcodec", "lz4", "none"] = "blosc"
    """Of flux, ivar and mask: Zstandard behind bit shuffling; pcodec is smaller and slower (and
    wants the package pcodec), lz4 faster and larger."""
    lossy_bits: int | None = Field(default=None, ge=4, le=22)
    """Keep so many bits of the mantissa of flux and ivar: 12 are good to 1.2e-4 and halve what is
    stored. Recorded in the store's attributes. By default every bit is kept."""
    endpoint: str = ""
    """Address of an S3 server that is not AWS, as ``https://s3.example.org``. It and the following
    hold for every s3:// URL of this file that has no query of its own."""
    region: str = ""
    """Region of the buckets."""
    profile: str = ""
    """Profile of ~/.aws whose credentials are used, on every worker."""
    anonymous: bool = False
    """Send no credentials: public buckets."""
    allow_http: bool = False
    """Plain HTTP to an endpoint that is not this machine."""

    def query(self) -> str:
        """Return the options of a bucket as the query of a URL; "" if there are none."""
        options = {
            name: "true" if value is True else value
            for name in ("endpoint", "region", "profile", "anonymous", "allow_http")
            if (value := getattr(self, name))
        }
        return "?" + urlencode(options, safe=":/") if options else ""


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
    chips: tuple[tuple[float, float], ...] = ()
    """Limits in vacuum Å of chips or arms, each with its own polynomial or median; empty: one."""
    pixels: tuple[tuple[float, float], ...] = ()
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
        if self.min_angstrom >= self.max_angstrom:
            raise ValueError("min_angstrom must be below max_angstrom")
        if self.step_log10 is not None and self.step_angstrom is not None:
            raise ValueError("give one of step_log10 and step_angstrom")
        if (self.step_log10, self.step_angstrom, self.resolving_power) == (None, None, None):
            raise ValueError("give step_log10, step_angstrom or resolving_power")
        return self


class SimulateTable(Table):
    """``[preprocess.simulate]``: as a slitless space telescope would see it, for step "simulate".

    Pixels where the source has no flux stay empty: GU and most of GI from LAMOST, for one.
    """

    bands: tuple[Literal["GU", "GV", "GI"], ...] = ("GU", "GV", "GI")
    """Gratings, next to each other."""
    resolving_power: float = Field(default=200.0, gt=0)
    """λ/FWHM in every band."""
    pixels_per_fwhm: float = Field(default=2.0, gt=0)
    """Pixels per resolution element."""
    snr: float | None = Field(default=None, gt=0)
    """S/N of the median pixel after noise is added; where data are noisier they stay so."""
    magnitude: float | None = None
    """Instead of `snr`: AB magnitude in GV."""
    throughput: dict[Literal["GU", "GV", "GI"], float] = {"GU": 0.15, "GV": 0.3, "GI": 0.3}
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


StepName = Literal["mask", "velocity", "regrid", "rest", "cut", "simulate", "normalize"]
STEPS: tuple[StepName, ...] = ("mask", "rest", "cut", "normalize")


class PreprocessTable(Table):
    """``[preprocess]``: raw spectra to masked, rest-frame, normalized ones on one grid."""

    source: str = ""
    """Instead of what [ingest] read: a spectra store in our schema, as a library of theory."""
    steps: tuple[StepName, ...] = STEPS
    """What is done, in this order: bad pixels lose their weight; velocities are measured; pixels
    and resolution changed; the star brought to rest by whole pixels; the limits below applied; a
    space telescope simulated; the continuum divided out."""
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
    resolving_power: float | None = Field(default=None, gt=0)
    """R of the data, where you know better than their reader; models are brought to it."""
    spike_sigma: float = Field(default=6.0, gt=0)
    """Pixels this many sigma above the continuum, and more than `spike_height`, are masked."""
    spike_height: float = Field(default=0.3, gt=0)
    """Least height of such a pixel above the continuum, in units of it."""
    statistics: bool = False
    """Sum up what was made: S/N, coverage, cost of masks, mean spectrum per class."""
    components: int = Field(default=0, ge=0)
    """With `statistics`: so many principal components of the normalized spectra."""

    @model_validator(mode="after")
    def _ordered(self) -> "PreprocessTable":
        if self.wavelength_min_angstrom >= self.wavelength_max_angstrom:
            raise ValueError("wavelength_min_angstrom must be below wavelength_max_angstrom")
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
        return self


KeyKind = Literal["gaia_dr2", "gaia_dr3", "twomass", "obsid", "name"]
KEY_KINDS: dict[str, tuple[KeyKind, ...]] = {
    "source_id": ("gaia_dr2", "gaia_dr3"),
    "obsid": ("obsid",),
    "name": ("name",),
    "file": ("name",),
    "designation": ("twomass", "name"),
}
"""What our columns of identifiers may be; Gaia EDR3 ids are DR3 ids, DR2 ids are not."""
MATCH_NAMES = frozenset(
    ("row", "obsid", "star", "split", "separation_arcsec", "rank", "n_candidates", "by_id")
)
"""Columns of a table of matches that are no labels."""
RESERVED_NAMES = MATCH_NAMES | {
    *("right", "id", "tie", "cell", "ra", "dec", "pmra", "pmdec", "epoch", "magnitude"),
    *("own", "mutual", "spectrum_snr"),
}
"""Names that no label may have."""


class MagnitudeTable(Table):
    """``[crossmatch.NAME] magnitude``: matches must be about as bright as the spectrum's star."""

    ours: str
    """Column of our magnitudes, in the store or its index."""
    theirs: str
    """Column of the catalog's, in a band near to ours."""
    tolerance: float = Field(default=2.0, gt=0)
    """Pairs that differ by more are no candidates, in mag; an unknown magnitude rules out none."""


class TrainingSetTable(Table):
    """``[crossmatch.NAME] training``: which matched stars are learned from."""

    flatten: int = Field(default=0, ge=0)
    """Most training stars in a cell of `cells`; 0 takes all."""
    cells: dict[str, float] = {"teff": 250.0, "logg": 0.5, "fe_h": 0.25}
    """Size of a cell in each label: the Kiel diagram and [Fe/H]."""
    outlier_sigma: float = Field(default=0.0, ge=0)
    """Leave out stars whose labels differ by more robust sigmas from what a cross-validated linear
    model of their spectra says; 0 keeps all."""
    folds: int = Field(default=5, ge=2)
    """Parts of that cross-validation, star by star."""
    library: str = ""
    """Spectra store with labels, on the same grid, that fills sparse cells."""
    fill: int = Field(default=0, ge=0)
    """Cells with fewer training stars than this are filled up from the library."""

    @model_validator(mode="after")
    def _library_and_fill(self) -> "TrainingSetTable":
        if bool(self.fill) != bool(self.library):
            raise ValueError("fill and library go together")
        if self.flatten and self.fill > self.flatten:
            raise ValueError(f"fill = {self.fill} is above flatten = {self.flatten}")
        if not self.cells or min(self.cells.values()) <= 0:
            raise ValueError("cells wants labels and their sizes, above 0")
        return self


class CrossmatchTable(Table):
    """``[crossmatch.NAME]``: one label catalog, joined by id where ids exist, else by position.

    With `sources` it is no catalog of its own but the labels of other tables, put together.
    """

    catalog: str = ""
    """FITS, Parquet (a file or a folder), CSV(.gz), VOTable, or a HATS catalog."""
    sources: tuple[str, ...] = ()
    """Instead of a catalog: other ``[crossmatch.NAME]`` tables; the first that knows a star's label
    gives it."""
    reference: str = ""
    """Of the tables, the high-resolution one that the sources are compared with."""
    choose: Literal["priority", "agreement"] = "priority"
    """Order of the sources: as listed, or for each label by agreement with the reference."""
    radius_arcsec: float = Field(default=3.0, gt=0, le=300.0)
    """Greatest separation of a match on the sky."""
    mode: Literal["best", "all", "mutual"] = "best"
    """Each spectrum's nearest; that, and all candidates in ``pairs.parquet`` beside it; or only
    those that are each other's nearest."""
    key: dict[str, str] = {}
    """Id join first: ``{ source_id = "GAIAEDR3_SOURCE_ID" }`` (our column = theirs)."""
    key_kind: KeyKind | None = None
    """What the catalog's identifiers are; Gaia's must say their release."""
    ra: str = "ra"
    """Column of right ascension, ICRS deg; empty for an id join alone."""
    dec: str = "dec"
    """Column of declination, ICRS deg."""
    pmra: str = ""
    """Column of proper motion in RA times cos(dec), mas/yr; empty if there is none."""
    pmdec: str = ""
    """Column of proper motion in declination, mas/yr."""
    epoch: float | str = 2016.0
    """Epoch of the catalog's positions, Julian year, or the column that says it; they are moved to
    each observation's."""
    magnitude: MagnitudeTable | None = None
    """Leaves out candidates of another brightness."""
    star_id: str = ""
    """Column that is the same for all rows of a star; without it a catalog row is a star."""
    columns: dict[str, str] = {}
    """Labels taken over: ``{ teff = "TEFF", teff_err = "TEFF_ERR" }`` (our name = theirs)."""
    units: dict[str, str] = {}
    """Units of the catalog's columns, by our name, where they are not ours: ``{ ra = "hourangle",
    teff = "dex(K)" }``."""
    missing: tuple[float, ...] = (-9999.0, -9999.99)
    """Values that mean "not known", besides NaN."""
    where: str = ""
    """Which rows of the catalog may be matched."""
    training: TrainingSetTable = TrainingSetTable()

    @model_validator(mode="after")
    def _can_be_meant(self) -> "CrossmatchTable":
        if bool(self.catalog) == bool(self.sources):
            raise ValueError("give either catalog or sources")
        if self.reference in self.sources:
            raise ValueError(f"reference: '{self.reference}' is one of the sources itself")
        if self.choose == "agreement" and not self.reference:
            raise ValueError("choose = 'agreement' wants a reference to agree with")
        if taken := sorted(RESERVED_NAMES & set(self.columns)):
            raise ValueError(f"columns: {taken} are names of ours: choose others")
        if len(self.key) > 1:
            raise ValueError(f"key: one id joins, got {sorted(self.key)}")
        if bool(self.ra) != bool(self.dec):
            raise ValueError("ra and dec go together")
        if self.catalog and not (self.ra or self.key):
            raise ValueError("nothing to match by: give key, or ra and dec")
        known = {"ra", "dec", "pmra", "pmdec", *self.columns}
        if unknown := sorted(set(self.units) - known):
            raise ValueError(f"units: {unknown} are none of {sorted(known)}")
        for ours, theirs in self.key.items():
            self._check_kind(ours, theirs)
        return self

    def _check_kind(self, ours: str, theirs: str) -> None:
        """Refuse a join of two kinds of identifiers."""
        kinds = KEY_KINDS.get(ours, ())
        if ours == "source_id" and self.key_kind is None:
            raise ValueError(
                f"key: '{theirs}' joins Gaia ids: say their release, key_kind = 'gaia_dr3' or "
                "'gaia_dr2'; one is never the other"
            )
        if self.key_kind is not None and kinds and self.key_kind not in kinds:
            raise ValueError(
                f"key: our '{ours}' is one of {kinds}, '{theirs}' is '{self.key_kind}': they "
                "never join"
            )
        if self.key_kind == "gaia_dr3" and "dr2" in theirs.lower().replace("_", ""):
            raise ValueError(f"key: '{theirs}' says DR2, key_kind says 'gaia_dr3'")


class TrainTable(Table):
    """``[train]``: spectra and labels to an emulator."""

    model: Literal["payne", "cannon"] = "payne"
    """Which model."""
    labels: tuple[str, ...]
    """Label columns of the library or matched catalog, in the model's order."""
    library: str = ""
    """A library of theoretical spectra in our raw schema with ``labels`` (`scalespec mock`)."""
    catalog: str = ""
    """Instead of a library: the ``[crossmatch.NAME]`` whose matched stars are learned from."""
    snr_min: float = Field(default=0.0, ge=0)
    """Observed spectra below this S/N are not learned from."""
    order: int = Field(default=2, ge=1, le=4)
    """Degree of The Cannon's polynomial."""
    l1: float = Field(default=0.0, ge=0)
    """Weight of The Cannon's coefficients' absolute values against χ²/2; 0: maximum likelihood."""
    windows: dict[str, tuple[tuple[float, float], ...]] = {}
    """Wavelengths [Å] that know of a label, ``{ c_fe = [[4280, 4330]] }``, for The Cannon; a label
    not named is known everywhere."""
    gradients: str = ""
    """Derivatives at reference stars that the model's must be like: an npz of them
    (`stages/gradients.py` says its arrays), or a model that serves as teacher."""
    gradient_strength: float = Field(default=1.0, ge=0)
    """Weight of their mean square relative error beside that of flux."""
    gradient_references: int = Field(default=20, ge=1)
    """Training stars at which a teacher's derivatives are taken."""
    hidden: int = Field(default=300, ge=1)
    """Width of the two hidden layers."""
    rounds: tuple[int, ...] = (0, 10, 30, 60, 100)
    """Rounds of variable projection, each by its number of evaluations of all spectra."""
    epochs: int = Field(default=0, ge=0)
    """Passes of Adam over all spectra after the rounds: for more spectra than memory holds."""
    batch_size: int = Field(default=128, ge=1)
    """Spectra per step of Adam and worker."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Of Adam, at its height."""
    checkpoint_every: int = Field(default=5, ge=1)
    """Epochs between checkpoints; every round is kept, too."""

    @model_validator(mode="after")
    def _one_source(self) -> "TrainTable":
        if bool(self.library) == bool(self.catalog):
            raise ValueError("give either library or catalog")
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise ValueError("labels must be a list of different names")
        if strange := sorted(set(self.windows) - set(self.labels)):
            raise ValueError(f"windows name {strange}, which are not among the labels")
        return self


class InferTable(Table):
    """``[infer]``: a cheap first estimate of labels and velocity for every star."""

    models: tuple[str, ...] = ()
    """Models to try on every star (folders of ours or The Payne's .npz); empty: the trained one."""
    where: str = ""
    """Which spectra, by columns of store, index and matches, as ``apogee_teff > 4000``."""
    snr_min: float = Field(default=0.0, ge=0)
    """Spectra below this S/N get the status LOW_SNR, NOT_SELECTED and no labels."""
    rv_max_kms: float = Field(default=600.0, gt=0)
    """Velocities searched, either side of the survey's own."""
    templates: int = Field(default=48, ge=1)
    """Template spectra per model for the cross-correlation."""


class FitKind(Table):
    """``[[fit.kinds]]``: labels that a kind of star does not have free."""

    where: str
    """Which stars, by columns of the first estimate, as ``first_teff > 7000``."""
    fixed: dict[str, float]
    """Labels held at a value for them."""


class FitTable(Table):
    """``[fit]``: best labels, covariance and status per star."""

    max_steps: int = Field(default=50, gt=0)
    """Most Levenberg-Marquardt steps per star."""
    tolerance: float = Field(default=0.01, gt=0)
    """A star is done when the next step promises to lower χ² by less."""
    rv_range_kms: float = Field(default=150.0, gt=0)
    """How far the velocity may move from the first estimate."""
    scatter: float = Field(default=0.0, ge=0)
    """Error of the model's own flux, added in quadrature to what the model says of itself:
    imported emulators say nothing, and no model of real stars is exact."""
    stars_per_batch: int = Field(default=256, ge=1)
    """Stars fitted together; bounds the memory of a worker."""
    restarts: int | None = Field(default=None, ge=0)
    """Most searches begun again until two agree; unset: 4 for models with kinks (LeakyReLU), which
    have many optima, none for smooth ones."""
    starts: tuple[Literal["giant", "subgiant", "dwarf"], ...] = ()
    """Kinds of star to begin from beside the first estimate."""
    exact_covariance: bool = False
    """Covariances from every pixel's derivatives, also where wavelength blocks would do."""
    fixed: dict[str, float] = Field(default_factory=dict)
    """Labels held at a value."""
    tied: dict[str, str] = Field(default_factory=dict)
    """Labels that take the value of another, as ``{ si_fe = "mg_fe" }``."""
    prior: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Gaussian priors: mean and sigma of a label."""
    kinds: tuple[FitKind, ...] = ()
    """Labels held at a value for some kinds of star only."""
    polynomial: int | None = Field(default=None, ge=0)
    """Degree of a continuum polynomial that is marginalized, in place of the data's smoothing."""
    vsini_kms: tuple[float, float] | None = None
    """Range of the projected rotational velocity, where it is fitted."""
    lsf_kms: tuple[float, float] | None = None
    """Range of the Gaussian sigma by which the data are blurrier than the model, where fitted."""
    robust: float | None = Field(default=None, gt=0)
    """Pixels more than so many sigma off get less weight in a second pass."""


class PublishTable(Table):
    """``[publish]``: one catalog."""

    columns: tuple[str, ...] = ()
    """Columns of the catalog; empty: all of them. ``labels`` and ``label_cov`` stand for groups."""


class ReportTable(Table):
    """``[report]``: one page a person can look at."""

    references: tuple[str, ...] = ()
    """Names of ``[crossmatch.NAME]`` tables to compare with; empty: all."""
    truth: str = ""
    """Table of true labels by ``obsid`` (a mock survey has one): adds pulls."""
    truth_where: str = ""
    """Which stars are compared with the truth, by columns of its table, as ``binary == 0``."""
    snr_min: float = Field(default=30.0, ge=0)
    """The pulls and scatters quoted are of spectra above this S/N."""


class DaskTable(Table):
    """``[engine.dask]``: without an address, a local cluster of real processes."""

    address: str = ""
    """Of a running scheduler, as ``tcp://host:8786``, or a scheduler file, ``file:///...json``."""
    workers: int = Field(default=2, ge=1)
    """Local worker processes, one thread each."""


class RayTable(Table):
    """``[engine.ray]``: without an address, a local Ray."""

    address: str = ""
    """Of a running head, as ``host:6379``, or ``auto``."""
    workers: int = Field(default=2, ge=1)
    """Actors, and training workers."""
    gpus_per_worker: float = Field(default=0.0, ge=0)
    """GPUs each actor or training worker holds."""


class EngineTable(Table):
    """``[engine]``: who runs the blocks."""

    dask: DaskTable = DaskTable()
    ray: RayTable = RayTable()


class RunConfig(Table):
    """A whole run file; a stage runs if its table is there."""

    run: RunTable
    store: StoreTable = StoreTable()
    ingest: IngestTable | None = None
    preprocess: PreprocessTable | None = None
    crossmatch: dict[str, CrossmatchTable] | None = None
    train: TrainTable | None = None
    infer: InferTable | None = None
    fit: FitTable | None = None
    publish: PublishTable | None = None
    report: ReportTable | None = None
    engine: EngineTable = EngineTable()

    @model_validator(mode="after")
    def _stages_fit_together(self) -> "RunConfig":
        wanted: dict[str, tuple[str, ...]] = {
            "preprocess": ("ingest",),
            "crossmatch": ("ingest",),
            "infer": ("preprocess",),
            "fit": ("infer",),
            "publish": ("fit",),
            "report": ("publish",) if self.fit is not None else ("preprocess",),
        }
        if self.preprocess is not None and self.preprocess.source:
            wanted["preprocess"] = ()
        for stage, needs in wanted.items():
            for need in needs:
                if getattr(self, stage) is not None and getattr(self, need) is None:
                    raise ValueError(f"[{stage}] wants a [{need}] table")
        if self.infer is not None and not self.infer.models and self.train is None:
            raise ValueError("[infer] wants models = [...] or a [train] table")
        named = self.train.catalog if self.train else ""
        if named and named not in (self.crossmatch or {}):
            raise ValueError(f"train.catalog = '{named}' wants a [crossmatch.{named}] table")
        if named and self.preprocess is None:
            raise ValueError("[train] on matched stars wants a [preprocess] table")
        if self.report is not None and self.report.truth_where and not self.report.truth:
            raise ValueError("report.truth_where selects rows of the truth: give truth, too")
        for name in self.report.references if self.report else ():
            if name not in (self.crossmatch or {}):
                raise ValueError(f"report.references names no [crossmatch.{name}] table")
        self._sources_come_before()
        return self

    def _sources_come_before(self) -> None:
        catalogs: set[str] = set()
        for name, table in (self.crossmatch or {}).items():
            for source in (*table.sources, *filter(None, [table.reference])):
                if source not in catalogs:
                    raise ValueError(
                        f"crossmatch.{name}: '{source}' is no [crossmatch.{source}] table with a "
                        "catalog before it"
                    )
            if table.catalog:
                catalogs.add(name)

    @model_validator(mode="after")
    def _urls_have_no_secret(self) -> "RunConfig":
        for text in _texts(self.model_dump()):
            if not text.removeprefix("@").startswith("s3://"):
                continue
            path, _, query = text.partition("?")
            if "=" in query and (wrong := set(dict(parse_qsl(query))) - BUCKET_OPTIONS):
                raise ValueError(
                    f"{path}: unknown options {sorted(wrong)}; known are {sorted(BUCKET_OPTIONS)}"
                )
        return self

    def stages(self) -> tuple[str, ...]:
        """Return the verbs whose tables are there, in order."""
        return tuple(name for name in STAGES if getattr(self, name) is not None)


def digest(*parts: Any) -> str:
    """Return 16 hex digits that name everything in `parts`: tables, strings, numbers.

    Examples
    --------
    >>> digest({"a": 1}, "x") == digest({"a": 1}, "x") != digest({"a": 2}, "x")
    True
    """
    plain = [_plain(p.model_dump(mode="json") if isinstance(p, BaseModel) else p) for p in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _plain(value: Any) -> Any:
    """Return a value without the options of its buckets: an endpoint that moves changes nothing."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.partition("?")[0] if isinstance(value, str) and "s3://" in value else value


SECRET = re.compile("secret|token|password|key_id|access_key", re.IGNORECASE)


def _complaint(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if SECRET.search(where):
        return f"  {where}: no place for a secret: credentials come from the environment"
    message = error["msg"].removeprefix("Value error, ")
    value = error.get("input")
    if where and not isinstance(value, dict | BaseModel):
        return f"  {where} = {value!r}: {message}"
    return f"  {where}: {message}" if where else f"  {message}"


def parse_config(text: str, name: str = "run file") -> RunConfig:
    r"""Read a run file's text; every wrong key is reported at once.

    Parameters
    ----------
    text : str
        TOML.
    name : str
        What to call it in messages.

    Raises
    ------
    ConfigError
        If it is not TOML, or a table or key is wrong.

    Examples
    --------
    >>> parse_config('[run]\nname = "a"\nworkspace = "work"').run.spectra_per_block
    4096
    """
    try:
        return RunConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from error
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [_complaint(problem) for problem in problems]
        raise ConfigError(f"{name}: {len(lines)} wrong\n" + "\n".join(lines)) from error


PATH_KEYS = frozenset(
    {"workspace", "files", "catalog", "root", "library", "models", "truth", "source"}
)


def _absolute(value: Any, base: Path, query: str) -> Any:
    """Resolve paths against the run file's folder, and give URLs of buckets their options."""
    if isinstance(value, list | tuple):
        return [_absolute(v, base, query) for v in value]
    if not isinstance(value, str) or not value:
        return value
    if "://" in value:
        return value + query if "s3://" in value and "?" not in value else value
    mark = "@" if value.startswith("@") else ""
    return mark + os.path.normpath(base / value.removeprefix("@"))


def load_config(path: str | Path) -> RunConfig:
    """Read a run file; paths in it are relative to its own folder, buckets are as [store] says.

    Raises
    ------
    ConfigError
        If it is missing, not TOML, or a table or key is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a run file: {error}") from error
    config = parse_config(text, path.name)
    base = path.resolve().parent
    tables = config.model_dump(exclude_unset=True)
    return RunConfig.model_validate(_resolve(tables, base, config.store.query()))


def _resolve(tables: dict[str, Any], base: Path, query: str) -> dict[str, Any]:
    resolved: dict[str, Any] = {}
    for name, table in tables.items():
        if name == "crossmatch":
            resolved[name] = {
                k: _resolve_table(t, base, query, PATH_KEYS) for k, t in table.items()
            }
        else:  # in [train], `catalog` is the name of a crossmatch table, not a path
            keys = PATH_KEYS - {"catalog"} if name == "train" else PATH_KEYS
            resolved[name] = _resolve_table(table, base, query, keys)
    velocity = resolved.get("preprocess", {}).get("velocity")
    if velocity:
        part = _resolve_table(velocity, base, query, frozenset({"templates"}))
        resolved["preprocess"] = resolved["preprocess"] | {"velocity": part}
    return resolved


def _resolve_table(table: dict[str, Any], base: Path, query: str, keys: Set[str]) -> dict[str, Any]:
    return {k: _absolute(v, base, query) if k in keys else v for k, v in table.items()}
