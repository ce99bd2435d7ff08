"""Latent labels: derivatives without bias where labels are missing and noisy; posteriors."""

import numpy as np
import pytest
import torch

from scalespec.models.base import EmulatorSpec, shift_flux
from scalespec.models.cannon import Cannon
from scalespec.models.known_labels import Latent, Measured, Population, first_guess
from scalespec.models.latent import Observed, expect, learn_latent, mistakes, reset_axes
from scalespec.models.regression import fit_pixels

LABELS = ("teff", "logg", "fe_h", "mg_fe")
SPEC = EmulatorSpec(
    "t", LABELS, [4000, 1, -1.0, -0.3], [6500, 5, 0.5, 0.5], np.linspace(5000, 5100, 160)
)
ERROR = torch.tensor([100.0, 0.1, 0.1, 0.1]) / torch.tensor(SPEC.maximum - SPEC.minimum)
SNR = 50.0


def world(n=600, seed=0, missing=0.3):
    """A quadratic truth, noisy spectra, labels 0.1 dex (100 K) off and 30 % of them missing."""
    generator = torch.Generator().manual_seed(seed)
    truth = Cannon(SPEC)
    shape = truth.output.weight.shape
    size = torch.tensor([1.0, 0.3, 0.15, 0.3, 0.15] + [0.08] * (shape[1] - 5))
    lines = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.4)
    with torch.no_grad():
        truth.output.weight.copy_(0.2 * lines * size)
        truth.output.weight[:, 0] = 0.85
        x = torch.rand(n, 4, generator=generator, dtype=torch.float64) - 0.5
        flux = truth.forward_scaled(x.float())
    flux = flux + torch.randn(flux.shape, generator=generator) / SNR
    value = x + ERROR * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    value[torch.rand(x.shape, generator=generator) < missing] = torch.nan
    observed = Observed(flux, torch.full_like(flux, SNR**2), torch.zeros(n))
    return truth, x, observed, Measured.of(value, ERROR.expand(n, -1))


def teach(model, observed, x):
    fit = fit_pixels(x, observed.flux, observed.ivar, order=model.order)
    with torch.no_grad():
        model.output.weight.copy_(fit.coefficients)
        model.scatter.copy_(fit.scatter)
    return model


def slope_bias(model, truth):
    """By how much derivatives are too steep, per label: their projection on the true ones."""
    x = torch.rand(200, 4, generator=torch.Generator().manual_seed(9)) - 0.5
    with torch.no_grad():
        found, wanted = (m.flux_and_jacobian(0.8 * x)[1] for m in (model, truth))
    both, square = (found * wanted).sum((0, 2)), wanted.square().sum((0, 2))
    return both.div(square).sub(1).numpy()


@pytest.fixture(scope="module")
def learned():
    truth, x, observed, measured = world()
    model = Cannon(SPEC)
    latent, history = learn_latent(
        model, observed, measured, lambda drawn, _: teach(model, observed, drawn), rounds=6, seed=1
    )
    return truth, x, observed, measured, model, latent, history


def test_derivatives_have_no_bias_with_a_third_missing_and_noise(learned):
    truth, _, observed, measured, model, _, _ = learned
    assert np.abs(slope_bias(model, truth)).max() < 0.1
    # the baseline: stars with all labels, as if these were exact; an error of 0.1 dex in a label
    # that spans 0.8 dex flattens its derivatives by a sixth: 0.01 over 0.8² / 12 + 0.01
    complete = torch.isfinite(measured.value).all(1)
    seen = Observed(observed.flux[complete], observed.ivar[complete], observed.shift[complete])
    alone = teach(Cannon(SPEC), seen, measured.value[complete])
    assert slope_bias(alone, truth)[3] < -0.1
    assert np.abs(slope_bias(alone, truth)).max() > 2 * np.abs(slope_bias(model, truth)).max()


def test_latent_labels_are_nearer_the_truth_than_measured_ones(learned):
    _, x, _, measured, _, latent, _ = learned
    error = (latent.mean - x).square().mean(0).sqrt()
    known = torch.isfinite(measured.value)
    assert known.float().mean() < 0.75
    assert bool((error[:3] < 0.8 * ERROR[:3].clamp(min=0.06)).all())


def test_posterior_errors_are_true(learned):
    _, x, _, _, _, latent, _ = learned
    pull = (latent.mean - x) / latent.covariance.diagonal(dim1=1, dim2=2).sqrt()
    width = 1.4826 * pull.abs().median(0).values
    # the model is uncertain, too, which posteriors do not count: they may be short by a half
    assert bool(((width > 0.7) & (width < 2.0)).all())


def test_history_says_what_became_of_labels(learned):
    _, _, _, measured, _, _, history = learned
    assert [one["round"] for one in history] == [1, 2, 3, 4, 5, 6]
    assert history[0]["missing"] == int((~torch.isfinite(measured.value)).sum())
    assert history[-1]["moved"] < 0.3 * history[0]["moved"]
    assert history[-1]["mistakes"] < 0.01 * measured.value.numel()


def test_same_seed_same_labels():
    _, _, observed, measured = world(n=150)
    found = []
    for _ in range(2):
        model = Cannon(SPEC)
        latent, _ = learn_latent(
            model, observed, measured, lambda x, _, m=model: teach(m, observed, x), rounds=1, seed=3
        )
        found.append(latent.mean)
    assert torch.equal(*found)


def test_exact_and_complete_labels_stay():
    truth, x, observed, _ = world(n=300, missing=0.0)
    measured = Measured.of(x, torch.zeros_like(x))
    model = Cannon(SPEC)
    latent, _ = learn_latent(
        model, observed, measured, lambda d, _: teach(model, observed, d), rounds=2
    )
    # exact is a ten-thousandth of the range
    np.testing.assert_allclose(latent.mean, x, atol=2e-3)
    plain = teach(Cannon(SPEC), observed, x)
    np.testing.assert_allclose(slope_bias(model, truth), slope_bias(plain, truth), atol=5e-3)


def test_expectation_of_a_linear_model_is_the_gaussian_posterior():
    """Against the closed form: precision = J'WJ + 1/error² + 1/population."""
    _, x, observed, measured = world(n=7)
    model = Cannon(SPEC, order=1)
    teach(model, world(n=300)[2], world(n=300)[1])
    population = Population(
        torch.full((4,), 0.1, dtype=torch.float64), 0.09 * torch.eye(4).double()
    )
    found = expect(model, observed, measured, population, torch.zeros(7, 4, dtype=torch.float64))
    slopes = model.coefficients[:, 1:].detach().double().numpy()
    weight = 1 / (1 / SNR**2 + model.scatter.double().numpy() ** 2)
    for i in range(7):
        known = np.isfinite(measured.value[i].numpy())
        stiff = np.where(known, 1 / ERROR.numpy() ** 2, 0)
        precision = (slopes.T * weight) @ slopes + np.diag(stiff) + np.eye(4) / 0.09
        residual = observed.flux[i].double().numpy() - model.coefficients[:, 0].detach().numpy()
        right = (slopes.T * weight) @ residual + 0.1 / 0.09
        right += stiff * np.where(known, measured.value[i].numpy(), 0)
        # derivatives and residuals are float32 sums
        np.testing.assert_allclose(found.mean[i], np.linalg.solve(precision, right), atol=1e-4)
        np.testing.assert_allclose(found.covariance[i], np.linalg.inv(precision), rtol=1e-3)
    assert x.shape == (7, 4)


def test_displaced_lines_are_met_by_a_displaced_model():
    truth, x, observed, measured = world(n=20, missing=1e-9)
    teach(truth, world(n=300)[2], world(n=300)[1])
    with torch.no_grad():
        rest = truth.forward_scaled(x.float())
    shift = torch.linspace(-0.5, 0.5, 20)
    moved = Observed(shift_flux(rest, shift), observed.ivar, shift)
    vague = Measured(measured.value, torch.full_like(measured.error, 10.0))
    population = Population(torch.zeros(4).double(), torch.eye(4).double())
    found = expect(truth, moved, vague, population, torch.zeros(20, 4, dtype=torch.float64))
    np.testing.assert_allclose(found.mean, x.clamp(-0.75, 0.75), atol=0.02)  # flux has no noise


def test_axes_are_set_by_the_measurements_errors_and_all():
    """Latent labels are twice too long and moved; a few measurements are nonsense."""
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(500, 2, generator=generator, dtype=torch.float64) * 0.6 - 0.3
    own = torch.full((500, 2), 0.05, dtype=torch.float64)
    noisy = x + own * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    value = x + 0.02 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    value[:5] = 0.5 * torch.sign(x[:5]) * -1
    latent = Latent(2 * noisy + 0.1, torch.diag_embed(4 * own**2))
    # population of the truth is wider than errors by so much that shrinkage does not matter
    measured = Measured.of(value, torch.full_like(value, 0.02))
    shrunk = Latent(latent.mean, latent.covariance * 1e-9)
    moved, wrong = reset_axes(shrunk, measured)
    assert wrong >= 8
    slope = np.polyfit(latent.mean[:, 0].numpy(), moved.mean[:, 0].numpy(), 1)[0]
    # the regression of x on 2 x + noise: 0.5 var / (var + noise²), var = 0.6² / 12
    assert slope == pytest.approx(0.5 * 0.03 / (0.03 + 0.0025), rel=0.05)


def test_a_mistaken_measurement_counts_as_none():
    latent = Latent(torch.zeros(2, 1).double(), torch.full((2, 1, 1), 1e-4).double())
    measured = Measured.of(torch.tensor([[0.05], [0.4]]), torch.full((2, 1), 0.05))
    assert torch.isnan(mistakes(latent, measured).value).tolist() == [[False], [True]]


def test_first_guess_knows_that_labels_go_together():
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(400, generator=generator, dtype=torch.float64) - 0.5
    both = torch.stack([one, -one + 0.01 * torch.randn(400, generator=generator).double()], dim=1)
    hidden = both.clone()
    hidden[::3, 1] = torch.nan
    guess = first_guess(Measured.of(hidden, torch.full_like(hidden, 0.01)))
    assert (guess.mean[::3, 1] - both[::3, 1]).abs().max() < 0.06  # five times the scatter
    assert guess.covariance[0, 1, 1] < 0.02**2


def test_an_error_that_is_not_known_is_the_labels_spread():
    value = torch.tensor([[-0.3], [0.3]])
    measured = Measured.of(value, torch.tensor([[0.1], [torch.nan]]))
    np.testing.assert_allclose(measured.error[:, 0], [0.1, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3), "do not fit"),
        (torch.zeros(3, 2), torch.full((3, 2), -1.0), "must be >= 0, got -1"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, 2), "label 0 is known of none of 3 stars"),
    ],
)
def test_wrong_measurements_are_refused(value, error, message):
    with pytest.raises(ValueError, match=message):
        Measured.of(value, error)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("flux", torch.zeros(3, 160), r"flux should be \(4, 160\), got \(3, 160\)"),
        ("ivar", torch.zeros(4, 159), r"ivar should be \(4, 160\), got \(4, 159\)"),
        ("shift", torch.zeros(5), r"shift should be \(4,\), got \(5,\)"),
    ],
)
def test_spectra_of_other_stars_or_pixels_are_refused(part, value, message):
    none = torch.zeros(4, 160)
    spectra = Observed(**({"flux": none, "ivar": none, "shift": torch.zeros(4)} | {part: value}))
    measured = Measured.of(torch.zeros(4, 4), torch.zeros(4, 4))
    start = torch.zeros(4, 4).double()
    population = Population(start[0], torch.eye(4).double())
    with pytest.raises(ValueError, match=message):
        expect(Cannon(SPEC), spectra, measured, population, start)
    with pytest.raises(ValueError, match=message):
        learn_latent(Cannon(SPEC), spectra, measured, lambda x, k: pytest.fail(f"{k}: {x}"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 4), r"flux should be \(5, 160\), got \(4, 160\)"),
        ((4, 3), r"measured labels should be \(4, 4\), got \(4, 3\)"),
    ],
)
def test_measurements_of_other_stars_or_labels_are_refused(shape, message):
    none, start = torch.zeros(4, 160), torch.zeros(4, 4).double()
    spectra, population = Observed(none, none, none[:, 0]), Population(start[0], torch.eye(4))
    other = Measured.of(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        learn_latent(Cannon(SPEC), spectra, other, lambda x, k: pytest.fail(f"{k}: {x}"))
    with pytest.raises(ValueError, match=r"measured labels should be \(4, 4\), got"):
        expect(Cannon(SPEC), spectra, other, population, start)
