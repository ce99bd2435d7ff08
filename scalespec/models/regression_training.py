"""The training loop of regressors: epochs of AdamW on noisier copies, then their calibration.

It knows nothing of Ray or of files: where it runs is said by a context, samples come from a reader
and checkpoints go to a keeper. Every rank runs the same loop.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scalespec.models.degrade import degrade, jittered, spectrum_snr
from scalespec.models.domain import FIT_ROWS
from scalespec.models.label_loss import LossKind, label_loss
from scalespec.models.linear import all_sum
from scalespec.models.networks import Regressor
from scalespec.models.progress import Progress, cosine_rate
from scalespec.models.regressor import Sample
from scalespec.models.residual import PlainMLP, ResidualMLP
from scalespec.models.training import Checkpoints, Context

BUFFER_ROWS = 8192
"""Spectra of a sample in memory that an epoch mixes and hands over at a time."""
EVALUATION_ROWS = 512
"""Spectra of a validation batch."""
NOISY_COPIES = 3
"""Of each validation spectrum, at random S/N, that errors are calibrated on; together they count as
much as the spectrum itself."""
KEPT_WHOLE = 0.2
"""Part of an epoch's spectra that are not made noisier."""


class SampleReader(Protocol):
    """Gives labelled spectra."""

    def samples(self, epoch: int, rank: int, world_size: int) -> Iterator[Sample]:
        """Yield this rank's part of an epoch, rows mixed; as many parts and rows on every rank."""


@dataclass(frozen=True)
class InMemory:
    """A sample in memory, its rows in a new order every epoch."""

    sample: Sample
    seed: int

    def samples(self, epoch: int, rank: int, world_size: int) -> Iterator[Sample]:
        """Yield this rank's part of an epoch; every rank gets as many rows."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.sample))
        share = max(len(order) // world_size, 1)
        mine = order[rank * share : (rank + 1) * share] if len(order) >= world_size else order[:1]
        for start in range(0, len(mine), BUFFER_ROWS):
            yield self.sample.take(mine[start : start + BUFFER_ROWS])


@dataclass(frozen=True)
class RegressionOptions:
    """How to train a regressor.

    Attributes
    ----------
    epochs : int
        Most passes over all spectra.
    batch_size : int
        Spectra per step and rank.
    learning_rate : float
        Of AdamW, at its height: one epoch of warm-up, then a cosine to zero.
    weight_decay : float
    gradient_clip : float
        Largest norm of a gradient, per member.
    patience : int
        Epochs without a better validation error before training ends; 0: never.
    checkpoint_every : int
        Epochs between checkpoints.
    loss : {"gaussian", "mae"}
        See `scalespec.models.label_loss`.
    snr_range : (float, float) or None
        S/N that spectra are degraded to, anew every epoch, evenly in its logarithm, a fifth of
        them left as they are; None: all are.
    jitter : float
        Noise added anew every epoch, in units of each pixel's own sigma: spectra that are never
        the same twice are not learned by heart.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    gradient_clip: float = 5.0
    patience: int = 15
    checkpoint_every: int = 5
    loss: LossKind = "gaussian"
    snr_range: tuple[float, float] | None = (5.0, 200.0)
    jitter: float = 0.0


def train_regressor(
    model: Regressor,
    data: SampleReader,
    validation: Sample,
    *,
    options: RegressionOptions,
    context: Context,
    checkpoints: Checkpoints | None = None,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train a regressor in place, calibrate its errors and set what is out of its domain.

    Parameters
    ----------
    model : Regressor
    data : SampleReader
        Training spectra.
    validation : Sample
        Spectra of stars that `data` has none of, the same on every rank.
    options : RegressionOptions
        How.
    context : Context
        Where.
    checkpoints : Checkpoints, optional
        Where the state is kept; training goes on from the latest.
    seed : int
        Of noise and dropout.

    Returns
    -------
    list of dict
        For each epoch ``epoch``, ``learning_rate``, ``loss``, and of the validation spectra, as
        they are and degraded, ``validation_error``: the mean absolute error of scaled labels.

    Raises
    ------
    ValueError
        If there are no validation spectra, a loss is not finite, or a checkpoint is of another
        model.

    Examples
    --------
    The depth of a line, from spectra of S/N 100; every other star is held back:

    >>> from scalespec.models.regressor import describe
    >>> from scalespec.models.training import SameProcess
    >>> depth = np.linspace(0, 1, 200, dtype=np.float32)[:, np.newaxis]
    >>> flux = 1 - depth * np.exp(-0.5 * np.linspace(-5, 5, 20, dtype=np.float32) ** 2)
    >>> stars = Sample(flux, np.full_like(flux, 1e4), depth, 0 * depth)
    >>> half, rest = stars.take(slice(0, None, 2)), stars.take(slice(1, None, 2))
    >>> spec = describe("toy", ["depth"], 5000.0 + np.arange(20), half)
    >>> model = Regressor(spec, network="mlp", options={"hidden": [8]})
    >>> options = RegressionOptions(epochs=10, batch_size=20, learning_rate=0.01)
    >>> history = train_regressor(model, InMemory(half, 1), rest, options=options,
    ...                           context=SameProcess())
    >>> made = model.predict(rest.flux, rest.ivar)
    >>> len(history), bool(np.abs(made.labels - rest.labels).mean() < 0.05)  # a guess: 0.25
    (10, True)
    """
    if len(validation) == 0:
        raise ValueError("training wants at least one validation spectrum, got 0")
    model.to(context.device)
    _prepare(model, data)
    held = _noisy_copies(_tensors(validation, context.device), options, copies=1)
    adam = torch.optim.AdamW(
        model.parameters(),
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        fused=True,  # one pass over memory instead of ten
    )
    progress = Progress(model, adam, "best_error")
    if checkpoints and (latest := checkpoints.latest()):
        progress.restore(*latest)
    parallel = context.wrap(model)
    while progress.done < options.epochs and not 0 < options.patience <= progress.stale:
        epoch = progress.done
        samples = data.samples(epoch, context.rank, context.world_size)
        rate = cosine_rate(options.learning_rate, epoch, options.epochs)
        metrics = {"epoch": float(epoch), "learning_rate": rate}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mixed(seed, epoch, context.rank))  # what dropout draws from
            metrics["loss"] = _train_epoch((model, parallel), adam, samples, options, metrics)
        metrics["validation_error"] = _validate(model, held, context)
        progress.done += 1
        progress.keep_best(metrics["validation_error"])
        progress.history.append(metrics)
        context.report(metrics)
        due = progress.done % options.checkpoint_every == 0 or progress.done == options.epochs
        if checkpoints and context.rank == 0 and due:
            checkpoints.save(progress.done, *progress.state())
    model.load_state_dict(progress.best)
    model.eval()
    calibrate(model, validation, options)
    return progress.history


def _tensors(sample: Sample, device: str | torch.device) -> list[Tensor]:
    """Return flux, ivar, labels, their errors and the extra inputs (none: no columns)."""
    extra = np.zeros((len(sample), 0), np.float32) if sample.extra is None else sample.extra
    arrays = (sample.flux, sample.ivar, sample.labels, sample.label_err, extra)
    return [torch.from_numpy(np.ascontiguousarray(a, np.float32)).to(device) for a in arrays]


def _mixed(*numbers: int) -> int:
    """Return a seed made of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _prepare(model: Regressor, data: SampleReader) -> None:
    """Let networks and domain see the first spectra of all, the same on every rank."""
    parts, n = [], 0
    for sample in data.samples(0, 0, 1):
        parts.append(_tensors(sample.take(slice(FIT_ROWS - n)), model.label_mean.device)[:2])
        n += len(parts[-1][0])
        if n >= FIT_ROWS:
            break
    flux, ivar = (torch.cat(arrays) for arrays in zip(*parts, strict=True))
    with torch.no_grad():
        x = model.see(flux, ivar).x
        model.domain.learn(x[:, 0])
        for member in model.members:
            if isinstance(member, ResidualMLP | PlainMLP):
                member.given.learn(x)


def _train_epoch(
    models: tuple[Regressor, Any],
    adam: torch.optim.Optimizer,
    samples: Iterator[Sample],
    options: RegressionOptions,
    metrics: Mapping[str, float],
) -> float:
    """Take one pass of steps over `samples` and return their mean loss.

    `models` are the model itself and what makes its gradients common to all ranks.
    """
    own, parallel = models
    own.train()
    draw = torch.Generator(own.label_mean.device).manual_seed(torch.initial_seed())
    for group in adam.param_groups:
        group["lr"] = metrics["learning_rate"]
    clip = options.gradient_clip * math.sqrt(len(own.members))
    losses = []
    for sample in samples:
        tensors = _tensors(sample, own.label_mean.device)
        # Near equal parts: a last batch of three spectra would step as far as a whole one.
        n = max(round(len(sample) / options.batch_size), 1)
        for batch in zip(*(t.tensor_split(n) for t in tensors), strict=True):
            flux, ivar, labels, label_err, extra = batch
            if options.snr_range:
                flux, ivar = degrade(flux, ivar, _snr(flux, options.snr_range, draw), draw)
            if options.jitter:
                flux = jittered(flux, ivar, options.jitter, draw)
            made = parallel(flux, ivar, extra)
            target = (labels - own.label_mean) / own.label_std
            error = label_err / own.label_std
            loss = torch.stack([label_loss(m, target, error, options.loss) for m in made]).sum()
            losses.append(loss.detach() / len(made))
            adam.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(own.parameters(), clip)
            adam.step()
    total, count = all_sum(
        torch.stack([torch.stack(losses).sum(), losses[0].new_tensor(len(losses))])
    )
    mean = float(total / count)
    if not math.isfinite(mean):
        raise ValueError(
            f"the loss of epoch {metrics['epoch']:.0f} is {mean}: lower learning_rate, or look for "
            "labels and errors that are not in their units"
        )
    return mean


def _snr(flux: Tensor, between: tuple[float, float], draw: torch.Generator) -> Tensor:
    """Draw an S/N for each spectrum; infinity for those that stay as they are."""
    low, high = (math.log(value) for value in between)
    u, keep = torch.rand(2, len(flux), generator=draw, device=flux.device)
    return torch.where(keep < KEPT_WHOLE, torch.inf, (low + (high - low) * u).exp())


def _noisy_copies(
    tensors: list[Tensor], options: RegressionOptions, *, copies: int
) -> list[Tensor]:
    """Return spectra as they are, and copies of them at random S/N, the same in every call."""
    if not options.snr_range:
        return tensors
    draw = torch.Generator(tensors[0].device).manual_seed(0)
    low, high = (math.log(value) for value in options.snr_range)
    made = [tensors]
    for _ in range(copies):
        u = torch.rand(len(tensors[0]), generator=draw, device=tensors[0].device)
        snr = (low + (high - low) * u).exp()
        made.append([*degrade(tensors[0], tensors[1], snr, draw), *tensors[2:]])
    return [torch.cat(parts) for parts in zip(*made, strict=True)]


@torch.no_grad()
def _validate(model: Regressor, held: list[Tensor], context: Context) -> float:
    """Return the mean absolute error of scaled labels, over all ranks' shares."""
    model.eval()
    sums = torch.zeros(2, device=model.label_mean.device)
    mine = [torch.split(t[context.rank :: context.world_size], EVALUATION_ROWS) for t in held]
    for flux, ivar, labels, _, extra in zip(*mine, strict=True):
        mean = model(flux, ivar, extra)[:, :, 0].mean(dim=0)
        error = (mean - (labels - model.label_mean) / model.label_std).abs()
        there = torch.isfinite(error)
        sums += torch.stack([torch.where(there, error, 0.0).sum(), there.sum()])
    total, count = all_sum(sums)
    return float(total / count.clamp(min=1))


@torch.no_grad()
def calibrate(model: Regressor, validation: Sample, options: RegressionOptions) -> None:
    """Set the scale of a model's errors, and what is far from its domain, from spectra held back.

    Parameters
    ----------
    model : Regressor
        Trained; in evaluation mode.
    validation : Sample
    options : RegressionOptions
        Of its training: ``snr_range`` says whether errors are learned from noisier copies, too.

    Raises
    ------
    ValueError
        If there are no validation spectra.

    Examples
    --------
    A network of zeros says the mean of all labels, 3 within 0.5. Stars are 1 off: its errors were
    half of what they should be.

    >>> from scalespec.models.regressor import RegressorSpec
    >>> one = np.ones(4)
    >>> spec = RegressorSpec("toy", ("logg",), 5000 + one.cumsum(), [3.0], [0.5], one, 0.1 * one)
    >>> model = Regressor(spec, network="mlp", options={"hidden": [2]}).eval()
    >>> for weights in model.parameters():
    ...     _ = weights.data.zero_()
    >>> flux, off = np.ones((100, 4), np.float32), np.float32([[1], [-1]] * 50)
    >>> held = Sample(flux, 400 * flux, 3 + off, 0 * off)
    >>> calibrate(model, held, RegressionOptions(snr_range=None))
    >>> made = model.predict(flux[:1], 400 * flux[:1])
    >>> made.labels.item(), round(made.sigma.item(), 2)
    (3.0, 1.0)
    """
    if len(validation) == 0:
        raise ValueError("calibration wants at least one validation spectrum, got 0")
    own = _tensors(validation, model.label_mean.device)
    held = _noisy_copies(own, options, copies=NOISY_COPIES)
    weight = torch.ones(len(held[0]), device=own[0].device)
    weight[len(validation) :] = 1 / NOISY_COPIES
    parts = []
    batches = zip(*(torch.split(t, EVALUATION_ROWS) for t in held), strict=True)
    for flux, ivar, labels, label_err, extra in batches:
        seen = model.see(flux, ivar, extra)
        mean, noise, spread = model.combined(seen)
        residual = mean - (labels - model.label_mean) / model.label_std
        # A spectrum without a pixel tells nothing of either.
        residual = torch.where(torch.isfinite(seen.variance).any(1)[:, None], residual, torch.nan)
        parts.append(
            (residual, noise + spread, label_err / model.label_std, spectrum_snr(flux, ivar))
        )
    residual, variance, label_err, snr = (torch.cat(part) for part in zip(*parts, strict=True))
    model.errors.learn(residual, variance, label_err, snr, weight)
    some = slice(None, None, -(-len(held[0]) // FIT_ROWS))
    seen = model.see(held[0][some], held[1][some])
    usable = torch.isfinite(seen.variance).any(dim=1)
    if usable.any():
        model.domain.reach(seen.x[usable, 0], seen.variance[usable])
