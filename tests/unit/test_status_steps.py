"""`status` says which of a stage's own steps failed, whichever stage it is."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fitted_run import write_fitted
from labelled import LABELS as LABEL_NAMES
from labelled import spectra_with_labels, store_spectra
from small_run import config_for, copied, done

from scalespec.config import (
    DeriveTable,
    PublishTable,
    RunConfig,
    RunTable,
    TrainTable,
    VisitsTable,
)
from scalespec.errors import StageError
from scalespec.run import Runner, _set_current, run
from scalespec.stages import folders
from scalespec.stages.train_baseline import train_baseline
from scalespec.status import stage_states, verify_run

FLUX = "spectra/*/spectra.zarr/flux/c/1/0"
LABELS = "best/*/parts/000001-*.parquet"
PAIRS = '[calibrate]\n[calibrate.pairs]\ncatalog = "{root}/pairs.parquet"\n'


@pytest.fixture(autouse=True)
def _prompt(monkeypatch):
    monkeypatch.setattr("scalespec.engines.worker.PAUSE_S", 0.0)


@pytest.fixture(scope="module")
def survey(write_survey, tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    write_survey(folder, 10)
    return folder


@pytest.fixture(scope="module")
def whole_run(survey, tmp_path_factory):
    return done(survey, tmp_path_factory.mktemp("whole"))


def run_losing(config, verb, step, lost):
    """Run a verb; when one of its steps begins, what that reads of a block is lost."""

    def lose(progress):
        if progress.stage == step and progress.report is None:
            found = list(Path(config.run.workspace).glob(lost))
            assert found
            for path in found:
                path.unlink()

    runner = Runner(config, "local", listener=lose)
    with suppress(StageError):  # most stages refuse to go on
        runner.run([verb])
    return runner.summary


def failed_states(config):
    return {state["stage"]: state for state in stage_states(config) if state["failed"]}


def assert_said(config, summary, step, name):
    """Status has the failures that the run ended with, with their causes."""
    shown = failed_states(config)
    assert set(shown) == {name}
    said = summary.failed[step]
    assert shown[name]["failed"] == len(said) > 0
    assert shown[name]["why"] == {str(index): why for index, why in said.items()}
    order = [state["stage"] for state in stage_states(config)]
    assert order[order.index(name) + 1] == name.partition(" ")[0]


@pytest.mark.parametrize(
    ("step", "lost", "name"),
    [
        ("statistics", FLUX, "preprocess statistics"),
        ("components", FLUX, "preprocess statistics scores"),
        ("repeats", "raw/*/index/000001-*.parquet", "preprocess visits repeats"),
        ("visits", FLUX, "preprocess visits"),
    ],
)
def test_steps_of_preprocess(survey, whole_run, tmp_path, step, lost, name):
    workspace = copied(survey, whole_run, tmp_path / "work").run.workspace
    tables = {"statistics": True, "components": 2}
    if step in ("repeats", "visits"):
        tables = {"visits": VisitsTable(star="designation")}
    config = config_for(survey, workspace, **tables)
    summary = run_losing(config, "preprocess", step, lost)
    assert_said(config, summary, step, name)


@pytest.mark.parametrize(
    ("step", "lost", "name"),
    [
        ("calibrate stars", LABELS, "calibrate stars"),
        ("calibrate trends", "calibrated/*/pairs.parquet", "calibrate trends"),
    ],
)
def test_steps_of_calibrate(tmp_path, step, lost, name):
    stars = {"teff": np.full(30, 5000.0), "logg": np.full(30, 4.5), "fe_h": np.zeros(30)}
    stars |= {f"{label}_err": np.full(30, 0.05) for label in list(stars)}
    pairs = pa.table({"source_id_1": [1], "source_id_2": [2]})
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    config = write_fitted(tmp_path, stars, tables=PAIRS.format(root=tmp_path), rows=16)
    summary = run_losing(config, "calibrate", step, lost)
    assert_said(config, summary, step, name)


@pytest.mark.parametrize(
    ("step", "lost", "name"),
    [("derive visits", LABELS, "derive visits"), ("derive sample", FLUX, "derive sample")],
)
def test_steps_of_derive(tiny_run, step, lost, name):
    table = DeriveTable(anomaly_sample=1000, anomaly_components=2)
    config = tiny_run.config.model_copy(update={"derive": table})
    summary = run_losing(config, "derive", step, lost)
    assert_said(config, summary, step, name)


@pytest.mark.parametrize(
    ("step", "lost", "name"),
    [
        ("publish hats", "catalog/*/parts/000001-*.parquet", "publish hats"),
        ("publish best fits", FLUX, "publish best_fit"),
    ],
)
def test_steps_of_publish(tiny_run, step, lost, name):
    hats = step == "publish hats"
    table = PublishTable(formats=("hats",) if hats else (), best_fit=not hats, partition_rows=5)
    config = tiny_run.config.model_copy(update={"publish": table})
    summary = run_losing(config, "publish", step, lost)
    assert_said(config, summary, step, name)


@pytest.mark.parametrize(
    ("model", "step", "name"), [("ridge", "train", "train"), ("elm", "elm sums", "train sums")]
)
def test_a_training_by_blocks_and_its_steps(tmp_path, model, step, name):
    source = store_spectra(str(tmp_path / "train.zarr"), spectra_with_labels())
    config = RunConfig(
        run=RunTable(name="t", workspace=f"{tmp_path}/work"),
        train=TrainTable(model=model, labels=LABEL_NAMES, library=source),
    )
    runner = Runner(config, "local")
    for stage in train_baseline(config, source, folders.model_url(config)):
        Path(source, "flux", "c", "1", "0").write_bytes(bytes(1000))
        _set_current(config, stage)
        runner.map(stage)
        break
    (state,) = failed_states(config).values()
    assert (state["stage"], state["failed"], state["left"]) == (name, 1, 0)
    assert list(state["why"].values()) == list(runner.summary.failed[step].values())


@pytest.mark.parametrize(
    ("table", "changed", "name"),
    [
        ({"publish": PublishTable(best_fit=True)}, "best_fit/spectra.zarr/flux/c/1/0", "publish"),
        ({"derive": DeriveTable(anomaly_sample=1000)}, "derived/*/visits/parts/000001*", "derive"),
    ],
)
def test_verify_reads_steps_back_and_mends_them(tiny_run, table, changed, name):
    config = tiny_run.config.model_copy(update=table)

    def problems(**options):  # of a run whose spectra and labels were made by hand
        return [line for line in verify_run(config, **options)[0] if line.startswith(name)]

    run(config, verbs=(name,), engine="local")
    assert problems() == []
    one = min(Path(config.run.workspace).rglob(changed))
    before = one.read_bytes()
    one.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    (problem, withdrawn) = problems(mend=True)
    assert f"block 1: {one} changed since its commit" in problem
    assert withdrawn.endswith("the next run makes it anew")
    assert run(config, verbs=(name,), engine="local").done == 1
    assert problems() == []
    assert name == "derive" or one.read_bytes() == before  # parts have other names
