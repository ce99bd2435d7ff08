"""Batched Levenberg-Marquardt: steps of many stars at once, each with its own damping.

Chi2 and its gradient are exact at every step. The Hessian, which only shapes the path, comes from
wavelength blocks where the model allows it, and is kept while it predicts well.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from scalespec.optimize.gram import BlockGram
from scalespec.optimize.matmul import whole
from scalespec.optimize.objective import Objective
from scalespec.optimize.quadratic import JITTER, bounded_step, promised_gain
from scalespec.optimize.result import FitStatus

_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-4, 1e-6, 1e6
_HELD_DAMPING = 1e-2  # the least after a rejected step: smaller ones change no step
_KINK_DAMPING = 0.5  # from which a step that gains nothing is not one that is merely too long
_ACCEPTED, _REJECTED = 0.2, 8.0  # factors on the damping
_POOR = 0.25  # part of what a step promised, under which the next one is shorter
_HARMLESS_GAIN = 1.0  # of chi2: what a kink may withhold without a flag
_SMALL_GAIN = 0.1  # of chi2: what a refused step may leave
_FRESH_STEPS = 3  # accepted steps after each of which the Hessian is made anew
_HONEST = (0.7, 1.4)  # gain over promise within which an old Hessian still serves
_ROUNDS = 3  # searches begun again where the last Hessian promises more than the one before


@dataclass(frozen=True)
class SearchOptions:
    """How far a search goes: see `FitOptions`."""

    max_steps: int
    tolerance: float
    exact_covariance: bool


@dataclass(frozen=True)
class State:
    """Where each search stands: parameters, chi2 and normal equations there, damping, flags.

    `hessian` belongs to the parameters only where `fresh`; `exact` ones come from every pixel's
    derivatives. `blocks` are the means of the weights over the blocks of a search's Gram matrices.
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

    @property
    def finite(self) -> Tensor:
        """(n,) bool: the model gives numbers here."""
        return self.chi2.isfinite() & self.hessian.isfinite().flatten(1).all(dim=1)

    def take(self, rows: Tensor) -> Self:
        """Keep the chosen stars."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: Tensor, part: Self) -> None:
        """Write `part` into the chosen rows."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(part, f.name)


@dataclass(frozen=True)
class Search:
    """A search of one batch: `run` steps every star from its start until it is done."""

    gram: BlockGram | None
    last_gram: BlockGram | None
    options: SearchOptions

    @classmethod
    def of(cls, objective: Objective, options: SearchOptions) -> Self:
        """Prepare searches with one model and one kind of objective."""
        path, last = BlockGram.of(objective) or (None, None)
        exact = options.exact_covariance or objective.continuum is not None
        return cls(path, None if exact else last, options)

    def run(self, objective: Objective, first: Tensor, lower: Tensor, upper: Tensor) -> State:
        """Step every star until it is done; stars that are done leave the batch.

        Parameters
        ----------
        objective : Objective
            Of n stars.
        first : (n, Q)
            Parameters to begin with.
        lower, upper : (n, Q)
            Their bounds.

        Returns
        -------
        State
            With the Hessian at the parameters reached; rows that are not `finite` did not start.
        """
        n = len(first)
        rows = whole(torch.arange(n, device=first.device))
        if len(rows) > n:
            bounds = lower[rows], upper[rows]
            everyone = self.run(objective.take(rows), first[rows], *bounds)
            return everyone.take(torch.arange(n, device=first.device))
        state = self._begin(objective, first.clamp(lower, upper), lower, upper)
        active = torch.nonzero(state.finite).squeeze(1)
        for _ in range(_ROUNDS):
            self._descend(objective, state, active)
            active = self._finish(objective, state, active)
            if not len(active):
                break
        return state

    def _begin(self, objective: Objective, first: Tensor, lower: Tensor, upper: Tensor) -> State:
        point = objective.evaluate(first)
        blocks = first.new_zeros((len(first), 0))
        if self.gram is not None:
            blocks = self.gram.coefficients(objective.data()[1])
            hessian = self.gram.hessian(objective, first, blocks)
        else:
            hessian = objective.hessian(first)
        counter = torch.zeros(len(first), dtype=torch.int32, device=first.device)
        damping = torch.full_like(point.chi2, _FIRST_DAMPING)
        yes = torch.ones_like(counter, dtype=torch.bool)
        exact = yes if self.gram is None else ~yes
        return State(
            first.clone(), lower, upper, point.chi2, point.gradient, hessian, damping, counter,
            counter.clone(), ~yes, counter.clone(), yes, exact.clone(), blocks,
        )  # fmt: skip

    def _descend(self, objective: Objective, state: State, active: Tensor) -> None:
        """Step the `active` stars, in place, until the last one is done."""
        everyone, active = objective, whole(active)
        objective = everyone.take(active)
        while len(active):
            part, done = self._step(objective, state.take(active))
            state.put(active, part)
            if bool(done.any()):
                active = whole(active[~done])
                objective = everyone.take(active)

    def _step(self, objective: Objective, state: State) -> tuple[State, Tensor]:
        """Try one step for every star; return the new state and (n,) bool, which stars are done.

        A star is `near` when the undamped step, within the bounds, promises less than the
        tolerance. That step is then its last one, taken if it lowers chi2. It is `held` when only
        the damped step promises so little: it sits in a kink of the model, where the gradient
        promises what no step gives.
        """
        here = state.parameters.double()
        room = (state.lower.double() - here, state.upper.double() - here)
        quadratic = (state.hessian, state.gradient)
        newton = bounded_step(*quadratic, *room, damping=JITTER)
        damped = bounded_step(*quadratic, *room, damping=state.damping[:, None])
        promise = promised_gain(*quadratic, newton).abs()
        less = promised_gain(*quadratic, damped).abs()
        near = promise < self.options.tolerance
        held = ~near & (less < self.options.tolerance) & (state.damping >= _HELD_DAMPING)
        held &= state.fresh
        slow = ~near & (promise < _HARMLESS_GAIN)
        trial = here + torch.where(near[:, None], newton, damped)
        trial = trial.clamp(state.lower.double(), state.upper.double()).to(state.parameters)
        point = objective.evaluate(trial)
        gain = state.chi2 - point.chi2
        accepted = (gain > 0) & point.gradient.isfinite().all(dim=1)
        honest = (gain > _HONEST[0] * less) & (gain < _HONEST[1] * less)
        stale = ~state.fresh & ~accepted  # the old Hessian may be to blame, not the damping
        poor = gain < _POOR * less
        damping = torch.where(
            accepted & ~poor,
            (state.damping * _ACCEPTED).clamp(min=_LEAST_DAMPING),
            (state.damping * _REJECTED).clamp(min=_HELD_DAMPING),
        )
        damping = torch.where(stale, state.damping, damping)
        # In a kink steps gain next to nothing of what is promised; little is at stake.
        slow &= (state.damping >= _KINK_DAMPING) & torch.where(
            accepted, gain < self.options.tolerance, state.fresh & (promise < _SMALL_GAIN)
        )
        stalled = (held & (promise > _HARMLESS_GAIN)) | (damping > _MOST_DAMPING)
        held |= slow
        late = ~(near | held | stalled) & (state.n_steps + 1 >= self.options.max_steps)
        done = near | held | stalled | late
        new = replace(
            state,
            parameters=torch.where(accepted[:, None], trial, state.parameters),
            chi2=torch.where(accepted, point.chi2, state.chi2),
            gradient=torch.where(accepted[:, None], point.gradient, state.gradient),
            hessian=state.hessian.clone(),
            damping=damping,
            n_steps=state.n_steps + 1,
            status=(FitStatus.MAX_STEPS * late + FitStatus.STALLED * stalled).int(),
            held=held,
            fresh=state.fresh & ~accepted,
        )
        wanted = accepted & ((state.n_fresh < _FRESH_STEPS) | ~honest | state.exact)
        rows = torch.nonzero((wanted | stale) & ~done).squeeze(1)
        self._refresh(objective, new, rows)
        return new, done

    def _refresh(self, objective: Objective, state: State, rows: Tensor) -> None:
        """Make the Hessian of `rows` anew, in place."""
        if not len(rows):
            return
        exact = state.exact[rows]
        if self.gram is not None and not bool(exact.all()):
            some = whole(rows[~exact])
            state.hessian[some] = self.gram.hessian(
                objective.take(some), state.parameters[some], state.blocks[some]
            )
        if bool(exact.any()):
            some = rows[exact]
            state.hessian[some] = objective.take(some).hessian(state.parameters[some])
        state.n_fresh[rows] += 1
        state.fresh[rows] = True

    def _finish(self, objective: Objective, state: State, active: Tensor) -> Tensor:
        """Make the Hessian where the stars stopped; return those for which it promises more."""
        if not len(active):
            return active
        part, rows = state.take(active), torch.arange(len(active), device=active.device)
        objective = objective.take(active)
        stale = whole(rows[~(part.exact & part.fresh)])
        if self.last_gram is None:
            part.exact[:] = True
            self._refresh(objective, part, stale)
        else:
            some, chosen = part.parameters[stale], objective.take(stale)
            blocks = self.last_gram.coefficients(chosen.data()[1])
            part.hessian[stale] = self.last_gram.hessian(chosen, some, blocks)
            part.fresh[stale] = True
        state.put(active, part)
        here = part.parameters.double()
        room = (part.lower.double() - here, part.upper.double() - here)
        step = bounded_step(part.hessian, part.gradient, *room, damping=JITTER)
        more = promised_gain(part.hessian, part.gradient, step) > 2 * self.options.tolerance
        more &= (part.status == 0) & (part.n_steps < self.options.max_steps)
        return active[more & ~part.held]
