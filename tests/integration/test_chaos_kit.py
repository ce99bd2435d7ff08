"""What kills at random, and what judges the outcome, does as it says: else no kill would count."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from drivers import Drivers

from scalespec import __version__

TESTS = Path(__file__).resolve().parents[1]
WRITES = "import sys; from scalespec.store import paths; paths.write_bytes(sys.argv[1], b'x')"


@pytest.fixture(scope="module")
def chaos():
    path = TESTS.parent / "benchmarks" / "chaos.py"
    before = sys.path.copy()
    module = importlib.util.module_from_spec(
        spec := importlib.util.spec_from_file_location("chaos_benchmark", path)
    )
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def surrounded(folder, **settings):
    kit = os.pathsep.join([str(TESTS / "kits" / "chaos"), str(TESTS.parent)])
    return os.environ | {"PYTHONPATH": kit, "CHAOS_LOG": str(folder / "kills.log")} | settings


def test_processes_die_where_they_should_as_often_as_they_should_and_no_more(tmp_path):
    most = [r"^worker .*/a\W=2", r"^driver .*/b\W=1"]
    env = surrounded(tmp_path, CHAOS_RATE="1", CHAOS_MOST="\n".join(most))

    def died(name):
        command = [sys.executable, "-c", WRITES, f"{tmp_path}/{name}"]
        return subprocess.run(command, env=env, check=False).returncode

    assert [died(name) for name in ("b/x", "a/x", "a/x", "a/x")] == [0, -9, -9, 0]
    assert (tmp_path / "a" / "x").read_bytes() == b"x"
    kills = (tmp_path / "kills.log").read_text().splitlines()
    assert [kill.split()[:3] for kill in kills] == [["worker", "before", "put"]] * 2


def test_a_process_dies_at_the_moment_that_was_chosen(tmp_path):
    env = surrounded(tmp_path, CHAOS_AT=r"after put /a\W")
    command = [sys.executable, "-c", WRITES, f"{tmp_path}/a/x"]
    assert subprocess.run(command, env=env, check=False).returncode == -9
    assert (tmp_path / "a" / "x").read_bytes() == b"x"  # it was written before
    assert subprocess.run(command, env=env, check=False).returncode == 0  # one kill is all


@pytest.mark.slow  # test_chaos kills and revives such drivers every day
def test_forked_drivers_are_drivers(tmp_path):
    (tmp_path / "run.toml").write_text('[run]\nname = "t"\n')
    env = surrounded(tmp_path, CHAOS_AT="before put run.json")
    env["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    with Drivers(env, "local", 60.0) as drivers:
        code, said = drivers.call(tmp_path / "0.log", "--version")
        assert (code, __version__ in said) == (0, True)
        code, said = drivers.call(tmp_path / "1.log", "run", tmp_path / "run.toml")
        assert (code, "run.toml" in said) == (2, True)
        (tmp_path / "run.toml").write_text(
            f'[run]\nname = "t"\nworkspace = "{tmp_path}/work"\n[ingest]\nfiles = "{tmp_path}"\n'
        )
        code, _ = drivers.call(tmp_path / "2.log", "run", tmp_path / "run.toml")
        assert code == -9
    (kill,) = (tmp_path / "kills.log").read_text().splitlines()
    assert kill.startswith("driver before put")


def test_every_share_of_the_kills_makes_what_was_asked_for(chaos, tmp_path):
    kills = 0
    for engine, (drivers, workers) in chaos.SHARES.items():
        env = chaos.surroundings(tmp_path / "kills.log", engine, 200, 0.1)
        numbers = [int(line.rpartition("=")[2]) for line in env["CHAOS_MOST"].splitlines()]
        assert sum(numbers) == len(chaos.STAGES) * (drivers + workers)
        kills += sum(numbers)
    assert kills >= 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, False),
        ({"lost": 1}, True),
        ({"doubled": 1}, True),
        ({"identical": False}, True),
        ({"problems": 2}, True),
        ({"stages": {"ingest": 9}}, True),
    ],
)
def test_a_run_is_judged_by_its_catalog_and_by_where_it_was_killed(chaos, change, said):
    row = {"lost": 0, "doubled": 0, "identical": True, "problems": 0}
    row["stages"] = dict.fromkeys(chaos.STAGES, 1)
    assert chaos.wrong(row | change) == said


@pytest.mark.parametrize(
    ("kill", "stage"),
    [
        ('driver before list S3Store(bucket="b", prefix="c/files")/None', "listing"),
        ("worker after list LocalStore(/tmp/work/plan/0a/segments)/None", "listing"),
        ('worker before put S3Store(bucket="b")/c/work/first/0a/parts/0.parquet', "infer"),
        ("driver before close /tmp/work/catalog/0a/catalog.fits", "publish"),
    ],
)
def test_a_kill_is_of_the_stage_whose_folder_it_was_at(chaos, kill, stage):
    assert chaos.stage_of(kill) == stage
