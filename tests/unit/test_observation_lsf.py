"""Line spread functions: widths asked for are widths found, at each wavelength and fibre."""

import numpy as np
import pytest

from scalespec.kernels.observation_instrument import line_sigma
from scalespec.kernels.observation_lsf import (
    FWHM,
    LogGrid,
    kernel_table,
    log_grid_of,
    observed_profile,
)
from scalespec.kernels.observation_noise import Conditions, Sources, observe_arm
from scalespec.kernels.observation_surveys import INSTRUMENTS

GRID = LogGrid(3.565, 5e-5, 8200)


def line(wavelength: np.ndarray, center: float, R: float) -> np.ndarray:
    return np.exp(-0.5 * ((wavelength / center - 1) * FWHM * R) ** 2)


def measured_fwhm(wavelength: np.ndarray, profile: np.ndarray) -> float:
    """The full width at half maximum, from a parabola through the logarithm of the upper part."""
    upper = np.flatnonzero(profile > 0.25 * profile.max())
    x = wavelength[upper] - wavelength[upper].mean()
    return float(FWHM / np.sqrt(-2 * np.polyfit(x, np.log(profile[upper]), 2)[0]))


@pytest.mark.parametrize("rv", [-412.0, -17.3, 0.0, 250.0])
@pytest.mark.parametrize("resolving_power", [1800.0, 1650.0, 900.0])
def test_shifted_and_broadened_lines_are_the_analytic_ones(rv, resolving_power):
    flux = (1 - 0.8 * line(GRID.wavelength, 5175.0, 1800))[None].astype(np.float32)
    w = 10 ** (3.5682 + 1e-4 * np.arange(3909))
    added = np.sqrt(GRID.sigma_pixels(resolving_power) ** 2 - GRID.sigma_pixels(1800.0) ** 2)
    found, covered = observed_profile(
        flux, GRID, w, rv=np.array([rv]), sigma=np.full((1, 3909), added)
    )
    beta = rv / 299792.458
    rest = w / np.sqrt((1 + beta) / (1 - beta))
    expected = 1 - 0.8 * resolving_power / 1800 * line(rest, 5175.0, resolving_power)
    # a Gaussian in wavelength is one in its logarithm but for 2e-4; 1e-5 for the interpolation
    assert np.abs(found[0] - expected).max() < 2e-4
    assert covered.all()


def test_a_level_spectrum_stays_level_and_width_zero_is_interpolation():
    flux = np.ones((2, 300), np.float32)
    grid = LogGrid(3.6, 1e-4, 300)
    w = grid.wavelength[40:250] * 1.00003
    found, _ = observed_profile(flux, grid, w, rv=np.zeros(2), sigma=np.zeros((2, 210)))
    assert np.abs(found - 1).max() < 1e-6
    wave = np.sin(np.arange(300) / 4).astype(np.float32)[None]
    at = np.arange(40, 250) + 0.37
    found, _ = observed_profile(
        wave, grid, 10 ** (3.6 + 1e-4 * at), rv=np.zeros(1), sigma=np.zeros((1, 210))
    )
    assert np.abs(found[0] - np.sin(at / 4)).max() < 2e-4  # linear between 64 phases


def test_wavelengths_may_differ_from_row_to_row():
    flux = np.tile(np.linspace(1, 2, 400, dtype=np.float32), (2, 1))
    grid = LogGrid(3.7, 1e-5, 400)
    w = np.stack([grid.wavelength[50:60], grid.wavelength[250:260]])
    found, _ = observed_profile(flux, grid, w, rv=np.zeros(2), sigma=np.full((2, 10), 1.3))
    assert found[0] == pytest.approx(flux[0, 50:60], abs=1e-5)
    assert found[1] == pytest.approx(flux[0, 250:260], abs=1e-5)


def test_pixels_beyond_the_model_are_not_covered():
    grid = LogGrid(3.7, 1e-5, 400)
    flux = np.ones((1, 400), np.float32)
    w = 10 ** (3.7 + 1e-5 * (np.arange(-20.0, 420.0) + 0.5))
    _, covered = observed_profile(flux, grid, w, rv=np.zeros(1), sigma=np.full((1, 440), 0.1))
    half = kernel_table(0.125).shape[2] // 2
    # pixel k of `w` lies at k - 19.5 of the model: `half` of its pixels are wanted to each side
    assert np.flatnonzero(covered[0])[[0, -1]].tolist() == [20 + half - 1, 20 + 399 - half]


def test_kernels_have_the_variance_asked_for():
    table = kernel_table(4.0).astype(np.float64)
    taps = np.arange(table.shape[2]) - table.shape[2] // 2 + 1
    for s in (8, 16, 32):  # sigmas 1, 2 and 4
        for p in (0, 17, 64):
            x = taps - p / 64
            assert table[s, p].sum() == pytest.approx(1, abs=1e-6)
            assert np.sum(table[s, p] * x) == pytest.approx(0, abs=1e-3)
            assert np.sum(table[s, p] * x**2) == pytest.approx((s / 8) ** 2, rel=5e-3)


@pytest.mark.parametrize("name", sorted(INSTRUMENTS))
def test_a_delta_line_has_the_fwhm_asked_for_at_each_wavelength_and_fibre(name):
    """Within 2 %: lines far narrower than the instrument's, seen in the slit's middle and ends."""
    instrument = INSTRUMENTS[name]
    slit = np.array([-1.0, 0.0, 0.6])
    quiet = {"flat_error": 0.0, "slope": 0.0, "level_step": 0.0}
    for arm in instrument.arms:
        w = arm.wavelength
        R = arm.resolving_power(w, np.zeros(1))[0].max()
        sharp = 1.2 * R if name.startswith("lamost_lrs") else 4 * R
        step = 1 / (FWHM * np.log(10) * sharp * 2)
        margin = 0.004 + 20 / R
        grid = LogGrid(
            np.log10(w.min()) - margin, step, int((np.log10(w.max() / w.min()) + 2 * margin) / step)
        )
        for part in (0.12, 0.5, 0.85):
            center = w[int(part * len(w))] * (1 + 1e-5)
            flux = np.tile(line(grid.wavelength, center, sharp), (3, 1)).astype(np.float32)
            sources = Sources(
                flux, grid, sharp, *np.full((3, 3), (6000.0, 10.0, 0.0)).T, np.zeros(3)
            )
            conditions = Conditions(slit, np.ones(3), np.zeros(3))
            seen = observe_arm(
                type(instrument)(**{**vars(instrument), **quiet}),
                arm,
                sources,
                conditions,
                np.random.default_rng(1),
            )
            with np.errstate(invalid="ignore"):
                air = seen.transmission if not instrument.telluric_corrected else 1.0
                profiles = seen.truth / (seen.continuum * air)
            for row, droop in enumerate(instrument.fibre_droop * slit**2):
                wanted = center / arm.resolving_power(np.array([center]), np.array([droop]))[0, 0]
                assert measured_fwhm(w, profiles[row]) == pytest.approx(wanted, rel=0.02)


def test_line_sigma_is_wavelength_over_fwhm_times_r():
    arm = INSTRUMENTS["desi"].arms[0]
    at = int(np.argmin(np.abs(arm.wavelength - 4700)))
    assert line_sigma(arm)[at] == pytest.approx(4700 / 2.3548 / 2600, rel=1e-3)


def test_bad_widths_and_uneven_grids_are_refused():
    flux = np.ones((1, 100), np.float32)
    grid = LogGrid(3.7, 1e-4, 100)
    for sigma in (-1.0, np.nan):
        with pytest.raises(ValueError, match="sigma must be"):
            observed_profile(
                flux, grid, grid.wavelength, rv=np.zeros(1), sigma=np.full((1, 100), sigma)
            )
    with pytest.raises(ValueError, match="even in their logarithm"):
        log_grid_of(np.linspace(4000, 5000, 100))
    with pytest.raises(ValueError, match="even in their logarithm"):
        log_grid_of(np.array([4000.0, 4001.0, 4000.5]))
