"""Rotation and macroturbulence keep light, and have the profiles of the textbook."""

import math

import numpy as np
import pytest
import torch
from scipy.special import j1

from scalespec.models.broadening import (
    LIMB_DARKENING,
    broaden,
    rotation_kernel,
    rotation_transform,
)


def line(n: int = 400, sigma: float = 2.0) -> torch.Tensor:
    x = torch.arange(n, dtype=torch.float64) - n // 2
    return (1 - 0.7 * torch.exp(-0.5 * (x / sigma) ** 2))[None]


def at(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("velocity", [0.0, 1.0, 40.0, 400.0])
def test_broadening_keeps_the_equivalent_width(velocity):
    moved = broaden(line(), 10.0, vsini=at(velocity), vmac=at(velocity / 4))
    assert float((1 - moved).sum()) == pytest.approx(float((1 - line()).sum()), rel=1e-9)


def test_no_velocity_changes_nothing():
    assert torch.allclose(broaden(line(), 10.0, vsini=at(0.0), vmac=at(0.0)), line(), atol=1e-12)


def test_rotation_is_the_convolution_with_its_kernel():
    v = 10.0 * (np.arange(400) - 200)
    fine = np.linspace(-100, 100, 4001)  # km/s
    kernel = rotation_kernel(torch.from_numpy(fine / 100.0)).numpy()
    flux = line()[0].numpy()
    expected = [
        np.sum(kernel * np.interp(center - fine, v, flux)) / kernel.sum() for center in v[30:-30]
    ]
    found = broaden(line(), 10.0, vsini=at(100.0))[0, 30:-30].numpy()
    assert found == pytest.approx(expected, abs=0.02)  # linear interpolation of a line of 2 pixels


def test_transform_of_rotation_equals_its_closed_form():
    # Gray 2005, eq. 18.15: Bessel and elementary functions of the two parts
    u = np.array([0.3, 1.7, 4.1, 9.9, 33.3])
    e = LIMB_DARKENING
    disk = (1 - e) * 2 * j1(u) / u
    dark = e * (2 / 3) * 3 * (np.sin(u) - u * np.cos(u)) / u**3
    expected = (disk + dark) / (1 - e / 3)
    assert rotation_transform(torch.from_numpy(u)).numpy() == pytest.approx(expected, abs=1e-7)


def test_transform_has_its_derivative():
    u = torch.tensor([0.5, 3.3, 12.1], dtype=torch.float64)
    _, slope = torch.func.jvp(rotation_transform, (u,), (torch.ones_like(u),))
    step = (rotation_transform(u + 1e-4) - rotation_transform(u - 1e-4)) / 2e-4
    assert torch.allclose(slope, step, atol=1e-6)  # second-order error


def test_kernel_has_unit_area():
    x = torch.linspace(-1.2, 1.2, 24001, dtype=torch.float64)
    area = torch.trapezoid(rotation_kernel(x), x)
    assert float(area) == pytest.approx(1.0, abs=1e-5)  # a square root at the limb


def test_macroturbulence_adds_its_variance():
    wide = 1 - broaden(line(), 10.0, vmac=at(60.0))[0]
    x = 10.0 * (torch.arange(400, dtype=torch.float64) - 200)
    variance = float((wide * x**2).sum() / wide.sum())
    assert variance == pytest.approx(20.0**2 + 60.0**2 / 2, rel=1e-6)


def test_light_does_not_wrap_around_the_ends():
    flux = torch.ones(1, 100, dtype=torch.float64)
    flux[0, 2] = 0.0
    moved = broaden(flux, 10.0, vsini=at(200.0))
    assert float((1 - moved)[0, 60:].abs().max()) < 1e-3  # ringing of a one-pixel line
    assert math.isclose(float(moved[0, 50]), 1.0, abs_tol=2e-3)
