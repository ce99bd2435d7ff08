"""Grids of a synthesis: pixels as they are, with margins, or read by interpolation."""

import numpy as np
import pytest
import torch

from scalespec.models.grid import plan_grid

SIGMA = 1 / (2.3548 * 1800)


def test_without_moving_light_pixels_are_those_asked_for():
    wave = np.array([4000.0, 4001.0, 4003.0])
    grid = plan_grid(wave, SIGMA, moved=(), margin_kms=500.0)
    flux = torch.rand(2, 3)
    assert grid.wavelength is wave
    assert torch.equal(grid.read(flux), flux)


def test_an_even_grid_gets_margins_only():
    wave = np.exp(np.log(4000.0) + 2e-4 * np.arange(100))
    grid = plan_grid(wave, SIGMA, moved={"vsini"}, margin_kms=500.0)
    assert grid.read(torch.from_numpy(grid.wavelength)[None])[0].numpy() == pytest.approx(wave)
    assert grid.step_kms == pytest.approx(2e-4 * 299792.458)
    for end, edge in ((grid.wavelength[0], wave[0]), (grid.wavelength[-1], wave[-1])):
        assert abs(np.log(end / edge)) * 299792.458 >= 500.0


@pytest.mark.parametrize("wave", [[], [5000.0, 4000.0], [5000.0, 5000.0], [5000.0, np.nan]])
@pytest.mark.parametrize("moved", [(), ("vsini",)])
def test_pixels_that_are_no_grid_are_refused(wave, moved):
    with pytest.raises(ValueError, match="pixels in ascending order"):
        plan_grid(np.array(wave), SIGMA, moved=moved, margin_kms=500.0)


@pytest.mark.parametrize("moved", [(), ("vsini",)])
def test_a_grid_may_be_one_pixel(moved):
    grid = plan_grid(np.array([5000.0]), SIGMA, moved=moved, margin_kms=500.0)
    assert grid.read(torch.from_numpy(grid.wavelength)[None]).tolist() == [[pytest.approx(5000.0)]]


@pytest.mark.parametrize("wave", [np.arange(4000.0, 4100.0, 0.9), np.arange(4000.0, 4100.0, 5.0)])
def test_any_other_grid_is_interpolated(wave):
    grid = plan_grid(wave, SIGMA, moved={"vmac"}, margin_kms=500.0)
    steps = np.diff(np.log(grid.wavelength))
    assert steps == pytest.approx(np.full(steps.size, steps[0]))

    def flux(x):
        return 1 - 0.5 * np.exp(-0.5 * ((np.log(x / 4050.0)) / SIGMA) ** 2)

    found = grid.read(torch.from_numpy(flux(grid.wavelength))[None])[0].numpy()
    assert found == pytest.approx(flux(wave), abs=2e-4)  # eight points, half a sigma apart
