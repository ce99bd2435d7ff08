"""The models that a comparison can name: every regressor, The Cannon, and means of several.

The Cannon predicts spectra from labels; to be compared it has to fit them, which is `optimize`'s.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from scalespec.models.base import EmulatorSpec
from scalespec.models.baselines import Baseline, Ridge
from scalespec.models.calibrated import ErrorScale
from scalespec.models.cannon import Cannon, count_terms
from scalespec.models.classical import BASELINES
from scalespec.models.estimators import ESTIMATORS, make_estimator
from scalespec.models.regression import fit_pixels
from scalespec.models.regressor import Estimator, FloatArray, Prediction, RegressorSpec, Sample
from scalespec.optimize.features import fit_at_rest

FAR_QUANTILE = 0.99
"""Of the validation spectra's reduced chi²: out_of_domain is 1 there."""
MARGIN = 0.05
"""Of the training labels' range, by which The Cannon may leave it."""


_CLASSICAL = frozenset(kind.name for kind in BASELINES)


class CannonRival:
    """The Cannon as a regressor: trained on the spectra, then fitted to each.

    Parameters
    ----------
    spec : RegressorSpec
    order : int
        Degree of its polynomial.
    max_steps : int
        Of each star's fit.
    """

    name = "cannon"

    def __init__(self, spec: RegressorSpec, *, order: int = 2, max_steps: int = 30) -> None:
        if spec.inputs:
            raise ValueError(f"The Cannon takes spectra alone, not {spec.inputs}")
        self.spec = spec
        self.order = order
        self.max_steps = max_steps
        self._model: Cannon | None = None
        self._start: Ridge | None = None
        self._errors = ErrorScale(spec.n_label)
        self._far = 1.0

    def fit(self, training: Sample, validation: Sample, *, seed: int) -> dict[str, Any]:
        """Learn coefficients and scatter of every pixel from stars that have all labels.

        Raises
        ------
        ValueError
            If there are fewer such stars than coefficients.
        """
        whole = training.take(np.isfinite(training.labels).all(axis=1))
        n_term = count_terms(self.spec.n_label, self.order)
        if len(whole) < n_term:
            raise ValueError(f"The Cannon wants {n_term} stars with all labels, got {len(whole)}")
        low, high = whole.labels.min(axis=0), whole.labels.max(axis=0)
        margin = MARGIN * (high - low)
        emulated = EmulatorSpec(
            self.name,
            self.spec.labels,
            (low - margin).astype(np.float64),
            (high + margin).astype(np.float64),
            self.spec.wavelength,
            self.spec.resolving_power,
            self.spec.normalization,
        )
        self._model = self._learned(emulated, whole)
        self._start = Ridge(self.spec)
        self._start.fit(whole, validation, seed=seed)
        return self._calibrate(validation if len(validation) else whole)

    def _learned(self, emulated: EmulatorSpec, whole: Sample) -> Cannon:
        model = Cannon(emulated, order=self.order)
        width = emulated.maximum - emulated.minimum
        x = torch.from_numpy((whole.labels - emulated.minimum) / width - 0.5)
        found = fit_pixels(
            x, torch.from_numpy(whole.flux), torch.from_numpy(whole.ivar), order=self.order
        )
        with torch.no_grad():
            model.output.weight.copy_(found.coefficients.float())
            model.scatter.copy_(found.scatter.float())
        return model.eval()

    def _calibrate(self, held: Sample) -> dict[str, Any]:
        """Learn by how much the errors are too small, and how large chi² is."""
        labels, err, chi2 = self._fitted(held.flux, held.ivar)
        residual = np.where(np.isfinite(err), labels - held.labels, np.nan)
        self._errors.learn_of(residual, np.square(err), held)
        median = {}
        for k, label in enumerate(self.spec.labels):
            known = np.abs(residual[np.isfinite(residual[:, k]), k])
            median[label] = float(np.median(known)) if known.size else float("nan")
        finite = chi2[np.isfinite(chi2)]
        self._far = float(np.quantile(finite, FAR_QUANTILE)) if finite.size else 1.0
        return {"validation_mad": median, "level": self._errors.level.exp().tolist()}

    def _fitted(self, flux: FloatArray, ivar: FloatArray) -> tuple[FloatArray, ...]:
        if self._model is None or self._start is None:
            raise ValueError("The Cannon has not learned yet: call fit first")
        start = self._start.predict(flux, ivar).labels
        found = fit_at_rest(self._model, flux, ivar, start=start, max_steps=self.max_steps)
        chi2 = found.chi2 / np.maximum(found.n_used, 1)
        return found.labels, found.label_err, np.asarray(chi2, np.float32)

    def predict(
        self, flux: FloatArray, ivar: FloatArray, extra: FloatArray | None = None
    ) -> Prediction:
        """Fit labels of n spectra; errors are those of the fit, widened as validation says.

        Raises
        ------
        ValueError
            If it was not fitted, or inputs beside the spectrum are given.
        """
        if extra is not None:
            raise ValueError("The Cannon takes spectra alone")
        labels, err, chi2 = self._fitted(flux, ivar)
        far = np.where(np.isfinite(chi2), chi2 / max(self._far, 1e-9), np.inf)
        sigma = (err * self._errors.of(np.square(err), flux, ivar)).astype(np.float32)
        return Prediction(labels, sigma, np.zeros_like(sigma), far.astype(np.float32))


class MeanOf:
    """The mean of several models, each label's weights chosen by the stars held back.

    Parameters
    ----------
    spec : RegressorSpec
    models : mapping of str to mapping
        Name -> options, with ``estimator`` if it is not the name.

    References
    ----------
    Breiman 1996, Machine Learning 24, 49: stacking with weights that are not negative.
    """

    name = "mean"

    def __init__(self, spec: RegressorSpec, *, models: Mapping[str, Mapping[str, Any]]) -> None:
        if not models:
            raise ValueError("a mean wants models")
        self.spec = spec
        self._members: list[Estimator] = []
        for name, options in models.items():
            plain = {key: value for key, value in options.items() if key != "estimator"}
            kind = str(options.get("estimator", name))
            if kind in _CLASSICAL:  # it must not know the stars that weigh it
                plain["refit"] = False
            self._members.append(make_rival(kind, spec, **plain))
        self._weights = np.full((len(self._members), spec.n_label), 1 / len(self._members))
        self._errors = ErrorScale(spec.n_label)

    def fit(self, training: Sample, validation: Sample, *, seed: int) -> dict[str, Any]:
        """Let every model learn, then weigh them and scale the errors of their mean."""
        self._errors = ErrorScale(self.spec.n_label)
        histories = [
            member.fit(training, validation, seed=seed + 7919 * k)
            for k, member in enumerate(self._members)
        ]
        if len(validation):
            self._weigh(validation)
        if len(validation) and len(self._members) > 1:  # one model's errors are scaled already
            made = self.predict(validation.flux, validation.ivar, validation.extra)
            residual = made.labels - validation.labels
            self._errors.learn_of(residual, np.square(made.sigma), validation)
        for k, member in enumerate(self._members):
            if isinstance(member, Baseline):
                member.refit(training, validation, seed=seed + 7919 * k)
        return {"members": histories, "weights": self._weights.tolist()}

    def _weigh(self, held: Sample) -> None:
        """Choose weights of least squared residual of the stars held back, halfway to equal."""
        from scipy.optimize import nnls

        made = np.stack([m.predict(held.flux, held.ivar, held.extra).labels for m in self._members])
        equal = 1 / len(self._members)
        for k in range(self.spec.n_label):
            known = np.isfinite(held.labels[:, k]) & np.isfinite(made[:, :, k]).all(axis=0)
            if known.sum() <= len(self._members):
                continue
            scale = float(self.spec.label_std[k])
            design = made[:, known, k].T.astype(np.float64) / scale
            truth = held.labels[known, k] / scale
            # The sum of the weights is 1: a heavy row says so.
            heavy = 1e3 * np.sqrt(known.sum())
            design = np.vstack([design, np.full(len(self._members), heavy)])
            found = nnls(design, np.append(truth, heavy))[0]
            if found.sum() > 0:
                self._weights[:, k] = 0.5 * found / found.sum() + 0.5 * equal

    def predict(
        self, flux: FloatArray, ivar: FloatArray, extra: FloatArray | None = None
    ) -> Prediction:
        """Return the weighted mean; what its members differ by is what it does not know."""
        found = [member.predict(flux, ivar, extra) for member in self._members]
        labels = np.stack([one.labels for one in found])
        weights = self._weights[:, np.newaxis, :]
        mean = (weights * labels).sum(axis=0)
        spread = np.sqrt((weights * np.square(labels - mean)).sum(axis=0))
        sigma = np.sqrt((weights * np.square([one.sigma_aleatoric for one in found])).sum(axis=0))
        far = np.median([one.out_of_domain for one in found], axis=0)
        factor = self._errors.of(np.square(sigma) + np.square(spread), flux, ivar)
        made = (mean, factor * sigma, factor * spread, far)
        return Prediction(*(values.astype(np.float32) for values in made))


def make_rival(name: str, spec: RegressorSpec, **options: Any) -> Estimator:
    """Return a model of a comparison that has not learned yet.

    Raises
    ------
    ValueError
        If there is no model of that name.
    """
    own: dict[str, Callable[..., Estimator]] = {"cannon": CannonRival, "mean": MeanOf}
    if name in own:
        return own[name](spec, **options)
    if name not in ESTIMATORS:
        raise ValueError(f"no model '{name}'; there are {sorted({*ESTIMATORS, *own})}")
    return make_estimator(name, spec, **options)
