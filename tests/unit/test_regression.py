"""Fits of pixels: against weighted least squares, scipy's optimizer, and stars drawn."""

import numpy as np
import pytest
import torch
from scipy import optimize

from scalespec.models.cannon import monomials
from scalespec.models.regression import Penalty, fit_pixels

RNG = np.random.default_rng(3)
X = RNG.uniform(-0.5, 0.5, (120, 2))
TERMS = np.column_stack([np.ones(120), X, X[:, 0] ** 2, X[:, 0] * X[:, 1], X[:, 1] ** 2])


def spectra(scatter=(0.0, 0.02, 0.1), snr=100.0, seed=1):
    """Three pixels, quadratic in two labels, each with a scatter of its own."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(0, 0.2, (6, 3)) + np.array([1.0, *[0.0] * 5])[:, None]
    sigma = rng.uniform(0.5, 2, (120, 3)) / snr
    flux = TERMS @ theta + rng.normal(size=(120, 3)) * np.hypot(sigma, scatter)
    return flux, sigma**-2


def tensors(*arrays):
    return tuple(torch.tensor(a) for a in arrays)


def minus_ln_likelihood(parameters, flux, ivar):
    """Of one pixel: 6 coefficients and ln of scatter²."""
    used = ivar > 0
    variance = 1 / ivar[used] + np.exp(parameters[6])
    residual = flux[used] - TERMS[used] @ parameters[:6]
    return 0.5 * np.sum(residual**2 / variance + np.log(variance))


def test_terms_are_in_the_order_of_the_monomials():
    padded = np.column_stack([X, np.ones(120)])
    made = np.stack([padded[:, list(row)].prod(axis=1) for row in monomials(2, 2)], axis=1)
    assert made == pytest.approx(TERMS)


def test_coefficients_and_scatter_are_of_the_greatest_likelihood():
    flux, ivar = spectra()
    ivar[RNG.random(ivar.shape) < 0.1] = 0
    fit = fit_pixels(*tensors(X, np.where(ivar > 0, flux, np.nan), ivar), tolerance=1e-8)
    for pixel in (1, 2):  # where there is scatter
        start = np.r_[np.linalg.lstsq(TERMS, flux[:, pixel], rcond=None)[0], np.log(1e-3)]
        best = optimize.minimize(
            minus_ln_likelihood, start, args=(flux[:, pixel], ivar[:, pixel]), method="BFGS"
        )
        # BFGS ends where slopes are 1e-5 by differences of 1e-8
        assert fit.coefficients[pixel].numpy() == pytest.approx(best.x[:6], abs=2e-5)
        assert float(fit.scatter[pixel]) == pytest.approx(np.exp(best.x[6] / 2), rel=1e-3)
        assert float(fit.log_likelihood[pixel]) == pytest.approx(-best.fun, abs=1e-4)


def test_scatter_that_is_drawn_is_found():
    found = [fit_pixels(*tensors(X, *spectra(seed=i))).scatter.numpy() for i in range(40)]
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(40)
    # likelihood divides by n, not by n - 6: 2.5 % low
    assert mean[1:] == pytest.approx(
        np.array([0.02, 0.1]) * np.sqrt(114 / 120), abs=4 * error.max()
    )
    assert mean[0] < 0.003  # of noise of 0.01


def test_without_scatter_it_is_weighted_least_squares():
    flux, ivar = spectra(scatter=(0.0, 0.0, 0.0))
    exact = TERMS @ np.linalg.lstsq(TERMS, flux, rcond=None)[0]
    flux = exact + 0.3 * (flux - exact)  # less than the errors say
    fit = fit_pixels(*tensors(X, flux, ivar), tolerance=1e-6)
    assert fit.scatter.tolist() == [0.0, 0.0, 0.0]
    for pixel in range(3):
        root = np.sqrt(ivar[:, pixel])
        expected = np.linalg.lstsq(TERMS * root[:, None], flux[:, pixel] * root, rcond=None)[0]
        assert fit.coefficients[pixel].numpy() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_flux_without_noise_scatters_as_its_residuals():
    flux, ivar = spectra(scatter=(0.0, 0.02, 0.1), snr=1e9)
    fit = fit_pixels(*tensors(X, flux, np.full_like(ivar, np.inf)), tolerance=1e-6)
    expected = np.linalg.lstsq(TERMS, flux, rcond=None)[0]
    assert fit.coefficients.numpy() == pytest.approx(expected.T, abs=1e-7)
    rms = np.sqrt(np.mean((flux - TERMS @ expected) ** 2, axis=0))
    assert fit.scatter.numpy() == pytest.approx(rms, rel=1e-4, abs=1e-7)
    assert bool(torch.isfinite(fit.log_likelihood).all())


def test_pixels_do_not_know_each_other_nor_the_order_of_stars():
    flux, ivar = spectra()
    whole = fit_pixels(*tensors(X, flux, ivar))
    one = fit_pixels(*tensors(X, flux[:, 1:2], ivar[:, 1:2]))
    assert one.coefficients[0].numpy() == pytest.approx(whole.coefficients[1].numpy(), rel=1e-9)
    order = np.random.default_rng(0).permutation(120)
    mixed = fit_pixels(*tensors(X[order], flux[order], ivar[order]))
    assert mixed.coefficients.numpy() == pytest.approx(whole.coefficients.numpy(), rel=1e-9)


def test_a_pixel_of_too_few_stars_is_the_continuum_and_says_so():
    flux, ivar = spectra()
    ivar[5:, 0] = 0
    ivar[:, 1] = 0
    fit = fit_pixels(*tensors(X, flux, ivar))
    for pixel in (0, 1):
        assert fit.coefficients[pixel].tolist() == [1.0, 0, 0, 0, 0, 0]
        assert float(fit.scatter[pixel]) == 1.0
        assert np.isnan(float(fit.log_likelihood[pixel]))
    assert fit.n_used.tolist() == [5, 0, 120]


def test_float32_spectra_are_fitted_in_float64():
    flux, ivar = (a.astype(np.float32) for a in spectra())
    single = fit_pixels(*tensors(X.astype(np.float32), flux, ivar))
    double = fit_pixels(
        *tensors(*(a.astype(np.float64) for a in (X.astype(np.float32), flux, ivar)))
    )
    assert single.coefficients.dtype == torch.float64
    assert torch.equal(single.coefficients, double.coefficients)


def test_labels_that_a_pixel_must_not_know_of_have_no_terms():
    flux, ivar = spectra()
    censored = torch.tensor([[False, True], [False, False], [True, True]])
    fit = fit_pixels(*tensors(X, flux, ivar), penalty=Penalty(censored=censored))
    assert fit.coefficients[0, [2, 4, 5]].tolist() == [0, 0, 0]
    assert fit.coefficients[0, [1, 3]].abs().min() > 0
    assert fit.coefficients[2, 1:].abs().max() == 0
    free = fit_pixels(*tensors(X, flux, ivar))
    assert fit.coefficients[1].numpy() == pytest.approx(free.coefficients[1].numpy(), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, f, i: (x[:5], f, i), "do not fit"),
        (lambda x, f, i: (x, f, i[:, :2]), "do not fit"),
        (lambda x, f, i: (x * np.nan, f, i), "spectrum 0 are not finite"),
        (
            lambda x, f, i: (x, f * [1, np.nan, 1], 4 + 0 * i),
            "pixel 1 is not finite where ivar is 4",
        ),
        (
            lambda x, f, i: (x, f * [1, 1, np.inf], 4 + 0 * i),
            "pixel 2 is not finite where ivar is 4",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit_pixels(*tensors(*change(X, *spectra())))


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (Penalty(l1=-1.0), "must not be negative, got -1"),
        (Penalty(censored=torch.zeros(2, 2, dtype=torch.bool)), r"shape \(2, 2\), wanted \(3, 2\)"),
    ],
)
def test_penalties_without_meaning_are_refused(penalty, message):
    with pytest.raises(ValueError, match=message):
        fit_pixels(*tensors(X, *spectra()), penalty=penalty)


def test_nearly_degenerate_labels_are_fitted_by_float64_alone():
    x = np.column_stack([X[:, 0], X[:, 0] + 1e-4 * X[:, 1]])
    rng = np.random.default_rng(2)
    flux = (1 - 0.3 * x[:, :1] + rng.normal(0, 0.01, (120, 1))).repeat(2, axis=1)
    fit = fit_pixels(*tensors(x, flux, np.full_like(flux, 1e4)), order=1, tolerance=1e-8)
    root = np.column_stack([np.ones(120), x])
    expected = root @ np.linalg.lstsq(root, flux[:, 0], rcond=None)[0]
    # the ridge, 1e-10 of the mean diagonal, against 1e-9 of the variance in the thin direction
    assert root @ fit.coefficients[0].numpy() == pytest.approx(expected, abs=1e-3)


def test_many_pixels_are_fitted_as_few():
    flux, ivar = spectra()
    many = np.tile(flux, (1, 400)), np.tile(ivar, (1, 400))  # several parts of the cache
    fit = fit_pixels(*tensors(X, *many))
    few = fit_pixels(*tensors(X, flux, ivar))
    assert fit.coefficients[-3:].numpy() == pytest.approx(few.coefficients.numpy(), rel=1e-9)
    assert fit.scatter[:3].numpy() == pytest.approx(few.scatter.numpy(), rel=1e-9)
