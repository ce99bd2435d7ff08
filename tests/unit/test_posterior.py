"""Samples against analytic posteriors and the fit's covariance."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from scalespec.optimize.constraints import Constraints
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.posterior import (
    Posterior,
    PosteriorStatus,
    _Chains,
    _r_hat,
    sample_posterior,
)

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
    found = sample_posterior(model, stars["flux"], stars["ivar"], fit, n_draws=70, n_chains=12)
    assert (found.acceptance > 0.4).all()
    assert found.r_hat.max() < 1.1
    sigma = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    ratio = sigma[:, :4] / fit.label_err
    assert np.abs(ratio - 1).max() < 0.2  # 840 draws: 0.03 of chance; curvature of the model
    assert np.abs(sigma[:, 4] / fit.rv_err - 1).max() < 0.2
    off = (found.mean[:, :4] - fit.labels) / fit.label_err
    assert np.abs(off).max() < 0.35  # of a sigma


def test_posterior_of_pixels_that_share_noise_has_the_fits_covariance(fitted):
    """Labels and velocity from one chi2: it has the labels' excess, which is not the velocity's."""
    model, stars, white = fitted
    data, shared = (stars["flux"], stars["ivar"]), np.tile([2.25, 1.21], (5, 1))
    shared[4] = 1.0
    options = FitOptions(rv_range=60.0)
    fit = fit_labels(model, *data, options=options, noise_correlation=shared)
    found = sample_posterior(
        model, *data, fit, n_draws=70, n_chains=12, noise_correlation=shared
    )  # fmt: skip
    assert found.r_hat.max() < 1.1
    sigma = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    assert np.abs(sigma[:, :4] / fit.label_err - 1).max() < 0.2  # else a third less for four stars
    assert np.abs(sigma[:, 4] / white.rv_err / np.sqrt(shared[:, 0]) - 1).max() < 0.2
    with pytest.raises(ValueError, match="noise_correlation should be positive"):
        sample_posterior(model, *data, fit, noise_correlation=0.0)


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
            model,
            flux,
            ivar,
            fit,
            n_draws=120,
            n_chains=12,
            constraints=constraints or Constraints(),
        )
        spread = np.sqrt(found.covariance[:, 0, 0])
        assert found.samples[..., 0].min() >= 0
        if constraints is None:
            assert found.mean[0, 0] == pytest.approx(
                0.798 * sigma, rel=0.15
            )  # half a normal; 1,440 draws
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


def lines(dtype):
    """Two overlapping lines, linear in the depth of each, and a third that is alone."""
    pixel = torch.arange(90.0, dtype=dtype)
    shape = torch.exp(-0.5 * ((pixel - torch.tensor([30.0, 34.0, 60.0])[:, None]) / 2) ** 2) / 4
    shape = shape.to(dtype)
    return SimpleNamespace(
        spec=SimpleNamespace(
            labels=("one", "two", "three"),
            minimum=np.zeros(3),
            maximum=np.ones(3),
            wavelength=10 ** (3.7 + 1e-4 * np.arange(90)),
        ),
        scatter=torch.zeros(90, dtype=dtype),
        forward_scaled=lambda x: 1 - (x + 0.5) @ shape,
        flux_and_jacobian=lambda x: (1 - (x + 0.5) @ shape, -shape.expand(len(x), 3, 90)),
    ), shape.double().numpy()


@pytest.mark.parametrize(
    ("dtype", "one"),
    [(torch.float32, 0.997), (torch.float64, 0.997), (torch.float32, 1.6)],
    ids=["near the bound", "near the bound, float64", "pressed against it"],
)
def test_a_star_on_its_bound_has_the_truncated_normal(dtype, one):
    """Noiseless data of known depths; the third line's is fixed.

    The first is a truncated normal, the second follows it as in any normal distribution.
    """
    model, shape = lines(dtype)
    truth, snr = np.array([one, 0.3, 0.4]), 20.0
    flux = (1 - truth @ shape)[np.newaxis]
    data = flux, np.full_like(flux, snr**2)
    given = Constraints(low=np.array([np.nan, np.nan, 0.4]), high=np.array([1, 1, 0.4]))
    fit = fit_labels(model, *data, options=FitOptions(rv_range=0.0), constraints=given)
    found = sample_posterior(model, *data, fit, n_draws=150, n_chains=16, constraints=given)
    assert found.acceptance[0] > 0.8  # 0.7 of those that may not leave the box
    assert found.status[0] == 0
    cov = np.linalg.inv(shape[:2] @ shape[:2].T) / snr**2
    edges = (np.array([0, 1]) - one) / cov[0, 0] ** 0.5
    first = stats.truncnorm(*edges, one, cov[0, 0] ** 0.5)
    slope = cov[0, 1] / cov[0, 0]
    mean = np.array([first.mean(), truth[1] + slope * (first.mean() - one)])
    spread = np.sqrt([first.var(), cov[1, 1] - slope**2 * (cov[0, 0] - first.var())])
    assert np.abs((found.mean[0, :2] - mean) / spread).max() < 0.1
    assert np.abs(np.sqrt(np.diag(found.covariance[0]))[:2] / spread - 1).max() < 0.1
    assert found.samples[..., 0].max() <= 1
    assert np.ptp(found.samples[..., 2]) == 0


def test_paths_between_walls_lead_back_and_keep_volume():
    """Labels that hang together, walls on all sides, bounces off several of them in one leap."""
    rng = np.random.default_rng(4)
    n = 40
    factor = torch.tensor(0.3 * rng.normal(size=(1, 3, 3))).repeat(n, 1, 1)
    edge = torch.full((n, 3), 0.5).double()
    chains = _Chains(None, torch.zeros((n, 3)).double(), factor, -edge, edge, 1)
    start = torch.linalg.solve(factor, torch.tensor(rng.uniform(-0.5, 0.5, (n, 3))))
    p, time = torch.tensor(rng.normal(size=(n, 3))), torch.full((n, 1), 2.0).double()
    z, after, arrived = chains._drift(start, p, time)
    assert arrived.all()
    assert not torch.allclose(z, start + time * p)
    x = torch.bmm(factor, z[:, :, None])
    assert x.abs().max() <= 0.5 + 1e-12
    torch.testing.assert_close((after**2).sum(dim=1), (p**2).sum(dim=1))
    back, turned, _ = chains._drift(z, -after, time)
    torch.testing.assert_close(back, start)
    torch.testing.assert_close(turned, -p)

    def moved(both):
        return torch.cat(chains._drift(both[:, :3], both[:, 3:], time)[:2], dim=1)

    both, columns = torch.cat([start, p], dim=1), []
    for k in range(6):
        step = torch.zeros(6).double()
        step[k] = 1e-6
        columns.append((moved(both + step) - moved(both - step)) / 2e-6)
    volume = torch.linalg.det(torch.stack(columns, dim=2)).abs()
    assert np.median((volume - 1).abs()) < 1e-8
    assert ((volume - 1).abs() < 1e-6).float().mean() > 0.9  # but where a step meets a corner


def test_chains_that_never_moved_have_not_met():
    still = np.zeros((1, 2, 10, 2))
    moving = np.array([[True, False]])
    assert _r_hat(still, moving).tolist() == [[np.inf, 1.0]]


def test_chains_that_have_not_met_have_a_status():
    r_hat = np.array([[1.0, 1.09], [1.0, 1.2], [np.inf, 1.0], [np.nan, 1.0]])
    found = Posterior(np.zeros((4, 2, 3, 2), np.float32), np.ones(4), r_hat)
    assert found.status.tolist() == [0] + [PosteriorStatus.NOT_MET] * 3
