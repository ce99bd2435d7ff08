"""Radiative transfer through the cells of an atmosphere: continuum, line by line, pixel by pixel.

Flux is ``S_0 + sum over cells of dS_k 2 E_3(t_k)``: the source function of the surface, and what it
gains in each cell, seen through the matter above the cell's middle. Depth of absorption is one
minus flux over that of the continuum. Arrays are (n_cell, n, ...).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalespec.models.atmosphere import Atmosphere, cell_depths
from scalespec.models.gas import HC_K, K_ERG
from scalespec.models.opacity import continuum_opacity, thomson

FloatArray = npt.NDArray[np.float64]

LINE_POINTS = 6
"""Points from a narrow line's center to its wings."""
WING_POINTS = 14
"""The same of a line whose wings are resolved."""


@dataclass(frozen=True)
class Continuum:
    """The continuum of each star at some wavelengths, and what lines there are seen against.

    Attributes
    ----------
    stimulated : (n_cell, n, n_node) Tensor
        Factor of stimulated emission of a line.
    above : (n_cell, n, n_node) Tensor
        Optical depth of the middle of each cell.
    weight : (n_cell, n, n_node) Tensor
        Gain of the source function in each cell over the continuum flux.
    depth : (n, n_node) Tensor
        Depth of a black line: one minus surface source function over continuum flux.
    """

    stimulated: Tensor
    above: Tensor
    weight: Tensor
    depth: Tensor


def attenuation(depth: Tensor) -> Tensor:
    """Return ``2 E_3(depth)`` within 0.0013, for depths from 0.

    Examples
    --------
    >>> attenuation(torch.tensor([0.0, 1.0])).round(decimals=3)
    tensor([1.0000, 0.2200])
    """
    steep = (depth * 1.89034).add_(1.91881) / (depth * -1.518901).sub_(1.0)
    return torch.exp(steep * depth)


def to_middle(increments: Tensor) -> Tensor:
    """Return what lies above the middle of every cell, from what each cell holds."""
    return increments.cumsum(0) - 0.5 * increments


def solve_continuum(atmosphere: Atmosphere, wavelength: Tensor) -> tuple[Continuum, Tensor]:
    """Solve the continuum at some wavelengths.

    Parameters
    ----------
    atmosphere : Atmosphere
    wavelength : (n_node,) float64 Tensor [Å]

    Returns
    -------
    Continuum
    (n_cell, n) Tensor
        ln of each cell's hydrogen nuclei per cm².

    Examples
    --------
    The Sun's photosphere: 4 g of hydrogen per cm², 6e23 nuclei each, and lines as deep as 0.76.

    >>> from scalespec.models.atmosphere import solve_atmosphere
    >>> from scalespec.models.gas import ELEMENTS, LN10, SYMBOLS
    >>> solar = torch.tensor([[ELEMENTS[s][1] - 12.0 for s in SYMBOLS]], dtype=torch.float64)
    >>> teff, logg, vmic = torch.tensor([[5772.0], [4.44], [1.0]], dtype=torch.float64)
    >>> sun = solve_atmosphere(teff, logg, LN10 * solar, vmic)
    >>> continuum, nuclei = solve_continuum(sun, torch.tensor([5000.0], dtype=torch.float64))
    >>> round(float(nuclei.exp().sum() / 6e23), 1), round(float(continuum.depth), 2)
    (4.2, 0.76)
    """
    shape = atmosphere.temperature.shape
    t = atmosphere.temperature.flatten()
    pressure = atmosphere.electron_density.flatten() * K_ERG * t
    neutral = 2 * atmosphere.population[..., 0].exp().flatten()
    electrons = (atmosphere.electron_density / atmosphere.hydrogen_density).flatten()
    waves = torch.cat([wavelength, wavelength.new_tensor([5000.0])])
    opacity = continuum_opacity(waves, t, pressure) * neutral[:, None]
    opacity = (opacity + thomson() * electrons[:, None]).view(*shape, len(waves))
    thickness = wavelength.new_tensor(cell_depths()[1])
    column = (thickness / opacity[..., -1]).T  # hydrogen nuclei per cm²
    above = to_middle(opacity[..., :-1].transpose(0, 1) * column[..., None])
    source = _planck(wavelength, atmosphere.boundary_temperature.T)
    gained = source.diff(dim=0)
    flux = source[0] + (gained * attenuation(above)).sum(0)
    stimulated = -torch.expm1(-HC_K / (wavelength * atmosphere.temperature.T[..., None]))
    return Continuum(stimulated, above, gained / flux, 1 - source[0] / flux), column.log()


def _planck(wavelength: Tensor, temperature: Tensor) -> Tensor:
    """Return the Planck function in units of that at the last temperature, (n_cell, n, n_wave)."""
    x = HC_K / (wavelength * temperature[..., None])
    return torch.exp(x[-1] - x) * torch.expm1(-x[-1]) / torch.expm1(-x)


def line_points() -> list[tuple[float, float, float]]:
    """Return weight, Gaussian and damping part of the Voigt profile at points of a narrow line.

    The sum of weight times f is the integral of f from -infinity to infinity in Doppler widths;
    the profile is ``gaussian + a * damping``, to first order in the Voigt parameter a.

    References
    ----------
    Harris 1948, ApJ 108, 112.
    """
    node, weight = np.polynomial.legendre.leggauss(LINE_POINTS)
    s, weight = (node + 1) / 2, weight / 2
    v = 1.6 * s / (1 - 0.9 * s)
    stretch = 1.6 / (1 - 0.9 * s) ** 2
    damping = -2 / math.sqrt(math.pi) * (1 - 2 * v * _dawson(v))
    table = np.stack([2 * weight * stretch, np.exp(-(v**2)), damping])
    return [(float(w), float(g), float(d)) for w, g, d in table.T]


def _dawson(v: FloatArray) -> FloatArray:
    """Return Dawson's integral by Rybicki's sum, good to 1e-7 (Numerical Recipes, 6.10)."""
    h, n = 0.4, np.arange(-59, 60, 2)
    return np.asarray(np.exp(-((v[:, None] - n * h) ** 2)) @ (1 / n) / math.sqrt(math.pi))


def wing_points(relative_sigma: float) -> tuple[FloatArray, FloatArray]:
    """Return points from a strong line's center outwards and weights of their integral.

    Both in widths of the line spread function, close to each other where the core is; the weights
    count either side of the line. `relative_sigma` is that width over the wavelength.
    """
    inner = min(0.3, 3e-6 / relative_sigma)  # 1 km/s, but a point of a fine spread function
    node, weight = np.polynomial.legendre.leggauss(WING_POINTS)
    s, stretch = (node + 1) / 2, math.log1p(10.0 / inner)
    return inner * np.expm1(stretch * s), weight * inner * stretch * np.exp(stretch * s)
