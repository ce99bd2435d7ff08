"""What watches a run: its log and counts from start to start, and the dashboards that are wired."""

import importlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from scalespec.cli import main

COMPOSE = Path(__file__).resolve().parents[2] / "deploy" / "compose" / "compose.yaml"
BIN = Path(sys.executable).parent
RUN_FILE = """
[run]
name = "watched"
workspace = "work"
spectra_per_block = 1
[ingest]
files = "raw/*/*.fits"
[preprocess]
"""


@pytest.fixture
def run_file(write_survey, tmp_path):
    write_survey(tmp_path / "raw", 30)
    (tmp_path / "run.toml").write_text(RUN_FILE)
    return tmp_path / "run.toml"


def start(run_file, *more):
    """The command with its log and its counts."""
    watched = ["--log", run_file.with_name("run.jsonl"), "--metrics", run_file.with_name("r.prom")]
    command = [sys.executable, "-m", "scalespec.cli", "run", run_file, *watched, *more]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )


def typed(run_file, *more):
    """The same command in this process; its exit code."""
    watched = ["--log", run_file.with_name("run.jsonl"), "--metrics", run_file.with_name("r.prom")]
    command = ["run", run_file, "--engine", "local", *watched, *more]
    return CliRunner().invoke(main, list(map(str, command))).exit_code


def lines(run_file):
    return [json.loads(line) for line in run_file.with_name("run.jsonl").read_text().splitlines()]


def counted(run_file, name):
    """A count of Prometheus' text, by stage."""
    text = run_file.with_name("r.prom").read_text()
    sample = rf'^scalespec_{name}{{run="watched",stage="(\w+)"}} (\d+)$'
    return {stage: int(value) for stage, value in re.findall(sample, text, re.MULTILINE)}


def test_a_log_goes_on_over_a_sigterm_and_names_every_block_once(run_file):
    """Nothing is begun after the signal, what was begun is logged, and counts are each start's."""
    first = start(run_file, "--engine", "local")
    log = run_file.with_name("run.jsonl")
    while not (log.exists() and '"block"' in log.read_text()):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.005)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 1, said
    before = [line for line in lines(run_file) if line["event"] == "block"]
    assert 0 < len(before) < 60
    assert sum(counted(run_file, "blocks_done_total").values()) == len(before)

    assert typed(run_file) == 0
    blocks = [line for line in lines(run_file) if line["event"] == "block"]
    assert all(line["ok"] for line in blocks)
    wanted = {(stage, i): 1 for stage in ("ingest", "preprocess") for i in range(30)}
    assert Counter((line["stage"], line["block"]) for line in blocks) == wanted
    done, earlier = (counted(run_file, f"blocks_done_{w}") for w in ("total", "before"))
    assert sum(done.values()) == 60 - len(before)
    assert sum(earlier.values()) == len(before)
    assert {stage: done.get(stage, 0) + earlier[stage] for stage in earlier} == dict.fromkeys(
        ("ingest", "preprocess"), 30
    )


def test_a_block_that_failed_is_in_log_and_counts_until_it_is_retried(run_file, monkeypatch):
    stage = importlib.import_module("scalespec.stages.preprocess")
    read = stage.read_raw

    def failing(block, url):
        if block.index == 7:
            raise ValueError("flux is negative")
        return read(block, url)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "read_raw", failing)
        assert typed(run_file) == 3
    (failed,) = (line for line in lines(run_file) if line["event"] == "block" and not line["ok"])
    assert (failed["stage"], failed["block"]) == ("preprocess", 7)
    assert failed["error"] == "ValueError: flux is negative"
    assert counted(run_file, "blocks_failed_total") == {"preprocess": 1}
    assert typed(run_file) == 3  # said again, not tried again
    assert lines(run_file)[-1]["event"] == "stage"
    assert typed(run_file, "--retry-failed") == 0
    assert counted(run_file, "blocks_failed_total") == {}
    assert counted(run_file, "blocks_done_total") == {"preprocess": 1}
    assert (lines(run_file)[-1]["block"], lines(run_file)[-1]["ok"]) == (7, True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(url, patience=60):
    """What a page says, once it is there."""
    end = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as page:
                return page.status, page.read().decode()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "port", "page", "package"),
    [
        pytest.param("dask-scheduler", "8787", "status", "bokeh", marks=pytest.mark.dask),
        pytest.param("dask-scheduler", "8787", "metrics", "prometheus_client"),
        pytest.param("ray-head", "8265", "", "aiohttp_cors", marks=pytest.mark.ray),
    ],
)
def test_the_dashboards_of_compose_answer_where_they_are_published(service, port, page, package):
    """Its command on ports of this machine; the image has the packages, an environment may not."""
    pytest.importorskip(package)
    described = yaml.safe_load(COMPOSE.read_text())["services"][service]
    assert f"127.0.0.1:{port}:{port}" in described["ports"]
    moved, port = str(free_port()), str(free_port())
    command = [part.replace("8787", port) for part in described["command"]]
    command = [moved if part in ("8786", "6379") else part for part in command]
    folder = tempfile.mkdtemp(prefix="d", dir="/tmp")  # Ray's sockets: 107 bytes are all
    if service == "ray-head":
        command += ["--dashboard-port", port, "--temp-dir", folder]
        command += ["--object-store-memory", str(100 * 2**20)]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    process = subprocess.Popen(
        [str(BIN / command[0]), *command[1:]],
        env=os.environ | token,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status, said = answer(f"http://127.0.0.1:{port}/{page}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    assert status == 200
    assert said
