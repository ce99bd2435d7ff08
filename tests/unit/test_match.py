"""Sky and id matches against brute force and pandas; oracle 14 of the methods notes."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from scalespec.kernels.cubes import pairs_within
from scalespec.kernels.ids import twomass_ids
from scalespec.kernels.match import (
    Brightness,
    Motion,
    best_pairs,
    match_ids,
    match_sky,
    select_pairs,
    split_by_star,
)
from scalespec.kernels.sky import propagate, unit_vectors

RADIUS = 3.0


def field(rng, n, width_arcsec, center=(0.0, 0.0)):
    """Rows scattered in a small field on the equator; plane geometry holds there."""
    return (
        (center[0] + rng.uniform(-0.5, 0.5, n) * width_arcsec / 3600) % 360,
        center[1] + rng.uniform(-0.5, 0.5, n) * width_arcsec / 3600,
    )


def haversine_arcsec(ra1, dec1, ra2, dec2):
    ra1, dec1, ra2, dec2 = (np.radians(x) for x in (ra1, dec1, ra2, dec2))
    half = np.sin((dec1 - dec2) / 2) ** 2
    half = half + np.cos(dec1) * np.cos(dec2) * np.sin((ra1 - ra2) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(half))) * 3600


@pytest.fixture(scope="module")
def crowd():
    """Two crowded lists, and all separations between them."""
    rng = np.random.default_rng(0)
    left, right = field(rng, 300, 60), field(rng, 400, 60)
    matrix = haversine_arcsec(*(x[:, np.newaxis] for x in left), *right)
    return left, right, matrix


@pytest.fixture(scope="module")
def crowd_pairs(crowd):
    left, right, _ = crowd
    return match_sky(*left, *right, radius_arcsec=RADIUS)


def test_match_sky_finds_what_brute_force_finds(crowd, crowd_pairs):
    separation = crowd[2]
    assert not np.any(np.abs(separation - RADIUS) < 1e-8)  # none on the edge, where rounding rules
    expected = set(zip(*(x.tolist() for x in np.nonzero(separation <= RADIUS)), strict=True))
    found = zip(crowd_pairs.left.tolist(), crowd_pairs.right.tolist(), strict=True)
    assert sorted(found) == sorted(expected)
    np.testing.assert_allclose(  # two formulas, each good to 1e-15 rad
        crowd_pairs.separation_arcsec, separation[crowd_pairs.left, crowd_pairs.right], atol=1e-9
    )


def test_ranks_and_counts_agree_with_a_slow_loop(crowd, crowd_pairs):
    separation = crowd[2]
    row = 0
    for left in range(len(separation)):
        near = np.flatnonzero(separation[left] <= RADIUS)
        for rank, right in enumerate(near[np.argsort(separation[left, near])]):
            assert (crowd_pairs.left[row], crowd_pairs.right[row]) == (left, right)
            assert crowd_pairs.rank[row] == rank
            assert crowd_pairs.n_candidates[row] == len(near)
            nearest_is_mine = separation[:, right].argmin() == left
            assert crowd_pairs.mutual[row] == (rank == 0 and nearest_is_mine)
            row += 1
    assert row == len(crowd_pairs.left)


def test_best_pairs_keeps_one_per_left_row(crowd, crowd_pairs):
    best = best_pairs(crowd_pairs)
    has_one = np.flatnonzero((crowd[2] <= RADIUS).any(axis=1))
    np.testing.assert_array_equal(best.left, has_one)
    np.testing.assert_array_equal(best.right, crowd[2][has_one].argmin(axis=1))


@pytest.mark.parametrize("key", [np.array([30, 10, 20]), np.array(["c", "a", "b"])])
def test_ties_go_by_the_key_in_whatever_order_the_rows_come(key):
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        pairs = match_sky(
            [10.0], [20.0], [10.0] * 3, [20.0] * 3, radius_arcsec=1.0, right_key=key[order]
        )
        assert key[order][pairs.right].tolist() == sorted(key.tolist())
        assert pairs.mutual.tolist() == [True, False, False]


def test_one_right_row_is_the_mutual_match_of_one_left_row():
    pairs = match_sky([5.0, 5.0, 5.0001], [0.0] * 3, [5.0], [0.0], radius_arcsec=1.0)
    assert pairs.left.tolist() == [0, 1, 2]
    assert pairs.mutual.tolist() == [True, False, False]  # of equals, the first


def test_rows_without_a_position_match_nothing():
    ra, dec = [10.0, np.nan, 10.0, 10.0], [0.0, 0.0, np.inf, -9999.0]
    pairs = match_sky(ra, dec, ra, dec, radius_arcsec=1.0)
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0], [0])


@pytest.mark.parametrize(("n_left", "n_right"), [(0, 3), (3, 0), (0, 0)])
def test_an_empty_side_gives_no_pairs(n_left, n_right):
    motion = Motion(np.zeros(n_right), np.zeros(n_right), 2016.0, np.zeros(n_left))
    for how in (None, motion):
        pairs = match_sky(
            *np.ones((2, n_left)), *np.ones((2, n_right)), radius_arcsec=1.0, motion=how
        )
        assert len(pairs.left) == 0
        assert pairs.rank.dtype == np.int32


def test_the_radius_itself_is_within():
    pairs = match_sky([0.0], [90.0], [0.0], [89.0], radius_arcsec=3600.000001)
    assert pairs.separation_arcsec[0] == pytest.approx(3600)
    again = match_sky([0.0], [90.0], [0.0], [89.0], radius_arcsec=pairs.separation_arcsec[0])
    assert len(again.left) == 1


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan, 400_000.0])
def test_a_radius_that_is_no_radius_is_refused(radius):
    with pytest.raises(ValueError, match="radius_arcsec must be"):
        match_sky([0.0], [0.0], [0.0], [0.0], radius_arcsec=radius)


def moving_stars(rng, n, *, fastest):
    """Stars of the whole sky, seen at other times than the catalog's; the catalog is shuffled."""
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    speed, angle = rng.uniform(0, fastest, n), rng.uniform(0, 2 * np.pi, n)
    pmra, pmdec = speed * np.cos(angle), speed * np.sin(angle)
    seen_at = rng.uniform(2011, 2023, n)
    seen_ra, seen_dec = propagate(ra, dec, pmra, pmdec, 2016.0, seen_at)
    seen_dec = np.clip(seen_dec + rng.normal(0, 0.2, n) / 3600, -90, 90)  # astrometric noise
    order = rng.permutation(n)
    catalog = [x[order] for x in (ra, dec, pmra, pmdec)]
    return (seen_ra, seen_dec, seen_at), catalog, order, speed


def test_recall_with_and_without_proper_motion():
    n = 100_000
    (ra, dec, epoch), (ra_c, dec_c, pmra, pmdec), order, speed = moving_stars(
        np.random.default_rng(1), n, fastest=2000.0
    )
    motion = Motion(pmra, pmdec, 2016.0, epoch)
    recalls = []
    for how in (motion, None):
        best = best_pairs(match_sky(ra, dec, ra_c, dec_c, radius_arcsec=RADIUS, motion=how))
        recalls.append(np.mean(order[best.right] == best.left) * len(best.left) / n)
    assert recalls[0] > 0.999
    lost = np.mean(speed / 1000 * np.abs(epoch - 2016.0) > RADIUS)
    assert 0.4 < lost < 0.5
    assert 1 - recalls[1] == pytest.approx(lost, abs=0.01)  # noise of 0.2" about an edge at 3"


def test_moving_pairs_equal_brute_force():
    rng = np.random.default_rng(2)
    left, right = field(rng, 150, 120), field(rng, 150, 120)
    pmra, pmdec = rng.normal(0, 1000, (2, 150)) * (rng.random(150) < 0.3)
    pmra[:10] = np.nan
    left_epoch, epoch = rng.uniform(1990, 2020, 150), rng.uniform(1980, 2016, 150)
    left_epoch[:20] = np.nan  # these see the right rows where they are listed
    motion = Motion(pmra, pmdec, epoch, left_epoch)
    pairs = match_sky(*left, *right, radius_arcsec=RADIUS, motion=motion)
    i, j = (x.ravel() for x in np.indices((150, 150)))
    there = propagate(right[0][j], right[1][j], pmra[j], pmdec[j], epoch[j], left_epoch[i])
    separation = haversine_arcsec(left[0][i], left[1][i], *there)
    near = separation <= RADIUS
    assert near.sum() > 20
    expected = zip(i[near].tolist(), j[near].tolist(), strict=True)
    assert sorted(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == sorted(expected)
    np.testing.assert_allclose(
        pairs.separation_arcsec,
        separation.reshape(150, 150)[pairs.left, pairs.right],
        atol=1e-8,  # RA and dec in degrees round at 1e-10 arcsec; haversine of that
    )


def test_a_left_row_without_an_epoch_sees_the_catalog_as_listed():
    motion = Motion([5000.0], [0.0], 1950.0, [np.nan, 2016.0])  # 330" apart
    pairs = match_sky([10.0, 10.0], [0.0, 0.0], [10.0], [0.0], radius_arcsec=1.0, motion=motion)
    assert pairs.left.tolist() == [0]


def test_one_fast_star_does_not_change_the_others():
    rng = np.random.default_rng(3)
    left, right = field(rng, 100, 100), field(rng, 100, 100)
    pm = np.zeros(100)
    still = match_sky(*left, *right, radius_arcsec=RADIUS, motion=Motion(pm, pm, 2016.0, 2000.0))
    assert len(still.left) > 10
    pm[7] = 10_000.0
    moved = match_sky(*left, *right, radius_arcsec=RADIUS, motion=Motion(pm, pm, 2016.0, 2000.0))
    before, after = still.right != 7, moved.right != 7
    for name in ("left", "right", "separation_arcsec"):
        np.testing.assert_array_equal(
            getattr(moved, name)[after], getattr(still, name)[before], err_msg=name
        )


def as_strings(ids):
    return np.array(["" if i < 0 else f"2M{i:04d} " for i in ids])


@pytest.mark.parametrize(
    "form",
    [
        lambda ids: ids,
        lambda ids: np.where(ids < 0, np.nan, ids.astype(float)),  # how pandas holds missing ids
        as_strings,
        lambda ids: as_strings(ids).astype(bytes),
        lambda ids: np.array([s or None for s in as_strings(ids)], dtype=object),
    ],
)
def test_match_ids_agrees_with_a_pandas_merge(form):
    rng = np.random.default_rng(4)
    left, right = rng.integers(-1, 60, 200), rng.integers(-1, 90, 150)
    key = rng.permutation(150)
    pairs = match_ids(form(left), form(right), right_key=key)
    merged = pd.merge(
        pd.DataFrame({"id": left, "left": range(200)}).query("id >= 0"),
        pd.DataFrame({"id": right, "right": range(150), "key": key}),
        on="id",
    ).sort_values(["left", "key"])
    np.testing.assert_array_equal(pairs.left, merged["left"])
    np.testing.assert_array_equal(pairs.right, merged["right"])
    np.testing.assert_array_equal(pairs.rank, merged.groupby("left").cumcount())
    assert np.isnan(pairs.separation_arcsec).all()


def test_ids_keep_all_their_64_bits():
    gaia = np.array([4_295_806_720_123_456_789, 4_295_806_720_123_456_790])
    assert match_ids(gaia[[1]], gaia).right.tolist() == [1]


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ([1], ["1"], "two kinds, int64 left and <U1 right"),
        ([1.5], [1], "1.5 is no exact id"),
        ([4e18], [1], r"4e\+18 is no exact id"),  # a Gaia id that went through float64
        ([1], np.array([2**63], dtype=np.uint64), "must fit in int64"),
        ([1], np.array([1 + 2j]), "wanted text, got complex128"),
    ],
)
def test_ids_that_cannot_be_told_are_refused(left, right, message):
    with pytest.raises(ValueError, match=message):
        match_ids(left, right)


@pytest.mark.parametrize("none", [[], [-1, -1], [np.nan], [""]])
@pytest.mark.parametrize("some", [[], ["a", "b"], [1, 2]])
def test_a_side_without_ids_matches_nothing(none, some):
    assert len(match_ids(none, some).left) == len(match_ids(some, none).left) == 0


def test_split_agrees_with_reference_outputs_of_splitmix64():
    # First outputs of splitmix64 from state 1234567, as published on rosettacode.org/wiki/
    # Pseudo-random_numbers/Splitmix64. A star id is a state, xored with the seed's own output.
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    step, seed = 0x9E3779B97F4A7C15, 1234567
    key = reference[0]
    states = [(1234567 + k * step) % 2**64 for k in range(3)]
    ids = np.array([state ^ key for state in states], dtype=np.uint64)
    for cut in np.linspace(0.05, 0.95, 10):
        expected = [0 if value / 2**64 < cut else 2 for value in reference]
        got = split_by_star(ids, fractions=(cut, 0.0, 1 - cut), seed=seed)
        assert got.tolist() == expected


def test_split_depends_on_the_star_alone():
    ids = np.random.default_rng(5).integers(0, 2**62, 1000)
    parts = split_by_star(ids, fractions=(0.7, 0.2, 0.1), seed=3)
    order = np.random.default_rng(6).permutation(1000)[:300]
    np.testing.assert_array_equal(
        split_by_star(ids[order], fractions=(0.7, 0.2, 0.1), seed=3), parts[order]
    )


def test_split_has_the_shares_asked_for_and_seeds_are_independent():
    n, fractions = 100_000, (0.7, 0.2, 0.1)
    a, b = (split_by_star(np.arange(n), fractions=fractions, seed=seed) for seed in (1, 2))
    share = np.bincount(a, minlength=3) / n
    np.testing.assert_allclose(share, fractions, atol=0.006)  # 4 sigma of the binomial
    both = np.mean((a == 0) & (b == 0))
    assert both == pytest.approx(0.49, abs=0.007)  # 4 sigma, were they independent


@pytest.mark.parametrize(
    ("fractions", "part"), [((1.0, 0.0, 0.0), 0), ((0.0, 1.0, 0.0), 1), ((0.0, 0.0, 1.0), 2)]
)
def test_split_can_give_all_to_one_part(fractions, part):
    assert set(split_by_star(np.arange(1000), fractions=fractions, seed=1).tolist()) == {part}


@pytest.mark.parametrize(
    ("ids", "fractions", "message"),
    [
        ([1], (0.5, 0.2, 0.2), "sum to 1"),
        ([1], (1.2, -0.2, 0.0), ">= 0"),
        ([3, -1], (0.8, 0.1, 0.1), "least value of -1"),
        ([1.0], (0.8, 0.1, 0.1), "got float64"),
    ],
)
def test_split_refuses_what_it_cannot_deal(ids, fractions, message):
    with pytest.raises(ValueError, match=message):
        split_by_star(ids, fractions=fractions, seed=1)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("radius", [0.01, 1.0, 60.0, 7200.0, 300_000.0])
def test_pairs_within_are_those_of_a_tree(radius, swapped):
    rng = np.random.default_rng(7)
    ra, dec = 200 + rng.normal(0, 2e-3 * radius, 300), -89 + rng.normal(0, 5e-4 * radius, 300) % 90
    left, right = unit_vectors(ra, np.clip(dec, -90, 90)), unit_vectors(ra[:200], dec[:200] + 1e-4)
    sides = (right, left) if swapped else (left, right)
    chord = 2 * np.sin(np.radians(radius / 3600) / 2)
    pairs = cKDTree(sides[0]).sparse_distance_matrix(
        cKDTree(sides[1]), chord, output_type="ndarray"
    )
    found = set(zip(*(x.tolist() for x in pairs_within(*sides, radius)), strict=True))
    edge = set(zip(*(x.tolist() for x in pairs_within(*sides, radius * (1 + 1e-8))), strict=True))
    true = set(zip(pairs["i"].tolist(), pairs["j"].tolist(), strict=True))
    assert len(true) > 50 or radius < 1
    assert true <= edge
    assert found - true <= edge - set(zip(*(
        x.tolist() for x in pairs_within(*sides, radius * (1 - 1e-8))), strict=True))  # fmt: skip


def test_pairs_are_found_once_however_many_are_looked_at_together(monkeypatch):
    rng = np.random.default_rng(8)
    xyz = unit_vectors(rng.normal(10, 1e-3, 400), rng.normal(20, 1e-3, 400))
    whole = sorted(zip(*(x.tolist() for x in pairs_within(xyz, xyz, 5.0)), strict=True))
    monkeypatch.setattr("scalespec.kernels.cubes._CANDIDATES_AT_ONCE", 7)  # fewer than one row has
    parts = sorted(zip(*(x.tolist() for x in pairs_within(xyz, xyz, 5.0)), strict=True))
    assert parts == whole
    assert len(whole) == len(set(whole)) > 400


def test_brightness_leaves_out_pairs_before_they_are_ranked():
    rng = np.random.default_rng(9)
    left, right = field(rng, 80, 30), field(rng, 80, 30)
    mags = rng.uniform(10, 14, (2, 80))
    mags[:, ::9] = np.nan
    every = match_sky(*left, *right, radius_arcsec=RADIUS)
    some = match_sky(
        *left, *right, radius_arcsec=RADIUS, brightness=Brightness(*mags, tolerance=1.0)
    )
    apart = np.abs(mags[0][every.left] - mags[1][every.right])
    kept = ~(apart > 1.0)
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(some.left, every.left[kept])
    np.testing.assert_array_equal(some.right, every.right[kept])
    for row in np.unique(some.left):
        mine = some.left == row
        assert some.rank[mine].tolist() == list(range(mine.sum()))
        assert (some.n_candidates[mine] == mine.sum()).all()


def test_modes_keep_the_pairs_they_name():
    rng = np.random.default_rng(10)
    pairs = match_sky(*field(rng, 80, 30), *field(rng, 80, 30), radius_arcsec=RADIUS)
    best, mutual = select_pairs(pairs, "best"), select_pairs(pairs, "mutual")
    assert select_pairs(pairs, "all") is pairs
    np.testing.assert_array_equal(best.left, np.unique(pairs.left))
    assert len(np.unique(mutual.right)) == len(mutual.right) > 5
    for i, j in zip(mutual.left, mutual.right, strict=True):
        assert (
            pairs.separation_arcsec[pairs.left == i].min()
            == pairs.separation_arcsec[pairs.right == j].min()
        )


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("2M00003119+1516179", "00003119+1516179"),  # APOGEE
        ("J00003119-1516179", "00003119-1516179"),
        ("2MASS J00003119+1516179 ", "00003119+1516179"),
        ("00003119+1516179", "00003119+1516179"),  # the point source catalog itself
        ("AP00003119+1516179", ""),  # APOGEE's own position: no 2MASS source
        ("J220049.05+584509.0", ""),  # LAMOST's designation
        ("", ""),
    ],
)
def test_2mass_ids_have_one_spelling(text, known):
    assert twomass_ids(np.array([text])).tolist() == [known]
