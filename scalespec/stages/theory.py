"""A theoretical library over any wavelengths, the ultraviolet among them, for simulations.

Spectra of our own line synthesis times their continuum, at rest, even in log wavelength.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.config import LibraryTable
from scalespec.errors import ConfigError
from scalespec.kernels.population import draw_library
from scalespec.models.sed import continuum_flux
from scalespec.models.synthesis import LineSynthesis
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import PER_SPECTRUM
from scalespec.stages.library import LIBRARY_SNR
from scalespec.stages.mock_spectra import load_lines, model_flux
from scalespec.stages.regrid import theory_grid
from scalespec.store import paths
from scalespec.store.committed import commit_spectra
from scalespec.store.spectra import create_spectra, memory_bytes

LIBRARY = 12
"""Last word of a seed: of the labels drawn."""


def theory_model(table: LibraryTable) -> LineSynthesis:
    """Return the line synthesis of a library.

    Raises
    ------
    ConfigError
        If wavelengths or labels are beyond what it knows.
    """
    try:
        power = table.resolving_power
        grid = theory_grid(table).astype(np.float64)
        return LineSynthesis(load_lines(), grid, labels=table.labels, resolving_power=power).eval()
    except ValueError as error:
        raise ConfigError(f"preprocess.library: {error}") from error


def theory_block(model: LineSynthesis, block: Block, *, seed: int) -> xr.Dataset:
    """Make the spectra of a block: the same wherever, and beside whatever others, they are made.

    Parameters
    ----------
    model : LineSynthesis
    block : Block
    seed : int

    Returns
    -------
    xr.Dataset
        Raw spectra at rest: flux per Å, 1 at the continuum of the middle pixel; S/N `LIBRARY_SNR`;
        ``labels``.
    """
    spec = model.spec
    drawn = [
        draw_library(
            np.random.default_rng([seed, row, LIBRARY]), 1, spec.labels, spec.minimum, spec.maximum
        )
        for row in range(block.start, block.stop)
    ]
    labels = np.concatenate([np.zeros((0, spec.n_label)), *drawn])
    made = spectra_of(model, labels)
    made["obsid"] = ("spectrum", np.arange(block.start, block.stop))
    return made


def spectra_of(model: LineSynthesis, labels: npt.NDArray[np.float64]) -> xr.Dataset:
    """Return raw spectra of stars with these labels (n, n_label), as of `theory_block`."""
    spec, n = model.spec, len(labels)
    flux: npt.NDArray[np.floating] = model_flux(model, labels)
    if n:
        flux = flux * continuum_flux(labels, spec.labels, spec.wavelength)
    columns = {name: np.full(n, unknown, kind) for name, (kind, unknown, _) in PER_SPECTRUM.items()}
    columns["rv"] = columns["rv_err"] = np.zeros(n, np.float32)
    columns["snr"] = np.full(n, LIBRARY_SNR, np.float32)
    lit = flux > 0
    ivar = np.where(lit, (LIBRARY_SNR / np.where(lit, flux, 1)) ** 2, 0)
    pixels = {"flux": flux.astype(np.float32), "ivar": ivar.astype(np.float32)}
    pixels["mask"] = np.zeros(flux.shape, np.uint32)
    return xr.Dataset(
        {name: (("spectrum", "wavelength"), values) for name, values in pixels.items()}
        | {n: ("spectrum", v, {"units": PER_SPECTRUM[n][2]}) for n, v in columns.items()}
        | {"labels": (("spectrum", "label"), labels.astype(np.float32))},
        {
            "wavelength": ("wavelength", spec.wavelength, {"units": "Angstrom"}),
            "label": np.array(spec.labels),
        },
        _attrs(model),
    )


def _attrs(model: LineSynthesis) -> dict[str, object]:
    grid = model.spec.wavelength
    return {
        "survey": "theory",
        "wavelength_medium": "vacuum",
        "frame": "rest",
        "flux_unit": "relative",
        "resolving_power": model.spec.resolving_power,
        "log10_wavelength_start": float(np.log10(grid[0])),
        "log10_wavelength_step": float(np.log10(grid[1] / grid[0])),
        "label_names": list(model.spec.labels),
    }


def theory_stage(table: LibraryTable, url: str, *, size: int, seed: int) -> Stage:
    """Make the store ``<url>/spectra.zarr`` and return the stage that fills it.

    Parameters
    ----------
    table : LibraryTable
    url : str
        Folder of the library.
    size : int
        Spectra per block.
    seed : int

    Raises
    ------
    ConfigError
        If wavelengths or labels are beyond what our line synthesis knows.
    """
    model = theory_model(table)
    template = theory_block(model, Block("spectrum", 0, 0, 0), seed=seed)
    n = table.n_spectra
    create_spectra(paths.join(url, "spectra.zarr"), template, n_spectrum=n, shard_rows=size)
    return Stage(
        name="library",
        url=url,
        blocks=plan_blocks(n, size),
        read=_same,
        compute=partial(theory_block, seed=seed),
        write=partial(_write, url=url),
        runs_on="dask",
        setup=partial(theory_model, table),
        memory_bytes=memory_bytes(min(size, n), model.spec.n_pixel),
    )


def _same(block: Block) -> Block:
    return block


def _write(block: Block, library: xr.Dataset, url: str) -> BlockResult:
    return commit_spectra(url, block, library)
