"""Which pixels of a spectrum count, and what they are worth."""

import torch
from torch import Tensor

from scalespec.optimize import fused
from scalespec.optimize.shift import stencil_span


def inside(
    rv: Tensor, rv_range: float, *, step: float, n_pixel: int, reach: int
) -> tuple[Tensor, Tensor]:
    """(n,), (n,) int64: first and last pixel whose stencil stays on the grid at every velocity.

    One fixed set per star: chi2 would jump with every pixel that enters or leaves.
    """
    lowest, _ = stencil_span(rv + rv_range, step=step, reach=reach)
    _, highest = stencil_span(rv - rv_range, step=step, reach=reach)
    return (-lowest).long(), (n_pixel - highest).long()


def cleaned(flux: Tensor, ivar: Tensor, edges: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(n, P) flux and weight, 0 where a pixel has no information; no weight outside."""
    if flux.device.type == "cpu":
        data, weight = torch.empty_like(flux), torch.empty_like(ivar)
        given = flux.contiguous().numpy(), ivar.contiguous().numpy()
        first, last = (edge.numpy() for edge in edges)
        fused.clean(given, (first, last), (data.numpy(), weight.numpy()))
        return data, weight
    pixel = torch.arange(flux.shape[1], device=flux.device)
    used = (pixel >= edges[0][:, None]) & (pixel <= edges[1][:, None]) & (ivar > 0)
    return torch.where(ivar > 0, flux, 0.0), torch.where(used, ivar, 0.0)


def finite_rows(flux: Tensor, ivar: Tensor) -> Tensor:
    """(n,) bool: ivar is a number in every pixel (n, P), and flux where ivar is above 0."""
    if flux.device.type == "cpu":
        out = torch.empty(len(flux), dtype=torch.bool)
        fused.finite(flux.contiguous().numpy(), ivar.contiguous().numpy(), out.numpy())
        return out
    known = torch.isfinite(ivar) & (torch.isfinite(flux) | (ivar <= 0))
    return known.all(dim=1)


def weighed(
    flux: Tensor, ivar: Tensor, center: Tensor, scatter: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compare spectra (n, P) with one, `center` (P,), whose error is `scatter` (P,).

    Returns
    -------
    weight, pulled : (n, P)
        1 / (sigma^2 + scatter^2), and that times the residual.
    chi2 : (n,) float64
    n_used : (n,) int64
        Pixels that count.
    """
    variance = scatter**2
    if flux.device.type == "cpu":
        weight, pulled = torch.empty_like(ivar), torch.empty_like(flux)
        chi2, n_used = torch.empty(len(flux)).double(), torch.empty(len(flux)).long()
        data = flux.contiguous().numpy(), ivar.contiguous().numpy()
        out = (weight.numpy(), pulled.numpy(), chi2.numpy(), n_used.numpy())
        fused.weigh(data, (center.numpy(), variance.numpy()), out)
        return weight, pulled, chi2, n_used
    counts = ivar > 0
    weight = torch.where(counts, ivar / (1.0 + ivar * variance), 0.0)
    residual = torch.where(counts, flux - center, 0.0)
    pulled = weight * residual
    chi2 = (pulled * residual).sum(dim=1, dtype=torch.float64)
    return weight, pulled, chi2, counts.sum(dim=1)
