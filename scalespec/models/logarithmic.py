"""Labels that a model sees by their logarithm: a polynomial or a perceptron in log Teff.

Everything outside stays as it is: labels are scaled linearly within their box, -0.5 to 0.5, and so
are derivatives. Inside, a chosen label's axis is bent so that equal steps are equal ratios; the
ends of the box and the order of labels are kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespec.models.base import EmulatorSpec


@dataclass(frozen=True)
class Logarithmic:
    """Bends the axes of some scaled labels.

    Attributes
    ----------
    names : tuple of str
        Which labels.
    columns : tuple of int
        Their places.
    offset : tuple of float
        Lower edge of each one's box over the box's width: ``ln(x + 0.5 + offset)`` is, up to a
        constant, the logarithm of the physical label.
    """

    names: tuple[str, ...]
    columns: tuple[int, ...]
    offset: tuple[float, ...]

    @classmethod
    def of(cls, spec: EmulatorSpec, names: Sequence[str]) -> "Logarithmic":
        """Look the labels up.

        Raises
        ------
        ValueError
            If a name is no label, or its box reaches down to 0.

        Examples
        --------
        >>> spec = EmulatorSpec("hot", ("teff", "logg"), [5e3, 0], [2e4, 5], [5e3, 5001.0])
        >>> bent = Logarithmic.of(spec, ["teff"])
        >>> x = torch.tensor([[-0.5, 0.1], [10_000 / 15_000 - 1 / 3 - 0.5, 0.2], [0.5, 0.3]])
        >>> bool((bent(x)[:, 0] - torch.tensor([-0.5, 0.0, 0.5])).abs().max() < 1e-6)
        True
        """
        if lacking := [name for name in names if name not in spec.labels]:
            raise ValueError(f"logarithmic: {lacking} are no labels; there are {spec.labels}")
        columns = tuple(spec.labels.index(name) for name in names)
        for name, k in zip(names, columns, strict=True):
            if not spec.minimum[k] > 0:
                raise ValueError(
                    f"logarithmic: {name} goes down to {spec.minimum[k]:g}, which has no logarithm"
                )
        width = spec.maximum - spec.minimum
        return cls(tuple(names), columns, tuple(float(spec.minimum[k] / width[k]) for k in columns))

    def __call__(self, x: Tensor) -> Tensor:
        """Return scaled labels (n, n_label) with the chosen axes bent, -0.5 to 0.5 as before."""
        if not self.columns:
            return x
        parts = list(x.unbind(1))
        for k, offset in zip(self.columns, self.offset, strict=True):
            inside = (parts[k] + 0.5 + offset).clamp(min=offset / 2)  # beyond the box: no NaN
            parts[k] = (inside / offset).log() / math.log(1 + 1 / offset) - 0.5
        return torch.stack(parts, dim=1)

    def slopes(self, x: Tensor) -> Tensor:
        """Return the derivative (n, n_label) of each bent label by the scaled one."""
        slopes = torch.ones_like(x)
        for k, offset in zip(self.columns, self.offset, strict=True):
            inside = x[:, k] + 0.5 + offset
            slope = 1 / (inside * math.log(1 + 1 / offset))
            slopes[:, k] = torch.where(inside > offset / 2, slope, 0.0)
        return slopes
