"""Drivers that start in no time: forked from a process that has imported what they need.

Each is a process and a session of its own, as one that a terminal starts, and dies like one; only
the seconds that an interpreter needs to import its libraries are spent once for all of them.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

VERBS = ("ingest", "preprocess", "crossmatch", "infer", "fit", "publish")
STAGES = [f"scalespec.stages.{verb}" for verb in VERBS]
LATE_S = 0.02  # between two looks at a driver


class Drivers:
    """Commands of scalespec, one after another; nothing of any is left when the next begins.

    Parameters
    ----------
    env : mapping of str to str
        Their environment.
    engine : {"local", "dask", "ray"}
        Imported beforehand, too.
    patience_s : float
        How long one may take.
    """

    def __init__(self, env: dict[str, str], engine: str, patience_s: float) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, __file__, engine, str(patience_s)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, log: Path, *args: object) -> tuple[int, str]:
        """Run a command to its end; return its exit code, and what it said."""
        self._parent.stdin.write(json.dumps([str(log), *map(str, args)]) + "\n")
        self._parent.stdin.flush()
        code = int(self._parent.stdout.readline())
        return code, log.read_text()

    def __enter__(self) -> "Drivers":
        return self

    def __exit__(self, *exc: object) -> None:
        self._parent.stdin.close()
        self._parent.wait()


def serve(patience_s: float) -> list[str] | None:
    """Fork a driver for every line; in a driver, return its arguments."""
    for line in iter(sys.stdin.readline, ""):
        log, *args = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            for stream in (1, 2):
                os.dup2(told, stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            return args
        code = ended(pid, patience_s)
        for process in [p for p in psutil.process_iter() if session(p) == pid]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        print(code, flush=True)
    return None


def ended(pid: int, patience_s: float) -> int:
    """Wait for a driver's end, or bring it about, and return its exit code; -14 if it was late."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(LATE_S)
    psutil.Process(pid).kill()
    os.waitpid(pid, 0)
    return -14


def session(process: psutil.Process) -> int:
    """The session of a process; -1 if it has ended."""
    with suppress(ProcessLookupError):
        return os.getsid(process.pid)
    return -1


def main() -> None:
    """Import everything, then be the parent of drivers until there are no more lines."""
    engine, patience_s = sys.argv[1:]
    for name in (*STAGES, f"scalespec.engines.{engine}"):
        importlib.import_module(name)
    from scalespec.cli import main as scalespec

    args = serve(float(patience_s))
    if args is not None:
        sys.orig_argv = [sys.executable, "-m", "scalespec.cli", *args]  # who looks finds a driver
        scalespec(args)


if __name__ == "__main__":
    main()
