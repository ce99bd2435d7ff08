"""Theory brought to what real stars show: the last layer of an emulator, corrected by regression.

A grid of synthetic spectra lacks lines and has wrong strengths, by some percent of flux and alike
in like stars. A few hundred stars whose labels are known show how. The last layer of a perceptron
is linear, so its correction has a closed form: ridge regression of their residuals on the last
hidden layer. It is drawn to none where stars say nothing: derivatives by labels that
no catalog has stay those of theory.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from scalespec.models.linear_emulator import LinearEmulator
from scalespec.models.scatter import measure_scatter

STRENGTHS = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e6)
"""Of the ridge that are tried; the last leaves a mean residual alone."""
FEWEST = 10
"""Stars."""
_COMPONENTS = 48  # of the hidden layer over the stars: the rest is far below the least ridge
_TRIED = 1024  # spectra, evenly over all, that strengths are compared on
_NUMBERS = 1 << 24  # in memory at a time
_RIDGE = 1e-9
_CLIP = 6.0  # robust sigmas of a pixel as which residuals count at most
_FLOOR = 1e-3  # of flux: the first guess of what is left

Kind = TypeVar("Kind", bound=LinearEmulator)


@dataclass(frozen=True)
class Adapted:
    """What `adapt` found.

    Attributes
    ----------
    strength : float
        Of the ridge, in units of the mean star's square features; the best of `STRENGTHS`.
    residual : (n, n_pixel) tensor
        What the corrected emulator would leave of each star, had it not learned from that one.
    """

    strength: float
    residual: Tensor


def adapt(model: Kind, x: Tensor, residual: Tensor, ivar: Tensor) -> tuple[Kind, Adapted]:
    """Return the emulator with its last layer corrected by what it leaves of real stars.

    Parameters
    ----------
    model : LinearEmulator
        Of theory; it stays as it is.
    x : (n, n_label) tensor
        Scaled labels of the stars, -0.5 to 0.5.
    residual : (n, n_pixel) tensor
        Their flux less the model's, with lines at rest and as the model is normalized.
    ivar : (n, n_pixel) tensor
        Of the noise in it; 0 where there is no information.

    Returns
    -------
    model, Adapted
        The model's scatter is what is left of stars that were not learned from.

    Raises
    ------
    ValueError
        If there are fewer than `FEWEST` stars, or the shapes do not agree.

    Notes
    -----
    Ridge regression with the kernel of the hidden layer is a Gaussian process whose mean is theory.
    Its strength is chosen by the squares of leave-one-out residuals, ``r / (1 - leverage)``, over
    all pixels; the mean residual is not held back.

    References
    ----------
    Leave-one-out residuals: Allen 1974, Technometrics 16, 125.

    Examples
    --------
    >>> import numpy as np
    >>> from scalespec.models.base import EmulatorSpec
    >>> from scalespec.models.payne import Payne
    >>> spec = EmulatorSpec("toy", ("teff",), [4e3], [6e3], 5000.0 + np.arange(30))
    >>> theory, x = Payne(spec, hidden=(8,)), torch.linspace(-0.5, 0.5, 40)[:, None]
    >>> truth = theory.forward_scaled(x).detach() - 0.05 - 0.1 * x  # lines that theory lacks
    >>> residual = truth - theory.forward_scaled(x).detach()
    >>> better, found = adapt(theory, x, residual, torch.full_like(residual, 1e8))
    >>> bool((better.forward_scaled(x) - truth).abs().max() < 2e-3)
    True
    """
    n = len(residual)
    if n < FEWEST:
        raise ValueError(f"{n} stars are too few to correct theory with: it wants {FEWEST}")
    if residual.shape != ivar.shape or residual.shape != (len(x), model.spec.n_pixel):
        raise ValueError(
            f"residual {tuple(residual.shape)} and ivar {tuple(ivar.shape)} should be of "
            f"{len(x)} stars and {model.spec.n_pixel} pixels"
        )
    left = _clipped(residual, ivar)
    excess = measure_scatter(left, ivar, _FLOOR, lambda own: own).square()
    weight = torch.where(ivar > 0, 1 / (1 / ivar + excess), 0.0).double()
    with torch.no_grad():
        basis = _Basis.of(model.features(x).double())
    few = torch.linspace(0, n - 1, min(n, _TRIED)).long()
    error = [
        sum(
            float((part.held_out.square() * weight[few][:, part.pixels].T).sum())
            for part in _solve(basis.rows[few], left[few], weight[few], strength)
        )
        for strength in STRENGTHS
    ]
    strength = STRENGTHS[error.index(min(error))]
    made, unseen = deepcopy(model), torch.empty_like(residual)
    with torch.no_grad():
        for part in _solve(basis.rows, left, weight, strength):
            weights, bias = basis.layer(part.solution)
            made.output.weight[part.pixels] += weights.to(made.output.weight)
            made.output.bias[part.pixels] += bias.to(made.output.bias)
            unseen[:, part.pixels] = part.held_out.T.to(unseen)
    made.scatter = measure_scatter(unseen, ivar, _FLOOR, lambda own: own).to(made.scatter)
    return made, Adapted(strength, unseen)


def _clipped(residual: Tensor, ivar: Tensor) -> Tensor:
    """Return residuals (n, n_pixel), 0 without information, no larger than is usual of a pixel."""
    used = ivar > 0
    usual = torch.where(used, residual, torch.nan).nanmedian(dim=0).values.nan_to_num()
    away = torch.where(used, residual - usual, 0.0)
    limit = torch.where(used, away.abs(), torch.nan).nanmedian(dim=0).values.nan_to_num()
    limit = _CLIP * 1.4826 * limit
    return torch.where(used, usual + away.clamp(-limit, limit), 0.0)


@dataclass(frozen=True)
class _Basis:
    """What the last hidden layer says of n stars, in a few numbers each.

    Attributes
    ----------
    rows : (n, 1 + r) float64
        1, then components, of mean square 1 over all of a star's.
    mean : (width,) float64
    axes : (r, width) float64
        Features less their mean are turned into components by these.
    """

    rows: Tensor
    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "_Basis":
        mean = features.mean(dim=0)
        away = features - mean
        scale = away.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
        axes = torch.linalg.svd(away, full_matrices=False)[2][:_COMPONENTS] / scale
        return cls(torch.cat([torch.ones_like(away[:, :1]), away @ axes.T], dim=1), mean, axes)

    def layer(self, solution: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (c, width) and biases (c,) of the layer for solutions (c, 1 + r)."""
        weights = solution[:, 1:] @ self.axes
        return weights, solution[:, 0] - weights @ self.mean


@dataclass(frozen=True)
class _Part:
    """Regressions of c pixels: solutions (c, 1 + r), and (c, n) residuals of stars held out."""

    pixels: slice
    solution: Tensor
    held_out: Tensor


def _solve(rows: Tensor, residual: Tensor, weight: Tensor, strength: float) -> Iterator[_Part]:
    """Regress residuals (n, n_pixel) on rows (n, 1 + r), some pixels at a time."""
    n, size = rows.shape
    at_once = max(1, _NUMBERS // (n * size))
    penalty = torch.full((size,), strength).to(rows)
    penalty[0] = _RIDGE  # the mean residual is not held back
    for begin in range(0, residual.shape[1], at_once):
        pixels = slice(begin, min(begin + at_once, residual.shape[1]))
        w, r = weight[:, pixels].T, residual[:, pixels].T.to(rows)
        mean = w.mean(dim=1).clamp(min=1e-30)
        weighed = (w / mean[:, None])[:, None] * rows.T  # (c, 1 + r, n)
        factor = torch.linalg.cholesky(weighed @ rows + penalty.diag())
        solution = torch.cholesky_solve(weighed @ r[..., None], factor)[..., 0]
        leverage = (weighed * torch.cholesky_solve(rows.T.expand_as(weighed), factor)).sum(dim=1)
        yield _Part(pixels, solution, (r - solution @ rows.T) / (1 - leverage).clamp(min=1e-3))
