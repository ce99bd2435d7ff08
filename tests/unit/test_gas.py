"""Populations, opacity, pressures and the curve of growth of the line-forming layer."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import wofz

from scalespec.models.gas import (
    ELEMENTS,
    SYMBOLS,
    continuum_opacity,
    curve_of_growth,
    electron_pressure,
    partition_functions,
    saha,
    solve_layer,
)

SOLAR = torch.tensor([[10 ** (ELEMENTS[s][1] - 12.0) for s in SYMBOLS]], dtype=torch.float64)


def at(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize(
    ("symbol", "stage", "temperature", "expected"),
    [  # Barklem & Collet 2016, at temperatures that are no nodes of ours
        ("Fe", 0, 6000.0, 31.741),
        ("Fe", 1, 4000.0, 39.153),
        ("Ca", 1, 6000.0, 2.3895),
        ("Ti", 0, 8000.0, 55.323),
        ("Na", 0, 4000.0, 2.0149),
        ("H", 0, 5500.0, 2.0),
    ],
)
def test_partition_functions_agree_with_barklem(symbol, stage, temperature, expected):
    found = partition_functions(at(temperature))[stage][0, SYMBOLS.index(symbol)].exp()
    assert float(found) == pytest.approx(expected, rel=0.04)  # what the module promises


def test_saha_equals_a_scalar_formula():
    t = 5500.0
    i = SYMBOLS.index("Ca")
    neutral, ion = (float(u[0, i].exp()) for u in partition_functions(at(t)))
    # Gray's eq. 1.20 in its logarithmic form, theta = 5040/T
    log = 2.5 * math.log10(t) - 5040 / t * 6.1132 - 0.1762 + math.log10(ion / neutral)
    # 5040 stands for 5039.78
    assert math.log10(float(saha(at(t))[0, i])) == pytest.approx(log, abs=1e-3)


def test_negative_hydrogen_is_linear_in_electron_pressure_and_thinnest_at_1_6_micron():
    wave = torch.linspace(10000.0, 20000.0, 401, dtype=torch.float64)
    one, two = (continuum_opacity(wave, at(5000.0), at(p))[0] for p in (10.0, 20.0))
    assert torch.allclose(two, 2 * one, rtol=1e-3)  # hydrogen's own part does not grow
    assert float(wave[one.argmin()]) == pytest.approx(16400.0, abs=400.0)  # its threshold


def test_electron_pressure_equals_a_slow_scalar_solution():
    t, logg = 5200.0, 4.4
    phi, eps = saha(at(t))[0].numpy(), SOLAR[0].numpy()
    mass = sum(e * ELEMENTS[s][0] for e, s in zip(eps, SYMBOLS, strict=True)) * 1.660539e-24

    def imbalance(log_pe: float) -> float:
        pe = math.exp(log_pe)
        electrons = sum(e * p / (p + pe) for e, p in zip(eps, phi, strict=True))
        gas = pe * (1 + eps.sum() / electrons)
        kappa = float(continuum_opacity(at(5000.0), at(t), at(pe))) * pe / (phi[0] + pe)
        return math.log(gas * kappa / (10**logg * mass * 0.25))

    expected = math.exp(brentq(imbalance, -10, 10, xtol=1e-12))
    found = float(electron_pressure(at(t), at(logg), SOLAR))
    assert found == pytest.approx(expected, rel=1e-9)  # bisection to 2e-6, squared by Newton


def test_electron_pressure_has_its_derivative():
    t, logg = at(4700.0).requires_grad_(), at(2.5).requires_grad_()
    slopes = torch.autograd.grad(electron_pressure(t, logg, SOLAR).log(), (t, logg))
    for slope, (dt, dg) in zip(slopes, ((0.5, 0.0), (0.0, 1e-3)), strict=True):
        high = electron_pressure(at(4700.0 + dt), at(2.5 + dg), SOLAR).log()
        low = electron_pressure(at(4700.0 - dt), at(2.5 - dg), SOLAR).log()
        # second-order error of the differences
        assert float(slope) == pytest.approx(float((high - low) / (2 * (dt + dg))), rel=1e-5)


def test_solar_layer_is_that_of_the_sun():
    sun = solve_layer(at(5772.0), at(4.44), SOLAR.log(), at(1.0))
    electrons = sun.electron_density * 1.380649e-16 * sun.temperature
    # Gray 2005, table 9.2, at T = 5270 K: log Pg = 4.77, log Pe = 0.75
    assert float(sun.gas_pressure.log10()) == pytest.approx(4.77, abs=0.15)
    assert float(electrons.log10()) == pytest.approx(0.75, abs=0.15)


def test_populations_of_an_element_add_up():
    layer = solve_layer(at(5000.0), at(3.0), SOLAR.log(), at(1.0))
    neutral, ion = partition_functions(layer.temperature)
    counts = layer.population.reshape(1, -1, 2)
    total = torch.logsumexp(torch.stack([counts[..., 0] + neutral, counts[..., 1] + ion]), 0)
    assert torch.allclose(total, SOLAR.log(), atol=1e-12)


@pytest.mark.parametrize("damping", [0.003, 0.03, 0.3])
def test_curve_of_growth_is_the_voigt_integral(damping):
    v = np.concatenate([np.linspace(0, 12, 3001), np.geomspace(12, 1e5, 4000)[1:]])
    voigt = wofz(v + 1j * damping).real
    for eta in 10.0 ** np.arange(-2, 5):
        expected = 2 * np.trapezoid(eta * voigt / (1 + eta * voigt), v)
        found = curve_of_growth(at(eta), at(damping))
        assert float(found) == pytest.approx(expected, rel=0.04)  # what its docstring promises


def test_curve_of_growth_is_linear_for_weak_lines():
    assert float(curve_of_growth(at(1e-6), at(0.01))) == pytest.approx(
        math.sqrt(math.pi) * 1e-6,
        rel=1e-5,  # saturation is of the order of eta
    )


def test_abundances_of_metals_feed_the_electrons_of_cool_stars():
    poor = SOLAR.clone()
    poor[:, 2:] /= 100
    ratio = electron_pressure(at(4200.0), at(2.0), poor) / electron_pressure(
        at(4200.0), at(2.0), SOLAR
    )
    # Pe goes as A^(1/3) to A^(1/2) where metals give the electrons (Gray 2005, section 9.6)
    assert 100**-0.5 < float(ratio) < 100 ** (-1 / 3) * 1.2
