"""Stores for Zarr: one that asks again when an answer breaks off, one that remembers checksums."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from obstore.exceptions import BaseError
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore, WrapperStore

from scalespec.store import paths

T = TypeVar("T")


def zarr_store(url: str, *, read_only: bool = False) -> Store:
    """Open a folder or prefix for Zarr."""
    store = ObjectStore(paths.open_store(url), read_only=read_only)
    return PatientStore(store) if paths.is_remote(url) else store


async def _again(call: Callable[[], Awaitable[T]]) -> T:
    """Do what `paths.persistent` does: one small object's answer may break off, too."""
    for attempt in range(paths.TRIES - 1):
        try:
            return await call()
        except BaseError as error:
            if not paths.BROKEN.search(str(error)):
                raise
            await asyncio.sleep(random.uniform(0, paths.PAUSE_S * 2**attempt))  # noqa: S311
    return await call()


class PatientStore(WrapperStore[Store]):
    """Passes everything on; what ended in a broken answer is asked again, after a while."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, or a part of it."""
        return await _again(lambda: self._store.get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        ranges = list(key_ranges)
        return await _again(lambda: self._store.get_partial_values(prototype, ranges))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return await _again(lambda: self._store.exists(key))

    async def set(self, key: str, value: Buffer) -> None:
        """Store an object."""
        await _again(lambda: self._store.set(key, value))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await _again(lambda: self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove what is below a prefix."""
        await _again(lambda: self._store.delete_dir(prefix))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys below a prefix."""
        for key in await _again(lambda: _all(self._store.list_prefix(prefix))):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""
        for key in await _again(lambda: _all(self._store.list_dir(prefix))):
            yield key


async def _all(keys: AsyncIterator[str]) -> list[str]:
    return [key async for key in keys]


class HashingStore(WrapperStore[Store]):
    """Passes everything on, and remembers the SHA-256 of what is set."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.hashes: dict[str, str] = {}

    async def set(self, key: str, value: Buffer) -> None:
        """Store an object."""
        self.hashes[key] = paths.sha256(value.as_numpy_array())
        await super().set(key, value)
