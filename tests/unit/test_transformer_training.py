"""A transformer through the training loop: what the gradient prior buys, kills, ramps, shifts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import Alone
from two_elements import Rows, Truth, correlated, gradient_errors, references, spec

from scalespec.models.base import Emulator
from scalespec.models.prior import gradient_prior
from scalespec.models.training import TrainOptions, train_emulator
from scalespec.models.transformer import SpectrumTransformer
from scalespec.store.checkpoints import CheckpointFolder

OPTIONS = TrainOptions(
    rounds=(),
    epochs=140,
    batch_size=60,
    learning_rate=1e-2,
    weight_decay=0.01,
    patience=0,
    validate_every=70,
    pixels_per_step=30,
    gradients_per_step=16,
    gradient_ramp=0.2,
)
SHORT = TrainOptions(
    rounds=(),
    epochs=4,
    batch_size=20,
    patience=0,
    checkpoint_every=1,
    pixels_per_step=20,
    gradient_ramp=0.5,
)


def transformer(seed=1):
    return SpectrumTransformer(spec(), width=16, layers=1, heads=4, waves=32, seed=seed)


def rows_of(x):
    with torch.no_grad():
        flux = Truth()(x)
    return x, flux, torch.full_like(flux, torch.inf)


def train(model, prior, *, n=120, options=OPTIONS, context=None, checkpoints=None):
    held = tuple(a.numpy() for a in (*rows_of(correlated(60, 5)), torch.zeros(60)))
    history = train_emulator(
        model,
        Rows(*rows_of(correlated(n))),
        held,
        options=options,
        context=context or Alone(),
        checkpoints=checkpoints,
        prior=prior,
    )
    return model, history


@pytest.fixture(scope="module")
def with_and_without():
    prior = gradient_prior(Truth(), references(16))
    return train(transformer(), prior), train(transformer(), None)


def test_gradients_of_correlated_labels_are_recovered_with_the_prior_alone(with_and_without):
    (with_prior, _), (without, _) = with_and_without
    assert max(gradient_errors(with_prior)) < 0.15
    assert min(gradient_errors(without)[1:]) > 0.4  # each takes the other's lines for its own


def test_the_priors_weight_rises_and_is_reported(with_and_without):
    (_, history), (_, without) = with_and_without
    weights = [metrics["gradient_weight"] for metrics in history]
    assert weights[0] == pytest.approx(1 / 28)
    assert weights == sorted(weights)
    assert weights[27:] == [1.0] * 113
    assert history[-1]["gradient_loss"] < 0.1 * history[0]["gradient_loss"]
    assert history[-1]["gradient_error"] < 0.15
    assert "gradient_weight" not in without[-1]


def test_flux_of_stars_like_those_learned_is_as_good_with_the_prior(with_and_without):
    (_, with_prior), (_, without) = with_and_without
    # Both have to fit; which fits better is a matter of the draw.
    assert with_prior[-1]["validation_rms"] < 2 * without[-1]["validation_rms"]
    assert with_prior[-1]["validation_rms"] < 0.01


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, stop_after):
    prior = gradient_prior(Truth(), references(3))
    whole, history = train(transformer(), prior, n=80, options=SHORT)
    folder = CheckpointFolder(str(tmp_path))
    arguments = {"n": 80, "options": SHORT, "checkpoints": folder}
    with pytest.raises(KeyboardInterrupt):
        train(transformer(), prior, context=Alone(stop_after), **arguments)
    again = Alone()
    resumed, resumed_history = train(transformer(), prior, context=again, **arguments)
    ends = (whole.state_dict(), resumed.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert history == resumed_history
    assert len(again.reports) == SHORT.epochs - (stop_after - 1)


def test_a_step_looks_at_some_pixels_of_its_own():
    seen = []

    class Watching(Alone):
        def wrap(self, model):
            def forward(labels, shift=None, pixels=None):
                seen.append(pixels)
                return model(labels, shift, pixels)

            forward.parameters = model.parameters
            return forward

    train(transformer(), None, n=80, options=SHORT, context=Watching())
    assert all(len(set(pixels.tolist())) == 20 for pixels in seen)
    assert len({tuple(pixels.tolist()) for pixels in seen}) == len(seen) == 16


def test_displaced_spectra_are_asked_for_where_they_stand():
    x = correlated(80)
    shift = torch.where(torch.arange(80) % 2 == 0, 1.0, -1.0)
    x, flux, ivar = rows_of(x)
    moved = torch.stack([flux[i].roll(int(shift[i])) for i in range(80)])
    ivar[:, [0, -1]] = 0  # what rolled around
    held = tuple(a.numpy() for a in (*rows_of(correlated(30, 5)), torch.zeros(30)))
    rms = {}
    for name, told in (("knowing", shift), ("ignorant", torch.zeros(80))):
        rows = Rows(x, moved, ivar, told)
        options = TrainOptions(
            rounds=(), epochs=40, batch_size=20, learning_rate=4e-3, patience=0, validate_every=40
        )
        history = train_emulator(
            transformer(), rows, held, options=options, context=Alone(), prior=None
        )
        rms[name] = history[-1]["validation_rms"]
    assert rms["knowing"] < 0.5 * rms["ignorant"]


def test_rounds_of_variable_projection_are_refused():
    with pytest.raises(ValueError, match="does not end in a linear layer"):
        train(transformer(), None, options=TrainOptions(rounds=(0,)))


def test_the_prior_needs_no_more_of_a_model_than_derivatives():
    """Any emulator: here one that is nothing but a formula with one weight."""

    class Formula(Emulator):
        def __init__(self):
            super().__init__(spec())
            self.depth = torch.nn.Parameter(torch.tensor(0.1))

        def forward_scaled(self, x):
            return 1 - self.depth * (1 - Truth().forward_scaled(x))

    prior = gradient_prior(Truth(), references(3))
    model = Formula()
    options = TrainOptions(rounds=(), epochs=40, batch_size=40, learning_rate=0.2, patience=0)
    train(model, prior, n=80, options=options)
    assert float(model.depth.detach()) == pytest.approx(1.0, abs=0.05)


TWO_RANKS = """
import sys
import numpy as np, torch
sys.path[:0] = [{kits!r}, {here!r}]
import test_transformer_training as own

rank = int(sys.argv[1])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method="file://{folder}/meet", rank=rank, world_size=2)

class Context(own.Alone):
    world_size = 2
    def wrap(self, model):
        return torch.nn.parallel.DistributedDataParallel(model)

context = Context()
context.rank = rank
prior = own.gradient_prior(own.Truth(), own.references(3))
model, _ = own.train(own.transformer(), prior, n=80, options=own.SHORT, context=context)
state = {{name: value.numpy() for name, value in model.state_dict().items()}}
np.savez(f"{folder}/rank{{rank}}.npz", **state)
torch.distributed.barrier()  # who leaves first would be aborted by the other
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow  # two processes that import torch
def test_two_ranks_learn_one_model(tmp_path):
    here = Path(__file__).parent
    script = TWO_RANKS.format(kits=str(here.parent / "kits"), here=str(here), folder=tmp_path)
    command = [sys.executable, "-c", script]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    states = [dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in range(2)]
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)
    prior = gradient_prior(Truth(), references(3))
    alone, _ = train(transformer(), prior, n=80, options=SHORT)
    # Each rank has all 80 spectra here, so the mean over ranks is one rank's own.
    for name, value in alone.state_dict().items():
        np.testing.assert_allclose(states[0][name], value, rtol=1e-3, atol=1e-4, err_msg=name)
