"""Variable velocities: what chance gives is uniform, what changes is found."""

import numpy as np
import pytest
from scipy import stats

from scalespec.kernels.photometry import EXTINCTION, magnitudes, reddening
from scalespec.kernels.variability import variability, velocity_floor


def constant(n=4000, sigma=5.0, seed=1):
    rng = np.random.default_rng(seed)
    star = np.repeat(np.arange(n), 3)
    return star, np.repeat(rng.normal(0, 60, n), 3) + sigma * rng.normal(size=3 * n)


def test_p_values_of_constant_stars_are_uniform():
    star, rv = constant()
    made = variability(star, rv, np.full(len(rv), 4.0), floor=3.0)
    assert stats.kstest(made.p_value, "uniform").pvalue > 0.01
    assert made.n_visit.tolist() == [3] * 4000


def test_the_floor_is_what_the_errors_leave_out():
    star, rv = constant()
    # 8,000 pairs know it to 1 %; clipping at 4 sigma costs less
    assert velocity_floor(star, rv, np.full(len(rv), 4.0)) == pytest.approx(3.0, rel=0.1)


def test_binaries_are_found_and_do_not_raise_the_floor():
    star, rv = constant()
    rng = np.random.default_rng(2)
    binary = star < 400
    rv[binary] += 60 * rng.normal(size=binary.sum())
    made = variability(star, rv, np.full(len(rv), 4.0))
    assert made.floor < 4.0
    assert (made.p_value[:400] < 1e-3).mean() > 0.85
    assert (made.p_value[400:] < 1e-3).mean() < 0.003


def test_numbers_are_those_of_a_slow_loop():
    rng = np.random.default_rng(3)
    star, rv, err = rng.integers(0, 30, 80), rng.normal(0, 20, 80), rng.uniform(1, 4, 80)
    star[:5], rv[5], err[6] = -1, np.nan, 0.0
    made = variability(star, rv, err, floor=2.0)
    good = (star >= 0) & np.isfinite(rv) & (err > 0)
    for i, name in enumerate(made.star):
        here = good & (star == name)
        sigma = np.hypot(err[here], 2.0)
        mean = np.average(rv[here], weights=sigma**-2)
        chi2 = (((rv[here] - mean) / sigma) ** 2).sum()
        assert made.mean[i] == pytest.approx(mean)
        assert made.scatter[i] == pytest.approx(np.std(rv[here], ddof=1))
        assert made.difference[i] == pytest.approx(np.ptp(rv[here]))
        assert made.p_value[i] == pytest.approx(stats.chi2.sf(chi2, here.sum() - 1), rel=1e-6)
    wanted = [s for s in np.unique(star[good]) if (star[good] == s).sum() > 1]
    assert made.star.tolist() == wanted


def test_nobody_with_two_visits_is_no_error():
    made = variability(np.array([1, 2]), np.zeros(2), np.ones(2))
    assert (len(made.star), made.floor) == (0, 0.0)
    assert len(variability(np.zeros(0, int), np.zeros(0), np.zeros(0)).star) == 0


def test_lengths_must_be_alike():
    with pytest.raises(ValueError, match="lengths differ: 2, 1, 1"):
        variability(np.zeros(2, int), np.zeros(1), np.ones(1))


@pytest.mark.parametrize("name", ["bp_rp", "j_k", "g_k"])
def test_reddening_put_in_comes_back(name):
    rng = np.random.default_rng(5)
    teff, ebv = rng.uniform(4200, 7500, 500), rng.uniform(0, 0.8, 500)
    seen = magnitudes(teff, np.full(500, 14.0), ebv)
    color = {"bp_rp": seen["bp_rp"], "j_k": seen["j"] - seen["k"], "g_k": seen["g"] - seen["k"]}
    measured = teff + 60 * rng.normal(size=500)
    found, error = reddening(measured, np.full(500, 60.0), color[name], name=name)
    pull = (found - ebv) / error
    assert np.abs(np.median(found - ebv)) < 0.02
    assert np.std(pull) < 1.05  # the error holds the scatter of colors, which these have not
    assert EXTINCTION["g"] > EXTINCTION["k"]


def test_an_unknown_color_is_refused():
    with pytest.raises(ValueError, match="reddening of 'u_g' is not known"):
        reddening(np.ones(1), np.ones(1), np.ones(1), name="u_g")
