"""Orbits of made-up binaries: periods, velocity amplitudes, velocities at an epoch.

Circular orbits. Periods in days, masses solar, velocities km/s, times MJD.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

FloatArray = npt.NDArray[np.float64]

MEAN_LOG_PERIOD, SIGMA_LOG_PERIOD = 5.03, 2.28
"""Of log10(period / d) of Sun-like stars (Raghavan et al. 2010, ApJS 190, 1, section 5.3)."""
LONGEST_LOG_PERIOD = 5.5
"""Wider ones are two stars to a telescope."""
KMS = 212.908297
"""2 pi G M_sun / (1 d), to the power 1/3 [km/s], with the Sun's G M of 1.32712440018e11 km³/s²."""


def period(u: FloatArray, radius: FloatArray, mass: FloatArray) -> FloatArray:
    """Draw orbital periods: log-normal, cut where stars would touch and where they are resolved.

    Parameters
    ----------
    u : (n,) float
        Uniform numbers.
    radius, mass : (n,) float [solar]
        Radius of the larger star, both masses together: the orbit is at least three radii wide.

    Returns
    -------
    (n,) float64 [d]

    References
    ----------
    Kepler's third law; 0.1158 d is that of one solar radius around one solar mass.

    Examples
    --------
    The closest orbit of two suns, and the widest that is one star to a telescope.

    >>> period(np.array([1e-9, 1 - 1e-9]), np.ones(2), np.full(2, 2.0)).round(2)
    array([4.3000000e-01, 3.1622776e+05])
    """
    shortest = np.log10(0.1158 * np.sqrt((3.0 * radius) ** 3 / mass))
    low, high = (
        ndtr((edge - MEAN_LOG_PERIOD) / SIGMA_LOG_PERIOD)
        for edge in (np.minimum(shortest, LONGEST_LOG_PERIOD - 0.1), LONGEST_LOG_PERIOD)
    )
    return np.asarray(10 ** (MEAN_LOG_PERIOD + SIGMA_LOG_PERIOD * ndtri(low + u * (high - low))))


def amplitude(
    days: FloatArray, mass: FloatArray, mass_ratio: FloatArray, sin_i: FloatArray
) -> FloatArray:
    """Return the velocity amplitude K of the primary; the secondary's is that over the mass ratio.

    Examples
    --------
    The Earth moves the Sun by 9 cm/s.

    >>> amplitude(*(np.array([x]) for x in (365.25, 1.0, 3.003e-6, 1.0))).round(7)
    array([8.94e-05])
    """
    total = mass * (1.0 + mass_ratio)
    return np.asarray(KMS * sin_i * mass * mass_ratio / (total ** (2 / 3) * days ** (1 / 3)))


def orbital_velocity(
    k: FloatArray, days: FloatArray, phase: FloatArray, mjd: FloatArray
) -> FloatArray:
    """Return the primary's velocity relative to the system's.

    Parameters
    ----------
    k : (n,) float [km/s]
        0 for a star that is alone.
    days : (n,) float
        Period; means nothing where `k` is 0.
    phase : (n,) float
        At MJD 0, in turns.
    mjd : (n,) float [d]

    Examples
    --------
    A quarter of a turn after it crossed the sky's plane, and a star alone.

    >>> orbital_velocity(*(np.array(x) for x in ([10.0, 0.0], [4.0, 0.0], [0.0, 0.0], [1.0, 1.0])))
    array([10.,  0.])
    """
    turns = np.divide(mjd, days, out=np.zeros(np.shape(k)), where=days > 0) + phase
    return np.asarray(k * np.sin(2 * np.pi * (turns % 1.0)))
