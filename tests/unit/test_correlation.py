"""Shared noise: against dense matrices, drawn noise, and pulls of fits through the operators."""

import numpy as np
import pytest
import torch

from scalespec.kernels.correlation import noise_correlation, row_means
from scalespec.kernels.lsf import FWHM, banded, degrade_operator
from scalespec.kernels.resample import rebin_operator
from scalespec.kernels.wavelength import log_grid, pixel_edges, resolution_edges
from scalespec.models.base import EmulatorSpec
from scalespec.models.cannon import Cannon, monomials
from scalespec.optimize.constraints import Constraints
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.result import FitStatus

WAVELENGTH = log_grid(3.7, 1e-4, 1500)
EDGES = pixel_edges(WAVELENGTH)
HALF = pixel_edges(WAVELENGTH * 10**0.5e-4)[5:-5]


def degraded(power, per_fwhm):
    """Edges, and the operator to them from R = 1800."""
    edges = resolution_edges(WAVELENGTH[40], WAVELENGTH[-40], power, pixels_per_fwhm=per_fwhm)
    return edges, degrade_operator(EDGES, edges, 1800.0, power)


@pytest.mark.parametrize("per_fwhm", [1.0, 2.0, 3.0])
def test_it_is_the_sum_over_the_dense_correlation(per_fwhm):
    edges, operator = degraded(500.0, per_fwhm)
    matrix = operator.matrix.toarray()
    shared = matrix @ matrix.T
    own = np.sqrt(np.diag(shared))
    ln = np.log(edges)
    center, variance = (ln[1:] + ln[:-1]) / 2, (1 / FWHM / 500) ** 2 + np.diff(ln) ** 2 / 12
    off = (center[:, np.newaxis] - center) ** 2 / (variance[:, np.newaxis] + variance)
    lines = shared / np.outer(own, own) * np.exp(-off / 2)
    found = noise_correlation(operator, edges, 500.0)
    np.testing.assert_allclose(found[:, 0], lines.sum(axis=1), rtol=1e-9)
    slopes = (lines * (1 - off)).sum(axis=1)
    np.testing.assert_allclose(found[:, 1], np.maximum(slopes, 1), rtol=1e-9)


@pytest.mark.parametrize(
    ("edges", "operator", "power"),
    [
        (*degraded(200.0, 1.0), 200.0),
        (*degraded(200.0, 2.0), 200.0),
        (*degraded(500.0, 2.0), 500.0),
        (HALF, rebin_operator(EDGES, HALF).band, 1800.0),
        # DESI's pixels of 0.8 Å to wider ones
        (EDGES[100:-200], rebin_operator(5050 + 0.8 * np.arange(2200), EDGES[100:-200]).band, 2e3),
    ],
)
def test_depths_of_lines_scatter_as_it_says(edges, operator, power):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4000, operator.n_in))
    flux, ivar = operator.apply(noise, np.ones_like(noise))
    center, width = np.sqrt(edges[1:] * edges[:-1]), np.diff(edges)
    middle = len(center) // 2
    sigma = np.hypot(center[middle] / power / FWHM, width[middle] / np.sqrt(12))
    line = np.exp(-0.5 * ((center - center[middle]) / sigma) ** 2)
    depth = (flux * ivar) @ line / (ivar @ line**2)
    pull = depth * np.sqrt(ivar @ line**2)
    expected = np.sqrt(noise_correlation(operator, edges, power)[middle, 0])
    # 4,000 draws give a width to 1.1 %; a line sampled once per FWHM is no smooth thing.
    assert pull.std() == pytest.approx(expected, rel=0.05)
    assert pull.std() > 1.05 or power == 2e3


def test_pixels_that_stay_or_are_summed_whole_share_nothing():
    for edges in (EDGES[3:-3], EDGES[::3]):
        made = noise_correlation(rebin_operator(EDGES, edges).band, edges, 1800.0)
        np.testing.assert_allclose(made, 1, atol=1e-12)


def test_rows_without_input_share_nothing():
    edges = pixel_edges(log_grid(3.6, 1e-4, 1500))  # the last third of them lies on the input
    operator = rebin_operator(EDGES, edges * 10**0.5e-4)
    made = noise_correlation(operator.band, edges, 1800.0)
    filled = np.diff(operator.band.matrix.indptr) > 0
    assert filled.any()
    np.testing.assert_array_equal(made[~filled], 1)
    assert (made[filled][2:-2, 0] > 1.5).all()
    assert noise_correlation(banded(operator.overlap), edges, 0.0).shape == (1500, 2)


@pytest.mark.parametrize("power", [np.nan, 0.0])
def test_lines_of_no_known_width_have_no_end(power):
    band = rebin_operator(EDGES, HALF).band
    found = noise_correlation(band, HALF, power)[20]
    np.testing.assert_allclose(found, 2, rtol=1e-3)  # 1 + 2 * 1/2


def test_a_spectrum_has_the_mean_of_its_good_pixels():
    operators = np.arange(24.0).reshape(3, 4, 2)
    ivar = np.array([[1.0, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]])
    assert row_means(operators[0], ivar).tolist() == [[1, 2], [6, 7], [1, 1]]
    which = np.array([[0, 2, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert row_means(operators, ivar, which).tolist() == [[9, 10], [14, 15], [1, 1]]


LOW, HIGH = np.array([4000.0, 1.0, -2.0]), np.array([6500.0, 5.0, 0.5])


def cannon(edges, smooth):
    """A Cannon, linear in its labels, of 180 lines of R = 1800 seen through an operator."""
    rng, pixel = np.random.default_rng(3), np.arange(len(WAVELENGTH))
    weight = np.zeros((len(monomials(3, 1)), len(WAVELENGTH)))
    weight[0] = 1
    for term in range(len(weight)):
        for center in rng.uniform(0, len(pixel), 60):
            line = np.exp(-0.5 * ((pixel - center) / 1.1) ** 2)
            weight[term] += 0.08 * rng.normal() * line
    center = np.sqrt(edges[1:] * edges[:-1])
    model = Cannon(EmulatorSpec("c", ("teff", "logg", "fe_h"), LOW, HIGH, center), order=1)
    with torch.no_grad():
        model.output.weight.copy_(torch.tensor(smooth(weight).T))
        model.scatter.zero_()
    return model.eval()


def seen(n, snr=30.0):
    """Labels, and spectra with noise on the fine pixels."""
    rng = np.random.default_rng(4)
    labels = LOW + (HIGH - LOW) * rng.uniform(0.3, 0.7, (n, 3))
    with torch.inference_mode():
        clean = cannon(EDGES, lambda weight: weight)(torch.tensor(labels)).numpy()
    flux = clean + rng.standard_normal(clean.shape) / snr
    return labels, flux, np.full(flux.shape, snr**2)


@pytest.mark.parametrize(
    ("edges", "operator", "power"),
    [
        (HALF, rebin_operator(EDGES, HALF).band, 1800.0),
        (*degraded(500.0, 1.0), 500.0),
        (*degraded(500.0, 2.0), 500.0),
        (*degraded(1000.0, 2.0), 1000.0),
    ],
)
def test_pulls_of_fits_are_of_unit_width_whatever_pixels_share(edges, operator, power):
    labels, flux, ivar = seen(600)
    made, weight = (part.astype(np.float32) for part in operator.apply(flux, ivar))
    shared = row_means(noise_correlation(operator, edges, power), weight)
    model = cannon(edges, operator.smooth)
    fit = fit_labels(model, made, weight, noise_correlation=shared)
    pulls = np.column_stack([(fit.labels - labels) / fit.label_err, fit.rv / fit.rv_err])
    # 600 stars give a width to 3 %; 60 lines per label are not all lines there could be.
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.1)
    assert np.median(fit.chi2 / fit.dof) == pytest.approx(1, abs=0.05)
    assert not (fit.status & FitStatus.POOR_FIT).any()


def test_a_spectrum_says_less_and_a_prior_as_much_as_before():
    labels, flux, ivar = seen(20)
    model = cannon(EDGES, lambda weight: weight)
    flux, ivar = flux.astype(np.float32), ivar.astype(np.float32)
    plain = fit_labels(model, flux, ivar)
    wide = fit_labels(model, flux, ivar, noise_correlation=np.full((20, 2), [4.0, 2.25]))
    np.testing.assert_allclose(wide.label_err / plain.label_err, 2, rtol=0.01)  # the box: little
    np.testing.assert_allclose(wide.rv_err / plain.rv_err, 1.5, rtol=0.01)
    np.testing.assert_allclose(wide.chi2, plain.chi2, rtol=1e-4)
    assert (np.abs(wide.labels - plain.labels) < 0.1 * plain.label_err).all()
    sigma = 0.01 * (HIGH - LOW)  # a tenth of what spectra say
    known = Constraints(prior_mean=labels[0], prior_sigma=sigma)
    held = fit_labels(model, flux, ivar, constraints=known, noise_correlation=100.0)
    np.testing.assert_allclose(held.label_err[:, 2], sigma[2], rtol=0.1)
    assert (held.label_err <= 1.01 * sigma).all()


def test_outlying_pixels_are_told_by_their_own_noise():
    _, flux, ivar = seen(5)
    model = cannon(EDGES, lambda weight: weight)
    flux[:, 700] += 1.0  # 30 sigma
    given = flux.astype(np.float32), ivar.astype(np.float32)
    plain, wide = (
        fit_labels(model, *given, options=FitOptions(robust=4.0), noise_correlation=excess)
        for excess in (1.0, 3.0)
    )
    np.testing.assert_allclose(wide.chi2, plain.chi2, rtol=1e-3)
    assert (np.abs(wide.labels - plain.labels) < 0.1 * plain.label_err).all()


@pytest.mark.parametrize("wrong", [0.0, np.nan, np.ones(3), np.ones((2, 3))])
def test_what_is_no_correlation_is_refused(wrong):
    _, flux, ivar = seen(2)
    model = cannon(EDGES, lambda weight: weight)
    with pytest.raises(ValueError, match="noise_correlation should be positive"):
        fit_labels(model, flux, ivar, noise_correlation=wrong)
