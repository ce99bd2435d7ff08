"""Made-up isochrones: near those of others where they were fitted, sane everywhere."""

import numpy as np
import pytest

from scalespec.kernels import kiel

AGES = np.geomspace(1.5, 13.5, 12)
METALS = np.array([-2.0, -1.0, -0.5, 0.0, 0.3])


def grid():
    age, m_h = np.meshgrid(AGES, METALS)
    return age.ravel(), m_h.ravel()


def test_the_sun_is_where_it_is():
    teff, logg = kiel.dwarf(np.array([1.0]), np.array([4.57]), np.array([0.0]))
    assert teff[0] == pytest.approx(5772, abs=60)
    assert logg[0] == pytest.approx(4.438, abs=0.05)


@pytest.mark.parametrize(("m_h", "column"), [(0.0, "0"), (-0.5, "05_1"), (0.5, "05")])
def test_isochrones_of_others_are_near(shared, m_h, column):
    """MIST at 7 Gyr: other physics than what was fitted; such models differ by some 100 K."""
    rows = np.genfromtxt(shared / "data/isochrones/MIST_iso_7Gyr.csv", delimiter=",", names=True)
    teff, logg = 10 ** rows[f"teff_{column}"], rows[f"logg_{column}"]
    foot = int(np.flatnonzero(logg < 3.6)[0])
    tip = foot + int(np.flatnonzero(np.diff(logg[foot:]) > 0.05)[0])  # then the clump
    wanted = np.array([3.3, 3.0, 2.5, 2.0, 1.5])
    theirs = np.interp(-wanted, -logg[foot:tip], teff[foot:tip])
    ours = kiel.giant_teff(wanted, np.full(5, 7.0), np.full(5, m_h))
    assert np.abs(ours - theirs).max() < 150
    hottest = teff[:foot][logg[:foot] > 3.9].max()
    mass = kiel.turnoff_mass(np.array([7.0]), np.array([m_h]))
    assert kiel.dwarf(mass, np.array([7.0]), np.array([m_h]))[0][0] == pytest.approx(
        hottest, abs=120
    )


def test_age_and_mass_of_the_turnoff_are_inverse():
    age, m_h = grid()
    assert np.allclose(kiel.turnoff_age(kiel.turnoff_mass(age, m_h), m_h), age)


def test_turnoffs_cool_and_fade_as_populations_age_and_get_metals():
    age, m_h = grid()
    mass = kiel.turnoff_mass(age, m_h).reshape(5, 12)
    assert np.all(np.diff(mass, axis=1) < 0)  # heavier stars live shorter
    teff = kiel.dwarf(mass.ravel(), age, m_h)[0].reshape(5, 12)
    assert np.all(np.diff(teff[1:], axis=1) < 0)
    assert np.all(np.diff(teff[:, 5:], axis=0) < 0)  # metals make opaque


def test_dwarfs_of_more_mass_are_hotter():
    mass = np.linspace(0.5, 0.95, 30)
    for m_h in (-0.5, 0.0, 0.3):
        teff, logg = kiel.dwarf(mass, np.full(30, 5.0), np.full(30, m_h))
        assert np.all(np.diff(teff) > 0)
        assert np.all((logg > 4.1) & (logg < 4.9))


def test_a_star_heavier_than_the_turnoff_is_put_there():
    age, m_h = np.array([10.0]), np.array([0.0])
    most = kiel.turnoff_mass(age, m_h)
    assert kiel.dwarf(most + 1.0, age, m_h) == kiel.dwarf(most, age, m_h)


def test_evolved_stars_leave_the_turnoff_and_join_the_giant_branch():
    age, m_h = grid()
    top, base = kiel.turnoff_logg(age, m_h), kiel.base_logg(age, m_h)
    assert np.all(base < top - 0.15)
    start, mass = kiel.evolved(top, age, m_h)
    most = kiel.turnoff_mass(age, m_h)
    assert np.allclose(start, kiel.dwarf(most, age, m_h)[0], rtol=1e-9)
    assert np.allclose(mass, most)
    low, heavier = kiel.evolved(np.full_like(age, 2.0), age, m_h)
    assert np.allclose(
        low, kiel.giant_teff(np.full_like(age, 2.0), age, m_h), atol=60
    )  # 1.5 Gyr old giants of [M/H] = -2 are not there yet
    assert np.all((heavier > most) & (heavier < 1.06 * most))


def test_giants_cool_upward_and_with_metals():
    logg = np.linspace(3.4, 0.1, 40)
    for m_h in METALS:
        teff = kiel.giant_teff(logg, np.full(40, 6.0), np.full(40, m_h))
        assert np.all(np.diff(teff) < 0)
    cool = [kiel.giant_teff(np.array([1.5]), np.array([6.0]), np.array([z]))[0] for z in METALS]
    assert np.all(np.diff(cool) < 0)


@pytest.mark.parametrize(
    ("mass", "teff", "logg"),
    # zero-age values of solar composition: Schaller et al. 1992, A&AS 96, 269, tracks' first points
    [(2.0, 9080, 4.32), (5.0, 17180, 4.29), (15.0, 31060, 4.22)],
)
def test_hot_stars_begin_where_tracks_do(mass, teff, logg):
    ours = kiel.young_star(np.array([mass]), np.array([0.0]), np.array([0.0]))
    assert ours[0][0] == pytest.approx(teff, rel=0.04)  # two codes' opacities and rounding
    assert ours[1][0] == pytest.approx(logg, abs=0.06)


def test_hot_stars_cool_and_swell_as_they_live():
    lived = np.linspace(0, 1, 20)
    teff, logg = kiel.young_star(np.full(20, 5.0), lived, np.zeros(20))
    assert np.all(np.diff(teff) < 0)
    assert np.all(np.diff(logg) < 0)
    assert np.all(np.diff(kiel.main_sequence_life(np.linspace(1.5, 15, 20))) < 0)


def test_the_horizontal_branch_reaches_from_the_clump_to_30000_kelvin():
    place = np.linspace(0, 1, 50)
    teff, logg = kiel.horizontal_branch(place, np.ones(50, bool), np.full(50, -1.5))
    assert teff[0] == pytest.approx(7500)
    assert teff[-1] == pytest.approx(30000)
    assert np.all(np.diff(logg) > 0)
    assert 2.9 < logg[0] < 3.2  # A-type stars of log L = 1.6 and 0.58 solar masses
    clump = kiel.horizontal_branch(place, np.zeros(50, bool), np.zeros(50))
    assert np.all(np.abs(clump[0] - 4790) <= 60)
    assert np.all(np.abs(clump[1] - 2.42) <= 0.05)


def test_more_alpha_is_more_metals():
    m_h = kiel.metals(np.array([-1.0, -1.0]), np.array([0.0, 0.3]))
    assert m_h[0] == pytest.approx(-1.0, abs=1e-3)
    assert m_h[1] == pytest.approx(-1.0 + np.log10(0.638 * 10**0.3 + 0.362))
