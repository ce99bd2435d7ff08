"""A real Slurm on this machine: munge, a controller, and two nodes that can be killed and revived.

Needs Debian's slurm-wlm and munge, and root. The configuration is the project's own
(``design/slurm_two_nodes_one_host.conf``), with this host's name and quicker decisions.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

HOME = Path("/tmp/sl")  # the configuration names it
NODES = ("n1", "n2")
QUICKER = """
KillWait=5
MinJobAge=3600
SchedulerParameters=bf_interval=1,sched_interval=2
"""
PATIENCE_S = 900  # many may share this machine
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def missing() -> str:
    """Why it cannot run here; nothing if it can."""
    lacking = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not _program(name)]
    if lacking:
        return f"no {', '.join(lacking)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "wants root"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Slurm:
    """A running cluster.

    Attributes
    ----------
    env : dict of str to str
        Environment of a user: where the configuration is, and this Python's programs.
    """

    def __init__(self, conf: Path, say: Callable[[str], None] = print) -> None:
        text = conf.read_text().replace("vm", socket.gethostname()) + QUICKER
        shutil.rmtree(HOME, ignore_errors=True)
        for name in ("", "state", *(f"spool.{node}" for node in NODES)):
            (HOME / name).mkdir()
        (HOME / "slurm.conf").write_text(text)
        (HOME / "munge.key").write_bytes(secrets.token_bytes(1024))
        (HOME / "munge.key").chmod(0o400)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        inner = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PYTEST"))}
        self.env = inner | {"SLURM_CONF": str(HOME / "slurm.conf"), "PATH": path}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._say = say

    def start(self) -> None:
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid"}
        files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        self._start(
            "munged", "--foreground", "--force", *(f"--{k}={HOME / f}" for k, f in files.items())
        )
        self._until((HOME / "munge.sock").exists)
        self._start("slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        self._until(lambda: self._asked("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 2)

    def start_node(self, node: str) -> None:
        self._start(node, "-D", "-N", node, program="slurmd")

    def kill_node(self, node: str) -> list[str]:
        """SIGKILL a node's daemon and all that ran on it; return the names of what was killed."""
        daemon = self._daemons.pop(node)
        victims = [process for process in psutil.process_iter() if _runs_on(process, node)]
        # First who would tell the controller how the others ended: a node without power cannot.
        victims[:0] = [parent for one in victims for parent in _steps_above(one)]
        daemon.kill()
        daemon.wait()
        names = [_name(process) for process in victims]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=power")
        return sorted(filter(None, set(names)))

    def call(self, *command: object, cwd: Path | None = None) -> str:
        """Run a user's command and write it, and what it said, into the transcript."""
        said = self._asked(*command, cwd=cwd)
        self._say(f"$ {' '.join(map(str, command))}\n{said}".rstrip())
        return said

    def state(self, job: str) -> str:
        return self._asked("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()

    def until_ended(self, job: str) -> str:
        """Wait for a job; one that was put back into the queue is not kept waiting."""

        def over() -> bool:
            if self.state(job) == "PENDING":  # requeued: for two minutes, if nobody says otherwise
                self._asked("scontrol", "update", f"jobid={job}", "starttime=now")
            return self.state(job) in ENDED

        self._until(over)
        return self.state(job)

    def stop(self) -> None:
        for node in [name for name in self._daemons if name in NODES]:
            with suppress(subprocess.SubprocessError):
                self.kill_node(node)
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()

    def _start(self, name: str, *args: str, program: str = "") -> None:
        found = _program(program or name)
        assert found
        with (HOME / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [found, *args], env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def _asked(self, *command: object, cwd: Path | None = None) -> str:
        run = subprocess.run(
            [str(part) for part in command],
            env=self.env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return run.stdout + run.stderr

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                logs = [path.read_text()[-1500:] for path in sorted(HOME.glob("*.log"))]
                raise AssertionError("waited in vain for Slurm:\n" + "\n".join(logs))
            time.sleep(0.1)


def _runs_on(process: psutil.Process, node: str) -> bool:
    with suppress(psutil.Error):
        return process.environ().get("SLURMD_NODENAME") == node
    return False


def _steps_above(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [parent for parent in process.parents() if "slurmstepd" in _name(parent)]
    return []


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name()
    return ""


@contextmanager
def slurm(conf: Path, say: Callable[[str], None] = print) -> Iterator[Slurm]:
    """Run a cluster of two nodes; nothing of it outlives the context."""
    cluster = Slurm(conf, say)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
