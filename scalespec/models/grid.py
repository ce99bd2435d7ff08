"""The pixels a synthesis works on, even in ln wavelength where those asked for will not do."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
C_KMS = 299_792.458
"""Speed of light [km/s], exact (SI)."""
POINTS = 8
"""Points of the polynomial that interpolates between pixels."""
FINE = 0.5  # pixel, in widths of the line spread function, that it interpolates to 1e-4


@dataclass(frozen=True)
class SynthesisGrid:
    """Pixels to work on, and how to read those asked for from them.

    Attributes
    ----------
    wavelength : (n,) float64 [Å]
    step_kms : float
        Pixel [km/s]; 0 where the grid is not even in ln wavelength.
    first : (n_output,) int64
        First of the pixels each output is made of.
    weight : (n_output, POINTS) float64 or None
        Of these pixels; None where outputs are pixels.
    """

    wavelength: FloatArray
    step_kms: float
    first: npt.NDArray[np.int64]
    weight: FloatArray | None

    def read(self, flux: Tensor) -> Tensor:
        """Return the flux (n, n_output) asked for, from that of the grid (n, n_pixel)."""
        if self.weight is None:
            start = int(self.first[0])
            return flux[:, start : start + self.first.size]
        first = torch.as_tensor(self.first, device=flux.device)
        weight = torch.as_tensor(self.weight, dtype=flux.dtype, device=flux.device)
        made = flux[:, first] * weight[:, 0]
        for k in range(1, POINTS):
            made = made + flux[:, first + k] * weight[:, k]
        return made


def plan_grid(
    output: FloatArray, sigma: float, *, moved: Collection[str], margin_kms: float
) -> SynthesisGrid:
    """Return the pixels to work on.

    Parameters
    ----------
    output : (n_output,) float64 [Å]
    sigma : float
        Of the line spread function, in ln wavelength.
    moved : collection of str
        Labels that move light along the spectrum; without any, outputs are pixels.
    margin_kms : float
        Room at either end for light to move.

    Raises
    ------
    ValueError
        If there are no pixels, or they do not ascend.

    Examples
    --------
    Steps of half a sigma in ln wavelength stand for pixels of 2 Å; 8 more at either end.

    >>> wide = plan_grid(np.arange(5000.0, 5011, 2), 2e-4, moved={"vsini"}, margin_kms=0.0)
    >>> wide.wavelength.size, round(wide.step_kms, 2), wide.first.tolist()
    (37, 29.98, [5, 8, 12, 16, 20, 24])
    """
    if output.size == 0 or not np.all(np.diff(output) > 0):
        raise ValueError(f"want pixels in ascending order, got {output.size}: {output}")
    place = np.arange(output.size)
    if not moved:
        return SynthesisGrid(output, 0.0, place, None)
    x = np.log(output)
    steps = np.diff(x) if output.size > 1 else np.array([sigma])
    even = float(np.ptp(steps)) < 1e-4 * float(steps.min())
    step = float(steps.mean())
    exact = even and step < 1.1 * sigma
    step = step if exact else FINE * sigma
    margin = math.ceil(margin_kms / C_KMS / step) + POINTS
    n_pixel = math.ceil((x[-1] - x[0]) / step) + 1 + 2 * margin
    if exact:
        n_pixel = output.size + 2 * margin
    grid = np.exp(x[0] + step * (np.arange(n_pixel) - margin))
    if exact:
        return SynthesisGrid(grid, step * C_KMS, place + margin, None)
    position = (x - x[0]) / step + margin
    first = np.floor(position).astype(np.int64) - POINTS // 2 + 1
    return SynthesisGrid(grid, step * C_KMS, first, _lagrange(position - first))


def _lagrange(t: FloatArray) -> FloatArray:
    """Return the weights of points 0, 1, ... of the polynomial through them at `t`."""
    nodes = np.arange(POINTS)
    weight = np.ones((t.size, POINTS))
    for i in nodes:
        for j in nodes[nodes != i]:
            weight[:, i] *= (t - j) / (i - j)
    return weight
