"""Several searches of one star: which end is kept, which is remembered, when it is enough."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.kink import Pieces
from scalespec.optimize.optima import Optima, best_of
from scalespec.optimize.result import FitStatus
from scalespec.optimize.state import Plan, State, given_up

SIGMA = 0.02


def ends(places: list[float], chi2: list[float], *, status: int = 0) -> State:
    """Ends of one search for n stars of one parameter, sigma 0.02."""
    n = len(places)
    x = torch.tensor(places, dtype=torch.float64)[:, None]
    none = torch.zeros(n, dtype=torch.int32)
    hessian = torch.full((n, 1, 1), SIGMA**-2, dtype=torch.float64)
    yes = torch.ones(n, dtype=torch.bool)
    return State(
        x, x * 0 - 0.5, x * 0 + 0.5, torch.tensor(chi2).double(), x * 0, hessian, none.double(),
        none + 1, none + status, ~yes, none.clone(), yes, yes.clone(), x[:, :0],
        Pieces.none(x),
    )  # fmt: skip


def after(searches: list[State]) -> Optima:
    found = Optima.of(searches[0])
    rows = torch.arange(len(searches[0].chi2))
    for other in searches[1:]:
        found.challenge(rows, other)
    return found


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_best_and_second_best_are_kept_in_any_order(order: tuple[int, ...]):
    """Optima at 0, 0.3 and -0.2 of chi2 10, 11 and 12; each is met twice."""
    met = [([0.0], [10.0]), ([0.3], [11.0]), ([-0.2], [12.0])]
    searches = [ends(*met[k]) for k in (*order, *order)]
    found = after(searches)
    assert float(found.best.parameters) == 0
    assert float(found.rival) == 0.3
    assert float(found.rival_chi2) == 11
    assert int(found.best.n_steps) == 6


def test_another_optimum_adds_its_distance_by_its_likelihood():
    found = after([ends([0.0, 0.1, 0.0], [10.0, 10.0, 10.0]), ends([0.3, 0.1, 0.3], [11, 10, 15])])
    assert found.several.tolist() == [True, False, False]  # no other; one that is too bad
    share = 1 / (1 + np.exp(0.5))  # of two, exp(-chi2 / 2) each
    wanted = np.array([share * 0.3**2, 0, 0])
    np.testing.assert_allclose(found.spread()[:, 0, 0].numpy(), wanted, rtol=1e-12)


def test_what_lies_within_three_sigma_is_the_same_optimum():
    found = after([ends([0.0, 0.0], [10.0, 10.0]), ends([2.9 * SIGMA, 3.1 * SIGMA], [10.5, 10.5])])
    assert found.several.tolist() == [False, True]


def test_searches_that_failed_are_no_rivals_and_never_win():
    bad = ends([0.3], [10.1], status=int(FitStatus.STALLED))
    lost = ends([0.4], [float("nan")])
    found = after([ends([0.0], [10.0]), bad, lost])
    assert not bool(found.several)
    assert float(found.best.parameters) == 0
    # One that did not start is no best end either.
    assert float(after([lost, ends([0.1], [20.0])]).best.chi2) == 20


def test_a_new_best_near_the_old_one_leaves_the_rival_as_it_is():
    found = after([ends([0.0], [10.0]), ends([0.3], [11.0]), ends([0.01], [9.5])])
    assert float(found.best.chi2) == 9.5
    assert float(found.rival) == 0.3


class Searching:
    """A search that ends where it is told; it counts the stars that each call is given."""

    def __init__(self, chi2: list[list[float]]) -> None:
        self.chi2 = chi2
        self.asked: list[int] = []
        self.last = 0  # stars whose last Hessians were asked for

    def descend(
        self, objective: "Rows", first: Tensor, low: Tensor, high: Tensor, best: State | None = None
    ) -> State:
        del first, low, high, best
        made = self.chi2[len(self.asked)]
        self.asked.append(len(objective.rows))
        return ends([0.0] * len(objective.rows), [made[k] for k in objective.rows])

    def ended(self, objective: "Rows", state: State) -> State:
        self.last = len(objective.rows)
        return state


class Rows(SimpleNamespace):
    def take(self, rows: Tensor) -> "Rows":
        return Rows(rows=[self.rows[k] for k in rows.tolist()])


def test_two_searches_in_a_row_that_find_the_same_are_enough():
    """The first star's find nothing else; the second's do after one search; the third's always."""
    chi2 = [[10.0, 10, 10], [10, 10, 9], [10, 8, 8], [10, 8, 7], [10, 8, 6], [10, 8, 5]]
    search, edge = Searching(chi2), torch.full((3, 1), 0.5).double()
    found = best_of(search, Rows(rows=[0, 1, 2]), [edge * 0], (-edge, edge), 5)  # type: ignore[arg-type]
    assert found.best.chi2.tolist() == [10, 8, 5]
    assert search.asked == [3, 3, 3, 2, 2, 1]
    assert search.last == 3


def test_the_other_optimum_is_in_the_error():
    """Flux knows (x - 0.1)^2 well and x hardly: two values fit, and the error says so."""
    line = torch.exp(-0.5 * ((torch.arange(80.0) - 40) / 3) ** 2)
    spec = SimpleNamespace(
        labels=("a",),
        minimum=np.zeros(1),
        maximum=np.ones(1),
        wavelength=10 ** (3.7 + 1e-4 * np.arange(80)),
    )
    model = SimpleNamespace(
        spec=spec,
        scatter=torch.zeros(80),
        forward_scaled=lambda x: 1 - 4 * (x - 0.1) ** 2 * line,
        flux_and_jacobian=lambda x: (
            1 - 4 * (x - 0.1) ** 2 * line, (-8 * (x - 0.1) * line)[:, None]
        ),
    )  # fmt: skip
    flux, ivar = model.forward_scaled(torch.tensor([[0.25]])), torch.full((1, 80), 1e4)
    options = FitOptions(rv_range=0.0)
    both = fit_labels(model, flux, ivar, start=np.array([[[0.4], [0.8]]]), options=options)
    one = fit_labels(model, flux, ivar, start=np.array([[[0.8]]]), options=options)
    assert both.status[0] & FitStatus.MULTIPLE_OPTIMA
    assert not one.status[0] & FitStatus.MULTIPLE_OPTIMA
    # At 0.45 and 0.75, equally likely: half of the squared distance.
    assert both.label_cov[0, 0, 0] == pytest.approx(0.5 * 0.3**2, rel=0.05)
    assert one.label_err[0, 0] < 0.01


def test_a_search_without_a_start_is_refused():
    edge = torch.full((1, 1), 0.5).double()
    with pytest.raises(ValueError, match="at least one start, got none"):
        best_of(Searching([]), Rows(rows=[0]), [], (-edge, edge), 0)  # type: ignore[arg-type]


def test_a_search_on_its_way_to_the_best_end_is_given_up():
    """A tenth of a sigma from it, or promising to stay 5 above it; not one that is lower."""
    best = ends([0.1] * 4, [10.0] * 4)
    trial = ends([0.1 + 0.1 * SIGMA, 0.3, 0.1 + 0.1 * SIGMA, 0.3], [10.5, 16.0, 9.9, 12.0])
    none = torch.zeros((4, 1)).double()
    plan = Plan(none, torch.full((4,), 0.5).double(), none[:, 0], best.held)
    assert given_up(trial, plan, best).tolist() == [True, True, False, False]
    first = replace(trial, n_steps=0 * trial.n_steps)  # what it promises, nobody has seen it keep
    assert given_up(first, plan, best).tolist() == [True, False, False, False]
