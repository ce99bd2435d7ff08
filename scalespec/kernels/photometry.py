"""Magnitudes of made-up stars: Gaia G and BP - RP, 2MASS J and K (Vega), with extinction.

Colors and the bolometric correction follow temperature alone, by a short table rounded from the
mean dwarf sequence of Pecaut & Mamajek (2013, ApJS 208, 9): some 0.05 mag for FGK stars.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

M_BOL_SUN = 4.74  # IAU 2015 Resolution B2
TEFF_SUN, LOG_G_SUN = 5772.0, 4.438
_TEFF = (
    3000, 3500, 3800, 4000, 4500, 5000, 5500, 5772, 6000, 7000, 8000, 10000, 15000, 20000, 32000,
)  # fmt: skip
_COLORS = {
    "bc_g": (
        -1.75, -0.95, -0.62, -0.45, -0.18, -0.03, 0.05, 0.08, 0.08, 0.07, 0.02, -0.25, -1.15, -1.85,
        -3.00,
    ),
    "bp_rp": (
        2.90, 2.20, 1.90, 1.71, 1.32, 1.07, 0.89, 0.82, 0.76, 0.49, 0.25, 0.00, -0.20, -0.30, -0.42,
    ),
    "g_k": (
        4.10, 3.35, 3.05, 2.85, 2.38, 1.92, 1.55, 1.41, 1.28, 0.80, 0.42, 0.00, -0.38, -0.58, -0.82,
    ),
    "j_k": (
        0.88, 0.86, 0.85, 0.83, 0.70, 0.55, 0.41, 0.36, 0.32, 0.20, 0.11, 0.00, -0.07, -0.12, -0.19,
    ),
}  # fmt: skip
EXTINCTION = {"g": 2.5, "bp_rp": 1.3, "j": 0.72, "k": 0.31}
"""Of a band, or reddening of a color, over E(B - V): Casagrande & VandenBerg 2018, MNRAS 479, L102,
rounded; Schlafly & Finkbeiner 2011, ApJ 737, 103, table 6, for J and K."""


def absolute_magnitude(teff: FloatArray, logg: FloatArray, mass: FloatArray) -> FloatArray:
    """Return M_G of stars of a mass [solar].

    Examples
    --------
    >>> absolute_magnitude(np.array([5772.0]), np.array([4.438]), np.array([1.0])).round(2)
    array([4.66])
    """
    log_light = np.log10(mass) - logg + LOG_G_SUN + 4 * np.log10(teff / TEFF_SUN)
    return np.asarray(M_BOL_SUN - 2.5 * log_light - _color("bc_g", teff))


def bolometric_k(teff: FloatArray) -> FloatArray:
    """Return the bolometric correction in K: M_K is the bolometric magnitude less this.

    Examples
    --------
    >>> bolometric_k(np.array([5772.0])).round(2)
    array([1.49])
    """
    return np.asarray(_color("bc_g", teff) + _color("g_k", teff))


def magnitudes(teff: FloatArray, g: FloatArray, ebv: FloatArray) -> dict[str, FloatArray]:
    """Return what a star of apparent, extinguished `g` shows: ``g``, ``bp_rp``, ``j``, ``k``."""
    bare = g - EXTINCTION["g"] * ebv
    k = bare - _color("g_k", teff)
    return {
        "g": g,
        "bp_rp": _color("bp_rp", teff) + EXTINCTION["bp_rp"] * ebv,
        "j": k + _color("j_k", teff) + EXTINCTION["j"] * ebv,
        "k": k + EXTINCTION["k"] * ebv,
    }


def reddening(
    teff: FloatArray, teff_err: FloatArray, color: FloatArray, *, name: str = "bp_rp"
) -> tuple[FloatArray, FloatArray]:
    """Return E(B - V) of stars by how much redder they are than dwarfs of their temperature.

    Parameters
    ----------
    teff, teff_err : (n,) float64 [K]
    color : (n,) float64 [mag]
        As observed.
    name : {"bp_rp", "j_k", "g_k"}

    Returns
    -------
    ebv, ebv_err : (n,) float64 [mag]
        May be negative by as much as its error; NaN where something is unknown. The error holds
        that of the temperature and 0.05 mag of the colors themselves.

    Raises
    ------
    ValueError
        If the color is not known.

    Examples
    --------
    >>> sun = np.array([5772.0])
    >>> ebv, error = reddening(sun, np.array([50.0]), np.array([0.82 + 0.13]))
    >>> ebv.round(2), error.round(2)
    (array([0.1]), array([0.04]))
    """
    if name not in _REDDENINGS:
        raise ValueError(f"the reddening of {name!r} is not known, only of {sorted(_REDDENINGS)}")
    slope = (_color(name, teff + 50) - _color(name, teff - 50)) / 100
    ratio = _REDDENINGS[name]
    value = (color - _color(name, teff)) / ratio
    error = np.hypot(slope * teff_err, COLOR_SCATTER) / ratio
    return value, np.where(np.isnan(value), np.nan, error)


_REDDENINGS = {
    "bp_rp": EXTINCTION["bp_rp"],
    "j_k": EXTINCTION["j"] - EXTINCTION["k"],
    "g_k": EXTINCTION["g"] - EXTINCTION["k"],
}
COLOR_SCATTER = 0.05
"""Of stars about the table of colors, mostly by their metals and gravity [mag]."""


def _color(name: str, teff: FloatArray) -> FloatArray:
    return np.asarray(np.interp(np.log(teff), np.log(_TEFF), _COLORS[name]))
