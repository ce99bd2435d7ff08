"""A run of ten files in blocks of four, done once and copied to whoever spoils it."""

import shutil
from pathlib import Path

from scalespec.config import IngestTable, PreprocessTable, RunConfig, RunTable
from scalespec.run import run


def config_for(survey: Path, workspace: Path, **changed) -> RunConfig:
    """Ingest and preprocess a folder of files."""
    return RunConfig(
        run=RunTable(name="t", workspace=str(workspace), spectra_per_block=4),
        ingest=IngestTable(files=str(survey)),
        preprocess=PreprocessTable(**changed),
    )


def done(survey: Path, workspace: Path) -> Path:
    """Run it."""
    assert run(config_for(survey, workspace), engine="local").exit_code == 0
    return workspace


def copied(survey: Path, whole: Path, workspace: Path) -> RunConfig:
    """Return the run file of a run that is done, in a workspace of its own."""
    shutil.copytree(whole, workspace)
    return config_for(survey, workspace)
