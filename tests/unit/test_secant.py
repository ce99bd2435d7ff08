"""Errors by secants: those of derivatives for smooth models, and right where a model has kinks."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.optimize import fit as fit_module
from scalespec.optimize.constraints import Constraints, Given
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.levenberg import Search, SearchOptions
from scalespec.optimize.objective import Objective
from scalespec.optimize.secant import over_errors
from scalespec.optimize.state import State

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne, small_mocks = _networks["small_payne"], _networks["small_mocks"]
SPAN = _networks["MAXIMUM"] - _networks["MINIMUM"]
PIECE = 0.04


def rough(n_pixel: int = 120) -> Payne:
    """Two labels deepen lines of their own; the second one's in pieces of slopes 1.75 and 0.25."""
    wavelength = 10 ** (3.7 + 1e-4 * np.arange(n_pixel))
    spec = EmulatorSpec("rough", ("a", "b"), np.zeros(2), np.ones(2), wavelength)
    kinks = np.arange(-0.5, 0.5, PIECE)
    model = Payne(spec, hidden=(2 + len(kinks),), activation="leaky_relu", slope=0.01)
    # A unit far from its kink is linear; another bends by 0.99 at the place of its own.
    bends = 1.5 / 0.99 * (-1.0) ** np.arange(len(kinks))
    lines = np.exp(-0.5 * ((np.arange(n_pixel) - np.array([[30.0], [80.0]])) / 4) ** 2)
    layer = model.hidden[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1, 0], [0, 1]] + [[0, 1]] * len(kinks)))
        layer.bias.copy_(torch.tensor([9.0, 9.0, *-kinks]))
        # Left of all kinks the slope of the bends is a hundredth of their sum.
        first = 0.25 - 0.01 * bends.sum()
        weights = np.r_[[[1.0, 0]], [[0, first]], np.c_[0 * bends, bends]]
        model.output.weight.copy_(torch.tensor(-0.4 * (weights @ lines).T))
        model.output.bias.copy_(1 - model.output(model.features(torch.zeros(1, 2)))[0])
        model.output.bias.add_(1 - 0.3 * torch.tensor(lines.sum(axis=0)) - 1)
    return model


def test_the_rough_model_rises_in_pieces_of_two_slopes():
    x = torch.tensor([[0.0, b] for b in (-0.49, -0.47, -0.45, -0.43, -0.41)])
    _, slopes = rough().flux_and_jacobian(x)
    found = (-slopes[:, 1].amin(dim=1) / 0.4).tolist()
    assert found == pytest.approx([1.75, 1.75, 0.25, 0.25, 1.75], abs=1e-3)


def pulls() -> np.ndarray:
    """Fit mocks whose error of b, where the slope is 1, is two and a half pieces."""
    model, rng, snr = rough(), np.random.default_rng(0), 9.0
    x = rng.uniform(-0.25, 0.25, (700, 2))
    with torch.no_grad():
        clean = model.forward_scaled(torch.tensor(x).float()).numpy()
    flux = clean + rng.standard_normal(clean.shape) / snr
    options = FitOptions(rv_range=0.0, restarts=5)
    fit = fit_labels(model, flux, np.full_like(flux, snr**2), start=x + 0.5, options=options)
    return (fit.labels - x - 0.5) / fit.label_err


def width(values: np.ndarray) -> float:
    """Half of the range of the central 68.27 %."""
    low, high = np.percentile(values, (15.865, 84.135))
    return (high - low) / 2


def test_errors_of_a_model_with_kinks_are_those_of_its_secants(monkeypatch):
    over = pulls()
    assert width(over[:, 0]) == pytest.approx(1.0, abs=0.06)
    assert width(over[:, 1]) == pytest.approx(1.0, abs=0.06)
    monkeypatch.setattr(fit_module, "over_errors", lambda *_: None)
    local = pulls()
    np.testing.assert_allclose(local[:, 0], over[:, 0], rtol=0.02)  # a label without kinks
    # The same ends, with errors of the pieces they lie in: for half the stars 2.5 times as large.
    assert np.median(local[:, 1] / over[:, 1]) < 0.5
    assert width(local[:, 1]) < 0.8


def ended(snr: float, constraints: Constraints | None = None) -> tuple[Search, Objective, State]:
    """Return the search of some mocks of a smooth network, its objective and the ends."""
    model = small_payne()
    stars = small_mocks(model, 24, snr=snr, rv=0.0)
    flux, ivar = (torch.tensor(stars[name]).float() for name in ("flux", "ivar"))
    objective = Objective.of(model, flux, ivar, rv_start=torch.zeros(24), rv_range=60.0)
    x = torch.tensor(stars["x"]).float()
    if constraints is not None:
        given = Given.of(model, constraints, 24)
        tie = given.tie(model, model.scatter)
        objective = replace(objective, tie=tie, prior=given.prior(slice(24), model.scatter))
        x = x[:, list(tie.free)]
    search = Search.of(objective, SearchOptions(50, 0.01, exact_covariance=False))
    first = torch.cat([x, torch.zeros(24, 1)], dim=1)
    edge = torch.full_like(first, 0.5)
    with torch.no_grad():
        return search, objective, search.run(objective, first, -edge, edge)


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize(
    "constraints",
    [
        None,
        Constraints(
            tied={"mg_fe": "fe_h"},
            prior_mean=np.array([np.nan, 2.0, np.nan, np.nan]),
            prior_sigma=np.array([np.nan, 0.01, np.nan, np.nan]),
        ),
    ],
)
def test_secants_of_a_smooth_model_are_its_derivatives(blocks, constraints):
    search, objective, state = ended(2000.0, constraints)
    local = state.hessian.clone()
    with torch.no_grad():
        over_errors(search.last_gram if blocks else None, objective, state)
    scale = local.diagonal(dim1=1, dim2=2).sqrt()
    off = (state.hessian - local) / (scale[:, :, None] * scale[:, None, :])
    assert 0 < off.abs().max() < 0.02


def test_a_star_in_a_corner_of_the_box_has_its_errors():
    """Labels at and beyond their bounds: nothing is asked far outside, and all is finite."""
    model = small_payne()
    corner = np.full((8, 4), 0.5) * np.sign(np.random.default_rng(1).normal(size=(8, 4)))
    with torch.no_grad():
        flux = model.forward_scaled(torch.tensor(1.1 * corner).float()).numpy()
    asked = []
    features = model.features
    model.features = lambda x: asked.append(float(x.detach().abs().max())) or features(x)
    for snr in (10.0, 300.0):
        fit = fit_labels(
            model, flux, np.full_like(flux, snr**2), options=FitOptions(rv_range=0, restarts=1)
        )
        assert (fit.at_bound > 0).all()
        assert np.isfinite(fit.label_cov).all()
        assert (np.linalg.eigvalsh(fit.label_cov / np.multiply.outer(SPAN, SPAN)) > -1e-9).all()
        assert (fit.label_err > 0).all()
    assert max(asked) < 0.55
