"""Joining a cluster: by what its own environment says, when its workers are there, lightly."""

import pickle
from functools import partial

import pytest

from scalespec.config import DaskTable, RayTable
from scalespec.engines import worker
from scalespec.engines.dask import DaskEngine
from scalespec.engines.worker import await_workers, light
from scalespec.errors import StageError
from scalespec.plan import Stage, plan_blocks


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(worker, "PAUSE_S", 0.001)


def test_a_run_waits_until_as_many_workers_as_it_wants_have_joined(caplog):
    joined = iter([0, 1, 3, 4])
    await_workers(DaskTable(workers=4, wait_seconds=30), partial(next, joined), "it")
    assert next(joined, "no more was asked") == "no more was asked"
    assert caplog.text == ""


def test_a_run_goes_on_with_those_that_are_there_and_says_so(caplog):
    await_workers(RayTable(workers=4, wait_seconds=0.01), lambda: 3, "the cluster")
    assert "the cluster has 3 workers, the run file wants 4" in caplog.text


def test_auto_wants_the_clusters_own_environment(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    with pytest.raises(StageError, match="wants DASK_SCHEDULER_ADDRESS"):
        DaskEngine(DaskTable(address="auto"))


def test_a_call_does_not_carry_the_list_of_all_blocks():
    """25,000 of them with every call were 50 ms a block."""
    stage = Stage("s", "u", plan_blocks(25_000 * 8, 8), print, print, print, "dask")
    assert len(pickle.dumps(stage)) > 500_000
    assert len(pickle.dumps(light(stage))) < 1_000
    assert len(stage.blocks) == 25_000
