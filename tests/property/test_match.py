"""What always holds of sky matches: brute force, poles, RA = 0, cell edges, partitions."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scalespec.kernels.match import Motion, Pairs, match_sky
from scalespec.kernels.sky import cells_with_margin, healpix_nested, propagate

# a pole, RA = 0, corners where 3 and 4 base cells meet, an edge between base cells, anywhere
CENTERS = [(0.0, 90.0), (200.0, -90.0), (0.0, 0.0), (45.0, 0.0), (0.0, 41.8103149), (90.0, 60.0)]
POSITIVE = st.floats(0.3, 20.0)


@st.composite
def fields(draw):
    """A crowded field at a hard place: offsets from its center, some of them repeated."""
    center = draw(st.sampled_from(CENTERS) | st.tuples(st.floats(0, 360), st.floats(-90, 90)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sides = []
    for n in (draw(st.integers(0, 25)), draw(st.integers(0, 25))):
        offset = rng.normal(0, 5, (2, n)) * 1000  # mas
        if n > 3:
            offset[:, 1:3] = offset[:, :1]  # three rows in one place: ties
        start = np.full(n, center[0]), np.full(n, center[1])
        sides.append(propagate(*start, *offset, 0.0, 1.0))
    key = rng.permutation(len(sides[1][0]))
    return sides[0], sides[1], key, rng


def separations(left, right):
    """In arcsec, by the cross and dot product: good at every angle."""
    a, b = (
        np.stack([np.cos(d) * np.cos(r), np.cos(d) * np.sin(r), np.sin(d)], axis=-1)
        for r, d in (np.radians(left), np.radians(right))
    )
    cross = np.linalg.norm(np.cross(a[:, np.newaxis], b[np.newaxis]), axis=-1)
    return np.degrees(np.arctan2(cross, a @ b.T)) * 3600


def matched_by_cells(left, right, key, *, order, radius, motion=None, reach=0.0):
    """Match cell by cell, as the stage does, and put the parts together."""
    right_rows, right_cells = cells_with_margin(*right, order, radius + reach)
    left_rows, left_cells = cells_with_margin(*left, order, 2 * radius + np.max(reach, initial=0))
    home = healpix_nested(*left, order)
    parts = []
    for cell in np.unique(home):
        i, j = left_rows[left_cells == cell], right_rows[right_cells == cell]
        here = motion and Motion(
            motion.pmra[j], motion.pmdec[j], motion.epoch, motion.left_epoch[i]
        )
        pairs = match_sky(
            left[0][i], left[1][i], right[0][j], right[1][j],
            radius_arcsec=radius, right_key=key[j], motion=here,
        )  # fmt: skip
        pairs = dataclasses.replace(pairs, left=i[pairs.left], right=j[pairs.right])
        mine = home[pairs.left] == cell
        parts.append({f: getattr(pairs, f)[mine] for f in vars(pairs)})
    joined = {f: np.concatenate([p[f] for p in parts]) for f in parts[0]} if parts else {}
    order_by_left = np.lexsort((joined["rank"], joined["left"])) if parts else []
    return {f: values[order_by_left] for f, values in joined.items()}


def assert_equal_to_the_bit(parts, whole: Pairs):
    for name, values in parts.items():
        np.testing.assert_array_equal(values, getattr(whole, name), err_msg=name)
    assert parts or len(whole.left) == 0


@given(fields(), POSITIVE)
@settings(deadline=None)
def test_pairs_within_a_radius_equal_brute_force(field, radius):
    left, right, key, _ = field
    pairs = match_sky(*left, *right, radius_arcsec=radius, right_key=key)
    separation = separations(left, right)
    found = np.zeros(separation.shape, dtype=bool)
    found[pairs.left, pairs.right] = True
    edge = np.abs(separation - radius) < 1e-8  # 5e-14 rad: where rounding decides
    np.testing.assert_array_equal(found | edge, (separation <= radius) | edge)
    assert len(pairs.left) == found.sum()
    np.testing.assert_allclose(
        pairs.separation_arcsec, separation[pairs.left, pairs.right], atol=1e-8
    )


@given(fields(), POSITIVE)
@settings(deadline=None)
def test_order_of_rows_changes_nothing(field, radius):
    left, right, key, rng = field
    whole = match_sky(*left, *right, radius_arcsec=radius, right_key=key)
    shuffle = rng.permutation(len(key))
    other = match_sky(
        *left, *(x[shuffle] for x in right), radius_arcsec=radius, right_key=key[shuffle]
    )
    other = dataclasses.replace(other, right=shuffle[other.right])
    assert_equal_to_the_bit(vars(other), whole)


@given(fields(), POSITIVE, st.integers(0, 11))
@settings(deadline=None)
def test_partitions_with_margins_equal_the_direct_match(field, radius, order):
    left, right, key, _ = field
    whole = match_sky(*left, *right, radius_arcsec=radius, right_key=key)
    parts = matched_by_cells(left, right, key, order=order, radius=radius)
    assert_equal_to_the_bit(parts, whole)


@given(fields(), st.floats(0.3, 5.0), st.integers(0, 9))
@settings(deadline=None)
def test_partitions_of_moving_stars_equal_the_direct_match(field, radius, order):
    left, right, key, rng = field
    pmra, pmdec = rng.normal(0, 300, (2, len(key)))
    motion = Motion(pmra, pmdec, 2016.0, rng.uniform(2000, 2020, len(left[0])))
    whole = match_sky(*left, *right, radius_arcsec=radius, right_key=key, motion=motion)
    parts = matched_by_cells(
        left, right, key,
        order=order, radius=radius, motion=motion, reach=np.hypot(pmra, pmdec) * 16 / 1000,
    )  # fmt: skip
    assert_equal_to_the_bit(parts, whole)
