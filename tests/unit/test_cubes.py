"""Pairs by cubes against all angles: poles, RA = 0, any radius."""

import numpy as np
import pytest

from scalespec.kernels import cubes
from scalespec.kernels.cubes import pairs_within
from scalespec.kernels.sky import unit_vectors

ARCSEC = np.pi / 180 / 3600


def brute(left, right, radius_arcsec):
    """All angles, by the chord: exact where angles are small."""
    chord = np.linalg.norm(left[:, None] - right[None], axis=2)
    angle = 2 * np.arcsin(np.minimum(chord / 2, 1)) / ARCSEC
    return set(map(tuple, np.argwhere(angle <= radius_arcsec).tolist()))


def cloud(n, center, size_arcsec, seed):
    rng = np.random.default_rng(seed)
    points = np.asarray(center, float) + rng.normal(0, size_arcsec * ARCSEC, (n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def found(left, right, radius):
    pairs = list(zip(*(side.tolist() for side in pairs_within(left, right, radius)), strict=True))
    assert len(pairs) == len(set(pairs))  # none twice
    return set(pairs)


@pytest.mark.parametrize(
    "center",
    [(0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0.6, -0.64, 0.48)],
    ids=["north", "south", "ra 0", "ra 180", "ra 90", "anywhere"],
)
@pytest.mark.parametrize("radius", [0.01, 3.0, 600.0])
def test_pairs_are_those_of_all_angles_anywhere(center, radius):
    left, right = cloud(80, center, 2 * radius, 1), cloud(150, center, 2 * radius, 2)
    expected = brute(left, right, radius)
    assert 50 < len(expected) < 80 * 150
    assert found(left, right, radius) == expected
    assert found(right, left, radius) == {(j, i) for i, j in expected}


@pytest.mark.parametrize("radius_deg", [1.0, 40.0, 91.0, 179.0])
def test_pairs_of_the_whole_sphere_at_large_radii(radius_deg):
    rng = np.random.default_rng(3)
    left, right = (unit_vectors(rng.uniform(0, 360, n), rng.uniform(-89, 89, n)) for n in (40, 60))
    assert found(left, right, 3600 * radius_deg) == brute(left, right, 3600 * radius_deg)


def test_half_a_turn_pairs_everything():
    assert len(found(np.eye(3), -np.eye(3), 180 * 3600.0)) == 9


def test_a_radius_of_zero_pairs_what_is_in_the_same_place():
    points = cloud(30, (0, 0, 1), 5.0, 4)
    assert found(points, points[::-1].copy(), 0.0) == {(i, 29 - i) for i in range(30)}


def test_points_without_a_place_are_in_no_pair():
    points = cloud(20, (1, 0, 0), 1.0, 5)
    holes = points.copy()
    holes[[3, 7]] = np.nan
    pairs = found(holes, points, 2.0)
    assert pairs == {(i, j) for i, j in brute(points, points, 2.0) if i not in {3, 7}}
    nothing = np.full((4, 3), np.nan)
    assert found(nothing, points, 2.0) == found(points, nothing, 2.0) == set()


@pytest.mark.parametrize(("n_left", "n_right"), [(0, 0), (0, 5), (5, 0)])
def test_there_may_be_no_points(n_left, n_right):
    left, right = pairs_within(cloud(n_left, (1, 0, 0), 1, 1), cloud(n_right, (1, 0, 0), 1, 1), 5.0)
    assert left.dtype == right.dtype == np.int64
    assert left.size == right.size == 0


def test_crowds_are_looked_at_in_parts(monkeypatch):
    points = cloud(60, (0, 0, 1), 0.1, 6)
    monkeypatch.setattr(cubes, "_CANDIDATES_AT_ONCE", 50)
    assert len(found(points, points, 5.0)) == 3600
