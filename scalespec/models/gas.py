"""Atoms in thermal equilibrium: partition functions, ionization, electrons.

Temperatures in K, pressures in dyn cm⁻², energies in eV; differentiable torch float64.
"""

import math
from functools import cache

import torch
from torch import Tensor

K_EV = 8.617333e-5  # Boltzmann constant [eV/K]
K_ERG = 1.380649e-16  # the same [erg/K]
AMU = 1.660539e-24  # [g]
C_CMS = 2.99792458e10  # [cm/s]
HC_K = 1.43877688e8  # hc/k [Å K]
LN10 = math.log(10.0)

# Symbol: mass [amu], solar log eps (Asplund et al. 2009, ARA&A 47, 481), first and second
# ionization energy [eV] and partition functions of the neutral and of the ion at 3000, 5000, 7000
# and 10000 K (Barklem & Collet 2016, A&A 588, A96; a cubic in ln T is good to 4 %, mostly to 1 %).
# Last the partition function of the doubly ionized atom, one number: the statistical weight of the
# ground term (NIST ASD), a little more where low terms abound. It matters above 10000 K only.
ELEMENTS: dict[str, tuple[float, ...]] = {
    "H": (1.008, 12, 13.5984, 999, 2, 2, 2, 2, 1, 1, 1, 1, 1),
    "He": (4.003, 10.93, 24.5874, 54.418, 1, 1, 1, 1, 2, 2, 2, 2, 1),
    "Li": (6.94, 1.05, 5.3917, 75.64, 2.005, 2.088, 2.391, 3.868, 1, 1, 1, 1, 2),
    "C": (12.011, 8.43, 11.2603, 24.385, 8.911, 9.192, 9.578, 10.21, 5.88, 5.928, 5.95, 5.988, 1),
    "N": (14.007, 7.83, 14.5341, 29.601, 4.001, 4.041, 4.208, 4.724, 8.63, 8.835, 9.054, 9.453, 6),
    "O": (15.999, 8.69, 13.6181, 35.121, 8.68, 8.855, 9.051, 9.419, 4, 4.005, 4.042, 4.229, 9),
    "Na": (22.99, 6.24, 5.1391, 47.286, 2.002, 2.064, 2.602, 7.09, 1, 1, 1, 1, 6),
    "Mg": (24.305, 7.6, 7.6462, 15.035, 1, 1.017, 1.11, 1.644, 2, 2, 2.004, 2.036, 1),
    "Al": (26.982, 6.45, 5.9858, 18.829, 5.791, 5.88, 6.015, 7.05, 1, 1, 1.004, 1.041, 2),
    "Si": (28.085, 7.51, 8.1517, 16.346, 8.628, 9.452, 10.16, 11.36, 5.485, 5.683, 5.773, 5.867, 1),
    "S": (32.06, 7.12, 10.36, 23.338, 8.3, 8.877, 9.414, 10.14, 4.008, 4.144, 4.509, 5.353, 9),
    "K": (39.098, 5.03, 4.3407, 31.625, 2.012, 2.226, 3.398, 9.821, 1, 1, 1, 1, 6),
    "Ca": (40.078, 6.34, 6.1132, 11.872, 1.007, 1.172, 1.857, 5.696, 2.014, 2.199, 2.633, 3.56, 1),
    "Sc": (44.956, 3.15, 6.5615, 12.8, 9.69, 11.87, 17.43, 33.15, 17.81, 22.77, 27.33, 33.64, 10),
    "Ti": (47.867, 4.95, 6.8281, 13.575, 20.82, 29.44, 44.72, 83.2, 44.03, 55.42, 66.71, 83.72, 30),
    "V": (50.942, 3.93, 6.7462, 14.62, 34.79, 47.55, 66.37, 111.5, 31.83, 43.32, 56.8, 80.89, 40),
    "Cr": (51.996, 5.64, 6.7665, 16.486, 7.654, 10.39, 15.83, 33.18, 6.087, 7.109, 9.94, 18.48, 35),
    "Mn": (54.938, 5.43, 7.434, 15.64, 6.011, 6.402, 8.147, 15.35, 7.076, 7.739, 9.399, 14.56, 6),
    "Fe": (55.845, 7.5, 7.9025, 16.199, 21.96, 27.79, 36.68, 59.66, 34.31, 43.42, 51.87, 66.9, 30),
    "Co": (58.933, 4.99, 7.881, 17.084, 24.47, 33.59, 42.81, 60.84, 20.95, 29.89, 38.13, 50.45, 40),
    "Ni": (58.693, 6.22, 7.6399, 18.169, 26.35, 30.89, 34.4, 41.58, 8.299, 10.81, 14.05, 19.4, 27),
    "Cu": (63.546, 4.19, 7.7264, 20.292, 2.035, 2.329, 2.892, 4.177, 1, 1.025, 1.167, 1.698, 10),
    "Zn": (65.38, 4.56, 9.3942, 17.964, 1, 1.001, 1.011, 1.112, 2, 2, 2, 2.006, 1),
    "Sr": (87.62, 2.87, 5.6949, 11.03, 1.011, 1.239, 2.115, 6.203, 2.009, 2.15, 2.527, 3.402, 1),
    "Y": (88.906, 2.21, 6.2173, 12.224, 8.86, 11.7, 17.86, 33.24, 10.95, 15.82, 20.34, 27.03, 10),
    "Zr": (91.224, 2.58, 6.6339, 13.13, 19.97, 33.57, 52.72, 92.91, 29.14, 45.19, 60.2, 81.23, 35),
    "Ba": (137.327, 2.18, 5.2117, 10.004, 1.211, 2.578, 5.694, 16.61, 2.781, 4.17, 5.416, 6.972, 1),
    "La": (
        138.905,
        1.1,
        5.5769,
        11.185,
        14.23,
        26.84,
        45.52,
        88.11,
        20.36,
        29.47,
        38.19,
        52.77,
        10,
    ),
    "Ce": (
        140.116,
        1.58,
        5.5386,
        10.85,
        75.92,
        189.1,
        360.9,
        708.7,
        82.07,
        190.3,
        310.1,
        491.2,
        100,
    ),
    "Pr": (140.908, 0.72, 5.473, 10.55, 35.08, 108.4, 237.5, 502.6, 54.2, 126.8, 222.5, 380.6, 120),
    "Nd": (
        144.242,
        1.42,
        5.525,
        10.72,
        29.53,
        89.37,
        220.7,
        542.3,
        49.53,
        121.5,
        242.8,
        504.7,
        150,
    ),
    "Sm": (150.36, 0.96, 5.6437, 11.07, 18.41, 37.2, 78.21, 189.6, 31.25, 59.13, 96.52, 175.9, 60),
    "Eu": (
        151.964,
        0.52,
        5.6704,
        11.241,
        8.152,
        10.72,
        19.32,
        51.33,
        12.45,
        15.81,
        20.72,
        31.51,
        8,
    ),
}
SYMBOLS = tuple(ELEMENTS)
NODES = (3000.0, 5000.0, 7000.0, 10000.0)
"""Temperatures of the tabulated partition functions [K]."""


@cache
def element_table(column: int, device: torch.device) -> Tensor:
    """Return one column of `ELEMENTS` as float64, (n_element,)."""
    return torch.tensor([ELEMENTS[s][column] for s in SYMBOLS], dtype=torch.float64, device=device)


@cache
def _cubic(device: torch.device) -> Tensor:
    """Return ln U as a cubic in ln T: coefficients (4, 2 n_element), neutrals then ions."""
    nodes = torch.tensor(NODES, dtype=torch.float64, device=device).log()
    table = torch.stack([element_table(4 + i, device) for i in range(8)]).log()
    known = torch.cat([table[:4], table[4:]], 1)
    powers = nodes[:, None] ** torch.arange(4, device=device)
    solved: Tensor = torch.linalg.solve(powers, known)
    return solved


def partition_functions(temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ln U of every neutral, ion and double ion, (n, n_element) each.

    Above 10000 K ln U goes on along its tangent in ln T.

    Parameters
    ----------
    temperature : (n,) float64 Tensor [K]

    Examples
    --------
    Sodium's ground state has two levels; hotter gas has more.

    >>> neutral, _, _ = partition_functions(torch.tensor([3000.0, 10000.0], dtype=torch.float64))
    >>> neutral[:, SYMBOLS.index("Na")].exp().round(decimals=2).tolist()
    [2.0, 7.09]
    """
    c = _cubic(temperature.device)
    x = temperature.log()[:, None]
    inside = x.clamp_max(math.log(NODES[-1]))
    value = c[0] + inside * (c[1] + inside * (c[2] + inside * c[3]))
    slope = c[1] + inside * (2 * c[2] + inside * 3 * c[3])
    u = value + (x - inside) * slope
    n = len(SYMBOLS)
    third = element_table(12, temperature.device).log().expand(len(temperature), n)
    return u[:, :n], u[:, n:], third


def saha(temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln of (next stage x electron pressure / stage) for the first and second ionization.

    Parameters
    ----------
    temperature : (n,) float64 Tensor [K]

    Returns
    -------
    (n, n_element) Tensor, twice
        ln of pressures [dyn cm⁻²].

    References
    ----------
    Gray 2005, The Observation and Analysis of Stellar Photospheres, eq. 1.20.

    Examples
    --------
    >>> first, _ = saha(torch.tensor([5040.0], dtype=torch.float64))
    >>> round(float(first[0, SYMBOLS.index("Na")]) / LN10, 2)
    3.63
    """
    neutral, ion, double = partition_functions(temperature)
    kt = K_EV * temperature[:, None]
    common = math.log(0.6665) + 2.5 * temperature.log()[:, None]
    first = common + ion - neutral - element_table(2, temperature.device) / kt
    second = common + double - ion - element_table(3, temperature.device) / kt
    return first, second


def ionization(log_phi: tuple[Tensor, Tensor], log_pe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ln of the fractions of neutrals, ions and double ions, (n, n_element) each.

    Parameters
    ----------
    log_phi : pair of (n, n_element) Tensor
        Of `saha`.
    log_pe : (n,) Tensor
        ln of the electron pressure [dyn cm⁻²].

    Examples
    --------
    In the Sun's photosphere iron is ionized, hydrogen is not.

    >>> t, pe = torch.tensor([[5772.0], [20.0]], dtype=torch.float64)
    >>> _, ions, _ = ionization(saha(t), pe.log())
    >>> [round(float(ions[0, SYMBOLS.index(s)].exp()), 4) for s in ("H", "Fe")]
    [0.0001, 0.9415]
    """
    ion = log_phi[0] - log_pe[:, None]
    double = ion + log_phi[1] - log_pe[:, None]
    total = torch.logaddexp(torch.logaddexp(ion, double), torch.zeros_like(ion))
    return -total, ion - total, double - total
