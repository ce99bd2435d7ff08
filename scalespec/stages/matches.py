"""Blocks of matches -> one table of them, split by star, and the spectra of stars with several.

One block is in memory at a time, and beside it of the whole survey only a count by hash of stars.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from scalespec.config import digest
from scalespec.kernels.match import split_by_star
from scalespec.stages import matched
from scalespec.stages.matching import repeats
from scalespec.store import paths
from scalespec.store.catalog import iterate_parts
from scalespec.store.joined import write_tables
from scalespec.store.ledger import Ledger

BESIDE = ("right", "mutual", "spectrum_snr")
"""Columns of a block's matches that the table of best matches leaves out."""
REPEATED = ("star", "row", "obsid", "spectrum_snr", "separation_arcsec", "rank")
"""Columns that say which spectra are of one star."""
SIEVE = 1 << 24
"""Counters of stars by hash [16 MB]: who is alone in one has but one spectrum."""


@dataclass(frozen=True)
class Split:
    """How stars are dealt to training, validation and test: shares of 1, and the seed."""

    fractions: tuple[float, float, float]
    seed: int

    def of(self, stars: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return each star's part."""
        return split_by_star(stars, fractions=self.fractions, seed=self.seed)


def combine_matches(url: str, split: Split, nobody: pd.DataFrame) -> None:
    """Put the committed parts together, in block order, with the split of their stars.

    Beside ``matches.parquet``, one row per matched spectrum, stand ``pairs.parquet`` with every
    candidate, where the table asked for all, and ``repeats.parquet``, the spectra of stars that
    have several: the one of highest S/N is each star's number 0. What stands already, made of the
    same parts, is left alone.

    Parameters
    ----------
    url : str
        Folder of the matches.
    split : Split
        Which stars are learned from.
    nobody : pd.DataFrame
        A table of matches without a row: some catalogs match nothing.
    """
    commits = Ledger(url).commits().values()
    made_of = digest([result.objects for result in commits])
    if matched.stands(url, made_of, "repeats.parquet"):
        return
    matched.begin(url)
    seen = np.zeros(SIEVE, np.uint8)
    none = nobody.assign(split=np.zeros(0, np.uint8))
    best = partial(_best, none=none, url=url, split=split)
    write_tables(paths.join(url, matched.TABLE), best(seen=seen))
    if any(result.rows > result.counts["matched"] for result in commits):
        every = partial(_every, none=none, url=url, split=split)
        write_tables(paths.join(url, "pairs.parquet"), every())
    several = [_several(part, seen) for part in _parts(url, REPEATED)]
    grouped = repeats(pd.concat([nobody[list(REPEATED)], *several], ignore_index=True))
    table = pa.Table.from_pandas(grouped, preserve_index=False)
    write_tables(paths.join(url, "repeats.parquet"), [table])
    matched.finish(url, made_of)


def _parts(url: str, columns: tuple[str, ...] | None = None) -> Iterator[pd.DataFrame]:
    for table in iterate_parts(url, columns):
        yield table.to_pandas()


def _dealt(url: str, split: Split, none: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield a table without a row, whose columns are those of all, and those of the blocks."""
    yield none
    for part in _parts(url):
        yield part.assign(split=split.of(part["star"].to_numpy()))


def _best(
    seen: npt.NDArray[np.uint8], url: str, split: Split, none: pd.DataFrame
) -> Iterator[pa.Table]:
    """Yield the best matches of each block, and count their stars."""
    schema: pa.Schema | None = None
    for part in _dealt(url, split, none):
        first = part[part["rank"] == 0]
        places, count = np.unique(_place(first["star"]), return_counts=True)
        seen[places] = np.minimum(seen[places] + np.minimum(count, 2), 2)
        kept = first.drop(columns=list(BESIDE))
        table = pa.Table.from_pandas(kept, schema, preserve_index=False)
        schema = schema or table.schema
        yield table


def _every(url: str, split: Split, none: pd.DataFrame) -> Iterator[pa.Table]:
    """Yield all candidates of each block."""
    schema: pa.Schema | None = None
    for part in _dealt(url, split, none):
        kept = part.drop(columns="spectrum_snr")
        table = pa.Table.from_pandas(kept, schema, preserve_index=False)
        schema = schema or table.schema
        yield table


def _several(part: pd.DataFrame, seen: npt.NDArray[np.uint8]) -> pd.DataFrame:
    """Return the best matches whose star may have several spectra."""
    more: pd.DataFrame = part[(part["rank"] == 0) & (seen[_place(part["star"])] > 1)]
    return more


def _place(star: pd.Series) -> npt.NDArray[np.int64]:
    """Return the counter of each star; a star is a hash, or a small number."""
    number = star.to_numpy().astype(np.uint64)
    return ((number ^ (number >> np.uint64(24))) & np.uint64(SIEVE - 1)).astype(np.int64)
