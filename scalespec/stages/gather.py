"""Matches -> the dense store that training reads: spectra and labels side by side.

Labelled stars are few and scattered through a survey's store; learning reads them a hundred times.
"""

import io
import logging
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from scalespec.config import MATCH_NAMES, RunConfig
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.stages import folders
from scalespec.stages.label_catalog import ID
from scalespec.stages.stores import encoding
from scalespec.stages.training_set import (
    check_library,
    features_stage,
    read_chosen,
    training_rows,
)
from scalespec.store import paths
from scalespec.store.batches import list_pieces
from scalespec.store.catalog import read_row_range
from scalespec.store.committed import commit_spectra
from scalespec.store.ledger import Ledger, current, stage_url
from scalespec.store.spectra import create_spectra, memory_bytes, read_spectra

log = logging.getLogger(__name__)

NO_ROW = Block("spectrum", 0, 0, 0)


def gather(config: RunConfig, name: str) -> Iterator[Stage]:
    """Yield the stages that write the matched spectra and their labels side by side.

    Where the table asks for a training set of its own, ``selection.parquet`` beside the store says
    what became of each row, and why.
    """
    table = (config.crossmatch or {})[name].training
    url, size = folders.training_url(config, name), config.run.spectra_per_block
    source = folders.spectra_store(config)
    rows_url = paths.join(url, "selection.parquet")
    if not paths.exists(rows_url):  # the folder is named by all that it is made of
        yield from _select(config, name, rows_url)
    if not paths.exists(rows_url):
        return
    head = read_spectra(source, 0, 0)
    if table.library:
        check_library(head, table.library)
    target = paths.join(url, "train.zarr")
    template = training_block(head, read_row_range(rows_url, NO_ROW).to_pandas())
    n = list_pieces(rows_url, size)[-1].stop
    create_spectra(target, template, n_spectrum=n, shard_rows=size, encoding=encoding(config))
    yield Stage(
        name=f"{name} train.zarr",
        url=url,
        blocks=plan_blocks(n, size),
        read=partial(_read_chosen, source=source, library=table.library, rows_url=rows_url),
        compute=_gathered,
        write=partial(_write_training, url=url),
        runs_on="dask",
        memory_bytes=2 * memory_bytes(size, template.sizes["wavelength"]),
    )


def _select(config: RunConfig, name: str, rows_url: str) -> Iterator[Stage]:
    """Write which rows are learned from, if spectra of any with labels are preprocessed."""
    table, size = (config.crossmatch or {})[name].training, config.run.spectra_per_block
    spectra = folders.spectra_url(config)
    matches = _matches_of(folders.matches_url(config, name), Ledger(spectra).done(), size)
    if (stop := folders.learned_until(config, name)) is not None:
        matches = matches[matches["row"] < stop]
    labels = label_columns(matches)
    if matches.empty or not labels:
        return
    features = paths.join(paths.split(rows_url)[0], "features")
    if table.outlier_sigma:
        source = paths.join(spectra, "spectra.zarr")
        yield features_stage(name, features, (source, matches, size))
    chosen = training_rows(matches, labels, table, features)
    _warn_of_growth(config, name, len(chosen))
    paths.write_bytes(rows_url, chosen.to_parquet(index=False))


def _warn_of_growth(config: RunConfig, name: str, n: int) -> None:
    """Say what it costs that there is more to learn from than in the run before."""
    workspace = config.run.workspace
    before, fitted = (current(workspace, stage) for stage in (f"matches/{name}/train", "best"))
    if before is None or config.train is None or config.train.catalog != name:
        return
    url = stage_url(workspace, f"matches/{name}/train", str(before["digest"]))
    rows_url = paths.join(url, "selection.parquet")
    was = list_pieces(rows_url, n)[-1].stop if paths.exists(rows_url) else n
    if n <= was:
        return
    best = Ledger(stage_url(workspace, "best", str(fitted["digest"]))).planned() if fitted else None
    refitted = sum(stop - start for _, start, stop in best or ())
    named = config.infer is not None and config.infer.models
    log.warning(
        "%s: the training set grew from %d to %d spectra: the model is trained anew, and the %d "
        "spectra that were fitted are fitted anew; with [train] segments = 1 only what the first "
        "run found is learned from",
        *(name, was, n, 0 if named else refitted),
    )


def read_matches(url: str) -> pd.DataFrame:
    """Return all matches with one label catalog."""
    data = paths.read_bytes(paths.join(url, "matches.parquet"))
    return pd.read_parquet(io.BytesIO(data))


def label_columns(matches: pd.DataFrame) -> list[str]:
    """Return the numeric label columns of a table of matches, without errors and identifiers."""
    numeric = [c for c in matches if c not in MATCH_NAMES and matches[c].dtype.kind in "iuf"]
    return [str(c) for c in numeric if not str(c).endswith(("_err", ID))]


def training_block(spectra: xr.Dataset, matches: pd.DataFrame) -> xr.Dataset:
    """Put labels, their errors (NaN: unknown), star and split beside the same rows' spectra."""
    names = label_columns(matches)
    errors = matches.reindex(columns=[f"{name}_err" for name in names])
    beside = {
        "labels": (("spectrum", "label"), matches[names].to_numpy(np.float32)),
        "label_err": (("spectrum", "label"), errors.to_numpy(np.float32)),
        "star": ("spectrum", matches["star"].to_numpy(np.int64)),
        "split": ("spectrum", matches["split"].to_numpy(np.uint8)),
        "row": ("spectrum", matches["row"].to_numpy(np.int64)),
    }
    return spectra.assign(beside).assign_attrs(label_names=names)


def _matches_of(url: str, blocks: set[int], block_rows: int) -> pd.DataFrame:
    """Return the matches whose spectra are preprocessed."""
    matches = read_matches(url)
    return matches[(matches["row"] // block_rows).isin(blocks)]


def _read_chosen(
    block: Block, source: str, library: str, rows_url: str
) -> tuple[xr.Dataset, pd.DataFrame]:
    rows = pd.read_parquet(io.BytesIO(paths.read_bytes(rows_url))).iloc[block.start : block.stop]
    return read_chosen(rows, source, library), rows


def _gathered(_: None, read: tuple[xr.Dataset, pd.DataFrame]) -> xr.Dataset:
    return training_block(*read)


def _write_training(block: Block, training: xr.Dataset, url: str) -> BlockResult:
    return commit_spectra(url, block, training, count=_counts, store="train.zarr")


def _counts(training: xr.Dataset) -> dict[str, int]:
    names, n = np.unique(training["split"].to_numpy(), return_counts=True)
    parts = ("train", "validation", "test", "left out")
    return {parts[int(i)]: int(k) for i, k in zip(names, n, strict=True)}
