"""Many objects at once: their bytes, and what identifies them at the moment they were read."""

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import length_hint

import obstore

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.listing import Entry, as_entry

GETS_IN_FLIGHT = 32
"""Objects fetched at once by one worker: a bucket's latency is hidden, its bandwidth not wasted."""
READS_IN_FLIGHT = 8
"""Files read at once from a disk, which may be one across a network."""

PROMPT_S = 2e-4
"""Time a file may take for which no second thread is worth its cost."""
PATIENCE_S = 0.01
"""Time by which a disk may fall behind that before threads are started."""

_MORE = 2**20  # bytes

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
            return _read_file(url)
        store, key = paths.opened(url)
        found = obstore.get(store, key)
        return bytes(found.bytes()), as_entry(url, found.meta)


def _read_file(url: str) -> tuple[bytes, Entry]:
    """Read a file by four system calls: a file object makes nine, and most files are small."""
    file = os.open(url.removeprefix("file://"), os.O_RDONLY)
    try:
        stat = os.fstat(file)
        data = os.read(file, stat.st_size + 1)  # one more, lest it has grown
        if len(data) != stat.st_size:  # it has, or this is but a part of a very large one
            while more := os.read(file, max(stat.st_size - len(data), _MORE)):
                data += more
    finally:
        os.close(file)
    return data, Entry(url, stat.st_size, stat.st_mtime)


def fetch(urls: Sequence[str], in_flight: int | None = None) -> list[Fetched]:
    """Read many objects at once; one that cannot be read is its error, in its place.

    Files of a disk that answers within `PROMPT_S` are read one after another: threads would cost
    more than they save.

    Parameters
    ----------
    urls : sequence of str
    in_flight : int, optional
        How many at once: `GETS_IN_FLIGHT` of a bucket, `READS_IN_FLIGHT` of a slow disk.
    """
    remote = any(map(paths.is_remote, urls))
    n = min(in_flight or (GETS_IN_FLIGHT if remote else READS_IN_FLIGHT), len(urls))
    found: list[Fetched] = [StoreError("not read")] * len(urls)
    # shared: next() of a range is atomic, a future a file is not free
    todo = iter(range(len(urls)))

    def work(wait_s: float = math.inf) -> None:
        end = time.monotonic() + wait_s
        for i in todo:
            try:
                found[i] = read_entry(urls[i])
            except StoreError as error:
                found[i] = error
            end += PROMPT_S
            if time.monotonic() > end:
                return

    if not remote and in_flight is None:
        work(PATIENCE_S)
    if left := min(n, length_hint(todo)):
        with ThreadPoolExecutor(left) as pool:
            for done in [pool.submit(work) for _ in range(left)]:
                done.result()
    return found
