"""The fit of models that are linear in few features, The Cannon's above all: pixels are read once.

With flux = W v(x) + b and no shift, chi2(x) = r - 2 v.c + v.G v, where G = W^T w W, r and
c = W^T w (y - b) are sums over pixels made once per star; every step after that is in as many
dimensions as there are features. Nothing is approximated.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.constraints import box
from scalespec.optimize.domain import Domain
from scalespec.optimize.levenberg import Search, SearchOptions
from scalespec.optimize.matmul import linear
from scalespec.optimize.normalization import as_rows
from scalespec.optimize.objective import ArrayLike, Emulator, Point, output_layer
from scalespec.optimize.pixels import Sums, weighed
from scalespec.optimize.result import FitResult, FitStatus
from scalespec.optimize.trust import PRIOR_DOMINATED_BOX, covariance, edges

_MOST_STARS, _SUM_FLOATS = 1024, 1 << 24  # summed together, and their sums
_BLOCK_FLOATS = 1 << 19  # of the products of features' spectra in a block of pixels: in the cache
_LEAST_BLOCK, _MOST_BLOCK = 128, 2048  # pixels
_KEPT_FLOATS = 1 << 23  # of all products, that are kept for the next stars
_ALIGNED = 16  # rows of products: other numbers take longer


@dataclass(frozen=True)
class Summing:
    """What sums over pixels are made with, the same for all stars.

    Attributes
    ----------
    model : Emulator
        Ends in a linear layer.
    center : (P,)
        Its flux in the middle of the box, from which features and residuals are counted.
    middle : (1, T)
        Its features there, but for those that no label changes.
    across : (T', P)
        The spectrum of each of T features, and zeros that make their number a multiple of 16.
    place : (T, T) int64
        Of each two among their products.
    """

    model: Emulator
    center: Tensor
    middle: Tensor
    across: Tensor
    place: Tensor

    @classmethod
    def of(cls, model: Emulator, layer: torch.nn.Linear) -> Self:
        """Prepare sums of a model's features."""
        theta = layer.weight.detach()
        middle = model.features(theta.new_zeros((1, len(model.spec.labels))))  # type: ignore[attr-defined]
        center = (middle @ theta.T)[0] + (layer.bias if layer.bias is not None else 0.0)
        constant = getattr(model, "n_constant", 0)
        theta, middle = theta[:, constant:], middle[:, constant:]
        size = theta.shape[1]
        i, j = torch.triu_indices(size, size, device=theta.device)
        place = i.new_empty((size, size))
        place[i, j] = place[j, i] = torch.arange(len(i), device=i.device)
        across = torch.nn.functional.pad(theta.T, (0, 0, 0, -size % _ALIGNED)).contiguous()
        return cls(model, center, middle, across, place)

    @property
    def n_pair(self) -> int:
        """Number of products: of every two features, and zeros that make it a multiple of 16."""
        size = len(self.place)
        return -(-(size * (size + 1) // 2) // _ALIGNED) * _ALIGNED

    @property
    def width(self) -> int:
        """Pixels of a block."""
        return min(max(_BLOCK_FLOATS // self.n_pair, _LEAST_BLOCK), _MOST_BLOCK)

    @property
    def stars(self) -> int:
        """Stars whose sums are made, and that are searched, together."""
        return max(1, min(_MOST_STARS, _SUM_FLOATS // self.n_pair))

    def blocks(self) -> Iterable[tuple[int, Tensor, Tensor]]:
        """Give first pixel, features (T', B) and products of every two (n_pair, B), by blocks."""
        few = self.n_pair * self.across.shape[1] <= _KEPT_FLOATS
        return self._kept if few else self._made()

    @cached_property
    def _kept(self) -> list[tuple[int, Tensor, Tensor]]:
        return list(self._made())

    def _made(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        size = len(self.place)
        for begin in range(0, self.across.shape[1], self.width):
            part = self.across[:, begin : begin + self.width].contiguous()
            products, first = part.new_empty((self.n_pair, part.shape[1])), 0
            for i in range(size):
                torch.mul(part[i], part[i:size], out=products[first : first + size - i])
                first += size - i
            products[first:] = 0.0
            yield begin, part, products


@dataclass(frozen=True)
class FeatureObjective:
    """Chi2 of ``n`` stars as a quadratic form in the model's T features.

    Attributes
    ----------
    model : Emulator
        Ends in a linear layer.
    middle : (1, T)
        Features of the middle of the box that labels change.
    gram, cross, rest : (n, T, T), (n, T), (n,) float64
        G, c and r.
    """

    model: Emulator
    middle: Tensor
    gram: Tensor
    cross: Tensor
    rest: Tensor

    @classmethod
    def of(cls, summing: Summing, flux: Tensor, ivar: Tensor, snr: float) -> tuple[Self, Tensor]:
        """Sum over the pixels of `flux` and `ivar` (n, P), which are read once, block by block.

        Returns
        -------
        FeatureObjective
        counts : (n, 3) int64
            As of `Sums`, by signal-to-noise `snr`.
        """
        size, n, sums = len(summing.place), len(flux), Sums.none(flux)
        pairs = flux.new_zeros((n, summing.n_pair))
        cross = flux.new_zeros((n, len(summing.across)))
        data, scatter = (flux, ivar), summing.model.scatter
        room = flux.new_empty((2, n * summing.width))
        for begin, across, products in summing.blocks():
            pixels = slice(begin, begin + across.shape[1])
            one = summing.center[pixels], scatter[pixels]
            # residuals are small numbers: float32 sums keep chi2 to a hundredth
            weight, pulled = weighed(data, one, begin, snr, (sums, room))
            cross += linear(pulled, across)
            pairs += linear(weight, products)
        # Features are counted from the middle: v - v0 is small too.
        gram = torch.index_select(pairs, 1, summing.place.flatten()).double().view(n, size, size)
        cross = cross[:, :size].double()
        return cls(summing.model, summing.middle, gram, cross, sums.chi2), sums.counts

    def take(self, rows: Tensor) -> Self:
        """Keep the chosen stars; of all, in order, nothing is copied."""
        n = len(self.gram)
        if len(rows) == n and torch.equal(rows, torch.arange(n, device=rows.device)):
            return self
        gram, cross, rest = (
            one.index_select(0, rows) for one in (self.gram, self.cross, self.rest)
        )
        return replace(self, gram=gram, cross=cross, rest=rest)

    def labels(self, parameters: Tensor) -> Tensor:
        """Return the scaled labels, which are all the parameters."""
        return parameters

    def evaluate(self, parameters: Tensor) -> Point:
        """(n, K) scaled labels -> chi2 and its exact gradient."""
        value, moves = self._features(parameters)
        pulled = torch.bmm(self.gram, value[:, :, None]).squeeze(-1)
        chi2 = self.rest + (value * (pulled - 2.0 * self.cross)).sum(dim=1)
        gradient = torch.bmm(moves, (pulled - self.cross)[:, :, None]).squeeze(-1)
        return Point(chi2, gradient)

    def hessian(self, parameters: Tensor) -> Tensor:
        """(n, K) scaled labels -> (n, K, K) J^T W J."""
        _, moves = self._features(parameters)
        return torch.bmm(torch.bmm(moves, self.gram), moves.transpose(1, 2))

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features less those of the middle (n, T), and their derivatives (n, K, T)."""
        value, moves = self.model.features_and_jacobian(x)  # type: ignore[attr-defined]
        constant = value.shape[1] - self.middle.shape[1]
        return (value[:, constant:] - self.middle).double(), moves[:, :, constant:].double()


def fit_at_rest(
    model: Emulator,
    flux: ArrayLike,
    ivar: ArrayLike,
    *,
    start: ArrayLike | None = None,
    max_steps: int = 50,
    tolerance: float = 0.001,
    snr_min: float = 5.0,
    reduced_chi2_max: float = 5.0,
    pixels_min: float = 0.25,
) -> FitResult:
    """Find the labels of least chi2 for spectra at rest, with a model linear in its features.

    Parameters
    ----------
    model : Emulator
        Ends in a linear layer, as The Cannon; up to some hundred features.
    flux, ivar : (n, P) float
        Spectra at rest on the model's wavelengths; ``ivar`` 0 means no information.
    start : (n, C, K) or (n, K) float, optional
        First labels, physical, C sets per star; the best end is kept. The middle of the box is
        always among them.
    max_steps, tolerance, snr_min, reduced_chi2_max, pixels_min
        As of `FitOptions`.

    Returns
    -------
    FitResult
        Velocity 0 with error 0, for it is not fitted.

    Raises
    ------
    ValueError
        If the model does not end in a linear layer, or shapes do not fit it.

    References
    ----------
    Ness et al. 2015, ApJ 808, 16 (the model, and chi2 with its scatter).

    Examples
    --------
    The depth of a line is known to the noise over the root of the line's squares, 3.545 in sum:

    >>> from scalespec.models.base import EmulatorSpec
    >>> from scalespec.models.cannon import Cannon
    >>> spec = EmulatorSpec("toy", ("depth",), [0.0], [1.0], 5000 * 1.0001 ** np.arange(60))
    >>> line, model = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2), Cannon(spec)
    >>> weights = torch.stack([1 - line / 2, -line, 0 * line], dim=1)  # of 1, x and x²
    >>> _ = model.output.weight.data.copy_(weights)
    >>> flux = 1 - torch.tensor([[0.3], [0.9]]) * line
    >>> fit = fit_at_rest(model, flux, torch.full_like(flux, 1e4))
    >>> fit.labels.round(3), fit.label_err.round(4), round(0.01 / 3.545**0.5, 4)
    (array([[0.3],
           [0.9]], dtype=float32), array([[0.0053],
           [0.0053]], dtype=float32), 0.0053)
    """
    layer = output_layer(model)
    n, n_label, n_pixel = len(flux), len(model.spec.labels), len(model.spec.wavelength)
    if layer is None:
        raise ValueError("a fit in features wants a model that ends in a linear layer")
    for name, values in (("flux", flux), ("ivar", ivar)):
        if tuple(values.shape) != (n, n_pixel):
            raise ValueError(f"{name} should be {(n, n_pixel)}, got {tuple(values.shape)}")
    starts = _starts(model, start, n)
    parts = [FitResult.empty(0, n_label)]
    with torch.no_grad():
        summing = Summing.of(model, layer)
        limits = SearchOptions(max_steps, tolerance, True)
        search = Search(None, None, limits, window=summing.stars)
        for begin in range(0, n, summing.stars):
            rows = slice(begin, begin + summing.stars)
            data = (_only_read(values[rows], model.scatter) for values in (flux, ivar))
            parts.append(_fit_batch(summing, tuple(data), starts[rows], (search, snr_min)))
    result = FitResult.concatenate(parts)
    result.flag_doubts(reduced_chi2_max=reduced_chi2_max, pixels_min=pixels_min, n_pixel=n_pixel)
    result.flag_unlike(Domain.of_model(model), distance_max=np.inf)
    return result


def _starts(model: Emulator, start: ArrayLike | None, n: int) -> NDArray[np.float64]:
    """Return (n, C, K) scaled first labels, the middle of the box last."""
    low, width = box(model)
    middle = np.zeros((n, 1, len(low)))
    if start is None:
        return middle
    given = np.asarray(start.cpu() if isinstance(start, Tensor) else start, np.float64)
    given = given[:, np.newaxis] if given.ndim == 2 else given
    if given.shape[::2] != (n, len(low)):
        raise ValueError(f"start should be ({n}, C, {len(low)}), got {given.shape}")
    scaled = np.nan_to_num((given - low) / width - 0.5).clip(-0.5, 0.5)
    return np.concatenate([scaled, middle], axis=1)


def _only_read(values: ArrayLike, like: Tensor) -> Tensor:
    """Return rows on the device and of the dtype of `like`: no copy where none is needed."""
    if isinstance(values, np.ndarray) and values.flags.c_contiguous and values.flags.writeable:
        return torch.from_numpy(values).to(like)
    return as_rows(values, like)


def _fit_batch(
    summing: Summing,
    data: tuple[Tensor, ...],
    starts: NDArray[np.float64],
    how: tuple[Search, float],
) -> FitResult:
    """Fit one batch and write its rows."""
    (flux, ivar), (search, snr_min) = data, how
    low, width = box(summing.model)
    objective, counts = FeatureObjective.of(summing, flux, ivar, snr_min)
    used, bad, faint = counts.T.cpu().numpy()
    result = FitResult.empty(len(flux), len(low))
    result.n_used[:] = used
    result.raise_flag(FitStatus.NONFINITE, bad > 0)
    result.raise_flag(FitStatus.NO_PIXELS, used <= len(low))
    result.raise_flag(FitStatus.LOW_SNR, result.fitted & (2 * faint > used - 1))
    rows = np.flatnonzero(result.fitted)
    objective = objective.take(torch.tensor(rows, device=flux.device))
    edge = torch.full((len(rows), len(low)), 0.5).to(flux)
    best = None
    for c in range(starts.shape[1]):
        state = search.run(objective, as_rows(starts[rows, c], flux), -edge, edge)  # type: ignore[arg-type]
        if best is None:
            best = state
            continue
        wins = torch.nonzero(state.chi2 < best.chi2).squeeze(1)
        best.put(wins, state.take(wins))
    if best is None:
        return result
    found = edges(best)
    scaled, loose = (one.cpu().numpy() for one in covariance(best, found))
    bits = np.uint64(1) << np.arange(len(low), dtype=np.uint64)
    bound = found.bound.cpu().numpy()
    result.labels[rows] = low + (best.parameters.double().cpu().numpy() + 0.5) * width
    result.label_cov[rows] = scaled * np.multiply.outer(width, width)
    result.rv[rows], result.rv_err[rows] = 0.0, 0.0
    result.distance[rows] = 0.0
    result.chi2[rows] = best.chi2.cpu().numpy()
    result.dof[rows] = result.n_used[rows] - len(low)
    result.n_steps[rows] = best.n_steps.cpu().numpy()
    result.at_bound[rows] = (bound * bits).sum(axis=1, dtype=np.uint64)
    dominated = np.sqrt(np.diagonal(loose, axis1=1, axis2=2)) > PRIOR_DOMINATED_BOX
    result.prior_dominated[rows] = (dominated * bits).sum(axis=1, dtype=np.uint64)
    result.status[rows] |= best.status.cpu().numpy().astype(np.uint32)
    result.raise_flag(FitStatus.AT_BOUND, rows[bound.any(axis=1)])
    result.raise_flag(FitStatus.PRIOR_DOMINATED, rows[dominated.any(axis=1)])
    return result
