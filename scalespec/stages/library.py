"""A library of noiseless spectra over the whole label range, to train an emulator on."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from scalespec.models.base import Emulator
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.stages.mock import grid_block, synthesis_model
from scalespec.store import paths
from scalespec.store.ledger import Ledger, new_attempt
from scalespec.store.spectra import create_spectra, write_spectra

BLOCK_ROWS = 512


def library_stage(
    url: str, *, n_spectra: int, seed: int, labels: Sequence[str], emulator: Emulator | None = None
) -> Stage:
    """Make the store ``<url>/spectra.zarr`` and return the stage that fills it.

    Parameters
    ----------
    url : str
        Folder of the library.
    n_spectra : int
        Spectra, drawn over the box of labels.
    seed : int
    labels : sequence of str
        Of our own line synthesis.
    emulator : Emulator, optional
        Makes the spectra instead, and brings its labels.
    """
    setup = partial(_model, emulator, tuple(labels))
    template = _block(setup(), 0, 1, seed).isel(spectrum=slice(0, 0))
    create_spectra(
        paths.join(url, "spectra.zarr"), template, n_spectrum=n_spectra, shard_rows=BLOCK_ROWS
    )
    return Stage(
        name="library",
        url=url,
        blocks=plan_blocks(n_spectra, BLOCK_ROWS),
        read=_same,
        compute=partial(_compute, seed=seed),
        write=partial(_write, url=url),
        runs_on="dask",
        setup=setup,
    )


def _model(emulator: Emulator | None, labels: tuple[str, ...]) -> Emulator:
    return emulator or synthesis_model(labels)


def _same(block: Block) -> Block:
    return block


def _block(model: Emulator, index: int, rows: int, seed: int) -> xr.Dataset:
    made = grid_block(index, model, rows=rows, seed=seed)
    return made.assign_attrs(label_names=list(model.spec.labels))


def _compute(model: Emulator, block: Block, seed: int) -> xr.Dataset:
    made = _block(model, block.index, block.size, seed)
    return made.assign(obsid=("spectrum", np.arange(block.start, block.stop)))


def _write(block: Block, library: xr.Dataset, url: str) -> BlockResult:
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    hashes = write_spectra(paths.join(url, "spectra.zarr"), block, library)
    objects = {f"spectra.zarr/{key}": value for key, value in hashes.items()}
    return ledger.commit(block, BlockResult(block.size, objects, {}, new_attempt()))
