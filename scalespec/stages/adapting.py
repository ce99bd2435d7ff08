"""Matched stars -> a theoretical emulator that shows what they show: `[train] adapt`."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalespec.config import TrainTable
from scalespec.errors import ModelError
from scalespec.kernels.wavelength import pixels_to_velocity, velocity_to_pixels
from scalespec.models.adapt import Adapted, adapt
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.leeway import with_leeway
from scalespec.models.linear_emulator import LinearEmulator
from scalespec.models.payne import Payne
from scalespec.models.scatter import UNLEARNED, measure_scatter
from scalespec.optimize.constraints import Constraints
from scalespec.optimize.fit import FitOptions, Fitter
from scalespec.optimize.normalization import Renormalization
from scalespec.plan import TrainContext
from scalespec.stages.card import make_card
from scalespec.stages.emulators import Ready, make_ready
from scalespec.stages.fit import doubted
from scalespec.stages.learning import select
from scalespec.stages.pixels import at_rest
from scalespec.store.model import load_model, save_model
from scalespec.store.training import TrainingData

log = logging.getLogger(__name__)

MOST_SPECTRA = 16_384
"""All are in memory; evenly over the store's rows."""
ROUNDS = 3
"""Labels that the catalog lacks are fitted with the model as it then is, and it is made anew."""
THEORY_SCATTER = 0.02
"""Of flux: what theory misses of real stars, before they have said it."""
RV_RANGE_KMS = 150.0

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Stars:
    """n stars with labels in a model's order, NaN where the catalog has none.

    Attributes
    ----------
    labels : (n, K) float32
    flux, ivar : (n, P) float32
    displacement : (n,) float32 [pixels]
        Of their lines from rest, by the catalog's velocities.
    """

    labels: FloatArray
    flux: FloatArray
    ivar: FloatArray
    displacement: FloatArray


@dataclass(frozen=True)
class Made:
    """An adapted emulator.

    Attributes
    ----------
    model : LinearEmulator
    found : Adapted
    ivar : (n, P) tensor
        Of what it leaves of the stars.
    history : list of dict
        What theory leaves of the stars' flux beyond noise, then what each round does of stars held
        out: rms as ``validation_rms`` by ``step``.
    """

    model: LinearEmulator
    found: Adapted
    ivar: Tensor
    history: list[dict[str, float]]


def adapt_loop(context: TrainContext, table: TrainTable, source: str, url: str, seed: int) -> None:
    """Adapt an emulator to matched stars; the first worker does it, for it is no long work.

    Parameters
    ----------
    context : TrainContext
        Where it runs.
    table : TrainTable
        With ``adapt``.
    source : str
        Spectra store with labels.
    url : str
        Where the model is to be.
    seed : int

    Raises
    ------
    ModelError
        If the emulator cannot be corrected or does not fit the store, lacks a label, or too few
        stars lie within its range.
    """
    if context.rank:
        return
    training, validation, head = select(source, table, seed)
    wavelength, name = head["wavelength"].to_numpy(), source.rpartition("/")[2]
    ready = make_ready(load_model(table.adapt), wavelength, dict(head.attrs), table.adapt)
    if not isinstance(ready.model, LinearEmulator):
        raise ModelError(f"{table.adapt}: only models whose last layer is linear can be adapted")
    if table.leeway and not isinstance(ready.model, Payne):
        raise ModelError(f"{table.adapt}: leeway is for perceptrons, this is no Payne")
    ready.model.spec = spec = described(ready.model.spec, table)
    for part in (training, validation):
        _keep_within(part, table, spec)
    try:
        made = adapted(ready, Stars(*training.read(np.arange(len(training.rows)))))
        model: Emulator = made.model
        if table.leeway:
            assert isinstance(model, Payne)
            model = with_leeway(model, made.found.residual, made.ivar, table.leeway)
    except ValueError as error:
        raise ModelError(f"{table.adapt}, adapted to {name}: {error}") from error
    metadata = {
        "source": name,
        "adapted": table.adapt.rpartition("/")[2],
        "strength": made.found.strength,
        "n_training": len(training.rows),
        "n_validation": len(validation.rows),
        "history": made.history,
        "card": _card(replace(ready, model=model), training, validation, table, made),
    }
    save_model(url, model, metadata)


def described(spec: EmulatorSpec, table: TrainTable) -> EmulatorSpec:
    """Return what the adapted model's numbers mean: theory's, and the labels' priors.

    Raises
    ------
    ModelError
        If theory lacks a label of the catalog, or one that has a prior.
    """
    if lacking := sorted({*table.labels, *table.prior} - set(spec.labels)):
        raise ModelError(f"{table.adapt}: it has no label {lacking}; it has {list(spec.labels)}")
    priors = {label: list(of) for label, of in table.prior.items()}
    extra = {**spec.extra, "prior": dict(spec.extra.get("prior", {})) | priors}
    return replace(spec, name="adapted", extra=extra)


def _keep_within(part: TrainingData, table: TrainTable, spec: EmulatorSpec) -> None:
    """Keep stars within the model's range, `MOST_SPECTRA` at most; labels in its order."""
    labels = np.full((len(part.labels), spec.n_label), np.nan, np.float32)
    labels[:, [spec.labels.index(name) for name in table.labels]] = part.labels
    outside = np.any((labels < spec.minimum) | (labels > spec.maximum), axis=1)
    inside = np.flatnonzero(~outside)
    log.info("%s: %d of %d stars are within its range", table.adapt, len(inside), len(labels))
    some = inside[np.linspace(0, len(inside) - 1, min(len(inside), MOST_SPECTRA)).astype(int)]
    part.labels, part.rows = labels[some], part.rows[some]
    part.displacement = part.displacement[some]


def adapted(ready: Ready, stars: Stars) -> Made:
    """Return theory adapted to stars: labels that the catalog lacks, and correction, in turn.

    Parameters
    ----------
    ready : Ready
        Theory on the stars' pixels.
    stars : Stars

    Raises
    ------
    ValueError
        If too few have lines within a pixel of where the catalog's velocities put them.
    """
    theory = ready.model
    assert isinstance(theory, LinearEmulator)
    now, history = replace(ready, model=doubted(theory, THEORY_SCATTER)), []
    for step in range(ROUNDS):
        labels, shift = known_better(now, stars)
        kept = np.isfinite(labels).all(axis=1) & (np.abs(shift) <= 1.0)
        log.info("%d of %d stars have lines where their velocity puts them", kept.sum(), len(kept))
        x = theory.scale(torch.from_numpy(labels[kept]))
        left, ivar = _left(ready, x, stars, kept, shift)
        if step == 0:
            history.append({"step": 0.0, "validation_rms": _beyond_noise(left, ivar)})
        model, found = adapt(theory, x, left, ivar)
        now = replace(ready, model=model)
        rms = _beyond_noise(found.residual, ivar)
        history.append({"step": step + 1.0, "validation_rms": rms})
    return Made(model, found, ivar, history)


def known_better(ready: Ready, stars: Stars) -> tuple[FloatArray, FloatArray]:
    """Fit labels that the catalog lacks, and velocities.

    Returns
    -------
    labels : (n, K) float32
        Those of the catalog as they were.
    displacement : (n,) float32 [pixels]
        Of lines from rest: each star's own, their zero point the catalog's.
    """
    spec = ready.model.spec
    step = float(np.log10(spec.wavelength[-1] / spec.wavelength[0])) / (spec.n_pixel - 1)
    rv = pixels_to_velocity(stars.displacement.astype(np.float64), step).astype(np.float32)
    middle = ((spec.minimum + spec.maximum) / 2).astype(np.float32)
    for name, (mean, _) in spec.extra["prior"].items():
        middle[spec.labels.index(name)] = mean
    options = FitOptions(rv_range=RV_RANGE_KMS, restarts=0)
    fit = Fitter.of(ready.model, smoothing=ready.smoothing, options=options).fit(
        stars.flux,
        stars.ivar,
        start=np.where(np.isfinite(stars.labels), stars.labels, middle)[:, np.newaxis],
        rv_start=rv,
        constraints=Constraints(low=stars.labels, high=stars.labels),
    )
    found = velocity_to_pixels(np.nan_to_num(fit.rv), step) - stars.displacement
    labels = np.where(fit.fitted[:, np.newaxis], fit.labels, np.nan)
    return labels, (stars.displacement + found - np.median(found)).astype(np.float32)


@torch.no_grad()
def _left(
    ready: Ready, x: Tensor, stars: Stars, kept: npt.NDArray[np.bool_], shift: FloatArray
) -> tuple[Tensor, Tensor]:
    """Return what theory leaves of stars at rest, in its own units, and its ivar."""
    flux, ivar = map(torch.from_numpy, at_rest(stars.flux[kept], stars.ivar[kept], shift[kept]))
    model = ready.model.forward_scaled(x)
    if ready.smoothing is None:
        return flux - model, ivar
    level = Renormalization.of(ready.smoothing, (ivar > 0).to(model)).continuum(model)
    return flux * level - model, ivar / level.square()


def _beyond_noise(residual: Tensor, ivar: Tensor) -> float:
    """Return the rms of residuals over pixels, without what noise makes of it."""
    scatter = measure_scatter(residual, ivar, THEORY_SCATTER, lambda own: own)
    return float(scatter[scatter < UNLEARNED].square().mean().sqrt())


def _card(
    ready: Ready, training: TrainingData, validation: TrainingData, table: TrainTable, made: Made
) -> dict[str, Any]:
    """Return the card, and what else is known of an adapted model."""
    source = training.url.rpartition("/")[2]
    card = make_card(ready.model, training, validation, source, ready.smoothing)
    unknown = [name for name in ready.labels if name not in table.labels]
    before, after = (made.history[k]["validation_rms"] for k in (0, -1))
    card["known_faults"] += [
        f"theory leaves {before:.2%} of the stars' flux, adapted to them {after:.2%}",
        f"of {', '.join(unknown)} no catalog said anything: derivatives are theory's",
    ]
    return card
