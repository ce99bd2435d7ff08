"""A slitless telescope: its bands, its noise against counts drawn, its orders."""

import numpy as np
import pytest

from scalespec.kernels.slitless import (
    BANDS,
    Instrument,
    noise_at_magnitude,
    noise_at_snr,
    observe,
    order_overlap,
    throughput,
)

ALL = Instrument({"GU": 0.1, "GV": 0.3, "GI": 0.2})
WAVELENGTH = np.linspace(2600.0, 9900.0, 500)


def test_bands_lie_next_to_each_other_from_the_ultraviolet():
    edges = [edge for band in BANDS.values() for edge in band]
    assert edges == sorted(edges)
    assert [edges[0], edges[-1]] == [2550.0, 10_000.0]


def test_throughput_is_each_bands_own_and_falls_at_its_edges():
    middle = np.array([3275.0, 5100.0, 8100.0])
    np.testing.assert_allclose(throughput(middle, ALL), [0.1, 0.3, 0.2])
    assert throughput(np.array([2000.0, 12_000.0]), ALL).tolist() == [0, 0]
    assert throughput(np.array([6200.0]), Instrument({"GV": 0.3}))[0] == pytest.approx(0.15)


def test_a_band_that_is_none_is_refused():
    with pytest.raises(ValueError, match="band 'GX' is none of GU, GV, GI"):
        throughput(WAVELENGTH, Instrument({"GX": 0.3}))


def test_noise_at_a_signal_to_noise_is_that_of_counts():
    """S/N goes as the root of the counted photons: flux, width, wavelength and throughput."""
    flux = np.linspace(1, 3, 500)[np.newaxis]
    snr = flux / np.sqrt(noise_at_snr(flux, WAVELENGTH, ALL, 40.0))
    assert np.median(snr) == pytest.approx(40)
    counts = flux * WAVELENGTH * throughput(WAVELENGTH, ALL)
    ratio = snr**2 / counts
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)


def test_noise_at_a_magnitude_is_that_of_photons_counted_one_by_one():
    """AB = 17 in GV, flat in f_nu: 3,631 Jy times 10^(-0.4 17), by hand."""
    flux = 1 / WAVELENGTH[np.newaxis] ** 2  # flat in f_nu
    variance = noise_at_magnitude(flux, WAVELENGTH, ALL, 17.0)
    at = int(np.argmin(np.abs(WAVELENGTH - 5100)))
    f_nu = 3.631e-20 * 10 ** (-0.4 * 17)  # erg/s/cm²/Hz
    nu = 2.99792458e18 / WAVELENGTH[at]
    width_nu = nu * (WAVELENGTH[1] - WAVELENGTH[0]) / WAVELENGTH[at]
    photons = f_nu * width_nu / (6.62607015e-27 * nu) * 31_400 * 600 * 0.3
    expected = photons / np.sqrt(photons + 100)
    # The linear zero point is 48.60 rounded: 3,631 Jy to 0.03 %.
    assert flux[0, at] / np.sqrt(variance[0, at]) == pytest.approx(expected, rel=1e-3)


def test_a_fainter_star_is_noisier_and_no_star_at_all_is_only_background():
    flux = np.ones((1, 500))
    bright, faint = (noise_at_magnitude(flux, WAVELENGTH, ALL, m) for m in (15.0, 20.0))
    assert np.all(faint > bright)
    assert not np.isfinite(noise_at_magnitude(0 * flux, WAVELENGTH, ALL, 15.0)).any()


def test_a_magnitude_wants_pixels_in_its_band():
    with pytest.raises(ValueError, match=r"no pixel between 4000\.0 and 6200\.0 Å"):
        noise_at_magnitude(np.ones((1, 5)), np.linspace(7000, 8000, 5), ALL, 15.0)


def test_noise_is_only_added_where_it_lacks():
    rng = np.random.default_rng(0)
    flux = np.ones((1, 30_000))
    ivar = np.repeat([np.inf, 4.0, 0.01, 0.0], 7500)[np.newaxis]
    noisy, made = observe(flux, ivar, np.full(flux.shape, 1.0), rng)
    scatter = noisy.reshape(4, -1).std(axis=1)
    # Scatters of 7,500 draws have errors of 0.8 %: none, half a variance, all there, unknown.
    np.testing.assert_allclose(scatter, [1, np.sqrt(0.75), 0, 0], atol=0.04)
    np.testing.assert_allclose(made[0, ::7500], [1, 1, 0.01, 0])
    assert np.all(noisy[made == 0] == 0)


def test_no_noise_leaves_the_flux():
    flux, ivar = observe(
        np.ones((1, 3)), np.full((1, 3), 9.0), np.zeros((1, 3)), np.random.default_rng(0)
    )
    assert flux.tolist() == [[1, 1, 1]]
    np.testing.assert_allclose(ivar, 9)


@pytest.mark.parametrize("n", [0, 1])
def test_a_grid_has_two_pixels_or_more(n):
    flux, wavelength = np.ones((1, n)), np.full(n, 5000.0)
    for call in (
        lambda: order_overlap(wavelength, ALL),
        lambda: noise_at_snr(flux, wavelength, ALL, 20.0),
    ):
        with pytest.raises(ValueError, match="pixels have widths where there are two or more"):
            call()


def test_a_lost_pixel_does_not_take_its_spectrum_along():
    flux = np.linspace(1, 3, 500)[np.newaxis].copy()
    holes = flux.copy()
    holes[0, [30, 200, 201]] = np.nan, -5.0, 0.0
    rest = np.delete(np.arange(500), [30, 200, 201])
    magnitude = noise_at_magnitude(flux, WAVELENGTH, ALL, 18.0)[0, rest]
    # of 164 pixels in the band two are dark: the others get as much more light
    assert noise_at_magnitude(holes, WAVELENGTH, ALL, 18.0)[0, rest] == pytest.approx(
        magnitude, rel=0.05
    )
    ratio = noise_at_snr(holes, WAVELENGTH, ALL, 50.0)
    assert ratio[0, rest] == pytest.approx(
        noise_at_snr(flux, WAVELENGTH, ALL, 50.0)[0, rest], rel=0.02
    )
    assert np.all(np.isinf(ratio[0, [30, 200, 201]]))


def test_signal_to_noise_must_be_positive():
    with pytest.raises(ValueError, match="must be positive, got -1"):
        noise_at_snr(np.ones((1, 500)), WAVELENGTH, ALL, -1.0)


def test_second_order_light_falls_at_twice_its_wavelength():
    instrument = Instrument({"GV": 0.3, "GI": 0.3}, edge=0.0, second_order=0.1)
    wavelength = np.linspace(4000.0, 10_000.0, 601)
    line = np.zeros(601)
    line[np.argmin(np.abs(wavelength - 4300))] = 1
    light = order_overlap(wavelength, instrument) @ line - line
    assert light.argmax() == np.argmin(np.abs(wavelength - 8600))
    # Spread over 2 λ: twice the pixels at a quarter of the flux each, in linear interpolation.
    assert light.sum() == pytest.approx(2 * 0.25 * 0.1, rel=1e-6)


def test_blocked_orders_and_wavelengths_off_the_grid_add_nothing():
    np.testing.assert_array_equal(order_overlap(WAVELENGTH, ALL), np.eye(500))
    instrument = Instrument({"GI": 0.3}, second_order=0.5)
    wavelength = np.linspace(6300.0, 9900.0, 100)
    np.testing.assert_array_equal(order_overlap(wavelength, instrument), np.eye(100))
