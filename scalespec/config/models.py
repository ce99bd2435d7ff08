"""``[train]``, ``[infer]`` and ``[fit]``: models and what is done with them."""

from typing import Literal

from pydantic import Field, model_validator

from scalespec.config.table import Table


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
    windows: dict[str, tuple[tuple[float, float], ...]] = Field(default_factory=dict)
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
