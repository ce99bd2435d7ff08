"""Transfer of cells: attenuation, quadratures, and a slow integral of the flux."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import expn, wofz

from scalespec.models.atmosphere import BOUNDARIES, N_CELL, cell_depths, solve_atmosphere
from scalespec.models.gas import ELEMENTS, SYMBOLS
from scalespec.models.opacity import continuum_opacity, thomson
from scalespec.models.transfer import (
    attenuation,
    line_points,
    solve_continuum,
    to_middle,
    wing_points,
)


def star(teff: float = 5772.0, logg: float = 4.44):
    one = torch.ones(1, dtype=torch.float64)
    solar = math.log(10) * torch.tensor([[ELEMENTS[s][1] - 12.0 for s in SYMBOLS]]).double()
    return solve_atmosphere(teff * one, logg * one, solar, one)


def test_attenuation_is_twice_the_third_exponential_integral():
    t = np.concatenate([[0.0], np.geomspace(1e-5, 30.0, 300)])
    found = attenuation(torch.from_numpy(t)).numpy()
    assert found == pytest.approx(2 * expn(3, t), abs=0.0014)  # as its docstring says
    assert np.all(np.diff(found) < 0)
    assert float(attenuation(torch.tensor(1e30))) == 0.0


def test_to_middle_counts_half_of_the_own_cell():
    found = to_middle(torch.tensor([1.0, 2.0, 4.0]))
    assert found.tolist() == [0.5, 2.0, 5.0]


@pytest.mark.parametrize("damping", [0.001, 0.03, 0.1])
def test_points_of_a_line_integrate_saturated_voigt_profiles(damping):
    v = np.concatenate([np.linspace(0, 8, 4001), np.geomspace(8, 14, 500)[1:]])
    voigt = wofz(v + 1j * damping).real
    for eta in 10.0 ** np.arange(-3, 4):
        expected = 2 * np.trapezoid(1 - np.exp(-eta * voigt), v)
        found = sum(
            w * -math.expm1(-eta * (gaussian + damping * wing))
            for w, gaussian, wing in line_points()
        )
        # six points to the sharp edge of a black core; cells of an atmosphere soften it
        assert found == pytest.approx(expected, rel=0.2 if eta > 0.5 else 0.01)


@pytest.mark.parametrize("relative_sigma", [3e-5, 2.4e-4, 2e-3])
def test_points_of_a_wing_integrate_what_is_narrower_than_a_pixel_and_what_is_wider(relative_sigma):
    x, weight = wing_points(relative_sigma)
    assert np.sum(weight * np.exp(-(x**2) / 2)) == pytest.approx(math.sqrt(2 * math.pi), rel=3e-3)
    core = 7e-6 / relative_sigma  # 2 km/s
    narrow = np.sum(weight / (1 + (x / core) ** 2))
    expected = 2 * core * math.atan(10.0 / core)
    assert narrow == pytest.approx(expected, rel=0.01)


def test_continuum_equals_a_slow_sum():
    sun = star()
    wave = 4300.0
    continuum, column = solve_continuum(sun, torch.tensor([wave], dtype=torch.float64))
    _, thickness = cell_depths()
    above, depths = 0.0, []
    for k in range(N_CELL):
        t = sun.temperature[:, k]
        pe = sun.electron_density[:, k] * 1.380649e-16 * t
        kappa = []
        for w in (wave, 5000.0):
            opacity = continuum_opacity(torch.tensor([w], dtype=torch.float64), t, pe)[0, 0]
            neutral = 2 * math.exp(float(sun.population[0, k, 0]))
            electrons = float(sun.electron_density[0, k] / sun.hydrogen_density[0, k])
            kappa.append(float(opacity) * neutral + thomson() * electrons)
        assert float(column[k, 0]) == pytest.approx(math.log(thickness[k] / kappa[1]))
        own = kappa[0] / kappa[1] * thickness[k]
        depths.append(above + own / 2)
        above += own
    assert continuum.above[:, 0, 0].tolist() == pytest.approx(depths)
    edges = sun.boundary_temperature[0].tolist()
    source = [1 / math.expm1(1.43877688e8 / wave / t) for t in edges]
    flux = source[0] + sum(
        (b - a) * float(attenuation(torch.tensor(d, dtype=torch.float64)))
        for a, b, d in zip(source, source[1:], depths, strict=False)
    )
    gains = [(b - a) / flux for a, b in pairwise(source)]
    assert continuum.weight[:, 0, 0].tolist() == pytest.approx(gains)
    assert float(continuum.depth[0, 0]) == pytest.approx(1 - source[0] / flux)
    assert len(edges) == len(BOUNDARIES)


@pytest.mark.parametrize(("teff", "logg"), [(4000.0, 1.0), (5772.0, 4.44), (20000.0, 4.0)])
def test_continuum_flux_is_near_that_of_a_black_body(teff, logg):
    wave = torch.tensor([4500.0, 5500.0, 6500.0], dtype=torch.float64)
    found = star(teff, logg)
    continuum, _ = solve_continuum(found, wave)
    surface = 1 / torch.expm1(1.43877688e8 / wave / found.boundary_temperature[0, 0])
    flux = surface / (1 - continuum.depth[0])
    black = 1 / torch.expm1(1.43877688e8 / wave / teff)
    ratio = flux / black
    # It makes the star's light: within what H- and the Paschen continuum block or let through
    assert bool(((ratio > 0.6) & (ratio < 1.8)).all())
