"""SIGKILL in the middle of a stage: no row is lost or doubled, and the catalog stays the same."""

import json
import time

import numpy as np
import pytest

N_BLOCKS = 14
WORKER = {"dask": "multiprocessing.spawn", "ray": "ray::_Actor"}
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own; they hold no data, and end by themselves half a minute after their node."""


def kill_worker(line, workspace, engine, stage, after):
    """Run; SIGKILL a worker once so many blocks of a stage are there; the run ends by itself."""
    with workspace.start("run", "--engine", engine) as run:
        run.until(lambda: len(workspace.commits(stage)) >= after)
        run.worker(WORKER[engine]).kill()
        assert len(workspace.commits(stage)) < N_BLOCKS
        assert run.ended() == 0, run.said
        assert run.left_after(60) == []
    assert workspace.digest() == line.digest
    assert workspace.problems() == []


def kill_driver(line, workspace, args, stage, after):
    """Run; SIGKILL the driver once so many blocks of a stage are there; run again."""
    with workspace.start("run", *args) as run:
        run.until(lambda: len(workspace.commits(stage)) >= after)
        run.kill()
        assert run.left_after(20, but=AGENTS) == []
        there = {path: path.read_bytes() for path in workspace.commits(stage)}
        assert after <= len(there) < N_BLOCKS
        code, said = workspace.call("run", *args)
        assert code == 0, said
        assert run.left_after(60) == []
    assert {path: path.read_bytes() for path in there} == there  # none of them was done again
    assert workspace.digest() == line.digest
    assert workspace.problems() == []


@pytest.mark.slow  # workers of both engines are killed in test_engines, every day
@pytest.mark.dask
def test_a_run_survives_a_killed_dask_worker(line, tmp_path):
    kill_worker(line, line.workspace(tmp_path, "spectra"), "dask", "spectra", 2)


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_survives_a_killed_ray_actor(line, tmp_path):
    kill_worker(line, line.workspace(tmp_path, "first"), "ray", "first", 2)


@pytest.mark.slow  # what a driver's death leaves is in test_chaos, every day
@pytest.mark.dask
def test_a_run_goes_on_after_its_driver_was_killed_among_dask_workers(line, tmp_path):
    kill_driver(line, line.workspace(tmp_path), ["--engine", "dask"], "raw", 2)


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_goes_on_after_its_driver_was_killed_among_ray_actors(line, tmp_path):
    kill_driver(line, line.workspace(tmp_path, "best"), ["--engine", "ray"], "best", 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.dask
@pytest.mark.ray
@pytest.mark.parametrize("victim", ["driver", "dask", "ray"])
@pytest.mark.parametrize("number", range(3))
def test_kills_at_random_times_in_random_stages_cost_nothing(line, tmp_path, victim, number):
    rng = np.random.default_rng(time.time_ns())
    stages = {"dask": ["raw", "spectra", "catalog"], "ray": ["first", "best"]}
    stage = rng.choice(stages.get(victim, [name for names in stages.values() for name in names]))
    after = int(rng.integers(1, N_BLOCKS - 4))
    print(f"{victim} after {after} blocks of {stage}")
    workspace = line.workspace(tmp_path, "" if stage == "raw" else stage)
    if victim == "driver":
        kill_driver(line, workspace, [], stage, after)
    else:
        kill_worker(line, workspace, victim, stage, after)


ROUNDS = [0, *[10] * 20]
"""Of a training: each is kept."""


def checkpoints(workspace):
    """What a training that is not over has kept so far."""
    assert not (workspace.model() / "model.json").exists()
    return sorted(workspace.model().glob("checkpoints/*.json"))


def history(workspace):
    """What the trained model says of its training."""
    return json.loads((workspace.model() / "model.json").read_text())["metadata"]["history"]


@pytest.mark.slow
@pytest.mark.ray
def test_training_survives_a_killed_worker(line, tmp_path):
    workspace = line.training(tmp_path, rounds=ROUNDS, epochs=0, workers=2)
    with workspace.start("train", "--engine", "ray") as run:
        run.until(lambda: len(checkpoints(workspace)) >= 2)
        run.worker("ray::RayTrainWorker").kill()
        assert checkpoints(workspace)
        assert run.ended() == 0, run.said
        assert run.left_after(60) == []
    assert [entry["step"] for entry in history(workspace)] == list(range(len(ROUNDS)))
    assert_as_good_as_undisturbed(line, tmp_path, workspace)


def assert_as_good_as_undisturbed(line, tmp_path, workspace):
    """The killed training of two workers ends where one worker's, left alone, does."""
    alone = line.training(tmp_path / "alone", rounds=ROUNDS, epochs=0, workers=1)
    code, said = alone.call("train", "--engine", "local")
    assert code == 0, said
    best = [min(one["validation_rms"] for one in history(made)) for made in (workspace, alone)]
    # The same sums in another order: two searches that differ by rounding end as good.
    assert best[0] == pytest.approx(best[1], rel=0.3)


@pytest.mark.slow
@pytest.mark.ray
def test_training_goes_on_from_its_checkpoint_after_its_driver_was_killed(line, tmp_path):
    workspace = line.training(tmp_path, rounds=ROUNDS, epochs=0, workers=2)
    with workspace.start("train", "--engine", "ray") as run:
        run.until(lambda: len(checkpoints(workspace)) >= 2)
        run.kill()
        assert run.left_after(20, but=AGENTS) == []
    newest = checkpoints(workspace)[-1]
    record = json.loads(newest.read_text())
    record["meta"]["history"][0]["mark"] = 1.0  # only who goes on from here can know of it
    newest.write_text(json.dumps(record))
    code, said = workspace.call("train", "--engine", "ray")
    assert code == 0, said
    assert [entry["step"] for entry in history(workspace)] == list(range(len(ROUNDS)))
    assert history(workspace)[0]["mark"] == 1.0
    assert_as_good_as_undisturbed(line, tmp_path, workspace)
