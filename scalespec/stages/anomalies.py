"""Which spectra are unlike their fits in an unusual way: principal components of residuals.

A residual is (fit - data) / sigma, pixel by pixel. What many spectra share, a wrong line or a sky
residual, becomes a component; a spectrum is an anomaly by how much of its residual no component
explains, or by how much of one it has.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.stages.inspect import Fitted, best_fit_flux

FloatArray = npt.NDArray[np.float64]

CLIP_SIGMA = 10.0
"""Pixels further off count as this: one cosmic ray is no new kind of star."""


@dataclass(frozen=True)
class Usual:
    """What residuals usually are.

    Attributes
    ----------
    mean : (n_pixel,) float64
    vectors : (n_component, n_pixel) float64
    variance : (n_component,) float64
        Of the scores.
    center, scale : (2,) float64
        Median and robust scatter of the logarithms of what is left and of distance.
    """

    mean: FloatArray
    vectors: FloatArray
    variance: FloatArray
    center: FloatArray
    scale: FloatArray

    def to_bytes(self) -> bytes:
        """Return an ``.npz``."""
        buffer = io.BytesIO()
        np.savez(buffer, **vars(self))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return cls(**{name: file[name] for name in file.files})


def residuals(
    fitted: Sequence[Fitted], spectra: xr.Dataset, best: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float32]:
    """Return (n, n_pixel) residuals in sigma; 0 in pixels that do not count, NaN without a fit."""
    flux = best_fit_flux(fitted, spectra, best)
    pull = (flux - spectra["flux"].to_numpy()) * np.sqrt(spectra["ivar"].to_numpy())
    return np.asarray(np.clip(pull, -CLIP_SIGMA, CLIP_SIGMA), np.float32)


def learn_usual(sample: npt.NDArray[np.float32], n_component: int) -> Usual:
    """Return what residuals usually are.

    Parameters
    ----------
    sample : (n, n_pixel) float32
        Residuals; rows of NaN are left out.
    n_component : int

    Raises
    ------
    ValueError
        If there are fewer residuals than components, or than three.
    """
    known = sample[np.isfinite(sample).all(axis=1)].astype(np.float64)
    if len(known) < max(n_component + 1, 3):
        raise ValueError(f"{len(known)} residuals have no {n_component} components: sample more")
    mean = np.median(known, axis=0)
    _, values, vectors = np.linalg.svd(known - mean, full_matrices=False)
    kept = vectors[:n_component]
    variance = np.maximum(values[:n_component] ** 2 / len(known), 1e-12)
    plain = Usual(mean, kept, variance, np.zeros(2), np.ones(2))
    logs = _logs(plain, known)
    center = np.median(logs, axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(logs - center), axis=0), 1e-6)
    return Usual(mean, kept, variance, center, scale)


def _logs(usual: Usual, pull: FloatArray) -> FloatArray:
    """Return (n, 2): logarithms of what components leave, per pixel, and of their distance."""
    left = pull - usual.mean
    scores = left @ usual.vectors.T
    rest = np.maximum((left**2).sum(axis=1) - (scores**2).sum(axis=1), 0) / left.shape[1]
    distance = (scores**2 / usual.variance).mean(axis=1)
    return np.log(np.stack([rest, distance], axis=1) + 1e-12)


def anomaly(usual: Usual, pull: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return (n,): robust sigmas by which a residual is unusual, the larger of its two ways."""
    known = np.isfinite(pull).all(axis=1)
    found = np.full(len(pull), np.nan, np.float32)
    logs = _logs(usual, pull[known].astype(np.float64))
    found[known] = ((logs - usual.center) / usual.scale).max(axis=1, initial=-np.inf)
    return found
