import numpy as np
import pytest

from scalespec.kernels.mask import (
    APOGEE_BAD,
    FLANK,
    LAMOST,
    apply_policy,
    flag,
    mask_cost,
    policy_cost,
    spikes,
    window_mask,
)
from scalespec.kernels.wavelength import air_to_vacuum, log_grid

GRID = log_grid(3.5682, 1e-4, 3909)


def test_window_mask_agrees_with_a_loop():
    windows = [(4000.0, 4010.0), (4005.0, 4020.0), (9000.0, 99_000.0), (100.0, 200.0)]
    expected = [any(low <= x <= high for low, high in windows) for x in GRID]
    np.testing.assert_array_equal(window_mask(GRID, windows), expected)


def test_no_window_masks_nothing():
    assert not window_mask(GRID, []).any()


def test_window_mask_refuses_a_window_that_ends_before_it_begins():
    with pytest.raises(ValueError, match=r"got \(4010.0, 4000.0\)"):
        window_mask(GRID, [(4010.0, 4000.0)])


@pytest.mark.parametrize("air", [4046.56, 4358.34, 5460.75, 5577.34, 6300.30, 6363.78, 6863.96])
def test_every_sky_line_is_masked_by_three_angstrom_in_vacuum(air):
    line = float(air_to_vacuum(air))
    near = np.abs(GRID - line) < 2.99
    assert window_mask(GRID, LAMOST["SKY_LINE"])[near].all()


def test_sky_lines_cost_less_than_two_percent():
    kept = (GRID > 3750) & (GRID < 8950)
    assert 0.005 < window_mask(GRID, LAMOST["SKY_LINE"])[kept].mean() < 0.02


@pytest.mark.parametrize(
    ("name", "air"),
    [
        ("TELLURIC", 6276.6),  # Fraunhofer's a: head of the O2 γ band
        ("TELLURIC", 6869.0),  # past the head of B, 6867.2
        ("TELLURIC", 7593.7),  # head of A
        ("TELLURIC", 7200.0),  # water
        ("TELLURIC", 8227.0),  # Fraunhofer's Z, in a water band
        ("ARM_JOIN", 5892.9),  # Na I D, interstellar too
    ],
)
def test_bands_are_masked(name, air):
    assert window_mask(air_to_vacuum([air]), LAMOST[name]).all()


@pytest.mark.parametrize("air", [4861.33, 5183.6, 6562.8, 8498.0, 8542.1, 8662.1])
def test_lines_that_labels_come_from_are_kept(air):
    # Hβ, Mg b, Hα, Ca II triplet, with room for ±500 km/s
    for windows in LAMOST.values():
        line = float(air_to_vacuum(air))
        assert not window_mask(np.linspace(line - 8, line + 8, 17), windows).any()


def test_flag_sets_one_bit_and_leaves_the_rest():
    mask = np.random.default_rng(0).integers(0, 2**32, (3, 50), dtype=np.uint32)
    where = np.arange(50) % 3 == 0
    flagged = flag(mask, where, 1 << 31)
    assert flagged.dtype == np.uint32
    np.testing.assert_array_equal(flagged[:, where], mask[:, where] | np.uint32(1 << 31))
    np.testing.assert_array_equal(flagged[:, ~where], mask[:, ~where])


@pytest.mark.parametrize("bit", [-1, 1 << 32])
def test_flag_refuses_bits_beyond_32(bit):
    with pytest.raises(ValueError, match=f"got {bit}"):
        flag(np.zeros((1, 1), np.uint32), np.array([True]), bit)


def test_policy_of_bits_0_to_7_and_12():
    # The oracle's bits, 0x10FF: each alone is bad, every other alone is not.
    mask = (np.uint32(1) << np.arange(32, dtype=np.uint32))[np.newaxis]
    ivar, flagged = apply_policy(np.ones((1, 32), np.float32), mask, 0x10FF, 1 << 24)
    bad = np.isin(np.arange(32), [*range(8), 12])
    np.testing.assert_array_equal(ivar[0], np.where(bad, 0, 1))
    np.testing.assert_array_equal(flagged[0] & (1 << 24) != 0, bad | (np.arange(32) == 24))
    assert ivar.dtype == np.float32
    assert flagged.dtype == np.uint32


def test_policy_of_no_bits_trusts_every_pixel():
    mask = np.full((2, 3), 0xFFFFFFFF, np.uint32)
    ivar, flagged = apply_policy(np.ones((2, 3)), mask, 0, 1 << 24)
    assert ivar.all()
    np.testing.assert_array_equal(flagged, mask)


def test_policy_changes_its_input_nowhere():
    ivar, mask = np.ones((1, 2)), np.ones((1, 2), np.uint32)
    apply_policy(ivar, mask, 1, 2)
    assert ivar.all()
    assert (mask == 1).all()


def spectrum_with(bump):
    """Flat spectra at S/N 100 with `bump` added around pixel 50."""
    flux = np.ones((1, 101))
    flux[0, 50 : 50 + len(bump)] += bump
    return flux, np.full((1, 101), 1e4)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_cosmic_rays_are_spikes(width):
    flux, ivar = spectrum_with([2.0] * width)
    found = spikes(flux, ivar, threshold_sigma=6.0)
    np.testing.assert_array_equal(np.flatnonzero(found[0]), 50 + np.arange(width))


@pytest.mark.parametrize(
    ("bump", "why"),
    [
        ([0.25], "an emission core below the floor"),
        ([-0.8], "an absorption line"),
        ([0.4] * 12, "the top between two line blends"),
    ],
)
def test_features_of_stars_are_no_spikes(bump, why):
    assert not spikes(*spectrum_with(bump), threshold_sigma=6.0).any(), why


def test_a_spike_stands_above_its_own_noise():
    flux, ivar = spectrum_with([2.0])
    ivar[:] = 2.5  # 2.0 is 3.2 sigma now
    assert not spikes(flux, ivar, threshold_sigma=6.0).any()
    assert spikes(flux, ivar, threshold_sigma=3.0).any()


def test_noise_makes_no_spikes():
    rng = np.random.default_rng(8)
    sigma = rng.uniform(0.01, 1, (100, 1))
    flux = 1 + sigma * rng.normal(size=(100, 4000))
    ivar = np.broadcast_to(sigma**-2, flux.shape)
    # Gaussian noise passes 6 sigma once in 10^9.
    assert not spikes(flux, ivar, threshold_sigma=6.0, floor=0.01).any()


def test_masked_pixels_neither_are_nor_hide_spikes():
    flux, ivar = spectrum_with([2.0])
    flux[0, [20, 50 - FLANK]] = 9, 0
    ivar[0, [20, 50 - FLANK]] = 0
    assert np.flatnonzero(spikes(flux, ivar, threshold_sigma=6.0)[0]).tolist() == [50]


@pytest.mark.parametrize("edge", [0, 100])
def test_spikes_are_found_at_the_ends(edge):
    flux, ivar = spectrum_with([])
    flux[0, edge] = 5
    assert np.flatnonzero(spikes(flux, ivar, threshold_sigma=6.0)[0]).tolist() == [edge]


@pytest.mark.parametrize("thresholds", [(0.0, 0.3), (6.0, -0.1)])
def test_spikes_want_positive_thresholds(thresholds):
    sigma, floor = thresholds
    with pytest.raises(ValueError, match="positive thresholds"):
        spikes(np.ones((1, 9)), np.ones((1, 9)), threshold_sigma=sigma, floor=floor)


def test_spikes_refuse_arrays_that_differ():
    with pytest.raises(ValueError, match=r"\(1, 9\) and ivar \(1, 8\)"):
        spikes(np.ones((1, 9)), np.ones((1, 8)), threshold_sigma=6.0)


def test_mask_cost_agrees_with_counting():
    mask = np.random.default_rng(1).integers(0, 2**32, (7, 30), dtype=np.uint32)
    mask &= np.uint32(0x80FF00F1)
    expected = [np.mean([(int(x) >> bit) & 1 for x in mask.ravel()]) for bit in range(32)]
    np.testing.assert_allclose(mask_cost(mask), expected)


def test_mask_cost_of_nothing_is_nothing():
    assert not mask_cost(np.zeros((0, 10), np.uint32)).any()


def test_the_apogee_policy_is_that_of_the_oracle():
    assert sum(1 << bit for bit in (*range(8), 12)) == APOGEE_BAD == 4351


def test_cost_of_a_policy_agrees_with_counting():
    rng = np.random.default_rng(9)
    mask = np.bitwise_or.reduce(
        np.where(rng.random((5, 400, 4)) < 0.1, 1 << np.arange(4), 0), axis=2
    ).astype(np.uint32)
    ivar = rng.uniform(1, 3, mask.shape) * (rng.random(mask.shape) > 0.2)
    flux = np.where(ivar > 0, rng.uniform(1, 2, mask.shape), np.nan)
    cost = policy_cost(flux, ivar, mask, 0b1011)
    good = ivar > 0
    kept, _ = apply_policy(ivar, mask, 0b1011, 0)
    assert cost.pixels == pytest.approx(1 - (kept > 0).sum() / good.sum())
    before, after = (np.nansum(flux**2 * w) for w in (ivar, kept))
    assert cost.information == pytest.approx(1 - after / before)
    for bit in range(4):
        carries = good & (mask >> bit & 1 > 0)
        others = mask & (0b1011 & ~(1 << bit)) > 0
        asked = 0b1011 >> bit & 1
        assert cost.by_bit[bit] == pytest.approx(asked * carries.sum() / good.sum())
        assert cost.by_bit_alone[bit] == pytest.approx(
            asked * (carries & ~others).sum() / good.sum()
        )


def test_a_policy_costs_nothing_where_there_is_nothing():
    cost = policy_cost(np.full((1, 3), np.nan), np.zeros((1, 3)), np.ones((1, 3), np.uint32), 1)
    assert cost.pixels == cost.information == 0
