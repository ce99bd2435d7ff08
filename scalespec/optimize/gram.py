"""The Hessian of models that end in a linear layer, without a derivative of any pixel.

With flux = W a(x) + b, its derivatives by labels are W M, M = da/dx, and that by velocity is D W a
+ D b, D the derivative of a shift. Both lie in the span of few spectra E, and with weights that
vary slowly J^T W J = S^T G S, where S is small and G = E^T diag(w) E is a sum over blocks of
wavelength of each block's mean weight times its own Gram matrix, computed once per model. A model's
own scatter varies fast, greatest where lines are: with it, each block has a second Gram matrix, by
the weights that the scatter leaves. For errors, pixels whose weight their block does not tell, as
lost ones, are counted one by one. Only the path of a search depends on all this, and the covariance
by how weights differ from it; chi2 and gradient are exact elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from scalespec.optimize.apart import SLAB, Apart
from scalespec.optimize.blocks import Blocks
from scalespec.optimize.matmul import linear
from scalespec.optimize.normalization import Renormalization
from scalespec.optimize.objective import Objective, output_layer
from scalespec.optimize.shift import Shift

BLOCKS = 32
"""Blocks of wavelength that a search and its errors are made of."""
_CACHED_STARS = 64  # whose Gram matrices are used while they are in the cache
_ALIGNED = (
    4  # matrices of so many rows begin on 16 bytes, and are multiplied alike wherever they lie
)
_LEVELS = 0.1, 10.0  # of the continuum over a star's: beyond, the model says nothing
_SAMPLES = 64  # label sets all over the box that say in which directions the features move
PROFILE_SNR, OTHER_SNR = 350.0, (50.0, 100.0, 200.0, 600.0)
"""Of pixels: whose noise a model's scatter is seen beside, and where that has to do as well."""
MOST_MISWEIGHED = 0.15
"""By so much of itself a label's information may be wrong, by what a model's scatter does to it,
before derivatives are formed for errors. By means over blocks alone The Cannon's errors came out at
0.6, The Payne's at 0.9; searches by them take a tenth more steps."""
PATH_LOSS, ERROR_LOSS = 2e-3, 1e-4
"""Parts of the squared derivatives that a search, and that errors may do without."""


@dataclass(frozen=True)
class Span:
    """Spectra that span derivatives: ``columns @ c`` is about ``basis @ (reduction @ c)``.

    Attributes
    ----------
    basis : (P, r)
        Orthonormal, the ones that matter most first.
    reduction : (r, C)
    lost : (r,)
        Part of the squared derivatives that remains when it and all after it are left out.
    """

    basis: Tensor
    reduction: Tensor
    lost: Tensor

    @classmethod
    def of(cls, columns: Tensor, samples: Tensor) -> Self:
        """Find what `columns` (P, C) span with the coefficients `samples` (s, C).

        Principal components of the samples' spectra, each of unit length: weak ones count as
        strong ones do.
        """
        samples, gram = samples.double(), (columns.T @ columns).double()
        length = ((samples @ gram) * samples).sum(dim=1).clamp(min=0).sqrt()
        samples = samples[length > 0] / length[length > 0, None]
        values, vectors = torch.linalg.eigh(gram)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        tiny = values.max() * 1e-12
        inverse_root = (vectors * values.clamp(min=tiny).rsqrt()) @ vectors.T
        moved = samples @ root
        energy, components = torch.linalg.eigh(moved.T @ moved)
        energy = energy.clamp(min=0)
        lost = energy.cumsum(0) / energy.sum()
        components = components.flip(1)
        basis = (inverse_root @ components).to(columns)
        return cls(columns @ basis, (components.T @ root).to(columns), lost.flip(0))

    def kept(self, loss: float) -> Self:
        """Leave out what carries no more than `loss` of the squared derivatives."""
        n = int((self.lost > loss).sum())
        return replace(self, basis=self.basis[:, :n], reduction=self.reduction[:n].contiguous())


@dataclass(frozen=True)
class BlockGram:
    """Gram matrices of one model's derivatives by blocks of wavelength.

    Attributes
    ----------
    by_label : (r, H)
        Takes derivatives of the features to the r spectra that span those of the flux.
    by_velocity : (q, H), offset : (q,)
        Take the features to the q spectra that span its derivative by velocity.
    grams : (r^2, B) or (r^2, 2 B)
        Gram matrix of the first spectra in each of B blocks for weight 1; then for the weights of
        the blocks' profile.
    beside : ((r + q) q, B) or ((r + q) q, 2 B)
        Products of all spectra with the second ones.
    basis : (P, r'), (P, q')
        The spectra themselves, as many as a search wants.
    blocks : Blocks
    level : (P,), or None
        Continuum of the spectrum in the middle of the box, where the data's normalization is done
        to the model: the derivatives above are divided by it, a star's by its own.
    """

    by_label: Tensor
    by_velocity: Tensor
    offset: Tensor
    grams: Tensor
    beside: Tensor
    basis: tuple[Tensor, Tensor]
    blocks: Blocks
    level: Tensor | None = None

    @classmethod
    def of(cls, objective: Objective) -> tuple[Self, Self | None] | None:
        """Return those for a search, and those for errors; None if derivatives must be formed.

        Derivatives must be formed where the model does not end in a linear layer, and where a
        continuum is marginalized or line widths are free, which change them beyond a weight; for
        errors alone where blocks do not know what the model's scatter does to weights.
        """
        layer = output_layer(objective.model)
        smoothed = isinstance(objective.continuum, Renormalization)
        if layer is None or objective.broadening or not (objective.continuum is None or smoothed):
            return None
        columns, slopes, level = _columns(objective, layer)
        generator = torch.Generator().manual_seed(0)
        x = torch.rand((_SAMPLES, objective.n_label), generator=generator) - 0.5
        features, moves = _features_and_moves(objective, x.to(columns))
        spans = (
            Span.of(columns, moves.flatten(0, 1)),
            Span.of(slopes, torch.nn.functional.pad(features, (0, 1), value=1.0)),
        )
        scatter = objective.model.scatter.double()
        profile = _weights(scatter, PROFILE_SNR) / PROFILE_SNR**2 if scatter.any() else None
        power = columns.new_zeros((moves.shape[1], len(columns)))
        for derivatives in moves.to(columns):  # (K, H) each
            power += linear(derivatives, columns) ** 2 / len(moves)
        cuts = np.linspace(0, len(columns), min(BLOCKS, len(columns)) + 1).astype(int)
        blocks = Blocks(tuple(cuts.tolist()), power, profile)
        usual = torch.stack([_weights(scatter, snr) for snr in OTHER_SNR]).to(columns)
        told = blocks.told(blocks.coefficients(usual))
        path = replace(cls.made(spans, PATH_LOSS, blocks), level=level)
        if blocks.misweighs(usual - told, told, MOST_MISWEIGHED).any():
            return path, None
        return path, cls.made(spans, ERROR_LOSS, blocks)

    @classmethod
    def made(cls, spans: tuple[Span, Span], loss: float, blocks: Blocks) -> Self:
        """Make them of the spectra that keep all but `loss` of the squared derivatives."""
        by_label, by_velocity = (span.kept(loss) for span in spans)
        basis = torch.cat([by_label.basis, by_velocity.basis], dim=1)
        profile = blocks.profile
        weighed = [basis] if profile is None else [basis, basis * profile[:, None].to(basis)]
        r = by_label.basis.shape[1]
        whole = [basis[a:b].T @ w[a:b] for w in weighed for a, b in pairwise(blocks.edges)]
        grams = torch.stack([g[:r, :r].flatten() for g in whole], dim=1).contiguous()
        beside = torch.stack([g[:, r:].flatten() for g in whole], dim=1).contiguous()
        rv, offset = by_velocity.reduction[:, :-1].contiguous(), by_velocity.reduction[:, -1]
        spectra = tuple(span.kept(PATH_LOSS).basis.contiguous() for span in (by_label, by_velocity))
        matrices = rv, offset.contiguous(), grams, beside, (spectra[0], spectra[1])
        return cls(by_label.reduction, *matrices, blocks)

    def means(self, objective: Objective, parameters: Tensor) -> Tensor:
        """(n, Q) parameters -> (n, B) mean weights of blocks, as a search wants them.

        A normalized spectrum changes as its flux does over its continuum.
        """
        weight = objective.data()[1]
        if self.level is not None and isinstance(objective.continuum, Renormalization):
            own = objective.continuum.continuum(objective.shifted(parameters))
            weight = weight * (self.level / own).clamp(*_LEVELS).square()
        return self.blocks.coefficients(weight)

    def hessian(
        self,
        objective: Objective,
        parameters: Tensor,
        c: Tensor,
        apart: Apart | None = None,
        moves: Tensor | None = None,
    ) -> Tensor:
        """(n, Q) parameters, (n, B) mean weights and what is apart -> (n, Q, Q) float64.

        `moves` (n, K, H) take the place of the features' derivatives by labels.
        """
        x, n_label = objective.labels(parameters), objective.n_label
        r, q = len(self.by_label), len(self.by_velocity)
        shift, keep = objective.shift(parameters), [*range(n_label), -1]  # but what fills up
        hessian = x.new_empty((len(x), n_label + 1, n_label + 1)).double()
        for begin in range(0, len(x), _CACHED_STARS):
            rows = slice(begin, begin + _CACHED_STARS)
            given = None if moves is None else moves[rows]
            by_label, by_velocity = self._small(objective, x[rows], given)
            n = len(by_label)  # of no spectra at all, a number of rows cannot be told
            gram = linear(c[rows], self.grams).view(n, r, r)
            square = torch.bmm(torch.bmm(by_label, gram), by_label.mT)
            beside = linear(c[rows], self.beside).view(n, r + q, q)
            pulled = torch.bmm(beside, by_velocity[:, :, None])
            across = torch.bmm(by_label, pulled[:, :r]).squeeze(-1)
            part = hessian[rows]
            part[:, :n_label, :n_label] = square[:, :n_label, :n_label]
            part[:, :n_label, n_label] = part[:, n_label, :n_label] = across[:, :n_label].double()
            part[:, n_label, n_label] = (by_velocity * pulled[:, r:, 0]).sum(dim=1)
            if apart is not None:
                stencil = shift.first[rows], shift.taps[rows]
                more = self._of_pixels(stencil, apart.slabs(rows), by_label, by_velocity)
                part += more[:, keep][:, :, keep]
        return objective.completed(hessian)

    def _of_pixels(
        self,
        stencil: tuple[Tensor, Tensor],
        slabs: Iterator[tuple[Tensor, Tensor]],
        by_label: Tensor,
        by_velocity: Tensor,
    ) -> Tensor:
        """Return the part of the Hessian (n, K' + 1, K' + 1) that pixels apart add to blocks.

        `stencil` has the first pixel (n,) and the weights (n, T) of the stars' taps.
        """
        first, weights = stencil
        n, size = len(by_label), by_label.shape[1] + 1
        total = by_label.new_zeros((n, size, size)).double()
        reach = torch.arange(weights.shape[1], device=total.device)
        widths = [basis.shape[1] for basis in self.basis]
        label = by_label[:, :, : widths[0]].mT.contiguous()
        velocity = by_velocity[:, : widths[1], None].contiguous()
        for pixel, excess in slabs:
            index = pixel[:, :, None] + first[:, None, None] + reach
            index = index.clamp(0, self.blocks.edges[-1] - 1).flatten(0, 1)
            each = weights[:, None].expand(-1, SLAB, -1).reshape(index.shape)
            spectra = (
                torch.nn.functional.embedding_bag(index, basis, per_sample_weights=each, mode="sum")
                for basis in self.basis
            )
            of_label, of_velocity = (part.view(n, SLAB, -1) for part in spectra)
            columns = [torch.bmm(of_label, label), torch.bmm(of_velocity, velocity)]
            both = torch.cat(columns, dim=2)
            total += torch.bmm((both * excess[:, :, None]).mT, both).double()
        return total

    def _small(
        self, objective: Objective, x: Tensor, given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(n, K) scaled labels -> (n, K, r) and (n, q) derivatives in terms of the spectra.

        Rows of zeros follow the K, to a multiple of `_ALIGNED`.
        """
        features, moves = _features_and_moves(objective, x)
        moves = moves if given is None else given
        n_label = moves.shape[1]
        spare = -n_label % _ALIGNED
        by_label = linear(moves.flatten(0, 1), self.by_label)
        by_label = by_label.view(len(x), n_label, len(self.by_label))
        if spare:
            by_label = torch.nn.functional.pad(by_label, (0, 0, 0, spare))
        by_velocity = linear(features, self.by_velocity, self.offset)
        return by_label, by_velocity * objective.line_scale()[0]


def _weights(scatter: Tensor, snr: float) -> Tensor:
    """(P,) weights of a spectrum of some S/N per pixel, beside a model's scatter."""
    weight: Tensor = 1 / (snr**-2 + scatter.double() ** 2)
    return weight


def _features_and_moves(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    """(n, K) scaled labels -> (n, H) features and (n, K, H) their derivatives."""
    found: tuple[Tensor, Tensor] = objective.model.features_and_jacobian(x, linear)  # type: ignore[attr-defined]
    return found


def _columns(objective: Objective, layer: torch.nn.Linear) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (P, H) the flux by features, and (P, H + 1) its slope by features and 1.

    Both as the data's normalization leaves them around the spectrum in the middle of the box; and
    (P,) the continuum of that.
    """
    columns = layer.weight.detach()
    bias = columns.new_zeros(len(columns)) if layer.bias is None else layer.bias.detach()
    whole = torch.cat([columns, bias[:, None]], dim=1).T.contiguous()
    rest = Shift.by(whole.new_zeros(len(whole)), step=objective.step)
    slopes = rest.forward_slopes(whole)[:, 0].T.contiguous()
    level = None
    if isinstance(objective.continuum, Renormalization):
        middle = objective.rest(columns.new_zeros((1, objective.n_label)))
        known = Renormalization.of(objective.continuum.smoother, torch.ones_like(middle))
        both = torch.cat([columns, slopes], dim=1).T[None].contiguous()
        _, both = known.columns(middle, both, middle, middle)
        columns, slopes = both[0].T.contiguous().tensor_split([columns.shape[1]], dim=1)
        level = known.continuum(middle)[0]
    return columns.contiguous(), slopes.contiguous(), level
