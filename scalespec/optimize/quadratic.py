"""The quadratic problem inside a step: least value within a box, for many stars at once."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

JITTER = 1e-5
"""Least damping, of a unit diagonal; float32 sums over 4,000 pixels are good to 3e-6."""
_FREE_ROUNDS = 12  # that may release a bound: one random problem of 1,000 wants more than 8

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., object])


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

    References
    ----------
    Hintermüller, Ito & Kunisch 2002, SIAM J. Optim. 13, 865.

    Examples
    --------
    Both stars are best at (1, 1); one may go to 0.5 along the first parameter, and makes up for it:

    >>> hessian = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]], dtype=torch.float64).repeat(2, 1, 1)
    >>> gradient = torch.full((2, 2), -3.0, dtype=torch.float64)
    >>> upper = torch.tensor([[9.0, 9.0], [0.5, 9.0]], dtype=torch.float64)
    >>> bounded_step(hessian, gradient, -upper, upper, damping=0.0)
    tensor([[1.0000, 1.0000],
            [0.5000, 1.2500]], dtype=torch.float64)
    """
    matrix, scale = unit_diagonal(hessian)
    matrix.diagonal(dim1=1, dim2=2).add_(damping)
    g, low, high = gradient / scale, lower * scale, upper * scale
    if hessian.device.type == "cpu":
        y = torch.empty_like(g)
        a, b, c, d = (part.contiguous().numpy() for part in (matrix, g, low, high))
        _solve_all(a, b, c, d, y.numpy())
    else:
        y = _solve_batch(matrix, g, low, high)
    return (y / scale).clamp(lower, upper)


def _solve_batch(matrix: Tensor, g: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Solve all problems by batched operations, as a GPU wants them."""
    fixed = low >= high
    pin = torch.where((low >= 0) & (g > 0), -1, 0) + torch.where((high <= 0) & (g < 0), 1, 0)
    pin = torch.where(fixed, 1, pin)
    y = g
    for attempt in range(_FREE_ROUNDS + g.shape[1]):
        y = _solve_free(matrix, g, torch.where(pin < 0, low, high), pin == 0)
        slope = g + torch.bmm(matrix, y[:, :, None]).squeeze(-1)
        # Late rounds only pin, so the rounds end whatever the matrix.
        keep = fixed | (pin * slope <= 0) | (attempt >= _FREE_ROUNDS)
        left = torch.where(y > high, 1, torch.where(y < low, -1, 0))
        new = torch.where(pin == 0, left, torch.where(keep, pin, 0))
        if torch.equal(new, pin):
            break
        pin = new
    return y


def _solve_free(matrix: Tensor, gradient: Tensor, edge: Tensor, free: Tensor) -> Tensor:
    """Solve for the free parameters with the others on their `edge`; NaN where not definite."""
    edge = torch.where(free, 0.0, edge)
    rhs = torch.where(free, -gradient - torch.bmm(matrix, edge[:, :, None]).squeeze(-1), edge)
    factor, info = torch.linalg.cholesky_ex(free_part(matrix, free))
    y = torch.cholesky_solve(rhs[:, :, None], factor).squeeze(-1)
    return torch.where(info[:, None] == 0, torch.where(free, y, edge), torch.nan)


def _compiled(function: Function) -> Function:
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@_compiled
def _times(a: Array, b: Array) -> float:
    """Multiply two short vectors: a call of BLAS takes longer than that."""
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@_compiled
def _first_pins(g: Array, low: Array, high: Array, pin: Integers) -> None:
    """Pin to an edge what the gradient pulls out of the box, and what has no room (1 for good)."""
    for i in range(len(g)):
        pin[i] = -1 if low[i] >= 0 and g[i] > 0 else 0
        if low[i] >= high[i] or (high[i] <= 0 and g[i] < 0):
            pin[i] = 1


@_compiled
def _repin(
    matrix: Array, g: Array, edges: tuple[Array, Array], y: Array, pin: Integers, release: bool
) -> bool:
    """Pin what left the box, release what the gradient pulls inside; True if nothing changed."""
    low, high = edges
    same = True
    for i in range(len(g)):
        new = pin[i]
        if pin[i] == 0:
            new = 1 if y[i] > high[i] else (-1 if y[i] < low[i] else 0)
        elif release and low[i] < high[i] and pin[i] * (g[i] + _times(matrix[i], y)) > 0:
            new = 0
        same = same and new == pin[i]
        pin[i] = new
    return same


@_compiled
def _solve_all(matrix: Array, g: Array, low: Array, high: Array, out: Array) -> None:
    """Solve one problem after another: the same rounds as `_solve_batch`."""
    n, size = g.shape
    pin, place = np.empty(size, np.int64), np.empty(size, np.int64)
    factor, y = np.empty((size, size)), np.empty(size)
    for s in range(n):
        _first_pins(g[s], low[s], high[s], pin)
        for attempt in range(_FREE_ROUNDS + size):
            n_free = 0
            for i in range(size):
                y[i] = low[s, i] if pin[i] < 0 else high[s, i]
                if pin[i] == 0:
                    y[i] = 0.0
                    place[n_free] = i
                    n_free += 1
            if not _factored(matrix[s], place[:n_free], factor):
                y[:] = np.nan
                break
            _fill_in(matrix[s], g[s], y, place[:n_free], factor)
            if _repin(matrix[s], g[s], (low[s], high[s]), y, pin, attempt < _FREE_ROUNDS):
                break
        out[s] = y


@_compiled
def _factored(matrix: Array, free: Integers, factor: Array) -> bool:
    """Factor the free part by Cholesky's method; False if it is not positive definite."""
    for a in range(len(free)):
        for b in range(a + 1):
            value = matrix[free[a], free[b]]
            for c in range(b):
                value -= factor[a, c] * factor[b, c]
            if a != b:
                factor[a, b] = value / factor[b, b]
            elif value > 0:
                factor[a, a] = np.sqrt(value)
            else:
                return False
    return True


@_compiled
def _fill_in(matrix: Array, g: Array, y: Array, free: Integers, factor: Array) -> None:
    """Solve for the free parameters of `y`, which holds the pinned ones and zeros."""
    n = len(free)
    right = np.empty(n)
    for a in range(n):
        right[a] = -g[free[a]]
        if n < len(y):  # else y holds nothing yet
            right[a] -= _times(matrix[free[a]], y)
    for a in range(n):
        for c in range(a):
            right[a] -= factor[a, c] * right[c]
        right[a] /= factor[a, a]
    for back in range(n):
        a = n - 1 - back
        for c in range(a + 1, n):
            right[a] -= factor[c, a] * right[c]
        right[a] /= factor[a, a]
        y[free[a]] = right[a]


def free_part(matrix: Tensor, free: Tensor) -> Tensor:
    """Rows and columns of the free parameters, those of the others from the identity."""
    both = free[:, :, None] & free[:, None, :]
    return torch.where(both, matrix, torch.eye(free.shape[1]).to(matrix))


def unit_diagonal(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Hessian in units that make its diagonal 1, and the (n, Q) units."""
    root = hessian.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    scale = torch.where(root > 0, root, 1.0)
    matrix = hessian / (scale[:, :, None] * scale[:, None, :])
    matrix.diagonal(dim1=1, dim2=2).fill_(1.0)
    return matrix, scale


def promised_gain(hessian: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """(n,) fall of chi2 that the normal equations promise for `step` (n, Q)."""
    curved = torch.bmm(hessian, step[:, :, None]).squeeze(-1)
    return -(step * (2.0 * gradient + curved)).sum(dim=1)


def inverse(hessian: Tensor, free: Tensor) -> Tensor:
    """Invert the free part of `hessian` (n, Q, Q); rows and columns of the others are 0.

    Eigenvalues, of a unit diagonal, count as at least `JITTER`.
    """
    matrix, scale = unit_diagonal(hessian)
    matrix = free_part(matrix, free)
    factor, info = torch.linalg.cholesky_ex(matrix)
    found = torch.cholesky_inverse(factor)
    trace = found.diagonal(dim1=1, dim2=2).sum(dim=1)
    weak = torch.nonzero((info != 0) | ~(trace < 1 / JITTER)).squeeze(1)  # all others are above it
    if len(weak):
        values, vectors = torch.linalg.eigh(matrix[weak])
        found[weak] = (vectors / values.clamp(min=JITTER)[:, None, :]) @ vectors.mT
    found = found / (scale[:, :, None] * scale[:, None, :])
    return torch.where(free[:, :, None] & free[:, None, :], found, 0.0)
