"""Gaussian-process regression on principal components of the spectra, exact, one per label.

Kernel: a Matern 5/2 with a length per component, and a linear one on the same lengths, and noise.
Their parameters go up the marginal likelihood by Adam; torch has the gradients.

Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, MIT Press, ch. 2, 4, 5.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.models.baselines import Baseline
from scalespec.models.regressor import RegressorSpec

Array = NDArray[np.float64]
SHRINK = 0.02
"""Weight of (ln length - its start)² against the log likelihood: hundreds of stars tell few lengths
well."""
JITTER = 1e-6
ROWS = 2048
"""Stars predicted at a time."""


@dataclass
class Process:
    """One label's process: parameters, training features, and the weights of the mean.

    Attributes
    ----------
    parameters : (n_feature + 3,) float64
        Logarithms: inverse lengths, variance of the Matern part, of the noise, of the linear part.
    x : (n, n_feature) float64
    weights : (n,) float64
        ``K^-1 y``.
    factor : (n, n) float64 or (0, 0)
        Cholesky factor of K, for the variance, a small difference of large numbers; empty where it
        is not kept.
    """

    parameters: Array
    x: Array
    weights: Array
    factor: NDArray[np.float64]

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation, of the function without noise, of n stars."""
        parameters, known = torch.from_numpy(self.parameters), torch.from_numpy(self.x)
        weights, factor = torch.from_numpy(self.weights), torch.from_numpy(self.factor)
        means, deviations = [], []
        for start in range(0, len(x), ROWS):
            some = torch.from_numpy(np.ascontiguousarray(x[start : start + ROWS]))
            across = covariance(some, known, parameters)
            means.append(across @ weights)
            if not len(factor):
                deviations.append(torch.zeros(len(some), dtype=torch.float64))
                continue
            solved = torch.linalg.solve_triangular(factor, across.T, upper=False)
            variance = _prior_variance(some, parameters) - solved.square().sum(0)
            deviations.append(variance.clamp_min(0.0).sqrt())
        nothing = np.zeros(0)
        return (
            torch.cat(means).numpy() if means else nothing,
            torch.cat(deviations).numpy() if deviations else nothing,
        )


def covariance(a: Tensor, b: Tensor, parameters: Tensor) -> Tensor:
    """Return the covariance (n, m) of n and m stars, without noise.

    Examples
    --------
    >>> one = torch.zeros(1, 2, dtype=torch.float64)
    >>> round(covariance(one, one, torch.zeros(5, dtype=torch.float64)).item(), 9)
    1.0
    """
    k = a.shape[1]
    inverse = parameters[:k].exp()
    a, b = a * inverse, b * inverse
    square = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T
    # At 0 the root has no slope; 1e-16 moves nothing.
    r = (5 * square.clamp_min(0.0) + 1e-16).sqrt()
    matern = (1 + r + r.square() / 3) * torch.exp(-r)
    return parameters[k].exp() * matern + parameters[k + 2].exp() * a @ b.T


def _prior_variance(x: Tensor, parameters: Tensor) -> Tensor:
    k = x.shape[1]
    scaled = x * parameters[:k].exp()
    return parameters[k].exp() + parameters[k + 2].exp() * scaled.square().sum(1)


def learn(
    x: Array,
    y: Array,
    rng: np.random.Generator,
    *,
    steps: int = 80,
    sample: int = 1500,
    stars: int = 6000,
    keep_factor: int = 4000,
) -> Process:
    """Learn a process from scaled labels.

    Parameters
    ----------
    x : (n, n_feature) float64
        Features, of about unit variance each.
    y : (n,) float64
        Of about unit variance.
    rng : numpy Generator
        Chooses the stars where there are more than wanted.
    steps : int
        Of Adam.
    sample : int
        Stars that the parameters are learned from.
    stars : int
        Stars that the mean is made of.
    keep_factor : int
        Up to so many the variance can be told, too; it takes their square in memory.

    Returns
    -------
    Process

    Raises
    ------
    ValueError
        If there is no star, features and labels are of different stars, or some are not finite.

    References
    ----------
    Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, algorithm 2.1, eq. 5.8.

    Examples
    --------
    Of a sine it knows what lies between the stars, and that it knows nothing far from them:

    >>> x = np.linspace(-3, 3, 25)[:, None]
    >>> process = learn(x, np.sin(x[:, 0]), np.random.default_rng(0), steps=40)
    >>> mean, error = process.predict(np.array([[0.6], [30.0]]))
    >>> bool(abs(mean[0] - np.sin(0.6)) < 0.01), bool(error[0] < 0.1), bool(error[1] > 1)
    (True, True, True)
    """
    _check(x, y)
    order = rng.permutation(len(x))
    some = np.sort(order[:sample])
    parameters = _maximize(torch.from_numpy(x[some]), torch.from_numpy(y[some]), steps)
    chosen = np.sort(order[:stars])
    known, wanted = torch.from_numpy(x[chosen]), torch.from_numpy(y[chosen])
    with torch.no_grad():
        factor = torch.linalg.cholesky(_noisy(known, parameters))
        weights = torch.cholesky_solve(wanted[:, None], factor)[:, 0]
    kept = factor.numpy() if len(chosen) <= keep_factor else np.zeros((0, 0))
    return Process(parameters.numpy(), x[chosen], weights.numpy(), kept)


def _check(x: Array, y: Array) -> None:
    if x.ndim != 2 or not len(x) or y.shape != (len(x),):
        raise ValueError(
            f"a process is learned from features (n, n_feature) and labels (n,) of n >= 1 stars, "
            f"got {x.shape} and {y.shape}"
        )
    for name, values in (("features", x), ("labels", y)):
        good = np.isfinite(values.reshape(len(x), -1)).all(axis=1)
        if not good.all():
            raise ValueError(
                f"{name} of {np.sum(~good)} of {len(x)} stars are not finite: leave those out"
            )


def _noisy(x: Tensor, parameters: Tensor) -> Tensor:
    noise = parameters[x.shape[1] + 1].exp() + JITTER
    return covariance(x, x, parameters) + noise * torch.eye(len(x), dtype=x.dtype)


def _maximize(x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Go up the marginal likelihood."""
    k = x.shape[1]
    length = torch.full((k,), -0.5 * np.log(k) - 0.3, dtype=torch.float64)
    rest = torch.tensor([0.5, -2.0, -3.0], dtype=torch.float64)
    parameters = torch.cat([length, rest]).requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=0.08)
    for _ in range(steps):
        optimizer.zero_grad()
        factor = torch.linalg.cholesky(_noisy(x, parameters))
        solved = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
        loss = 0.5 * solved.square().sum() + factor.diagonal().log().sum()
        loss = loss + SHRINK * (parameters[:k] - length).square().sum()
        torch.autograd.backward(loss)
        optimizer.step()
    return parameters.detach()


class GaussianProcess(Baseline):
    """A Gaussian process per label on principal components.

    Parameters
    ----------
    spec : RegressorSpec
    steps, sample, stars : int
        As of `learn`.
    """

    name = "gaussian_process"

    def __init__(
        self,
        spec: RegressorSpec,
        *,
        components: int = 25,
        steps: int = 80,
        sample: int = 1500,
        stars: int = 6000,
        **options: Any,
    ) -> None:
        super().__init__(spec, components=components, **options)
        self.options |= {"steps": steps, "sample": sample, "stars": stars}

    def _regressor(self, seed: int) -> Any:
        raise NotImplementedError(f"{seed}: a process is learned, not fitted by scikit-learn")

    def _learned(self, x: Array, y: Array, seed: int) -> Process:
        rng = np.random.default_rng([seed, len(x)])
        wanted = {name: self.options[name] for name in ("steps", "sample", "stars")}
        return learn(x, y, rng, **wanted)

    def _estimates(self, x: Array) -> tuple[Array, Array]:
        made, doubt = zip(*(model.predict(x) for model in self._models), strict=True)
        return np.stack(made, axis=1), np.stack(doubt, axis=1)

    def state(self) -> dict[str, Any]:
        """Return what was learned, as arrays."""
        return super().state() | {"models": [dict(vars(one)) for one in self._models]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        super().restore(state | {"models": [Process(**one) for one in state["models"]]})
