"""Fixtures of the unit tests."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from scripts import load

from scalespec.config import IngestTable, RunConfig, RunTable


@pytest.fixture(scope="session")
def tiny():
    """The module ``tiny_run.py`` beside this file, loaded only where a test wants it."""
    return load(Path(__file__).with_name("tiny_run.py"))


@pytest.fixture(scope="session")
def _one_tiny_run(tiny, tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def moved_run():
    """A function that copies a tiny run, not yet published, to a workspace in a folder."""

    def move(run, folder):
        made_later = shutil.ignore_patterns("catalog", "report")
        shutil.copytree(run.config.run.workspace, folder / "work", ignore=made_later)
        table = run.config.run.model_copy(update={"workspace": str(folder / "work")})
        return replace(run, config=run.config.model_copy(update={"run": table}))

    return move


@pytest.fixture
def tiny_run(_one_tiny_run, moved_run, tmp_path):
    """A run of 20 spectra in 3 blocks, fitted and not yet published, in its own workspace."""
    return moved_run(_one_tiny_run, tmp_path)


@pytest.fixture
def config_of(tmp_path):
    """A function that returns a run of blocks of `size` spectra, ingested as its options say."""

    def make(size=8, **table):
        return RunConfig(
            run=RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=size),
            ingest=IngestTable(**table),
        )

    return make
