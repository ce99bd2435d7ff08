"""What no block writes of a spectra store, metadata and coordinates: its checksums, beside it."""

import re
from collections.abc import Mapping

from scalespec.errors import StoreError
from scalespec.plan import BlockResult
from scalespec.store import paths, streams
from scalespec.store.ledger import find_json, read_json, write_json

COORDINATES = ("wavelength", "lsf_node", "lsf_sigma", "label")
"""Arrays that may have no dim ``spectrum``: written with the store."""

SHARD = re.compile(r"/c/(\d+)(/0)*$")
"""Ends the key of a block's object, whose number is the block's."""


def is_recorded(url: str) -> bool:
    """Whether the checksums of the store at `url` are kept."""
    return paths.exists(_record_url(url))


def record_fixed(url: str, per_row: frozenset[str] = frozenset()) -> None:
    """Keep the checksums of a store's metadata and coordinates in ``<url>.json``.

    Parameters
    ----------
    url : str
        A spectra store.
    per_row : set of str
        Arrays, as ``arm/name`` or ``name``, that blocks write though they are called like one of
        `COORDINATES`.
    """
    fixed = [key for key in paths.list_keys(url) if _is_fixed(key, per_row)]
    objects = {key: paths.sha256(paths.read_bytes(paths.join(url, key))) for key in fixed}
    write_json(_record_url(url), {"objects": objects})


def _is_fixed(key: str, per_row: frozenset[str]) -> bool:
    """Whether a key is metadata, or a chunk of an array that has no dim ``spectrum``."""
    if key.endswith("zarr.json"):
        return True
    array = key.partition("/c/")[0]
    return array.rpartition("/")[2] in COORDINATES and array not in per_row


def _record_url(url: str) -> str:
    folder, name = paths.split(url)
    return paths.join(folder, f"{name}.json")


def verify_fixed(url: str) -> tuple[list[str], int]:
    """Read metadata and coordinates of a store back.

    Returns
    -------
    problems, n_checked
        What is missing or changed, as sentences, and the number of objects read.

    Raises
    ------
    StoreError
        If the record of their checksums is missing or damaged.
    """
    objects = read_json(_record_url(url)).get("objects")
    if not isinstance(objects, dict):
        raise StoreError(f"{_record_url(url)}: no checksums there; run the stage again")
    return streams.differing(url, objects, "the store was made"), len(objects)


def find_strays(url: str, commits: Mapping[int, BlockResult]) -> dict[int, list[str]]:
    """Return by block the objects of a store that the block's commit does not name.

    What holds nothing but fill values has no object. One that is there nevertheless, left by an
    attempt that was killed while it wrote over another's block, is read as if it belonged there.
    Blocks that are not committed may have anything, and of a store without checksums none is known.

    Parameters
    ----------
    url : str
        A spectra store, or where there is none.
    commits : mapping of int to BlockResult
        Of the folder it lies in.
    """
    record = find_json(_record_url(url))
    fixed = record.get("objects") if record else None
    found: dict[int, list[str]] = {}
    if not isinstance(fixed, dict):  # `verify_fixed` says so
        return found
    name = paths.split(url)[1]
    for key in paths.list_keys(url):
        shard = SHARD.search(key)
        block = int(shard[1]) if shard else -1
        if block in commits and key not in fixed and f"{name}/{key}" not in commits[block].objects:
            found.setdefault(block, []).append(key)
    return found
