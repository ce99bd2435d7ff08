"""Survey files -> raw spectra: every planned file keeps its row, with a status that says why."""

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from scalespec.config import IngestTable, RunConfig, digest
from scalespec.errors import ConfigError, ScalespecError, StoreError
from scalespec.kernels.sky import healpix_nested
from scalespec.kernels.where import where
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import SpectrumStatus, status_names
from scalespec.stages import folders
from scalespec.store import paths, streams
from scalespec.store.ledger import Ledger, new_attempt, read_json, write_json
from scalespec.store.spectra import create_spectra, memory_bytes, write_spectra
from scalespec.store.tables import read_table
from scalespec.surveys import SURVEYS, Survey

log = logging.getLogger(__name__)

READS_IN_FLIGHT = 16
"""Files fetched at once by one worker: a store's latency is hidden, its bandwidth is not wasted."""
PLAN_ORDER = 6
"""HEALPix order that rows are sorted by when a release catalog gives positions beforehand."""

Files = list[tuple[str, bytes | Exception]]


def plan_inputs(config: RunConfig) -> dict[str, Any]:
    """Write the list of inputs, one row per planned spectrum, if it is not there yet.

    Returns
    -------
    dict
        ``n`` spectra, ``bytes`` of input, ``sha256`` of the list.

    Raises
    ------
    ConfigError
        If the survey is not known or there is nothing to read.
    """
    if config.ingest is None:
        raise ConfigError("the run file has no [ingest] table")
    url = folders.plan_url(config)
    done = paths.join(url, "plan.json")
    if paths.exists(done):
        return read_json(done)
    inputs = list_inputs(config.ingest)
    if inputs.empty:
        wanted = config.ingest.files or config.ingest.catalog
        raise ConfigError(f"ingest: nothing to read in {wanted!r}: no file matches")
    hashes = []
    for block in plan_blocks(len(inputs), config.run.spectra_per_block):
        part = inputs.iloc[block.start : block.stop].to_parquet(index=False)
        paths.write_bytes(_part_url(url, block), part)
        hashes.append(paths.sha256(part))
    plan = {"n": len(inputs), "bytes": int(inputs["size"].sum()), "sha256": digest(hashes)}
    write_json(done, plan, create=True)
    return read_json(done)


def _part_url(plan_url: str, block: Block) -> str:
    return paths.join(plan_url, "inputs", f"{block.index:06d}.parquet")


def list_inputs(table: IngestTable) -> pd.DataFrame:
    """Return one row per planned spectrum, in the store's order.

    Columns are url, size [bytes], modified [s] and file, the url below the inputs' common folder.

    Raises
    ------
    ConfigError
        If the survey is not known.
    """
    if table.survey not in SURVEYS:
        raise ConfigError(f"ingest.survey = '{table.survey}' is not one of {sorted(SURVEYS)}")
    survey = SURVEYS[table.survey]
    inputs = _from_catalog(table, survey) if table.catalog else _from_files(table, survey)
    inputs = inputs.iloc[: table.limit] if table.limit else inputs
    return inputs.assign(file=below_common_folder(inputs["url"].tolist()))


def below_common_folder(urls: Sequence[str]) -> list[str]:
    """Return each path below the deepest folder that all share: what a catalog calls its files.

    Examples
    --------
    >>> below_common_folder(["/a/b/c/1.fits", "/a/b/2.fits"])
    ['c/1.fits', '2.fits']
    """
    parts = [url.partition("?")[0].split("/") for url in urls]
    levels = zip(*(part[:-1] for part in parts), strict=False)
    depth = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return ["/".join(part[depth:]) for part in parts]


def _from_files(table: IngestTable, survey: Survey) -> pd.DataFrame:
    patterns = (table.files,) if isinstance(table.files, str) else table.files
    entries: dict[str, paths.Entry] = {}
    for pattern in patterns:
        entries.update((entry.url, entry) for entry in _listed(pattern, survey))
    ordered = [entries[url] for url in sorted(entries)]
    return pd.DataFrame(
        {
            "url": [e.url for e in ordered],
            "size": np.array([e.size for e in ordered], np.int64),
            "modified": np.array([e.modified for e in ordered], np.float64),
        }
    )


def _listed(pattern: str, survey: Survey) -> Iterable[paths.Entry]:
    """Return what one `files` entry names; a listed file that is missing keeps its row."""
    if not pattern.startswith("@"):
        path = pattern.partition("?")[0] if paths.is_remote(pattern) else pattern
        folder = not any(c in path for c in "*?[") and paths.is_folder(pattern)
        return paths.list_files(paths.join(pattern, survey.pattern) if folder else pattern)
    lines = paths.read_bytes(pattern[1:]).decode().splitlines()
    root, _ = streams.split(pattern[1:])
    urls = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    full = [u if u.startswith("/") or "://" in u else paths.join(root, u) for u in urls]
    return [_entry(url) for url in full]


def _entry(url: str) -> paths.Entry:
    try:
        found = paths.list_files(url)
    except StoreError:
        found = []
    return found[0] if found else paths.Entry(url, -1, 0.0)


def _from_catalog(table: IngestTable, survey: Survey) -> pd.DataFrame:
    columns = read_table(table.catalog)
    keep = where(table.where, columns) if table.where else np.ones(_length(columns), bool)
    rows = np.flatnonzero(keep)
    urls = [
        paths.join(table.root, survey.catalog_path({k: v[i] for k, v in columns.items()}))
        for i in rows
    ]
    inputs = pd.DataFrame({"url": urls, "size": np.int64(-1), "modified": 0.0})
    if "ra" in columns and "dec" in columns:
        cells = healpix_nested(columns["ra"][rows], columns["dec"][rows], PLAN_ORDER)
        inputs = inputs.iloc[np.lexsort((inputs["url"].to_numpy(), cells))]
    return inputs.reset_index(drop=True)


def _length(columns: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(columns.values()), ()))


def ingest_block(files: Files, survey_name: str) -> tuple[xr.Dataset, pd.DataFrame]:
    """Read one block's files: a row per file, in order.

    Parameters
    ----------
    files : list of (url, bytes or the error that reading gave)
    survey_name : str
        Key of ``SURVEYS``.

    Returns
    -------
    xr.Dataset, pd.DataFrame
        Spectra in our schema, and the strings that go with them.
    """
    spectra, index = SURVEYS[survey_name].read_block(files)
    return spectra, index


def read_files(block: Block, plan_url: str) -> Files:
    """Fetch the bytes of a block's files, many at once; what cannot be read is its error."""
    table = pd.read_parquet(io.BytesIO(paths.read_bytes(_part_url(plan_url, block))))
    urls = table["url"].tolist()
    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool:
        return list(zip(table["file"], pool.map(_bytes_or_error, urls), strict=True))


def _bytes_or_error(url: str) -> bytes | Exception:
    try:
        return paths.read_bytes(url)
    except ScalespecError as error:
        return error


def write_raw(block: Block, made: tuple[xr.Dataset, pd.DataFrame], url: str) -> BlockResult:
    """Store one block's spectra and index, then commit it."""
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    spectra, index = made
    attempt = new_attempt()
    hashes = write_spectra(paths.join(url, "spectra.zarr"), block, spectra)
    part = f"index/{block.index:06d}-{attempt}.parquet"
    data = index.to_parquet(index=False)
    paths.write_bytes(paths.join(url, part), data)
    objects = {f"spectra.zarr/{key}": value for key, value in hashes.items()}
    counts = status_names(spectra["status"].to_numpy(), SpectrumStatus)
    counts["fallbacks"] = int(spectra.attrs.get("fallbacks", 0))
    objects[part] = paths.sha256(data)
    return ledger.commit(block, BlockResult(block.size, objects, counts, attempt))


def ingest(config: RunConfig) -> Iterator[Stage]:
    """Plan the inputs, make the store, and yield the stage that fills it."""
    plan = plan_inputs(config)
    url = folders.raw_url(config)
    survey_name = config.ingest.survey if config.ingest else ""
    template, _ = ingest_block([], survey_name)
    template.attrs.pop("fallbacks", None)  # a count of one block, none of the store's
    size = config.run.spectra_per_block
    create_spectra(paths.join(url, "spectra.zarr"), template, n_spectrum=plan["n"], shard_rows=size)
    yield Stage(
        name="ingest",
        url=url,
        blocks=plan_blocks(plan["n"], size),
        read=partial(read_files, plan_url=folders.plan_url(config)),
        compute=partial(_compute, survey_name=survey_name),
        write=partial(write_raw, url=url),
        runs_on="dask",
        memory_bytes=memory_bytes(size, template.sizes["wavelength"]),
    )


def _compute(_: None, files: Files, survey_name: str) -> tuple[xr.Dataset, pd.DataFrame]:
    return ingest_block(files, survey_name)


def read_index(url: str, block: Block) -> pd.DataFrame:
    """Return the committed strings of one block of raw spectra."""
    result = Ledger(url).committed(block)
    if result is None:
        raise StoreError(f"{url}: block {block.index} is not committed")
    key = next(key for key in result.objects if key.startswith("index/"))
    return pd.read_parquet(io.BytesIO(paths.read_bytes(paths.join(url, key))))
