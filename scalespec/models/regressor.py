"""What regressors, flux to labels, share: specification, samples, predictions, `Estimator`.

Labels are physical (teff [K], logg and abundances [dex], velocities [km/s]); wavelengths vacuum Å;
an ivar of 0 means no information, a label of NaN is missing, a label error of 0 or NaN is unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scalespec.models.base import ModelSpec, check_spectra

FloatArray = NDArray[np.float32]
SMALLEST_STD = 1e-3
"""Least standard deviation of a pixel's flux, in units of the median pixel's."""


@dataclass(frozen=True, eq=False)
class RegressorSpec(ModelSpec):
    """What a regressor's numbers mean.

    Attributes
    ----------
    name : str
        What this regressor is called in messages and reports.
    labels : tuple of str
        Label names, in the order of the model's output.
    wavelength : (n_pixel,) float64 [Å, vacuum]
        Rest-frame wavelength of every input pixel.
    label_mean, label_std : (n_label,) float64
        Of the training sample; the model works on ``(label - label_mean) / label_std``.
    flux_mean, flux_std : (n_pixel,) float64 [flux]
        Of the training sample; the model sees ``(flux - flux_mean) / flux_std``.
    normalization : dict
        As of `scalespec.models.base.EmulatorSpec`.
    resolving_power : float, optional
        R of the spectra.
    extra : dict
        Whatever else is known, plain JSON types. ``extra["inputs"]`` describes inputs beside the
        spectrum: ``{"names": [...], "mean": [...], "std": [...]}``.

    Raises
    ------
    ValueError
        If names repeat, sizes differ, a spread is not positive or wavelengths do not increase.

    Examples
    --------
    >>> spec = RegressorSpec("toy", ("teff",), [5000.0, 5001.0], [5000.0], [800.0], [1, 1], [1, 1])
    >>> RegressorSpec.from_dict(spec.to_dict()).label_std
    array([800.])
    """

    name: str
    labels: tuple[str, ...]
    wavelength: NDArray[np.float64]
    label_mean: NDArray[np.float64]
    label_std: NDArray[np.float64]
    flux_mean: NDArray[np.float64]
    flux_std: NDArray[np.float64]
    normalization: Mapping[str, Any] = field(default_factory=lambda: {"method": "continuum"})
    resolving_power: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    _arrays = ("wavelength", "label_mean", "label_std", "flux_mean", "flux_std")
    _kind = "a regressor"

    def _check(self) -> None:
        check_spectra(self.wavelength, self.resolving_power, self.normalization)
        for name in self._arrays[1:]:
            array = getattr(self, name)
            n = self.n_label if name.startswith("label") else self.n_pixel
            if array.shape != (n,) or not np.all(np.isfinite(array)):
                raise ValueError(f"{name} must be {n} finite numbers, got shape {array.shape}")
            if name.endswith("std") and np.any(array <= 0):
                raise ValueError(f"{name} must be positive, got {array.min():.6g}")
        inputs = self.extra.get("inputs", {"names": [], "mean": [], "std": []})
        if len({len(inputs[key]) for key in ("names", "mean", "std")}) != 1:
            raise ValueError(f"extra inputs want as many means and stds as names, got {inputs}")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs beside the spectrum, the columns of a sample's ``extra``."""
        return tuple(self.extra.get("inputs", {}).get("names", ()))


@dataclass
class Sample:
    """Labelled spectra.

    Attributes
    ----------
    flux, ivar : (n, n_pixel) float32
        An ivar of 0 means no information; it may be infinite (spectra without noise).
    labels : (n, n_label) float32
        NaN where missing.
    label_err : (n, n_label) float32
        1 sigma; 0 or NaN where unknown.
    extra : (n, n_input) float32, optional
        Inputs beside the spectrum (photometry, parallax); NaN where missing.

    Raises
    ------
    ValueError
        If sizes differ.
    """

    flux: FloatArray
    ivar: FloatArray
    labels: FloatArray
    label_err: FloatArray
    extra: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.flux.ndim != 2 or self.ivar.shape != self.flux.shape:
            raise ValueError(f"flux {self.flux.shape} and ivar {self.ivar.shape} must be (n, p)")
        if self.labels.ndim != 2 or self.label_err.shape != self.labels.shape:
            raise ValueError(
                f"labels {self.labels.shape} and label_err {self.label_err.shape} must be (n, l)"
            )
        rows = [len(self.labels)] + ([] if self.extra is None else [len(self.extra)])
        if any(n != len(self.flux) for n in rows):
            raise ValueError(f"{len(self.flux)} spectra, but labels and extra inputs of {rows}")

    def __len__(self) -> int:
        """Return the number of spectra."""
        return len(self.flux)

    def take(self, rows: Any) -> "Sample":
        """Return some rows, by number, slice or bool."""
        extra = None if self.extra is None else self.extra[rows]
        return Sample(
            self.flux[rows], self.ivar[rows], self.labels[rows], self.label_err[rows], extra
        )


@dataclass(frozen=True)
class Prediction:
    """Labels of n spectra; a spectrum without a good pixel has NaN labels and an infinite score.

    Attributes
    ----------
    labels : (n, n_label) float32
    sigma_aleatoric : (n, n_label) float32
        What the noise and the training labels' own scatter leave open, 1 sigma.
    sigma_epistemic : (n, n_label) float32
        What the model does not know: spread of its members; 0 for one that has none.
    out_of_domain : (n,) float32
        How unlike the training spectra; 1 is as far as 1 % of those held back are.
    """

    labels: FloatArray
    sigma_aleatoric: FloatArray
    sigma_epistemic: FloatArray
    out_of_domain: FloatArray

    @property
    def sigma(self) -> FloatArray:
        """(n, n_label) float32: both uncertainties together."""
        return np.hypot(self.sigma_aleatoric, self.sigma_epistemic)


class Estimator(Protocol):
    """Anything that learns labels from spectra: a network, or a baseline."""

    name: str

    def fit(self, training: Sample, validation: Sample, *, seed: int) -> dict[str, Any]:
        """Learn; return the history: plain JSON types."""
        ...

    def predict(
        self, flux: FloatArray, ivar: FloatArray, extra: FloatArray | None = None
    ) -> Prediction:
        """Estimate labels of n spectra."""
        ...


def describe(
    name: str,
    labels: Sequence[str],
    wavelength: NDArray[np.float64],
    training: Sample,
    *,
    inputs: Sequence[str] = (),
    **known: Any,
) -> RegressorSpec:
    """Return the specification of a regressor that is to learn from `training`.

    Parameters
    ----------
    name : str
    labels : sequence of str
        Columns of ``training.labels``.
    wavelength : (n_pixel,) float64 [Å, vacuum]
    training : Sample
    inputs : sequence of str
        Columns of ``training.extra``.
    **known
        ``normalization``, ``resolving_power``, ``extra`` of the specification.

    Raises
    ------
    ValueError
        If a label has fewer than two values or no spread, or sizes differ.

    Examples
    --------
    Masked pixels and missing labels do not count:

    >>> flux = np.array([[1.0, 0.9], [0.8, 0.7], [9.9, 0.5]], np.float32)
    >>> ivar = np.array([[1, 1], [1, 1], [0, 1]], np.float32)
    >>> labels = np.array([[4000], [6000], [np.nan]], np.float32)
    >>> spec = describe("toy", ["teff"], np.array([5000.0, 5001.0]),
    ...                 Sample(flux, ivar, labels, 0 * labels))
    >>> spec.label_mean, spec.label_std, spec.flux_mean.round(3), spec.flux_std.round(3)
    (array([5000.]), array([1000.]), array([0.9, 0.7]), array([0.1  , 0.163]))
    """
    spread = np.array([_mean_std(column) for column in training.labels.T]).reshape(-1, 2)
    for label, (_, std) in zip(labels, spread, strict=True):
        if not std > 0:
            raise ValueError(f"label {label} has no spread in {len(training)} training spectra")
    good = training.ivar > 0
    count = np.maximum(good.sum(axis=0), 1)
    flux = np.where(good, training.flux, 0.0)
    mean = flux.sum(axis=0, dtype=np.float64) / count
    deviation = np.where(good, flux - mean, 0.0)
    std = np.sqrt(np.square(deviation).sum(axis=0, dtype=np.float64) / count)
    typical = float(np.median(std[std > 0])) if np.any(std > 0) else 1.0
    extra = dict(known.pop("extra", {}))
    if inputs:
        if training.extra is None or training.extra.shape[1] != len(inputs):
            raise ValueError(f"inputs {tuple(inputs)} are not the columns of training.extra")
        pairs = [_mean_std(column) for column in training.extra.T]
        extra["inputs"] = {
            "names": list(inputs),
            "mean": [mean for mean, _ in pairs],
            "std": [std if std > 0 else 1.0 for _, std in pairs],
        }
    return RegressorSpec(
        name=name,
        labels=tuple(labels),
        wavelength=wavelength,
        label_mean=spread[:, 0],
        label_std=spread[:, 1],
        flux_mean=mean,
        flux_std=np.maximum(std, SMALLEST_STD * typical),
        extra=extra,
        **known,
    )


def _mean_std(values: FloatArray) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values; 0, 0 if there are none."""
    finite = values[np.isfinite(values)].astype(np.float64)
    return (float(finite.mean()), float(finite.std())) if finite.size else (0.0, 0.0)
