"""Spectra as rows of numbers that classical regressors take: no gaps, scaled, or few components."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalespec.models.regressor import RegressorSpec, Sample

FloatArray = NDArray[np.float64]
FURTHEST = 12.0
"""Standard deviations beyond which an input stands still: no spike drives a linear model."""


@dataclass(frozen=True)
class Features:
    """How spectra, and inputs beside them, become features.

    Attributes
    ----------
    flux_mean, flux_std : (n_pixel,) float64
        A masked pixel, or one whose flux is not finite, counts as the mean.
    components : (n_component, n_pixel) float64
        Principal components of the training spectra, each divided by its standard deviation; none:
        the pixels themselves.
    center : (n_pixel,) float64
        What is taken off before the components.
    extra_mean, extra_std : (n_input,) float64
        Of the inputs beside the spectrum; a missing one counts as the mean.

    Examples
    --------
    >>> flux = np.array([[1.0, 2.0], [3.0, 2.5], [2.0, 3.0]], np.float32)
    >>> labels = np.ones((3, 1), np.float32)
    >>> sample = Sample(flux, np.ones_like(flux), labels, labels)
    >>> Features.fit(sample).apply(flux, np.zeros_like(flux)).tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """

    flux_mean: FloatArray
    flux_std: FloatArray
    center: FloatArray
    components: FloatArray
    extra_mean: FloatArray
    extra_std: FloatArray

    @classmethod
    def fit(
        cls,
        sample: Sample,
        spec: RegressorSpec | None = None,
        *,
        components: int = 0,
    ) -> "Features":
        """Learn means, scales and components from training spectra.

        Parameters
        ----------
        sample : Sample
        spec : RegressorSpec, optional
            Says which inputs there are beside the spectrum; if not given, those of the sample.
        components : int
            Principal components; 0: pixels.

        Raises
        ------
        ValueError
            If components are negative, or the sample lacks the spec's inputs.
        """
        if components < 0:
            raise ValueError(f"components = {components}: wanted >= 0")
        if spec is not None and spec.inputs and sample.extra is None:
            raise ValueError(f"the sample lacks the inputs {spec.inputs}")
        good = good_pixels(sample.flux, sample.ivar)
        flux = sample.flux.astype(np.float64)
        count = np.maximum(good.sum(axis=0), 1)
        mean = np.where(good, flux, 0.0).sum(axis=0) / count
        filled = np.where(good, flux, mean)
        std = filled.std(axis=0)
        typical = np.median(std[std > 0]) if np.any(std > 0) else 1.0
        std = np.maximum(std, 1e-3 * typical)
        center, vectors = _components(filled, components)
        extra = np.zeros((0, 0)) if sample.extra is None else sample.extra.astype(np.float64)
        extra_mean, extra_std = _known_moments(extra)
        return cls(mean, std, center, vectors, extra_mean, extra_std)

    def apply(
        self, flux: NDArray[Any], ivar: NDArray[Any], extra: NDArray[Any] | None = None
    ) -> FloatArray:
        """Return the features (n, n_feature) of n spectra.

        Raises
        ------
        ValueError
            If there are other pixels or inputs than those learned from.
        """
        if flux.shape[1] != len(self.flux_mean):
            raise ValueError(f"{flux.shape[1]} pixels, learned from {len(self.flux_mean)}")
        filled = np.where(good_pixels(flux, ivar), flux.astype(np.float64), self.flux_mean)
        if len(self.components):
            made = (filled - self.center) @ self.components.T
        else:
            made = (filled - self.flux_mean) / self.flux_std
        made = np.clip(made, -FURTHEST, FURTHEST)
        if not len(self.extra_mean):
            return made
        if extra is None or extra.shape != (len(flux), len(self.extra_mean)):
            raise ValueError(f"wanted {len(self.extra_mean)} inputs beside each spectrum")
        scaled = (extra.astype(np.float64) - self.extra_mean) / self.extra_std
        beside = np.clip(np.where(np.isfinite(scaled), scaled, 0.0), -FURTHEST, FURTHEST)
        return np.concatenate([made, beside], axis=1)


def good_pixels(flux: NDArray[Any], ivar: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels say something: those of some weight whose flux is a number.

    Examples
    --------
    >>> good_pixels(np.array([1.0, np.nan, 1.0]), np.array([4.0, 4.0, 0.0]))
    array([ True, False, False])
    """
    good: NDArray[np.bool_] = (ivar > 0) & np.isfinite(flux)
    return good


def _components(filled: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Return the mean spectrum and the first components over their standard deviations."""
    center = filled.mean(axis=0)
    if not n:
        return center, np.zeros((0, filled.shape[1]))
    n = min(n, *filled.shape)
    _, values, vectors = np.linalg.svd(filled - center, full_matrices=False)
    sigma = values[:n] / np.sqrt(max(len(filled), 1))
    least = max(float(sigma[0]) * 1e-9, 1e-300)
    # The sign of a component is a convention: its largest element is positive.
    sign = np.sign(vectors[np.arange(n), np.abs(vectors[:n]).argmax(axis=1)])
    return center, vectors[:n] * (sign / np.maximum(sigma, least))[:, np.newaxis]


def _known_moments(extra: FloatArray) -> tuple[FloatArray, FloatArray]:
    mean, std = np.zeros(extra.shape[1]), np.ones(extra.shape[1])
    for k, column in enumerate(extra.T):
        known = column[np.isfinite(column)]
        if known.size and known.std() > 0:
            mean[k], std[k] = known.mean(), known.std()
    return mean, std
