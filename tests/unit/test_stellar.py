"""Single draws of the made-up Galaxy: families, luck, distances, motions."""

import numpy as np
import pytest
from scipy import stats

from scalespec.kernels import galaxy, photometry
from scalespec.kernels.families import Recipe, cluster_of, draw_family, paired
from scalespec.kernels.galaxy import HALO, THIN, YOUNG
from scalespec.kernels.sky import separation_arcsec, unit_vectors
from scalespec.kernels.stellar import (
    BLUE,
    BRIGHT,
    BRIGHTEST,
    FAINT,
    FREE,
    HOT,
    draw_distance,
    draw_luck,
    draw_motion,
    draw_star,
)

STARS = np.arange(4000)
RECIPE = Recipe(pair=0.2, cluster=0.2, binary=0.3, dark=0.1, halo=0.2, young=0.1)


@pytest.fixture(scope="module")
def family():
    return draw_family(5, STARS, 0, ["c", "n", "mg"], RECIPE)


@pytest.fixture(scope="module")
def luck():
    return draw_luck(5, STARS, 0)


@pytest.fixture(scope="module")
def star(luck, family):
    return draw_star(luck, family, RECIPE)


@pytest.fixture(scope="module")
def placed(star, family, luck):
    return draw_distance(star, family, luck.words["distance"])


def test_words_of_luck_are_even_and_unrelated(luck):
    words = [luck.phase, luck.company, luck.catalog, *luck.words.values()]
    for word in words:
        assert stats.kstest(word, "uniform").pvalue > 1e-4  # of 22
    related = np.corrcoef(words) - np.eye(len(words))
    assert np.abs(related).max() < 4.5 / np.sqrt(len(STARS))  # of 231 pairs


def test_first_tries_change_the_star_but_not_what_kind_it_is(luck):
    for attempt, same in ((1, True), (FREE - 1, True), (FREE, False)):
        again = draw_luck(5, STARS, attempt)
        assert np.array_equal(again.phase, luck.phase) is same
        assert np.array_equal(again.company, luck.company) is same
        assert not np.any(again.words["place"] == luck.words["place"])


def test_pairs_are_of_neighbors_and_clusters_of_their_field(family):
    both = paired(5, STARS, RECIPE)
    assert np.array_equal(both[::2], both[1::2])
    assert np.mean(both) == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 2000))
    member = cluster_of(5, STARS, RECIPE)
    inside = member >= 0
    assert not np.any(both & inside)
    assert np.array_equal(member[inside], (STARS // galaxy.FIELD_STARS)[inside])
    assert np.mean(inside) == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 4000))
    other = family["pair"]
    assert np.array_equal(other >= 0, both)
    assert np.array_equal(other[other[both]], STARS[both])


def test_members_of_a_family_share_what_they_were_born_with(family):
    names = ("age", "fe_h", "alpha", "c_fe", "mg_fe", "population", "distance_u", "cemp")
    for number in np.unique(family["family"]):
        rows = family["family"] == number
        for name in names:
            assert len(np.unique(family[name][rows])) == 1
    assert (np.unique(family["family"], return_counts=True)[1] > 2).sum() == 4  # a cluster a field


def test_a_binary_has_two_stars_and_a_dark_companion_none(star):
    binary = star["binary"]
    for name in ("teff_2", "logg_2", "vsini_2", "c_fe_2"):
        assert np.array_equal(np.isfinite(star[name]), binary)
    dark = (star["mass_ratio"] > 0) & ~binary
    assert np.mean(binary) == pytest.approx(0.3, abs=0.03)
    assert np.mean(dark) == pytest.approx(0.1, abs=0.02)
    assert np.array_equal(star["k_1"] > 0, binary | dark)
    assert np.array_equal(star["area_2"] > 0, binary)
    assert star["mass_ratio"][binary].max() <= 1 + 1e-12


def test_orbits_obey_keplers_law(star):
    """K of an edge-on circular orbit from its size: 2 pi a_1 / P, and no K is above it."""
    moving = star["k_1"] > 0
    mass, ratio, days = (star[name][moving] for name in ("mass", "mass_ratio", "period"))
    gm_sun = 1.32712440018e11  # km³/s²
    seconds = 86400 * days
    axis = (gm_sun * mass * (1 + ratio) * seconds**2 / (4 * np.pi**2)) ** (1 / 3)
    fastest = 2 * np.pi * axis * ratio / (1 + ratio) / seconds
    tilt = star["k_1"][moving] / fastest
    assert tilt.max() <= 1 + 1e-5
    # of random orientations the mean of sin i is pi / 4
    assert tilt.mean() == pytest.approx(np.pi / 4, abs=4 * 0.22 / np.sqrt(moving.sum()))


def test_hot_stars_are_young_and_blue_ones_of_the_halo(star, family):
    assert np.array_equal(star["phase"] == HOT, family["population"] == YOUNG)
    assert np.all(family["population"][star["phase"] == BLUE] >= HALO)
    assert np.median(star["teff"][star["phase"] == HOT]) > 8000
    assert star["vsini"][star["phase"] == HOT].mean() > 80
    assert star["vsini"][star["teff"] < 5500].max() < 20


def test_everything_of_a_star_is_finite_and_positive(star, placed):
    for name in ("teff", "mass", "age", "vmic", "vmac", "vsini"):
        assert np.all(star[name] > 0), name
    for name, values in placed.items():
        assert np.all(np.isfinite(values)), name


def test_brightness_adds_up(star, family, placed):
    """G by hand: absolute magnitudes of both stars, distance, dust."""
    first = photometry.absolute_magnitude(star["teff"], star["logg"], star["mass"])
    light = 10 ** (-0.4 * first)
    pair = star["binary"]
    mass_2 = (star["mass"] * star["mass_ratio"])[pair]
    second = photometry.absolute_magnitude(star["teff_2"][pair], star["logg_2"][pair], mass_2)
    light[pair] += 10 ** (-0.4 * second)
    seen = -2.5 * np.log10(light) + 5 * np.log10(100 * placed["distance"])
    seen += photometry.EXTINCTION["g"] * placed["ebv"]
    assert placed["g"] == pytest.approx(seen, abs=1e-9)
    share = 10 ** (-0.4 * second) / light[pair]
    assert placed["flux_2"][pair] == pytest.approx(share, rel=1e-9)
    assert not np.any(placed["flux_2"][~pair])
    dust = galaxy.reddening(placed["distance"], family["sin_b"], family["dust"])
    assert placed["ebv"] == pytest.approx(dust)


def test_stars_are_where_the_survey_sees_them_and_families_together(family, placed):
    alone = (family["pair"] < 0) & (family["cluster"] < 0)
    assert np.mean((placed["g"][alone] > BRIGHTEST) & (placed["g"][alone] < FAINT + 0.01)) > 0.98
    assert np.mean(placed["g"][alone] < BRIGHT - 0.01) < 0.1
    assert placed["parallax"] == pytest.approx(1 / placed["distance"])
    end = galaxy.farthest(family["population"], family["sin_b"])
    assert np.all(placed["distance"] <= end * (1 + 1e-9))
    pairs = np.flatnonzero(family["pair"] >= 0)[::2]
    assert placed["distance"][pairs] == pytest.approx(placed["distance"][pairs + 1], rel=0.2)


def test_families_move_together_and_pairs_are_close(luck, family, star, placed):
    moved = draw_motion(placed["distance"], family, luck.words, star["age"])
    xyz = unit_vectors(moved["ra"], moved["dec"])
    pairs = np.flatnonzero(family["pair"] >= 0)[::2]
    apart = separation_arcsec(xyz[pairs], xyz[pairs + 1])
    assert 4.9 < apart.min() < 10
    assert 100 < apart.max() < 161  # as promised: 5 to 160 arcsec
    for number in np.unique(family["cluster"])[1:]:
        rows = family["cluster"] == number
        globular = family["population"][rows][0] != THIN
        limit = 5.0 if globular else 0.6
        spread = moved["rv"][rows].std()
        assert spread < 6 * limit + 3  # and what projection over half a degree adds
    assert np.std(moved["rv"]) > 30


def test_there_may_be_no_stars():
    none = np.zeros(0, np.int64)
    home = draw_family(1, none, 0, ["mg"], Recipe())
    drawn = draw_star(draw_luck(1, none, 0), home, Recipe())
    assert {len(values) for values in (*home.values(), *drawn.values())} == {0}
    assert draw_distance(drawn, home, np.zeros(0))["g"].shape == (0,)
