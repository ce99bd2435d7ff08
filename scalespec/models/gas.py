"""The gas that makes a star's lines: atomic data, populations, continuum, pressures, saturation.

Temperatures in K, pressures in dyn cm⁻², wavelengths in vacuum Å, differentiable in torch float64.
Neutral and singly ionized species only.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

K_EV = 8.617333e-5  # Boltzmann constant [eV/K]
K_ERG = 1.380649e-16  # the same [erg/K]
AMU = 1.660539e-24  # [g]
LN10 = math.log(10.0)
LINE_DEPTH = 0.25  # Rosseland depth of the layer that makes the lines

# Symbol: mass [amu], solar log eps (Asplund et al. 2009, ARA&A 47, 481), first and second
# ionization energy [eV] and partition functions of the neutral and of the ion at 3000, 5000, 7000
# and 10000 K (Barklem & Collet 2016, A&A 588, A96; a cubic in ln T is good to 4 %, mostly to 1 %).
ELEMENTS: dict[str, tuple[float, ...]] = {
    "H": (1.008, 12, 13.5984, 999, 2, 2, 2, 2, 1, 1, 1, 1),
    "He": (4.003, 10.93, 24.5874, 54.418, 1, 1, 1, 1, 2, 2, 2, 2),
    "Li": (6.94, 1.05, 5.3917, 75.64, 2.005, 2.088, 2.391, 3.868, 1, 1, 1, 1),
    "C": (12.011, 8.43, 11.2603, 24.385, 8.911, 9.192, 9.578, 10.21, 5.88, 5.928, 5.95, 5.988),
    "N": (14.007, 7.83, 14.5341, 29.601, 4.001, 4.041, 4.208, 4.724, 8.63, 8.835, 9.054, 9.453),
    "O": (15.999, 8.69, 13.6181, 35.121, 8.68, 8.855, 9.051, 9.419, 4, 4.005, 4.042, 4.229),
    "Na": (22.99, 6.24, 5.1391, 47.286, 2.002, 2.064, 2.602, 7.09, 1, 1, 1, 1),
    "Mg": (24.305, 7.6, 7.6462, 15.035, 1, 1.017, 1.11, 1.644, 2, 2, 2.004, 2.036),
    "Al": (26.982, 6.45, 5.9858, 18.829, 5.791, 5.88, 6.015, 7.05, 1, 1, 1.004, 1.041),
    "Si": (28.085, 7.51, 8.1517, 16.346, 8.628, 9.452, 10.16, 11.36, 5.485, 5.683, 5.773, 5.867),
    "S": (32.06, 7.12, 10.36, 23.338, 8.3, 8.877, 9.414, 10.14, 4.008, 4.144, 4.509, 5.353),
    "K": (39.098, 5.03, 4.3407, 31.625, 2.012, 2.226, 3.398, 9.821, 1, 1, 1, 1),
    "Ca": (40.078, 6.34, 6.1132, 11.872, 1.007, 1.172, 1.857, 5.696, 2.014, 2.199, 2.633, 3.56),
    "Sc": (44.956, 3.15, 6.5615, 12.8, 9.69, 11.87, 17.43, 33.15, 17.81, 22.77, 27.33, 33.64),
    "Ti": (47.867, 4.95, 6.8281, 13.575, 20.82, 29.44, 44.72, 83.2, 44.03, 55.42, 66.71, 83.72),
    "V": (50.942, 3.93, 6.7462, 14.62, 34.79, 47.55, 66.37, 111.5, 31.83, 43.32, 56.8, 80.89),
    "Cr": (51.996, 5.64, 6.7665, 16.486, 7.654, 10.39, 15.83, 33.18, 6.087, 7.109, 9.94, 18.48),
    "Mn": (54.938, 5.43, 7.434, 15.64, 6.011, 6.402, 8.147, 15.35, 7.076, 7.739, 9.399, 14.56),
    "Fe": (55.845, 7.5, 7.9025, 16.199, 21.96, 27.79, 36.68, 59.66, 34.31, 43.42, 51.87, 66.9),
    "Co": (58.933, 4.99, 7.881, 17.084, 24.47, 33.59, 42.81, 60.84, 20.95, 29.89, 38.13, 50.45),
    "Ni": (58.693, 6.22, 7.6399, 18.169, 26.35, 30.89, 34.4, 41.58, 8.299, 10.81, 14.05, 19.4),
    "Cu": (63.546, 4.19, 7.7264, 20.292, 2.035, 2.329, 2.892, 4.177, 1, 1.025, 1.167, 1.698),
    "Zn": (65.38, 4.56, 9.3942, 17.964, 1, 1.001, 1.011, 1.112, 2, 2, 2, 2.006),
    "Sr": (87.62, 2.87, 5.6949, 11.03, 1.011, 1.239, 2.115, 6.203, 2.009, 2.15, 2.527, 3.402),
    "Y": (88.906, 2.21, 6.2173, 12.224, 8.86, 11.7, 17.86, 33.24, 10.95, 15.82, 20.34, 27.03),
    "Zr": (91.224, 2.58, 6.6339, 13.13, 19.97, 33.57, 52.72, 92.91, 29.14, 45.19, 60.2, 81.23),
    "Ba": (137.327, 2.18, 5.2117, 10.004, 1.211, 2.578, 5.694, 16.61, 2.781, 4.17, 5.416, 6.972),
    "La": (138.905, 1.1, 5.5769, 11.185, 14.23, 26.84, 45.52, 88.11, 20.36, 29.47, 38.19, 52.77),
    "Ce": (140.116, 1.58, 5.5386, 10.85, 75.92, 189.1, 360.9, 708.7, 82.07, 190.3, 310.1, 491.2),
    "Pr": (140.908, 0.72, 5.473, 10.55, 35.08, 108.4, 237.5, 502.6, 54.2, 126.8, 222.5, 380.6),
    "Nd": (144.242, 1.42, 5.525, 10.72, 29.53, 89.37, 220.7, 542.3, 49.53, 121.5, 242.8, 504.7),
    "Sm": (150.36, 0.96, 5.6437, 11.07, 18.41, 37.2, 78.21, 189.6, 31.25, 59.13, 96.52, 175.9),
    "Eu": (151.964, 0.52, 5.6704, 11.241, 8.152, 10.72, 19.32, 51.33, 12.45, 15.81, 20.72, 31.51),
}
SYMBOLS = tuple(ELEMENTS)


@dataclass(frozen=True)
class Layer:
    """The gas that makes the lines of each star.

    Attributes
    ----------
    temperature, gas_pressure, electron_density, hydrogen_density : (n,) Tensor [K, dyn cm⁻², cm⁻³]
        ``hydrogen_density`` counts nuclei.
    vmic : (n,) Tensor [cm/s]
        Microturbulence.
    population : (n, 2 n_element) Tensor
        ln of (particles per hydrogen nucleus / partition function): neutral, ion, neutral, ion, ...
    """

    temperature: Tensor
    gas_pressure: Tensor
    electron_density: Tensor
    hydrogen_density: Tensor
    vmic: Tensor
    population: Tensor


def partition_functions(temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln U of every neutral and of every ion, (n, n_element) each: a cubic in ln T."""
    table = temperature.new_tensor([ELEMENTS[s][4:] for s in SYMBOLS]).log()
    nodes = temperature.new_tensor([3000.0, 5000.0, 7000.0, 10000.0]).log()
    x = temperature.log()[:, None]
    basis = torch.stack(
        [
            math.prod(
                ((x - nodes[j]) / (nodes[i] - nodes[j]) for j in range(4) if j != i),
                start=torch.ones_like(x),
            )
            for i in range(4)
        ]
    )  # (4, n, 1)
    return (basis * table.T[:4, None]).sum(0), (basis * table.T[4:, None]).sum(0)


def saha(temperature: Tensor) -> Tensor:
    """Return ion pressure x electron pressure / neutral pressure, (n, n_element) [dyn cm⁻²].

    References
    ----------
    Gray 2005, The Observation and Analysis of Stellar Photospheres, eq. 1.20.
    """
    neutral, ion = partition_functions(temperature)
    energy = temperature.new_tensor([ELEMENTS[s][2] for s in SYMBOLS])
    t = temperature[:, None]
    return torch.exp(math.log(0.6665) + 2.5 * t.log() + ion - neutral - energy / (K_EV * t))


def continuum_opacity(wavelength: Tensor, temperature: Tensor, electron_pressure: Tensor) -> Tensor:
    """Return H- and hydrogen opacity [cm² per neutral hydrogen atom], stimulated emission included.

    Parameters
    ----------
    wavelength : (n_pixel,) Tensor [Å]
    temperature, electron_pressure : (n,) Tensor [K, dyn cm⁻²]

    Returns
    -------
    (n, n_pixel) Tensor

    References
    ----------
    Gray 2005, eqs. 8.8 and 8.10 (hydrogen, Gaunt factors 1), 8.11 to 8.13 (H-).
    """
    theta = (5040.0 / temperature)[:, None]
    w, x = wavelength, wavelength.log10()
    bf = 1.99654 + w * (-1.18267e-5 + w * (2.64243e-6 + w * (-4.40524e-10 + w * 3.23992e-14)))
    bf = (bf + w**5 * (-1.39568e-18 + w * 2.78701e-23)).clamp_min(0.0) * 1e-18
    f0 = -2.2763 + x * (-1.6850 + x * (0.76661 - 0.053346 * x))
    f1 = 15.2827 + x * (-9.2846 + x * (1.99381 - 0.142631 * x))
    f2 = -197.789 + x * (190.266 + x * (-67.9775 + x * (10.6913 - 0.625151 * x)))
    log_theta = theta.log10()
    free = 1e-26 * torch.exp(LN10 * (f0 + log_theta * (f1 + log_theta * f2)))
    stimulated = 1 - torch.exp(-LN10 * theta * 12398.0 / w)
    bound = bf * 4.158e-10 * theta**2.5 * torch.exp(LN10 * 0.754 * theta) * stimulated
    tail = 0.4343 / (2 * theta * 13.6)
    hydrogen = torch.zeros_like(bound)
    for n in (3, 4, 5):
        reaches = (w < 911.8 * n * n).to(bound.dtype)
        hydrogen = hydrogen + reaches / n**3 * torch.exp(-LN10 * theta * 13.6 * (1 - 1 / n**2))
    hydrogen = hydrogen + tail * torch.exp(-LN10 * theta * 13.6 * (1 - 1 / 36))
    return electron_pressure[:, None] * (bound + free) + 1.0449e-26 * w**3 * hydrogen * stimulated


def solve_layer(teff: Tensor, logg: Tensor, log_eps: Tensor, vmic: Tensor) -> Layer:
    """Solve the line-forming layer of every star.

    A grey atmosphere gives the temperature; Saha, charge and hydrostatic balance the pressures.

    Parameters
    ----------
    teff, logg, vmic : (n,) float64 Tensor [K, dex cgs, km/s]
    log_eps : (n, n_element) float64 Tensor
        ln of nuclei per hydrogen nucleus, in the order of `SYMBOLS`.

    Examples
    --------
    >>> solar = torch.tensor([[ELEMENTS[s][1] - 12.0 for s in SYMBOLS]], dtype=torch.float64)
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> sun = solve_layer(5772 * one, 4.44 * one, LN10 * solar, one)
    >>> round(sun.gas_pressure.log10().item(), 1)
    4.7
    """
    temperature = teff * (0.75 * (LINE_DEPTH + 2 / 3)) ** 0.25
    eps = log_eps.exp()
    pressure = electron_pressure(temperature, logg, eps)
    phi = saha(temperature)
    ionized = phi / (phi + pressure[:, None])
    gas = pressure * (1 + eps.sum(1) / (eps * ionized).sum(1))
    neutral, ion = partition_functions(temperature)
    log_neutral = pressure[:, None].log() - (phi + pressure[:, None]).log()
    population = torch.stack([log_neutral - neutral, ionized.log() - ion], 2)
    return Layer(
        temperature,
        gas,
        pressure / (K_ERG * temperature),
        (gas - pressure) / (K_ERG * temperature * eps.sum(1)),
        vmic * 1e5,
        (population + log_eps[:, :, None]).flatten(1),
    )


def electron_pressure(temperature: Tensor, logg: Tensor, eps: Tensor) -> Tensor:
    """Solve charge and hydrostatic balance at the line-forming depth, (n,) [dyn cm⁻²].

    Bisection finds the root without derivatives; one Newton step from there is exact to rounding
    and carries the derivatives of the implicit function.

    Parameters
    ----------
    temperature, logg : (n,) float64 Tensor [K, dex cgs]
    eps : (n, n_element) float64 Tensor
        Nuclei per hydrogen nucleus.
    """
    mass = eps.new_tensor([ELEMENTS[s][0] for s in SYMBOLS]) * AMU
    weight = LN10 * logg + (eps @ mass).log() + math.log(LINE_DEPTH)
    given = (saha(temperature), temperature, eps, weight)
    fixed = tuple(value.detach() for value in given)
    low = torch.full_like(fixed[1], -14.0)
    high = torch.full_like(fixed[1], 14.0)
    for _ in range(24):  # to 2e-6; the Newton step squares that
        middle = (low + high) / 2
        above = _imbalance(middle, *fixed) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    root, step = (low + high) / 2, 1e-4
    slope = (_imbalance(root + step, *fixed) - _imbalance(root - step, *fixed)) / (2 * step)
    return (root - _imbalance(root, *given) / slope).exp()


def _imbalance(
    log_pe: Tensor, phi: Tensor, temperature: Tensor, eps: Tensor, weight: Tensor
) -> Tensor:
    """Return ln of the gas pressure that makes `log_pe` over the one that carries the layer."""
    pressure = log_pe.exp()
    ionized = phi / (phi + pressure[:, None])
    gas = pressure * (1 + eps.sum(1) / (eps * ionized).sum(1))
    reference = eps.new_tensor([5000.0])
    kappa = continuum_opacity(reference, temperature, pressure)[:, 0] * (1 - ionized[:, 0])
    return gas.log() + kappa.log() - weight


def curve_of_growth(eta: Tensor, damping: Tensor) -> Tensor:
    """Equivalent width of a line over its central depth, in Doppler widths.

    Parameters
    ----------
    eta : Tensor
        Line over continuum opacity at the line's center, for no damping.
    damping : Tensor
        Voigt parameter.

    Returns
    -------
    Tensor
        Integral of ``eta H / (1 + eta H)`` over the line, within 4 % (linear, saturated, damped).

    References
    ----------
    Milne-Eddington curve of growth: Mihalas 1978, Stellar Atmospheres, ch. 10.
    """
    flat = (eta * (0.555 + 0.1 * eta / (1 + eta))).log1p()  # a saturated core is sqrt(4 flat) wide
    core = math.sqrt(math.pi) * eta / (1 + math.pi / 4 * eta**2 / flat).sqrt()
    wing = math.pi * (eta * damping / math.sqrt(math.pi)).sqrt()
    return (core**2 + (wing * eta / (1 + eta + 0.1 / damping)) ** 2).sqrt()
