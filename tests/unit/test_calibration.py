"""Calibration: injected trends come back, outliers do not matter, errors are what they say."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalespec.kernels.calibration import (
    PIN_TEFF,
    Trend,
    bootstrap_trend,
    error_floor,
    fit_pair_trend,
    fit_reference_trend,
    spline_knots,
)

KNOTS = spline_knots(4000.0, 7000.0, 5)
GRID = np.linspace(4000.0, 7000.0, 61)


def injected(teff):
    """0.3 dex over 4,000-7,000 K, bent, and 0 at the pin."""
    x = (np.asarray(teff) - PIN_TEFF) / 3000.0
    return 0.3 * x + 0.15 * x**2


def pairs(n=2000, *, noise=0.05, seed=1, outliers=0.0):
    """Pairs that share their metallicity, measured with the injected trend."""
    rng = np.random.default_rng(seed)
    teff = rng.uniform(4000, 7000, (n, 2))
    true = rng.normal(0, 0.3, n)
    measured = true[:, None] + injected(teff) + noise * rng.normal(size=(n, 2))
    difference = measured[:, 0] - measured[:, 1]
    wrong = rng.random(n) < outliers  # chance alignments
    difference[wrong] += rng.normal(0, 0.5, wrong.sum())
    return teff, difference, np.full(n, noise * np.sqrt(2))


@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_an_injected_trend_of_pairs_is_recovered_within_two_hundredths(outliers):
    trend = fit_pair_trend(*pairs(outliers=outliers), knots=KNOTS)
    assert np.abs(trend(GRID) - injected(GRID)).max() < 0.02


def test_the_pin_is_zero_and_known_exactly():
    trend = fit_pair_trend(*pairs(), knots=KNOTS)
    assert trend(PIN_TEFF) == pytest.approx(0, abs=1e-12)
    assert trend.error(PIN_TEFF) == pytest.approx(0, abs=1e-6)


def test_errors_of_the_trend_are_its_scatter_over_many_surveys():
    trends = [fit_pair_trend(*pairs(300, seed=s), knots=KNOTS, smoothness=0.01) for s in range(60)]
    at = np.array([4300.0, 5000.0, 6500.0])
    scatter = np.std([t(at) for t in trends], axis=0)
    stated = np.mean([t.error(at) for t in trends], axis=0)
    # 60 surveys know a scatter to 9 %; Huber's weights cost 5 % that the errors do not know of
    np.testing.assert_allclose(scatter, stated, rtol=0.35)


def test_bootstrap_agrees_with_the_stated_errors():
    teff, difference, sigma = pairs(800)
    made = bootstrap_trend(
        lambda t, d, s: fit_pair_trend(t, d, s, knots=KNOTS),
        (teff, difference, sigma),
        n=40,
        seed=2,
    )
    at = np.array([4300.0, 6500.0])
    spread = np.std([t(at) for t in made], axis=0)
    np.testing.assert_allclose(
        spread, fit_pair_trend(teff, difference, sigma, knots=KNOTS).error(at), rtol=0.5
    )


def test_classes_have_trends_of_their_own():
    rng = np.random.default_rng(3)
    teff = rng.uniform(4000, 7000, (3000, 2))
    kind = rng.integers(0, 2, (3000, 2))
    wrong = np.where(kind == 0, injected(teff), 0.1 - 0.5 * injected(teff))
    sigma = np.full(3000, 0.05)
    difference = wrong[:, 0] - wrong[:, 1] + 0.05 * rng.normal(size=3000)
    trend = fit_pair_trend(teff, difference, sigma, kind=kind, knots=KNOTS)
    assert np.abs(trend(GRID, 0) - injected(GRID)).max() < 0.02
    assert np.abs(trend(GRID, 1) - (0.1 - 0.5 * injected(GRID))).max() < 0.02


def test_references_give_the_zero_point_too():
    rng = np.random.default_rng(4)
    teff = rng.uniform(4000, 7000, 1500)
    difference = 0.07 + injected(teff) + 0.08 * rng.normal(size=1500)
    trend = fit_reference_trend(teff, difference, np.full(1500, 0.08), knots=KNOTS)
    assert np.abs(trend(GRID) - 0.07 - injected(GRID)).max() < 0.025


def test_beyond_the_knots_the_trend_is_that_of_the_end():
    trend = fit_pair_trend(*pairs(), knots=KNOTS)
    assert trend(3000.0) == trend(4000.0)
    assert trend(9000.0) == trend(7000.0)


def test_temperatures_without_stars_are_bridged_smoothly():
    teff, difference, sigma = pairs()
    away = np.all((teff < 5000) | (teff > 6000), axis=1)
    trend = fit_pair_trend(teff[away], difference[away], sigma[away], knots=KNOTS)
    gap = GRID[(GRID > 5000) & (GRID < 6000)]
    assert np.abs(trend(gap) - injected(gap) - (trend(5000.0) - injected(5000.0))).max() < 0.06


def test_a_star_without_temperature_has_no_trend_and_takes_no_other_along():
    teff = np.linspace(4000, 7000, 60)
    trend = fit_reference_trend(
        teff, 1e-4 * (teff - 5e3), np.full(60, 0.05), knots=spline_knots(4e3, 7e3, 2)
    )
    asked = np.array([[5000.0, np.nan], [np.inf, 4000.0]])
    for found in (trend(asked), trend.error(asked)):
        assert np.isnan(found).tolist() == [[False, True], [False, False]]
    assert trend(asked)[1, 0] == pytest.approx(trend(7000.0))  # beyond the end
    assert trend(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("kind", [1, -1])
def test_classes_that_are_none_are_refused(kind):
    teff = np.linspace(4000, 7000, 60)
    trend = fit_reference_trend(teff, 0 * teff, np.full(60, 0.05), knots=spline_knots(4e3, 7e3, 2))
    for ask in (trend, trend.error):
        with pytest.raises(ValueError, match=f"no class {kind}; there are 0 to 0"):
            ask(5000.0, kind)


def test_a_repeat_of_unknown_error_says_nothing_of_the_floor():
    rng = np.random.default_rng(4)
    difference, sigma = rng.normal(0, 0.1, 300), np.full(300, 0.03)
    zeros = np.zeros(300, int)
    known = error_floor(difference[:200], sigma[:200], zeros[:200], 1)
    sigma[200:] = np.inf
    assert np.array_equal(error_floor(difference, sigma, zeros, 1), known)


@pytest.mark.parametrize("bad", [0.0, np.inf, np.nan])
def test_trends_want_errors_that_weigh(bad):
    teff, sigma = np.linspace(4000, 7000, 60), np.full(60, 0.05)
    sigma[7] = bad
    with pytest.raises(ValueError, match=f"positive and finite, got {bad:g}"):
        fit_reference_trend(teff, 0 * teff, sigma, knots=spline_knots(4e3, 7e3, 2))


def test_a_trend_survives_json():
    trend = fit_pair_trend(*pairs(), knots=KNOTS)
    again = Trend.from_dict(json.loads(json.dumps(trend.to_dict())))
    np.testing.assert_array_equal(again(GRID), trend(GRID))
    np.testing.assert_array_equal(again.error(GRID), trend.error(GRID))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, d, s: (t[:, 0], d, s), "2000 pairs want"),
        (lambda t, d, s: (t, d * np.nan, s), "must be finite"),
        (lambda t, d, s: (t, d, 0 * s), "positive and finite, got 0"),
        (lambda t, d, s: (t * np.nan, d, s), "temperatures must be finite"),
        (lambda t, d, s: (t[:0], d[:0], s[:0]), "at least one"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        fit_pair_trend(*change(*pairs()), knots=KNOTS)


def test_knots_want_a_range():
    with pytest.raises(ValueError, match=r"7000\.0, 4000\.0"):
        spline_knots(7000.0, 4000.0, 3)


@pytest.mark.parametrize("floor", [0.03, 0.1])
def test_a_floor_is_found_within_ten_percent_per_bin(floor):
    rng = np.random.default_rng(5)
    group = rng.integers(0, 3, 6000)
    sigma = np.array([0.02, 0.05, 0.15])[group]
    difference = rng.normal(0, np.sqrt(sigma**2 + 2 * floor**2))
    found, error = error_floor(difference, sigma, group, 3)
    for i in range(3):
        assert abs(found[i] - floor) < max(0.1 * floor, 3 * error[i])
    assert error[0] < error[2]


def test_the_floor_is_the_maximum_of_the_likelihood():
    rng = np.random.default_rng(6)
    sigma = rng.uniform(0.02, 0.08, 500)
    difference = rng.normal(0, np.sqrt(sigma**2 + 2 * 0.05**2))
    found, _ = error_floor(difference, sigma, np.zeros(500, int), 1)

    def minus(floor):
        total = sigma**2 + 2 * floor**2
        return 0.5 * np.sum(difference**2 / total + np.log(total))

    best = minimize_scalar(minus, bounds=(0, 0.3), method="bounded", options={"xatol": 1e-7})
    assert found[0] == pytest.approx(best.x, rel=0.02)  # the clip at 4 sigma moves it a little


def test_errors_that_suffice_have_no_floor_and_few_repeats_none_known():
    rng = np.random.default_rng(7)
    sigma = np.full(2002, 0.1)
    group = np.repeat([0, 1], [2000, 2])
    found, _ = error_floor(rng.normal(0, 0.1, 2002), sigma, group, 3)
    assert found[0] < 0.02
    assert np.isnan(found[1:]).all()


def test_floors_refuse_errors_of_zero():
    with pytest.raises(ValueError, match="positive, got 0"):
        error_floor(np.zeros(3), np.zeros(3), np.zeros(3, int), 1)
