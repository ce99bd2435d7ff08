"""Which known lines a label's derivative should show, and how far it shows them. Vacuum Å."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

TEMPERATURE = 5000.0
"""At which lines are told strong from weak [K]."""
BOLTZMANN = 8.617333262e-5
"""eV/K, CODATA 2018."""
KNOWN = 60
"""Lines of an element that count as known: its strongest by gf and excitation."""
PEAKS = 8
"""Lines that are named, the strongest ones."""
APART = 12
"""Resolution elements between two that are named."""
FAINTEST = 0.05
"""Of the strongest feature: fainter lines are not named."""
ELEMENTS = {"alpha": ("Mg", "Si", "Ca", "Ti"), "m": ("Fe",)}
"""What labels stand for that are of no one element."""
HYDROGEN_AND_STRONG: tuple[tuple[float, str], ...] = (
    (3934.77, "Ca II K"), (3969.59, "Ca II H"), (4102.89, "Hδ"), (4341.68, "Hγ"), (4862.68, "Hβ"),
    (5168.76, "Mg I b"), (5174.13, "Mg I b"), (5185.05, "Mg I b"), (5891.58, "Na I D"),
    (5897.56, "Na I D"), (6564.61, "Hα"), (8500.36, "Ca II"), (8544.44, "Ca II"),
    (8664.52, "Ca II"),
)  # fmt: skip
"""Lines that know of temperature and gravity. Kramida et al., NIST Atomic Spectra Database,
doi:10.18434/T4W30F, in vacuum."""
BANDS: dict[str, tuple[tuple[float, float, str], ...]] = {
    "C": ((3858.0, 3885.0, "CN"), (4143.0, 4218.0, "CN"), (4282.0, 4318.0, "CH"),
          (4635.0, 4740.0, "C2"), (5030.0, 5168.0, "C2"), (5470.0, 5638.0, "C2"),
          (7850.0, 8100.0, "CN")),
    "N": ((3858.0, 3885.0, "CN"), (4143.0, 4218.0, "CN"), (7850.0, 8100.0, "CN")),
    "O": ((4760.0, 5000.0, "TiO"), (5936.0, 6290.0, "TiO"), (7053.0, 7270.0, "TiO")),
}  # fmt: skip
"""Molecular bands by element: start, end and molecule. Worthey et al. 1994, ApJS 94, 687; Pearse &
Gaydon 1976, The Identification of Molecular Spectra."""
ROMAN = {1: "I", 2: "II"}


@dataclass(frozen=True)
class KnownLines:
    """Lines and bands of a label.

    Attributes
    ----------
    wavelength : (n,) float64
        In order.
    names : tuple of n str
    strength : (n,) float64
        In dex; of lines of one element.
    bands : tuple of (start, end, name)
    """

    wavelength: FloatArray
    names: tuple[str, ...]
    strength: FloatArray
    bands: tuple[tuple[float, float, str], ...] = ()

    def __len__(self) -> int:
        """Return how many lines and bands there are."""
        return len(self.wavelength) + len(self.bands)

    def name_at(self, place: float, width: float) -> str:
        """Return the strongest line within a distance, else the band there; "" for none."""
        near = np.flatnonzero(np.abs(self.wavelength - place) <= width)
        if len(near):
            return self.names[int(near[np.argmax(self.strength[near])])]
        inside = (name for start, end, name in self.bands if start <= place <= end)
        return next(inside, "")

    def covered(self, wavelength: FloatArray, resolving_power: float) -> npt.NDArray[np.bool_]:
        """(n_pixel,) bool: within half a resolution element of a line, or in a band."""
        found = np.zeros(len(wavelength), bool)
        for place in self.wavelength:
            found |= np.abs(wavelength - place) <= 0.5 * place / resolving_power
        for start, end, _ in self.bands:
            found |= (wavelength >= start) & (wavelength <= end)
        return found


def elements_of(label: str) -> tuple[str, ...]:
    """Return the elements whose lines a label should show; none for those that are no abundance.

    Examples
    --------
    >>> elements_of("mg_fe"), elements_of("fe_h"), elements_of("alpha_m"), elements_of("logg")
    (('Mg',), ('Fe',), ('Mg', 'Si', 'Ca', 'Ti'), ())
    """
    found = re.fullmatch(r"([a-z]{1,5})_(h|fe|m)", label)
    if not found:
        return ()
    return ELEMENTS.get(found[1], (found[1].capitalize(),))


def known_lines(
    label: str,
    wavelength: FloatArray,
    element: Sequence[str],
    ion_stage: npt.NDArray[np.integer[Any]],
    excitation: FloatArray,
    log_gf: FloatArray,
    *,
    within: tuple[float, float],
) -> KnownLines:
    """Choose the strongest lines that a label should show from a list of lines.

    Parameters
    ----------
    label : str
        ``<el>_fe``, ``<el>_h``; temperature and gravity are shown by hydrogen and strong lines.
    wavelength, element, ion_stage, excitation, log_gf : (n_line,) array [Å, , , eV, dex]
        The list; only lines of one element are compared, by gf and excitation at `TEMPERATURE`.
    within : (float, float)
        Wavelengths.

    Examples
    --------
    >>> lines = np.array([5000.0, 5100.0]), ("Mg", "Fe"), np.array([1, 2]), np.zeros(2), np.ones(2)
    >>> known_lines("fe_h", *lines, within=(4000.0, 6000.0)).names
    ('Fe II',)
    """
    low, high = within
    wanted = elements_of(label)
    if not wanted:
        strong = [one for one in HYDROGEN_AND_STRONG if low <= one[0] <= high]
        strong = strong if label in ("teff", "logg") else []
        places = np.array([place for place, _ in strong], np.float64)
        return KnownLines(places, tuple(name for _, name in strong), np.zeros(len(strong)))
    strength = log_gf - excitation / (np.log(10) * BOLTZMANN * TEMPERATURE)
    there = (wavelength >= low) & (wavelength <= high)
    rows = [i for i in np.flatnonzero(there).tolist() if element[i] in wanted]
    best = np.array(sorted(rows, key=lambda i: -strength[i])[:KNOWN], np.int64)
    best = best[np.argsort(wavelength[best], kind="stable")]
    names = tuple(f"{element[i]} {ROMAN.get(int(ion_stage[i]), '?')}" for i in best)
    bands = [b for el in wanted for b in BANDS.get(el, ()) if b[0] < high and b[1] > low]
    return KnownLines(wavelength[best], names, strength[best], tuple(bands))


def share_at_lines(
    wavelength: FloatArray, strength: FloatArray, lines: KnownLines, *, resolving_power: float
) -> tuple[float, float]:
    """Return the part of a derivative's square that lies at known lines, and that of the pixels.

    Examples
    --------
    >>> lines = KnownLines(np.array([5000.0]), ("Fe I",), np.zeros(1))
    >>> curve = np.array([0.0, 3.0, 1.0, 0.0])
    >>> share_at_lines(4990.0 + 10 * np.arange(4), curve, lines, resolving_power=1800.0)
    (0.9, 0.25)
    """
    here = lines.covered(wavelength, resolving_power)
    whole = float(np.sum(strength**2))
    return (
        float(np.sum(strength[here] ** 2)) / whole if whole else float("nan"),
        float(here.mean()),
    )


def strongest_known(
    wavelength: FloatArray, strength: FloatArray, lines: KnownLines, *, resolving_power: float
) -> list[tuple[float, str]]:
    """Return the known lines that a derivative shows most, from blue to red.

    A line is shown where the strongest pixel within one and a half resolution elements of it is
    within half of one, or a pixel: else the feature there is another's.

    Parameters
    ----------
    wavelength, strength : (n_pixel,) float
        Strength is 0 or more.
    lines : KnownLines
    resolving_power : float

    Returns
    -------
    list of (float, str)
        At most `PEAKS`: where the derivative peaks, and the line's or band's name.

    Examples
    --------
    >>> curve = np.exp(-0.5 * (np.arange(4990.0, 5010.0) - 5000) ** 2)
    >>> lines = KnownLines(np.array([4996.0, 5000.4]), ("Ti I", "Fe I"), np.zeros(2))
    >>> strongest_known(np.arange(4990.0, 5010.0), curve, lines, resolving_power=1800.0)
    [(5000.0, 'Fe I')]
    """
    seen: list[tuple[float, float, str]] = []
    for place, name in zip(lines.wavelength.tolist(), lines.names, strict=True):
        element = place / resolving_power
        near = np.flatnonzero(np.abs(wavelength - place) <= 1.5 * element)
        if not len(near):
            continue
        at = int(near[np.argmax(strength[near])])
        pixel = float(np.diff(wavelength[max(at - 1, 0) : at + 2]).max(initial=0.0))
        if abs(wavelength[at] - place) <= max(0.5 * element, pixel):
            seen.append((float(strength[at]), float(wavelength[at]), name))
    for start, end, name in lines.bands:
        near = np.flatnonzero((wavelength >= start) & (wavelength <= end))
        if len(near):
            at = int(near[np.argmax(strength[near])])
            seen.append((float(strength[at]), float(wavelength[at]), name))
    kept: list[tuple[float, str]] = []
    for value, place, name in sorted(seen, reverse=True):
        apart = all(abs(place - one) >= APART * place / resolving_power for one, _ in kept)
        if apart and len(kept) < PEAKS and value >= FAINTEST * float(strength.max()):
            kept.append((place, name))
    return sorted(kept)


def named_peaks(
    wavelength: FloatArray, strength: FloatArray, lines: KnownLines, *, resolving_power: float
) -> list[tuple[float, str]]:
    """Return the strongest features of a curve, from blue to red, with what is known there.

    Parameters
    ----------
    wavelength, strength : (n_pixel,) float
        Strength is 0 or more.
    lines : KnownLines
    resolving_power : float
        A feature is a known line that lies within half a resolution element or one pixel of it.

    Returns
    -------
    list of (float, str)
        At most `PEAKS`; "" where nothing is known.

    Examples
    --------
    >>> curve = np.exp(-0.5 * (np.arange(4990.0, 5010.0) - 5000) ** 2)
    >>> lines = KnownLines(np.array([5000.4]), ("Fe I",), np.zeros(1))
    >>> named_peaks(np.arange(4990.0, 5010.0), curve, lines, resolving_power=1800.0)
    [(5000.0, 'Fe I')]
    """
    left = np.asarray(strength, np.float64).copy()
    found: list[tuple[float, str]] = []
    floor = 0.1 * float(left.max(initial=0.0))
    while len(found) < PEAKS and (at := int(np.argmax(left))) >= 0 and left[at] > floor:
        place = float(wavelength[at])
        element = place / resolving_power
        pixel = float(np.diff(wavelength[max(at - 1, 0) : at + 2]).max(initial=0.0))
        found.append((place, lines.name_at(place, max(element / 2, pixel))))
        left[np.abs(wavelength - place) < APART * element] = 0.0
    return sorted(found)
