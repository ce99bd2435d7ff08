"""Pressures of the atmosphere: against a slow scalar solution, the Sun, and their derivatives."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from scalespec.models.atmosphere import (
    BOUNDARIES,
    cell_depths,
    solve_atmosphere,
    temperature_structure,
)
from scalespec.models.gas import ELEMENTS, SYMBOLS, partition_functions, saha
from scalespec.models.opacity import continuum_opacity, thomson

SOLAR = math.log(10) * torch.tensor([[ELEMENTS[s][1] - 12.0 for s in SYMBOLS]], dtype=torch.float64)


def at(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def star(teff: float, logg: float, fe_h: float = 0.0):
    eps = SOLAR.clone()
    eps[:, 2:] += fe_h * math.log(10)
    return solve_atmosphere(at(teff), at(logg), eps, at(1.0))


def slow_pressures(teff: float, logg: float) -> list[tuple[float, float]]:
    """Electron and gas pressure of every cell, one root at a time."""
    eps = SOLAR[0].exp().tolist()
    mass = sum(e * ELEMENTS[s][0] for e, s in zip(eps, SYMBOLS, strict=True)) * 1.660539e-24
    depths, _ = cell_depths()
    found, above, before = [], 0.0, 0.0
    for k, depth in enumerate(depths):
        t = teff * float(temperature_structure(torch.tensor(depth, dtype=torch.float64)))
        first, second = (x[0].exp().tolist() for x in saha(at(t)))

        def gas(log_pe: float, t=t, first=first, second=second) -> tuple[float, float]:
            pe, electrons = math.exp(log_pe), 0.0
            for e, a, b in zip(eps, first, second, strict=True):
                one, two = a / pe, a / pe * b / pe
                electrons += e * (one + 2 * two) / (1 + one + two)
            neutral = 1 / (1 + first[0] / pe)
            kappa = float(continuum_opacity(at(5000.0), at(t), at(pe))) * neutral
            return pe * (1 + sum(eps) / electrons), kappa + thomson() * electrons

        weight = 10**logg * mass * depth
        weight *= 1 / 0.6 if k == 0 else 0.5 * math.log(depth / depths[k - 1])

        def off(log_pe: float, gas=gas, weight=weight, above=above, before=before, k=k) -> float:
            pressure, kappa = gas(log_pe)
            share = before * 0.5 * math.log(depths[k] / depths[k - 1]) if k else 0.0
            return math.log(pressure / (above + share + weight / kappa))

        root = brentq(off, -20, 15, xtol=1e-13)
        above, kappa = gas(root)
        before = 10**logg * mass * depth / kappa
        found.append((math.exp(root), above))
    return found


@pytest.mark.parametrize(("teff", "logg"), [(5772.0, 4.44), (4000.0, 1.0), (12000.0, 4.0)])
def test_pressures_equal_a_slow_scalar_solution(teff, logg):
    solved = star(teff, logg)
    electrons = solved.electron_density * 1.380649e-16 * solved.temperature
    for k, (pe, gas) in enumerate(slow_pressures(teff, logg)):
        # Newton from 0.08, squared thrice
        assert float(electrons[0, k]) == pytest.approx(pe, rel=1e-8)
        assert float(solved.gas_pressure[0, k]) == pytest.approx(gas, rel=1e-8)


def test_the_solar_atmosphere_is_that_of_the_sun():
    sun = star(5772.0, 4.44)
    t, gas = sun.temperature[0], sun.gas_pressure[0].log10()
    electrons = (sun.electron_density * 1.380649e-16 * sun.temperature)[0].log10()
    # Gray 2005, table 9.2, at T = 5270 K: log Pg = 4.77, log Pe = 0.75
    assert np.interp(5270.0, t, gas) == pytest.approx(4.77, abs=0.15)
    assert np.interp(5270.0, t, electrons) == pytest.approx(0.75, abs=0.15)


@pytest.mark.parametrize("teff", [3800.0, 6000.0, 10000.0, 30000.0])
@pytest.mark.parametrize("logg", [0.0, 5.0])
@pytest.mark.parametrize("fe_h", [-4.0, 0.5])
def test_every_star_has_an_atmosphere_that_grows_denser_inwards(teff, logg, fe_h):
    solved = star(teff, logg, fe_h)
    for values in (solved.temperature, solved.gas_pressure, solved.electron_density):
        assert bool(torch.isfinite(values).all())
        assert bool((values.diff(dim=1) > 0).all())


def test_populations_of_an_element_add_up_where_double_ions_are_rare():
    solved = star(5000.0, 3.0)
    t = solved.temperature[0]
    neutral, ion, _ = partition_functions(t)
    counts = solved.population[0].unflatten(1, (-1, 2))
    total = torch.logsumexp(torch.stack([counts[..., 0] + neutral, counts[..., 1] + ion]), 0)
    keep = [SYMBOLS.index(s) for s in ("H", "C", "Mg", "Fe")]
    assert torch.allclose(total[:, keep], SOLAR[:, keep].expand(len(t), -1), atol=1e-4)


def test_pressures_have_their_derivatives():
    def pressures(values: torch.Tensor) -> torch.Tensor:
        return solve_atmosphere(values[:1], values[1:], SOLAR, at(1.0)).electron_density.log()

    x = torch.tensor([4700.0, 2.5], dtype=torch.float64)
    exact = torch.func.jacfwd(pressures)(x)
    for i, step in enumerate((0.5, 1e-3)):
        unit = torch.zeros(2, dtype=torch.float64)
        unit[i] = step
        slope = (pressures(x + unit) - pressures(x - unit)) / (2 * step)
        assert torch.allclose(exact[..., i], slope, rtol=1e-5)  # second-order error


def test_metals_give_the_electrons_of_cool_stars():
    ratio = (star(4200.0, 2.0, -2.0).electron_density / star(4200.0, 2.0).electron_density)[0, 2]
    # Pe goes as A^(1/3) to A^(1/2) where metals give the electrons (Gray 2005, section 9.6)
    assert 100**-0.55 < float(ratio) < 100 ** (-1 / 3) * 1.2


def test_cells_lie_end_to_end():
    middles, thickness = cell_depths()
    assert sum(thickness) == pytest.approx(BOUNDARIES[-1])
    assert all(a < m < b for a, m, b in zip(BOUNDARIES, middles, BOUNDARIES[1:], strict=False))
