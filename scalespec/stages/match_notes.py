"""What is said of matches that may be a mistake: none at all, or keys with several labels."""

import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt
import pyarrow.parquet as pq

from scalespec.config import CrossmatchTable, RunConfig
from scalespec.errors import StageError
from scalespec.stages import folders
from scalespec.stages.matched import TABLE
from scalespec.stages.partitions import SKY_CELLS, Sorted
from scalespec.store import paths
from scalespec.store.batches import opened
from scalespec.store.ledger import Ledger

log = logging.getLogger(__name__)

CONFLICTING = "conflicting"
"""Count, and column of pairs: joined by an id that rows with other labels have, too."""


def note_matches(name: str, table: CrossmatchTable, url: str, sides: tuple[Sorted, Sorted]) -> None:
    """Say what of one catalog's matches may be a mistake.

    Parameters
    ----------
    name : str
        Of ``[crossmatch.NAME]``.
    table : CrossmatchTable
    url : str
        Folder of the matches, all of whose blocks are committed.
    sides : pair of Sorted
        Entries of the spectra and of the catalog that were matched.
    """
    commits = [result.counts for result in Ledger(url).commits().values()]
    if not sum(counts["matched"] for counts in commits):
        spectra, catalog = (_described(side, table) for side in sides)
        log.warning("crossmatch.%s matched nothing: the spectra have %s; %s has %s; are columns "
                    "and units those meant?", name, spectra, table.catalog, catalog)  # fmt: skip
    if n := sum(counts.get(CONFLICTING, 0) for counts in commits):
        log.warning("crossmatch.%s: %d spectra are joined by an id that %s has in several rows, "
                    "with different labels: one of them is taken; choose rows by where",
                    name, n, table.catalog)  # fmt: skip


def _described(side: Sorted, table: CrossmatchTable) -> str:
    """Return the range of positions of entries, and an id for example, as far as they are used."""
    said = []
    if table.ra:
        ranges = [_range(side, column) for column in ("ra", "dec")]
        said.append(
            "RA {:.5g} to {:.5g}, Dec {:.5g} to {:.5g} deg".format(*ranges[0], *ranges[1])
            if ranges[0]
            else "no position"
        )
    if table.key:
        known = next((ids for ids in _columns(side, "id", by_id=True) if len(ids)), None)
        said.append("no id" if known is None else f"ids as '{known[0]}'")
    return " and ".join(said)


def _range(side: Sorted, column: str) -> tuple[float, ...]:
    """Return the least and most of a column of the entries on the sky; nothing without any."""
    parts = [part for part in _columns(side, column, by_id=False) if len(part)]
    if not parts:
        return ()
    return float(min(p.min() for p in parts)), float(max(p.max() for p in parts))


def _columns(side: Sorted, column: str, *, by_id: bool) -> Iterator[npt.NDArray[Any]]:
    """Yield a column of all entries on the sky, or of those by id, a table at a time."""
    for key in side.keys:
        data = io.BytesIO(paths.read_bytes(paths.join(side.url, key)))
        found = pq.read_table(data, columns=["cell", column])
        yield found[column].to_numpy()[(found["cell"].to_numpy() >= SKY_CELLS) == by_id]


def check_matched(config: RunConfig, name: str, labels: Sequence[str]) -> None:
    """Refuse to learn from a catalog that gave nothing to learn from.

    Raises
    ------
    StageError
        If no spectrum matched, or one of the labels is text.
    """
    table = paths.join(folders.matches_url(config, name), TABLE)
    if not paths.exists(table):
        return  # said by who looks for it
    with opened(table) as source:
        found = pq.ParquetFile(source)
        n, schema = found.metadata.num_rows, found.schema_arrow
    if not n:
        raise StageError(
            f"crossmatch.{name} matched nothing: there is nothing to learn from; compare ra, dec, "
            "key, units and where of its table with the catalog"
        )
    strings = {one.name for one in schema if str(one.type).endswith("string")}  # large ones, too
    if text := [label for label in labels if label in strings]:
        raise StageError(f"crossmatch.{name}: {text} hold text, and labels are numbers")
