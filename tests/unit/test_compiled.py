import numba
import numpy as np
import pytest

from scalespec.kernels.compiled import compiled


def total(values):
    result = 0.0
    for value in values:
        result += value
    return result


def test_a_compiled_function_is_the_function():
    values = np.random.default_rng(0).random(1000)
    assert compiled(total)(values) == pytest.approx(values.sum(), rel=1e-12)


def test_nan_and_infinity_keep_their_meaning():
    assert np.isnan(compiled(total)(np.array([1.0, np.nan])))
    assert compiled(total)(np.array([1.0, np.inf])) == np.inf


def test_without_a_place_for_its_cache_each_process_compiles_for_itself(monkeypatch):
    njit = numba.njit

    def sealed(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'total': no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", sealed)
    assert compiled(total)(np.ones(3)) == 3
