"""Degrading: against dense integrals, a measured line width, noise drawn, a solar atlas."""

import numpy as np
import pytest
from astropy.io import fits
from scipy.integrate import dblquad

from scalespec.kernels.lsf import FWHM, degrade_operator
from scalespec.kernels.wavelength import air_to_vacuum, log_grid, pixel_edges, resolution_edges

LAMOST = pixel_edges(log_grid(3.5682, 1e-4, 3909))
COARSE = resolution_edges(4000.0, 8177.0, 200.0, pixels_per_fwhm=1.0)


@pytest.fixture(scope="module")
def operator():
    return degrade_operator(LAMOST, COARSE, 1800.0, 200.0)


def test_the_grids_of_the_residual_network_have_143_and_286_pixels(operator):
    assert operator.weights.shape[0] == 143
    nyquist = resolution_edges(4000.0, 8177.0, 200.0, pixels_per_fwhm=2.0)
    assert len(nyquist) - 1 == 286


def test_weights_are_the_integral_of_the_line_spread_over_both_pixels():
    edges_in, edges_out = np.array([4990.0, 4996.0, 5004.0, 5011.0]), np.array([4985.0, 5000.0])
    sigma = np.sqrt(200.0**-2 - 1800.0**-2) / FWHM

    def spread(inner, outer):
        return np.exp(-0.5 * ((outer - inner) / sigma) ** 2)

    found = degrade_operator(edges_in, edges_out, 1800.0, 200.0).matrix.toarray()[0]
    ln_in, ln_out = np.log(edges_in), np.log(edges_out)
    expected = []
    for i in range(3):
        area, _ = dblquad(spread, *ln_out, ln_in[i], ln_in[i + 1])
        expected.append(area * np.diff(edges_in)[i] / np.diff(ln_in)[i])
    np.testing.assert_allclose(
        found / found.sum(), np.divide(expected, np.sum(expected)), rtol=1e-7
    )


def test_a_constant_stays_constant(operator):
    flux, ivar = operator.apply(np.full((1, 3909), 7.0), np.ones((1, 3909)))
    np.testing.assert_allclose(flux, 7, rtol=1e-12)
    assert np.all(ivar > 30)  # more than a hundred pixels went into each, unevenly


def test_flux_of_a_line_is_conserved(operator):
    wavelength = np.sqrt(LAMOST[:-1] * LAMOST[1:])
    line = np.exp(-0.5 * ((wavelength - 6000) / 3) ** 2)[np.newaxis]
    made = operator.smooth(line)
    before, after = (line @ np.diff(LAMOST))[0], (made @ np.diff(COARSE))[0]
    # A line spread that is even in ln λ moves light to larger pixels: σ² = 4e-6 of it; and 5 sigma.
    assert after == pytest.approx(before, rel=1e-5)


def test_a_line_of_r_1800_has_the_width_of_r_200():
    """Oracle 5: within 0.5 %, on pixels that do not add to it."""
    wavelength = np.sqrt(LAMOST[:-1] * LAMOST[1:])
    sigma = 6000 / 1800 / FWHM
    line = np.exp(-0.5 * ((wavelength - 6000) / sigma) ** 2)[np.newaxis]
    fine = np.exp(np.arange(np.log(5800), np.log(6200), 1e-4))
    made = degrade_operator(LAMOST, fine, 1800.0, 200.0).smooth(line)[0]
    center = np.sqrt(fine[:-1] * fine[1:])
    top = np.argmax(made)
    left = np.interp(made[top] / 2, made[: top + 1], center[: top + 1])
    right = np.interp(-made[top] / 2, -made[top:], center[top:])
    assert 6000 / (right - left) == pytest.approx(200, rel=0.005)


@pytest.mark.parametrize("wanted", [1800.0, 2500.0, np.r_[np.full(142, 200.0), 1900.0]])
def test_sharpening_is_refused(wanted):
    with pytest.raises(ValueError, match=r"cannot sharpen: R = \d+ wanted of data with R = 1800"):
        degrade_operator(LAMOST, COARSE, 1800.0, wanted)


def test_resolution_may_change_along_the_grid():
    power = np.linspace(150.0, 250.0, 143)
    varying = degrade_operator(LAMOST, COARSE, 1800.0, power).matrix.toarray()
    for j in (5, 70, 140):
        fixed = degrade_operator(LAMOST, COARSE, 1800.0, power[j]).matrix.toarray()
        np.testing.assert_allclose(varying[j], fixed[j], atol=1e-12)


def test_masked_pixels_and_variances_agree_with_the_dense_formula(operator):
    rng = np.random.default_rng(1)
    flux = rng.normal(10, 1, (3, 3909))
    ivar = rng.uniform(0.5, 2, flux.shape) * (rng.random(flux.shape) > 0.3)
    ivar[1, 1000:1600], ivar[2] = 0, 0
    made, weight = operator.apply(np.where(ivar > 0, flux, np.nan), ivar)
    matrix, good = operator.matrix.toarray(), ivar > 0
    coverage = good @ matrix.T
    variance = np.where(good, 1 / np.where(good, ivar, 1), 0) @ (matrix**2).T
    use = (coverage >= 0.5) & (variance > 0)
    expected = np.where(use, (np.where(good, flux, 0) @ matrix.T) / np.where(use, coverage, 1), 0)
    np.testing.assert_allclose(made, expected, rtol=1e-9)
    expected = np.where(use, coverage**2 / np.where(use, variance, 1), 0)
    np.testing.assert_allclose(weight, expected, rtol=1e-9)
    assert not weight[2].any()
    assert (weight[1] == 0).any()
    assert (weight[1] > 0).any()


def test_noise_is_what_the_variance_says(operator):
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.5, 2, 3909)
    flux = rng.normal(0, sigma, (4000, 3909)).astype(np.float32)
    made, ivar = operator.apply(flux, np.tile(sigma**-2, (4000, 1)).astype(np.float32))
    # A standard deviation of 4,000 draws has an error of 1.1 %; four and a half of those.
    np.testing.assert_allclose(made.std(axis=0) * np.sqrt(ivar[0]), 1, atol=0.05)


@pytest.mark.parametrize("unit", [1e-17, 1e5])
def test_float32_holds_any_unit(operator, unit):
    rng = np.random.default_rng(3)
    flux, ivar = rng.uniform(1, 2, (2, 3909)), rng.uniform(1, 2, (2, 3909))
    expected = operator.apply(flux, ivar)
    made = operator.apply((flux * unit).astype(np.float32), (ivar / unit**2).astype(np.float32))
    np.testing.assert_allclose(made[0] / unit, expected[0], rtol=2e-6)  # float32 sums of 110
    np.testing.assert_allclose(made[1].astype(float) * unit**2, expected[1], rtol=2e-6)


def test_adjoint_is_the_transpose(operator):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 3909)), rng.normal(size=(2, 143))
    np.testing.assert_allclose(
        np.sum(operator.smooth(x) * y), np.sum(x * operator.adjoint(y)), rtol=1e-10
    )


def test_pixels_beyond_the_data_have_no_weight():
    beyond = degrade_operator(LAMOST, resolution_edges(2550, 9500, 200), 1800.0, 200.0)
    flux, ivar = beyond.apply(np.ones((1, 3909)), np.ones((1, 3909)))
    center = resolution_edges(2550, 9500, 200)[:-1]
    assert not ivar[0, center < 3650].any()
    assert ivar[0, (center > 3720) & (center < 9050)].all()
    np.testing.assert_allclose(flux[ivar > 0], 1, rtol=1e-9)


def test_another_grid_is_refused(operator):
    with pytest.raises(ValueError, match=r"wants \(n, 3909\) values, got \(1, 5\)"):
        operator.apply(np.ones((1, 5)), np.ones((1, 5)))
    with pytest.raises(ValueError, match="differ in shape"):
        operator.apply(np.ones((1, 3909)), np.ones((2, 3909)))
    with pytest.raises(ValueError, match="edges_in must be at least two"):
        degrade_operator(LAMOST[::-1], COARSE, 1800.0, 200.0)
    with pytest.raises(ValueError, match="resolving powers must be positive"):
        degrade_operator(LAMOST, COARSE, 1800.0, -1.0)


def test_the_solar_atlas_at_r_1800_is_the_moog_sun_as_far_as_moog_goes(shared):
    """The figures that PROVENANCE states, 4820-5380 Å: mean +0.003, std 0.018, correlation 0.96."""
    with fits.open(shared / "data/benchmark/ATLAS.Sun_47000.fits.gz") as hdus:
        atlas, header = hdus[0].data.astype(float), hdus[0].header
    air = 10 * (header["CRVAL1"] + header["CDELT1"] * np.arange(len(atlas)))
    grid = np.load(shared / "data/moog_atlas9_computed/moog_atlas9_gradients.npz")
    wavelength, sun = grid["wave_vac"], grid["base_flux"][0]
    operator = degrade_operator(
        pixel_edges(air_to_vacuum(air)), pixel_edges(wavelength), 47_000.0, 1800.0
    )
    flux, ivar = operator.apply(atlas[np.newaxis], (atlas[np.newaxis] > 0).astype(float))
    use = (wavelength > 4820) & (wavelength < 5380) & (ivar[0] > 0)
    difference = sun[use] - flux[0, use]
    assert difference.mean() == pytest.approx(0.003, abs=0.001)
    assert difference.std() == pytest.approx(0.018, abs=0.001)
    assert np.corrcoef(sun[use], flux[0, use])[0, 1] == pytest.approx(0.96, abs=0.005)
