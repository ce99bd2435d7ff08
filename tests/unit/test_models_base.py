"""Specifications round-trip, labels scale, shifts move lines, derivatives are right."""

import json

import numpy as np
import pytest
import torch

from scalespec.models.base import Emulator, EmulatorSpec, shift_flux, shifted_variance

GRID = 10 ** (3.5682 + 1e-4 * np.arange(120))


def spec(**changes):
    plain = {
        "name": "toy",
        "labels": ("teff", "logg", "fe_h"),
        "minimum": [3500.0, 0.1, -2.5],
        "maximum": [7000.0, 5.0, 0.5],
        "wavelength": GRID,
        "resolving_power": 1800.0,
        "normalization": {"method": "gaussian", "width_angstrom": 50.0},
        "extra": {"vmic": 2.0},
    }
    return EmulatorSpec(**plain | changes)


class Wave(Emulator):
    """flux = sin(x0 * pixel) + x1 * x2: derivatives anyone can write down."""

    def forward_scaled(self, x):
        pixel = torch.arange(self.spec.n_pixel, dtype=x.dtype)
        return torch.sin(x[:, :1] * pixel) + (x[:, 1] * x[:, 2])[:, None]


def gaussian_lines(center, depth, sigma):
    pixel = np.arange(len(GRID))
    depth, center = depth[:, None], center[:, None]
    return 1 - (depth * np.exp(-0.5 * ((pixel - center) / sigma) ** 2)).sum(0)


def test_spec_survives_json_exactly():
    there = EmulatorSpec.from_dict(json.loads(json.dumps(spec().to_dict())))
    assert there.to_dict() == spec().to_dict()
    assert there.wavelength.dtype == np.float64
    np.testing.assert_array_equal(there.wavelength, GRID)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("teff", "teff", "logg")}, "named once"),
        ({"labels": ()}, "named once"),
        ({"minimum": [3500.0, 0.1]}, r"shape \(2,\), wanted \(3,\)"),
        ({"maximum": [7000.0, 0.1, 0.5]}, "label logg has no range: 0.1 to 0.1"),
        ({"maximum": [np.nan, 5.0, 0.5]}, "label teff has no range"),
        ({"wavelength": GRID[::-1]}, "increase"),
        ({"wavelength": GRID - GRID[0]}, "positive"),
        ({"wavelength": []}, r"shape \(0,\)"),
        ({"resolving_power": -1.0}, "resolving_power must be positive, got -1.0"),
        ({"normalization": {}}, "name its method"),
    ],
)
def test_spec_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        spec(**changes)


def test_spec_names_an_unknown_field():
    with pytest.raises(ValueError, match="colour"):
        EmulatorSpec.from_dict(spec().to_dict() | {"colour": "red"})


def test_spec_is_not_changed_through_the_callers_array():
    minimum = np.array([3500.0, 0.1, -2.5])
    made = spec(minimum=minimum)
    minimum[0] = 0.0
    assert made.minimum[0] == 3500.0


def test_slice_keeps_the_pixels_it_says():
    np.testing.assert_array_equal(spec().slice(3, 9).wavelength, GRID[3:9])
    with pytest.raises(ValueError, match=r"\[5, 200\) are not within the 120"):
        spec().slice(5, 200)


def test_scaled_labels_run_from_minus_half_to_half():
    model = Wave(spec())
    ends = torch.tensor(np.array([spec().minimum, spec().maximum]))
    np.testing.assert_allclose(model.scale(ends), [[-0.5] * 3, [0.5] * 3], atol=1e-7)
    # 1e-7 of the range: one float32 rounding of x
    np.testing.assert_allclose(model.unscale(model.scale(ends)), ends, rtol=0, atol=1e-7 * 3500)


def test_scaling_keeps_a_hundredth_of_a_kelvin():
    # In float32 the difference of two temperatures would be known to 0.0005 K, of x to 6e-8.
    model = Wave(spec())
    x = model.scale(torch.tensor([[5250.0, 1.0, 0.0], [5250.01, 1.0, 0.0]], dtype=torch.float64))
    assert float(x[1, 0] - x[0, 0]) == pytest.approx(0.01 / 3500, rel=0.02)


def test_default_jacobian_is_the_analytic_one():
    model = Wave(spec())
    x = torch.randn(4, 3, dtype=torch.float64)
    flux, jacobian = model.flux_and_jacobian(x)
    pixel = torch.arange(120, dtype=torch.float64)
    wanted = torch.stack(
        [
            pixel * torch.cos(x[:, :1] * pixel),
            x[:, 2:3].expand(-1, 120),
            x[:, 1:2].expand(-1, 120),
        ],
        dim=1,
    )
    torch.testing.assert_close(flux, model.forward_scaled(x))
    torch.testing.assert_close(jacobian, wanted)


@pytest.mark.parametrize("shift", [0.5, -0.5, 0.23, 1.0])
def test_shift_moves_lines_of_resolving_power_1800(shift):
    rng = np.random.default_rng(3)
    center, depth = rng.uniform(10, 110, 25), rng.uniform(0.01, 0.12, 25)
    sigma = 2.41 / 2.3548  # FWHM of R = 1800 in pixels of 1e-4 in log10
    flux = torch.tensor(gaussian_lines(center, depth, sigma))[None]
    moved = shift_flux(flux, torch.tensor([shift]))[0].numpy()
    error = moved - gaussian_lines(center + shift, depth, sigma)
    # The kernel's own error; without it the lines would be off by 0.1.
    assert np.abs(error[5:-5]).max() < 2e-3
    assert error[5:-5].std() < 5e-4
    assert np.abs(flux[0].numpy() - gaussian_lines(center + shift, depth, sigma)).max() > 0.015


@pytest.mark.parametrize("sigma", [1.02, 1.5, 4.0])
def test_half_a_pixel_is_right_to_a_thousandth(sigma):
    center, depth = np.array([60.0]), np.array([0.3])
    flux = torch.tensor(gaussian_lines(center, depth, sigma), dtype=torch.float32)[None]
    moved = shift_flux(flux, torch.tensor([0.5]))[0].numpy()
    assert np.abs(moved - gaussian_lines(center + 0.5, depth, sigma)).max() < 1e-3


def test_shifts_are_per_spectrum_and_no_shift_is_none():
    flux = torch.rand(3, 40, dtype=torch.float64)
    shift = torch.tensor([0.0, 0.4, -0.4])
    moved = shift_flux(flux, shift)
    torch.testing.assert_close(moved[0], flux[0], rtol=0, atol=1e-6)  # the kernel's small diagonal
    for i in range(3):
        torch.testing.assert_close(moved[i : i + 1], shift_flux(flux[i : i + 1], shift[i : i + 1]))


def test_a_level_spectrum_stays_level_to_its_edges():
    moved = shift_flux(torch.full((1, 30), 0.7), torch.tensor([0.5]))
    torch.testing.assert_close(moved, torch.full((1, 30), 0.7), rtol=0, atol=1e-5)


def test_shift_is_differentiable_in_flux_and_shift():
    flux = torch.rand(2, 12, dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(shift_flux, (flux, shift))


def test_shifted_variance_is_that_of_shifted_noise():
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(5, 40_000, generator=generator)
    shift = torch.tensor([0.0, 0.1, -0.25, 0.5, 1.0])
    measured = shift_flux(noise, shift).var(dim=1).double()
    # Of 40,000 correlated pixels a variance is known to 1 %.
    torch.testing.assert_close(shifted_variance(shift), measured, rtol=0.03, atol=0)


@pytest.mark.parametrize("shift", [1.5, float("nan")])
def test_shift_refuses_more_than_a_pixel(shift):
    with pytest.raises(ValueError, match="up to 1 pixel, got"):
        shift_flux(torch.ones(1, 20), torch.tensor([shift]))
    with pytest.raises(ValueError, match="up to 1 pixel, got"):
        shifted_variance(torch.tensor([shift]))
