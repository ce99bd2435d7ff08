"""Makes any Python process kill itself, as a power cut would, while it reads or writes a store.

Python imports a module of this name when it starts, so a folder in PYTHONPATH is all that a driver
and its workers need to be among the victims. What is to happen is in the environment:

``CHAOS_LOG``     file that every kill is written to beforehand, a line each
``CHAOS_AT``      ``moment operation pattern``: the one kill, as ``after put /commits/``
``CHAOS_RATE``    instead: chance of a kill per operation, before it or after it
``CHAOS_MOST``    a line each, ``pattern=number``: most kills, over all processes, whose lines in
                  the log match; what matches none is not killed. Without it: one kill
``CHAOS_IMPORT``  modules that a process that others are forked from imports beforehand
"""

import importlib
import os
import random
import re
import signal
import sys
import threading

_alone = threading.Lock()  # a lock on a file does not hold another thread off


def _kill(what: str) -> None:
    """Leave at once, unless there were kills enough of this kind already."""
    program = "driver" if "scalespec.cli" in " ".join(sys.orig_argv) else "worker"
    what = f"{program} {what}"
    quotas = [line.rpartition("=") for line in os.environ.get("CHAOS_MOST", "=1").splitlines()]
    most = {text: int(number) for text, _, number in quotas if re.search(text, what)}
    if not most:
        return
    with _alone:
        log = os.open(os.environ["CHAOS_LOG"], os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.lockf(log, os.F_LOCK, 0)
        done = os.pread(log, 1 << 20, 0).decode().splitlines()
        if all(sum(bool(re.search(text, k)) for k in done) < n for text, n in most.items()):
            os.write(log, f"{what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(log)


def _judge() -> "object":
    """Return what decides, before and after every operation, whether this process lives on."""
    if "CHAOS_AT" in os.environ:
        moment, operation, pattern = os.environ["CHAOS_AT"].split(maxsplit=2)
        wanted = re.compile(pattern)

        def met(now: str, doing: str, where: str) -> None:
            if (now, doing) == (moment, operation) and wanted.search(where):
                _kill(f"{now} {doing} {where}")

        return met
    rate = float(os.environ["CHAOS_RATE"])
    draw = random.SystemRandom()

    def drawn(now: str, doing: str, where: str) -> None:
        if draw.random() < rate:
            _kill(f"{now} {doing} {where}")

    return drawn


class _Writer:
    """A file being written; closing it is what makes it appear."""

    def __init__(self, writer, where, judge):
        self._writer, self._where, self._judge = writer, where, judge

    def write(self, data):
        return self._writer.write(data)

    def close(self):
        self._judge("before", "close", self._where)
        self._writer.close()
        self._judge("after", "close", self._where)


def _watch() -> None:
    import obstore

    judge = _judge()

    def watched(name, call):
        def inner(store, path=None, *args, **options):
            where = f"{store!r}/{path}"
            judge("before", name, where)
            found = call(store, path, *args, **options)
            if name == "open":
                return _Writer(found, where, judge)
            judge("after", name, where)
            return found

        return inner

    operations = {"put": "put", "list": "list", "list_with_delimiter": "list"}
    for name, said in (operations | {"open_writer": "open"}).items():
        setattr(obstore, name, watched(said, getattr(obstore, name)))
    scandir = os.scandir

    def scanned(path="."):
        judge("before", "scan", str(path))
        return scandir(path)

    os.scandir = scanned


if "CHAOS_LOG" in os.environ:
    _watch()
if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    for _name in os.environ.get("CHAOS_IMPORT", "").split():
        importlib.import_module(_name)
