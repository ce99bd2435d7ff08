"""The spline against scipy's penalized normal equations, and against a known continuum."""

import numpy as np
import pytest
from scipy.interpolate import BSpline

from scalespec.kernels.continuum_spline import spline_continuum


def dense_fit(flux, good, n, smoothness):
    """P-spline by dense least squares: no clipping."""
    interval = (len(flux) - 1) / (n - 3)
    knots = interval * np.arange(-3, n + 1)
    place = np.minimum(np.arange(len(flux)), (len(flux) - 1) * (1 - 1e-12))
    basis = BSpline.design_matrix(place, knots, 3).toarray()
    bends = np.diff(np.eye(n), 2, axis=0)
    penalty = smoothness * len(flux) / n * bends.T @ bends
    used = basis[good]
    return basis @ np.linalg.solve(used.T @ used + penalty, used.T @ flux[good])


@pytest.mark.parametrize("n", [4, 11, 40])
def test_without_clipping_it_is_the_penalized_least_squares_fit(n):
    rng = np.random.default_rng(n)
    flux = 5 + np.cumsum(rng.normal(size=(2, 400)), axis=1) / 20
    ivar = (rng.random((2, 400)) > 0.2).astype(float)
    ivar[0, 150:260] = 0
    made, _ = spline_continuum(flux, ivar, n_coefficient=n, rounds=0)
    for row in range(2):
        expected = dense_fit(flux[row], ivar[row] > 0, n, 1.0)
        np.testing.assert_allclose(made[row], expected, rtol=2e-6)  # float32 out


def test_lines_and_spikes_are_clipped():
    rng = np.random.default_rng(1)
    x = np.linspace(-1, 1, 3000)
    truth = 100 * (1 + 0.3 * x - 0.2 * x**2)
    flux = truth * (1 + rng.normal(0, 0.01, (1, 3000)))
    for center in rng.integers(0, 3000, 60):
        flux[0, center : center + 6] *= 0.6
    flux[0, rng.integers(0, 3000, 15)] *= 3
    made, bad = spline_continuum(flux, np.ones_like(flux), n_coefficient=20)
    plain, _ = spline_continuum(flux, np.ones_like(flux), n_coefficient=20, rounds=0)
    assert not bad.any()
    # 1.5 and 3 sigma of S/N 100 leave a bias of the mean of 0.3 % upward.
    assert np.median(np.abs(made / truth - 1)) < 0.006
    assert np.median(np.abs(plain / truth - 1)) > 0.02


def test_a_gap_is_bridged_and_an_empty_spectrum_is_bad():
    flux = np.full((2, 200), 3.0)
    ivar = np.ones((2, 200))
    ivar[0, 60:140] = 0
    ivar[1] = 0
    made, bad = spline_continuum(np.where(ivar > 0, flux, np.nan), ivar, n_coefficient=20)
    np.testing.assert_allclose(made[0], 3, rtol=1e-5)
    assert bad[1].all()
    assert np.isfinite(made).all()


def test_rows_do_not_know_each_other():
    flux = np.random.default_rng(3).uniform(1, 2, (5, 300))
    whole, _ = spline_continuum(flux, flux**0, n_coefficient=12)
    one, _ = spline_continuum(flux[3:4], flux[3:4] ** 0, n_coefficient=12)
    np.testing.assert_array_equal(whole[3], one[0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_coefficient": 3}, "between 4 and 50"),
        ({"n_coefficient": 51}, "between 4 and 50"),
        ({"n_coefficient": 9, "smoothness": 0.0}, "positive smoothness"),
        ({"n_coefficient": 9, "clip": (0.0, 3.0)}, "positive smoothness and limits"),
    ],
)
def test_settings_without_meaning_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        spline_continuum(np.ones((1, 50)), np.ones((1, 50)), **setting)
    with pytest.raises(ValueError, match="alike"):
        spline_continuum(np.ones((1, 50)), np.ones((2, 50)))
