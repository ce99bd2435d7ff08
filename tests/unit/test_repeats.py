"""Repeats: injected zero points come back, with errors that are true."""

import numpy as np
import pandas as pd
import pytest

from scalespec.kernels.repeats import plate_zero_points, repeat_pairs, robust_scatter


def survey(seed=0, n_star=600, n_plate=8, error=3.0):
    """Return a survey whose stars are on two or three plates each, with zero points of 5 km/s."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 5, n_plate)
    visits = rng.integers(2, 4, n_star)
    star = np.repeat(np.arange(n_star), visits)
    plate = np.concatenate([rng.choice(n_plate, k, replace=False) for k in visits])
    rv = rng.normal(0, 50, n_star)[star] + truth[plate] + rng.normal(0, error, len(star))
    return rv, np.full(len(star), error), star, plate, truth


def test_pairs_are_neighbors_of_one_star():
    star = np.array([3, -1, 3, 5, 3, -1])
    value, error = np.array([1.0, 9, 4, 2, np.nan, 9]), np.full(6, 3.0)
    pairs = repeat_pairs(star, value, error)
    assert pairs.first.tolist() == [0]
    assert pairs.second.tolist() == [2]
    assert pairs.difference.tolist() == [3]
    assert pairs.error[0] == pytest.approx(np.sqrt(18))


def test_three_observations_are_two_pairs():
    pairs = repeat_pairs(np.array([1, 1, 1]), np.array([0.0, 1.0, 3.0]), np.ones(3))
    assert pairs.difference.tolist() == [1, 2]


def test_scatter_of_a_gaussian_is_its_sigma_and_outliers_do_not_matter():
    rng = np.random.default_rng(1)
    values = np.r_[rng.normal(0, 7, 50_000), np.full(500, 1e6)]
    assert robust_scatter(values) == pytest.approx(7, rel=0.03)  # 0.5 % of noise, 1.3 % of shift
    assert np.isnan(robust_scatter(np.empty(0)))


def test_zero_points_come_back():
    rv, error, star, plate, truth = survey()
    zero, zero_err, group = plate_zero_points(rv, error, star, plate)
    assert (group == 0).all()
    weights = np.bincount(plate)
    pulls = (zero - (truth - np.average(truth, weights=weights))) / zero_err
    assert np.abs(pulls).max() < 4
    assert np.average(zero, weights=weights) == pytest.approx(0, abs=1e-9)


def test_errors_are_true():
    pulls = []
    for seed in range(30):
        rv, error, star, plate, truth = survey(seed, n_star=100)
        zero, zero_err, _ = plate_zero_points(rv, error, star, plate)
        weights = np.bincount(plate)
        pulls.append((zero - (truth - np.average(truth, weights=weights))) / zero_err)
    # 240 pulls: 4.6 %; the error of Huber's mean is 2.5 % above that of all weights.
    assert np.std(pulls) == pytest.approx(1, abs=0.16)


def test_binaries_count_less():
    rv, error, star, plate, _ = survey()
    clean = plate_zero_points(rv, error, star, plate)[0]
    hit = rv.copy()
    hit[::20] += 200
    moved = plate_zero_points(hit, error, star, plate)[0] - clean
    # A plain mean would move by about 200 / √70 a plate, 20 km/s.
    assert np.abs(moved - moved.mean()).max() < 1.5


def test_plates_without_common_stars_do_not_compare():
    star, plate = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
    zero, error, group = plate_zero_points(np.array([0.0, 2.0, 0.0, 10.0]), np.ones(4), star, plate)
    np.testing.assert_allclose(zero, [-1, 1, -5, 5], atol=1e-6)
    assert group.tolist() == [0, 0, 1, 1]
    assert np.isfinite(error).all()


def test_a_plate_alone_says_nothing():
    zero, error, _ = plate_zero_points(
        np.array([3.0, 4.0]), np.ones(2), np.array([0, 1]), np.array([0, 0])
    )
    assert zero.tolist() == [0]
    assert np.isinf(error).all()
    assert plate_zero_points(np.empty(0), np.empty(0), np.empty(0, int), np.empty(0, int))[
        0
    ].shape == (0,)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="lengths differ: 2, 1, 1, 1"):
        plate_zero_points(np.ones(2), np.ones(1), np.zeros(1, int), np.zeros(1, int))


def test_repeats_of_real_apogee_stars_scatter_more_than_their_errors_say(shared):
    """Of 14,334 rows of cool stars; an error floor of 0.3 km/s is what the repeats ask for."""
    table = pd.read_csv(shared / "data/labels/apogee_table.csv.gz")
    star, field = (pd.factorize(table[name])[0] for name in ("ID", "Field"))
    rv, error = table["HRV"].to_numpy(), table["e_HRV"].to_numpy()
    pairs = repeat_pairs(star, rv, error)
    assert len(pairs.first) == len(table) - table["ID"].nunique()
    scatter = robust_scatter(pairs.difference) / np.sqrt(2)
    assert scatter == pytest.approx(0.33, abs=0.02)
    assert np.median(pairs.error) / np.sqrt(2) < 0.05
    # All of them are repeats within their field: of fields they say nothing, and nothing is said.
    zero, zero_err, _ = plate_zero_points(rv, np.hypot(error, scatter), star, field)
    assert np.isinf(zero_err).all()
    assert not zero.any()


def test_zero_points_and_errors_are_those_of_dense_least_squares():
    rv, error, star, plate, _ = survey(3, n_star=60, n_plate=6)
    rv = np.round(rv)  # no residual reaches Huber's limit twice the same way by luck
    zero, zero_err, _ = plate_zero_points(rv, 1e3 * error, star, plate)  # all weights whole
    design = np.zeros((len(rv), 66))
    design[np.arange(len(rv)), plate] = design[np.arange(len(rv)), 6 + star] = 1
    share = np.bincount(plate) / len(plate)
    to_mean = np.eye(6) - share
    covariance = np.linalg.pinv(design.T @ design) * (1e3 * error[0]) ** 2
    expected = np.linalg.lstsq(design, rv, rcond=None)[0][:6]
    np.testing.assert_allclose(zero, to_mean @ expected, atol=1e-8)
    variance = to_mean @ covariance[:6, :6] @ to_mean.T
    np.testing.assert_allclose(zero_err, np.sqrt(np.diag(variance)), rtol=1e-8)


def test_thousands_of_plates_are_no_matter():
    rng = np.random.default_rng(5)
    n_plate = 5000  # each shares its stars with its neighbors on the sky: dense, 200 MB and minutes
    star = np.repeat(np.arange(40_000), 2)
    first = rng.integers(0, n_plate - 70, 40_000)
    step = np.where(np.arange(40_000) % 2, 1, 70)
    plate = np.stack([first, first + step], axis=1).ravel()
    truth = rng.normal(0, 5, n_plate)
    rv = rng.normal(0, 30, 40_000)[star] + truth[plate] + rng.normal(0, 2, len(star))
    zero, error, _ = plate_zero_points(rv, np.full(len(rv), 2.0), star, plate)
    known = np.isfinite(error)
    pulls = (zero - truth)[known] / error[known]
    assert known.mean() > 0.99
    # The mean of all is the survey's own; a common shift is taken out.
    assert 0.9 < np.std(pulls) < 1.1
