"""A training's state as arrays: the weights, the best ones yet, and Adam's moments."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = dict[str, NDArray[Any]]


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
