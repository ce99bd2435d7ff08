"""Diatomic molecules in equilibrium with their atoms: how many there are, and what they take away.

Carbon monoxide, molecular nitrogen, molecular hydrogen and titanium oxide are solved together with
their atoms; CH, CN, C2, NH, MgH and SiH are too rare to take much from theirs. Temperatures in K,
densities in cm⁻³, energies in eV and cm⁻¹; differentiable float64 torch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespec.models.atmosphere import Atmosphere
from scalespec.models.gas import AMU, ELEMENTS, K_ERG, K_EV, SYMBOLS, partition_functions

EV_PER_CM = 1.239842e-4
PLANCK = 6.62607e-27  # [erg s]


@dataclass(frozen=True)
class Molecule:
    """A diatomic molecule in its ground state.

    Attributes
    ----------
    atoms : pair of str
    dissociation : float [eV]
        D0.
    vibration, rotation : float [cm⁻¹]
        omega_e and B_e.
    states : tuple of (weight, energy) [1, cm⁻¹]
        Low electronic states.
    """

    atoms: tuple[str, str]
    dissociation: float
    vibration: float
    rotation: float
    states: tuple[tuple[float, float], ...]


# Constants: Huber & Herzberg 1979, Constants of Diatomic Molecules; D0 of CN 7.72 eV and of C2
# 6.30 eV (Pradhan et al. 1994, Urdahl et al. 1991).
MOLECULES = {
    "CH": Molecule(("C", "H"), 3.465, 2858.5, 14.457, ((4, 0.0), (4, 5844.0))),
    "CN": Molecule(("C", "N"), 7.72, 2068.6, 1.8997, ((2, 0.0), (4, 9245.0))),
    "C2": Molecule(("C", "C"), 6.30, 1854.7, 1.8198, ((1, 0.0), (6, 716.0), (3, 6434.0))),
    "NH": Molecule(("N", "H"), 3.42, 3282.3, 16.699, ((3, 0.0),)),
    "MgH": Molecule(("Mg", "H"), 1.27, 1495.2, 5.8257, ((2, 0.0),)),
    "SiH": Molecule(("Si", "H"), 3.06, 2041.8, 7.4996, ((4, 0.0),)),
    "TiO": Molecule(("Ti", "O"), 6.87, 1009.0, 0.5354, ((6, 0.0), (2, 3500.0), (1, 5660.0))),
    "CO": Molecule(("C", "O"), 11.09, 2169.8, 1.9313, ((1, 0.0),)),
    "N2": Molecule(("N", "N"), 9.759, 2358.6, 1.9982, ((1, 0.0),)),
    "H2": Molecule(("H", "H"), 4.478, 4401.2, 60.853, ((1, 0.0),)),
}
BANDED = ("CH", "CN", "C2", "NH", "MgH", "SiH", "TiO", "CO")
"""Molecules that make lines, in the order of their populations."""


def log_partition(name: str, temperature: Tensor) -> Tensor:
    """Return ln of the partition function: rigid rotor, harmonic oscillator, low states."""
    molecule = MOLECULES[name]
    kt = K_EV * temperature / EV_PER_CM
    states = torch.stack([w * torch.exp(-energy / kt) for w, energy in molecule.states]).sum(0)
    same = 2.0 if molecule.atoms[0] == molecule.atoms[1] else 1.0
    rotation = kt / (same * molecule.rotation)
    return states.log() + rotation.log() - torch.log(-torch.expm1(-molecule.vibration / kt))


def log_association(name: str, temperature: Tensor) -> Tensor:
    """Return ln of [molecules / partition function] over the product of [atoms / theirs], cm³.

    The law of mass action without any internal partition function: translation and binding.

    References
    ----------
    Tatum 1966, Publ. Dominion Astrophys. Obs. 13, 1.

    Examples
    --------
    >>> t = torch.tensor([5000.0], dtype=torch.float64)
    >>> round(float(log_association("CO", t)))
    -37
    """
    molecule = MOLECULES[name]
    a, b = (ELEMENTS[atom][0] for atom in molecule.atoms)
    reduced = a * b / (a + b) * AMU
    translation = 1.5 * torch.log(2 * math.pi * reduced * K_ERG * temperature / PLANCK**2)
    return molecule.dissociation / (K_EV * temperature) - translation


@dataclass(frozen=True)
class Chemistry:
    """What molecules there are.

    Attributes
    ----------
    molecules : (n, n_banded) Tensor
        ln of (molecules per hydrogen nucleus / partition function), in the order of `BANDED`.
    free : dict of str to (n,) Tensor
        ln of the fraction of each element's nuclei that is in atoms and ions, where it is not 1.
    """

    molecules: Tensor
    free: dict[str, Tensor]


def solve_chemistry(temperature: Tensor, hydrogen_density: Tensor, population: Tensor) -> Chemistry:
    """Solve the molecules of a gas whose atoms and ions are known.

    Parameters
    ----------
    temperature, hydrogen_density : (n,) float64 Tensor [K, nuclei per cm³]
    population : (n, 2 n_element) float64 Tensor
        ln of (particles per hydrogen nucleus / partition function) if there were no molecules.

    Examples
    --------
    At the surface of a cool giant carbon monoxide leaves oxygen, but hardly any carbon.

    >>> from scalespec.models.atmosphere import solve_atmosphere
    >>> solar = torch.tensor([[ELEMENTS[s][1] - 12.0 for s in SYMBOLS]], dtype=torch.float64)
    >>> teff, logg, vmic = torch.tensor([[3800.0], [1.0], [2.0]], dtype=torch.float64)
    >>> cell = solve_atmosphere(teff, logg, math.log(10.0) * solar, vmic)
    >>> gas = cell.temperature[:, 0], cell.hydrogen_density[:, 0], cell.population[:, 0]
    >>> left = solve_chemistry(*gas).free
    >>> round(float(left["C"].exp()), 3), round(float(left["O"].exp()), 2)
    (0.007, 0.45)
    """
    density = hydrogen_density.log()

    def neutral(symbol: str) -> Tensor:
        """Ln of neutral atoms per hydrogen nucleus over their partition function."""
        return population[:, 2 * SYMBOLS.index(symbol)]

    def pairs(name: str) -> Tensor:
        """Ln of molecules per hydrogen nucleus if no atom were taken away."""
        a, b = MOLECULES[name].atoms
        made = log_association(name, temperature) + log_partition(name, temperature)
        return made + neutral(a) + neutral(b) + density

    nuclei = _nuclei(population, temperature)
    free = {s: _unpaired((pairs(m) - nuclei[s]).exp()) for s, m in (("H", "H2"), ("N", "N2"))}
    free["C"], free["O"] = _shared(pairs("CO").exp(), nuclei["C"].exp(), nuclei["O"].exp())
    free["Ti"] = -torch.log1p((pairs("TiO") + free["O"] - nuclei["Ti"]).exp())
    made = []
    for name in BANDED:
        a, b = MOLECULES[name].atoms
        atoms = neutral(a) + neutral(b) + sum(free.get(s, density * 0) for s in (a, b))
        made.append(atoms + density + log_association(name, temperature))
    return Chemistry(torch.stack(made, 1), free)


def every_population(star: Atmosphere) -> Tensor:
    """Return populations of atoms without those in molecules, and of molecules.

    Returns
    -------
    (n, n_cell, 2 n_element + n_banded) Tensor
        ln of (particles per hydrogen nucleus / partition function).
    """
    population = star.population.flatten(0, 1)
    found = solve_chemistry(star.temperature.flatten(), star.hydrogen_density.flatten(), population)
    none = torch.zeros_like(population[:, 0])
    free = torch.stack([found.free.get(element, none) for element in SYMBOLS], 1)
    every: Tensor = torch.cat([population + free.repeat_interleave(2, 1), found.molecules], 1)
    return every.view(*star.temperature.shape, every.shape[1])


def _nuclei(population: Tensor, temperature: Tensor) -> dict[str, Tensor]:
    """Return ln of nuclei per hydrogen nucleus, neutrals and ions, of what molecules take."""
    neutral, ion, _ = partition_functions(temperature)
    found = {}
    for symbol in ("H", "C", "N", "O", "Ti"):
        i = SYMBOLS.index(symbol)
        counts = population[:, 2 * i] + neutral[:, i], population[:, 2 * i + 1] + ion[:, i]
        found[symbol] = torch.logaddexp(*counts)
    return found


def _unpaired(ratio: Tensor) -> Tensor:
    """Return ln x of ``x + 2 ratio x**2 = 1``: atoms left by a molecule of two of a kind."""
    return math.log(2.0) - torch.log1p((1 + 8 * ratio).sqrt())


def _shared(pairs: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln of the fractions of two elements that one molecule of both leaves.

    With `pairs` molecules if none of `a` and `b` were taken: ``a x + m = a``, ``b y + m = b``,
    ``m = pairs x y``.
    """

    def left(mine: Tensor, other: Tensor) -> Tensor:
        """Ln of what is left of the first of two."""
        quadratic, linear = pairs / other, 1 + pairs / mine - pairs / other
        root = (linear**2 + 4 * quadratic).sqrt()
        # Either form loses its digits where the other keeps them.
        scarce = (root - linear) / (2 * quadratic.clamp_min(1e-300))
        return torch.where(linear > 0, 2 / (linear.clamp_min(0.0) + root), scarce).log()

    return left(a, b), left(b, a)
