"""Order statistics against numpy by loops."""

import numpy as np
import pytest

from scalespec.kernels.continuum_robust import chip_median, running_quantile, scale_to_range

WAVELENGTH = 4000 * np.exp(np.arange(300) / 600)


@pytest.fixture
def spectra():
    rng = np.random.default_rng(0)
    flux = rng.uniform(1, 3, (3, 300)).astype(np.float32)
    flux[0, 50:60] = 2.0  # ties
    ivar = (rng.random((3, 300)) > 0.2).astype(np.float32)
    ivar[1, 100:250] = 0
    ivar[2] = 0
    return flux, ivar


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 1.0])
def test_running_quantile_agrees_with_numpy(spectra, quantile):
    flux, ivar = spectra
    made, bad = running_quantile(
        flux, ivar, WAVELENGTH, half_width_angstrom=60.0, quantile=quantile
    )
    for row in range(3):
        for i in range(300):
            near = (np.abs(WAVELENGTH - WAVELENGTH[i]) <= 60) & (ivar[row] > 0)
            assert bad[row, i] == (not near.any())
            if near.any():
                expected = np.quantile(flux[row, near], quantile)
                assert made[row, i] == pytest.approx(expected, rel=1e-6)  # float32


def test_nothing_comes_of_nothing(spectra):
    flux, ivar = spectra
    flux = np.where(ivar > 0, flux, np.nan)
    made, bad = running_quantile(flux, ivar, WAVELENGTH, half_width_angstrom=60.0)
    assert bad[2].all()
    assert bad[1, 170]  # in the middle of the gap
    assert np.isfinite(made).all()
    assert not made[bad].any()


def test_quantiles_refuse_what_has_no_meaning(spectra):
    flux, ivar = spectra
    with pytest.raises(ValueError, match=r"quantile in \[0, 1\], got 60.0 Å, 1.5"):
        running_quantile(flux, ivar, WAVELENGTH, half_width_angstrom=60.0, quantile=1.5)
    with pytest.raises(ValueError, match="300 increasing wavelengths"):
        running_quantile(flux, ivar, WAVELENGTH[::-1], half_width_angstrom=60.0)
    with pytest.raises(ValueError, match="must be alike"):
        running_quantile(flux, ivar[:1], WAVELENGTH, half_width_angstrom=60.0)


def test_chip_median_agrees_with_numpy(spectra):
    flux, ivar = spectra
    chips = [(0, 90), (110, 240)]
    made, bad = chip_median(flux, ivar, chips)
    for start, stop in chips:
        good = ivar[0, start:stop] > 0
        np.testing.assert_allclose(made[0, start:stop], np.median(flux[0, start:stop][good]))
    assert bad[:, 90:110].all()
    assert bad[:, 240:].all()
    assert bad[1, 110:240].all()  # not one good pixel on that chip
    assert not bad[1, :90].any()
    assert bad[2].all()


def test_a_chip_below_zero_has_no_continuum():
    made, bad = chip_median(-np.ones((1, 5)), np.ones((1, 5)), [(0, 5)])
    assert bad.all()
    assert not made.any()


def test_range_goes_from_zero_to_one_and_a_cosmic_ray_does_not_move_it(spectra):
    flux, ivar = spectra
    made, weight = scale_to_range(flux, ivar, low=0.02, high=0.98)
    good = ivar[0] > 0
    low, high = np.quantile(flux[0, good], [0.02, 0.98])
    expected = np.clip((flux[0, good] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(made[0, good], expected, atol=1e-6)
    np.testing.assert_allclose(weight[0, good], (high - low) ** 2, rtol=1e-6)
    hit = flux.copy()
    hit[0, np.flatnonzero(good)[7]] = 1e6
    moved, _ = scale_to_range(hit, ivar, low=0.02, high=0.98)
    # One pixel of 240 passes from below to above a quantile: neighbors in rank are 2/240 apart.
    others = np.delete(np.flatnonzero(good), 7)
    np.testing.assert_allclose(moved[0, others], made[0, others], atol=0.03)


def test_a_flat_or_empty_spectrum_has_no_range():
    flux, ivar = np.ones((2, 6)), np.ones((2, 6))
    ivar[1] = 0
    made, weight = scale_to_range(flux, ivar)
    assert not made.any()
    assert not weight.any()


def test_range_wants_quantiles_that_increase():
    with pytest.raises(ValueError, match=r"increase in \[0, 1\], got 0.9, 0.1"):
        scale_to_range(np.ones((1, 3)), np.ones((1, 3)), low=0.9, high=0.1)
