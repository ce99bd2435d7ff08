"""What is known of stars' labels: measurements, posteriors, and the population they come from.

Labels here are scaled, -0.5 to 0.5: see `scalespec.models.latent`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

EXACT = 1e-4
"""Least error of a scaled label: a ten-thousandth of its range counts as exact."""


@dataclass(frozen=True)
class Measured:
    """What is known of the labels of n stars.

    Attributes
    ----------
    value : (n, n_label) float64 tensor
        Scaled labels; NaN where not known.
    error : (n, n_label) float64 tensor
        Their standard errors, scaled.
    """

    value: Tensor
    error: Tensor

    @classmethod
    def of(cls, value: Tensor, error: Tensor) -> "Measured":
        """Check, and give each measurement an error above 0.

        Raises
        ------
        ValueError
            If shapes differ, an error is negative, or some label is known of no star.
        """
        value, error = value.double(), error.double()
        if value.ndim != 2 or value.shape != error.shape:
            raise ValueError(
                f"labels {tuple(value.shape)} and their errors {tuple(error.shape)} do not fit"
            )
        known = torch.isfinite(value)
        if bool((error[known] < 0).any()):
            raise ValueError(f"errors of labels must be >= 0, got {float(error[known].min()):g}")
        if not bool(known.any(0).all()):
            which = torch.nonzero(~known.any(0))[0, 0]
            raise ValueError(f"label {int(which)} is known of none of {len(value)} stars")
        # An error that is not known makes a measurement no better than the spread of its label.
        spread = torch.tensor(np.nanstd(value.numpy(), axis=0))
        error = torch.where(torch.isfinite(error), error, spread).clamp(min=EXACT)
        return cls(value, error)

    @property
    def weight(self) -> Tensor:
        """1 / error², 0 where there is no measurement."""
        weight: Tensor = self.error.square().reciprocal()
        return torch.where(torch.isfinite(self.value), weight, 0.0)

    def take(self, rows: Tensor | slice) -> "Measured":
        """Return some of the stars."""
        return Measured(self.value[rows], self.error[rows])


@dataclass(frozen=True)
class Population:
    """Gaussian that all stars are drawn from: mean (n_label,), covariance (n_label, n_label)."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, latent: "Latent") -> "Population":
        """Return the population whose stars have these posteriors."""
        mean = latent.mean.mean(0)
        away = latent.mean - mean
        return cls(mean, away.T @ away / len(away) + latent.covariance.mean(0))


@dataclass(frozen=True)
class Latent:
    """Posterior of each star's labels: mean (n, n_label), covariance (n, n_label, n_label)."""

    mean: Tensor
    covariance: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return one set of labels per star, drawn from its posterior."""
        normal = torch.randn(self.mean.shape, generator=generator, dtype=torch.float64)
        root = torch.linalg.cholesky(self.covariance)
        drawn: Tensor = self.mean + (root @ normal[:, :, None])[:, :, 0]
        return drawn


def first_guess(measured: Measured) -> Latent:
    """Return posteriors from measurements and their population alone, before any model.

    What is missing is what is known of the star's other labels makes most likely.

    Examples
    --------
    >>> value = torch.tensor([[-0.4, -0.4], [0.0, 0.0], [0.4, 0.4], [0.2, torch.nan]])
    >>> guess = first_guess(Measured.of(value, torch.zeros(4, 2)))
    >>> bool((guess.mean[3, 1] - 0.2).abs() < 0.05)
    True
    """
    known = torch.isfinite(measured.value)
    count = known.sum(0)
    mean = torch.where(known, measured.value, 0.0).sum(0) / count
    filled = torch.where(known, measured.value, mean)
    latent = Latent(filled, torch.diag_embed(torch.where(known, 0.0, 0.05).double()))
    for _ in range(20):
        population = Population.of(latent)
        precision = inverse(population.covariance) + torch.diag_embed(measured.weight)
        covariance = inverse(precision)
        pull = measured.weight * torch.where(known, measured.value, 0.0)
        pull = pull + torch.linalg.solve(_ridged(population.covariance), population.mean)
        latent = Latent((covariance @ pull[:, :, None])[:, :, 0], covariance)
    return latent


def _ridged(matrix: Tensor) -> Tensor:
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    return matrix + 1e-8 * eye


def inverse(matrix: Tensor) -> Tensor:
    """Return the inverse of covariances (n, n_label, n_label), a little ridge added to each."""
    return torch.cholesky_inverse(torch.linalg.cholesky(_ridged(matrix)))
