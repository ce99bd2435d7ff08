"""Partition functions and ionization equal slow scalar references."""

import math

import pytest
import torch

from scalespec.models.gas import ELEMENTS, SYMBOLS, ionization, partition_functions, saha


def at(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def scalar_partition(values: tuple[float, ...], temperature: float) -> float:
    """Lagrange's cubic through ln U at ln 3000, 5000, 7000 and 10000 K, one term at a time."""
    nodes = [math.log(t) for t in (3000.0, 5000.0, 7000.0, 10000.0)]
    x, total = math.log(temperature), 0.0
    for i, value in enumerate(values):
        term = math.log(value)
        for j in range(4):
            if j != i:
                term *= (x - nodes[j]) / (nodes[i] - nodes[j])
        total += term
    return math.exp(total)


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


@pytest.mark.parametrize("temperature", [2800.0, 4321.0, 9100.0])
def test_every_partition_function_equals_the_scalar_cubic(temperature):
    neutral, ion, double = (u[0].exp() for u in partition_functions(at(temperature)))
    for i, symbol in enumerate(SYMBOLS):
        row = ELEMENTS[symbol]
        assert float(neutral[i]) == pytest.approx(scalar_partition(row[4:8], temperature))
        assert float(ion[i]) == pytest.approx(scalar_partition(row[8:12], temperature))
        assert float(double[i]) == pytest.approx(row[12])


def test_partition_functions_go_on_smoothly_above_the_last_node():
    t = torch.tensor([9990.0, 10000.0, 10010.0, 40000.0], dtype=torch.float64)
    for u in partition_functions(t)[:2]:
        steps = (u[1] - u[0]), (u[2] - u[1])
        assert torch.allclose(*steps, atol=1e-5)  # of slopes; curvature times 1e-3 squared
        assert bool(torch.isfinite(u).all())


@pytest.mark.parametrize("symbol", ["H", "Na", "Ca", "Fe", "Si"])
@pytest.mark.parametrize(("temperature", "log_pe"), [(4200.0, 0.3), (5700.0, 1.2), (15000.0, 2.8)])
def test_ionization_equals_a_scalar_solution(symbol, temperature, log_pe):
    i, row = SYMBOLS.index(symbol), ELEMENTS[symbol]
    u = [float(x[0, i].exp()) for x in partition_functions(at(temperature))]
    # Gray's eq. 1.20 in its logarithmic form, theta = 5040/T
    ratios = [
        10 ** (2.5 * math.log10(temperature) - 5040 / temperature * row[2 + k] - 0.1762)
        * u[k + 1] / u[k] / 10**log_pe
        for k in (0, 1)
    ]  # fmt: skip
    counts = [1.0, ratios[0], ratios[0] * ratios[1]]
    found = ionization(saha(at(temperature)), at(log_pe * math.log(10)))
    for x, count in zip(found, counts, strict=True):
        # 5040 stands for 5039.78
        assert float(x[0, i].exp()) == pytest.approx(count / sum(counts), rel=3e-3, abs=1e-12)


def test_fractions_add_up_to_one():
    t = torch.linspace(2500, 40000, 20, dtype=torch.float64)
    parts = ionization(saha(t), torch.linspace(-8, 12, 20, dtype=torch.float64))
    assert torch.allclose(sum(p.exp() for p in parts), torch.ones(20, len(SYMBOLS)).double())
