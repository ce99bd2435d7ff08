"""What tells one state of an input from another: of files size and time, of models the checksum."""

import glob

from scalespec.config import digest
from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.listing import list_files


def identities(*urls: str) -> list[str]:
    """Return the identities of files, as further parts of a digest.

    "" has none: a run file that does not use such a file keeps the digests that it has.
    """
    return [identity(url) for url in urls if url]


def checksums(*urls: str) -> list[str]:
    """Return the checksums of models, as `identities` does."""
    if not any(urls):
        return []
    from scalespec.store.model import checksum  # with torch, which earlier stages do without

    return [checksum(url) for url in urls if url]


def identity(url: str) -> str:
    """Return what tells one state of an input file from another: its size and time of change.

    Raises
    ------
    StoreError
        If there is no such file.
    """
    entries = list_files(_as_pattern(url))
    if not entries:
        raise StoreError(f"{url}: no such file")
    return digest([(entry.size, entry.modified) for entry in entries])


def _as_pattern(url: str) -> str:
    """Return the glob that only what lies at `url` matches: a name may hold brackets."""
    if paths.is_remote(url) or not paths.exists(url):
        return url
    return glob.escape(url) + ("/**" if paths.is_folder(url) else "")
