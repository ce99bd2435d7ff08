"""Extreme learning machine: random hidden units that stay as drawn, output weights in closed form.

With H the hidden units of n stars and Y their labels, ``beta = (H'H + lambda I)^-1 H'Y``. The sums
H'H and H'Y add over parts of the stars, so any number of stars is one reduction.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from scalespec.models.baselines import Baseline
from scalespec.models.features import Features
from scalespec.models.regressor import RegressorSpec, Sample

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """H'H, H'Y and Y'Y of some stars; adding two makes those of both.

    Attributes
    ----------
    hh : (n_label, n_unit, n_unit) float64
        Of the stars that have each label.
    hy : (n_unit, n_label) float64
    n : (n_label,) int64
        Stars with each label.
    """

    hh: Array
    hy: Array
    n: NDArray[np.int64]

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sums over both sets of stars."""
        return Sums(self.hh + other.hh, self.hy + other.hy, self.n + other.n)


def hidden_units(x: Array, weights: Array) -> Array:
    """Return ``tanh(x W + b)`` and a unit that is always 1.

    Parameters
    ----------
    x : (n, n_feature) float64
    weights : (n_feature + 1, n_unit) float64
        The last row is b.

    Examples
    --------
    >>> hidden_units(np.zeros((1, 2)), np.zeros((3, 1))).tolist()
    [[0.0, 1.0]]
    """
    made = np.tanh(x @ weights[:-1] + weights[-1])
    return np.concatenate([made, np.ones((len(x), 1))], axis=1)


def draw_weights(n_feature: int, n_unit: int, seed: int, *, width: float = 1.0) -> Array:
    """Draw the hidden layer, the same for the same seed on any machine."""
    rng = np.random.default_rng([seed, n_feature, n_unit])
    weights = rng.normal(size=(n_feature + 1, n_unit))
    weights[:-1] *= width / np.sqrt(n_feature)
    return weights


def partial_sums(x: Array, labels: Array, weights: Array) -> Sums:
    """Return the sums of one part of the stars; a star without a label does not count for it.

    Parameters
    ----------
    x : (n, n_feature) float64
    labels : (n, n_label) float64
        Scaled; NaN where missing.
    weights : (n_feature + 1, n_unit) float64

    Examples
    --------
    >>> x, y = np.arange(6.0).reshape(3, 2), np.array([[1.0], [np.nan], [2.0]])
    >>> partial_sums(x, y, draw_weights(2, 4, 1)).n.tolist()
    [2]
    """
    hidden = hidden_units(x, weights)
    known = np.isfinite(labels)
    filled = np.where(known, labels, 0.0)
    if known.all():  # one matrix serves all labels
        common = hidden.T @ hidden
        hh = np.broadcast_to(common, (labels.shape[1], *common.shape)).copy()
    else:
        hh = np.stack([hidden[k].T @ hidden[k] for k in known.T])
    return Sums(hh, hidden.T @ filled, known.sum(axis=0))


def output_weights(sums: Sums, penalty: float) -> Array:
    """Solve for the output weights (n_unit, n_label).

    Parameters
    ----------
    sums : Sums
    penalty : float
        Lambda, in units of the mean diagonal of H'H.

    Raises
    ------
    ValueError
        If a label has no star, or the penalty is not positive.

    Examples
    --------
    Labels made of the units, 2 times the first less the second and 3:

    >>> x, weights = np.linspace(-1, 1, 50)[:, np.newaxis], draw_weights(1, 2, 1)
    >>> labels = hidden_units(x, weights) @ [[2.0], [-1.0], [3.0]]
    >>> output_weights(partial_sums(x, labels, weights), 1e-9)[:, 0].round(3)
    array([ 2., -1.,  3.])
    """
    if penalty <= 0 or np.any(sums.n < 1):
        raise ValueError(f"penalty = {penalty}, stars with each label {sums.n.tolist()}")
    made = []
    for hh, hy in zip(sums.hh, sums.hy.T, strict=True):
        ridge = penalty * np.trace(hh) / len(hh) * np.eye(len(hh))
        made.append(solve(hh + ridge, hy, assume_a="pos"))
    return np.stack(made, axis=1)


class ExtremeLearning(Baseline):
    """A network whose hidden layer is drawn, not learned.

    Huang, Zhu & Siew 2006, Neurocomputing 70, 489; for [Mg/Fe] of stars Bu et al. 2016.

    Parameters
    ----------
    spec : RegressorSpec
    units : int
        Hidden units.
    penalties : sequence of float
        Of these the validation stars choose one for all labels.
    width : float
        Standard deviation of what goes into a unit.
    """

    name = "elm"

    def __init__(
        self,
        spec: RegressorSpec,
        *,
        units: int = 1000,
        penalties: tuple[float, ...] | list[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
        width: float = 1.0,
        components: int = 60,
        **options: Any,
    ) -> None:
        super().__init__(spec, components=components, **options)
        self.options |= {"units": units, "penalties": list(penalties), "width": width}
        self._weights = np.zeros((0, 0))
        self._output = np.zeros((0, 0))
        self._total: Sums | None = None
        self._penalty = 0.0

    def _regressor(self, seed: int) -> Any:
        raise NotImplementedError(f"{seed}: all labels share one hidden layer")

    def fit(self, training: Sample, validation: Sample, *, seed: int) -> dict[str, Any]:
        """Learn; see `scalespec.models.regressor.Estimator`."""
        self.start(training, seed)
        total = self.sums(training)
        history = self.finish(total, training, validation)
        self._total, self._penalty = total, history["penalty"]
        if self.options["refit"]:
            self.refit(training, validation, seed=seed)
        return history

    def refit(self, training: Sample, validation: Sample, *, seed: int) -> None:  # noqa: ARG002
        """Learn from the stars held back, too: their sums are added to those of the others."""
        if len(validation) and self._total is not None:
            self._output = output_weights(self._total + self.sums(validation), self._penalty)

    def start(self, sample: Sample, seed: int) -> None:
        """Learn the features and label scales of a sample, and draw the hidden layer."""
        self._features = Features.fit(
            sample,
            self.spec,
            components=self.options["components"],
        )
        y = self._forward(sample.labels)
        for k, label in enumerate(self.spec.labels):
            known = y[np.isfinite(y[:, k]), k]
            if known.size < 2:
                raise ValueError(f"{self.name}: {known.size} training stars have {label}")
            self._scale[k] = known.mean(), known.std() or 1.0
        n_feature = self._features.apply(
            sample.flux[:1], sample.ivar[:1], None if sample.extra is None else sample.extra[:1]
        ).shape[1]
        units, width = self.options["units"], self.options["width"]
        self._weights = draw_weights(n_feature, units, seed, width=width)

    def sums(self, sample: Sample) -> Sums:
        """Return H'H and H'Y of a part of the training stars; `start` comes first."""
        if self._features is None:
            raise ValueError(f"{self.name}: call start first")
        x = self._features.apply(sample.flux, sample.ivar, sample.extra)
        scaled = (self._forward(sample.labels) - self._scale[:, 0]) / self._scale[:, 1]
        return partial_sums(x, scaled, self._weights)

    def finish(self, total: Sums, training: Sample, validation: Sample) -> dict[str, Any]:
        """Solve for the output weights with the penalty that the stars held back prefer.

        Raises
        ------
        ValueError
            If none of them has a label: the stars learned from prefer no penalty at all.
        """
        if self._features is None:
            raise ValueError(f"{self.name}: call start first")
        self._check_held(validation)
        x = self._features.apply(validation.flux, validation.ivar, validation.extra)
        scaled = (self._forward(validation.labels) - self._scale[:, 0]) / self._scale[:, 1]
        tried = {}
        for penalty in self.options["penalties"]:
            output = output_weights(total, penalty)
            residual = hidden_units(x, self._weights) @ output - scaled
            tried[penalty] = float(np.nanmean(np.abs(residual))), output
        best = min(tried, key=lambda penalty: tried[penalty][0])
        self._output = tried[best][1]
        self._learn_domain(training, validation)
        return {"penalty": best, "validation_mad": self._calibrate(validation)}

    def _estimates(self, x: Array) -> tuple[Array, Array]:
        made = hidden_units(x, self._weights) @ self._output
        return made, np.zeros_like(made)

    def state(self) -> dict[str, Any]:
        """Return what was learned."""
        return super().state() | {"weights": self._weights, "output": self._output}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        own = ("weights", "output")
        self._weights, self._output = (state[name] for name in own)
        super().restore({k: v for k, v in state.items() if k not in own})


def reduce_sums(parts: list[Sums]) -> Sums:
    """Add the sums of all parts, in pairs: rounding is that of a tree, not of a chain.

    Raises
    ------
    ValueError
        If there is no part.
    """
    if not parts:
        raise ValueError("no part to add")
    while len(parts) > 1:
        parts = [reduce(Sums.__add__, parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return parts[0]
