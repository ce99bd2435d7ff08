"""Observed spectra: noise is what ivar says, S/N follows the light, damage is what its bits say."""

from dataclasses import replace

import numpy as np
import pytest

from scalespec.kernels.observation_instrument import Arm, Instrument, Lost, along
from scalespec.kernels.observation_lsf import FWHM, LogGrid
from scalespec.kernels.observation_noise import (
    Conditions,
    Damage,
    Observed,
    Sources,
    observe_arm,
)
from scalespec.kernels.observation_surveys import INSTRUMENTS

ARM = Arm(
    name="a",
    start=np.log10(5000.0),
    step=1e-4,
    n_pixel=1200,
    resolving=((5000, 1800.0), (6600, 1800.0)),
    efficiency=((5000, 0.01), (6600, 0.01)),
)
PLAIN = Instrument(
    name="plain",
    arms=(ARM,),
    area=1e5,
    exposure=1000.0,
    sky_magnitude=30.0,
    read_noise=0.0,
    ground=False,
    fibre_droop=0.0,
    slope=0.0,
    level_step=0.0,
    sky_residual=0.0,
    flat_error=0.0,
    cosmic_rays=0.0,
    dead=0.0,
)
SPOILT = np.uint8(~(Damage.SKY | Damage.TELLURIC | Damage.LOST).value & 0xFF)


def looked_at(
    instrument: Instrument, arm: Arm, g: np.ndarray, *, seed: int = 1, **conditions
) -> Observed:
    """Observe stars of these magnitudes, without lines, from a model that covers the arm."""
    w, n = arm.wavelength, len(g)
    resolving = 1.5 * max(r for _, r in arm.resolving)
    step = 1 / (FWHM * np.log(10) * resolving * 2)
    margin = 0.004 + 20 * step * 5
    n_model = int((np.log10(w.max() / w.min()) + 2 * margin) / step)
    grid = LogGrid(np.log10(w.min()) - margin, step, n_model)
    flat = np.ones((n, n_model), np.float32)
    sources = Sources(flat, grid, resolving, np.full(n, 6000.0), g, np.full(n, 0.1), np.zeros(n))
    given = {"slit": np.zeros(n), "throughput": np.ones(n), "sky_velocity": np.zeros(n)}
    seen = Conditions(**(given | conditions))
    return observe_arm(instrument, arm, sources, seen, np.random.default_rng(seed))


def pulls(seen: Observed) -> np.ndarray:
    """Error over stated error, where the survey says nothing against a pixel."""
    good = (seen.ivar > 0) & (seen.damage & SPOILT == 0)
    return ((seen.flux - seen.truth) * np.sqrt(seen.ivar))[good]


@pytest.mark.parametrize(
    ("name", "index"),
    [(name, i) for name in sorted(INSTRUMENTS) for i in range(len(INSTRUMENTS[name].arms))],
)
def test_noise_is_what_ivar_says_for_every_instrument(name, index):
    """0.02: the sky's residual is one draw per spectrum, 300 of them where it matters."""
    instrument = INSTRUMENTS[name]
    arm = instrument.arms[index]
    seen = looked_at(instrument, arm, np.linspace(11, 17, 300))
    found = pulls(seen)
    assert found.std() == pytest.approx(1.0, abs=0.02)
    assert found.mean() == pytest.approx(0.0, abs=0.04)


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_wrong_ivar_is_wrong_by_its_factor(factor):
    seen = looked_at(PLAIN, ARM, np.full(60, 14.0), ivar_factor=(factor, factor))
    assert pulls(seen).std() == pytest.approx(np.sqrt(factor), rel=0.02)  # 0.3 % of 72,000 draws


def test_wrong_ivar_may_differ_along_the_spectrum():
    seen = looked_at(PLAIN, ARM, np.full(400, 14.0), ivar_factor=(4.0, 0.25))
    width = ((seen.flux - seen.truth) * np.sqrt(seen.ivar)).std(axis=0)
    expected = np.sqrt(np.geomspace(4.0, 0.25, 1200))
    assert np.median(np.abs(width / expected - 1)) < 0.05  # 3.5 % of 400 draws per pixel


def test_the_snr_stated_is_the_honest_one():
    honest = looked_at(PLAIN, ARM, np.full(5, 14.0))
    wrong = looked_at(PLAIN, ARM, np.full(5, 14.0), ivar_factor=(0.1, 0.1))
    assert np.array_equal(honest.snr, wrong.snr)
    assert np.array_equal(honest.flux, wrong.flux)


def test_bright_stars_have_the_snr_of_their_photons():
    """Two magnitudes are a factor of 6.31 in light, 2.51 in S/N; and the number itself by hand."""
    seen = looked_at(PLAIN, ARM, np.array([12.0, 14.0]))
    assert seen.snr[0] / seen.snr[1] == pytest.approx(10**0.4, rel=1e-3)
    flux = seen.truth[0, 600] * 1e-17  # erg/s/cm²/Å
    w = ARM.wavelength[600]
    energy = 6.62607015e-27 * 2.99792458e18 / w  # erg per photon, from SI constants
    photons = flux / energy * (w * np.log(10) * 1e-4) * 1e5 * 1000.0 * 0.01
    assert seen.truth[0, 600] * np.sqrt(seen.ivar[0, 600]) == pytest.approx(
        np.sqrt(photons), rel=2e-3
    )


def test_faint_stars_have_the_snr_of_read_noise_and_of_sky():
    for change in ({"read_noise": 1000.0}, {"sky_magnitude": 10.0}):
        seen = looked_at(replace(PLAIN, **change), ARM, np.array([18.0, 19.0]))
        assert seen.snr[0] / seen.snr[1] == pytest.approx(10**0.4, rel=0.02)  # linear in light


def test_no_pixel_is_better_known_than_the_flat_field():
    seen = looked_at(replace(PLAIN, flat_error=0.01), ARM, np.array([3.0]))
    assert seen.snr[0] == pytest.approx(100.0, rel=0.01)


def test_throughput_acts_on_noise_and_where_flux_is_relative_on_flux():
    half = {"throughput": np.array([1.0, 0.5])}
    absolute = looked_at(PLAIN, ARM, np.full(2, 13.0), **half)
    assert absolute.truth[0] == pytest.approx(absolute.truth[1])
    assert absolute.snr[0] / absolute.snr[1] == pytest.approx(np.sqrt(2), rel=1e-3)
    relative = looked_at(replace(PLAIN, relative=True), ARM, np.full(2, 13.0), **half)
    assert relative.truth[0] == pytest.approx(2 * relative.truth[1], rel=1e-5)
    assert relative.snr == pytest.approx(absolute.snr, rel=1e-5)


def test_uncalibrated_flux_is_electrons():
    arm = replace(ARM, efficiency=((5000, 0.005), (6600, 0.02)))
    half = {"throughput": np.array([1.0, 0.5])}
    seen = looked_at(replace(PLAIN, counts=True), arm, np.full(2, 13.0), **half)
    # noise of photons alone: the variance of a number of electrons is that number
    assert seen.truth == pytest.approx(1 / seen.ivar, rel=2e-3)
    assert seen.truth[0] == pytest.approx(2 * seen.truth[1], rel=1e-5)


def test_smoothed_noise_keeps_its_variance_and_joins_neighbours():
    seen = looked_at(PLAIN, ARM, np.full(100, 14.0), noise_sigma=1.0)
    errors = (seen.flux - seen.truth) * np.sqrt(seen.ivar)
    assert errors.std() == pytest.approx(1.0, abs=0.015)  # 120,000 draws, some three alike
    for lag in (1, 2, 3):
        # two Gaussians of sigma 1 make one of sigma sqrt(2)
        expected = np.exp(-(lag**2) / 4)
        assert np.mean(errors[:, lag:] * errors[:, :-lag]) == pytest.approx(expected, abs=0.02)
    white = looked_at(PLAIN, ARM, np.full(100, 14.0))
    errors = (white.flux - white.truth) * np.sqrt(white.ivar)
    assert np.mean(errors[:, 1:] * errors[:, :-1]) == pytest.approx(0.0, abs=0.015)


def test_sky_residuals_have_one_sign_over_a_spectrum():
    instrument = replace(PLAIN, ground=True, sky_magnitude=12.0, sky_residual=0.05)
    seen = looked_at(instrument, ARM, np.full(300, 18.0))
    lines = [int(np.argmin(np.abs(ARM.wavelength - w))) for w in (5578.9, 5894.6, 6302.0)]
    errors = ((seen.flux - seen.truth) * np.sqrt(seen.ivar))[:, lines]
    assert errors.std() == pytest.approx(1.0, abs=0.08)
    assert np.min(np.corrcoef(errors.T)) > 0.8


def test_what_stands_still_at_the_telescope_moves_in_the_files_frame():
    instrument = replace(PLAIN, ground=True, sky_magnitude=15.0)
    speeds = np.array([-300.0, 0.0, 300.0])
    seen = looked_at(instrument, ARM, np.full(3, 14.0), sky_velocity=speeds)
    tops = ARM.wavelength[np.argmax(seen.sky, axis=1)]
    expected = 5578.9 * (1 + speeds / 299792.458)
    assert np.abs(tops - expected).max() < 1.3  # a pixel


def test_air_is_left_in_or_divided_out_with_its_noise():
    arm = replace(ARM, start=np.log10(7300.0))
    left = looked_at(replace(PLAIN, ground=True), arm, np.full(2, 12.0))
    divided = looked_at(replace(PLAIN, ground=True, telluric_corrected=True), arm, np.full(2, 12.0))
    band = int(np.argmin(np.abs(arm.wavelength - 7598)))
    assert left.truth[0, band] / left.continuum[0, band] == pytest.approx(
        left.transmission[0, band]
    )
    assert left.transmission[0, band] < 0.5
    assert divided.truth[0, band] == pytest.approx(divided.continuum[0, band], rel=1e-5)
    assert divided.ivar[0, band] == pytest.approx(
        left.ivar[0, band] * left.transmission[0, band] ** 2, rel=1e-4
    )
    flagged = divided.damage & Damage.TELLURIC.value > 0
    assert np.array_equal(flagged, divided.transmission < 0.98)
    assert not np.any(left.damage & Damage.TELLURIC.value)


def test_divided_air_leaves_a_residue_of_either_sign():
    arm = replace(ARM, start=np.log10(7300.0))
    instrument = replace(PLAIN, ground=True, telluric_corrected=True, telluric_error=0.05)
    seen = looked_at(instrument, arm, np.full(300, 12.0))
    band, clear = (int(np.argmin(np.abs(arm.wavelength - w))) for w in (7598, 7500))
    left = np.log(seen.truth[:, band] / seen.continuum[:, band])
    depth = -np.log(seen.transmission[0, band])
    assert left.std() == pytest.approx(0.05 * depth, rel=0.17)  # 4 sigma of 300
    # the tail of a water band is still a hundredth deep there
    assert seen.truth[:, clear] == pytest.approx(seen.continuum[:, clear], rel=3e-3)


def test_calibration_errs_smoothly_and_steps_at_joins():
    arm = replace(ARM, joins=(5700.0,))
    bent = looked_at(replace(PLAIN, slope=1.0), arm, np.full(200, 12.0))
    ideal = looked_at(PLAIN, arm, np.full(200, 12.0))
    ratio = bent.continuum / ideal.continuum
    assert np.abs(np.diff(ratio, axis=1) / ratio[:, 1:]).max() < 0.01
    middle = np.log(ratio[:, 600])
    # Legendre at 0: P2 = -1/2, P4 = 3/8, P1 = P3 = 0
    assert middle.std() == pytest.approx(np.hypot(0.08 / 2, 0.03 * 3 / 8), rel=0.2)
    stepped = looked_at(replace(PLAIN, level_step=0.05), arm, np.full(200, 12.0))
    ratio = stepped.continuum / ideal.continuum
    steps = ratio[:, -1] / ratio[:, 0]
    assert steps.std() == pytest.approx(0.05 * np.sqrt(2), rel=0.2)
    inside = np.flatnonzero(np.abs(np.diff(ratio[0])) > 1e-4)
    assert arm.wavelength[inside + 1] == pytest.approx([5700.0], abs=1.4)


def test_cosmic_rays_are_spikes_mostly_seen():
    seen = looked_at(replace(PLAIN, cosmic_rays=5.0), ARM, np.full(400, 14.0))
    hit = seen.damage & (Damage.COSMIC | Damage.UNSEEN).value > 0
    errors = (seen.flux - seen.truth) * np.sqrt(seen.ivar)
    assert hit.sum() / 400 == pytest.approx(10.0, rel=0.07)  # two pixels each
    assert np.median(errors[hit]) > 10
    assert errors[~hit].std() == pytest.approx(1.0, abs=0.01)
    share = np.mean(seen.damage[hit] & Damage.COSMIC.value > 0)
    assert share == pytest.approx(0.9, abs=0.03)  # 4 sigma of 2000
    assert np.all(seen.ivar[hit] > 0)  # surveys differ in what they do about it


def test_dead_pixels_and_gaps_have_neither_weight_nor_flux():
    arm = replace(ARM, chips=((100, 500), (620, 1150)))
    seen = looked_at(replace(PLAIN, dead=0.01), arm, np.full(100, 14.0))
    off = np.ones(1200, bool)
    off[100:500] = off[620:1150] = False
    assert np.all(seen.damage[:, off] & Damage.NO_DATA.value > 0)
    gone = seen.damage & (Damage.DEAD | Damage.NO_DATA).value > 0
    assert np.all(seen.ivar[gone] == 0)
    assert np.all(seen.flux[gone] == 0)
    assert np.all(seen.ivar[~gone] > 0)
    assert np.mean(seen.damage[:, ~off] & Damage.DEAD.value > 0) == pytest.approx(0.01, rel=0.1)


def test_lost_stretches_have_flux_without_weight_in_part_of_the_spectra():
    lost = Lost((5500, 5520), (5700, 5800), 0.4, snr_below=200.0, flagged=False)
    g = np.repeat([9.0, 14.0], 500)
    seen = looked_at(replace(PLAIN, lost=(lost,)), ARM, g)
    gone = seen.ivar == 0
    faint = seen.snr < 200
    assert np.array_equal(faint, g == 14)
    assert not gone[~faint].any()
    middle = int(np.argmin(np.abs(ARM.wavelength - 5600)))
    assert gone[faint, middle].mean() == pytest.approx(0.4, abs=0.09)  # 4 sigma of 500
    assert np.all(seen.flux[gone] > 0)
    for row in np.flatnonzero(gone[:, middle])[:50]:
        first, last = ARM.wavelength[np.flatnonzero(gone[row])[[0, -1]]]
        assert 5498 < first < 5522
        assert 5698 < last < 5802
    empty = looked_at(replace(PLAIN, lost=(replace(lost, empty=True),)), ARM, g)
    assert np.array_equal(empty.ivar, seen.ivar)
    assert np.all(empty.flux[gone] == 0)
    flagged = looked_at(replace(PLAIN, lost=(replace(lost, flagged=True),)), ARM, g)
    assert np.any(flagged.damage & Damage.DEAD.value)


def test_pixels_below_the_least_snr_have_no_weight():
    instrument = replace(PLAIN, least_snr=1.0, read_noise=300.0)
    arm = replace(ARM, efficiency=((5000, 1e-5), (6600, 0.02)))
    seen = looked_at(instrument, arm, np.full(20, 17.0))
    kept = seen.ivar > 0
    assert 0.05 < kept.mean() < 0.95
    assert np.min((seen.truth * np.sqrt(seen.ivar))[kept]) >= 1.0


def test_neighbours_contaminate_a_tenth_of_some_spectra():
    seen = looked_at(replace(PLAIN, contaminated=0.3), ARM, np.full(500, 12.0))
    touched = seen.damage & Damage.CONTAMINATED.value > 0
    assert np.mean(touched.any(axis=1)) == pytest.approx(0.3, abs=0.08)  # 4 sigma of 500
    assert np.all(touched[touched.any(axis=1)].sum(axis=1) == 120)
    excess = (seen.flux - seen.truth) / seen.truth
    assert np.min(excess[touched]) > 0.0
    assert np.abs(np.median(excess[~touched])) < 0.01


def test_a_model_that_ends_early_leaves_no_data():
    grid = LogGrid(np.log10(5200.0), 2e-5, 3000)
    sources = Sources(
        np.ones((1, 3000), np.float32), grid, 4000.0, *np.array([[6000.0], [12.0], [0.0], [0.0]])
    )
    seen = observe_arm(
        PLAIN,
        ARM,
        sources,
        Conditions(np.zeros(1), np.ones(1), np.zeros(1)),
        np.random.default_rng(1),
    )
    known = seen.ivar[0] > 0
    w = ARM.wavelength
    assert not known[w < 5200].any()
    assert known[(w > 5230) & (w < 10 ** (grid.start + 2e-5 * 3000) - 30)].all()
    assert np.all(seen.damage[0, ~known] & Damage.NO_DATA.value > 0)


def test_the_same_seed_gives_the_same_numbers():
    instrument = INSTRUMENTS["lamost_lrs/pilot"]
    first, again = (looked_at(instrument, instrument.arms[0], np.full(4, 14.0)) for _ in range(2))
    other = looked_at(instrument, instrument.arms[0], np.full(4, 14.0), seed=2)
    for name in ("flux", "ivar", "damage", "truth"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.flux, other.flux)


def test_stars_without_a_magnitude_are_refused():
    with pytest.raises(ValueError, match="g of a star"):
        looked_at(PLAIN, ARM, np.array([12.0, np.nan]))


def test_curves_are_straight_between_pairs_and_level_beyond():
    found = along(((1.0, 10.0), (3.0, 20.0)), np.array([0.0, 2.0, 9.0]))
    assert found.tolist() == [10.0, 15.0, 20.0]


def test_bent_grids_change_their_step():
    arm = replace(ARM, step=1.1e-5, bend=-3.5e-10, n_pixel=4136)
    steps = np.diff(np.log10(arm.wavelength))
    assert steps[0] == pytest.approx(1.1e-5, rel=1e-3)
    assert steps[-1] == pytest.approx(1.1e-5 - 2 * 3.5e-10 * 4135, rel=1e-3)
