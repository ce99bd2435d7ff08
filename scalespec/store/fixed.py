"""What no block writes of a spectra store, metadata and coordinates: its checksums, beside it."""

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.ledger import read_json, write_json

COORDINATES = ("wavelength", "lsf_node", "lsf_sigma", "label")
"""Arrays that may have no dim ``spectrum``: written with the store."""


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
    problems = []
    for key, wanted in objects.items():
        target = paths.join(url, key)
        try:
            found = paths.sha256(paths.read_bytes(target))
        except StoreError as error:
            problems.append(str(error))
            continue
        if found != wanted:
            problems.append(f"{target} changed since the store was made (sha256 {found[:12]}...)")
    return problems, len(objects)
