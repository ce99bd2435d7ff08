"""What a pixel's fit does spectrum by spectrum: against scipy, and against whole arrays."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalespec.models.scoring import count, likelihood, score, tidy


def drawn(scatter, n=400, seed=0):
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.5, 2, (len(scatter), n)) * 0.01
    residual = rng.normal(size=sigma.shape) * np.hypot(sigma, np.array(scatter)[:, None])
    return sigma**2, residual


def scored(variance, residual, start=0.0, steps=30):
    square = np.full(len(variance), start)
    out = np.empty_like(variance), np.empty_like(variance)
    change, error = score(variance, residual, square, steps, out)
    return square, change, error, out


@pytest.mark.parametrize("start", [0.0, 1e-4, 1.0])
def test_scatter_is_of_the_greatest_likelihood_from_any_start(start):
    variance, residual = drawn([0.005, 0.02, 0.3])
    square, change, error, _ = scored(variance, residual, start)
    for v, r, found in zip(variance, residual, square, strict=True):

        def cost(s, v=v, r=r):
            return 0.5 * np.sum(r**2 / (v + s) + np.log(v + s))

        best = minimize_scalar(cost, bounds=(0, 1), method="bounded", options={"xatol": 1e-10})
        assert found == pytest.approx(best.x, rel=1e-4, abs=1e-8)  # Brent: root of the precision
    assert (np.abs(change) < 1e-9 * error).all()


def test_weights_are_of_the_scatter_that_the_last_step_began_from():
    variance, residual = drawn([0.02, 0.1])
    before, _, _, _ = scored(variance, residual, steps=2)
    square, change, error, (weight, pull) = scored(variance, residual, steps=3)
    np.testing.assert_allclose(square, before + change, rtol=1e-14)
    wanted = 1 / (variance + before[:, None])
    np.testing.assert_allclose(weight, wanted, rtol=1e-14)
    excess, information = (pull**2 - wanted).sum(axis=1), (wanted**2).sum(axis=1)
    np.testing.assert_allclose(change, excess / information, rtol=1e-9, atol=1e-18)
    np.testing.assert_allclose(error, np.sqrt(2 / information), rtol=1e-12)


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
    score(variance, residual, square, 9, (weight, np.empty_like(residual)))
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
            score(variance, *given[:2], 1, given[2])
    with pytest.raises(ValueError, match="at least one step"):
        score(variance, residual, square, 0, (whole, whole))
    assert (whole == -1).all()
    assert (short == -1).all()


def test_the_likelihood_is_that_of_whole_arrays_for_the_rows_asked_for():
    variance, residual = drawn([0.005, 0.02, 0.3], n=403)
    variance[:, ::5], residual[:, ::5] = np.inf, 1e6
    variance[2, 1:5] = 1e-14, 1e-12, 1e30, 1e35  # products stay within what a float64 holds
    square = np.array([1e-5, 0.0, 0.0])
    weight = 1 / (variance + square[:, None])
    known = weight > 0
    terms = weight * residual**2 - np.log(weight, where=known, out=np.zeros_like(weight))
    wanted = -0.5 * np.where(known, terms, 0).sum(axis=1)
    found = likelihood(variance, residual, square, np.array([2, 0]))
    np.testing.assert_allclose(found, wanted[[2, 0]], rtol=1e-12)


def test_what_has_no_information_is_filled_with_the_mean_of_what_has():
    rng = np.random.default_rng(1)
    flux = rng.normal(1, 0.1, (3, 50)).astype(np.float32)
    ivar = rng.uniform(1, 9, (3, 50)).astype(np.float32)
    ivar[0, :20], ivar[1, 3], ivar[1, 4], ivar[2] = 0, np.inf, -1, np.nan
    flux[0, :20], flux[2] = np.nan, np.inf
    filled, variance = np.empty((2, 3, 50))
    tidy(flux, ivar, 1e-3, (filled, variance))
    known = ivar > 0
    wanted = 1 / np.where(known, ivar, 0.5).astype(float)
    np.testing.assert_array_equal(variance, np.where(known, np.maximum(wanted, 1e-3), np.inf))
    np.testing.assert_array_equal(filled[known], flux[known])
    for i in range(2):
        np.testing.assert_allclose(filled[i, ~known[i]], flux[i, known[i]].mean(dtype=float))
    assert not filled[2].any()
    used, lost = count(np.vstack([flux, flux]).T, np.vstack([ivar, np.ones_like(ivar)]).T)
    assert used.tolist() == [30, 49, 0, 50, 50, 50]
    assert lost.tolist() == [0, 0, 0, 20, 0, 50]
