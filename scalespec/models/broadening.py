"""Rotation and macroturbulence: what moves light along the spectrum, by Fourier transform.

On a grid even in ln wavelength a velocity is a shift by pixels, whatever the wavelength.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

LIMB_DARKENING = 0.6
"""Linear coefficient of the rotating disk; that of the Sun at 5500 Å."""
_STEP, _LAST = 0.02, 400.0  # of the tabulated transform; beyond, it is below 1e-4


def broaden(
    flux: Tensor, step_kms: float, *, vsini: Tensor | None = None, vmac: Tensor | None = None
) -> Tensor:
    """Broaden spectra on a grid even in ln wavelength.

    Parameters
    ----------
    flux : (n, n_pixel) Tensor
        Normalized to a continuum of 1, which is taken to go on beyond the ends.
    step_kms : float
        Pixel [km/s].
    vsini : (n,) Tensor, optional [km/s]
        Projected rotational velocity, with a linear limb darkening of `LIMB_DARKENING`.
    vmac : (n,) Tensor, optional [km/s]
        Isotropic macroturbulence, a Gaussian ``exp(-(v / vmac)**2)``.

    Returns
    -------
    (n, n_pixel) Tensor

    References
    ----------
    Gray 2005, chapters 17 and 18.

    Examples
    --------
    >>> line = torch.ones(1, 64)
    >>> line[0, 32] = 0.0
    >>> wide = broaden(line, 10.0, vmac=torch.tensor([30.0]))
    >>> bool(wide[0, 32] > 0.5)
    True
    """
    n_pixel = flux.shape[1]
    padded = 1 << (n_pixel + 64 - 1).bit_length()
    if not len(flux):  # which transforms refuse
        return flux
    spectrum = torch.fft.rfft(1 - flux, n=padded)
    frequency = torch.arange(padded // 2 + 1, dtype=flux.dtype, device=flux.device)
    frequency = frequency * (2 * math.pi / padded / step_kms)  # radians per km/s
    factor = torch.ones((), dtype=flux.dtype, device=flux.device)
    if vmac is not None:
        factor = factor * torch.exp(-((vmac.to(flux.dtype)[:, None] * frequency / 2) ** 2))
    if vsini is not None:
        factor = factor * rotation_transform(vsini.to(flux.dtype)[:, None] * frequency)
    moved: Tensor = torch.fft.irfft(spectrum * factor, n=padded)
    return 1 - moved[:, :n_pixel]


def rotation_kernel(x: Tensor, limb: float = LIMB_DARKENING) -> Tensor:
    """Return the rotational profile at `x`, velocity over vsini; its integral is 1.

    References
    ----------
    Gray 2005, eq. 18.14.

    Examples
    --------
    >>> round(rotation_kernel(torch.tensor(0.0)).item(), 3)
    0.693
    """
    inside = (1 - x**2).clamp_min(0.0)
    bright = 2 * (1 - limb) * inside.sqrt() + 0.5 * math.pi * limb * inside
    return bright / (math.pi * (1 - limb / 3))


def rotation_transform(u: Tensor) -> Tensor:
    """Return the Fourier transform of `rotation_kernel` at angular frequency `u`.

    By cubic Hermite interpolation in a table, exact to 1e-8.

    Examples
    --------
    >>> rotation_transform(torch.tensor([0.0])).item()
    1.0
    """
    table = _table(u.device).to(u.dtype)
    place = u.abs().clamp_max(_LAST - 2 * _STEP) / _STEP
    i = place.detach().floor().long()
    t = place - i
    low, high = table[i], table[i + 1]
    # Value and slope at either end, both per step.
    a, da, b, db = low[..., 0], low[..., 1], high[..., 0], high[..., 1]
    return a + t * (da + t * (3 * (b - a) - 2 * da - db + t * (2 * (a - b) + da + db)))


@cache
def _table(device: torch.device) -> Tensor:
    """Tabulate the transform and its slope per step, (n, 2), by Gauss-Chebyshev quadrature."""
    n = 600
    x = np.cos((np.arange(n) + 0.5) * np.pi / n)
    bright = (
        2 * (1 - LIMB_DARKENING) * (1 - x**2) + 0.5 * np.pi * LIMB_DARKENING * (1 - x**2) ** 1.5
    )
    weight = bright / bright.sum()
    u = np.arange(0.0, _LAST + _STEP, _STEP)
    value, slope = np.empty(u.size), np.empty(u.size)
    for start in range(0, u.size, 2000):
        phase = u[start : start + 2000, None] * x
        value[start : start + 2000] = np.cos(phase) @ weight
        slope[start : start + 2000] = -np.sin(phase) @ (weight * x)
    return torch.tensor(np.stack([value, slope * _STEP], 1), device=device)
