"""Parquet parts -> one catalog.

A stage's parts are the tables its commits name, one per block; nothing is ever found by a glob, so
what a killed attempt left behind is not seen. A catalog is ``catalog.parquet``, what else its run
file asks for and, written last, ``manifest.json``: without it there is no catalog yet. A column
carries its unit, UCD and description as Arrow field metadata.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from scalespec.errors import StoreError
from scalespec.plan import Block, BlockResult
from scalespec.store import formats, paths, streams
from scalespec.store.committed import commit_bytes
from scalespec.store.ledger import Ledger, current, read_json, write_json

MANIFEST = "manifest.json"
PARQUET = "catalog.parquet"
FITS = "catalog.fits"
VOTABLE = "catalog.vot"
SINGLE_FILES = {"fits": (FITS, formats.write_fits), "votable": (VOTABLE, formats.write_votable)}
"""Name and writer of each form that is one file."""


def write_part(
    url: str, block: Block, table: pa.Table, *, counts: Mapping[str, int]
) -> BlockResult:
    """Store one block's table as a Parquet part, then commit it.

    Returns
    -------
    BlockResult
        The commit that stands: an earlier one if there is one, and then nothing is written.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    rows, data = table.num_rows, buffer.getvalue()
    return commit_bytes(url, block, data, "parquet", rows=rows, counts=counts)


def _load(url: str, result: BlockResult, columns: Sequence[str] | None) -> pa.Table:
    key = next((key for key in result.objects if key.startswith("parts/")), None)
    if key is None:
        raise StoreError(f"{url}: a commit names no part, only {sorted(result.objects)}")
    data = paths.read_bytes(paths.join(url, key))
    try:
        return pq.read_table(io.BytesIO(data), columns=None if columns is None else list(columns))
    except pa.ArrowException as error:
        raise StoreError(
            f"{paths.join(url, key)}: not the Parquet it should be ({error})"
        ) from error


def read_part(url: str, block: Block, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the committed table of one block.

    Raises
    ------
    StoreError
        If the block is not committed, or its part is missing or damaged.
    """
    result = Ledger(url).committed(block)
    if result is None:
        raise StoreError(f"{url}: block {block.index} is not committed")
    return _load(url, result, columns)


def iterate_parts(url: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the committed tables in block order, one in memory at a time.

    Raises
    ------
    StoreError
        If a part is missing or damaged, or its columns differ from those of the first.
    """
    yield from _tables(url, Ledger(url).commits(), columns)


def _tables(
    url: str, commits: Mapping[int, BlockResult], columns: Sequence[str] | None
) -> Iterator[pa.Table]:
    schema: pa.Schema | None = None
    for index, result in sorted(commits.items()):
        table = _load(url, result, columns)
        schema = schema or table.schema
        if not table.schema.equals(schema):
            raise StoreError(f"{url}: block {index} has other columns than the first block")
        yield table


def read_schema(url: str, columns: Sequence[str] | None = None) -> pa.Schema:
    """Return the columns of a stage's parts.

    Raises
    ------
    StoreError
        If no block is committed.
    """
    for table in iterate_parts(url, columns):
        return table.schema
    raise StoreError(f"{url}: no block is committed there")


def read_parts(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a stage's rows in block order: the parts its commits name, and no others.

    Parameters
    ----------
    url : str
        A stage's folder, ``<workspace>/<stage>/<digest>``.
    columns : sequence of str, optional
        Only these.

    Raises
    ------
    StoreError
        If no block is committed, a part is missing or damaged, or parts differ in their columns.

    Examples
    --------
    In the order of blocks, not that in which they were done:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i in (1, 0):
    ...         block = Block("spectrum", i, 2 * i, 2 * i + 2)
    ...         _ = write_part(folder, block, pa.table({"obsid": [10 * i, 10 * i + 1]}), counts={})
    ...     read_parts(folder)["obsid"].to_pylist()
    [0, 1, 10, 11]
    """
    tables = list(iterate_parts(url, columns))
    if not tables:
        raise StoreError(f"{url}: no block is committed there")
    return pa.concat_tables(tables)


def read_row_range(url: str, block: Block) -> pa.Table:
    """Return the rows of a block from one Parquet file that has a sorted column ``row``.

    Only the row groups that can hold them are read.

    Raises
    ------
    StoreError
        If the file is missing or damaged.
    """
    file_format = pads.ParquetFileFormat()
    wanted = (pads.field("row") >= block.start) & (pads.field("row") < block.stop)
    with streams.opened(url) as source:
        try:
            fragment = file_format.make_fragment(source)
            return fragment.to_table(filter=wanted)
        except pa.ArrowException as error:
            raise StoreError(f"{url}: not a Parquet table of rows ({error})") from error


def write_catalog(
    url: str,
    *,
    blocks: Sequence[Block],
    columns: Sequence[str] | None = None,
    notes: formats.Notes | None = None,
    wanted: Sequence[str] = ("fits",),
    objects: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Join the committed parts at `url` into one catalog; the same parts give the same bytes.

    Rows are streamed: memory is that of one row group, whatever the number of rows. A catalog that
    stands already, made of the same blocks, is left alone.

    Parameters
    ----------
    url : str
        Folder with commits and parts; the catalog is written into it.
    blocks : sequence of Block
        All that were planned; those not committed are named in the manifest.
    columns : sequence of str, optional
        Columns to publish, in this order; all of them if not given.
    notes : mapping of str to mapping, optional
        What coded values mean, ``{column: {code: meaning}}``; kept in manifest and FITS header.
    wanted : sequence of {"fits", "votable"}
        What to write beside Parquet.
    objects : mapping of str to str, optional
        What else lies in the folder already and belongs to the catalog: SHA-256 by name.
    facts : mapping, optional
        What else the manifest says.

    Returns
    -------
    dict
        The manifest: ``rows``, ``missing_blocks``, ``objects`` (name -> sha256), ``columns``.

    Raises
    ------
    StoreError
        If no block is committed, or something cannot be read or written.

    Examples
    --------
    Of two blocks one is done:

    >>> import tempfile
    >>> blocks = [Block("spectrum", 0, 0, 2), Block("spectrum", 1, 2, 4)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stars = pa.table({"obsid": [7, 8], "teff": [5777.0, 9600.0]})
    ...     _ = write_part(folder, blocks[0], stars, counts={})
    ...     manifest = write_catalog(folder, blocks=blocks, columns=["teff"])
    ...     open_catalog(folder).to_table().to_pydict()
    {'teff': [5777.0, 9600.0]}
    >>> manifest["rows"], manifest["missing_blocks"], sorted(manifest["objects"])
    (2, [1], ['catalog.fits', 'catalog.parquet'])
    """
    if standing := standing_catalog(url, blocks):
        return standing
    commits = Ledger(url).commits()
    if not commits:
        raise StoreError(f"{url}: no block is committed there")
    schema = next(_tables(url, commits, columns)).schema
    parts = partial(_tables, url, commits)
    written = {PARQUET: formats.write_parquet(paths.join(url, PARQUET), schema, parts)}
    for kind in wanted:
        name, write = SINGLE_FILES[kind]
        written[name] = write(paths.join(url, name), schema, parts, notes or {})
    manifest = {
        **(facts or {}),
        "format": "scalespec catalog 2",
        "key": paths.split(url)[1],
        "rows": sum(result.rows for result in commits.values()),
        "missing_blocks": [block.index for block in blocks if block.index not in commits],
        "columns": [_described(field) for field in schema],
        "notes": {name: dict(meanings) for name, meanings in (notes or {}).items()},
        "objects": written | dict(objects or {}),
    }
    write_json(paths.join(url, MANIFEST), manifest, create=True)
    return read_json(paths.join(url, MANIFEST))


def standing_catalog(url: str, blocks: Sequence[Block]) -> dict[str, Any] | None:
    """Return the manifest of a catalog that stands; one of fewer blocks than there are now goes."""
    manifest_url = paths.join(url, MANIFEST)
    if not paths.exists(manifest_url):
        return None
    done = Ledger(url).done()
    missing = [block.index for block in blocks if block.index not in done]
    standing = read_json(manifest_url)
    if standing["missing_blocks"] == missing:
        return standing
    paths.delete(manifest_url)  # blocks came in since: not visible until it is whole again
    return None


def _described(field: pa.Field) -> dict[str, str]:
    facts = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
    return {"name": field.name, "type": str(field.type)} | {
        key: facts.get(key, "") for key in ("unit", "ucd", "description")
    }


def catalog_folder(url: str) -> str:
    """Return the folder of the catalog that `url` means: that folder itself, or a workspace.

    Raises
    ------
    StoreError
        If there is no complete catalog.
    """
    if not paths.exists(paths.join(url, MANIFEST)):
        record = current(url, "catalog")
        if record is None:
            raise StoreError(f"{url}: no catalog there (no {MANIFEST}); run publish")
        url = paths.join(url, "catalog", record["digest"])
    if not paths.exists(paths.join(url, MANIFEST)):
        raise StoreError(f"{url}: the catalog is not complete yet (no {MANIFEST}); run publish")
    return url


def open_catalog(url: str) -> pads.Dataset:
    """Open a published catalog lazily: columns and rows are read when they are asked for.

    Parameters
    ----------
    url : str
        A catalog's folder or a run's workspace, local or ``s3://``.

    Returns
    -------
    pyarrow.dataset.Dataset
        One row per planned spectrum. Units and descriptions are in the fields' metadata; missing
        floats are null, missing integers -1, missing strings empty.

    Raises
    ------
    StoreError
        If there is no complete catalog.

    Examples
    --------
    >>> catalog = open_catalog("demo/work")  # doctest: +SKIP
    >>> wanted = pads.field("fit_status") == 0  # doctest: +SKIP
    >>> catalog.to_table(columns=["obsid", "teff"], filter=wanted).to_pandas()  # doctest: +SKIP
    """
    target = paths.join(catalog_folder(url), PARQUET)
    if not paths.is_remote(target):
        return pads.dataset(str(paths.local_path(target)), format="parquet")
    file_format = pads.ParquetFileFormat()
    with streams.opened(target) as source:  # stays open: the dataset reads from it when it is asked
        fragment = file_format.make_fragment(source)
        return pads.FileSystemDataset([fragment], fragment.physical_schema, file_format)


def verify_catalog(url: str) -> list[str]:
    """Read a catalog back and return what is wrong with it, as sentences; none if it is whole.

    Raises
    ------
    StoreError
        If there is no complete catalog.
    """
    folder = catalog_folder(url)
    manifest = read_json(paths.join(folder, MANIFEST))
    problems = streams.differing(folder, manifest["objects"], "it was published")
    if not problems and (n := open_catalog(folder).count_rows()) != manifest["rows"]:
        problems.append(f"{folder}: {n} rows, the manifest says {manifest['rows']}")
    return problems
