"""Training The Cannon: exact maximum likelihood of coefficients and scatter, many pixels at once.

Per pixel, ``ln L = -1/2 sum_n [ w_n (f_n - theta . v_n)² - ln w_n ]``, ``w_n = 1/(1/ivar_n + s²)``.
For a given scatter the coefficients are weighted least squares; the scatter goes up the profile
likelihood by Fisher scoring, ``s² += (sum w² r² - sum w) / sum w²``, and is never searched on a
grid. All normal matrices of a block of pixels come from one matrix product: products of two
monomials are monomials, of which there are few.

Ness et al. 2015, ApJ 808, 16, eq. 10; Casey et al. 2016, arXiv 1603.03040 (L1, censoring).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scalespec.models.cannon import design, monomials, pair_products
from scalespec.models.scatter import UNLEARNED

RIDGE = 1e-10
"""Of the mean diagonal: keeps a normal matrix positive when a label does not vary."""
LEAST_VARIANCE = 1e-14
"""Of flux that is said to have no noise: float32 rounds 1 by 6e-8."""
MAX_SWEEPS = 200
"""Of coordinate descent; it stops when no coefficient moves by 1e-9."""


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

    def take(self, which: Tensor) -> "_Pixels":
        """Return some of the pixels."""
        frozen = None if self.frozen is None else self.frozen[which]
        return _Pixels(self.flux[which], self.variance[which], frozen, self.square[which])


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
        Steps of Fisher scoring.

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
    x, flux, ivar = x.double(), flux.double(), ivar.double()
    factors = torch.from_numpy(monomials(x.shape[1], order))
    terms = design(x, factors)
    products, place = pair_products(x.shape[1], order)
    normal = _Normal(terms, design(x, torch.from_numpy(products)), torch.from_numpy(place))
    n_used = (ivar > 0).sum(0)
    known = n_used >= terms.shape[1]
    result = PixelFit(
        terms.new_zeros(flux.shape[1], terms.shape[1]),
        flux.new_full((flux.shape[1],), UNLEARNED),
        flux.new_full((flux.shape[1],), torch.nan),
        n_used,
    )
    result.coefficients[:, 0] = 1.0
    moving = torch.nonzero(known)[:, 0]
    pixels = _pixels(flux, ivar, factors, penalty).take(moving)
    for step in range(max_iterations):
        theta, change, error = _scoring_step(pixels, normal, penalty.l1)
        done = change.abs() <= tolerance * error
        if step == max_iterations - 1:
            done[:] = True
        pixels.square += change
        if bool(done.any()):
            at, ended = moving[done], pixels.take(done)
            result.coefficients[at] = theta[done]
            result.scatter[at] = ended.square.sqrt()
            result.log_likelihood[at] = _log_likelihood(theta[done], ended, terms, penalty.l1)
            moving, pixels = moving[~done], pixels.take(~done)
        if not len(moving):
            break
    return result


def _check(x: Tensor, flux: Tensor, ivar: Tensor, penalty: Penalty) -> None:
    if x.ndim != 2 or flux.shape != ivar.shape or flux.shape[0] != x.shape[0]:
        raise ValueError(
            f"labels {tuple(x.shape)}, flux {tuple(flux.shape)} and ivar {tuple(ivar.shape)} do "
            "not fit: wanted (n, n_label) and twice (n, n_pixel)"
        )
    if not bool(torch.isfinite(x).all()):
        row = int(torch.nonzero(~torch.isfinite(x).all(1))[0, 0])
        raise ValueError(f"labels of spectrum {row} are not finite: leave it out or fill them in")
    if not bool(torch.isfinite(torch.where(ivar > 0, flux, 0.0)).all()):
        lost = (ivar > 0) & ~torch.isfinite(flux)
        pixel = int(torch.nonzero(lost.any(0))[0, 0])
        raise ValueError(f"flux of pixel {pixel} is not finite where ivar is {ivar[lost][0]:g}")
    if penalty.l1 < 0:
        raise ValueError(f"the weight of L1 must not be negative, got {penalty.l1:g}")
    shape = (flux.shape[1], x.shape[1])
    if penalty.censored is not None and tuple(penalty.censored.shape) != shape:
        raise ValueError(f"censored has shape {tuple(penalty.censored.shape)}, wanted {shape}")


def _pixels(flux: Tensor, ivar: Tensor, factors: Tensor, penalty: Penalty) -> _Pixels:
    flux, ivar = flux.T.contiguous(), ivar.T.contiguous()
    used = ivar > 0
    variance = torch.where(used, (1 / ivar).clamp_min(LEAST_VARIANCE), torch.inf)
    frozen = None
    if penalty.censored is not None:
        padded = torch.nn.functional.pad(penalty.censored, (0, 1), value=False)
        frozen = padded[:, factors].any(dim=2)
    return _Pixels(torch.where(used, flux, 0.0), variance, frozen, flux.new_zeros(len(flux)))


@dataclass(frozen=True)
class _Normal:
    """Makes the normal equations of many pixels."""

    terms: Tensor  # (n, n_term)
    products: Tensor  # (n, n_product)
    place: Tensor  # (n_term, n_term)

    def equations(
        self, weight: Tensor, flux: Tensor, frozen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return matrices (p, n_term, n_term) and right sides (p, n_term)."""
        matrix = (weight @ self.products)[:, self.place]
        right = (weight * flux) @ self.terms
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        if frozen is not None:
            matrix.masked_fill_(frozen[:, :, None] | frozen[:, None, :], 0.0)
            right.masked_fill_(frozen, 0.0)
            diagonal += frozen
        diagonal += RIDGE * diagonal.mean(1, keepdim=True)
        return matrix, right


def _scoring_step(pixels: _Pixels, normal: _Normal, l1: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return coefficients, the next change of scatter² and its standard error."""
    weight = (pixels.variance + pixels.square[:, None]).reciprocal_()
    matrix, right = normal.equations(weight, pixels.flux, pixels.frozen)
    factor = torch.linalg.cholesky(matrix)
    theta = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
    if l1 > 0:
        theta = _shrink(theta, matrix, right, l1)
    weighted = torch.addmm(pixels.flux, theta, normal.terms.T, alpha=-1).mul_(weight)
    information = torch.linalg.vecdot(weight, weight)
    change = (torch.linalg.vecdot(weighted, weighted) - weight.sum(1)) / information
    return theta, torch.maximum(change, -pixels.square), (2 / information).sqrt()


def _log_likelihood(theta: Tensor, pixels: _Pixels, terms: Tensor, l1: float) -> Tensor:
    """Return ln L of each pixel, less the penalty."""
    weight = 1 / (pixels.variance + pixels.square[:, None])
    chi2 = (weight * (pixels.flux - theta @ terms.T).square()).sum(1)
    normalization = torch.where(weight > 0, weight.log(), 0.0).sum(1)
    return -0.5 * (chi2 - normalization) - l1 * theta[:, 1:].abs().sum(1)


def _shrink(theta: Tensor, matrix: Tensor, right: Tensor, l1: float) -> Tensor:
    """Return the minimum of ``theta A theta / 2 - b theta + l1 |theta|`` by coordinate descent."""
    theta = theta.clone()
    for _ in range(MAX_SWEEPS):
        before = theta.clone()
        for j in range(theta.shape[1]):
            pull = right[:, j] - (matrix[:, j] * theta).sum(1) + matrix[:, j, j] * theta[:, j]
            if j > 0:
                pull = torch.sign(pull) * (pull.abs() - l1).clamp(min=0)
            theta[:, j] = pull / matrix[:, j, j]
        if bool((theta - before).abs().max() < 1e-9):
            break
    return theta
