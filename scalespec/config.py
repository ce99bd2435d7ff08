"""The survey run file: one frozen model per table, checked once, here."""

import hashlib
import json
import os
import tomllib
from collections.abc import Set
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scalespec.errors import ConfigError

STAGES = ("ingest", "preprocess", "crossmatch", "train", "infer", "fit", "publish", "report")
"""The verbs that `scalespec run` knows, in the order of the data."""

SURVEY_BITS = ("BAD_PIXEL", "BAD_TRACE", "NO_SKY", "OFF_CCD", "NO_DATA")


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


class ContinuumTable(Table):
    """``[preprocess] continuum``: how spectra are normalized."""

    method: Literal["gaussian"] = "gaussian"
    """Mean of the good pixels under a Gaussian."""
    width_angstrom: float = Field(default=50.0, gt=0)
    """Its standard deviation L in exp(-dλ²/2L²)."""


class PreprocessTable(Table):
    """``[preprocess]``: raw spectra to masked, rest-frame, normalized ones on one grid."""

    wavelength_min_angstrom: float = Field(default=3750.0, gt=0)
    """First wavelength kept, vacuum."""
    wavelength_max_angstrom: float = Field(default=8950.0, gt=0)
    """Last wavelength kept, vacuum."""
    continuum: ContinuumTable = ContinuumTable()
    bad_bits: tuple[str, ...] = SURVEY_BITS
    """Survey mask bits (names of ``schema.MaskBit``) whose pixels lose their weight."""
    windows: tuple[Literal["SKY_LINE", "ARM_JOIN", "TELLURIC"], ...] = (
        "SKY_LINE",
        "ARM_JOIN",
        "TELLURIC",
    )
    """Windows of the observer's frame that are masked: `kernels.mask.LAMOST` lists them."""
    resolving_power: float | None = Field(default=None, gt=0)
    """R of the data, where you know better than their reader; models are brought to it."""
    spike_sigma: float = Field(default=6.0, gt=0)
    """Pixels this many sigma above the continuum, and more than `spike_height`, are masked."""
    spike_height: float = Field(default=0.3, gt=0)
    """Least height of such a pixel above the continuum, in units of it."""

    @model_validator(mode="after")
    def _ordered(self) -> "PreprocessTable":
        if self.wavelength_min_angstrom >= self.wavelength_max_angstrom:
            raise ValueError("wavelength_min_angstrom must be below wavelength_max_angstrom")
        return self


class CrossmatchTable(Table):
    """``[crossmatch.NAME]``: one label catalog, joined by id where ids exist, else by position."""

    catalog: str
    """Parquet, CSV(.gz) or FITS table."""
    radius_arcsec: float = Field(default=3.0, gt=0)
    """Greatest separation of a match on the sky."""
    key: dict[str, str] = {}
    """Id join first: ``{ source_id = "GAIAEDR3_SOURCE_ID" }`` (our column = theirs)."""
    ra: str = "ra"
    """Column of right ascension, ICRS deg; empty for an id join alone."""
    dec: str = "dec"
    """Column of declination, ICRS deg."""
    pmra: str = ""
    """Column of proper motion in RA times cos(dec), mas/yr; empty if there is none."""
    pmdec: str = ""
    """Column of proper motion in declination, mas/yr."""
    epoch: float = 2016.0
    """Epoch of the catalog's positions, Julian year; they are moved to each observation's."""
    star_id: str = ""
    """Column that is the same for all rows of a star; without it a catalog row is a star."""
    columns: dict[str, str] = {}
    """Labels taken over: ``{ teff = "TEFF", teff_err = "TEFF_ERR" }`` (our name = theirs)."""
    missing: tuple[float, ...] = (-9999.0, -9999.99)
    """Values that mean "not known", besides NaN."""
    where: str = ""
    """Which rows of the catalog may be matched."""


class TrainTable(Table):
    """``[train]``: spectra and labels to an emulator."""

    model: Literal["payne"] = "payne"
    """Which model."""
    labels: tuple[str, ...]
    """Label columns of the library or matched catalog, in the model's order."""
    library: str = ""
    """A library of theoretical spectra in our raw schema with ``labels`` (`scalespec mock`)."""
    catalog: str = ""
    """Instead of a library: the ``[crossmatch.NAME]`` whose matched stars are learned from."""
    snr_min: float = Field(default=0.0, ge=0)
    """Observed spectra below this S/N are not learned from."""
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
    stars_per_batch: int = Field(default=64, ge=1)
    """Stars fitted together; bounds the memory of a worker."""


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
        wanted = {
            "preprocess": ("ingest",),
            "crossmatch": ("ingest",),
            "infer": ("preprocess",),
            "fit": ("infer",),
            "publish": ("fit",),
            "report": ("publish",),
        }
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
        for name in self.report.references if self.report else ():
            if name not in (self.crossmatch or {}):
                raise ValueError(f"report.references names no [crossmatch.{name}] table")
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
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _complaint(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
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


PATH_KEYS = frozenset({"workspace", "files", "catalog", "root", "library", "models", "truth"})


def _absolute(value: Any, base: Path) -> Any:
    """Resolve relative paths against the run file's folder, so a run may start anywhere."""
    if isinstance(value, list | tuple):
        return [_absolute(v, base) for v in value]
    if not isinstance(value, str) or not value or "://" in value:
        return value
    mark = "@" if value.startswith("@") else ""
    return mark + os.path.normpath(base / value.removeprefix("@"))


def load_config(path: str | Path) -> RunConfig:
    """Read a run file; paths in it are relative to its own folder.

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
    return RunConfig.model_validate(_resolve(config.model_dump(exclude_unset=True), base))


def _resolve(tables: dict[str, Any], base: Path) -> dict[str, Any]:
    resolved: dict[str, Any] = {}
    for name, table in tables.items():
        if name == "crossmatch":
            resolved[name] = {k: _resolve_table(t, base, PATH_KEYS) for k, t in table.items()}
        else:  # in [train], `catalog` is the name of a crossmatch table, not a path
            keys = PATH_KEYS - {"catalog"} if name == "train" else PATH_KEYS
            resolved[name] = _resolve_table(table, base, keys)
    return resolved


def _resolve_table(table: dict[str, Any], base: Path, keys: Set[str]) -> dict[str, Any]:
    return {k: _absolute(v, base) if k in keys else v for k, v in table.items()}
