"""What is known of labels before a fit: priors, narrower bounds, fixed and tied labels.

Labels are physical (K, dex, km/s).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.objective import Emulator, Prior, Tie

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Constraints:
    """What a fit takes as given. Arrays are (K,), or (n, K) for each star its own.

    Attributes
    ----------
    prior_mean, prior_sigma : array, optional
        Gaussian priors; infinite or NaN sigma: none for that label but the model's own, if its
        specification has one (``extra["prior"]``, as of `scalespec.models.leeway`).
    low, high : array, optional
        Bounds within the model's box; NaN: the box's. Where both are the same the label is fixed
        there: so are labels freed per class of star.
    tied : mapping of str to str
        Labels that take the value of another, as ``{"si_fe": "mg_fe"}``.
    """

    prior_mean: NDArray[np.floating[Any]] | None = None
    prior_sigma: NDArray[np.floating[Any]] | None = None
    low: NDArray[np.floating[Any]] | None = None
    high: NDArray[np.floating[Any]] | None = None
    tied: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """Constraints on the scaled labels of a batch: what `Constraints` come to for a model.

    Attributes
    ----------
    low, high : (n, K) float64
        Scaled bounds, -0.5 to 0.5.
    mean, precision : (n, K) float64 or None
        Scaled priors.
    tied : mapping of str to str
    """

    low: Array
    high: Array
    mean: Array | None
    precision: Array | None
    tied: Mapping[str, str]

    @classmethod
    def of(cls, model: Emulator, constraints: Constraints, n: int) -> Self:
        """Scale and check the constraints of `n` stars.

        Raises
        ------
        ValueError
            If a shape is neither (K,) nor (n, K), bounds cross or leave the box, a prior lacks its
            mean or sigma, or a tie names a label that there is not or that is tied itself.
        """
        low, width = box(model)
        n_label = len(low)

        def scaled(name: str) -> Array | None:
            values = getattr(constraints, name)
            if values is None:
                return None
            values = np.asarray(values, np.float64)
            if values.shape not in ((n_label,), (n, n_label)):
                raise ValueError(f"{name} should be ({n_label},) or ({n}, {n_label}), "
                                 f"got {values.shape}")  # fmt: skip
            return np.broadcast_to(values, (n, n_label))

        lower, upper = scaled("low"), scaled("high")
        least = np.full((n, n_label), -0.5) if lower is None else _within(lower, low, width, -0.5)
        most = np.full((n, n_label), 0.5) if upper is None else _within(upper, low, width, 0.5)
        if np.any(least > most):
            raise ValueError("bounds cross: a lower bound lies above its upper one")
        mean, sigma = scaled("prior_mean"), scaled("prior_sigma")
        if (mean is None) != (sigma is None):
            raise ValueError("a prior wants both prior_mean and prior_sigma")
        mean, sigma = _with_the_models_own(model, mean, sigma, n)
        precision = None
        if mean is not None and sigma is not None:
            if np.any(sigma <= 0):
                raise ValueError(f"prior_sigma must be positive, got {np.nanmin(sigma):.6g}")
            with np.errstate(invalid="ignore"):
                known = np.isfinite(sigma) & np.isfinite(mean)
                precision = np.where(known, (width / np.where(known, sigma, 1.0)) ** 2, 0.0)
                mean = np.where(known, (mean - low) / width - 0.5, 0.0)
        _check_ties(model.spec.labels, constraints.tied)
        return cls(least, most, mean, precision, constraints.tied)

    def prior(self, rows: slice, like: Tensor) -> Prior | None:
        """Return the prior of a batch; None if there is none."""
        if self.mean is None or self.precision is None:
            return None
        return Prior(*(torch.tensor(a[rows]).to(like) for a in (self.mean, self.precision)))

    def tie(self, model: Emulator, like: Tensor) -> Tie | None:
        """Return how all labels follow from the free ones; None if all are free."""
        if not self.tied:
            return None
        low, width = box(model)
        names = list(model.spec.labels)
        free = [k for k, name in enumerate(names) if name not in self.tied]
        matrix, offset = np.zeros((len(names), len(free))), np.zeros(len(names))
        for k, name in enumerate(names):
            leader = names.index(self.tied.get(name, name))
            matrix[k, free.index(leader)] = width[leader] / width[k]
            offset[k] = (low[leader] + 0.5 * width[leader] - low[k]) / width[k] - 0.5
        return Tie(torch.tensor(matrix).to(like), torch.tensor(offset).to(like), tuple(free))

    def bounds(self, rows: slice, tie: Tie | None) -> tuple[Array, Array]:
        """Return the bounds (n, F) of a batch's free labels: of tied ones, what all allow.

        Raises
        ------
        ValueError
            If tied labels have no value in common.
        """
        low, high = self.low[rows], self.high[rows]
        if tie is None:
            return low, high
        matrix, offset = tie.matrix.double().cpu().numpy(), tie.offset.double().cpu().numpy()
        lower, upper = low[:, list(tie.free)].copy(), high[:, list(tie.free)].copy()
        for k, place in enumerate(matrix.argmax(axis=1)):
            factor = matrix[k, place]
            lower[:, place] = np.maximum(lower[:, place], (low[:, k] - offset[k]) / factor)
            upper[:, place] = np.minimum(upper[:, place], (high[:, k] - offset[k]) / factor)
        if np.any(lower > upper):
            raise ValueError(f"labels tied by {dict(self.tied)} have no value within all bounds")
        return lower, upper


def box(model: Emulator) -> tuple[Array, Array]:
    """Return the lower edge (K,) and the width (K,) of the model's labels."""
    low = np.asarray(model.spec.minimum, np.float64)
    return low, np.asarray(model.spec.maximum, np.float64) - low


def _with_the_models_own(
    model: Emulator, mean: Array | None, sigma: Array | None, n: int
) -> tuple[Array | None, Array | None]:
    """Add the priors that a model's specification has, ``{"prior": {label: (mean, sigma)}}``."""
    own = getattr(model.spec, "extra", {}).get("prior", {})
    if not own:
        return mean, sigma
    names = list(model.spec.labels)
    wide = (n, len(names))
    mean = np.full(wide, np.nan) if mean is None else np.array(mean)
    sigma = np.full(wide, np.nan) if sigma is None else np.array(sigma)
    for name, (middle, width) in own.items():
        k = names.index(name)
        unknown = ~(np.isfinite(sigma[:, k]) & np.isfinite(mean[:, k]))
        mean[unknown, k], sigma[unknown, k] = middle, width
    return mean, sigma


def _within(values: Array, low: Array, width: Array, edge: float) -> Array:
    """Scale bounds, NaN to the `edge` of the box; refuse those outside it."""
    scaled = np.where(np.isnan(values), edge, (values - low) / width - 0.5)
    if np.any(np.abs(scaled) > 0.5 + 1e-6):
        worst = values.flat[int(np.argmax(np.abs(scaled)))]
        raise ValueError(f"a bound of {worst:.6g} lies outside the model's box")
    return scaled.clip(-0.5, 0.5)


def _check_ties(names: tuple[str, ...], tied: Mapping[str, str]) -> None:
    for name, leader in tied.items():
        if name not in names or leader not in names:
            raise ValueError(f"no label to tie '{name}' to '{leader}': the model has {names}")
        if leader in tied:
            raise ValueError(f"'{name}' is tied to '{leader}', which is itself tied")
