"""Abundances of made-up stars: sequences, carbon, mixing."""

import numpy as np
import pytest

from scalespec.kernels import abundances

N = 20_000


def born(elements, fe_h, *, halo=False, cemp=0, age=5.0, alpha=None, seed=1):
    z = np.random.default_rng(seed).normal(size=(N, abundances.N_NORMAL))
    fe_h = np.full(N, fe_h)
    thin = np.full(N, not halo)
    return abundances.abundances(
        elements,
        fe_h,
        abundances.alpha_sequence(fe_h, thin) if alpha is None else np.full(N, alpha),
        z,
        age=np.full(N, age),
        halo=np.full(N, halo),
        cemp=np.full(N, cemp),
    )


@pytest.mark.parametrize("halo", [False, True])
def test_scatter_is_the_stated_covariance(halo):
    names = [name for name in abundances.ELEMENTS if name != "c"]
    x = np.stack(list(born(names, -0.3, halo=halo).values()), 1)
    stated, found = abundances.covariance(names, halo=halo), np.cov(x.T)
    sigma = np.sqrt((np.outer(np.diag(stated), np.diag(stated)) + stated**2) / N)
    assert np.all(np.abs(found - stated) < 4.5 * sigma)  # of 500
    assert np.all(np.linalg.eigvalsh(stated) > 0)


def test_sequences_of_alpha_part_between_solar_and_minus_one():
    fe_h = np.linspace(-1, 0, 11)
    thin, thick = (abundances.alpha_sequence(fe_h, np.full(11, x)) for x in (True, False))
    assert np.all(thick > thin + 0.05)
    assert np.all(np.diff(thick) < 0)


def test_young_stars_have_more_barium():
    old, young = (np.mean(born(["ba", "fe"], 0.0, age=age)["ba"]) for age in (9.0, 1.0))
    assert young - old == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize(("cemp", "barium"), [(1, (-1.0, 0.4)), (2, (0.8, 2.0))])
def test_carbon_rich_stars_are_of_their_class(cemp, barium):
    names = ["c", "ba", "eu", "mg"]
    rich, normal = born(names, -2.5, halo=True, cemp=cemp), born(names, -2.5, halo=True)
    assert rich["c"].min() >= abundances.CEMP_MIN
    assert rich["c"].max() < 3.5
    assert normal["c"].max() < abundances.CEMP_MIN
    assert barium[0] < np.median(rich["ba"]) < barium[1]


def test_classes_have_their_fractions():
    u = np.random.default_rng(1).random((N, 2))
    kinds = abundances.cemp_class(np.full(N, -2.5), u)
    assert np.mean(kinds > 0) == pytest.approx(0.275, abs=0.013)  # 4 sigma
    assert np.mean(kinds[kinds > 0] == 2) == pytest.approx(0.7, abs=0.025)
    assert np.mean(abundances.cemp_class(np.full(N, -3.5), u) == 2) < 0.1
    assert not np.any(abundances.cemp_class(np.full(N, -1.4), u))


def test_giants_bring_up_nitrogen_for_carbon():
    logg = np.linspace(5, 0.1, 200)
    carbon, nitrogen = abundances.mixing(logg, np.full(200, 4800.0))
    assert np.all(np.diff(carbon) <= 0)
    assert np.all(np.diff(nitrogen) >= 0)
    assert np.abs(carbon[logg > 4]).max() < 1e-3
    hot = abundances.mixing(logg, np.full(200, 10_000.0))
    assert not np.any(hot)


def test_a_star_of_no_luck_lies_on_its_sequence():
    """Without scatter an alpha element is its loading times the sequence, for each of three."""
    fe_h = np.array([-1.0, -0.5, 0.0])
    made = abundances.abundances(
        ["mg", "ca", "cr"], fe_h, np.array([0.3, 0.2, 0.1]), np.zeros((3, abundances.N_NORMAL)),
        age=np.full(3, 5.0), halo=np.zeros(3, bool), cemp=np.zeros(3, int),
    )  # fmt: skip
    assert made["mg"] == pytest.approx([0.3, 0.2, 0.1])
    assert made["ca"] == pytest.approx([0.21, 0.14, 0.07])
    assert made["cr"] == pytest.approx([-0.04, -0.02, 0.0])


def test_elements_do_not_depend_on_which_others_are_asked_for():
    both, alone = born(["mg", "eu", "c"], -1.0, halo=True), born(["eu"], -1.0, halo=True)
    assert np.array_equal(both["eu"], alone["eu"])
    assert born([], -1.0) == {}


def test_the_classes_differ_by_the_excess_of_their_kind_alone():
    names = [name for name in abundances.ELEMENTS if name != "c"]
    normal = born(names, -2.5, halo=True)
    for kind in (1, 2):
        rich = born(names, -2.5, halo=True, cemp=kind)
        for name in names:
            excess = abundances._EXCESS[kind].get(name, 0.0)
            assert rich[name] - normal[name] == pytest.approx(excess, abs=1e-12), name
    s_process = abundances._EXCESS[2]
    assert s_process["ba"] > s_process["eu"] > 0  # of the s process europium has least


def test_fewer_metals_are_richer_in_carbon_and_more_often():
    poor = np.linspace(-4.5, 0.5, 51)
    chance = abundances.cemp_probability(poor)
    assert np.all(np.diff(chance) <= 0)
    assert chance[0] == 0.8
    assert not np.any(chance[poor > -1.5])
    least = [born(["c"], fe_h, halo=True, cemp=1)["c"].min() for fe_h in (-2.0, -3.0, -4.0)]
    assert least == pytest.approx([0.7, 0.85, 1.0], abs=1e-3)


def test_an_element_of_no_table_scatters_by_itself():
    made = born(["xx", "mg"], 0.0)
    assert made["xx"].std() == pytest.approx(0.08, rel=0.03)
    assert abs(np.corrcoef(made["xx"], made["mg"])[0, 1]) < 0.03
