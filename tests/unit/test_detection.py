"""Finding rare stars, against the seed's numbers, brute force and simulated surveys."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from scalespec.kernels.detection import (
    SURE,
    Confusion,
    Recalibration,
    cemp_subclass,
    confusion,
    probability_below,
    purity,
    reliability,
    threshold_curve,
)

SEED = Confusion(tp=2761, fn=265, fp=167, tn=4307)
"""Table 4 of seed 000."""


def test_probability_is_the_normal_distribution():
    label, sigma = np.array([-3.0, -2.0, -1.0]), np.array([0.5, 0.2, 0.4])
    expected = norm.cdf(-2.0, loc=label, scale=sigma)
    np.testing.assert_allclose(probability_below(label, sigma, -2.0), expected, rtol=1e-12)


def test_probability_is_never_quite_sure_and_unknown_where_the_label_is():
    made = probability_below(np.array([-9.0, 5.0, np.nan]), np.array([0.01, 0.01, 0.1]), -2.0)
    assert made[:2].tolist() == [1 - SURE, SURE]
    assert np.isnan(made[2])


def test_probability_refuses_negative_errors():
    with pytest.raises(ValueError, match=r"must not be negative, got -0.1"):
        probability_below(np.zeros(1), np.array([-0.1]), 0.0)


def test_the_seeds_table_is_reproduced():
    assert SEED.completeness == pytest.approx(0.9124, abs=5e-5)  # as printed
    assert SEED.fpr == pytest.approx(0.0373, abs=5e-5)
    assert SEED.purity_at(SEED.prevalence) == pytest.approx(SEED.tp / (SEED.tp + SEED.fp))


@pytest.mark.parametrize(
    ("prevalence", "expected"), [(0.005, 0.109), (0.002, 0.047), (0.001, 0.024)]
)
def test_purity_falls_with_prevalence_as_the_notes_say(prevalence, expected):
    assert SEED.purity_at(prevalence) == pytest.approx(expected, abs=5e-4)  # as printed


def test_purity_of_a_simulated_survey_is_what_is_promised():
    rng = np.random.default_rng(1)
    wanted = rng.random(2_000_000) < 0.002
    called = np.where(wanted, rng.random(wanted.size) < 0.9, rng.random(wanted.size) < 0.0018)
    found = (wanted & called).sum() / called.sum()
    assert purity(0.9, 0.0018, 0.002) == pytest.approx(found, rel=0.04)  # 7,200 found: 3 sigma


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1])
def test_purity_refuses_prevalences_that_are_none(prevalence):
    with pytest.raises(ValueError, match="prevalence must be between 0 and 1"):
        purity(0.5, 0.1, prevalence)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=50))
def test_confusion_counts_every_star_once(pairs):
    truth, called = (np.array([p[k] for p in pairs], bool) for k in range(2))
    made = confusion(truth, called)
    assert made.tp + made.fn + made.fp + made.tn == len(pairs)
    assert made.tp == sum(t and c for t, c in pairs)
    assert made.fp == sum(c and not t for t, c in pairs)


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        tp, fp = rng.binomial(166, 0.7), rng.binomial(13_000, 0.002)
        low, high = Confusion(tp, 166 - tp, fp, 13_000 - fp).intervals(0.002)["completeness"]
        inside += low <= 0.7 <= high
    assert 0.58 <= inside / 200 <= 0.78  # 68 % and three sigma of 200 trials


def test_curve_agrees_with_trying_every_threshold():
    rng = np.random.default_rng(3)
    truth = rng.random(300) < 0.2
    scores = np.round(rng.normal(truth * 1.5, 1.0), 1)  # with ties
    scores[:5] = np.nan
    curve = threshold_curve(scores, truth, 0.01)
    for k, threshold in enumerate(curve.threshold):
        called = np.nan_to_num(scores, nan=-np.inf) >= threshold
        found = confusion(truth, called)
        assert curve.completeness[k] == pytest.approx(found.completeness)
        assert curve.fpr[k] == pytest.approx(found.fpr)
        assert curve.purity[k] == pytest.approx(found.purity_at(0.01))


def test_threshold_at_a_rate_is_the_lowest_that_keeps_it():
    rng = np.random.default_rng(4)
    truth = rng.random(2000) < 0.05
    scores = rng.normal(truth * 2.0, 1.0)
    curve = threshold_curve(scores, truth, 0.01)
    limit = curve.at_fpr(0.01)
    assert confusion(truth, scores >= limit).fpr <= 0.01
    lower = scores[scores < limit].max()
    assert confusion(truth, scores >= lower).fpr > 0.01 or truth[scores == lower].all()


def test_no_threshold_keeps_a_rate_that_the_surest_star_breaks():
    curve = threshold_curve(np.array([0.9, 0.8]), np.array([False, True]), 0.1)
    assert curve.at_fpr(0.5) == np.inf


def test_without_a_score_nothing_is_found():
    truth = np.array([True, False])
    curve = threshold_curve(np.full(2, np.nan), truth, 0.1)
    assert len(curve.threshold) == len(curve.purity) == 0
    assert curve.at_fpr(1.0) == np.inf
    one = threshold_curve(np.array([np.nan, 0.7]), truth, 0.1)
    assert (one.completeness.tolist(), one.fpr.tolist()) == ([0.0], [1.0])


def test_curve_wants_both_kinds():
    with pytest.raises(ValueError, match="wants both kinds of stars, got 0 of 3"):
        threshold_curve(np.arange(3.0), np.zeros(3, bool), 0.1)


def test_recalibration_mends_errors_stated_too_small():
    rng = np.random.default_rng(5)
    label = rng.normal(-1.8, 0.6, 20_000)
    estimate = label + rng.normal(0, 0.3, label.size)
    truth = label < -2
    stated = probability_below(estimate, np.full(label.size, 0.1), -2.0)  # a third of the error
    half = label.size // 2
    mended = Recalibration.fit(stated[:half], truth[:half])(stated[half:])
    before = reliability(stated[half:], truth[half:])
    after = reliability(mended, truth[half:])
    gap = [np.average(np.abs(r.found - r.stated), weights=r.n) for r in (before, after)]
    assert gap[1] < 0.4 * gap[0]
    assert gap[1] < 0.02  # 10,000 stars, some clipped at SURE


def test_recalibration_keeps_the_order_of_stars():
    rng = np.random.default_rng(6)
    p = rng.random(500)
    made = Recalibration.fit(p, rng.random(500) < p**2)(p)
    assert np.array_equal(np.argsort(made), np.argsort(p))


def test_recalibration_of_honest_probabilities_changes_little():
    rng = np.random.default_rng(7)
    p = rng.random(50_000)
    made = Recalibration.fit(p, rng.random(p.size) < p)
    assert made.slope == pytest.approx(1.0, abs=0.05)  # 3 sigma of 50,000 stars
    assert made.offset == pytest.approx(0.0, abs=0.05)


def test_recalibration_wants_both_kinds():
    with pytest.raises(ValueError, match="got 4 and 0"):
        Recalibration.fit(np.full(4, 0.5), np.ones(4, bool))


def test_reliability_holds_every_star_and_leaves_out_the_unknown():
    p = np.array([0.0, 0.05, 0.5, 1.0, np.nan])
    made = reliability(p, np.array([False, False, True, True, True]))
    assert made.n.tolist() == [2, 1, 1]
    assert made.found.tolist() == [0.0, 1.0, 1.0]
    assert np.all(made.low <= made.high)


def test_reliability_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"probabilities from 0.5 to 1.5"):
        reliability(np.array([0.5, 1.5]), np.array([True, False]))


@pytest.mark.parametrize(
    ("ba", "eu", "kind"),
    [
        (1.8, 0.9, "s"),  # [Ba/Eu] 0.9
        (1.4, 1.2, "r/s"),  # [Ba/Eu] 0.2
        (0.9, 1.6, "r"),  # [Ba/Eu] -0.7
        (-0.5, np.nan, "no"),
        (0.4, np.nan, ""),  # barium neither high nor low
        (np.nan, np.nan, ""),
    ],
)
def test_subclasses_follow_barium_and_europium(ba, eu, kind):
    assert cemp_subclass(np.array([ba]), np.array([eu])).tolist() == [kind]
