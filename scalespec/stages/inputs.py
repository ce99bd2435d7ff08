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
from fnmatch import fnmatchcase
from itertools import chain, islice
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.config import IngestTable, RunConfig, digest
from scalespec.errors import ConfigError, StoreError, SurveyFileError
from scalespec.plan import Block
from scalespec.stages import folders
from scalespec.stages.known import BATCH, Known
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
from scalespec.store.fetch import is_lasting, refuse_vanished
from scalespec.store.ledger import new_attempt
from scalespec.store.listing import Entry, identify, iterate_files, split_glob
from scalespec.surveys.rows import Survey

log = logging.getLogger(__name__)

OTHERS_SAID = 3
"""Files of a folder, left out by their names, that are named."""
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
        If a container cannot be read now, or a file is missing with all else of its root: nothing
        is added to the plan then.
    """
    if config.ingest is None:
        raise ConfigError("the run file has no [ingest] table")
    url, survey = folders.plan_url(config), survey_of(config.ingest)
    before = folders.planned_segments(config)
    known = Known(url, before)
    fresh = known.fresh(list_inputs(config.ingest, survey))
    if (limit := config.ingest.limit) is None:
        items = as_items(fresh, survey)
    else:
        items = first_spectra(fresh, survey, limit - sum(segment.n for segment in before))
    added = _add(config, url, cut_items(items, config.run.spectra_per_block))
    segments = folders.planned_segments(config)
    if not segments:
        raise nothing_to_read(config.ingest)
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


def nothing_to_read(table: IngestTable) -> ConfigError:
    """Return what is said of inputs that are none."""
    wanted = table.files or table.catalog
    return ConfigError(f"ingest: nothing to read in {wanted!r}: no file matches")


def _add(config: RunConfig, url: str, cut: Iterator[list[Item]]) -> int:
    """Write the lists of one new segment, then its record; return the number of its spectra."""
    size, attempt = config.run.spectra_per_block, new_attempt()
    number, start = next_start(url)
    base, roots = common_root(config), input_roots(config)
    stop, n_files, n_bytes, hashes = start, 0, 0, []
    for items in cut:
        block = Block("spectrum", stop // size, stop, stop + sum(item.n for item in items))
        refuse_vanished([item.entry.url for item in items if item.entry.size < 0], roots)
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


def list_inputs(table: IngestTable, survey: Survey) -> Iterator[Entry]:
    """Yield every input in the store's order: that of HEALPix cells where known, else of keys."""
    return iterate_release(table, survey) if table.catalog else _from_files(table, survey)


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
    limit = config.ingest.limit
    wanted = -(-limit // max(per_file, 1)) if limit else None
    n_files = n_bytes = 0
    for entry in islice(chain(first, entries), wanted):
        n_files, n_bytes = n_files + 1, n_bytes + max(entry.size, 0)
    return min(per_file * n_files, limit or per_file * n_files), n_bytes


def block_bytes(config: RunConfig) -> int:
    """Return the bytes of the files of one block, on average."""
    n, n_bytes = count_inputs(config)
    return min(config.run.spectra_per_block, n) * n_bytes // max(n, 1)


def as_items(entries: Iterator[Entry], survey: Survey) -> Iterator[Item]:
    """Yield a file's spectra as one item; a container that is damaged or not there is one row.

    A catalog names one star of a container of several, and not which: its id is left out.
    """
    count = survey.count_spectra
    if count is None:
        yield from (Item(entry, 0, 1) for entry in entries)
        return

    with ThreadPoolExecutor(COUNTED_AT_ONCE) as pool:
        while batch := list(islice(entries, COUNTED_AT_ONCE)):
            found = pool.map(lambda entry: _count(entry.url, count), batch)
            for entry, n in zip(batch, found, strict=True):
                named = entry if n == 1 or survey.one_star else entry._replace(source_id=-1)
                yield Item(named, 0, max(n, 1), counted=n > 0)


def first_spectra(entries: Iterator[Entry], survey: Survey, n: int) -> Iterator[Item]:
    """Yield items of the first `n` spectra; of a container, the first of its spectra."""
    if n <= 0:
        next(entries, None)  # what is planned already is looked at on the way there
        return
    for item in as_items(entries, survey):
        yield item._replace(n=min(item.n, n))
        n -= item.n
        if n <= 0:
            return


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
    return _shared([root for entry in folders.entries_of(config) for root in _roots(entry)])


def input_roots(config: RunConfig) -> tuple[str, ...]:
    """Return the folders that inputs are planned under, one for each `files` entry, or a catalog's.

    Two disks may so be two entries, and each is missed when it is not mounted. Of a list it is the
    folder that all its files lie below; one whose files have none in common has no root.
    """
    entries = folders.entries_of(config)
    found = [_shared(list(_roots(entry))) for entry in entries] or [common_root(config)]
    return tuple(dict.fromkeys(filter(None, found)))


def _shared(urls: Sequence[str]) -> str:
    """Return the folder that all of some folders lie in, without options; "" if there is none."""
    roots = [paths.plain(url) for url in urls]
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
        yield from _of_folder(pattern, survey) if folder else iterate_files(pattern)
        return
    lines = sorted(_lines(pattern[1:]))
    for start in range(0, len(lines), BATCH):
        yield from identify(lines[start : start + BATCH])


def _of_folder(folder: str, survey: Survey) -> Iterator[Entry]:
    """Yield a folder's files of the survey's names; say how many FITS files have other names."""
    name = survey.pattern.removeprefix("**/")
    if "/" in name or not name.endswith(".fits*"):
        yield from iterate_files(paths.join(folder, survey.pattern))
        return
    others: list[str] = []
    n_others = 0
    for entry in iterate_files(paths.join(folder, "**/*.fits*")):
        if fnmatchcase(found := paths.split(paths.plain(entry.url))[1], name):
            yield entry
        else:
            n_others += 1
            others += [found] if n_others <= OTHERS_SAID else []
    if n_others:
        log.warning("%s: %d FITS files are left out, as %s: of a folder, only %s are taken; a glob "
                    "takes what it matches", folder, n_others, ", ".join(others), name)  # fmt: skip


def _lines(url: str) -> Iterator[str]:
    """Yield what a list names, relative to the list's own folder."""
    root, _ = paths.split(url)
    for line in io.StringIO(paths.read_bytes(url).decode()):
        name = line.strip()
        if name and not name.startswith("#"):
            yield name if name.startswith("/") or "://" in name else paths.join(root, name)
