"""What `plan` says of labels that are there: which are made anew, and by which setting."""

import pytest

from scalespec.config import FitTable, TrainTable
from scalespec.plan import plan_blocks
from scalespec.run import _write_provenance
from scalespec.stages import folders
from scalespec.stages.anew import made_anew
from scalespec.status import plan_run
from scalespec.store.ledger import Ledger, set_current
from scalespec.terminal import err, plan_table

N, ROWS = 20, 8


def stand(config):
    """Name a run's labels as those in use, as a run does."""
    _write_provenance(config)
    for folder, url in (("first", folders.first_url(config)), ("best", folders.best_url(config))):
        set_current(config.run.workspace, folder, url.rpartition("/")[2])
        Ledger(url).plan(plan_blocks(N, ROWS))


@pytest.fixture
def made(tiny_run):
    """A run that has all its labels."""
    stand(tiny_run.config)
    return tiny_run.config


def changed(config, table, **settings):
    return config.model_copy(
        update={table: getattr(config, table).model_copy(update=settings)},
    )


def test_nothing_is_said_where_labels_stay(made):
    assert made_anew(made) == {}
    assert made_anew(changed(made, "report", snr_min=5.0)) == {}


def test_nothing_is_said_where_there_are_none(tiny_run):
    assert made_anew(tiny_run.config) == {}


@pytest.mark.parametrize(
    ("table", "settings", "stages", "said"),
    [
        ("fit", {"max_steps": 7}, ["fit"], "fit.max_steps changed"),
        ("infer", {"templates": 50}, ["infer", "fit"], "infer.templates changed"),
        ("preprocess", {"spike_sigma": 9.0}, ["infer", "fit"], "preprocess.spike_sigma changed"),
        ("run", {"seed": 5}, ["infer", "fit"], "run.seed changed"),
    ],
)
def test_a_setting_that_makes_labels_anew_is_named(made, table, settings, stages, said):
    wanted = f"20 spectra that are done are done anew: {said}"
    assert made_anew(changed(made, table, **settings)) == dict.fromkeys(stages, wanted)


def test_another_model_under_the_same_name_is_said(made, monkeypatch):
    monkeypatch.setattr(folders, "checksums", lambda *_: ["another"])
    assert made_anew(made)["fit"].endswith("done anew: what it is made of is not what it was")


def test_labels_of_an_earlier_run_with_these_settings_are_gone_on_with(made):
    """Settings that were tried and taken back."""
    stand(changed(made, "fit", max_steps=7))
    assert made_anew(made) == {}


@pytest.mark.parametrize(("segments", "said"), [(0, True), (1, False)])
def test_what_a_growing_training_set_costs_is_said(made, monkeypatch, segments, said):
    monkeypatch.setattr(folders, "model_url", lambda _: made.infer.models[0])
    table = TrainTable(catalog="apogee", labels=("teff",), segments=segments)
    own = made.infer.model_copy(update={"models": ()})
    config = made.model_copy(update={"train": table, "infer": own})
    stand(config)
    found = made_anew(config)
    assert list(found) == ["train"] * said
    assert all(
        "and 20 spectra that are done are done anew; with [train]" in x for x in found.values()
    )


def test_the_plan_shows_it_below_its_stages(made, monkeypatch):
    monkeypatch.setattr("scalespec.status.check_inputs", lambda _: None)
    facts = plan_run(made.model_copy(update={"fit": FitTable(max_steps=7)}))
    assert {one["stage"] for one in facts if one["anew"]} == {"fit"}
    with err.capture() as shown:
        err.print(plan_table(facts))
    assert "fit: 20 spectra that are done are done anew: fit.max_steps changed" in " ".join(
        shown.get().split()
    )
