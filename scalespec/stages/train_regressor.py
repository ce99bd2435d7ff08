"""Spectra + labels -> a regressor: labels may be missing, and have errors; columns beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.config import TrainTable
from scalespec.errors import ModelError
from scalespec.models.networks import Regressor
from scalespec.models.regression_training import RegressionOptions, train_regressor
from scalespec.models.regressor import RegressorSpec, Sample, describe
from scalespec.plan import TrainContext
from scalespec.schema import UNREADABLE, SpectrumStatus
from scalespec.stages.learning import PARTS, VALIDATION_SPECTRA, split_of
from scalespec.store import paths
from scalespec.store.checkpoints import CheckpointFolder
from scalespec.store.model import save_model
from scalespec.store.spectra import chunk_rows, read_spectra
from scalespec.store.training import TrainingData

SCALARS = ("labels", "label_err", "split", "status", "snr")
DESCRIBED_SPECTRA = 4096
"""Training spectra, spread over all, whose means and spreads the model's scales are."""


@dataclass(frozen=True)
class Labelled:
    """Rows of a training store as samples.

    Attributes
    ----------
    data : TrainingData
        Its labels hold side by side the labels, their errors, and the inputs beside the spectrum.
    n_label : int
    """

    data: TrainingData
    n_label: int

    def samples(self, epoch: int, rank: int, world_size: int) -> Iterator[Sample]:
        """Yield this rank's part of an epoch; see `TrainingData.chunks`."""
        for columns, flux, ivar, _ in self.data.chunks(epoch, rank, world_size):
            yield self._sample(columns, flux, ivar)

    def spread(self, n: int) -> Sample:
        """Return about `n` rows, evenly spread."""
        every = -(-len(self.data.rows) // n)
        columns, flux, ivar, _ = self.data.read(np.arange(0, len(self.data.rows), every))
        return self._sample(columns, flux, ivar)

    def _sample(
        self,
        columns: npt.NDArray[np.float32],
        flux: npt.NDArray[np.float32],
        ivar: npt.NDArray[np.float32],
    ) -> Sample:
        n = self.n_label
        return Sample(flux, ivar, columns[:, :n], columns[:, n : 2 * n], columns[:, 2 * n :])


def labelled(url: str, table: TrainTable, seed: int) -> tuple[Labelled, Labelled, xr.Dataset]:
    """Choose the spectra that a regressor learns from, and those held back.

    Parameters
    ----------
    url : str
        A spectra store with labels: a ``train.zarr``, or a preprocessed library.
    table : TrainTable
    seed : int

    Returns
    -------
    training, validation, head
        Two disjoint parts, star by star, of spectra with any of the labels; the store's
        coordinates and attributes.

    Raises
    ------
    ModelError
        If a label or input is not in the store, or a part is empty.
    """
    head = read_spectra(url, 0, 0)
    scalars = read_spectra(url, 0, 2**62, names=SCALARS)
    labels = _columns(scalars, "labels", table.labels, url)
    errors = np.full_like(labels, np.nan)
    if "label_err" in scalars:
        errors = _columns(scalars, "label_err", table.labels, url)
    inputs = _columns(scalars, "labels", table.network.inputs, url)
    snr, status = scalars["snr"].to_numpy(), scalars["status"].to_numpy()
    usable = np.isfinite(labels).any(axis=1) & (snr > 0) & (snr >= table.snr_min)
    usable &= status & np.uint32(UNREADABLE | SpectrumStatus.NO_REDSHIFT) == 0
    split = split_of(scalars, seed)
    columns = np.concatenate([labels, errors, inputs], axis=1)
    size = chunk_rows(int(head.attrs["shard_rows"]))

    def part(which: int) -> Labelled:
        rows = np.flatnonzero(usable & (split == which))
        if not len(rows):
            raise ModelError(
                f"{url}: no {PARTS[which]} spectrum: of {len(labels)}, {usable.sum()} have any of "
                f"{table.labels}, a velocity and S/N >= {table.snr_min:g}"
            )
        still = np.zeros(len(rows), np.float32)
        return Labelled(
            TrainingData(url, columns[rows], rows, still, size, seed), len(table.labels)
        )

    return part(0), part(1), head


def _columns(
    scalars: xr.Dataset, variable: str, names: Sequence[str], url: str
) -> npt.NDArray[np.float32]:
    """Return columns of the store's labels, (n, n_name)."""
    there = [str(name) for name in scalars["label"].values]
    if lacking := [name for name in names if name not in there]:
        raise ModelError(f"{url}: no label {lacking}; there are {there}: choose train.labels")
    return scalars[variable].to_numpy().astype(np.float32)[:, [there.index(n) for n in names]]


def regressor_spec(table: TrainTable, training: Labelled, head: xr.Dataset) -> RegressorSpec:
    """Return what the model's numbers mean: scales are those of spectra learned from."""
    return describe(
        table.model,
        table.labels,
        head["wavelength"].to_numpy(),
        training.spread(DESCRIBED_SPECTRA),
        inputs=table.network.inputs,
        normalization=head.attrs["normalization"],
        resolving_power=head.attrs.get("resolving_power"),
    )


def untrained(table: TrainTable, spec: RegressorSpec, seed: int) -> Regressor:
    """Return the regressor that the run file describes.

    Raises
    ------
    ModelError
        If the network does not take its options.
    """
    own = dict(table.network.options)
    if table.windows:
        own["windows"] = {name: [list(w) for w in found] for name, found in table.windows.items()}
    network = table.network
    try:
        return Regressor(
            spec,
            network=table.model,
            members=network.members,
            use_ivar=network.use_ivar,
            seed=seed,
            options=own,
        )
    except ValueError as error:
        raise ModelError(f"[train.network]: {error}") from error


def train_regressor_loop(
    context: TrainContext, table: TrainTable, source: str, url: str, seed: int
) -> None:
    """Train one regressor; every training worker runs this, rank 0 stores the result.

    Parameters are those of `scalespec.stages.train.train_loop`.
    """
    training, validation, head = labelled(source, table, seed)
    model = untrained(table, regressor_spec(table, training, head), seed)
    network = table.network
    options = RegressionOptions(
        epochs=network.epochs,
        batch_size=network.batch_size,
        learning_rate=network.learning_rate,
        weight_decay=network.weight_decay,
        patience=network.patience,
        checkpoint_every=network.checkpoint_every,
        loss=network.loss,
        snr_range=network.snr_range if network.augment else None,
    )
    history = train_regressor(
        model,
        training,
        validation.spread(VALIDATION_SPECTRA),
        options=options,
        context=context,
        checkpoints=CheckpointFolder(paths.join(url, "checkpoints")),
        seed=seed,
    )
    if context.rank == 0:
        metadata = {
            "source": source.rpartition("/")[2],
            "n_training": len(training.data.rows),
            "n_validation": len(validation.data.rows),
            "workers": context.world_size,
            "history": history,
        }
        save_model(url, model, metadata)
