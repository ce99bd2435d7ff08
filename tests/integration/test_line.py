"""The whole line as a user runs it: what its catalog depends on, and how a run is stopped."""

import io
import json

import numpy as np
import pandas as pd
import pytest

N_BLOCKS = 14


def test_every_planned_spectrum_has_its_row(line):
    assert line.undisturbed.problems() == []


def test_verify_reads_a_run_back_and_ends_with_0(line):
    code, said = line.undisturbed.typed("verify")
    assert code == 0, said
    assert "0 problems" in said


@pytest.mark.dask
@pytest.mark.ray
def test_dask_workers_and_ray_actors_make_the_same_catalog(line, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # a run file says where, nothing else does
    workspace = line.workspace(tmp_path)
    with workspace.start("run") as run:
        assert run.ended() == 0, run.said
        assert run.left_after(60) == []
    assert workspace.digest() == line.digest
    assert workspace.problems() == []


def test_a_changed_fit_redoes_fit_and_publish_alone(line, tmp_path):
    workspace = line.workspace(tmp_path, before="catalog")
    workspace.change("[fit]", "[fit]\nmax_steps = 1")
    code, said = workspace.typed("run", "--engine", "local")
    assert code == 0, said
    assert f"{2 * N_BLOCKS} done now" in said
    assert workspace.digest() != line.digest
    assert len(workspace.commits("best")) == 2 * N_BLOCKS  # beside the old ones


def test_how_many_stars_are_fitted_together_changes_nothing(line, tmp_path):
    workspace = line.workspace(tmp_path, before="best")
    workspace.change("[fit]", "[fit]\nstars_per_batch = 3")
    code, said = workspace.typed("run", "--engine", "local")
    assert code == 0, said
    one, other = (pd.read_parquet(io.BytesIO(w.catalog())) for w in (line.undisturbed, workspace))
    for name in one.columns.drop("label_cov"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


INTERRUPTS = [
    pytest.param("dask", "spectra", "interrupt", marks=[pytest.mark.dask, pytest.mark.slow]),
    pytest.param("ray", "first", "terminate", marks=[pytest.mark.ray, pytest.mark.slow]),
    pytest.param("dask", "raw", "terminate", marks=[pytest.mark.dask, pytest.mark.slow]),
    pytest.param("ray", "best", "interrupt", marks=[pytest.mark.ray, pytest.mark.slow]),
    pytest.param("local", "spectra", "interrupt", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("engine", "stage", "how"), INTERRUPTS)
def test_a_stopped_run_says_so_leaves_nothing_and_goes_on(line, tmp_path, engine, stage, how):
    workspace = line.workspace(tmp_path, before=stage if stage != "raw" else "")
    with workspace.start("run", "--engine", engine) as run:
        run.until(lambda: len(workspace.commits(stage)) >= 2)
        getattr(run, how)()
        assert run.ended() == 1, run.said
        assert "finishing the blocks in flight" in run.said
        assert "the same command goes on from here" in run.said
        assert "Traceback" not in run.said
        assert run.left_after(60) == []
    assert 2 <= len(workspace.commits(stage)) < N_BLOCKS
    code, said = workspace.call("run", "--engine", engine)
    assert code == 0, said
    assert workspace.digest() == line.digest
    assert workspace.problems() == []


@pytest.mark.slow
@pytest.mark.ray
def test_one_worker_two_workers_and_none_train_as_well(line, tmp_path):
    history = {}
    for engine, workers in (("local", 1), ("ray", 1), ("ray", 2)):
        settings = {"rounds": [0, 10, 10], "epochs": 6, "workers": workers}
        workspace = line.training(tmp_path / f"{engine}{workers}", **settings)
        code, said = workspace.call("train", "--engine", engine)
        assert code == 0, said
        record = json.loads((workspace.model() / "model.json").read_text())["metadata"]
        assert record["workers"] == workers
        history[engine, workers] = [entry["validation_rms"] for entry in record["history"]]
    assert history["ray", 1] == history["local", 1]
    # The same sums in another order lead a search for 20 evaluations to another model as good;
    # of 20 validation spectra, the rms is known to a tenth.
    best = {key: min(rms) for key, rms in history.items()}
    assert best["ray", 2] == pytest.approx(best["local", 1], rel=0.2)
