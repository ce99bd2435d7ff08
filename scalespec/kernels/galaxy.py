"""Where made-up stars are and how they move: fields on the sky, a dust slab, disks and a halo.

Positions ICRS degrees, distances kpc, velocities km/s, proper motions mas/yr with cos(dec).
"""

import numpy as np
import numpy.typing as npt

from scalespec.kernels.draws import keys, uniform

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FIELD_STARS = 1000
"""Stars per field of the sky: two plates see each field."""
FIELD_RADIUS = 2.3
"""Degrees."""
DEC_RANGE = (-6.0, 56.0)
"""Of the fields' centers: where LAMOST can point."""
_FIELD = 2  # kind of key

TO_GALACTIC = np.array([
    [-0.0548755604, -0.8734370902, -0.4838350155],
    [+0.4941094279, -0.4448296300, +0.7469822445],
    [-0.8676661490, -0.1980763734, +0.4559837762],
])  # fmt: skip
"""Rotation from ICRS to Galactic axes (ESA 1997, SP-1200, vol. 1, eq. 1.5.11)."""
R_SUN_KPC = 8.178  # GRAVITY collaboration 2019, A&A 625, L10
CIRCULAR_KMS = 233.4
SUN_KMS = np.array([11.1, 12.24 + CIRCULAR_KMS, 7.25])  # Schönrich et al. 2010, MNRAS 403, 1829
KMS_PER_MAS_KPC = 4.740470463
"""km/s of 1 mas/yr at 1 kpc."""

POPULATIONS = ("young disk", "thin disk", "thick disk", "halo", "very metal-poor halo")
YOUNG, THIN, THICK, HALO, POOR = range(5)
_DISPERSION = np.array([
    [15.0, 10.0, 7.0], [35.0, 23.0, 18.0], [65.0, 45.0, 40.0], [150.0, 95.0, 90.0],
    [150.0, 95.0, 90.0],
])  # fmt: skip
"""Radially, along the rotation and across the plane [km/s] (Bland-Hawthorn & Gerhard 2016)."""
_LAG = np.array([3.0, 12.0, 50.0, 220.0, 220.0])
"""How much slower than the circular velocity the populations turn [km/s]."""
_HIGHEST = np.array([0.4, 1.2, 4.0, 40.0, 40.0])
_FARTHEST = np.array([5.0, 5.0, 8.0, 40.0, 40.0])
"""Where a population ends: height over the plane, distance [kpc]."""

DUST_SCALE_KPC = 0.125
DUST_PER_KPC = 0.45
"""E(B - V) along one kpc of the plane."""


def field_center(seed: int, field: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return RA and Dec of fields' centers [deg], evenly spread over the sky that is seen."""
    u = uniform(keys(seed, _FIELD, np.atleast_1d(field)), 2)
    low, high = np.sin(np.radians(DEC_RANGE))
    return 360.0 * u[:, 0], np.degrees(np.arcsin(low + (high - low) * u[:, 1]))


def offset(
    ra: FloatArray, dec: FloatArray, radius: FloatArray, turn: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return positions some degrees away, in a direction from 0 to 1 turn of north over east."""
    d, a, r = np.radians(dec), 2 * np.pi * turn, np.radians(radius)
    sin_dec = np.sin(d) * np.cos(r) + np.cos(d) * np.sin(r) * np.cos(a)
    east = np.arctan2(np.sin(a) * np.sin(r) * np.cos(d), np.cos(r) - np.sin(d) * sin_dec)
    return (ra + np.degrees(east)) % 360.0, np.degrees(np.arcsin(np.clip(sin_dec, -1.0, 1.0)))


def galactic_latitude_sine(ra: FloatArray, dec: FloatArray) -> FloatArray:
    """Return the sine of the Galactic latitude.

    Examples
    --------
    The north Galactic pole lies at RA 192.85948, Dec 27.12825.

    >>> galactic_latitude_sine(np.array([192.85948]), np.array([27.12825])).round(6)
    array([1.])
    """
    return np.asarray((TO_GALACTIC @ _triad(ra, dec)[0])[2])


def reddening(distance: FloatArray, sin_b: FloatArray, clumps: FloatArray) -> FloatArray:
    """Return E(B - V) through an exponential slab of dust.

    Parameters
    ----------
    distance : (n,) float [kpc]
    sin_b : (n,) float
        Sine of the Galactic latitude.
    clumps : (n,) float
        Factor by which the dust on this line of sight is more than the slab's.

    Examples
    --------
    >>> reddening(np.array([1.0, 1.0]), np.array([0.0, 1.0]), np.ones(2)).round(3)
    array([0.45 , 0.056])
    """
    depth = np.maximum(np.abs(sin_b) / DUST_SCALE_KPC, 1e-9)
    return np.asarray(DUST_PER_KPC * clumps * -np.expm1(-depth * distance) / depth)


def farthest(population: IntArray, sin_b: FloatArray) -> FloatArray:
    """Return how far away stars of a population can be in a direction [kpc]."""
    height = _HIGHEST[population] / np.maximum(np.abs(sin_b), 1e-9)
    return np.asarray(np.minimum(height, _FARTHEST[population]))


def velocity(
    ra: FloatArray,
    dec: FloatArray,
    distance: FloatArray,
    *,
    population: IntArray,
    age: FloatArray,
    z: FloatArray,
) -> FloatArray:
    """Draw velocities relative to the Sun, along Galactic axes (center, rotation, north pole).

    Parameters
    ----------
    ra, dec : (n,) float [deg]
    distance : (n,) float [kpc]
    population : (n,) int
        Index into `POPULATIONS`.
    age : (n,) float [Gyr]
        The thin disk heats with it, as its power 0.33.
    z : (n, 3) float
        Standard normal numbers.

    Returns
    -------
    (n, 3) float64 [km/s]

    Examples
    --------
    The mean star of the thin disk, beside the Sun: what the Sun moves, and the disk's lag.

    >>> one = np.ones(1)
    >>> here = 266.4 * one, -28.9 * one, 1e-3 * one
    >>> velocity(*here, population=np.array([THIN]), age=5 * one, z=np.zeros((1, 3))).round(1)
    array([[-11.1, -24.2,  -7.2]])
    """
    x, y, _ = TO_GALACTIC @ _triad(ra, dec)[0] * distance
    x = x - R_SUN_KPC
    outward = np.stack([x, y]) / np.hypot(x, y)
    heat = np.where(population == THIN, (np.clip(age, 1.0, 10.0) / 5.0) ** 0.33, 1.0)
    radial, turning, up = (_DISPERSION[population] * heat[:, None] * z).T
    turning = turning + CIRCULAR_KMS - _LAG[population]
    along_x = radial * outward[0] + turning * outward[1]
    along_y = radial * outward[1] - turning * outward[0]
    return np.asarray(np.stack([along_x, along_y, up], axis=1) - SUN_KMS)


def seen_motion(
    ra: FloatArray, dec: FloatArray, distance: FloatArray, moves: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Project velocities onto the sky: rv [km/s], pmra and pmdec [mas/yr].

    Parameters
    ----------
    ra, dec : (n,) float [deg]
    distance : (n,) float [kpc]
    moves : (n, 3) float [km/s]
        As `velocity` returns them.

    Examples
    --------
    What moves towards the center of the Galaxy, seen there and 90° from it.

    >>> ra, dec, away = np.array([266.405, 318.004]), np.array([-28.936, 48.330]), np.ones(2)
    >>> rv, pmra, pmdec = seen_motion(ra, dec, away, np.array([[10.0, 0, 0], [10.0, 0, 0]]))
    >>> rv.round(1) + 0.0, np.hypot(pmra, pmdec).round(1)
    (array([10.,  0.]), array([0. , 2.1]))
    """
    axes = _triad(ra, dec)
    space = TO_GALACTIC.T @ moves.T  # along ICRS axes
    rv, east, north = (np.sum(axis * space, axis=0) for axis in axes)
    return rv, east / (KMS_PER_MAS_KPC * distance), north / (KMS_PER_MAS_KPC * distance)


def _triad(ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return unit vectors (3, n) along ICRS axes: outward, east, north."""
    a, d = np.radians(ra), np.radians(dec)
    zero = np.zeros_like(a)
    outward = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    east = np.stack([-np.sin(a), np.cos(a), zero])
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
    return outward, east, north
