"""Batched Levenberg-Marquardt: steps of many stars at once, each with its own damping.

Chi2 and its gradient are exact at every step. The Hessian, which only shapes the path, comes from
wavelength blocks where the model allows it, and is kept while it predicts well. A step that gains
far less than it promised has crossed a kink of the model: what was met there bends the next one.
The last step, which promises less than the tolerance, is taken with the Hessian that errors are
made of and not looked at, unless it is long.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from scalespec.optimize.gram import BlockGram
from scalespec.optimize.kink import Pieces, bent_step, fall
from scalespec.optimize.matmul import whole
from scalespec.optimize.objective import Objective, Point
from scalespec.optimize.quadratic import JITTER, bounded_step, promised_gain
from scalespec.optimize.result import FitStatus
from scalespec.optimize.state import Plan, State, given_up

WINDOW = 512
"""Stars stepped together: others take the places of those that are done."""
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-4, 1e-6, 1e6
_HELD_DAMPING = 1e-2  # the least after a rejected step: smaller ones change no step
_ACCEPTED, _REJECTED = 0.2, 8.0  # factors on the damping
_KINK = 10.0  # of chi2: under which a step that gains little has met a kink
_POOR = 0.25  # part of what a step promised, under which the next one is shorter
_BELIEVED = 0.05  # of a parameter's range: a last step under it is taken without a look at chi2
_HARMLESS_GAIN = 1.0  # of chi2: what a kink may withhold without a flag
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
class Search:
    """A search of one batch: `run` steps every star from its start until it is done."""

    gram: BlockGram | None
    last_gram: BlockGram | None
    options: SearchOptions
    window: int = WINDOW

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

        Examples
        --------
        >>> from scalespec.models.base import EmulatorSpec
        >>> from scalespec.models.payne import Payne
        >>> _ = torch.manual_seed(0)
        >>> wavelength = 5000 * (1e-4 * torch.arange(64).double()).exp()
        >>> spec = EmulatorSpec("toy", ("teff",), [4e3], [6e3], wavelength.numpy())
        >>> model = Payne(spec, hidden=(4,))
        >>> flux = model.forward_scaled(torch.tensor([[0.2]])).detach()
        >>> given = {"rv_start": torch.zeros(1), "rv_range": 10.0}
        >>> objective = Objective.of(model, flux, torch.full_like(flux, 1e6), **given)
        >>> search = Search.of(objective, SearchOptions(30, 1e-3, False))
        >>> edge = torch.full((1, 2), 0.5)  # of the label and the velocity
        >>> with torch.no_grad():
        ...     state = search.run(objective, torch.zeros(1, 2), -edge, edge)
        >>> state.parameters.round(decimals=3)[:, 0], state.status
        (tensor([0.2000]), tensor([0], dtype=torch.int32))
        """
        return self.ended(objective, self.descend(objective, first, lower, upper))

    def descend(
        self,
        objective: Objective,
        first: Tensor,
        lower: Tensor,
        upper: Tensor,
        best: State | None = None,
    ) -> State:
        """Step as `run` does, but for the last step and the Hessian that errors are made of.

        Parameters
        ----------
        objective, first, lower, upper
            As of `run`.
        best : State, optional
            Where other searches of the same stars ended. One on its way there, or to what is too
            poor to be a rival, is given up.

        Returns
        -------
        State
        """
        n = len(first)
        rows = whole(torch.arange(n, device=first.device))
        if len(rows) > n:
            bounds = lower[rows], upper[rows]
            known = best and best.take(rows)
            everyone = self.descend(objective.take(rows), first[rows], *bounds, known)
            return everyone.take(torch.arange(n, device=first.device))
        state = self._begin(objective, first.clamp(lower, upper), lower, upper)
        self._descend(objective, state, torch.nonzero(state.finite).squeeze(1), best)
        return state

    def ended(self, objective: Objective, state: State) -> State:
        """Make the Hessians that errors are made of, in place, and steps that they still promise.

        Returns
        -------
        State
            The same one.
        """
        active = torch.nonzero(state.finite).squeeze(1)
        for _ in range(_ROUNDS):
            active = self._finish(objective, state, active)
            if not len(active):
                break
            self._descend(objective, state, active)
        else:
            self._finish(objective, state, active)
        return state

    def _begin(self, objective: Objective, first: Tensor, lower: Tensor, upper: Tensor) -> State:
        point = _evaluated(objective, first)
        blocks = first.new_zeros((len(first), 0))
        if self.gram is not None:
            blocks = self.gram.means(objective, first)
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
            Pieces.none(first),
        )  # fmt: skip

    def _descend(
        self, objective: Objective, state: State, waiting: Tensor, best: State | None = None
    ) -> None:
        """Step the `waiting` stars, in place, until all are done; some of them at a time."""
        everyone, chosen = objective, waiting[:0]
        while len(waiting):
            now, later = waiting[: self.window], waiting[self.window :]
            part = state.take(whole(now))
            plan = self._plan(part)
            far = (plan.promise >= self.options.tolerance)[: len(now)]
            state.held[now[(plan.bent[: len(now)]) & ~far]] = True
            if best is not None:
                far &= ~given_up(part, plan, best.take(whole(now)))[: len(now)]
            rows = whole(torch.nonzero(far).squeeze(1))
            going = now[far]
            if len(rows):
                active = now[rows]
                if not torch.equal(active, chosen):
                    chosen, objective = active, everyone.take(active)
                part, done = self._step(objective, part.take(rows), plan.take(rows))
                state.put(active, part)
                going = going[~done[: len(going)]]
            waiting = torch.cat([going, later])

    def _plan(self, state: State) -> Plan:
        """Return the next step of every star, and what it promises."""
        room, quadratic = state.room(), (state.hessian, state.gradient)
        damped = bounded_step(*quadratic, *room, damping=state.damping[:, None])
        less = promised_gain(*quadratic, damped).abs()
        newton, promise = damped.clone(), less.clone()
        rows = torch.nonzero(state.damping > _FIRST_DAMPING).squeeze(1)  # else they are the same
        if len(rows):
            own, (low, high) = (state.hessian[rows], state.gradient[rows]), room
            newton[rows] = bounded_step(*own, low[rows], high[rows], damping=JITTER)
            promise[rows] = promised_gain(*own, newton[rows]).abs()
        plan = Plan(damped, promise, less, torch.zeros_like(state.held))
        rows = whole(torch.nonzero(state.pieces.met).squeeze(1))
        if len(rows):
            self._bend(state, plan, newton, rows)
        return plan

    def _bend(self, state: State, plan: Plan, newton: Tensor, rows: Tensor) -> None:
        """Let the pieces of chi2 that `rows` have met count in their plans, in place."""
        part = state.take(rows)
        own = part.parameters, part.chi2, part.gradient, part.hessian
        seen, room = part.pieces.seen_from(*own), part.room()
        step, plan.promise[rows], plan.bent[rows] = bent_step(
            *seen, part.hessian, room, newton[rows]
        )
        some = whole(torch.nonzero(part.damping > _FIRST_DAMPING).squeeze(1))  # else the same
        if len(some):
            values, gradients = (of_all[some] for of_all in seen)
            raised = part.hessian[some]
            raised.diagonal(dim1=1, dim2=2).mul_(1 + part.damping[some, None])
            inside = room[0][some], room[1][some]
            step[some], _, _ = bent_step(values, gradients, raised, inside, plan.damped[rows[some]])
        plan.damped[rows], plan.less[rows] = step, fall(*seen, part.hessian, step)

    def _step(self, objective: Objective, state: State, plan: Plan) -> tuple[State, Tensor]:
        """Try one step for every star; return the new state and (n,) bool, which stars are done.

        A star is `held` when the damped step promises less than the tolerance and the undamped one
        more: it sits in a kink of the model, where the gradient promises what no step gives.
        """
        here, promise, less = state.parameters.double(), plan.promise, plan.less
        held = (less < self.options.tolerance) & (state.damping >= _HELD_DAMPING) & state.fresh
        trial = here + plan.damped
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
        kink = poor & (promise < _KINK)
        damping = torch.where(stale | (kink & ~state.pieces.full), state.damping, damping)
        stalled = (held & (promise > _HARMLESS_GAIN)) | (damping > _MOST_DAMPING)
        late = ~(held | stalled) & (state.n_steps + 1 >= self.options.max_steps)
        done = held | stalled | late
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
            pieces=state.with_piece(kink, accepted, trial, point),
        )
        wanted = accepted & ((state.n_fresh < _FRESH_STEPS) | ~honest | state.exact)
        wanted &= ~self._all_but_there(new)
        rows = torch.nonzero((wanted | stale) & ~done).squeeze(1)
        self._refresh(objective, new, rows)
        return new, done

    def _all_but_there(self, state: State) -> Tensor:
        """(n,) bool: the Hessian at hand promises so little that the last one may be made."""
        step = bounded_step(state.hessian, state.gradient, *state.room(), damping=JITTER)
        promise = promised_gain(state.hessian, state.gradient, step)
        return promise < self.options.tolerance

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
        """Make the Hessian where the stars stopped, and the last step that it promises, in place.

        Return those for which it promises too much for a step that nobody looks at.
        """
        unfinished = [active[:0]]
        for begin in range(0, len(active), WINDOW):
            rows = whole(active[begin : begin + WINDOW])
            part = state.take(rows)
            chosen = objective.take(rows)
            self._last_hessian(chosen, part)
            step = bounded_step(part.hessian, part.gradient, *part.room(), damping=JITTER)
            gain = promised_gain(part.hessian, part.gradient, step)
            free = (part.status == 0) & ~part.held
            more = free & (gain > 2 * self.options.tolerance)
            more &= part.n_steps < self.options.max_steps
            long = step.abs().amax(dim=1) > _BELIEVED
            last = free & ~more
            part = part.moved(torch.where((last & ~long)[:, None], step, 0.0))
            looked_at = whole(torch.nonzero(last & long).squeeze(1))
            if len(looked_at):
                other = part.take(looked_at).moved(step[looked_at])
                point = chosen.take(looked_at).evaluate(other.parameters)
                better = point.chi2 < part.chi2[looked_at]
                other = replace(other, chi2=point.chi2, gradient=point.gradient)
                part.put(looked_at[better], other.take(better))
            state.put(rows, part)
            n = min(WINDOW, len(active) - begin)
            unfinished.append(rows[:n][more[:n]])
        return torch.cat(unfinished)

    def _last_hessian(self, objective: Objective, part: State) -> None:
        """Make the Hessian that errors are made of, in place."""
        stale = ~(part.exact & part.fresh)
        if self.last_gram is None:
            part.exact[:] = True
        rows = whole(torch.nonzero(stale & ~part.exact).squeeze(1))
        if self.last_gram is not None and len(rows):
            chosen, parameters = objective.take(rows), part.parameters[rows]
            c, apart, part.exact[rows] = self.last_gram.blocks.weighed(chosen.data()[1])
            part.hessian[rows] = self.last_gram.hessian(chosen, parameters, c, apart)
            part.fresh[rows] = ~part.exact[rows]
            stale[rows] = ~part.fresh[rows]
        self._refresh(objective, part, torch.nonzero(stale & part.exact).squeeze(1))


def _evaluated(objective: Objective, parameters: Tensor) -> Point:
    """Evaluate some stars at a time."""
    n = len(parameters)
    if n <= WINDOW:
        return objective.evaluate(parameters)
    everyone = torch.arange(n, device=parameters.device)
    parts = [everyone[begin : begin + WINDOW] for begin in range(0, n, WINDOW)]
    points = [objective.take(rows).evaluate(parameters[rows]) for rows in parts]
    return Point(torch.cat([p.chi2 for p in points]), torch.cat([p.gradient for p in points]))
