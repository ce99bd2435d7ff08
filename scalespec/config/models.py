"""``[train]``, ``[infer]`` and ``[fit]``: models and what is done with them."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from scalespec.config.regressors import BaselineName, NetworkName, NetworkTable
from scalespec.config.search import SearchTable
from scalespec.config.table import Range, Table, WidthRange
from scalespec.config.transformer import TransformerTable

FIT_BYTES = 64
"""Most bytes per pixel and star of a batch of fits: data, model, residual and what shifts them."""
FIT_DERIVATIVES = 1 << 29
"""Bytes of derivatives that are formed at a time, and of what they are shifted by."""
STUDENTS = ("payne", "phdlspec", "transformer")
"""Models that learn from a teacher's spectra."""
Gaussian = tuple[FiniteFloat, Annotated[FiniteFloat, Field(gt=0)]]
"""Mean and sigma of a prior."""


class TrainTable(Table):
    """``[train]``: spectra and labels to a model."""

    model: (
        Literal["payne", "hotpayne", "cannon", "transformer", "phdlspec"]
        | NetworkName
        | BaselineName
    ) = "payne"
    """Which model: emulators (HotPayne is a Payne that learns log Teff), or, from ``residual`` on,
    regressors, flux to labels."""
    labels: tuple[str, ...]
    """Label columns of the library or matched catalog, in the model's order."""
    library: str = ""
    """A library of theoretical spectra in our raw schema with ``labels`` (`scalespec mock`)."""
    catalog: str = ""
    """Instead of a library: the ``[crossmatch.NAME]`` whose matched stars are learned from."""
    teacher: str = ""
    """Instead of a library: an emulator (a folder of ours or The Payne's npz) whose spectra, at
    labels drawn from its box, are learned from; ``labels`` are its own, in its order. Derivatives
    at ``gradient_references`` of them are matched with ``gradient_strength``."""
    teacher_spectra: int = Field(default=4096, ge=1)
    """Spectra that a teacher makes per epoch."""
    adapt: str = ""
    """Beside a catalog: an emulator of theory (a folder of ours or The Payne's npz) that is not
    trained but corrected by what it leaves of the matched stars (`models/adapt.py`). `labels` are
    those of its labels that the catalog knows; stars outside its range are not learned from."""
    prior: dict[str, Gaussian] = Field(default_factory=dict)
    """Of `adapt`: mean and sigma of labels that the catalog does not know, as abundances; fits with
    the adapted model have these priors, too, unless ``[fit.prior]`` says otherwise."""
    snr_min: float = Field(default=0.0, ge=0)
    """Observed spectra below this S/N are not learned from."""
    segments: int = Field(default=0, ge=0)
    """With `catalog`, of a run that grows: learn only from what the first so many plannings found
    (1: the first run's inputs), so that new files change neither the model nor fits made with it.
    0: from all; matched stars among new files then train the model, and fit every star, anew."""
    order: int = Field(default=2, ge=1, le=4)
    """Degree of The Cannon's polynomial."""
    logarithmic: tuple[str, ...] = ()
    """Labels whose logarithm is in The Cannon's polynomial, as Teff from cool stars to hot ones."""
    l1: float = Field(default=0.0, ge=0)
    """Weight of The Cannon's coefficients' absolute values against χ²/2; 0: maximum likelihood."""
    latent_rounds: int = Field(default=0, ge=0)
    """Over 0: labels that are missing, or noisy by the catalog's ``<label>_err``, are inferred with
    the model in so many rounds (`models/latent.py`); 5 will do. 0: only stars with all labels are
    learned from, as if these were exact."""
    windows: dict[str, tuple[Range, ...]] = Field(default_factory=dict)
    """Wavelengths [Å] that know of a label, ``{ c_fe = [[4280, 4330]] }``, for The Cannon and
    the Bayesian network; a label not named is known everywhere."""
    gradients: str = ""
    """Derivatives at reference stars that the model's must be like: an npz of them
    (`stages/gradients.py` says its arrays), or a model that serves as teacher."""
    gradient_strength: float = Field(default=3e-3, ge=0)
    """Weight of their mean square relative error beside that of flux, in units of the flux's
    variance. Derivatives are learned to tenths where flux is to hundredths, so squares weigh alike
    at 1e-3 to 1e-2: less is best for many spectra of independent labels, more where labels go
    together and spectra are noisy; with 1, the reference stars are learned by heart
    (``benchmarks/compare_gradient_prior.py``)."""
    gradient_references: int = Field(default=20, ge=1)
    """Training stars at which a teacher's derivatives are taken."""
    hidden: int = Field(default=300, ge=1)
    """Width of the two hidden layers."""
    leeway: int = Field(default=0, ge=0, le=32)
    """Of ``payne`` and ``hotpayne``: so many components of what the model leaves of real spectra
    become labels ``leeway_1``... with the prior 0 ± 1, which fits marginalize: its errors run along
    many pixels, and a chi2 by pixels alone believes too much (`models/leeway.py`)."""
    rounds: tuple[int, ...] = (0, 10, 30, 60, 100)
    """Rounds of variable projection, each by its number of evaluations of all spectra."""
    epochs: int = Field(default=0, ge=0)
    """Passes of Adam over all spectra after the rounds: for more spectra than memory holds."""
    batch_size: int = Field(default=128, ge=1)
    """Spectra per step of Adam and worker."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Of Adam, at its height."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of Adam: what keeps a few spectra from being learned by heart."""
    gradients_per_step: int = Field(default=16, ge=1)
    """Reference gradients, drawn anew, that a step of Adam looks at."""
    gradient_ramp: float = Field(default=0.0, ge=0, le=1)
    """Share of the epochs over which the reference gradients' weight rises from nothing."""
    checkpoint_every: int = Field(default=5, ge=1)
    """Epochs between checkpoints; every round is kept, too."""
    transformer: TransformerTable = TransformerTable()
    """Sizes of ``transformer`` and ``phdlspec``."""
    network: NetworkTable = NetworkTable()
    """How regressors are made and learn."""

    search: SearchTable | None = None
    """What ``scalespec train --search`` tries."""

    @model_validator(mode="after")
    def _one_source(self) -> "TrainTable":
        if sum(map(bool, (self.library, self.catalog, self.teacher))) != 1:
            raise ValueError("give either library or catalog, or a teacher")
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise ValueError("labels must be a list of different names")
        if strange := sorted(set(self.windows) - set(self.labels)):
            raise ValueError(f"windows name {strange}, which are not among the labels")
        if strange := sorted(set(self.logarithmic) - set(self.labels)):
            raise ValueError(f"logarithmic names {strange}, which are not among the labels")
        if self.segments and not self.catalog:
            raise ValueError("segments asks which matched stars are learned from: give catalog")
        if self.latent_rounds and self.model not in ("payne", "hotpayne", "cannon"):
            raise ValueError(f"latent_rounds: labels are never latent for model = '{self.model}'")
        if self.leeway and (self.model not in ("payne", "hotpayne") or self.latent_rounds):
            raise ValueError("leeway is for model = 'payne' or 'hotpayne', without latent_rounds")
        if both := sorted(set(self.network.inputs) & set(self.labels)):
            raise ValueError(f"network.inputs name {both}, which are labels")
        return self

    @property
    def leeway_labels(self) -> tuple[str, ...]:
        """Labels that `leeway` adds to the model's."""
        return tuple(f"leeway_{k + 1}" for k in range(self.leeway))

    @model_validator(mode="after")
    def _can_adapt(self) -> "TrainTable":
        if self.adapt and (not self.catalog or self.model != "payne" or self.latent_rounds):
            raise ValueError("adapt wants a catalog, and model = 'payne' without latent_rounds")
        if self.adapt and self.search:
            raise ValueError("search tries settings of training, of which adapt has none")
        if self.prior and not self.adapt:
            raise ValueError("prior is of labels that an emulator to adapt has: set adapt")
        if both := sorted(set(self.prior) & set(self.labels)):
            raise ValueError(f"prior names {both}, which the catalog knows: they are in labels")
        return self

    @model_validator(mode="after")
    def _can_learn(self) -> "TrainTable":
        if self.model == "transformer" and not self.epochs:
            raise ValueError("a transformer learns by epochs: set train.epochs, as 200")
        if self.teacher and self.model not in STUDENTS:
            raise ValueError(f"a teacher teaches {', '.join(STUDENTS)}, not {self.model}")
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
    spectra_per_batch: int = Field(default=0, ge=0)
    """Spectra that a regressor takes at a time; 0: the fastest of a short probe, kept with its
    results."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of a regressor's products; bfloat16 only if it moves labels by less than a tenth of their
    errors, which is measured first."""
    inputs: str = ""
    """The ``[crossmatch.NAME]`` whose columns are a regressor's inputs beside the spectrum."""
    out_of_domain: float = Field(default=3.0, gt=0)
    """Score from which a regressor's labels get the status OUT_OF_DOMAIN."""


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
    stars_per_batch: int = Field(default=1024, ge=1)
    """Stars fitted together; bounds the memory of a worker. A quarter takes a third longer."""
    restarts: int | None = Field(default=None, ge=0)
    """Most searches begun again: near the best end, until two in a row find the same, every
    second one along a label that has one optimum behind the other, as mocks tell. Unset: 6 for
    models with kinks (LeakyReLU) whose mocks go astray, none for others."""
    starts: tuple[Literal["giant", "subgiant", "dwarf"], ...] = ()
    """Kinds of star to begin from beside the first estimate."""
    exact_covariance: bool = False
    """Covariances from every pixel's derivatives, also where wavelength blocks would do."""
    fixed: dict[str, float] = Field(default_factory=dict)
    """Labels held at a value."""
    tied: dict[str, str] = Field(default_factory=dict)
    """Labels that take the value of another, as ``{ si_fe = "mg_fe" }``."""
    prior: dict[str, Gaussian] = Field(default_factory=dict)
    """Gaussian priors: mean and sigma of a label."""
    kinds: tuple[FitKind, ...] = ()
    """Labels held at a value for some kinds of star only."""
    polynomial: int | None = Field(default=None, ge=0)
    """Degree of a continuum polynomial that is marginalized, in place of the data's smoothing."""
    vsini_kms: WidthRange | None = None
    """Range of the projected rotational velocity, where it is fitted."""
    lsf_kms: WidthRange | None = None
    """Range of the Gaussian sigma by which the data are blurrier than the model, where fitted."""
    robust: float | None = Field(default=None, gt=0)
    """Pixels more than so many sigma off get less weight in a second pass."""

    def unknown(self, labels: Collection[str]) -> list[str]:
        """Return which labels, of those that are held, tied or have a prior, are not of `labels`.

        Examples
        --------
        >>> FitTable(tied={"si_fe": "mg_fe"}, fixed={"vmic": 1.5}).unknown(["mg_fe", "vmic"])
        ['si_fe']
        """
        held = [name for kind in self.kinds for name in kind.fixed]
        named = {*self.fixed, *self.tied, *self.tied.values(), *self.prior, *held}
        return sorted(named - set(labels))

    def batch_bytes(self, n_pixel: int) -> int:
        """Return what fits under way take on their device: a batch, and some stars' derivatives.

        Examples
        --------
        >>> FitTable().batch_bytes(3909) // 2**20
        756
        """
        return self.stars_per_batch * n_pixel * FIT_BYTES + FIT_DERIVATIVES
