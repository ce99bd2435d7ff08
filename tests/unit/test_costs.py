"""Throughput, utilization and cost are those of the records of time, whatever of them is there."""

import pytest
from pages import Reader

from scalespec.plan import Block, BlockReport, BlockResult
from scalespec.stages import folders
from scalespec.stages.costs import busy, foretold, hours, read_timings, throughput
from scalespec.store import paths
from scalespec.store.ledger import write_json

FIT = {"stage": "fit", "seconds": 7200.0, "rows": 1_000_000, "workers": 3}


def with_table(config, name, **values):
    return config.model_copy(update={name: getattr(config, name).model_copy(update=values)})


def keep(url, **record):
    write_json(paths.join(url, "timing.json"), record)


def text_of(config):
    return Reader(throughput(config)).text


def test_hours_and_cost_are_of_all_workers(tiny_run):
    config = with_table(tiny_run.config, "report", worker_hour=0.5)
    keep(folders.best_url(config), **FIT, worker_seconds=10_800.0)
    text = text_of(config)
    # 3 workers for 2 hours, at work half of it; 6 hours at 0.5 are 3
    assert "fit 1,000,000 3 7,200 50 6 3 139" in text
    assert "All stages together took 6 worker hours and cost 3 at 0.5 per worker hour." in text


def test_without_a_price_there_is_no_cost(tiny_run):
    keep(folders.best_url(tiny_run.config), **FIT)
    text = text_of(tiny_run.config)
    assert "cost" not in text
    assert "fit 1,000,000 3 7,200 – 6 139" in text  # an older record knows of no work


def test_blocks_that_overlap_keep_a_worker_no_more_than_busy():
    assert busy({"seconds": 10.0, "workers": 1, "worker_seconds": 17.0}) == 1.0
    assert busy({"seconds": 0.0, "workers": 1, "worker_seconds": 1.0}) != 0  # NaN
    assert hours({"seconds": 3600.0, "workers": 2}) == 2.0


def test_a_training_has_no_rows(tiny_run):
    keep(folders.best_url(tiny_run.config), stage="train", seconds=9.0, rows=1, workers=2)
    assert "train – 2 9 – – 0" in text_of(tiny_run.config)


def test_steps_within_a_stage_are_counted_too(tiny_run):
    url = folders.spectra_url(tiny_run.config)
    keep(url, stage="preprocess", seconds=1.0, rows=20, workers=1)
    keep(paths.join(url, "statistics"), stage="statistics", seconds=1.0, rows=20, workers=1)
    keep(paths.join(url, "visits"), stage="visits", seconds=1.0, rows=20, workers=1)
    names = [one["stage"] for one in read_timings(tiny_run.config)]
    assert sorted(names) == ["preprocess", "statistics", "visits"]


def test_what_was_foretold_is_held_against_what_came(tiny_run):
    config = with_table(tiny_run.config, "report", worker_hour=1.0)
    stages = [{"stage": "fit", "seconds": 3600.0}, {"stage": "infer", "seconds": 5.0}]
    record = {"workers": 2, "stages": stages}
    write_json(paths.join(config.run.workspace, "prediction.json"), record)
    text = Reader(foretold(config, [FIT])).text
    assert "fit 3,600 7,200 -50" in text  # half of what it took: 50 % too little
    assert "together 3,600 7,200 -50" in text
    assert "Workers were to cost 2, and cost 6." in text  # 2 for one hour; 3 for two
    assert foretold(config, []) == ""


@pytest.mark.parametrize(("axis", "rows"), [("spectrum", 100), ("row", 100), ("healpix", 7)])
def test_rows_of_a_piece_of_the_sky_are_those_stored(axis, rows):
    block = Block(axis, 0, 0, 100)
    assert BlockReport(block, BlockResult(7, {})).rows == rows
    assert BlockReport(block, None, "broken").rows == (0 if axis == "healpix" else 100)
