"""Steps where the model has kinks: chi2 as the greatest of a few parabolas.

Units that are linear in pieces (leaky ReLU) give chi2 kinks, and most least values lie in one.
There a step gains less than its gradient promised, or nothing; but the gradient beyond the kink is
that of another piece of chi2. With one Hessian for all pieces, the least of the greatest of them is
the greatest value of a concave parabola of their shares, with as many unknowns as there are pieces.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Self

import torch
from torch import Tensor

from scalespec.optimize.matmul import whole
from scalespec.optimize.quadratic import free_part
from scalespec.optimize.rows import Rows

PIECES = 3
"""Other pieces remembered, the latest ones."""
_RIDGE = 1e-9  # of a matrix: pieces can be the same
_NO_SHARE = 1e-9
_ROUNDS = 8  # that hold parameters at bounds or let them go


@dataclass(frozen=True)
class Pieces(Rows):
    """Where each star met other pieces of its chi2.

    Attributes
    ----------
    parameters : (n, J, Q)
    chi2 : (n, J) float64
        Infinite where there is none.
    gradient : (n, J, Q) float64
        Half the gradient of chi2 there.
    """

    parameters: Tensor
    chi2: Tensor
    gradient: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Self:
        """No star of parameters like (n, Q) has met one."""
        zero = like.new_zeros((len(like), PIECES, like.shape[1]))
        nowhere = zero.new_full(zero.shape[:2], torch.inf, dtype=torch.float64)
        return cls(zero, nowhere, zero.double())

    @property
    def met(self) -> Tensor:
        """(n,) bool: there is one."""
        return self.chi2.isfinite().any(dim=1)

    @property
    def full(self) -> Tensor:
        """(n,) bool: one more would take the place of another."""
        return self.chi2[:, -1].isfinite()

    def with_another(
        self, rows: Tensor, parameters: Tensor, chi2: Tensor, gradient: Tensor
    ) -> Self:
        """Remember one more where `rows` (n,) bool says so, in the place of the oldest."""

        def pushed(all_: Tensor, new: Tensor) -> Tensor:
            moved = torch.cat([new[:, None], all_[:, :-1]], dim=1)
            return torch.where(rows.view(-1, *[1] * (all_.dim() - 1)), moved, all_)

        return replace(
            self,
            parameters=pushed(self.parameters, parameters),
            chi2=pushed(self.chi2, chi2),
            gradient=pushed(self.gradient, gradient),
        )

    def seen_from(
        self, parameters: Tensor, chi2: Tensor, gradient: Tensor, hessian: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(n, J + 1) values here and (n, J + 1, Q) half gradients of all pieces, its own first.

        Values are those above chi2. A piece that is greater than chi2 here is none: its value is
        minus infinity.
        """
        away = (self.parameters - parameters[:, None]).double()
        curved = torch.bmm(away, hessian)
        values = self.chi2 - chi2[:, None] + (away * (curved - 2 * self.gradient)).sum(dim=2)
        values = torch.where(values <= 0, values, -torch.inf)
        values = torch.nn.functional.pad(values, (1, 0))
        return values, torch.cat([gradient[:, None], self.gradient - curved], dim=1)


def bent_step(
    values: Tensor, gradients: Tensor, hessian: Tensor, room: tuple[Tensor, Tensor], first: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Step to the least of the greatest of some parabolas.

    Parameters
    ----------
    values : (n, J) float64
        Of all pieces here, 0 for the first one; minus infinity for none.
    gradients : (n, J, Q) float64
        Half their gradients here.
    hessian : (n, Q, Q) float64
        Of all.
    room : (n, Q), (n, Q)
        The least and the greatest step.
    first : (n, Q)
        Steps to the first one's least value within the room; what they hold at a bound stays there.

    Returns
    -------
    step : (n, Q) float64
    promise : (n,) float64
        Fall of the greatest one.
    bent : (n,) bool
        Whether other pieces matter.

    Examples
    --------
    One falls to the right, the other one to the left, from 1.5 less: they meet at 0.5.

    >>> values = torch.tensor([[0.0, -1.5]]).double()
    >>> gradients = torch.tensor([[[-1.0], [0.5]]]).double()
    >>> hessian, room = torch.eye(1)[None].double(), torch.full((1, 1), 9.0).double()
    >>> step, promise, bent = bent_step(values, gradients, hessian, (-room, room), room / 9)
    >>> round(step.item(), 6), round(promise.item(), 6), bent.item()
    (0.5, 0.75, True)
    """
    low, high = room
    pinned = torch.where(first <= low, -1, 0) + torch.where(first >= high, 1, 0)
    step, shares = first.clone(), torch.zeros_like(values)
    rows = torch.arange(len(first), device=first.device)
    for _ in range(_ROUNDS):
        pins, a, b = pinned[rows], low[rows], high[rows]
        edge = torch.where(pins < 0, a, torch.where(pins > 0, b, 0.0))
        own = values[rows], gradients[rows], hessian[rows]
        moved, shared = _least(*own, edge, pins == 0)
        slope = torch.bmm(shared[:, None], own[1])[:, 0]
        slope = slope + torch.bmm(own[2], moved[:, :, None]).squeeze(-1)
        left = torch.where(moved < a, -1, torch.where(moved > b, 1, 0))
        kept = torch.where((pins * slope > 0) & (a < b), 0, pins)
        new = torch.where(pins == 0, left, kept)
        step[rows], shares[rows], pinned[rows] = moved, shared, new
        rows = whole(rows[(new != pins).any(dim=1)])
        if not len(rows):
            break
    step = step.clamp(*room)
    promise, alone = (fall(values, gradients, hessian, s) for s in (step, first))
    bent = (shares[:, 0] < 1 - _NO_SHARE) & (promise > alone)
    return (
        torch.where(bent[:, None], step, first),
        torch.where(bent, promise, alone),
        bent,
    )


def _least(
    values: Tensor, gradients: Tensor, hessian: Tensor, edge: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the step (n, Q) to the least of the greatest with some parameters held at an edge.

    And the pieces' shares (n, J) in it.
    """
    pinned = torch.where(free, 0.0, edge)
    pull = torch.bmm(hessian, pinned[:, :, None]).squeeze(-1)
    at_pins = values + ((2 * gradients + pull[:, None]) * pinned[:, None]).sum(dim=2)
    slopes = torch.where(free[:, None], gradients + pull[:, None], 0.0)
    matrix = free_part(hessian, free)
    matrix.diagonal(dim1=1, dim2=2).mul_(1 + _RIDGE)
    factor, _ = torch.linalg.cholesky_ex(matrix)
    moves = -torch.cholesky_solve(slopes.mT, factor).mT  # of each piece to its own least
    shares = _shares(-torch.bmm(slopes, moves.mT), at_pins)
    return pinned + torch.bmm(shares[:, None], moves)[:, 0], shares


def fall(values: Tensor, gradients: Tensor, hessian: Tensor, step: Tensor) -> Tensor:
    """(n,) how much lower the greatest parabola is after a `step` (n, Q)."""
    heights = values + 2 * (gradients * step[:, None]).sum(dim=2)
    curved = torch.bmm(hessian, step[:, :, None]).squeeze(-1)
    return -(heights.amax(dim=1) + (step * curved).sum(dim=1))


def _shares(curvature: Tensor, values: Tensor) -> Tensor:
    """Maximize ``values.s - s.curvature.s`` over shares s >= 0 of sum 1: (n, J).

    All sets of pieces that may have a share are tried; with four others there are 31.
    """
    n, size = values.shape
    sets = torch.tensor(list(product((False, True), repeat=size))[1:], device=values.device)
    there = values > -torch.inf
    values = torch.where(there, values, 0.0)
    allowed = ~(sets[None] & ~there[:, None]).any(dim=2)  # (n, S)
    ridge = 1e-12 + _RIDGE * curvature.diagonal(dim1=1, dim2=2).amax(dim=1)
    matrix = 2 * (curvature + ridge[:, None, None] * torch.eye(size).to(curvature))
    both = sets[:, :, None] & sets[:, None, :]
    system = torch.zeros((n, len(sets), size + 1, size + 1)).to(curvature)
    system[:, :, :size, :size] = torch.where(both, matrix[:, None], 0.0)
    system[:, :, :size, :size] += torch.diag_embed((~sets).to(curvature))
    system[:, :, size, :size] = system[:, :, :size, size] = sets.to(curvature)
    right = torch.where(sets, values[:, None], 0.0)
    right = torch.nn.functional.pad(right, (0, 1), value=1.0)
    solved, _ = torch.linalg.solve_ex(system, right[..., None])
    shares = solved[..., :size, 0]
    inside = allowed & (shares >= -1e-9).all(dim=2) & shares.isfinite().all(dim=2)
    shares = shares.clamp(min=0)
    shares = shares / shares.sum(dim=2, keepdim=True)
    heights = torch.einsum("nsj,nj->ns", shares, values) - torch.einsum(
        "nsj,njk,nsk->ns", shares, curvature, shares
    )
    best = torch.where(inside, heights, -torch.inf).argmax(dim=1)
    chosen: Tensor = shares[torch.arange(n, device=best.device), best]
    return chosen
