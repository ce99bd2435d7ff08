"""Uncertainties made to mean what they say: one factor per label and signal-to-noise ratio."""

import math

import torch
from torch import Tensor

SNR_CENTERS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
"""S/N at which factors are known, interpolated in ln S/N; the last is for spectra without noise."""
FEWEST = 30
"""Stars of a bin from which its factor is learned; with fewer it is that of the nearest bin."""
LARGEST = 30.0
"""Factors lie within this and its inverse."""
BISECTIONS = 40


def temperatures(residual: Tensor, variance: Tensor, label_err: Tensor, snr: Tensor) -> Tensor:
    """Return the factors by which predicted sigmas are to be multiplied.

    Of each bin of S/N and label it is the one for which the pulls, ``residual / sqrt(factor**2
    variance + label_err**2)``, have a mean square of 1.

    Parameters
    ----------
    residual : (n, n_label) tensor
        Prediction minus label; NaN where the label is missing.
    variance : (n, n_label) tensor
        Predicted, of the same unit squared.
    label_err : (n, n_label) tensor
        1 sigma of the labels; 0 or NaN where unknown.
    snr : (n,) tensor

    Returns
    -------
    (n_center, n_label) tensor
        All 1 for a label without `FEWEST` stars in any bin.

    References
    ----------
    Temperature scaling, here for a regression: Guo et al. 2017, ICML, arXiv:1706.04599.

    Examples
    --------
    >>> residual = torch.tensor([2.0, -2.0]).repeat(20)[:, None]
    >>> one = torch.ones_like(residual)
    >>> temperatures(residual, one, 0 * one, 10 * one[:, 0])[1]
    tensor([2.])
    """
    centers = torch.tensor(SNR_CENTERS).log().to(snr)
    position = snr.clamp(1e-3, 1e6).log()
    nearest = (position[:, None] - centers).abs().argmin(dim=1)
    member = torch.nn.functional.one_hot(nearest, len(centers)).to(residual).T  # (n_center, n)
    there = torch.isfinite(residual)
    count = member @ there.to(residual)
    squares = torch.where(there, residual, 0.0).square()
    known = torch.nan_to_num(label_err).square()
    low = torch.full_like(count, -math.log(LARGEST))
    high = -low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        scaled = (2 * middle).exp()[nearest] * variance + known
        pull = member @ torch.where(there, squares / scaled.clamp(min=1e-30), 0.0)
        larger = pull > count  # the errors are too small yet
        low, high = torch.where(larger, middle, low), torch.where(larger, high, middle)
    return _filled(((low + high) / 2).exp(), count >= FEWEST)


def _filled(factor: Tensor, known: Tensor) -> Tensor:
    """Give unknown bins the factor of the nearest known one, the lower of two."""
    bins = torch.arange(len(factor), device=factor.device)
    distance = (bins[:, None] - bins).abs()[:, :, None].to(factor)  # (n_center, n_center, 1)
    nearest = torch.where(known[None], distance, torch.inf).argmin(dim=1)
    filled = factor.gather(0, nearest)
    return torch.where(known.any(dim=0), filled, 1.0)


def temperature_at(factors: Tensor, snr: Tensor) -> Tensor:
    """Return factors (n, n_label) at each S/N (n,); beyond the centers that of the last one.

    Examples
    --------
    >>> factors = torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0])[:, None]
    >>> temperature_at(factors, torch.tensor([1.0, 14.142136, torch.inf])).round(decimals=3)
    tensor([[1.0000],
            [1.5000],
            [2.0000]])
    """
    start, step = math.log(SNR_CENTERS[0]), math.log(SNR_CENTERS[1] / SNR_CENTERS[0])
    place = ((snr.clamp(1e-3, 1e6).log() - start) / step).clamp(0, len(SNR_CENTERS) - 1)
    below = place.floor().clamp(max=len(SNR_CENTERS) - 2)
    share = (place - below)[:, None]
    index = below.long()
    return factors[index] * (1 - share) + factors[index + 1] * share
