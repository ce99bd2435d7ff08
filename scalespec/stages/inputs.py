"""What to ingest: one row per planned spectrum, from globs, file lists or a release catalog.

Everything streams: ten million inputs are never ten million Python objects at once. A plan is a
Parquet part per block whose rows are items (file, first, count), with what identifies the file:
size, and time or etag; count 0 is a container of which nothing could be counted, and one row all
the same. Every run looks again. New inputs become a new segment (`segments`); an
input that changed is named in a warning and keeps what was read of it; one that changes between
planning and reading gets ``SpectrumStatus.CHANGED``.
"""

import heapq
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.config import IngestTable, RunConfig, digest
from scalespec.errors import ConfigError, StoreError, SurveyFileError
from scalespec.plan import Block
from scalespec.stages import folders
from scalespec.stages.reader import survey_of
from scalespec.stages.release import iterate_release
from scalespec.stages.segments import (
    Segment,
    add_segment,
    find_part,
    next_start,
    part_url,
)
from scalespec.store import paths
from scalespec.store.fetch import is_lasting
from scalespec.store.ledger import new_attempt
from scalespec.store.listing import Entry, identify, iterate_files, split_glob
from scalespec.surveys.rows import Survey

log = logging.getLogger(__name__)

BATCH = 65_536
COUNTED_AT_ONCE = 4
"""Containers read at once to count their spectra."""
TRIES = 3
PAUSE_S = 0.5  # between tries to read a container
NAMED = 5
"""Changed inputs that a warning names."""


class Item(NamedTuple):
    """Spectra ``[first, first + n)`` of one file; one row, if they could not be counted."""

    entry: Entry
    first: int
    n: int
    counted: bool = True


def plan_inputs(config: RunConfig) -> dict[str, Any]:
    """List the inputs, and write those that are not planned yet as a new segment.

    Returns
    -------
    dict
        ``n`` spectra, ``files``, ``bytes`` of input, ``added`` spectra, and the names of inputs
        that ``changed`` since they were planned.

    Raises
    ------
    ConfigError
        If the survey is not known or there is nothing to read.
    StoreError
        If a container cannot be read now: nothing is added to the plan then.
    """
    if config.ingest is None:
        raise ConfigError("the run file has no [ingest] table")
    url, survey = folders.plan_url(config), survey_of(config.ingest)
    known = _Known(url, folders.planned_segments(config))
    fresh = known.fresh(list_inputs(config.ingest, survey))
    added = _add(config, url, cut_items(as_items(fresh, survey), config.run.spectra_per_block))
    segments = folders.planned_segments(config)
    if not segments:
        wanted = config.ingest.files or config.ingest.catalog
        raise ConfigError(f"ingest: nothing to read in {wanted!r}: no file matches")
    if known.changed:
        some = ", ".join(known.changed[:NAMED])
        log.warning(
            "%d inputs changed since they were planned: %s%s; rows read before keep the old "
            "content, rows read from now on are marked CHANGED. To read all anew, delete %s",
            *(known.n_changed, some, " ..." if known.n_changed > NAMED else "", url),
        )
    total = {"n": sum(s.n for s in segments), "files": sum(s.n_files for s in segments)}
    return total | {
        "bytes": sum(s.bytes for s in segments),
        "added": added,
        "changed": list(known.changed),
    }


def _add(config: RunConfig, url: str, cut: Iterator[list[Item]]) -> int:
    """Write the lists of one new segment, then its record; return the number of its spectra."""
    size, attempt = config.run.spectra_per_block, new_attempt()
    number, start = next_start(url)
    base = common_root(config)
    stop, n_files, n_bytes, hashes = start, 0, 0, []
    for items in cut:
        block = Block("spectrum", stop // size, stop, stop + sum(item.n for item in items))
        part = _part(items, base)
        paths.write_bytes(part_url(url, attempt, block), part)
        hashes.append(paths.sha256(part))
        whole = [item.entry.size for item in items if item.first == 0]
        n_files, n_bytes = n_files + len(whole), n_bytes + sum(max(s, 0) for s in whole)
        stop = block.stop
    if stop == start:
        return 0
    made = Segment(
        start, stop, size, folders.entries_of(config), n_bytes, n_files, digest(hashes), attempt
    )
    if not add_segment(url, number, made):
        log.info("%s: planned by another driver meanwhile: its plan stands", url)
        return 0
    return made.n


def _part(items: Sequence[Item], base: str) -> bytes:
    entries = [item.entry for item in items]
    table = pa.table(
        {
            "url": [e.url for e in entries],
            "file": [below(e.url, base) for e in entries],
            "size": pa.array([e.size for e in entries], pa.int64()),
            "modified": pa.array([e.modified for e in entries], pa.float64()),
            "etag": pa.array([e.etag for e in entries], pa.string()),
            "source_id": pa.array([e.source_id for e in entries], pa.int64()),
            "first": pa.array([item.first for item in items], pa.int64()),
            "count": pa.array([item.n if item.counted else 0 for item in items], pa.int64()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_items(plan_url: str, block: Block) -> pd.DataFrame:
    """Return a planned block's items: url, file, size, modified, etag, source_id, first, count.

    Raises
    ------
    StoreError
        If the block is not planned.
    """
    return pd.read_parquet(io.BytesIO(paths.read_bytes(find_part(plan_url, block))))


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


class _Known:
    """What is planned already, as hashes: 32 bytes an input."""

    def __init__(self, url: str, segments: Sequence[Segment]) -> None:
        parts = [part_url(url, s.attempt, block) for s in segments for block in s.blocks]
        columns = ["url", "size", "modified", "etag"]
        with ThreadPoolExecutor(COUNTED_AT_ONCE) as pool:
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
            names = _hash([paths.plain(entry.url) for entry in batch])
            place = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
            there = self.names[place] == names
            self._compare([batch[i] for i in np.flatnonzero(there)], place[there])
            yield from (batch[i] for i in np.flatnonzero(~there))

    def _compare(self, entries: Sequence[Entry], place: npt.NDArray[np.intp]) -> None:
        etags = _hash([entry.etag for entry in entries])
        size, modified, etag = (column[place] for column in self.identity)
        for i, entry in enumerate(entries):
            known = "known" if etag[i] == etags[i] else "another"
            planned = Entry("", int(size[i]), float(modified[i]), known if _some(etag[i]) else "")
            if differs(planned, entry._replace(etag="known" if entry.etag else "")):
                self.n_changed += 1
                self.changed += [entry.url] if len(self.changed) < BATCH else []


def _some(etag: np.uint64) -> bool:
    return bool(etag != _NO_ETAG)


def _hash(values: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return 64 bits of each string: of 10^7, two are alike with a chance of 3e-6."""
    return pd.util.hash_array(np.array(values, dtype=object), categorize=False)


_NO_ETAG = _hash([""])[0]


_NOTHING = tuple(np.zeros(0, kind) for kind in (np.uint64, np.int64, np.float64, np.uint64))


def _identities(part: str, columns: list[str]) -> tuple[npt.NDArray[Any], ...]:
    table = pq.read_table(io.BytesIO(paths.read_bytes(part)), columns=columns)
    return (
        _hash([paths.plain(url) for url in table["url"].to_pylist()]),
        table["size"].to_numpy(),
        table["modified"].to_numpy(),
        _hash(table["etag"].to_pylist()),
    )


def list_inputs(table: IngestTable, survey: Survey) -> Iterator[Entry]:
    """Yield every input in the store's order: that of HEALPix cells where known, else of keys."""
    found = iterate_release(table, survey) if table.catalog else _from_files(table, survey)
    return islice(found, table.limit) if table.limit else found


def count_inputs(config: RunConfig) -> tuple[int, int]:
    """Return how many spectra are planned, or about how many would be, and their files' bytes.

    Of containers that are not planned yet only the first is read.
    """
    if segments := folders.planned_segments(config):
        return sum(s.n for s in segments), sum(s.bytes for s in segments)
    if config.ingest is None:
        return 0, 0
    survey = survey_of(config.ingest)
    entries = list_inputs(config.ingest, survey)
    first = list(islice(entries, 1))
    per_file = sum(item.n for item in as_items(iter(first), survey))
    n_files = n_bytes = 0
    for entry in chain(first, entries):
        n_files, n_bytes = n_files + 1, n_bytes + max(entry.size, 0)
    return per_file * n_files, n_bytes


def block_bytes(config: RunConfig) -> int:
    """Return the bytes of the files of one block, on average."""
    n, n_bytes = count_inputs(config)
    return min(config.run.spectra_per_block, n) * n_bytes // max(n, 1)


def as_items(entries: Iterator[Entry], survey: Survey) -> Iterator[Item]:
    """Yield a file's spectra as one item; a container that is damaged or not there is one row."""
    count = survey.count_spectra
    if count is None:
        yield from (Item(entry, 0, 1) for entry in entries)
        return

    with ThreadPoolExecutor(COUNTED_AT_ONCE) as pool:
        while batch := list(islice(entries, COUNTED_AT_ONCE)):
            found = pool.map(lambda entry: _count(entry.url, count), batch)
            for entry, n in zip(batch, found, strict=True):
                yield Item(entry, 0, max(n, 1), counted=n > 0)


def _count(url: str, count: Callable[[bytes], int], tries: int = TRIES) -> int:
    """Return how many spectra a container holds; 0 of one that is damaged or not there.

    Raises
    ------
    StoreError
        If it cannot be read for a reason that may pass: planned as one row, the rest of it would be
        left out for good.
    """
    try:
        return count(paths.read_bytes(url))
    except SurveyFileError:
        return 0
    except StoreError as error:
        if is_lasting(url, error):
            return 0
        if tries == 1:
            raise StoreError(
                f"{error}; its spectra cannot be counted, so no new input is planned: run again "
                "when it can be read"
            ) from error
        log.warning("%s; %d tries left", error, tries - 1)
    time.sleep(PAUSE_S)
    return _count(url, count, tries - 1)


def cut_items(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items of one block after another; a container is cut where a block ends."""
    held: list[Item] = []
    room = size
    for item in items:
        while item.n > room:
            yield [*held, item._replace(n=room)]
            item = Item(item.entry, item.first + room, item.n - room)  # noqa: PLW2901
            held, room = [], size
        held.append(item)
        room -= item.n
        if not room:
            yield held
            held, room = [], size
    if held:
        yield held


def common_root(config: RunConfig) -> str:
    """Return the folder that all inputs lie below: what a catalog calls its files starts there."""
    if config.ingest and config.ingest.catalog:
        return paths.plain(config.ingest.root).rstrip("/")
    roots = [paths.plain(root) for entry in folders.entries_of(config) for root in _roots(entry)]
    try:
        shared = os.path.commonpath([root or "." for root in roots])
    except ValueError:  # a bucket and a disk have nothing in common
        return ""
    if not roots[0].startswith("s3://"):
        return shared
    return "s3://" + shared[len("s3:/") :] if shared != "s3:" else ""  # it drops a slash


def _roots(pattern: str) -> Iterator[str]:
    if pattern.startswith("@"):
        yield from {paths.split(url)[0] for url in _lines(pattern[1:])}
    elif _is_glob(pattern):
        yield split_glob(pattern)[0]
    else:
        yield pattern if paths.is_folder(pattern) else paths.split(pattern)[0]


def _is_glob(pattern: str) -> bool:
    return any(c in paths.plain(pattern) for c in "*?[")


def below(url: str, base: str) -> str:
    """Return a path below a folder, as a catalog calls its files.

    Examples
    --------
    >>> below("s3://b/dr10/x/1.fits?region=x", "s3://b/dr10"), below("/a/1.fits", "/b")
    ('x/1.fits', '/a/1.fits')
    """
    return paths.plain(url).removeprefix(base.rstrip("/") + "/") if base else paths.plain(url)


def _from_files(table: IngestTable, survey: Survey) -> Iterator[Entry]:
    entries = (table.files,) if isinstance(table.files, str) else table.files
    listed = [_listed(pattern, survey) for pattern in entries]
    before = ""
    for entry in heapq.merge(*listed, key=lambda entry: paths.plain(entry.url)):
        if entry.url != before:
            yield entry
        before = entry.url


def _listed(pattern: str, survey: Survey) -> Iterable[Entry]:
    """Yield what one `files` entry names; a listed file that is missing keeps its row."""
    if not pattern.startswith("@"):
        folder = not _is_glob(pattern) and paths.is_folder(pattern)
        yield from iterate_files(paths.join(pattern, survey.pattern) if folder else pattern)
        return
    lines = sorted(_lines(pattern[1:]))
    for start in range(0, len(lines), BATCH):
        yield from identify(lines[start : start + BATCH])


def _lines(url: str) -> Iterator[str]:
    """Yield what a list names, relative to the list's own folder."""
    root, _ = paths.split(url)
    for line in io.StringIO(paths.read_bytes(url).decode()):
        name = line.strip()
        if name and not name.startswith("#"):
            yield name if name.startswith("/") or "://" in name else paths.join(root, name)
