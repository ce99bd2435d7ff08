"""What lies under a glob: one entry after another, in the order of their keys.

Nothing is held but the folders being read, many at once: ten million names are never in memory
together. Disk and object store give the same order, that of the bytes of the keys.
"""

import fnmatch
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import obstore
import pyarrow as pa
import pyarrow.compute as pc

from scalespec.errors import StoreError
from scalespec.store import paths

LISTINGS_IN_FLIGHT = 16
"""Folders, or prefixes of a bucket, that are listed at once."""
FEW = 8
"""Names wanted of one folder of a bucket, up to which each is asked for by itself."""
HEADS_IN_FLIGHT = 64
ROWS = 8192  # names that become Python objects at a time
WILD = "*?["
UNFINISHED = re.compile(r"#\d+$")

T = TypeVar("T")
R = TypeVar("R")


class Entry(NamedTuple):
    """One object: where it is and what identifies its content."""

    url: str
    size: int  # bytes; -1: not known, or no such object
    modified: float  # seconds since 1970, UTC; 0: not known
    etag: str = ""  # an object store's; a disk has none
    source_id: int = -1  # of its star, where a release catalog says so; -1: not known


def list_files(pattern: str) -> list[Entry]:
    """List files by a glob (``**`` for any depth), a folder, or one name; sorted by key.

    Raises
    ------
    StoreError
        If the folder before the first wildcard does not exist.
    """
    return list(iterate_files(pattern))


def iterate_files(pattern: str) -> Iterator[Entry]:
    """Yield what `list_files` returns, one by one.

    Links to files and folders are followed, but never to a folder above.

    Raises
    ------
    StoreError
        As `list_files`.
    """
    root, glob = split_glob(pattern)
    if paths.is_remote(pattern):
        yield from _remote(root, glob)
    elif Path(root).is_file():
        yield entry(root)
    elif Path(root).is_dir():
        yield from _local(root, glob)
    else:
        raise StoreError(f"{root}: no such file or folder")


def split_glob(pattern: str) -> tuple[str, str]:
    """Return the folder before the first wildcard, with its query, and the glob below it.

    Examples
    --------
    >>> split_glob("s3://b/dr10/**/spec-*.fits.gz?region=x")
    ('s3://b/dr10?region=x', '**/spec-*.fits.gz')
    >>> split_glob("/data/dr10")
    ('/data/dr10', '**')
    """
    path, mark, query = pattern.partition("?") if paths.is_remote(pattern) else (pattern, "", "")
    parts = path.split("/")
    wild = next((i for i, part in enumerate(parts) if any(c in part for c in WILD)), None)
    root = "/".join(parts[:wild]) or ("/" if path.startswith("/") else ".")
    return root + mark + query, "**" if wild is None else "/".join(parts[wild:])


def entry(url: str) -> Entry:
    """Return what is known of one object; size -1 if it is not there."""
    if not paths.is_remote(url):
        try:
            found = paths.local_path(url).stat()
        except OSError:
            return Entry(url, -1, 0.0)
        return Entry(url, found.st_size, found.st_mtime)
    meta = paths.head(url)
    return Entry(url, -1, 0.0) if meta is None else as_entry(url, meta)


def holds_files(url: str) -> bool:
    """Whether one file at least lies below a folder or a prefix of a bucket, at any depth.

    A folder that cannot be listed holds none: nobody could read its files.
    """
    if not paths.is_remote(url):
        return _holds_files(str(paths.local_path(url)))
    with paths.explained(url):
        store, key = paths.opened(url)
        first = paths.persistent(lambda: next(iter(obstore.list(store, key or None)), ()))
    return bool(first)


def _holds_files(folder: str) -> bool:
    with suppress(OSError), os.scandir(folder) as found:  # its first name is soon there
        return any(not item.is_dir() or _holds_files(item.path) for item in found)
    return False


def identify(urls: Sequence[str]) -> list[Entry]:
    """Return what is known of each of many objects, in their order; see `entry`.

    A folder of a bucket of which many are wanted is listed rather than asked for one by one.
    """
    if not any(map(paths.is_remote, urls)):
        return [entry(url) for url in urls]
    wanted: dict[str, list[str]] = {}
    for url in urls:
        wanted.setdefault(paths.split(url)[0], []).append(url)
    few = [url for group in wanted.values() if len(group) <= FEW for url in group]
    many = [folder for folder, group in wanted.items() if len(group) > FEW]
    with ThreadPoolExecutor(HEADS_IN_FLIGHT) as pool:
        known = {found.url: found for found in pool.map(entry, few)}
        for listed in pool.map(_folder, many):
            known |= listed
    return [known.get(url) or Entry(url, -1, 0.0) for url in urls]


def _folder(url: str) -> dict[str, Entry]:
    """Return the objects directly in a folder of a bucket, by URL."""
    with paths.explained(url):
        store, key = paths.opened(url)
        found = paths.persistent(lambda: obstore.list_with_delimiter(store, key or None))
    names = [str(meta["path"]).rpartition("/")[2] for meta in found["objects"]]
    made = [
        as_entry(paths.join(url, name), meta)
        for name, meta in zip(names, found["objects"], strict=True)
    ]
    return {item.url: item for item in made}


def list_unfinished(url: str) -> dict[str, float]:
    """Return what is half-written below a local folder: ``x.parquet#1`` of ``x.parquet``.

    That is what kills left, and what is being written now. `paths.list_modified` leaves these files
    out; as there, each key has its time. Of a bucket there is none: parts of an upload that ended
    early are no object and in no listing, yet are kept and paid for until a rule of the bucket
    removes them (deploy/README.md has one).
    """
    found: dict[str, float] = {}
    if paths.is_remote(url):
        return found
    root = paths.local_path(url)
    for path in root.rglob("*#*"):
        with suppress(FileNotFoundError):  # it is whole by now
            if UNFINISHED.search(path.name):
                found[path.relative_to(root).as_posix()] = path.stat().st_mtime
    return found


def as_entry(url: str, meta: Any) -> Entry:
    """Return an object store's description of an object as an `Entry`."""
    return Entry(url, meta["size"], meta["last_modified"].timestamp(), meta["e_tag"] or "")


def _ahead(
    pool: ThreadPoolExecutor, call: Callable[[T], R], items: Iterable[T]
) -> Iterator[tuple[T, R]]:
    """Yield each item with what `call` gives for it, in order, some of them in flight."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(call, item)))
        if len(waiting) > LISTINGS_IN_FLIGHT:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def _component(glob: str) -> re.Pattern[str]:
    """Return what one part of a path must match."""
    return re.compile(fnmatch.translate(glob))


def _whole(glob: str) -> re.Pattern[str]:
    """Return what a whole path must match: '**/' is any number of folders, '*' within one."""
    marked = fnmatch.translate(glob.replace("**/", "\x00").replace("**", "\x01"))
    return re.compile(
        marked.replace(".*", "[^/]*").replace("\x00", "(?:.*/)?").replace("\x01", ".*")
    )


class _Tree:
    """A walk through local folders, in the order of the keys below their root."""

    def __init__(self, root: str, glob: str, pool: ThreadPoolExecutor) -> None:
        self.root, self.pool = root, pool
        self.parts = [None if "**" in part else _component(part) for part in glob.split("/")]
        self.deep = self.parts.index(None) if None in self.parts else len(self.parts) - 1
        self.bottomless = None in self.parts
        self.whole = _whole(glob)

    def scan(self, below: str) -> pa.Table:
        """Read one folder: its files that match, and its folders that may hold some, sorted."""
        depth = below.count("/")
        names: list[pa.Array] = []
        rows: list[tuple[str, int, float]] = []
        with os.scandir(_joined(self.root, below)) as found:
            for item in found:
                if row := self._row(item, below, depth):
                    rows.append(row)
                if len(rows) == ROWS:  # a folder may hold ten million
                    names.append(_batch(rows))
                    rows = []
        names.append(_batch(rows))
        table = pa.concat_tables(names).combine_chunks()
        return table.take(pc.sort_indices(table["name"]))

    def _row(
        self, item: "os.DirEntry[str]", below: str, depth: int
    ) -> tuple[str, int, float] | None:
        name = below + item.name
        if item.is_dir():
            known = depth >= self.deep or self.parts[depth].fullmatch(item.name)  # type: ignore[union-attr]
            inside = self.bottomless or depth < self.deep
            return (name + "/", -1, 0.0) if known and inside and not self._loops(item) else None
        if not self.whole.fullmatch(name):
            return None
        try:
            stat = item.stat()
        except OSError:  # a link to nowhere
            return None
        return name, stat.st_size, stat.st_mtime

    def _loops(self, item: "os.DirEntry[str]") -> bool:
        """Whether a folder is a link to one of those that hold it."""
        if not item.is_symlink():
            return False
        target = os.path.realpath(item.path) + "/"
        return (os.path.realpath(item.path.rpartition("/")[0] or "/") + "/").startswith(target)

    def walk(self, table: pa.Table) -> Iterator[Entry]:
        """Yield the files of a scanned folder and of those below it."""
        folders = (name for row in _rows(table, folders=True) for name in row[:1])
        scans = _ahead(self.pool, self.scan, folders)
        for name, size, modified in _rows(table):
            if name.endswith("/"):
                yield from self.walk(next(scans)[1])
            else:
                yield Entry(_joined(self.root, name), size, modified)


def _joined(root: str, name: str) -> str:
    """Return a name below a folder; never a Path, which would cost more than the listing."""
    return name or root if root == "." else f"{root.rstrip('/')}/{name}"


def _batch(rows: list[tuple[str, int, float]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    types = {"name": pa.large_binary(), "size": pa.int64(), "modified": pa.float64()}
    columns[0] = tuple(os.fsencode(name) for name in columns[0])  # bytes: any name, byte order
    arrays = [pa.array(c, t) for c, t in zip(columns, types.values(), strict=True)]
    return pa.table(arrays, names=list(types))


def _rows(table: pa.Table, *, folders: bool = False) -> Iterator[tuple[str, int, float]]:
    """Yield a scanned folder's rows; of folders alone if asked."""
    if folders:
        table = table.filter(pc.equal(table["size"], -1))
    for start in range(0, table.num_rows, ROWS):
        part = table.slice(start, ROWS)
        names = map(os.fsdecode, part["name"].to_pylist())
        yield from zip(names, part["size"].to_pylist(), part["modified"].to_pylist(), strict=True)


def _local(root: str, glob: str) -> Iterator[Entry]:
    with paths.explained(root), ThreadPoolExecutor(LISTINGS_IN_FLIGHT) as pool:
        tree = _Tree(root, glob, pool)
        yield from tree.walk(tree.scan(""))


def _remote(root: str, glob: str) -> Iterator[Entry]:
    if glob == "**" and (meta := paths.head(root)):  # one name
        yield as_entry(root, meta)
        return
    whole = _whole(glob)
    with paths.explained(root), ThreadPoolExecutor(LISTINGS_IN_FLIGHT) as pool:
        for table in _prefixes(pool, root, ""):
            for start in range(0, table.num_rows, ROWS):
                columns = table.slice(start, ROWS).to_pydict().values()
                for name, *facts in zip(*columns, strict=True):
                    if whole.fullmatch(name):
                        yield Entry(paths.join(root, name), *facts)


def _prefixes(pool: ThreadPoolExecutor, root: str, below: str) -> Iterator[pa.Table]:
    """Yield the objects below a prefix; its folders, where it has several, are listed at once."""
    store = paths.open_store(root)
    found = paths.persistent(lambda: obstore.list_with_delimiter(store, below or None))
    folders = sorted(str(prefix).rstrip("/") + "/" for prefix in found["common_prefixes"])
    if len(folders) == 1 and not found["objects"]:
        yield from _prefixes(pool, root, folders[0])
        return
    here = sorted(found["objects"], key=lambda meta: str(meta["path"]))
    start = 0
    for folder, table in _ahead(pool, lambda name: _listed(store, name), folders):
        stop = start + sum(str(meta["path"]) < folder for meta in here[start:])
        yield _columns(here[start:stop])
        yield table
        start = stop
    yield _columns(here[start:])


def _listed(store: Any, prefix: str) -> pa.Table:
    """List a prefix; in columns, for thousands of such lists wait for their turn."""

    def listed() -> list[pa.Table]:
        return [_columns(batch) for batch in obstore.list(store, prefix, chunk_size=1000)]

    return pa.concat_tables([_columns([]), *paths.persistent(listed)])


def _columns(batch: Sequence[Any]) -> pa.Table:
    found = [as_entry(str(meta["path"]), meta) for meta in batch]
    columns = list(zip(*found, strict=True)) or [()] * len(Entry._fields)
    kinds = (pa.string(), pa.int64(), pa.float64(), pa.string(), pa.int64())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=Entry._fields)
