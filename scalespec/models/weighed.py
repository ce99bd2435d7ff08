"""Training spectra weighed pixel by pixel, and how much each label has to do with them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scalespec.models.linear import all_sum, solve, with_constant
from scalespec.models.loss import pixel_weight
from scalespec.models.prior import GradientPrior

LEAST_RELEVANT = 1e-3
"""Share of the most relevant label's effect that any label is taken to have."""
RELEVANCE_RIDGE = 1e-3
"""Of the regression behind it, where labels' mean squares are 1/12."""


@dataclass
class Spectra:
    """Training spectra of one rank, all in memory, and how much each counts.

    Attributes
    ----------
    x : (n, n_label) float32
        Scaled labels.
    flux : (n, n_pixel) float32
        Observed normalized flux.
    shift : (n,) float32 [pixel], or None
        By how much lines in `flux` are displaced; None if none is.
    trust : (n, n_pixel) float32
        Weight of a pixel over ``star * pixel``, at most 1; 0 where there is no information.
    star : (n,) float32
        Weight of a spectrum.
    pixel : (n_pixel,) float32
        Typical weight of a pixel, for a spectrum of weight 1, over all ranks.
    noise : float
        Noise variance of ``flux * sqrt(star * pixel)`` where trusted, over all ranks.
    n_total : int
        Spectra with weight, over all ranks.
    """

    x: Tensor
    flux: Tensor
    shift: Tensor | None
    trust: Tensor
    star: Tensor
    pixel: Tensor
    noise: float
    n_total: int

    @classmethod
    def weigh(
        cls, x: Tensor, flux: Tensor, ivar: Tensor, shift: Tensor, scatter_floor: float
    ) -> "Spectra":
        """Split the pixel weights of `pixel_weight` into one per spectrum times one per pixel."""
        weight = pixel_weight(ivar, scatter_floor)
        used = weight > 0
        star = weight.sum(1) / used.sum(1).clamp(min=1)
        relative = weight / torch.where(star > 0, star, 1.0)[:, None]
        pixel = all_sum(relative.sum(0)) / all_sum(used.sum(0)).clamp(min=1)
        trust = (relative / torch.where(pixel > 0, pixel, 1.0)).clamp_(max=1)
        noise = trust.square() / torch.where(used, ivar, torch.inf)
        sums = torch.stack([((noise * pixel).sum(1) * star).sum(), used.sum(), (star > 0).sum()])
        noise_sum, n_used, n_total = all_sum(sums.double()).tolist()
        return cls(
            x=x,
            flux=torch.where(used, flux, 0.0),
            shift=shift if bool(shift.any()) else None,
            trust=trust,
            star=star,
            pixel=pixel,
            noise=noise_sum / max(n_used, 1),
            n_total=int(n_total),
        )


def relevance(spectra: Spectra, prior: GradientPrior | None = None) -> Tensor:
    """Return how much each label moves spectra, relative to the one that does most.

    By linear regression of flux on all labels, and by the prior's own derivatives where it has
    some. Weights of labels are started, searched and penalized in units of this: features that
    answer to barium as they do to temperature must all be made to forget it again.

    Returns
    -------
    (n_label,) tensor
        From `LEAST_RELEVANT` to 1.
    """
    design = with_constant(spectra.x)
    weighted = (design * spectra.star[:, None]).T
    total = all_sum(spectra.star.sum().double()).clamp(min=1e-300)
    seen = (spectra.trust * spectra.flux).to(design)
    mean = all_sum(weighted[-1] @ seen) / all_sum(weighted[-1] @ spectra.trust.to(design)).clamp(
        min=1e-300
    )
    right = all_sum(weighted @ (seen - spectra.trust.to(design) * mean)) / total
    slopes = solve(all_sum(weighted @ design) / total, right, RELEVANCE_RIDGE)[:-1]
    square = (slopes.square() * spectra.pixel).sum(1)
    if prior is not None:
        energy = (prior.gradient.square() * (spectra.pixel * prior.known)).sum(1).double()
        rows = torch.zeros_like(square).index_add_(0, prior.label, torch.ones_like(energy))
        known = torch.zeros_like(square).index_add_(0, prior.label, energy) / rows.clamp(min=1)
        square = torch.where(rows > 0, known, square)
    relative = square.sqrt() / square.max().sqrt().clamp(min=1e-300)
    return relative.clamp(min=LEAST_RELEVANT, max=1).to(spectra.x)
