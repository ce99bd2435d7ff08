"""Training spectra from Zarr: chunks in a new order each epoch, rows mixed in a buffer.

Reading rows at random costs ninety times what reading chunks at random does, so an epoch shuffles
chunks, and mixes the rows of several chunks in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scalespec.errors import ModelError
from scalespec.store.spectra import read_pixels

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
        flux: npt.NDArray[np.float32] | None = None
        for chunk in np.unique(wanted // self.chunk_rows):
            here = np.flatnonzero(wanted // self.chunk_rows == chunk)
            part_flux, part_ivar = self._chunk(int(chunk))
            if flux is None:
                flux = np.empty((len(wanted), part_flux.shape[1]), np.float32)
                ivar = np.empty_like(flux)
            inside = wanted[here] - chunk * self.chunk_rows
            flux[here], ivar[here] = part_flux[inside], part_ivar[inside]
        if flux is None:
            raise ModelError(f"{self.url}: asked for no rows")
        return self.labels[which], flux, ivar, self.displacement[which]

    def _chunk(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        if index not in self._cache:
            start = index * self.chunk_rows
            flux, ivar = read_pixels(self.url, start, start + self.chunk_rows)
            made = flux, ivar
            held = sum(flux.nbytes + ivar.nbytes for flux, ivar in self._cache.values())
            if held + 2 * made[0].nbytes > CACHE_BYTES:
                return made
            self._cache[index] = made
        return self._cache[index]
