"""What reaches a telescope: a star's light, dust on its way, the sky's light and the air's bands.

Wavelengths vacuum Å; flux densities erg/s/cm²/Å. Simple models for made-up observations.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Array32 = npt.NDArray[np.float32]

G_PIVOT, G_ZERO = 6217.6, 2.504e-9
"""Pivot wavelength [Å] of Gaia's G, and the flux of magnitude 0 (SVO filter service, Gaia EDR3)."""
EARTH_SPEED = 29.785
"""Mean velocity of the Earth in its orbit [km/s]."""
R_V = 3.1
"""Visual extinction over E(B-V) of the diffuse medium."""

SKY_LINES = (
    # Vacuum Å and width in Å of the continuum around it: mercury of towns, sodium, oxygen, ...
    *((4047.7, 6.0), (4359.6, 12.0), (5462.3, 12.0), (5578.9, 110.0), (5891.6, 30.0)),
    *((5897.6, 20.0), (6302.0, 40.0), (6365.5, 14.0), (6865.8, 12.0)),
    # ... hydroxyl bands of the red (Osterbrock et al. 1996, PASP 108, 277, to about an Å) ...
    *((7278.4, 12.0), (7318.3, 14.0), (7342.9, 16.0), (7371.3, 8.0), (7403.9, 8.0)),
    *((7752.8, 24.0), (7796.3, 24.0), (7823.7, 16.0), (7843.4, 12.0), (7915.9, 24.0)),
    *((7966.8, 24.0), (7995.5, 24.0), (8027.9, 20.0), (8064.2, 10.0), (8313.0, 12.0)),
    *((8346.9, 24.0), (8384.7, 16.0), (8401.5, 32.0), (8432.5, 44.0), (8454.6, 20.0)),
    *((8467.7, 16.0), (8495.7, 16.0), (8507.0, 16.0), (8770.3, 24.0), (8780.7, 24.0)),
    *((8793.6, 32.0), (8829.5, 44.0), (8838.4, 16.0), (8888.3, 44.0), (8905.5, 24.0)),
    *((8922.1, 32.0), (8960.6, 24.0), (9003.6, 20.0), (9378.5, 36.0), (9422.3, 36.0)),
    *((9442.2, 24.0), (9505.3, 20.0), (9522.0, 16.0)),
    # ... and of the H band (Rousselot et al. 2000, A&A 354, 1134).
    *((15187.1, 60.0), (15241.0, 110.0), (15287.8, 90.0), (15332.4, 110.0), (15432.2, 80.0)),
    *((15509.8, 40.0), (15539.7, 70.0), (15570.2, 60.0), (15597.6, 60.0), (15631.5, 60.0)),
    *((15702.5, 80.0), (15833.3, 90.0), (15848.1, 50.0), (15869.3, 60.0), (15972.6, 110.0)),
    *((16030.8, 100.0), (16079.8, 80.0), (16128.6, 90.0), (16194.6, 60.0), (16235.4, 90.0)),
    *((16317.2, 90.0), (16350.7, 90.0), (16388.5, 80.0), (16442.2, 80.0), (16502.4, 90.0)),
    *((16692.4, 110.0), (16708.9, 50.0), (16732.5, 60.0), (16840.5, 110.0), (16903.7, 110.0)),
)
"""Emission lines of the night sky: wavelength [Å, vacuum] and equivalent width [Å]."""

AIR_BANDS = (
    # Head [Å, vacuum], how far it reaches to the red [Å], optical depth at the head at R ~ 1800.
    *((6278.0, 25.0, 0.06), (6869.0, 22.0, 0.35), (6887.0, 25.0, 0.22)),  # O2 gamma, B
    *((7596.0, 22.0, 1.30), (7622.0, 45.0, 0.80)),  # O2 A: R and P branch
    *((7168.0, 60.0, 0.12), (7230.0, 90.0, 0.18), (8140.0, 60.0, 0.15)),  # H2O
    *((8220.0, 90.0, 0.15), (8945.0, 110.0, 0.25), (9310.0, 180.0, 0.70)),  # H2O
    *((15705.0, 60.0, 0.10), (16005.0, 60.0, 0.10), (16600.0, 120.0, 0.05)),  # CO2, CH4
)
"""Absorption bands of the air."""
_BRANCH = 2.0  # Å over which a band's head rises


def extinction(wavelength: FloatArray) -> FloatArray:
    """Return extinction in magnitudes per magnitude of E(B-V).

    Parameters
    ----------
    wavelength : (...) float [Å, vacuum]
        From 1,700 to 33,000.

    Returns
    -------
    (...) float64 [mag]

    Raises
    ------
    ValueError
        If a wavelength lies outside.

    References
    ----------
    Cardelli, Clayton & Mathis 1989, ApJ 345, 245, eqs. 1 to 4, with R(V) = 3.1.

    Examples
    --------
    >>> extinction(np.array([4400.0, 5494.5, 16500.0])).round(2)
    array([4.11, 3.1 , 0.56])
    """
    x = 1e4 / np.asarray(wavelength, np.float64)
    if np.any((x < 0.3) | (x > 5.9)):
        raise ValueError(f"wavelength must be 1700 to 33000 Å, got {np.ravel(wavelength)[[0, -1]]}")
    y = x - 1.82
    a = np.polyval([0.32999, -0.7753, 0.01979, 0.72085, -0.02427, -0.50447, 0.17699, 1.0], y)
    b = np.polyval([-2.09002, 5.3026, -0.62251, -5.38434, 1.07233, 2.28305, 1.41338, 0.0], y)
    infrared, ultraviolet = x < 1.1, x > 3.3
    a = np.where(infrared, 0.574 * x**1.61, a)
    b = np.where(infrared, -0.527 * x**1.61, b)
    a = np.where(ultraviolet, 1.752 - 0.316 * x - 0.104 / ((x - 4.67) ** 2 + 0.341), a)
    b = np.where(ultraviolet, -3.09 + 1.825 * x + 1.206 / ((x - 4.62) ** 2 + 0.263), b)
    return np.asarray(R_V * a + b)


def star_light(wavelength: FloatArray, teff: FloatArray, g: FloatArray, ebv: FloatArray) -> Array32:
    """Return the continuum of stars above the air: black bodies behind dust.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å, vacuum]
    teff : (n,) float [K]
    g : (n,) float [mag]
        Gaia's G, with the dust in front.
    ebv : (n,) float [mag]
        E(B-V).

    Returns
    -------
    (n, n_pixel) float32 [1e-17 erg/s/cm²/Å]

    Examples
    --------
    >>> one = np.ones(1)
    >>> star_light(6217.6 * one, 5772 * one, 15 * one, 0.1 * one).round(1)
    array([[250.4]], dtype=float32)
    """
    w = np.asarray(wavelength, np.float32)
    warmth = 1.43878e8 / np.asarray(teff, np.float64)[:, None]
    middle = np.expm1(warmth / G_PIVOT)
    planck = (np.float32(G_PIVOT) / w) ** 5 / np.expm1(warmth.astype(np.float32) / w)
    dimmed = (extinction(w) - extinction(np.array([G_PIVOT]))).astype(np.float32)
    dust = np.float32(-0.4 * np.log(10)) * np.asarray(ebv, np.float32)[:, None] * dimmed
    level = 1e17 * G_ZERO * 10 ** (-0.4 * np.asarray(g, np.float64)[:, None]) * middle
    return np.asarray(level.astype(np.float32) * planck * np.exp(dust))


def sky_light(wavelength: FloatArray, sigma: FloatArray, magnitude: float) -> FloatArray:
    """Return the sky in one fibre: a continuum of constant flux density, and emission lines.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å, vacuum]
    sigma : (n_pixel,) float [Å]
        Of the instrument's line spread function.
    magnitude : float
        In G, of the continuum in the fibre.

    Returns
    -------
    (n_pixel,) float64 [1e-17 erg/s/cm²/Å]

    Examples
    --------
    Dark sky, and oxygen's green line, at R = 1800.

    >>> sky_light(np.array([5000.0, 5578.9]), np.full(2, 1.3), 20.0).round(1)
    array([ 2.5, 87. ])
    """
    level = 1e17 * G_ZERO * 10 ** (-0.4 * magnitude)
    lines = np.zeros(len(wavelength))
    for center, width in SKY_LINES:
        x = (wavelength - center) / sigma
        near = np.abs(x) < 6
        if near.any():
            lines[near] += width / (2.5066 * sigma[near]) * np.exp(-0.5 * x[near] ** 2)
    return np.asarray(level * (1 + lines))


def air_transmission(wavelength: FloatArray) -> FloatArray:
    """Return what the air lets through at the zenith, (n_pixel,) float64 in 0..1.

    Examples
    --------
    >>> air_transmission(np.array([5500.0, 7598.0, 7650.0])).round(2)
    array([1.  , 0.3 , 0.58])
    """
    depth = np.zeros(len(wavelength))
    for head, reach, strength in AIR_BANDS:
        x = wavelength - head
        rise = np.clip(x / _BRANCH + 0.5, 0, 1)
        depth += strength * rise * np.exp(-np.maximum(x, 0) / reach)
    return np.asarray(np.exp(-depth))


def barycentric_velocity(ra: FloatArray, dec: FloatArray, mjd: FloatArray) -> FloatArray:
    """Return the Earth's velocity towards stars: what is added to a velocity seen from it.

    A circular orbit without the Earth's rotation: right to 1.2 km/s.

    Parameters
    ----------
    ra, dec : (n,) float [deg, ICRS]
    mjd : (n,) float [d]

    Returns
    -------
    (n,) float64 [km/s]

    References
    ----------
    Mean longitude of the Sun: Astronomical Almanac, low-precision formulae (C5).

    Examples
    --------
    >>> one = np.ones(1)  # the pole of the ecliptic
    >>> barycentric_velocity(270 * one, 66.561 * one, 58000 * one).round(2) + 0.0
    array([0.])
    """
    tilt, alpha, delta = np.radians(23.439), np.radians(ra), np.radians(dec)
    sun = np.radians(280.46 + 0.9856474 * (np.asarray(mjd) - 51544.5))
    heading = sun - np.pi / 2  # ecliptic longitude the Earth moves to
    x = np.cos(delta) * np.cos(alpha)
    y = np.cos(delta) * np.sin(alpha) * np.cos(tilt) + np.sin(delta) * np.sin(tilt)
    return np.asarray(EARTH_SPEED * (x * np.cos(heading) + y * np.sin(heading)))
