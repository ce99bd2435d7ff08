"""Training on stars whose labels are missing or noisy: the labels are latent, the model is any.

``[train] latent_rounds`` asks for it. Errors are the catalog's ``<label>_err`` columns; a label
without one is exact where it is known. `models.latent` says how it is done.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalespec.config import TrainTable
from scalespec.errors import ModelError
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.cannon import Cannon
from scalespec.models.known_labels import Latent, Measured
from scalespec.models.latent import Observed, learn_latent
from scalespec.models.prior import GradientPrior
from scalespec.models.regression import Penalty, fit_pixels
from scalespec.models.training import train_emulator
from scalespec.plan import TrainContext
from scalespec.stages.card import make_card
from scalespec.stages.learning import emulator_spec, select
from scalespec.stages.pixels import at_rest, censored_by
from scalespec.stages.untrained import make_model, train_options
from scalespec.store import paths
from scalespec.store.checkpoints import CheckpointFolder, meaning_of
from scalespec.store.spectra import read_spectra
from scalespec.store.training import TrainingData

LATENT_SPECTRA = 16_384
"""Most spectra: all are in memory while their labels are sought."""

PriorMaker = Callable[[EmulatorSpec, npt.NDArray[np.float32]], GradientPrior | None]


@dataclass
class Stars:
    """Training and validation spectra in memory, one after the other.

    Attributes
    ----------
    training, validation : TrainingData
        Their labels are replaced from round to round.
    flux, ivar : (n, n_pixel) float32
    displacement : (n,) float32 [pixels]
    """

    training: TrainingData
    validation: TrainingData
    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    displacement: npt.NDArray[np.float32]

    @classmethod
    def read(cls, training: TrainingData, validation: TrainingData) -> "Stars":
        """Read all spectra.

        Raises
        ------
        ModelError
            If they are more than `LATENT_SPECTRA`.
        """
        n = len(training.rows) + len(validation.rows)
        if n > LATENT_SPECTRA:
            raise ModelError(
                f"{training.url}: {n} spectra with labels, latent labels are sought for at most "
                f"{LATENT_SPECTRA}: raise train.snr_min or set crossmatch.training.flatten"
            )
        parts = [part.read(np.arange(len(part.rows))) for part in (training, validation)]
        flux, ivar, shift = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
        return cls(training, validation, flux, ivar, shift)

    @property
    def n_training(self) -> int:
        """How many of the spectra are learned from."""
        return len(self.training.rows)

    def label(self, labels: npt.NDArray[np.float32]) -> None:
        """Give all stars labels."""
        self.training.labels = labels[: self.n_training]
        self.validation.labels = labels[self.n_training :]


def measured_labels(stars: Stars, table: TrainTable, spec: EmulatorSpec) -> Measured:
    """Return what the catalog knows of the stars' labels, scaled."""
    head = read_spectra(stars.training.url, 0, 0)
    there = [str(name) for name in head["label"].values]
    columns = [there.index(name) for name in table.labels]
    parts = (stars.training, stars.validation)
    labels = np.concatenate([part.labels for part in parts]).astype(np.float64)
    error = np.zeros_like(labels)
    if "label_err" in head:
        stored = read_spectra(stars.training.url, 0, 2**62, names=("label_err",))
        rows = np.concatenate([part.rows for part in parts])
        error = stored["label_err"].to_numpy()[rows][:, columns].astype(np.float64)
        # A label that has no errors at all is taken as it is.
        error[:, ~np.isfinite(error).any(axis=0)] = 0.0
    span = spec.maximum - spec.minimum
    value = torch.from_numpy((labels - spec.minimum) / span - 0.5)
    return Measured.of(value, torch.from_numpy(error / span))


def train_latent(
    context: TrainContext,
    table: TrainTable,
    source: str,
    url: str,
    seed: int,
    make_prior: PriorMaker,
) -> tuple[Emulator, dict[str, Any]]:
    """Train one model on stars with missing or noisy labels; all ranks make the same one.

    Parameters
    ----------
    context, table, source, url, seed
        As of `scalespec.stages.train.train_loop`.
    make_prior : callable
        Given the specification and the complete stars' labels, what derivatives should be like.

    Returns
    -------
    model, metadata
        Metadata says, beside the last training's history, what became of the labels.

    Raises
    ------
    ModelError
        If there are no such spectra, or more than memory is taken to hold.
    """
    training, validation, head = select(source, table, seed)
    spec = emulator_spec(table, training, head)
    complete = training.labels[np.isfinite(training.labels).all(axis=1)]
    prior = make_prior(spec, complete)
    stars = Stars.read(training, validation)
    catalog = np.concatenate([training.labels, validation.labels])
    try:
        measured = measured_labels(stars, table, spec)
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from error
    if table.model == "cannon":
        learner: _Learner = _CannonLearner(stars, spec, table)
    else:
        learner = _NetworkLearner(stars, spec, table, context, (url, seed, prior))
    latent, rounds = learn_latent(
        learner.model, learner.observed, measured, learner, rounds=table.latent_rounds, seed=seed
    )
    stars.label(catalog)  # what the model is measured by
    metadata = {
        "source": source.rpartition("/")[2],
        "n_training": stars.n_training,
        "n_validation": len(validation.rows),
        "workers": context.world_size,
        "history": learner.history,
        "card": make_card(learner.model, training, validation, source.rpartition("/")[2]),
        "latent_labels": {
            "statement": "labels are latent: missing and noisy ones were inferred with the model",
            "rounds": rounds,
            "labels": _summary(measured, latent, spec),
        },
    }
    return learner.model, metadata


def _summary(measured: Measured, latent: Latent, spec: EmulatorSpec) -> list[dict[str, Any]]:
    """Say per label how many measurements there are, how good they are, and the posteriors."""
    span = spec.maximum - spec.minimum
    spread = latent.covariance.diagonal(dim1=1, dim2=2).sqrt()
    said = []
    for k, name in enumerate(spec.labels):
        known = torch.isfinite(measured.value[:, k])
        said.append(
            {
                "label": name,
                "missing": int((~known).sum()),
                "median_error": float(measured.error[known, k].median()) * float(span[k]),
                "median_posterior_error": float(spread[:, k].median()) * float(span[k]),
            }
        )
    return said


class _Learner:
    """The M step: trains `model` on scaled labels of all stars."""

    model: Emulator
    observed: Observed
    history: list[dict[str, float]]

    def __call__(self, x: Tensor, round_: int) -> None:
        raise NotImplementedError


class _CannonLearner(_Learner):
    def __init__(self, stars: Stars, spec: EmulatorSpec, table: TrainTable) -> None:
        self._n = stars.n_training
        self._penalty = Penalty(table.l1, censored_by(spec, table))
        self.model: Cannon = Cannon(spec, order=table.order, logarithmic=table.logarithmic)
        flux, ivar = at_rest(stars.flux, stars.ivar, stars.displacement)
        self._ivar = torch.from_numpy(ivar)  # of each pixel alone
        # Labels are sought in all pixels together, which moving lines has told nothing new of.
        together = np.where(ivar > 0, stars.ivar, np.float32(0))
        self.observed = Observed(
            torch.from_numpy(flux), torch.from_numpy(together), torch.zeros(len(flux))
        )
        self.history = []

    def __call__(self, x: Tensor, round_: int) -> None:
        n, model, seen = self._n, self.model, self.observed
        fit = fit_pixels(
            model.bent(x[:n]),
            seen.flux[:n],
            self._ivar[:n],
            order=model.order,
            penalty=self._penalty,
        )
        with torch.no_grad():
            model.output.weight.copy_(fit.coefficients)
            model.scatter.copy_(fit.scatter)
            residual = seen.flux[n:] - model.forward_scaled(x[n:].to(model.scatter))
        ivar = self._ivar[n:]
        weight = torch.where(ivar > 0, 1 / (1 / ivar + model.scatter.square()), 0.0)
        square = (weight * residual.square()).sum() / weight.sum().clamp(min=1e-30)
        self.history.append({"step": float(round_), "validation_rms": float(square.sqrt())})


class _NetworkLearner(_Learner):
    def __init__(
        self,
        stars: Stars,
        spec: EmulatorSpec,
        table: TrainTable,
        context: TrainContext,
        made: tuple[str, int, GradientPrior | None],
    ) -> None:
        self._stars, self._table, self._context = stars, table, context
        self._url, seed, self._prior = made
        self.model = make_model(table, spec, seed)
        tensors = (torch.from_numpy(a) for a in (stars.flux, stars.ivar, stars.displacement))
        self.observed = Observed(*tensors)
        self.history = []

    def __call__(self, x: Tensor, round_: int) -> None:
        stars = self._stars
        low, span = (t.cpu() for t in (self.model.minimum, self.model.span))
        stars.label(((x + 0.5) * span + low).float().numpy())
        self.history = train_emulator(
            self.model,
            stars.training,
            stars.validation.read(np.arange(len(stars.validation.rows))),
            options=train_options(self._table),
            context=self._context,
            checkpoints=CheckpointFolder(
                paths.join(self._url, f"checkpoints/{round_:02d}"), meaning_of(self.model.spec)
            ),
            prior=self._prior,
        )
