"""URL -> bytes: local folders and object stores behind one small set of functions.

A URL is a local path or ``s3://bucket/prefix``; options that are no secret may follow as a query,
``s3://bucket/prefix?endpoint=http://127.0.0.1:8333&region=us-east-1``. Secrets come from the
environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``), a web identity or the machine's role
in the process that opens the store, never from the URL, so nothing that is pickled or logged holds
one.
"""

import fnmatch
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from scalespec.errors import StoreError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore, S3Config

S3_OPTIONS = {"endpoint", "region", "anonymous", "allow_http"}
HINTS = {
    "No space left|uota exceeded": "free some space and run again",
    "169.254.169.254": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ermi(ssion|tted)|Read-only|rivileges|Forbidden": "no permission: check owner or credentials",
}
"""What to do about an error, by words of its message."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object found by listing: where it is and what identifies its content."""

    url: str
    size: int
    modified: float  # seconds since 1970, UTC


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
    """Append path parts to a URL, before its query.

    Examples
    --------
    >>> join("s3://b/run?region=x", "raw", "current.json")
    's3://b/run/raw/current.json?region=x'
    >>> join("run", "raw")
    'run/raw'
    """
    path, mark, query = url.partition("?") if is_remote(url) else (url, "", "")
    return "/".join([path.rstrip("/"), *parts]) + mark + query


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
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme != "s3":
        raise StoreError(f"{url}: scheme '{parts.scheme}' is not known; use a local path or s3://")
    if wrong := sorted(set(options) - S3_OPTIONS):
        raise StoreError(f"{url}: unknown options {wrong}; known are {sorted(S3_OPTIONS)}")
    endpoint = options.get("endpoint")
    plain_http = bool(endpoint and re.match(r"http://(127\.|localhost|\[::1\])", endpoint))
    config: S3Config = {
        "region": options.get("region", "us-east-1"),
        "skip_signature": options.get("anonymous") == "true",
    }
    if endpoint:
        config["endpoint"] = endpoint
    with explained(url):
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=config,
            client_options={"allow_http": plain_http or options.get("allow_http") == "true"},
        )


def _split(url: str) -> tuple["ObjectStore", str]:
    """Return the store of the folder that holds `url`, and the name in it."""
    path, mark, query = url.partition("?") if is_remote(url) else (url, "", "")
    folder, _, name = path.rpartition("/")
    return open_store((folder or ".") + mark + query), name


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what an object store or a disk says into a StoreError that names the URL."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{url}: not found") from error
    except (BaseError, OSError) as error:
        raise StoreError(f"{url}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """Return a store's message without its debug dump, and what to do about it."""
    text = " ".join(str(error).partition("Debug source")[0].split())[:400]
    hints = [hint for words, hint in HINTS.items() if re.search(words, text)]
    return "; ".join([text, *hints[:1]])


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
        store, name = _split(url)
        return bytes(obstore.get(store, name).bytes())


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
        store, name = _split(url)
        try:
            obstore.put(store, name, data, mode="create" if create else "overwrite")
        except AlreadyExistsError:
            return False
    return True


def exists(url: str) -> bool:
    """Whether an object or file is at `url`."""
    if not is_remote(url):
        return local_path(url).exists()
    return _head(url) is not None


def is_folder(url: str) -> bool:
    """Whether `url` is a local folder, or a bucket or prefix rather than an object."""
    return not exists(url) if is_remote(url) else local_path(url).is_dir()


def _head(url: str) -> "ObjectMeta | None":
    """Return what an object store says of the object at `url`; None if there is none."""
    path = url.partition("?")[0]
    if path.endswith("/") or path.count("/") == len("//"):  # a prefix, or a bucket
        return None
    with explained(url):
        store, name = _split(url)
        try:
            return obstore.head(store, name)
        except FileNotFoundError:
            return None


def list_keys(url: str) -> list[str]:
    """Return the sorted keys of all objects under `url`, relative to it; none if nothing is."""
    if not is_remote(url) and not local_path(url).is_dir():
        return []
    with explained(url):
        return sorted(meta["path"] for batch in obstore.list(open_store(url)) for meta in batch)


def list_files(pattern: str) -> list[Entry]:
    """List files by a glob (``**`` for any depth), a folder, or one name; sorted by URL.

    Raises
    ------
    StoreError
        If the folder before the first wildcard does not exist.
    """
    path, mark, query = pattern.partition("?") if is_remote(pattern) else (pattern, "", "")
    parts = path.split("/")
    wild = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), None)
    root = "/".join(parts[:wild]) or ("/" if path.startswith("/") else ".")
    glob = "**" if wild is None else "/".join(parts[wild:])
    if is_remote(pattern):
        return _list_remote(root + mark + query, glob)
    return _list_local(Path(root), glob)


def _list_local(root: Path, glob: str) -> list[Entry]:
    if root.is_file():
        found = [root]
    elif root.is_dir():
        found = [p for p in root.glob("**/*" if glob == "**" else glob) if p.is_file()]
    else:
        raise StoreError(f"{root}: no such file or folder")
    stats = [(str(p), p.stat()) for p in found]
    return sorted((Entry(u, s.st_size, s.st_mtime) for u, s in stats), key=lambda e: e.url)


def _list_remote(root: str, glob: str) -> list[Entry]:
    # '**/' stands for any number of folders, '*' for anything within one.
    marked = fnmatch.translate(glob.replace("**/", "\x00").replace("**", "\x01"))
    regex = re.compile(
        marked.replace(".*", "[^/]*").replace("\x00", "(?:.*/)?").replace("\x01", ".*")
    )
    if glob == "**" and (meta := _head(root)):  # one name
        return [Entry(root, meta["size"], meta["last_modified"].timestamp())]
    found = []
    with explained(root):
        for batch in obstore.list(open_store(root)):
            found += [
                Entry(join(root, meta["path"]), meta["size"], meta["last_modified"].timestamp())
                for meta in batch
                if regex.fullmatch(meta["path"])
            ]
    return sorted(found, key=lambda e: e.url)


def delete(url: str) -> None:
    """Remove one object; nothing happens if it is not there."""
    with explained(url):
        store, name = _split(url)
        try:
            obstore.delete(store, name)
        except FileNotFoundError:
            return


def delete_tree(url: str) -> int:
    """Remove every object under `url` and return how many there were."""
    keys = list_keys(url)
    if is_remote(url):
        for key in keys:
            delete(join(url, key))
    elif local_path(url).is_dir():
        with explained(url):  # the folder too, and half-written files that a listing leaves out
            shutil.rmtree(local_path(url))
    return len(keys)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` in hex.

    Examples
    --------
    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()
