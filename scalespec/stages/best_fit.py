"""The best fit of every spectrum as a store of spectra of its own: what the data show beside it."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xarray as xr

from scalespec.config import RunConfig
from scalespec.plan import Block, BlockResult, Stage
from scalespec.stages import folders
from scalespec.stages.emulators import wanted_device
from scalespec.stages.inspect import Fitted, best_fit_flux, load_fitted
from scalespec.stages.question import UNASKED
from scalespec.stages.standing import blocks_done
from scalespec.stages.stores import make_store
from scalespec.store import paths
from scalespec.store.catalog import read_part
from scalespec.store.committed import commit_spectra
from scalespec.store.spectra import memory_bytes, read_spectra

FOLDER = "best_fit"
"""Below the catalog's; the store in it is ``spectra.zarr``."""


def best_fit_stages(config: RunConfig, url: str) -> Iterator[Stage]:
    """Yield the stage that writes best fits; rows are those of the preprocessed spectra.

    ``flux`` is the fit as the data would show it without noise: at the star's velocity, resolution
    and normalization; 0 where there is no fit, where ``fitted`` is 0.
    """
    store = folders.spectra_store(config)
    target = paths.join(url, FOLDER)
    head = read_spectra(store, 0, 0)
    make_store(config, paths.join(target, "spectra.zarr"), {"": fitted_spectra([], head, {})})
    best = folders.best_url(config)
    yield Stage(
        name="publish best fits",
        url=target,
        blocks=blocks_done(config, best),
        read=partial(_read, store=store, best=best),
        compute=_fits,
        write=partial(_write, url=target),
        runs_on="ray",
        setup=partial(load_fitted, config, store, wanted_device(config)),
        gpus=config.engine.ray.gpus_per_worker,
        memory_bytes=memory_bytes(config.run.spectra_per_block, head.sizes["wavelength"]),
    )


def fitted_spectra(
    models: Sequence[Fitted], spectra: xr.Dataset, best: dict[str, npt.NDArray[Any]]
) -> xr.Dataset:
    """Return best fits in place of the spectra's flux."""
    flux = np.zeros(spectra["flux"].shape, np.float32)
    if len(flux):
        flux = best_fit_flux(models, spectra, best)
    fitted = np.asarray(np.isfinite(flux).all(axis=1))
    made = {
        "flux": (("spectrum", "wavelength"), np.where(fitted[:, None], flux, 0).astype(np.float32)),
        "obsid": ("spectrum", spectra["obsid"].to_numpy()),
        "status": ("spectrum", spectra["status"].to_numpy()),
        "fitted": ("spectrum", fitted.astype(np.uint8)),
    }
    attrs = {**spectra.attrs, "content": "best fits of the spectra in the same rows"}
    return xr.Dataset(made, {"wavelength": spectra["wavelength"]}, attrs)


def _read(block: Block, store: str, best: str) -> tuple[xr.Dataset, pa.Table]:
    return read_spectra(store, block.start, block.stop, without=UNASKED), read_part(best, block)


def _fits(models: list[Fitted], data: tuple[xr.Dataset, pa.Table]) -> xr.Dataset:
    spectra, table = data
    best = {
        name: table[name].to_numpy()
        for name in table.column_names
        if not pa.types.is_list(table[name].type)
        and not pa.types.is_fixed_size_list(table[name].type)
    }
    return fitted_spectra(models, spectra, best)


def _write(block: Block, made: xr.Dataset, url: str) -> BlockResult:
    return commit_spectra(url, block, made, count=lambda x: {"fitted": int(x["fitted"].sum())})
