"""URL -> bytes: local folders and object stores behind one small set of functions.

A URL is a local path or ``s3://bucket/prefix``; options that are no secret may follow as a query,
``s3://bucket/prefix?endpoint=http://127.0.0.1:8333&region=us-east-1``. Secrets come from the
environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``), a web identity or the machine's role
in the process that opens the store, never from the URL, so nothing that is pickled or logged holds
one. A question mark in an object's key is written ``%3F``, lest a query begin there, and a percent
sign ``%25`` where it would look like one of these two; every other character is itself.
"""

import hashlib
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

import numpy as np
import numpy.typing as npt
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from scalespec.errors import StoreError
from scalespec.store import s3

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

HINTS = {
    "No space left|uota exceeded": "free some space and run again",
    "169.254.169.254": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "deflate block|gzip|incorrect data check": "broken gzip stream: fetch the file again",
    "ermi(ssion|tted)|Read-only|rivileges|Forbidden": "no permission: check owner or credentials",
}
"""What to do about an error, by words of its message."""
BROKEN = re.compile("response body|body error|error decoding")
"""What a client says of an answer that broke off."""
LEFT_OPEN = re.compile("[?]|%(?=3F|25)")
"""What of a key is written as its code: what would end the path, and what looks like a code."""
ONE_PUT = 64 * 2**20
"""Bytes up to which an object is stored by one request.

A larger one goes in parts of 5 MiB, twelve at a time. That is as many bytes under way, so a slow
network is asked for no more; but parts are requests, each at its price, and those of a process that
is killed stay in the bucket, unlisted, until a rule of the bucket's own removes them.
"""
TRIES = 6
PAUSE_S = 0.1  # before the second try, at most; it doubles

T = TypeVar("T")


def is_remote(url: str) -> bool:
    """Whether `url` names an object store rather than a local path.

    Examples
    --------
    >>> is_remote("s3://bucket/run"), is_remote("/data/run")
    (True, False)
    """
    return "://" in url and not url.startswith("file://")


def local_path(url: str) -> Path:
    """Return the local path that `url` names.

    Raises
    ------
    StoreError
        If it names an object store.
    """
    if is_remote(url):
        raise StoreError(f"{url}: wanted a local path here")
    return Path(url.removeprefix("file://"))


def join(url: str, *parts: str) -> str:
    """Append path parts, or an object's key, to a URL, before its query.

    Examples
    --------
    >>> join("s3://b/run?region=x", "raw", "current.json")
    's3://b/run/raw/current.json?region=x'
    >>> join("s3://b/run?region=x", "is it?.fits")
    's3://b/run/is it%3F.fits?region=x'
    >>> join("run", "raw")
    'run/raw'
    """
    if not is_remote(url):
        return "/".join([url.rstrip("/"), *parts])
    path, mark, query = url.partition("?")
    coded = [LEFT_OPEN.sub(lambda found: f"%{ord(found[0]):02X}", part) for part in parts]
    return "/".join([path.rstrip("/"), *coded]) + mark + query


def _key(path: str) -> str:
    """Return what a URL's path says, as the bucket spells it: `join` undone.

    Examples
    --------
    >>> _key("is it%3F 100%25.fits"), _key("a%20b#1.fits")
    ('is it? 100%.fits', 'a%20b#1.fits')
    """
    return re.sub("%(3F|25)", lambda found: chr(int(found[1], 16)), path)


def _parsed(url: str) -> SplitResult:
    return urlsplit(url, allow_fragments=False)  # a key may hold a #


def below(name: str) -> str:
    """Return a name that a record, a manifest or a catalog gives, if it stays below its folder.

    Such names come from files that anybody may have written; one that climbs would let them say
    what is read, and believed, outside of the workspace or the survey.

    Raises
    ------
    StoreError
        If it is absolute, a URL, or has an empty part, ``.`` or ``..``.

    Examples
    --------
    >>> below("parts/000001-ab.parquet")
    'parts/000001-ab.parquet'
    """
    if {"", ".", ".."} & set(name.split("/")) or "://" in name or not name.isprintable():
        raise StoreError(f"{name[:200]!r} leads out of its folder: no name of ours")
    return name


def plain(url: str) -> str:
    """Return a URL without its options: an endpoint may move."""
    return url.partition("?")[0] if is_remote(url) else url


@lru_cache(maxsize=64)
def open_store(url: str) -> "ObjectStore":
    """Open the folder or prefix `url` as an object store; a local folder is made if need be.

    Raises
    ------
    StoreError
        If the URL's scheme or options are not known, or the folder cannot be made.
    """
    if not is_remote(url):
        with explained(url):
            return LocalStore(prefix=local_path(url).resolve(), mkdir=True)
    parts = _parsed(url)
    if parts.scheme != "s3":
        raise StoreError(f"{url}: scheme '{parts.scheme}' is not known; use a local path or s3://")
    with explained(url):
        prefix = _key(parts.path.strip("/"))
        return s3.open_s3(parts.netloc, prefix, dict(parse_qsl(parts.query)))


def split(url: str) -> tuple[str, str]:
    """Return the URL of the folder that holds `url`, and the name in it.

    Examples
    --------
    >>> split("s3://bucket/run/a.json?region=x")
    ('s3://bucket/run?region=x', 'a.json')
    """
    path, mark, query = url.partition("?") if is_remote(url) else (url, "", "")
    folder, _, name = path.rpartition("/")
    name = _key(name) if is_remote(url) else name
    return (folder or ("/" if path.startswith("/") else ".")) + mark + query, name


def opened(url: str) -> tuple["ObjectStore", str]:
    """Return the store that holds `url`, and the key in it.

    A bucket is opened once, not once for each of the thousands of folders a survey has in it.
    """
    if not is_remote(url):
        folder, name = split(url)
        return open_store(folder), name
    parts = _parsed(url)
    return open_store(parts._replace(path="").geturl()), _key(parts.path.lstrip("/"))


@contextmanager
def explained(url: str, *damage: type[Exception]) -> Iterator[None]:
    """Turn what an object store or a disk says into a StoreError that names the URL.

    Parameters
    ----------
    url : str
        What is being read or written.
    *damage : exception types
        What a reader of its format raises besides, where its bytes are not what they should be.
    """
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{url}: not found") from error
    except (BaseError, OSError, *damage) as error:  # type: ignore[misc]  # a tuple it cannot see
        raise StoreError(f"{url}: {_told(error)}") from error


def persistent(call: Callable[[], T]) -> T:
    """Return what `call` gives, asking again when a bucket's answer broke off in its middle.

    The client repeats requests by itself, but not a listing whose body was cut.
    """
    for attempt in range(TRIES - 1):
        try:
            return call()
        except (BaseError, StoreError) as error:
            if not BROKEN.search(str(error)):
                raise
            time.sleep(random.uniform(0, PAUSE_S * 2**attempt))  # noqa: S311 - jitter
    return call()


def _told(error: Exception) -> str:
    """Return a store's message without its debug dump, and what to do about it."""
    text = " ".join(str(error).partition("Debug source")[0].split())[:400]
    hints = [hint for words, hint in HINTS.items() if re.search(words, text)]
    return "; ".join([text or type(error).__name__, *hints[:1]])


def read_bytes(url: str) -> bytes:
    """Return the whole object or file.

    Raises
    ------
    StoreError
        If it is not there or cannot be read.
    """
    with explained(url):
        if not is_remote(url):  # any file name is good here, also ones an object key could not be
            return local_path(url).read_bytes()
        store, name = opened(url)
        return bytes(obstore.get(store, name).bytes())


def find_bytes(url: str) -> bytes | None:
    """Return the whole object or file, or None if nothing is there: one request, not two.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    try:
        return read_bytes(url)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def put(store: "ObjectStore", key: str, data: "bytes | npt.NDArray[np.uint8]") -> None:
    """Store `data` as an object, by one request if it is not large (`ONE_PUT`)."""
    obstore.put(store, key, data, use_multipart=len(data) > ONE_PUT)


def write_bytes(url: str, data: bytes, *, create: bool = False) -> bool:
    """Store `data` at `url` in one atomic step.

    Parameters
    ----------
    url : str
        Where.
    data : bytes
        What.
    create : bool
        Only if nothing is there yet.

    Returns
    -------
    bool
        False if `create` was asked for and an object exists already.

    Raises
    ------
    StoreError
        If it cannot be written: no permission, no space, no bucket.
    """
    with explained(url):
        store, name = opened(url)
        if not create:
            put(store, name, data)
            return True
        try:
            obstore.put(store, name, data, mode="create")
        except AlreadyExistsError:
            return False
    return True


def exists(url: str) -> bool:
    """Whether an object or file is at `url`."""
    if not is_remote(url):
        return local_path(url).exists()
    return head(url) is not None


def is_folder(url: str) -> bool:
    """Whether `url` is a local folder, or a bucket or prefix rather than an object."""
    return not exists(url) if is_remote(url) else local_path(url).is_dir()


def head(url: str) -> "ObjectMeta | None":
    """Return what an object store says of the object at `url`; None if there is none."""
    path = url.partition("?")[0]
    if path.endswith("/") or path.count("/") == len("//"):  # a prefix, or a bucket
        return None
    with explained(url):
        store, name = opened(url)
        try:
            return obstore.head(store, name)
        except FileNotFoundError:
            return None


def list_keys(url: str) -> list[str]:
    """Return the sorted keys of all objects under `url`, relative to it; none if nothing is."""
    return sorted(list_modified(url))


def list_modified(url: str) -> dict[str, float]:
    """Return when each object under `url` was written, by its key [seconds since 1970, UTC]."""
    with explained(url):
        if not is_remote(url) and not local_path(url).is_dir():
            return {}
        store, key = opened(url) if is_remote(url) else (open_store(url), "")
        below = len(key.rstrip("/")) + 1 if key else 0
        return persistent(
            lambda: {
                meta["path"][below:]: meta["last_modified"].timestamp()
                for batch in obstore.list(store, key.rstrip("/") or None, chunk_size=1000)
                for meta in batch
            }
        )


def delete(url: str) -> None:
    """Remove one object; nothing happens if it is not there."""
    with explained(url):
        if not is_remote(url):
            local_path(url).unlink(missing_ok=True)
            return
        store, name = opened(url)
        try:
            obstore.delete(store, name)
        except FileNotFoundError:
            return


def delete_keys(url: str, keys: Sequence[str]) -> None:
    """Remove objects under `url`; of a bucket a thousand by each request."""
    if not is_remote(url):
        for key in keys:
            delete(join(url, key))
        return
    with explained(url):
        store, prefix = opened(url)
        whole = ["/".join(filter(None, [prefix.rstrip("/"), key])) for key in keys]
        persistent(lambda: obstore.delete(store, whole))


def delete_tree(url: str) -> int:
    """Remove every object under `url` and return how many there were."""
    keys = list_keys(url)
    if is_remote(url):
        delete_keys(url, keys)
    elif local_path(url).is_dir():
        with explained(url):  # the folder too, and half-written files that a listing leaves out
            shutil.rmtree(local_path(url))
    return len(keys)


def sha256(data: "bytes | npt.NDArray[np.uint8]") -> str:
    """Return the SHA-256 of `data` in hex.

    Examples
    --------
    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()  # type: ignore[arg-type]  # an array is a buffer
