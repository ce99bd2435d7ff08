"""A star's atmosphere: temperature by a scaled T(tau), pressures in hydrostatic balance, by cells.

A cell is a range of optical depth at 5000 Å that has one temperature and pressure. Temperatures in
K, pressures in dyn cm⁻², float64 torch, differentiable.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from scalespec.models.gas import (
    AMU,
    K_ERG,
    LN10,
    element_table,
    ionization,
    partition_functions,
    saha,
)
from scalespec.models.opacity import continuum_opacity, thomson

BOUNDARIES = (1e-5, 1e-3, 10**-1.9, 0.1, 10**-0.3, 10**0.4)
"""Optical depths at 5000 Å between cells; the first cell begins at the surface."""
N_CELL = len(BOUNDARIES) - 1


@dataclass(frozen=True)
class Atmosphere:
    """The gas of each star, cell by cell.

    Attributes
    ----------
    temperature, gas_pressure, electron_density, hydrogen_density : (n, n_cell) Tensor
        [K, dyn cm⁻², cm⁻³]; `hydrogen_density` counts nuclei.
    boundary_temperature : (n, n_cell + 1) Tensor [K]
        Between the cells.
    vmic : (n,) Tensor [cm/s]
        Microturbulence.
    population : (n, n_cell, 2 n_element) Tensor
        ln of (particles per hydrogen nucleus / partition function): neutral, ion, neutral, ion, ...
    """

    temperature: Tensor
    gas_pressure: Tensor
    electron_density: Tensor
    hydrogen_density: Tensor
    boundary_temperature: Tensor
    vmic: Tensor
    population: Tensor


def cell_depths() -> tuple[list[float], list[float]]:
    """Return the depth in the middle of every cell and its thickness, at 5000 Å.

    Examples
    --------
    >>> middles, thickness = cell_depths()
    >>> len(middles) == len(thickness) == N_CELL
    True
    """
    edges = [0.0, *BOUNDARIES[1:]]
    thickness = [b - a for a, b in pairwise(edges)]
    middles = [math.sqrt(a * b) for a, b in pairwise(BOUNDARIES)]
    return middles, thickness


def temperature_structure(depth: Tensor) -> Tensor:
    """Return temperature over effective temperature at optical depths.

    The solar T(tau) of Krishna Swamy 1966, ApJ 145, 174, for all stars.

    Examples
    --------
    >>> temperature_structure(torch.tensor([0.0, 2 / 3])).round(decimals=2)
    tensor([0.8000, 1.0900])
    """
    hopf = 1.39 - 0.815 * torch.exp(-2.54 * depth) - 0.025 * torch.exp(-30.0 * depth)
    return (0.75 * (depth + hopf)) ** 0.25


def solve_atmosphere(teff: Tensor, logg: Tensor, log_eps: Tensor, vmic: Tensor) -> Atmosphere:
    """Solve the atmosphere of every star.

    Parameters
    ----------
    teff, logg, vmic : (n,) float64 Tensor [K, dex cgs, km/s]
    log_eps : (n, n_element) float64 Tensor
        ln of nuclei per hydrogen nucleus, in the order of `SYMBOLS`.

    Examples
    --------
    >>> from scalespec.models.gas import ELEMENTS, SYMBOLS
    >>> solar = torch.tensor([[ELEMENTS[s][1] - 12.0 for s in SYMBOLS]], dtype=torch.float64)
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> sun = solve_atmosphere(5772 * one, 4.44 * one, LN10 * solar, one)
    >>> bool((sun.gas_pressure.diff(dim=1) > 0).all())
    True
    """
    middles, _ = cell_depths()
    edges = teff.new_tensor([0.0, *BOUNDARIES[1:]])
    temperature = teff[:, None] * temperature_structure(teff.new_tensor(middles))
    eps = log_eps.exp()
    log_pe = _electron_pressures(temperature, logg, eps, middles)
    flat_t, flat_pe = temperature.flatten(), log_pe.flatten()
    neutral, ion, _ = partition_functions(flat_t)
    fractions = ionization(saha(flat_t), flat_pe)
    electrons = fractions[1].exp() + 2 * fractions[2].exp()
    wide = eps.repeat_interleave(N_CELL, 0)
    per_nucleus = (wide * electrons).sum(1)
    nuclei = flat_pe.exp() / per_nucleus / (K_ERG * flat_t)  # of hydrogen, per cm³
    population = torch.stack([fractions[0] - neutral, fractions[1] - ion], 2)
    population = (
        population.view(*temperature.shape, *population.shape[1:]) + log_eps[:, None, :, None]
    )
    pressure = flat_pe.exp() * (1 + wide.sum(1) / per_nucleus)
    return Atmosphere(
        temperature,
        pressure.view_as(temperature),
        (flat_pe.exp() / (K_ERG * flat_t)).view_as(temperature),
        nuclei.view_as(temperature),
        teff[:, None] * temperature_structure(edges),
        vmic * 1e5,
        population.flatten(2),
    )


def _electron_pressures(
    temperature: Tensor, logg: Tensor, eps: Tensor, depths: list[float]
) -> Tensor:
    """Integrate hydrostatic balance inwards: ln of the electron pressure, (n, n_cell)."""
    mass = eps @ (element_table(0, eps.device) * AMU)
    pull = (LN10 * logg).exp() * mass
    n, n_cell = temperature.shape
    n_element = eps.shape[1]
    first, second = (x.exp().view(n, n_cell, n_element) for x in saha(temperature.flatten()))
    scattered, absorbed = (x.view(n, n_cell) for x in _opacity_at_5000(temperature.flatten()))
    log_pe: list[Tensor] = []
    above = pull * 0  # pressure over the cell, without the part its own opacity makes
    for k, depth in enumerate(depths):
        gas = _Cell(first[:, k], second[:, k], scattered[:, k], absorbed[:, k], eps)
        # Pressure goes as depth**0.6 near the surface; further in by the trapezoid in ln depth.
        share = 1 / 0.6 if k == 0 else 0.5 * math.log(depth / depths[k - 1])
        log_pe.append(_balance(gas, above, pull * depth * share))
        if k + 1 < n_cell:
            pressure, opacity = _gas(log_pe[-1].exp(), gas)
            above = pressure + pull * depth * 0.5 * math.log(depths[k + 1] / depth) / opacity
    return torch.stack(log_pe, 1)


class _Cell(NamedTuple):
    """What the pressures of one cell depend on, but for the electrons."""

    first: Tensor  # of `saha`, not their logarithms
    second: Tensor
    scattered: Tensor  # opacity per neutral hydrogen atom without electrons
    absorbed: Tensor  # the same per electron pressure
    eps: Tensor


def _opacity_at_5000(temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two parts of the opacity, which is linear in the electron pressure."""
    wave = temperature.new_tensor([5000.0])
    none = continuum_opacity(wave, temperature, torch.zeros_like(temperature))[:, 0]
    one = continuum_opacity(wave, temperature, torch.ones_like(temperature))[:, 0]
    return none, one - none


def _balance(cell: _Cell, above: Tensor, weight: Tensor) -> Tensor:
    """Return ln Pe where the gas pressure is `above` plus `weight` over the opacity, (n,).

    Bisection finds the root without derivatives, Newton steps make it exact to rounding; another
    one carries the derivatives of the implicit function.
    """
    fixed = _Cell(*(value.detach() for value in cell)), above.detach(), weight.detach()
    low = torch.full_like(fixed[1], -23.0)
    high = torch.full_like(fixed[1], 18.0)
    for _ in range(9):  # to 0.08; each Newton step about squares that
        middle = (low + high) / 2
        over = _imbalance(middle, *fixed) > 0
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    root, step = (low + high) / 2, 1e-4
    for _ in range(3):
        slope = (_imbalance(root + step, *fixed) - _imbalance(root - step, *fixed)) / (2 * step)
        root = root - _imbalance(root, *fixed) / slope
    return root - _imbalance(root, cell, above, weight) / slope


def _gas(pe: Tensor, cell: _Cell) -> tuple[Tensor, Tensor]:
    """Return the gas pressure that makes Pe, and opacity at 5000 Å per hydrogen nucleus."""
    ion = cell.first / pe[:, None]
    double = ion * cell.second / pe[:, None]
    electrons = (cell.eps * (ion + 2 * double) / (1 + ion + double)).sum(1)
    gas = pe * (1 + cell.eps.sum(1) / electrons)
    neutral = 1 / (1 + ion[:, 0] + double[:, 0])
    return gas, (cell.scattered + pe * cell.absorbed) * neutral + thomson() * electrons


def _imbalance(log_pe: Tensor, cell: _Cell, above: Tensor, weight: Tensor) -> Tensor:
    """Return ln of the gas pressure that makes `log_pe` over the one that carries the cell."""
    gas, opacity = _gas(log_pe.exp(), cell)
    return (gas / (above + weight / opacity)).log()
