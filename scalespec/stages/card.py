"""A model's card: what it was made of, where it may be trusted, how well it measures."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.wavelength import pixels_to_velocity
from scalespec.models.base import Emulator
from scalespec.models.scatter import UNLEARNED
from scalespec.optimize.constraints import Domain
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.start import ridge_start
from scalespec.store.training import Batch, TrainingData

FloatArray = npt.NDArray[np.float32]

SNR_EDGES = (0.0, 10.0, 20.0, 50.0, 100.0, 200.0, np.inf)
"""Bins of S/N that errors are given in."""
FEWEST = 5
"""Validation stars that a bin must hold to be said of."""
VALIDATED = 256
"""Most validation stars that labels are fitted of."""
STARTS = 512
"""Spectra that the first estimates of validation stars are learned from."""
FEW_PER_LABEL = 100
"""Training stars per label below which a model may have learned its stars by heart."""
BIASED = 0.5
"""A median residual over this part of the scatter is said to be a fault."""


def make_card(
    model: Emulator, training: TrainingData, validation: TrainingData, source: str
) -> dict[str, Any]:
    """Return the card of a trained model; plain JSON types.

    Parameters
    ----------
    model : Emulator
    training, validation : TrainingData
        What it learned from and is measured with; stars of one are none of the other.
    source : str
        What the spectra are called.

    Returns
    -------
    dict
        ``data``, ``domain`` (``box`` and, for Mahalanobis distances, ``mean`` and ``whitening``),
        ``lsf``, ``normalization``, ``n_training``, ``errors_by_snr`` and ``known_faults``.
    """
    spec, labels = model.spec, training.labels
    complete = labels[np.isfinite(labels).all(axis=1)].astype(np.float64)
    box = {
        name: [float(spec.minimum[k]), float(spec.maximum[k])] for k, name in enumerate(spec.labels)
    }
    domain: dict[str, Any] = {"box": box}
    try:
        known = Domain.of(complete)
        domain |= {"mean": known.mean.tolist(), "whitening": known.whitening.tolist()}
    except ValueError as error:
        domain["no_mahalanobis"] = str(error)
    try:
        errors, reason = label_errors(model, validation), "too few validation spectra"
    except ValueError as error:
        errors, reason = [], str(error)
    return {
        "data": {
            "source": source,
            "wavelength_angstrom": [float(spec.wavelength[0]), float(spec.wavelength[-1])],
            "n_pixel": spec.n_pixel,
        },
        "domain": domain,
        "lsf": {"resolving_power": spec.resolving_power, "shape": "gaussian"},
        "normalization": dict(spec.normalization),
        "n_training": len(training.rows),
        "n_validation": len(validation.rows),
        "errors_by_snr": errors,
        "known_faults": faults(model, len(complete), errors, reason),
    }


def label_errors(model: Emulator, validation: TrainingData) -> list[dict[str, Any]]:
    """Fit validation spectra, and return bias and scatter of labels by S/N.

    Returns
    -------
    list of dict
        Per bin of S/N: ``snr`` (its limits), ``n``, and per label ``bias``, the median residual
        (fit less label), ``scatter``, 1.4826 times their median absolute deviation, and ``mae``.

    Raises
    ------
    ValueError
        If labels cannot be fitted on this grid, or only at length.
    """
    if model.output is None:
        raise ValueError("fits of a model that does not end in a linear layer take long")
    known = np.flatnonzero(np.isfinite(validation.labels).all(axis=1))
    # Evenly over the rows: a store may be sorted by anything.
    which = known[np.linspace(0, len(known) - 1, min(len(known), VALIDATED)).astype(int)]
    if not len(which):
        return []
    return _by_snr(model, validation.read(which))


def _by_snr(model: Emulator, batch: Batch) -> list[dict[str, Any]]:
    labels, flux, ivar, displacement = batch
    wavelength = model.spec.wavelength
    step = float(np.log10(wavelength[-1] / wavelength[0])) / (len(wavelength) - 1)
    rv = pixels_to_velocity(displacement.astype(np.float64), step).astype(np.float32)
    ivar = np.where(np.isinf(ivar), np.float32(1e8), ivar)  # spectra without noise
    snr = _median_snr(flux, ivar)
    start = ridge_start(model, n_draws=STARTS).apply(flux, ivar)
    fit = fit_labels(
        model,
        flux,
        ivar,
        start=start,
        rv_start=rv,
        options=FitOptions(rv_range=50.0, stars_per_batch=64),
    )
    residual = fit.labels.astype(np.float64) - labels
    fitted = np.isfinite(residual).all(axis=1)
    made = []
    for low, high in pairwise(SNR_EDGES):
        here = fitted & (snr > low) & (snr <= high)
        if here.sum() < FEWEST:
            continue
        row: dict[str, Any] = {"snr": [low, None if np.isinf(high) else high], "n": int(here.sum())}
        for k, name in enumerate(model.spec.labels):
            row[name] = _summary(residual[here, k])
        made.append(row)
    return made


def _summary(residual: npt.NDArray[np.float64]) -> dict[str, float]:
    bias = float(np.median(residual))
    scatter = 1.4826 * float(np.median(np.abs(residual - bias)))
    return {"bias": bias, "scatter": scatter, "mae": float(np.abs(residual).mean())}


def _median_snr(flux: FloatArray, ivar: FloatArray) -> FloatArray:
    values = np.where(ivar > 0, np.abs(flux) * np.sqrt(ivar), np.nan)
    snr = np.zeros(len(flux), np.float32)
    some = np.isfinite(values).any(axis=1)
    snr[some] = np.nanmedian(values[some], axis=1)
    return snr


def faults(
    model: Emulator, n_training: int, errors: list[dict[str, Any]], reason: str = ""
) -> list[str]:
    """Return what is known to be wrong with a model, as sentences; `reason` if it has no errors."""
    said = []
    spec = model.spec
    lost = int((model.scatter >= UNLEARNED).sum())
    if lost:
        said.append(f"{lost} of {spec.n_pixel} pixels were shown by no spectrum: they have no say")
    if not errors:
        said.append(f"labels were not validated: {reason}")
    if n_training < FEW_PER_LABEL * spec.n_label:
        said.append(
            f"few stars, {n_training} for {spec.n_label} labels: corners of the box are empty, and "
            "what is measured there is extrapolated; look at distances from the domain"
        )
    for row in errors[-1:]:  # where noise hides least
        for name in spec.labels:
            one = row[name]
            if abs(one["bias"]) > BIASED * one["scatter"] > 0:
                off, stars = f"{one['bias']:+.3g} off", f"{row['n']} validation stars"
                said.append(f"{name} comes out {off} at S/N over {row['snr'][0]:g} ({stars})")
    return said


def card_text(card: dict[str, Any]) -> list[str]:
    """Return a card as lines to print; the box is left to whoever prints the labels."""
    data, lsf = card["data"], card["lsf"]
    parts = f"{card['n_training']:,} training and {card['n_validation']:,} validation spectra"
    lines = [
        f"made of: {data['source']}, {parts}",
        f"line spread: {lsf['shape']}, R = {lsf['resolving_power']}",
    ]
    for row in card["errors_by_snr"]:
        low, high = row["snr"]
        limits = f"{low:g}-{high:g}" if high is not None else f"over {low:g}"
        labels = [
            f"{name} {one['bias']:+.3g} ± {one['scatter']:.3g}"
            for name, one in row.items()
            if isinstance(one, dict)
        ]
        lines.append(f"  S/N {limits}, {row['n']} stars: " + ", ".join(labels))
    return [*lines, *(f"known fault: {fault}" for fault in card["known_faults"])]
