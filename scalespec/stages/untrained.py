"""The model that a run file asks for, before it has learned, and how it is to learn."""

from scalespec.config import TrainTable
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.hot import HotPayne
from scalespec.models.payne import Payne
from scalespec.models.phdlspec import LabelTransformer
from scalespec.models.training import TrainOptions
from scalespec.models.transformer import SpectrumTransformer


def make_model(table: TrainTable, spec: EmulatorSpec, seed: int) -> Emulator:
    """Return the model that `table` names, its weights drawn by `seed`."""
    sizes = table.transformer
    if table.model == "phdlspec":
        return LabelTransformer(
            spec,
            width=sizes.width,
            layers=sizes.layers,
            heads=sizes.heads,
            features=table.hidden,
            seed=seed,
        )
    if table.model == "transformer":
        model = SpectrumTransformer(
            spec,
            width=sizes.width,
            layers=sizes.layers,
            heads=sizes.heads,
            tokens=sizes.tokens,
            encoder=sizes.encoder,
            waves=sizes.waves,
            seed=seed,
        )
        model.precision = sizes.precision
        if sizes.compiled:
            model.compile_blocks()
        return model
    kind = HotPayne if table.model == "hotpayne" else Payne
    return kind(spec, hidden=(table.hidden, table.hidden), seed=seed)


def train_options(table: TrainTable) -> TrainOptions:
    """Return how `table` wants a model trained; what has no linear layer last has no rounds."""
    alone = table.model == "transformer"
    return TrainOptions(
        rounds=() if alone else table.rounds,
        epochs=table.epochs,
        batch_size=table.batch_size,
        learning_rate=table.learning_rate,
        weight_decay=table.weight_decay,
        checkpoint_every=table.checkpoint_every,
        pixels_per_step=table.transformer.pixels_per_step if alone else 0,
        gradients_per_step=table.gradients_per_step,
        gradient_ramp=table.gradient_ramp,
    )
