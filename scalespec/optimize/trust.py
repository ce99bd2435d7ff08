"""What a finished search is worth: its covariance, and which labels and stars not to trust."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.constraints import box
from scalespec.optimize.matmul import whole
from scalespec.optimize.objective import Objective
from scalespec.optimize.quadratic import bounded_step, inverse, promised_gain
from scalespec.optimize.result import FitResult, FitStatus
from scalespec.optimize.state import State

BOX_VARIANCE = 1.0 / 12.0
"""Variance of a uniform density over the scaled box: the most that a label is unknown."""
PRIOR_DOMINATED_BOX = 0.15
"""Sigma, in widths of the box, from which the box says as much of a label as the spectrum."""
PRIOR_DOMINATED_GAUSS = 0.8
"""Sigma, in those of its Gaussian prior, from which the prior says most of a label."""
_BOX_PRECISION = 2.0
"""Of the Gaussian that stands for the box among the errors, whose width is 1. An optimum cannot
leave the box, so what spans it scatters less than the curvature of chi2 says; 0, 2 and 4 gave pulls
of 0.86, 0.98 and 1.09 where 22 labels follow one that spans it."""
_LEAST_PRECISION = 1e-4  # of a label of which a spectrum tells nothing, in units of the range
_OUTSIDE = 3.0  # sigmas beyond its bound, from which a label is not there by noise
_EDGE = 1e-6  # so near its bound, in scaled units, is a parameter on it: float32 rounding
_NEAR = 0.03  # sigmas: a search that ends so near a bound cannot tell whether it is on it


@dataclass(frozen=True)
class Edges:
    """Which parameters (n, Q) cannot move: on a bound, beyond it by more than noise, or fixed."""

    bound: Tensor
    outside: Tensor
    fixed: Tensor

    @property
    def free(self) -> Tensor:
        """(n, Q) bool: the parameters that can move both ways."""
        return ~(self.bound | self.fixed)


def edges(state: State) -> Edges:
    """Find the parameters on their bounds; `outside` says which of them pull hard against it."""
    fixed = state.upper <= state.lower
    room = torch.minimum(state.parameters - state.lower, state.upper - state.parameters)
    free = (room >= _EDGE) & ~fixed
    variance = inverse(state.hessian, free).diagonal(dim1=1, dim2=2).clamp(min=0)
    widest = BOX_VARIANCE * (state.upper - state.lower).double() ** 2
    free &= room >= _NEAR * torch.minimum(variance, widest).sqrt()
    bound = ~(free | fixed)
    outside = torch.zeros_like(bound)
    rows = whole(torch.nonzero(bound.any(dim=1)).squeeze(1))
    if len(rows):
        hessian = state.hessian[rows]
        curvature = _schur_diagonal(hessian, inverse(hessian, free[rows]))
        pull = state.gradient[rows].abs() / curvature.clamp(min=1e-30).sqrt()
        outside[rows] = bound[rows] & (pull > _OUTSIDE)
    return Edges(bound, outside, fixed)


def covariance(state: State, found: Edges, spread: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(n, Q, Q) float64 covariances of scaled parameters: of their errors, and what flags go by.

    Inverse Hessian for the free ones, the box counting as a wide Gaussian prior. One
    that noise has driven to its bound lies within it by the truncated normal that gradient and
    curvature give, and what follows of that for the others is in their variances. One whose optimum
    lies more than 3 sigma outside is not known at all: it has the variance of a uniform density
    over its range, without correlations; `spread` (n, Q, Q), of other optima, is added for the
    others. No variance exceeds that of the range: there row and column are shrunk, correlations
    stay, the matrix stays positive. A fixed parameter has no error. Errors are smaller near
    bounds, see `within_bounds`; whether a label is known is asked of the spectrum more than of
    its bounds, so of the second covariance.
    """
    total = _of_curvature(state, found)
    errors = within_bounds(total, state, found)
    if spread is not None:
        known = (~(found.outside | found.fixed)).double()
        others = spread * known[:, :, None] * known[:, None, :]
        total, errors = total + others, errors + others
    return errors, _capped(total, state, found)


def softened(state: State, free: Tensor) -> Tensor:
    """(n, Q, Q) inverse Hessian of the free parameters, the box counting as a wide Gaussian."""
    span = (state.upper - state.lower).double().clamp(min=1e-30)
    known = torch.diag_embed(_BOX_PRECISION / span**2)
    return inverse(torch.where(free[:, :, None], state.hessian + known, 0.0), free)


def _of_curvature(state: State, found: Edges) -> Tensor:
    total = softened(state, found.free)
    soft = found.bound & ~found.outside
    rows = whole(torch.nonzero(soft.any(dim=1)).squeeze(1))
    if not len(rows):
        return total
    soft, hessian, inverted = soft[rows], state.hessian[rows], total[rows]
    span = (state.upper[rows] - state.lower[rows]).double()
    curvature = _schur_diagonal(hessian, inverted).clamp(min=1e-30)
    pull = (state.gradient[rows].abs() / curvature.sqrt()).clamp(max=_OUTSIDE)
    inside = torch.where(soft, _second_moment(pull) / curvature, 0.0)
    inside = torch.minimum(inside, BOX_VARIANCE * span**2)
    # How the free parameters follow each one on a bound: e_j - C H e_j.
    follow = torch.diag_embed(soft.double()) - inverted @ (hessian * soft[:, None, :])
    total[rows] = inverted + (follow * inside[:, None, :]) @ follow.mT
    return total


def _capped(total: Tensor, state: State, found: Edges) -> Tensor:
    """Return a covariance (n, Q, Q) no variance of which exceeds that of the range."""
    widest = BOX_VARIANCE * (state.upper - state.lower).double() ** 2
    variance = total.diagonal(dim1=1, dim2=2)
    shrink = (widest / variance.clamp(min=1e-300)).sqrt().clamp(max=1.0)
    return _shrunk(total, shrink, widest, found)


def within_bounds(total: Tensor, state: State, found: Edges) -> Tensor:
    """Return a covariance (n, Q, Q) about optima that the truth shares the bounds of.

    A truth uniform between the bounds, seen with a Gaussian error, lies about the optimum as that
    Gaussian cut off at both, which takes the place of the Gaussian that stood for its own bounds.
    Row and column of each free parameter are scaled to the root of its second moment, at most that
    of the range; correlations stay. Those on a bound have at most that of the range.

    Examples
    --------
    One at 1 sigma from its bound, one far from both, and one of which next to nothing is known: its
    error is that of a uniform density.

    >>> from types import SimpleNamespace
    >>> x, edge = torch.tensor([[0.4, 0.0, 0.0]]), torch.full((1, 3), 0.5)
    >>> state = SimpleNamespace(parameters=x, lower=-edge, upper=edge)
    >>> total = torch.diag(torch.tensor([0.01, 0.01, 0.5]).double())[None]
    >>> made = within_bounds(total, state, Edges(*[torch.zeros(1, 3, dtype=torch.bool)] * 3))
    >>> made.diagonal(dim1=1, dim2=2).sqrt().round(decimals=3)
    tensor([[0.0850, 0.1010, 0.2890]], dtype=torch.float64)
    """
    square = (state.upper - state.lower).double() ** 2
    widest, here = BOX_VARIANCE * square, state.parameters.double()
    variance = total.diagonal(dim1=1, dim2=2).clamp(min=1e-300)
    own = (1 / variance - _BOX_PRECISION / square.clamp(min=1e-60)) * square
    sigma = (square / own.clamp(min=_LEAST_PRECISION)).clamp(min=1e-300).sqrt()
    lost, inside = torch.zeros_like(sigma), torch.full_like(sigma, -1.0)
    for side in (here - state.lower, state.upper - here):
        room = (side / sigma).clamp(min=0)
        lost += room * torch.exp(-0.5 * room.square()) / (2 * torch.pi) ** 0.5
        inside += torch.special.ndtr(room)
    moment = square / own.clamp(min=_LEAST_PRECISION) * (1 - lost / inside.clamp(min=1e-12))
    error = torch.minimum(torch.where(found.free, moment, variance), widest)
    return _shrunk(total, (error / variance).clamp(min=0).sqrt(), widest, found)


def _shrunk(total: Tensor, shrink: Tensor, widest: Tensor, found: Edges) -> Tensor:
    """Shrink rows and columns; what lies outside its range has the variance of the range."""
    total = total * shrink[:, :, None] * shrink[:, None, :]
    total.diagonal(dim1=1, dim2=2)[found.outside] = widest[found.outside]
    return total


def _schur_diagonal(hessian: Tensor, inverted: Tensor) -> Tensor:
    """(n, Q) curvature of chi2 / 2 along each parameter, the free ones following."""
    change = ((hessian @ inverted) * hessian).sum(dim=2)
    left: Tensor = hessian.diagonal(dim1=1, dim2=2) - change
    return left


def _second_moment(pull: Tensor) -> Tensor:
    """E[d^2] of a density exp(-pull d - d^2 / 2) on d >= 0."""
    hazard = torch.exp(-0.5 * pull**2) * (2 / torch.pi) ** 0.5
    hazard = hazard / torch.erfc(pull / 2**0.5)
    moment: Tensor = 1.0 + pull**2 - pull * hazard
    return moment


def fill(
    result: FitResult,
    rows: NDArray[np.int64],
    objective: Objective,
    state: State,
    spread: Tensor | None = None,
) -> None:
    """Write where the searches ended into the `rows` of a result, in physical units.

    `spread` (n, Q, Q) is what other optima add to the covariance of the scaled parameters.
    """
    low, width = box(objective.model)
    found = edges(state)
    scaled, loose = covariance(state, found, spread)
    all_labels = _to_all_labels(objective, scaled)
    n_label, n_free = len(low), objective.n_free
    x = objective.labels(state.parameters).double().cpu().numpy()
    result.labels[rows] = low + (x + 0.5) * width
    result.label_cov[rows] = all_labels[:, :n_label, :n_label] * np.multiply.outer(width, width)
    sigma = np.sqrt(scaled.diagonal(dim1=1, dim2=2).cpu().numpy())
    result.rv[rows] = objective.rv(state.parameters).cpu().numpy()
    scale = np.array(objective.line_scale())
    result.rv_err[rows] = scale[0] * sigma[:, n_free]
    widths = objective.widths(state.parameters)
    if widths is not None:
        result.widths[rows] = widths.cpu().numpy()
        result.width_err[rows] = scale[1:] * sigma[:, n_free + 1 :]
    chi2 = state.chi2
    if objective.prior is not None:
        chi2 = chi2 - objective.prior.chi2(objective.labels(state.parameters))
    result.chi2[rows] = chi2.cpu().numpy()
    n_linear = 0 if objective.continuum is None else objective.continuum.n_free
    moving = (~found.fixed).sum(dim=1).cpu().numpy() + n_linear
    result.dof[rows] = result.n_used[rows] - moving
    result.n_steps[rows] = state.n_steps.cpu().numpy()
    result.status[rows] |= state.status.cpu().numpy().astype(np.uint32)
    result.distance[rows] = _distance(state)
    _flag_labels(result, rows, objective, state, (found, _to_all_labels(objective, loose)))


def _flag_labels(
    result: FitResult,
    rows: NDArray[np.int64],
    objective: Objective,
    state: State,
    known: tuple[Edges, NDArray[np.float64]],
) -> None:
    """Set the bits that stand for labels, and those of the stars that have any.

    `known` are the edges, and the scaled covariance of all labels that flags go by.
    """
    found, loose = known
    n_free = objective.n_free
    own, leaders = list(range(n_free)), list(range(n_free))
    if objective.tie is not None:
        own = list(objective.tie.free)
        leaders = [int(k) for k in objective.tie.matrix.argmax(dim=1)]
    bound = found.bound.cpu().numpy()
    result.at_bound[rows] = _bits(bound[:, :n_free], leaders)
    spread = np.sqrt(np.diagonal(loose, axis1=1, axis2=2))
    span = (state.upper - state.lower)[:, :n_free].double().cpu().numpy()
    dominated = spread[:, own] > PRIOR_DOMINATED_BOX * span
    if objective.prior is not None:
        precision = objective.prior.precision.double().cpu().numpy()[:, own]
        dominated |= spread[:, own] * np.sqrt(precision) > PRIOR_DOMINATED_GAUSS
    dominated &= span > 0
    result.prior_dominated[rows] = _bits(dominated, leaders)
    result.raise_flag(FitStatus.AT_BOUND, rows[bound[:, :n_free].any(axis=1)])
    result.raise_flag(FitStatus.RV_AT_LIMIT, rows[bound[:, n_free]])
    result.raise_flag(FitStatus.WIDTH_AT_LIMIT, rows[bound[:, n_free + 1 :].any(axis=1)])
    result.raise_flag(FitStatus.PRIOR_DOMINATED, rows[dominated.any(axis=1)])


def _bits(flags: NDArray[np.bool_], leaders: list[int]) -> NDArray[np.uint64]:
    """(n, F) flags of free labels -> (n,) bits of all labels, tied ones as those they follow."""
    wide = flags[:, leaders].astype(np.uint64)
    shifted = wide << np.arange(len(leaders), dtype=np.uint64)
    bits: NDArray[np.uint64] = np.bitwise_or.reduce(shifted, axis=1)
    return bits


def _to_all_labels(objective: Objective, scaled: Tensor) -> NDArray[np.float64]:
    """(n, Q, Q) covariance of the parameters -> (n, K, K) of all scaled labels."""
    part: NDArray[np.float64] = scaled[:, : objective.n_free, : objective.n_free].cpu().numpy()
    if objective.tie is None:
        return part
    across = objective.tie.matrix.double().cpu().numpy()
    wide: NDArray[np.float64] = across @ part @ across.T
    return wide


def _distance(state: State) -> NDArray[np.float64]:
    """Return how many sigma of chi2 the bounds cost: 0 where no bound holds a star."""
    still = torch.where(state.upper > state.lower, torch.inf, 0.0).double()
    step = bounded_step(state.hessian, state.gradient, -still, still, damping=1e-3)
    gain = promised_gain(state.hessian, state.gradient, step)
    distance: NDArray[np.float64] = gain.clamp(min=0).sqrt().cpu().numpy()
    return distance
