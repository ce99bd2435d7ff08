"""A made-up survey written to a real S3 server is the one written to disk, and can be ingested."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scalespec.config import parse_config
from scalespec.engines.local import LocalEngine
from scalespec.mock import write_mock
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.run import run
from scalespec.stages import folders
from scalespec.stages.mock import TABLES, make_mock
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.model import save_model
from scalespec.store.tables import read_table
from scalespec.surveys.lamost import WAVELENGTH

pytestmark = pytest.mark.s3
N = 40


@pytest.fixture(scope="module")
def model():
    """A small emulator."""
    low, high = [4000.0, 0.5, -2.0], [6500.0, 5.0, 0.5]
    spec = EmulatorSpec("toy", ("teff", "logg", "fe_h"), low, high, WAVELENGTH)
    torch.manual_seed(1)
    return Payne(spec, hidden=(4,)).eval()


def test_a_bucket_holds_what_a_folder_does(bucket, tmp_path, model):
    options = {"n_spectra": N, "truth_model": model, "spectra_per_block": 16}
    there, here = paths.join(bucket, "mock"), str(tmp_path / "mock")
    counts = [make_mock(url, engine=LocalEngine(), **options) for url in (there, here)]
    assert counts[0] == counts[1]
    keys = [paths.list_keys(url) for url in (there, here)]
    assert keys[0] == keys[1]  # and no parts are left
    assert len(keys[0]) == N + len(TABLES)
    for key in keys[0]:
        assert paths.read_bytes(paths.join(there, key)) == Path(here, key).read_bytes()


def test_the_run_file_of_a_bucket_runs_there(bucket, tmp_path, model):
    url = str(tmp_path / "model")
    save_model(url, model)
    folder = paths.join(bucket, "survey")
    write_mock(folder, n_spectra=N, n_library=0, truth_model=url, engine="local")
    config = parse_config(paths.read_bytes(paths.join(folder, "run.toml")).decode())
    assert run(config, verbs=("ingest",), engine="local").exit_code == 0
    (result,) = Ledger(folders.raw_url(config)).commits().values()
    truth = read_table(config.report.truth)
    assert result.rows == N
    healthy = int(np.sum(truth["broken"] == ""))
    assert result.counts["OK"] <= healthy
    assert sum(result.counts.get(k, 0) for k in ("OK", "NO_REDSHIFT")) >= healthy
