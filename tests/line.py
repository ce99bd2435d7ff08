"""A small made-up survey, one model and the undisturbed catalog: what tests of whole runs share.

Runs are real processes, which tests start, watch, interrupt and kill.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from click.testing import CliRunner

from scalespec.cli import main
from scalespec.config import RunConfig, load_config
from scalespec.engines.local import LocalEngine
from scalespec.run import run
from scalespec.stages import folders
from scalespec.stages.library import library_stage
from scalespec.stages.mock import make_mock
from scalespec.status import verify_run
from scalespec.store import paths

N_SPECTRA, N_BLOCKS = 112, 14
LABELS = ("teff", "logg", "fe_h")
BEFORE = {
    "": (),
    "spectra": ("plan", "raw"),
    "first": ("plan", "raw", "spectra", "matches"),
    "best": ("plan", "raw", "spectra", "matches", "first"),
    "catalog": ("plan", "raw", "spectra", "matches", "first", "best"),
}
"""Folders of the stages before one that a test is about."""
PATIENCE_S = 240
"""Longest wait for anything: a busy machine's two cores may be shared by many."""

HEAD = """
[run]
name = "line"
workspace = "work"
seed = 3
spectra_per_block = 8
[ingest]
files = "{survey}/files"
[preprocess]
wavelength_min_angstrom = 5000.0
wavelength_max_angstrom = 5600.0
"""
TRAIN = """
[train]
library = "{survey}/library/spectra.zarr"
labels = ["teff", "logg", "fe_h"]
hidden = 32
rounds = {rounds}
epochs = {epochs}
checkpoint_every = 1
[engine.ray]
workers = {workers}
"""
REST = """
[crossmatch.apogee]
catalog = "{survey}/labels.parquet"
star_id = "apogee_id"
columns = {{ teff = "teff", logg = "logg", fe_h = "fe_h" }}
[infer]
models = ["{survey}/model"]
[fit]
[publish]
"""


class Started:
    """A scalespec command in a session and process group of its own, as a terminal starts it."""

    def __init__(self, log: Path, args: tuple[object, ...], **options: object) -> None:
        self._log = log
        with log.open("wb") as output:
            self._driver = subprocess.Popen(
                [sys.executable, "-m", "scalespec.cli", *map(str, args)],
                stdout=output,
                stderr=output,
                start_new_session=True,
                **options,
            )
        self.pid = self._driver.pid

    @property
    def said(self) -> str:
        """What it wrote until now, on both streams."""
        return self._log.read_text()

    def processes(self) -> list[psutil.Process]:
        """Driver, workers and whatever else is alive of its session."""
        return [p for p in psutil.process_iter() if _session(p) == self.pid and _alive(p)]

    def worker(self, title: str) -> psutil.Process:
        """One process by a part of its command line."""
        found = [p for p in self.processes() if title in _title(p)]
        assert found, f"no '{title}' in {[_title(p) for p in self.processes()]}"
        return found[0]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that happens while it runs."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._driver.poll() is None, f"ended too early:\n{self.said}"
            assert time.monotonic() < end, f"waited in vain:\n{self.said}"
            time.sleep(0.002)

    def interrupt(self) -> None:
        """Press Ctrl-C: a terminal sends SIGINT to driver and workers at once."""
        os.killpg(self.pid, signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM to the driver."""
        self._driver.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the driver."""
        self._driver.kill()
        self._driver.wait()

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        try:
            return self._driver.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"does not end:\n{self.said}") from late

    def left_after(self, seconds: float, *, but: tuple[str, ...] = ()) -> list[str]:
        """Wait until no process is left, and return the titles of those that are even then."""
        end = time.monotonic() + seconds
        while left := [t for t in map(_title, self.processes()) if t and t not in but]:
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        return left

    def end_all(self) -> None:
        """Leave nothing behind, whatever became of the test."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._driver.wait()


def _session(process: psutil.Process) -> int:
    with suppress(ProcessLookupError):
        return os.getsid(process.pid)
    return -1


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline()).strip()
    return ""


@dataclass(frozen=True)
class Workspace:
    """A folder with a run file, and what runs of it have made."""

    folder: Path

    @property
    def run_file(self) -> Path:
        """To give to a command."""
        return self.folder / "run.toml"

    @property
    def config(self) -> RunConfig:
        """The run file, read."""
        return load_config(self.run_file)

    def change(self, old: str, new: str) -> None:
        """Replace a text of the run file."""
        text = self.run_file.read_text()
        assert old in text
        self.run_file.write_text(text.replace(old, new))

    @contextmanager
    def start(self, verb: str, *args: object, **options: object) -> Iterator[Started]:
        """Start a command; nothing of it outlives the context."""
        log = self.folder / f"{verb}.{time.monotonic_ns()}.log"
        started = Started(log, (verb, self.run_file, *args), **options)
        try:
            yield started
        finally:
            started.end_all()

    def call(self, verb: str, *args: object, **options: object) -> tuple[int, str]:
        """Run a command to its end; return its exit code and what it said."""
        with self.start(verb, *args, **options) as started:
            return started.ended(), started.said

    def typed(self, verb: str, *args: object) -> tuple[int, str]:
        """Do the same in this process, which spares an interpreter's start, with its signals."""
        kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        command = [verb, *map(str, (self.run_file, *args))]
        try:
            found = CliRunner().invoke(main, command, catch_exceptions=False)
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
        return found.exit_code, found.output

    def model(self) -> Path:
        """Folder of the trained model, there or not."""
        return Path(folders.model_url(self.config))

    def commits(self, stage: str) -> set[Path]:
        """Commit records below the folder of a stage, ``raw`` to ``catalog``."""
        return set((self.folder / "work" / stage).glob("*/commits/[0-9]*.json"))

    def catalog(self) -> bytes:
        """The published table, byte for byte."""
        return Path(folders.catalog_url(self.config), "catalog.parquet").read_bytes()

    def digest(self) -> str:
        """What tells one published table from another."""
        return paths.sha256(self.catalog())

    def problems(self) -> list[str]:
        """What is wrong with a whole run: blocks not committed, objects changed, rows amiss."""
        problems, _ = verify_run(self.config)
        rows = pq.read_table(io.BytesIO(self.catalog()), columns=["row"])["row"].to_pylist()
        if rows != list(range(N_SPECTRA)):
            problems.append(f"rows of the catalog are {rows}")
        return problems


@dataclass(frozen=True)
class Line:
    """The survey, the model, and the workspace of a run that nothing disturbed."""

    survey: Path
    undisturbed: Workspace
    digest: str

    def workspace(self, folder: Path, before: str = "") -> Workspace:
        """Make a workspace in which all stages before one are done already."""
        folder.mkdir(exist_ok=True)
        made = Workspace(folder)
        shutil.copy(self.undisturbed.run_file, made.run_file)
        for stage in BEFORE[before]:
            shutil.copytree(self.undisturbed.folder / "work" / stage, folder / "work" / stage)
        return made

    def training(self, folder: Path, **settings: object) -> Workspace:
        """Make a workspace to train in, by `TRAIN` settings; the library is preprocessed."""
        made = _write_training(self.survey, folder, **settings)
        library = Path("work", "model", "library")
        shutil.copytree(self.survey / "training" / library, folder / library)
        return made


def _write_training(survey: Path, folder: Path, **settings: object) -> Workspace:
    folder.mkdir(exist_ok=True)
    made = Workspace(folder)
    made.run_file.write_text((HEAD + TRAIN).format(survey=survey, **settings))
    return made


def build(folder: Path) -> Line:
    """Make survey, library and model, here and without a cluster; run the line once."""
    survey = folder / "survey"
    engine = LocalEngine()
    make_mock(str(survey), n_spectra=N_SPECTRA, seed=3, engine=engine)
    library = library_stage(str(survey / "library"), n_spectra=256, seed=3, labels=LABELS)
    assert all(report.ok for report in engine.map(library, library.blocks))
    training = _write_training(survey, survey / "training", rounds=[0, 10], epochs=0, workers=1)
    run(training.config, verbs=("train",), engine="local")
    shutil.copytree(training.model(), survey / "model")
    undisturbed = Workspace(survey)
    undisturbed.run_file.write_text((HEAD + REST).format(survey=survey))
    code, said = undisturbed.typed("run", "--engine", "local")
    assert code == 0, said
    return found(folder)


def found(folder: Path) -> Line:
    """Return what `build` made."""
    undisturbed = Workspace(folder / "survey")
    return Line(folder / "survey", undisturbed, undisturbed.digest())
