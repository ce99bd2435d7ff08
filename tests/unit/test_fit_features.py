"""The fit in feature space against the fit of every pixel, and The Cannon's recovery."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from scalespec.models.cannon import Cannon
from scalespec.optimize.features import fit_at_rest
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.result import FitStatus

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne = _networks["small_payne"]


def cannon(scatter: float = 0.01) -> Cannon:
    """A quadratic model of 4 labels with lines, and some scatter of its own."""
    spec = small_payne().spec
    model = Cannon(spec)
    rng = np.random.default_rng(2)
    center = rng.uniform(0, 600, 75)
    profile = np.exp(-0.5 * ((np.arange(600)[:, None] - center) / 1.4) ** 2)
    size = model.coefficients.shape[1]
    amplitude = rng.normal(0, 1, (75, size)) * np.where(np.arange(size) < 5, 0.3, 0.15)
    with torch.no_grad():
        model.output.weight.copy_(torch.tensor(-profile @ amplitude))
        model.output.weight[:, 0] += 1.0
    model.scatter[:] = scatter * torch.tensor(rng.uniform(0.5, 1.5, 600))
    return model


def mocks(model: Cannon, n: int, snr: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.4, 0.4, (n, 4))
    with torch.no_grad():
        clean = model.forward_scaled(torch.tensor(x).float()).numpy()
    sigma = np.sqrt(1 / snr**2 + model.scatter.numpy() ** 2)
    flux = clean + sigma * rng.standard_normal(clean.shape)
    ivar = np.where(rng.random(clean.shape) < 0.03, 0, snr**2)
    flux[ivar == 0] = 50.0
    return x, model.unscale(torch.tensor(x)).numpy(), flux, ivar


def test_pulls_of_the_cannon_are_standard_normal():
    """Oracle 6: 10,000 stars, scatter in the errors, physical units."""
    model = cannon()
    _, labels, flux, ivar = mocks(model, 10_000, 60.0)
    fit = fit_at_rest(model, flux, ivar)
    good = fit.status == 0
    assert good.mean() > 0.98
    pulls = ((fit.labels - labels) / fit.label_err)[good]
    assert np.abs(pulls.std(axis=0) - 1).max() < 0.05
    assert np.abs(pulls.mean(axis=0)).max() < 0.06  # 0.01 of chance; curvature of the model
    assert abs(np.mean(fit.chi2 / fit.dof) - 1) < 0.01


def test_same_optimum_as_from_every_pixel():
    model = cannon()
    _, _, flux, ivar = mocks(model, 60, 80.0, seed=3)
    held = FitOptions(rv_range=0.0, tolerance=1e-4, exact_covariance=True)
    pixels = fit_labels(model, flux, ivar, options=held)
    features = fit_at_rest(model, flux, ivar)
    # The stencil's edge pixels have no weight in the fit with a velocity: 7 of 600.
    off = (features.labels - pixels.labels) / pixels.label_err
    assert np.abs(off).max() < 0.6
    assert np.median(np.abs(off)) < 0.1
    np.testing.assert_allclose(features.label_err, pixels.label_err, rtol=0.06)


def test_flags_are_those_of_the_fit_of_every_pixel():
    model = cannon()
    _, _, flux, ivar = mocks(model, 6, 80.0, seed=5)
    flux[1, ::20] += 1.5  # far off any star
    ivar[2, 100:] = 0  # of 600: a sixth
    ivar[3] = 0
    for limits in ({}, {"reduced_chi2_max": 1e4, "pixels_min": 0.1}, {"pixels_min": 0.99}):
        options = FitOptions(rv_range=0.0, tolerance=1e-3, **limits)
        expected = fit_labels(model, flux, ivar, options=options)
        found = fit_at_rest(model, flux, ivar, **limits)
        for flag in (FitStatus.POOR_FIT, FitStatus.FEW_PIXELS):
            np.testing.assert_array_equal(found.status & flag, expected.status & flag)
    assert fit_at_rest(model, flux, ivar).status[[1, 2, 3]].tolist() == [
        FitStatus.POOR_FIT, FitStatus.FEW_PIXELS, FitStatus.NO_PIXELS,
    ]  # fmt: skip


def test_several_starts_keep_the_best_end():
    model = cannon()
    x, labels, flux, ivar = mocks(model, 80, 80.0, seed=4)
    far = model.unscale(torch.tensor(-np.sign(x) * 0.5)).numpy()
    one = fit_at_rest(model, flux, ivar)
    many = fit_at_rest(model, flux, ivar, start=np.stack([far, labels], axis=1))
    assert (many.chi2 <= one.chi2 + 0.01).all()


def test_blocks_of_pixels_are_summed_to_the_whole(monkeypatch: pytest.MonkeyPatch):
    """Models of many terms take narrow blocks; the last one is narrower."""
    model = cannon()
    _, _, flux, ivar = mocks(model, 10, 80.0)
    whole = fit_at_rest(model, flux, ivar)
    monkeypatch.setattr("scalespec.optimize.features._BLOCK_FLOATS", 0)
    parts = fit_at_rest(model, flux, ivar)
    assert np.abs((whole.labels - parts.labels) / whole.label_err).max() < 0.01
    np.testing.assert_array_equal(whole.n_used, parts.n_used)
    np.testing.assert_allclose(whole.chi2, parts.chi2, rtol=1e-4)  # float32


def test_bad_stars_are_rows_and_bad_shapes_are_refused():
    model = cannon()
    _, _, flux, ivar = mocks(model, 4, 80.0)
    ivar[0], flux[1, 5], ivar[1, 5] = 0, np.nan, 1.0
    ivar[2] *= 1e-4
    fit = fit_at_rest(model, flux, ivar)
    assert fit.status[0] == FitStatus.NO_PIXELS
    assert fit.status[1] == FitStatus.NONFINITE
    assert fit.status[2] & FitStatus.LOW_SNR
    assert np.isnan(fit.labels[:2]).all()
    assert np.isfinite(fit.labels[2:]).all()
    with pytest.raises(ValueError, match=r"ivar should be \(4, 600\), got \(4, 599\)"):
        fit_at_rest(model, flux, ivar[:, 1:])
    with pytest.raises(ValueError, match=r"start should be \(4, C, 4\)"):
        fit_at_rest(model, flux, ivar, start=np.zeros((4, 3)))
