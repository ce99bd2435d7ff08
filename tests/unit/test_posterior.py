"""Samples against analytic posteriors and the fit's covariance."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scalespec.optimize.constraints import Constraints
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.posterior import _r_hat, sample_posterior

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne, small_mocks = _networks["small_payne"], _networks["small_mocks"]


@pytest.fixture(scope="module")
def fitted():
    model = small_payne()
    stars = small_mocks(model, 5, snr=120.0, spread=0.2)
    fit = fit_labels(model, stars["flux"], stars["ivar"], options=FitOptions(rv_range=60.0))
    return model, stars, fit


def test_posterior_of_a_measured_star_has_the_fits_covariance(fitted):
    model, stars, fit = fitted
    found = sample_posterior(model, stars["flux"], stars["ivar"], fit, n_draws=200)
    assert (found.acceptance > 0.4).all()
    assert found.r_hat.max() < 1.1
    sigma = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    ratio = sigma[:, :4] / fit.label_err
    assert np.abs(ratio - 1).max() < 0.2  # 800 draws: 0.03 of chance; curvature of the model
    assert np.abs(sigma[:, 4] / fit.rv_err - 1).max() < 0.2
    off = (found.mean[:, :4] - fit.labels) / fit.label_err
    assert np.abs(off).max() < 0.35  # of a sigma


def test_posterior_knows_the_box_and_the_prior():
    """One label in one line: a truncated normal, and a product of two normals."""
    line = 0.2 * torch.exp(-0.5 * ((torch.arange(60.0) - 30) / 2) ** 2)
    model = SimpleNamespace(
        spec=SimpleNamespace(
            labels=("depth",),
            minimum=np.zeros(1),
            maximum=np.ones(1),
            wavelength=10 ** (3.7 + 1e-4 * np.arange(60)),
        ),
        scatter=torch.zeros(60),
        forward_scaled=lambda x: 1 - (x + 0.5) * line,
        flux_and_jacobian=lambda x: (1 - (x + 0.5) * line, -line.expand(len(x), 1, 60)),
    )
    ivar = torch.full((2, 60), 400.0)
    sigma = 1 / np.sqrt(400 * float((line**2).sum()))
    flux = torch.stack([torch.ones(60), 1 - 0.5 * line])
    prior = Constraints(prior_mean=np.array([0.5]), prior_sigma=np.array([0.5 * sigma]))
    for constraints in (None, prior):
        fit = fit_labels(model, flux, ivar, constraints=constraints)
        found = sample_posterior(
            model, flux, ivar, fit, n_draws=350, constraints=constraints or Constraints()
        )
        spread = np.sqrt(found.covariance[:, 0, 0])
        assert found.samples[..., 0].min() >= 0
        if constraints is None:
            assert found.mean[0, 0] == pytest.approx(
                0.798 * sigma, rel=0.15
            )  # half a normal; 1,400 draws
            assert spread[1] == pytest.approx(sigma, rel=0.12)
        else:
            assert spread[1] == pytest.approx(sigma / np.sqrt(5), rel=0.12)


def test_draws_are_a_stars_own(fitted):
    model, stars, fit = fitted
    one, two = (
        sample_posterior(
            model, stars["flux"][:k], stars["ivar"][:k], fit.take(slice(k)), n_draws=20
        )
        for k in (1, 3)
    )
    off = (one.samples[0] - two.samples[0])[:, -1, :4] / fit.label_err[0]
    assert np.abs(off).max() < 0.5  # float32, twenty chaotic trajectories
    again = sample_posterior(
        model, stars["flux"][:1], stars["ivar"][:1], fit.take(slice(1)), n_draws=20
    )
    assert one.samples.tobytes() == again.samples.tobytes()


def test_stars_without_a_fit_are_refused(fitted):
    model, stars, _ = fitted
    ivar = stars["ivar"].copy()
    ivar[1] = 0
    fit = fit_labels(model, stars["flux"], ivar)
    with pytest.raises(ValueError, match="star 1 has no fit"):
        sample_posterior(model, stars["flux"], ivar, fit)


def test_a_label_that_is_fixed_where_float32_is_not_leaves_the_chains_free():
    model = small_payne()
    stars = small_mocks(model, 2, snr=120.0, spread=0.2)
    low, width = model.spec.minimum, model.spec.maximum - model.spec.minimum
    edges = {"low": low.copy(), "high": low + width}
    value = low[1] + width[1] * 0.4123456789
    edges["low"][1] = edges["high"][1] = value
    constraints = Constraints(**edges)
    data = stars["flux"], stars["ivar"]
    fit = fit_labels(model, *data, options=FitOptions(rv_range=60.0), constraints=constraints)
    found = sample_posterior(model, *data, fit, n_draws=100, constraints=constraints)
    assert (found.acceptance > 0.4).all()
    assert np.ptp(found.samples[..., 1], axis=(1, 2)).max() == 0
    assert (found.r_hat[:, 1] == 1).all()


def test_chains_that_never_moved_have_not_met():
    still = np.zeros((1, 2, 10, 2))
    moving = np.array([[True, False]])
    assert _r_hat(still, moving).tolist() == [[np.inf, 1.0]]
