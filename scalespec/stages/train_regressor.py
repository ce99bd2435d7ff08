"""Spectra + labels -> a regressor: labels may be missing, and have errors; columns beside them."""

from collections.abc import Iterator
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
from scalespec.stages.card import regressor_card
from scalespec.stages.learning import VALIDATION_SPECTRA, divide
from scalespec.store import paths
from scalespec.store.checkpoints import CheckpointFolder
from scalespec.store.model import save_model
from scalespec.store.training import TrainingData

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
    inputs = table.network.inputs
    training, validation, head = divide(url, table, seed, whole=False, errors=True, inputs=inputs)
    n_label = len(table.labels)
    return Labelled(training, n_label), Labelled(validation, n_label), head


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
        jitter=network.jitter,
    )
    held = validation.spread(VALIDATION_SPECTRA)
    history = train_regressor(
        model,
        training,
        held,
        options=options,
        context=context,
        checkpoints=CheckpointFolder(paths.join(url, "checkpoints")),
        seed=seed,
    )
    if context.rank == 0:
        name, n = source.rpartition("/")[2], (len(training.data.rows), len(validation.data.rows))
        learned = training.data.labels[:, : training.n_label]
        metadata = {
            "source": name,
            "n_training": n[0],
            "n_validation": n[1],
            "workers": context.world_size,
            "history": history,
            "card": regressor_card(model, learned, held, n, name),
        }
        save_model(url, model, metadata)
