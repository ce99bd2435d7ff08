"""Survey files -> raw spectra: every planned one keeps its row, with a status that says why."""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd

from scalespec.config import IngestTable, RunConfig
from scalespec.errors import StoreError, SurveyFileError
from scalespec.plan import Block, BlockResult, Stage
from scalespec.schema import SpectrumStatus, status_names
from scalespec.stages import folders
from scalespec.stages.inputs import block_bytes, input_roots, plan_inputs, read_items
from scalespec.stages.known import differs
from scalespec.stages.reader import Description, description_of, survey_of
from scalespec.stages.stores import make_store
from scalespec.store import paths
from scalespec.store.fetch import Fetched, fetch
from scalespec.store.ledger import Ledger, new_attempt
from scalespec.store.spectra import memory_bytes, write_arms
from scalespec.surveys import open_survey
from scalespec.surveys.rows import Groups, Piece

log = logging.getLogger(__name__)

LARGE_BYTES = 2**26
"""Files from this size on are fetched one at a time."""

Count = Callable[[bytes], int]


def ingest_block(
    files: Sequence[Piece | tuple[str, bytes | Exception]],
    survey_name: str,
    description: Description = None,
) -> tuple[Groups, pd.DataFrame]:
    """Read one block's files: a row per planned spectrum, in order.

    Parameters
    ----------
    files : sequence of Piece, or of (url, bytes or the error that reading gave)
    survey_name : str
        Key of ``SURVEYS``.
    description : mapping, optional
        Of survey "table".

    Returns
    -------
    dict of str to xr.Dataset, pd.DataFrame
        Spectra in our schema, "" the root and the survey's arms; and the strings with them.
    """
    return open_survey(survey_name, description).read_block(files)


def read_files(
    block: Block, plan_url: str, count: Count | None = None, roots: Sequence[str] = ()
) -> list[Piece]:
    """Fetch the bytes of a block's files, many at once; what is not there is its error.

    Large files are left to be fetched one after another when their turn comes: a block may be made
    of several containers, and holds one at a time.

    Parameters
    ----------
    block : Block
    plan_url : str
    count : callable, optional
        The survey's ``count_spectra``.
    roots : sequence of str
        `input_roots`: what the files were planned under.

    Raises
    ------
    StoreError
        If a file cannot be read for a reason that may pass, or is missing with all else of its
        root: the block is to be tried again, for a row that says MISSING stays.
    """
    items: list[Any] = list(read_items(plan_url, block).itertuples())
    small = [item for item in items if item.size < LARGE_BYTES]
    found = dict(zip(small, fetch([item.url for item in small], roots=roots), strict=True))
    return [
        _piece(item, found[item], count) if item in found else _later(item, count, roots)
        for item in items
    ]


def _piece(item: Any, found: Fetched, count: Count | None) -> Piece:
    """Return one item with its file's content, which may not be what was planned."""
    planned = _planned(item)
    if isinstance(found, StoreError):
        return planned._replace(content=SurveyFileError(str(found), "missing"))
    content, entry = found
    changed = differs(item, entry) or (item.count == 0 and _holds_more(item.file, content, count))
    return planned._replace(content=content, status=int(SpectrumStatus.CHANGED) if changed else 0)


def _holds_more(name: str, content: bytes, count: Count | None) -> bool:
    """Whether a file that could not be counted when it was planned, as one row, holds more."""
    try:
        n = count(content) if count else 1
    except SurveyFileError:  # its row says so
        return False
    if n > 1:
        log.warning(
            "%s could not be read when it was planned, as one row, and holds %d spectra now: the "
            "first is kept, marked CHANGED. To read all, delete the plan and run again",
            *(name, n),
        )
    return n > 1


def _later(item: Any, count: Count | None, roots: Sequence[str]) -> Piece:
    known = SimpleNamespace(**item._asdict())  # a row's own type is made at run time: no pickle
    return _planned(item)._replace(content=partial(_fetched, known, count, roots))


def _fetched(item: Any, count: Count | None, roots: Sequence[str]) -> Piece:
    return _piece(item, fetch([item.url], roots=roots)[0], count)


def _planned(item: Any) -> Piece:
    """Return the piece that an item plans, without content: one row, where none was counted."""
    n = max(int(item.count), 1)
    return Piece(item.file, b"", int(item.first), n, source_id=item.source_id)


def write_raw(block: Block, made: tuple[Groups, pd.DataFrame], url: str) -> BlockResult:
    """Store one block's spectra and index, then commit it."""
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    groups, index = made
    attempt = new_attempt()
    hashes = write_arms(paths.join(url, "spectra.zarr"), block, groups)
    part = f"index/{block.index:06d}-{attempt}.parquet"
    data = index.to_parquet(index=False)
    paths.write_bytes(paths.join(url, part), data)
    objects = {f"spectra.zarr/{key}": value for key, value in hashes.items()}
    counts = status_names(groups[""]["status"].to_numpy(), SpectrumStatus)
    counts["fallbacks"] = int(groups[""].attrs.get("fallbacks", 0))
    objects[part] = paths.sha256(data)
    return ledger.commit(block, BlockResult(block.size, objects, counts, attempt))


def ingest(config: RunConfig) -> Iterator[Stage]:
    """Plan the inputs, make the store, and yield the stage that fills it."""
    plan_inputs(config)
    url = folders.raw_url(config)
    table = config.ingest or IngestTable(files="*")
    survey = survey_of(table)
    template, _ = survey.read_block([])
    template[""].attrs.pop("fallbacks")  # a count of one block, none of the store's
    size = config.run.spectra_per_block
    make_store(config, paths.join(url, "spectra.zarr"), template)
    yield Stage(
        name="ingest",
        url=url,
        blocks=folders.planned_blocks(config),
        read=partial(
            read_files,
            plan_url=folders.plan_url(config),
            count=survey.count_spectra,
            roots=input_roots(config),
        ),
        compute=partial(_compute, survey_name=table.survey, description=description_of(table)),
        write=partial(write_raw, url=url),
        runs_on="dask",
        memory_bytes=memory_bytes(size, survey.n_pixel, block_bytes(config)),
    )


def _compute(
    _: None, files: list[Piece], survey_name: str, description: Description
) -> tuple[Groups, pd.DataFrame]:
    return ingest_block(files, survey_name, description)


def read_index(url: str, block: Block) -> pd.DataFrame:
    """Return the committed strings of one block of raw spectra."""
    result = Ledger(url).committed(block)
    if result is None:
        raise StoreError(f"{url}: block {block.index} is not committed")
    key = next(key for key in result.objects if key.startswith("index/"))
    return pd.read_parquet(io.BytesIO(paths.read_bytes(paths.join(url, key))))
