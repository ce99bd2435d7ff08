"""Which spectra of a block a model is asked for, why not the others, and where labels are put."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import xarray as xr

from scalespec.config import InferTable
from scalespec.errors import ConfigError
from scalespec.kernels.where import where
from scalespec.optimize.result import FitStatus
from scalespec.plan import Block, BlockResult
from scalespec.schema import UNREADABLE, status_names
from scalespec.stages.ingest import read_index
from scalespec.stages.label_catalog import ID
from scalespec.store import paths
from scalespec.store.catalog import read_row_range, write_part
from scalespec.store.spectra import read_spectra

UNASKED = ("mask",)
"""What nobody reads of a preprocessed spectrum who asks for its labels: its weights know of it."""


@dataclass(frozen=True)
class Question:
    """One block's spectra, and why a row is not asked for (FitStatus bits, 0: it is)."""

    spectra: xr.Dataset
    rows: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.uint32]


def ask(
    spectra: xr.Dataset,
    rows: npt.NDArray[np.int64],
    *,
    selected: npt.NDArray[np.bool_] | None = None,
    snr_min: float = 0.0,
) -> Question:
    """Say which spectra of a block are to be labelled, and why not the others."""
    status = spectra["status"].to_numpy()
    excluded = np.zeros(len(rows), np.uint32)
    if selected is not None:
        excluded[~selected] |= np.uint32(FitStatus.NOT_SELECTED)
    excluded[status & np.uint32(UNREADABLE) != 0] |= np.uint32(FitStatus.BAD_SPECTRUM)
    weak = (excluded == 0) & (spectra["snr"].to_numpy() < snr_min)
    excluded[weak] |= np.uint32(FitStatus.LOW_SNR | FitStatus.NOT_SELECTED)
    return Question(spectra, rows, excluded)


def read_question(
    block: Block,
    url: str,
    index_url: str,
    matches: dict[str, str],
    table: InferTable,
    names: Sequence[str] | None = None,
) -> Question:
    """Read one block's spectra and say which of them are asked for.

    With `names` it reads no other variables, where the run file does not select by them.
    """
    wanted = None if table.where else names
    spectra = read_spectra(url, block.start, block.stop, names=wanted, without=UNASKED)
    rows = np.arange(block.start, block.stop, dtype=np.int64)
    if not table.where:
        return ask(spectra, rows, snr_min=table.snr_min)
    selected = where(table.where, _columns(block, spectra, index_url, matches))
    return ask(spectra, rows, selected=selected, snr_min=table.snr_min)


def check_where(
    blocks: Sequence[Block], url: str, index_url: str, matches: dict[str, str], table: InferTable
) -> None:
    """Try the run file's condition on the first block, before workers try it on every one.

    Raises
    ------
    ConfigError
        If it is no condition, or names a column that is not there.
    """
    if not table.where or not blocks:
        return
    head = read_spectra(url, 0, 0)
    names = [str(name) for name in head if head[name].ndim == 1]
    scalars = read_spectra(url, blocks[0].start, blocks[0].stop, names=names)
    columns = _columns(blocks[0], scalars, index_url, matches)
    try:
        where(table.where, columns)
    except ValueError as error:
        raise ConfigError(f"infer.where: {error}") from error


def _columns(
    block: Block, spectra: xr.Dataset, index_url: str, matches: dict[str, str]
) -> dict[str, npt.NDArray[Any]]:
    """Return what a condition may name of a block: of the store, its index and the matches."""
    columns = {str(name): spectra[name].to_numpy() for name in spectra if spectra[name].ndim == 1}
    index = read_index(index_url, block)
    columns |= {str(name): index[name].to_numpy() for name in index}
    for name, match_url in matches.items():
        columns |= match_columns(name, match_url, block)
    return columns


def match_columns(name: str, url: str, block: Block) -> dict[str, npt.NDArray[Any]]:
    """Return a block's columns of one label catalog, named <catalog>_<column>.

    What is not matched has NaN, and -1 for an identifier that is a number: floats round those.
    """
    found = read_row_range(paths.join(url, "matches.parquet"), block).to_pandas().set_index("row")
    rows = np.arange(block.start, block.stop)
    matched = found.reindex(rows)
    for column in found:
        if str(column).endswith(ID) and found[column].dtype.kind == "i":
            matched[column] = found[column].reindex(rows, fill_value=-1)
    return {f"{name}_{column}": matched[column].to_numpy() for column in matched}


def write_labels(block: Block, labels: pd.DataFrame, url: str, status: str) -> BlockResult:
    """Store one block's table of labels, counted by its `status` column, then commit it."""
    counts = status_names(labels[status].to_numpy(), FitStatus)
    return write_part(url, block, pa.Table.from_pandas(labels, preserve_index=False), counts=counts)
