"""The continuum that a run file asks for, as one function; and how models and stores say it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scalespec.config import ContinuumTable
from scalespec.kernels.continuum import gaussian_sigma, gaussian_smoothing, normalize
from scalespec.kernels.continuum_fit import chebyshev_continuum
from scalespec.kernels.continuum_robust import chip_median, running_quantile, scale_to_range
from scalespec.kernels.continuum_spline import spline_continuum
from scalespec.kernels.mask import known, window_mask

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Normalizer = Callable[
    [FloatArray, FloatArray], tuple[FloatArray, FloatArray, FloatArray, BoolArray]
]
"""Flux and ivar -> normalized flux, its ivar, continuum, and where there is none."""


def normalizer(wavelength: npt.NDArray[np.float64], table: ContinuumTable) -> Normalizer:
    """Return the function that normalizes spectra on `wavelength`.

    Raises
    ------
    ValueError
        If chips or windows hold no pixel.
    """
    if table.method == "gaussian":
        sigma = gaussian_sigma(table.width_angstrom, table.convention)
        operator = gaussian_smoothing(wavelength, sigma)
        once = partial(normalize, operator=operator, weights=table.weights)
        return partial(_repeated, once=once, passes=table.passes)
    if table.method == "range":
        return _scaled
    if table.method == "none":
        return _as_it_is
    return partial(_divided, continuum=_continuum(wavelength, table))


def _repeated(
    flux: FloatArray, ivar: FloatArray, once: Normalizer, passes: int
) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    """Normalize what is normalized again; the continuum is the product of all."""
    flux, ivar, level, bad = once(flux, ivar)
    for _ in range(passes - 1):
        flux, ivar, more, lost = once(flux, ivar)
        level, bad = level * more, bad | lost
    return flux, ivar, level, bad


Continuum = Callable[[FloatArray, FloatArray], tuple[FloatArray, BoolArray]]


def _continuum(wavelength: npt.NDArray[np.float64], table: ContinuumTable) -> Continuum:
    chips = chip_pixels(wavelength, table.chips)
    if table.method == "quantile":
        return partial(
            running_quantile,
            wavelength=wavelength,
            half_width_angstrom=table.width_angstrom,
            quantile=table.quantile,
        )
    if table.method == "spline":
        return partial(spline_continuum, n_coefficient=min(table.coefficients, len(wavelength)))
    if table.method == "median":
        return partial(chip_median, chips=chips)
    chosen = window_mask(wavelength, table.pixels) if table.pixels else None
    if chosen is not None and not chosen.any():
        raise ValueError(f"preprocess.continuum.pixels = {table.pixels} hold no pixel")
    return partial(chebyshev_continuum, degree=table.degree, chips=chips, pixels=chosen)


def chip_pixels(
    wavelength: npt.NDArray[np.float64], limits: tuple[tuple[float, float], ...]
) -> list[tuple[int, int]]:
    """Return chips as pixel ranges; without limits all pixels are one chip.

    Raises
    ------
    ValueError
        If a chip holds no pixel.
    """
    if not limits:
        return [(0, len(wavelength))]
    chips = []
    for low, high in limits:
        start, stop = np.searchsorted(wavelength, [low, high * (1 + 1e-12)])
        if stop <= start:
            raise ValueError(f"preprocess.continuum.chips: no pixel between {low} and {high} Å")
        chips.append((int(start), int(stop)))
    return chips


def _divided(
    flux: FloatArray, ivar: FloatArray, continuum: Continuum
) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    level, bad = continuum(flux, ivar)
    divisor = np.where(bad, np.float32(1), level)
    # ivar first: level² alone leaves float32 for fluxes of 1e-23.
    weight = np.where(known(flux, ivar) & ~bad, ivar * divisor * divisor, np.float32(0))
    return np.where(weight > 0, flux / divisor, np.float32(0)), weight, level, bad


def _scaled(
    flux: FloatArray, ivar: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    scaled, weight = scale_to_range(flux, ivar)
    return scaled, weight, np.ones_like(scaled), np.zeros(flux.shape, np.bool_)


def _as_it_is(
    flux: FloatArray, ivar: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    there = known(flux, ivar)
    kept, weight = np.where(there, flux, np.float32(0)), np.where(there, ivar, np.float32(0))
    return kept, weight, np.ones_like(kept), np.zeros(flux.shape, np.bool_)


_SETTINGS = {
    "quantile": ("width_angstrom", "quantile"),
    "chebyshev": ("degree", "chips", "pixels"),
    "spline": ("coefficients",),
    "median": ("chips",),
}


def said(table: ContinuumTable) -> dict[str, Any]:
    """Return how spectra are normalized, as models and stores say it.

    The width of a Gaussian is said as its standard deviation, whatever the run file's convention.
    A Gaussian weighted by ivar is another operator for every star and has a name of its own.
    """
    if table.method == "gaussian":
        method = "gaussian" if table.weights == "mask" else "gaussian_ivar"
        width = gaussian_sigma(table.width_angstrom, table.convention)
        passes = {"passes": table.passes} if table.passes > 1 else {}
        return {"method": method, "width_angstrom": width, **passes}
    values = table.model_dump(mode="json")
    return {"method": table.method} | {k: values[k] for k in _SETTINGS.get(table.method, ())}


def table_of(normalization: Mapping[str, Any]) -> ContinuumTable:
    """Return the settings that `said` says: how to normalize spectra as a model's own were.

    A model over the true continuum is met by spectra that pass a Gaussian, as the model will.

    Examples
    --------
    >>> chips = ContinuumTable(method="chebyshev", degree=4, chips=((15150.0, 15800.0),))
    >>> table_of(said(chips)) == chips
    True
    """
    known = dict(normalization)
    method = str(known.pop("method"))
    if method in ("continuum", "gaussian", "gaussian_ivar"):
        weights: Literal["mask", "ivar"] = "ivar" if method == "gaussian_ivar" else "mask"
        return ContinuumTable(weights=weights, **known)
    return ContinuumTable.model_validate({"method": method, **known})
