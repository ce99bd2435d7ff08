"""How wrong lines are on pixels that are too coarse, against lines made of a thousand points."""

import numpy as np
import pytest
import torch

from scalespec.kernels.lsf import FWHM
from scalespec.kernels.sampling import pixels_per_fwhm, rebinned_depth, untold_depth
from scalespec.kernels.wavelength import resolution_edges
from scalespec.models.base import shift_flux

FINE = np.arange(-40.0, 40.0, 1e-3)  # FWHM


def means(edges, values):
    """Means over pixels of what fine points say, straight from their sum."""
    passed = np.concatenate([[0.0], np.cumsum(values)]) * 1e-3
    return np.diff(np.interp(edges, np.append(FINE, FINE[-1] + 1e-3), passed)) / np.diff(edges)


def worst_of(before, after, rng, n=150):
    found = []
    for _ in range(n):
        center, begins = rng.uniform(-1, 1, 2)
        line = np.exp(-0.5 * ((FINE - center) * FWHM) ** 2)
        old = np.arange(-20, 20, 1 / before)
        new = begins + np.arange(-8, 8, 1 / after)
        steps = means(old, line)[np.clip(np.searchsorted(old, FINE) - 1, 0, len(old) - 2)]
        wanted = means(new, line)
        found.append(np.abs(means(new, steps) - wanted).max() / wanted.max())
    return max(found)


@pytest.mark.parametrize(("before", "after"), [(2.04, 0.94), (2.0, 2.36), (1.75, 1.67), (3.3, 2.2)])
def test_rebinning_blurs_a_line_by_as_much_as_said(before, after):
    found = worst_of(before, after, np.random.default_rng(1))
    # Of 150 chances and of 64 places, neither of which need be the very worst.
    assert rebinned_depth(before, after) == pytest.approx(found, rel=0.12)


def test_a_line_made_wider_is_hardly_wrong():
    wrong = [rebinned_depth(2.0, 2.4, wider) for wider in (1.0, 1.5, 2.0, 4.0)]
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[0] > 0.1
    assert wrong[-1] < 0.01


def test_any_pixels_can_be_asked_about():
    assert rebinned_depth(2.4, 1e-3) < 0.3  # lost among its neighbors, but not moved
    assert 0.5 < rebinned_depth(1e-3, 2.4) < 1.5
    assert rebinned_depth(3.0, 1.0, wider=500.0) < 1e-3


@pytest.mark.parametrize("pixels", [0.94, 1.2, 1.5])
def test_what_pixels_do_not_tell_is_missing_after_a_move(pixels):
    """Of half a pixel, by the weights that fits use."""
    place = np.arange(60.0)

    def line(center):
        edges = np.append(place, 60.0) - 0.5
        return 1 - means((edges - center) / pixels, np.exp(-0.5 * (FINE * FWHM) ** 2))

    here = torch.tensor(line(30.0))[None]
    moved = shift_flux(here, torch.tensor([0.5]).double())[0].numpy()
    wrong = np.abs(moved - line(30.5))[10:-10].max() / (1 - line(30.0).min())
    assert 0.6 * untold_depth(pixels) < wrong < 1.5 * untold_depth(pixels)


def test_pixels_made_for_a_resolving_power_have_what_was_asked_for():
    edges = resolution_edges(4000.0, 9000.0, 1800.0, pixels_per_fwhm=2.5)
    np.testing.assert_allclose(pixels_per_fwhm(edges, 1800.0), 2.5, rtol=2e-3)  # a whole number
