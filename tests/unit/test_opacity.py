"""Continuum opacity has its edges, slopes and limits where nature has them."""

import pytest
import torch

from scalespec.models.opacity import BREAKS, continuum_opacity


def at(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_negative_hydrogen_is_linear_in_electron_pressure_and_thinnest_at_1_6_micron():
    wave = torch.linspace(10000.0, 20000.0, 401, dtype=torch.float64)
    one, two = (continuum_opacity(wave, at(5000.0), at(p))[0] for p in (10.0, 20.0))
    assert torch.allclose(two, 2 * one, rtol=1e-3)  # hydrogen's own part does not grow
    assert float(wave[one.argmin()]) == pytest.approx(16400.0, abs=400.0)  # its threshold


@pytest.mark.parametrize(("edge", "largest"), [(BREAKS[0], 30.0), (BREAKS[1], 5.0)])
def test_a_stars_have_balmer_and_paschen_jumps(edge, largest):
    blue, red = continuum_opacity(at(edge * 0.999, edge * 1.001), at(10000.0), at(200.0))[0]
    assert 1.5 < float(blue / red) < largest


def test_balmer_jump_shrinks_in_cool_stars_and_in_hot_ones():
    jump = [
        float(torch.div(*continuum_opacity(at(3643.0, 3651.0), at(t), at(pe))[0]))
        for t, pe in ((5000.0, 5.0), (9000.0, 200.0), (25000.0, 2000.0))
    ]
    assert jump[1] > jump[0]  # there H- drowns it
    assert jump[1] > jump[2]  # there the levels crowd together


def test_opacity_is_positive_and_finite_wherever_stars_are():
    wave = torch.linspace(2400.0, 17200.0, 500, dtype=torch.float64)
    t = torch.linspace(2500.0, 45000.0, 60, dtype=torch.float64)
    for pe in (1e-8, 1.0, 1e5):
        found = continuum_opacity(wave, t, torch.full_like(t, pe))
        assert bool((torch.isfinite(found) & (found > 0)).all())


def test_rayleigh_scattering_goes_as_the_fourth_power_where_nothing_else_is_left():
    a, b = continuum_opacity(at(4000.0, 8000.0), at(2500.0), at(0.0))[0]
    # 16, and a little by the next terms of the series
    assert float(a / b) == pytest.approx(16.0, rel=0.25)
