"""The Cannon: its polynomial, its derivatives, and training that is exact maximum likelihood."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.cannon import Cannon, count_terms, design, monomials, pair_products
from scalespec.models.regression import Penalty, fit_pixels
from scalespec.store.model import load_model, save_model


def make_model(n_label=3, order=2, n_pixel=6, seed=0):
    spec = EmulatorSpec(
        "toy",
        tuple(f"l{i}" for i in range(n_label)),
        np.full(n_label, -1.0),
        np.full(n_label, 3.0),
        5000.0 + np.arange(n_pixel),
    )
    model = Cannon(spec, order=order).double()
    with torch.no_grad():
        rng = np.random.default_rng(seed)
        model.output.weight.copy_(torch.from_numpy(rng.normal(0, 0.2, model.output.weight.shape)))
    return model


def draw(n=200, n_label=3, seed=1):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(-0.5, 0.5, (n, n_label)))


@pytest.mark.parametrize(("n_label", "order"), [(1, 1), (3, 2), (5, 2), (2, 4), (20, 2)])
def test_monomials_are_all_products_once(n_label, order):
    rows = monomials(n_label, order)
    assert len({tuple(row) for row in rows.tolist()}) == len(rows) == count_terms(n_label, order)


def test_flux_is_the_polynomial_written_out():
    model, x = make_model(), draw(4)
    flux = model.forward_scaled(x)
    theta = model.coefficients.detach().numpy()
    for n, labels in enumerate(x.numpy()):
        pairs = [labels[i] * labels[j] for i, j in combinations_with_replacement(range(3), 2)]
        np.testing.assert_allclose(
            flux[n].detach().numpy(), theta @ np.array([1.0, *labels, *pairs]), rtol=1e-12
        )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_jacobian_equals_automatic_differentiation(order):
    model, x = make_model(order=order), draw(5)
    by_hand, by_machine = model.flux_and_jacobian(x), Emulator.flux_and_jacobian(model, x)
    for a, b in zip(by_hand, by_machine, strict=True):
        torch.testing.assert_close(a, b)


def test_a_slice_gives_the_same_flux_there():
    model, labels = make_model(), torch.zeros(2, 3)
    torch.testing.assert_close(model.slice_grid(2, 5)(labels), model(labels)[:, 2:5])


def test_products_of_terms_are_found_in_place():
    x = draw(7)
    terms = design(x, torch.from_numpy(monomials(3, 2)))
    factors, place = monomials(3, 4), pair_products(3, 2)
    products = design(x, torch.from_numpy(factors))
    torch.testing.assert_close(
        products[:, torch.from_numpy(place)], terms[:, :, None] * terms[:, None]
    )


@pytest.mark.parametrize(("n_label", "order"), [(0, 2), (3, 0)])
def test_no_labels_or_no_order_is_refused(n_label, order):
    with pytest.raises(ValueError, match=f"{n_label} and {order}"):
        monomials(n_label, order)


def simulate(scatter, n=400, n_pixel=6, noise=0.01, seed=3):
    """Spectra of a known polynomial with known scatter, and noise that differs by star."""
    model, x = make_model(n_pixel=n_pixel), draw(n)
    rng = np.random.default_rng(seed)
    sigma = noise * rng.uniform(0.5, 2.0, (n, n_pixel))
    flux = model.forward_scaled(x).detach().numpy()
    flux = flux + rng.normal(0, 1, flux.shape) * np.hypot(sigma, scatter)
    return model, x, torch.from_numpy(flux), torch.from_numpy(sigma**-2)


def minus_log_likelihood(parameters, terms, flux, ivar):
    weight = 1 / (1 / ivar + np.exp(2 * parameters[0]))
    residual = flux - terms @ parameters[1:]
    return 0.5 * np.sum(weight * residual**2 - np.log(weight))


def test_training_reaches_the_maximum_that_scipy_finds():
    _, x, flux, ivar = simulate(scatter=0.02, n=120, n_pixel=3)
    fit = fit_pixels(x, flux, ivar, tolerance=1e-6)
    terms = design(x, torch.from_numpy(monomials(3, 2))).numpy()
    for p in range(3):
        start = np.concatenate([[np.log(0.01)], np.linalg.lstsq(terms, flux[:, p].numpy())[0]])
        best = minimize(
            minus_log_likelihood,
            start,
            args=(terms, flux[:, p].numpy(), ivar[:, p].numpy()),
            options={"gtol": 1e-8},
        )
        assert -fit.log_likelihood[p] == pytest.approx(best.fun, abs=1e-6)
        assert fit.scatter[p] == pytest.approx(np.exp(best.x[0]), rel=1e-4)


def test_truth_is_recovered_within_its_errors():
    model, x, flux, ivar = simulate(scatter=0.02, n=4000)
    fit = fit_pixels(x, flux, ivar)
    terms = design(x, torch.from_numpy(monomials(3, 2)))
    for p in range(6):
        weight = 1 / (1 / ivar[:, p] + 0.02**2)
        error = torch.linalg.inv(terms.T @ (weight[:, None] * terms)).diagonal().sqrt()
        pull = (fit.coefficients[p] - model.coefficients[p]).abs() / error
        assert pull.max() < 3.5  # 60 numbers: one beyond 3.5 sigma in 36 such tests
    assert fit.scatter.numpy() == pytest.approx(0.02, rel=0.05)  # 1/sqrt(2 * 4000) is 1.1 %


def test_no_scatter_is_found_where_there_is_none():
    _, x, flux, ivar = simulate(scatter=0.0, n=2000, n_pixel=40)
    scatter = fit_pixels(x, flux, ivar).scatter
    assert scatter.max() < 0.004  # sigma of s² is 1e-4 * sqrt(2 / 2000): s below 0.0025 at 2 sigma
    assert 5 < int((scatter == 0).sum()) < 36  # half of them, as the true value is at the edge


def test_pixels_without_information_count_for_nothing():
    _, x, flux, ivar = simulate(scatter=0.01)
    flux[::3], ivar[::3] = 1e6, 0.0
    with_holes = fit_pixels(x, flux, ivar)
    keep = torch.arange(len(x)) % 3 != 0
    alone = fit_pixels(x[keep], flux[keep], ivar[keep])
    # other sums in single precision on the way
    torch.testing.assert_close(with_holes.coefficients, alone.coefficients, rtol=5e-6, atol=2e-7)
    torch.testing.assert_close(with_holes.scatter, alone.scatter, rtol=5e-6, atol=2e-7)


def test_a_pixel_with_too_few_spectra_is_said_to_know_nothing():
    _, x, flux, ivar = simulate(scatter=0.01)
    ivar[9:, 2] = 0.0  # nine spectra, ten coefficients
    fit = fit_pixels(x, flux, ivar)
    assert fit.n_used[2] == 9
    assert fit.coefficients[2].tolist() == [1.0] + [0.0] * 9
    assert fit.scatter[2] == 1.0
    assert torch.isnan(fit.log_likelihood[2])
    assert torch.isfinite(fit.log_likelihood[[0, 1, 3, 4, 5]]).all()


def test_blocks_of_pixels_change_nothing():
    _, x, flux, ivar = simulate(scatter=0.01)
    whole = fit_pixels(x, flux, ivar)
    parts = [fit_pixels(x, flux[:, a:b], ivar[:, a:b]) for a, b in [(0, 2), (2, 6)]]
    joined = torch.cat([part.coefficients for part in parts])
    torch.testing.assert_close(joined, whole.coefficients, rtol=1e-9, atol=1e-12)


def test_censored_labels_leave_no_trace():
    _, x, flux, ivar = simulate(scatter=0.01)
    censored = torch.zeros(6, 3, dtype=torch.bool)
    censored[4, 1] = True
    fit = fit_pixels(x, flux, ivar, penalty=Penalty(censored=censored))
    has_label = (torch.from_numpy(monomials(3, 2)) == 1).any(1)
    assert fit.coefficients[4, has_label].abs().max() == 0
    without = fit_pixels(x[:, [0, 2]], flux[:, 4:5], ivar[:, 4:5])
    torch.testing.assert_close(fit.coefficients[4, ~has_label], without.coefficients[0])


def test_l1_solution_fulfils_its_optimality_conditions():
    _, x, flux, ivar = simulate(scatter=0.02)
    weight_l1 = 200.0
    fit = fit_pixels(x, flux, ivar, penalty=Penalty(l1=weight_l1), tolerance=1e-9)
    terms = design(x, torch.from_numpy(monomials(3, 2)))
    weight = 1 / (1 / ivar + fit.scatter.square())
    gradient = ((flux - terms @ fit.coefficients.T) * weight).T @ terms  # of -chi²/2
    theta = fit.coefficients[:, 1:]
    assert 0 < int((theta == 0).sum()) < theta.numel()
    # |gradient| = l1 where a coefficient lives, at most l1 where it is zero (Karush-Kuhn-Tucker).
    alive = theta != 0
    torch.testing.assert_close(
        gradient[:, 1:][alive], weight_l1 * torch.sign(theta[alive]), rtol=1e-4, atol=0.01
    )
    assert gradient[:, 1:][~alive].abs().max() <= weight_l1 * 1.0001


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, f, i: (x[:-1], f, i, None), r"\(399, 3\).*\(400, 6\)"),
        (lambda x, f, i: (x * torch.nan, f, i, None), "spectrum 0 are not finite"),
        (lambda x, f, i: (x, f, i, Penalty(l1=-1.0)), "got -1"),
        (
            lambda x, f, i: (x, f, i, Penalty(censored=torch.zeros(3, 6, dtype=torch.bool))),
            r"\(3, 6\), wanted \(6, 3\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(change, said):
    _, x, flux, ivar = simulate(scatter=0.01)
    x, flux, ivar, penalty = change(x, flux, ivar)
    with pytest.raises(ValueError, match=said):
        fit_pixels(x, flux, ivar, penalty=penalty)


def test_a_stored_cannon_is_the_same_cannon(tmp_path):
    model = Cannon(make_model().spec, order=3)
    torch.nn.init.normal_(model.output.weight)
    save_model(str(tmp_path), model, {})
    loaded = load_model(str(tmp_path))
    labels = torch.tensor([[0.3, 1.0, 2.0]])
    assert isinstance(loaded, Cannon)
    assert torch.equal(loaded(labels), model(labels))
