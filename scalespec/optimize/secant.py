"""Derivatives over a star's errors, in place of those at its optimum, for models with kinks.

A LeakyReLU network is made of pieces, each with derivatives of its own. Where pieces are narrower
than errors, as along [O/M] of metal-poor giants, the one that an optimum lies in does not say how
flux changes over its error: errors were 1.1 to 1.2 times too small. Secants do, over the root of 3
sigma to both sides along each axis of the covariance, which is right for Gaussian errors to the
third order; and the covariance that they make has axes of its own, so that it is made twice.

References
----------
Nørgaard, Poulsen & Ravn 2000, Automatica 36, 1627 (central differences over a Gaussian density).
"""

import torch
from torch import Tensor

from scalespec.optimize.gram import BlockGram
from scalespec.optimize.levenberg import WINDOW
from scalespec.optimize.matmul import whole
from scalespec.optimize.objective import Objective, output_layer
from scalespec.optimize.state import State
from scalespec.optimize.trust import BOX_VARIANCE, edges, softened

_HALF = 3.0**0.5  # sigma to both sides, where bounds leave so much
_LEAST = 0.1  # sigma that a secant is long, even where a corner of the box leaves less
_ROUNDS = 2
_KNOWN = 1e-12  # the least variance of a scaled label: float32 knows no more


def over_errors(gram: BlockGram | None, objective: Objective, state: State) -> None:
    """Make the Hessians of secants, in place; of models that end in no linear layer nothing.

    Parameters
    ----------
    gram : BlockGram or None
        That of errors; None: every pixel's derivatives are formed.
    objective : Objective
        Of n stars.
    state : State
        Where their searches ended, all finite.

    Examples
    --------
    Of features that rise in steps, by 2 or not at all, and 3 pixels known to 0.3 each: at the
    optimum the label seems known to 0.3 / 2 / sqrt(3), but over an error the slope is 1.

    >>> from types import SimpleNamespace
    >>> from scalespec.optimize.levenberg import Search, SearchOptions
    >>> def features(x):
    ...     return x + 0.08 * (torch.remainder(x / 0.08, 1) - 0.5).abs()
    >>> def both(x, _=None):
    ...     slope = 1 + torch.sign(torch.remainder(x / 0.08, 1) - 0.5)
    ...     return features(x), slope[:, :, None]
    >>> layer = torch.nn.Linear(1, 10, bias=False)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> grid = 10 ** (3.7 + 1e-4 * torch.arange(10.0).double())
    >>> spec = SimpleNamespace(labels=("a",), wavelength=grid.numpy())
    >>> model = SimpleNamespace(
    ...     spec=spec, scatter=torch.zeros(10), output=layer, features=features,
    ...     features_and_jacobian=both, flux_and_jacobian=lambda x: (
    ...         layer(features(x)), torch.matmul(both(x)[1], layer.weight.T)))
    >>> first, edge = torch.tensor([[0.05, 0.0]]), torch.tensor([[0.5, 0.0]])
    >>> with torch.no_grad():
    ...     flux = layer(features(first[:, :1]))
    ...     ivar = torch.full((1, 10), 1 / 0.3**2)
    ...     objective = Objective.of(model, flux, ivar, rv_start=torch.zeros(1), rv_range=0.0)
    ...     state = Search.of(objective, SearchOptions(20, 0.01, True)).run(
    ...         objective, first, -edge, edge)
    ...     for _ in range(2):
    ...         print(f"{state.hessian[0, 0, 0] ** -0.5:.3f}")
    ...         over_errors(None, objective, state)
    0.087
    0.178
    """
    if output_layer(objective.model) is None:
        return
    for begin in range(0, len(state.parameters), WINDOW):
        n = min(WINDOW, len(state.parameters) - begin)
        rows = whole(torch.arange(begin, begin + n, device=state.parameters.device))
        part, chosen = state.take(rows), objective.take(rows)
        uneven = torch.ones_like(part.exact)
        if gram is not None:
            c, apart, uneven = gram.blocks.weighed(chosen.data()[1])
        exact = torch.nonzero(uneven).squeeze(1)
        for _ in range(_ROUNDS):
            moves = _secant_moves(chosen, part)
            if gram is not None:
                part.hessian[:] = gram.hessian(chosen, part.parameters, c, apart, moves)
            if len(exact):
                some = whole(exact)
                part.hessian[some] = chosen.take(some).hessian(part.parameters[some], moves[some])
        state.put(rows, part)


def _secant_moves(objective: Objective, state: State) -> Tensor:
    """Return (n, K, H) how the features of a model change with its labels, over their errors."""
    n, free = len(state.parameters), slice(objective.n_free)
    here = state.parameters[:, free].double()
    covariance = _spread(state)[:, free, free]
    variance, axes = torch.linalg.eigh(covariance)
    sigma = variance.clamp(min=_KNOWN).sqrt()[:, None, :]
    ahead, back = _reach(state, axes * sigma, free)
    step = (axes * sigma).mT  # (n, F, F), an axis in each row
    ends = [here[:, None] + ahead[:, :, None] * step, here[:, None] - back[:, :, None] * step]
    x = objective.labels(torch.cat(ends, dim=1).flatten(0, 1).to(state.parameters))
    features: Tensor = objective.model.features(x)  # type: ignore[attr-defined]
    one, other = features.double().view(n, 2 * objective.n_free, -1).chunk(2, dim=1)
    slopes = (one - other) / (ahead + back)[:, :, None]
    by_parameter = (torch.matmul(axes / sigma, slopes)).to(features)
    if objective.tie is None:
        return by_parameter
    moves = features.new_zeros((n, objective.n_label, features.shape[1]))
    moves[:, list(objective.tie.free)] = by_parameter
    return moves


def _spread(state: State) -> Tensor:
    """(n, Q, Q) covariances of the free parameters; the others have what they alone would have."""
    free = edges(state).free
    own = 1 / state.hessian.diagonal(dim1=1, dim2=2).clamp(min=1 / BOX_VARIANCE)
    return softened(state, free) + torch.diag_embed(torch.where(free, 0.0, own))


def _reach(state: State, axes: Tensor, free: slice) -> tuple[Tensor, Tensor]:
    """(n, F, F) axes as columns -> (n, F) how many of them lie between bounds, ahead and back."""
    here = state.parameters[:, free].double()
    up = (state.upper[:, free].double() - here).clamp(min=0)[:, :, None]
    down = (here - state.lower[:, free].double()).clamp(min=0)[:, :, None]
    length = axes.abs().clamp(min=1e-300)
    ahead = torch.where(axes > 0, up, down) / length
    back = torch.where(axes > 0, down, up) / length
    ahead, back = (side.amin(dim=1).clamp(max=_HALF) for side in (ahead, back))
    short = 0.5 * _LEAST * (ahead + back < _LEAST)
    return ahead + short, back + short
