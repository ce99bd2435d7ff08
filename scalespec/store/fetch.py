"""Many objects at once: their bytes, and what identifies them at the moment they were read."""

import errno
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import length_hint
from pathlib import Path

import obstore

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.listing import Entry, as_entry, holds_files

GETS_IN_FLIGHT = 32
"""Objects fetched at once by one worker: a bucket's latency is hidden, its bandwidth not wasted."""
READS_IN_FLIGHT = 8
"""Files read at once from a disk, which may be one across a network."""

PROMPT_S = 2e-4
"""Time a file may take for which no second thread is worth its cost."""
PATIENCE_S = 0.01
"""Time by which a disk may fall behind that before threads are started."""

_MORE = 2**20  # bytes
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""What a disk says of a name that no file has."""
_NO_BUCKET = "<Code>NoSuchBucket</Code>"

Fetched = tuple[bytes, Entry] | StoreError
"""An object's content and identity, or why there is none: an error that `is_lasting`."""


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


def is_lasting(url: str, error: StoreError) -> bool:
    """Whether reading `url` again would end as it did, in `error`.

    So it is of a file that is not there, or that this user may not read: one such file must not end
    a run of millions, it is a row that says why. All else may pass: EIO, ESTALE, too many open
    files, a store that is down, a token that expired and any other 403 of a bucket. To say MISSING
    of a good file for that would be for good, once it is committed.
    """
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return _NO_BUCKET not in str(cause)  # a wrong or new endpoint: no word of the object
    if isinstance(cause, PermissionError):
        return not paths.is_remote(url) and _is_closed(paths.local_path(url))
    return isinstance(cause, OSError) and cause.errno in _NO_FILE


def _is_closed(path: Path) -> bool:
    """Whether the mode of a file, or of a folder above it, keeps this user out.

    Where the modes allow what was refused, it was for a ticket that expired, or by a mount.
    """
    for step in (path, *path.parents):
        try:
            found = step.stat()
        except PermissionError:  # a folder above is closed: which one?
            continue
        except OSError:
            return False
        wanted = 0o4 if step == path else 0o1
        return not _granted(found) & wanted
    return False


def _granted(found: os.stat_result) -> int:
    """Return what a mode lets this process do: 4 read, 2 write, 1 search."""
    if found.st_uid == os.geteuid():
        return found.st_mode >> 6
    if found.st_gid in {os.getegid(), *os.getgroups()}:
        return found.st_mode >> 3
    return found.st_mode


def refuse_vanished(missing: Sequence[str], roots: Sequence[str]) -> None:
    """Refuse to take files for missing when a folder above them, their root, holds none at all.

    A disk that is not mounted, or a wrong bind, is an empty folder or none. A file that is missing
    alone leaves others in its root. Where nothing is missing, nothing is asked of disk or bucket.

    Parameters
    ----------
    missing : sequence of str
        Files that are not there.
    roots : sequence of str
        Folders or prefixes, without options, that files were planned under; those above none of
        the missing files are not looked at.

    Raises
    ------
    StoreError
        If a root is gone or empty.
    """
    places = {os.path.normpath(paths.plain(url)): url for url in missing} if roots else {}
    for root in roots:
        above = os.path.normpath(root).rstrip("/") + "/"
        url = next((url for place, url in places.items() if place.startswith(above)), None)
        if url is not None and not holds_files(root + url[len(paths.plain(url)) :]):
            raise StoreError(
                f"{root}: gone or empty, though {url} was planned below it: mount it (or give "
                "access to it) as it was, then run again with --retry-failed"
            )


def fetch(
    urls: Sequence[str], in_flight: int | None = None, roots: Sequence[str] = ()
) -> list[Fetched]:
    """Read many objects at once; one that is not there or closed to us is its error, in its place.

    Files of a disk that answers within `PROMPT_S` are read one after another: threads would cost
    more than they save.

    Parameters
    ----------
    urls : sequence of str
    in_flight : int, optional
        How many at once: `GETS_IN_FLIGHT` of a bucket, `READS_IN_FLIGHT` of a slow disk.
    roots : sequence of str
        What must hold files for one to be missing: see `refuse_vanished`.

    Raises
    ------
    StoreError
        If one cannot be read for a reason that may pass (`is_lasting`); what follows is not asked
        for. If one is missing, and its root holds no file.
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
                if not is_lasting(urls[i], error):
                    deque(todo, maxlen=0)  # the other threads find nothing left
                    raise
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
    refuse_vanished([url for url, one in zip(urls, found, strict=True) if _is_missing(one)], roots)
    return found


def _is_missing(found: Fetched) -> bool:
    """Whether there is no file, rather than one that is closed to us."""
    return isinstance(found, StoreError) and not isinstance(found.__cause__, PermissionError)
