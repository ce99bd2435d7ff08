"""A few files, with no run file: the public names, and labels for whatever can be read."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

import scalespec
from scalespec import fit_labels, label_files, load_model, prepare, read_survey
from scalespec.cli import main
from scalespec.config import PreprocessTable
from scalespec.errors import ConfigError, ModelError
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.optimize.result import FitStatus
from scalespec.schema import SpectrumStatus
from scalespec.stages import label
from scalespec.stages.label import preparation_for, without_labels, write_labels
from scalespec.stages.mock import MockSurvey, mock_block
from scalespec.store.model import save_model
from scalespec.surveys.lamost import WAVELENGTH

LABELS = ("teff", "logg", "fe_h")
LOW, HIGH = np.array([3800.0, 0.0, -2.5]), np.array([7500.0, 5.0, 0.5])
CONTINUUM = {"method": "continuum"}
PIXELS = (800, 2000)  # of the models stored: a third of the spectrum, in a third of the time


def lines(seed=1, wavelength=WAVELENGTH, **facts):
    """A Payne of random weights, smoothed to lines of R = 1800."""
    facts = {"resolving_power": 1800.0, "normalization": CONTINUUM} | facts
    spec = EmulatorSpec(f"lines {seed}", LABELS, LOW, HIGH, wavelength, **facts)
    model = Payne(spec, hidden=(8,), seed=seed)
    return model.broadened(1.1, resolving_power=1800.0).eval()


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A made-up survey of 24 stars whose spectra a Payne made; its folder, truth and model."""
    folder = tmp_path_factory.mktemp("survey")
    model = lines()
    maker = lines()  # of no stated R: files hold its lines as they are, no instrument widens them
    maker.spec = replace(maker.spec, resolving_power=None)
    made = mock_block(0, maker, MockSurvey("unused", n_spectra=24, seed=11, truth_model=maker))
    for name, content in made.files:
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    save_model(str(folder / "model"), model.slice_grid(*PIXELS))
    truth = pd.DataFrame({name: values for name, values in made.truth.items() if values.ndim == 1})
    return folder, truth[truth["broken"] == ""].reset_index(drop=True)


@pytest.fixture(scope="module")
def labelled(survey):
    """Two files, and three that are broken in ways of their own."""
    folder, truth = survey
    broken = folder / "broken.fits"
    broken.write_bytes(b"<html>503</html>")
    cut = folder / "cut.fits.gz"
    cut.write_bytes((folder / truth["file"][0]).read_bytes()[:5000])
    files = [str(folder / truth["file"][0]), str(broken), str(folder / truth["file"][1])]
    files += [str(folder / "none.fits"), str(cut)]
    return files, label_files(files, models=[str(folder / "model")])


def test_every_file_is_a_row_in_the_order_given(labelled):
    files, table = labelled
    assert table["file"].tolist() == files


def test_a_file_that_cannot_be_read_says_why(labelled):
    _, table = labelled
    wanted = ["", "not_fits: ", "", "missing: ", "truncated: "]
    for reason, begins in zip(table["reason"], wanted, strict=True):
        assert reason.startswith(begins)
        assert bool(reason) == bool(begins)
    status = [
        SpectrumStatus(int(value)) & SpectrumStatus(0x7F) for value in table["spectrum_status"]
    ]
    assert status[1::2] == [SpectrumStatus.NOT_FITS, SpectrumStatus.MISSING]
    broken = np.array([1, 3, 4])
    assert table["fit_status"][broken].tolist() == [FitStatus.BAD_SPECTRUM] * 3
    assert table.loc[broken, ["teff", "teff_err", "rv", "chi2"]].isna().all(axis=None)
    assert (table["model"][broken] == -1).all()


def test_a_file_that_can_be_read_has_labels_near_the_truth(labelled, survey):
    _, table = labelled
    _, truth = survey
    found = table.iloc[[0, 2]].reset_index(drop=True)
    assert found["obsid"].tolist() == truth["obsid"][:2].tolist()
    for name in (*LABELS, "rv"):
        pull = (found[name] - truth[name][:2]) / found[f"{name}_err"]
        assert np.abs(pull).max() < 5, name
    assert (found["snr"] > 5).all()


def test_no_column_is_there_twice(labelled):
    assert not labelled[1].columns.duplicated().any()


def test_folders_globs_and_lists_stand_for_their_files(survey, tmp_path, monkeypatch):
    folder, _ = survey
    every = sorted(str(path) for path in (folder / "files").rglob("*.fits.gz"))
    odd = tmp_path / "spec-[1].fits"
    odd.touch()
    (tmp_path / "list.txt").write_text(f"{every[1]}\n{every[0]}\n")
    asked = []

    def fetch(urls):
        asked.extend(urls)
        raise ConfigError("seen")

    monkeypatch.setattr(label, "fetch", fetch)
    files = [str(odd), f"{folder}/files/**/*.fits.gz", str(folder / "files")]
    files += ["none.fits", f"@{tmp_path}/list.txt"]
    with pytest.raises(ConfigError, match="seen"):
        label_files(files, models=["m"])
    assert asked == [str(odd), *every, *every, "none.fits", *every[:2]]


@pytest.mark.parametrize("name", ["", "/*.fits.gz"])
def test_a_folder_or_glob_without_files_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="no file of survey 'lamost_lrs' there; of a folder"):
        label_files([f"{tmp_path}{name}"], models=["m"])


@pytest.mark.parametrize("ending", ["parquet", "fits", "vot"])
def test_labels_are_written_with_units_and_meanings(labelled, tmp_path, ending):
    files, table = labelled
    target = str(tmp_path / f"labels.{ending}")
    write_labels(table, target)
    if ending == "parquet":
        schema = pq.read_schema(target)
        assert schema.field("teff").metadata[b"unit"] == b"K"
        assert schema.field("teff").metadata[b"description"] == b"effective temperature"
        read = pq.read_table(target).to_pandas()
    else:
        read = Table.read(target)
        assert read["teff"].unit == "K"
        assert read.colnames == list(table)
        read = pd.DataFrame({name: list(read[name]) for name in ("file", "teff")})
    if ending == "fits":
        assert "spectrum_status 1 MISSING: no such file" in str(
            fits.getheader(target, 1)["COMMENT"]
        )
    assert read["file"].tolist() == files
    known = table["model"] >= 0
    assert np.array_equal(read["teff"][known].astype(np.float32), table["teff"][known])


def test_the_verb_names_what_has_no_labels_and_ends_with_3(labelled, monkeypatch, tmp_path):
    files, table = labelled
    monkeypatch.setattr(label, "label_files", lambda *_, **__: table)
    target = str(tmp_path / "labels.fits")
    result = CliRunner().invoke(main, ["label", *files, "--model", "m", "-o", target])
    assert result.exit_code == 3
    said = result.stderr.splitlines()
    assert len(said) == 3
    assert said[0].startswith(f"{files[1]}: NOT_FITS, BAD_SPECTRUM: neither gzip nor FITS")
    assert said[1] == f"{files[3]}: MISSING, BAD_SPECTRUM: no such file"
    assert said[2].startswith(f"{files[4]}: TRUNCATED, BAD_SPECTRUM: ")
    assert "5 rows, 3 without labels: " in result.stdout
    assert "512" not in result.stdout.replace(str(tmp_path), "").replace(files[0], "").split()


def test_the_verb_ends_with_0_where_all_have_labels(labelled, monkeypatch, tmp_path):
    _, table = labelled
    monkeypatch.setattr(label, "label_files", lambda *_, **__: table.iloc[[0, 2]])
    target = str(tmp_path / "labels.fits")
    result = CliRunner().invoke(main, ["label", "a", "--model", "m", "-o", target])
    assert (result.exit_code, result.stderr) == (0, "")


def test_of_many_files_without_labels_the_first_are_named(labelled):
    _, table = labelled
    n, lines = without_labels(pd.concat([table.iloc[[3]]] * 30))
    assert (n, len(lines), lines[-1]) == (30, 21, "10 more, as their column 'reason' says")


def test_of_several_models_the_best_is_kept_per_star(survey):
    folder, truth = survey
    save_model(str(folder / "other"), lines(seed=2).slice_grid(*PIXELS))
    files = [str(folder / name) for name in truth["file"][:3]]
    table = label_files(files, models=[str(folder / "other"), str(folder / "model")])
    assert table["model"].tolist() == [1, 1, 1]


def test_an_unknown_survey_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"'hubble' is not one of \['apogee', "):
        label_files(["a.fits"], models=["m"], survey="hubble")


def test_five_lines_fit_a_folder(survey):
    folder, truth = survey
    spectra = read_survey(folder / "files")
    p = prepare(spectra, load_model(str(folder / "model")))
    fit = fit_labels(p.model, p.flux, p.ivar, smoothing=p.smoothing)
    place = pd.Index(spectra["obsid"].to_numpy()).get_indexer(truth["obsid"])
    fitted = fit.take(place[fit.status[place] == 0])
    assert len(fitted) > 15
    true = truth[list(LABELS)].to_numpy()[fit.status[place] == 0]
    pulls = (fitted.labels - true) / fitted.label_err
    low, high = np.percentile(pulls, [15.87, 84.13])
    assert 0.7 < (high - low) / 2 < 1.3  # some 60 pulls: 0.1
    assert p.spectra["file"].dims == ("spectrum",)  # strings come along


def test_a_prepared_spectrum_is_what_the_model_wants(survey):
    folder, truth = survey
    p = prepare(read_survey(folder / truth["file"][0]), load_model(str(folder / "model")))
    assert p.flux.shape == p.ivar.shape == (1, p.model.spec.n_pixel)
    np.testing.assert_array_equal(p.spectra["wavelength"], p.model.spec.wavelength)
    assert p.flux.dtype == p.ivar.dtype == np.float32
    assert np.median(p.flux[p.ivar > 0]) == pytest.approx(1, abs=0.05)


def test_a_model_that_is_normalized_like_the_data_needs_no_smoothing(survey):
    folder, truth = survey
    spectra = read_survey(folder / truth["file"][0])
    gaussian = {"method": "gaussian", "width_angstrom": 30.0}
    p = prepare(spectra, lines(normalization=gaussian))
    assert p.smoothing is None
    assert p.spectra.attrs["normalization"] == gaussian


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (0, 3909),  # more than the default
        (500, 3000),  # less
        (60, 3838),  # the very pixels of the default
    ],
)
def test_the_pixels_of_a_model_are_the_pixels_prepared(first, last, survey):
    folder, truth = survey
    model = lines(wavelength=WAVELENGTH[first:last])
    p = prepare(read_survey(folder / truth["file"][0]), model)
    inside = (model.spec.wavelength >= 3750 * (1 - 1e-4)) & (model.spec.wavelength <= 8950.9)
    np.testing.assert_array_equal(p.model.spec.wavelength, model.spec.wavelength[inside])


def test_a_model_far_from_the_survey_is_refused_with_both_ranges():
    wavelength = 10 ** (4.18 + 1e-4 * np.arange(500))
    with pytest.raises(ModelError, match=r"covers 15136-\d+ Å, the survey 3700-9099 Å: choose"):
        preparation_for(lines(wavelength=wavelength).spec, WAVELENGTH)


def test_preparation_changes_only_what_the_model_asks_for():
    spec = lines(normalization={"method": "gaussian", "width_angstrom": 80.0}).spec
    table, default = preparation_for(spec, WAVELENGTH), PreprocessTable()
    assert table.continuum.width_angstrom == 80
    changed = {"wavelength_min_angstrom", "wavelength_max_angstrom", "continuum"}
    assert table.model_dump(exclude=changed) == default.model_dump(exclude=changed)


# The public names.


@pytest.mark.parametrize("name", scalespec.__all__)
def test_a_public_name_can_be_imported(name):
    assert callable(getattr(scalespec, name))


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'scalespec' has no attribute 'fit'"):
        _ = scalespec.fit


def test_run_is_the_function_whoever_imported_its_module_first():
    code = (
        "import scalespec.run, scalespec, inspect\n"
        "from scalespec import run\n"
        "from scalespec.run import run as same\n"
        "assert inspect.isfunction(run) and run is same is scalespec.run\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, scalespec; scalespec.__version__\n"
        "heavy = {'torch', 'ray', 'dask', 'distributed', 'zarr', 'astropy', 'xarray'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
