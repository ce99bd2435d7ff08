"""Steps across kinks, against a general solver; searches that end in kinks, against a grid."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.kink import PIECES, Pieces, bent_step, fall
from scalespec.optimize.quadratic import bounded_step

N_LABEL = 4


def problems(n: int, n_piece: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Values, half gradients and Hessians of parabolas of which the first is the greatest here."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, N_LABEL, N_LABEL))
    hessian = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(N_LABEL)
    values = -rng.uniform(0, 1, (n, n_piece))
    values[:, 0] = 0
    gradients = rng.normal(size=(n, n_piece, N_LABEL))
    return torch.tensor(values), torch.tensor(gradients), torch.tensor(hessian)


def room_of(n: int, edge: float) -> tuple[Tensor, Tensor]:
    """Least and greatest steps of n stars."""
    high = torch.full((n, N_LABEL), edge, dtype=torch.float64)
    return -high, high


def least(values: np.ndarray, gradients: np.ndarray, hessian: np.ndarray, edge: float) -> float:
    """Find the least of the greatest parabola within a box, by a general solver."""

    def heights(p: np.ndarray) -> np.ndarray:
        return values + 2 * gradients @ p[:-1] + p[:-1] @ hessian @ p[:-1]

    found = minimize(
        lambda p: p[-1],
        np.zeros(N_LABEL + 1),
        constraints={"type": "ineq", "fun": lambda p: p[-1] - heights(p)},
        bounds=[(-edge, edge)] * N_LABEL + [(None, None)],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    return float(heights(found.x).max())


@pytest.mark.parametrize("n_piece", [2, 3, PIECES + 1])
def test_step_is_the_least_of_the_greatest_parabola(n_piece: int):
    values, gradients, hessian = problems(40, n_piece)
    room = room_of(40, 1e3)
    first = bounded_step(hessian, gradients[:, 0], *room, damping=0.0)
    step, promise, bent = bent_step(values, gradients, hessian, room, first)
    torch.testing.assert_close(fall(values, gradients, hessian, step), promise)
    for k in range(40):
        own = (values[k].numpy(), gradients[k].numpy(), hessian[k].numpy())
        assert -float(promise[k]) == pytest.approx(least(*own, 1e3), abs=1e-5), k
    assert 0.2 < float(bent.double().mean()) < 1  # some need no more than the first one
    torch.testing.assert_close(step[~bent], first[~bent])


@pytest.mark.parametrize("edge", [0.2, 0.5])
def test_step_within_bounds_is_the_least_there(edge: float):
    """Against the general solver; some hold parameters at an edge."""
    values, gradients, hessian = problems(40, 3, seed=1)
    room = room_of(40, edge)
    first = bounded_step(hessian, gradients[:, 0], *room, damping=0.0)
    step, promise, _ = bent_step(values, gradients, hessian, room, first)
    assert float((step.abs() == edge).any(dim=1).double().mean()) > 0.2
    torch.testing.assert_close(fall(values, gradients, hessian, step), promise)
    for k in range(40):
        own = (values[k].numpy(), gradients[k].numpy(), hessian[k].numpy())
        assert -float(promise[k]) == pytest.approx(least(*own, edge), abs=1e-5), k


def test_same_pieces_and_none_are_no_trouble():
    values, gradients, hessian = problems(5, 3, seed=2)
    gradients[:, 1] = gradients[:, 0]
    values[:, 1] = 0
    values[:, 2] = -torch.inf
    room = room_of(5, 1e3)
    first = bounded_step(hessian, gradients[:, 0], *room, damping=0.0)
    step, promise, _ = bent_step(values, gradients, hessian, room, first)
    torch.testing.assert_close(step, first, rtol=1e-5, atol=1e-7)
    assert promise.isfinite().all()


def test_pieces_are_seen_as_their_parabolas_are():
    """Values and gradients elsewhere, against the parabola they were taken from."""
    rng = np.random.default_rng(3)
    root = torch.tensor(rng.normal(size=(6, N_LABEL, N_LABEL)))
    hessian = root @ root.mT
    here, there, middle = (torch.tensor(rng.normal(size=(6, N_LABEL))) for _ in range(3))

    def parabola(x: Tensor) -> tuple[Tensor, Tensor]:
        pull = torch.bmm(hessian, (x - middle)[:, :, None]).squeeze(-1)
        return ((x - middle) * pull).sum(dim=1), pull

    height, slope = parabola(there)
    pieces = Pieces.none(here)
    assert not pieces.met.any()
    pieces = pieces.with_another(torch.arange(6) < 4, there, height, slope)
    assert pieces.met.tolist() == [True] * 4 + [False] * 2
    own, own_slope = parabola(here)
    values, gradients = pieces.seen_from(here, own + 1.0, own_slope, hessian)
    torch.testing.assert_close(values[:4, 1], torch.full((4,), -1.0).double())
    torch.testing.assert_close(gradients[:4, 1], own_slope[:4])
    assert (values[4:, 1:] == -torch.inf).all()
    values, _ = pieces.seen_from(here, own - 1.0, own_slope, hessian)  # greater than chi2: none
    assert (values[:, 1:] == -torch.inf).all()


def test_the_oldest_piece_makes_room():
    x = torch.zeros(1, 2)
    pieces = Pieces.none(x)
    for k in range(PIECES + 2):
        pieces = pieces.with_another(
            torch.tensor([True]), x + k, torch.tensor([float(k)]).double(), x.double() + k
        )
    assert pieces.chi2[0].tolist() == [float(k) for k in range(PIECES + 1, 1, -1)]


class Kinked:
    """Lines as deep as leaky functions of sums of labels: the least chi2 often lies in a kink."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        pixel = np.arange(300.0)
        place = rng.uniform(10, 290, (40, 1))
        self.lines = torch.tensor(np.exp(-0.5 * ((pixel - place) / 2) ** 2)).float()
        self.mixing = torch.tensor(rng.normal(0, 1, (2, 40))).float()
        self.offset = torch.tensor(rng.normal(0, 0.1, 40)).float()
        self.scatter = torch.zeros(300)
        self.spec = SimpleNamespace(
            labels=("a", "b"),
            minimum=np.zeros(2),
            maximum=np.ones(2),
            wavelength=10 ** (3.7 + 1e-4 * pixel),
        )

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x @ self.mixing + self.offset
        slope = torch.where(z > 0, 1.0, 0.1)
        return z * slope, slope

    def forward_scaled(self, x: Tensor) -> Tensor:
        return 1 - 0.3 * self._features(x)[0] @ self.lines

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        moves = self._features(x)[1][:, None] * self.mixing
        return self.forward_scaled(x), -0.3 * moves @ self.lines


def test_searches_that_end_in_kinks_reach_the_bottom():
    """Against every point of a grid around the truth, S/N 15 per pixel, velocity known."""
    model, rng = Kinked(), np.random.default_rng(6)
    x = rng.uniform(-0.3, 0.3, (60, 2)).astype(np.float32)
    flux = model.forward_scaled(torch.tensor(x)).numpy() + rng.normal(0, 1 / 15, (60, 300))
    ivar = np.full(flux.shape, 15.0**2)
    fit = fit_labels(model, flux, ivar, start=x + 0.5, options=FitOptions(rv_range=0.0))
    steps = np.linspace(-0.2, 0.2, 161)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    lines, kinks = model.lines.double(), 0
    for k in range(60):
        around = torch.tensor(grid + x[k]).float().clamp(-0.5, 0.5)
        depths, wanted = 0.3 * model._features(around)[0].double(), torch.tensor(1 - flux[k])
        # |wanted - depths @ lines|^2, of 40 lines instead of 300 pixels
        cross = 2 * depths @ (lines @ wanted)
        off = (wanted**2).sum() - cross + ((depths @ (lines @ lines.T)) * depths).sum(dim=1)
        chi2 = off.numpy() * 15.0**2
        assert fit.chi2[k] < chi2.min() + 0.02, k  # grid and tolerance are of 0.01
        end = torch.tensor(fit.labels[k] - 0.5)[None].float()
        kinks += bool((end @ model.mixing + model.offset).abs().min() < 5e-3)
    assert kinks > 5  # so many ends lie in one
    assert fit.n_steps.mean() < 6
