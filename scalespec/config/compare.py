"""``[compare]``: several models on one split, the field's tables, candidates, leakage."""

from typing import Any, Literal

from pydantic import Field, model_validator

from scalespec.config.table import Range, Table


class CompareModel(Table):
    """``[compare.models.NAME]``: one model of the comparison."""

    estimator: str = ""
    """Which model, a key of `scalespec.models.estimators.ESTIMATORS`; empty: the table's name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of its constructor."""
    of: tuple[str, ...] = ()
    """For a mean: names of other models of this comparison, trained with their options."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of a network's matrix products while it learns and predicts; bfloat16 is several times faster
    on processors that have it."""
    snr: float | None = Field(default=None, gt=0)
    """Noise is added to all spectra, to this S/N per pixel: of theory, or of much better data."""
    inputs: Literal["spectrum", "extra", "both"] = "spectrum"
    """What it sees: the spectrum, the inputs of `extra` alone, or both."""
    window: Range | None = None
    """Only pixels between these wavelengths [Å, vacuum] are seen."""
    fill: Literal["retrain", "mean"] = "retrain"
    """With `window`: the model is trained on these pixels alone; or on all of them, and the others
    are replaced by their training mean where it is tested."""


class CandidatesTable(Table):
    """``[compare.candidates]``: very metal-poor and carbon-enhanced stars among the test stars."""

    model: str
    """Whose predictions find them: a name of ``[compare.models]``."""
    threshold: float = -2.0
    """[Fe/H] below which a star is wanted."""
    prevalence: float = Field(default=0.002, gt=0, lt=1)
    """Part of the stars of the survey that is searched that is wanted; purities hold for it."""
    fpr: float = Field(default=0.002, gt=0, lt=1)
    """False-positive rate at which stars are called candidates."""
    references: tuple[str, ...] = ()
    """Label columns of the store that stand beside ours in the catalog; empty: all of them."""
    barium: str = ""
    """Label column of [Ba/Fe], for sub-classes of carbon-enhanced stars."""
    europium: str = ""
    """Label column of [Eu/Fe]."""
    carbon_correction: str = ""
    """Label column of the evolutionary correction of [C/Fe], which is added to ours."""


class LeakageTable(Table):
    """``[compare.leakage]``: what each model says when one label alone changes in the spectrum.

    The spectra are made by our own line synthesis and preprocessed as the run file says, so the
    models must have learned from such spectra: a library, or a made-up survey.
    """

    stars: int = Field(default=12, ge=1)
    """Test stars whose labels are the reference points."""
    labels: tuple[str, ...]
    """All labels of the synthesis, in its order; each is changed."""
    steps: dict[str, float] = Field(default_factory=lambda: {"teff": 100.0, "logg": 0.2})
    """By how much, either way; 0.1 for those not named."""
    models: tuple[str, ...] = ()
    """Names of ``[compare.models]``; empty: all."""
    broken: str = ""
    """A spectra store with labels that depend on each other in no way: every model is tested on it,
    too. What it has learned from a correlation of labels instead of from lines, it loses there."""


class CompareTable(Table):
    """``[compare]``: several models on one split by star, with repeated seeds."""

    source: str = ""
    """A spectra store with ``labels`` (a ``train.zarr``, or a preprocessed library)."""
    catalog: str = ""
    """Instead: the ``[crossmatch.NAME]`` whose matched stars are compared on. Neither: what
    [preprocess] made, of a library with labels."""
    labels: tuple[str, ...]
    """Labels asked for."""
    extra: tuple[str, ...] = ()
    """Label columns that serve as inputs beside the spectrum: magnitudes, parallax."""
    where: str = ""
    """Which stars, by label columns and ``snr``, as ``4000 < teff < 7000``."""
    softening: float = Field(default=0.0, ge=0)
    """Flux goes through ``asinh(flux / softening)``, about its logarithm where it is larger: for
    spectra that keep their colors, whose faint ends say as much as their bright ones. 0: flux."""
    complete: bool = True
    """Only stars that have every label; else those with any of them."""
    models: dict[str, CompareModel]
    """The models, by the name they have in the tables."""
    seeds: int = Field(default=5, ge=1)
    """Repeated random splits, or with `folds` the number of folds."""
    folds: bool = False
    """Every star is tested once: cross-validation instead of random splits."""
    test_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Of the stars, for testing."""
    validation_fraction: float = Field(default=0.1, ge=0.01, lt=0.5)
    """Of the others, for early stopping and the calibration of errors."""
    groups: dict[str, str] = Field(default_factory=dict)
    """Classes of stars that are scored apart, by the labels asked for and ``snr``, as
    ``{ giants = "logg < 3.5", VMP = "fe_h < -2" }``."""
    snr_edges: tuple[float, ...] = (0.0, 10.0, 20.0, 50.0, 100.0, 200.0)
    """Of the bins of S/N that are scored apart; the last has no end."""
    bootstrap: int = Field(default=200, ge=0)
    """Resamplings of the stars for intervals."""
    candidates: CandidatesTable | None = None
    leakage: LeakageTable | None = None

    def options_of(self, name: str) -> dict[str, Any]:
        """Return what a model's constructor is given: its options, and those that its mean is of.

        Examples
        --------
        >>> models = {"elm": {"options": {"units": 9}}, "mean": {"of": ["elm"]}}
        >>> table = CompareTable(labels=("teff",), models=models)
        >>> table.options_of("mean")
        {'models': {'elm': {'units': 9, 'estimator': 'elm'}}}
        """
        model = self.models[name]
        if not model.of:
            return dict(model.options)
        members = {
            one: {**self.models[one].options, "estimator": self.models[one].estimator or one}
            for one in model.of
        }
        return {**model.options, "models": members}

    @model_validator(mode="after")
    def _can_be_meant(self) -> "CompareTable":
        if self.source and self.catalog:
            raise ValueError("give one of source and catalog, or neither")
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise ValueError("labels must be a list of different names")
        if both := sorted(set(self.labels) & set(self.extra)):
            raise ValueError(f"{both} are labels and inputs at once")
        if self.folds and self.seeds < 2:
            raise ValueError("folds wants seeds >= 2: the number of folds")
        if self.candidates and self.candidates.model not in self.models:
            raise ValueError(f"candidates.model: no [compare.models.{self.candidates.model}]")
        self._models_can_be_meant()
        return self

    def _models_can_be_meant(self) -> None:
        if not self.models:
            raise ValueError("models must hold at least one [compare.models.NAME] table")
        for name, model in self.models.items():
            if model.inputs != "spectrum" and not self.extra:
                raise ValueError(f"models.{name} wants inputs of extra, which names none")
            if model.snr is not None and self.softening:
                raise ValueError(f"models.{name}: snr is of flux, and softening changes it")
            self._mean_can_be_meant(name)

    def _mean_can_be_meant(self, name: str) -> None:
        model = self.models[name]
        if not model.of:
            return
        if (model.estimator or name) != "mean" or "models" in model.options:
            raise ValueError(f'models.{name}.of is for a mean that has no options.models: "mean"')
        plain = {one for one, other in self.models.items() if not other.of}
        if strange := sorted(set(model.of) - plain):
            raise ValueError(f"models.{name}.of: no models {strange}; there are {sorted(plain)}")
