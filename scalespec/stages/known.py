"""Which inputs a plan has already, and which of them changed since; names as hashes of 64 bits."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from scalespec.stages.segments import Segment, part_url
from scalespec.store import paths
from scalespec.store.listing import Entry

BATCH = 65_536
READ_AT_ONCE = 4
"""Lists of inputs read at once."""


def differs(planned: Any, found: Entry) -> bool:
    """Whether a file is another one than was planned (fields size, modified, etag).

    Equal etags mean equal content, whatever the time; what was not known does not differ.
    """
    if planned.size < 0 or found.size < 0:
        return False
    if planned.size != found.size:
        return True
    if planned.etag and found.etag:
        return bool(planned.etag != found.etag)
    return bool(planned.modified and found.modified and planned.modified != found.modified)


class Known:
    """What is planned already, as hashes: 32 bytes an input."""

    def __init__(self, url: str, segments: Sequence[Segment]) -> None:
        parts = [part_url(url, s.attempt, block) for s in segments for block in s.blocks]
        columns = ["url", "size", "modified", "etag"]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            read = [_NOTHING, *pool.map(lambda part: _identities(part, columns), parts)]
        self.names, *identity = (np.concatenate(column) for column in zip(*read, strict=True))
        order = np.argsort(self.names, kind="stable")
        self.names, self.identity = self.names[order], [column[order] for column in identity]
        self.changed: list[str] = []
        self.n_changed = 0

    def fresh(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Yield what is not planned yet, and remember what is, but differs."""
        if not len(self.names):
            yield from entries
            return
        while batch := list(islice(entries, BATCH)):
            names = hash_names([paths.plain(entry.url) for entry in batch])
            place = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
            there = self.names[place] == names
            self._compare([batch[i] for i in np.flatnonzero(there)], place[there])
            yield from (batch[i] for i in np.flatnonzero(~there))

    def _compare(self, entries: Sequence[Entry], place: npt.NDArray[np.intp]) -> None:
        etags = hash_names([entry.etag for entry in entries])
        size, modified, etag = (column[place] for column in self.identity)
        for i, entry in enumerate(entries):
            known = "known" if etag[i] == etags[i] else "another"
            planned = Entry("", int(size[i]), float(modified[i]), known if _some(etag[i]) else "")
            if differs(planned, entry._replace(etag="known" if entry.etag else "")):
                self.n_changed += 1
                self.changed += [entry.url] if len(self.changed) < BATCH else []


class Seen:
    """Names that came before, as hashes of 8 bytes, in sorted runs that are merged as they grow.

    Examples
    --------
    >>> seen = Seen()
    >>> seen.first(["a", "b", "a"]).tolist(), seen.first(["b", "c"]).tolist()
    ([True, True, False], [False, True])
    """

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.uint64]] = []

    def first(self, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which of the names neither came before nor stand earlier among them."""
        hashes = hash_names(names)
        new = np.zeros(len(hashes), bool)
        new[np.unique(hashes, return_index=True)[1]] = True
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            new &= run[place] != hashes
        if new.any():
            self._runs.append(np.sort(hashes[new]))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]), kind="stable")]
        return new


def _some(etag: np.uint64) -> bool:
    return bool(etag != _NO_ETAG)


def hash_names(values: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return 64 bits of each string: of 10^7, two are alike with a chance of 3e-6."""
    return pd.util.hash_array(np.array(values, dtype=object), categorize=False)


_NO_ETAG = hash_names([""])[0]


_NOTHING = tuple(np.zeros(0, kind) for kind in (np.uint64, np.int64, np.float64, np.uint64))


def _identities(part: str, columns: list[str]) -> tuple[npt.NDArray[Any], ...]:
    table = pq.read_table(io.BytesIO(paths.read_bytes(part)), columns=columns)
    return (
        hash_names([paths.plain(url) for url in table["url"].to_pylist()]),
        table["size"].to_numpy(),
        table["modified"].to_numpy(),
        hash_names(table["etag"].to_pylist()),
    )
