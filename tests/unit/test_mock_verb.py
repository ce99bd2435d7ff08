"""The mock verb writes a survey and everything to run it with, on Dask's worker processes."""

from pathlib import Path

import numpy as np
import pytest

from scalespec.config import load_config
from scalespec.mock import SPECTRA_PER_BLOCK, write_mock
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.store.model import save_model
from scalespec.store.spectra import read_spectra
from scalespec.store.tables import read_table
from scalespec.surveys.lamost import WAVELENGTH

pytestmark = pytest.mark.dask
LABELS = ("teff", "logg", "fe_h")
N, N_LIBRARY = 6, 3


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A survey whose spectra a small emulator made; its folder, what was said, what was told."""
    folder = tmp_path_factory.mktemp("mock")
    low, high = [4000.0, 1.0, -2.0], [6500.0, 5.0, 0.5]
    model = Payne(EmulatorSpec("toy", LABELS, low, high, WAVELENGTH, 1800.0), hidden=(4,))
    save_model(str(folder / "model"), model)
    told = []
    said = write_mock(
        str(folder / "out"),
        n_spectra=N,
        n_library=N_LIBRARY,
        emulator=str(folder / "model"),
        workers=1,
        listener=told.append,
    )
    return folder / "out", said, told


def test_every_file_of_the_truth_is_there(written):
    folder, _, _ = written
    files = read_table(str(folder / "truth.parquet"), ["file"])["file"]
    assert len(files) == N
    assert sorted(files) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*.fits.gz"))


def test_the_emulator_brings_its_labels(written):
    folder, _, _ = written
    assert set(LABELS) <= set(read_table(str(folder / "labels.parquet")))
    assert "mg_fe" not in read_table(str(folder / "truth.parquet"))


def test_the_library_is_filled(written):
    folder, _, _ = written
    library = read_spectra(str(folder / "library/spectra.zarr"), 0, 100)
    assert library.sizes["spectrum"] == N_LIBRARY
    assert library["label"].to_numpy().tolist() == list(LABELS)
    assert (library["flux"].to_numpy() > 0).any(axis=1).all()


@pytest.mark.parametrize(("name", "source"), [("run", "library"), ("matched", "catalog")])
def test_run_files_find_what_was_written(name, source, written):
    folder, _, _ = written
    config = load_config(folder / f"{name}.toml")
    assert getattr(config.train, source)
    assert config.train.labels == LABELS
    assert config.run.spectra_per_block == SPECTRA_PER_BLOCK
    assert Path(config.report.truth).exists()
    assert Path(config.crossmatch["apogee"].catalog).exists()
    if source == "library":
        assert Path(config.train.library).exists()


def test_what_was_written_is_said(written):
    folder, said, _ = written
    assert said.startswith(f"{folder}: ")
    assert "healthy" in said
    assert said.endswith("3 library spectra; run files run.toml, matched.toml")


def test_the_listener_hears_of_every_stage_and_block(written):
    _, _, told = written
    begun = [(p.stage, p.planned, p.done_before) for p in told if p.report is None]
    assert begun == [("mock", 1, 0), ("library", 1, 0)]
    ended = [(p.stage, p.report.block.size) for p in told if p.report is not None]
    assert ended == [("mock", N), ("library", N_LIBRARY)]


def test_labels_of_the_catalog_are_of_stars_of_the_survey(written):
    folder, _, _ = written
    truth = read_table(str(folder / "truth.parquet"), ["source_id"])["source_id"]
    labelled = read_table(str(folder / "labels.parquet"), ["source_id"])["source_id"]
    assert set(labelled[labelled > 0]) <= set(truth)
    assert np.unique(truth).size > 1
