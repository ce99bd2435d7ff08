"""Bayesian networks: dropout that stays on when predicting, so that predictions spread."""

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor

from scalespec.models.heads import Head, Shape, dense, lecun_

Windows = Mapping[str, Sequence[Sequence[float]]]
"""Label -> wavelength ranges [Å, vacuum]."""
BRANCH = (32, 16)
"""Units of the layers that see the windows of one label."""


class MonteCarloDropout(torch.nn.Module):
    """Dropout whose masks can be drawn again: sample 7 drops the same units of every spectrum.

    Predictions so depend neither on batches nor on what was predicted before.

    Parameters
    ----------
    rate : float
        Part of the units that is dropped.
    seed : int
        Of this layer's masks.
    """

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {rate}")
        self.rate, self.seed = rate, seed
        self.sample: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop at random in training, by `sample` in evaluation; nothing if that is None."""
        if self.training:
            return torch.nn.functional.dropout(x, self.rate)
        if self.sample is None:
            return x
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + self.sample)
        kept = torch.rand(x.shape[1:], generator=draw) >= self.rate
        return x * (kept.to(x) / (1 - self.rate))


class BayesianCNN(torch.nn.Module):
    """Two convolutions and two dense layers with dropout between them.

    With `windows` it is the censored variant: a dense network sees the whole spectrum for the
    labels that have none; a label with windows is told by those pixels and by these labels alone,
    so it cannot be guessed from lines of other elements.

    Parameters
    ----------
    shape : Shape
    channels : sequence of int
        Filters of the convolutions.
    kernel : int
        Pixels of a filter.
    pool : int
        Pixels of which the largest is kept.
    hidden : sequence of int
        Units of the dense layers.
    dropout : float
    samples : int
        Draws of dropout that a prediction is made of.
    windows : mapping
        Label -> wavelength ranges [Å, vacuum].

    Raises
    ------
    ValueError
        If windows name no label, hold no pixel, or leave no label for the whole spectrum.

    References
    ----------
    Gal & Ghahramani 2016, ICML, arXiv:1506.02142; Leung & Bovy 2019, MNRAS 483, 3255 (networks,
    and the censored one).
    """

    def __init__(
        self,
        shape: Shape,
        *,
        channels: Sequence[int] = (2, 4),
        kernel: int = 8,
        pool: int = 4,
        hidden: Sequence[int] = (196, 96),
        dropout: float = 0.1,
        samples: int = 32,
        windows: Windows | None = None,
    ) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.samples = samples
        self.windows = _pixels(shape, windows or {})
        self.whole = [k for k, name in enumerate(shape.labels) if name not in self.windows]
        if not self.whole:
            raise ValueError("windows leave no label that the whole spectrum tells")
        seeds = count(1)

        def drop() -> MonteCarloDropout:
            return MonteCarloDropout(dropout, next(seeds))

        if self.windows:
            self.trunk = torch.nn.Sequential(torch.nn.Flatten())
            n_flat = shape.n_pixel * shape.n_channel
        else:
            self.trunk = torch.nn.Sequential(
                *_convolution(shape.n_channel, channels[0], kernel),
                drop(),
                *_convolution(channels[0], channels[1], kernel),
                torch.nn.MaxPool1d(pool, ceil_mode=True),
                torch.nn.Flatten(),
            )
            n_flat = channels[1] * -(-shape.n_pixel // pool)
        for n_in, n_out in zip((n_flat, *hidden[:-1]), hidden, strict=True):
            self.trunk.extend([drop(), torch.nn.Linear(n_in, n_out), torch.nn.ReLU()])
        self.branches = torch.nn.ModuleDict()
        for label, pixels in self.windows.items():
            layers = dense((len(pixels) * shape.n_channel, *BRANCH), torch.nn.ReLU)
            self.branches[label] = layers.append(drop())
        lecun_(self, gain=2**0.5)
        self.head = Head(hidden[-1] + shape.n_input, len(self.whole))
        n_told = BRANCH[-1] + len(self.whole) + shape.n_input
        self.heads = torch.nn.ModuleDict({label: Head(n_told, 1) for label in self.windows})
        self.n_label = shape.n_label

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return means and log variances (n, 2, n_label) of scaled labels."""
        whole: Tensor = self.head(torch.cat([self.trunk(x), extra], dim=1))
        if not self.windows:
            return whole
        made = {k: whole[:, :, i] for i, k in enumerate(self.whole)}
        rest = iter(self.windows.items())
        for k in (k for k in range(self.n_label) if k not in self.whole):
            label, pixels = next(rest)
            seen = self.branches[label](x[:, :, pixels].flatten(1))
            made[k] = self.heads[label](torch.cat([seen, whole[:, 0], extra], dim=1))[:, :, 0]
        return torch.stack([made[k] for k in range(self.n_label)], dim=2)


def _pixels(shape: Shape, windows: Windows) -> dict[str, Tensor]:
    """Return each window's pixels, labels in the order of the model's."""
    if strange := sorted(set(windows) - set(shape.labels)):
        raise ValueError(f"windows name {strange}, which are not among {shape.labels}")
    found = {}
    for label in (name for name in shape.labels if name in windows):
        inside = np.zeros(shape.n_pixel, bool)
        for low, high in windows[label]:
            inside |= (shape.wavelength >= low) & (shape.wavelength <= high)
        if not inside.any():
            raise ValueError(f"the windows of {label}, {list(windows[label])}, hold no pixel")
        found[label] = torch.from_numpy(np.flatnonzero(inside))
    return found


def _convolution(n_in: int, n_out: int, kernel: int) -> list[torch.nn.Module]:
    """Return a convolution of as many pixels out as in, and its activation."""
    before = (kernel - 1) // 2
    padding = torch.nn.ConstantPad1d((before, kernel - 1 - before), 0.0)
    return [padding, torch.nn.Conv1d(n_in, n_out, kernel), torch.nn.ReLU()]
