"""What is said before a run of pixels that are too coarse for the lines put on them."""

import logging

import numpy as np
import pytest

from scalespec.config import RunConfig
from scalespec.stages.named_inputs import check_inputs
from scalespec.stages.sampling import sampling_notes
from scalespec.store.spectra import create_spectra
from scalespec.surveys import SURVEYS

DESI = {"min_angstrom": 3650.0, "max_angstrom": 9800.0}


def config_of(survey, grid, *, steps=("regrid",), **preprocess):
    table = {"steps": steps, "grid": grid} | preprocess
    ingest = {"survey": survey, "files": "*"} if survey else None
    return RunConfig(run={"name": "t", "workspace": "w"}, ingest=ingest, preprocess=table)


def test_an_arm_on_a_grid_coarser_than_its_lines_is_named_with_error_and_cure():
    blue, red, infrared = sampling_notes(config_of("desi", DESI | {"step_log10": 1e-4}))
    assert "desi b has" in blue
    assert "desi r has" in red
    # 7520 Å / 4600 / 0.8 Å, and 1 / (4600 * 1e-4 ln 10)
    assert "desi z has 2.04 in the data and 0.94 pixels per FWHM on the grid" in infrared
    assert "9% of their depth by rebinning and 10% where fits move them" in infrared
    assert "step_log10 = 4.3e-05, or resolving_power = 1974, tells them" in infrared


def test_the_grid_that_is_advised_is_fine_enough():
    notes = sampling_notes(config_of("desi", DESI | {"step_log10": 4.2e-5}))
    assert not any("half a pixel" in note for note in notes)
    # Lines of two pixels stay blurred, however fine the grid: only less resolution helps.
    assert "desi z has 2.04 in the data" in notes[-1]
    assert notes[-1].endswith("15% of their depth by rebinning; resolving_power = 2300 leaves 3%")


def test_a_resolving_power_that_pixels_can_hold_needs_no_word():
    assert sampling_notes(config_of("desi", DESI | {"resolving_power": 1000.0})) == []
    grid = DESI | {"resolving_power": 1500.0, "step_log10": 1e-4}
    (note,) = sampling_notes(config_of("desi", grid))
    assert "desi b has 1.75 in the data" in note  # and 1.7 times that afterwards
    assert note.endswith("resolving_power = 1050 leaves 2%")


@pytest.mark.parametrize(
    ("survey", "grid"),
    [
        # On its own pixels nothing is rebinned; the last are 2.4 per FWHM.
        ("lamost_lrs", {"min_angstrom": 10**3.5782, "max_angstrom": 9000.0, "step_log10": 1e-4}),
        ("lamost_lrs", {"min_angstrom": 4e3, "max_angstrom": 9e3, "resolving_power": 200.0}),
        ("apogee", {"min_angstrom": 15200.0, "max_angstrom": 16900.0, "step_log10": 6e-6}),
        # Beyond what the arms see.
        ("desi", {"min_angstrom": 15200.0, "max_angstrom": 16900.0, "step_log10": 1e-4}),
    ],
)
def test_nothing_is_said_of_pixels_that_are_fine_enough(survey, grid):
    assert sampling_notes(config_of(survey, grid)) == []
    assert sampling_notes(config_of("desi", None, steps=("mask",))) == []


def test_spectra_with_a_grid_each_are_judged_by_the_common_one():
    grid = {"min_angstrom": 15200.0, "max_angstrom": 16900.0, "step_angstrom": 0.5}
    notes = sampling_notes(config_of("apogee_chips", grid))
    assert len(notes) == 3  # arms
    for note in notes:
        assert " has 1.35 pixels per FWHM on the grid" in note  # 15200 / 22500 / 0.5
        assert "by rebinning" not in note
        assert "step_angstrom = 0.31" in note


def test_a_store_that_is_the_source_is_judged_and_one_that_is_not_there_yet_is_not(tmp_path):
    grid = {"min_angstrom": 4000.0, "max_angstrom": 9000.0, "step_angstrom": 4.0}
    url = str(tmp_path / "spectra.zarr")
    table = {"source": url, "resolving_power": 1500.0}
    assert sampling_notes(config_of("", grid, **table)) == []
    made = SURVEYS["lamost_lrs"].read_block([])[0][""]
    create_spectra(url, made, n_spectrum=0, shard_rows=4)
    (note,) = sampling_notes(config_of("", grid, **table))
    assert note.startswith("preprocess.grid: lamost_lrs has 2.90 in the data and 0.67 pixels")


def test_data_of_unknown_resolution_are_not_judged(monkeypatch):
    survey = SURVEYS["desi"]
    groups, index = survey.read_block([])
    for group in groups.values():
        group.attrs.pop("resolving_power", None)
    monkeypatch.setattr(type(survey), "read_block", lambda *_: (groups, index))
    assert sampling_notes(config_of("desi", DESI | {"step_log10": 1e-4})) == []


@pytest.mark.parametrize(("verbs", "said"), [((), 3), (("preprocess",), 3), (("ingest",), 0)])
def test_plan_and_run_warn_once_an_arm(caplog, verbs, said):
    """Both look at what the run file names first, by this function."""
    with caplog.at_level(logging.WARNING):
        check_inputs(config_of("desi", DESI | {"step_log10": 1e-4}), verbs)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == said
    assert np.all(["pixels per FWHM" in message for message in found])
