"""Theory from a run file, the ultraviolet among it: against line synthesis and black bodies."""

import numpy as np
import pytest
import torch

from scalespec.config import LibraryTable, load_config, parse_config
from scalespec.errors import ConfigError
from scalespec.models.sed import continuum_flux
from scalespec.plan import Block
from scalespec.run import run
from scalespec.schema import check_spectra
from scalespec.stages import folders
from scalespec.stages.library import LIBRARY_SNR
from scalespec.stages.theory import theory_block, theory_model
from scalespec.status import plan_run, run_folders, verify_run
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import read_spectra

RUN_FILE = """
[run]
name = "theory"
workspace = "{folder}/work"
spectra_per_block = 4
[preprocess]
steps = ["simulate", "normalize"]
spike_height = 2.0
[preprocess.library]
n_spectra = 10
min_angstrom = 2500.0
max_angstrom = 4150.0
resolving_power = 1000.0
[preprocess.simulate]
bands = ["GU"]
resolving_power = 200.0
snr = 100.0
[preprocess.continuum]
width_angstrom = 300.0
"""
TABLE = LibraryTable(n_spectra=10, max_angstrom=4150.0, resolving_power=1000.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run that makes ten stars and observes them, in three blocks."""
    config = parse_config(RUN_FILE.format(folder=tmp_path_factory.mktemp("theory")))
    assert run(config, engine="local").exit_code == 0
    return config


@pytest.fixture(scope="module")
def library(config):
    return read_spectra(folders.source_url(config), 0, 10)


def test_a_run_makes_its_library_and_every_pixel_of_the_ultraviolet_band(config, library):
    check_spectra(library)
    assert len(Ledger(folders.theory_url(config)).done()) == 3
    made = read_spectra(f"{folders.spectra_url(config)}/spectra.zarr", 0, 10)
    assert 2550 < made["wavelength"].values[0] < 2560
    # The noise of a star that is dark at 2,600 Å may leave a pixel nothing to be normalized by.
    assert (made["ivar"].values > 0).mean() > 0.99
    assert (made["ivar"].values > 0).any(axis=0).all()
    np.testing.assert_array_equal(made["labels"], library["labels"])
    np.testing.assert_allclose(made["snr"], 100, rtol=0.1)  # the median of 180 noisy pixels


def test_lines_are_of_line_synthesis_and_light_of_the_continuum(library):
    labels = library["labels"].to_numpy().astype(np.float64)
    model = theory_model(TABLE)
    with torch.no_grad():
        lines = model(torch.from_numpy(labels)).numpy()
    names = tuple(library["label"].to_numpy())
    light = continuum_flux(labels, names, library["wavelength"].to_numpy())
    # Labels are kept as float32: 1e-7 of 6,000 K moves a line's flux by less.
    np.testing.assert_allclose(library["flux"], lines * light, rtol=1e-4, atol=1e-5)
    snr = library["flux"].to_numpy() * np.sqrt(library["ivar"].to_numpy())
    np.testing.assert_allclose(snr[library["flux"].to_numpy() > 0], LIBRARY_SNR, rtol=1e-5)


def test_a_star_does_not_depend_on_its_block():
    model = theory_model(TABLE)
    whole = theory_block(model, Block("spectrum", 0, 0, 6), seed=3)
    part = theory_block(model, Block("spectrum", 1, 4, 6), seed=3)
    np.testing.assert_array_equal(part["labels"], whole["labels"][4:])
    # Batches of another size round otherwise.
    np.testing.assert_allclose(part["flux"], whole["flux"][4:], rtol=1e-4)
    assert (
        theory_block(model, Block("spectrum", 0, 0, 2), seed=4)["labels"] != whole["labels"][:2]
    ).all()


def test_the_continuum_falls_at_hydrogens_edge_and_is_a_black_body_far_from_it():
    names = ("teff", "logg", "fe_h")
    labels = np.array([[10_000.0, 4.0, 0.0], [5000.0, 3.0, 0.0]])
    jump = continuum_flux(labels, names, np.array([3646.0, 3648.0]))
    drop = np.log10(jump[:, 1] / jump[:, 0])
    assert 0.4 < drop[0] < 0.6  # A0 V: 0.5 dex (Allen's Astrophysical Quantities, 15.3.1)
    assert 0 < drop[1] < 0.1
    wave = np.array([4000.0, 5000.0, 8000.0])
    flux = continuum_flux(labels[1:], names, wave)[0]
    x = 1.438776877e8 / (wave * 5000.0)
    body = wave**-5 / np.expm1(x)
    # Hydrogen's negative ion lets light out from deeper, hotter gas the bluer it is.
    assert (np.diff(flux / body) < 0).all()
    np.testing.assert_allclose(flux / flux[1], body / body[1], rtol=0.4)
    with pytest.raises(ValueError, match=r"want labels \(n, 3\), got \(2, 2\)"):
        continuum_flux(labels[:, :2], names, wave)


def test_a_plan_and_a_check_know_the_library(config):
    (fact,) = plan_run(config)
    assert (fact["spectra"], fact["blocks"]) == (10, 3)
    assert fact["bytes"] == 10 * len(theory_model(TABLE).spec.wavelength) * 12
    assert [folder.stage for folder in run_folders(config)] == ["preprocess library", "preprocess"]
    problems, checked = verify_run(config)
    assert problems == []
    assert checked > 2 * 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_angstrom": 2000.0}, "line synthesis reaches 2400 to 17200"),
        ({"labels": ("teff", "logg")}, r"wants labels \['fe_h'\]"),
        ({"labels": ("teff", "logg", "fe_h", "xx_fe")}, r"labels \['xx_fe'\] are unknown"),
    ],
)
def test_what_line_synthesis_does_not_know_is_refused(changed, message):
    table = LibraryTable(**(TABLE.model_dump() | changed))
    with pytest.raises(ConfigError, match=message):
        theory_model(table)


def test_a_range_must_not_be_empty_and_one_thing_is_preprocessed(tmp_path):
    with pytest.raises(ValueError, match="min_angstrom = 5000 must be below max_angstrom = 4000"):
        LibraryTable(n_spectra=1, min_angstrom=5000, max_angstrom=4000)
    text = RUN_FILE.format(folder=tmp_path).replace("[preprocess]", '[preprocess]\nsource = "x"')
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match="give one of source and library"):
        load_config(tmp_path / "run.toml")
