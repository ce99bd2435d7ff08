"""Spectra + models + best labels -> which stars are two: a fit of two stars beside that of one.

Chosen stars are named first, so that mock single stars can be drawn from all of them; these are
fitted with one and with two stars, and their gains of chi2 are the threshold of the stars'.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import xarray as xr

from scalespec.config import BinariesTable, FitTable, InferTable, RunConfig
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.where import where
from scalespec.models.binary import MainSequence
from scalespec.plan import Block, BlockResult, Stage
from scalespec.schema import status_names
from scalespec.stages import folders
from scalespec.stages.emulators import load_ready, load_starters, wanted_device
from scalespec.stages.fit import fitters
from scalespec.stages.ingest import read_index
from scalespec.stages.joining import STORE_COLUMNS
from scalespec.stages.question import match_columns
from scalespec.stages.standing import blocks_done, whole
from scalespec.stages.two_stars import (
    Bench,
    BinaryStatus,
    Pair,
    compare_fits,
    draw_mocks,
    gains_of_singles,
    pair_table,
    pairs_of,
    read_sequence,
)
from scalespec.store import paths
from scalespec.store.catalog import read_part, read_parts, write_part
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import memory_bytes, read_rows, read_spectra

Array = npt.NDArray[Any]

CHOSEN = "chosen"
"""Folder below the stage's: the stars that are asked for."""
LEAST_LOGG = 3.8
"""Of the stars that are asked for where the run file does not say which: no giants."""


@dataclass(frozen=True)
class Sources:
    """What blocks are read from, found once: to name a folder, whole tables upstream are read."""

    store: str
    best: str
    raw: str
    url: str
    matches: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """The chosen stars of a block, row by row, and all its rows as the table has them."""

    spectra: xr.Dataset
    best: pd.DataFrame
    rows: pa.Table


def binaries(config: RunConfig) -> Iterator[Stage]:
    """Yield the stages that choose stars, fit mock single ones, and the stars as one and as two.

    Raises
    ------
    ConfigError
        If the condition on stars is none, or no pairs can be made of the models' stars.
    StageError
        If no star is chosen, or blocks failed that the threshold would lack.
    """
    table, fit, infer = config.binaries, config.fit, config.infer
    if table is None or fit is None or infer is None:
        raise ConfigError("the run file has no [binaries], no [fit] or no [infer] table")
    sources = _sources(config, table)
    sequence = read_sequence(table.isochrone)
    blocks = blocks_done(config, sources.best)
    head = read_spectra(sources.store, 0, 0)
    fits = (folders.model_urls(config), head["wavelength"].to_numpy(), dict(head.attrs))
    pairs_of(load_ready(*fits), table, fit, sequence)  # said here, before workers start
    _check_where(blocks[:1], sources, table)
    chosen, singles = paths.join(sources.url, CHOSEN), folders.singles_url(config)
    yield Stage(
        name="binaries chosen",
        url=chosen,
        blocks=blocks,
        read=partial(_read_columns, sources=sources),
        compute=partial(_choose, table=table, sequence=sequence),
        write=partial(_write, url=chosen, what="chosen"),
        runs_on="dask",
    )
    if not whole(chosen, len(blocks)):
        return
    n = sum(result.rows for result in Ledger(chosen).commits().values())
    if not n:
        raise StageError(f"{chosen}: binaries.where chooses none of the fitted stars")
    work: dict[str, Any] = {
        "blocks": blocks,
        "runs_on": "ray",
        "gpus": config.engine.ray.gpus_per_worker,
        "memory_bytes": memory_bytes(config.run.spectra_per_block, head.sizes["wavelength"]),
    }
    how = (table, fit, sequence, wanted_device(config))
    share, seed = table.n_mocks / n, config.run.seed
    yield Stage(
        name="binaries singles",
        url=singles,
        read=partial(_read_mocks, sources=sources, share=share, seed=seed),
        compute=partial(_gains, table=table, settings=(infer, fit, seed)),
        write=partial(_write, url=singles, what="mocks"),
        setup=partial(_bench, fits, how, (infer.templates, seed)),
        **work,
    )
    if not whole(singles, len(blocks)):
        return
    yield Stage(
        name="binaries",
        url=sources.url,
        read=partial(_read, sources=sources),
        compute=partial(_compare, table=table, fit=fit, threshold=threshold_of(singles, table)),
        write=partial(_write_pairs, url=sources.url),
        setup=partial(_pairs, fits, how),
        **work,
    )


def threshold_of(url: str, table: BinariesTable) -> float:
    """Return the gain that mock single stars exceed as often as the run file allows."""
    gains = read_parts(url, ["binary_gain"])["binary_gain"].to_numpy()
    return max(0.0, float(np.quantile(gains, 1 - table.false_positive_rate)))


def _sources(config: RunConfig, table: BinariesTable) -> Sources:
    matches = config.crossmatch or {} if table.where else {}
    return Sources(
        store=folders.spectra_store(config),
        best=folders.best_url(config),
        raw=folders.raw_url(config),
        url=folders.binaries_url(config),
        matches={name: folders.matches_url(config, name) for name in matches},
    )


def _check_where(blocks: Sequence[Block], sources: Sources, table: BinariesTable) -> None:
    """Try the run file's condition on the first block, before workers try it on every one."""
    for block in blocks if table.where else ():
        try:
            where(table.where, _read_columns(block, sources))
        except ValueError as error:
            raise ConfigError(f"binaries.where: {error}") from error


def _read_columns(block: Block, sources: Sources) -> dict[str, Array]:
    """Return what a condition may name of a block, as the catalog calls it."""
    scalars = read_spectra(sources.store, block.start, block.stop, names=STORE_COLUMNS)
    columns = {ours: scalars[n].to_numpy() for n, ours in STORE_COLUMNS.items() if n in scalars}
    index = read_index(sources.raw, block)
    columns |= {str(name): index[name].to_numpy() for name in index}
    for name, url in sources.matches.items():
        columns |= match_columns(name, url, block)
    best = read_part(sources.best, block)
    return columns | {n: best[n].to_numpy() for n in best.column_names if n != "label_cov"}


def _choose(
    _: None, columns: dict[str, Array], table: BinariesTable, sequence: MainSequence
) -> pa.Table:
    """Return the rows of the fitted stars that are asked for."""
    asked = columns["model"] >= 0
    if table.where:
        asked &= where(table.where, columns)
    else:
        low, high = sequence.teff[[0, -1]]
        asked &= (low <= columns["teff"]) & (columns["teff"] <= high)
        asked &= columns["logg"] > LEAST_LOGG
    return pa.table({"row": columns["row"][asked].astype(np.int64)})


def _read_mocks(
    block: Block, sources: Sources, share: float, seed: int
) -> tuple[xr.Dataset, pd.DataFrame]:
    """Read the stars of a block that mocks are made of, each as often as it gives one."""
    rows = read_part(paths.join(sources.url, CHOSEN), block)["row"].to_numpy()
    number = draw_mocks(rows, share, seed)
    rows, number = rows[number > 0], number[number > 0]
    best = read_part(sources.best, block).to_pandas().iloc[rows - block.start]
    again = np.repeat(np.arange(len(rows)), number)
    mock = np.concatenate([np.arange(0), *map(np.arange, number)])
    spectra = read_rows(sources.store, rows)
    return spectra.isel(spectrum=again), best.iloc[again].assign(mock=mock)


def _bench(fits: tuple[Any, ...], how: tuple[Any, ...], drawn: tuple[int, int]) -> Bench:
    table, fit, sequence, device = how
    starters = load_starters(*fits, n_template=drawn[0], seed=drawn[1], device=device)
    ready = [one.ready for one in starters]
    return Bench(starters, fitters(ready, fit), pairs_of(ready, table, fit, sequence))


def _gains(
    bench: Bench,
    data: tuple[xr.Dataset, pd.DataFrame],
    table: BinariesTable,
    settings: tuple[InferTable, FitTable, int],
) -> pa.Table:
    return gains_of_singles(bench, *data, table, settings)


def _read(block: Block, sources: Sources) -> Chosen:
    """Read the chosen stars of a block, and what every row of it is called."""
    rows = read_part(paths.join(sources.url, CHOSEN), block)["row"].to_numpy()
    best = read_part(sources.best, block)
    index = read_index(sources.raw, block)
    names = index["designation"].astype(str) if "designation" in index else pd.Series(dtype=str)
    named = names.reindex(range(block.size), fill_value="").tolist()
    called = best.select(["row", "obsid"]).append_column(
        "designation", pa.array(named, pa.string())
    )
    chosen = best.to_pandas().iloc[rows - block.start]
    return Chosen(read_rows(sources.store, rows), chosen, called)


def _pairs(fits: tuple[Any, ...], how: tuple[Any, ...]) -> list[Pair]:
    table, fit, sequence, device = how
    return pairs_of(load_ready(*fits, device=device), table, fit, sequence)


def _compare(
    pairs: list[Pair], chosen: Chosen, table: BinariesTable, fit: FitTable, threshold: float
) -> pa.Table:
    """Return a row for every one of the block, unknown where none was asked for."""
    found = compare_fits(pairs, chosen.spectra, chosen.best, table, fit, threshold=threshold)
    made = pair_table(pairs, chosen.spectra, chosen.best, found, threshold)
    rows = chosen.rows["row"].to_numpy()
    places = np.searchsorted(rows, chosen.best["row"].to_numpy())
    columns = {name: chosen.rows[name] for name in chosen.rows.column_names}
    for name, values in made.items():
        unknown = np.nan if values.dtype.kind == "f" else 0
        columns[name] = np.full(len(rows), unknown, values.dtype)
        columns[name][places] = values
    asked = np.isin(np.arange(len(rows)), places)
    columns["binary_status"][~asked] = BinaryStatus.NOT_ASKED
    return pa.table(columns)


def _write(block: Block, table: pa.Table, url: str, what: str) -> BlockResult:
    return write_part(url, block, table, counts={what: table.num_rows})


def _write_pairs(block: Block, table: pa.Table, url: str) -> BlockResult:
    counts = status_names(table["binary_status"].to_numpy(), BinaryStatus)
    return write_part(url, block, table, counts=counts)
