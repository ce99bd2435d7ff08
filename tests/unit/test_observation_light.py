"""Light on its way to a telescope: dust, black bodies, sky and air, the Earth's motion."""

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord, get_body_barycentric_posvel
from astropy.modeling.physical_models import BlackBody
from astropy.time import Time

from scalespec.kernels.observation_light import (
    G_PIVOT,
    G_ZERO,
    air_transmission,
    barycentric_velocity,
    extinction,
    sky_light,
    star_light,
)

# Table 3 of Cardelli, Clayton & Mathis 1989: 1/µm, A over A(V) for R(V) = 3.1
CARDELLI = [(2.78, 1.569), (1.82, 1.0), (1.43, 0.751), (1.11, 0.479), (0.80, 0.282), (0.63, 0.190)]


@pytest.mark.parametrize(("x", "expected"), CARDELLI)
def test_extinction_is_that_of_the_papers_table(x, expected):
    # the table was read off curves: its own formulae miss it by up to 0.012
    assert extinction(np.array([1e4 / x]))[0] / 3.1 == pytest.approx(expected, abs=0.012)


def test_extinction_is_continuous_where_formulae_meet():
    for x in (1.1, 3.3):
        below, above = extinction(1e4 / np.array([x - 1e-6, x + 1e-6]))
        assert below == pytest.approx(above, rel=5e-3)  # the paper's own seams


def test_extinction_refuses_wavelengths_without_a_formula():
    with pytest.raises(ValueError, match="1700 to 33000"):
        extinction(np.array([1000.0]))


def test_unreddened_light_is_a_black_body_of_the_given_magnitude():
    w = np.array([2550.0, 3700.0, G_PIVOT, 9000.0, 16900.0])
    found = star_light(w, np.array([5772.0]), np.array([12.0]), np.zeros(1))[0]
    body = BlackBody(
        temperature=5772 * units.K,
        scale=1 * units.erg / (units.s * units.cm**2 * units.AA * units.sr),
    )
    expected = body(w * units.AA).value
    assert found[2] == pytest.approx(1e17 * G_ZERO * 10**-4.8, rel=1e-5)
    assert found / found[2] == pytest.approx(expected / expected[2], rel=1e-4)  # float32 exponents


def test_dust_dims_by_the_extinction_law_at_a_fixed_magnitude():
    w = np.array([4000.0, G_PIVOT, 8000.0])
    clear, dusty = star_light(w, np.full(2, 6000.0), np.full(2, 10.0), np.array([0.0, 0.5]))
    dimmed = -2.5 * np.log10(dusty / clear)
    expected = 0.5 * (extinction(w) - extinction(np.array([G_PIVOT])))
    assert dimmed == pytest.approx(expected, abs=1e-5)


def test_a_sky_line_holds_its_equivalent_width_at_any_resolution():
    w = np.arange(5500.0, 5650.0, 0.1)
    for sigma in (0.5, 2.0):
        sky = sky_light(w, np.full(w.size, sigma), 20.0)
        level = 1e17 * G_ZERO * 10**-8
        assert np.sum(sky / level - 1) * 0.1 == pytest.approx(110.0, rel=2e-3)  # 6 sigma are cut


def test_air_absorbs_in_its_bands_alone():
    w = np.array([5000.0, 5500.0, 6000.0, 7598.0, 8750.0, 9320.0])
    clear = air_transmission(w)
    assert np.all(clear[[0, 1, 2]] == 1)
    assert clear[4] > 0.98
    assert clear[3] < 0.4
    assert clear[5] < 0.7
    assert np.all((clear > 0) & (clear <= 1))


def test_the_earths_velocity_is_astropys():
    rng = np.random.default_rng(1)
    ra, dec, mjd = (
        rng.uniform(0, 360, 40),
        np.degrees(np.arcsin(rng.uniform(-1, 1, 40))),
        rng.uniform(56000, 60000, 40),
    )
    found = barycentric_velocity(ra, dec, mjd)
    _, moving = get_body_barycentric_posvel("earth", Time(mjd, format="mjd", scale="tdb"))
    toward = SkyCoord(ra * units.deg, dec * units.deg).cartesian
    expected = moving.dot(toward).to_value(units.km / units.s)
    assert np.abs(found - expected).max() < 1.2  # circular orbit: 29.8 * 2 * 0.0167, and the Sun
    assert np.abs(expected).max() > 20
