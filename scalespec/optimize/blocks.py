"""What blocks of wavelength tell of a star's weights: their means, and what must be added."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from scalespec.optimize import fused
from scalespec.optimize.apart import Apart
from scalespec.optimize.matmul import linear

MOST_UNEVEN = 0.1
"""By so much of itself a label's information may be wrong, by what a star's lost pixels do to it,
before derivatives are formed: errors of one that lost a label's few lines came out at 0.2."""
_KNOWS_NOTHING = 12.0  # information of a uniform density over the box
_EVEN = 1e-6  # a profile that varies by less says no more than a mean
_APART = 0.5  # part of what its block says by which a pixel's weight differs that counts by itself
_MOST_APART = 0.25  # of all pixels: where more do, blocks alone must do, or derivatives are formed
_LEAST_LEFT = 0.1  # of a label's information: where less is left, differences of sums are too rough
_CACHED_FLOATS = (
    1 << 17
)  # of weights that are looked at more than once, while they are in the cache


@dataclass(frozen=True)
class Blocks:
    """Blocks of wavelength, in each of which a star's weights are taken for even.

    Attributes
    ----------
    edges : tuple of int
        Block k is pixels ``[edges[k], edges[k + 1])``.
    power : (K, P)
        Squared derivatives of the flux by scaled labels, means over the box.
    profile : (P,) float64, or None
        Weights that the model's scatter leaves beside the noise of a good spectrum, 1 where it
        leaves all; None for a model without scatter. With it a block's weights are a constant and
        a multiple of it.
    """

    edges: tuple[int, ...]
    power: Tensor
    profile: Tensor | None = None

    def coefficients(self, weight: Tensor, *, known: bool = False) -> Tensor:
        """(n, P) weights -> (n, B) their means over blocks; (n, 2 B) with those of the profile.

        The two are the least squares of a block's weights, but none is negative. Means are over all
        pixels, or over those `known` to have a weight.
        """
        total, along, width, first, second = self._sums(weight, known)
        width = width.clamp(min=1)
        if self.profile is None:
            return (total / width).to(weight)
        determinant = width * second - first**2
        bent = determinant > _EVEN * width * second
        safe = torch.where(bent, determinant, 1.0)
        flat = torch.where(bent, (second * total - first * along) / safe, total / width)
        profile = torch.where(bent, (width * along - first * total) / safe, 0.0)
        flat, profile = (
            torch.where(flat < 0, 0.0, torch.where(profile < 0, total / width, flat)),
            torch.where(profile < 0, 0.0, torch.where(flat < 0, total / first, profile)),
        )
        return torch.cat([flat, profile], dim=1).to(weight)

    def told(self, c: Tensor) -> Tensor:
        """(n, B) or (n, 2 B) coefficients -> (n, P) the weights that they stand for."""
        return linear(c, self._members.to(c))

    def misweighs(self, wrong: Tensor, told: Tensor, most: float) -> Tensor:
        """(n,) bool: some label's information is another by what blocks tell than by its pixels.

        Parameters
        ----------
        wrong, told : (n, P)
            By how much the weights are others than those told, and the latter.
        most : float
            Part of the information that may be wrong.
        """
        return _too_much(linear(wrong, self.power), linear(told, self.power), most)

    def weighed(self, weight: Tensor) -> tuple[Tensor, Apart, Tensor]:
        """Find what blocks tell of the weights of ``n`` stars, and what must be added.

        Parameters
        ----------
        weight : (n, P)

        Returns
        -------
        c : (n, B) or (n, 2 B)
            Coefficients of the blocks.
        apart : Apart
            Pixels that have other weights.
        uneven : (n,) bool
            Stars of which both together do not tell enough, as of one that lost the few lines of an
            element.
        """
        some = max(8, _CACHED_FLOATS // weight.shape[1] // 8 * 8)
        found = [self._weighed(part) for part in torch.split(weight, some)]
        uneven = torch.cat([one[2] for one in found])
        return torch.cat([one[0] for one in found]), Apart.cat([one[1] for one in found]), uneven

    def _weighed(self, weight: Tensor) -> tuple[Tensor, Apart, Tensor]:
        """As `weighed`, of stars whose weights fit into the cache."""
        c = self.coefficients(weight, known=True)
        even, excess, count = self._parted(weight, c)
        many = count > _MOST_APART * weight.shape[1]
        if many.any():
            c[many], excess[many] = self.coefficients(weight[many]), 0.0
            even[many] = weight[many] - self.told(c[many])
        told = linear(c, self._power_of_blocks)
        off, more = linear(even, self.power), linear(excess, self.power)
        uneven = _too_much(off, told, MOST_UNEVEN) | _too_much(more, told, 1 - _LEAST_LEFT)
        return c, Apart.of(excess), uneven

    def _sums(self, weight: Tensor, known: bool) -> tuple[Tensor, ...]:
        """Sum over blocks, each (n, B) float64: w, w p, 1, p and p^2, p the profile or 0."""
        if _on_processor(weight):
            out = np.empty((5, len(weight), len(self.edges) - 1))
            fused.block_sums(weight.contiguous().numpy(), self._arrays(weight), known, out)
            return tuple(torch.from_numpy(out))
        inside = self._members.double()[:, : len(self.edges) - 1]
        profile = torch.zeros_like(inside[:, 0]) if self.profile is None else self.profile
        w, counts = weight.double(), (weight > 0 if known else torch.ones_like(weight)).double()
        products = (w, w * profile, counts, counts * profile, counts * profile**2)
        return tuple(part @ inside for part in products)

    def _parted(self, weight: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Part what weights have beside those told: (n, P) by a little, by much; how many (n,)."""
        if _on_processor(weight):
            even, excess = torch.empty_like(weight), torch.empty_like(weight)
            count = torch.empty(len(weight), dtype=torch.int64)
            given = weight.contiguous().numpy(), c.contiguous().numpy()
            out = even.numpy(), excess.numpy(), count.numpy()
            fused.part_from_blocks(given, self._arrays(weight), _APART, out)
            return even, excess, count
        told = self.told(c)
        wrong = weight - told
        excess = torch.where(wrong.abs() > _APART * told, wrong, 0.0)
        return wrong - excess, excess, torch.count_nonzero(excess, dim=1)

    def _arrays(self, like: Tensor) -> tuple[fused.Integers, fused.Array]:
        """Return edges, and the profile in the precision of `like`: of no pixels without one."""
        none = like.new_empty(0)
        return self._edges, (none if self.profile is None else self.profile.to(like)).numpy()

    @cached_property
    def _edges(self) -> fused.Integers:
        return np.array(self.edges)

    @cached_property
    def _members(self) -> Tensor:
        """(P, B): 1 where a pixel is in a block; (P, 2 B) with the profile there."""
        pixel = torch.arange(self.edges[-1], device=self.power.device)[:, None]
        edges = torch.tensor(self.edges, device=self.power.device)
        inside = ((pixel >= edges[:-1]) & (pixel < edges[1:])).double()
        if self.profile is not None:
            inside = torch.cat([inside, inside * self.profile[:, None]], dim=1)
        return inside.to(self.power)

    @cached_property
    def _power_of_blocks(self) -> Tensor:
        """(K, B) or (K, 2 B): what coefficients of 1 say of the labels' information."""
        return (self.power.double() @ self._members.double()).to(self.power)


def _on_processor(values: Tensor) -> bool:
    return values.device.type == "cpu"


def _too_much(off: Tensor, mean: Tensor, most: float) -> Tensor:
    """(n,) bool: of some label (n, K) information, where there is any, is `most` of it off."""
    known = torch.maximum(mean + off, mean) > _KNOWS_NOTHING
    return (known & (off.abs() > most * mean)).any(dim=1)
