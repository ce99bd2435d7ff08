"""Made-up stars are the same wherever they are drawn, and lie where stars lie."""

import time

import galaxy_reference
import numpy as np
import pytest

from scalespec.kernels import abundances
from scalespec.kernels.families import Recipe
from scalespec.kernels.galaxy import FIELD_STARS, HALO, POOR, THICK, THIN, YOUNG, field_center
from scalespec.kernels.population import draw_library, draw_stars, star_of, velocities_at
from scalespec.kernels.sky import separation_arcsec, unit_vectors
from scalespec.kernels.stellar import BLUE, DWARF, FAINT, SHARES, SUBGIANT
from scalespec.models.starlabels import label_box

LABELS = ("teff", "logg", "fe_h", "c_fe", "mg_fe", "v_fe", "vmic")
LOW = np.array([3800.0, 0.0, -2.5, -1, -1, -1, 0.5])
HIGH = np.array([7500.0, 5.0, 0.5, 1, 1, 1, 3.0])
ELEMENTS = tuple(abundances.ELEMENTS)
EVERY = ("teff", "logg", "fe_h", "vmic", "vmac", "vsini", "he_h", *(f"{el}_fe" for el in ELEMENTS))
ANY = np.full(len(EVERY), -1e6), np.full(len(EVERY), 1e6)
N = 40_000


@pytest.fixture(scope="module")
def stars() -> dict[str, np.ndarray]:
    return draw_stars(3, np.arange(2000), LABELS, LOW, HIGH)


@pytest.fixture(scope="module")
def all_stars() -> dict[str, np.ndarray]:
    """Every kind of star there is, whatever a model could make of it."""
    return draw_stars(5, np.arange(N), EVERY, *ANY)


def expect(fraction, chosen, of=None):
    """Counts agree with a fraction within 4 sigma of counting (1 in 16,000 by chance)."""
    n = len(chosen) if of is None else int(of.sum())
    sigma = np.sqrt(fraction * (1 - fraction) / n)
    assert abs(chosen.sum() / n - fraction) < 4 * sigma + 1e-12


RECIPES = {
    "as it is": Recipe(),
    "full": Recipe(
        young=0.2, thick=0.2, halo=0.2, very_metal_poor=0.2, cemp_boost=2.0, blue=0.3, binary=0.4,
        dark=0.3, pair=0.4, cluster=0.4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_stars_equal_those_drawn_one_by_one(recipe):
    numbers = np.concatenate([np.arange(150), 987_000 + np.arange(150), [10**7]])
    drawn = draw_stars(7, numbers, EVERY, *ANY, recipe=recipe)
    first_try = (drawn["g"] < FAINT + 0.01) & (drawn["phase"] >= 0)
    compared = 0
    for row, number in enumerate(numbers.tolist()):
        single = galaxy_reference.draw(7, number, ELEMENTS, recipe)
        if not 7 < single["g"] < FAINT + 0.01:  # drawn again
            continue
        compared += 1
        for name, value in single.items():
            # 1e-9: rounding of powers and quantiles; a distance takes 20 halvings of it
            assert drawn[name][row] == pytest.approx(value, rel=1e-7, abs=1e-9), (number, name)
    assert compared > 0.8 * first_try.sum()


def test_a_star_is_the_same_in_any_company(stars):
    some = draw_stars(3, np.array([1999, 7]), LABELS, LOW, HIGH)
    for name, values in some.items():
        np.testing.assert_array_equal(values, stars[name][[1999, 7]])


def test_another_seed_is_another_survey(stars):
    other = draw_stars(4, np.arange(5), LABELS, LOW, HIGH)
    assert not np.any(other["teff"] == stars["teff"][:5])


def test_stars_are_drawn_fast():
    numbers = np.arange(20_000)
    draw_stars(1, numbers[:100], LABELS, LOW, HIGH)
    start = time.process_time()
    draw_stars(1, numbers, LABELS, LOW, HIGH)
    assert len(numbers) / (time.process_time() - start) > 20_000  # measured: 100,000


def test_populations_have_their_fractions(all_stars):
    recipe, population = Recipe(), all_stars["population"]
    single = all_stars["cluster"] < 0
    thin = 1 - recipe.young - recipe.thick - recipe.halo - recipe.very_metal_poor
    shares = {THICK: recipe.thick, HALO: recipe.halo, YOUNG: recipe.young, THIN: thin}
    for kind, share in (shares | {POOR: recipe.very_metal_poor}).items():
        expect(share, (population == kind) & single, single)


def test_metal_poor_stars_are_as_rare_as_stated():
    recipe = Recipe(very_metal_poor=0.5, halo=0.2, thick=0.1, pair=0.0, cluster=0.0)
    drawn = draw_stars(2, np.arange(N), EVERY[:6], *(limit[:6] for limit in ANY), recipe=recipe)
    poor = drawn["fe_h"] < -2
    expect(0.5, poor)
    for limit, rarer in ((-2.5, 0.5), (-3.0, 1.0), (-3.5, 1.5)):  # ten times per dex, to -4
        expect((10**-rarer - 0.01) / 0.99, poor & (drawn["fe_h"] < limit), poor)
    for low, high in ((-2.1, -1.9), (-3.1, -2.9)):
        here = (drawn["fe_h"] > low) & (drawn["fe_h"] < high)
        chance = abundances.cemp_probability(drawn["fe_h"][here]).mean()
        expect(chance, here & (drawn["cemp"] > 0), here)


def test_carbon_rich_stars_are_as_many_within_the_limits_of_the_synthesis():
    names = ("fe_h", "c_fe", "n_fe", "o_fe", "mg_fe", "sr_fe", "y_fe", "zr_fe", "ba_fe", "eu_fe")
    box = label_box(names, None).T
    poor = Recipe(very_metal_poor=0.9, halo=0.1, thick=0.0, young=0.0, pair=0.0, cluster=0.0)
    drawn = draw_stars(6, np.arange(N), names, *box, recipe=poor)
    fe_h, cemp = drawn["fe_h"], drawn["cemp"]
    expect(abundances.cemp_probability(fe_h).mean(), cemp > 0)
    for rich_in_s, share in ((2, 0.7), (1, 0.3)):
        here = (cemp > 0) & (fe_h > -3)
        expect(share, here & (cemp == rich_in_s), here)
    free = draw_stars(6, np.arange(N), names, *np.array([[-1e6], [1e6]]).repeat(10, 1), recipe=poor)
    assert np.mean(free["c_fe"] == drawn["c_fe"]) > 0.999  # hardly one is drawn again
    assert np.sum(drawn["c_fe"] > 1) > 2000


def test_carbon_rich_stars_can_be_had_more_often():
    twice = Recipe(very_metal_poor=0.9, halo=0.1, thick=0.0, young=0.0, cemp_boost=2.0)
    drawn = draw_stars(2, np.arange(0, N, 2), EVERY, *ANY, recipe=twice)
    alone = drawn["cluster"] < 0
    chance = np.minimum(2 * abundances.cemp_probability(drawn["fe_h"][alone]), 1).mean()
    expect(chance, alone & (drawn["cemp"] > 0), alone)


def test_company_has_its_fractions(all_stars):
    recipe = Recipe()
    moved = all_stars["k_1"] > 0
    expect(recipe.binary, all_stars["binary"])
    expect(recipe.dark, moved & ~all_stars["binary"])
    expect(recipe.cluster, all_stars["cluster"] >= 0)
    pairs = all_stars["pair"][::2] >= 0
    expect(recipe.pair, pairs)


def test_phases_have_their_fractions(all_stars):
    old = (all_stars["population"] == THIN) & (all_stars["cluster"] < 0) & (all_stars["pair"] < 0)
    for phase, share in enumerate(SHARES[:2]):  # luminous ones are where the survey can see them
        measured = (old & (all_stars["phase"] == phase)).sum() / old.sum()
        assert measured == pytest.approx(share, abs=0.015)
    halo = (all_stars["population"] >= HALO) & (all_stars["cluster"] < 0)
    expect(Recipe().blue, halo & (all_stars["phase"] == BLUE), halo)


def test_a_models_box_leaves_fractions_as_they_are(stars):
    expect(Recipe().binary, stars["binary"])
    expect(Recipe().young, stars["population"] == YOUNG)  # as its stars below 7,500 K
    assert np.all(stars["phase"] >= 0)


def test_stars_fill_the_kiel_diagram_as_promised(stars):
    teff, logg, fe_h = (stars[name] for name in ("teff", "logg", "fe_h"))
    assert teff.min() >= 3800
    assert teff.max() <= 7500
    dwarfs = stars["phase"] == DWARF
    assert np.quantile(logg[dwarfs], 0.01) > 3.9
    assert np.corrcoef(teff[logg < 3.4], logg[logg < 3.4])[0, 1] > 0.7  # the giant branch
    assert np.corrcoef(fe_h, stars["mg_fe"])[0, 1] < -0.6  # alpha sequences
    cool = (logg < 2) & (logg > 1)
    assert np.corrcoef(teff[cool], fe_h[cool])[0, 1] < -0.5  # fewer metals, hotter giants


def test_subgiants_tell_their_age_by_their_brightness(all_stars):
    sub = (all_stars["phase"] == SUBGIANT) & ~all_stars["binary"]
    light = np.log10(all_stars["mass"]) + 4 * np.log10(all_stars["teff"]) - all_stars["logg"]
    near = sub & (np.abs(all_stars["fe_h"] + 0.1) < 0.15) & (np.abs(all_stars["teff"] - 5500) < 250)
    assert np.corrcoef(light[near], np.log10(all_stars["age"][near]))[0, 1] < -0.9


def test_abundances_vary_together_as_stated(all_stars):
    """Residuals from the mean trend of thick-disk dwarfs, against the stated covariance."""
    chosen = (all_stars["population"] == THICK) & (all_stars["logg"] > 4.2)
    names = ("o", "mg", "si", "ca", "ti", "na", "cu", "mn", "y", "ba", "ce", "eu", "dy")
    x = np.stack([all_stars[f"{el}_fe"][chosen] for el in names], 1)
    fe_h, age = all_stars["fe_h"][chosen], all_stars["age"][chosen]
    alpha = np.clip(0.18 - 0.14 * fe_h, 0.05, 0.35)
    design = np.stack(
        [np.ones_like(fe_h), alpha, fe_h, np.minimum(fe_h, 0), np.minimum(age, 10)], 1
    )
    residual = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    stated, found = abundances.covariance(names), np.cov(residual.T)
    sigma = np.sqrt((np.outer(np.diag(stated), np.diag(stated)) + stated**2) / len(x))
    assert np.all(np.abs(found - stated) < 4.5 * sigma)  # 91 of them


def test_every_element_named_gets_its_own_abundance(all_stars):
    disk = all_stars["population"] == THICK
    x = np.stack([all_stars[f"{el}_fe"][disk] for el in ELEMENTS], 1)
    assert len(ELEMENTS) >= 25
    assert np.linalg.matrix_rank(np.cov(x.T)) == len(ELEMENTS)
    correlation = np.corrcoef(x.T) - np.eye(len(ELEMENTS))
    assert correlation.max() < 0.97


def test_stars_stay_in_the_box_of_a_model():
    low, high = np.array([4900.0, 0.5, -1.0]), np.array([5400.0, 3.4, 0.3])
    stars = draw_stars(1, np.arange(400), LABELS[:3], low, high)
    labels = np.stack([stars[name] for name in LABELS[:3]], 1)
    assert np.all((labels >= low) & (labels <= high))
    assert np.all(labels.std(0) > 0.1 * (high - low))  # and do not pile up
    both = stars["binary"]
    assert not both.any()  # its giants' companions are dwarfs, which this model does not make


def test_a_box_that_holds_no_star_is_filled_evenly():
    low, high = np.array([9000.0, 0.5, -1.0]), np.array([9500.0, 1.5, 0.3])
    stars = draw_stars(1, np.arange(400), LABELS[:3], low, high)
    labels = np.stack([stars[name] for name in LABELS[:3]], 1)
    assert np.all(stars["phase"] == -1)
    assert np.all((labels >= low) & (labels <= high))
    assert np.all(labels[:, :2].std(0) > 0.25 * (high - low)[:2])  # 0.29 is even
    assert not np.any(stars["binary"] | (stars["k_1"] > 0))
    assert all(np.isfinite(stars[name]).all() for name in ("g", "distance", "rv", "pmra"))


def test_labels_relative_to_all_metals_are_those_relative_to_iron():
    box = np.array([3800.0, 0.0, -2.5, -1.0]), np.array([7500.0, 5.0, 0.5, 1.0])
    ours = draw_stars(1, np.arange(20), ("teff", "logg", "fe_h", "mg_fe"), *box)
    theirs = draw_stars(1, np.arange(20), ("teff", "logg", "m_h", "mg_m"), *box)
    np.testing.assert_array_equal(ours["mg_fe"], theirs["mg_m"])
    np.testing.assert_array_equal(ours["fe_h"], theirs["m_h"])


def test_wide_pairs_share_what_they_were_born_with(all_stars):
    first = np.flatnonzero((all_stars["pair"] >= 0) & (np.arange(N) % 2 == 0))
    second = all_stars["pair"][first]
    assert np.array_equal(all_stars["pair"][second], first)
    hot = all_stars["population"][first] == YOUNG
    same = ["fe_h", "mg_fe", "eu_fe", "distance", "population"]
    for name in same:
        np.testing.assert_array_equal(all_stars[name][first], all_stars[name][second])
    np.testing.assert_array_equal(all_stars["age"][first][~hot], all_stars["age"][second][~hot])
    places = [unit_vectors(all_stars["ra"][i], all_stars["dec"][i]) for i in (first, second)]
    apart = separation_arcsec(*places)
    assert apart.min() > 4.9
    assert apart.max() < 160
    slow = all_stars["rv"][first] - all_stars["rv"][second]
    assert np.abs(slow).max() < 0.5  # what 160 arcsec turn of 600 km/s
    assert not np.any(all_stars["teff"][first] == all_stars["teff"][second])


def test_clusters_share_age_metals_place_and_motion(all_stars):
    number = all_stars["cluster"]
    assert len(np.unique(number)) > 35
    for cluster in range(10):
        member = number == cluster
        assert member.sum() > 10
        for name in ("fe_h", "mg_fe", "distance", "population"):
            assert len(np.unique(all_stars[name][member])) == 1
        assert all_stars["rv"][member].std() < 8  # 5 km/s in a globular one
        assert all_stars["dec"][member].std() < 0.3
        moves = all_stars["pmra"][member].std() * all_stars["distance"][member][0] * 4.74
        assert moves < 8


def test_magnitudes_are_in_the_surveys_range_and_dimmed_by_dust(all_stars):
    g, ebv = all_stars["g"], all_stars["ebv"]
    assert g.min() > 7
    assert g.max() < FAINT + 0.01
    sun_like = (np.abs(all_stars["teff"] - 5772) < 60) & ~all_stars["binary"]
    bare = all_stars["bp_rp"][sun_like] - 1.3 * ebv[sun_like]
    assert np.abs(bare - 0.82).max() < 0.02  # 60 K
    assert np.allclose(all_stars["parallax"] * all_stars["distance"], 1)


def test_populations_move_as_they_should(all_stars):
    population = all_stars["population"]
    spread = [all_stars["rv"][population == kind].std() for kind in (YOUNG, THIN, THICK, HALO)]
    assert np.all(np.diff(spread) > 5)  # km/s: older populations are hotter
    halo = population >= HALO
    speed = np.hypot(all_stars["pmra"], all_stars["pmdec"]) * all_stars["distance"] * 4.74
    assert np.median(speed[halo]) > 3 * np.median(speed[population == THIN])


def test_velocities_at_an_epoch_belong_to_an_orbit(all_stars):
    some = {name: values[:4000] for name, values in all_stars.items()}
    moved, both = some["k_1"] > 0, some["binary"]
    mjd = np.full(4000, 57_000.0)
    rv, rv_2 = velocities_at(some, mjd)
    assert np.array_equal(rv[~moved], some["rv"][~moved])
    later, _ = velocities_at(some, mjd + some["period"])
    assert np.allclose(later, rv, atol=1e-4)  # phases of 1e6 turns, in float64
    assert np.all(np.abs(rv - some["rv"]) <= some["k_1"] + 1e-9)
    assert np.array_equal(np.isfinite(rv_2), both)
    middle = (rv + some["mass_ratio"] * rv_2) / (1 + some["mass_ratio"])
    assert np.allclose(middle[both], some["rv"][both])  # momentum


def test_a_tenth_of_the_spectra_show_an_earlier_star_of_their_field():
    spectra = np.arange(4 * FIELD_STARS)
    shown = star_of(1, spectra)
    assert 0.08 < np.mean(shown != spectra) < 0.12  # 4 sigma of 4000 draws
    assert np.all(shown <= spectra)
    assert np.all(shown // FIELD_STARS == spectra // FIELD_STARS)
    assert np.all(star_of(1, shown) == shown)  # a star shown again was shown before


def test_stars_lie_within_their_field(stars):
    ra, dec = field_center(3, np.arange(2000) // FIELD_STARS)
    off = separation_arcsec(unit_vectors(ra, dec), unit_vectors(stars["ra"], stars["dec"])) / 3600
    assert off.max() < 2.5  # 2.3 degrees, and a little for members of pairs and clusters


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"binary": 1.2}, "binary must be a fraction from 0 to 1, got 1.2"),
        ({"thick": -0.1}, "thick must be a fraction"),
        ({"halo": 0.8, "thick": 0.5}, "= 1.335 is more than 1"),
        ({"pair": 0.7, "cluster": 0.4}, r"pair \+ cluster = 1.1 is more than 1"),
        ({"cemp_boost": -1.0}, "cemp_boost"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong)


def test_library_covers_the_survey(stars):
    drawn = draw_library(np.random.default_rng(1), 4000, LABELS, LOW, HIGH)
    fgk = (stars["teff"] > 4000) & (stars["teff"] < 6900) & (stars["cemp"] == 0)
    labels = np.stack([stars[name][fgk] for name in LABELS], 1)
    assert np.all(np.quantile(labels, 0.001, axis=0) > drawn.min(axis=0))
    assert np.all(np.quantile(labels, 0.999, axis=0) < drawn.max(axis=0))
    hot = drawn[:, 0] > 6800
    assert drawn[hot, 1].min() > 2.8  # no hot supergiants


def test_library_stays_in_the_box_of_a_model():
    low, high = np.array([4900.0, 0.0, -0.6]), np.array([6000.0, 3.5, 0.6])
    drawn = draw_library(np.random.default_rng(1), 500, ("teff", "logg", "c_fe"), low, high)
    assert np.all((drawn >= low) & (drawn <= high))


def test_every_star_finds_a_place_on_the_kiel_diagram():
    """Within the ranges of our line synthesis, where dust and distance leave none too faint."""
    low, high = np.array([3800.0, 0.0, -4.0]), np.array([30_000.0, 5.0, 0.5])
    drawn = draw_stars(11, np.arange(60_000), ("teff", "logg", "fe_h"), low, high)
    assert np.all(drawn["phase"] >= 0)
