"""Orbits of made-up binaries against Kepler's laws."""

import numpy as np
import pytest
from astropy import constants as c
from astropy import units as u

from scalespec.kernels import orbits


def test_amplitudes_obey_kepler():
    """K = 2 pi a_1 sin i / P, with a from the third law, in astropy's units."""
    rng = np.random.default_rng(1)
    days, mass, q, sin_i = (
        10 ** rng.uniform(0, 5, 50),
        rng.uniform(0.5, 10, 50),
        rng.random(50),
        rng.random(50),
    )
    total = mass * (1 + q) * u.Msun
    axis = np.cbrt(c.G * total * (days * u.day) ** 2 / (4 * np.pi**2))
    speed = (2 * np.pi * axis / (days * u.day)).to_value(u.km / u.s)
    assert np.allclose(
        orbits.amplitude(days, mass, q, sin_i), speed * q / (1 + q) * sin_i, rtol=1e-4
    )


def test_periods_keep_stars_apart_and_unresolved():
    even = np.linspace(0.0005, 0.9995, 1000)
    for radius, mass in ((1.0, 2.0), (30.0, 1.5)):
        days = orbits.period(even, np.full(1000, radius), np.full(1000, mass))
        assert np.all(np.diff(days) > 0)
        axis = np.cbrt(
            (c.G * mass * u.Msun * (days * u.day) ** 2 / (4 * np.pi**2)).to_value(u.Rsun**3)
        )
        assert axis.min() > 3 * radius
        assert days.max() < 10**orbits.LONGEST_LOG_PERIOD


def test_periods_of_dwarfs_are_log_normal():
    even = (np.arange(4000) + 0.5) / 4000
    log_days = np.log10(orbits.period(even, np.full(4000, 1e-3), np.full(4000, 1.0)))
    # the median of a Gaussian cut at 5.5, where 58 % of it lie below
    assert np.median(log_days) == pytest.approx(5.03 - 0.547 * 2.28, abs=0.05)


def test_velocities_repeat_with_the_period():
    k, days, phase = np.full(100, 20.0), np.full(100, 8.0), np.zeros(100)
    mjd = 57_000 + np.linspace(0, 8, 100, endpoint=False)
    rv = orbits.orbital_velocity(k, days, phase, mjd)
    assert rv.mean() == pytest.approx(0, abs=1e-9)
    assert rv.max() == pytest.approx(20, rel=1e-3)
    assert np.allclose(orbits.orbital_velocity(k, days, phase, mjd + 80), rv)
    assert np.all(orbits.orbital_velocity(0 * k, 0 * days, phase, mjd) == 0)
