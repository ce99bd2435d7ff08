"""Pixels counted one by one beside blocks of wavelength: lost ones, and those of odd weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from scalespec.optimize.rows import Rows

SLAB = 64
"""Pixels of each star counted at a time: sums do not depend on other stars' numbers."""


@dataclass(frozen=True)
class Apart(Rows):
    """Pixels of ``n`` stars whose weights their blocks do not tell.

    Attributes
    ----------
    pixel : (n, D) int64
    excess : (n, D)
        Their weight less what their block says; zeros fill up to a multiple of `SLAB`.
    """

    pixel: Tensor
    excess: Tensor

    @classmethod
    def of(cls, excess: Tensor) -> Self:
        """Gather what is not 0 of (n, P)."""
        star, pixel = torch.nonzero(excess, as_tuple=True)
        count = torch.bincount(star, minlength=len(excess))
        place = torch.arange(len(star), device=star.device) - (count.cumsum(0) - count)[star]
        width = -(-int(count.max()) // SLAB) * SLAB if len(count) else 0
        shape = len(excess), width
        where, what = pixel.new_zeros(shape), excess.new_zeros(shape)
        where[star, place], what[star, place] = pixel, excess[star, pixel]
        return cls(where, what)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Put those of some stars after those of others."""
        width = max(part.pixel.shape[1] for part in parts)

        def filled(values: Tensor) -> Tensor:
            return torch.nn.functional.pad(values, (0, width - values.shape[1]))

        pixel, excess = (
            [filled(v) for v in part]
            for part in zip(*((part.pixel, part.excess) for part in parts), strict=True)
        )
        return cls(torch.cat(pixel), torch.cat(excess))

    def slabs(self, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """Give pixels and excess of some stars, `SLAB` of each at a time, as long as any has."""
        for begin in range(0, self.pixel.shape[1], SLAB):
            columns = slice(begin, begin + SLAB)
            excess = self.excess[rows, columns]
            if not excess[:, 0].any():
                return
            yield self.pixel[rows, columns], excess
