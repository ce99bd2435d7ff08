"""SIGKILL in the middle of a stage: no row is lost or doubled, and the catalog stays the same."""

import pytest

N_BLOCKS = 14
WORKER = {"dask": "multiprocessing.spawn", "ray": "ray::_Actor"}
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own; they hold no data, and end by themselves half a minute after their node."""

DASK, RAY = pytest.mark.dask, pytest.mark.ray


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


@pytest.mark.dask
def test_a_run_survives_a_killed_dask_worker(line, tmp_path):
    kill_worker(line, line.workspace(tmp_path, "spectra"), "dask", "spectra", 2)


@pytest.mark.ray
def test_a_run_survives_a_killed_ray_actor(line, tmp_path):
    kill_worker(line, line.workspace(tmp_path, "first"), "ray", "first", 2)


@pytest.mark.dask
def test_a_run_goes_on_after_its_driver_was_killed_among_dask_workers(line, tmp_path):
    kill_driver(line, line.workspace(tmp_path), ["--engine", "dask"], "raw", 2)


@pytest.mark.ray
def test_a_run_goes_on_after_its_driver_was_killed_among_ray_actors(line, tmp_path):
    kill_driver(line, line.workspace(tmp_path, "best"), ["--engine", "ray"], "best", 2)
