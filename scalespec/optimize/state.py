"""Where the searches of a batch stand, and what they do next."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from scalespec.optimize.kink import Pieces
from scalespec.optimize.objective import Point
from scalespec.optimize.quadratic import promised_gain
from scalespec.optimize.rows import Rows

RIVAL_CHI2 = 4.0
"""By so much less good may another optimum be, and still be the true one."""
_THERE, _THERE_CHI2 = 0.3, 1.0  # sigma^2 from the best end, and promised: the same will be found


@dataclass(frozen=True)
class State(Rows):
    """Where each search stands: parameters, chi2 and normal equations there, damping, flags.

    `hessian` belongs to the parameters only where `fresh`; `exact` ones come from every pixel's
    derivatives. `blocks` are the means of the weights over the blocks of a search's Gram matrices,
    `pieces` what was met beyond kinks.
    """

    parameters: Tensor
    lower: Tensor
    upper: Tensor
    chi2: Tensor
    gradient: Tensor
    hessian: Tensor
    damping: Tensor
    n_steps: Tensor
    status: Tensor
    held: Tensor
    n_fresh: Tensor
    fresh: Tensor
    exact: Tensor
    blocks: Tensor
    pieces: Pieces

    @property
    def finite(self) -> Tensor:
        """(n,) bool: the model gives numbers here."""
        return self.chi2.isfinite() & self.hessian.isfinite().flatten(1).all(dim=1)

    def room(self) -> tuple[Tensor, Tensor]:
        """(n, Q), (n, Q) float64: the least and the greatest step."""
        here = self.parameters.double()
        return self.lower.double() - here, self.upper.double() - here

    def moved(self, step: Tensor) -> Self:
        """Take a `step` (n, Q) and believe what the normal equations promise for it."""
        curved = torch.bmm(self.hessian, step[:, :, None]).squeeze(-1)
        moved = (self.parameters.double() + step).to(self.parameters)
        return replace(
            self,
            parameters=moved.clamp(self.lower, self.upper),
            chi2=self.chi2 - promised_gain(self.hessian, self.gradient, step),
            gradient=self.gradient + curved,
        )

    def distance(self, parameters: Tensor) -> Tensor:
        """(n,) squared distance of `parameters` (n, Q) from these, in sigma."""
        away = (parameters - self.parameters).double()
        curved: Tensor = torch.bmm(self.hessian, away[:, :, None]).squeeze(-1)
        return (away * curved).sum(dim=1)

    def with_piece(self, kink: Tensor, accepted: Tensor, trial: Tensor, point: Point) -> Pieces:
        """Return the pieces with the side of a `kink` that a star does not stay on."""
        moved = accepted[:, None]
        return self.pieces.with_another(
            kink,
            torch.where(moved, self.parameters, trial),
            torch.where(accepted, self.chi2, point.chi2),
            torch.where(moved, self.gradient, point.gradient),
        )


@dataclass(frozen=True)
class Plan(Rows):
    """The next step of each star, and the falls of chi2 that it and the undamped one promise."""

    damped: Tensor
    promise: Tensor
    less: Tensor
    bent: Tensor


def given_up(state: State, plan: Plan, best: State) -> Tensor:
    """(n,) bool: the search is on its way to `best`, or to what is too poor to be a rival of it."""
    distance = best.distance(state.parameters + plan.damped)
    there = (distance < _THERE) & (plan.promise < _THERE_CHI2)
    poor = (state.n_steps > 0) & (state.chi2 - plan.promise > best.chi2 + RIVAL_CHI2)
    return (there | poor) & (state.chi2 > best.chi2)
