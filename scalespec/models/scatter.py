"""How far an emulator is off, pixel by pixel, beyond the noise of the spectra it is shown."""

from collections.abc import Callable

import torch
from torch import Tensor

from scalespec.models.linear import all_sum

ITERATIONS = 10
CLIP_SIGMA = 4.0
"""Residuals count as no larger than this: one cosmic ray is not the emulator's fault."""
WINDOW_PIXEL = 101
"""Pixels that a poorly known one is compared with."""
SIGNIFICANT = 2.0
"""A pixel is as its neighbors unless it differs from them by more than so many errors."""
UNLEARNED = 1.0
"""Scatter of a pixel that no spectrum shows: as good as no information."""


def measure_scatter(
    residual: Tensor, ivar: Tensor, start: float, across: Callable[[Tensor], Tensor] = all_sum
) -> Tensor:
    """Return the scatter of each pixel that its residuals ask for.

    Parameters
    ----------
    residual : (n_spectrum, n_pixel) tensor
        Observed minus emulated flux of this rank's spectra; all ranks give one answer.
    ivar : (n_spectrum, n_pixel) tensor
        Inverse variance of the noise; 0 where there is no information.
    start : float
        First guess of the scatter [flux].
    across : callable
        Sums over ranks; the identity where one rank measures alone.

    Returns
    -------
    (n_pixel,) tensor
        Standard deviation [flux]; `UNLEARNED` where no spectrum has information.

    Notes
    -----
    The fixed point of ``s² = sum(w² (r² - 1/ivar)) / sum(w²)``, ``w = 1 / (1/ivar + s²)``, is the
    maximum-likelihood variance. It is known to ``sqrt(2 / sum(w²))``, which with few noisy spectra
    is nearly nothing; so it is drawn to the median of its neighbors unless it stands out of them
    (positive-part shrinkage: Efron & Morris 1975, JASA 70, 311).

    Examples
    --------
    >>> residual = torch.tensor([[0.03, 0.5], [-0.03, 0.5]])
    >>> measure_scatter(residual, torch.tensor([[torch.inf, 0.0], [torch.inf, 0.0]]), 0.01)
    tensor([0.0300, 1.0000])
    """
    used = ivar > 0
    square = torch.where(used, residual, 0.0).square()
    noise = torch.where(used, 1 / ivar, torch.inf)
    excess = residual.new_full(residual.shape[1:], start**2)
    for _ in range(ITERATIONS):
        variance = noise + excess.clamp(min=1e-12)
        weight = variance.pow(-2)
        difference = torch.minimum(square, CLIP_SIGMA**2 * variance) - noise
        total = across(weight.sum(0))
        excess = across(torch.where(used, weight * difference, 0.0).sum(0))
        excess /= torch.where(total > 0, total, 1.0)
    scatter = _shrunk(excess, total / 2).clamp(min=0).sqrt()
    return torch.where(total > 0, scatter, UNLEARNED)


def _shrunk(value: Tensor, information: Tensor) -> Tensor:
    """Draw values, of error ``1 / sqrt(information)``, to the median of their neighbors."""
    known = torch.where(information > 0, value, torch.nan)
    reach = WINDOW_PIXEL // 2
    windows = torch.nn.functional.pad(known, (reach, reach), value=torch.nan).unfold(
        0, WINDOW_PIXEL, 1
    )
    median: Tensor = windows.nanmedian(dim=1).values
    difference = value - median
    chance = SIGNIFICANT**2 / (difference.square() * information)  # over 1: may well be none
    return median + torch.where(chance < 1, difference * (1 - chance), 0.0)
