"""Ages: recovered from made-up subgiants, with errors that mean something."""

import numpy as np
import pytest

from scalespec.kernels.isochrone import (
    IMF_SLOPE,
    IsochroneCube,
    age_posterior,
    is_subgiant,
    model_stars,
    refine,
)

FE_H = np.linspace(-1.0, 0.4, 8)
AGE = np.geomspace(1.5, 13.5, 15)
U = np.linspace(0.0, 1.0, 25)  # from the turn-off to the base of the giant branch
NAMES = ("teff", "m_k", "fe_h")
ERRORS = np.array([25.0, 0.05, 0.04])  # of subgiants in Xiang & Rix 2022: 7.5 % of age


def turn_off_mass(age, fe_h):
    """Lifetime of the main sequence, about 10 Gyr M^-2.7, longer for more metals."""
    return (10.0 * (1 + 0.3 * fe_h) / age) ** (1 / 2.7)


def subgiant(age, fe_h, u):
    """Return mass, temperature and luminosity of a made-up subgiant: fainter with age."""
    mass = turn_off_mass(age, fe_h) * (1 + 0.02 * u)
    teff = 6000.0 + 1100.0 * (mass - 1.0) - 350.0 * fe_h - 900.0 * u
    m_k = 2.6 - 3.4 * np.log(mass) - 1.1 * u + 0.25 * fe_h
    return mass, teff, m_k


def make_cube():
    age, fe_h = AGE[None, :, None], FE_H[:, None, None]
    mass, teff, m_k = subgiant(age, fe_h, U[None, None, :])
    return IsochroneCube(FE_H, AGE, mass, {"teff": teff, "m_k": m_k})


@pytest.fixture(scope="module")
def stars():
    return model_stars(refine(make_cube(), fe_h=8, age=4, eep=2), NAMES)


def observe(n, seed=1):
    """Draw stars from the model's own prior, and measure them."""
    rng = np.random.default_rng(seed)
    age, fe_h = rng.uniform(2.0, 13.0, n), rng.uniform(-0.8, 0.2, n)
    _, teff, m_k = subgiant(age, fe_h, rng.uniform(0, 1, n))
    values = np.column_stack([teff, m_k, fe_h])
    return age, values + ERRORS * rng.normal(size=values.shape), np.tile(ERRORS, (n, 1))


def test_ages_are_good_to_ten_percent(stars):
    age, observed, sigma = observe(1000)
    median = age_posterior(stars, observed, sigma).quantiles[:, 1]
    assert np.median(np.abs(median / age - 1)) < 0.10


def test_the_68_percent_interval_holds_68_percent(stars):
    age, observed, sigma = observe(2000)
    low, _, high = age_posterior(stars, observed, sigma).quantiles.T
    inside = np.mean((low < age) & (age < high))
    assert 0.63 < inside < 0.73  # 1 % of counting; masses are drawn evenly, not as the prior's


def test_the_sum_is_that_of_a_slow_loop(stars):
    _, observed, sigma = observe(3)
    fast = age_posterior(stars, observed, sigma)
    for i in range(3):
        chi2 = (((stars.values - observed[i]) / sigma[i]) ** 2).sum(axis=1)
        likelihood = stars.weight * np.exp(-0.5 * chi2)
        age = stars.age[stars.age_index]
        mean = (likelihood * age).sum() / likelihood.sum()
        assert fast.mean[i] == pytest.approx(mean, rel=1e-5)  # beyond 5 sigma: 1e-6 of it
        second = (likelihood * age**2).sum() / likelihood.sum()
        assert fast.std[i] == pytest.approx(np.sqrt(second - mean**2), rel=1e-3)
        assert fast.chi2[i] == pytest.approx(chi2.min())


def test_what_is_not_known_says_nothing(stars):
    _, observed, sigma = observe(400)
    without = observed.copy()
    without[:, 2] = np.nan
    by_infinity = sigma.copy()
    by_infinity[:, 2] = np.inf
    a = age_posterior(stars, without, sigma)
    b = age_posterior(stars, observed, by_infinity)
    np.testing.assert_array_equal(a.quantiles, b.quantiles)
    whole = age_posterior(stars, observed, sigma)
    assert np.nanmedian(a.std) > 1.1 * np.nanmedian(whole.std)


def test_a_star_that_no_model_is_like_has_no_age(stars):
    _, observed, sigma = observe(2)
    observed[0, 1] = 15.0
    observed[1, 0] = np.nan
    found = age_posterior(stars, observed, sigma)
    assert np.isnan(found.mean).all()
    assert np.isnan(found.quantiles).all()
    assert found.n_model.tolist() == [0, 0]


def test_refined_isochrones_keep_the_old_ones_and_lie_between():
    cube = make_cube()
    fine = refine(cube, fe_h=4, age=3, eep=2)
    np.testing.assert_array_equal(fine.columns["teff"][::4, ::3, ::2], cube.columns["teff"])
    assert fine.mass.shape == (29, 43, 49)
    between = (cube.columns["m_k"][2, 5, 7] + cube.columns["m_k"][3, 5, 7]) / 2
    assert fine.columns["m_k"][10, 15, 14] == pytest.approx(between)


def test_a_point_that_lacks_takes_nothing_along():
    cube = make_cube()
    cube.mass[0, 0, :5] = np.nan
    fine = refine(cube, age=2)
    assert np.isnan(fine.mass[0, 1, :5]).all()
    assert np.isfinite(fine.mass[0, 2]).all()
    n = model_stars(fine, NAMES).values.shape[0]
    assert n == np.isfinite(fine.mass).sum()


def test_weights_are_mass_function_times_widths():
    cube = make_cube()
    made = model_stars(cube, NAMES)
    i, j, k = 3, 6, 10
    row = np.flatnonzero(
        (made.values[:, 0] == cube.columns["teff"][i, j, k]) & (made.values[:, 2] == FE_H[i])
    )[0]
    mass_width = (cube.mass[i, j, k + 1] - cube.mass[i, j, k - 1]) / 2
    age_width = (AGE[j + 1] - AGE[j - 1]) / 2
    wanted = mass_width * age_width * (FE_H[1] - FE_H[0]) * cube.mass[i, j, k] ** IMF_SLOPE
    assert made.weight[row] == pytest.approx(wanted, rel=1e-9)


def test_order_of_stars_changes_nothing(stars):
    _, observed, sigma = observe(50)
    forth = age_posterior(stars, observed, sigma)
    back = age_posterior(stars, observed[::-1], sigma[::-1])
    np.testing.assert_array_equal(forth.quantiles, back.quantiles[::-1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: age_posterior(s, np.ones((2, 2)), np.ones((2, 2))), r"\(n, 3\)"),
        (lambda s: age_posterior(s, np.ones((2, 3)), np.zeros((2, 3))), "positive, got 0"),
        (lambda s: model_stars(make_cube(), ["teff", "m_g"]), r"no \['m_g'\]"),
        (lambda s: refine(make_cube(), age=0), "1, 0 and 1"),
        (lambda s: IsochroneCube(FE_H, AGE[::-1], make_cube().mass, {}), "in order of age"),
        (lambda s: IsochroneCube(FE_H, AGE[1:], make_cube().mass, {}), "mass has shape"),
    ],
)
def test_what_makes_no_sense_is_refused(stars, call, said):
    with pytest.raises(ValueError, match=said):
        call(stars)


def test_subgiants_lie_between_turn_off_and_giants():
    teff = np.array([5500.0, 4800.0, 6800.0, 5500.0])
    m_k = np.array([2.0, 1.0, 2.5, 5.0])
    assert is_subgiant(teff, m_k, np.zeros(4)).tolist() == [True, False, False, False]
