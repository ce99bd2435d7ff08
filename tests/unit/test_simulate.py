"""The simulated cluster, against closed forms of what it is made of."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripts import loaded

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "simulate.py"
NOTHING = (0.0, 0.0, 0, 0)


@pytest.fixture(scope="module")
def simulate():
    pytest.importorskip("simpy")
    with loaded(PATH) as module:
        yield module


def wall(simulate, site, seconds, blocks, workers, traffic=NOTHING):
    """Run it; seconds until the last block is done, and what is said of it."""
    run = simulate.Run(site, simulate.Traffic(*traffic), np.array(seconds), blocks, workers)
    row = run.row()
    return run.env.now, row


@pytest.mark.parametrize(("blocks", "workers"), [(1, 1), (12, 4), (13, 4), (3, 8)])
def test_equal_blocks_take_as_many_turns_as_their_workers_need(simulate, blocks, workers):
    took, row = wall(simulate, simulate.IDEAL, [2.0], blocks, workers)
    assert took == pytest.approx(2.0 * math.ceil(blocks / workers))
    assert row["efficiency"] == pytest.approx(blocks / workers / math.ceil(blocks / workers), 0.01)
    assert row["limit"] == ("blocks" if blocks < workers else "workers")


def test_the_start_and_the_listing_come_before_everything(simulate):
    site = replace(simulate.IDEAL, start_s=30.0, list_s_per_1000=0.5)
    took, row = wall(simulate, site, [1.0], 2000, 1000)
    assert took == pytest.approx(30 + 1 + 2)
    assert row["limit"] == "start"


def throughput(think, serve, n):
    """Of n workers that think and one server, both exponential: mean value analysis."""
    waiting = 0.0
    for m in range(1, n + 1):
        answer = serve * (1 + waiting)
        rate = m / (think + answer)
        waiting = rate * answer
    return rate


@pytest.mark.parametrize("who", ["driver", "scheduler"])
@pytest.mark.parametrize("workers", [5, 40, 200])
def test_one_driver_serves_many_workers_as_queueing_theory_says(simulate, who, workers):
    """Service of equal length is between the same with exponential service and no waiting at all.

    Blocks of exponential length, 4 s in the mean, and 50 ms each: 80 workers are all one can serve.
    """
    think, serve, blocks = 4.0, 0.05, 8000
    seconds = np.random.default_rng(3).exponential(think, 20_000)
    site = replace(simulate.IDEAL, **{f"{who}_ms": serve * 1000})
    took, row = wall(simulate, site, seconds, blocks, workers)
    least, most = throughput(think, serve, workers), min(workers / (think + serve), 1 / serve)
    full = took - think * math.log(workers)  # the last blocks run with ever fewer workers
    assert 0.97 * least < blocks / full < 1.03 * most
    assert (row["limit"] == who) == (workers == 200)
    assert row[who] == pytest.approx(blocks * serve / took, abs=1e-3)


@pytest.mark.parametrize("workers", [4, 64])
def test_the_store_gives_what_it_has_and_a_stream_no_more_than_it_can(simulate, workers):
    """41 kB a spectrum, 100 MB/s a stream, 1 GB/s in all: ten can read at once."""
    site = replace(simulate.IDEAL, stream_mb_s=100.0, store_gb_s=1.0)
    took, row = wall(simulate, site, [0.0], 640, workers, (41.0, 0.0, 0, 0))
    bytes_read = 640 * 4096 * 41_000
    assert bytes_read / took == pytest.approx(min(workers * 100e6, 1e9), rel=0.02)
    assert (row["limit"] == "store") == (workers == 64)


def test_requests_are_bounded_by_worker_and_by_store(simulate):
    """4,096 files, 30 ms and 32 at a time: 3.84 s a block; 10,000/s in all: 0.41 s a block."""
    site = replace(simulate.IDEAL, stream_mb_s=1e12, store_gb_s=1e12, request_ms=30.0)
    took, _ = wall(simulate, site, [0.0], 10, 1, (0.0, 0.0, 4096, 0))
    assert took == pytest.approx(10 * 4096 * 0.030 / 32)
    site = replace(site, requests_per_s=10_000.0)
    took, row = wall(simulate, site, [0.0], 500, 100, (0.0, 0.0, 4096, 0))
    assert took == pytest.approx(500 * 0.4096, rel=0.03)
    assert row["limit"] == "requests"


def test_stragglers_cost_their_share(simulate):
    site = replace(simulate.IDEAL, straggle=0.1, slower=5.0)
    took, _ = wall(simulate, site, [1.0], 20_000, 10)
    # a tenth five times as long: 1.4 s in the mean, sigma 1.2 s / sqrt(20,000)
    assert took == pytest.approx(20_000 * 1.4 / 10, rel=0.02)


def test_workers_die_as_often_as_they_should_and_no_block_is_lost(simulate):
    """Lives of an hour in the mean, 20,000 blocks of 18 s on 50 workers: about a hundred deaths."""
    site = replace(simulate.IDEAL, mean_life_h=1.0, start_s=60.0)
    took, row = wall(simulate, site, [18.0], 20_000, 50)
    expected = 20_000 * 18 / 3600
    assert abs(row["redone"] - expected) < 4 * math.sqrt(expected)
    assert took == pytest.approx(60 + (20_000 * 18 + row["redone"] * 78) / 50, rel=0.01)


def test_the_first_block_of_a_worker_is_no_measure(simulate, tmp_path):
    def line(stage, worker, seconds, ok=True, stop=2048):
        facts = {"event": "block", "stage": stage, "worker": worker, "seconds": seconds, "ok": ok}
        return json.dumps(facts | {"start": 0, "stop": stop})

    log = tmp_path / "run.jsonl"
    lines = [json.dumps({"event": "stage", "stage": "fit", "blocks": 9})]
    lines += [line("fit", "a", 9.0), line("fit", "b", 8.0), line("fit", "a", 1.0)]
    lines += [line("fit", "b", 1.5, stop=4096), line("fit", "b", 7.0, ok=False)]
    lines += [line("train library", "a", 1.0)] * 2
    log.write_text("\n".join(lines))
    (only,) = simulate.measured(log).items()
    assert only[0] == "fit"
    assert only[1].tolist() == [2.0, 1.5]


def test_what_was_measured_is_simulated_and_compared(simulate):
    common = {"what": "stage", "stage": "fit", "engine": "ray", "kind": "strong"}
    one = common | {"workers": 1, "rows": 1280, "blocks": 10, "spectra_per_s": 64.0}
    two = common | {"workers": 2, "rows": 1280, "blocks": 10, "spectra_per_s": 100.0}
    rows = [one | {"block_s": [2.0] * 9}, two | {"block_s": [2.5] * 8}]
    rows.append({"what": "no-op blocks, one a call", "engine": "ray"})
    found = {row["workers"]: row for row in simulate.compared(rows)}
    assert found[1]["simulated"] == 64.0  # 128 spectra in 2 s
    assert found[2]["simulated"] == 128.0
    assert found[2]["error"] == pytest.approx(0.28)


def test_overheads_are_those_of_single_blocks(simulate):
    costs = {"driver_cpu_ms_per_block": 1.0, "scheduler_cpu_ms_per_block": 3.0}
    rows = [
        {"what": "no-op blocks, one a call", "engine": "dask"} | costs,
        {"what": "no-op blocks", "engine": "dask"} | dict.fromkeys(costs, 0.1),
    ]
    assert simulate.overhead(rows) == {"dask": {"driver_ms": 1.0, "scheduler_ms": 3.0}}
