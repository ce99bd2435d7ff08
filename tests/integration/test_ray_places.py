"""A run on Ray ends though nodes die and actors find no place; long work is left in peace."""

import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
import ray

import scalespec.engines.ray as engine_room
from scalespec.config import RayTable
from scalespec.engines import places
from scalespec.engines.places import Place, await_places
from scalespec.engines.ray import RayEngine
from scalespec.errors import StageError
from tests.kits.ray_play import all_done, played, sleeping_stage, trained, until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def two():
    """A local Ray of two CPUs."""
    engine = RayEngine(RayTable(workers=2))
    yield engine
    engine.close()


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


def tries(folder):
    return Counter(int(path.name.split(".")[0]) for path in folder.iterdir())


def test_an_actor_without_a_place_keeps_no_blocks(two, tmp_path, hurry, caplog):
    with taken(1):
        reports = played(two, sleeping_stage(tmp_path, 12, 0.3), 30, lambda _: hurry())
    assert all_done(reports, 12)
    assert caplog.text.count("1 of 2 actors do not answer (no node has room now)") == 1
    assert "the run goes on with 1; Ray has 2 CPUs and 0 GPUs on 1 nodes" in caplog.text


def test_a_place_that_comes_free_is_taken(two, tmp_path):
    with taken(1):
        reports = two.map(stage := sleeping_stage(tmp_path, 300, 0.2), stage.blocks)
        first = [next(reports) for _ in range(4)]
    rest = []
    for report in reports:
        rest.append(report)
        if len({one.worker for one in rest}) == 2:
            (tmp_path / "enough").touch()
    assert all_done([*first, *rest], 300)
    assert len({report.worker for report in first}) == 1
    assert len({report.worker for report in rest}) == 2


def test_a_run_without_any_place_ends_and_says_what_it_wants(two, tmp_path, hurry, monkeypatch):
    monkeypatch.setattr(engine_room, "NOBODY_S", 2.0)
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

    def wake():  # the first waits for the second, however long an actor takes to start
        until(lambda: len(list(tmp_path.iterdir())) == 2, 40)
        (tmp_path / "enough").touch()

    waker = threading.Thread(target=wake)
    waker.start()
    reports = played(two, sleeping_stage(tmp_path, 2, 40.0))
    waker.join()
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
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [dead, *alive])
    assert Place(cpus, gpus).room() == fits


def test_a_stage_holds_the_gpus_that_it_asks_for_and_no_others(two, tmp_path, monkeypatch):
    """Here is none: one that computes on the processor runs, whatever the others hold."""
    monkeypatch.setattr(two, "_table", RayTable(workers=2, gpus_per_worker=1))
    assert all_done(played(two, sleeping_stage(tmp_path, 4, 0.0)), 4)
    said = "sleep: no node has room for an actor; .* 0 GPUs on 1 nodes, each wants 1 and 1 on one"
    with pytest.raises(StageError, match=said):
        played(two, sleeping_stage(tmp_path, 4, 0.0, gpus=1.0))


@pytest.mark.parametrize(
    ("asked", "room", "wants", "cures"),
    [
        ({"gpus_per_worker": 1}, 0, "1 and 1", "lower engine.ray.gpus_per_worker or "),
        ({}, 2, "1 and 0", ""),
    ],
    ids=["gpus", "cpus"],
)
def test_a_training_that_does_not_fit_is_refused_at_once(
    two, tmp_path, monkeypatch, asked, room, wants, cures
):
    """Nobody joins a Ray of one's own, so that no time is given to others."""
    monkeypatch.setattr(two, "_table", RayTable(workers=4, wait_seconds=600, **asked))
    with pytest.raises(StageError) as refused:
        trained(two, tmp_path, 20)
    assert str(refused.value) == (
        f"train: room for {room} of 4 workers; Ray has 2 CPUs and 0 GPUs on 1 nodes, each wants "
        f"{wants} on one node: add nodes or {cures}lower engine.ray.workers"
    )


def test_a_search_none_of_whose_trials_fits_is_refused_at_once(two, monkeypatch):
    monkeypatch.setattr(two, "_table", RayTable(workers=2, gpus_per_worker=1))
    with pytest.raises(StageError, match=r"tries: room for 0 of 1 workers; Ray has .* 0 GPUs"):
        two.search("tries", 2, float)


def test_a_training_waits_for_others_to_leave_and_says_so(two, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(places, "NOBODY_S", 3.0)
    monkeypatch.setattr(places, "LOOK_S", 0.0)
    said = "train: room for 2 of 2 workers, which others hold after [3-9] s; Ray has 2 CPUs"
    with taken(1), pytest.raises(StageError, match=said):
        trained(two, tmp_path, 30)
    assert (
        caplog.text.count("train: room for 2 of 2 workers, which others hold, waits up to 3 s") == 1
    )


def test_places_that_come_free_while_a_training_waits_are_taken(two):
    """And let go of: they are for Ray Train to take."""
    with taken(1):
        waiting = threading.Thread(target=await_places, args=("train", Place(), 2, two._table))
        waiting.start()
        time.sleep(2)
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive()
    until(lambda: ray.available_resources().get("CPU", 0) == 2)
    assert ray.available_resources()["CPU"] == 2
