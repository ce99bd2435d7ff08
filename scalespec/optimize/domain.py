"""What a model has seen: the labels it learned from, and how far others are from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DOMAIN = "domain"
"""Key of a specification's ``extra`` under which a model keeps its own."""


@dataclass(frozen=True)
class Domain:
    """Mean and spread of the labels that a model was trained on.

    Attributes
    ----------
    mean : (M,) float64 [units of the labels]
        Of the model's first M labels; those after them are amplitudes of its errors.
    whitening : (M, M) float64
        Takes labels minus mean to uncorrelated numbers of unit spread.
    reach : float
        Mahalanobis distance of the farthest of them.

    Examples
    --------
    >>> learned = np.column_stack([np.linspace(4e3, 7e3, 61), np.tile([4.0, 4.5, 5.0], 21)[:61]])
    >>> domain = Domain.of(learned)
    >>> far = np.array([[5500.0, 4.5], [5500.0, 1.0]])
    >>> domain.distance(far).round(1), domain.distance(far, np.diag([1e4, 4.0])[None]).round(1)
    (array([0. , 4.1]), array([0. , 0.8]))
    """

    mean: Array
    whitening: Array
    reach: float

    @classmethod
    def of(cls, labels: NDArray[np.floating[Any]]) -> Self:
        """Describe the training `labels` (n, M).

        Raises
        ------
        ValueError
            If there are not more label sets than labels, or they do not vary independently.
        """
        values = np.asarray(labels, np.float64)
        if values.ndim != 2 or len(values) <= values.shape[1]:
            raise ValueError(f"a domain wants more label sets than labels, got {values.shape}")
        spread = np.linalg.eigh(np.atleast_2d(np.cov(values.T)))
        if spread[0][0] <= 1e-12 * spread[0][-1]:
            raise ValueError("a domain wants labels that vary independently of each other")
        mean, whitening = values.mean(axis=0), (spread[1] / np.sqrt(spread[0])).T
        away = (values - mean) @ whitening.T
        return cls(mean, whitening, float(np.sqrt((away**2).sum(axis=1).max())))

    @classmethod
    def of_model(cls, model: Any) -> Self | None:
        """Return the one that a model's specification keeps, or None."""
        return cls.from_dict(getattr(model.spec, "extra", {}).get(DOMAIN, {}))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self | None:
        """Return what `to_dict` wrote, or None if it is not all there."""
        if any(name not in plain for name in ("mean", "whitening", "reach")):
            return None
        return cls(np.array(plain["mean"]), np.array(plain["whitening"]), float(plain["reach"]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        mean, whitening = self.mean.tolist(), self.whitening.tolist()
        return {"mean": mean, "whitening": whitening, "reach": self.reach}

    def distance(
        self, labels: NDArray[np.floating[Any]], covariance: NDArray[np.floating[Any]] | None = None
    ) -> Array:
        """Return how far labels are from those learned from: 1 as far as the farthest of them.

        Parameters
        ----------
        labels : (n, K)
            K at least M.
        covariance : (n, K, K), optional
            Of their errors: what a spectrum does not say takes no label far away.

        Returns
        -------
        (n,) float64
            Mahalanobis distance, by spread and errors together, over `reach`.
        """
        n = len(self.mean)
        away = (np.asarray(labels, np.float64)[:, :n] - self.mean) @ self.whitening.T
        solved = away
        if covariance is not None:  # where it is NaN, so is the distance
            errors = np.asarray(covariance, np.float64)[:, :n, :n]
            wide = np.eye(n) + self.whitening @ errors @ self.whitening.T
            solved = np.asarray(np.linalg.solve(wide, away[:, :, None])[:, :, 0], np.float64)
        distance: Array = np.sqrt((away * solved).sum(axis=1)) / self.reach
        return distance
