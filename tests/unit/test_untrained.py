"""The models a run file names: which, of what sizes, and trained through the stage."""

import pytest
import torch
from labelled import LABELS, spectra_with_labels, store_spectra

from scalespec.config import TrainTable
from scalespec.engines.local import LocalContext
from scalespec.models.base import EmulatorSpec
from scalespec.models.hot import HotPayne
from scalespec.models.payne import Payne
from scalespec.models.phdlspec import LabelTransformer
from scalespec.models.transformer import SpectrumTransformer
from scalespec.stages.train import train_loop
from scalespec.stages.untrained import make_model, train_options
from scalespec.store.model import load_model, model_record

SMALL = {"width": 8, "layers": 1, "heads": 2, "waves": 16, "pixels_per_step": 40}


def table_of(model, **options):
    options = {"labels": LABELS, "catalog": "apogee", "hidden": 16, "rounds": (0, 5)} | options
    return TrainTable(model=model, transformer=SMALL, **options)


def spec():
    grid = [5000.0, 5001.0, 5002.0]
    return EmulatorSpec("toy", LABELS, [4000.0, 0.0, -2.0], [6000.0, 5.0, 0.5], grid)


@pytest.mark.parametrize(
    ("name", "kind", "sizes"),
    [
        ("payne", Payne, {"hidden": [16, 16]}),
        ("hotpayne", HotPayne, {"hidden": [16, 16]}),
        ("transformer", SpectrumTransformer, {"width": 8, "layers": 1, "waves": 16}),
        ("phdlspec", LabelTransformer, {"width": 8, "layers": 1, "features": 16}),
    ],
)
def test_a_name_makes_its_model_of_the_sizes_given(name, kind, sizes):
    model = make_model(table_of(name, epochs=1), spec(), seed=3)
    assert type(model) is kind
    assert sizes.items() <= model.options.items()
    again = make_model(table_of(name, epochs=1), spec(), seed=3)
    states = model.state_dict(), again.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_precision_is_the_run_files():
    table = TrainTable(
        model="transformer",
        labels=LABELS,
        catalog="a",
        epochs=1,
        transformer=SMALL | {"precision": "bfloat16"},
    )
    assert make_model(table, spec(), seed=0).precision == "bfloat16"


def test_only_what_makes_pixels_by_themselves_is_trained_on_some():
    query = train_options(table_of("transformer", epochs=3, gradient_ramp=0.5))
    assert (query.rounds, query.epochs, query.pixels_per_step) == ((), 3, 40)
    assert query.gradient_ramp == 0.5
    whole = train_options(table_of("phdlspec"))
    assert (whole.rounds, whole.pixels_per_step) == ((0, 5), 0)


@pytest.mark.parametrize("name", ["transformer", "phdlspec"])
def test_a_trained_model_is_stored_and_loads(tmp_path, name):
    source = store_spectra(str(tmp_path / "train.zarr"), spectra_with_labels())
    url = str(tmp_path / "model")
    table = table_of(name, epochs=15, learning_rate=2e-2, batch_size=16)
    train_loop(LocalContext(), table, source, url, seed=1)
    record = model_record(url)
    assert record["model"] == name
    rms = [row["validation_rms"] for row in record["metadata"]["history"]]
    assert min(rms) < 0.9 * rms[0]  # 150 steps of a tiny one: it has begun to learn
    model = load_model(url)
    assert model.spec.labels == LABELS
    assert float(model.scatter.min()) > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "transformer"}, "set train.epochs"),
        ({"transformer": {"width": 10, "heads": 4}}, "heads must divide width, got 4 and 10"),
    ],
)
def test_a_table_that_cannot_be_trained_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        TrainTable(**({"labels": LABELS, "catalog": "apogee"} | change))
