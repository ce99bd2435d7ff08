"""Whether a model's searches go astray, and along which label: asked of mocks, once per model.

Where few lines know of a label and the model has kinks, as of oxygen in metal-poor giants, chi2 has
one optimum behind the other, and searches end some third of the label's range away from where they
should. Other networks with kinks have as good as one optimum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from scalespec.optimize.levenberg import Search
from scalespec.optimize.objective import Objective
from scalespec.optimize.quadratic import inverse
from scalespec.optimize.state import State
from scalespec.optimize.trust import edges

MOCKS, SNR = 128, 100.0
ASTRAY = 0.12
"""Scatter of the mocks' first labels about the truth, in units of the box: as of an estimate."""
_LESS_GOOD, _ELSEWHERE = 0.1, 2.0
"""Chi2 over that of the search from the truth: of another optimum, and of one some way off."""
OFTEN = 0.03
"""Part of the mocks."""
_FAR = 0.1  # of the box


@dataclass(frozen=True)
class Terrain:
    """What searches from an estimate meet.

    Attributes
    ----------
    astray : float
        Part of the mocks whose search ended at a chi2 over that of one from the truth, by 0.1.
    along : int or None
        The label by which those that ended elsewhere are farthest from the truth; None if they are
        less than 3 %, or not far.

    Examples
    --------
    A line's depth is a sine of the label, a weak one's knows in which turn it is.

    >>> from types import SimpleNamespace
    >>> from scalespec.optimize.levenberg import SearchOptions
    >>> pixel = torch.arange(80.0)
    >>> line, weak = (torch.exp(-0.5 * ((pixel - c) / 3) ** 2) for c in (25, 55))
    >>> wavelength = 10 ** (3.7 + 1e-4 * pixel.double().numpy())
    >>> spec = SimpleNamespace(labels=("a",), wavelength=wavelength)
    >>> def flux(x):
    ...     return 1 - 0.2 * torch.sin(12 * x) * line - 0.1 * x * weak
    >>> def slope(x):
    ...     return (-2.4 * torch.cos(12 * x) * line - 0.1 * weak)[:, None]
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(80), forward_scaled=flux,
    ...                         flux_and_jacobian=lambda x: (flux(x), slope(x)))
    >>> def observe(y, w):
    ...     return Objective.of(model, y, w, rv_start=torch.zeros(len(y)), rv_range=0.0)
    >>> search = Search.of(observe(*torch.ones(2, 1, 80)), SearchOptions(50, 0.01, False))
    >>> terrain = Terrain.of(search, observe, model.scatter)
    >>> terrain.several, terrain.along
    (True, 0)
    """

    astray: float
    along: int | None

    @property
    def several(self) -> bool:
        """Whether so many searches go astray that they should be begun again."""
        return self.astray > OFTEN

    @classmethod
    def of(
        cls, search: Search, observe: Callable[[Tensor, Tensor], Objective], like: Tensor
    ) -> Self:
        """Search for mocks, from the truth and from near it.

        Parameters
        ----------
        search : Search
        observe : callable
            Flux and ivar (n, P) -> the objective of these spectra.
        like : (P,) tensor
            Of the device and the precision of the model.
        """
        worse, away = _astray(search, observe, like)
        astray = float((worse > _LESS_GOOD).double().mean())
        lost = worse > _ELSEWHERE
        if lost.double().mean() < OFTEN:
            return cls(astray, None)
        away = away[lost].mean(dim=0)
        return cls(astray, int(away.argmax()) if away.max() > _FAR else None)


def _astray(
    search: Search, observe: Callable[[Tensor, Tensor], Objective], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return by how much chi2 (n,) is greater, and labels (n, K) are off, than from the truth."""
    draw = torch.Generator().manual_seed(0)
    one = torch.ones((MOCKS, len(like))).to(like)
    ideal = observe(one, one)
    ranges = torch.tensor([1.0] * ideal.n_label + [float(s > 0) for s in ideal.line_scale()])
    edge = (0.5 * ranges).repeat(MOCKS, 1).to(like)
    truth = torch.rand(edge.shape, generator=draw).to(like) - 0.5
    truth[:, ideal.n_label :] = 0.0
    noise = torch.randn(one.shape, generator=draw).to(like) / SNR
    objective = observe(ideal.predict(truth) + noise, SNR**2 * one)
    wrong = ASTRAY * torch.randn(edge.shape, generator=draw).to(like)
    wrong[:, ideal.n_label :] = 0.0
    right, other = (
        search.descend(objective, first.clamp(-edge, edge), -edge, edge)
        for first in (truth, truth + wrong)
    )
    worse = (other.chi2 - right.chi2).where(right.finite & other.finite, 0.0)
    return worse, (other.parameters - right.parameters)[:, : ideal.n_label].abs()


def elsewhere(
    state: State, along: int, origin: Tensor, share: float, bounds: tuple[Tensor, Tensor]
) -> Tensor:
    """Return (n, Q) starts with one parameter moved by a share of its range, around its end.

    The others follow as the normal equations say.

    Parameters
    ----------
    state : State
        The optima so far, of n stars.
    along : int
        The parameter.
    origin : (n,)
        Where it is counted from.
    share : float
        Between 0 and 1.
    bounds : (n, Q), (n, Q)

    Examples
    --------
    Two thirds of the range on, around its end; the other one follows by half.

    >>> from types import SimpleNamespace
    >>> x, edge = torch.tensor([[0.3, 0.0]]), torch.full((1, 2), 0.5)
    >>> hessian = torch.linalg.inv(torch.tensor([[[4.0, 2.0], [2.0, 2.0]]]).double() * 1e-4)
    >>> state = SimpleNamespace(
    ...     parameters=x, lower=-edge, upper=edge, hessian=hessian, gradient=0 * x.double())
    >>> elsewhere(state, 0, x[:, 0], 2 / 3, (-edge, edge)).round(decimals=3)
    tensor([[-0.0330, -0.1670]])
    """
    low, high = (bound[:, along].double() for bound in bounds)
    span = (high - low).clamp(min=1e-30)
    there = low + torch.remainder((origin.double() - low) / span + share, 1.0) * span
    spread = inverse(state.hessian, edges(state).free)[:, :, along]
    follow = spread / spread[:, along, None].clamp(min=1e-30)
    move = (there - state.parameters[:, along].double())[:, None]
    start = state.parameters + (follow * move).nan_to_num(nan=0.0).to(state.parameters)
    start[:, along] = there.to(start)
    return start.clamp(*bounds)
