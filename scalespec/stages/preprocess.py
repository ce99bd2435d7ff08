"""Raw spectra -> masked, rest-frame to the nearest pixel, normalized, on one grid.

The rest frame is reached by whole pixels only: nothing is interpolated, so noise stays white and
``ivar`` stays true. What is left of the star's velocity, half a pixel at most, is fitted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.config import PreprocessTable, RunConfig
from scalespec.kernels import mask as masks
from scalespec.kernels.continuum import SmoothingOperator, gaussian_smoothing, normalize
from scalespec.kernels.resample import shift_pixels
from scalespec.kernels.wavelength import pixels_to_velocity, velocity_to_pixels
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import UNREADABLE, MaskBit, SpectrumStatus, status_names
from scalespec.stages import folders
from scalespec.store import paths
from scalespec.store.ledger import Ledger, new_attempt
from scalespec.store.spectra import (
    count_spectra,
    create_spectra,
    memory_bytes,
    read_spectra,
    write_spectra,
)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preparation:
    """What preprocessing needs of a grid: made once per worker.

    Attributes
    ----------
    start, stop : int
        Pixels of the raw grid that are kept.
    windows : (n_raw_pixel,) uint32
        Mask bits of observed-frame windows: sky lines, arm join, tellurics.
    smoothing : SmoothingOperator
        Of the grid that is kept.
    """

    start: int
    stop: int
    windows: npt.NDArray[np.uint32]
    smoothing: SmoothingOperator


def prepare(wavelength: npt.NDArray[np.float64], table: PreprocessTable) -> Preparation:
    """Build masks and operators for a raw grid.

    Raises
    ------
    ValueError
        If the wavelength limits leave no pixel.
    """
    start, stop = np.searchsorted(
        wavelength, [table.wavelength_min_angstrom, table.wavelength_max_angstrom * (1 + 1e-12)]
    )
    if stop <= start:
        raise ValueError(
            f"no pixel between {table.wavelength_min_angstrom} and "
            f"{table.wavelength_max_angstrom} Å: the data cover "
            f"{wavelength[0]:.1f}-{wavelength[-1]:.1f} Å"
        )
    bits = np.zeros(wavelength.shape, np.uint32)
    for name in table.windows:
        bits[masks.window_mask(wavelength, masks.LAMOST[name])] |= np.uint32(MaskBit[name])
    kept = wavelength[start:stop]
    return Preparation(
        int(start), int(stop), bits, gaussian_smoothing(kept, table.continuum.width_angstrom)
    )


def preprocess_block(
    raw: xr.Dataset, table: PreprocessTable, preparation: Preparation | None = None
) -> xr.Dataset:
    """Mask, shift, cut and normalize spectra.

    Parameters
    ----------
    raw : xr.Dataset
        Spectra in our schema, observed frame, vacuum.
    table : PreprocessTable
        The ``[preprocess]`` settings.
    preparation : Preparation, optional
        Of the raw grid, to reuse; made if not given.

    Returns
    -------
    xr.Dataset
        Same rows; ``flux`` in units of the continuum, ``rv_shift`` the velocity taken out.
    """
    ready = preparation or prepare(raw["wavelength"].to_numpy(), table)
    step = float(raw.attrs["log10_wavelength_step"])
    survey_bits = sum(int(MaskBit[name]) for name in table.bad_bits)
    window_bits = sum(int(MaskBit[name]) for name in table.windows)
    mask = raw["mask"].to_numpy() | ready.windows
    ivar, mask = masks.apply_policy(raw["ivar"].to_numpy(), mask, survey_bits, int(MaskBit.POLICY))
    ivar, mask = masks.apply_policy(ivar, mask, window_bits, 0)  # the windows' own bits say why
    rv = raw["rv"].to_numpy()
    pixels = np.rint(velocity_to_pixels(np.nan_to_num(rv), step)).astype(np.int64)
    cut = slice(ready.start, ready.stop)
    flux = shift_pixels(raw["flux"].to_numpy(), pixels, 0.0)[:, cut]
    ivar = shift_pixels(ivar, pixels, 0.0)[:, cut]
    mask = shift_pixels(mask, pixels, int(MaskBit.EDGE))[:, cut]
    flux, ivar, mask, continuum = _normalized(flux, ivar, mask, table, ready.smoothing)
    made = _assembled(raw, cut, pixels, (flux, ivar, mask, continuum))
    power = table.resolving_power
    return made.assign_attrs(resolving_power=power) if power else made


def _normalized(
    flux: FloatArray,
    ivar: FloatArray,
    mask: npt.NDArray[np.uint32],
    table: PreprocessTable,
    smoothing: SmoothingOperator,
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.uint32], FloatArray]:
    """Normalize, mask what sticks out, and normalize those rows again without it."""
    first = normalize(flux, ivar, smoothing)
    spikes = masks.spikes(
        first[0], first[1], threshold_sigma=table.spike_sigma, floor=table.spike_height
    )
    mask = np.where(spikes, mask | np.uint32(MaskBit.SPIKE), mask)
    again = np.flatnonzero(spikes.any(axis=1))
    cleaned = np.where(spikes[again], np.float32(0), ivar[again])
    for whole, part in zip(first, normalize(flux[again], cleaned, smoothing), strict=True):
        whole[again] = part
    flux, ivar, continuum, bad = first
    mask = np.where(bad, mask | np.uint32(MaskBit.NO_CONTINUUM), mask)
    return flux, ivar, mask, continuum


def _assembled(
    raw: xr.Dataset,
    cut: slice,
    pixels: npt.NDArray[np.int64],
    made: tuple[FloatArray, FloatArray, npt.NDArray[np.uint32], FloatArray],
) -> xr.Dataset:
    flux, ivar, mask, continuum = made
    pixel_dims = ("spectrum", "wavelength")
    status = raw["status"].to_numpy()
    empty = ~np.any(ivar > 0, axis=1) & (status & np.uint32(UNREADABLE) == 0)
    status = np.where(empty, status | np.uint32(SpectrumStatus.NO_PIXELS), status)
    step = float(raw.attrs["log10_wavelength_step"])
    data = {
        "flux": (pixel_dims, flux.astype(np.float32)),
        "ivar": (pixel_dims, ivar.astype(np.float32)),
        "mask": (pixel_dims, mask.astype(np.uint32)),
        "rv_shift": ("spectrum", pixels_to_velocity(pixels, step).astype(np.float32)),
        "continuum_median": ("spectrum", _median(continuum).astype(np.float32)),
    }
    kept = raw.drop_vars(["flux", "ivar", "mask"]).isel(wavelength=cut)
    made_of = kept.assign(data).assign(status=("spectrum", status.astype(np.uint32)))
    start = float(np.log10(kept["wavelength"][0])) if kept.sizes["wavelength"] else 0.0
    return made_of.assign_attrs(
        frame="rest, to the nearest pixel", flux_unit="continuum", log10_wavelength_start=start
    )


def _median(values: FloatArray) -> FloatArray:
    return np.median(values, axis=1) if values.size else np.zeros(len(values), np.float32)


def write_preprocessed(block: Block, spectra: xr.Dataset, url: str) -> BlockResult:
    """Store one block's normalized spectra, then commit it."""
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    attempt = new_attempt()
    hashes = write_spectra(paths.join(url, "spectra.zarr"), block, spectra)
    objects = {f"spectra.zarr/{key}": value for key, value in hashes.items()}
    counts = status_names(spectra["status"].to_numpy(), SpectrumStatus)
    return ledger.commit(block, BlockResult(block.size, objects, counts, attempt))


def read_raw(block: Block, url: str) -> xr.Dataset:
    """Read one block of a spectra store into memory."""
    return read_spectra(url, block.start, block.stop)


def normalization(table: PreprocessTable) -> dict[str, str | float]:
    """Return how spectra are normalized, as models and stores say it."""
    return {
        "method": table.continuum.method,
        "width_angstrom": table.continuum.width_angstrom,
    }


def preprocess(config: RunConfig) -> Iterator[Stage]:
    """Make the store of normalized spectra and yield the stage that fills it."""
    raw = folders.raw_url(config)
    url = folders.spectra_url(config)
    yield preprocess_stage(config, paths.join(raw, "spectra.zarr"), url, upstream=raw)


def preprocess_stage(
    config: RunConfig, source: str, url: str, *, upstream: str = "", name: str = "preprocess"
) -> Stage:
    """Return the stage that preprocesses the spectra store `source` into ``<url>/spectra.zarr``.

    Parameters
    ----------
    config : RunConfig
    source : str
        Spectra store in the raw schema.
    url : str
        Folder of the stage.
    upstream : str
        Folder of the stage that made `source`: only the blocks it committed are taken.
    name : str
        Of the stage.
    """
    table = config.preprocess or PreprocessTable()
    size = config.run.spectra_per_block
    head = read_spectra(source, 0, 0)
    ready = prepare(head["wavelength"].to_numpy(), table)
    template = preprocess_block(head, table, ready)
    template = template.assign_attrs(normalization=normalization(table))
    target = paths.join(url, "spectra.zarr")
    n = count_spectra(source)
    create_spectra(target, template, n_spectrum=n, shard_rows=size)
    there = Ledger(upstream).done() if upstream else None
    blocks = [b for b in plan_blocks(n, size) if there is None or b.index in there]
    return Stage(
        name=name,
        url=url,
        blocks=blocks,
        read=partial(read_raw, url=source),
        compute=partial(_compute, table=table),
        write=partial(write_preprocessed, url=url),
        runs_on="dask",
        setup=partial(prepare, head["wavelength"].to_numpy(), table),
        memory_bytes=2 * memory_bytes(size, head.sizes["wavelength"]),
    )


def _compute(ready: Preparation, raw: xr.Dataset, table: PreprocessTable) -> xr.Dataset:
    return preprocess_block(raw, table, ready)
