"""What a run will take: from few blocks to all of them."""

import json
from pathlib import Path

import pytest

from scalespec.config import (
    IngestTable,
    PreprocessTable,
    PublishTable,
    RunConfig,
    RunTable,
    TrainTable,
)
from scalespec.config.calibrate import CalibrateTable, PairsTable
from scalespec.config.posterior import PosteriorTable
from scalespec.errors import ConfigError, StageError
from scalespec.plan import Block, BlockReport, BlockResult
from scalespec.probe import (
    PREDICTION,
    Predicted,
    Prices,
    _left_out,
    _predicted,
    _rates,
    _run_short,
    _Seen,
    _shortened,
    _warm_blocks,
    _with_training,
    compare,
    probe_run,
)
from scalespec.run import run
from scalespec.store import paths


def seen(*ended, planned=100, began=10.0):
    """A stage whose blocks ended at these times, each by a worker."""
    reports = [
        (at, BlockReport(Block("spectrum", i, 0, 8), BlockResult(8, {}), "", 1.0, worker))
        for i, (at, worker) in enumerate(ended)
    ]
    return _Seen(planned, began, reports)


def test_what_workers_need_to_get_warm_is_no_measure_of_the_other_blocks():
    """Two workers: 20 s until both are warm, then a block every half second."""
    made = seen((25.0, "a"), (30.0, "b"), (30.5, "a"), (31.0, "b"), (31.5, "a"), (32.0, "b"))
    assert _warm_blocks(made) == 2
    assert _rates(made) == (20.0, 0.5)


def test_a_worker_that_comes_late_makes_the_start_longer():
    made = seen((12.0, "a"), (13.0, "a"), (14.0, "b"), (14.5, "a"))
    assert _warm_blocks(made) == 3
    assert _rates(made) == (4.0, 0.5)


def test_where_a_worker_comes_last_of_all_the_blocks_of_the_others_are_the_measure():
    """Five blocks of a second each by a, b's first at the end: two workers do two a second."""
    made = seen(*[(12.0 + i, "a") for i in range(5)], (18.0, "b"))
    assert _warm_blocks(made) == 6
    assert _rates(made) == (8.0, 0.5)


def test_the_start_is_what_more_blocks_do_not_make_longer(tmp_path):
    config = RunConfig(run=RunTable(name="t", workspace=str(tmp_path)))
    made = seen((25.0, "a"), (30.0, "b"), (30.5, "a"), (31.0, "b"), planned=4)
    few = _predicted(config, "fit", made, (4, 4), 1.0)
    many = _predicted(config, "fit", made, (400, 4), 1.0)
    assert few.start_seconds == many.start_seconds == 19.0
    assert (few.seconds, many.seconds) == (21.0, 19.0 + 400 * 0.5)


def test_the_start_of_a_training_is_what_its_steps_are_not(tmp_path, monkeypatch):
    """Probe: 50 s, of which 30 evaluations took 6 s; 160 more are to come."""
    monkeypatch.setattr("scalespec.probe._gaps", lambda _: [6.0])
    whole, little = (
        TrainTable(labels=("teff",), library="l", rounds=r)
        for r in ((0, 10, 30, 60, 100), (0, 10, 30))
    )
    run = RunTable(name="t", workspace=str(tmp_path))
    configs = [RunConfig(run=run, train=table) for table in (whole, little)]
    probed = [Predicted("train", 1, 50.0, 50.0, bytes=7, puts=3), Predicted("fit", 1, 1.0, 1.0)]
    train, fit = _with_training(*configs, probed)
    assert train.seconds == pytest.approx(50 + 160 * 0.2)
    assert train.start_seconds == pytest.approx(50 - 40 * 0.2)
    assert (train.bytes, train.puts, fit) == (7, 3, probed[1])


def test_where_no_block_is_left_the_first_ones_must_do():
    assert _rates(seen((12.0, "a"), (14.0, "b"))) == (4.0, 2.0)


@pytest.mark.parametrize(
    ("whole", "little", "gaps", "probe", "expected"),
    [
        # 30 evaluations in 6 s: 0.2 s each for the 160 left out
        ({"rounds": (0, 10, 30, 60, 100)}, {"rounds": (0, 10, 30)}, (6.0,), 9.0, 32.0),
        # 10 in 2.5 s, 30 in 3.5: 2 s a round and 0.05 an evaluation
        ({"rounds": (0, 10, 30, 60, 100)}, {"rounds": (0, 10, 30)}, (2.5, 3.5), 40.0, 12.0),
        # the second one was quicker: nothing but the last is known
        ({"rounds": (0, 10, 30, 60, 100)}, {"rounds": (0, 10, 30)}, (7.0, 6.0), 40.0, 32.0),
        # epochs of 2 s each, 8 left out
        ({"rounds": (), "epochs": 10}, {"rounds": (), "epochs": 2}, (2.0,), 5.0, 16.0),
        # both: 40 evaluations in what two epochs leave of 12 s, 60 left out, and 8 epochs
        (
            {"rounds": (0, 40, 60), "epochs": 10},
            {"rounds": (0, 40), "epochs": 2},
            (9.0, 2.0),
            12.0,
            28.0,
        ),
        ({"rounds": (0, 10)}, {"rounds": (0, 10)}, (1.0,), 2.0, 0.0),
        # a start of 100 s is none of the rounds': no evaluation costs more than an epoch
        (
            {"rounds": (0, 40, 60), "epochs": 3},
            {"rounds": (0, 40), "epochs": 2},
            (1.0,),
            102.0,
            61.0,
        ),
    ],
)
def test_the_rest_of_a_training_is_counted_by_its_steps(whole, little, gaps, probe, expected):
    tables = [TrainTable(labels=("teff",), catalog="a", **t) for t in (whole, little)]
    assert _left_out(*tables, gaps, probe) == pytest.approx(expected)


def test_cost_is_workers_for_their_time_storage_and_requests():
    one = Predicted("fit", 10, 1800.0, 0.0, bytes=2_000_000_000, puts=3000, gets=5000)
    prices = Prices(worker_hour=0.1, gb_month=0.02, put_1000=0.005, get_1000=0.001)
    assert one.cost(prices, 8) == pytest.approx(8 * 0.5 * 0.1 + 2 * 0.02 + 3 * 0.005 + 5 * 0.001)
    assert one.cost(Prices(), 8) == 0


def test_prices_are_read_as_they_are_typed():
    assert Prices.parse("worker_hour=0.05, get_1000=0.0004") == Prices(0.05, 0.0, 0.0, 0.0004)
    assert Prices.parse("") == Prices()
    for wrong in ("hour=1", "worker_hour=cheap", "worker_hour"):
        with pytest.raises(ConfigError, match="wanted as"):
            Prices.parse(wrong)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_probe_of_a_run_leaves_nothing_but_its_prediction(line, tmp_path):
    workspace = line.workspace(tmp_path)
    found = {one.stage: one for one in probe_run(workspace.config, engine="local")}
    assert {"ingest", "preprocess", "infer", "fit", "publish"} <= set(found)
    assert all(found[stage].blocks == 14 for stage in ("ingest", "preprocess", "infer", "fit"))
    work = tmp_path / "work"
    assert [path.name for path in work.iterdir() if path.is_file()] == [PREDICTION]
    assert not list((work / "probe").rglob("*.json"))
    assert run(workspace.config, engine="local").exit_code == 0
    assert workspace.digest() == line.digest
    there = [p for p in (work / "spectra").rglob("*") if "/c/" in str(p) and p.is_file()]
    stored = sum(p.stat().st_size for p in there)
    assert found["preprocess"].bytes == pytest.approx(stored, rel=0.1)
    compared = {stage: (predicted, took) for stage, predicted, took in compare(workspace.config)}
    assert {"ingest", "preprocess", "infer", "fit"} <= set(compared)
    print(json.dumps({stage: [round(x, 2) for x in pair] for stage, pair in compared.items()}))


def test_a_probe_asks_nothing_that_few_spectra_do_not_have():
    """Chosen stars may not be among them, nor pairs; what comes after is probed all the same."""
    tables = {
        "posterior": PosteriorTable(stars=(7,)),
        "calibrate": CalibrateTable(pairs=PairsTable(catalog="pairs.parquet")),
        "publish": PublishTable(),
    }
    asked = RunConfig(run=RunTable(name="t", workspace="w")).model_copy(update=tables)
    assert asked.stages() == ("posterior", "calibrate", "publish")
    assert _shortened(asked, 64).stages() == ("publish",)


@pytest.fixture
def asked(tmp_path, write_survey):
    """A run file to probe, and how it is changed."""
    write_survey(tmp_path / "files", 4)

    def make(**tables):
        run_table = RunTable(name="t", workspace=str(tmp_path / "w"), spectra_per_block=4)
        ingest = IngestTable(files=str(tmp_path / "files"))
        config = RunConfig(run=run_table, ingest=ingest, preprocess=PreprocessTable())
        return config.model_copy(update=tables)

    return make


NO_CHIP = {"method": "median", "chips": ((100.0, 200.0),)}


@pytest.mark.parametrize(
    "tables",
    [
        {"preprocess": PreprocessTable(continuum=NO_CHIP)},  # found when the stage begins
        {"preprocess": PreprocessTable(source="not/there.zarr")},  # found before any
        {"calibrate": CalibrateTable(pairs=PairsTable(catalog="pairs.parquet"))},  # not probed
    ],
)
def test_a_run_file_that_cannot_run_is_refused_by_the_probe_as_by_the_run(asked, tables):
    config = asked(**tables)
    with pytest.raises(ConfigError) as refused:
        run(config, engine="local")
    with pytest.raises(ConfigError) as probed:
        probe_run(config, engine="local")
    said = [str(error.value).rpartition(": ")[2] for error in (probed, refused)]
    assert said[0] == said[1]  # but for the folder
    assert not paths.exists(str(Path(config.run.workspace, PREDICTION)))


@pytest.mark.parametrize(
    ("error", "tables"),
    [
        (StageError("4 stars of training"), {}),
        (ConfigError("publish.columns: the catalog has no teff_cal"), {"posterior": 1}),
    ],
)
def test_what_the_probe_alone_cannot_do_is_a_warning(asked, monkeypatch, caplog, error, tables):
    def fail(*_, **__):
        raise error

    config = asked()
    monkeypatch.setattr("scalespec.probe.run", fail)
    _run_short(config.model_copy(update=tables), config, "local", None)
    assert str(error) in caplog.text


def test_a_run_without_a_prediction_is_compared_with_nothing(tmp_path, write_survey):
    from scalespec.config import IngestTable, RunConfig, RunTable

    config = RunConfig(
        run=RunTable(name="t", workspace=str(tmp_path / "w")),
        ingest=IngestTable(files=str(tmp_path / "f")),
    )
    assert compare(config) == []
    paths.write_bytes(str(tmp_path / "f" / "readme.txt"), b"no spectra")
    with pytest.raises(ConfigError, match="a probe wants"):
        probe_run(config)


def test_the_page_holds_the_prediction_against_the_run(tmp_path, monkeypatch):
    from scalespec.config import IngestTable, RunConfig, RunTable
    from scalespec.stages import costs
    from scalespec.store.ledger import write_json

    work = tmp_path / "w"
    config = RunConfig(
        run=RunTable(name="t", workspace=str(work)), ingest=IngestTable(files=str(tmp_path / "f"))
    )
    timing = {"stage": "fit", "seconds": 8.0, "rows": 80, "workers": 2}
    write_json(str(work / "best" / "timing.json"), timing)
    monkeypatch.setattr(costs, "stage_folders", lambda _: {"fit": str(work / "best")})
    assert "Prediction" not in costs.throughput(config)
    write_json(str(work / PREDICTION), {"workers": 2, "stages": [{"stage": "fit", "seconds": 10}]})
    assert compare(config) == [("fit", 10, 8.0)]
    html = costs.throughput(config)
    assert "Prediction" in html
    assert "25" in html.partition("Prediction")[2]  # per cent too long
