"""Training pixel by pixel: spectra turned pixel-major, blocks of pixels fitted, one model.

A store of spectra is cut by rows, The Cannon learns by pixels. So each block of rows first leaves
one piece per block of pixels, lines brought to rest; then each block of pixels reads its pieces and
is fitted alone, on any number of Dask workers; the coefficients are put together at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scalespec.config import RunConfig, TrainTable
from scalespec.errors import StageError
from scalespec.models.base import EmulatorSpec, shift_flux, shifted_variance
from scalespec.models.cannon import Cannon
from scalespec.models.logarithmic import Logarithmic
from scalespec.models.regression import Penalty, fit_pixels
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.stages import folders
from scalespec.stages.card import make_card
from scalespec.stages.learning import VALIDATION_SPECTRA, emulator_spec, select
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.model import Arrays, pack, save_model, unpack
from scalespec.store.spectra import count_spectra, read_spectra
from scalespec.store.training import TrainingData

FloatArray = npt.NDArray[np.float32]

PIXELS_PER_BLOCK = 256
"""Pixels fitted together: a gigabyte of flux and ivar for 500,000 stars."""
SHARE_OF_BAD = 0.1
"""A pixel brought to rest is bad if bad ones make more than this of it."""


@dataclass(frozen=True)
class Sample:
    """What is learned from, and what the model will be; each worker makes it once.

    Attributes
    ----------
    training, validation : TrainingData
        Rows and their labels.
    spec : EmulatorSpec
    table : TrainTable
    """

    training: TrainingData
    validation: TrainingData
    spec: EmulatorSpec
    table: TrainTable


def choose(source: str, table: TrainTable, seed: int) -> Sample:
    """Choose spectra as `select` does, and say what a model of them means."""
    training, validation, head = select(source, table, seed)
    return Sample(training, validation, emulator_spec(table, training, head), table)


def train_pixels(config: RunConfig, source: str, url: str) -> Iterator[Stage]:
    """Yield the two stages that train The Cannon, then store the model.

    Parameters
    ----------
    config : RunConfig
        With a ``[train]`` table.
    source : str
        Spectra store with labels.
    url : str
        Where the model is to be.

    Raises
    ------
    ModelError
        If there is nothing to learn from.
    StageError
        If a block failed: a model lacks no pixels.
    """
    table = config.train
    if table is None:
        raise StageError("the run file has no [train] table")
    setup = partial(choose, source, table, config.run.seed)
    head = read_spectra(source, 0, 0)
    rows = plan_blocks(count_spectra(source), int(head.attrs["shard_rows"]))
    pixels = plan_blocks(head.sizes["wavelength"], PIXELS_PER_BLOCK, axis="pixel")
    pieces_url, pixels_url = (folders.pixels_url(config, part) for part in folders.PIXEL_PARTS)
    cut = Stage(
        name="train pieces",
        url=pieces_url,
        blocks=rows,
        read=partial(_read_rows, url=source),
        compute=partial(_cut, blocks=pixels),
        write=partial(_write, url=pieces_url),
        runs_on="dask",
        setup=setup,
    )
    yield cut
    _require(cut)
    fit = Stage(
        name="train pixels",
        url=pixels_url,
        blocks=pixels,
        read=partial(_read_pieces, url=pieces_url, rows=rows),
        compute=_fit,
        write=partial(_write, url=pixels_url),
        runs_on="dask",
        setup=setup,
    )
    yield fit
    _require(fit)
    yield Stage(
        name="train",
        url=url,
        blocks=[Block("pixel", 0, 0, head.sizes["wavelength"])],
        read=partial(_read_fits, url=pixels_url, pixels=pixels),
        compute=_assemble,
        write=partial(_save, url=url),
        runs_on="dask",
        setup=setup,
    )


def _require(stage: Stage) -> None:
    """Refuse to go on without a block, or after a stop."""
    done = Ledger(stage.url).done()
    if lacking := [block.index for block in stage.blocks if block.index not in done]:
        failures = Ledger(stage.url).failures()
        why = next((f", block {i}: {failures[i]}" for i in lacking if i in failures), "")
        raise StageError(
            f"{stage.name}: blocks {lacking[:5]} of {len(stage.blocks)} failed{why}: a model lacks "
            "no pixels; see status, then run again with --retry-failed"
        )


def _read_rows(block: Block, url: str) -> tuple[Block, FloatArray, FloatArray]:
    data = read_spectra(url, block.start, block.stop, names=("flux", "ivar"))
    return block, data["flux"].to_numpy(), data["ivar"].to_numpy()


def at_rest(
    flux: FloatArray, ivar: FloatArray, displacement: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Move lines by the fraction of a pixel that they stand off rest.

    Interpolation ties the noise of neighboring pixels together, which a fit of one pixel over many
    stars does not see; elsewhere the model is moved, never the data.

    Parameters
    ----------
    flux, ivar : (n, n_pixel) float32
        Normalized flux; ivar 0 is no information.
    displacement : (n,) float32 [pixels]
        How far to the red the lines stand, up to 1.

    Returns
    -------
    flux, ivar : (n, n_pixel) float32
        ivar is that of each pixel alone, higher than it was by what interpolation averages away;
        0 where bad pixels make more than a tenth of one.

    Examples
    --------
    >>> spectrum = np.ones((1, 30), np.float32)
    >>> flux, ivar = at_rest(spectrum, spectrum, np.array([0.5], np.float32))
    >>> float(abs(flux - 1).max()) < 1e-5, round(float(ivar.min()), 3)
    (True, 1.161)
    """
    good, pixel = ivar > 0, np.arange(flux.shape[1])
    filled = flux.copy()
    for row in np.flatnonzero(good.any(axis=1) & ~good.all(axis=1)):
        filled[row, ~good[row]] = np.interp(
            pixel[~good[row]], pixel[good[row]], flux[row, good[row]]
        )
    back = torch.from_numpy(-displacement)
    moved = shift_flux(torch.from_numpy(filled), back).numpy()
    bad = shift_flux(torch.from_numpy((~good).astype(np.float32)), back).numpy()
    kept = good & (np.abs(bad) <= SHARE_OF_BAD)
    # Else the scatter that is learned would lack what interpolation took from the noise.
    alone = (ivar / shifted_variance(back).numpy()[:, np.newaxis]).astype(np.float32)
    return np.where(kept, moved, np.float32(0)), np.where(kept, alone, np.float32(0))


def _cut(
    sample: Sample, data: tuple[Block, FloatArray, FloatArray], blocks: list[Block]
) -> dict[str, bytes]:
    """Return a piece of the block's training spectra, lines at rest, for each block of pixels."""
    block, flux, ivar = data
    inside = (sample.training.rows >= block.start) & (sample.training.rows < block.stop)
    rows = sample.training.rows[inside] - block.start
    flux, ivar = at_rest(flux[rows], ivar[rows], sample.training.displacement[inside])
    return {
        f"{b.index:04d}": pack(
            {"flux": flux[:, b.start : b.stop], "ivar": ivar[:, b.start : b.stop]}
        )
        for b in blocks
    }


def _write(block: Block, pieces: dict[str, bytes], url: str) -> BlockResult:
    """Store a block's objects and commit it; the same input makes the same bytes."""
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    objects = {}
    for name, data in pieces.items():
        key = f"{block.index:06d}/{name}.npz"
        paths.write_bytes(paths.join(url, key), data)
        objects[key] = paths.sha256(data)
    return ledger.commit(block, BlockResult(block.size, objects))


def _read_pieces(block: Block, url: str, rows: list[Block]) -> tuple[Block, Arrays]:
    """Return flux and ivar of all training spectra in the block's pixels."""
    keys = [paths.join(url, f"{r.index:06d}/{block.index:04d}.npz") for r in rows]
    pieces = [unpack(paths.read_bytes(key), key) for key in keys]
    return block, {name: np.concatenate([p[name] for p in pieces]) for name in ("flux", "ivar")}


def _fit(sample: Sample, data: tuple[Block, Arrays]) -> dict[str, bytes]:
    """Fit one block of pixels."""
    (block, arrays), spec, table = data, sample.spec, sample.table
    labels = sample.training.labels.astype(np.float64)
    censored = censored_by(spec.slice(block.start, block.stop), table)
    x = torch.from_numpy((labels - spec.minimum) / (spec.maximum - spec.minimum) - 0.5)
    fit = fit_pixels(
        Logarithmic.of(spec, table.logarithmic)(x),
        torch.from_numpy(arrays["flux"]),
        torch.from_numpy(arrays["ivar"]),
        order=table.order,
        penalty=Penalty(table.l1, censored),
    )
    return {"fit": pack({item.name: getattr(fit, item.name).numpy() for item in fields(fit)})}


def censored_by(spec: EmulatorSpec, table: TrainTable) -> torch.Tensor | None:
    """Return which pixels must not know of which labels, (n_pixel, n_label), if there are any."""
    if not table.windows:
        return None
    censored = torch.zeros(spec.n_pixel, spec.n_label, dtype=torch.bool)
    for label, windows in table.windows.items():
        within = [(spec.wavelength >= low) & (spec.wavelength <= high) for low, high in windows]
        inside = np.any(within, axis=0) if within else np.zeros(spec.n_pixel, bool)
        censored[:, spec.labels.index(label)] = torch.from_numpy(~inside)
    return censored


def _read_fits(_: Block, url: str, pixels: list[Block]) -> Arrays:
    """Return coefficients and scatter of all pixels."""
    keys = [paths.join(url, f"{block.index:06d}/fit.npz") for block in pixels]
    parts = [unpack(paths.read_bytes(key), key) for key in keys]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _assemble(sample: Sample, arrays: Arrays) -> tuple[Cannon, dict[str, Any]]:
    """Put the coefficients together, and measure the model."""
    table = sample.table
    model = Cannon(sample.spec, order=table.order, logarithmic=table.logarithmic)
    with torch.no_grad():
        model.output.weight.copy_(torch.from_numpy(arrays["coefficients"]))
        model.scatter.copy_(torch.from_numpy(arrays["scatter"]))
    n_validation = min(len(sample.validation.rows), VALIDATION_SPECTRA)
    rms = _rms(model, sample.validation, n_validation)
    source = sample.training.url.rpartition("/")[2]
    metadata = {
        "source": source,
        "n_training": len(sample.training.rows),
        "n_validation": n_validation,
        "history": [{"step": 1.0, "validation_rms": rms}],
        "card": make_card(model, sample.training, sample.validation, source),
    }
    return model, metadata


def _save(block: Block, made: tuple[Cannon, dict[str, Any]], url: str) -> BlockResult:
    """Store the model, then commit it."""
    save_model(url, *made)
    keys = ("weights.npz", "model.json")
    objects = {key: paths.sha256(paths.read_bytes(paths.join(url, key))) for key in keys}
    return Ledger(url).commit(block, BlockResult(block.size, objects))


def _rms(model: Cannon, validation: TrainingData, n: int) -> float:
    """Return the residual of validation spectra, each pixel weighted by its information."""
    labels, flux, ivar, displacement = (torch.from_numpy(a) for a in validation.read(np.arange(n)))
    with torch.no_grad():
        predicted = shift_flux(model(labels), displacement)
    weight = torch.where(ivar > 0, 1 / (1 / ivar + model.scatter.square()), 0.0)
    return float(((weight * (flux - predicted).square()).sum() / weight.sum()).sqrt())
