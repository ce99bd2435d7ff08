"""Training sets: flat over the labels, without wrong ones, corners filled, and the curve with N."""

import numpy as np
import pytest

from scalespec.kernels.learning import LearningCurve, learning_curve
from scalespec.kernels.selection import (
    cross_validated_residuals,
    fill_corners,
    first_known,
    flatten,
    label_cells,
    wrong_labels,
)


def stars_with_spectra(n=1500, seed=0):
    """Labels, and spectra that are smooth, not linear functions of them, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.uniform(4000, 7000, n), rng.uniform(-2.0, 0.5, n)], axis=1)
    t, m = (labels[:, 0] - 5500) / 1500, (labels[:, 1] + 0.75) / 1.25
    x = np.linspace(0, 1, 60)
    depth = np.exp(-1.2 * t)[:, None] * (0.2 + 0.1 * np.sin(9 * x)) * (1.3 + m)[:, None]
    spectra = 1 - 0.3 * depth + 0.1 * t[:, None] * x + rng.normal(0, 0.003, (n, 60))
    return spectra, labels, rng


def test_the_first_source_that_knows_gives_the_value():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((4, 200)) < 0.6, np.nan, rng.normal(size=(4, 200)))
    value, source = first_known(values)
    for i in range(200):
        known = [k for k in range(4) if np.isfinite(values[k, i])]
        assert source[i] == (known[0] if known else -1)
        np.testing.assert_equal(value[i], values[known[0], i] if known else np.nan)


def test_cells_are_where_labels_are_and_unknown_ones_have_none():
    cells = label_cells([[5250.0, -0.01], [5499.0, 0.24], [np.nan, 0.0]], [250.0, 0.25])
    assert cells[:2].tolist() == [[21, -1], [21, 0]]
    assert (cells[2] == np.iinfo(np.int64).min).all()


def test_no_cell_has_more_than_asked_and_small_ones_stay_whole():
    rng = np.random.default_rng(1)
    cells = np.floor(rng.normal(0, 2, (3000, 2))).astype(np.int64)
    kept = flatten(cells, np.arange(3000), most=20)
    _, cell, size = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(np.bincount(cell[kept]), np.minimum(size, 20))


def test_the_stars_kept_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(2)
    cells, star = rng.integers(0, 5, (500, 1)), rng.permutation(500) + 10**12
    kept = flatten(cells, star, most=30)
    order = rng.permutation(500)
    np.testing.assert_array_equal(flatten(cells[order], star[order], most=30), kept[order])


def test_a_stars_spectra_are_kept_together():
    star = np.repeat(np.arange(100), 5)
    kept = flatten(np.zeros((500, 1), np.int64), star, most=50).reshape(100, 5)
    assert (kept.all(axis=1) | ~kept.any(axis=1)).all()
    assert kept.sum() == 50


def test_rows_without_a_cell_are_kept():
    cells = label_cells([[np.nan]] * 10, [1.0])
    assert flatten(cells, np.arange(10), most=1).all()


def test_there_may_be_no_rows():
    none = np.zeros((0, 2))
    assert label_cells(none, [1.0, 1.0]).shape == (0, 2)
    assert not flatten(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), most=1).size
    value, source = first_known(np.zeros((3, 0)))
    assert value.shape == source.shape == (0,)


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan])
def test_cells_want_a_size(size):
    with pytest.raises(ValueError, match="cells want positive sizes, got"):
        label_cells([[5000.0, 4.0]], [250.0, size])


def test_values_want_a_source():
    with pytest.raises(ValueError, match="at least one source"):
        first_known(np.zeros((0, 3)))


def test_a_label_that_no_star_has_rules_none_out():
    rng = np.random.default_rng(2)
    spectra, fold = rng.normal(size=(40, 4)), np.arange(40) % 4
    labels = np.stack([spectra[:, 0] + 0.1 * rng.normal(size=40), np.full(40, np.nan)], axis=1)
    labels[5, 0] += 9.0
    with_it = wrong_labels(spectra, labels, fold, sigma=6.0)
    assert np.array_equal(with_it, wrong_labels(spectra, labels[:, :1], fold, sigma=6.0))
    assert np.flatnonzero(with_it).tolist() == [5]
    assert not wrong_labels(spectra, labels[:, 1:], fold, sigma=6.0).any()


def test_a_slope_wants_two_sizes():
    with pytest.raises(ValueError, match=r"two sizes or more, got \[10\]"):
        LearningCurve(np.array([10]), np.ones((1, 3, 2))).slope()


def test_flatten_wants_room_for_one():
    with pytest.raises(ValueError, match="most must be 1 or more, got 0"):
        flatten(np.zeros((1, 1), np.int64), [1], most=0)


def test_corners_are_filled_to_the_number_as_far_as_the_library_goes():
    rng = np.random.default_rng(3)
    stars, library = rng.poisson(2.0, (300, 2)), rng.integers(-3, 9, (900, 2))
    rows = fill_corners(stars, library, fewest=6)
    low, high = stars.min(axis=0) - 1, stars.max(axis=0) + 1
    for cell in np.unique(library, axis=0):
        there = (stars == cell).all(axis=1).sum()
        offered = (library == cell).all(axis=1).sum()
        inside = ((cell >= low) & (cell <= high)).all()
        wanted = min(max(6 - there, 0), offered) if inside else 0
        assert (library[rows] == cell).all(axis=1).sum() == wanted
    assert len(set(rows.tolist())) == len(rows)


@pytest.mark.parametrize(("n_stars", "n_library"), [(0, 5), (5, 0)])
def test_there_is_nothing_to_fill_without_stars_or_library(n_stars, n_library):
    rows = fill_corners(np.zeros((n_stars, 1), int), np.zeros((n_library, 1), int), fewest=9)
    assert len(rows) == 0


def test_residuals_are_those_of_a_plain_ridge_on_the_other_folds():
    rng = np.random.default_rng(4)
    terms = rng.normal(2, 3, (200, 4))
    labels = (terms @ [1, -2, 0.5, 3] + rng.normal(0, 0.1, 200))[:, None]
    fold = np.arange(200) % 4
    found = cross_validated_residuals(terms, labels, fold, use=np.ones(200, bool))
    scaled = (terms - terms.mean(axis=0)) / terms.std(axis=0)
    for part in range(4):
        a, y = scaled[fold != part], labels[fold != part, 0]
        a0, y0 = a - a.mean(axis=0), y - y.mean()
        weight = np.linalg.solve(a0.T @ a0 + 1e-3 * len(a) * np.eye(4), a0.T @ y0)
        expected = labels[fold == part, 0] - y.mean() - (scaled[fold == part] - a.mean(0)) @ weight
        np.testing.assert_allclose(found[fold == part, 0], expected, atol=1e-9)  # both solve 4 x 4


def test_swapped_labels_are_found_and_others_stay():
    spectra, labels, rng = stars_with_spectra()
    wrong = rng.choice(1500, 40, replace=False)
    labels[wrong, 0] = np.where(labels[wrong, 0] > 5500, 4200, 6800)
    out = wrong_labels(spectra, labels, np.arange(1500) % 5, sigma=5)
    assert out[wrong].mean() > 0.9
    good = np.setdiff1d(np.arange(1500), wrong)
    assert out[good].mean() < 0.02  # edges of the labels' range, where a quadratic bends


def test_unknown_labels_rule_no_star_out():
    spectra, labels, rng = stars_with_spectra(600)
    labels[rng.random(600) < 0.5, 1] = np.nan
    labels[7] = np.nan
    out = wrong_labels(spectra, labels, np.arange(600) % 3, sigma=8)
    assert not out[7]
    assert out.mean() < 0.02


def test_each_star_is_judged_by_others_alone():
    spectra, labels, _ = stars_with_spectra(400)
    fold = np.arange(400) % 4
    before = wrong_labels(spectra, labels, fold, sigma=6)
    labels[3, 0] += 1e5  # so far off that it would bend a fit it took part in
    after = wrong_labels(spectra, labels, fold, sigma=6)
    assert after[3]
    np.testing.assert_array_equal(np.delete(after, 3), np.delete(before, 3))


@pytest.mark.parametrize(
    ("spectra", "fold", "sigma", "message"),
    [
        (np.ones((4, 2)), [0, 1, 0, 1], 0.0, "sigma must be above 0, got 0"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], 3.0, "4 rows have features that are NaN"),
        (np.ones((4, 2)), [0, 0, 0, 0], 3.0, "two folds or more"),
    ],
)
def test_what_cannot_be_validated_is_refused(spectra, fold, sigma, message):
    with pytest.raises(ValueError, match=message):
        wrong_labels(spectra, np.ones((4, 1)), fold, sigma=sigma)


def ridge_errors(spectra, labels):
    """A model to learn: the scatter of a ridge regression on held-out stars."""

    def fit(learned, asked):
        a = np.c_[spectra[learned], np.ones(len(learned))]
        weight = np.linalg.solve(a.T @ a + 1e-4 * np.eye(a.shape[1]), a.T @ labels[learned])
        residual = labels[asked] - np.c_[spectra[asked], np.ones(len(asked))] @ weight
        return residual.std(axis=0)

    return fit


def test_errors_fall_with_the_number_of_stars():
    spectra, labels, _ = stars_with_spectra()
    curve = learning_curve(
        ridge_errors(spectra, labels), np.arange(1500), sizes=(80, 320, 1200), repeats=4
    )
    assert curve.error.shape == (3, 4, 2)
    mean = curve.error.mean(axis=1)
    assert (np.diff(mean, axis=0) < 0).all()
    assert (curve.slope() < -0.05).all()


def test_the_slope_is_the_exponent_of_a_power_law():
    n = np.array([10, 100, 1000])
    error = np.stack([n**-0.5, np.full(3, 7.0)], axis=1)[:, np.newaxis]
    np.testing.assert_allclose(LearningCurve(n, error).slope(), [-0.5, 0], atol=1e-12)


def test_no_star_is_on_both_sides_and_larger_sets_hold_the_smaller_ones():
    star = np.random.default_rng(5).integers(0, 100, 600)
    seen = []

    def fit(learned, asked):
        assert not set(star[learned]) & set(star[asked])
        seen.append((set(learned.tolist()), set(asked.tolist())))
        return [1.0]

    learning_curve(fit, star, sizes=(50, 200), repeats=3)
    assert [len(learned) for learned, _ in seen] == [50, 200] * 3
    for small, large in zip(seen[::2], seen[1::2], strict=True):
        assert small[0] < large[0]
        assert small[1] == large[1]
    assert seen[0][1] != seen[2][1]  # the next repeat deals anew


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((10, 90), "sizes go to 90, there are 80 rows to learn from"),
        ((20, 10), r"sizes must ascend from 1 or more, got \[20, 10\]"),
        ((), "sizes must ascend"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        learning_curve(lambda a, b: [1.0], np.arange(100), sizes=sizes)
