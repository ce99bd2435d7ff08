"""A model's card: what it was made of, where it may be trusted, how well it measures."""

from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from scalespec.kernels.repeats import robust_scatter
from scalespec.kernels.wavelength import pixels_to_velocity
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.regressor import Prediction, RegressorSpec, Sample
from scalespec.models.scatter import UNLEARNED
from scalespec.optimize.domain import Domain
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.normalization import Smoother
from scalespec.optimize.start import ridge_start
from scalespec.store.training import Batch

FloatArray = npt.NDArray[np.float32]

SNR_EDGES = (0.0, 10.0, 20.0, 50.0, 100.0, 200.0, np.inf)
"""Bins of S/N that errors are given in."""
FEWEST = 5
"""Validation stars that a bin must hold to be said of."""
VALIDATED = 256
"""Most validation stars that labels are fitted of."""
FLOP_OF_FITS = 2e13
"""What fits of validation stars may cost where each pixel is made by itself: minutes of a core."""
STEPS_OF_A_FIT = 8
NOISE = (15.0, 35.0, 75.0, 150.0, 300.0)
"""S/N of the noise that validation spectra without any are given, in turn."""
NOISELESS = 1e8
"""From this ivar on, spectra are theory."""
STARTS = 512
"""Spectra that the first estimates of validation stars are learned from."""
FEW_PER_LABEL = 100
"""Training stars per label below which a model may have learned its stars by heart."""
BIASED = 0.5
"""A median residual over this part of the scatter is said to be a fault."""


NO_DISTANCE = {"no_mahalanobis": "some labels of the training stars are not known"}


class Stars(Protocol):
    """Spectra with labels; `scalespec.store.training.TrainingData` is such."""

    @property
    def labels(self) -> FloatArray:
        """(n, n_label), NaN where missing; those a model has beside these, as leeway, follow."""

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """(n,), their places."""

    def read(self, which: npt.NDArray[np.int64]) -> Batch:
        """Return some of them."""


class Reads(Protocol):
    """Any regressor."""

    spec: RegressorSpec

    def predict(
        self, flux: FloatArray, ivar: FloatArray, extra: FloatArray | None = None
    ) -> Prediction:
        """Estimate labels."""


def make_card(
    model: Emulator,
    training: Stars,
    validation: Stars,
    source: str,
    smoothing: Smoother | None = None,
) -> dict[str, Any]:
    """Return the card of a trained emulator; plain JSON types.

    Parameters
    ----------
    model : Emulator
    training, validation : Stars
        What it learned from and is measured with; stars of one are none of the other.
    source : str
        What the spectra are called.
    smoothing : Smoother, optional
        Their normalization, if the model's flux has yet to pass through it.

    Returns
    -------
    dict
        ``data``, ``domain`` (``box`` and what `scalespec.optimize.domain` wants), ``lsf``,
        ``normalization``, ``n_training``, ``errors_by_snr`` and ``known_faults``.
    """
    spec, given = model.spec, told(training.labels)
    labels = training.labels[:, given]
    complete = labels[np.isfinite(labels).all(axis=1)].astype(np.float64)
    box = {
        name: [float(spec.minimum[k]), float(spec.maximum[k])] for k, name in enumerate(spec.labels)
    }
    unknown = len(given) < training.labels.shape[1]
    domain = {"box": box} | (NO_DISTANCE if unknown else _spread(complete))
    try:
        errors, reason = label_errors(model, validation, smoothing), "too few validation spectra"
    except ValueError as error:
        errors, reason = [], str(error)
    card = _made_of(spec, source, (len(training.rows), len(validation.rows)), errors)
    names = tuple(spec.labels[k] for k in given)
    known_faults = faults(model, names, len(complete), errors, reason)
    return card | {"domain": domain, "known_faults": known_faults}


def regressor_card(
    model: Reads, labels: FloatArray, validation: Sample, n: tuple[int, int], source: str
) -> dict[str, Any]:
    """Return the card of a trained regressor; plain JSON types, as `make_card`.

    Parameters
    ----------
    model : Regressor or Baseline
    labels : (n_training, n_label) float
        What it learned from; NaN where missing.
    validation : Sample
        Spectra of other stars.
    n : (int, int)
        How many training and validation spectra there were.
    source : str
        What the spectra are called.
    """
    spec = model.spec
    pairs = zip(spec.labels, np.nanmin(labels, axis=0), np.nanmax(labels, axis=0), strict=True)
    box = {name: [float(low), float(high)] for name, low, high in pairs}
    flux, ivar, added = with_noise(validation.flux, validation.ivar)
    made = model.predict(flux, ivar, validation.extra).labels
    residual = made.astype(np.float64) - validation.labels
    errors = _binned(residual, _median_snr(flux, ivar), spec.labels, added=added)
    said = few(len(labels), spec.labels) + biases(errors, spec.labels)
    if not errors:
        said.append("labels were not validated: too few validation spectra")
    card = _made_of(spec, source, n, errors)
    return card | {"domain": {"box": box}, "known_faults": said}


def _made_of(
    spec: EmulatorSpec | RegressorSpec, source: str, n: tuple[int, int], errors: list[Any]
) -> dict[str, Any]:
    """Return what all cards say alike."""
    return {
        "data": {
            "source": source,
            "wavelength_angstrom": [float(spec.wavelength[0]), float(spec.wavelength[-1])],
            "n_pixel": len(spec.wavelength),
        },
        "lsf": {"resolving_power": spec.resolving_power, "shape": "gaussian"},
        "normalization": dict(spec.normalization),
        "n_training": n[0],
        "n_validation": n[1],
        "errors_by_snr": errors,
    }


def label_errors(
    model: Emulator, validation: Stars, smoothing: Smoother | None = None
) -> list[dict[str, Any]]:
    """Fit validation spectra, and return bias and scatter of labels by S/N.

    Spectra without noise are given some, `NOISE` in turn.

    Returns
    -------
    list of dict
        Per bin of S/N: ``snr`` (its limits), ``n``, whether noise was ``added``, and per label
        ``bias``, the median residual (fit less label), ``scatter``, 1.4826 times their median
        absolute deviation, and ``mae``.

    Raises
    ------
    ValueError
        If labels cannot be fitted on this grid, or only at length.
    """
    most = affordable(model)
    if most < min(FEWEST, VALIDATED):
        raise ValueError(f"fits of {FEWEST} stars take over {FLOP_OF_FITS:.0e} FLOP: distil it")
    given = told(validation.labels)
    known = np.flatnonzero(np.isfinite(validation.labels[:, given]).all(axis=1))
    # Evenly over the rows: a store may be sorted by anything.
    which = known[np.linspace(0, len(known) - 1, min(len(known), most)).astype(int)]
    if not len(which):
        return []
    return _by_snr(model, validation.read(which), smoothing)


def _spread(labels: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return what distances from stars' labels want, or why there are none."""
    try:
        return Domain.of(labels).to_dict()
    except ValueError as error:
        return {"no_mahalanobis": str(error)}


def told(labels: FloatArray) -> npt.NDArray[np.intp]:
    """Return which columns of `labels` (n, n_label) hold any."""
    return np.flatnonzero(np.isfinite(labels).any(axis=0))


def affordable(model: Emulator) -> int:
    """Return how many stars may be fitted: fewer if each pixel passes through all weights."""
    if model.output is not None:
        return VALIDATED
    spec = model.spec
    weights = sum(p.numel() for p in model.parameters())
    # Two FLOP per weight and pixel, for value and derivative by each label, at each step.
    each = 2.0 * weights * spec.n_pixel * 2 * (1 + spec.n_label) * STEPS_OF_A_FIT
    return min(int(FLOP_OF_FITS / each), VALIDATED)


def with_noise(flux: FloatArray, ivar: FloatArray) -> tuple[FloatArray, FloatArray, bool]:
    """Return spectra with noise, which is added if they have none, and whether it was."""
    if not len(ivar) or float(np.median(ivar.max(axis=1))) < NOISELESS:
        return flux, np.where(np.isinf(ivar), np.float32(NOISELESS), ivar), False
    few = max(min(len(NOISE), len(flux) // FEWEST), 1)  # bins that hold enough stars
    levels = np.array(NOISE)[np.linspace(0, len(NOISE) - 1, few).astype(int)]
    sigma = (1 / levels[np.arange(len(flux)) % few])[:, None].astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(flux.shape, dtype=np.float32)
    good = ivar > 0
    return flux + np.where(good, sigma * noise, 0), np.where(good, sigma**-2, 0), True


def _by_snr(model: Emulator, batch: Batch, smoothing: Smoother | None) -> list[dict[str, Any]]:
    labels, flux, ivar, displacement = batch
    wavelength = model.spec.wavelength
    step = float(np.log10(wavelength[-1] / wavelength[0])) / (len(wavelength) - 1)
    rv = pixels_to_velocity(displacement.astype(np.float64), step).astype(np.float32)
    flux, ivar, added = with_noise(flux, ivar)
    start = ridge_start(model, n_draws=STARTS, smoothing=smoothing).apply(flux, ivar)
    fit = fit_labels(
        model,
        flux,
        ivar,
        start=start,
        rv_start=rv,
        smoothing=smoothing,
        options=FitOptions(rv_range=50.0, stars_per_batch=64),
    )
    given = told(labels)
    residual = fit.labels[:, given].astype(np.float64) - labels[:, given]
    names = tuple(model.spec.labels[k] for k in given)
    return _binned(residual, _median_snr(flux, ivar), names, added=added)


def _binned(
    residual: npt.NDArray[np.float64], snr: FloatArray, names: tuple[str, ...], *, added: bool
) -> list[dict[str, Any]]:
    """Return bias and scatter of each label by S/N; a label's residual is NaN where unknown."""
    made = []
    for low, high in pairwise(SNR_EDGES):
        here = np.isfinite(residual) & ((snr > low) & (snr <= high))[:, None]
        if here.sum(axis=0).min() < FEWEST:
            continue
        row: dict[str, Any] = {"snr": [low, None if np.isinf(high) else high], "added": added}
        row["n"] = int(here.any(axis=1).sum())
        row |= {name: _summary(residual[here[:, k], k]) for k, name in enumerate(names)}
        made.append(row)
    return made


def _summary(residual: npt.NDArray[np.float64]) -> dict[str, float]:
    return {
        "bias": float(np.median(residual)),
        "scatter": robust_scatter(residual),
        "mae": float(np.abs(residual).mean()),
    }


def _median_snr(flux: FloatArray, ivar: FloatArray) -> FloatArray:
    values = np.where(ivar > 0, np.abs(flux) * np.sqrt(ivar), np.nan)
    snr = np.zeros(len(flux), np.float32)
    some = np.isfinite(values).any(axis=1)
    snr[some] = np.nanmedian(values[some], axis=1)
    return snr


def faults(
    model: Emulator,
    labels: tuple[str, ...],
    n_training: int,
    errors: list[dict[str, Any]],
    reason: str = "",
) -> list[str]:
    """Return what is known to be wrong with a model, as sentences; `reason` if it has no errors."""
    said = []
    spec = model.spec
    lost = int((model.scatter >= UNLEARNED).sum())
    if lost:
        said.append(f"{lost} of {spec.n_pixel} pixels were shown by no spectrum: they have no say")
    if not errors:
        said.append(f"labels were not validated: {reason}")
    return said + few(n_training, labels) + biases(errors, labels)


def few(n_training: int, labels: tuple[str, ...]) -> list[str]:
    """Say so if there were few stars to learn from."""
    if n_training >= FEW_PER_LABEL * len(labels):
        return []
    corners = "corners of the box are empty, and what is measured there is extrapolated"
    said = f"few stars, {n_training} for {len(labels)} labels: {corners}"
    return [f"{said}; look at distances from the domain"]


def biases(errors: list[dict[str, Any]], labels: tuple[str, ...]) -> list[str]:
    """Say which labels come out wrong in the last bin, where noise hides least."""
    said = []
    for row in errors[-1:]:
        for name in labels:
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
        limits += " of noise added" if row["added"] else ""
        lines.append(f"  S/N {limits}, {row['n']} stars: " + ", ".join(labels))
    return [*lines, *(f"known fault: {fault}" for fault in card["known_faults"])]
