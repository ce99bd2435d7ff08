"""Line windows by hand, principal components against numpy's SVD."""

import numpy as np
import pytest
from scipy import integrate

from scalespec.kernels.features import (
    AIR_WINDOWS,
    Moments,
    equivalent_widths,
    moments,
    principal_components,
    window,
)
from scalespec.kernels.wavelength import air_to_vacuum, linear_grid, pixel_edges

WAVELENGTH = linear_grid(4800.0, 0.5, 240)
EDGES = pixel_edges(WAVELENGTH)


def spectra(n=60, n_pixel=25, seed=0):
    """Spectra of three components and noise; a tenth of the pixels without information."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(n_pixel, 3)))[0].T
    flux = 1 + rng.normal(size=(n, 3)) * [0.3, 0.2, 0.1] @ vectors
    flux += rng.normal(0, 0.003, flux.shape)
    return flux, (rng.random(flux.shape) > 0.1).astype(float)


@pytest.mark.parametrize("name", AIR_WINDOWS)
def test_windows_are_those_published_in_vacuum(name):
    low, high = window(name)
    assert 4000 * 2.5e-4 < low - AIR_WINDOWS[name][0] < 2.6  # the air's refraction
    assert (low, high) == pytest.approx(air_to_vacuum(AIR_WINDOWS[name]))


def test_a_window_of_no_name_is_refused():
    with pytest.raises(ValueError, match="window 'CH' is none of CH_G, CARBON"):
        window("CH")


def test_a_gaussian_line_has_its_equivalent_width():
    sigma, depth = 2.0, 0.6
    flux = 1 - depth * np.exp(-0.5 * ((WAVELENGTH - 4860) / sigma) ** 2)
    width, _ = equivalent_widths(flux[None], np.ones((1, 240)), EDGES, {"line": (4840.0, 4880.0)})
    # ten sigma on either side; sums over pixels of a quarter sigma are exact for a Gaussian
    assert width[0, 0] == pytest.approx(depth * sigma * np.sqrt(2 * np.pi), rel=1e-4)


def test_pixels_cut_by_a_window_count_in_part():
    slope = 1 - 0.01 * (WAVELENGTH - 4800)
    low, high = 4820.13, 4847.71
    width, _ = equivalent_widths(slope[None], np.ones((1, 240)), EDGES, {"x": (low, high)})
    expected = integrate.quad(lambda w: 0.01 * (w - 4800), low, high)[0]
    # a cut pixel stands with its mean for its part: at most a quarter pixel squared of slope off
    assert width[0, 0] == pytest.approx(expected, abs=2 * 0.01 * 0.25**2)


def test_errors_are_the_scatter_over_noise():
    rng = np.random.default_rng(3)
    sigma = np.linspace(0.01, 0.05, 240)
    flux = 1 + rng.normal(size=(4000, 240)) * sigma
    ivar = np.broadcast_to(sigma**-2, flux.shape).copy()
    ivar[:, 100:110] = 0  # lost, and scaled for
    width, error = equivalent_widths(
        flux, ivar, EDGES, {"a": (4810.2, 4815.9), "b": (4845.0, 4858)}
    )
    assert width.std(axis=0) == pytest.approx(error[0], rel=0.045)  # 4 sigma of 4,000 draws
    assert np.abs(width.mean(axis=0)) == pytest.approx([0, 0], abs=4 * error[0].max() / 63)


def test_lost_pixels_are_as_deep_as_the_rest_and_most_lost_is_unknown():
    flux = np.full((3, 240), 0.7)
    ivar = np.ones((3, 240))
    ivar[0, 20:40] = 0  # 10 of 40 Å
    ivar[1, 20:70] = 0  # 25 of 40 Å
    flux[ivar == 0] = np.nan
    ivar[2] = 0
    width, error = equivalent_widths(flux, ivar, EDGES, {"x": (4805.0, 4845.0)})
    assert width[0, 0] == pytest.approx(0.3 * 40)
    assert np.isnan(width[1:, 0]).all()
    assert np.isinf(error[1:, 0]).all()


def test_no_spectra_and_windows_off_the_grid():
    width, error = equivalent_widths(
        np.ones((0, 240)), np.ones((0, 240)), EDGES, {"x": (4805, 4810)}
    )
    assert width.shape == error.shape == (0, 1)
    width, error = equivalent_widths(
        np.ones((1, 240)), np.ones((1, 240)), EDGES, {"x": (6000, 6010)}
    )
    assert np.isnan(width[0, 0])
    assert np.isinf(error[0, 0])


@pytest.mark.parametrize(
    ("ivar", "edges", "windows", "message"),
    [
        (np.ones((2, 240)), EDGES, {}, "do not fit"),
        (np.ones((1, 240)), EDGES[1:], {}, "do not fit"),
        (np.ones((1, 240)), EDGES, {"x": (4810.0, 4805.0)}, "must not end before it begins"),
        (np.ones((1, 240)), EDGES, {"x": (np.nan, 4805.0)}, "must not end before it begins"),
    ],
)
def test_what_does_not_fit_is_refused(ivar, edges, windows, message):
    with pytest.raises(ValueError, match=message):
        equivalent_widths(np.ones((1, 240)), ivar, edges, windows)


def test_moments_of_parts_are_those_of_the_whole():
    flux, ivar = spectra()
    whole = moments(flux, ivar)
    parts = (
        moments(flux[:7], ivar[:7]) + moments(flux[7:7], ivar[7:7]) + moments(flux[7:], ivar[7:])
    )
    for name in Moments.__dataclass_fields__:
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12, abs=1e-14)
    assert whole.n.tolist() == (ivar > 0).sum(axis=0).tolist()


def test_moments_do_not_see_what_has_no_weight():
    flux, ivar = spectra()
    wild = np.where(ivar > 0, flux, np.nan)
    assert np.array_equal(moments(wild, ivar).product, moments(flux, ivar).product)
    with pytest.raises(ValueError, match="must be alike"):
        moments(flux, ivar[:5])


def test_components_are_those_of_numpys_svd():
    flux, ivar = spectra()
    filled = np.where(ivar > 0, flux, 1.0)  # as continuum, which is what moments do
    found = principal_components(moments(flux, ivar), len(flux), 3)
    centered = filled - filled.mean(axis=0)
    _, values, vectors = np.linalg.svd(centered, full_matrices=False)
    assert found.mean == pytest.approx(filled.mean(axis=0), rel=1e-12)
    assert found.variance == pytest.approx(values[:3] ** 2 / (len(flux) - 1), rel=1e-9)
    assert found.total_variance == pytest.approx(np.sum(centered**2) / (len(flux) - 1), rel=1e-9)
    overlap = np.abs(np.sum(found.vectors * vectors[:3], axis=1))
    assert overlap == pytest.approx(np.ones(3), abs=1e-9)
    largest = np.abs(found.vectors).argmax(axis=1)
    assert np.all(found.vectors[np.arange(3), largest] > 0)


def test_spectra_come_back_from_their_coordinates():
    flux, _ = spectra()
    ivar = np.ones_like(flux)
    found = principal_components(moments(flux, ivar), len(flux), 3)
    again = found.reconstruct(found.project(flux, ivar))
    assert np.std(again - flux) < 0.0035  # the noise that three components cannot hold
    every = principal_components(moments(flux, ivar), len(flux), flux.shape[1])
    assert every.reconstruct(every.project(flux, ivar)) == pytest.approx(flux, abs=1e-12)
    assert every.variance.sum() == pytest.approx(every.total_variance)


def test_a_spectrum_without_information_is_the_mean():
    flux, _ = spectra()
    found = principal_components(moments(flux, flux**0), len(flux), 3)
    scores = found.project(np.full((1, 25), np.nan), np.zeros((1, 25)))
    assert scores.tolist() == [[0.0, 0.0, 0.0]]
    assert np.array_equal(found.reconstruct(scores)[0], found.mean)


@pytest.mark.parametrize(("n_spectrum", "n_component"), [(1, 1), (60, 0), (60, 26), (2, 3)])
def test_components_that_cannot_be_had_are_refused(n_spectrum, n_component):
    flux, ivar = spectra()
    with pytest.raises(ValueError, match=f"{n_component} components of {n_spectrum} spectra"):
        principal_components(moments(flux, ivar), n_spectrum, n_component)
