"""What to ingest: one row per planned spectrum, from globs, file lists or a release catalog."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd

from scalespec.config import IngestTable, RunConfig, digest
from scalespec.errors import ConfigError, StoreError
from scalespec.kernels.sky import healpix_nested
from scalespec.kernels.where import where
from scalespec.plan import Block, plan_blocks
from scalespec.stages import folders
from scalespec.store import paths, streams
from scalespec.store.ledger import read_json, write_json
from scalespec.store.tables import read_table
from scalespec.surveys import SURVEYS, Survey

PLAN_ORDER = 6
"""HEALPix order that rows are sorted by when a release catalog gives positions beforehand."""


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
        paths.write_bytes(part_url(url, block), part)
        hashes.append(paths.sha256(part))
    plan = {"n": len(inputs), "bytes": int(inputs["size"].sum()), "sha256": digest(hashes)}
    write_json(done, plan, create=True)
    return read_json(done)


def part_url(plan_url: str, block: Block) -> str:
    """Return where the inputs of one block are listed."""
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
