"""Continuum opacity of hydrogen in its forms, and scattering. cm², vacuum Å, float64 torch."""

import torch
from torch import Tensor

from scalespec.models.gas import HC_K, LN10

BREAKS = (3647.0, 8206.0, 14588.0)
"""Bound-free edges of hydrogen's levels 2, 3 and 4 [Å, vacuum]."""
H_MINUS_EDGE = 16421.0  # [Å]


def continuum_opacity(wavelength: Tensor, temperature: Tensor, electron_pressure: Tensor) -> Tensor:
    """Return continuum opacity [cm² per neutral hydrogen atom], stimulated emission included.

    Negative hydrogen, hydrogen bound-free and free-free with Gaunt factors 1, Rayleigh scattering
    by hydrogen. Free electrons come apart, in `thomson`. No metals, whose edges matter below
    3000 Å, and no molecules.

    Parameters
    ----------
    wavelength : (n_wave,) float64 Tensor [Å]
        2000 to 20000.
    temperature, electron_pressure : (n,) float64 Tensor [K, dyn cm⁻²]

    Returns
    -------
    (n, n_wave) Tensor

    References
    ----------
    Gray 2005, eqs. 8.8 and 8.10 (hydrogen), 8.11 to 8.13 (H-); Rayleigh: Dalgarno 1962.

    Examples
    --------
    Across the Balmer jump of an A star hydrogen becomes twenty times as opaque.

    >>> waves, t, pe = (torch.tensor(x).double() for x in ([3600.0, 3700.0], [9500.0], [300.0]))
    >>> blue, red = continuum_opacity(waves, t, pe)[0].tolist()
    >>> round(blue / red)
    20
    """
    stimulated = -torch.expm1(-HC_K / (wavelength * temperature[:, None]))
    absorbed = electron_pressure[:, None] * _h_minus(wavelength, temperature, stimulated)
    hydrogen = _hydrogen(wavelength, temperature) * stimulated
    w2 = wavelength**-2
    rayleigh = w2**2 * (5.799e-13 + w2 * (1.422e-6 + w2 * 2.784))
    return absorbed + hydrogen + rayleigh


def thomson() -> float:
    """Return the opacity of one free electron [cm²].

    Examples
    --------
    >>> thomson()
    6.6525e-25
    """
    return 6.6525e-25


def _h_minus(w: Tensor, temperature: Tensor, stimulated: Tensor) -> Tensor:
    """Return H- opacity per neutral hydrogen atom and electron pressure."""
    theta = (5040.0 / temperature)[:, None]
    bf = 1.99654 + w * (-1.18267e-5 + w * (2.64243e-6 + w * (-4.40524e-10 + w * 3.23992e-14)))
    bf = (bf + w**5 * (-1.39568e-18 + w * 2.78701e-23)).clamp_min(0.0) * (w < H_MINUS_EDGE)
    # Fitted for theta above 0.5; hotter gas has no H- to speak of.
    bounded = theta.clamp_min(0.5)
    bound = 4.158e-28 * bf * theta**2.5 * torch.exp(LN10 * 0.754 * theta) * stimulated
    x, log_theta = w.log10(), bounded.log10()
    f0 = -2.2763 + x * (-1.6850 + x * (0.76661 - 0.053346 * x))
    f1 = 15.2827 + x * (-9.2846 + x * (1.99381 - 0.142631 * x))
    f2 = -197.789 + x * (190.266 + x * (-67.9775 + x * (10.6913 - 0.625151 * x)))
    return bound + 1e-26 * torch.exp(LN10 * (f0 + log_theta * (f1 + log_theta * f2)))


def _hydrogen(w: Tensor, temperature: Tensor) -> Tensor:
    """Return bound-free and free-free opacity per neutral hydrogen atom, no stimulated emission."""
    energy = (LN10 * 13.598 * 5040.0 / temperature)[:, None]  # chi / kT
    total = (1 / (2 * energy)) * torch.exp(-energy * (1 - 1 / 36))  # levels above 5, free-free
    for n in (2, 3, 4, 5):
        reaches = (w < 911.75 * n * n).to(w.dtype)
        total = total + reaches / n**3 * torch.exp(-energy * (1 - 1 / n**2))
    return 1.0449e-26 * w**3 * total
