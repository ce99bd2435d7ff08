"""Bands of diatomic molecules, from spectroscopic constants: lines, gathered in narrow cells.

Positions of rotational lines come from term values, strengths from Franck-Condon factors of Morse
oscillators, Hönl-London factors and one oscillator strength per system. Spin splits a system into
equal ones side by side, and nothing more: heads lie where they should to about 2 Å, single lines
do not. Term values in cm⁻¹, energies in eV, wavelengths in vacuum Å.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from scalespec.models.gas import ELEMENTS, K_EV
from scalespec.models.molecules import EV_PER_CM, MOLECULES

FloatArray = npt.NDArray[np.float64]

MOST_ENERGY = 1.5  # of rotation [eV]
CELL_ENERGY = 1.0  # of the lower level, per cell [eV]
CELL_TEMPERATURE = 3500.0  # the cells' means are weighted for this [K]
FAINTEST = 1e-3  # of the strongest cell's strength


@dataclass(frozen=True)
class State:
    """An electronic state: vibration, anharmonicity, rotation, its change with v [cm⁻¹]."""

    vibration: float
    anharmonicity: float
    rotation: float
    stretching: float


@dataclass(frozen=True)
class System:
    """A band system.

    Attributes
    ----------
    molecule : str
    origins : tuple of float [cm⁻¹]
        Of the 0-0 band, one for each component of the spin.
    energy : float [cm⁻¹]
        Of the lower state.
    upper, lower : State
    strength : float
        Electronic oscillator strength; that of a band is its Franck-Condon part.
    weight : float
        Statistical weight of the lower state.
    angular, turn : int
        Orbital momentum of the lower state along the axis, and by how much it changes.
    levels : int
        Vibrational levels of each state that make bands.
    """

    molecule: str
    origins: tuple[float, ...]
    energy: float
    upper: State
    lower: State
    strength: float
    weight: float
    angular: int
    turn: int
    levels: int = 5


_CH, _CN = State(2858.5, 63.0, 14.457, 0.534), State(2068.6, 13.09, 1.8997, 0.0174)
_C2, _NH = State(1641.3, 11.67, 1.6324, 0.0166), State(3282.3, 78.35, 16.699, 0.649)
_SIH = State(2041.8, 35.5, 7.4996, 0.219)
_MGH = State(1495.2, 31.89, 5.8257, 0.1859)
_TIO, _TIO_A = State(1009.0, 4.50, 0.5354, 0.0030), State(1018.3, 4.52, 0.5376, 0.0030)

# Term values: Huber & Herzberg 1979 (CH: A state's without its orbital momentum). Oscillator
# strengths: CH Larsson & Siegbahn 1983; CN Knowles et al. 1988; C2 Cooper & Nicholls 1975; NH
# Kirby & Goldfield 1991; MgH Kirby et al. 1979; TiO Plez 1998, A&A 337, 495. Order as in `System`.
# fmt: off
SYSTEMS = (
    System("CH", (23173.5,), 0.0, State(2930.7, 96.6, 14.934, 0.697), _CH, 0.0051, 4, 1, 1),
    System("CH", (25698.2,), 0.0, State(2250.0, 230.0, 12.645, 0.8), _CH, 0.0047, 4, 1, -1, 1),
    System("CN", (25797.9,), 0.0, State(2163.9, 20.2, 1.973, 0.023), _CN, 0.0375, 2, 0, 0),
    System("CN", (9091.0, 9143.6), 0.0, State(1812.6, 12.6, 1.7151, 0.0171), _CN, 0.0045, 2, 0, 1),
    System("C2", (19378.4,), 716.0, State(1788.2, 16.44, 1.7527, 0.0161), _C2, 0.033, 6, 1, 0),
    System("NH", (29776.8,), 0.0, State(3231.2, 98.6, 16.674, 0.745), _NH, 0.0082, 3, 0, 1),
    System("MgH", (19260.3, 19295.6), 0.0, State(1598.2, 31.9, 6.1913, 0.193), _MGH, 0.17, 2, 0, 1),
    System("SiH", (24140.0, 24210.0), 0.0, State(1858.9, 99.2, 7.4664, 0.345), _SIH,
           0.0048, 4, 1, 1),
    System("TiO", (14030.0, 14105.0, 14171.0), 0.0, State(867.8, 3.94, 0.5074, 0.0032), _TIO,
           0.0925, 6, 2, 1),
    System("TiO", (16148.0, 16220.0, 16265.0), 0.0, State(875.0, 5.0, 0.5062, 0.0031), _TIO,
           0.108, 6, 2, -1),
    System("TiO", (19341.7,), 0.0, State(838.3, 4.76, 0.4899, 0.0031), _TIO, 0.106, 6, 2, 0),
    System("TiO", (17840.6,), 3500.0, State(917.6, 4.63, 0.5230, 0.0031), _TIO_A, 0.125, 2, 2, 1),
    System("TiO", (11272.8,), 3500.0, State(919.8, 4.28, 0.5134, 0.0029), _TIO_A, 0.096, 2, 2, -1),
)
# fmt: on

# Second overtone of CO: oscillator strength of 3-0, that of v+3 <- v goes as (v+1)(v+2)(v+3)/6
# (Chackerian & Tipping 1983, J. Mol. Spectrosc. 99, 431).
CO_GROUND = State(2169.81, 13.288, 1.9313, 0.0175)
CO_OVERTONE = 5.2e-10


@dataclass(frozen=True)
class BandLines:
    """Lines of molecules, or rather what cells of wavelength and energy hold of them.

    Attributes
    ----------
    wavelength : (n_cell,) float64 [Å, vacuum]
        Mean of the lines.
    molecule : tuple of str
    excitation : (n_cell,) float64 [eV]
    log_gf : (n_cell,) float64
        Of the sum.
    count : (n_cell,) float64
        Effective number of equal lines.
    spread : (n_cell,) float64 [Å]
        Standard deviation of the lines' wavelengths.
    """

    wavelength: FloatArray
    molecule: tuple[str, ...]
    excitation: FloatArray
    log_gf: FloatArray
    count: FloatArray
    spread: FloatArray


@cache
def band_lines(start: float, stop: float, cell: float) -> BandLines:
    """Return the bands between two wavelengths [Å], in cells of `cell` in ln wavelength."""
    parts = [_system_lines(system) for system in SYSTEMS] + [_overtone()]
    names = [system.molecule for system in SYSTEMS] + ["CO"]
    # Lines of TiO lie so close that cells of twice the width hold its bands as well.
    widths = [cell * (2 if name == "TiO" else 1) for name in names]
    found = [_cells(*p, (start, stop), width) for p, width in zip(parts, widths, strict=True)]
    columns = [np.concatenate([f[i] for f in found]) for i in range(5)]
    molecules = [m for m, f in zip(names, found, strict=True) for _ in range(f[0].size)]
    order = np.argsort(columns[0], kind="stable")
    wave, energy, gf, count, spread = (c[order] for c in columns)
    return BandLines(wave, tuple(molecules[i] for i in order), energy, np.log10(gf), count, spread)


def franck_condon(molecule: str, upper: State, lower: State, levels: int = 5) -> FloatArray:
    """Return squared overlaps of vibrational states, (upper v, lower v), of Morse oscillators."""
    a, b = (ELEMENTS[atom][0] for atom in MOLECULES[molecule].atoms)
    reduced = a * b / (a + b)
    r = np.linspace(0.4, 3.2, 320)  # Å
    waves = []
    for state in (upper, lower):
        center = np.sqrt(16.8576 / (reduced * state.rotation))
        depth = state.vibration**2 / (4 * state.anharmonicity)
        width = state.vibration * np.sqrt(reduced / (67.4305 * depth))  # 1/Å
        potential = depth * (1 - np.exp(-width * (r - center))) ** 2
        kinetic = 16.8576 / reduced / (r[1] - r[0]) ** 2
        i = np.arange(r.size)
        apart = i[:, None] - i  # Colbert & Miller 1992: the kinetic energy on an even grid
        with np.errstate(divide="ignore"):
            matrix = np.where(apart == 0, np.pi**2 / 3, 2 * (-1.0) ** apart / apart**2.0)
        vectors = np.linalg.eigh(kinetic * matrix + np.diag(np.minimum(potential, 3e5)))[1]
        waves.append(vectors)
    return np.asarray((waves[0].T @ waves[1])[:levels, :levels] ** 2)


def _term(state: State, v: FloatArray, j: FloatArray) -> FloatArray:
    """Return vibrational and rotational energy over that of v = 0 without rotation [cm⁻¹]."""
    half = v + 0.5
    vibration = state.vibration * v - state.anharmonicity * (half**2 - 0.25)
    rotation = state.rotation - state.stretching * half
    centrifugal = 4 * state.rotation**3 / state.vibration**2
    jj = j * (j + 1)
    return vibration + rotation * jj - centrifugal * jj**2


def honl_london(j: FloatArray, angular: int, turn: int) -> tuple[FloatArray, ...]:
    """Return the shares of P, Q and R lines of lower levels `j`; together 2 j + 1.

    References
    ----------
    Herzberg 1950, Spectra of Diatomic Molecules, p. 208; for spin that rotates freely.

    Examples
    --------
    >>> [float(share) for share in honl_london(np.array(4.0), 1, 1)]
    [0.75, 4.05, 4.2]
    """
    if turn == 0:
        m = float(angular)
        return (
            (j + m) * (j - m) / j,
            (2 * j + 1) * m**2 / (j * (j + 1)),
            (j + 1 + m) * (j + 1 - m) / (j + 1),
        )
    m = float(turn * angular)
    return (
        (j - 1 - m) * (j - m) / (2 * j),
        (j + 1 + m) * (j - m) * (2 * j + 1) / (2 * j * (j + 1)),
        (j + 2 + m) * (j + 1 + m) / (2 * (j + 1)),
    )


def _branches(
    system: System, low: FloatArray, up: FloatArray, share: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return term difference, lower energy [cm⁻¹] and gf of the P, Q and R branches of bands."""
    highest = int(np.sqrt(MOST_ENERGY / EV_PER_CM / system.lower.rotation))
    j = np.arange(max(1.0, system.angular), min(highest, 220))[:, None]
    energy = system.energy + _term(system.lower, low, j)
    difference, gf = [], []
    for step, line in zip(
        (-1.0, 0.0, 1.0), honl_london(j, system.angular, system.turn), strict=True
    ):
        difference.append(_term(system.upper, up, j + step) - _term(system.lower, low, j))
        gf.append(system.weight * share * line)
    below = np.broadcast_to(energy, (3, *energy.shape))
    return np.stack(difference), below, np.stack(gf)


@cache
def _system_lines(system: System) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Return wavelength, lower energy [eV] and gf of every line, and how many lie on each other."""
    overlap = franck_condon(system.molecule, system.upper, system.lower, system.levels)
    up, low = (x.astype(float).ravel() for x in np.indices(overlap.shape))
    difference, below, gf = _branches(system, low, up, system.strength * overlap.ravel())
    same = len(set(MOLECULES[system.molecule].atoms)) == 1
    parts = len(system.origins) * (2 if same else 1)  # half the levels of C2 do not exist
    waves = np.concatenate([1e8 / np.maximum(o + difference.ravel(), 1e3) for o in system.origins])
    again = len(system.origins)
    count = max(system.weight / len(system.origins), 1.0)
    return (
        waves,
        np.tile(below.ravel(), again) * EV_PER_CM,
        np.tile(gf.ravel(), again) / parts,
        count,
    )


@cache
def _overtone() -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Return the same of the second overtone of CO."""
    low = np.arange(8.0)
    share = CO_OVERTONE * (low + 1) * (low + 2) * (low + 3) / 6
    system = System("CO", (0.0,), 0.0, CO_GROUND, CO_GROUND, 1.0, 1, 0, 0)
    difference, below, gf = _branches(system, low, low + 3, share)
    return 1e8 / np.maximum(difference.ravel(), 1e3), below.ravel() * EV_PER_CM, gf.ravel(), 1.0


def _cells(
    wave: FloatArray,
    energy: FloatArray,
    gf: FloatArray,
    together: float,
    limits: tuple[float, float],
    cell: float,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Gather lines in cells: mean wavelength and energy, gf, effective number, spread."""
    strength = gf * np.exp(-energy / (K_EV * CELL_TEMPERATURE))
    use = (wave > limits[0]) & (wave < limits[1]) & (strength > 0)
    wave, energy, strength = wave[use], energy[use], strength[use]
    key = np.floor(np.log(wave) / cell).astype(np.int64) * 64 + (energy / CELL_ENERGY).astype(int)
    _, inverse = np.unique(key, return_inverse=True)
    total = np.bincount(inverse, strength)
    center = np.bincount(inverse, strength * wave) / total
    spread = np.sqrt(np.bincount(inverse, strength * (wave - center[inverse]) ** 2) / total)
    mean = np.bincount(inverse, strength * energy) / total
    count = together * total**2 / np.bincount(inverse, strength**2)
    keep = total > FAINTEST * total.max(initial=0.0)
    sum_gf = total * np.exp(mean / (K_EV * CELL_TEMPERATURE))
    return center[keep], mean[keep], sum_gf[keep], count[keep], spread[keep]
