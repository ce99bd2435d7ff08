"""A run on Ray ends though nodes die and actors find no place; long work is left in peace."""

import os
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
import ray
from ray.cluster_utils import Cluster

import scalespec.engines.ray as engine_room
from scalespec.config import RayTable
from scalespec.engines.ray import RayEngine
from scalespec.errors import StageError
from scalespec.plan import BlockResult, Stage, plan_blocks

pytestmark = pytest.mark.ray
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


@pytest.fixture(scope="module")
def two():
    """A local Ray of two CPUs."""
    engine = RayEngine(RayTable(workers=2))
    yield engine
    engine.close()


@pytest.fixture
def hurry(monkeypatch):
    """A function after which an actor that does not answer within a second is missing."""

    def hurry():
        monkeypatch.setattr(engine_room, "LOOK_S", 0.2, raising=False)
        monkeypatch.setattr(engine_room, "START_S", 1.0, raising=False)

    return hurry


@contextmanager
def taken(cpus):
    """Somebody else's actors, on so many CPUs."""

    class Other:
        def here(self):
            return True

    until(lambda: ray.available_resources().get("CPU", 0) == 2)
    others = [ray.remote(num_cpus=1)(Other).remote() for _ in range(cpus)]
    ray.get([other.here.remote() for other in others])
    try:
        yield
    finally:
        for other in others:
            ray.kill(other)


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)


def sleeping_stage(folder, n, seconds, **fields):
    """Blocks that sleep, and leave a file each time that they are tried."""

    def compute(_, block):
        (folder / f"{block.index}.{os.getpid()}.{time.monotonic_ns()}").touch()
        time.sleep(seconds)
        return block

    def write(block, _):
        return BlockResult(block.size, {}, {"pid": os.getpid()})

    blocks = plan_blocks(n, 1)
    return Stage("sleep", str(folder), blocks, lambda b: b, compute, write, "ray", **fields)


def played(engine, stage, within=60, after=lambda reports: None):
    """Map a stage in a thread, so that one that never ends is seen; return its reports."""
    reports, errors = [], []

    def play():
        try:
            for report in engine.map(stage, stage.blocks):
                reports.append(report)
                after(reports)
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    thread.join(within)
    assert not thread.is_alive(), f"not ended after {len(reports)} of {len(stage.blocks)} reports"
    if errors:
        raise errors[0]
    return reports


def all_done(reports, n):
    return sorted(r.block.index for r in reports if r.ok) == list(range(n)) and len(reports) == n


def tries(folder):
    return Counter(int(path.name.split(".")[0]) for path in folder.iterdir())


@pytest.mark.slow  # Ray takes a node for dead after seconds, and two nodes start
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


@pytest.mark.slow  # a Ray of its own; how many fit is counted below, too
def test_actors_that_share_gpus_are_as_many_as_fit_on_one_each(tmp_path):
    with cluster(num_cpus=4, num_gpus=2) as nodes:
        engine = RayEngine(RayTable(address=nodes.address, workers=3, gpus_per_worker=0.6))
        stage = sleeping_stage(tmp_path, 12, 0.1)
        assert engine._fitting(stage) == 2
        assert all_done(played(engine, stage, 30), 12)


def test_an_actor_without_a_place_keeps_no_blocks(two, tmp_path, hurry, caplog):
    with taken(1):
        reports = played(two, sleeping_stage(tmp_path, 12, 0.3), 30, lambda _: hurry())
    assert all_done(reports, 12)
    assert caplog.text.count("1 of 2 actors do not answer (no node has room now)") == 1
    assert "the run goes on with 1; Ray has 2 CPUs and 0 GPUs on 1 nodes" in caplog.text


def test_a_place_that_comes_free_is_taken(two, tmp_path):
    with taken(1):
        reports = two.map(stage := sleeping_stage(tmp_path, 30, 0.2), stage.blocks)
        first = [next(reports) for _ in range(4)]
    rest = list(reports)
    assert all_done([*first, *rest], 30)
    assert len({report.worker for report in first}) == 1
    assert len({report.worker for report in rest}) == 2


def test_a_run_without_any_place_ends_and_says_what_it_wants(two, tmp_path, hurry, monkeypatch):
    monkeypatch.setattr(engine_room, "NOBODY_S", 2.0, raising=False)
    hurry()
    said = (
        r"sleep: for [2-9] s none of 2 actors has answered \(no node has room now\); Ray has 2 CPUs"
    )
    with taken(2), pytest.raises(StageError, match=said):
        played(two, sleeping_stage(tmp_path, 4, 0.0), 30)


def test_a_long_block_is_not_taken_from_an_actor_that_lives(two, tmp_path, hurry):
    """It lasts longer than anything else that is waited for."""
    hurry()
    assert all_done(played(two, sleeping_stage(tmp_path, 3, 2.0)), 3)
    assert tries(tmp_path) == Counter(range(3))


def test_few_calls_are_shared_among_all_actors(two, tmp_path):
    reports = played(two, sleeping_stage(tmp_path, 2, 3.0))
    assert len({report.worker for report in reports}) == 2


def test_an_actor_that_does_not_fit_any_node_is_said(two, tmp_path):
    with pytest.raises(StageError, match="sleep: no node has room for an actor; Ray has 2 CPUs"):
        played(two, sleeping_stage(tmp_path, 4, 0.0, cpus=3.0))


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "fits"),
    [
        ([{"CPU": 4, "GPU": 2}], 1, 0.6, 2),  # one on each GPU, not int(2 / 0.6)
        ([{"CPU": 9, "GPU": 2}], 1, 0.4, 4),  # two on each
        ([{"CPU": 99, "GPU": 1}], 1, 0.1, 10),
        ([{"CPU": 4, "GPU": 1}] * 3, 1, 2, 0),  # three GPUs, no two together
        ([{"CPU": 9, "GPU": 4}, {"CPU": 1, "GPU": 4}], 1, 1, 5),  # GPUs without CPUs
        ([{"CPU": 3}, {"CPU": 3}], 2, 0, 2),  # not int(6 / 2)
        ([{"CPU": 0.3}], 0.1, 0, 3),  # 0.3 / 0.1 is below three
        ([{"memory": 1.0}], 1, 0, 0),  # a head that runs nothing
    ],
)
def test_room_is_counted_node_by_node(monkeypatch, nodes, cpus, gpus, fits):
    engine = RayEngine.__new__(RayEngine)
    engine._table = RayTable(gpus_per_worker=gpus)
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [dead, *alive])
    assert engine._room(cpus) == fits
