"""Runs on a Ray whose nodes come and go; each test starts its own."""

import threading
from contextlib import contextmanager

import pytest
import ray
from ray.cluster_utils import Cluster

from scalespec.config import RayTable
from scalespec.engines import ray_training
from scalespec.engines.ray import RayEngine
from scalespec.errors import StageError
from tests.kits.ray_play import all_done, played, sleeping_stage, trained, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NODE = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
SOON = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
"""After how many pings without an answer a node is dead: seconds, not half a minute."""


@contextmanager
def cluster(**head):
    """One node; more may join. What a dying node dumps into stderr is Ray's."""
    made = Cluster(initialize_head=True, head_node_args={**NODE, **head})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_run_ends_when_one_of_its_nodes_dies(tmp_path, hurry, caplog):
    dying = []

    def die(reports):
        if len({report.worker for report in reports}) == 2 and not dying:
            hurry()
            dying.append(threading.Thread(target=nodes.remove_node, args=(second, False)))
            dying[0].start()

    with cluster(num_cpus=1, _system_config=SOON) as nodes:
        second = nodes.add_node(num_cpus=1, **NODE)
        nodes.wait_for_nodes()
        engine = RayEngine(RayTable(address=nodes.address, workers=2))
        reports = played(engine, sleeping_stage(tmp_path, 30, 0.5), 60, die)
        dying[0].join()
    assert all_done(reports, 30)
    assert caplog.text.count("1 of 2 actors do not answer") == 1


def test_actors_that_share_gpus_are_as_many_as_fit_on_one_each(tmp_path):
    with cluster(num_cpus=4, num_gpus=2) as nodes:
        engine = RayEngine(RayTable(address=nodes.address, workers=3))
        stage = sleeping_stage(tmp_path, 12, 0.1, gpus=0.6)
        assert engine._fitting(stage) == 2
        assert all_done(played(engine, stage, 30), 12)


def test_a_training_waits_for_nodes_that_join_as_long_as_the_run_file_says(tmp_path, caplog):
    with cluster(num_cpus=1) as nodes:
        table = RayTable(address=nodes.address, workers=2)
        engine = RayEngine(table)
        with pytest.raises(StageError, match=r"1 of 2 workers; .*raise engine.ray.wait_seconds"):
            trained(engine, tmp_path, 20)
        engine._table = table.model_copy(update={"wait_seconds": 2.0})
        with pytest.raises(StageError, match=r"train: room for 1 of 2 workers after [2-9] s; "):
            trained(engine, tmp_path, 20)
        engine._table = table.model_copy(update={"wait_seconds": 60.0})
        caplog.clear()

        def join():
            until(lambda: "waits up to 60 s" in caplog.text)
            nodes.add_node(num_cpus=1, **NODE)

        assert trained(engine, tmp_path, 120, meanwhile=join) == ["0-of-2", "1-of-2"]
    assert (
        caplog.text.count("train: room for 1 of 2 workers, waits up to 60 s; Ray has 1 CPUs") == 1
    )


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_training_whose_node_dies_waits_for_another_but_not_for_ever(
    tmp_path, monkeypatch, caplog, comes_back
):
    monkeypatch.setattr(ray_training, "LOOK_S", 0.5)
    monkeypatch.setattr(ray_training, "STARTS", 100 if comes_back else 2)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")

    def die():
        until(lambda: len(list(tmp_path.iterdir())) == 2, 60)
        nodes.remove_node(second, False)
        until(lambda: "some of whose nodes are gone" in caplog.text, 60)
        if comes_back:
            nodes.add_node(num_cpus=1, **NODE)

    with cluster(num_cpus=1, _system_config=SOON) as nodes:
        second = nodes.add_node(num_cpus=1, **NODE)
        nodes.wait_for_nodes()
        engine = RayEngine(RayTable(address=nodes.address, workers=2))
        if comes_back:
            assert trained(engine, tmp_path, 150, 15, die) == ["0-of-2", "1-of-2"]
            assert len(list(tmp_path.iterdir())) >= 4
        else:
            said = "train: The worker group startup timed out after 3.0 .*; Ray has 1 CPUs"
            with pytest.raises(StageError, match=said):
                trained(engine, tmp_path, 150, 15, die)
    assert caplog.text.count("train wants 2 workers, some of whose nodes are gone") == 1
