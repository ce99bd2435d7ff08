"""What a spectrum could measure: Fisher matrices and Cramér-Rao bounds of any emulator.

Labels are physical (K, dex, km/s), the velocity is in km/s.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scalespec.optimize.constraints import box
from scalespec.optimize.normalization import Smoother, as_rows
from scalespec.optimize.objective import ArrayLike, Emulator, Objective

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Information:
    """What ``n`` spectra tell of K labels and the velocity.

    Attributes
    ----------
    labels : tuple of str
        Names of the labels.
    fisher : (n, K + 1, K + 1) float64
        Fisher matrix in physical units, the velocity [km/s] last.
    bound : (n, K) float64
        Least standard error of each label, all others unknown; infinite without information.
    alone : (n, K) float64
        The same with all others known.
    rv_bound : (n,) float64 [km/s]
        Of the velocity.
    """

    labels: tuple[str, ...]
    fisher: Array
    bound: Array
    alone: Array
    rv_bound: Array


def information(
    model: Emulator,
    labels: ArrayLike,
    ivar: ArrayLike,
    *,
    rv: ArrayLike | None = None,
    smoothing: Smoother | None = None,
    prior_sigma: NDArray[np.floating] | None = None,
) -> Information:
    """Compute how well labels could be measured from spectra of given noise.

    Parameters
    ----------
    model : Emulator
        Its own scatter counts as noise.
    labels : (n, K) float
        Where, physical.
    ivar : (n, P) or (P,) float
        Inverse variance of the normalized flux; 0 where there is no pixel.
    rv : (n,) float [km/s], optional
        Velocities; 0 if not given.
    smoothing : Smoother, optional
        The data's normalization, when the model's is the true continuum.
    prior_sigma : (K,) float, optional
        What is known before; infinite or NaN: nothing.

    Returns
    -------
    Information

    Raises
    ------
    ValueError
        If shapes do not fit the model, or a prior's sigma is not above 0.

    References
    ----------
    Ting et al. 2017, ApJ 843, 32; Sandford, Weisz & Ting 2020, ApJS 249, 24.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(labels=("depth",), minimum=np.array([0.0]), maximum=np.array([1.0]),
    ...                        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)))
    >>> line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2).double()
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(60).double(),
    ...     forward_scaled=lambda x: 1 - (x + 0.5) * line,
    ...     flux_and_jacobian=lambda x: (1 - (x + 0.5) * line, -line.expand(len(x), 1, 60)))
    >>> information(model, np.array([[0.3]]), np.full(60, 1e4)).bound.round(5)
    array([[0.00531]])
    """
    low, width = box(model)
    where = np.asarray(labels, np.float64)
    n, n_pixel = len(where), len(model.spec.wavelength)
    noise = np.broadcast_to(np.asarray(ivar, np.float32), (n, n_pixel))
    if where.shape != (n, len(low)):
        raise ValueError(f"labels should be (n, {len(low)}) for this model, got {where.shape}")
    like = model.scatter
    rv = np.zeros(n) if rv is None else np.asarray(rv, np.float64)
    with torch.no_grad():
        weight, start, x = (as_rows(a, like) for a in (noise, rv, (where - low) / width - 0.5))
        objective = Objective.of(
            model,
            torch.ones_like(weight),
            weight,
            rv_start=start,
            rv_range=0.5,  # the velocity's parameter is km/s then
            smoother=smoothing,
        )
        fisher = objective.hessian(torch.nn.functional.pad(x, (0, 1))).cpu().numpy()
    unit = np.append(1.0 / width, 1.0)
    fisher = fisher * np.multiply.outer(unit, unit)
    if prior_sigma is not None:
        diagonal = np.arange(len(low))
        fisher[:, diagonal, diagonal] += _precision(prior_sigma, len(low))
    bound = _bounds(fisher)
    with np.errstate(divide="ignore"):
        alone = 1.0 / np.sqrt(np.diagonal(fisher, axis1=1, axis2=2))
    return Information(tuple(model.spec.labels), fisher, bound[:, :-1], alone[:, :-1], bound[:, -1])


def _precision(prior_sigma: NDArray[np.floating[Any]], n_label: int) -> Array:
    """Return 1 / sigma², 0 where nothing is known."""
    sigma = np.asarray(prior_sigma, np.float64)
    if sigma.shape != (n_label,) or np.any(sigma <= 0):
        raise ValueError(
            f"prior_sigma should be {n_label} numbers above 0, got {sigma.tolist()}: give a small "
            "one to a label that is known exactly"
        )
    known: Array = np.nan_to_num(1.0 / sigma**2)
    return known


def _bounds(fisher: Array) -> Array:
    """(n, Q, Q) -> (n, Q) roots of the inverse's diagonal; infinite where a label is not seen."""
    root = np.sqrt(np.diagonal(fisher, axis1=1, axis2=2))
    seen = root > 0
    unit = np.where(seen, root, 1.0)
    scaled = fisher / (unit[:, :, np.newaxis] * unit[:, np.newaxis, :])
    scaled[:, np.arange(fisher.shape[1]), np.arange(fisher.shape[1])] = 1.0
    values, vectors = np.linalg.eigh(scaled)
    # Directions under float32 rounding are not seen: their labels have no bound.
    rounding = 1e-6
    inverse = np.where(values > rounding, 1.0 / np.maximum(values, rounding), np.inf)
    part = np.where(np.abs(vectors) < 1e-4, 0.0, vectors**2)
    with np.errstate(invalid="ignore"):
        variance = np.where(part > 0, part * inverse[:, np.newaxis, :], 0.0).sum(axis=2)
    return np.where(seen, np.sqrt(variance) / unit, np.inf)
