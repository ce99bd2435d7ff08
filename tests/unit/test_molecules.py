"""Molecular equilibrium equals a slow solution of all its equations at once."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import fsolve

from scalespec.models.atmosphere import solve_atmosphere
from scalespec.models.gas import ELEMENTS, SYMBOLS, partition_functions
from scalespec.models.molecules import (
    BANDED,
    MOLECULES,
    log_association,
    log_partition,
    solve_chemistry,
)


def at(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def gas(temperature: float, density: float, **changes: float) -> torch.Tensor:
    """Populations of an all-neutral gas, per hydrogen nucleus and partition function."""
    neutral, _, _ = partition_functions(at(temperature))
    eps = [ELEMENTS[s][1] - 12.0 + changes.get(s, 0.0) for s in SYMBOLS]
    population = torch.full((1, 2 * len(SYMBOLS)), -300.0, dtype=torch.float64)
    population[0, ::2] = math.log(10) * torch.tensor(eps, dtype=torch.float64) - neutral[0]
    return population


@pytest.mark.parametrize("temperature", [3000.0, 3600.0, 4500.0, 6000.0])
@pytest.mark.parametrize("carbon", [-1.0, 0.0, 0.5])
def test_atoms_left_satisfy_all_balances(temperature, carbon):
    density = 1e17
    found = solve_chemistry(at(temperature), at(density), gas(temperature, density, C=carbon))
    eps = {s: 10 ** (ELEMENTS[s][1] - 12.0) for s in ("H", "C", "N", "O", "Ti")}
    eps["C"] *= 10**carbon
    u = {s: float(partition_functions(at(temperature))[0][0, SYMBOLS.index(s)]) for s in eps}

    def rate(name: str) -> float:
        a, b = MOLECULES[name].atoms
        made = log_association(name, at(temperature)) + log_partition(name, at(temperature))
        return math.exp(float(made) - u[a] - u[b]) * density

    def balances(logs: np.ndarray) -> list[float]:
        h, c, n, o, ti = np.exp(logs)
        return [
            math.log(h + 2 * rate("H2") * h * h),
            math.log((c + rate("CO") * c * o) / eps["C"]),
            math.log((n + 2 * rate("N2") * n * n) / eps["N"]),
            math.log((o + rate("CO") * c * o) / eps["O"]),
            math.log((ti + rate("TiO") * ti * o) / eps["Ti"]),
        ]

    left = {s: math.exp(float(found.free[s])) * eps[s] for s in ("H", "C", "N", "O", "Ti")}
    start = np.log([left[s] for s in left])
    assert balances(start) == pytest.approx(5 * [0.0], abs=1e-9)  # every nucleus is somewhere
    assert fsolve(balances, start + 0.1) == pytest.approx(start, abs=1e-6)  # the only place


def test_molecules_are_the_product_of_the_atoms_left():
    temperature, density = 3800.0, 1e16
    population = gas(temperature, density)
    found = solve_chemistry(at(temperature), at(density), population)
    for i, name in enumerate(BANDED):
        expected = float(log_association(name, at(temperature))) + math.log(density)
        for atom in MOLECULES[name].atoms:
            expected += float(population[0, 2 * SYMBOLS.index(atom)])
            expected += float(found.free.get(atom, at(0.0)))
        assert float(found.molecules[0, i]) == pytest.approx(expected)


def test_equilibrium_constant_of_carbon_monoxide_is_the_published_one():
    # Tsuji 1973, A&A 23, 411: log Kp [dyn/cm²] = 13.82 - 11.795 theta + 0.172 theta² - ...
    t = 5040.0
    u = [partition_functions(at(t))[0][0, SYMBOLS.index(s)] for s in "CO"]
    made = log_association("CO", at(t)) + log_partition("CO", at(t)) - u[0] - u[1]
    log_kp = (-float(made) + math.log(1.380649e-16 * t)) / math.log(10)
    assert log_kp == pytest.approx(2.2, abs=0.15)  # of his molecular constants


@pytest.mark.parametrize("temperature", [3000.0, 5000.0])
def test_partition_function_of_carbon_monoxide_equals_a_sum_over_its_levels(temperature):
    kt, total = temperature / 1.438777, 0.0
    for v in range(25):
        energy = 2169.81 * v - 13.288 * (v * v + v)
        rotation = 1.9313 - 0.0175 * (v + 0.5)
        for j in range(250):
            total += (2 * j + 1) * math.exp(-(energy + rotation * j * (j + 1)) / kt)
    # 4 % at 3000 K and 9 % at 5000 K are the anharmonicity that we leave out
    assert float(log_partition("CO", at(temperature)).exp()) == pytest.approx(total, rel=0.1)


def test_hot_gas_has_no_molecules_and_all_its_atoms():
    solar = math.log(10) * torch.tensor([[ELEMENTS[s][1] - 12.0 for s in SYMBOLS]]).double()
    star = solve_atmosphere(at(25000.0), at(4.0), solar, at(1.0))
    found = solve_chemistry(star.temperature[0], star.hydrogen_density[0], star.population[0])
    assert bool(torch.isfinite(found.molecules).all())
    for values in found.free.values():
        assert float(values.abs().max()) < 1e-6
