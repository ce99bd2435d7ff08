"""Engines by address: two Ray nodes and two Dask workers that somebody else has started."""

import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
PATIENCE_S = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_address():
    """The host's address as Ray finds it: it does not stay on 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # a documentation address; a datagram socket sends nothing
        return probe.getsockname()[0]
    return "127.0.0.1"


@contextmanager
def started(*commands, env, log):
    """Run commands in sessions of their own; none of their processes outlives the context."""
    daemons = []
    try:
        with log.open("wb") as output:
            for command in commands:
                daemons.append(
                    subprocess.Popen(
                        [str(BIN / command[0]), *map(str, command[1:])],
                        env=env,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
                time.sleep(5 if "--head" in command else 0)  # the others ask it for the session
            yield daemons
    finally:
        for daemon in daemons:
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


@pytest.mark.slow
@pytest.mark.dask
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_ray_nodes_and_two_dask_workers_make_the_same_catalog(line, tmp_path):
    workspace = line.workspace(tmp_path)
    dask, ray = free_port(), free_port()
    head = f"{own_address()}:{ray}"
    engines = (
        f'[engine.dask]\naddress = "tcp://127.0.0.1:{dask}"\n'
        f'[engine.ray]\naddress = "{head}"\nworkers = 2\n'
    )
    workspace.run_file.write_text(workspace.run_file.read_text() + engines)
    short = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets lie in it: 107 bytes are all
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    node = ("--num-cpus", 1, "--object-store-memory", 100 * 2**20, "--block")
    scheduler = f"tcp://127.0.0.1:{dask}"
    worker = ("dask", "worker", scheduler, "--nthreads", 1, "--no-dashboard")
    commands = (
        ("dask", "scheduler", "--host", "127.0.0.1", "--port", dask, "--no-dashboard"),
        worker,
        worker,
        ("ray", "start", "--head", "--port", ray, "--temp-dir", short, *node),
        ("ray", "start", "--address", head, *node),
    )
    try:
        with started(*commands, env=env, log=tmp_path / "daemons.log"):
            code, said = workspace.call("run", env=env)
            assert code == 0, said + (tmp_path / "daemons.log").read_text()[-4000:]
            nodes = list(Path(short).glob("session_latest/logs/raylet*.out"))
    finally:
        shutil.rmtree(short, ignore_errors=True)
    assert len(nodes) >= 2  # both nodes were there
    assert workspace.digest() == line.digest
    assert workspace.problems() == []


NO_OPS = """
import sys
from scalespec.config import DaskTable
from scalespec.engines.dask import DaskEngine
from scalespec.errors import StageError
from scalespec.plan import BlockResult, Stage, plan_blocks

nothing = lambda *given: BlockResult(1, {})
try:
    engine = DaskEngine(DaskTable(address=sys.argv[1], workers=1, wait_seconds=60))
except StageError as error:
    sys.exit(str(error))
stage = Stage("no-op", "nowhere", plan_blocks(5, 1), nothing, nothing, nothing, "dask")
print(sum(report.ok for report in engine.map(stage, stage.blocks)))
engine.close()
"""


SLOW_BLOCKS = """
import sys, time
from scalespec.config import DaskTable, EngineTable, RunConfig, RunTable
from scalespec.errors import StageError
from scalespec.plan import BlockResult, Stage, plan_blocks
from scalespec.run import Runner
from scalespec.store.ledger import Ledger
from scalespec.terminal import Stopping

address, workspace = sys.argv[1:]
url = f"{workspace}/waits/0123456789abcdef"
waits = lambda block: time.sleep(0.2)
passes = lambda value, data: data
commits = lambda block, made: Ledger(url).commit(block, BlockResult(1, {}))
engine = EngineTable(dask=DaskTable(address=address, workers=1, wait_seconds=60))
config = RunConfig(run=RunTable(name="t", workspace=workspace), engine=engine)
runner = Runner(config, stop=Stopping())
try:
    runner.map(Stage("waits", url, plan_blocks(30, 1), waits, passes, commits, "dask"))
except StageError as error:
    sys.exit(f"StageError: {error}")
finally:
    runner.close()
"""
PROMPT_S = 30
"""Much more than it takes, 0.5 s, and much less than the minutes of a driver that waits."""


@pytest.mark.dask
@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hung"])
def test_a_driver_ends_when_its_scheduler_is_gone_and_no_block_has_failed(tmp_path, hangs):
    """One whose scheduler hangs, which it cannot know, ends at the second Ctrl-C."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    stage = tmp_path / "waits" / "0123456789abcdef"
    commands = (
        ("dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"),
        ("dask", "worker", address, "--nthreads", 1, "--no-dashboard", "--no-nanny"),
    )
    with started(*commands, env=dict(os.environ), log=tmp_path / "daemons.log") as (scheduler, _):
        driver = subprocess.Popen(
            [sys.executable, "-c", SLOW_BLOCKS, address, str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while len(list(stage.glob("commits/*"))) < 3:
                assert driver.poll() is None, driver.stderr.read()
                time.sleep(0.05)
            scheduler.send_signal(signal.SIGSTOP if hangs else signal.SIGKILL)
            if hangs:
                for _ in range(2):
                    time.sleep(1)
                    driver.send_signal(signal.SIGINT)
            said = driver.communicate(timeout=PROMPT_S)[1]
        finally:
            driver.kill()
    assert len(list(stage.glob("commits/*"))) < 30  # it was at work
    assert list(stage.glob("failed/*")) == []
    if hangs:
        assert driver.returncode == -signal.SIGINT
        assert "once more to leave at once" in said
    else:
        assert driver.returncode == 1
        # before it, "blocks [2] lost: ..." where the scheduler died amid a result
        assert said.endswith("StageError: the Dask scheduler is gone: start it, and run again\n")


@pytest.mark.slow
@pytest.mark.dask
@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
def test_dask_encrypts_and_lets_in_only_who_has_the_certificate(tmp_path):
    """As deploy/slurm/dask.sbatch has it."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=x")
    subprocess.run(
        ["openssl", *made, "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    names = {"CA_FILE": cert} | {
        f"{role}__{what}": path
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for what, path in (("CERT", cert), ("KEY", key))
    }
    inside = os.environ | {f"DASK_DISTRIBUTED__COMM__TLS__{k}": str(v) for k, v in names.items()}
    inside["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] = "true"
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    tls = ("--protocol", "tls", "--no-dashboard")
    commands = (
        ("dask", "scheduler", *tls, "--host", "127.0.0.1", "--port", port),
        ("dask", "worker", address, *tls, "--nthreads", 1),
    )

    def asked(where, env):
        script = [sys.executable, "-c", NO_OPS, where]
        return subprocess.run(script, env=env, capture_output=True, text=True, check=False)

    with started(*commands, env=inside, log=tmp_path / "daemons.log"):
        said = asked(address, inside)
        assert said.stdout.strip() == "5", said.stderr + (tmp_path / "daemons.log").read_text()
        shown = ssl.get_server_certificate(("127.0.0.1", port))
        assert shown.split() == cert.read_text().split()
        own = tmp_path / "own"
        own.mkdir()
        subprocess.run(
            ["openssl", *made, "-keyout", own / "key.pem", "-out", own / "cert.pem"],
            check=True,
            capture_output=True,
        )
        stranger = inside | {
            name: value.replace(str(tmp_path), str(own))
            for name, value in inside.items()
            if name.startswith("DASK_DISTRIBUTED__COMM__TLS__CLIENT")
        }
        for where, env in (
            (address, stranger),
            (address.replace("tls:", "tcp:"), dict(os.environ)),
        ):
            refused = asked(where, env)
            assert refused.returncode != 0
            assert "no Dask scheduler answers" in refused.stderr
