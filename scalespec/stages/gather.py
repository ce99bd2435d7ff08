"""Matches -> the dense store that training reads: spectra and labels side by side.

Labelled stars are few and scattered through a survey's store; learning reads them a hundred times.
"""

import io
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from scalespec.config import MATCH_NAMES, RunConfig
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.stages import folders
from scalespec.stages.stores import encoding
from scalespec.stages.training_set import (
    check_library,
    features_stage,
    read_chosen,
    training_rows,
)
from scalespec.store import paths
from scalespec.store.committed import commit_spectra
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import create_spectra, memory_bytes, read_spectra


def gather(config: RunConfig, name: str) -> Iterator[Stage]:
    """Yield the stages that write the matched spectra and their labels side by side.

    Where the table asks for a training set of its own, ``selection.parquet`` beside the store says
    what became of each row, and why.
    """
    table = (config.crossmatch or {})[name].training
    matches_url, spectra = folders.matches_url(config, name), folders.spectra_url(config)
    source = paths.join(spectra, "spectra.zarr")
    size = config.run.spectra_per_block
    matches = _matches_of(matches_url, Ledger(spectra).done(), size)
    if matches.empty or not label_columns(matches):
        return
    url = folders.training_url(config, name)
    if table.outlier_sigma:
        yield features_stage(name, paths.join(url, "features"), (source, matches, size))
    rows_url = paths.join(url, "selection.parquet")
    chosen = training_rows(matches, label_columns(matches), table, paths.join(url, "features"))
    paths.write_bytes(rows_url, chosen.to_parquet(index=False))
    head = read_spectra(source, 0, 0)
    if table.library:
        check_library(head, table.library)
    target = paths.join(url, "train.zarr")
    template = training_block(head, chosen.iloc[:0])
    create_spectra(
        target, template, n_spectrum=len(chosen), shard_rows=size, encoding=encoding(config)
    )
    yield Stage(
        name=f"{name} train.zarr",
        url=url,
        blocks=plan_blocks(len(chosen), size),
        read=partial(_read_chosen, source=source, library=table.library, rows_url=rows_url),
        compute=_gathered,
        write=partial(_write_training, url=url),
        runs_on="dask",
        memory_bytes=2 * memory_bytes(size, template.sizes["wavelength"]),
    )


def read_matches(url: str) -> pd.DataFrame:
    """Return all matches with one label catalog."""
    data = paths.read_bytes(paths.join(url, "matches.parquet"))
    return pd.read_parquet(io.BytesIO(data))


def label_columns(matches: pd.DataFrame) -> list[str]:
    """Return the numeric label columns of a table of matches, without their errors."""
    numeric = [c for c in matches if c not in MATCH_NAMES and matches[c].dtype.kind in "iuf"]
    return [str(c) for c in numeric if not str(c).endswith("_err")]


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
