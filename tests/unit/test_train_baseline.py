"""Classical regressors trained by a run file: the same as by hand, kept, and asked by `infer`."""

import json

import numpy as np
import pytest
from labelled import LABELS, spectra_with_labels, store_spectra

from scalespec.config import RunConfig, RunTable, TrainTable
from scalespec.engines.local import LocalEngine
from scalespec.errors import ConfigError, ModelError, StageError
from scalespec.stages.inference import infer_labels, make_plan
from scalespec.stages.inspect import inspect_url
from scalespec.stages.train_baseline import KINDS, train_baseline
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.model import load_model, model_record
from scalespec.store.regressor import is_regressor, load_regressor, open_model


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store of labelled spectra in two blocks."""
    return store_spectra(str(tmp_path_factory.mktemp("base") / "train.zarr"), spectra_with_labels())


def run_of(tmp_path, model, **options):
    table = TrainTable(model=model, labels=LABELS, library="x", network={"options": options})
    return RunConfig(run=RunTable(name="t", workspace=str(tmp_path)), train=table)


def trained(source, tmp_path, model, **options):
    """Train by the stages; return the model's folder and the stages' names."""
    url, names = str(tmp_path / "model"), []
    for stage in train_baseline(run_of(tmp_path, model, **options), source, url):
        names.append(stage.name)
        assert stage.runs_on == "dask"
        reports = list(LocalEngine().map(stage, stage.blocks))
        assert [report.error for report in reports] == [""] * len(stage.blocks)
    return url, names


def parts():
    """Flux, ivar and labels of training, validation and test spectra."""
    spectra = spectra_with_labels()
    split = spectra["split"].to_numpy()
    arrays = [spectra[name].to_numpy() for name in ("flux", "ivar", "labels")]
    return [[array[split == k] for array in arrays] for k in range(3)]


def test_a_ridge_is_scikit_learns_on_the_same_stars(source, tmp_path):
    from sklearn.linear_model import RidgeCV

    url, names = trained(source, tmp_path, "ridge")
    assert names == ["train"]
    (flux, _, labels), (held_flux, _, held_labels), (test_flux, test_ivar, _) = parts()
    made = load_regressor(url).predict(test_flux, test_ivar).labels
    # The final fit is of training and validation stars together.
    x, y = np.concatenate([flux, held_flux]), np.concatenate([labels, held_labels]).astype(float)
    mean, std = x.mean(axis=0, dtype=float), x.std(axis=0, dtype=float)
    for k in range(3):
        center, spread = y[:, k].mean(), y[:, k].std()
        model = RidgeCV(alphas=np.geomspace(1e-3, 1e5, 17))
        model.fit((x - mean) / std, (y[:, k] - center) / spread)
        expected = model.predict((test_flux - mean) / std) * spread + center
        assert np.allclose(made[:, k], expected, atol=2e-4 * spread)  # float32 labels


def test_what_was_trained_is_kept_and_says_what_it_is(source, tmp_path):
    url, _ = trained(source, tmp_path, "knn", components=5)
    record = model_record(url)
    n_training, n_held = (len(part[0]) for part in parts()[:2])
    assert record["metadata"]["n_training"] == n_training
    assert record["metadata"]["n_validation"] == n_held
    assert record["options"]["estimator"] == "knn"
    assert record["options"]["components"] == 5
    assert is_regressor(url)
    assert isinstance(open_model(url), KINDS["knn"])
    assert "regressor knn: knn, flux to labels" in inspect_url(url)
    with pytest.raises(ModelError, match="flux to labels"):
        load_model(url)


def test_inference_gives_what_the_model_says(source, tmp_path):
    url, _ = trained(source, tmp_path, "knn", components=5)
    model = load_regressor(url)
    flux, ivar, _ = parts()[2]
    ivar = ivar.copy()
    ivar[3] = 0
    plan = make_plan(model, flux, ivar, precision="bfloat16")
    assert plan.precision == "float32"
    made = infer_labels(model, flux, ivar, batch_size=plan.batch_size)
    assert np.array_equal(made.labels, model.predict(flux, ivar).labels, equal_nan=True)
    assert np.isnan(made.labels[3]).all()
    assert np.isinf(made.out_of_domain[3])


def test_a_damaged_file_is_refused(source, tmp_path):
    url, _ = trained(source, tmp_path, "ridge")
    where = paths.join(url, "weights.skops")
    data = bytearray(paths.read_bytes(where))
    data[len(data) // 2] ^= 1
    paths.write_bytes(where, bytes(data))
    with pytest.raises(ModelError, match=r"not what model\.json was written for"):
        load_regressor(url)
    record = model_record(url) | {"weights_sha256": paths.sha256(bytes(data))}
    paths.write_bytes(paths.join(url, "model.json"), json.dumps(record).encode())
    paths.write_bytes(where, b"PK")
    record["weights_sha256"] = paths.sha256(b"PK")
    paths.write_bytes(paths.join(url, "model.json"), json.dumps(record).encode())
    with pytest.raises(ModelError, match="no stored model of ours"):
        load_regressor(url)


def test_the_elm_learns_from_sums_over_all_blocks(source, tmp_path):
    options = {"units": 60, "components": 12, "penalties": [1e-4], "refit": False}
    url, names = trained(source, tmp_path, "elm", **options)
    assert names == ["elm sums"]
    model = load_regressor(url)
    flux, ivar, labels = parts()[0]
    made = model.predict(flux, ivar).labels
    # The closed form, from all spectra at once, with the layer that was drawn.
    x = model._features.apply(flux, ivar)
    hidden = np.column_stack(
        [np.tanh(x @ model._weights[:-1] + model._weights[-1]), np.ones(len(x))]
    )
    scaled = (labels.astype(float) - model._scale[:, 0]) / model._scale[:, 1]
    gram = hidden.T @ hidden
    gram += 1e-4 * np.trace(gram) / len(gram) * np.eye(len(gram))
    expected = hidden @ np.linalg.solve(gram, hidden.T @ scaled)
    found = (made - model._scale[:, 0]) / model._scale[:, 1]
    assert np.allclose(found, expected, atol=1e-4)  # float32 labels of thousands of kelvin


def test_an_elm_without_a_block_is_none(source, tmp_path):
    config, url = run_of(tmp_path, "elm", units=20, components=5), str(tmp_path / "model")
    steps = train_baseline(config, source, url)
    stage = next(steps)
    list(LocalEngine().map(stage, stage.blocks[:1]))
    assert len(Ledger(stage.url).done()) == 1
    with pytest.raises(StageError, match="sums of 1 of 2 blocks"):
        next(steps)
    assert not paths.exists(paths.join(url, "model.json"))


def test_faint_spectra_are_not_summed(source, tmp_path):
    config = run_of(tmp_path, "elm", units=20, components=5)
    table = config.train.model_copy(update={"snr_min": 500.0})
    with pytest.raises(ModelError, match="S/N >= 500"):
        next(train_baseline(config.model_copy(update={"train": table}), source, str(tmp_path)))


@pytest.mark.parametrize("model", ["ridge", "elm"])
def test_a_wrong_option_is_said(source, tmp_path, model):
    config = run_of(tmp_path, model, depth=3)
    steps = train_baseline(config, source, str(tmp_path / "model"))

    def begin():
        stage = next(steps)
        stage.compute(None, stage.read(stage.blocks[0]))

    with pytest.raises(ConfigError, match=rf"train.network.options\]: {model}: .*depth"):
        begin()


def test_sums_of_spectra_take_no_inputs_beside_them(source, tmp_path):
    config = run_of(tmp_path, "elm")
    network = config.train.network.model_copy(update={"inputs": ("g_mag",)})
    table = config.train.model_copy(update={"network": network})
    with pytest.raises(ConfigError, match="of spectra alone"):
        next(train_baseline(config.model_copy(update={"train": table}), source, str(tmp_path)))
