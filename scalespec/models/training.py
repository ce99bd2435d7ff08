"""The training loop: rounds of variable projection, then epochs of Adam, then the scatter.

It knows nothing of Ray or of files: where it runs is said by a context, spectra come from a reader
and checkpoints go to a keeper. Every rank runs the same loop; sums over ranks are taken in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.models.base import Emulator
from scalespec.models.linear import all_sum
from scalespec.models.loss import emulator_loss
from scalespec.models.prior import GradientPrior
from scalespec.models.progress import Arrays, Progress, cosine_rate, weights_of
from scalespec.models.projection import project, solve_output, start_at_mean
from scalespec.models.scatter import measure_scatter
from scalespec.models.validation import VALIDATION_ROWS, Aim, emulate
from scalespec.models.weighed import Spectra

FloatArray = NDArray[np.float32]
Batch = tuple[FloatArray, FloatArray, FloatArray, FloatArray]
"""Labels (n, n_label), flux and ivar (n, n_pixel), pixel shift (n,): see `train_emulator`."""


class Context(Protocol):
    """Where the loop runs; `scalespec.plan.TrainContext` is one."""

    rank: int
    world_size: int
    device: str

    def wrap(self, model: Any) -> Any:
        """Make the module's gradients common to all ranks."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Say how training goes; called by every rank at the same steps."""


class SameProcess:
    """The context of a loop that runs here, alone."""

    rank, world_size = 0, 1

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def wrap(self, model: Any) -> Any:
        """Return the model as it is."""
        return model

    def report(self, metrics: Mapping[str, float]) -> None:
        """Say nothing: the loop returns its history."""


class Reader(Protocol):
    """Gives training spectra."""

    def chunks(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield this rank's part of an epoch, rows mixed; as many parts and rows on every rank."""


class Checkpoints(Protocol):
    """Keeps what is needed to go on after a kill."""

    def save(self, step: int, arrays: Arrays, meta: dict[str, Any]) -> None:
        """Keep the state after `step` steps."""

    def latest(self) -> tuple[int, Arrays, dict[str, Any]] | None:
        """Return the newest complete state."""


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes
    ----------
    rounds : tuple of int
        Rounds of variable projection, by their number of evaluations; the first ones, short,
        complete the masked pixels.
    rows_in_memory : int
        Spectra per rank that the rounds learn from. The output layer learns from all in the end.
    epochs : int
        Passes of Adam over all spectra, from the best round on. None, unless the model does not
        end in a linear layer or the hidden layers have more to learn than memory holds.
    batch_size : int
        Spectra per step of Adam and rank.
    learning_rate : float
        Of Adam, at its height: one epoch of warm-up, then a cosine to zero.
    weight_decay : float
        Of Adam.
    gradient_clip : float
        Largest norm of a gradient of ``loss / scatter_floor**2``.
    patience : int
        Epochs without a better validation loss before training ends; 0: never.
    validate_every, checkpoint_every : int
        Epochs between validations and between checkpoints; both follow every round, too.
    scatter_floor : float [flux]
        See `scalespec.models.loss.pixel_weight`.
    pixels_per_step : int
        Pixels, drawn anew, that a step of Adam looks at; 0: all. For models that make each pixel
        by itself.
    gradients_per_step : int
        Gradients of the prior, drawn anew, that a step of Adam looks at.
    gradient_ramp : float
        Share of the epochs over which the prior's weight rises from nothing.
    """

    rounds: tuple[int, ...] = (0, 10, 30, 60, 100)
    rows_in_memory: int = 8192
    epochs: int = 0
    batch_size: int = 256
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    gradient_clip: float = 10.0
    patience: int = 5
    validate_every: int = 1
    checkpoint_every: int = 5
    scatter_floor: float = 0.01
    pixels_per_step: int = 0
    gradients_per_step: int = 16
    gradient_ramp: float = 0.0

    def gradient_weight(self, epoch: int) -> float:
        """Return the prior's weight in an epoch: 1 when the ramp is behind.

        Examples
        --------
        >>> [TrainOptions(epochs=8, gradient_ramp=0.5).gradient_weight(e) for e in (0, 2, 7)]
        [0.25, 0.75, 1.0]
        """
        return min((epoch + 1) / max(self.gradient_ramp * self.epochs, 1.0), 1.0)

    @property
    def n_steps(self) -> int:
        """Rounds and epochs."""
        return len(self.rounds) + self.epochs

    def is_due(self, step: int, every: int) -> bool:
        """Whether something done `every` so many epochs is done after `step` rounds and epochs."""
        epoch = step - len(self.rounds)
        return epoch <= 0 or epoch % every == 0 or step == self.n_steps


def train_emulator(
    model: Emulator,
    data: Reader,
    validation: Batch,
    *,
    options: TrainOptions,
    context: Context,
    checkpoints: Checkpoints | None = None,
    prior: GradientPrior | None = None,
) -> list[dict[str, float]]:
    """Train a model in place, and set its `scatter` from the validation spectra.

    A batch holds physical labels (n, n_label), flux and ivar (n, n_pixel) and the pixel shift (n,):
    by how many pixels, less than one, the lines in flux are displaced to the red, as spectra are
    whose star's velocity was taken out by whole pixels only. The model is shifted, never the data.

    Parameters
    ----------
    model : Emulator
        Any start; the rounds want a model with a linear `output`.
    data : Reader
        Training spectra.
    validation : Batch
        Spectra of stars that `data` has none of, the same on every rank.
    options : TrainOptions
        How.
    context : Context
        Where.
    checkpoints : Checkpoints, optional
        Where the state is kept; training goes on from the latest.
    prior : GradientPrior, optional
        What the derivatives should be; the history then has ``gradient_error``, the root mean
        square relative error of the model's.

    Returns
    -------
    list of dict
        What was reported for each round and epoch: ``step``, ``learning_rate``, for epochs
        ``loss`` (of training, flux²) and, with a prior, ``gradient_loss`` and ``gradient_weight``;
        where validated ``validation_rms`` (weighted, of flux).

    Raises
    ------
    ValueError
        If there are no validation spectra, or a checkpoint is of another model.

    Examples
    --------
    A line whose depth grows with temperature, learned from 200 stars; of one between them:

    >>> from scalespec.models.base import EmulatorSpec
    >>> from scalespec.models.payne import Payne
    >>> line = np.exp(-0.5 * ((np.arange(20) - 10) / 2) ** 2)
    >>> def stars(teff):
    ...     flux = 1 - (teff[:, None] - 3000) / 6000 * line
    ...     parts = teff[:, None], flux, np.full(flux.shape, 1e6), 0 * teff
    ...     return tuple(part.astype(np.float32) for part in parts)
    >>> class Reading:
    ...     def chunks(self, epoch, rank, world_size):
    ...         yield stars(np.linspace(4000, 6000, 200))
    >>> model = Payne(EmulatorSpec("toy", ("teff",), [4000.0], [6000.0], 5000.0 + np.arange(20)),
    ...               hidden=(4,))
    >>> history = train_emulator(model, Reading(), stars(np.linspace(4100, 5900, 9)),
    ...                          options=TrainOptions(rounds=(0, 10)), context=SameProcess())
    >>> bool(history[-1]["validation_rms"] < 1e-3)
    True
    >>> round(model(torch.tensor([[5777.0]]))[0, 10].item(), 3), round(1 - 2777 / 6000, 3)
    (0.537, 0.537)
    """
    if len(validation[0]) == 0:
        raise ValueError("training wants at least one validation spectrum, got 0")
    model.to(context.device)
    held = _tensors([a[context.rank :: context.world_size] for a in validation], context.device)
    adam = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    aim = Aim(held, options.scatter_floor, None if prior is None else prior.to(model.scatter))
    progress = Progress(model, adam, "best_loss")
    if checkpoints and (latest := checkpoints.latest()):
        progress.restore(*latest)
    spectra = parallel = None
    while progress.done < options.n_steps and not 0 < options.patience <= progress.stale:
        epoch = progress.done - len(options.rounds)
        metrics = {"step": float(progress.done), "learning_rate": 0.0}
        if epoch < 0:
            if spectra is None:
                spectra = _in_memory(model, data, options, context)
            if progress.done == 0:
                start_at_mean(model, spectra, aim.prior)
            project(model, spectra, options.rounds[progress.done], aim.prior)
        else:
            if epoch == 0:
                model.load_state_dict(progress.best)
            spectra = None
            parallel = parallel or context.wrap(model)
            metrics["learning_rate"] = _set_learning_rate(adam, epoch, options)
            batches = data.chunks(epoch, context.rank, context.world_size)
            metrics |= _train_epoch((model, parallel), adam, batches, options, aim, epoch)
        progress.done += 1
        if options.is_due(progress.done, options.validate_every):
            loss, measured = aim.validate(model)
            metrics |= measured
            progress.keep_best(loss, options.validate_every if epoch >= 0 else 0)
        progress.history.append(metrics)
        context.report(metrics)
        due = options.is_due(progress.done, options.checkpoint_every)
        if checkpoints and context.rank == 0 and due:
            checkpoints.save(progress.done, *progress.state())
    model.load_state_dict(progress.best)
    _finish_output(model, data, aim, options, context)
    _set_scatter(model, held, options.scatter_floor)
    return progress.history


def _tensors(batch: Any, device: str | torch.device) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in batch]


def _set_learning_rate(adam: torch.optim.Optimizer, epoch: int, options: TrainOptions) -> float:
    """Set the rate of an epoch."""
    rate = cosine_rate(options.learning_rate, epoch, options.epochs)
    for group in adam.param_groups:
        group["lr"] = rate
    return rate


def _in_memory(model: Emulator, data: Reader, options: TrainOptions, context: Context) -> Spectra:
    """Return the first spectra of this rank, as many as the rounds may hold."""
    parts: list[Batch] = []
    for batch in data.chunks(0, context.rank, context.world_size):
        parts.append(batch)
        if sum(len(part[0]) for part in parts) >= options.rows_in_memory:
            break
    joined = [
        np.concatenate(arrays)[: options.rows_in_memory] for arrays in zip(*parts, strict=True)
    ]
    return _weigh(model, _tensors(joined, context.device), options.scatter_floor)


def _weigh(model: Emulator, batch: list[Tensor], scatter_floor: float) -> Spectra:
    labels, flux, ivar, shift = batch
    return Spectra.weigh(model.scale(labels), flux, ivar, shift, scatter_floor)


def _train_epoch(
    models: tuple[Emulator, Any],
    adam: torch.optim.Optimizer,
    batches: Iterator[Batch],
    options: TrainOptions,
    aim: Aim,
    epoch: int,
) -> dict[str, float]:
    """Take one pass of steps over `batches` and return their mean losses.

    `models` are the model itself and what makes its gradients common to all ranks.
    """
    own, parallel = models
    floor, weight = options.scatter_floor, options.gradient_weight(epoch)
    draw = torch.Generator().manual_seed(epoch)  # on every rank the same
    losses = []
    for batch in batches:
        tensors = _tensors(batch, own.scatter.device)
        # Near equal parts: a last batch of three spectra would step as far as a whole one.
        n = max(round(len(tensors[0]) / options.batch_size), 1)
        for labels, flux, ivar, shift in zip(*(t.tensor_split(n) for t in tensors), strict=True):
            pixels = _some(own.spec.n_pixel, options.pixels_per_step, draw, own.scatter)
            seen = (flux, ivar) if pixels is None else (flux[:, pixels], ivar[:, pixels])
            loss = emulator_loss(emulate(parallel, labels, shift, pixels), *seen, floor)
            gradient = loss.new_zeros(())
            if aim.prior is not None:
                rows = torch.randint(len(aim.prior), (options.gradients_per_step,), generator=draw)
                rows = rows.to(own.scatter.device)
                gradient = aim.variance * aim.prior.sampled_loss(own, aim.share, rows, pixels)
            losses.append(torch.stack([loss.detach(), gradient.detach()]))
            adam.zero_grad()
            # Of order 1: Adam's epsilon and the clip know no units.
            torch.autograd.backward((loss + weight * gradient) / floor**2)
            torch.nn.utils.clip_grad_norm_(own.parameters(), options.gradient_clip)
            adam.step()
    total, gradients, count = all_sum(
        torch.cat([torch.stack(losses).sum(0), losses[0].new_tensor([float(len(losses))])])
    ).tolist()
    metrics = {"loss": total / count}
    if aim.prior is not None:
        metrics |= {"gradient_loss": gradients / count, "gradient_weight": weight}
    return metrics


def _some(total: int, n: int, draw: torch.Generator, like: Tensor) -> Tensor | None:
    """Return `n` of `total` pixels, drawn evenly and in order; None for all of them."""
    if not 0 < n < total:
        return None
    return torch.randperm(total, generator=draw)[:n].sort().values.to(like.device)


def _finish_output(
    model: Emulator, data: Reader, aim: Aim, options: TrainOptions, context: Context
) -> None:
    """Solve the output layer over all spectra, and keep that if it validates better."""
    if model.output is None:
        return
    before, (loss, _) = weights_of(model), aim.validate(model)
    batches = data.chunks(options.epochs, context.rank, context.world_size)
    weighed = (
        _weigh(model, _tensors(batch, context.device), options.scatter_floor) for batch in batches
    )
    solve_output(model, weighed, aim.prior)
    if not aim.validate(model)[0] < loss:
        model.load_state_dict(before)


def _set_scatter(model: Emulator, held: list[Tensor], scatter_floor: float) -> None:
    labels, flux, ivar, shift = held
    with torch.no_grad():
        parts = zip(*(torch.split(t, VALIDATION_ROWS) for t in (labels, shift)), strict=True)
        residual = flux - torch.cat([emulate(model, *part) for part in parts])
        model.scatter.copy_(measure_scatter(residual, ivar, scatter_floor))
