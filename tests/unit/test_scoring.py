"""The scatter of a pixel by Fisher scoring: against scipy's minimum of the same likelihood."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalespec.models.scoring import score


def drawn(scatter, n=400, seed=0):
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.5, 2, (len(scatter), n)) * 0.01
    residual = rng.normal(size=sigma.shape) * np.hypot(sigma, np.array(scatter)[:, None])
    return sigma**2, residual


def scored(variance, residual, start=0.0, tolerance=1e-9):
    square = np.full(len(variance), start)
    out = np.empty_like(variance), np.empty_like(variance)
    change, error = score(variance, residual, square, tolerance, out)
    return square, change, error, out


@pytest.mark.parametrize("start", [0.0, 1e-4, 1.0])
def test_scatter_is_of_the_greatest_likelihood_from_any_start(start):
    variance, residual = drawn([0.005, 0.02, 0.3])
    square, change, _, _ = scored(variance, residual, start)
    for v, r, found in zip(variance, residual, square, strict=True):

        def cost(s, v=v, r=r):
            return 0.5 * np.sum(r**2 / (v + s) + np.log(v + s))

        best = minimize_scalar(cost, bounds=(0, 1), method="bounded", options={"xatol": 1e-10})
        assert found == pytest.approx(best.x, rel=1e-4, abs=1e-8)  # Brent: root of the precision
    np.testing.assert_allclose(change, square - start)


def test_weights_and_pulls_are_of_the_scatter_found():
    variance, residual = drawn([0.02, 0.1])
    variance[:, ::7] = np.inf
    residual[:, ::7] = 1e6  # counts for nothing
    square, _, error, (weight, pull) = scored(variance, residual)
    wanted = 1 / (variance + square[:, None])
    np.testing.assert_allclose(weight, wanted, rtol=1e-12)
    np.testing.assert_allclose(pull, wanted * residual, rtol=1e-12)
    assert not weight[:, ::7].any()
    np.testing.assert_allclose(error, np.sqrt(2 / (wanted**2).sum(axis=1)), rtol=1e-3)


def test_residuals_within_the_noise_have_no_scatter():
    variance, residual = drawn([0.0])
    square, _, _, _ = scored(variance, 0.5 * residual)
    assert square.tolist() == [0.0]


def test_weights_may_be_float32():
    variance, residual = drawn([0.02])
    weight = np.empty(variance.shape, np.float32)
    square = np.zeros(1)
    score(variance, residual, square, 1e-3, (weight, np.empty_like(residual)))
    np.testing.assert_allclose(weight, 1 / (variance + square[:, None]), rtol=1e-6)


def test_a_pixel_without_information_is_refused_by_its_number():
    variance, residual = drawn([0.02, 0.1, 0.3])
    variance[1] = np.inf
    with pytest.raises(ValueError, match="pixel 1 has no spectrum with information"):
        scored(variance, residual)
    with pytest.raises(ValueError, match="pixel 0 has no spectrum"):
        scored(variance[:, :0], residual[:, :0])


def test_arrays_of_other_shapes_are_refused_before_memory_is_written():
    variance, residual = drawn([0.02, 0.1])
    square = np.zeros(2)
    whole, short = np.full(variance.shape, -1.0), np.full((2, 5), -1.0)
    for given in [(residual[:, 1:], square, (whole, whole)), (residual, square, (whole, short)),
                  (residual, square, (short, whole)), (residual[:1], square, (whole, whole)),
                  (residual, square[:1], (whole, whole))]:  # fmt: skip
        with pytest.raises(ValueError, match=r"the same shape|one scatter² per pixel"):
            score(variance, *given[:2], 1e-3, given[2])
    assert (whole == -1).all()
    assert (short == -1).all()
