"""Training spectra from Zarr: chunks in a new order each epoch, rows mixed in a buffer.

Reading rows at random costs ninety times what reading chunks at random does, so an epoch shuffles
chunks, and mixes the rows of several chunks in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scalespec.errors import ModelError
from scalespec.store.pixels import read_pixels

Batch = tuple[
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
]
"""Labels (n, K), flux (n, P), ivar (n, P), and the pixels (n,) by which lines are displaced."""

BUFFER_ROWS = 4096
"""Spectra mixed at a time: 16 chunks."""
CACHE_BYTES = 2 * 2**30
"""Chunks kept decoded between epochs, per worker; a larger store is read anew each epoch."""


@dataclass
class TrainingData:
    """The rows of a training store that one loop learns from.

    Attributes
    ----------
    url : str
        A spectra store with ``labels``.
    labels : (n, K) float32
        Of the rows used.
    rows : (n,) int64
        Their places in the store, ascending.
    displacement : (n,) float32 [pixels]
        How far their lines stand from rest.
    chunk_rows : int
        Rows per codec chunk.
    seed : int
    """

    url: str
    labels: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    displacement: npt.NDArray[np.float32]
    chunk_rows: int
    seed: int
    _cache: dict[int, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = field(
        default_factory=dict
    )
    _spare: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise ModelError(f"{self.url}: not one spectrum with all labels to learn from")

    def chunks(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield this rank's part of an epoch; every rank gets as many rows, in as many parts.

        The order depends on seed and epoch alone, so a resumed epoch is the same epoch.
        """
        rng = np.random.default_rng([self.seed, epoch])
        chunk = self.rows // self.chunk_rows
        place = rng.permutation(int(chunk.max()) + 1)[chunk]
        order = np.argsort(place, kind="stable")
        share = max(len(order) // world_size, 1)
        mine = order[rank * share : (rank + 1) * share] if len(order) >= world_size else order[:1]
        for start in range(0, len(mine), BUFFER_ROWS):
            buffered = mine[start : start + BUFFER_ROWS]
            yield self.read(buffered[rng.permutation(len(buffered))])

    def read(self, which: npt.NDArray[np.int64]) -> Batch:
        """Return the rows that stand at places `which` of `rows`."""
        wanted = self.rows[which]
        if not len(wanted):
            raise ModelError(f"{self.url}: asked for no rows")
        order = np.argsort(wanted, kind="stable")
        chunk = wanted[order] // self.chunk_rows
        flux = ivar = np.empty((0, 0), np.float32)
        for here in np.split(order, np.flatnonzero(np.diff(chunk)) + 1):
            index = int(wanted[here[0]] // self.chunk_rows)
            part_flux, part_ivar = self._chunk(index)
            if not len(flux):
                flux = np.empty((len(wanted), part_flux.shape[1]), np.float32)
                ivar = np.empty_like(flux)
            inside = _as_slice(wanted[here] - index * self.chunk_rows)
            flux[here], ivar[here] = part_flux[inside], part_ivar[inside]
        return self.labels[which], flux, ivar, self.displacement[which]

    def _chunk(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return a chunk's flux and ivar; what is not kept is good until the next call."""
        if index in self._cache:
            return self._cache[index]
        start = index * self.chunk_rows
        flux, ivar = read_pixels(self.url, start, start + self.chunk_rows, out=self._spare)
        held = sum(flux.nbytes + ivar.nbytes for flux, ivar in self._cache.values())
        if held + 2 * flux.nbytes <= CACHE_BYTES:
            self._cache[index] = flux, ivar
            self._spare = None
        elif len(flux) == self.chunk_rows:  # memory that is had already is decoded into at once
            self._spare = flux, ivar
        return flux, ivar


def _as_slice(rows: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Return ascending rows as a slice where none is left out: it costs no copy."""
    whole = rows[-1] - rows[0] + 1 == len(rows)
    return slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows
