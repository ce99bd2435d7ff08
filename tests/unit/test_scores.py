"""Scores of residuals, against plain loops, known distributions and published formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalespec.kernels.scores import (
    compare_pairs,
    corrected_t_test,
    score,
    statistics,
)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_statistics_are_those_of_a_plain_loop(values):
    residual = np.array(values)
    mean = sum(values) / len(values)
    ranked, sizes = sorted(values), sorted(abs(v) for v in values)
    half = len(values) // 2

    def middle(ordered):
        return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

    expected = [
        sum(sizes) / len(values),
        (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5,
        middle(ranked),
        middle(sizes),
    ]
    # sums of 40 numbers up to 1e6 in another order
    np.testing.assert_allclose(statistics(residual), expected, rtol=1e-9, atol=1e-5)


def test_statistics_of_nothing_are_unknown():
    assert np.isnan(statistics(np.array([np.nan]))).all()


def test_statistics_obey_the_bound_that_the_seeds_table_breaks():
    residual = np.random.default_rng(1).normal(0.3, 2.0, 1000)
    mae, sd, _, _ = statistics(residual)
    assert mae <= np.hypot(sd, residual.mean())


def test_score_leaves_out_what_is_not_finite():
    found = score(np.array([1.0, np.nan, -3.0]), np.array([1, 2, 3]))
    assert (found.n, found.values[0]) == (2, 2.0)


def test_interval_of_the_mean_is_as_wide_as_theory_says():
    rng = np.random.default_rng(2)
    residual = rng.normal(size=4000)
    found = score(residual, np.arange(4000), n_bootstrap=400)
    expected = 2 * np.abs(residual).std() / np.sqrt(4000)  # from -1 to +1 sigma
    # a standard deviation of 400 draws is good to 1/sqrt(800), 4 %: three of them
    assert found.high[0] - found.low[0] == pytest.approx(expected, rel=0.12)


def test_interval_counts_stars_not_rows():
    rng = np.random.default_rng(3)
    once = rng.normal(size=500)
    rows = np.repeat(once, 5)  # every star tested five times, and always as wrong
    star = np.repeat(np.arange(500), 5)
    by_star, by_row = score(rows, star), score(rows, np.arange(2500))
    ratio = (by_star.high[0] - by_star.low[0]) / (by_row.high[0] - by_row.low[0])
    assert ratio == pytest.approx(np.sqrt(5), rel=0.2)  # two widths of 200 draws, 5 % each


def test_scores_are_the_same_every_time():
    rng = np.random.default_rng(4)
    residual, star = rng.normal(size=100), rng.integers(0, 30, 100)
    assert np.array_equal(score(residual, star).low, score(residual, star).low)


def test_score_refuses_stars_of_other_rows():
    with pytest.raises(ValueError, match=r"\(2,\) residuals of \(3,\) stars"):
        score(np.zeros(2), np.zeros(3, int))


def test_corrected_t_is_the_plain_one_without_overlap():
    from scipy.stats import ttest_1samp

    gaps = np.array([0.1, 0.3, 0.2, -0.1, 0.25])
    assert corrected_t_test(gaps, 0.0) == pytest.approx(ttest_1samp(gaps, 0).pvalue, rel=1e-12)


def test_overlapping_splits_make_a_difference_less_sure():
    gaps = np.array([0.1, 0.3, 0.2, 0.15, 0.25])
    assert corrected_t_test(gaps, 3 / 7) > corrected_t_test(gaps, 0.0)


@pytest.mark.parametrize(
    ("gaps", "p"),
    [
        ([1.0], np.nan),  # one split says nothing of its spread
        ([0.0, 0.0], 1.0),  # the same model twice
        ([0.5, 0.5], 0.0),  # always worse by the same
    ],
)
def test_corrected_t_at_its_edges(gaps, p):
    assert corrected_t_test(np.array(gaps), 0.4) == pytest.approx(p, nan_ok=True)


def _splits(width, *, n=300, seed=0):
    rng = np.random.default_rng(seed)
    base = {s: rng.normal(size=n) for s in range(5)}
    other = {s: r + rng.normal(0, width, n) for s, r in base.items()}
    return other, base, {s: rng.integers(0, 2 * n, n) for s in range(5)}


def test_a_model_with_more_noise_is_found_to_be_worse():
    worse, base, star = _splits(1.0)
    found = compare_pairs(worse, base, star, test_to_training=3 / 7)
    assert found.low > 0
    assert found.p < 0.01
    expected = np.mean([np.abs(worse[s]).mean() - np.abs(base[s]).mean() for s in range(5)])
    assert found.mean == pytest.approx(expected)  # splits of one size: mean of means


def test_a_model_is_not_worse_than_itself():
    _, base, star = _splits(1.0)
    found = compare_pairs(base, base, star, test_to_training=3 / 7)
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_false_alarms_are_as_rare_as_p_says():
    """Two equally good models: p < 0.1 in about a tenth of experiments, or fewer."""
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        one, other = ({s: rng.normal(size=200) for s in range(5)} for _ in range(2))
        star = {s: np.arange(200) for s in range(5)}
        found = compare_pairs(one, other, star, test_to_training=0.0, n_bootstrap=0)
        alarms += found.p < 0.1
    assert 2 <= alarms <= 20  # binomial of 100 and 0.1: three sigma are 9


def test_pairs_want_the_same_splits():
    _, base, star = _splits(1.0)
    with pytest.raises(ValueError, match="are not the same"):
        compare_pairs({0: base[0]}, base, star, test_to_training=1.0)


def test_pairs_without_a_common_star_are_unknown():
    nothing = {0: np.full(3, np.nan)}
    found = compare_pairs(nothing, nothing, {0: np.arange(3)}, test_to_training=1.0)
    assert np.isnan(found.mean)
