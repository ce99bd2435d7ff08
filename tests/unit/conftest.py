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


@pytest.fixture
def tiny_run(_one_tiny_run, tmp_path):
    """A run of 20 spectra in 3 blocks, fitted and not yet published, in its own workspace."""
    made_later = shutil.ignore_patterns("catalog", "report")
    shutil.copytree(_one_tiny_run.config.run.workspace, tmp_path / "work", ignore=made_later)
    table = _one_tiny_run.config.run.model_copy(update={"workspace": str(tmp_path / "work")})
    return replace(_one_tiny_run, config=_one_tiny_run.config.model_copy(update={"run": table}))


@pytest.fixture
def config_of(tmp_path):
    """A function that returns a run of blocks of `size` spectra, ingested as its options say."""

    def make(size=8, **table):
        return RunConfig(
            run=RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=size),
            ingest=IngestTable(**table),
        )

    return make
