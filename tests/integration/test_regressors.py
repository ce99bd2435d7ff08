"""Regressors on a real Ray: trained by two workers from Zarr, then asked on two actors."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from labelled import LABELS, ROWS, N, spectra_with_labels, store_spectra
from scripts import load

from scalespec.config import InferTable, RayTable, TrainTable
from scalespec.engines.local import LocalEngine
from scalespec.engines.ray import RayEngine
from scalespec.models.estimators import make_estimator
from scalespec.models.regressor import Sample, describe
from scalespec.plan import Stage, Training, plan_blocks
from scalespec.stages import folders
from scalespec.stages.infer import infer
from scalespec.stages.inference import Plan
from scalespec.stages.question import write_labels
from scalespec.stages.regress import labels_of, read_asked
from scalespec.stages.train_regressor import train_regressor_loop
from scalespec.store.catalog import read_part
from scalespec.store.model import model_record
from scalespec.store.regressor import load_regressor, save_baseline
from scalespec.store.spectra import read_spectra

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def stage_of(store, model, url):
    return Stage(
        name="infer",
        url=url,
        blocks=plan_blocks(N, ROWS),
        read=partial(
            read_asked, url=store, index_url="", matches={}, table=InferTable(), inputs=()
        ),
        compute=partial(labels_of, plan=Plan(64, "float32", 0.0), far=3.0),
        write=partial(write_labels, url=url, status="first_status"),
        runs_on="ray",
        setup=partial(load_regressor, model),
    )


@pytest.fixture(scope="module")
def two_actors():
    engine = RayEngine(RayTable(workers=2))
    yield engine
    engine.close()


def test_two_workers_train_what_two_actors_ask(two_actors, tmp_path):
    store = store_spectra(str(tmp_path / "train.zarr"), spectra_with_labels())
    network = {"options": {"hidden": [32]}, "epochs": 15, "batch_size": 16, "patience": 0}
    table = TrainTable(model="mlp", labels=LABELS, catalog="apogee", network=network)
    model = str(tmp_path / "model")
    loop = partial(train_regressor_loop, table=table, source=store, url=model, seed=1)
    two_actors.train(Training("train", model, loop))
    stage = stage_of(store, model, str(tmp_path / "ray"))
    reports = list(two_actors.map(stage, stage.blocks))
    record = model_record(model)["metadata"]
    assert record["workers"] == 2
    history = record["history"]
    assert history[-1]["validation_error"] < 0.5 * history[0]["validation_error"]
    assert all(report.ok for report in reports), reports
    here = stage_of(store, model, str(tmp_path / "local"))
    assert all(report.ok for report in LocalEngine().map(here, here.blocks))
    for block in stage.blocks:
        assert read_part(stage.url, block).equals(read_part(here.url, block))
    assert np.isfinite(load_regressor(model).errors.level.numpy()).all()


CLASSICAL = {
    "ridge": {"logarithmic": ["teff"]},
    "random_forest": {"trees": 10, "components": 8},
    "gaussian_process": {"components": 8, "steps": 5},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run of 20 preprocessed spectra in 3 blocks, and 120 like them to learn from."""
    tiny = load("tests/unit/tiny_run.py")
    run = tiny.write_run(tmp_path_factory.mktemp("tiny"))
    rng = np.random.default_rng(2)
    labels = tiny.LOW + rng.uniform(0, 1, (120, 3)) * (tiny.HIGH - tiny.LOW)
    with torch.inference_mode():
        flux = tiny.tiny_model()(torch.tensor(labels)).numpy()
    parts = flux + rng.normal(0, 0.004, flux.shape), np.full(flux.shape, 250.0**2), labels
    sample = Sample(*(part.astype(np.float32) for part in (*parts, 0 * labels)))
    return run.config, sample


@pytest.mark.parametrize(
    "name", ["ridge", *(pytest.param(n, marks=pytest.mark.slow) for n in list(CLASSICAL)[1:])]
)
def test_classical_regressors_say_on_two_actors_what_they_say_here(
    prepared, two_actors, name, tmp_path
):
    config, sample = prepared
    store = f"{folders.spectra_url(config)}/spectra.zarr"
    spectra = read_spectra(store, 0, 2**62)
    spec = describe(
        name,
        LABELS,
        spectra["wavelength"].to_numpy(),
        sample,
        normalization=spectra.attrs["normalization"],
        resolving_power=1800.0,
    )
    model = make_estimator(name, spec, **CLASSICAL[name])
    model.fit(sample.take(slice(20, None)), sample.take(slice(20)), seed=1)
    url = str(tmp_path / name)
    save_baseline(url, model, {})
    table = config.infer.model_copy(update={"models": (url,)})
    (stage,) = infer(config.model_copy(update={"infer": table}))
    assert stage.runs_on == "ray"

    assert all(report.ok for report in two_actors.map(stage, stage.blocks))

    found = pd.concat([read_part(stage.url, block).to_pandas() for block in stage.blocks])
    found = found.sort_values("row").reset_index(drop=True)
    assert found["row"].tolist() == list(range(20))
    good = spectra["status"].to_numpy() == 0
    assert good.sum() == 19
    # The one that learned, which was neither stored nor sent, and of all spectra at once.
    made = model.predict(spectra["flux"].to_numpy()[good], spectra["ivar"].to_numpy()[good])
    pairs = {"": made.labels, "_err": made.sigma, "_epistemic": made.sigma_epistemic}
    for k, label in enumerate(LABELS):
        for ending, values in pairs.items():
            column = found[f"first_{label}{ending}"].to_numpy()
            # BLAS sums eight rows in another order than nineteen.
            assert np.allclose(column[good], values[:, k], rtol=1e-5, atol=1e-6), (label, ending)
            assert np.isnan(column[~good]).all()
    assert np.allclose(found["out_of_domain"][good], made.out_of_domain, rtol=1e-5)
    truth = load("tests/unit/tiny_run.py").true_labels()
    off = np.abs(found["first_teff"] - truth[:, 0])[good]
    assert np.median(off) < 0.5 * np.abs(truth[:, 0] - np.median(truth[:, 0])).mean()
