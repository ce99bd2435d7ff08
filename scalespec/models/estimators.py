"""Models from flux to labels by name: networks, and baselines beside them."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from scalespec.models.classical import BASELINES
from scalespec.models.networks import NETWORKS, Regressor
from scalespec.models.regression_training import InMemory, RegressionOptions, train_regressor
from scalespec.models.regressor import Estimator, FloatArray, Prediction, RegressorSpec, Sample
from scalespec.models.training import SameProcess


def split_options(options: Mapping[str, Any]) -> tuple[RegressionOptions, dict[str, Any]]:
    """Part options of a network into those of its training and those of `Regressor`.

    Raises
    ------
    TypeError
        If an option of the training is of the wrong kind.
    """
    names = {item.name for item in fields(RegressionOptions)}
    training = RegressionOptions(**{k: v for k, v in options.items() if k in names})
    own = {k: options[k] for k in ("members", "use_ivar") if k in options}
    rest = {k: v for k, v in options.items() if k not in names and k not in own}
    return training, {**own, "options": rest}


class NetworkEstimator:
    """A network that learns from a sample in memory.

    Parameters
    ----------
    spec : RegressorSpec
    network : str
        A key of `scalespec.models.networks.NETWORKS`.
    **options
        Of the training (`RegressionOptions`), of `Regressor` (``members``, ``use_ivar``), and of
        the network's class.

    Raises
    ------
    ValueError
        If an option is unknown or wrong.
    """

    def __init__(self, spec: RegressorSpec, *, network: str, **options: Any) -> None:
        self.name = spec.name
        self.spec = spec
        self._network = network
        self._training, self._options = split_options(options)
        self.model = Regressor(spec, network=network, **self._options)  # wrong options show here

    def fit(self, training: Sample, validation: Sample, *, seed: int) -> dict[str, Any]:
        """Learn from the beginning; return ``{"epochs": [...]}``, what each came to."""
        self.model = Regressor(self.spec, network=self._network, seed=seed, **self._options)
        history = train_regressor(
            self.model,
            InMemory(training, seed),
            validation,
            options=self._training,
            context=SameProcess(),
            seed=seed,
        )
        return {"epochs": history}

    def predict(
        self, flux: FloatArray, ivar: FloatArray, extra: FloatArray | None = None
    ) -> Prediction:
        """Estimate labels of n spectra; see `Regressor.predict`."""
        return self.model.predict(flux, ivar, extra)


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    name: partial(NetworkEstimator, network=name) for name in NETWORKS
} | {baseline.name: baseline for baseline in BASELINES}
"""What makes an estimator of each name: ``(spec, **options)``."""


def make_estimator(name: str, spec: RegressorSpec, **options: Any) -> Estimator:
    """Return an estimator that has yet to learn.

    Parameters
    ----------
    name : str
        A key of `ESTIMATORS`.
    spec : RegressorSpec
    **options
        See the estimator's class.

    Raises
    ------
    ValueError
        If there is none of that name, or an option is unknown or wrong.

    Examples
    --------
    Gravities of stars whose one line is as deep as a tenth of them:

    >>> import numpy as np
    >>> from scalespec.models.regressor import describe
    >>> line = np.exp(-0.5 * ((np.arange(12) - 6) / 2) ** 2)
    >>> def stars(logg):
    ...     flux = 1 - 0.1 * logg[:, None] * line
    ...     parts = flux, np.full(flux.shape, 1e4), logg[:, None], 0 * logg[:, None]
    ...     return Sample(*(part.astype(np.float32) for part in parts))
    >>> training, validation = stars(np.linspace(1, 5, 80)), stars(np.linspace(1.1, 4.9, 20))
    >>> spec = describe("toy", ["logg"], 5000.0 + np.arange(12), training)
    >>> estimator = make_estimator("ridge", spec)
    >>> _ = estimator.fit(training, validation, seed=0)
    >>> star = stars(np.array([2.22]))
    >>> estimator.predict(star.flux, star.ivar).labels.round(2)
    array([[2.22]], dtype=float32)
    """
    if name not in ESTIMATORS:
        raise ValueError(f"no estimator '{name}'; there are {sorted(ESTIMATORS)}")
    try:
        return ESTIMATORS[name](spec, **options)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
