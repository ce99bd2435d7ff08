"""Made-up observations: shifts are exact, noise is what ivar says, damage is flagged."""

import numpy as np
import pytest

from scalespec.kernels.observation import (
    BAD_PIXEL,
    NO_DATA,
    SKY_TOO_BRIGHT,
    Spectra,
    observe,
    shifted,
)
from scalespec.kernels.wavelength import log_grid, velocity_to_pixels

GRID = log_grid(3.5682, 1e-4, 3909)


@pytest.fixture(scope="module")
def spectra() -> Spectra:
    flat = np.ones((200, 3909), np.float32)
    covered = np.ones(flat.shape, bool)
    covered[:, -2:] = False
    return observe(flat, covered, GRID, np.full(200, 5000.0), np.random.default_rng(1))


@pytest.mark.parametrize("rv", [-300.0, -17.3, 0.0, 250.0])
def test_shift_is_the_doppler_effect(rv):
    def lines(wavelength: np.ndarray) -> np.ndarray:
        return 1 - sum(
            d * np.exp(-0.5 * ((wavelength / c - 1) * 2.3548 * 1800) ** 2)
            for c, d in ((4000.0, 0.5), (5175.0, 0.9), (5180.0, 0.4), (8542.0, 0.6))
        )

    fine = log_grid(3.5682 - 12e-4, 5e-5, 2 * (3909 + 24))
    pixels = velocity_to_pixels(np.array([rv]), 5e-5)
    found, covered = shifted(
        lines(fine)[None].astype(np.float32), pixels, start=24.0, stride=2, n_pixel=3909
    )
    beta = rv / 299792.458
    expected = lines(GRID / np.sqrt((1 + beta) / (1 - beta)))
    assert np.abs(found[0] - expected).max() < 1.1e-5  # the docstring's promise, for 0.9 deep lines
    assert covered.all()


def test_shift_says_where_the_model_ends():
    flux = np.linspace(1, 2, 50, dtype=np.float32)[None]
    moved, covered = shifted(flux, np.array([3.5]), start=0.0, stride=1, n_pixel=50)
    # pixel i lies at i - 3.5 of the model; seven points before it and eight after are wanted
    assert np.flatnonzero(covered[0]).tolist() == list(range(11, 46))
    expected = np.interp(np.arange(11, 46) - 3.5, np.arange(50), flux[0])
    assert moved[0, 11:46] == pytest.approx(expected, abs=1e-6)  # float32


def test_noise_is_what_ivar_says(spectra):
    quiet = (spectra.ivar > 0) & (spectra.ormask == 0)
    pulls = ((spectra.flux - spectra.truth) * np.sqrt(spectra.ivar))[quiet]
    low, high = np.quantile(pulls, [0.1587, 0.8413])
    assert (high - low) / 2 == pytest.approx(1.0, abs=0.005)  # 5 sigma of 700,000 draws
    assert np.median(pulls) == pytest.approx(0.0, abs=0.01)


def test_snr_is_the_median_of_truth_over_noise(spectra):
    good = np.where(spectra.ivar > 0, spectra.truth * np.sqrt(spectra.ivar), np.nan)
    # the medians of snr are over all pixels, dead ones too
    assert np.nanmedian(good, axis=1) == pytest.approx(spectra.snr, rel=0.01)
    assert spectra.snr.min() >= 5
    assert spectra.snr.max() <= 200
    blue, red = spectra.snr_bands[:, 0], spectra.snr_bands[:, 3]
    assert np.all(blue < 0.7 * red)


def test_slopes_are_smooth_and_differ(spectra):
    shape = spectra.continuum / spectra.continuum.mean(axis=1, keepdims=True)
    assert np.all(np.abs(np.diff(shape, axis=1)) < 0.01)
    spread = (shape / shape.mean(axis=0)).std(axis=0)
    assert 0.03 < spread[::1000].mean() < 0.4


def test_lost_pixels_have_no_ivar_and_no_flux(spectra):
    lost = spectra.ivar == 0
    assert np.all(spectra.flux[lost] == 0)
    assert np.all(lost[:, -2:])
    assert np.all(lost[spectra.andmask == NO_DATA])
    assert 0.001 < lost[:, :2000].mean() < 0.01
    assert np.all(spectra.ormask[spectra.andmask > 0] > 0)  # bad in all is bad in any


def test_spikes_are_mostly_flagged_in_ormask_alone(spectra):
    spike = (spectra.flux - spectra.truth) * np.sqrt(spectra.ivar) > 8
    assert 0.3 < spike.sum() / len(spike) < 4
    assert 0.8 < np.mean(spectra.ormask[spike] == BAD_PIXEL) < 1
    assert np.mean(spectra.andmask[spike] > 0) < 0.1


def test_sky_lines_are_noisier_and_flagged_in_half_of_the_spectra(spectra):
    sky = np.argmin(np.abs(GRID - 5578.9))
    calm = np.argmin(np.abs(GRID - 5520.0))
    alive = (spectra.ivar[:, sky] > 0) & (spectra.ivar[:, calm] > 0)
    assert np.median(spectra.ivar[alive, sky] / spectra.ivar[alive, calm]) < 0.5
    assert 0.35 < np.mean(spectra.ormask[:, sky] == SKY_TOO_BRIGHT) < 0.65  # 4 sigma of 200


def test_files_lack_up_to_three_pixels(spectra):
    assert set(spectra.n_pixel) == {3906, 3907, 3908, 3909}
    assert np.all(spectra.first_pixel >= 0)
    assert np.all(spectra.first_pixel + spectra.n_pixel <= 3909)
