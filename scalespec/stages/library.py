"""A library of noiseless spectra over the whole label range, to train an emulator on."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.kernels.observation import continuum
from scalespec.kernels.observation_lsf import log_grid_of, observed_profile
from scalespec.kernels.observation_surveys import INSTRUMENTS
from scalespec.kernels.population import draw_library
from scalespec.models.base import Emulator
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import PER_SPECTRUM, MaskBit
from scalespec.stages.mock_spectra import model_flux, synthesis_model
from scalespec.store import paths
from scalespec.store.committed import commit_spectra
from scalespec.store.spectra import create_spectra
from scalespec.surveys.lamost import ATTRS, WAVELENGTH

BLOCK_ROWS = 512
LIBRARY_SNR = 1e5
"""Stated for spectra without noise: training takes what lies above it for the model's own error."""
_LIBRARY = 4  # last word of a seed; `mock_stars` has 3, `mock_records` 5


def library_stage(
    url: str,
    *,
    n_spectra: int,
    seed: int,
    labels: Sequence[str],
    truth_model: Emulator | None = None,
    even_fibres: bool = False,
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
    truth_model : Emulator, optional
        Makes the spectra instead, and brings its labels.
    even_fibres : bool
        At the resolution of the middle of the slit, as a survey of even fibres has it.
    """
    setup = partial(_model, truth_model, tuple(labels))
    template = _block(setup(), 0, 1, seed, even_fibres).isel(spectrum=slice(0, 0))
    create_spectra(
        paths.join(url, "spectra.zarr"), template, n_spectrum=n_spectra, shard_rows=BLOCK_ROWS
    )
    return Stage(
        name="library",
        url=url,
        blocks=plan_blocks(n_spectra, BLOCK_ROWS),
        read=_same,
        compute=partial(_compute, seed=seed, even_fibres=even_fibres),
        write=partial(_write, url=url),
        runs_on="dask",
        setup=setup,
    )


def grid_block(
    index: int, model: Emulator, *, rows: int, seed: int = 1, even_fibres: bool = False
) -> xr.Dataset:
    """Make one block of a noiseless library to train an emulator on: raw spectra and labels.

    Parameters
    ----------
    index : int
        Of the block; it and `seed` say what comes out.
    model : Emulator
    rows : int
        Spectra in the block.
    seed : int
    even_fibres : bool
        As of `library_stage`.

    Returns
    -------
    xr.Dataset
        In the raw schema, at rest, at the instrument's mean resolution, with a random smooth slope
        and S/N `LIBRARY_SNR`, and ``labels`` on dims ``spectrum`` and ``label``.
    """
    rng = np.random.default_rng([seed, index, _LIBRARY])
    labels = draw_library(rng, rows, model.spec.labels, model.spec.minimum, model.spec.maximum)
    shape = continuum(WAVELENGTH, labels[:, model.spec.labels.index("teff")], rng)
    made = theory_spectra(model, labels, shape, even_fibres=even_fibres)
    made["obsid"] = ("spectrum", index * rows + np.arange(1, rows + 1, dtype=np.int64))
    return made


def theory_spectra(
    model: Emulator,
    labels: npt.NDArray[np.float64],
    shape: npt.NDArray[np.floating[Any]],
    *,
    even_fibres: bool = False,
) -> xr.Dataset:
    """Return noiseless raw spectra of stars with these labels.

    Parameters
    ----------
    model : Emulator
    labels : (n, n_label) float64
        In the model's order.
    shape : (n, n_pixel) float
        Of their continua, on LAMOST's pixels.
    even_fibres : bool
        As of `library_stage`.

    Returns
    -------
    xr.Dataset
        As of `grid_block`.
    """
    rows = len(labels)
    flux, covered = _observed(model, model_flux(model, labels), even_fibres)
    flux = flux * shape * covered
    ivar = np.divide(LIBRARY_SNR**2, flux**2, out=np.zeros_like(flux), where=flux > 0)
    mask = np.where(covered, 0, MaskBit.OUTSIDE.value).astype(np.uint32)
    columns = {
        key: np.full(rows, unknown, kind) for key, (kind, unknown, _) in PER_SPECTRUM.items()
    }
    columns["rv"] = columns["rv_err"] = np.zeros(rows, np.float32)
    columns["snr"] = np.full(rows, LIBRARY_SNR, np.float32)
    pixels = {"flux": (flux, "relative"), "ivar": (ivar, "relative^-2"), "mask": (mask, "")}
    return xr.Dataset(
        {k: (("spectrum", "wavelength"), v, {"units": unit}) for k, (v, unit) in pixels.items()}
        | {k: ("spectrum", v, {"units": PER_SPECTRUM[k][2]}) for k, v in columns.items()}
        | {"labels": (("spectrum", "label"), labels.astype(np.float32))},
        {
            "wavelength": ("wavelength", WAVELENGTH, {"units": "Angstrom"}),
            "label": np.array(model.spec.labels),
        },
        dict(ATTRS),
    )


def _observed(
    model: Emulator, flux: npt.NDArray[np.float32], even_fibres: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return flux on LAMOST's pixels as a fibre of average resolution shows it, and where it is.

    Raises
    ------
    ValueError
        If the model's grid is not even in log wavelength.
    """
    grid = log_grid_of(model.spec.wavelength)
    instrument = INSTRUMENTS["lamost_lrs/coadd"]
    # R falls with the square of the place in the slit: a third of that on average.
    droop = 0.0 if even_fibres else instrument.fibre_droop / 3
    power = instrument.arms[0].resolving_power(WAVELENGTH, np.full(len(flux), droop))
    added = np.zeros_like(power)
    if model.spec.resolving_power:  # one that does not say it is of the survey's own
        given = grid.sigma_pixels(model.spec.resolving_power)
        added = np.sqrt(np.maximum(grid.sigma_pixels(power) ** 2 - given**2, 0))
    return observed_profile(flux, grid, WAVELENGTH, rv=np.zeros(len(flux)), sigma=added)


def _model(truth_model: Emulator | None, labels: tuple[str, ...]) -> Emulator:
    return truth_model or synthesis_model(labels)


def _same(block: Block) -> Block:
    return block


def _block(model: Emulator, index: int, rows: int, seed: int, even_fibres: bool) -> xr.Dataset:
    made = grid_block(index, model, rows=rows, seed=seed, even_fibres=even_fibres)
    return made.assign_attrs(label_names=list(model.spec.labels))


def _compute(model: Emulator, block: Block, seed: int, even_fibres: bool) -> xr.Dataset:
    made = _block(model, block.index, block.size, seed, even_fibres)
    return made.assign(obsid=("spectrum", np.arange(block.start, block.stop)))


def _write(block: Block, library: xr.Dataset, url: str) -> BlockResult:
    return commit_spectra(url, block, library)
