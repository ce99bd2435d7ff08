"""Regressors on a real Ray: trained by two workers from Zarr, then asked on two actors."""

from functools import partial

import numpy as np
import pytest
from labelled import LABELS, ROWS, N, spectra_with_labels, store_spectra

from scalespec.config import InferTable, RayTable, TrainTable
from scalespec.engines.local import LocalEngine
from scalespec.engines.ray import RayEngine
from scalespec.plan import Stage, Training, plan_blocks
from scalespec.stages.inference import Plan
from scalespec.stages.question import write_labels
from scalespec.stages.regress import labels_of, read_asked
from scalespec.stages.train_regressor import train_regressor_loop
from scalespec.store.catalog import read_part
from scalespec.store.model import model_record
from scalespec.store.regressor import load_regressor

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


def test_two_workers_train_what_two_actors_ask(tmp_path):
    store = store_spectra(str(tmp_path / "train.zarr"), spectra_with_labels())
    network = {"options": {"hidden": [32]}, "epochs": 40, "batch_size": 16, "patience": 0}
    table = TrainTable(model="mlp", labels=LABELS, catalog="apogee", network=network)
    model = str(tmp_path / "model")
    loop = partial(train_regressor_loop, table=table, source=store, url=model, seed=1)
    engine = RayEngine(RayTable(workers=2))
    try:
        engine.train(Training("train", model, loop))
        stage = stage_of(store, model, str(tmp_path / "ray"))
        reports = list(engine.map(stage, stage.blocks))
    finally:
        engine.close()
    record = model_record(model)["metadata"]
    assert record["workers"] == 2
    history = record["history"]
    assert history[-1]["validation_error"] < 0.5 * history[0]["validation_error"]
    assert all(report.ok for report in reports), reports
    here = stage_of(store, model, str(tmp_path / "local"))
    assert all(report.ok for report in LocalEngine().map(here, here.blocks))
    for block in stage.blocks:
        assert read_part(stage.url, block).equals(read_part(here.url, block))
    assert np.isfinite(load_regressor(model).temperature.numpy()).all()
