"""What training is after, and how near a model is: flux of unseen stars, derivatives of a prior."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scalespec.models.base import Emulator
from scalespec.models.linear import all_sum
from scalespec.models.loss import emulator_loss, pixel_weight
from scalespec.models.prior import GradientPrior

VALIDATION_ROWS = 1024
"""Spectra emulated at a time when validating."""
GRADIENT_ROWS = 64
"""Derivatives made at a time, by models that make each pixel by itself."""
GRADIENT_PIXELS = 512
"""Pixels, evenly spread, in which such models' derivatives are looked at."""


@dataclass(frozen=True)
class Aim:
    """What a model is measured by.

    Attributes
    ----------
    held : list of tensor
        This rank's share of the validation spectra: labels, flux, ivar, pixel shift.
    floor : float [flux]
        See `scalespec.models.loss.pixel_weight`.
    prior : GradientPrior or None
        What the derivatives should be; the same on every rank.
    """

    held: list[Tensor]
    floor: float
    prior: GradientPrior | None

    def validate(self, model: Emulator) -> tuple[float, dict[str, float]]:
        """Return the loss [flux²] and what it is made of."""
        loss = _validate(model, self.held, self.floor)
        measured = {"validation_rms": math.sqrt(loss)}
        if self.prior is not None:
            square = self._gradient_loss(model, self.prior)
            measured["gradient_error"] = math.sqrt(square / max(self.prior.strength, 1e-30))
            loss += self.variance * square
        return loss, measured

    @torch.no_grad()
    def _gradient_loss(self, model: Emulator, prior: GradientPrior) -> float:
        """Return the prior's loss; of models that are slow at derivatives, from some pixels."""
        if model.output is not None:
            return float(prior.loss(model, torch.ones_like(model.scatter)))
        n_pixel, device = model.spec.n_pixel, model.scatter.device
        pixels = torch.arange(0, n_pixel, -(-n_pixel // GRADIENT_PIXELS), device=device)
        total = 0.0
        for rows in torch.split(torch.arange(len(prior), device=device), GRADIENT_ROWS):
            part = prior.sampled_loss(model, self.share, rows, pixels)
            total += float(part) * len(rows) / len(prior)
        return total

    @cached_property
    def share(self) -> Tensor:
        """The weights of the prior's rows, all pixels weighing 1; none without a prior."""
        if self.prior is None:
            return self.held[0].new_zeros(0)
        return self.prior.share(self.prior.gradient.new_ones(self.prior.gradient.shape[1]))

    @cached_property
    def variance(self) -> float:
        """Mean variance of flux over stars: what relative errors are relative to."""
        _, flux, ivar, _ = self.held
        weight = pixel_weight(ivar, self.floor)
        flux = torch.where(weight > 0, flux, 0.0)  # what has no weight may be NaN
        sums = all_sum(torch.stack([weight.sum(0), (weight * flux).sum(0)]).double())
        mean = sums[1] / torch.where(sums[0] > 0, sums[0], 1.0)
        square = all_sum((weight * (flux - mean).square()).sum().double())
        return float(square / sums[0].sum().clamp(min=1e-300))


def emulate(model: Any, labels: Tensor, shift: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Return the model's flux with its lines where the data have them; of some pixels, if given."""
    moved = shift if bool(shift.any()) else None
    flux: Tensor
    if pixels is not None:
        flux = model(labels, moved, pixels)
    else:
        flux = model(labels) if moved is None else model(labels, moved)
    return flux


def _validate(model: Emulator, held: list[Tensor], scatter_floor: float) -> float:
    """Return the weighted mean square residual over the validation spectra of all ranks."""
    sums = torch.zeros(2, dtype=torch.float64, device=held[0].device)
    for labels, flux, ivar, shift in zip(
        *(torch.split(t, VALIDATION_ROWS) for t in held), strict=True
    ):
        with torch.no_grad():
            loss = emulator_loss(emulate(model, labels, shift), flux, ivar, scatter_floor)
        weight = pixel_weight(ivar, scatter_floor).sum().double()
        sums += torch.stack([loss * weight, weight])
    total, weight = all_sum(sums)
    return float(total / weight.clamp(min=1e-300))
