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


def test_an_element_of_no_table_scatters_by_itself():
    made = born(["xx", "mg"], 0.0)
    assert made["xx"].std() == pytest.approx(0.08, rel=0.03)
    assert abs(np.corrcoef(made["xx"], made["mg"])[0, 1]) < 0.03
