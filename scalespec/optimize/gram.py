"""The Hessian of models that end in a linear layer, without a derivative of any pixel.

With flux = W a(x) + b and weights that vary slowly, J^T W J = M^T G M, where M = da/dx is small and
G = W^T diag(w) W is a sum over blocks of wavelength of each block's mean weight times its own Gram
matrix, computed once per model. Only the path of a search depends on it, and the covariance by the
scatter of weights within a block; chi2 and gradient are exact elsewhere.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from scalespec.optimize import fused
from scalespec.optimize.matmul import linear
from scalespec.optimize.normalization import Renormalization
from scalespec.optimize.objective import Objective, output_layer
from scalespec.optimize.shift import Shift

N_BLOCK = 32
_CACHED_STARS = 32  # whose Gram matrices are used while they are in the cache
_SAMPLES = 64  # label sets all over the box that say in which directions the features move
PATH_LOSS, ERROR_LOSS = 1e-3, 1e-4
"""Parts of the squared derivatives that a search, and that errors may do without."""


@dataclass(frozen=True)
class BlockGram:
    """Gram matrices of one model's last layer by blocks of wavelength.

    Attributes
    ----------
    layer : torch.nn.Linear
        The model's last.
    reduction : (r, H)
        Takes features to the r combinations of them that matter.
    grams : (r * r, N_BLOCK)
        Gram matrix of each block for weight 1.
    edges : tuple of int
        Block k is pixels ``[edges[k], edges[k + 1])``.
    """

    layer: torch.nn.Linear
    reduction: Tensor
    grams: Tensor
    edges: tuple[int, ...]

    @classmethod
    def of(cls, objective: Objective, *, loss: float = 0.0) -> Self | None:
        """Return the Gram matrices of an objective; None if its derivatives must be formed.

        Features are reduced to combinations that keep all but `loss` of the squared derivatives.

        They must where the model does not end in a linear layer, or where a continuum is
        marginalized or line widths are free: those change derivatives beyond a weight.
        """
        layer = output_layer(objective.model)
        smoothed = isinstance(objective.continuum, Renormalization)
        if layer is None or objective.broadening or not (objective.continuum is None or smoothed):
            return None
        weight = layer.weight.detach()
        if isinstance(objective.continuum, Renormalization):
            weight = _renormalized(objective, objective.continuum, weight)
        reduction, inverse = _reduction(objective, weight, loss)
        reduced = weight @ inverse  # (P, r)
        edges = np.linspace(0, len(weight), min(N_BLOCK, len(weight)) + 1).astype(int)
        grams = [(reduced[a:b].T @ reduced[a:b]).flatten() for a, b in pairwise(edges)]
        stacked = torch.stack(grams, dim=1).contiguous()
        return cls(layer, reduction.contiguous(), stacked, tuple(edges.tolist()))

    def coefficients(self, weight: Tensor) -> Tensor:
        """(n, P) weights -> (n, N_BLOCK) their means over blocks."""
        total = torch.nn.functional.pad(weight.double().cumsum(dim=1), (1, 0))
        edges = torch.tensor(self.edges, device=weight.device)
        width = (edges[1:] - edges[:-1]).to(weight)
        return (total[:, edges[1:]] - total[:, edges[:-1]]).to(weight) / width

    def hessian(self, objective: Objective, parameters: Tensor, rest: Tensor, c: Tensor) -> Tensor:
        """(n, Q) parameters, flux at rest there, block means -> (n, Q, Q) float64."""
        n, size = len(parameters), len(self.reduction)
        moves = _feature_moves(objective, objective.labels(parameters))
        small = linear(moves.flatten(0, 1), self.reduction).view(n, -1, size)
        by_label = small.new_empty((n, small.shape[1], small.shape[1]))
        for begin in range(0, n, _CACHED_STARS):
            rows = slice(begin, begin + _CACHED_STARS)
            gram = linear(c[rows], self.grams).view(-1, size, size)
            torch.bmm(torch.bmm(small[rows], gram), small[rows].mT, out=by_label[rows])
        crossed, by_line = _line_part(objective, self.layer, objective.shift(parameters), rest)
        by_both = torch.einsum("nkh,dnh->nkd", moves, crossed)
        top = torch.cat([by_label, by_both], dim=2)
        bottom = torch.cat([by_both.transpose(1, 2), by_line], dim=2)
        return objective.completed(torch.cat([top, bottom], dim=1).double())


def _feature_moves(objective: Objective, x: Tensor) -> Tensor:
    """(n, K) scaled labels -> (n, K, H) derivatives of the features."""
    moves: Tensor = objective.model.features_and_jacobian(x, linear)[1]  # type: ignore[attr-defined]
    return moves


def _line_part(
    objective: Objective, layer: torch.nn.Linear, shift: Shift, rest: Tensor
) -> tuple[Tensor, Tensor]:
    """Return W^T of the weighted velocity derivatives (D, n, H), and their products (n, D, D)."""
    scale = rest.new_tensor(objective.line_scale())
    n, n_line = len(rest), len(scale)
    if rest.device.type == "cpu":
        back = torch.empty((n_line, *rest.shape), dtype=rest.dtype)
        product = torch.empty((n, n_line, n_line), dtype=torch.float64)
        data = (objective.weight.numpy(), objective.rows.numpy())
        fused.pull_slopes(rest.numpy(), shift.arrays(), *data, (back.numpy(), product.numpy()))
    else:
        slopes, (_, weight) = shift.forward_slopes(rest), objective.data()
        weighted = slopes * weight[:, None]
        product = torch.bmm(weighted, slopes.transpose(1, 2)).double()
        back = torch.stack([shift.pull(weighted[:, d]) for d in range(n_line)])
    crossed = linear(back.flatten(0, 1), layer.weight.T).view(n_line, n, -1)
    return crossed * scale[:, None, None], product.to(rest) * scale * scale[:, None]


def _renormalized(objective: Objective, continuum: Renormalization, weight: Tensor) -> Tensor:
    """(P, H) last layer -> its renormalized self, around the spectrum in the middle of the box."""
    middle = objective.rest(weight.new_zeros((1, objective.n_label)))
    whole = Renormalization.of(continuum.smoother, torch.ones_like(middle))
    _, columns = whole.columns(middle, weight.T[None].contiguous(), middle, middle)
    return columns[0].T.contiguous()


def _reduction(objective: Objective, weight: Tensor, loss: float) -> tuple[Tensor, Tensor]:
    """Return (r, H) and (H, r): down to the feature combinations that derivatives use, and back.

    Principal components of W da/dx over the box, every label's derivative of unit length: weak
    labels count as strong ones do.
    """
    if loss == 0:
        return torch.eye(weight.shape[1]).to(weight), torch.eye(weight.shape[1]).to(weight)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((_SAMPLES, objective.n_label), generator=generator) - 0.5
    moves = _feature_moves(objective, x.to(weight))
    moves = moves.flatten(0, 1).double()
    gram = (weight.T @ weight).double()
    length = torch.einsum("sh,hg,sg->s", moves, gram, moves).clamp(min=0).sqrt()
    moves = moves[length > 0] / length[length > 0, None]
    spread = moves.T @ moves / max(len(moves), 1)  # (H, H)
    values, vectors = torch.linalg.eigh(gram)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    energy, components = torch.linalg.eigh(root @ spread @ root)
    lost = energy.clamp(min=0).cumsum(0) / energy.clamp(min=0).sum()
    keep = components[:, lost > loss]
    tiny = values.max() * 1e-12
    inverse_root = (vectors * values.clamp(min=tiny).rsqrt()) @ vectors.T
    return (keep.T @ root).to(weight), (inverse_root @ keep).to(weight)
