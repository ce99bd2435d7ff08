"""Rows of the catalog, and samples of them that are the same however the rows come.

A sample is the rows whose scrambled row numbers are least. So it does not depend on blocks, holds
all rows of a small run, and needs one pass and the memory of twice its size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scalespec.optimize.result import FitStatus

Array = npt.NDArray[Any]
Columns = dict[str, Array]

BY_LABEL = np.uint32(FitStatus.AT_BOUND | FitStatus.PRIOR_DOMINATED)
"""Flags that are of one label or another, while the rest of them may be none the worse."""


@dataclass(frozen=True)
class Rows:
    """Some rows of the catalog, in its order: numeric columns, and what was fitted.

    Attributes
    ----------
    columns : dict of str to (n,) array
    labels : sequence of str
        Those that were fitted.
    """

    columns: Columns
    labels: Sequence[str]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns["row"]) if self.columns else 0

    @cached_property
    def fitted(self) -> Array:
        """(n,) bool: rows that hold labels."""
        if not self.labels:
            return np.zeros(len(self), bool)
        return np.isfinite(self.columns[self.labels[0]])

    @cached_property
    def good(self) -> Array:
        """(n,) bool: rows that hold labels and no flag but such as are of a single label.

        A model of twenty labels has one or other at its bound, or known no better than before, in
        most stars of low S/N, and the rest of them none the worse for it.
        """
        good: Array = self.fitted & (self.columns["fit_status"] & ~BY_LABEL == 0)
        return good

    def has_bit(self, name: str, *labels: str) -> Array:
        """(n,) bool: any of these labels has its bit set in the column `name`, if there is one."""
        known = [self.labels.index(one) for one in labels if one in self.labels]
        bits = np.uint64(sum(1 << k for k in known))
        if name not in self.columns:
            return np.zeros(len(self), bool)
        found: Array = self.columns[name].astype(np.uint64) & bits != 0
        return found

    def trusted(self, *labels: str) -> Array:
        """(n,) bool: good rows whose spectra, not bounds or priors, say what these labels are."""
        doubtful = self.has_bit("at_bound", *labels) | self.has_bit("prior_dominated", *labels)
        trusted: Array = self.good & ~doubtful
        return trusted

    @property
    def chi2_dof(self) -> Array:
        """(n,): χ² per degree of freedom; NaN where nothing was fitted."""
        if "chi2" not in self.columns:
            return np.full(len(self), np.nan)
        free = self.columns.get("dof", self.columns["n_used"])
        quality: Array = self.columns["chi2"] / np.maximum(free, 1)
        return quality

    def take(self, places: Array, names: Iterable[str] | None = None) -> Self:
        """Return the rows at `places` (numbers or bool), with all columns or those in `names`."""
        kept = self.columns if names is None else {n: self.columns[n] for n in names}
        return type(self)({n: v[places] for n, v in kept.items()}, self.labels)

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> Self:
        """Put parts with the same columns below each other."""
        first = parts[0]
        columns = {n: np.concatenate([part.columns[n] for part in parts]) for n in first.columns}
        return cls(columns, first.labels)


def scrambled(values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint64]:
    """Return numbers that look random and are the same every time: SplitMix64.

    References
    ----------
    Steele, Lea & Flood 2014, OOPSLA, 453, doi:10.1145/2660193.2660195.

    Examples
    --------
    >>> scrambled(np.array([0, 1]))
    array([16294208416658607535,  7960286522194355700], dtype=uint64)
    """
    x = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Sample:
    """The `n` rows seen whose scrambled numbers are least; memory is that of twice as many.

    With `together` rows to a chunk it is whole chunks of neighbors, but for the last.
    """

    def __init__(self, n: int, *, together: int = 1) -> None:
        self.n = n
        self.together = together
        self._parts: list[Rows] = []
        self._limit = np.uint64(2**64 - 1)

    def _key(self, rows: Rows) -> npt.NDArray[np.uint64]:
        return scrambled(rows.columns["row"] // self.together)

    def add(self, rows: Rows) -> None:
        """See further rows."""
        self._parts.append(rows.take(self._key(rows) <= self._limit))
        if sum(map(len, self._parts)) > 2 * self.n:
            self._parts = [self._least()]

    def _least(self) -> Rows:
        rows = Rows.join(self._parts)
        key = self._key(rows)
        order = np.lexsort((rows.columns["row"], key))[: self.n]
        if len(rows) > self.n:
            self._limit = key[order[-1]]
        return rows.take(order)

    def rows(self) -> Rows:
        """Return the sample in the catalog's order; no columns if no rows were ever seen."""
        if not self._parts:
            return Rows({}, ())
        least = self._least()
        return least.take(np.argsort(least.columns["row"], kind="stable"))
