"""Which pixels of a spectrum count, and what they are worth."""

from dataclasses import dataclass
from typing import Self

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


@dataclass(frozen=True)
class Sums:
    """What is counted while spectra are compared with one: of ``n`` stars.

    Attributes
    ----------
    chi2 : (n,) float64
    counts : (n, 3) int64
        Pixels that count; parts of the spectrum with a pixel that is no number, though it should
        be; pixels that count with a signal-to-noise below some value.
    """

    chi2: Tensor
    counts: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Self:
        """Begin to sum for spectra like (n, P)."""
        return cls(like.new_zeros(len(like)).double(), like.new_zeros((len(like), 3)).long())


def weighed(
    data: tuple[Tensor, Tensor],
    model: tuple[Tensor, Tensor],
    begin: int,
    snr: float,
    out: tuple[Sums, Tensor],
) -> tuple[Tensor, Tensor]:
    """Compare some pixels of spectra with those of one, and add to sums.

    Parameters
    ----------
    data : flux (n, P), ivar (n, P)
    model : flux (B,), scatter (B,)
        Of the pixels from `begin` on.
    begin : int
    snr : float
        Pixels below it are counted.
    out : Sums, (2, n B or more)
        What is added to, and room for what is returned.

    Returns
    -------
    weight, pulled : (n, B)
        1 / (sigma^2 + scatter^2), and that times the residual.

    Examples
    --------
    The second of three pixels has no information:

    >>> flux, ivar = torch.tensor([[1.5, 9.0, 1.0]]), torch.tensor([[4.0, 0.0, 4.0]])
    >>> one, sums = (torch.ones(2), torch.full((2,), 0.5)), Sums.none(flux)
    >>> weight, pulled = weighed((flux, ivar), one, 0, 3.5, (sums, torch.empty(2, 2)))
    >>> weight.tolist(), pulled.tolist(), sums.chi2.tolist(), sums.counts.tolist()
    ([[2.0, 0.0]], [[1.0, 0.0]], [0.5], [[1, 0, 1]])
    """
    (flux, ivar), (sums, room) = data, out
    center, variance = model[0], model[1] ** 2
    n, size = len(flux), len(center)
    if flux.device.type == "cpu":
        weight, pulled = (part[: n * size].view(n, size) for part in room)
        made = (weight.numpy(), pulled.numpy(), sums.chi2.numpy(), sums.counts.numpy())
        one = center.contiguous().numpy(), variance.contiguous().numpy()
        given = flux.contiguous().numpy(), ivar.contiguous().numpy()
        fused.weigh(given, one, begin, snr, made)
        return weight, pulled
    end = begin + size
    y, v = flux[:, begin:end], ivar[:, begin:end]
    counts = v > 0
    weight = torch.where(counts, v / (1.0 + v * variance), 0.0)
    residual = torch.where(counts, y - center, 0.0)
    pulled = weight * residual
    total = (pulled * residual).sum(dim=1, dtype=torch.float64)
    bad = ~torch.isfinite(total) | ~torch.isfinite(v).all(dim=1)
    faint = counts & (y * y.abs() * v < snr**2)
    sums.chi2.add_(total)
    sums.counts.add_(torch.stack([counts.sum(dim=1), bad.long(), faint.sum(dim=1)], dim=1))
    return weight, pulled
