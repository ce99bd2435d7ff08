"""What goes wrong on the way is said on the command line, with the value, the cure and a code."""

import numpy as np
import pytest
from click.testing import CliRunner

from scalespec.cli import main
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.store.model import save_model
from scalespec.surveys.lamost import WAVELENGTH

FAILED, WRONG = 1, 2


def model(folder, wavelength=WAVELENGTH, **facts):
    """A stored model of random weights, as it should be but for `wavelength` and `facts`."""
    facts = {"resolving_power": 1800.0, "normalization": {"method": "continuum"}} | facts
    spec = EmulatorSpec("model", ("teff", "logg"), [4000, 0], [7000, 5], wavelength, **facts)
    save_model(str(folder), Payne(spec, hidden=(4,)))
    return folder


def said(*args):
    """Exit code and text of a command, lines joined."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    return result.exit_code, " ".join(result.output.split())


HALF_A_PIXEL = 10**0.00005


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"wavelength": WAVELENGTH * HALF_A_PIXEL}, "pixels lie up to 0.50 pixels off"),
        ({"wavelength": WAVELENGTH / 2}, "choose another model"),  # no wavelength in common
        ({"resolving_power": 900.0}, "a model cannot be sharpened"),
        ({"resolving_power": None}, "does not say its resolving power"),
        ({"normalization": {"method": "spline"}}, "is normalized by"),
    ],
)
def test_a_model_that_does_not_fit_the_spectra_is_refused(tmp_path, write_survey, facts, text):
    (file,) = write_survey(tmp_path, 1)
    bad = model(tmp_path / "model", **facts)
    code, told = said("label", file, "--model", bad, "-o", tmp_path / "labels.parquet")
    assert code == FAILED
    assert text in told


def test_a_damaged_model_is_refused(tmp_path, write_survey):
    (file,) = write_survey(tmp_path, 1)
    bad = model(tmp_path / "model")
    weights = bytearray((bad / "weights.npz").read_bytes())
    weights[-1] ^= 1
    (bad / "weights.npz").write_bytes(bytes(weights))
    code, told = said("label", file, "--model", bad, "-o", tmp_path / "labels.parquet")
    assert code == FAILED
    assert "damaged" in told


def test_a_model_that_is_not_there_is_named(tmp_path, write_survey):
    (file,) = write_survey(tmp_path, 1)
    code, told = said("label", file, "--model", tmp_path / "no", "-o", tmp_path / "x.parquet")
    assert code == FAILED
    assert "no model there" in told


RUN = '[run]\nname = "x"\nworkspace = "work"\n[ingest]\nfiles = "{files}"\n{more}'


@pytest.mark.parametrize(
    ("files", "more", "code", "text"),
    [
        ("empty", "", WRONG, "nothing to read"),
        ("nowhere/*.fits", "", FAILED, "no such file or folder"),
        ("empty", "[preprocess]\nwidth = 5\n", WRONG, "Extra inputs are not permitted"),
        ("empty", "[fit]\n", WRONG, "[fit] wants a [infer] table"),
    ],
)
def test_a_run_that_cannot_be_says_why(tmp_path, files, more, code, text):
    (tmp_path / "empty").mkdir()
    run_file = tmp_path / "run.toml"
    run_file.write_text(RUN.format(files=files, more=more))
    found, told = said("run", run_file, "--engine", "local")
    assert found == code, told
    assert text in told


def test_files_that_hold_no_spectrum_are_rows_and_no_error(tmp_path, write_survey):
    (good,) = write_survey(tmp_path / "files", 1)
    good.with_name("spec-0-html.fits").write_text("<html>404</html>")
    run_file = tmp_path / "run.toml"
    run_file.write_text(RUN.format(files="files", more=""))
    assert said("run", run_file, "--engine", "local")[0] == 0
    code, told = said("status", run_file, "--json")
    assert code == 0
    assert '"NOT_FITS": 1' in told
    assert np.char.count(told, '"rows": 2') == 1
