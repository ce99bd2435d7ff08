"""Many objects at once: their bytes, and what identifies them at the moment they were read."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import obstore

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.listing import Entry, as_entry

GETS_IN_FLIGHT = 32
"""Objects fetched at once by one worker: a bucket's latency is hidden, its bandwidth not wasted."""
READS_IN_FLIGHT = 8
"""Files read at once from a disk, which may be one across a network."""

Fetched = tuple[bytes, Entry] | StoreError
"""An object's content and identity, or why there is none."""


def read_entry(url: str) -> tuple[bytes, Entry]:
    """Return an object's bytes, and its size and time or etag as they were when it was read.

    Raises
    ------
    StoreError
        If it is not there or cannot be read.
    """
    with paths.explained(url):
        if not paths.is_remote(url):
            with paths.local_path(url).open("rb", buffering=0) as file:
                stat = os.fstat(file.fileno())
                return file.read(), Entry(url, stat.st_size, stat.st_mtime)
        store, key = paths.opened(url)
        found = obstore.get(store, key)
        return bytes(found.bytes()), as_entry(url, found.meta)


def fetch(urls: Sequence[str], in_flight: int | None = None) -> list[Fetched]:
    """Read many objects at once; one that cannot be read is its error, in its place.

    Parameters
    ----------
    urls : sequence of str
    in_flight : int, optional
        How many at once: `GETS_IN_FLIGHT` of a bucket, `READS_IN_FLIGHT` of a disk.
    """
    remote = any(map(paths.is_remote, urls))
    n = min(in_flight or (GETS_IN_FLIGHT if remote else READS_IN_FLIGHT), len(urls))
    found: list[Fetched] = [StoreError("not read")] * len(urls)
    todo = iter(
        range(len(urls))
    )  # shared: next() of a range is atomic, a future a file is not free

    def work() -> None:
        for i in todo:
            try:
                found[i] = read_entry(urls[i])
            except StoreError as error:
                found[i] = error

    with ThreadPoolExecutor(max(n, 1)) as pool:
        for done in [pool.submit(work) for _ in range(n)]:
            done.result()
    return found
