"""Batched Levenberg-Marquardt: labels and velocity of many stars at once, with covariance.

Labels are physical at the border (K, dex, km/s) and scaled to [-0.5, 0.5] inside, the velocity as
well; every star has its own damping and leaves the batch when it is done.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.objective import ArrayLike, Emulator, Objective, Smoother, as_rows
from scalespec.optimize.result import FitResult, FitStatus

BOX_VARIANCE = 1.0 / 12.0
"""Variance of a uniform density over the scaled box: what a bound label is known to."""
_JITTER = 1e-5  # of a unit diagonal; float32 sums over 4,000 pixels are good to 3e-6
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-3, 1e-6, 1e6
_HELD_DAMPING = 1e-2  # the least after a rejected step: smaller ones change no step
_ACCEPTED, _REJECTED = 0.2, 8.0  # factors on the damping
_HARMLESS_GAIN = 1.0  # of chi2: what a kink may withhold without a flag
_EDGE = 1e-6  # so near its bound, in scaled units, is a parameter on it: float32 rounding
_FREE_ROUNDS = 12  # that may release a bound: one random problem of 1,000 wants more than 8


@dataclass(frozen=True)
class FitOptions:
    """How a fit runs and what it flags.

    Attributes
    ----------
    max_steps : int
        Most steps per star.
    tolerance : float
        A star is done when the next step promises to lower chi2 by less; 0.01 is a tenth of a
        sigma squared, and that step is still taken.
    rv_range : float [km/s]
        How far the velocity may move from its start; 0 holds it there.
    stars_per_batch : int
        Stars fitted together: about 5 x stars x (K + 1) x P floats of memory.
    snr_min : float
        Median signal-to-noise per pixel under which a fit is flagged LOW_SNR.
    reduced_chi2_max : float
        Chi2 per degree of freedom over which a fit is flagged POOR_FIT.
    """

    max_steps: int = 50
    tolerance: float = 0.01
    rv_range: float = 150.0
    stars_per_batch: int = 64
    snr_min: float = 5.0
    reduced_chi2_max: float = 5.0


@dataclass(frozen=True)
class _State:
    """Where each search stands: parameters, chi2 and normal equations there, damping, flags."""

    parameters: Tensor
    chi2: Tensor
    gradient: Tensor
    hessian: Tensor
    damping: Tensor
    n_steps: Tensor
    status: Tensor

    @property
    def finite(self) -> Tensor:
        """(n,) bool: the model gives numbers here."""
        return self.chi2.isfinite() & self.hessian.isfinite().flatten(1).all(dim=1)

    def take(self, rows: Tensor) -> Self:
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: Tensor, part: Self) -> None:
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(part, f.name)


def fit_labels(
    model: Emulator,
    flux: ArrayLike,
    ivar: ArrayLike,
    *,
    start: ArrayLike | None = None,
    rv_start: ArrayLike | None = None,
    smoothing: Smoother | None = None,
    options: FitOptions | None = None,
) -> FitResult:
    """Find the labels and velocity of least chi2 for each spectrum.

    chi2 = sum over pixels of (flux - F)^2 ivar / (1 + ivar scatter^2), F the model's flux shifted
    by the velocity and, with `smoothing`, divided by its own masked smoothing as the data were.

    Parameters
    ----------
    model : Emulator
        Its ``scatter`` says on which device and in which precision the fit runs.
    flux, ivar : (n, P) float
        Spectra on the model's wavelengths; ``ivar`` 0 means no information.
    start : (n, K) float, optional
        First labels, physical; where NaN or not given, the middle of the box.
    rv_start : (n,) float [km/s], optional
        First velocities; where NaN or not given, 0.
    smoothing : Smoother, optional
        The data's normalization, when the model's is the true continuum.
    options : FitOptions, optional
        Steps, tolerance, velocity range, batch size and limits of the flags.

    Returns
    -------
    FitResult
        One row per spectrum. A star that cannot be fitted has a row whose status says why.

    Raises
    ------
    ValueError
        If shapes or smoothing do not fit the model, or it has more than 64 labels.

    References
    ----------
    Marquardt 1963, J. SIAM 11, 431 (damping by the diagonal); Hintermüller, Ito & Kunisch 2002,
    SIAM J. Optim. 13, 865 (primal-dual active set for the bounds).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(labels=("depth",), minimum=np.array([0.0]), maximum=np.array([1.0]),
    ...                        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)))
    >>> line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2)
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(60),
    ...     forward_scaled=lambda x: 1 - (x + 0.5) * line,
    ...     flux_and_jacobian=lambda x: (1 - (x + 0.5) * line, -line.expand(len(x), 1, 60)))
    >>> fit = fit_labels(model, 1 - 0.3 * line[None], torch.full((1, 60), 1e4))
    >>> fit.labels.round(3), fit.label_err.round(3), fit.status
    (array([[0.3]], dtype=float32), array([[0.005]], dtype=float32), array([0], dtype=uint32))
    """
    options = options or FitOptions()
    n, n_label = len(flux), len(model.spec.labels)
    _check_shapes(model, smoothing, flux, ivar, start, rv_start)
    low, width = _box(model)
    first = np.full((n, n_label), np.nan) if start is None else (_numpy(start) - low) / width - 0.5
    first = np.pad(np.nan_to_num(first, nan=0.0).clip(-0.5, 0.5), ((0, 0), (0, 1)))
    rv = np.zeros(n) if rv_start is None else np.nan_to_num(_numpy(rv_start))
    parts = [FitResult.empty(0, n_label)]
    with torch.inference_mode():
        for begin in range(0, n, options.stars_per_batch):
            rows = slice(begin, begin + options.stars_per_batch)
            batch = (as_rows(values[rows], model.scatter) for values in (first, flux, ivar, rv))
            parts.append(_fit_batch(model, *batch, smoothing=smoothing, options=options))
    return FitResult.concatenate(parts)


def _fit_batch(
    model: Emulator,
    first: Tensor,
    flux: Tensor,
    ivar: Tensor,
    rv: Tensor,
    *,
    smoothing: Smoother | None,
    options: FitOptions,
) -> FitResult:
    known = torch.isfinite(ivar) & (torch.isfinite(flux) | (ivar <= 0))
    objective = Objective.of(
        model, flux, ivar, rv_start=rv, rv_range=options.rv_range, smoother=smoothing
    )
    used = objective.weight > 0
    n_used = used.sum(dim=1)
    snr = torch.where(used, flux * torch.sqrt(ivar), torch.nan).nanmedian(dim=1).values
    result = FitResult.empty(len(first), first.shape[1] - 1)
    result.n_used[:] = n_used.cpu().numpy()
    result.raise_flag(FitStatus.NONFINITE, ~known.all(dim=1).cpu().numpy())
    result.raise_flag(FitStatus.NO_PIXELS, (n_used <= first.shape[1]).cpu().numpy())
    rows = torch.tensor(np.flatnonzero(result.fitted), device=flux.device)
    objective = objective.take(rows)
    state = _search(objective, first[rows], options)
    finite = state.finite
    result.raise_flag(FitStatus.NONFINITE, rows[~finite].cpu().numpy())
    _fill(result, rows[finite].cpu().numpy(), objective.take(finite), state.take(finite))
    result.raise_flag(FitStatus.LOW_SNR, result.fitted & (snr < options.snr_min).cpu().numpy())
    dof = result.n_used - first.shape[1]
    result.raise_flag(FitStatus.POOR_FIT, result.chi2 > options.reduced_chi2_max * dof)
    return result


def _search(objective: Objective, first: Tensor, options: FitOptions) -> _State:
    """Step every star until it is done; stars that are done leave the batch."""
    chi2, gradient, hessian = objective.normal_equations(first)
    counter = torch.zeros(len(first), dtype=torch.int32, device=first.device)
    damping = torch.full_like(chi2, _FIRST_DAMPING, dtype=torch.float64)
    normal = (gradient.double(), hessian.double())
    state = _State(first.clone(), chi2, *normal, damping, counter, counter.clone())
    active = torch.nonzero(state.finite).squeeze(1)
    objective = objective.take(active)
    while len(active):
        part, done = _step(objective, state.take(active), options)
        state.put(active, part)
        if bool(done.any()):
            active, objective = active[~done], objective.take(~done)
    return state


def _step(objective: Objective, state: _State, options: FitOptions) -> tuple[_State, Tensor]:
    """Try one step for every star; return the new state and (n,) bool, which stars are done.

    A star is `near` when the undamped step, within the bounds, promises less than the tolerance.
    That step is then its last one, taken if it lowers chi2. It is `held` when only the damped step
    promises so little: it sits in a kink of the model, where the gradient promises what no step
    gives.
    """
    here = state.parameters.double()
    quadratic = (state.hessian, state.gradient)
    newton = bounded_step(*quadratic, -0.5 - here, 0.5 - here, damping=_JITTER)
    damped = bounded_step(*quadratic, -0.5 - here, 0.5 - here, damping=state.damping[:, None])
    promise = promised_gain(*quadratic, newton).abs()
    near = promise < options.tolerance
    small = promised_gain(*quadratic, damped).abs() < options.tolerance
    held = ~near & small & (state.damping >= _HELD_DAMPING)
    trial = here + torch.where(near[:, None], newton, damped)
    trial = trial.clamp(-0.5, 0.5).to(state.parameters)
    chi2 = objective.chi2(trial)
    accepted = chi2 < state.chi2
    damping = torch.where(
        accepted,
        (state.damping * _ACCEPTED).clamp(min=_LEAST_DAMPING),
        (state.damping * _REJECTED).clamp(min=_HELD_DAMPING),
    )
    stalled = (held & (promise > _HARMLESS_GAIN)) | (damping > _MOST_DAMPING)
    late = ~(near | held | stalled) & (state.n_steps + 1 >= options.max_steps)
    done = near | held | stalled | late
    new = replace(
        state,
        parameters=torch.where(accepted[:, None], trial, state.parameters),
        chi2=torch.where(accepted, chi2, state.chi2),
        damping=damping,
        n_steps=state.n_steps + 1,
        status=(FitStatus.MAX_STEPS * late + FitStatus.STALLED * stalled).int(),
    )
    rows = torch.nonzero(accepted & ~done).squeeze(1)
    if len(rows):
        _, gradient, hessian = objective.take(rows).normal_equations(new.parameters[rows])
        new.gradient[rows], new.hessian[rows] = gradient.double(), hessian.double()
    return new, done


def bounded_step(
    hessian: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor, *, damping: float | Tensor
) -> Tensor:
    """Minimize g.d + d.A.d / 2 with lower <= d <= upper; A is `hessian`, its diagonal raised.

    A primal-dual active set, all problems at once: solve for the free parameters, pin those that
    left the box to its edge, release the pinned that the gradient pulls inside, until nothing
    changes. Everything happens in units that make A's diagonal 1.

    Parameters
    ----------
    hessian, gradient : (n, Q, Q), (n, Q) float64
        A parameter without information (a zero row) stays where it is.
    lower, upper : (n, Q) float64
        Bounds of the step, ``lower <= 0 <= upper``.
    damping : float or (n, 1)
        Raises the diagonal by this part of itself.

    Returns
    -------
    (n, Q) float64
        The steps; NaN where the raised matrix is not positive definite.
    """
    matrix, scale = _unit_diagonal(hessian)
    matrix.diagonal(dim1=1, dim2=2).add_(damping)
    g, low, high = gradient / scale, lower * scale, upper * scale
    pin = torch.where((low >= 0) & (g > 0), -1, 0) + torch.where((high <= 0) & (g < 0), 1, 0)
    for attempt in range(_FREE_ROUNDS + g.shape[1]):
        y = _solve_free(matrix, g, torch.where(pin < 0, low, high), pin == 0)
        slope = g + torch.bmm(matrix, y[:, :, None]).squeeze(-1)
        # Late rounds only pin, so the rounds end whatever the matrix.
        keep = (pin * slope <= 0) | (attempt >= _FREE_ROUNDS)
        left = torch.where(y > high, 1, torch.where(y < low, -1, 0))
        new = torch.where(pin == 0, left, torch.where(keep, pin, 0))
        if torch.equal(new, pin):
            break
        pin = new
    return (y / scale).clamp(lower, upper)


def _solve_free(matrix: Tensor, gradient: Tensor, edge: Tensor, free: Tensor) -> Tensor:
    """Solve for the free parameters with the others on their `edge`; NaN where not definite."""
    edge = torch.where(free, 0.0, edge)
    rhs = torch.where(free, -gradient - torch.bmm(matrix, edge[:, :, None]).squeeze(-1), edge)
    factor, info = torch.linalg.cholesky_ex(_free_part(matrix, free))
    y = torch.cholesky_solve(rhs[:, :, None], factor).squeeze(-1)
    return torch.where(info[:, None] == 0, torch.where(free, y, edge), torch.nan)


def _free_part(matrix: Tensor, free: Tensor) -> Tensor:
    """Rows and columns of the free parameters, those of the others from the identity."""
    both = free[:, :, None] & free[:, None, :]
    return torch.where(both, matrix, torch.eye(free.shape[1]).to(matrix))


def _unit_diagonal(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Hessian in units that make its diagonal 1, and the (n, Q) units."""
    root = hessian.diagonal(dim1=1, dim2=2).sqrt()
    scale = torch.where(root > 0, root, 1.0)
    matrix = hessian / (scale[:, :, None] * scale[:, None, :])
    matrix.diagonal(dim1=1, dim2=2).fill_(1.0)
    return matrix, scale


def promised_gain(hessian: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """(n,) fall of chi2 that the normal equations promise for `step` (n, Q)."""
    curved = torch.bmm(hessian, step[:, :, None]).squeeze(-1)
    return -(step * (2.0 * gradient + curved)).sum(dim=1)


def covariance(hessian: Tensor, free: Tensor) -> Tensor:
    """Inverse of the free part of `hessian`; the box's variance for the rest, and as a ceiling.

    Parameters
    ----------
    hessian : (n, Q, Q) float64
        J^T W J in scaled parameters.
    free : (n, Q) bool
        Parameters not on a bound.

    Returns
    -------
    (n, Q, Q) float64
        Where a variance would exceed that of a uniform density over the box, its row and column
        are shrunk to it: correlations stay, the matrix stays positive.
    """
    matrix, scale = _unit_diagonal(hessian)
    values, vectors = torch.linalg.eigh(_free_part(matrix, free))
    inverse = (vectors / values.clamp(min=_JITTER)[:, None, :]) @ vectors.transpose(1, 2)
    inverse /= scale[:, :, None] * scale[:, None, :]
    inverse = _free_part(inverse, free)
    variance = inverse.diagonal(dim1=1, dim2=2)
    shrink = (BOX_VARIANCE / variance).sqrt().clamp(max=1.0)
    inverse = inverse * shrink[:, :, None] * shrink[:, None, :]
    inverse.diagonal(dim1=1, dim2=2).masked_fill_(~free, BOX_VARIANCE)
    return inverse


def _fill(result: FitResult, rows: NDArray[np.int64], objective: Objective, state: _State) -> None:
    """Write where the searches ended into the `rows` of a result, in physical units."""
    low, width = _box(objective.model)
    bound = state.parameters.abs() > 0.5 - _EDGE
    scaled = covariance(state.hessian, ~bound).cpu().numpy()
    at_bound = bound.cpu().numpy()
    bits = at_bound[:, :-1].astype(np.uint64) << np.arange(len(low), dtype=np.uint64)
    x = state.parameters[:, :-1].double().cpu().numpy()
    result.labels[rows] = low + (x + 0.5) * width
    result.label_cov[rows] = scaled[:, :-1, :-1] * np.multiply.outer(width, width)
    result.rv[rows] = objective.rv(state.parameters).cpu().numpy()
    result.rv_err[rows] = 2.0 * objective.rv_range * np.sqrt(scaled[:, -1, -1])
    result.chi2[rows] = state.chi2.cpu().numpy()
    result.n_steps[rows] = state.n_steps.cpu().numpy()
    result.at_bound[rows] = np.bitwise_or.reduce(bits, axis=1)
    result.status[rows] |= state.status.cpu().numpy().astype(np.uint32)
    result.raise_flag(FitStatus.AT_BOUND, rows[at_bound[:, :-1].any(axis=1)])
    result.raise_flag(FitStatus.RV_AT_LIMIT, rows[at_bound[:, -1]])


def _box(model: Emulator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower edge (K,) and the width (K,) of the model's labels."""
    low = np.asarray(model.spec.minimum, np.float64)
    return low, np.asarray(model.spec.maximum, np.float64) - low


def _numpy(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values, np.float64)


def _check_shapes(
    model: Emulator,
    smoothing: Smoother | None,
    flux: ArrayLike,
    ivar: ArrayLike,
    start: ArrayLike | None,
    rv_start: ArrayLike | None,
) -> None:
    n, n_label, n_pixel = len(flux), len(model.spec.labels), len(model.spec.wavelength)
    for name, values, wanted in (
        ("flux", flux, (n, n_pixel)),
        ("ivar", ivar, (n, n_pixel)),
        ("start", start, (n, n_label)),
        ("rv_start", rv_start, (n,)),
    ):
        if values is not None and tuple(values.shape) != wanted:
            raise ValueError(f"{name} should be {wanted} for this model, got {tuple(values.shape)}")
    if smoothing is not None and smoothing.n_pixel != n_pixel:
        raise ValueError(f"smoothing has {smoothing.n_pixel} pixels, the model {n_pixel}")
    if n_label > 64:
        raise ValueError(f"a fit has at most 64 labels (bits of at_bound), got {n_label}")
