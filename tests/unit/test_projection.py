"""Variable projection: exact where least squares is, blind to what has no information."""

import numpy as np
import pytest
import torch
from loops import FLOOR, difference_quotient, weighed

from scalespec.models import projection
from scalespec.models.base import Emulator, EmulatorSpec, shift_flux
from scalespec.models.linear import RIDGE, solve
from scalespec.models.payne import Payne
from scalespec.models.projection import project, solve_output, start_at_mean
from scalespec.models.weighed import relevance

N, PIXELS = 400, 150


def spec():
    grid = 10 ** (3.6 + 1e-4 * np.arange(PIXELS))
    return EmulatorSpec("toy", ("a", "b"), [-0.5, -0.5], [0.5, 0.5], grid)


def lines(x, n_line=20):
    """Return spectra of lines whose depths saturate in the labels."""
    rng = np.random.default_rng(0)
    center, slope = rng.uniform(8, PIXELS - 8, n_line), rng.normal(0, 2, (n_line, 2))
    strength = np.exp(rng.normal(-1.5, 0.5, n_line) + x @ slope.T)
    profile = np.exp(-0.5 * ((np.arange(PIXELS) - center[:, None]) / 1.5) ** 2)
    return np.exp(-(strength / (1 + strength)) @ profile)


def sample(n=N, seed=1):
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, (n, 2))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(lines(x), dtype=torch.float32)


def trained(spectra, rounds=(0, 10, 40), width=40):
    model = Payne(spec(), hidden=(width, width))
    start_at_mean(model, spectra)
    for evaluations in rounds:
        project(model, spectra, evaluations)
    return model


def rms(model, seed=2):
    x, flux = sample(300, seed)
    with torch.no_grad():
        return float((model.forward_scaled(x) - flux).square().mean().sqrt())


def test_solve_is_least_squares():
    rng = np.random.default_rng(0)
    design = np.column_stack([rng.normal(size=(50, 4)), np.ones(50)])
    target = rng.normal(size=(50, 3))
    made = solve(torch.tensor(design.T @ design / 50), torch.tensor(design.T @ target / 50), 1e-13)
    np.testing.assert_allclose(made, np.linalg.lstsq(design, target, rcond=None)[0], rtol=1e-8)


def test_weights_split_exactly_where_they_are_products():
    star = torch.tensor([20.0, 50.0, 100.0])[:, None]
    pixel = torch.linspace(0.5, 1.5, PIXELS)
    ivar = 1 / (1 / (star * pixel) - FLOOR**2)  # so that pixel_weight is star * pixel
    spectra = weighed(torch.zeros(3, 2), torch.ones(3, PIXELS), ivar)
    torch.testing.assert_close(spectra.star[:, None] * spectra.pixel, star * pixel)
    torch.testing.assert_close(spectra.trust, torch.ones(3, PIXELS))


def test_noise_is_that_of_whitened_spectra():
    spectra = weighed(torch.zeros(5, 2), torch.ones(5, PIXELS), 1 / 0.02**2)
    assert spectra.noise == pytest.approx(0.02**2 / (0.02**2 + FLOOR**2))
    assert weighed(torch.zeros(5, 2), torch.ones(5, PIXELS)).noise == 0


def test_start_is_the_weighted_mean():
    x, flux = sample(10)
    ivar = torch.full_like(flux, 1e4)
    ivar[3:, 0] = 0
    flux[3:, 0] = torch.nan  # what a pixel without information holds does not matter
    model = Payne(spec(), hidden=(5, 5))
    start_at_mean(model, weighed(x, flux, ivar))
    made = model.forward_scaled(x).detach()
    torch.testing.assert_close(made[0, 1:], flux[:, 1:].mean(0))
    torch.testing.assert_close(made[:, 0], flux[:3, 0].mean().expand(10))


def test_rounds_learn_lines_to_a_thousandth():
    assert rms(trained(weighed(*sample()))) < 1e-3


def test_a_round_never_makes_noiseless_training_spectra_worse():
    x, flux = sample()
    spectra = weighed(x, flux)
    errors = []
    model = Payne(spec(), hidden=(30, 30))
    start_at_mean(model, spectra)
    for evaluations in (0, 5, 10, 20):
        project(model, spectra, evaluations)
        errors.append(float((model.forward_scaled(x) - flux).square().mean().detach()))
    assert errors == sorted(errors, reverse=True)


def test_masked_pixels_are_completed():
    x, flux = sample()
    hidden = torch.rand(flux.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    ivar = torch.where(hidden, 0.0, torch.inf)
    model = trained(weighed(x, torch.where(hidden, 0.0, flux), ivar), rounds=(0, 10, 10, 20, 20))
    assert rms(model) < 2e-3  # the mean spectrum in their place would leave 0.02
    junk = trained(weighed(x, torch.where(hidden, 77.0, flux), ivar), rounds=(0, 10, 10, 20, 20))
    assert torch.equal(junk.output.weight, model.output.weight)


def test_noise_is_not_learned():
    x, flux = sample()
    noisy = flux + 0.03 * torch.randn(flux.shape, generator=torch.Generator().manual_seed(0))
    model = trained(weighed(x, noisy, 1 / 0.03**2), rounds=(0, 10, 40, 80))
    # 41 weights per pixel from 400 spectra would keep 0.03 * sqrt(41 / 400) = 0.0096 of the noise.
    assert rms(model) < 0.005


def test_displaced_lines_are_put_to_rest():
    x, flux = sample()
    shift = torch.rand(N, generator=torch.Generator().manual_seed(0)) - 0.5
    moved = shift_flux(flux, shift)
    knowing, ignorant = trained(weighed(x, moved, shift=shift)), trained(weighed(x, moved))
    assert rms(knowing) < 1.5e-3
    assert rms(ignorant) > 2 * rms(knowing)


def test_components_beyond_the_noise_are_kept_and_no_others():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(N, 12, generator=generator) @ torch.randn(12, PIXELS, generator=generator)
    noisy = 0.3 * signal + torch.randn(N, PIXELS, generator=generator)
    spectra = weighed(torch.zeros(N, 2), noisy)
    spectra.noise = 1.0
    assert projection._components(noisy, spectra).shape == (PIXELS, 12)


def test_components_are_those_of_the_singular_value_decomposition():
    _, flux = sample()
    deviation = flux - flux.mean(0)
    basis = projection._components(deviation, weighed(torch.zeros(N, 2), flux))
    left = deviation - deviation @ basis @ basis.T
    assert float(left.norm() / deviation.norm()) < 1e-5  # float32


def test_stars_without_information_change_nothing_but_rounding():
    x, flux = sample()
    ivar = torch.full_like(flux, 1e6)
    padded = weighed(
        torch.cat([x, x[:50]]), torch.cat([flux, 0 * flux[:50]]), torch.cat([ivar, 0 * ivar[:50]])
    )
    assert padded.n_total == N
    with_them, without = trained(padded, rounds=(0,)), trained(weighed(x, flux, ivar), rounds=(0,))
    a, b = (m.forward_scaled(x).detach() for m in (with_them, without))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)  # a random basis in float32


def test_nothing_to_learn_from_leaves_finite_weights():
    x, flux = sample(20)
    model = trained(weighed(x, flux, 0.0), rounds=(0, 5))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    torch.testing.assert_close(model.forward_scaled(x), torch.ones(20, PIXELS))


def test_solve_output_is_ridge_regression_over_all_batches():
    x, flux = sample()
    model = Payne(spec(), hidden=(10, 10), seed=3)
    before = model.forward_scaled(x).detach().numpy()
    solve_output(model, [weighed(x[:150], flux[:150]), weighed(x[150:], flux[150:])])
    design = np.column_stack([model.features(x).detach().numpy(), np.ones(N)]).astype(np.float64)
    ridge = np.sqrt(N * RIDGE) * np.eye(11, 11)[:10]  # rows that pull steps to zero
    step = np.linalg.lstsq(
        np.vstack([design, ridge]), np.vstack([flux.numpy() - before, np.zeros((10, PIXELS))])
    )[0]
    # Sums of 400 products in float32 along directions that the ridge of 1e-7 barely holds.
    np.testing.assert_allclose(
        model.forward_scaled(x).detach(), before + design @ step, rtol=0, atol=1e-3
    )


def test_a_model_without_a_linear_end_is_refused():
    model = Emulator(spec())
    with pytest.raises(ValueError, match="Emulator does not end in a linear layer"):
        project(model, weighed(*sample(5)), 1)


def test_gradient_is_that_of_the_eliminated_problem():
    x, flux = sample(60)
    model = Payne(spec(), hidden=(6, 5), seed=1).double()
    spectra = weighed(x, flux, 1e4)
    spectra.x = spectra.x.double()
    problem = projection._Problem(model, spectra, flux.double() - 1)
    problem.evaluate()
    weight = problem.free[2]  # of the second hidden layer
    gradient = float(weight.grad[2, 3])
    # step**2 times the third derivative, and rounding 1e-16 / step, of a gradient of order 1e-3
    assert gradient == pytest.approx(difference_quotient(problem, weight, (2, 3)), rel=1e-4)


def small_problem():
    """Return a problem in float64 whose components are the pixels."""
    x, flux = sample(60)
    model = Payne(spec(), hidden=(6, 5), seed=1).double()
    spectra = weighed(x, flux, 1e4)
    spectra.x = spectra.x.double()
    return model, projection._Problem(model, spectra, flux.double() - 1)


def test_gradient_by_label_weights_is_in_units_of_relevance():
    model, problem = small_problem()
    before = model.hidden[0].weight.detach().clone()
    decay = problem.decay[0]
    share = torch.tensor([1.0, 0.1], dtype=torch.float64)
    problem.measure(share)
    weight = problem.free[0]
    problem.evaluate()
    torch.testing.assert_close(model.hidden[0].weight.detach(), before)
    torch.testing.assert_close(weight[:, 1] / weight[:, 0], 10 * before[:, 1] / before[:, 0])
    gradient = float(weight.grad[2, 1])
    assert gradient == pytest.approx(difference_quotient(problem, weight, (2, 1)), rel=1e-4)
    # Units have a mean square of 1; the penalty is by relevance itself, whatever the units.
    assert float(problem.unit_of[0].square().mean()) == pytest.approx(1.0)
    penalty = float(problem.decay[0] * weight.detach().square().sum())
    assert penalty == pytest.approx(decay * float((before / share).square().sum()))


def test_emphasis_divides_by_a_power_of_the_variance_and_keeps_the_total():
    _, problem = small_problem()
    problem.emphasize(0.5)
    variance = problem.target.square().mean(0)  # all stars weigh the same
    large = variance > 10 * projection.LEAST_COMPONENT * variance.max()
    product = (problem.emphasis * variance.sqrt())[large]
    torch.testing.assert_close(product, product[:1].expand_as(product))
    assert float(problem.emphasis @ variance) == pytest.approx(float(variance.sum()))
    tiny = variance < projection.LEAST_COMPONENT * variance.max()
    assert bool((problem.emphasis[tiny] == problem.emphasis.max()).all())
    problem.emphasize(0.0)
    torch.testing.assert_close(problem.emphasis, torch.ones_like(problem.emphasis))


def test_gradient_of_the_eliminated_problem_holds_with_emphasis():
    _, problem = small_problem()
    problem.emphasize(0.5)
    problem.evaluate()
    weight = problem.free[2]
    gradient = float(weight.grad[2, 3])
    assert gradient == pytest.approx(difference_quotient(problem, weight, (2, 3)), rel=1e-4)


def test_noisy_spectra_are_learned_without_emphasis(monkeypatch):
    x, flux = sample(N)
    noisy = flux + 0.02 * torch.randn(flux.shape, generator=torch.Generator().manual_seed(3))
    for clean in (True, False):
        made = []
        for power in (0.0, 0.3):
            monkeypatch.setattr(projection, "EMPHASIS", power)
            spectra = weighed(x, flux if clean else noisy, 1 / 0.02**2)
            spectra.noise = 0.0 if clean else spectra.noise
            made.append(trained(spectra, rounds=(0, 10)).output.weight.detach())
        assert torch.equal(*made) is not clean


def test_emphasis_of_nothing_changes_nothing():
    x, flux = sample(20)
    model = Payne(spec(), hidden=(6, 5), seed=1)
    problem = projection._Problem(model, weighed(x, flux, 1e4), torch.zeros(20, 4))
    problem.emphasize(0.3)
    assert problem.emphasis.tolist() == [1.0] * 4


def weak_beside_strong(n, seed):
    """Return labels and lines: many strong ones of both labels, a weak one that bends in both."""
    x, flux = sample(n, seed)
    weak = torch.sin(5 * x[:, 1]) * torch.cos(4 * x[:, 0])
    flux[:, :5] = 1.0
    flux[:, 2] -= 0.003 * weak
    return x, flux


def test_emphasis_makes_weak_lines_right_sooner(monkeypatch):
    found = {}
    for power in (0.0, projection.EMPHASIS):
        monkeypatch.setattr(projection, "EMPHASIS", power)
        model = trained(weighed(*weak_beside_strong(N, 1)), rounds=(0, 40))
        x, flux = weak_beside_strong(300, 2)
        with torch.no_grad():
            error = (model.forward_scaled(x) - flux)[:, 2].square().mean().sqrt()
        found[power] = float(error / flux[:, 2].std())
    assert found[power] < 0.4 * found[0.0]  # measured: 0.16, and less of all errors, too


def test_weak_labels_are_told_from_strong_ones():
    x, _ = sample(200)
    flux = torch.ones(200, PIXELS)
    flux[:, 3] += 0.3 * x[:, 0]
    flux[:, 5] += 0.003 * x[:, 1]
    found = relevance(weighed(x, flux))
    assert found[0] == 1
    assert float(found[1]) == pytest.approx(0.01, rel=0.1)
    assert found[2:].tolist() == pytest.approx([1e-3] * (x.shape[1] - 2), abs=2e-3)


def test_spectra_that_know_nothing_leave_all_labels_alike():
    x, flux = sample(20)
    found = relevance(weighed(x, flux, 0.0))
    assert torch.isfinite(found).all()
    assert len(set(found.tolist())) == 1
