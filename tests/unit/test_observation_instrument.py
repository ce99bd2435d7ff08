"""Instruments as data: pixels, curves and the surveys' own grids."""

from dataclasses import replace

import numpy as np
import pytest

from scalespec.kernels.observation_instrument import Arm, along, line_sigma
from scalespec.kernels.observation_surveys import INSTRUMENTS
from scalespec.kernels.wavelength import log10_step

ARM = Arm("x", 3.6, 1e-4, 500, resolving=((4000, 1500), (4400, 2100)), efficiency=((4000, 0.1),))
ARMS = [(name, arm) for name in sorted(INSTRUMENTS) for arm in INSTRUMENTS[name].arms]
EVERY = pytest.mark.parametrize(("name", "arm"), ARMS, ids=[f"{n} {a.name}" for n, a in ARMS])


def test_curves_are_straight_between_points_and_level_beyond():
    curve = ((4000, 1.0), (5000, 3.0), (5500, 2.0))
    found = along(curve, np.array([3000.0, 4000.0, 4250.0, 5250.0, 9000.0]))
    assert found.tolist() == [1.0, 1.0, 1.5, 2.5, 2.0]
    assert along(((4000, 7.0),), np.array([1.0, 1e5])).tolist() == [7.0, 7.0]
    assert along(curve, np.zeros(0)).shape == (0,)


def test_pixels_are_even_in_their_logarithm_or_in_angstrom_or_bend():
    assert log10_step(ARM.wavelength) == 1e-4
    linear = replace(ARM, log=False, start=4000.0, step=1.2)
    assert np.diff(linear.wavelength) == pytest.approx(np.full(499, 1.2))
    bent = replace(ARM, bend=-1e-9)
    steps = np.diff(np.log10(bent.wavelength))
    # the step of pixel i is that of its place: step + bend (2 i + 1)
    assert steps == pytest.approx(1e-4 - 1e-9 * (2 * np.arange(499) + 1), rel=1e-9)


def test_fibres_at_the_slits_ends_resolve_less():
    wavelength = np.array([4000.0, 4200.0, 5000.0])
    power = ARM.resolving_power(wavelength, np.array([0.0, 0.1]))
    assert power[0].tolist() == [1500.0, 1800.0, 2100.0]
    assert power[1] == pytest.approx(0.9 * power[0])


def test_detectors_are_where_they_are_said_to_be():
    assert ARM.on_chip().all()
    chips = replace(ARM, chips=((0, 3), (10, 12), (499, 900))).on_chip()
    assert np.flatnonzero(chips).tolist() == [0, 1, 2, 10, 11, 499]


def test_a_line_is_as_wide_as_its_fwhm_over_gaussian_sigma():
    w = ARM.wavelength
    fwhm = w / np.interp(w, [4000, 4400], [1500, 2100])
    assert line_sigma(ARM) == pytest.approx(fwhm / np.sqrt(8 * np.log(2)))


@EVERY
def test_every_arm_ascends_within_its_curves_and_sees_light(name, arm):
    wavelength = arm.wavelength
    assert np.all(np.diff(wavelength) > 0)
    assert 2000 < wavelength[0] < wavelength[-1] < 18_000
    for curve in (arm.resolving, arm.efficiency):
        places = [place for place, _ in curve]
        assert places == sorted(places), "np.interp wants them so"
        assert min(value for _, value in curve) > 0
        assert places[0] < wavelength[-1]
        assert places[-1] > wavelength[0]
    assert along(arm.efficiency, wavelength).max() < 1
    assert arm.on_chip().mean() > 0.5
    assert all(wavelength[0] < join < wavelength[-1] for join in arm.joins)


@EVERY
def test_every_line_spread_function_is_sampled(name, arm):
    """Half a pixel of sigma is the least that interpolation serves; XP's are broad."""
    pixels = line_sigma(arm) / np.gradient(arm.wavelength)
    assert pixels.min() > 0.5
    assert pixels.max() < 20


@pytest.mark.parametrize("name", sorted(INSTRUMENTS))
def test_every_instrument_has_numbers_that_mean_something(name):
    instrument = INSTRUMENTS[name]
    assert instrument.area > 0
    assert instrument.exposure > 0
    assert instrument.unit > 0
    assert instrument.read_noise >= 0
    assert 0 <= instrument.fibre_droop < 0.5
    assert 0 <= instrument.contaminated <= 1
    assert len({arm.name for arm in instrument.arms}) == len(instrument.arms)
    for lost in instrument.lost:
        assert lost.first[0] <= lost.first[1]
        assert lost.first[1] <= lost.last[1]
        assert 0 < lost.fraction <= 1
