"""Which matched stars a model learns from: no wrong labels, flat over them, corners filled."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import xarray as xr

from scalespec.config import TrainingSetTable
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.match import splitmix64
from scalespec.kernels.selection import fill_corners, flatten, label_cells, wrong_labels
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import NOISE_CORRELATION
from scalespec.store.catalog import read_parts, write_part
from scalespec.store.spectra import read_rows, read_spectra

TRAIN, TEST, LEFT_OUT = 0, 2, 3
"""Parts of a split, beside 1, validation; nothing is learned from, or asked of, what is left out.

Test stars are never left out: a test without the hard ones would say nothing."""
N_FEATURES = 128
"""Bins of a spectrum that its labels are checked by."""
COPIED = (
    *("flux", "ivar", "mask", "status", "snr", "rv", "rv_err", "rv_shift", "continuum_median"),
    *NOISE_CORRELATION,
)
"""What a library's spectrum brings along."""

Matched = tuple[str, pd.DataFrame, int]
"""Spectra store, matches in it, rows per block."""


def features(spectra: xr.Dataset) -> npt.NDArray[np.float32]:
    """Average flux in bins of as many pixels each; a bin without a good pixel is the continuum, 1.

    Returns
    -------
    (n_spectrum, N_FEATURES) float32
    """
    flux, good = spectra["flux"].to_numpy(), spectra["ivar"].to_numpy() > 0
    edges = np.linspace(0, flux.shape[1], min(N_FEATURES, flux.shape[1]) + 1).astype(int)[:-1]
    total = np.add.reduceat(np.where(good, flux, 0.0), edges, axis=1, dtype=np.float64)
    count = np.add.reduceat(good, edges, axis=1, dtype=np.int64)
    return np.where(count > 0, total / np.maximum(count, 1), 1.0).astype(np.float32)


def features_stage(name: str, url: str, matched: Matched) -> Stage:
    """Return the stage that averages the matched spectra to what outliers are told by."""
    source, matches, size = matched
    return Stage(
        name=f"{name} features",
        url=url,
        blocks=plan_blocks(len(matches), size),
        read=partial(_read_features, source=source, rows=matches["row"].to_numpy()),
        compute=_features,
        write=partial(_write_features, url=url),
        runs_on="dask",
    )


def _read_features(block: Block, source: str, rows: npt.NDArray[np.int64]) -> xr.Dataset:
    return read_rows(source, rows[block.start : block.stop])


def _features(_: None, spectra: xr.Dataset) -> npt.NDArray[np.float32]:
    return features(spectra)


def _write_features(block: Block, made: npt.NDArray[np.float32], url: str) -> BlockResult:
    values = pa.FixedSizeListArray.from_arrays(pa.array(made.ravel()), made.shape[1])
    return write_part(url, block, pa.table({"features": values}), counts={"features": len(made)})


def training_rows(
    matches: pd.DataFrame, labels: Sequence[str], table: TrainingSetTable, features_url: str
) -> pd.DataFrame:
    """Say of each matched spectrum whether it is learned from, and add a library's.

    Parameters
    ----------
    matches : pd.DataFrame
        A table of matches.
    labels : sequence of str
        Its label columns.
    table : TrainingSetTable
    features_url : str
        Folder of the features, where outliers are looked for.

    Returns
    -------
    pd.DataFrame
        The matches, with ``split`` 3 for what is left out, and ``reason``: '', 'outlier', 'crowded'
        or 'library'. Rows of the library follow: their ``row`` is -1 less their row there.

    Raises
    ------
    ConfigError
        If a label of `cells` is none of the catalog's, or of the library's.
    StageError
        If the features of some spectra are missing.
    """
    split, star = matches["split"].to_numpy().copy(), matches["star"].to_numpy()
    reason = np.full(len(matches), "", "U8")

    def leave_out(rows: npt.NDArray[np.int64], why: str) -> None:
        split[rows], reason[rows] = LEFT_OUT, why

    if table.outlier_sigma:
        out = _wrong(matches[list(labels)], star, table, features_url)
        leave_out(np.flatnonzero(out & (split != TEST)), "outlier")
    corners = matches.iloc[:0]
    if table.flatten or table.fill:
        if lacking := sorted(set(table.cells) - set(labels)):
            raise ConfigError(f"training.cells: {lacking} are no labels; there are {list(labels)}")
        cells = label_cells(matches[list(table.cells)], list(table.cells.values()))
        if table.flatten:
            rows = np.flatnonzero(split == TRAIN)
            leave_out(rows[~flatten(cells[rows], star[rows], most=table.flatten)], "crowded")
        if table.fill:
            corners = _corners(cells[split == TRAIN], table, labels)
    chosen = pd.concat([matches.assign(split=split, reason=reason), corners], ignore_index=True)
    return chosen.astype({"split": np.uint8})


def _wrong(
    labels: pd.DataFrame, star: npt.NDArray[np.int64], table: TrainingSetTable, features_url: str
) -> npt.NDArray[np.bool_]:
    spectra = read_parts(features_url)["features"].combine_chunks()
    if len(spectra) != len(labels):
        raise StageError(
            f"{features_url}: features of {len(spectra)} spectra, {len(labels)} were matched: run "
            "with --retry-failed"
        )
    made = spectra.flatten().to_numpy().reshape(len(labels), -1)
    fold = (splitmix64(star.astype(np.uint64)) % np.uint64(table.folds)).astype(np.int64)
    return wrong_labels(made, labels, fold, sigma=table.outlier_sigma)


def _corners(
    cells: npt.NDArray[np.int64], table: TrainingSetTable, labels: Sequence[str]
) -> pd.DataFrame:
    """Return the library's rows that fill sparse cells, as rows of a table of matches."""
    library = read_spectra(table.library, 0, 2**62, names=("labels",))
    names = [str(name) for name in library["label"].to_numpy()]
    if lacking := sorted(set(table.cells) - set(names)):
        raise ConfigError(f"training.library: {table.library} has no label {lacking}, only {names}")
    values = pd.DataFrame(library["labels"].to_numpy(), columns=names)
    theirs = label_cells(values[list(table.cells)], list(table.cells.values()))
    rows = fill_corners(cells, theirs, fewest=table.fill)
    star = splitmix64(~rows.astype(np.uint64)) >> np.uint64(2)
    made = {"row": -1 - rows, "obsid": -1, "star": star.astype(np.int64), "split": TRAIN}
    made |= {"rank": 0, "n_candidates": 0, "by_id": False, "reason": "library"}
    known = values.iloc[rows].reset_index(drop=True).reindex(columns=list(labels))
    return pd.concat([pd.DataFrame(made), known.astype(np.float64)], axis=1)


def check_library(spectra: xr.Dataset, library: str) -> None:
    """Refuse a library whose spectra are not as the survey's are after preprocessing.

    Raises
    ------
    ConfigError
        If grid or normalization differ.
    """
    theirs = read_spectra(library, 0, 0)
    ours_at, theirs_at = spectra["wavelength"].to_numpy(), theirs["wavelength"].to_numpy()
    if ours_at.shape != theirs_at.shape or not np.allclose(ours_at, theirs_at, rtol=1e-9):
        raise ConfigError(
            f"training.library: {library} has {len(theirs_at)} pixels, {theirs_at[0]:.2f} to "
            f"{theirs_at[-1]:.2f} Å, the spectra {len(ours_at)}, {ours_at[0]:.2f} to "
            f"{ours_at[-1]:.2f} Å: preprocess it as they were"
        )
    norms = [one.attrs.get("normalization") for one in (theirs, spectra)]
    if norms[0] != norms[1]:
        raise ConfigError(
            f"training.library: {library} is normalized by {norms[0]}, the spectra by {norms[1]}"
        )


def read_chosen(rows: pd.DataFrame, source: str, library: str) -> xr.Dataset:
    """Read the spectra of some rows of a selection: the survey's, and the library's."""
    row = rows["row"].to_numpy()
    spectra = read_rows(source, np.maximum(row, 0))
    synthetic = np.flatnonzero(row < 0)
    if len(synthetic):
        theirs = read_rows(library, -1 - row[synthetic])
        for name in COPIED:
            if name in spectra and name in theirs:
                values = spectra[name].to_numpy().copy()
                values[synthetic] = theirs[name].to_numpy()
                spectra[name] = (spectra[name].dims, values)
        for name in ("obsid", "source_id"):
            if name in spectra:
                spectra[name] = ("spectrum", np.where(row < 0, -1, spectra[name].to_numpy()))
    return spectra
