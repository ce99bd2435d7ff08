"""The scatter is what residuals have beyond noise, and does not mistake the one for the other."""

import numpy as np
import pytest
import torch

from scalespec.models.scatter import UNLEARNED, measure_scatter

PIXELS = 400


def residuals(n, scatter, *, low=0.01, high=0.04, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.uniform(low, high, (n, PIXELS))
    residual = rng.normal(size=(n, PIXELS)) * np.hypot(noise, scatter)
    return torch.tensor(residual).float(), torch.tensor(noise**-2).float()


def test_scatter_of_many_spectra_is_the_true_one():
    wanted = np.where(np.arange(PIXELS) % 100 < 50, 0.005, 0.03)
    made = measure_scatter(*residuals(4000, wanted), 0.01).numpy()
    # Variances of 0.03**2 from 4,000 residuals are good to 3 %; 0.005 stands against noise of 0.02.
    np.testing.assert_allclose(made[wanted > 0.01], 0.03, rtol=0.06)
    np.testing.assert_allclose(made[wanted < 0.01], 0.005, atol=0.004)


def test_noiseless_spectra_give_their_own_rms():
    residual = residuals(500, 0)[0] * torch.linspace(0.001, 1, PIXELS)
    made = measure_scatter(residual, torch.full_like(residual, torch.inf), 0.01)
    rms = residual.square().mean(0).sqrt()
    # Neighbors within twice the 3 % that 500 residuals are good to are not told apart.
    np.testing.assert_allclose(made, rms, rtol=0.1)


def test_a_line_core_keeps_its_own_scatter():
    wanted = np.full(PIXELS, 0.001)
    wanted[200] = 0.05
    made = measure_scatter(*residuals(300, wanted), 0.01).numpy()
    assert made[200] == pytest.approx(0.05, rel=0.15)  # 300 residuals: 4 %, and the shrinkage
    assert made[195:200].max() < 0.015


@pytest.mark.parametrize("true", [0.0, 0.01])
def test_few_noisy_spectra_do_not_pass_noise_for_scatter(true):
    residual, ivar = residuals(50, true, low=0.03, high=0.05)
    made = measure_scatter(residual, ivar, 0.01).numpy()
    # Pixel by pixel, 50 residuals of 0.04 say no more than 0.04 * (2 / 50)**0.25 = 0.018.
    assert abs(np.sqrt(np.mean(made**2)) - true) < 0.006
    assert np.quantile(made, 0.95) < 0.014


def test_spikes_are_clipped():
    residual, ivar = residuals(900, 0.03)
    residual[::300] += 5
    made = measure_scatter(residual, ivar, 0.01).numpy()
    np.testing.assert_allclose(
        made, 0.03, rtol=0.15
    )  # 0.3 % of rows at 4 sigma add 5 % of variance


def test_pixels_without_information_have_no_trust_and_harm_no_neighbors():
    residual, ivar = residuals(900, 0.03)
    whole = measure_scatter(residual, ivar, 0.01)
    residual[:, 100:180], ivar[:, 100:180] = 77.0, 0.0
    made = measure_scatter(residual, ivar, 0.01)
    assert torch.all(made[100:180] == UNLEARNED)
    np.testing.assert_allclose(made[:100], whole[:100], rtol=0.05)  # other neighbors in the mean
    assert torch.all(measure_scatter(residual, 0 * ivar, 0.01) == UNLEARNED)
