"""Lines of hydrogen: where they lie, how strong they are, how electrons and ions broaden them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RYDBERG_ANGSTROM = 911.76334  # 1 / Rydberg constant of hydrogen, vacuum (CODATA, reduced mass)
FINE_STRUCTURE = 7.2973525693e-3**2  # the constant, squared
HIGHEST = {2: 20, 3: 24, 4: 24}
"""Highest upper level of each series; beyond, lines have merged in any star."""


@dataclass(frozen=True)
class HydrogenLines:
    """Balmer, Paschen and Brackett lines, sorted by wavelength.

    Attributes
    ----------
    lower, upper : (n_line,) int64
        Principal quantum numbers.
    wavelength : (n_line,) float64 [Å, vacuum]
    excitation : (n_line,) float64 [eV]
        Energy of the lower level.
    log_gf : (n_line,) float64
    stark : (n_line,) float64 [Å per cgs unit of field]
        Griem's asymptotic constant.
    """

    lower: npt.NDArray[np.int64]
    upper: npt.NDArray[np.int64]
    wavelength: FloatArray
    excitation: FloatArray
    log_gf: FloatArray
    stark: FloatArray


def hydrogen_lines() -> HydrogenLines:
    """Return the lines of hydrogen between 3650 and 41000 Å.

    References
    ----------
    Wavelengths: Dirac's energies, averaged over the states of a level (Bethe & Salpeter 1957,
    section 14), which is 1 km/s from lines' centroids. Oscillator strengths: Johnson 1972, ApJ 174,
    227, good to 1 %. Stark constants: Griem 1960, ApJ 132, 883.

    Examples
    --------
    >>> lines = hydrogen_lines()
    >>> lines.wavelength[lines.upper * 10 + lines.lower == 32].round(1)
    array([6564.6])
    """
    pairs = [(n, m) for n, last in HIGHEST.items() for m in range(n + 1, last + 1)]
    n, m = np.array(pairs).T
    inverse = _binding(n) - _binding(m)
    wavelength = RYDBERG_ANGSTROM / inverse
    order = np.argsort(wavelength, kind="stable")
    n, m, inverse, wavelength = n[order], m[order], inverse[order], wavelength[order]
    strength = np.array([oscillator_strength(int(a), int(b)) for a, b in zip(n, m, strict=True)])
    return HydrogenLines(
        n.astype(np.int64),
        m.astype(np.int64),
        wavelength,
        13.5984 * (1 - 1 / n**2),
        np.log10(2 * n**2 * strength),
        5.5e-5 * (n * m) ** 4.0 / (m**2 - n**2),
    )


def _binding(n: npt.NDArray[np.int_]) -> FloatArray:
    """Return the mean energy that binds the states of a level, in Rydbergs."""
    return np.asarray((1 + FINE_STRUCTURE * (1.25 - 1 / n) / n**2) / n**2)


def oscillator_strength(lower: int, upper: int) -> float:
    """Return the absorption oscillator strength between two levels of hydrogen.

    Kramers' formula times the bound-bound Gaunt factor of Johnson 1972, ApJ 174, 227, eq. 4.

    Examples
    --------
    >>> round(oscillator_strength(2, 3), 2)
    0.64
    """
    x, n = 1 - (lower / upper) ** 2, float(lower)
    if lower == 1:
        gaunt = (1.1330, -0.4059, 0.07014)
    elif lower == 2:
        gaunt = (1.0785, -0.2319, 0.02947)
    else:
        gaunt = (
            0.9935 + 0.2328 / n - 0.1296 / n**2,
            -(0.6282 - 0.5598 / n + 0.5299 / n**2) / n,
            (0.3887 - 1.181 / n + 1.470 / n**2) / n**2,
        )
    kramers = 32 / (3 * np.sqrt(3.0) * np.pi) * lower / upper**3 / x**3
    return float(kramers * (gaunt[0] + gaunt[1] / x + gaunt[2] / x**2))
