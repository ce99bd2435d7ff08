"""Survey files -> raw spectra: every planned file keeps its row, with a status that says why."""

import io
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pandas as pd
import xarray as xr

from scalespec.config import RunConfig
from scalespec.errors import ScalespecError, StoreError
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import SpectrumStatus, status_names
from scalespec.stages import folders
from scalespec.stages.inputs import part_url, plan_inputs
from scalespec.store import paths
from scalespec.store.ledger import Ledger, new_attempt
from scalespec.store.spectra import create_spectra, memory_bytes, write_spectra
from scalespec.surveys import SURVEYS

log = logging.getLogger(__name__)

READS_IN_FLIGHT = 16
"""Files fetched at once by one worker: a store's latency is hidden, its bandwidth is not wasted."""

Files = list[tuple[str, bytes | Exception]]


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
    table = pd.read_parquet(io.BytesIO(paths.read_bytes(part_url(plan_url, block))))
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
