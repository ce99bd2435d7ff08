"""Classical regressors, spectra to labels: what every network has to beat.

Each learns one function per label, of those training stars that have it. Errors are what validation
says: 1.4826 times the median absolute residual of the stars held back, and how it changes with S/N;
then these are learned from, too, for a method that stops by itself has no other use of them.
scikit-learn is imported where it is used.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.models.calibrated import ErrorScale
from scalespec.models.domain import Domain
from scalespec.models.features import Features, good_pixels
from scalespec.models.regressor import FloatArray, Prediction, RegressorSpec, Sample

MAD_TO_SIGMA = 1.4826
"""Rousseeuw & Croux 1993, JASA 88, 1273."""


class Baseline(ABC):
    """A classical regressor per label.

    Parameters
    ----------
    spec : RegressorSpec
    components : int
        Principal components of the spectra that it sees; 0: every pixel.
    logarithmic : sequence of str
        Labels that are learned as their logarithm: ``teff`` of stars from M to O.
    refit : bool
        Learn from the stars held back, too, once they have said how large errors are.
    """

    name = "baseline"

    def __init__(
        self,
        spec: RegressorSpec,
        *,
        components: int = 0,
        logarithmic: tuple[str, ...] | list[str] = (),
        refit: bool = True,
    ) -> None:
        if strange := sorted(set(logarithmic) - set(spec.labels)):
            raise ValueError(f"logarithmic: {strange} are none of {spec.labels}")
        self.spec = spec
        self.options: dict[str, Any] = {
            "components": components,
            "logarithmic": list(logarithmic),
            "refit": refit,
        }
        self._log = np.array([label in logarithmic for label in spec.labels])
        self._features: Features | None = None
        self._models: list[Any] = []
        self._scale = np.zeros((spec.n_label, 2))
        self._sigma = np.full(spec.n_label, np.nan)
        self._errors = ErrorScale(spec.n_label)
        self._domain: Domain | None = None

    @abstractmethod
    def _regressor(self, seed: int) -> Any:
        """Return a regressor with scikit-learn's ``fit`` and ``predict``."""

    def fit(self, training: Sample, validation: Sample, *, seed: int) -> dict[str, Any]:
        """Learn; see `scalespec.models.regressor.Estimator`.

        Raises
        ------
        ValueError
            If a label has fewer than two training stars, or no star with a label is held back.
        """
        self._check_held(validation)
        self._learn(training, validation, seed)
        history = {"validation_mad": self._calibrate(validation)}
        if self.options["refit"]:
            self.refit(training, validation, seed=seed)
        return history

    def refit(self, training: Sample, validation: Sample, *, seed: int) -> None:
        """Learn from the stars held back, too, keeping the errors they told."""
        if len(validation):
            self._learn(joined(training, validation), validation, seed)

    def _learn(self, training: Sample, validation: Sample, seed: int) -> None:
        self._features = Features.fit(
            training,
            self.spec,
            components=self.options["components"],
        )
        x = self._features.apply(training.flux, training.ivar, training.extra)
        y = self._forward(training.labels)
        self._models = []
        for k, label in enumerate(self.spec.labels):
            known = np.isfinite(y[:, k])
            if known.sum() < 2:
                raise ValueError(f"{self.name}: {known.sum()} training stars have {label}")
            center, spread = y[known, k].mean(), y[known, k].std() or 1.0
            self._scale[k] = center, spread
            self._models.append(self._learned(x[known], (y[known, k] - center) / spread, seed))
        self._learn_domain(training, validation)

    def _learn_domain(self, training: Sample, validation: Sample) -> None:
        """Learn what is usual, and how far the spectra held back are from it."""
        self._domain = Domain(self.spec.n_pixel)
        self._domain.learn(self._scaled(training.flux, training.ivar)[0])
        self._domain.reach(*self._scaled(validation.flux, validation.ivar))

    def _scaled(self, flux: FloatArray, ivar: FloatArray) -> tuple[Tensor, Tensor]:
        """Return flux over the training sample's spread, 0 where masked, and its variance."""
        good = good_pixels(flux, ivar)
        std = self.spec.flux_std
        x = np.where(good, (np.nan_to_num(flux) - self.spec.flux_mean) / std, 0.0)
        variance = np.divide(1, ivar * std**2, out=np.full(flux.shape, np.inf), where=good)
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(variance.astype(np.float32))

    def _learned(self, x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> Any:
        return self._regressor(seed).fit(x, y)

    def _check_held(self, validation: Sample) -> None:
        """Refuse to learn without stars held back: residuals of those learned from flatter."""
        if not np.isfinite(validation.labels).any():
            raise ValueError(
                f"{self.name}: of {len(validation)} stars held back none has a label; they say how "
                "large errors are"
            )

    def _calibrate(self, held: Sample) -> dict[str, float]:
        """Learn errors from stars held back."""
        self._errors, self._sigma = ErrorScale(self.spec.n_label), np.zeros(self.spec.n_label)
        made = self.predict(held.flux, held.ivar, held.extra)
        residual = made.labels - held.labels
        found = {}
        for k, label in enumerate(self.spec.labels):
            known = np.abs(residual[np.isfinite(residual[:, k]), k])
            self._sigma[k] = MAD_TO_SIGMA * np.median(known) if known.size else np.nan
            found[label] = float(np.median(known)) if known.size else float("nan")
        variance = np.square(np.hypot(self._sigma, made.sigma_epistemic))
        self._errors.learn_of(residual, variance, held)
        return found

    def predict(
        self, flux: FloatArray, ivar: FloatArray, extra: FloatArray | None = None
    ) -> Prediction:
        """Estimate labels; see `scalespec.models.regressor.Estimator`.

        Raises
        ------
        ValueError
            If it was not fitted, or the spectra have other pixels.
        """
        if self._features is None or self._domain is None:
            raise ValueError(f"{self.name} has not learned yet: call fit first")
        if not len(flux):  # scikit-learn refuses what a block without stars asks
            nothing = np.zeros((0, self.spec.n_label), np.float32)
            return Prediction(nothing, nothing, nothing, np.zeros(0, np.float32))
        x = self._features.apply(flux, ivar, extra)
        scaled, unknown = self._estimates(x)
        labels = self._backward(scaled * self._scale[:, 1] + self._scale[:, 0])
        epistemic = unknown * self._scale[:, 1] * np.where(self._log, labels, 1.0)
        with torch.no_grad():
            far = self._domain(*self._scaled(flux, ivar)).numpy()
        factor = self._errors.of(np.square(np.hypot(self._sigma, epistemic)), flux, ivar)
        empty = ~np.any(good_pixels(flux, ivar), axis=1)
        sigma, doubt = (_blanked(empty, factor * part) for part in (self._sigma, epistemic))
        return Prediction(_blanked(empty, labels), sigma, doubt, far)

    def _estimates(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scaled labels (n, n_label), and what the model does not know of them."""
        made = np.stack([model.predict(x) for model in self._models], axis=1)
        return made, np.zeros_like(made)

    def _forward(self, labels: NDArray[Any]) -> NDArray[np.float64]:
        wanted = labels.astype(np.float64)
        positive = np.where(wanted > 0, wanted, np.nan)
        return np.where(self._log, np.log(positive), wanted)

    def _backward(self, made: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(self._log, np.exp(np.where(self._log, made, 0.0)), made)

    def state(self) -> dict[str, Any]:
        """Return what was learned: arrays, numbers and scikit-learn models."""
        if self._features is None or self._domain is None:
            raise ValueError(f"{self.name} has not learned yet: call fit first")
        return {
            "features": dict(vars(self._features)),
            "models": self._models,
            "scale": self._scale,
            "sigma": self._sigma,
            "errors": {k: v.numpy() for k, v in self._errors.state_dict().items()},
            "domain": {k: v.numpy() for k, v in self._domain.state_dict().items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        self._features = Features(**state["features"])
        self._models = list(state["models"])
        self._scale, self._sigma = state["scale"], state["sigma"]
        self._errors.load_state_dict({k: torch.from_numpy(v) for k, v in state["errors"].items()})
        self._domain = Domain(self.spec.n_pixel)
        self._domain.load_state_dict({k: torch.from_numpy(v) for k, v in state["domain"].items()})


def joined(one: Sample, other: Sample) -> Sample:
    """Return two samples as one."""
    beside = [s.extra for s in (one, other) if s.extra is not None]
    return Sample(
        np.concatenate([one.flux, other.flux]),
        np.concatenate([one.ivar, other.ivar]),
        np.concatenate([one.labels, other.labels]),
        np.concatenate([one.label_err, other.label_err]),
        np.concatenate(beside) if beside else None,
    )


def _blanked(empty: NDArray[np.bool_], values: NDArray[Any]) -> FloatArray:
    """Return labels or errors with NaN for spectra without a good pixel."""
    return np.where(empty[:, np.newaxis], np.nan, values).astype(np.float32)


class Ridge(Baseline):
    """Linear least squares with a penalty that generalized cross-validation chooses.

    Golub, Heath & Wahba 1979, Technometrics 21, 215.
    """

    name = "ridge"

    def _regressor(self, seed: int) -> Any:  # noqa: ARG002 - nothing is drawn
        from sklearn.linear_model import RidgeCV  # type: ignore[import-untyped]

        return RidgeCV(alphas=np.geomspace(1e-3, 1e5, 17))


class NearestNeighbors(Baseline):
    """Mean of the nearest training stars, weighted by the inverse of their distance."""

    name = "knn"

    def __init__(
        self, spec: RegressorSpec, *, neighbors: int = 8, components: int = 20, **options: Any
    ) -> None:
        super().__init__(spec, components=components, **options)
        self.options["neighbors"] = neighbors

    def _regressor(self, seed: int) -> Any:  # noqa: ARG002
        from sklearn.neighbors import KNeighborsRegressor  # type: ignore[import-untyped]

        return KNeighborsRegressor(self.options["neighbors"], weights="distance")

    def _learned(self, x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> Any:
        model = self._regressor(seed)
        model.set_params(n_neighbors=min(self.options["neighbors"], len(x)))
        return model.fit(x, y)


class GradientBoosting(Baseline):
    """Boosted trees on histograms of the features (Ke et al. 2017, NeurIPS 30, 3146)."""

    name = "gradient_boosting"

    def __init__(
        self,
        spec: RegressorSpec,
        *,
        iterations: int = 400,
        learning_rate: float = 0.05,
        components: int = 60,
        **options: Any,
    ) -> None:
        super().__init__(spec, components=components, **options)
        self.options |= {"iterations": iterations, "learning_rate": learning_rate}

    def _regressor(self, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor  # type: ignore[import-untyped]

        return HistGradientBoostingRegressor(
            max_iter=self.options["iterations"],
            learning_rate=self.options["learning_rate"],
            max_leaf_nodes=24,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )


class SupportVector(Baseline):
    """Support vector regression with a Gaussian kernel on principal components."""

    name = "svr"

    def __init__(
        self,
        spec: RegressorSpec,
        *,
        penalty: float = 10.0,
        tube: float = 0.05,
        width: float = 2.0,
        components: int = 40,
        **options: Any,
    ) -> None:
        super().__init__(spec, components=components, **options)
        self.options |= {"penalty": penalty, "tube": tube, "width": width}

    def _regressor(self, seed: int) -> Any:  # noqa: ARG002
        from sklearn.svm import SVR  # type: ignore[import-untyped]

        gamma = 1 / (self.options["width"] ** 2 * max(self.options["components"], 1))
        return SVR(C=self.options["penalty"], epsilon=self.options["tube"], gamma=gamma)


class RandomForest(Baseline):
    """Mean of trees on resampled stars (Breiman 2001, Machine Learning 45, 5)."""

    name = "random_forest"

    def __init__(
        self,
        spec: RegressorSpec,
        *,
        trees: int = 300,
        least_leaf: int = 2,
        components: int = 60,
        **options: Any,
    ) -> None:
        super().__init__(spec, components=components, **options)
        self.options |= {"trees": trees, "least_leaf": least_leaf}

    def _regressor(self, seed: int) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(
            self.options["trees"],
            min_samples_leaf=self.options["least_leaf"],
            max_features=1 / 3,
            n_jobs=1,
            random_state=seed,
        )

    def _estimates(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        made, doubt = [], []
        for model in self._models:
            trees = np.stack([tree.predict(x) for tree in model.estimators_])
            made.append(trees.mean(axis=0))
            doubt.append(trees.std(axis=0) / np.sqrt(len(trees)))
        return np.stack(made, axis=1), np.stack(doubt, axis=1)
