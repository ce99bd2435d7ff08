"""Training: what is learned from, what is not, and a model at the end that can be loaded."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from labelled import (
    GAUSSIAN,
    HIGH,
    LABELS,
    LOW,
    N_PIXEL,
    STEP,
    WAVELENGTH,
    N,
    spectra_with_labels,
    store_spectra,
    truth,
)

from scalespec.config import RunConfig, RunTable, TrainTable
from scalespec.engines.local import LocalContext, LocalEngine
from scalespec.errors import ConfigError, ModelError
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.plan import Stage, Training
from scalespec.schema import C_KMS, SpectrumStatus
from scalespec.stages import folders
from scalespec.stages.learning import displaced, select
from scalespec.stages.library import library_stage
from scalespec.stages.train import train, train_loop
from scalespec.store import paths
from scalespec.store.model import load_model, model_record, save_model
from scalespec.surveys.lamost import WAVELENGTH as LAMOST


@pytest.fixture
def store(tmp_path):
    """A function that stores spectra and returns the URL."""

    def write(spectra, name="train.zarr"):
        return store_spectra(str(tmp_path / name), spectra)

    return write


def table_of(**options):
    options = {"labels": LABELS, "catalog": "apogee", "hidden": 16, "rounds": (0, 5)} | options
    return TrainTable(**options)


def rows_of(url, seed=1, **options):
    training, validation, _ = select(url, table_of(**options), seed)
    return training.rows, validation.rows


def test_parts_are_those_of_the_split_and_the_test_part_is_left_alone(store):
    spectra = spectra_with_labels()
    training, validation = rows_of(store(spectra))
    split = spectra["split"].to_numpy()
    np.testing.assert_array_equal(training, np.flatnonzero(split == 0))
    np.testing.assert_array_equal(validation, np.flatnonzero(split == 1))


def test_parts_have_no_star_in_common(store):
    spectra = spectra_with_labels()
    training, validation = rows_of(store(spectra))
    star = spectra["star"].to_numpy()
    assert not set(star[training]) & set(star[validation])
    assert len(set(star[training])) < len(training)  # there are repeats


def test_a_library_is_split_by_row_and_seed(store):
    url = store(spectra_with_labels(split=False))
    training, validation = rows_of(url)
    assert sorted([*training, *validation]) == list(range(N))
    assert 2 < len(validation) < 40  # 8 % expected
    assert rows_of(url)[1].tolist() == validation.tolist()
    assert rows_of(url, seed=2)[1].tolist() != validation.tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", SpectrumStatus.NO_REDSHIFT),  # nobody knows how far its lines are from rest
        ("status", SpectrumStatus.CORRUPT),
        ("snr", 0.0),  # a row that nobody wrote
        ("snr", 49.0),
        ("labels", np.nan),
    ],
)
def test_spectra_that_cannot_teach_are_left_out(name, value, store):
    spectra = spectra_with_labels()
    spectra[name][[3, 20]] = value
    training, validation = rows_of(store(spectra), snr_min=50.0)
    whole = np.flatnonzero(spectra["split"].to_numpy() == 0)
    np.testing.assert_array_equal(training, np.setdiff1d(whole, [3, 20]))
    assert 20 not in validation


@pytest.mark.parametrize("status", [SpectrumStatus.NO_POSITION, SpectrumStatus.RESAMPLED])
def test_what_a_status_merely_notes_does_not_exclude(status, store):
    spectra = spectra_with_labels()
    spectra["status"][:] = status
    assert len(rows_of(store(spectra))[0]) == 160


def test_a_label_that_is_not_asked_for_may_be_missing(store):
    spectra = spectra_with_labels()
    spectra["labels"][:, 1] = np.nan
    training, _, _ = select(store(spectra), table_of(labels=("fe_h", "teff")), 1)
    np.testing.assert_array_equal(training.labels, spectra["labels"][training.rows, [2, 0]])


def test_an_unknown_label_is_refused_by_name_with_those_there_are(store):
    url = store(spectra_with_labels())
    with pytest.raises(ModelError, match=r"no label \['mg_fe'\]; there are \['teff', 'logg', 'fe"):
        rows_of(url, labels=("teff", "mg_fe"))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (1, r"no training spectrum: of 200, 200 have all of \('teff', 'logg', 'fe_h'\)"),
        (0, r"no validation spectrum: .* a velocity and S/N >= 0$"),
    ],
)
def test_an_empty_part_is_refused_by_name(split, message, store):
    spectra = spectra_with_labels()
    spectra["split"][:] = split
    with pytest.raises(ModelError, match=message):
        rows_of(store(spectra))


def test_lines_stand_off_rest_by_what_whole_pixels_left_over():
    spectra = xr.Dataset({
        "rv": ("spectrum", np.array([0, 100, -300, np.nan], "f4")),
        "rv_shift": ("spectrum", np.array([0, 69.03, -276.12, 0], "f4")),
    })  # fmt: skip
    beta = np.array([[0, 100, -300, 0], [0, 69.03, -276.12, 0]]) / C_KMS
    factor = np.sqrt((1 + beta) / (1 - beta))
    expected = np.log10(factor[0] / factor[1]) / STEP
    # velocities are float32: 2e-5 of 300 km/s
    np.testing.assert_allclose(displaced(spectra, STEP), expected, atol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained here, as the engine trains it; and its URL."""
    folder = tmp_path_factory.mktemp("train")
    spectra = spectra_with_labels()
    source, url = str(folder / "train.zarr"), str(folder / "model")
    store_spectra(source, spectra)
    loop = partial(train_loop, table=table_of(), source=source, url=url, seed=1)
    LocalEngine().train(Training("train", url, loop))
    return source, url, spectra


def test_the_model_can_be_loaded_and_says_what_it_is(trained):
    _, url, spectra = trained
    spec = load_model(url).spec
    assert spec.labels == LABELS
    np.testing.assert_array_equal(spec.wavelength, WAVELENGTH)
    assert spec.resolving_power == 1800
    assert spec.normalization == GAUSSIAN
    learned = spectra["labels"].to_numpy()[spectra["split"].to_numpy() == 0]
    np.testing.assert_array_equal(spec.minimum, learned.min(axis=0))
    np.testing.assert_array_equal(spec.maximum, learned.max(axis=0))


def test_the_model_makes_spectra_of_stars_it_has_not_seen(trained):
    _, url, spectra = trained
    test = spectra.isel(spectrum=spectra["split"].to_numpy() == 2)
    labels = torch.tensor(test["labels"].to_numpy())
    with torch.inference_mode():
        error = load_model(url)(labels) - truth()(labels)
        spread = truth()(labels).std(dim=0)
    assert float(error.square().mean().sqrt()) < 0.1 * float(spread.square().mean().sqrt())


def test_the_model_keeps_its_history_and_what_it_was_made_of(trained):
    _, url, _ = trained
    metadata = model_record(url)["metadata"]
    assert metadata["source"] == "train.zarr"
    assert metadata["n_training"] == 160
    assert metadata["n_validation"] == 20
    assert metadata["workers"] == 1
    assert [entry["step"] for entry in metadata["history"]] == [0, 1]
    assert metadata["history"][1]["validation_rms"] < metadata["history"][0]["validation_rms"]


def test_the_scatter_is_the_emulators_own_error(trained):
    _, url, _ = trained
    scatter = load_model(url).scatter.numpy()
    assert scatter.shape == (N_PIXEL,)
    assert 0 < np.median(scatter) < 0.02  # less than the 0.03 by which stars differ


def test_training_again_gives_the_same_model(trained, tmp_path):
    source, url, _ = trained
    again = str(tmp_path / "again")
    train_loop(LocalContext(), table_of(), source, again, 1)
    assert model_record(again)["weights_sha256"] == model_record(url)["weights_sha256"]


def test_training_goes_on_from_the_last_checkpoint(trained, tmp_path):
    source, url, _ = trained
    again = str(tmp_path / "again")
    for key in ("000001.npz", "000001.json"):  # killed after the first of two rounds
        state = paths.read_bytes(f"{url}/checkpoints/{key}")
        paths.write_bytes(f"{again}/checkpoints/{key}", state)
    state = json.loads(paths.read_bytes(f"{again}/checkpoints/000001.json"))
    state["meta"]["history"][0]["mark"] = 7.0
    paths.write_bytes(f"{again}/checkpoints/000001.json", json.dumps(state).encode())
    train_loop(LocalContext(), table_of(), source, again, 1)
    record = model_record(again)
    assert record["metadata"]["history"][0]["mark"] == 7  # not done anew
    assert record["weights_sha256"] == model_record(url)["weights_sha256"]


def test_only_rank_0_stores_the_model(trained, tmp_path):
    class Second(LocalContext):
        rank, world_size = 1, 2

    source, _, _ = trained
    train_loop(Second(), table_of(), source, str(tmp_path / "none"), 1)
    assert not (tmp_path / "none").exists()


# The verb.


def library_run(tmp_path):
    """A run that learns from a library of five spectra."""
    spec = EmulatorSpec("toy", LABELS, LOW, HIGH, LAMOST, 1800.0)
    library = library_stage(
        str(tmp_path / "library"),
        n_spectra=5,
        seed=1,
        labels=(),
        truth_model=Payne(spec, hidden=(4,)).eval(),
    )
    reports = list(LocalEngine().map(library, library.blocks))
    assert all(report.ok for report in reports)
    table = table_of(catalog="", library=str(tmp_path / "library/spectra.zarr"))
    run = RunTable(name="t", workspace=str(tmp_path / "work"), spectra_per_block=4)
    return RunConfig(run=run, train=table)


def test_a_library_is_preprocessed_and_then_learned_from(tmp_path):
    config = library_run(tmp_path)
    prepared, training = train(config)
    assert isinstance(prepared, Stage)
    assert [block.size for block in prepared.blocks] == [4, 1]
    assert prepared.url == folders.library_url(config)
    assert training.url == folders.model_url(config)
    assert training.loop.keywords["source"] == f"{prepared.url}/spectra.zarr"
    assert pickle.loads(pickle.dumps(training)).loop.keywords == training.loop.keywords


def test_a_model_that_stands_is_not_trained_again(tmp_path):
    config = library_run(tmp_path)
    save_model(folders.model_url(config), truth())
    assert [type(step) for step in train(config)] == [Stage]


def test_matched_stars_are_learned_from_as_they_are(tiny_run):
    table = table_of(labels=("teff",))
    config = tiny_run.config.model_copy(update={"train": table})
    (training,) = train(config)
    source = training.loop.keywords["source"]
    assert source == f"{folders.training_url(config, 'apogee')}/train.zarr"


def test_a_run_file_without_the_table_is_refused(tiny_run):
    with pytest.raises(ConfigError, match=r"no \[train\] table"):
        next(train(tiny_run.config))
