"""Files in a store as streams: written piece by piece, read at any place."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import obstore

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.together import each

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
    """Return the SHA-256 of an object in hex, without holding it in memory.

    Raises
    ------
    StoreError
        If it is not there or cannot be read.
    """

    def read() -> str:
        total = hashlib.sha256()
        if not paths.is_remote(url):  # any file name is good here, as of `paths.read_bytes`
            with paths.local_path(url).open("rb") as file:
                return hashlib.file_digest(file, lambda: total).hexdigest()
        for piece in obstore.get(*paths.opened(url)).stream(READ_BYTES):
            total.update(piece)
        return total.hexdigest()

    with paths.explained(url):
        return paths.persistent(read)


def differing(url: str, objects: Mapping[str, str], since: str) -> list[str]:
    """Read objects of a folder back, and say which are not there or not what they were.

    Parameters
    ----------
    url : str
        The folder.
    objects : mapping of str to str
        SHA-256 by key.
    since : str
        When they were that, as "its commit".

    Returns
    -------
    list of str
        A sentence each; none if all is well.
    """

    def problem(item: tuple[str, str]) -> str:
        target = paths.join(url, paths.below(item[0]))
        try:
            found = sha256(target)
        except StoreError as error:
            return str(error)
        return f"{target} changed since {since} (sha256 {found[:12]}...)" * (found != item[1])

    return list(filter(None, each(problem, objects.items())))
