"""Training with missing and noisy labels from a store: what is read, learned and said of it."""

import numpy as np
import pytest
import torch
from labelled import HIGH, LABELS, LOW, spectra_with_labels, store_spectra, truth

from scalespec.config import TrainTable
from scalespec.engines.local import LocalContext
from scalespec.errors import ModelError
from scalespec.models.cannon import Cannon
from scalespec.models.regression import fit_pixels
from scalespec.stages import latent
from scalespec.stages.learning import select
from scalespec.stages.pixels import at_rest, choose
from scalespec.stages.train import train_loop
from scalespec.store.model import load_model, model_record

ERROR = np.array([250.0, 0.5, 0.3])


def table_of(**options):
    given = {"labels": LABELS, "catalog": "a", "model": "cannon", "order": 2, "latent_rounds": 3}
    return TrainTable(**(given | options))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two hundred spectra; a fifth of their labels is missing, the others are as bad as ERROR."""
    spectra = spectra_with_labels()
    rng = np.random.default_rng(6)
    labels = spectra["labels"].to_numpy() + rng.normal(0, ERROR, (200, 3))
    labels[rng.random((200, 3)) < 0.2] = np.nan
    spectra["labels"] = (("spectrum", "label"), labels.astype("f4"))
    error = np.broadcast_to(ERROR, (200, 3)).astype("f4")
    spectra["label_err"] = (("spectrum", "label"), error)
    return store_spectra(str(tmp_path_factory.mktemp("s") / "train.zarr"), spectra)


def slopes(model):
    """Derivatives by labels over their true range, at fifty stars."""
    rng = np.random.default_rng(1)
    labels = torch.tensor(LOW + rng.uniform(0.2, 0.8, (50, 3)) * (HIGH - LOW))
    with torch.no_grad():
        jacobian = model.flux_and_jacobian(model.scale(labels))[1]
    return jacobian * torch.tensor((HIGH - LOW) / (model.spec.maximum - model.spec.minimum))[
        :, None
    ].to(jacobian)


def slope_error(model):
    """Relative error of derivatives, (3,)."""
    found, wanted = slopes(model), slopes(truth())
    return ((found - wanted).norm(dim=(0, 2)) / wanted.norm(dim=(0, 2))).numpy()


def test_latent_labels_make_truer_derivatives_than_complete_stars(source, tmp_path):
    train_loop(LocalContext(), table_of(latent_rounds=4), source, str(tmp_path), 1)
    sample = choose(source, table_of(latent_rounds=0), 1)
    labels, *rest = sample.training.read(np.arange(len(sample.training.rows)))
    flux, ivar = at_rest(*rest)
    alone = Cannon(sample.spec)
    fit = fit_pixels(alone.scale(torch.from_numpy(labels)), *map(torch.from_numpy, (flux, ivar)))
    with torch.no_grad():
        alone.output.weight.copy_(fit.coefficients)
    assert (slope_error(load_model(str(tmp_path))) < slope_error(alone)).all()


@pytest.mark.parametrize("model", ["payne", "hotpayne"])
def test_a_network_learns_from_latent_labels(model, source, tmp_path):
    options = {"model": model, "hidden": 6, "rounds": (0, 10), "latent_rounds": 2}
    train_loop(LocalContext(), table_of(**options), source, str(tmp_path), 1)
    made = load_model(str(tmp_path))
    assert np.isfinite(slopes(made).numpy()).all()
    record = model_record(str(tmp_path))["metadata"]
    assert record["n_training"] > 150  # of 160: stars lacking a label, too
    said = record["latent_labels"]
    assert "inferred" in said["statement"]
    assert [one["round"] for one in said["rounds"]] == [1, 2]
    assert [one["label"] for one in said["labels"]] == list(LABELS)
    missing = [one["missing"] for one in said["labels"]]
    assert all(20 < n < 55 for n in missing)  # a fifth of 180
    median = [one["median_error"] for one in said["labels"]]
    np.testing.assert_allclose(median, ERROR, rtol=1e-5)  # of float32


def test_training_goes_on_after_a_kill_to_the_same_model(source, tmp_path, monkeypatch):
    options = {"model": "payne", "hidden": 4, "rounds": (0, 5), "latent_rounds": 2}
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    train_loop(LocalContext(), table_of(**options), source, whole, 1)
    real, calls = latent.train_emulator, []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(latent, "train_emulator", dies)
    with pytest.raises(KeyboardInterrupt):
        train_loop(LocalContext(), table_of(**options), source, killed, 1)
    monkeypatch.setattr(latent, "train_emulator", real)
    train_loop(LocalContext(), table_of(**options), source, killed, 1)
    one, other = load_model(whole).state_dict(), load_model(killed).state_dict()
    for name in one:
        assert torch.equal(one[name], other[name])


def test_without_latent_rounds_only_complete_stars_are_learned_from(source):
    alone, _, _ = select(source, table_of(latent_rounds=0), 1)
    every, _, _ = select(source, table_of(), 1)
    assert np.isfinite(alone.labels).all()
    assert len(alone.rows) < 0.65 * len(every.rows)  # 0.8³


def test_more_spectra_than_memory_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(latent, "LATENT_SPECTRA", 100)
    with pytest.raises(ModelError, match="latent labels are sought for at most 100"):
        train_loop(LocalContext(), table_of(), source, str(tmp_path), 1)


def test_transformers_have_no_latent_labels():
    with pytest.raises(ValueError, match="never latent for model = 'transformer'"):
        table_of(model="transformer", epochs=1)
