"""The gradient prior: derivatives at reference stars settle what correlated labels leave open."""

import numpy as np
import pytest
import torch
from loops import Alone, difference_quotient, weighed
from two_elements import PIXELS, Rows, Truth, correlated, gradient_errors, references, spec

from scalespec.models import projection
from scalespec.models.cannon import Cannon
from scalespec.models.payne import Payne
from scalespec.models.prior import GradientPrior, gradient_prior
from scalespec.models.projection import project, solve_output
from scalespec.models.training import TrainOptions, train_emulator


def train(prior, *, noise=0.005, options=None):
    x = correlated(500)
    with torch.no_grad():
        flux = Truth()(x) + noise * torch.randn(500, PIXELS, generator=torch.manual_seed(0))
        ivar = torch.full_like(flux, noise**-2)
    model = Payne(spec(), hidden=(24, 24), seed=1)
    rows = Rows(x[:420], flux[:420], ivar[:420])
    held = tuple(a.numpy() for a in (x[420:], flux[420:], ivar[420:], torch.zeros(80)))
    options = options or TrainOptions(rounds=(0, 20, 40))
    history = train_emulator(model, rows, held, options=options, context=Alone(), prior=prior)
    return model, history


@pytest.fixture(scope="module")
def with_and_without():
    return train(gradient_prior(Truth(), references())), train(None)


def test_gradients_of_correlated_labels_are_recovered_with_the_prior_alone(with_and_without):
    (with_prior, _), (without, _) = with_and_without
    assert max(gradient_errors(with_prior)) < 0.1
    assert min(gradient_errors(without)[1:]) > 0.4  # each takes the other's lines for its own


def test_flux_is_as_good_with_the_prior(with_and_without):
    (_, with_prior), (_, without) = with_and_without
    assert with_prior[-1]["validation_rms"] < 1.02 * without[-1]["validation_rms"]


def test_history_says_how_far_the_gradients_are_off(with_and_without):
    (model, history), (_, without) = with_and_without
    prior = gradient_prior(Truth(), references())
    with torch.no_grad():
        at_references = float(prior.loss(model, torch.ones(PIXELS)).sqrt())
    # The state kept is the one that validates best; the output layer may have been solved anew.
    assert at_references <= max(h["gradient_error"] for h in history) * 1.01
    assert at_references < 0.01
    assert "gradient_error" not in without[-1]


def test_epochs_of_adam_keep_to_the_prior():
    options = TrainOptions(rounds=(), epochs=20, batch_size=32, learning_rate=3e-3, patience=0)
    _, history = train(gradient_prior(Truth(), references()), options=options)
    assert history[-1]["gradient_error"] < 0.4 * history[0]["gradient_error"]


def test_the_output_layer_is_that_of_the_stacked_least_squares_problem():
    x, prior = correlated(80), gradient_prior(Truth(), references(), strength=0.3)
    flux = Truth()(x)
    model = Payne(spec(), hidden=(5,), seed=3)  # few features: the ridge of 1e-7 does not matter
    with torch.no_grad():
        model.output.weight.normal_(0, 0.1, generator=torch.manual_seed(1))
    solve_output(model, [weighed(x, flux, 1e4)], prior)
    design = np.column_stack([model.features(x).detach().numpy(), np.ones(80)]) / np.sqrt(80)
    slopes = np.column_stack([prior.slopes(model).detach().numpy(), np.zeros(len(prior))])
    variance = flux.numpy().var(0).sum()
    scale = np.sqrt(prior.strength * variance * prior.share(torch.ones(PIXELS)).numpy())[:, None]
    wanted = np.linalg.lstsq(
        np.vstack([design, scale * slopes]),
        np.vstack([flux.numpy() / np.sqrt(80), scale * prior.gradient.numpy()]),
    )[0]
    found = np.column_stack([model.output.weight.detach(), model.output.bias.detach()]).T
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # float32 sums, features alike to 1e-3


def test_gradient_of_the_eliminated_problem_holds_with_a_prior():
    x = correlated(60)
    prior = gradient_prior(Truth(), references()).to(torch.zeros(1, dtype=torch.float64))
    model = Payne(spec(), hidden=(6, 5), seed=1).double()
    flux = Truth()(x).double()
    spectra = weighed(x, flux, 1e4)
    spectra.x = spectra.x.double()
    with torch.no_grad():
        wanted = projection._Wanted(prior, torch.ones(PIXELS, dtype=torch.float64))
        wanted.target = prior.gradient  # every pixel a component of its own
    problem = projection._Problem(model, spectra, flux - 1, wanted)
    problem.evaluate()
    weight = problem.free[2]  # of the second hidden layer
    gradient = float(weight.grad[2, 3])
    assert gradient == pytest.approx(difference_quotient(problem, weight, (2, 3)), rel=1e-4)


def test_components_hold_gradients_that_no_spectrum_shows():
    x = correlated(80)
    x[:, 1:] = 0.0  # neither element varies
    prior = gradient_prior(Truth(), references())
    model = Payne(spec(), hidden=(24, 24), seed=1)
    project(model, weighed(x, Truth()(x), 1e4), 40, prior)
    assert gradient_errors(model)[1] < 0.3  # with the spectra's components alone it is 1


def test_slopes_are_the_derivatives_of_the_features():
    model, prior = Payne(spec(), hidden=(7,), seed=3), gradient_prior(Truth(), references(2))
    step = 1e-3
    for row in (0, 4):
        shift = torch.zeros(1, 3)
        shift[0, prior.label[row]] = step
        at = prior.x[row : row + 1]
        difference = (model.features(at + shift) - model.features(at - shift)) / (2 * step)
        torch.testing.assert_close(prior.slopes(model)[row], difference[0], rtol=1e-3, atol=1e-4)


def test_loss_is_the_mean_relative_square_error():
    prior = gradient_prior(Truth(), references(), strength=2.0)
    flat = Cannon(spec())  # flux 1: all derivatives 0, relative error 1
    assert float(prior.loss(flat, torch.ones(PIXELS))) == pytest.approx(2.0, rel=1e-5)
    assert float(prior.loss(Truth(), torch.ones(PIXELS))) == pytest.approx(0.0, abs=1e-8)


def test_pixels_that_references_do_not_cover_are_left_to_the_spectra():
    whole = gradient_prior(Truth(), references())
    known = torch.arange(PIXELS) < 30
    nonsense = torch.where(known, whole.gradient, 1e3)
    prior = GradientPrior(whole.x, whole.label, nonsense, known)
    x = references(300, seed=4)
    model = Payne(spec(), hidden=(24, 24), seed=1)
    project(model, weighed(x, Truth()(x), 1e4), 40, prior)
    error = (model(x) - Truth()(x)).detach()
    assert float(error.square().mean(0).sqrt().max()) < 0.01  # lines are up to 0.3 deep


def test_the_mean_of_sampled_losses_is_the_loss():
    prior = gradient_prior(Truth(), references(), strength=2.0)
    model, draw = Payne(spec(), hidden=(7,), seed=3), torch.Generator().manual_seed(0)
    share = prior.share(torch.ones(PIXELS))
    drawn = []
    for _ in range(600):
        rows = torch.randint(len(prior), (6,), generator=draw)
        pixels = torch.randperm(PIXELS, generator=draw)[:20]
        drawn.append(float(prior.sampled_loss(model, share, rows, pixels)))
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert np.mean(drawn) == pytest.approx(
        float(prior.loss(model, torch.ones(PIXELS)).detach()), abs=3 * error
    )
    assert error < 0.1 * np.mean(drawn)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strength": -1.0}, "got -1.0"),
        ({"known": torch.ones(3, dtype=torch.bool)}, "do not fit"),
        ({"label": torch.zeros(2, dtype=torch.int64)}, r"\(2,\)"),
        ({"gradient": torch.full((18, PIXELS), torch.nan)}, "must be finite"),
    ],
)
def test_a_prior_that_makes_no_sense_is_refused(change, said):
    good = gradient_prior(Truth(), references())
    parts = {"x": good.x, "label": good.label, "gradient": good.gradient, "known": good.known}
    with pytest.raises(ValueError, match=said):
        GradientPrior(**(parts | change))
