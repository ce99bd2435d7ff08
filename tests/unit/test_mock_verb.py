"""The mock verb writes a survey and everything to run it with, on Dask's worker processes."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from scalespec.cli import main
from scalespec.config import load_config
from scalespec.errors import StageError
from scalespec.mock import SPECTRA_PER_BLOCK, write_mock
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.stages.mock import TABLES
from scalespec.store.model import save_model
from scalespec.store.spectra import read_spectra
from scalespec.store.tables import read_table
from scalespec.surveys import read_survey
from scalespec.surveys.lamost import WAVELENGTH

LABELS = ("teff", "logg", "fe_h")
N, N_LIBRARY = 6, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small emulator, stored."""
    url = str(tmp_path_factory.mktemp("model") / "model")
    low, high = [4000.0, 1.0, -2.0], [6500.0, 5.0, 0.5]
    save_model(url, Payne(EmulatorSpec("toy", LABELS, low, high, WAVELENGTH, 1800.0), hidden=(4,)))
    return url


@pytest.fixture(scope="module")
def written(tmp_path_factory, model):
    """A survey whose spectra a small emulator made; its folder, what was said, what was told."""
    folder = tmp_path_factory.mktemp("mock")
    told = []
    said = write_mock(
        str(folder / "out"),
        n_spectra=N,
        n_library=N_LIBRARY,
        truth_model=model,
        workers=1,
        listener=told.append,
    )
    return folder / "out", said, told


@pytest.mark.dask
def test_every_file_of_the_truth_is_there(written):
    folder, _, _ = written
    files = read_table(str(folder / "truth.parquet"), ["file"])["file"]
    assert len(files) == N
    assert sorted(files) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*.fits.gz"))


@pytest.mark.dask
def test_the_truth_model_brings_its_labels(written):
    folder, _, _ = written
    for catalog in ("labels", "reference"):
        assert set(LABELS) <= set(read_table(str(folder / f"{catalog}.parquet")))
    assert "mg_fe" not in read_table(str(folder / "truth.parquet"))


@pytest.mark.dask
def test_the_library_is_filled(written):
    folder, _, _ = written
    library = read_spectra(str(folder / "library/spectra.zarr"), 0, 100)
    assert library.sizes["spectrum"] == N_LIBRARY
    assert library["label"].to_numpy().tolist() == list(LABELS)
    assert (library["flux"].to_numpy() > 0).any(axis=1).all()


@pytest.mark.dask
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


@pytest.mark.dask
def test_what_was_written_is_said(written):
    folder, said, _ = written
    assert said.startswith(f"{folder}: ")
    assert "healthy" in said
    assert said.endswith("3 library spectra; run files run.toml, matched.toml")


@pytest.mark.dask
def test_the_listener_hears_of_every_stage_and_block(written):
    _, _, told = written
    begun = [(p.stage, p.planned, p.done_before) for p in told if p.report is None]
    assert begun == [("mock", 1, 0), ("library", 1, 0)]
    ended = [(p.stage, p.report.block.size) for p in told if p.report is not None]
    assert ended == [("mock", N), ("library", N_LIBRARY)]


@pytest.mark.dask
def test_labels_of_the_catalog_are_of_stars_of_the_survey(written):
    folder, _, _ = written
    truth = read_table(str(folder / "truth.parquet"), ["source_id"])["source_id"]
    labelled = read_table(str(folder / "labels.parquet"), ["source_id"])["source_id"]
    assert set(labelled[labelled > 0]) <= set(truth)
    assert np.unique(truth).size > 1


def call(*args):
    """Run the verb in this process; return its exit code and what it said."""
    done = CliRunner().invoke(main, ["mock", *map(str, args)])
    return done.exit_code, done.output


def test_the_verb_says_all_of_it_on_the_command_line(tmp_path, model):
    out = tmp_path / "csst"
    code, said = call(
        out, "--survey", "csst", "--n-spectra", 9, "--seed", 4, "--truth-model", model,
        "--recipe", "binary=0.5", "--recipe", "dark=0.2", "--spectra-per-file", 4,
        "--engine", "local",
    )  # fmt: skip
    assert code == 0, said
    assert "0 library spectra; run files run.toml" in said
    assert {f"{name}.parquet" for name in TABLES} <= {p.name for p in out.iterdir()}
    truth = read_table(f"{out}/truth.parquet")
    assert len(set(truth["file"])) == 3  # of 4, 4 and 1 spectra
    assert load_config(out / "run.toml").ingest.survey == "csst"
    assert load_config(out / "run.toml").train.catalog == "apogee"


def test_a_pipeline_may_be_wrong_about_its_noise(tmp_path, model):
    told = {}
    for factor in (1.0, 0.25):
        out = tmp_path / str(factor)
        code, said = call(
            out, "--n-spectra", 4, "--n-library", 0, "--truth-model", model,
            "--engine", "local", "--ivar-factor", factor,
        )  # fmt: skip
        assert code == 0, said
        told[factor] = read_survey(out / "files")
    honest, wrong = (told[factor].ivar.to_numpy() for factor in (1.0, 0.25))
    assert np.array_equal(told[1.0].flux, told[0.25].flux)
    assert np.array_equal(honest > 0, wrong > 0)
    assert np.median(wrong[honest > 0] / honest[honest > 0]) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--survey", "sdss"], "no made-up survey 'sdss'; there are lamost_lrs"),
        (["--recipe", "binary"], "--recipe binary: wanted as binary=0.3"),
        (["--recipe", "binaries=0.3"], "recipe: no binaries; there are young"),
        (["--recipe", "binary=3"], "binary must be a fraction from 0 to 1, got 3.0"),
        (["--ivar-factor", 0], "ivar_factor must be a positive number, got 0.0"),
        (["--ivar-factor", "nan"], "ivar_factor must be a positive number, got nan"),
        (["--survey", "desi", "--n-library", 5], "a library is made for lamost_lrs alone"),
    ],
)
def test_what_cannot_be_made_is_said(options, message, tmp_path):
    code, said = call(tmp_path / "out", "--n-spectra", 3, "--engine", "local", *options)
    assert code == 2
    assert message in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_labels_that_are_none_are_said(tmp_path):
    with pytest.raises(StageError, match=r"'nonsense'.* are unknown to line synthesis"):
        write_mock(
            str(tmp_path / "out"),
            n_spectra=2,
            n_library=0,
            engine="local",
            labels=("teff", "nonsense"),
        )
