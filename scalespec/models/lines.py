"""What absorbs in the mock's spectra, line by line: atoms, the veil of weak lines, molecules.

Wavelengths vacuum Å, energies eV.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scalespec.models.bands import band_lines
from scalespec.models.gas import C_CMS, ELEMENTS, K_ERG, LN10, SYMBOLS
from scalespec.models.hydrogen import hydrogen_lines
from scalespec.models.molecules import BANDED, MOLECULES

FloatArray = npt.NDArray[np.float64]
UNSOLD = 5.8e19  # so that Na D has the width of Barklem, Piskunov & O'Mara 2000, A&AS 142, 467
STRENGTH = math.log(0.026540) - math.log(C_CMS) + math.log(1e8)  # pi e²/mc per c, Å per cm


@dataclass(frozen=True)
class LineList:
    """Atomic lines, sorted by wavelength.

    Attributes
    ----------
    wavelength : (n_line,) float64 [Å, vacuum]
    element : tuple of n_line str
        Chemical symbols.
    ion_stage : (n_line,) int64
        1 for the neutral, 2 for the ion.
    excitation : (n_line,) float64 [eV]
        Energy of the lower level.
    log_gf : (n_line,) float64
        Of all lines of the entry together.
    count : (n_line,) float64
        How many equal lines an entry stands for; 1 where left out.
    spread : (n_line,) float64 [Å]
        Standard deviation of their wavelengths; 0 where left out.

    Raises
    ------
    ValueError
        If columns differ in length, or an ion stage is neither 1 nor 2.
    """

    wavelength: FloatArray
    element: tuple[str, ...]
    ion_stage: npt.NDArray[np.int64]
    excitation: FloatArray
    log_gf: FloatArray
    count: FloatArray = field(default_factory=lambda: np.ones(0))
    spread: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        n = self.wavelength.size
        if not self.count.size:
            object.__setattr__(self, "count", np.ones(n))
        if not self.spread.size:
            object.__setattr__(self, "spread", np.zeros(n))
        lengths = {name: len(getattr(self, name)) for name in self.__dataclass_fields__}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of lines differ in length: {lengths}")
        if strange := sorted(set(self.ion_stage.tolist()) - {1, 2}):
            raise ValueError(f"lines are of neutrals, 1, or ions, 2; got ion stages {strange}")

    def take(self, chosen: npt.NDArray[np.intp]) -> "LineList":
        """Return the lines of these indices, in this order."""
        return LineList(
            self.wavelength[chosen],
            tuple(self.element[i] for i in chosen),
            self.ion_stage[chosen],
            self.excitation[chosen],
            self.log_gf[chosen],
            self.count[chosen],
            self.spread[chosen],
        )


@dataclass(frozen=True)
class Absorbers:
    """Numbers of every line that do not change from star to star, sorted by wavelength.

    Attributes
    ----------
    wavelength : (n,) float64 [Å, vacuum]
    species : (n,) int64
        Column of the populations: neutral and ion of every element, then molecules of `BANDED`.
    excitation : (n,) float64 [eV]
    strength : (n,) float64
        ln of opacity times wavelength interval [cm² Å] per (particle / partition function) in a
        level without energy.
    mass : (n,) float64 [amu]
    natural : (n,) float64 [rad/s]
    waals : (n,) float64
        Damping by hydrogen over (gas pressure x T^-0.7) [rad/s].
    stark : (n,) float64 [rad/s cm³]
        Damping over electron density; of hydrogen, Griem's constant [Å per field] instead.
    count, spread : (n,) float64
        As in `LineList`.
    hydrogen : (n,) bool
    """

    wavelength: FloatArray
    species: npt.NDArray[np.int64]
    excitation: FloatArray
    strength: FloatArray
    mass: FloatArray
    natural: FloatArray
    waals: FloatArray
    stark: FloatArray
    count: FloatArray
    spread: FloatArray
    hydrogen: npt.NDArray[np.bool_]

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> "Absorbers":
        """Return those chosen by index or mask."""
        return Absorbers(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def gather(lines: LineList, start: float, stop: float, cell: float) -> Absorbers:
    """Put atoms, hydrogen and molecules between two wavelengths together.

    Parameters
    ----------
    lines : LineList
        Of elements named in `ELEMENTS`.
    start, stop : float [Å]
        Atoms and molecules within; hydrogen, whose wings are wide, 300 Å beyond.
    cell : float
        Width in ln wavelength of the cells of molecular lines.

    Examples
    --------
    A line of iron within, one without, H-alpha, and cells of molecules.

    >>> pair = np.array([6500.0, 7000.0]), ("Fe", "Fe"), np.ones(2, int), np.ones(2), np.zeros(2)
    >>> found = gather(LineList(*pair), 6400.0, 6600.0, 1e-3)
    >>> atoms = found.species < 2 * len(SYMBOLS)
    >>> found.wavelength[atoms].round(1), bool(np.any(~atoms))
    (array([6500. , 6564.6]), True)
    """
    inside = lines.take(np.flatnonzero((lines.wavelength > start) & (lines.wavelength < stop)))
    parts = [_atoms(inside), _hydrogen(start, stop), _molecules(start, stop, cell)]
    names = Absorbers.__dataclass_fields__
    joined = Absorbers(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))
    return joined.take(np.argsort(joined.wavelength, kind="stable"))


def _static(wavelength: FloatArray, log_gf: FloatArray) -> FloatArray:
    return np.asarray(STRENGTH + LN10 * log_gf + 2 * np.log(wavelength * 1e-8))


def _natural(wavelength: FloatArray) -> FloatArray:
    return 2.223e15 / wavelength**2  # of a classical oscillator


def _atoms(lines: LineList) -> Absorbers:
    """Return the lines of atoms.

    References
    ----------
    Collisions with hydrogen: Unsöld's formula, Gray 2005, eqs. 11.27 to 11.29. With electrons:
    Cowley 1971, Observatory 91, 139; helium, whose fields split it, ten times that.
    """
    index = np.array([SYMBOLS.index(e) for e in lines.element], np.int64)
    stage, wave = lines.ion_stage, lines.wavelength
    ionization = np.array(
        [ELEMENTS[e][1 + s] for e, s in zip(lines.element, stage, strict=True)], float
    )
    below = np.maximum(ionization - lines.excitation, 0.3)
    above = np.maximum(below - 12398.4 / wave, 0.3)
    c6 = 0.3e-30 * stage**2 * np.maximum(1 / above**2 - 1 / below**2, 1e-3)
    effective = np.minimum(13.6 * stage**2 / above, 25.0)
    helium = np.where(index == SYMBOLS.index("He"), 10.0, 1.0)
    return Absorbers(
        wave,
        2 * index + stage - 1,
        lines.excitation,
        _static(wave, lines.log_gf),
        np.array([ELEMENTS[e][0] for e in lines.element], float),
        _natural(wave),
        np.asarray(UNSOLD * c6**0.4),
        helium * 1e-8 / stage**2 * effective**2.5,
        lines.count,
        lines.spread,
        np.zeros(wave.size, bool),
    )


def _hydrogen(start: float, stop: float) -> Absorbers:
    """Return the lines of hydrogen.

    References
    ----------
    Self-broadening: Barklem, Piskunov & O'Mara 2000, A&A 363, 1091, table 3 (H-alpha, H-beta and
    H-gamma; all others take H-gamma's).
    """
    found = hydrogen_lines()
    inside = (found.wavelength > start - 300) & (found.wavelength < stop + 300)
    wave, ones = found.wavelength[inside], np.ones(int(inside.sum()))
    at_5000 = 1.0855 * K_ERG * 5000.0**0.3  # turns 'per hydrogen nucleus at 5000 K' into our form
    known = {(2, 3): 7.29e-8, (2, 4): 1.56e-7}
    pairs = zip(found.lower[inside].tolist(), found.upper[inside].tolist(), strict=True)
    waals = np.array([known.get(pair, 2.89e-7) for pair in pairs]) / at_5000
    return Absorbers(
        wave,
        np.zeros(wave.size, np.int64),
        found.excitation[inside],
        _static(wave, found.log_gf[inside]),
        ELEMENTS["H"][0] * ones,
        _natural(wave),
        waals,
        found.stark[inside],
        ones,
        0 * ones,
        np.ones(wave.size, bool),
    )


def _molecules(start: float, stop: float, cell: float) -> Absorbers:
    """Return the cells of molecular lines."""
    bands = band_lines(float(start), float(stop), float(cell))
    wave, zeros = bands.wavelength, np.zeros(bands.wavelength.size)
    mass = {name: sum(ELEMENTS[atom][0] for atom in MOLECULES[name].atoms) for name in BANDED}
    first = 2 * len(SYMBOLS)
    return Absorbers(
        wave,
        np.array([first + BANDED.index(m) for m in bands.molecule], np.int64),
        bands.excitation,
        _static(wave, bands.log_gf),
        np.array([mass[m] for m in bands.molecule]),
        _natural(wave),
        zeros,
        zeros,
        bands.count,
        bands.spread,
        np.zeros(wave.size, bool),
    )
