"""What scaling.py says of a run: counted and timed as it should be."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from scripts import loaded

from scalespec.plan import Block, BlockReport, BlockResult, Stage, plan_blocks
from scalespec.run import Progress

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def scaling():
    pytest.importorskip("psutil")
    with loaded(PATH) as module:
        yield module


def ended(watch, *workers):
    for i, worker in enumerate(workers):
        report = BlockReport(Block("spectrum", i, i, i + 1), BlockResult(1, {}), "", 1.0, worker)
        watch(Progress("fit", 9, 0, report))


def test_workers_are_warm_when_the_last_has_ended_its_first_block(scaling):
    watch = scaling.Watch(stop_after=5)
    watch(Progress("fit", 9, 0))
    ended(watch, "a", "a", "b", "a")
    assert (watch.warm(), len(watch.ends), watch.stop()) == (3, 4, False)
    ended(watch, "c")
    assert (watch.warm(), watch.stop()) == (5, True)
    assert watch.ends == sorted(watch.ends)
    assert min(watch.first_cost) > 0


def test_rows_of_the_same_kind_are_replaced(scaling, tmp_path):
    file = tmp_path / "s.json"
    one = {"what": "stage", "stage": "fit", "engine": "ray", "workers": 1, "kind": "strong", "x": 1}
    two, noop = one | {"workers": 2}, {"what": "no-op blocks", "engine": "dask"}
    assert scaling.merged(file, [one]) == [one]
    file.write_text(json.dumps({"rows": [one, two, noop]}))
    assert scaling.merged(file, [two | {"x": 5}]) == [one, noop, two | {"x": 5}]


def test_what_a_stage_computes_alone_is_timed_without_its_reading(scaling, monkeypatch):
    """Reading is ten times as slow as computing here, and the first call as slow as ten."""
    calls = []

    def compute(made, data):
        assert made == "model"
        time.sleep(0.1 if not calls else 0.01)
        calls.append(data)

    def read(block):
        time.sleep(0.1)
        return block.index

    stage = Stage(
        name="fit", url="", blocks=plan_blocks(400, 100), read=read, compute=compute,
        write=None, setup=lambda: "model", runs_on="ray",
    )  # fmt: skip
    monkeypatch.setattr(scaling, "load_config", lambda _: None)
    monkeypatch.setattr(scaling, "first_stage", lambda *_: stage)
    rates = []
    queue, nobody = SimpleNamespace(put=rates.append), SimpleNamespace(wait=lambda: None)
    scaling.computed("", "fit", nobody, queue)
    assert calls == [0, 0, 1, 2, 3]
    assert 909 < rates[0] <= 10_000  # with its reading; 100 spectra in 0.01 s


def test_two_drivers_do_all_no_op_blocks_once_and_say_what_they_cost(scaling):
    arguments = argparse.Namespace(engine="local", blocks=600, single=False)
    (row,) = scaling.noop(arguments)  # asserts that none is left and none was done twice
    assert (row["what"], row["engine"], row["blocks"]) == ("no-op blocks", "local", 600)
    assert 0 < row["driver_cpu_ms_per_block"] < 50
    assert 0 < row["overhead_ms_per_block"] < 1000 * row["resume_first_block_s"]
    assert 20 < row["driver_peak_mb"] < 1000


def test_a_driver_stops_in_the_middle_and_the_next_one_goes_on(tmp_path):
    def drive(*more):
        command = [sys.executable, PATH, "driver", tmp_path, "--engine", "local", "--began", "0"]
        command += ["--blocks", "40", *more]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        return len(list((tmp_path / "noop" / "0" / "commits").iterdir()))

    assert drive("--stop-after", "10") == 12  # calls of four
    assert drive() == 40


def test_what_a_stage_stored_is_left_out_of_the_copy_that_is_timed(scaling):
    names = ["commits", "parts", "c", "index", "failed", "zarr.json", "model.json"]
    assert set(names) - set(scaling._without_results("", names)) == {"zarr.json", "model.json"}
