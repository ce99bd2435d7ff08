"""Several searches of one star: the best end is kept, and what nearly is as good is not forgotten.

A second optimum of nearly the same chi2 may be the true one; how far away it is belongs to the
errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from scalespec.optimize.levenberg import Search
from scalespec.optimize.objective import Objective
from scalespec.optimize.quadratic import inverse
from scalespec.optimize.state import RIVAL_CHI2, State
from scalespec.optimize.trust import edges
from scalespec.optimize.winding import elsewhere

_RIVAL_DISTANCE = 9.0  # in sigma^2, from which it is another one
_SAME_CHI2 = 0.1  # within which two searches have found the same
_SAME_DISTANCE = 1.0  # in sigma^2, within which they were about to
_ENOUGH = 2  # hops in a row that may find the same
_HOP_SIGMA = 3.0


@dataclass(frozen=True)
class Optima:
    """The best optimum of each star, and the best of the others that were met.

    Attributes
    ----------
    best : State
    rival : (n, Q)
        Parameters of the other one.
    rival_chi2 : (n,) float64
        Its chi2; infinite if there is none.
    """

    best: State
    rival: Tensor
    rival_chi2: Tensor

    @classmethod
    def of(cls, best: State) -> Self:
        """Begin with the ends of one search."""
        return cls(best, best.parameters.clone(), torch.full_like(best.chi2, torch.inf))

    @property
    def several(self) -> Tensor:
        """(n,) bool: there is another optimum of nearly the same chi2."""
        near: Tensor = self.rival_chi2 - self.best.chi2 < RIVAL_CHI2
        return near & (self.best.distance(self.rival) > _RIVAL_DISTANCE)

    def spread(self) -> Tensor:
        """(n, Q, Q) float64: what another optimum adds to the covariance about the best one.

        Both count by the likelihood of their chi2, as if they were equally wide.
        """
        gap = (self.rival_chi2 - self.best.chi2).clamp(min=0)
        share = torch.where(self.several, torch.sigmoid(-0.5 * gap), 0.0)
        away = (self.rival - self.best.parameters).double()
        return share[:, None, None] * away[:, :, None] * away[:, None, :]

    def challenge(self, rows: Tensor, other: State) -> Tensor:
        """Put the ends of another search of `rows` where they are better, in place.

        Returns
        -------
        (n,) bool
            Which of them found the same as before.
        """
        here = self.best.take(rows)
        wins = (other.chi2 < here.chi2) & other.finite | ~here.finite
        same = (other.chi2 - here.chi2).abs() < _SAME_CHI2
        same |= ~wins & (here.distance(other.parameters) < _SAME_DISTANCE)
        total = here.n_steps + other.n_steps
        lost, winners, losers = replace(other), other.take(wins), here.take(wins)
        here.put(wins, winners)
        lost.put(wins, losers)
        here.n_steps[:] = total
        self.best.put(rows, here)
        self._remember(rows, here, lost)
        return same

    def _remember(self, rows: Tensor, best: State, lost: State) -> None:
        """Note the ends that lost where they are the best of the other optima."""
        kept = best.distance(self.rival[rows]) > _RIVAL_DISTANCE
        known = torch.where(kept, self.rival_chi2[rows], torch.inf)
        another = lost.finite & (lost.status == 0) & (lost.chi2 < known)
        another &= best.distance(lost.parameters) > _RIVAL_DISTANCE
        self.rival_chi2[rows] = torch.where(another, lost.chi2, known)
        self.rival[rows] = torch.where(another[:, None], lost.parameters, self.rival[rows])


def best_of(
    search: Search,
    objective: Objective,
    firsts: Sequence[Tensor],
    bounds: tuple[Tensor, Tensor],
    restarts: int,
    along: int | None = None,
) -> Optima:
    """Search from all starts, then again from near the best ends so far and all along a parameter.

    Parameters
    ----------
    search : Search
    objective : Objective
        Of n stars.
    firsts : sequence of (n, Q)
        Starts, at least one.
    bounds : (n, Q), (n, Q)
    restarts : int
        Most searches begun again; a star has no more when two in a row find the same.
    along : int, optional
        A parameter all over whose range every second one begins, in equal steps, whatever the
        others find.

    Returns
    -------
    Optima

    Raises
    ------
    ValueError
        If there is no start.

    Examples
    --------
    A line of depth 4 (a - 0.1)², a the scaled label: that of a = 0.25 is as deep at -0.05, and only
    a weak line elsewhere knows which it is. From the left alone the search ends at the wrong one,
    whose chi2 is that of the weak line: (0.02 (0.25 + 0.05) 100)² times its squares' sum, 5.3.

    >>> from types import SimpleNamespace
    >>> from scalespec.optimize.levenberg import SearchOptions
    >>> pixel = torch.arange(80.0)
    >>> line, weak = (torch.exp(-0.5 * ((pixel - c) / 3) ** 2) for c in (25, 55))
    >>> spec = SimpleNamespace(labels=("a",), minimum=[0.0], maximum=[1.0],
    ...                        wavelength=10 ** (3.7 + 1e-4 * pixel.double().numpy()))
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(80),
    ...     forward_scaled=lambda x: 1 - 4 * (x - 0.1) ** 2 * line - 0.02 * x * weak,
    ...     flux_and_jacobian=lambda x: (
    ...         1 - 4 * (x - 0.1) ** 2 * line - 0.02 * x * weak,
    ...         (-8 * (x - 0.1) * line - 0.02 * weak)[:, None]))
    >>> flux = model.forward_scaled(torch.tensor([[0.25]]))
    >>> objective = Objective.of(model, flux, torch.full((1, 80), 1e4), rv_start=torch.zeros(1),
    ...                          rv_range=0.0)
    >>> search = Search.of(objective, SearchOptions(50, 0.01, False))
    >>> left, right = torch.tensor([[-0.4, 0.0]]), torch.tensor([[0.4, 0.0]])
    >>> edges = torch.tensor([[-0.5, 0.0]]), torch.tensor([[0.5, 0.0]])
    >>> one = best_of(search, objective, [left], edges, 0)
    >>> both = best_of(search, objective, [left, right], edges, 0)
    >>> [round(x[0, 0].item(), 2) for x in (one.best.parameters, both.best.parameters, both.rival)]
    [-0.05, 0.25, -0.05]
    >>> round(both.rival_chi2.item(), 1), both.several.tolist()
    (1.9, [True])
    """
    if not firsts:
        raise ValueError("a search wants at least one start, got none")
    found = Optima.of(search.descend(objective, firsts[0], *bounds))
    best = found.best
    everyone = torch.arange(len(best.chi2), device=best.chi2.device)
    for first in firsts[1:]:
        found.challenge(everyone, search.descend(objective, first, *bounds, best))
    in_a_row = torch.zeros_like(best.n_steps)
    generator = torch.Generator().manual_seed(1)
    origin = best.parameters[:, along or 0].clone()
    free = (bounds[0] < bounds[1])[:, along or 0] & (along is not None)
    for turn in range(restarts):
        swept = free & bool(turn % 2)
        rows = everyone[best.finite & (swept | (in_a_row < _ENOUGH))]
        if not len(rows):
            continue
        here, (low, high) = best.take(rows), (bound[rows] for bound in bounds)
        start = _hop(here, torch.randn(best.parameters.shape[1], generator=generator))
        if along is not None and turn % 2:
            share = (turn + 1) / (2 * (restarts // 2 + 1))
            there = elsewhere(here, along, origin[rows], share, (low, high))
            start = torch.where(swept[rows, None], there, start)
        end = search.descend(objective.take(rows), start, low, high, here)
        hopped = torch.where(found.challenge(rows, end), in_a_row[rows] + 1, 0)
        in_a_row[rows] = torch.where(swept[rows], in_a_row[rows], hopped)
    so_far = best.n_steps.clone()
    best.n_steps.zero_()  # of all searches: they would leave the last steps no room
    search.ended(objective, best)
    best.n_steps.add_(so_far)
    return found


def _hop(state: State, direction: Tensor) -> Tensor:
    """Move from the optimum along `direction`, three sigma of the covariance long."""
    spread = inverse(state.hessian, edges(state).free)
    factor, _ = torch.linalg.cholesky_ex(spread + 1e-12 * torch.eye(spread.shape[1]).to(spread))
    step = _HOP_SIGMA * (factor @ direction.to(spread))
    moved: Tensor = step.clamp(-0.3, 0.3).to(state.parameters).nan_to_num(nan=0.0)
    return state.parameters + moved
