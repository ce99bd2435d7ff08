"""Training The Cannon: exact maximum likelihood of coefficients and scatter, many pixels at once.

Per pixel, ``ln L = -1/2 sum_n [ w_n (f_n - theta . v_n)² - ln w_n ]``, ``w_n = 1/(1/ivar_n + s²)``.
For a given scatter the coefficients are weighted least squares; for given coefficients the scatter
goes up the likelihood by Fisher scoring, ``s² += (sum w² r² - sum w) / sum w²``. Coefficients and
scatter know nothing of each other (their Fisher information is 0), so both take few steps in turns
from unweighted least squares, whose normal matrix all pixels share. All normal matrices of a block
of pixels come from one matrix product: products of two monomials are monomials, of which there are
few. They only steer: coefficients move by what the residuals, in float64, ask for, and float32 is
enough for steering where labels are not nearly degenerate.

Ness et al. 2015, ApJ 808, 16, eq. 10; Casey et al. 2016, arXiv 1603.03040 (L1, censoring).
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalespec.models.cannon import design, monomials, pair_products
from scalespec.models.scatter import UNLEARNED
from scalespec.models.scoring import count, likelihood, score, tidy
from scalespec.models.shrinkage import shrink

RIDGE = 1e-10
"""Of the mean diagonal: keeps a normal matrix positive when a label does not vary."""
LEAST_VARIANCE = 1e-14
"""Of flux that is said to have no noise: float32 rounds 1 by 6e-8."""
STEERING = 1e4
"""Condition of the labels' normal matrix up to which float32 steers; its Cholesky root is off by
1e-7 times this."""
LAST_GAIN = 0.01
"""A pixel is done when a step of its coefficients gained less than this times the tolerance in ln L
and the scatter moved by less than the tolerance."""
FIRST_STEPS, STEPS = 3, 2
"""Of the scatter before the first of the coefficients, from none at all, and before later ones."""
CACHED = 1 << 16
"""Numbers per array while pixels are fitted: what a core's own cache holds six of."""
ALIGNED = 8
"""Products of matrices of so many columns are fast."""
COMPACT = 0.5
"""Pixels that are done are left in place until so few are still moving."""
STALE = 0.1
"""A normal matrix steers until the weights have changed by this part, or steps gain no less than
this part of the one before."""


@dataclass(frozen=True)
class PixelFit:
    """Coefficients and scatter of each pixel.

    Attributes
    ----------
    coefficients : (n_pixel, n_term) float64 tensor
        In the order of `scalespec.models.cannon.monomials`.
    scatter : (n_pixel,) float64 tensor
        Standard deviation of flux that no label explains; 1 where nothing could be learned.
    log_likelihood : (n_pixel,) float64 tensor
        Without its constant; NaN where nothing could be learned.
    n_used : (n_pixel,) int64 tensor
        Spectra with information.
    """

    coefficients: Tensor
    scatter: Tensor
    log_likelihood: Tensor
    n_used: Tensor


@dataclass(frozen=True)
class Penalty:
    """What keeps coefficients small or at zero.

    Attributes
    ----------
    l1 : float
        Weight of ``sum |theta|`` over all terms but the constant, against ``chi² / 2``.
    censored : (n_pixel, n_label) bool tensor, optional
        Labels that a pixel must not know of.
    """

    l1: float = 0.0
    censored: Tensor | None = None


@dataclass
class _Pixels:
    """The pixels still moving; a row each, so that their sums run along memory."""

    flux: Tensor  # (p, n)
    variance: Tensor  # (p, n), infinite where there is no information
    frozen: Tensor | None  # (p, n_term), terms that are censored
    square: Tensor  # (p,), scatter²
    theta: Tensor  # (p, n_term)
    residual: Tensor  # (p, n)
    factor: Tensor  # (p, n_term, n_term), Cholesky root of the normal matrix of some step
    spread: Tensor  # (p,), standard error of scatter² then; 0 before the first
    gain: Tensor  # (p,), of ln L by the last step

    def take(self, which: Tensor) -> "_Pixels":
        """Return some of the pixels."""
        taken: dict[str, Any] = {}
        for item in fields(self):
            part = getattr(self, item.name)
            taken[item.name] = None if part is None else part[which]
        return _Pixels(**taken)

    def score(
        self, steps: int, memory: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Raise the likelihood of the scatter by so many steps.

        Returns
        -------
        change, error : (p,) tensors
            Of scatter² by the last step, and its standard error.
        weight, pull : (p, n) tensors
            Weights before that step, and weighted residuals, in `memory`.
        """
        weight, pull = (part[: len(self.flux)] for part in memory)
        change, error = score(
            self.variance.numpy(),
            self.residual.numpy(),
            self.square.numpy(),
            steps,
            (weight.numpy(), pull.numpy()),
        )
        return torch.from_numpy(change), torch.from_numpy(error), (weight, pull)


def fit_pixels(
    x: Tensor,
    flux: Tensor,
    ivar: Tensor,
    *,
    order: int = 2,
    penalty: Penalty | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 50,
) -> PixelFit:
    """Fit coefficients and scatter of a block of pixels.

    Parameters
    ----------
    x : (n, n_label) tensor
        Scaled labels.
    flux, ivar : (n, n_pixel) tensor
        Normalized flux and its inverse variance; 0 is no information, infinity no noise.
    order : int
        Highest degree of the polynomial.
    penalty : Penalty, optional
        L1 weight and censored labels.
    tolerance : float
        Largest last step of scatter², in its own standard errors ``sqrt(2 / sum w²)``.
    max_iterations : int
        Steps of the coefficients.

    Returns
    -------
    PixelFit
        A pixel with fewer spectra than coefficients is the continuum, 1, with scatter 1.

    Raises
    ------
    ValueError
        If shapes do not fit, labels or flux with weight are not finite, or L1 is negative.

    Examples
    --------
    >>> x = torch.linspace(-0.5, 0.5, 50, dtype=torch.float64)[:, None]
    >>> flux = 0.9 - 0.2 * x + 0.1 * x**2
    >>> fit = fit_pixels(x, flux, torch.full_like(flux, 1e6))
    >>> fit.coefficients.round(decimals=3).tolist()
    [[0.9, -0.2, 0.1]]
    """
    penalty = penalty or Penalty()
    _check(x, flux, ivar, penalty)
    x = x.double()
    factors = torch.from_numpy(monomials(x.shape[1], order))
    terms = design(x, factors)
    normal = _Normal.of(x, terms, order)
    censored = None
    if penalty.censored is not None:  # terms that a pixel's labels leave it without
        padded = torch.nn.functional.pad(penalty.censored, (0, 1), value=False)
        censored = padded[:, factors].any(dim=2)
    n_used = _spectra_used(flux, ivar)
    known = n_used >= terms.shape[1]
    result = PixelFit(
        terms.new_zeros(flux.shape[1], terms.shape[1]),
        terms.new_full((flux.shape[1],), UNLEARNED),
        terms.new_full((flux.shape[1],), torch.nan),
        n_used,
    )
    result.coefficients[:, 0] = 1.0
    rows = torch.nonzero(known)[:, 0]
    for at in torch.split(rows, max(CACHED // len(x), 8)):
        frozen = None if censored is None else censored[at]
        low, high = int(at[0]), int(at[-1]) + 1
        part = slice(low, high) if high - low == len(at) else at  # a slice copies nothing
        pixels = _pixels(flux[:, part], ivar[:, part], frozen, normal, begin_flat=penalty.l1 > 0)
        _climb(pixels, normal, penalty.l1, (tolerance, max_iterations), (at, result))
    return result


def _climb(
    pixels: _Pixels,
    normal: "_Normal",
    l1: float,
    limits: tuple[float, int],
    place: tuple[Tensor, PixelFit],
) -> None:
    """Bring some pixels to their greatest likelihood, and put them at their place in a result."""
    (tolerance, max_iterations), (at, result) = limits, place
    memory = (torch.empty_like(pixels.flux, dtype=normal.dtype), torch.empty_like(pixels.flux))
    moving = torch.ones_like(at, dtype=torch.bool)
    for step in range(max_iterations):
        if not bool(moving.any()):
            break
        if int(moving.sum()) < COMPACT * len(moving):
            at, pixels, moving = at[moving], pixels.take(moving), moving[moving]
        change, error, weighed = pixels.score(STEPS if step else FIRST_STEPS, memory)
        gain = _move(pixels, weighed, error, normal, l1)
        done = (change.abs() <= tolerance * error) & (gain <= LAST_GAIN * tolerance)
        if step == max_iterations - 1:
            done[:] = True
        if bool((ended := done & moving).any()):
            rows = at[ended]
            result.coefficients[rows] = pixels.theta[ended]
            result.scatter[rows] = pixels.square[ended].sqrt()
            result.log_likelihood[rows] = _log_likelihood(pixels, ended, l1)
            moving &= ~ended


def _check(x: Tensor, flux: Tensor, ivar: Tensor, penalty: Penalty) -> None:
    if x.ndim != 2 or flux.shape != ivar.shape or flux.shape[0] != x.shape[0]:
        raise ValueError(
            f"labels {tuple(x.shape)}, flux {tuple(flux.shape)} and ivar {tuple(ivar.shape)} do "
            "not fit: wanted (n, n_label) and twice (n, n_pixel)"
        )
    if not bool(torch.isfinite(x).all()):
        row = int(torch.nonzero(~torch.isfinite(x).all(1))[0, 0])
        raise ValueError(f"labels of spectrum {row} are not finite: leave it out or fill them in")
    if penalty.l1 < 0:
        raise ValueError(f"the weight of L1 must not be negative, got {penalty.l1:g}")
    shape = (flux.shape[1], x.shape[1])
    if penalty.censored is not None and tuple(penalty.censored.shape) != shape:
        raise ValueError(f"censored has shape {tuple(penalty.censored.shape)}, wanted {shape}")


def _spectra_used(flux: Tensor, ivar: Tensor) -> Tensor:
    """Return how many spectra know each pixel; refuse flux that is not finite where one does."""
    used, lost = count(flux.numpy(), ivar.numpy())
    if lost.any():
        k = int(np.flatnonzero(lost)[0])
        wrong = (ivar[:, k] > 0) & ~torch.isfinite(flux[:, k])
        raise ValueError(f"flux of pixel {k} is not finite where ivar is {ivar[wrong, k][0]:g}")
    return torch.from_numpy(used)


def _pixels(
    flux: Tensor, ivar: Tensor, frozen: Tensor | None, normal: "_Normal", *, begin_flat: bool
) -> _Pixels:
    """Begin each pixel of (n, p) with unweighted least squares and no scatter."""
    shape = (flux.shape[1], flux.shape[0])
    filled, variance = flux.new_empty(2, *shape, dtype=torch.float64)
    rows = flux.T.contiguous().numpy(), ivar.T.contiguous().numpy()
    tidy(rows[0], rows[1], LEAST_VARIANCE, (filled.numpy(), variance.numpy()))
    theta = normal.unweighted(filled)
    if begin_flat:  # what is kept at zero must begin there
        theta = torch.zeros_like(theta)
    elif frozen is not None:
        theta[frozen.any(dim=1)] = 0.0
    residual = torch.addmm(filled, theta, normal.terms.T, alpha=-1)
    zero = filled.new_zeros(3, len(filled))
    root = filled.new_zeros(len(filled), theta.shape[1], theta.shape[1])
    gain = zero[2].fill_(torch.inf)
    return _Pixels(filled, variance, frozen, zero[0], theta, residual, root, zero[1], gain)


@dataclass(frozen=True)
class _Normal:
    """Makes the normal equations of many pixels."""

    terms: Tensor  # (n, n_term)
    inverse: Tensor  # (n_term, n_term), of the matrix that all pixels have without weights
    wide: Tensor  # the terms, zeros after them: products are fast by multiples of eight
    products: Tensor  # (n, n_product), float32 if that is enough; zeros after them, too
    place: Tensor  # (n_term²,), of which product each entry of a normal matrix is the sum

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the normal matrices."""
        return self.products.dtype

    @classmethod
    def of(cls, x: Tensor, terms: Tensor, order: int) -> "_Normal":
        """Prepare labels `x` (n, n_label) with their `terms`."""
        place = pair_products(x.shape[1], order)
        first, second = np.divmod(np.unique(place, return_index=True)[1], len(place))
        columns = terms.T.contiguous()
        products = (columns[torch.from_numpy(first)] * columns[torch.from_numpy(second)]).T
        gram = terms.T @ terms
        scale = gram.diagonal().sqrt().clamp(min=1e-300)
        size = torch.linalg.eigvalsh(gram / scale / scale[:, None])
        if float(size[0]) * STEERING > float(size[-1]):
            products = products.float()
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        wide = _widened(terms), _widened(products)
        return cls(terms, torch.linalg.inv(gram), *wide, torch.from_numpy(place).flatten())

    def unweighted(self, flux: Tensor) -> Tensor:
        """Return least squares (p, n_term) of pixels (p, n) as if all spectra were alike."""
        return self.pull(flux) @ self.inverse

    def pull(self, residual: Tensor) -> Tensor:
        """Return sums (p, n_term) of residuals (p, n) times terms."""
        return (residual @ self.wide)[:, : self.terms.shape[1]]

    def matrices(self, weight: Tensor, frozen: Tensor | None) -> Tensor:
        """Return normal matrices (p, n_term, n_term), in float64."""
        sums = weight.to(self.dtype) @ self.products
        n_term = self.terms.shape[1]
        matrix = sums.index_select(1, self.place).double().view(-1, n_term, n_term)
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        if frozen is not None:
            matrix.masked_fill_(frozen[:, :, None] | frozen[:, None, :], 0.0)
            diagonal += frozen
        diagonal += RIDGE * diagonal.mean(1, keepdim=True)
        return matrix


def _widened(matrix: Tensor) -> Tensor:
    """Return a matrix with zeros after its columns, up to a multiple of `ALIGNED`."""
    return torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % ALIGNED)).contiguous()


def _move(
    pixels: _Pixels, weighed: tuple[Tensor, Tensor], error: Tensor, normal: _Normal, l1: float
) -> Tensor:
    """Take a step of the coefficients, and return by how much it raises ln L, (p,)."""
    weight, residual = weighed
    pull = normal.pull(residual)
    if pixels.frozen is not None:
        pull.masked_fill_(pixels.frozen, 0.0)
    if l1 > 0:
        matrix = normal.matrices(weight, pixels.frozen)
        right = (matrix @ pixels.theta[:, :, None])[:, :, 0] + pull
        step = shrink(pixels.theta, matrix, right, l1) - pixels.theta
        gain = torch.einsum("pi,pij,pj->p", step, matrix, step)
    else:
        stale = torch.nonzero((error - pixels.spread).abs() > STALE * pixels.spread)[:, 0]
        _refresh(pixels, weight, error, normal, stale)
        step = torch.cholesky_solve(pull[:, :, None], pixels.factor)[:, :, 0]
        gain = 0.5 * torch.linalg.vecdot(pull, step)
        pixels.spread[gain > STALE * pixels.gain] = 0.0  # makes it stale
        pixels.gain = gain
    pixels.theta = pixels.theta + step
    # Where there is no information it may be anything: its weight is 0.
    torch.addmm(pixels.flux, pixels.theta, normal.terms.T, alpha=-1, out=pixels.residual)
    return gain


def _refresh(pixels: _Pixels, weight: Tensor, error: Tensor, normal: _Normal, rows: Tensor) -> None:
    """Make the normal matrices of some pixels anew."""
    if len(rows):
        whole = len(rows) == len(weight)
        frozen = None if pixels.frozen is None else pixels.frozen[rows]
        pixels.factor[rows] = _root(normal, weight if whole else weight[rows], frozen)
        pixels.spread[rows] = error[rows]


def _root(normal: _Normal, weight: Tensor, frozen: Tensor | None) -> Tensor:
    """Return Cholesky roots of the normal matrices."""
    factor, failed = torch.linalg.cholesky_ex(normal.matrices(weight, frozen))
    if bool(failed.any()):  # float32 steered astray: nearly degenerate labels where they count
        exact = replace(normal, products=normal.products.double())
        factor = torch.linalg.cholesky(exact.matrices(weight, frozen))
    root: Tensor = factor
    return root


def _log_likelihood(pixels: _Pixels, which: Tensor, l1: float) -> Tensor:
    """Return ln L of some pixels, less the penalty."""
    rows = torch.nonzero(which)[:, 0].numpy()
    known = pixels.variance.numpy(), pixels.residual.numpy(), pixels.square.numpy()
    found = torch.from_numpy(likelihood(known[0], known[1], known[2], rows))
    return found - l1 * pixels.theta[which, 1:].abs().sum(1)
