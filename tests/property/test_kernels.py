"""What always holds for the kernels that move and normalize spectra."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scalespec.kernels.combine import combine_visits, join_arms, touched_bits
from scalespec.kernels.continuum import gaussian_smoothing, normalize
from scalespec.kernels.fold import fold, unfold
from scalespec.kernels.lsf import degrade_operator
from scalespec.kernels.mask import apply_policy, flag, mask_cost
from scalespec.kernels.resample import rebin, shift_pixels
from scalespec.kernels.rv import cross_correlate
from scalespec.kernels.wavelength import (
    air_to_vacuum,
    log_grid,
    pixel_edges,
    pixels_to_velocity,
    resolution_edges,
    vacuum_to_air,
    velocity_to_pixels,
)

SEEDS = st.integers(0, 2**32 - 1)
WAVELENGTH = log_grid(3.7, 4e-4, 300)
SMOOTHING = gaussian_smoothing(WAVELENGTH, 50.0, tile=64)


def edges(draw_from):
    """Between 2 and 40 increasing edges."""
    widths = st.lists(st.floats(0.01, 20.0), min_size=1, max_size=39)
    return st.builds(lambda start, w: start + np.cumsum([0.0, *w]), draw_from, widths)


def make_spectra(seed, n=4, n_pixel=300):
    rng = np.random.default_rng(seed)
    flux = rng.uniform(0.2, 1.2, (n, n_pixel)).astype(np.float32)
    ivar = (rng.uniform(1, 100, (n, n_pixel)) * (rng.random((n, n_pixel)) > 0.2)).astype(np.float32)
    return np.where(ivar > 0, flux, 0), ivar


@given(wavelength=st.floats(2001.0, 1e5))
def test_air_and_vacuum_are_inverse_and_air_is_shorter(wavelength):
    air = vacuum_to_air(wavelength)
    assert air < wavelength
    if air > 2000:
        assert abs(air_to_vacuum(air) - wavelength) < 1e-9 * wavelength


@given(rv=st.floats(-1e5, 1e5), step=st.floats(1e-6, 1e-2))
def test_velocity_and_pixels_are_inverse(rv, step):
    back = pixels_to_velocity(velocity_to_pixels(rv, step), step)
    np.testing.assert_allclose(back, rv, rtol=1e-10, atol=1e-9)


@given(first=st.floats(-5e4, 5e4), second=st.floats(-5e4, 5e4))
def test_pixels_of_velocities_add_as_relativity_says(first, second):
    c = 299_792.458
    sum_rv = (first + second) / (1 + first * second / c**2)
    pixels = velocity_to_pixels(first, 1e-4) + velocity_to_pixels(second, 1e-4)
    np.testing.assert_allclose(velocity_to_pixels(sum_rv, 1e-4), pixels, rtol=1e-9, atol=1e-7)


@given(start=st.floats(3.3, 4.3), step=st.floats(1e-6, 1e-2), n=st.integers(2, 60))
def test_edges_enclose_their_pixels(start, step, n):
    grid = log_grid(start, step, n)
    bounds = pixel_edges(grid)
    assert len(bounds) == n + 1
    assert np.all(bounds[:-1] < grid)
    assert np.all(grid < bounds[1:])


@given(seed=SEEDS, n_pixel=st.integers(1, 30), data=st.data())
def test_shifting_there_and_back_is_the_identity_inside(seed, n_pixel, data):
    n = np.array(data.draw(st.lists(st.integers(-40, 40), min_size=1, max_size=6)))
    array = np.random.default_rng(seed).integers(0, 99, (len(n), n_pixel))
    back = shift_pixels(shift_pixels(array, n, fill=-1), -n, fill=-1)
    kept = back != -1
    np.testing.assert_array_equal(back[kept], array[kept])
    np.testing.assert_array_equal(kept.sum(axis=1), np.maximum(n_pixel - np.abs(n), 0))


@settings(deadline=None)  # the first call reads compiled code
@given(edges_in=edges(st.floats(0, 50)), edges_out=edges(st.floats(0, 50)), seed=SEEDS)
def test_rebin_keeps_constants(edges_in, edges_out, seed):
    ivar = make_spectra(seed, 2, len(edges_in) - 1)[1].astype(np.float64)
    flux, ivar = rebin(np.full_like(ivar, 3.0), ivar, edges_in, edges_out)
    np.testing.assert_allclose(flux, np.where(ivar > 0, 3, 0), rtol=1e-9)


@given(
    edges_in=edges(st.just(10.0)), inner=st.lists(st.floats(0.01, 0.99), max_size=30), seed=SEEDS
)
def test_rebin_conserves_flux(edges_in, inner, seed):
    span = edges_in[-1] - edges_in[0]
    edges_out = np.unique(edges_in[0] + span * np.array([0.0, 1.0, *inner]))
    flux = np.random.default_rng(seed).uniform(1, 2, (3, len(edges_in) - 1))
    rebinned, _ = rebin(flux, np.ones_like(flux), edges_in, edges_out)
    # The oracle asks for 1e-6.
    np.testing.assert_allclose(rebinned @ np.diff(edges_out), flux @ np.diff(edges_in), rtol=1e-9)


@given(edges_in=edges(st.just(0.0)), edges_out=edges(st.floats(0, 20)), seed=SEEDS)
def test_rebin_is_linear_in_flux_and_inverse_in_ivar(edges_in, edges_out, seed):
    flux, ivar = (x.astype(np.float64) for x in make_spectra(seed, 2, len(edges_in) - 1))
    one, one_ivar = rebin(flux, ivar, edges_in, edges_out)
    other, other_ivar = rebin(5 * flux + 2, ivar / 9, edges_in, edges_out)
    np.testing.assert_allclose(other, np.where(one_ivar > 0, 5 * one + 2, 0), rtol=1e-9)
    np.testing.assert_allclose(other_ivar, one_ivar / 9, rtol=1e-9)


@given(seed=SEEDS, a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_smoothing_is_linear_and_symmetric(seed, a, b):
    x, y = np.random.default_rng(seed).random((2, 1, len(WAVELENGTH)))
    smooth_x, smooth_y = SMOOTHING.apply(x), SMOOTHING.apply(y)
    # float32 sums of 400 terms of order 1
    np.testing.assert_allclose(
        SMOOTHING.apply(a * x + b * y), a * smooth_x + b * smooth_y, atol=2e-3
    )
    np.testing.assert_allclose(np.vdot(y, smooth_x), np.vdot(x, smooth_y), rtol=1e-5)


@given(seed=SEEDS, level=st.floats(1e-3, 1e6))
def test_constants_are_normalized_to_one(seed, level):
    ivar = make_spectra(seed)[1]
    flux, ivar, continuum, bad = normalize(np.full_like(ivar, level) * (ivar > 0), ivar, SMOOTHING)
    # K(m f) and K(m) are float32 sums of 400 terms.
    np.testing.assert_allclose(flux[ivar > 0], 1, atol=1e-5)
    np.testing.assert_allclose(continuum[~bad], level, rtol=1e-5)


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_normalized_flux_does_not_depend_on_brightness(seed, scale):
    flux, ivar = make_spectra(seed)
    scale = np.float32(scale)
    one, one_ivar, _, _ = normalize(flux, ivar, SMOOTHING)
    other, other_ivar, _, _ = normalize(flux * scale, ivar / scale**2, SMOOTHING)
    np.testing.assert_allclose(other, one, rtol=2e-5)  # float32
    np.testing.assert_allclose(other_ivar, one_ivar, rtol=2e-5)


@settings(deadline=None)
@given(seed=SEEDS, order=st.permutations(range(6)), cut=st.integers(0, 6))
def test_order_and_batches_change_no_spectrum(seed, order, cut):
    flux, ivar = make_spectra(seed, 6)
    templates = make_spectra(seed + 1, 2)[0]
    whole = normalize(flux, ivar, SMOOTHING)
    rv = cross_correlate(flux, ivar, templates, max_lag=4)
    for rows in (order[:cut], order[cut:]):
        part = normalize(flux[rows], ivar[rows], SMOOTHING)
        for one, other in zip(part, whole, strict=True):
            np.testing.assert_allclose(one, other[rows], rtol=1e-5)  # float32 sums, other kernels
        part_rv = cross_correlate(flux[rows], ivar[rows], templates, max_lag=4)
        np.testing.assert_allclose(part_rv.rv, rv.rv[rows], rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(part_rv.template, rv.template[rows])


@given(seed=SEEDS, bad_bits=st.integers(0, 2**32 - 1))
def test_policy_only_takes_weight_and_only_sets_its_bit(seed, bad_bits):
    mask = np.random.default_rng(seed).integers(0, 2**32, (3, 20), dtype=np.uint32)
    ivar, flagged = apply_policy(np.ones((3, 20)), mask, bad_bits, 1 << 24)
    bad = mask & np.uint32(bad_bits) != 0
    np.testing.assert_array_equal(ivar == 0, bad)
    np.testing.assert_array_equal(flagged & ~np.uint32(1 << 24), mask & ~np.uint32(1 << 24))
    again = apply_policy(ivar, flagged, bad_bits, 1 << 24)
    np.testing.assert_array_equal(again[0], ivar)


@given(seed=SEEDS, bit=st.integers(0, 31))
def test_the_cost_of_a_flag_is_where_it_was_set(seed, bit):
    where = np.random.default_rng(seed).random((4, 25)) < 0.3
    cost = mask_cost(flag(np.zeros((4, 25), np.uint32), where, 1 << bit))
    assert cost[bit] == where.mean()
    assert cost.sum() == cost[bit]


@given(seed=SEEDS, lines=st.integers(1, 9), width=st.integers(1, 9))
def test_folding_and_unfolding_is_the_identity_and_keeps_neighbors(seed, lines, width):
    values = np.random.default_rng(seed).random((2, lines * width))
    np.testing.assert_array_equal(unfold(fold(values, width=width)), values)
    flat = fold(np.arange(lines * width), width=width)
    assert np.all(np.abs(np.diff(flat, axis=1)) == 1)
    steps = flat[1:] - flat[:-1]
    assert np.all(steps.min(axis=1) == 1)


OPERATORS = [
    degrade_operator(pixel_edges(WAVELENGTH), resolution_edges(*limits, power), 900.0, power)
    for limits, power in (((5100, 6500), 300.0), ((4500, 7000), 100.0), ((5200, 5600), 850.0))
]


@settings(deadline=None)
@given(seed=SEEDS, which=st.sampled_from(range(3)), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_degrading_is_linear_and_its_adjoint_is_one(seed, which, a, b):
    operator, rng = OPERATORS[which], np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 1, 300))
    z = rng.normal(size=(1, len(operator.first)))
    both = operator.smooth(a * x + b * y)
    np.testing.assert_allclose(both, a * operator.smooth(x) + b * operator.smooth(y), atol=1e-12)
    left, right = np.sum(operator.smooth(x) * z), np.sum(x * operator.adjoint(z))
    np.testing.assert_allclose(left, right, atol=1e-11)


@settings(deadline=None)
@given(seed=SEEDS, which=st.sampled_from(range(3)), level=st.floats(1e-3, 1e6))
def test_degrading_keeps_constants_whatever_the_mask(seed, which, level):
    ivar = make_spectra(seed)[1].astype(np.float64)
    flux, made = OPERATORS[which].apply(np.full_like(ivar, level), ivar)
    np.testing.assert_allclose(flux[made > 0], level, rtol=1e-9)
    assert np.all(flux[made == 0] == 0)


@settings(deadline=None)
@given(seed=SEEDS, order=st.permutations(range(6)), cut=st.integers(0, 6))
def test_degrading_and_joining_give_the_same_bytes_in_any_order_and_batch(seed, order, cut):
    flux, ivar = make_spectra(seed, 6)
    mask = (ivar == 0).astype(np.uint32)
    edges = resolution_edges(5100, 6500, 300.0)
    for apply in (
        lambda f, v, m: OPERATORS[0].apply(f, v),
        lambda f, v, m: join_arms([(WAVELENGTH, f, v, m)] * 2, edges),
    ):
        whole = apply(flux, ivar, mask)
        for rows in (order[:cut], order[cut:]):
            part = apply(flux[rows], ivar[rows], mask[rows])
            for one, other in zip(part, whole, strict=True):
                np.testing.assert_array_equal(one, other[rows])


@given(seed=SEEDS, order=st.permutations(range(6)))
def test_visits_combine_in_any_order(seed, order):
    flux, ivar = make_spectra(seed, 6)
    mask, star = (ivar == 0).astype(np.uint32), np.array([3, 1, 3, 3, 1, 2])
    whole = combine_visits(flux, ivar, mask, star)
    other = combine_visits(flux[order], ivar[order], mask[order], star[order])
    for one, two in zip(whole, other, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)  # sums of three in another order
    alone = whole[3] == 2
    np.testing.assert_array_equal(whole[0][alone][0], flux[5])


@given(seed=SEEDS, edges_out=edges(st.floats(0, 50)))
def test_bits_touched_are_all_and_only_those_under_a_pixel(seed, edges_out):
    mask = 1 << np.random.default_rng(seed).integers(0, 31, (1, 50)).astype(np.uint32)
    own = np.arange(51.0)
    made = touched_bits(mask, own, edges_out)
    for j in range(len(edges_out) - 1):
        under = (own[1:] > edges_out[j]) & (own[:-1] < edges_out[j + 1])
        assert made[0, j] == np.bitwise_or.reduce(mask[0, under], initial=0)
