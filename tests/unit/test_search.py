"""The search for settings: what is drawn, what is tried, and that the best model is the run's."""

import json
import pickle

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from labelled import LABELS, spectra_with_labels, store_spectra

from scalespec.cli import main
from scalespec.config import EngineTable, RayTable, RunConfig, RunTable, TrainTable
from scalespec.errors import ConfigError, StageError
from scalespec.run import search
from scalespec.stages import folders
from scalespec.stages.search import draw_settings, keep_best, search_trials, with_settings
from scalespec.store.ledger import current
from scalespec.store.model import load_model, model_record

SEARCH = {"trials": 3, "choices": {"hidden": [2, 8]}, "ranges": {"learning_rate": [1e-5, 1e-3]}}


def table_of(**options):
    given = {"labels": LABELS, "catalog": "a", "hidden": 1, "rounds": [0, 8], "search": SEARCH}
    return TrainTable(**(given | options))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run whose training store is there; upstream stages are not run here."""
    source = tmp_path / "train"
    store_spectra(str(source / "train.zarr"), spectra_with_labels())
    monkeypatch.setattr(folders, "training_url", lambda *_: str(source))
    monkeypatch.setattr(folders, "model_url", lambda _: str(tmp_path / "model" / "0123"))
    table = RunTable(name="t", workspace=str(tmp_path), seed=1)
    return RunConfig.model_construct(run=table, train=table_of())


def test_the_first_trial_is_the_table_itself_and_the_others_are_drawn():
    drawn = draw_settings(table_of(search=SEARCH | {"trials": 40}), 1)
    assert drawn[0] == {}
    assert {one["hidden"] for one in drawn[1:]} == {2, 8}
    rates = np.log10([one["learning_rate"] for one in drawn[1:]])
    assert rates.min() >= -5
    assert rates.max() <= -3
    assert 0.4 < rates.std() < 0.75  # even in the logarithm: 2 / sqrt(12)
    assert draw_settings(table_of(search=SEARCH | {"trials": 40}), 1) == drawn
    assert draw_settings(table_of(search=SEARCH | {"trials": 40}), 2) != drawn


def test_settings_are_checked_as_a_run_files_are():
    assert with_settings(table_of(), {"hidden": 7}).hidden == 7
    with pytest.raises(ConfigError, match="hidden"):
        with_settings(table_of(), {"hidden": -7})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": None}, r"no \[train.search\] table"),
        ({"model": "cannon"}, "'cannon' is none of"),
        ({"search": {"choices": {"labels": [["teff"]]}}}, r"\['labels'\] are no settings"),
        ({"search": {"choices": {"with": [1]}}}, r"\['with'\] are no settings"),
    ],
)
def test_what_cannot_be_searched_is_said(options, message):
    with pytest.raises(ConfigError, match=message):
        draw_settings(table_of(**options), 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing to draw"),
        ({"choices": {"hidden": []}}, "choices.hidden holds no value"),
        ({"ranges": {"learning_rate": [1e-3, 1e-5]}}, "wants 0 < low < high"),
        (SEARCH | {"ranges": {"hidden": [1, 2]}}, "in both"),
    ],
)
def test_a_search_without_meaning_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        table_of(search=asked)


def test_without_spectra_there_is_no_search(config, monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "training_url", lambda *_: str(tmp_path / "nowhere"))
    with pytest.raises(StageError, match="not there yet"):
        search_trials(config)


def test_the_best_trials_model_is_the_runs(config, tmp_path):
    settings, trial = search_trials(config)
    outcomes = {i: trial(i) for i in range(3)}
    rows = keep_best(config, settings, outcomes)
    url = str(tmp_path / "model" / "0123")
    best = rows[0]["trial"]
    assert outcomes[best] == min(outcomes.values()) < outcomes[0]  # one hidden unit is too few
    kept = load_model(url)
    assert kept.options["hidden"] == [rows[0]["settings"]["hidden"]] * 2
    chosen = load_model(f"{url}/search/{best:03d}")
    assert torch.equal(kept.output.weight, chosen.output.weight)
    metadata = model_record(url)["metadata"]
    assert metadata["search"] == rows
    assert metadata["card"]["n_training"] == metadata["n_training"]
    assert json.loads((tmp_path / "model/0123/search/search.json").read_text()) == rows
    assert current(str(tmp_path), "model")["digest"] == "0123"


def test_a_trial_that_is_done_is_not_trained_again(config, tmp_path):
    settings, trial = search_trials(config)
    first = trial(1)
    where = tmp_path / "model/0123/search/001/weights.npz"
    before = where.stat().st_mtime_ns
    assert trial(1) == first
    assert where.stat().st_mtime_ns == before
    assert len(settings) == 3


@pytest.mark.parametrize(("gpus", "device"), [(0.5, "cuda"), (0, "cpu")])
def test_a_trial_trains_on_the_gpu_that_it_holds(config, monkeypatch, gpus, device):
    class TrainedError(Exception):
        pass

    def train_loop(context, *_):
        raise TrainedError(context.device)

    monkeypatch.setattr("scalespec.stages.search.train_loop", train_loop)
    monkeypatch.setattr("scalespec.stages.search.device_here", str)
    engine = EngineTable(ray=RayTable(gpus_per_worker=gpus))
    _, trial = search_trials(config.model_copy(update={"engine": engine}))
    with pytest.raises(TrainedError, match=device):
        pickle.loads(pickle.dumps(trial))(0)


def test_failed_trials_come_last_and_say_why(config):
    settings, trial = search_trials(config)
    rows = keep_best(config, settings, {0: "out of memory", 1: trial(1), 2: float("nan")})
    assert [row["trial"] for row in rows] == [1, 0, 2]
    assert rows[1]["error"] == "out of memory"
    with pytest.raises(StageError, match="every trial failed; trial 0: no"):
        keep_best(config, settings, {0: "no"})


def test_search_is_of_train_alone(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(f'[run]\nname = "a"\nworkspace = "{tmp_path}"\n')
    result = CliRunner().invoke(main, ["fit", str(file), "--search"])
    assert result.exit_code == 2
    assert "--search is of train" in result.output


@pytest.mark.slow
@pytest.mark.ray
def test_ray_tune_tries_all_and_keeps_the_best(config, tmp_path):
    rows = search(config)
    assert sorted(row["trial"] for row in rows) == [0, 1, 2]
    assert all(row["validation_rms"] for row in rows)
    alone = search_trials(config)[1](rows[0]["trial"])
    assert rows[0]["validation_rms"] == alone
    assert (tmp_path / "model/0123/model.json").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_that_dies_on_ray_ends_no_search():
    from scalespec.config import RayTable
    from scalespec.engines.ray import RayEngine

    def trial(i):
        if i == 1:
            raise ValueError("this setting blows up")
        return 0.5 - i

    engine = RayEngine(RayTable(workers=2))
    try:
        outcomes = engine.search("t", 3, trial)
    finally:
        engine.close()
    assert outcomes[0] == 0.5
    assert outcomes[2] == -1.5
    assert "this setting blows up" in outcomes[1]
