"""Every method of the run file, on one spectrum with a known continuum."""

import pickle

import numpy as np
import pytest

from scalespec.config import ContinuumTable
from scalespec.kernels.wavelength import log_grid
from scalespec.stages.normalizers import chip_pixels, normalizer, said

WAVELENGTH = log_grid(3.6, 1e-4, 3000)


@pytest.fixture
def spectra():
    rng = np.random.default_rng(0)
    level = 500 * (WAVELENGTH / 5000) ** -2 * np.array([[1], [3], [1]])
    flux = level * (1 + rng.normal(0, 0.01, (3, 3000)))
    flux[:, ::100] *= 0.7
    ivar = (100 / level) ** 2
    ivar[0, 700:720], ivar[2] = 0, 0
    flux[0, 700:720] = np.nan
    return flux.astype(np.float32), ivar.astype(np.float32)


METHODS = {
    "gaussian": {},
    "quantile": {"quantile": 0.5},
    "chebyshev": {"degree": 4, "chips": ((3981.0, 5600.0), (5600.0, 8000.0))},
    "spline": {"coefficients": 30},
}


@pytest.mark.parametrize("method", METHODS)
def test_flux_comes_to_one_and_errors_follow(spectra, method):
    table = ContinuumTable(method=method, **METHODS[method])
    flux, ivar, continuum, bad = normalizer(WAVELENGTH, table)(*spectra)
    assert np.median(flux[1]) == pytest.approx(1, abs=0.01)  # lines pull a mean by 0.3 %
    pulls = (flux[1] - 1) * np.sqrt(ivar[1])
    assert 1.4826 * np.median(np.abs(pulls)) == pytest.approx(1, abs=0.1)
    assert bad[2].all()
    for array in (flux, ivar, continuum):
        assert np.isfinite(array).all()
        assert not array[2].any()
    assert not flux[0, 700:720].any()
    assert not ivar[0, 700:720].any()


@pytest.mark.parametrize("which", [0, 1])  # flux, ivar
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", [*METHODS, "gaussian by ivar", "median", "range", "none"])
def test_what_is_no_number_counts_as_masked(spectra, method, junk, which):
    flux, ivar = spectra
    settings = METHODS.get(method, {"weights": "ivar"} if "ivar" in method else {})
    made = normalizer(WAVELENGTH, ContinuumTable(method=method.split()[0], **settings))
    kept, ivar[1, 1500] = ivar[1, 1500], 0
    expected = made(flux, ivar)
    ivar[1, 1500] = kept
    spectra[which][1, 1500] = junk
    for mine, theirs in zip(made(flux, ivar), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_median_is_one_number_a_chip(spectra):
    table = ContinuumTable(method="median", chips=((3981.0, 5600.0), (5600.0, 8000.0)))
    _, _, continuum, _ = normalizer(WAVELENGTH, table)(*spectra)
    assert len(np.unique(continuum[1])) == 2


def test_range_and_none_have_no_continuum(spectra):
    flux, ivar, continuum, bad = normalizer(WAVELENGTH, ContinuumTable(method="range"))(*spectra)
    assert [flux.min(), flux.max()] == [0, 1]
    assert np.all(continuum == 1)
    assert not bad.any()
    same, weight, _, _ = normalizer(WAVELENGTH, ContinuumTable(method="none"))(*spectra)
    np.testing.assert_array_equal(weight, spectra[1])
    np.testing.assert_array_equal(same[1], spectra[0][1])
    assert np.isfinite(same).all()
    assert ivar.max() > 0


def test_polynomials_may_keep_to_windows(spectra):
    flux, ivar = spectra
    windows = ((4500.0, 4550.0), (5200.0, 5260.0), (6900.0, 7000.0))
    table = ContinuumTable(method="chebyshev", pixels=windows)
    inside = np.zeros(3000, bool)
    for low, high in windows:
        inside |= (low <= WAVELENGTH) & (high >= WAVELENGTH)
    hit = np.where(inside, flux, 17 * flux)
    made = normalizer(WAVELENGTH, table)
    np.testing.assert_array_equal(made(hit, ivar)[2], made(flux, ivar)[2])


def test_chips_and_windows_without_pixels_are_refused():
    assert chip_pixels(WAVELENGTH, ()) == [(0, 3000)]
    with pytest.raises(ValueError, match=r"no pixel between 100\.0 and 200\.0"):
        chip_pixels(WAVELENGTH, ((100.0, 200.0),))
    with pytest.raises(ValueError, match="hold no pixel"):
        normalizer(WAVELENGTH, ContinuumTable(method="chebyshev", pixels=((1.0, 2.0),)))


@pytest.mark.parametrize("method", ["gaussian", "quantile", "chebyshev", "spline", "median"])
def test_a_normalizer_travels(method, spectra):
    made = normalizer(WAVELENGTH, ContinuumTable(method=method))
    again = pickle.loads(pickle.dumps(made))
    for one, other in zip(made(*spectra), again(*spectra), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_models_are_told():
    assert said(ContinuumTable()) == {"method": "gaussian", "width_angstrom": 50.0}
    exp = said(ContinuumTable(convention="exp"))
    assert exp["width_angstrom"] == pytest.approx(50 / np.sqrt(2))  # a standard deviation
    assert said(ContinuumTable(weights="ivar"))["method"] == "gaussian_ivar"
    table = ContinuumTable(method="chebyshev", degree=3)
    assert said(table) == {"method": "chebyshev", "degree": 3, "chips": [], "pixels": []}
    assert said(ContinuumTable(method="none")) == {"method": "none"}


def slope_left(passes):
    """Return how much two slopes, as of dust and of a hot star, change normalized lines."""
    wavelength = 10 ** (3.6 + 1e-4 * np.arange(1200))
    rng = np.random.default_rng(1)
    lines = 1 - 0.3 * (rng.random(1200) < 0.1)
    slopes = [np.exp(slope * (wavelength - 4500) / 300) for slope in (-1.0, 1.0)]
    flux = np.array([lines * slope for slope in slopes], np.float32)
    made, ivar, level, bad = normalizer(wavelength, ContinuumTable(passes=passes))(
        flux, np.ones_like(flux)
    )
    inside = slice(150, -150)  # 3 widths from the ends, where half the Gaussian is missing
    np.testing.assert_allclose(made * level, flux, rtol=1e-5)
    np.testing.assert_allclose(ivar, level**2, rtol=1e-5)
    assert not bad.any()
    return np.abs(made[0] - made[1])[inside].max()


def test_more_passes_leave_less_of_a_slope_in_the_lines():
    once, thrice = slope_left(1), slope_left(3)
    assert once > 0.01
    assert thrice < once / 4


def test_passes_are_said_where_they_are_several():
    assert "passes" not in said(ContinuumTable())
    assert said(ContinuumTable(passes=3))["passes"] == 3
