"""Labels + matches -> one catalog: a row for every planned spectrum, whatever became of it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalespec.config import PublishTable, RunConfig
from scalespec.errors import ConfigError, StageError
from scalespec.optimize.result import FitStatus
from scalespec.plan import Block, BlockResult, Stage
from scalespec.schema import status_names
from scalespec.stages import folders
from scalespec.stages.best_fit import best_fit_stages
from scalespec.stages.columns import NOTES, measured_labels
from scalespec.stages.data_model import NULLS, write_data_model
from scalespec.stages.ingest import read_index
from scalespec.stages.joining import (
    STORE_COLUMNS,
    Pieces,
    as_labels,
    join_block,
    without_covariance,
)
from scalespec.stages.partitioned import finish_hats, hats_stage, make_room, plan_hats
from scalespec.stages.products import recommended_cuts, write_products
from scalespec.stages.provenance import provenance, write_provenance
from scalespec.store import paths
from scalespec.store.catalog import (
    PARQUET,
    SINGLE_FILES,
    iterate_parts,
    read_part,
    read_row_range,
    read_schema,
    standing_catalog,
    write_catalog,
    write_part,
)
from scalespec.store.ledger import Ledger
from scalespec.store.regressor import is_regressor
from scalespec.store.spectra import read_spectra

log = logging.getLogger(__name__)

BESIDE: Mapping[str, Callable[[RunConfig], str]] = {
    "binaries": folders.binaries_url,
    "calibrate": folders.calibrated_url,
    "derive": folders.derived_url,
    "ages": folders.ages_url,
}
"""Stages whose columns the catalog has, too, and where they store them."""
OF_PAIRS = ("row", "obsid", "binary_gain", "binary_q", "binary_status")
"""What the catalog has of fits of two stars."""


@dataclass(frozen=True)
class Sources:
    """Folders that a catalog is made of; where labels are a regressor's, `best` is `first`."""

    raw: str
    spectra: str
    first: str
    best: str
    matches: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)


def select_columns(wanted: Sequence[str], names: Sequence[str]) -> list[str] | None:
    """Return the columns that ``[publish] columns`` means, in its order; None: all of them.

    ``labels`` stands for every label and its error, ``status`` for all status columns.

    Raises
    ------
    ConfigError
        If it names a column that the catalog does not have.
    """
    if not wanted:
        return None
    status = ("spectrum_status", "first_status", "fit_status")
    groups = {
        "labels": [n for label in measured_labels(names) for n in (label, f"{label}_err")],
        "status": [name for name in status if name in names],
    }
    chosen = [name for want in wanted for name in groups.get(want, [want])]
    if unknown := sorted(set(chosen) - set(names)):
        raise ConfigError(
            f"publish.columns: the catalog has no {unknown}; it has {sorted(names)} "
            "and the groups 'labels' and 'status'"
        )
    return list(dict.fromkeys(chosen))


def catalog_sources(config: RunConfig) -> Sources:
    """Return the folders that the run's catalog is made of.

    Raises
    ------
    ConfigError
        If nothing is fitted, and the run's model is no regressor.
    """
    first = folders.first_url(config)
    if config.fit is None and not all(map(is_regressor, folders.model_urls(config))):
        raise ConfigError(
            "[publish] without [fit] wants the labels of a regressor: what [infer] finds by an "
            "emulator is where a fit begins, and has no errors"
        )
    return Sources(
        raw=folders.raw_url(config),
        spectra=folders.spectra_url(config),
        first=first,
        best=folders.best_url(config) if config.fit is not None else first,
        matches={name: folders.matches_url(config, name) for name in config.crossmatch or {}},
        beside={name: call(config) for name, call in BESIDE.items() if getattr(config, name)},
    )


def publish(config: RunConfig) -> Iterator[Stage]:
    """Yield the stage that joins every block's tables, then write the catalog.

    Raises
    ------
    StageError
        If a block is neither fitted nor known to have failed, matches are missing, or the
        catalog's rows are not the planned ones.
    """
    url = folders.catalog_url(config)
    table = config.publish or PublishTable()
    sources = catalog_sources(config)
    blocks = folders.planned_blocks(config)
    here = _publishable(sources, blocks)
    yield Stage(
        name="publish",
        url=url,
        blocks=here,
        read=partial(read_pieces, sources=sources),
        compute=partial(_compute, covariance=table.covariance),
        write=partial(write_joined, url=url),
        runs_on="dask",
    )
    if not _ended(url, here) or standing_catalog(url, blocks):
        return
    columns = select_columns(table.columns, read_schema(url).names)
    objects: dict[str, str] = {}
    if table.best_fit:
        yield from best_fit_stages(config, url)
    if "hats" in table.formats:
        plan = plan_hats(url, table.partition_rows)
        if plan.partitions:
            make_room(url, plan)
            yield hats_stage(url, plan, columns)
            if not _ended(paths.join(url, "hats"), plan.partitions):
                return
            objects = finish_hats(url, plan, name=config.run.name, about="stellar labels")
    combine(config, blocks, columns, objects)


def _publishable(sources: Sources, blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that were fitted; every other one must have failed somewhere upstream."""
    fitted = Ledger(sources.best).done()
    for name, folder in sources.beside.items():
        if left := fitted - Ledger(folder).done():
            raise StageError(f"blocks {sorted(left)} are not there yet: run {name} first")
    upstream = (sources.raw, sources.spectra, sources.first, sources.best)
    failed = {index for folder in upstream for index in Ledger(folder).failures()}
    if open_ends := [b.index for b in blocks if b.index not in fitted | failed]:
        verb = "fit" if sources.best != sources.first else "infer"
        raise StageError(f"blocks {open_ends} have no labels yet: run {verb} first")
    return [block for block in blocks if block.index in fitted]


def read_pieces(block: Block, sources: Sources) -> Pieces:
    """Read what one block's rows are made of."""
    store = paths.join(sources.spectra, "spectra.zarr")
    inferred = read_part(sources.first, block)
    fitted = sources.best != sources.first
    return Pieces(
        block=block,
        spectra=read_spectra(store, block.start, block.stop, names=STORE_COLUMNS),
        index=read_index(sources.raw, block),
        first=inferred if fitted else None,
        best=read_part(sources.best, block) if fitted else as_labels(inferred),
        matches={
            name: read_row_range(paths.join(folder, "matches.parquet"), block)
            for name, folder in sources.matches.items()
        },
        beside={
            name: read_part(folder, block, OF_PAIRS if name == "binaries" else None)
            for name, folder in sources.beside.items()
        },
    )


def _compute(_: None, pieces: Pieces, covariance: str) -> pa.Table:
    joined = join_block(pieces)
    if covariance == "full" or "label_cov" not in joined.column_names:
        return joined
    return without_covariance(joined, covariance)


def write_joined(block: Block, table: pa.Table, url: str) -> BlockResult:
    """Store one block of the catalog, then commit it."""
    counts = status_names(table["fit_status"].to_numpy(), FitStatus)
    return write_part(url, block, table, counts=counts)


def _ended(url: str, blocks: Sequence[object]) -> bool:
    """Whether every block was stored or failed; a run that was stopped goes on later.

    Raises
    ------
    StageError
        If all failed.
    """
    ledger = Ledger(url)
    done, failed = ledger.done(), ledger.failures()
    if len(done | failed.keys()) < len(blocks):
        log.info("%s: stopped before the last block; no catalog yet", url)
        return False
    if not done:
        raise StageError(f"{url}: nothing to publish: no block was fitted")
    return True


def combine(
    config: RunConfig,
    blocks: Sequence[Block],
    columns: Sequence[str] | None,
    objects: Mapping[str, str],
) -> None:
    """Write the catalog from the committed blocks, with what is cut out of it and said of it.

    Parameters
    ----------
    config : RunConfig
    blocks : sequence of Block
        All blocks of the plan.
    columns : sequence of str, optional
        Of the catalog; all of the parts' if not given.
    objects : mapping of str to str
        What is written already: SHA-256 by name.

    Raises
    ------
    StageError
        If a block does not hold every planned spectrum once.
    """
    url, table = folders.catalog_url(config), config.publish or PublishTable()
    commits = Ledger(url).commits()
    for block in blocks:
        if block.index in commits and commits[block.index].rows != block.size:
            rows = commits[block.index].rows
            raise StageError(f"{url}: block {block.index}: {rows} rows, planned {block.size}")
    rows = sum(result.rows for result in commits.values())
    small = rows <= table.single_file_rows
    wanted = tuple(one for one in table.formats if one in SINGLE_FILES and small)
    made, products = write_products(url, table, columns)
    made |= write_provenance(config, url)
    schema = read_schema(url, columns)
    cuts = {
        n: cut for n, cut in recommended_cuts(read_schema(url).names).items() if n in schema.names
    }
    files = [PARQUET, *(SINGLE_FILES[one][0] for one in wanted)]
    files += ["hats"] if "hats" in table.formats else []
    facts = {
        "nulls": NULLS,
        "cuts": cuts,
        "products": products,
        "shared_obsids": shared_obsids(url),
    }
    said = facts | {"rows": rows, "files": files, "provenance": provenance(config)}
    made |= write_data_model(config, url, schema, said)
    write_catalog(
        url,
        blocks=blocks,
        columns=columns,
        notes={name: codes for name, codes in NOTES.items() if name in schema.names},
        wanted=wanted,
        objects={**objects, **made},
        facts=facts,
    )


def shared_obsids(url: str) -> int:
    """Return how many rows of the committed blocks share their obsid, and say so if any do."""
    parts = [part["obsid"].to_numpy() for part in iterate_parts(url, ("obsid",))]
    n = shared_values(np.concatenate([np.zeros(0, np.int64), *parts]))
    if n:
        log.warning(
            "%s: %d rows share their obsid with another: the same spectrum under two names, or "
            "several of one target where the survey gives targets numbers, not spectra",
            url,
            n,
        )
    return n


def shared_values(values: npt.NDArray[np.integer[Any]]) -> int:
    """Return how many of `values` are there more than once.

    Examples
    --------
    >>> shared_values(np.array([7, 3, 7, 5, 3, 3]))
    5
    """
    counts = np.unique(values, return_counts=True)[1]
    return int(counts[counts > 1].sum())
