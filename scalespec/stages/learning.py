"""Which spectra a model learns from, which tell how well, and what its labels and pixels mean."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.config import TrainTable
from scalespec.errors import ModelError
from scalespec.kernels.match import split_by_star
from scalespec.kernels.wavelength import velocity_to_pixels
from scalespec.models.base import EmulatorSpec
from scalespec.schema import UNREADABLE, SpectrumStatus
from scalespec.store.spectra import chunk_rows, read_spectra
from scalespec.store.training import TrainingData

SCALARS = ("labels", "label_err", "split", "status", "snr", "rv", "rv_shift")
PARTS = ("training", "validation")
VALIDATION_SPECTRA = 2048
"""Most spectra that validation holds in memory."""
LIBRARY_FRACTIONS = (0.92, 0.08, 0.0)
"""Of a library's spectra, for training and validation; a noiseless library needs no test part."""


def select(url: str, table: TrainTable, seed: int) -> tuple[TrainingData, TrainingData, xr.Dataset]:
    """Choose the spectra that are learned from, and those that say how well.

    Parameters
    ----------
    url : str
        A spectra store with labels: a ``train.zarr``, or a preprocessed library.
    table : TrainTable
    seed : int

    Returns
    -------
    training, validation, head
        Two disjoint parts, star by star, of spectra with all labels, or with any if the others are
        latent; the store's coordinates and attributes.

    Raises
    ------
    ModelError
        If a label is not in the store, or a part is empty.
    """
    return divide(url, table, seed, whole=not table.latent_rounds)


def divide(
    url: str,
    table: TrainTable,
    seed: int,
    *,
    whole: bool,
    errors: bool = False,
    inputs: Sequence[str] = (),
) -> tuple[TrainingData, TrainingData, xr.Dataset]:
    """Choose spectra as `select` does, and what is given with their labels.

    Parameters
    ----------
    url, table, seed
        As of `select`.
    whole : bool
        Whether a spectrum must have all labels, or any.
    errors : bool
        Whether the labels' errors, NaN where unknown, follow the labels.
    inputs : sequence of str
        Other columns of the store's labels that follow.
    """
    head = read_spectra(url, 0, 0)
    scalars = read_spectra(url, 0, 2**62, names=SCALARS)
    labels = label_columns(scalars, "labels", table.labels, url)
    columns = [labels]
    if errors:
        known = "label_err" in scalars
        unknown = np.full_like(labels, np.nan)
        columns += [label_columns(scalars, "label_err", table.labels, url) if known else unknown]
    columns += [label_columns(scalars, "labels", inputs, url)]
    given = np.concatenate(columns, axis=1)
    snr, status = scalars["snr"].to_numpy(), scalars["status"].to_numpy()
    finite = np.isfinite(labels)
    usable = (finite.all(axis=1) if whole else finite.any(axis=1)) & (snr > 0)
    # Where the velocity is not known, neither is how far the lines stand off rest.
    usable &= status & np.uint32(UNREADABLE | SpectrumStatus.NO_REDSHIFT) == 0
    usable &= snr >= table.snr_min
    split = split_of(scalars, seed)
    displacement = displaced(scalars, float(head.attrs["log10_wavelength_step"]))
    size = chunk_rows(int(head.attrs["shard_rows"]))

    def part(which: int) -> TrainingData:
        rows = np.flatnonzero(usable & (split == which))
        if not len(rows):
            raise ModelError(
                f"{url}: no {PARTS[which]} spectrum: of {len(labels)}, {usable.sum()} have "
                f"{'all' if whole else 'any'} of {table.labels}, a velocity and S/N >= "
                f"{table.snr_min:g}"
            )
        return TrainingData(url, given[rows], rows, displacement[rows], size, seed)

    return part(0), part(1), head


def label_columns(
    scalars: xr.Dataset, variable: str, names: Sequence[str], url: str
) -> npt.NDArray[np.float32]:
    """Return columns of a store's labels or their errors, (n, n_name).

    Raises
    ------
    ModelError
        If a name is none of the store's labels.
    """
    there = [str(name) for name in scalars["label"].values]
    if lacking := [name for name in names if name not in there]:
        raise ModelError(f"{url}: no label {lacking}; there are {there}: choose train.labels")
    columns = [there.index(name) for name in names]
    return scalars[variable].to_numpy().astype(np.float32)[:, columns]


def split_of(scalars: xr.Dataset, seed: int, first: int = 0) -> npt.NDArray[np.uint8]:
    """Return each row's part, a number of `PARTS`; a library, which says none, is split by row.

    `first` is the number in its store of the first row that is given.
    """
    if "split" in scalars:
        return np.asarray(scalars["split"].to_numpy(), np.uint8)
    rows = first + np.arange(scalars.sizes["spectrum"])
    return split_by_star(rows, fractions=LIBRARY_FRACTIONS, seed=seed).astype(np.uint8)


def displaced(scalars: xr.Dataset, step: float) -> npt.NDArray[np.float32]:
    """Return the pixels by which lines stand off rest: what whole-pixel shifts left over."""
    rv = np.nan_to_num(scalars["rv"].to_numpy()).astype(np.float64)
    shift = scalars["rv_shift"].to_numpy().astype(np.float64)
    return (velocity_to_pixels(rv, step) - velocity_to_pixels(shift, step)).astype(np.float32)


def emulator_spec(table: TrainTable, training: TrainingData, head: xr.Dataset) -> EmulatorSpec:
    """Return what the model's numbers mean: ranges are those of the labels learned from."""
    return EmulatorSpec(
        name=table.model,
        labels=table.labels,
        minimum=np.nanmin(training.labels, axis=0).astype(np.float64),
        maximum=np.nanmax(training.labels, axis=0).astype(np.float64),
        wavelength=head["wavelength"].to_numpy(),
        resolving_power=head.attrs.get("resolving_power"),
        normalization=head.attrs["normalization"],
    )
