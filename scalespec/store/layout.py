"""What a spectra store is made of, looked up once per process for as long as it stays the same.

A store has some 25 arrays, and what is known of each is an object of its own: asked for with every
block, that is more requests than the block itself.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.opening import dims_of, open_group
from scalespec.store.shards import Shards, read_metadata, shards

KEPT_BYTES = 1 << 20
"""Values that no block writes, wavelengths say, are kept in memory up to this size."""


@dataclass(frozen=True)
class Held:
    """An array of a store.

    Attributes
    ----------
    url, name : str
        The store's URL, and the array's name in it.
    array : zarr.Array
    """

    url: str
    name: str
    array: zarr.Array[Any]

    @cached_property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes."""
        return dims_of(self.array)

    @property
    def per_row(self) -> bool:
        """Whether each spectrum has its own."""
        return self.dims[:1] == ("spectrum",)

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Attributes, not to be changed."""
        return dict(self.array.attrs)

    @cached_property
    def shards(self) -> Shards | None:
        """How its rows lie in its objects; None if not as ours do."""
        return shards(read_metadata(self.url, self.name))

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read rows: shards of ours at once, three times as fast as chunk by chunk."""
        start, stop, _ = slice(start, stop).indices(self.array.shape[0])
        if self.shards is None:
            return np.asarray(self.array[start:stop])
        made = np.empty((max(stop - start, 0), *self.array.shape[1:]), self.shards.dtype)
        if len(made):
            self.shards.read(paths.join(self.url, self.name), slice(start, stop), made)
        return made

    def whole(self) -> npt.NDArray[Any]:
        """Read all of it, or copy it if that was done before."""
        return self._kept.copy() if self.array.nbytes <= KEPT_BYTES else self._read()

    @cached_property
    def _kept(self) -> npt.NDArray[Any]:
        return self._read()

    def _read(self) -> npt.NDArray[Any]:
        return np.asarray(self.array[...])

    def variable(self, start: int, stop: int) -> xr.Variable:
        """Return rows ``[start, stop)`` of what each spectrum has, or all of anything else.

        Raises
        ------
        StoreError
            If a shard is damaged.
        """
        try:
            values = self.rows(start, stop) if self.per_row else self.whole()
        except (ValueError, RuntimeError) as error:  # what checksums and codecs raise
            raise StoreError(
                f"{self.url}: '{self.name}', rows {start}:{stop}, is damaged: {error}"
            ) from error
        return xr.Variable(self.dims, values, deepcopy(self.attrs))


@dataclass(frozen=True)
class Layout:
    """The attributes of a store, not to be changed, and its arrays by name."""

    attrs: dict[str, Any]
    arrays: dict[str, Held]


def layout_of(url: str) -> Layout:
    """Return what the group at `url` is made of.

    It is looked up anew when its ``zarr.json`` was written anew, as it is last when a store is made
    or grows.

    Raises
    ------
    StoreError
        If there is no spectra store at `url`.
    """
    return _layout(url, _version(url))


@lru_cache(maxsize=32)
def _layout(url: str, _version: object) -> Layout:
    group = open_group(url)
    arrays = {name: Held(url, name, array) for name, array in group.arrays()}
    return Layout(dict(group.attrs), arrays)


def _version(url: str) -> object:
    """Return what tells one writing of a group's ``zarr.json`` from another."""
    where = paths.join(url, "zarr.json")
    if paths.is_remote(url):
        if (meta := paths.persistent(lambda: paths.head(where))) is not None:
            return meta["e_tag"], meta["last_modified"], meta["size"]
    elif (path := paths.local_path(where)).exists():
        facts = path.stat()
        return facts.st_ino, facts.st_mtime_ns, facts.st_size
    raise StoreError(f"{url}: no spectra store there")
