"""Uncertainties made to mean what they say: scaled by what spectra held back tell of them."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.models.degrade import spectrum_snr
from scalespec.models.regressor import FloatArray, Sample

SNR_CENTERS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)
"""S/N at which factors are known, interpolated in ln S/N; the last is for spectra without noise.
The first are so low because flux that is counted from its least value has less of it."""
STEP = 0.15
"""Factors of neighboring centers differ by about this, in their logarithm: what is expected before
any star was seen. 22 stars say as much."""
LEVEL = 3.0
"""Of the logarithm of factors: next to nothing is expected of that, and a few stars say more."""
SHARPNESS = 0.3
"""Powers of predicted sigmas are about 1, within this."""
SUREST = 0.005
"""Part of the stars held back whose sigmas, for their S/N, are less than the least believed."""
LEAST_VARIANCE = 1e-12
LONGEST_STEP = 1.0
"""Of a parameter, all of which are logarithms or powers."""
MOST_STEPS = 50
DONE = 1e-6


class ErrorScale(torch.nn.Module):
    """What predicted sigmas of each label are multiplied by.

    ``ln factor = t(S/N) + (p - 1) (ln sigma - typical(S/N))``: a factor that changes with S/N, and
    a power `p` of the predicted sigma about its typical value. A network that has learned its
    training spectra by heart tells sure stars from unsure ones wrongly: then the power is small,
    and all stars of an S/N are given nearly the same sigma. No star is thought surer than
    `SUREST` of those held back are: strange spectra may be given any sigma at all.

    Parameters
    ----------
    n_label : int

    References
    ----------
    Temperature scaling, here for a regression: Guo et al. 2017, ICML, arXiv:1706.04599; a power
    beside the factor: Platt 1999, in Advances in Large Margin Classifiers, 61.
    """

    level: Tensor
    typical: Tensor
    power: Tensor
    least: Tensor

    def __init__(self, n_label: int) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(len(SNR_CENTERS), n_label))
        self.register_buffer("typical", torch.zeros(len(SNR_CENTERS), n_label))
        self.register_buffer("power", torch.ones(n_label))
        self.register_buffer("least", torch.full((n_label,), -torch.inf))

    def forward(self, variance: Tensor, snr: Tensor) -> Tensor:
        """Return the factors (n, n_label) of sigmas whose squares are `variance`, at S/N (n,)."""
        share = shares(snr)
        with torch.autocast(snr.device.type, enabled=False):  # logarithms: roundings would show
            away = 0.5 * variance.clamp(min=LEAST_VARIANCE).log() - share @ self.typical
            believed = away.maximum(self.least)
            return (share @ self.level + self.power * believed - away).exp()

    def learn(
        self,
        residual: Tensor,
        variance: Tensor,
        label_err: Tensor,
        snr: Tensor,
        weight: Tensor | None = None,
    ) -> None:
        """Find the most probable factors: Gaussian residuals, and little change with S/N.

        Where stars are many, pulls ``residual / sqrt((factor sigma)**2 + label_err**2)`` have a
        mean square of 1 about every center; where they are few, its neighbors' factors hold. A
        label that no star has keeps its factors.

        Parameters
        ----------
        residual : (n, n_label) tensor
            Prediction minus label; NaN where the label is missing.
        variance : (n, n_label) tensor
            Predicted, of the same unit squared.
        label_err : (n, n_label) tensor
            1 sigma of the labels; 0 or NaN where unknown.
        snr : (n,) tensor
        weight : (n,) tensor, optional
            How much each spectrum counts: a star that is there several times says little more.

        Examples
        --------
        >>> residual = torch.tensor([2.0, -2.0]).repeat(2000)[:, None]
        >>> scale, one = ErrorScale(1), torch.ones_like(residual)
        >>> scale.learn(residual, one, 0 * one, 10 * one[:, 0])
        >>> scale(one[:1], torch.tensor([10.0])).round(decimals=2)
        tensor([[2.]])
        """
        share = shares(snr.double())
        heavy = torch.ones_like(snr) if weight is None else weight
        for k in range(residual.shape[1]):
            there = torch.isfinite(residual[:, k])
            log_sigma = 0.5 * variance[there, k].double().clamp(min=LEAST_VARIANCE).log()
            known = share[there]
            square = residual[there, k].double().square()
            error = torch.nan_to_num(label_err[there, k].double()).square()
            if not len(log_sigma):
                continue
            typical = _typical(log_sigma, known, heavy[there].double())
            away = log_sigma - known @ typical
            least = away.quantile(SUREST)
            believed = away.maximum(least)
            design = torch.cat([known, believed[:, None]], dim=1)
            start = known @ typical + believed
            found = _most_probable(design, start, square, error, heavy[there].double())
            self.level[:, k], self.typical[:, k] = found[:-1], typical
            self.power[k], self.least[k] = 1 + found[-1], least

    def of(self, variance: NDArray[np.floating], flux: FloatArray, ivar: FloatArray) -> FloatArray:
        """Return the factors (n, n_label) of spectra (n, n_pixel), see `forward`."""
        snr = spectrum_snr(torch.from_numpy(flux), torch.from_numpy(ivar))
        with torch.no_grad():
            factor: FloatArray = self(torch.from_numpy(variance.astype(np.float32)), snr).numpy()
        return factor

    def learn_of(
        self, residual: NDArray[np.floating], variance: NDArray[np.floating], held: Sample
    ) -> None:
        """Learn from residuals and variances (n, n_label) of spectra held back, see `learn`."""
        there = np.where(np.isfinite(variance), residual, np.nan)
        snr = spectrum_snr(torch.from_numpy(held.flux), torch.from_numpy(held.ivar))
        known = [torch.from_numpy(np.asarray(a)) for a in (there, variance, held.label_err)]
        self.learn(known[0], known[1], known[2], snr)


def shares(snr: Tensor) -> Tensor:
    """Return how much each center has to say at each S/N: (n, n_center), rows of sum 1.

    Examples
    --------
    >>> shares(torch.tensor([1.0, 3.535534, torch.inf])).round(decimals=2)[:, [0, 1, 2, -1]]
    tensor([[1.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000, 1.0000]])
    """
    start, step = math.log(SNR_CENTERS[0]), math.log(SNR_CENTERS[1] / SNR_CENTERS[0])
    place = ((snr.clamp(1e-3, 1e6).log() - start) / step).clamp(0, len(SNR_CENTERS) - 1)
    centers = torch.arange(len(SNR_CENTERS), device=snr.device)
    return (1 - (place[:, None] - centers).abs()).clamp(min=0)


def _expected(like: Tensor, *, power: bool) -> Tensor:
    """Return the precision of what is expected of the parameters: a walk in S/N, and the power."""
    n = len(SNR_CENTERS)
    walk = torch.diff(torch.eye(n), dim=0) / STEP
    level = torch.full((1, n), 1 / n / LEVEL)
    rows = torch.cat([walk, level]).to(like)
    precision = rows.T @ rows
    if power:
        precision = torch.nn.functional.pad(precision, (0, 1, 0, 1))
        precision[-1, -1] = SHARPNESS**-2
    return precision


def _typical(log_sigma: Tensor, share: Tensor, weight: Tensor) -> Tensor:
    """Return the mean log sigma at each center, drawn to its neighbors' where stars are few."""
    weighted = share.T * weight
    middle = log_sigma.mean()
    matrix = weighted @ share + _expected(share, power=False)
    away: Tensor = torch.linalg.solve(matrix, weighted @ (log_sigma - middle))
    return middle + away


def _most_probable(
    design: Tensor, log_sigma: Tensor, square: Tensor, error: Tensor, weight: Tensor
) -> Tensor:
    """Return parameters that log sigma plus `design` times them makes most probable.

    By Fisher scoring, each step halved until it helps.
    """
    precision = _expected(design, power=True)

    def at(found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = (2 * (log_sigma + design @ found)).exp()
        total = own + error
        loss = 0.5 * (weight * (square / total + total.log())).sum()
        return loss + 0.5 * found @ precision @ found, own / total, total

    found = design.new_zeros(design.shape[1])
    loss, share, total = at(found)
    for _ in range(MOST_STEPS):
        slope = design.T @ (weight * share * (square / total - 1)) - precision @ found
        curvature = (design.T * (2 * weight * share.square())) @ design + precision
        step = torch.linalg.solve(curvature, slope)
        step *= min(1.0, LONGEST_STEP / max(float(step.abs().max()), 1e-300))
        for _ in range(MOST_STEPS):
            tried = at(found + step)
            if bool(tried[0] <= loss):
                break
            step /= 2
        else:
            break
        found, (loss, share, total) = found + step, tried
        if float(step.abs().max()) < DONE:
            break
    return found
