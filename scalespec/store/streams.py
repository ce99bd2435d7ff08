"""Files in a store as streams: written piece by piece, read at any place."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import obstore

from scalespec.store import paths

if TYPE_CHECKING:
    from obstore import ReadableFile, WritableFile

READ_BYTES = 1 << 23


class Sink(io.RawIOBase):
    """A file in a store, written front to back, that knows its SHA-256."""

    def __init__(self, writer: "WritableFile") -> None:
        super().__init__()
        self._writer = writer
        self._hash = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """Return True: pyarrow asks."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._size

    def write(self, data: Any) -> int:
        """Append bytes."""
        piece = bytes(data)
        self._writer.write(piece)
        self._hash.update(piece)
        self._size += len(piece)
        return len(piece)

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hex."""
        return self._hash.hexdigest()


class Source(io.RawIOBase):
    """A file in a store as pyarrow wants one: obstore's own has no ``closed``."""

    def __init__(self, reader: "ReadableFile") -> None:
        super().__init__()
        self._reader = reader

    def readable(self) -> bool:
        """Return True: pyarrow asks."""
        return True

    def seekable(self) -> bool:
        """Return True: pyarrow asks."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return int(self._reader.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position and return it."""
        return int(self._reader.seek(offset, whence))

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; all that are left if `size` is negative."""
        left = self._reader.size - self._reader.tell()
        return bytes(self._reader.read(left if size is None or size < 0 else min(size, left)))


@contextmanager
def written(url: str) -> Iterator[Sink]:
    """Write an object piece by piece; it appears, whole, only if nothing fails.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    with paths.explained(url):
        writer = obstore.open_writer(*paths.opened(url))
        yield Sink(writer)
        writer.close()


@contextmanager
def opened(url: str) -> Iterator[Source]:
    """Open an object for reading at any place; it stays readable after the block.

    Raises
    ------
    StoreError
        If it is not there or cannot be read.
    """
    with paths.explained(url):
        yield Source(obstore.open_reader(*paths.opened(url)))


def sha256(url: str) -> str:
    """Return the SHA-256 of an object in hex, without holding it in memory."""
    total = hashlib.sha256()
    with opened(url) as source:
        while piece := source.read(READ_BYTES):
            total.update(piece)
    return total.hexdigest()
