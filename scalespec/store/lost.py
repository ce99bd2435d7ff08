"""Objects that a commit names and that are gone: read as fill values, nobody would notice them."""

from functools import lru_cache

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.ledger import find_json, record_url


def refuse_lost(url: str, shard: int) -> None:
    """Refuse an object that is not there, if the block that wrote it says that it should be.

    An object of nothing but fill values is not stored, and no commit names it. Stores that no run
    has made have no commits: what they lack cannot be told.

    Parameters
    ----------
    url : str
        Of an object, or a shard, of a store ``<folder>/<name>.zarr``.
    shard : int
        Which one along the spectra: it is the block's number, too.

    Raises
    ------
    StoreError
        If the folder's record of the block names it.
    """
    folder, key = paths.split(url)
    while not key.partition("/")[0].endswith(".zarr"):
        folder, name = paths.split(folder)
        if not name:
            return
        key = f"{name}/{key}"
    if key in _committed(folder, shard):
        raise StoreError(
            f"{url}: gone, though block {shard} is committed with it: `scalespec verify --mend` "
            "withdraws such blocks, and the next run makes them anew"
        )


def _committed(folder: str, block: int) -> frozenset[str]:
    try:
        return _recorded(folder, block)
    except FileNotFoundError:
        return frozenset()


@lru_cache(maxsize=64)  # several arrays of a block may hold nothing
def _recorded(folder: str, block: int) -> frozenset[str]:
    record = find_json(record_url(folder, block))
    if record is None:
        raise FileNotFoundError  # not committed yet: asked again
    return frozenset(record.get("objects", ()))
