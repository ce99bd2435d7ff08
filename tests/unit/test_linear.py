"""Normal equations against numpy's least squares."""

import numpy as np
import pytest
import torch

from scalespec.models.linear import all_sum, joined, solve, with_constant, world_size

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 5))
TARGET = FEATURES @ RNG.normal(size=(5, 3)) + [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=(200, 3))


def equations(features, target):
    design, n = with_constant(torch.tensor(features)), len(features)
    return design.T @ design / n, design.T @ torch.tensor(target) / n


def test_without_penalty_it_is_least_squares():
    found = solve(*equations(FEATURES, TARGET), 1e-13).numpy()
    design = np.column_stack([FEATURES, np.ones(200)])
    expected = np.linalg.lstsq(design, TARGET, rcond=None)[0]
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_penalty_is_on_weights_and_not_on_the_constant():
    found = solve(*equations(FEATURES, TARGET + 1e4), 1e-4).numpy()
    free = solve(*equations(FEATURES, TARGET), 1e-4).numpy()
    assert found[:-1] == pytest.approx(free[:-1], rel=1e-3)  # 1e-8 of a constant of 1e4
    assert found[-1] == pytest.approx(free[-1] + 1e4, rel=1e-7)


def test_ridge_is_that_of_augmented_rows():
    ridge = 0.3
    found = solve(*equations(FEATURES, TARGET), ridge).numpy()
    design = np.column_stack([FEATURES, np.ones(200)]) / np.sqrt(200)
    extra = np.diag([np.sqrt(ridge)] * 5 + [ridge])
    both = np.linalg.lstsq(
        np.concatenate([design, extra]),
        np.concatenate([TARGET / np.sqrt(200), np.zeros((6, 3))]),
        rcond=None,
    )[0]
    assert found == pytest.approx(both, rel=1e-9)


def test_features_that_are_all_alike_or_nothing_can_be_solved():
    alike = np.repeat(FEATURES[:, :1], 5, axis=1)
    assert np.isfinite(solve(*equations(alike, TARGET)).numpy()).all()
    zero = torch.zeros(6, 6, dtype=torch.float64)
    assert solve(zero, torch.zeros(6, 2, dtype=torch.float64)).abs().max() == 0


def test_what_is_asked_of_derivatives_adds_rows_without_a_constant():
    slopes, wanted = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 3))
    share = RNG.uniform(0.1, 1, 7)
    gram, right = equations(FEATURES, TARGET)
    before = gram.clone()
    both = joined(gram, right, *(torch.tensor(x) for x in (slopes, wanted, share)))
    design = np.column_stack([FEATURES, np.ones(200)]) / np.sqrt(200)
    rows = np.column_stack([slopes, np.zeros(7)]) * np.sqrt(share)[:, None]
    stacked = np.concatenate([design, rows])
    target = np.concatenate([TARGET / np.sqrt(200), wanted * np.sqrt(share)[:, None]])
    expected = np.linalg.lstsq(stacked, target, rcond=None)[0]
    assert solve(*both, 1e-13).numpy() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(gram, before)  # what was given stays


def test_a_constant_is_a_last_column_in_float64():
    made = with_constant(torch.ones(4, 2, dtype=torch.float32) * 3)
    assert made.dtype == torch.float64
    assert made.tolist() == [[3.0, 3.0, 1.0]] * 4
    assert with_constant(torch.ones(0, 2)).shape == (0, 3)


def test_alone_there_is_one_rank_and_nothing_to_sum():
    tensor = torch.arange(3.0)
    assert all_sum(tensor) is tensor
    assert world_size() == 1
