"""A run that only preprocesses ends in a page, too: counts, before and after, statistics."""

from html import escape
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from scalespec.config import RunConfig, load_config, parse_config
from scalespec.errors import ConfigError, StoreError
from scalespec.plan import plan_blocks
from scalespec.schema import PER_SPECTRUM, MaskBit, SpectrumStatus
from scalespec.stages import folders, survey_pages
from scalespec.stages.preprocess import preprocess
from scalespec.stages.report import write_report
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import create_arms, create_spectra, write_arms, write_spectra

N, ROWS = 12, 4
WAVELENGTH = np.geomspace(3800.0, 9200.0, 600)
SCRIPT = "<script>alert(1)</script>"


def spectra_of(flux_unit="counts"):
    """Spectra of growing S/N; row 2 is broken, row 5 has a bad pixel."""
    rng, n = np.random.default_rng(0), N
    sigma = 0.2 / (1 + np.arange(n))[:, None]
    shape = 1 - 0.5 * np.exp(-0.5 * ((WAVELENGTH - 5180) / 20) ** 2)
    readable = (np.arange(n) != 2)[:, None]
    flux = (shape + sigma * rng.normal(size=(n, 600))) * readable
    ivar = np.broadcast_to(readable / sigma**2, flux.shape).copy()
    ivar[5, 7] = 0
    mask = np.where(ivar > 0, 0, int(MaskBit.NO_IVAR)).astype(np.uint32)
    columns = {
        name: ("spectrum", np.full(n, unknown, dtype))
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    columns["obsid"] = ("spectrum", 900 + np.arange(n))
    columns["snr"] = ("spectrum", (5.0 * (1 + np.arange(n)) * readable[:, 0]).astype(np.float32))
    columns["rv"] = ("spectrum", np.zeros(n, np.float32))
    status = np.where(readable[:, 0], 0, int(SpectrumStatus.CORRUPT)).astype(np.uint32)
    columns["status"] = ("spectrum", status)
    dims = ("spectrum", "wavelength")
    pixels = {"flux": flux.astype(np.float32), "ivar": ivar.astype(np.float32), "mask": mask}
    attrs = {"survey": "made up", "wavelength_medium": "vacuum", "frame": "rest"}
    attrs |= {"flux_unit": flux_unit, "resolving_power": 1800.0}
    attrs["log10_wavelength_start"] = float(np.log10(WAVELENGTH[0]))
    attrs["log10_wavelength_step"] = float(np.diff(np.log10(WAVELENGTH)).mean())
    variables = {name: (dims, values) for name, values in pixels.items()} | columns
    return xr.Dataset(variables, {"wavelength": ("wavelength", WAVELENGTH)}, attrs)


def config_of(tmp_path, extra="", head=""):
    text = f"""
[run]
name = "{SCRIPT}"
workspace = "{tmp_path}/work"
spectra_per_block = {ROWS}
[preprocess]
source = "{tmp_path}/source/spectra.zarr"
{head}
[report]
{extra}
"""
    return parse_config(text)


SIMULATE = """
steps = ["simulate", "normalize"]
statistics = true
components = 2
continuum = { width_angstrom = 300.0 }
simulate = { bands = ["GU", "GV"], resolving_power = 200.0, snr = 20.0 }
"""


@pytest.fixture
def made(tiny, tmp_path):
    """A function that stores spectra, preprocesses them and returns the run."""

    def make(head="", **values):
        source = f"{tmp_path}/source/spectra.zarr"
        spectra = spectra_of(**values)
        create_spectra(source, spectra, n_spectrum=N, shard_rows=ROWS)
        for block in plan_blocks(N, ROWS):
            write_spectra(source, block, spectra.isel(spectrum=slice(block.start, block.stop)))
        config = config_of(tmp_path, head=head)
        tiny_steps(tiny, config)
        return config

    return make


def tiny_steps(tiny, config):
    """Run the steps one by one: statistics begin when preprocessing has ended."""
    for stage in preprocess(config):
        tiny.run_stage([stage])
        for block in stage.blocks:
            assert Ledger(stage.url).committed(block)


def test_a_run_of_spectra_alone_ends_in_a_page(made):
    config = made(SIMULATE)
    html = paths.read_bytes(write_report(config)).decode()
    assert SCRIPT not in html
    assert escape(SCRIPT) in html
    assert "This cannot be shown" not in html
    for heading in ("Spectra", "Before and after", "Survey statistics", "Throughput"):
        assert f"<h2>{heading}</h2>" in html
    assert "Kiel diagram" not in html
    assert "CORRUPT" in html
    assert "12 spectra: simulate → normalize" in html
    assert html.count("<img") == 3 + 1 + 1 + 1  # examples, S/N, means, components


def test_a_script_in_a_header_stays_text(made, undrawn):
    config = made('steps = ["mask"]', flux_unit=SCRIPT)
    html = survey_pages.spectra_summary(config) + survey_pages.before_and_after(config)
    assert SCRIPT not in html
    assert "&lt;script&gt;" in html


def test_examples_are_of_high_median_and_low_snr(made, undrawn):
    config = made('steps = ["mask"]')
    found = survey_pages.pick_rows(config)
    assert found == {"High S/N": 11, "Median S/N": 6, "Low S/N": 0}
    assert survey_pages.pick_rows(config) == found
    text = survey_pages.before_and_after(config)
    assert text.count("<img") == 3


def test_statistics_without_a_summary_are_of_a_sample(made, undrawn, monkeypatch):
    monkeypatch.setattr(survey_pages, "STATISTICS_ROWS", 2)
    text = survey_pages.survey_statistics(made('steps = ["mask"]'))
    assert "Of 6 spectra in places spread over the run" in text
    assert "statistics = true" in text
    # five of six spectra, row 2 not among rows 0, 1, 4, 5, 8, 9: one pixel of 3,600 is bad
    assert "<b>6</b><span>spectra with information" in text
    assert "NO_IVAR" in text
    assert "0.0278" in text


def test_every_class_of_counts_is_shown(made):
    text = survey_pages.spectra_summary(made(SIMULATE))
    assert "<td>CORRUPT</td><td" in text
    assert "<b>12</b><span>preprocessed" in text
    assert ">600<" in text  # pixels before
    assert ">1,800<" in text
    assert ">200<" in text


def test_a_block_that_is_missing_is_said(made):
    config = made(SIMULATE)
    paths.delete(paths.join(folders.spectra_url(config), "commits", "000001.json"))
    text = survey_pages.spectra_summary(config)
    assert "4 planned spectra are in blocks that failed" in text
    assert set(survey_pages.pick_rows(config).values()) <= {0, 1, 3, 8, 9, 10, 11}


def test_a_survey_with_arms_is_drawn_arm_by_arm(tmp_path):
    url = f"{tmp_path}/spectra.zarr"
    blue, red = (spectra_of().isel(spectrum=slice(0, ROWS)) for _ in "br")
    red = red.rename(wavelength="pixel").drop_vars("pixel")
    own = np.broadcast_to(WAVELENGTH + 100, (ROWS, 600)).copy()
    own[:, -5:] = 0  # this spectrum has fewer pixels
    red = red.assign(wavelength=(("spectrum", "pixel"), own))
    root = blue.drop_vars(["flux", "ivar", "mask", "wavelength"]).assign_attrs(arms=["b", "r"])
    groups = {"": root, "b": blue, "r": red}
    create_arms(url, groups, n_spectrum=ROWS, shard_rows=ROWS)
    write_arms(url, plan_blocks(ROWS, ROWS)[0], groups)
    arms = survey_pages._read_arms(url, 1)
    curves = [survey_pages._curve(one, name) for name, one in arms.items()]
    assert [(curve.name, len(curve.wavelength)) for curve in curves] == [("b", 600), ("r", 595)]
    np.testing.assert_array_equal(curves[1].wavelength, WAVELENGTH[:-5] + 100)


def test_a_whole_run_has_the_same_sections(tiny_run, undrawn):
    text = survey_pages.before_and_after(tiny_run.config)
    assert text.count("<img") == 3
    assert "<b>19</b><span>spectra with information" in survey_pages.survey_statistics(
        tiny_run.config
    )


def test_no_spectrum_with_information_is_said(tiny, tmp_path):
    source = f"{tmp_path}/source/spectra.zarr"
    create_spectra(source, spectra_of(), n_spectrum=N, shard_rows=ROWS)
    config = config_of(tmp_path, head='steps = ["mask"]')
    tiny_steps(tiny, config)
    assert "No spectrum holds information" in survey_pages.before_and_after(config)
    assert "no pixel" not in survey_pages.spectra_summary(config)
    assert "<b>0</b><span>spectra with information" in survey_pages.survey_statistics(config)


def test_a_page_before_anything_is_preprocessed_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        write_report(config_of(tmp_path))


def test_a_run_with_fits_still_wants_its_catalog():
    table = {"run": {"name": "a", "workspace": "w"}, "ingest": {"files": "*"}, "preprocess": {}}
    assert RunConfig.model_validate(table | {"report": {}}).stages()[-1] == "report"
    fitted = table | {"infer": {"models": ["m"]}, "fit": {}, "report": {}}
    with pytest.raises(ValueError, match=r"\[report\] wants a \[publish\] table"):
        RunConfig.model_validate(fitted)


def test_a_condition_on_no_truth_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="give truth, too"):
        config_of(tmp_path, 'truth_where = "binary == 0"')


@pytest.mark.parametrize("name", ["csst-lamost", "csst-theory"])
def test_the_run_files_of_simulated_spectra_end_in_a_page(name):
    path = Path(__file__).resolve().parents[2] / "deploy" / "runs" / f"{name}.toml"
    assert load_config(path).stages()[-2:] == ("preprocess", "report")
