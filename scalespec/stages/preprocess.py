"""Raw spectra -> masked, rest-frame to the nearest pixel, normalized, on one grid.

What is done, and in which order, is ``[preprocess] steps``; `steps` has each of them. The rest
frame is reached by whole pixels only: nothing is interpolated, so noise stays white and ``ivar``
stays true. What is left of the star's velocity, half a pixel at most, is fitted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from scalespec.config import PreprocessTable, RunConfig
from scalespec.errors import ConfigError, StageError
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import UNREADABLE, SpectrumStatus, status_names
from scalespec.stages import folders
from scalespec.stages.normalizers import said
from scalespec.stages.regrid import Spectra, Step
from scalespec.stages.standing import blocks_done
from scalespec.stages.statistics import statistics
from scalespec.stages.steps import make_step, single
from scalespec.stages.stores import encoding, make_store
from scalespec.stages.visits import combine_stars
from scalespec.store import paths
from scalespec.store.committed import commit_spectra
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import (
    arm_names,
    count_spectra,
    create_spectra,
    memory_bytes,
    read_spectra,
)


@dataclass(frozen=True)
class Preparation:
    """What preprocessing needs of a grid: made once per worker.

    Attributes
    ----------
    steps : tuple of Step
        Operators and masks of these grids within.
    """

    steps: tuple[Step, ...]


def prepare(raw: xr.Dataset | Spectra, table: PreprocessTable, *, seed: int = 1) -> Preparation:
    """Build masks and operators for spectra like `raw`.

    Parameters
    ----------
    raw : xr.Dataset or mapping of str to xr.Dataset
        Spectra in our schema, any number of rows: grids and attributes count.
    table : PreprocessTable
        The ``[preprocess]`` settings.
    seed : int
        Of simulated noise.

    Raises
    ------
    ValueError
        If the wavelength limits leave no pixel, or a step cannot be taken with these spectra.
    """
    head = {name: group.isel(spectrum=slice(0, 0)) for name, group in _groups(raw).items()}
    made = []
    for name in table.steps:
        step = make_step(name, head, table, seed)
        head = dict(step(head))
        made.append(step)
    return Preparation(tuple(made))


def _groups(raw: xr.Dataset | Spectra) -> Spectra:
    return {"": raw} if isinstance(raw, xr.Dataset) else raw


def preprocess_block(
    raw: xr.Dataset | Spectra, table: PreprocessTable, preparation: Preparation | None = None
) -> xr.Dataset:
    """Mask, shift, cut and normalize spectra, or whatever the table's steps say.

    Parameters
    ----------
    raw : xr.Dataset or mapping of str to xr.Dataset
        Spectra in our schema; of a survey with arms, "" the root and each arm.
    table : PreprocessTable
        The ``[preprocess]`` settings.
    preparation : Preparation, optional
        Of the raw grid, to reuse; made if not given.

    Returns
    -------
    xr.Dataset
        Same rows; ``flux`` in units of the continuum, ``rv_shift`` the velocity taken out.

    Raises
    ------
    ValueError
        As `prepare`.
    """
    ready = preparation or prepare(raw, table)
    spectra = _groups(raw)
    for step in ready.steps:
        spectra = step(spectra)
    return _finished(single(spectra, "the last"), table)


def _finished(spectra: xr.Dataset, table: PreprocessTable) -> xr.Dataset:
    """Add what every preprocessed store has, whichever steps were taken."""
    ivar, flux = spectra["ivar"].to_numpy(), spectra["flux"].to_numpy()
    status = spectra["status"].to_numpy()
    empty = ~np.any(ivar > 0, axis=1) & (status & np.uint32(UNREADABLE) == 0)
    status = np.where(empty, status | np.uint32(SpectrumStatus.NO_PIXELS), status)
    zeros = ("spectrum", np.zeros(len(status), np.float32))
    absent = {n: zeros for n in ("rv_shift", "continuum_median") if n not in spectra}
    made = spectra.assign(
        absent
        | {
            "flux": (spectra["flux"].dims, np.where(ivar > 0, flux, np.float32(0))),
            "status": ("spectrum", status.astype(np.uint32)),
        }
    )
    made.attrs.pop("block", None)
    power = table.resolving_power
    degraded = {"regrid": table.grid and table.grid.resolving_power, "simulate": True}
    known = any(degraded.get(step) for step in table.steps)
    return made.assign_attrs(resolving_power=power) if power and not known else made


def write_preprocessed(block: Block, spectra: xr.Dataset, url: str) -> BlockResult:
    """Store one block's normalized spectra, then commit it."""
    return commit_spectra(url, block, spectra, count=_counts)


def _counts(spectra: xr.Dataset) -> dict[str, int]:
    return status_names(spectra["status"].to_numpy(), SpectrumStatus)


def read_raw(block: Block, url: str) -> Spectra:
    """Read one block of a spectra store into memory, with its arms if it has any."""
    spectra = _read(url, block.start, block.stop)
    return {name: group.assign_attrs(block=block.index) for name, group in spectra.items()}


def _read(url: str, start: int, stop: int) -> dict[str, xr.Dataset]:
    arms = {name: read_spectra(paths.join(url, name), start, stop) for name in arm_names(url)}
    return {"": read_spectra(url, start, stop)} | arms


def normalization(table: PreprocessTable) -> dict[str, Any]:
    """Return how spectra are normalized, as models and stores say it."""
    return said(table.continuum) if "normalize" in table.steps else {"method": "none"}


def preprocess(config: RunConfig) -> Iterator[Stage]:
    """Make the store of normalized spectra and yield the stage that fills it."""
    table, source = config.preprocess or PreprocessTable(), folders.source_url(config)
    if table.library:
        from scalespec.stages.theory import theory_stage  # with torch, which all else goes without

        theory, size = folders.theory_url(config), config.run.spectra_per_block
        stage = theory_stage(table.library, theory, size=size, seed=config.run.seed)
        yield stage
        if lacking := len(stage.blocks) - len(Ledger(theory).done()):
            raise StageError(f"{theory}: {lacking} blocks of the library could not be made")
    url = folders.spectra_url(config)
    if source:
        stage, raw = preprocess_stage(config, source, url), ""
    else:
        raw = folders.raw_url(config)
        blocks = blocks_done(config, raw)
        source = paths.join(raw, "spectra.zarr")
        stage = preprocess_stage(config, source, url, blocks=blocks)
    yield stage
    if table.statistics:
        yield from statistics(config, url, raw, stage.blocks)
    if table.visits:
        yield from combine_stars(config, url, raw, stage.blocks)


def preprocess_stage(
    config: RunConfig,
    source: str,
    url: str,
    *,
    blocks: Sequence[Block] | None = None,
    name: str = "preprocess",
) -> Stage:
    """Return the stage that preprocesses the spectra store `source` into ``<url>/spectra.zarr``.

    Parameters
    ----------
    config : RunConfig
    source : str
        Spectra store in the raw schema.
    url : str
        Folder of the stage.
    blocks : sequence of Block, optional
        Those of the run's plan to take; if not given, all of `source`, whatever the plan.
    name : str
        Of the stage.

    Raises
    ------
    ConfigError
        If the steps cannot be taken with these spectra.
    """
    table = config.preprocess or PreprocessTable()
    size = config.run.spectra_per_block
    head = _read(source, 0, 0)
    try:
        template = preprocess_block(head, table, prepare(head, table))
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    attrs = {"normalization": normalization(table), "steps": list(table.steps)}
    template, target = (
        template.assign_attrs(attrs | _kernel(table)),
        paths.join(url, "spectra.zarr"),
    )
    if blocks is None:
        n, kept = count_spectra(source), encoding(config)
        create_spectra(target, template, n_spectrum=n, shard_rows=size, encoding=kept)
        blocks = plan_blocks(n, size)
    else:
        make_store(config, target, {"": template})
    return Stage(
        name=name,
        url=url,
        blocks=list(blocks),
        read=partial(read_raw, url=source),
        compute=partial(_compute, table=table),
        write=partial(write_preprocessed, url=url),
        runs_on="dask",
        setup=partial(prepare, head, table, seed=config.run.seed),
        memory_bytes=2 * memory_bytes(size, _n_pixel(head)),
    )


def _kernel(table: PreprocessTable) -> dict[str, str]:
    """Say the convention of a Gaussian's width, which papers differ in."""
    if table.continuum.method != "gaussian" or "normalize" not in table.steps:
        return {}
    return {
        "normalization_kernel": "exp(-d^2 / (2 width_angstrom^2))",
        "normalization_weights": table.continuum.weights,
    }


def _n_pixel(head: Spectra) -> int:
    return sum(group["flux"].shape[1] for group in head.values() if "flux" in group)


def _compute(ready: Preparation, raw: Spectra, table: PreprocessTable) -> xr.Dataset:
    return preprocess_block(raw, table, ready)
