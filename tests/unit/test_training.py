"""Training: what it reaches, what it ignores, and that a kill changes nothing."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import Alone

from scalespec.models.base import EmulatorSpec, shift_flux
from scalespec.models.payne import Payne
from scalespec.models.scatter import UNLEARNED
from scalespec.models.training import TrainOptions, train_emulator
from scalespec.models.validation import Aim
from scalespec.store.checkpoints import CheckpointFolder

PIXELS = 160
PATH = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kits")]
ROUNDS = TrainOptions(rounds=(0, 10, 30))
BOTH = TrainOptions(rounds=(0, 4, 4), epochs=4, batch_size=64, patience=0, checkpoint_every=1)


def spec():
    grid = 10 ** (3.6 + 1e-4 * np.arange(PIXELS))
    return EmulatorSpec("toy", ("teff", "logg", "fe_h"), [4000, 0, -2], [6000, 5, 0.5], grid)


def payne(width=40):
    return Payne(spec(), hidden=(width, width), seed=2)


def lines(labels, n_line=25):
    """Return spectra of lines whose depths saturate in the labels."""
    rng = np.random.default_rng(0)
    x = (labels - spec().minimum) / (spec().maximum - spec().minimum) - 0.5
    center, slope = rng.uniform(6, PIXELS - 6, n_line), rng.normal(0, 1.5, (n_line, 3))
    strength = np.exp(rng.normal(-1.5, 0.5, n_line) + x @ slope.T)
    profile = np.exp(-0.5 * ((np.arange(PIXELS) - center[:, None]) / 1.1) ** 2)
    return np.exp(-(strength / (1 + strength)) @ profile)


def spectra(n, *, seed=1, noise=0.0, shifts=0.0):
    rng = np.random.default_rng(seed)
    labels = rng.uniform(spec().minimum, spec().maximum, (n, 3))
    shift = torch.tensor(shifts * rng.uniform(-0.5, 0.5, n))
    flux = shift_flux(torch.tensor(lines(labels)), shift).numpy()
    flux += noise * rng.normal(size=flux.shape)
    ivar = np.full(flux.shape, noise**-2 if noise else np.inf)
    return tuple(a.astype(np.float32) for a in (labels, flux, ivar, shift.numpy()))


class Shuffled:
    """Rows in memory, in an order of seed and epoch, split over ranks."""

    def __init__(self, rows):
        self.rows = rows
        self.calls = []

    def chunks(self, epoch, rank, world_size):
        self.calls.append(epoch)
        order = np.random.default_rng([7, epoch]).permutation(len(self.rows[0]))
        mine = order[rank::world_size]
        for part in np.array_split(mine, 2):
            yield tuple(array[part] for array in self.rows)


def train(rows, *, options=ROUNDS, model=None, held=None, context=None, checkpoints=None):
    model = model or payne()
    held = held or spectra(150, seed=9)
    arguments = {"options": options, "context": context or Alone(), "checkpoints": checkpoints}
    history = train_emulator(model, Shuffled(rows), held, **arguments)
    return model, history


def rms(model):
    labels, flux, _, _ = spectra(300, seed=5)
    with torch.no_grad():
        return float((model(torch.tensor(labels)) - torch.tensor(flux)).square().mean().sqrt())


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_library_is_learned_to_a_thousandth():
    model, history = train(spectra(800))
    assert rms(model) < 1e-3
    assert history[-1]["validation_rms"] == pytest.approx(rms(model), rel=0.3)
    # The error is not even over the labels, the scatter is its rms over them.
    assert float(model.scatter.square().mean().sqrt()) == pytest.approx(rms(model), rel=0.3)


def test_epochs_alone_learn_too():
    options = TrainOptions(rounds=(), epochs=30, batch_size=50, learning_rate=3e-3, patience=0)
    model, history = train(spectra(800), options=options)
    assert history[-1]["loss"] < 0.05 * history[0]["loss"]
    assert rms(model) < 0.005


def test_shifted_noisy_spectra_give_the_unshifted_model():
    rows, held = spectra(800, noise=0.02, shifts=1), spectra(150, seed=9, noise=0.02, shifts=1)
    knowing, _ = train(rows, held=held)
    ignorant, _ = train((*rows[:3], 0 * rows[3]), held=(*held[:3], 0 * held[3]))
    assert rms(knowing) < 0.004
    assert rms(ignorant) > 1.5 * rms(knowing)


def test_epochs_shift_the_model_to_the_data():
    rows = spectra(400, shifts=1)
    options = TrainOptions(rounds=(), epochs=25, batch_size=50, learning_rate=3e-3, patience=0)
    knowing, _ = train(rows, options=options)
    ignorant, _ = train((*rows[:3], 0 * rows[3]), options=options)
    assert rms(knowing) < 0.8 * rms(ignorant)


def test_what_masked_pixels_and_masked_stars_hold_changes_nothing():
    rows = [array.copy() for array in spectra(300, noise=0.01)]
    hidden = np.random.default_rng(0).random(rows[1].shape) < 0.1
    hidden[:20] = True
    rows[2][hidden] = 0
    made = []
    for junk in (0.0, -50.0):
        rows[1][hidden] = junk
        made.append(train(rows, options=BOTH)[0])
    assert same(*made)
    assert all(torch.isfinite(p).all() for p in made[0].parameters())
    assert rms(made[0]) < 0.005


def test_nothing_but_masked_stars_leaves_a_finite_model():
    rows = [array.copy() for array in spectra(60)]
    rows[2][:] = 0
    held = [array.copy() for array in spectra(10)]
    held[2][:] = 0
    model, history = train(rows, options=BOTH, held=held)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(math.isfinite(value) for metrics in history for value in metrics.values())
    assert torch.all(model.scatter == UNLEARNED)


@pytest.mark.parametrize("stop_after", [1, 2, 4, 6])  # two within the rounds, two in the epochs
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, stop_after):
    rows = spectra(200, noise=0.01)
    whole, history = train(rows, options=BOTH)
    folder = CheckpointFolder(str(tmp_path / "checkpoints"))
    with pytest.raises(KeyboardInterrupt):
        train(rows, options=BOTH, context=Alone(stop_after), checkpoints=folder)
    again = Alone()
    resumed, resumed_history = train(rows, options=BOTH, context=again, checkpoints=folder)
    assert same(whole, resumed)
    assert history == resumed_history
    # The step during whose report it died had not been kept.
    assert len(again.reports) == BOTH.n_steps - (stop_after - 1)


def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog):
    rows = spectra(200, noise=0.01)
    whole, _ = train(rows, options=BOTH)
    folder = CheckpointFolder(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        train(rows, options=BOTH, context=Alone(6), checkpoints=folder)
    newest = max(tmp_path.glob("*.npz"))
    assert newest.stem == "000005"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(bytes(data))
    assert folder.latest()[0] == 4
    assert "passed over" in caplog.text
    again = Alone()
    assert same(whole, train(rows, options=BOTH, context=again, checkpoints=folder)[0])
    assert len(again.reports) == BOTH.n_steps - 4


def test_a_finished_training_is_not_repeated(tmp_path):
    rows, folder = spectra(200, noise=0.01), CheckpointFolder(str(tmp_path))
    first, _ = train(rows, options=BOTH, checkpoints=folder)
    again = Alone()
    assert same(first, train(rows, options=BOTH, context=again, checkpoints=folder)[0])
    assert again.reports == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    rows, folder = spectra(100), CheckpointFolder(str(tmp_path))
    train(rows, options=BOTH, checkpoints=folder)
    with pytest.raises(ValueError, match="checkpoint is of another model"):
        train(rows, options=BOTH, model=payne(30), checkpoints=folder)


def test_the_best_state_is_kept_and_training_stops_when_it_no_longer_improves():
    rows = spectra(300)
    options = TrainOptions(rounds=(0, 10, 30), epochs=50, learning_rate=0.05, patience=3)
    model, history = train(rows, options=options)  # the rate is far too high to improve on rounds
    assert len(history) == 3 + 3
    best = min(metrics["validation_rms"] for metrics in history)
    assert history[-1]["validation_rms"] > 3 * best
    assert rms(model) < 1.5 * best


def test_the_last_solution_of_the_output_layer_stays_only_if_it_is_better():
    noisy = spectra(120, noise=0.05)  # 41 weights per pixel from 120 spectra
    model, history = train(noisy)
    best = min(metrics["validation_rms"] for metrics in history)
    held = [torch.tensor(array) for array in spectra(150, seed=9)]
    _, measured = Aim(held, ROUNDS.scatter_floor, None).validate(model)
    assert measured["validation_rms"] <= best


def test_steps_of_an_epoch_are_near_equal_parts():
    sizes = []

    class Counting(Alone):
        def wrap(self, model):
            def forward(labels):
                sizes.append(len(labels))
                return model(labels)

            forward.parameters = model.parameters
            return forward

    options = TrainOptions(rounds=(), epochs=1, batch_size=32)
    train(spectra(140), options=options, context=Counting())  # two chunks of 70
    assert sizes == [35, 35, 35, 35]


def test_validation_is_wanted():
    with pytest.raises(ValueError, match="at least one validation spectrum, got 0"):
        train(spectra(10), held=tuple(array[:0] for array in spectra(10)))


RANKS = """
import sys
import numpy as np, torch
sys.path[:0] = {path!r}
from test_training import BOTH, Alone, Shuffled, payne, spectra
from scalespec.models.validation import Aim
from scalespec.models.training import train_emulator

rank = int(sys.argv[1])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method="file://{folder}/meet", rank=rank, world_size={n})

class Context(Alone):
    world_size = {n}
    def wrap(self, model):
        return torch.nn.parallel.DistributedDataParallel(model)

context = Context()
context.rank = rank
model = payne()
train_emulator(model, Shuffled(spectra(400)), spectra(150, seed=9), options=BOTH, context=context)
state = {{name: value.numpy() for name, value in model.state_dict().items()}}
np.savez(f"{folder}/rank{{rank}}.npz", **state)
torch.distributed.barrier()  # who leaves first would be aborted by the other
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_learn_one_model_as_good_as_one_ranks(tmp_path, n):
    script = RANKS.format(path=PATH, folder=tmp_path, n=n)
    command = [sys.executable, "-c", script]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(n)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * n
    states = [dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in range(n)]
    for other in states[1:]:
        for name, value in states[0].items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    model = payne()
    model.load_state_dict({name: torch.tensor(value) for name, value in states[0].items()})
    alone, _ = train(spectra(400), options=BOTH)
    # The same sums in another order: two searches that differ by rounding end as good.
    assert rms(model) == pytest.approx(rms(alone), rel=0.3)


FOUR_RANKS = """
import sys
import torch
sys.path[:0] = {path!r}
from test_training import BOTH, Alone, Shuffled, payne, spectra
from scalespec.models.training import train_emulator
from scalespec.store.checkpoints import CheckpointFolder

rank = int(sys.argv[1])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method="file://{folder}/meet", rank=rank, world_size=4)

class Context(Alone):
    world_size = 4
    def wrap(self, model):
        return torch.nn.parallel.DistributedDataParallel(model)

context = Context(stop_after=5)  # three rounds and two epochs of four
context.rank = rank
try:
    train_emulator(payne(8), Shuffled(spectra(160)), spectra(80, seed=9), options=BOTH,
                   context=context, checkpoints=CheckpointFolder("{folder}/checkpoints"))
except KeyboardInterrupt:
    pass
torch.distributed.barrier()  # who leaves first would be aborted by the other
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_a_checkpoint_of_four_workers_goes_on_with_one(tmp_path):
    script = FOUR_RANKS.format(path=PATH, folder=tmp_path)
    command = [sys.executable, "-c", script]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(4)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * 4
    folder = CheckpointFolder(str(tmp_path / "checkpoints"))
    assert folder.latest()[0] >= 4
    held, context = spectra(80, seed=9), Alone()
    model, history = train(
        spectra(160),
        options=BOTH,
        model=payne(8),
        held=held,
        context=context,
        checkpoints=folder,
    )
    assert [one["step"] for one in history] == list(range(7))
    assert len(context.reports) <= 3  # the rest is the four workers' own
    assert rms(model) < 0.05
