"""Spectra + labels -> a model: a theoretical library, or matched stars, through one loop."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from scalespec.config import RunConfig, TrainTable
from scalespec.errors import ConfigError
from scalespec.models.base import EmulatorSpec
from scalespec.models.networks import NETWORKS
from scalespec.models.prior import GradientPrior
from scalespec.models.training import train_emulator
from scalespec.plan import Stage, TrainContext, Training
from scalespec.stages import folders
from scalespec.stages.adapting import adapt_loop
from scalespec.stages.card import make_card
from scalespec.stages.distilling import distill_loop
from scalespec.stages.gradients import load_references, make_prior
from scalespec.stages.latent import train_latent
from scalespec.stages.learning import VALIDATION_SPECTRA, emulator_spec, select
from scalespec.stages.leeway import learn_leeway
from scalespec.stages.match_notes import check_matched
from scalespec.stages.pixels import train_pixels
from scalespec.stages.preprocess import preprocess_stage
from scalespec.stages.train_baseline import KINDS, train_baseline
from scalespec.stages.train_regressor import train_regressor_loop
from scalespec.stages.untrained import make_model, train_options
from scalespec.store import paths
from scalespec.store.checkpoints import CheckpointFolder, meaning_of
from scalespec.store.model import save_model


def train_loop(context: TrainContext, table: TrainTable, source: str, url: str, seed: int) -> None:
    """Train one model; every training worker runs this, rank 0 stores the result.

    Parameters
    ----------
    context : TrainContext
        Where it runs.
    table : TrainTable
    source : str
        Spectra store with labels.
    url : str
        Where the model is to be; checkpoints lie below it.
    seed : int
    """
    if table.latent_rounds:
        model, metadata = train_latent(
            context, table, source, url, seed, partial(_prior, table, seed=seed)
        )
        if context.rank == 0:
            save_model(url, model, metadata)
        return
    training, validation, head = select(source, table, seed)
    spec = emulator_spec(table, training, head)
    model = make_model(table, spec, seed)
    history = train_emulator(
        model,
        training,
        validation.read(np.arange(min(len(validation.rows), VALIDATION_SPECTRA))),
        options=train_options(table),
        context=context,
        checkpoints=CheckpointFolder(paths.join(url, "checkpoints"), meaning_of(spec)),
        prior=_prior(table, spec, training.labels, seed),
    )
    if context.rank == 0:
        if table.leeway:
            model = learn_leeway(model, training, validation, table.leeway)
        metadata = {
            "source": source.rpartition("/")[2],
            "n_training": len(training.rows),
            "n_validation": len(validation.rows),
            "workers": context.world_size,
            "history": history,
            "card": make_card(model, training, validation, source.rpartition("/")[2]),
        }
        save_model(url, model, metadata)


def _prior(
    table: TrainTable, spec: EmulatorSpec, labels: npt.NDArray[np.float32], seed: int
) -> GradientPrior | None:
    """Return what the model's derivatives must be like, if the run file says so."""
    if not table.gradients:
        return None
    references = load_references(
        table.gradients, spec, labels, n=table.gradient_references, seed=seed
    )
    return make_prior(references, spec, strength=table.gradient_strength, url=table.gradients)


def train(config: RunConfig) -> Iterator[Stage | Training]:
    """Yield the stage that preprocesses a library, if it is one, and the training."""
    table = config.train
    if table is None:
        raise ConfigError("the run file has no [train] table")
    if table.teacher:
        url = folders.model_url(config)
        if not paths.exists(paths.join(url, "model.json")):
            yield Training(
                "train", url, partial(distill_loop, table=table, url=url, seed=config.run.seed)
            )
        return
    if table.library:
        prepared = folders.library_url(config)
        yield preprocess_stage(config, table.library, prepared, name="train library")
        source = paths.join(prepared, "spectra.zarr")
    else:
        check_matched(config, table.catalog, table.labels)
        source = paths.join(folders.training_url(config, table.catalog), "train.zarr")
    url = folders.model_url(config)
    if paths.exists(paths.join(url, "model.json")):
        return
    if table.model == "cannon" and not table.latent_rounds:
        yield from train_pixels(config, source, url)
    elif table.adapt:
        loop = partial(adapt_loop, table=table, source=source, url=url, seed=config.run.seed)
        yield Training("train", url, loop)
    elif table.model in KINDS:
        yield from train_baseline(config, source, url)
    else:
        which = train_regressor_loop if table.model in NETWORKS else train_loop
        loop = partial(which, table=table, source=source, url=url, seed=config.run.seed)
        yield Training("train", url, loop)
