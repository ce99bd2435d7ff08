"""Arms and visits: against weighted means by loops, and noise drawn."""

import numpy as np
import pytest

from scalespec.kernels.combine import (
    combine_visits,
    join_arms,
    merge,
    regrid,
    regrid_correlated,
    touched_bits,
)
from scalespec.kernels.resample import rebin
from scalespec.kernels.wavelength import linear_grid, log_grid, pixel_edges

BLUE, RED = linear_grid(4000.0, 1.0, 200), linear_grid(4180.0, 1.3, 200)
EDGES = pixel_edges(log_grid(np.log10(4005.0), 2e-4, 200))


def arm(wavelength, n=3, *, level=1.0, seed=0):
    rng = np.random.default_rng(seed)
    ivar = rng.uniform(1, 4, (n, len(wavelength))) * (rng.random((n, len(wavelength))) > 0.1)
    flux = level * (2 + np.sin(wavelength / 30)) + 0 * ivar
    mask = np.where(ivar > 0, 0, 4).astype(np.uint32)
    return wavelength, flux, ivar / level**2, mask


def test_regrid_is_rebinning_and_keeps_every_bit_it_touches():
    wavelength, flux, ivar, mask = arm(BLUE)
    made = regrid((wavelength, flux, ivar, mask), EDGES)
    expected = rebin(flux, ivar, pixel_edges(wavelength), EDGES)
    for one, other in zip(made[:2], expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # float32 of float64
    edges = pixel_edges(wavelength)
    for j in range(0, len(EDGES) - 1, 17):
        under = (edges[1:] > EDGES[j]) & (edges[:-1] < EDGES[j + 1])
        bits = [np.bitwise_or.reduce(mask[row, under], initial=0) for row in range(3)]
        assert made[2][:, j].tolist() == bits


def test_rows_may_have_wavelengths_of_their_own():
    one, other = arm(BLUE, 1), arm(BLUE + 0.4, 1)
    zeros = np.zeros((1, 200))
    empty = (zeros, zeros, zeros, zeros.astype(np.uint32))
    stacked = tuple(
        np.concatenate([np.atleast_2d(a), np.atleast_2d(b), c])
        for a, b, c in zip(one, other, empty, strict=True)
    )
    made = regrid(stacked, EDGES)
    for row, single in enumerate((one, other)):
        for whole, part in zip(made, regrid(single, EDGES), strict=True):
            np.testing.assert_array_equal(whole[row], part[0])
    assert not made[1][2].any()  # the row without spectrum


@pytest.mark.parametrize("there", [slice(0, 120), slice(60, 200)])
def test_a_row_padded_with_zeros_is_its_spectrum_alone(there):
    wavelength, flux, ivar, mask = arm(BLUE, 1)
    inside = np.zeros(200, bool)
    inside[there] = True
    padded = tuple(np.where(inside, np.atleast_2d(a), 0) for a in (wavelength, flux, ivar))
    made = regrid((*padded, np.where(inside, mask, np.uint32(1))), EDGES)  # 1: OUTSIDE
    short = wavelength[there], flux[:, there], ivar[:, there], mask[:, there]
    for one, other in zip(made, regrid(short, EDGES), strict=True):
        np.testing.assert_array_equal(one, other)
    assert made[1].any()


def test_rows_share_noise_each_by_its_own_pixels():
    edges, grid = np.arange(105.0, 135.0), np.arange(100.0, 140.0)
    own = np.stack([grid, grid + 0.5, 0 * grid])  # whole pixels, halves, none
    ones = np.ones(own.shape)
    arm = own, ones, ones, np.zeros(own.shape, np.uint32)
    *_, shared = regrid_correlated(arm, edges - 0.5, 50.0)
    np.testing.assert_allclose(shared[[0, 2]], 1, atol=0.01)  # edges lie by ratios of wavelengths
    one = own[1], ones[:1], ones[:1], arm[3][:1]
    np.testing.assert_array_equal(shared[1], regrid_correlated(one, edges - 0.5, 50.0)[3][0])
    assert shared[1, 0] > 1.6


def test_one_pixel_is_no_spectrum():
    wavelength, flux, ivar, mask = arm(BLUE, 1)
    alone = np.where(np.arange(200) == 50, wavelength, 0)[np.newaxis]
    for values in regrid((alone, flux, ivar, mask), EDGES):
        assert not values.any()


def test_arms_join_to_the_weighted_mean_where_they_overlap():
    parts = [regrid(a, EDGES) for a in (arm(BLUE), arm(RED, seed=1))]
    flux, ivar, _ = join_arms([arm(BLUE), arm(RED, seed=1)], EDGES)
    for row in range(3):
        for j in range(len(EDGES) - 1):
            weights = [float(part[1][row, j]) for part in parts]
            values = [float(part[0][row, j]) for part in parts]
            total = sum(weights)
            mean = np.dot(weights, values) / total if total else 0.0
            assert ivar[row, j] == pytest.approx(total, rel=1e-6)
            assert flux[row, j] == pytest.approx(mean, rel=1e-6)
    both = (parts[0][1] > 0) & (parts[1][1] > 0)
    assert both.any()


def test_levels_are_matched_where_arms_overlap_and_only_if_asked():
    arms = [arm(BLUE), arm(RED, level=1.5, seed=1)]
    truth = join_arms([arm(BLUE), arm(RED, seed=1)], EDGES)
    matched = join_arms(arms, EDGES, match_levels=True)
    # The ratio is of means over some twenty pixels of two samplings of a sine.
    np.testing.assert_allclose(matched[0], truth[0], rtol=3e-3)
    assert np.abs(join_arms(arms, EDGES)[0] - truth[0]).max() > 0.3


def test_where_one_arm_has_weight_the_other_ones_bits_do_not_speak():
    flux, ivar = np.ones((1, 2)), np.array([[1.0, 0.0]])
    good, bad = np.zeros((1, 2), np.uint32), np.full((1, 2), 8, np.uint32)
    _, _, mask = merge([(flux, ivar, good), (flux, 0 * ivar, bad)])
    assert mask.tolist() == [[0, 8]]


def test_arms_of_other_spectra_are_refused():
    with pytest.raises(ValueError, match=r"arms of the same spectra, got \[3, 2\] rows"):
        join_arms([arm(BLUE), arm(RED, 2)], EDGES)
    with pytest.raises(ValueError, match="arms of the same spectra"):
        join_arms([], EDGES)


def test_merging_wants_arms_alike():
    mask = np.zeros((1, 2), np.uint32)
    one, other = (np.ones((1, 2)), np.ones((1, 2)), mask), (np.ones((1, 3)), np.ones((1, 3)), mask)
    for arms in ([], [one, other]):
        with pytest.raises(ValueError, match="want arms of one shape, got"):
            merge(arms)


@pytest.mark.parametrize("n", [0, 1])
def test_one_arm_stays_as_it_is_and_no_spectra_are_none(n):
    _, flux, ivar, mask = arm(BLUE, n)
    made = merge([(flux, ivar, mask)], match_levels=True)
    for one, other in zip(made, (flux, ivar, mask), strict=True):
        assert np.array_equal(one, other.astype(one.dtype))
    flux, ivar, _ = join_arms([arm(BLUE, n), arm(RED, n)], EDGES, match_levels=True)
    assert flux.shape == ivar.shape == (n, len(EDGES) - 1)


def test_arms_without_any_light_have_no_level_to_match():
    wavelength, flux, ivar, mask = arm(BLUE)
    dark = (RED, np.full((3, 200), np.nan), np.zeros((3, 200)), np.ones((3, 200), np.uint32))
    made = join_arms([(wavelength, flux, ivar, mask), dark], EDGES, match_levels=True)
    alone = join_arms([(wavelength, flux, ivar, mask)], EDGES)
    assert np.array_equal(made[0], alone[0])
    assert np.array_equal(made[1], alone[1])


def test_visits_combine_by_weight_and_their_error_is_true():
    rng = np.random.default_rng(5)
    sigma = rng.uniform(0.5, 2, 4)
    star = np.repeat(np.arange(3000), 4)
    noise = rng.normal(size=(12_000, 5)) * np.tile(sigma, 3000)[:, np.newaxis]
    ivar = np.repeat(np.tile(sigma**-2, 3000)[:, np.newaxis], 5, axis=1)
    flux, made, _, names = combine_visits(1 + noise, ivar, np.zeros(noise.shape, np.uint32), star)
    assert names.tolist() == list(range(3000))
    # At 5 sigma next to nothing is clipped.
    assert np.isclose(made, np.sum(sigma**-2), rtol=1e-6).mean() > 0.9999
    # A scatter of 15,000 values has an error of 0.6 %; four of those.
    assert ((flux - 1) * np.sqrt(made)).std() == pytest.approx(1, abs=0.025)


def test_what_one_visit_alone_shows_is_left_out():
    flux = np.ones((4, 6))
    flux[2, 3] = 50.0
    made, ivar, _, _ = combine_visits(
        flux, np.full((4, 6), 100.0), np.zeros((4, 6), np.uint32), np.zeros(4, np.int64)
    )
    np.testing.assert_allclose(made, 1)
    assert ivar[0, 3] == 300


def combined(snr, *, cosmics=0.0, n_star=200):
    """Visits of level 1 and these S/N put together: flux, ivar, and the best rms there is."""
    rng, snr = np.random.default_rng(1), np.array(snr, float)
    sigma = np.tile(1 / snr, n_star)[:, np.newaxis]
    flux = 1 + sigma * rng.standard_normal((len(sigma), 200))
    flux += rng.uniform(1, 3, flux.shape) * (rng.random(flux.shape) < cosmics)
    ivar = np.broadcast_to(sigma**-2, flux.shape)
    star = np.repeat(np.arange(n_star), len(snr))
    made, weight, _, _ = combine_visits(flux, ivar, np.zeros(flux.shape, np.uint32), star)
    return made, weight, 1 / np.sqrt(np.sum(snr**2))


@pytest.mark.parametrize(
    "snr",
    [
        (50, 50, 50),
        (100, 5, 5),  # the median of these is one of the poor ones
        (100, 10, 10, 10, 10),
        (60, 60, 10, 10, 10),
    ],
)
def test_noise_alone_loses_no_visit_however_unlike_they_are(snr):
    flux, ivar, best = combined(snr)
    assert (flux - 1).std() < 1.02 * best  # of 40,000 values: known to 0.4 %
    assert (ivar < 0.99 / best**2).mean() < 1e-4


@pytest.mark.parametrize(
    ("snr", "most"),
    [
        # Each pixel of a visit is off by 1 to 3 with a chance of 1 %. Two of three visits are in
        # 3 of 10,000, and nothing tells which: 0.03.
        ((100, 10, 10), 0.04),
        ((100, 5, 5), 0.04),
        ((50, 50, 50), 0.04),
        ((100, 10, 10, 10, 10), 0.025),
        ((50, 50, 50, 50, 50), 0.02),
    ],
)
def test_cosmics_go_however_unlike_visits_are(snr, most):
    assert (combined(snr, cosmics=0.01)[0] - 1).std() < most


def test_a_cosmic_in_the_best_visit_leaves_the_poor_ones():
    flux, ivar = np.ones((3, 5)), np.full((3, 5), 25.0)
    ivar[0] = 1e4
    flux[0, 2] = 4.0
    made, weight, _, _ = combine_visits(flux, ivar, np.zeros((3, 5), np.uint32), np.zeros(3, int))
    np.testing.assert_allclose(made, 1)
    assert weight[0].tolist() == [10_050, 10_050, 50, 10_050, 10_050]


def test_two_cosmics_of_one_pixel_go_one_after_the_other():
    flux = np.ones((5, 1))
    flux[1], flux[3] = 30.0, 4.0
    made, ivar, _, _ = combine_visits(
        flux, np.full((5, 1), 100.0), np.zeros((5, 1), np.uint32), np.zeros(5, int)
    )
    assert (made.item(), ivar.item()) == (1, 300)


def test_visits_that_part_evenly_are_left_out_in_any_order():
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        flux = np.array([[1.0], [1.0], [9.0], [9.0]])[order]
        mask, star = np.zeros((4, 1), np.uint32), np.zeros(4, int)
        assert combine_visits(flux, np.full((4, 1), 100.0), mask, star)[1].item() == 0


def test_of_two_visits_neither_is_left_out():
    flux = np.array([[1.0], [50.0]])
    mask, star = np.zeros((2, 1), np.uint32), np.zeros(2, int)
    made, ivar, _, _ = combine_visits(flux, np.full((2, 1), 100.0), mask, star)
    assert (made.item(), ivar.item()) == (25.5, 200)


def test_bits_that_all_visits_share_stay():
    mask = np.array([[1, 3], [2, 3]], np.uint32)
    _, ivar, made, _ = combine_visits(np.ones((2, 2)), np.zeros((2, 2)), mask, np.array([7, 7]))
    assert made.tolist() == [[0, 3]]
    assert not ivar.any()


@pytest.mark.parametrize("which", [0, 1])  # flux, ivar
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_counts_as_masked(which, junk):
    _, flux, ivar, mask = arm(BLUE)
    whole, star = (flux + 0.1, np.ones_like(ivar), mask), np.zeros(3, np.int64)

    def made():
        hit = flux, ivar, mask
        arms = [hit], [hit, whole], [whole, hit]
        joined = [part for one in arms for part in merge(one, match_levels=True)]
        return [*joined, *combine_visits(flux, ivar, mask, star)]

    flux[1, 7], ivar[1, 7] = 0, 0
    expected = made()
    ivar[1, 7] = 2.0
    (flux, ivar)[which][1, 7] = junk
    for mine, theirs in zip(made(), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_visits_refuse_shapes_that_differ():
    with pytest.raises(ValueError, match="must fit"):
        combine_visits(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2), np.uint32), np.array([1]))


def test_bits_beyond_the_input_are_none():
    mask = np.ones((1, 3), np.uint32)
    assert touched_bits(mask, np.arange(4.0), np.array([5.0, 6.0])).tolist() == [[0]]
