"""The light of a star's continuum, whose lines are formed elsewhere. Vacuum Å, relative flux."""

import numpy as np
import numpy.typing as npt
import torch

from scalespec.models.atmosphere import solve_atmosphere
from scalespec.models.gas import ELEMENTS, HC_K, LN10, SYMBOLS
from scalespec.models.opacity import BREAKS
from scalespec.models.starlabels import abundance_matrix
from scalespec.models.transfer import solve_continuum

FloatArray = npt.NDArray[np.float64]

NODES = 120
"""Wavelengths at which a continuum is solved; between them ln flux is linear in ln wavelength."""


def continuum_flux(
    labels: FloatArray, names: tuple[str, ...], wavelength: FloatArray
) -> FloatArray:
    """Return the flux density of continua, of which line synthesis gives the residual flux.

    Parameters
    ----------
    labels : (n, n_label) float
        As `LineSynthesis` takes them.
    names : tuple of n_label str
    wavelength : (n_pixel,) float [Å, vacuum], ascending

    Returns
    -------
    (n, n_pixel) float64
        Per Å, 1 at the middle of the range: with hydrogen's jumps, without the edges of metals,
        whose lack leaves too much light below 3000 Å.

    Raises
    ------
    ValueError
        If the labels are not one column for each name.

    Examples
    --------
    An A star's continuum falls by half a dex at the Balmer jump, the Sun's by a tenth.

    >>> labels = np.array([[9500.0, 4.0, 0.0], [5772.0, 4.44, 0.0]])
    >>> flux = continuum_flux(labels, ("teff", "logg", "fe_h"), np.array([3640.0, 3655.0]))
    >>> (flux[:, 0] / flux[:, 1]).round(2)
    array([0.3 , 0.76])
    """
    if labels.ndim != 2 or labels.shape[1] != len(names):
        raise ValueError(f"want labels (n, {len(names)}), got {labels.shape}")
    nodes = np.geomspace(wavelength[0], wavelength[-1], NODES)
    sides = [b * side for b in BREAKS for side in (0.99999, 1.00001)]
    inside = [x for x in sides if wavelength[0] < x < wavelength[-1]]
    nodes = np.unique(np.concatenate([nodes, inside]))
    solved = np.log(_at_nodes(torch.from_numpy(np.asarray(labels, np.float64)), names, nodes))
    spread = np.stack([np.interp(np.log(wavelength), np.log(nodes), row) for row in solved])
    middle = spread[:, spread.shape[1] // 2, np.newaxis]
    return np.asarray(np.exp(spread - middle))


def _at_nodes(labels: torch.Tensor, names: tuple[str, ...], nodes: FloatArray) -> FloatArray:
    column = dict(zip(names, labels.T, strict=True))
    solar = labels.new_tensor([ELEMENTS[s][1] - 12.0 for s in SYMBOLS])
    log_eps = LN10 * (solar + labels @ labels.new_tensor(abundance_matrix(names)))
    vmic = column.get("vmic", 2.13 - 0.23 * column["logg"])  # as line synthesis has it
    wave = torch.from_numpy(nodes)
    with torch.no_grad():
        star = solve_atmosphere(column["teff"], column["logg"], log_eps, vmic)
        continuum, _ = solve_continuum(star, wave)
        surface = star.boundary_temperature[:, :1]
        planck = wave**-5 / torch.expm1(HC_K / (wave * surface))
        return np.asarray((planck / (1 - continuum.depth)).numpy())
