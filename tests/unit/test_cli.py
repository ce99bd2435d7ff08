"""The commands as a user has them: what they say, and the codes they end with."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from scalespec.cli import main
from scalespec.config import STAGES, load_config
from scalespec.plan import Training
from scalespec.run import Summary
from scalespec.stages import VERBS, folders
from scalespec.store.ledger import Ledger

RUN_FILE = """
[run]
name = "test"
workspace = "work"
spectra_per_block = 4
[ingest]
files = "raw"
[preprocess]
"""


@pytest.fixture(scope="module")
def survey(write_survey, tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    write_survey(folder, 10)
    return folder


@pytest.fixture
def run_file(survey, tmp_path):
    """A run file beside its files; paths in it are relative."""
    (tmp_path / "raw").symlink_to(survey)
    (tmp_path / "run.toml").write_text(RUN_FILE.replace('"raw"', '"raw/*/*.fits"'))
    return str(tmp_path / "run.toml")


@pytest.fixture
def call():
    """Call the command in this process, and give signals back to pytest afterwards."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield lambda *args: CliRunner().invoke(main, [str(a) for a in args])
    for number, handler in handlers.items():
        signal.signal(number, handler)


def failing(monkeypatch, index, error):
    """Let preprocessing fail at a block."""
    stage = importlib.import_module("scalespec.stages.preprocess")
    read = stage.read_raw

    def read_raw(block, url):
        if block.index == index:
            raise error
        return read(block, url)

    monkeypatch.setattr(stage, "read_raw", read_raw)


def test_a_run_ends_with_0_and_a_second_one_finds_it_done(call, run_file, tmp_path):
    first = call("run", run_file, "--engine", "local")
    assert first.exit_code == 0, first.output
    assert f"0 blocks were done, 6 done now: {tmp_path}/work" in first.stdout
    assert "preprocess" in first.stderr  # the bars
    second = call("run", run_file, "--engine", "local")
    assert second.exit_code == 0
    assert "6 blocks were done, 0 done now" in second.stdout


def test_one_verb_runs_one_stage(call, run_file):
    assert call("ingest", run_file, "--engine", "local").exit_code == 0
    states = json.loads(call("status", run_file, "--json").stdout)
    assert [(s["stage"], s["done"]) for s in states] == [("ingest", 3), ("preprocess", 0)]
    result = call("preprocess", run_file, "--engine", "local")
    assert "0 blocks were done, 3 done now" in result.stdout


def test_limit_takes_the_first_spectra(call, run_file):
    call("run", run_file, "--engine", "local", "--limit", "5")
    (plan,) = Path(load_config(run_file).run.workspace).glob("plan/*/segments/*.json")
    assert json.loads(plan.read_text())["stop"] == 5
    facts = json.loads(call("plan", run_file, "--limit", "5", "--json").stdout)
    assert [fact["blocks"] for fact in facts] == [2, 2]


def test_blocks_that_failed_end_with_3_and_are_named_and_retried_when_asked(
    call, run_file, monkeypatch
):
    with monkeypatch.context() as patch:
        failing(patch, 1, ValueError("flux is [negative]"))  # brackets are not markup
        result = call("run", run_file, "--engine", "local")
    assert result.exit_code == 3
    assert "preprocess: block 1 failed: ValueError: flux is [negative]" in result.stderr
    assert "--retry-failed" in result.stderr
    assert call("run", run_file, "--engine", "local").exit_code == 3  # until they are retried
    told = call("status", run_file)
    assert "preprocess: block 1 failed: ValueError: flux is [negative]" in told.stdout
    assert "--retry-failed" in told.stdout
    assert "more failed" not in told.stdout
    monkeypatch.setattr("scalespec.status.FAILURES_SAID", 0)
    assert "preprocess: 1 more failed" in call("status", run_file).stdout
    result = call("run", run_file, "--engine", "local", "--retry-failed")
    assert result.exit_code == 0
    assert "5 blocks were done, 1 done now" in result.stdout
    assert "failed:" not in call("status", run_file).stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[run\n", ["not TOML"]),
        (
            RUN_FILE + "[fit]\nstepz = 1\nmax_steps = -1\n[preproces]\n",
            ["3 wrong", "fit.stepz = 1", "fit.max_steps = -1", "preproces"],
        ),
        (RUN_FILE.replace('"raw"', '"nowhere-*.fits"'), ["nothing to read in", "no file matches"]),
        (RUN_FILE.replace('files = "raw"', 'files = "raw"\nsurvey = "hubble"'), ["'hubble'"]),
    ],
)
def test_a_wrong_run_file_ends_with_2_and_every_wrong_key_is_named(call, tmp_path, text, said):
    (tmp_path / "run.toml").write_text(text)
    result = call("run", tmp_path / "run.toml", "--engine", "local")
    assert result.exit_code == 2
    for words in said:
        assert words in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("run", "missing.toml"),
        ("run",),
        ("fitt", "run.toml"),
        ("run", "run.toml", "--engine", "slurm"),
        ("plan", "run.toml", "--limit", "0"),
    ],
)
def test_a_wrong_command_ends_with_2(call, args, run_file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert call(*args).exit_code == 2


def test_what_cannot_be_done_ends_with_1_and_says_why(call, run_file, tmp_path):
    result = call("fit", run_file, "--engine", "local")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "StageError: the run file has no [fit] table" in result.stderr
    result = call("preprocess", run_file, "--engine", "local")  # nothing is ingested
    assert result.exit_code == 1
    assert "StoreError: " in result.stderr
    assert "no inputs are planned yet: run ingest first" in result.stderr


def test_a_comparison_of_the_first_spectra_is_looked_for_where_it_lies(call, run_file, monkeypatch):
    """A limit makes another plan, and so another folder of all that follows."""
    ran = []
    loop = importlib.import_module("scalespec.run")  # scalespec.run is its function, too
    monkeypatch.setattr(loop, "run", lambda config, **_: ran.append(config) or Summary())
    monkeypatch.setattr(folders, "compare_url", lambda config: config)
    monkeypatch.setattr("scalespec.stages.verdict.written", lambda config: config == ran[0])
    monkeypatch.setattr("scalespec.stages.verdict.read_tables", lambda _: "the tables")
    with Path(run_file).open("a") as file:
        file.write('[compare]\nlabels = ["teff"]\nmodels = { ridge = {} }\n')
    result = call("compare", run_file, "--limit", "5")
    assert ran[0].ingest.limit == 5
    assert "the tables" in result.stdout


@pytest.mark.parametrize("option", ["--log", "--metrics"])
def test_a_file_that_cannot_be_written_ends_with_1_and_is_named(call, run_file, tmp_path, option):
    target = tmp_path / "nowhere" / "run.txt"
    result = call("run", run_file, "--engine", "local", option, target)
    assert (result.exit_code, result.stdout) == (1, "")
    said = result.stderr.replace("\n", "")
    assert "FileNotFoundError" in said
    assert str(target) in said
    assert not (tmp_path / "work").exists()


def test_label_refuses_a_file_that_cannot_be_written_before_it_fits(call, tmp_path, monkeypatch):
    def fit(*_, **__):
        raise AssertionError("fitted")

    monkeypatch.setattr("scalespec.stages.label.label_files", fit)
    missing = tmp_path / "nowhere" / "labels.parquet"
    for target, said in [
        (missing, "make it first"),
        (tmp_path, "is a directory"),
        (tmp_path / "labels.csv", "labels.csv: no form of file we write: end it in .parquet,"),
        ("s3://bucket/labels.csv?region=x", "no form of file we write"),
    ]:
        result = call("label", "spec.fits", "--model", "m.npz", "-o", target)
        assert result.exit_code == 2
        assert said in result.stderr.replace("\n", " ")


def test_a_probe_of_a_run_file_that_cannot_run_ends_as_the_run_does(call, run_file):
    with Path(run_file).open("a") as file:
        file.write("[preprocess.continuum]\nmethod = 'median'\nchips = [[100.0, 200.0]]\n")
    results = [
        call("run", run_file, "--engine", "local"),
        call("plan", run_file, "--probe", "--engine", "local"),
    ]
    assert [result.exit_code for result in results] == [2, 2]
    assert all("no pixel between 100.0 and 200.0" in result.stderr for result in results)


def test_status_of_a_run_file_that_names_no_catalog_of_its_own_ends_with_2(call, run_file):
    with Path(run_file).open("a") as file:
        file.write('[infer]\nmodels = ["m"]\n[fit]\n[derive]\ncolor = "gaia.bp_rp"\n')
    result = call("status", run_file)
    assert result.exit_code == 2
    assert "wants a [crossmatch.gaia] table" in result.stderr


def test_long_paths_are_not_broken(call, run_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    call("run", run_file, "--engine", "local")
    raw = folders.raw_url(load_config(run_file))
    (part,) = Path(raw, "index").glob("000001-*")
    part.unlink()
    result = call("verify", run_file)
    assert result.exit_code == 1
    assert f"ingest: block 1: {part}: not found" in result.stdout.splitlines()


def test_verify_ends_with_1_when_there_is_a_problem(call, run_file):
    call("run", run_file, "--engine", "local")
    result = call("verify", run_file)
    assert result.exit_code == 0
    assert result.stdout.endswith("objects checked, 0 problems\n")
    Path(folders.raw_url(load_config(run_file)), "commits", "000000.json").unlink()
    result = call("verify", run_file, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["problems"] == ["ingest: block 0 (rows 0:4) is not committed"]
    assert found["checked"] > 0


def test_status_and_plan_are_tables(call, run_file):
    plan = call("plan", run_file)
    assert plan.exit_code == 0
    assert "MiB" in plan.stdout
    assert not Path(load_config(run_file).run.workspace).exists()
    call("run", run_file, "--engine", "local")
    status = call("status", run_file)
    assert status.exit_code == 0
    assert "OK 10" in status.stdout


def test_plan_says_when_there_is_nothing_to_read(call, run_file):
    text = Path(run_file).read_text()
    Path(run_file).write_text(text.replace("raw/*/*.fits", "raw/*/*.fit"))
    result = call("plan", run_file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "ingest: nothing to read in" in result.stderr


def test_inspect_refuses_a_picture_that_is_none_before_it_reads(call, run_file):
    result = call("inspect", run_file, "--obsid", 1, "-o", "star.jpg")
    assert result.exit_code == 2
    assert "star.jpg: no form of file we write: end it in .png, .pdf or .svg" in result.stderr


def test_clean_says_first_and_removes_when_told(call, run_file):
    call("run", run_file, "--engine", "local")
    old = folders.spectra_url(load_config(run_file))
    text = Path(run_file).read_text()
    Path(run_file).write_text(text + "spike_sigma = 8.0\n")
    call("run", run_file, "--engine", "local")
    young = "1 left, written in the last 24 h: a run at work may be about to commit them"
    for yes in ([], ["--yes"]):
        said = call("clean", run_file, *yes).stdout.splitlines()
        assert said[0] == ("0 removed" if yes else "0 to remove: say --yes")
        assert said[1].startswith(young)
    assert Path(old).is_dir()
    result = call("clean", run_file, "--older-than", "0")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [old, "1 to remove: say --yes"]
    assert Path(old).is_dir()
    removed = call("clean", run_file, "--yes", "--older-than", "0")
    assert removed.stdout.splitlines() == [old, "1 removed"]
    assert not Path(old).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_blocks_in_flight_with_1(
    call, run_file, monkeypatch, number
):
    commit = Ledger.commit

    def interrupted(ledger, block, result):
        if block.index == 0:
            os.kill(os.getpid(), number)
        return commit(ledger, block, result)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", interrupted)
        result = call("run", run_file, "--engine", "local")
    assert result.exit_code == 1
    assert "finishing the blocks in flight" in result.stderr
    assert "stopped, 0 blocks of this stage left; the same command goes on" in result.stderr
    result = call("run", run_file, "--engine", "local")
    assert result.exit_code == 0
    assert "3 blocks were done, 3 done now" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training_at_once_and_in_order(call, run_file, monkeypatch, number):
    """It may take an hour, and goes on from its last checkpoint."""

    def loop(context):
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        raise AssertionError("it went on")

    def train(config):
        yield Training("train", f"{config.run.workspace}/model/0", loop)

    with Path(run_file).open("a") as file:
        file.write('[train]\nlibrary = "work/made"\nlabels = ["teff"]\n')
    monkeypatch.setitem(VERBS, "train", train)
    result = call("train", run_file, "--engine", "local")
    assert result.exit_code == 1
    assert "training stops now; it goes on from its last checkpoint" in result.stderr
    assert "the same command goes on from here" in result.stderr
    assert "Aborted" not in result.stderr


def test_a_second_signal_leaves_at_once(call, run_file, monkeypatch):
    commit = Ledger.commit

    def interrupted(ledger, block, result):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)  # a signal is seen between two steps of the main thread
        return commit(ledger, block, result)

    monkeypatch.setattr(Ledger, "commit", interrupted)
    result = call("run", run_file, "--engine", "local")
    assert result.exit_code == 1
    assert "Aborted!" in result.stderr


@pytest.mark.dask
def test_ctrl_c_in_a_terminal_lets_dask_workers_finish(write_survey, tmp_path):
    """A terminal sends it to every process: workers that died of it would hang the run."""
    write_survey(tmp_path / "raw", 40)
    text = RUN_FILE.replace("spectra_per_block = 4", "spectra_per_block = 1")
    (tmp_path / "run.toml").write_text(f"{text}[engine.dask]\nworkers = 1\n")
    command = [sys.executable, "-m", "scalespec.cli", "ingest", str(tmp_path / "run.toml")]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    run = subprocess.Popen(command, start_new_session=True, text=True, **quiet)
    try:
        while not list(tmp_path.glob("work/raw/*/commits/*.json")):
            assert run.poll() is None
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGINT)
        said, _ = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    assert run.returncode == 1, said
    assert "stopped" in said
    config = load_config(tmp_path / "run.toml")
    ledger = Ledger(folders.raw_url(config))
    done = len(ledger.done())
    assert 0 < done < 40
    assert not ledger.failures()
    assert f"0 blocks were done, {done} done now" in said


def test_help_lists_the_verbs_in_the_order_of_the_data(call):
    text = call("--help").stdout
    commands = [line.split()[0] for line in text.split("Commands:")[1].strip().splitlines()]
    assert [name for name in commands if name in STAGES] == list(STAGES)
    assert {"mock", "run", "plan", "status", "verify", "inspect", "label", "clean"} <= set(commands)
    for name in commands:
        assert call(name, "--help").exit_code == 0


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys, scalespec.cli; "
        "heavy = {'torch', 'ray', 'distributed', 'numba', 'zarr', 'matplotlib', 'astropy'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
