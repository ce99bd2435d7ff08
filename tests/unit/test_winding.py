"""A label with one optimum behind the other: it is found by mocks, and searched all along."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from scalespec.config import FitTable
from scalespec.optimize.constraints import Constraints
from scalespec.optimize.fit import FitOptions, Fitter
from scalespec.stages.fit import fit_options

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne = _networks["small_payne"]
N_PIXEL = 120
LINES = torch.stack(
    [torch.exp(-0.5 * ((torch.arange(N_PIXEL) - c) / 3.0) ** 2) for c in (25.0, 60.0, 95.0)]
)


def waves(turns: float) -> SimpleNamespace:
    """Lines of depth a, sin(turns b) and, weakly, b: in b chi2 has a minimum for every turn."""

    def depths(x: Tensor) -> Tensor:
        return torch.stack([0.3 * x[:, 0], 0.2 * torch.sin(turns * x[:, 1]), 0.1 * x[:, 1]], dim=1)

    def slopes(x: Tensor) -> Tensor:
        none, one = torch.zeros(len(x)), torch.ones(len(x))
        by_a = torch.stack([0.3 * one, none, none], dim=1)
        by_b = torch.stack([none, 0.2 * turns * torch.cos(turns * x[:, 1]), 0.1 * one], dim=1)
        return torch.stack([by_a, by_b], dim=1)

    spec = SimpleNamespace(
        labels=("a", "b"),
        minimum=np.zeros(2),
        maximum=np.ones(2),
        wavelength=10 ** (3.7 + 1e-4 * np.arange(N_PIXEL)),
    )
    return SimpleNamespace(
        spec=spec,
        scatter=torch.zeros(N_PIXEL),
        forward_scaled=lambda x: 1 - depths(x) @ LINES,
        flux_and_jacobian=lambda x: (1 - depths(x) @ LINES, -slopes(x) @ LINES),
    )


def mocks(model: SimpleNamespace, n: int) -> tuple[Tensor, Tensor, np.ndarray]:
    x = torch.tensor(np.random.default_rng(5).uniform(-0.45, 0.45, (n, 2))).float()
    flux = model.forward_scaled(x)
    return flux, torch.full_like(flux, 1e4), x.numpy() + 0.5


def test_the_label_that_winds_is_found_and_searched_all_along():
    model = waves(turns=12.0)
    flux, ivar, truth = mocks(model, 60)
    fitters = [Fitter.of(model, options=FitOptions(rv_range=5.0, restarts=r)) for r in (0, 8, 10)]
    assert [fitter.along for fitter in fitters] == [None, 1, 1]
    once, few, more = (
        np.mean(np.abs(fitter.fit(flux, ivar).labels - truth).max(axis=1) > 0.02)
        for fitter in fitters
    )
    assert once > 0.6  # most stars are more than half a turn from the middle of the box
    assert few < 0.1
    assert more == 0


def test_hops_alone_would_not_have_found_it():
    model = waves(turns=12.0)
    flux, ivar, truth = mocks(model, 60)
    fitter = Fitter.of(model, options=FitOptions(rv_range=5.0, restarts=4))
    hopping = Fitter(fitter.model, None, fitter.options, fitter.search)
    assert (np.abs(hopping.fit(flux, ivar).labels - truth).max(axis=1) > 0.02).mean() > 0.4


def test_a_model_without_turns_has_no_such_label():
    fitter = Fitter.of(waves(turns=1.0), options=FitOptions(rv_range=5.0, restarts=4))
    assert fitter.along is None


HELD = {
    "held": Constraints(low=np.array([0.0, 0.7]), high=np.array([1.0, 0.7])),
    "tied": Constraints(tied={"b": "a"}),
}


@pytest.mark.parametrize("how", HELD)
def test_a_label_that_cannot_move_is_left_where_it_is(how: str):
    model = waves(turns=12.0)
    flux, ivar, _ = mocks(model, 10)
    fitter = Fitter.of(model, options=FitOptions(rv_range=5.0, restarts=4))
    made = fitter.fit(flux, ivar, constraints=HELD[how]).labels
    np.testing.assert_allclose(made[:, 1], 0.7 if how == "held" else made[:, 0], atol=1e-6)


def test_models_with_kinks_are_begun_again_if_mocks_go_astray_and_others_not():
    rough, tame = waves(turns=12.0), waves(turns=1.0)
    for model, kinks, asked, expected in (
        (rough, True, None, 6), (tame, True, None, 0), (rough, False, None, 0),
        (rough, True, 0, 0), (tame, False, 2, 2),
    ):  # fmt: skip
        model.kinks = kinks
        options = fit_options(FitTable(restarts=asked))
        assert Fitter.of(model, options=options).options.restarts == expected
    assert small_payne(activation="leaky_relu").kinks
    assert not small_payne().kinks
