"""What is held per star, row by row."""

from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class Rows:
    """A dataclass of tensors (n, ...), and of other such dataclasses, that may be subset.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import torch
    >>> @dataclass(frozen=True)
    ... class Stars(Rows):
    ...     chi2: Tensor
    >>> stars = Stars(torch.tensor([3.0, 1.0, 2.0]))
    >>> some = stars.take(torch.tensor([2, 0]))
    >>> some.chi2
    tensor([2., 3.])
    >>> stars.put(torch.tensor([0, 1]), some)
    >>> stars.chi2
    tensor([2., 3., 2.])
    """

    def take(self, rows: Tensor) -> Self:
        """Keep the chosen stars: rows by number, or (n,) bool."""
        rows = torch.nonzero(rows).squeeze(1) if rows.dtype == torch.bool else rows
        parts = {name: _taken(value, rows) for name, value in self._held()}
        return replace(self, **parts)  # type: ignore[type-var]

    def put(self, rows: Tensor, part: Self) -> None:
        """Write `part` into the chosen rows."""
        for name, value in self._held():
            if isinstance(value, Rows):
                value.put(rows, getattr(part, name))
            else:
                value[rows] = getattr(part, name)

    def _held(self) -> list[tuple[str, Any]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]


def _taken(value: Any, rows: Tensor) -> Any:
    return value.take(rows) if isinstance(value, Rows) else value.index_select(0, rows)
