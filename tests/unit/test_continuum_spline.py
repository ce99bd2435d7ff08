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


def test_a_straight_line_is_kept_at_any_smoothness():
    line = np.linspace(2.0, 5.0, 250)[None]
    for smoothness in (1e-6, 1.0, 1e8):
        made, bad = spline_continuum(line, line**0, n_coefficient=30, smoothness=smoothness)
        assert not bad.any()
        # a straight line has no bends to be punished; 1e8 times rounding, in float32
        np.testing.assert_allclose(made, line, rtol=1e-5)


def test_smoother_splines_bend_less():
    rng = np.random.default_rng(8)
    flux = 5 + np.cumsum(rng.normal(size=(1, 400)), axis=1) / 10
    bends = []
    for smoothness in (0.01, 1.0, 100.0):
        made, _ = spline_continuum(flux, flux**0, n_coefficient=40, smoothness=smoothness, rounds=0)
        bends.append(np.sum(np.diff(made[0].astype(float), 2) ** 2))
    assert bends[0] > 2 * bends[1] > 4 * bends[2]


@pytest.mark.parametrize("unit", [1e-17, 1.0, 1e6])
def test_the_unit_of_flux_does_not_matter(unit):
    rng = np.random.default_rng(9)
    flux = 3 + rng.normal(0, 0.05, (2, 300))
    flux[:, 60:70] = 1.5
    plain, _ = spline_continuum(flux, flux**0, n_coefficient=15)
    scaled, bad = spline_continuum(flux * unit, flux**0, n_coefficient=15)
    assert not bad.any()
    np.testing.assert_allclose(scaled / unit, plain, rtol=1e-5)


@pytest.mark.parametrize("n_good", [0, 3, 4, 5])
def test_a_spectrum_wants_four_good_pixels(n_good):
    ivar = np.zeros((1, 100))
    ivar[0, 10 : 10 + 7 * n_good : 7] = 1.0
    made, bad = spline_continuum(np.full((1, 100), 2.0), ivar, n_coefficient=8)
    assert bad.all() == (n_good < 4)
    if n_good >= 4:
        np.testing.assert_allclose(made, 2.0, rtol=1e-4)


def test_where_the_curve_is_not_positive_there_is_no_continuum():
    flux = np.linspace(-1.0, 3.0, 200)[None]
    made, bad = spline_continuum(flux, flux**0, n_coefficient=8, rounds=0)
    assert np.array_equal(bad, made == 0)
    assert np.array_equal(bad[0], flux[0] <= 0)


def test_as_many_coefficients_as_pixels_and_no_spectra():
    made, bad = spline_continuum(np.ones((1, 30)), np.ones((1, 30)), n_coefficient=30)
    np.testing.assert_allclose(made, 1.0, rtol=1e-6)
    made, bad = spline_continuum(np.ones((0, 30)), np.ones((0, 30)), n_coefficient=8)
    assert made.shape == bad.shape == (0, 30)


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
