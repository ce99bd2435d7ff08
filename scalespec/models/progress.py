"""What training loops share: their state, as arrays too, and the learning rate of an epoch.

The state is the weights, the best ones yet, and Adam's moments.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = dict[str, NDArray[Any]]


@dataclass
class Progress:
    """A loop's state between two steps: all that a checkpoint holds.

    Attributes
    ----------
    model : torch.nn.Module
    adam : torch.optim.Optimizer
    measure : str
        What checkpoints call the least validation value.
    best : dict of tensors
        Weights of that value; the present ones to begin with.
    least : float
    done : int
        Steps done.
    stale : int
        Epochs since the least value.
    history : list of dict

    Examples
    --------
    >>> model = torch.nn.Linear(1, 1)
    >>> progress = Progress(model, torch.optim.Adam(model.parameters()), "best_loss")
    >>> for loss in (0.3, 0.2, 0.5):
    ...     _ = model.bias.data.fill_(loss)
    ...     progress.keep_best(loss)
    >>> progress.best["bias"], progress.stale, progress.state()[1]["best_loss"]
    (tensor([0.2000]), 1, 0.2)
    """

    model: torch.nn.Module
    adam: torch.optim.Optimizer
    measure: str
    best: dict[str, Tensor] = field(init=False)
    least: float = math.inf
    done: int = 0
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.best = weights_of(self.model)

    def keep_best(self, value: float, epochs: int = 1) -> None:
        """Keep the weights if their validation value, of so many epochs, is the least yet."""
        if value < self.least:
            self.least, self.stale, self.best = value, 0, weights_of(self.model)
        else:
            self.stale += epochs

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return arrays and plain data that `restore` takes back."""
        meta = {self.measure: self.least, "stale": self.stale, "history": self.history}
        return packed(self.model, self.best, self.adam), meta

    def restore(self, done: int, arrays: Arrays, meta: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises
        ------
        ValueError
            If it is another model's.
        """
        self.best = unpacked(arrays, self.model, self.adam)
        self.done, self.least, self.stale = done, meta[self.measure], meta["stale"]
        self.history = list(meta["history"])


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's state."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def cosine_rate(highest: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch: half in the first, then a cosine to nearly zero.

    Examples
    --------
    >>> [round(cosine_rate(1.0, epoch, 4), 4) for epoch in range(4)]
    [0.5, 0.8536, 0.5, 0.1464]
    """
    rate = highest * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return rate / 2 if epoch == 0 else rate


def packed(
    model: torch.nn.Module, best: Mapping[str, Tensor], adam: torch.optim.Optimizer
) -> Arrays:
    """Return arrays that `unpacked` takes back.

    Examples
    --------
    >>> model = torch.nn.Linear(1, 1)
    >>> sorted(packed(model, model.state_dict(), torch.optim.Adam(model.parameters())))
    ['best/bias', 'best/weight', 'model/bias', 'model/weight']
    """
    named = {f"model/{k}": v for k, v in model.state_dict().items()}
    named |= {f"best/{k}": v for k, v in best.items()}
    for i, moments in adam.state_dict()["state"].items():
        named |= {f"adam/{i}/{k}": v for k, v in moments.items()}
    return {k: v.detach().cpu().numpy() for k, v in named.items()}


def unpacked(
    arrays: Mapping[str, NDArray[Any]], model: torch.nn.Module, adam: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Set model and optimizer back to a state, and return the best weights by then.

    Raises
    ------
    ValueError
        If the state is another model's.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}}
    for name, array in arrays.items():
        kind, _, key = name.partition("/")
        parts[kind][key] = torch.from_numpy(array.copy())
    try:
        model.load_state_dict(parts["model"])
    except RuntimeError as error:
        raise ValueError(f"the checkpoint is of another model: {error}") from error
    state = adam.state_dict()
    for name, tensor in parts["adam"].items():
        i, _, key = name.partition("/")
        state["state"].setdefault(int(i), {})[key] = tensor
    adam.load_state_dict(state)
    device = next(model.parameters()).device
    return {k: v.to(device) for k, v in parts["best"].items()}
