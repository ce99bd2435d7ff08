"""Where stars of an age and a metallicity lie on the Kiel diagram: smooth curves, no tables.

Turn-off, giant branch and main sequence are polynomials that we fitted to Dartmouth isochrones
(Dotter et al. 2008, ApJS 178, 89) of 1.5 to 14 Gyr and -2 <= [M/H] <= 0.5, good to 40 K on the
giant branch and some 2 % elsewhere: for made-up stars, not for ages of real ones. Ages in Gyr,
masses and radii solar, temperatures in K, log g in cgs.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Polynomial = dict[tuple[int, int], float]

LOG_G_SUN, TEFF_SUN = 4.438, 5772.0  # IAU 2015 Resolution B3
COOLEST_FIT, METALS_FIT = 0.45, (-2.2, 0.5)
"""Least mass, and [M/H], for which the polynomials mean something."""

# {(power of log10(age / 10 Gyr), power of [M/H]): coefficient}
_TURNOFF_MASS: Polynomial = {
    (0, 0): -0.0190, (1, 0): -0.2727, (2, 0): 0.0603, (0, 1): 0.0679, (0, 2): 0.0181,
    (1, 1): -0.0118,
}  # fmt: skip
_TURNOFF_TEFF: Polynomial = {
    (0, 0): 3.7611, (1, 0): -0.0868, (2, 0): 0.0552, (0, 1): -0.0468, (0, 2): -0.0021,
    (1, 1): 0.0592,
}  # fmt: skip
_TURNOFF_LOGG: Polynomial = {
    (0, 0): 4.2007, (1, 0): 0.3266, (2, 0): -0.3785, (0, 1): -0.0109, (0, 2): -0.0152,
    (1, 1): 0.3041,
}  # fmt: skip
_DROP: Polynomial = {
    (0, 0): 0.272, (1, 0): 0.017, (2, 0): -0.0888, (0, 1): -0.1133, (0, 2): -0.0256,
    (1, 1): 0.2042,
}  # fmt: skip
"""log g from the turn-off to the middle of the subgiants' way across."""
_WIDTH: Polynomial = {
    (0, 0): 0.0526, (1, 0): 0.0088, (2, 0): 0.0678, (0, 1): -0.0229, (0, 2): 0.0053,
    (1, 1): 0.09,
}  # fmt: skip
# {(power of log10(mass), power of [M/H]): coefficient}
_YOUNG_TEFF: Polynomial = {
    (0, 0): 3.7575, (1, 0): 0.6826, (2, 0): -0.1484, (3, 0): -0.9983, (0, 1): -0.0810,
    (0, 2): 0.0129, (0, 3): 0.0121, (1, 1): -0.1049, (2, 1): -0.1403, (1, 2): -0.0103,
}  # fmt: skip
_YOUNG_LOGG: Polynomial = {
    (0, 0): 4.4998, (1, 0): -1.2955, (2, 0): -1.3860, (3, 0): -0.7128, (0, 1): 0.0098,
    (0, 2): 0.0451, (0, 3): 0.0091, (1, 1): -0.3029, (2, 1): -1.2288, (1, 2): 0.0460,
}  # fmt: skip


def metals(fe_h: FloatArray, alpha_fe: FloatArray) -> FloatArray:
    """Return [M/H] of stars of an [alpha/Fe] (Salaris, Chieffi & Straniero 1993, ApJ 414, 580)."""
    return np.asarray(fe_h + np.log10(0.638 * 10.0**alpha_fe + 0.362))


def turnoff_mass(age: FloatArray, m_h: FloatArray) -> FloatArray:
    """Return the mass at the hottest point of an isochrone.

    Examples
    --------
    >>> turnoff_mass(np.array([2.0, 10.0]), np.zeros(2)).round(2)
    array([1.59, 0.96])
    """
    return np.asarray(10.0 ** _poly(_TURNOFF_MASS, _log_age(age), _fit_range(m_h)))


def turnoff_age(mass: FloatArray, m_h: FloatArray) -> FloatArray:
    """Return the age at which stars of a mass are at the turn-off: the inverse of `turnoff_mass`.

    Examples
    --------
    >>> m_h = np.array([-1.0, 0.0])
    >>> turnoff_age(turnoff_mass(np.array([3.0, 8.0]), m_h), m_h).round(6)
    array([3., 8.])
    """
    z, c = _fit_range(m_h), _TURNOFF_MASS
    constant = c[0, 0] + c[0, 1] * z + c[0, 2] * z**2 - np.log10(mass)
    linear = c[1, 0] + c[1, 1] * z
    root = np.sqrt(np.maximum(linear**2 - 4 * c[2, 0] * constant, 0.0))
    return np.asarray(10.0 ** (1.0 + (-linear - root) / (2 * c[2, 0])))


def dwarf(mass: FloatArray, age: FloatArray, m_h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return Teff and log g of stars on the main sequence.

    Parameters
    ----------
    mass : (n,) float [solar]
        0.45 to 1.7; one beyond the turn-off is put there.
    age : (n,) float [Gyr]
    m_h : (n,) float

    Examples
    --------
    >>> sun = dwarf(np.array([1.0]), np.array([4.6]), np.array([0.0]))
    >>> [float(x[0].round(2)) for x in sun]
    [5791.47, 4.41]
    """
    z = _fit_range(m_h)
    mass = np.maximum(np.minimum(mass, turnoff_mass(age, m_h)), COOLEST_FIT)
    life = turnoff_age(mass, m_h)
    lived = np.clip(age / life, 0.0, 1.0)
    x, log_mass = _log_age(np.minimum(life, 20.0)), np.log10(mass)
    begin = _poly(_YOUNG_TEFF, log_mass, z), _poly(_YOUNG_LOGG, log_mass, z)
    end = _poly(_TURNOFF_TEFF, x, z), _poly(_TURNOFF_LOGG, x, z)
    fades = np.minimum(1.0, 20.0 / life)  # stars that live longer never get that far
    warmer, lighter = (fades * (b - a) for a, b in zip(begin, end, strict=True))
    # Gravity falls late, temperature all the time; so the Sun comes out as it is.
    return 10.0 ** (begin[0] + lived * warmer), begin[1] + lived**2 * np.minimum(lighter, 0.0)


def evolved(logg: FloatArray, age: FloatArray, m_h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return Teff and mass of subgiants and giants on their first way up.

    Parameters
    ----------
    logg : (n,) float
        Between the turn-off's and 0.
    age : (n,) float [Gyr]
    m_h : (n,) float

    Examples
    --------
    >>> teff, mass = evolved(np.array([3.0, 1.5]), np.full(2, 5.0), np.zeros(2))
    >>> teff.round(), mass.round(2)
    (array([4803., 4078.]), array([1.23, 1.23]))
    """
    x, z = _log_age(age), _fit_range(m_h)
    top = _poly(_TURNOFF_LOGG, x, z)
    drop, width = np.maximum(_poly(_DROP, x, z), 0.1), np.maximum(_poly(_WIDTH, x, z), 0.03)
    across = 1.0 / (1.0 + np.exp(-np.clip((logg - top + drop) / width, -50.0, 50.0)))
    above = 10.0 ** _poly(_TURNOFF_TEFF, x, z) - giant_teff(top, age, m_h)
    start = 1.0 / (1.0 + np.exp(-drop / width))
    teff = giant_teff(logg, age, m_h) + above * across / start
    mass = turnoff_mass(age, m_h) * (1.0 + 0.05 * np.clip((top - logg) / 0.9, 0.0, 1.0))
    return np.asarray(teff), np.asarray(mass)


def giant_teff(logg: FloatArray, age: FloatArray, m_h: FloatArray) -> FloatArray:
    """Return Teff of the first giant branch at some log g."""
    g, z = np.minimum(logg, 3.6) - 2.5, _fit_range(m_h)
    teff = 4547.0 + 463.0 * g - 41.0 * g**2 - 473.0 * z - 58.0 * z**2 + 16.0 * g * z
    return np.asarray(teff - 117.0 * _log_age(age) + 120.0 * np.maximum(logg - 3.6, 0.0))


def turnoff_logg(age: FloatArray, m_h: FloatArray) -> FloatArray:
    """Return log g at the turn-off."""
    return _poly(_TURNOFF_LOGG, _log_age(age), _fit_range(m_h))


def base_logg(age: FloatArray, m_h: FloatArray) -> FloatArray:
    """Return log g at the foot of the giant branch, where subgiants have come across."""
    x, z = _log_age(age), _fit_range(m_h)
    way = np.maximum(_poly(_DROP, x, z), 0.1) + 2 * np.maximum(_poly(_WIDTH, x, z), 0.03)
    return np.asarray(_poly(_TURNOFF_LOGG, x, z) - way)


def young_star(
    mass: FloatArray, lived: FloatArray, m_h: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return Teff and log g of main-sequence stars of 1.5 to 20 solar masses.

    Parameters
    ----------
    mass : (n,) float [solar]
    lived : (n,) float
        Fraction of the main-sequence life that is over: it cools a star by 20 % and takes 0.7 dex
        of its gravity.
    m_h : (n,) float
        Fewer metals are hotter, 0.03 dex per dex.

    References
    ----------
    Zero-age luminosity and radius: Tout et al. 1996, MNRAS 281, 257, eqs. 1 and 2, for Z = 0.02.

    Examples
    --------
    Two solar masses at birth and at the end.

    >>> teff, logg = young_star(np.full(2, 2.0), np.array([0.0, 1.0]), np.zeros(2))
    >>> teff.round(), logg.round(2)
    (array([9082., 7264.]), array([4.33, 3.63]))
    """
    m = np.asarray(mass, np.float64)
    luminosity = (0.39704170 * m**5.5 + 8.52762600 * m**11) / (
        0.00025546 + m**3 + 5.43288900 * m**5 + 5.56357900 * m**7 + 0.78866060 * m**8
        + 0.00586685 * m**9.5
    )  # fmt: skip
    radius = (
        1.71535900 * m**2.5 + 6.59778800 * m**6.5 + 10.08855000 * m**11 + 1.01249500 * m**19
        + 0.07490166 * m**19.5
    ) / (
        0.01077422 + 3.08223400 * m**2 + 17.84778000 * m**8.5 + m**18.5 + 0.00022582 * m**19.5
    )  # fmt: skip
    teff = TEFF_SUN * luminosity**0.25 / np.sqrt(radius)
    logg = LOG_G_SUN + np.log10(m) - 2 * np.log10(radius)
    return teff * 10.0 ** (-0.097 * lived**2 - 0.03 * m_h), logg - 0.7 * lived**1.3


def main_sequence_life(mass: FloatArray) -> FloatArray:
    """Return about how long stars of 1.5 to 20 solar masses burn hydrogen [Gyr]."""
    return np.asarray(0.008 + 10.0 * np.asarray(mass) ** -2.8)


def horizontal_branch(
    place: FloatArray, blue: npt.NDArray[np.bool_], m_h: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return Teff and log g of stars that burn helium.

    Parameters
    ----------
    place : (n,) float
        0 to 1, from cool to hot.
    blue : (n,) bool
        On the blue branch, from 7,500 to 30,000 K, where luminosity falls beyond 12,000 K; else in
        the red clump, hotter for fewer metals.
    m_h : (n,) float

    Examples
    --------
    >>> half, solar = np.full(2, 0.5), np.zeros(2)
    >>> teff, logg = horizontal_branch(half, np.array([False, True]), solar)
    >>> teff.round(), logg.round(2)
    (array([ 4790., 11168.]), array([2.42, 3.73]))
    """
    log_teff = np.log10(7500.0) + np.log10(4.0) * place**1.8
    log_light = 1.62 - 0.9 * np.maximum(log_teff - np.log10(12000.0), 0.0)
    light_logg = LOG_G_SUN + np.log10(0.58) + 4 * (log_teff - np.log10(TEFF_SUN)) - log_light
    clump = 4790.0 - 250.0 * m_h + 120.0 * (place - 0.5), 2.42 - 0.06 * m_h + 0.1 * (place - 0.5)
    return np.where(blue, 10.0**log_teff, clump[0]), np.where(blue, light_logg, clump[1])


def _log_age(age: FloatArray) -> FloatArray:
    return np.asarray(np.log10(age) - 1.0)


def _fit_range(m_h: FloatArray) -> FloatArray:
    return np.clip(m_h, *METALS_FIT)


def _poly(terms: Polynomial, x: FloatArray, z: FloatArray) -> FloatArray:
    return np.asarray(sum(c * x**p * z**q for (p, q), c in terms.items()))
