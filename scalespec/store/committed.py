"""Write what a block made and commit it, once: an attempt that comes second writes nothing.

It looks for a commit before it writes. Parts are named by their attempt, but a shard has one name:
an attempt that looked, was held up and goes on when another has committed writes over that one's.
Of the same input it writes the same bytes. Of another, as of a file that changed meanwhile, it
withdraws the commit and does the block again (`Ledger.commit`), so that what is committed is whole.
If it is killed before that, shards differ from their commit: `verify` says so, `verify --mend` has
them made anew.
"""

from collections.abc import Callable, Mapping

import xarray as xr

from scalespec.plan import Block, BlockResult
from scalespec.store import paths
from scalespec.store.ledger import Ledger, new_attempt
from scalespec.store.spectra import write_spectra


def commit_spectra(
    url: str,
    block: Block,
    spectra: xr.Dataset,
    *,
    count: Callable[[xr.Dataset], dict[str, int]] | None = None,
    store: str = "spectra.zarr",
) -> BlockResult:
    """Write one block of the spectra store in a stage's folder, then commit it.

    Parameters
    ----------
    url : str
        The stage's folder.
    block : Block
    spectra : xr.Dataset
        One whole shard: see `write_spectra`.
    count : callable, optional
        From the spectra to what the commit says of their number.
    store : str
        Name of the store in the folder.

    Returns
    -------
    BlockResult
        The commit that stands: an earlier one if there is one, and then nothing is written.

    Raises
    ------
    StoreError
        If the block is not one shard of the store, or it cannot be written.
    """
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    hashes = write_spectra(paths.join(url, store), block, spectra)
    objects = {f"{store}/{key}": value for key, value in hashes.items()}
    counts = count(spectra) if count else {}
    return ledger.commit(block, BlockResult(block.size, objects, counts, new_attempt()))


def commit_bytes(
    url: str,
    block: Block,
    data: bytes,
    ending: str,
    *,
    rows: int | None = None,
    counts: Mapping[str, int] | None = None,
) -> BlockResult:
    """Write one block's bytes as a part that its attempt names, then commit it.

    Parameters
    ----------
    url : str
        The stage's folder.
    block : Block
    data : bytes
    ending : str
        Of the part's name, without the dot.
    rows : int, optional
        What the commit counts as its rows; those of the block if not given.
    counts : mapping of str to int, optional
        What the commit says of them.

    Returns
    -------
    BlockResult
        The commit that stands: an earlier one if there is one, and then nothing is written.

    Raises
    ------
    StoreError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = commit_bytes(folder, Block("row", 7, 0, 5), b"one", "txt")
    ...     second = commit_bytes(folder, Block("row", 7, 0, 5), b"another", "txt")
    ...     (part,) = second.objects
    ...     second == first, part[:13], part[-4:], paths.read_bytes(f"{folder}/{part}")
    (True, 'parts/000007-', '.txt', b'one')
    """
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    attempt = new_attempt()
    key = f"parts/{block.index:06d}-{attempt}.{ending}"
    paths.write_bytes(paths.join(url, key), data)
    rows = block.size if rows is None else rows
    result = BlockResult(rows, {key: paths.sha256(data)}, dict(counts or {}), attempt)
    return ledger.commit(block, result)
