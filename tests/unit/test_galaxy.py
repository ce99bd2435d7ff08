"""Places and motions of made-up stars against astropy's."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import CartesianDifferential, Galactocentric, SkyCoord

from scalespec.kernels import galaxy

N = 200


@pytest.fixture(scope="module")
def places():
    rng = np.random.default_rng(1)
    return 360 * rng.random(N), np.degrees(np.arcsin(rng.uniform(-1, 1, N))), rng.uniform(0.1, 5, N)


def test_galactic_latitude_is_astropys(places):
    ra, dec, _ = places
    b = SkyCoord(ra * u.deg, dec * u.deg).galactic.b.radian
    assert np.allclose(galaxy.galactic_latitude_sine(ra, dec), np.sin(b), atol=1e-8)


def test_a_place_some_degrees_away_is_astropys(places):
    ra, dec, radius = places
    turn = np.random.default_rng(2).random(N)
    there = SkyCoord(ra * u.deg, dec * u.deg).directional_offset_by(
        turn * 360 * u.deg, radius * u.deg
    )
    ours = galaxy.offset(ra, dec, radius, turn)
    assert np.allclose(ours[0], there.ra.deg, atol=1e-9)
    assert np.allclose(ours[1], there.dec.deg, atol=1e-9)


def test_motion_on_the_sky_is_astropys(places):
    """Velocities in the Galaxy's frame, turned by astropy into proper motion and rv."""
    ra, dec, distance = places
    age, z = np.full(N, 5.0), np.random.default_rng(3).normal(size=(N, 3))
    moves = galaxy.velocity(ra, dec, distance, population=np.full(N, galaxy.THICK), age=age, z=z)
    ours = galaxy.seen_motion(ra, dec, distance, moves)
    frame = SkyCoord(ra * u.deg, dec * u.deg, distance * u.kpc).galactic
    velocity = CartesianDifferential(*(moves.T * u.km / u.s))
    star = SkyCoord(frame.cartesian.with_differentials(velocity), frame="galactic").icrs
    star.representation_type = "spherical"
    assert np.allclose(ours[0], star.radial_velocity.to_value(u.km / u.s), atol=1e-4)
    assert np.allclose(ours[1:], star.proper_motion.to_value(u.mas / u.yr), atol=1e-4)


def test_disks_turn_about_the_galaxys_center(places):
    """Astropy's Galactocentric frame with our Sun: no radial motion on average, and the lag."""
    ra, dec, distance = (np.tile(x, 50) for x in places)
    n = len(ra)
    z = np.random.default_rng(4).normal(size=(n, 3))
    moves = galaxy.velocity(
        ra, dec, distance, population=np.full(n, galaxy.THICK), age=np.full(n, 9.0), z=z
    )
    rv, pmra, pmdec = galaxy.seen_motion(ra, dec, distance, moves)
    stars = SkyCoord(
        ra * u.deg, dec * u.deg, distance * u.kpc, radial_velocity=rv * u.km / u.s,
        pm_ra_cosdec=pmra * u.mas / u.yr, pm_dec=pmdec * u.mas / u.yr,
    )  # fmt: skip
    frame = Galactocentric(
        galcen_distance=galaxy.R_SUN_KPC * u.kpc,
        z_sun=0 * u.pc,
        galcen_v_sun=galaxy.SUN_KMS * u.km / u.s,
    )
    moved = stars.transform_to(frame)
    moved.representation_type, moved.differential_type = "cylindrical", "cylindrical"
    turning = -(moved.d_phi * moved.rho).to_value(u.km / u.s, u.dimensionless_angles())
    radial, up = moved.d_rho.to_value(u.km / u.s), moved.d_z.to_value(u.km / u.s)
    assert turning.mean() == pytest.approx(galaxy.CIRCULAR_KMS - 50, abs=2)  # 4 sigma of 45 / 100
    assert radial.mean() == pytest.approx(0, abs=3)
    assert [x.std() for x in (radial, turning, up)] == pytest.approx([65, 45, 40], rel=0.04)


def test_dust_is_a_slab():
    far, near = np.array([100.0]), np.array([1e-3])
    pole, plane = np.array([1.0]), np.array([0.0])
    one = np.ones(1)
    top = galaxy.reddening(far, pole, one)
    assert top[0] == pytest.approx(galaxy.DUST_PER_KPC * galaxy.DUST_SCALE_KPC)
    assert galaxy.reddening(far, -pole, one) == top
    assert galaxy.reddening(near, pole, one)[0] == pytest.approx(0.45e-3, rel=0.01)
    assert galaxy.reddening(far, plane, one)[0] == pytest.approx(45, rel=1e-3)
    assert galaxy.reddening(far, pole, 2 * one) == 2 * top


def test_populations_end_above_the_plane():
    kinds = np.arange(5)
    up, along = galaxy.farthest(kinds, np.ones(5)), galaxy.farthest(kinds, np.zeros(5))
    assert np.all(np.diff(up) >= 0)  # young, thin, thick, halo
    assert up[0] == 0.4
    assert np.all(along >= up)


def test_fields_are_spread_evenly_where_lamost_can_point():
    ra, dec = galaxy.field_center(1, np.arange(5000))
    assert dec.min() > -6
    assert dec.max() < 56
    assert abs(np.mean(ra < 180) - 0.5) < 0.03  # 4 sigma
    low, mid, high = np.sin(np.radians([-6.0, 20.0, 56.0]))
    assert abs(np.mean(dec < 20) - (mid - low) / (high - low)) < 0.03
    alone = galaxy.field_center(1, 4321)
    assert (alone[0][0], alone[1][0]) == (ra[4321], dec[4321])
