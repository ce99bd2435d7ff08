"""Shifts of model spectra are exact; slopes are smooth and differ."""

import numpy as np
import pytest

from scalespec.kernels.observation import continuum, shifted
from scalespec.kernels.wavelength import log_grid, velocity_to_pixels

GRID = log_grid(3.5682, 1e-4, 3909)


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


def test_there_may_be_no_stars():
    flux, covered = shifted(
        np.zeros((0, 50), np.float32), np.zeros(0), start=3, stride=1, n_pixel=9
    )
    assert flux.shape == covered.shape == (0, 9)


def test_slopes_are_smooth_and_differ():
    slopes = continuum(GRID, np.full(200, 5000.0), np.random.default_rng(1))
    shape = slopes / slopes.mean(axis=1, keepdims=True)
    assert np.all(np.abs(np.diff(shape, axis=1)) < 0.01)
    spread = (shape / shape.mean(axis=0)).std(axis=0)
    assert 0.03 < spread[::1000].mean() < 0.4


def test_without_bends_a_slope_is_a_black_body():
    """Wien's ratio of two temperatures at two wavelengths, from Planck's law with SI constants."""
    rng = np.random.default_rng(1)
    hot, cool = (
        np.mean([continuum(GRID, np.array([t]), rng)[0] for _ in range(400)], axis=0)
        for t in (6500.0, 4500.0)
    )
    blue, red = (int(np.argmin(np.abs(GRID - w))) for w in (4000.0, 8000.0))
    x = 6.62607015e-34 * 2.99792458e8 / 1.380649e-23 / (GRID[[blue, red]] * 1e-10)
    expected = np.expm1(x / 4500) / np.expm1(x / 6500)
    found = (hot[blue] / cool[blue]) / (hot[red] / cool[red])
    assert found == pytest.approx(expected[0] / expected[1], rel=0.15)  # levels from 30 to 10,000
