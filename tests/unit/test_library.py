"""A library to train on: labelled spectra over the whole box, block by block from a seed."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from scalespec.kernels.observation_surveys import INSTRUMENTS
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.schema import check_spectra
from scalespec.stages.library import BLOCK_ROWS, grid_block, library_stage
from scalespec.stages.mock_spectra import LABELS as OURS
from scalespec.stages.mock_spectra import synthesis_model
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import read_spectra
from scalespec.surveys.lamost import WAVELENGTH

LABELS = ("teff", "logg", "fe_h")
LOW, HIGH = np.array([4000.0, 1.0, -2.0]), np.array([6500.0, 5.0, 0.5])
N = BLOCK_ROWS + 5


def payne():
    """An emulator that does not say its R: of the survey's own."""
    spec = EmulatorSpec("toy", LABELS, LOW, HIGH, WAVELENGTH)
    return Payne(spec, hidden=(4,), seed=2).eval()


def stage_in(folder, **options):
    options = {"n_spectra": N, "seed": 1, "labels": (), "truth_model": payne()} | options
    return library_stage(str(folder), **options)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A library of one whole block and five spectra."""
    stage = stage_in(tmp_path_factory.mktemp("library"))
    value = stage.setup()
    for block in stage.blocks:
        stage.write(block, stage.compute(value, stage.read(block)))
    return stage


@pytest.fixture(scope="module")
def library(stage):
    return read_spectra(f"{stage.url}/spectra.zarr", 0, N)


def test_the_library_is_raw_spectra_with_labels(library):
    check_spectra(library)
    assert library.sizes == {"spectrum": N, "wavelength": 3909, "label": 3}
    assert library["label"].to_numpy().tolist() == list(LABELS)


def test_every_row_is_filled(library):
    assert (library["snr"] > 0).all()
    assert (library["ivar"].to_numpy() > 0).any(axis=1).all()


def test_labels_are_all_over_the_box(library):
    labels = library["labels"].to_numpy()
    assert np.all((labels >= LOW - 1e-3) & (labels <= HIGH + 1e-3))
    quantiles = np.quantile((labels - LOW) / (HIGH - LOW), [0.02, 0.98], axis=0)
    assert np.all(np.diff(quantiles, axis=0) > 0.8)


def test_flux_is_the_emulators_but_for_a_smooth_slope(library):
    part = library.isel(spectrum=[0, BLOCK_ROWS])
    with torch.inference_mode():
        flux = payne()(torch.tensor(part["labels"].to_numpy())).numpy()
    covered = (part["ivar"].to_numpy() > 0).all(axis=0)
    slope = (part["flux"].to_numpy() / flux)[:, covered]
    assert covered.mean() > 0.99  # all but the ends, where a shift would need more
    assert np.abs(np.diff(slope, axis=1) / slope[:, 1:]).max() < 3e-3  # no line is left in it


def test_blocks_are_drawn_anew(library):
    labels = library["labels"].to_numpy()
    assert len(np.unique(labels, axis=0)) == N


def test_any_worker_makes_the_same_block(stage, library):
    stage = pickle.loads(pickle.dumps(stage))
    block = stage.blocks[1]
    made = stage.compute(stage.setup(), stage.read(block))
    np.testing.assert_array_equal(made["flux"], library["flux"][BLOCK_ROWS:])
    np.testing.assert_array_equal(made["labels"], library["labels"][BLOCK_ROWS:])


def test_another_seed_makes_other_stars(tmp_path, library):
    other = stage_in(tmp_path, n_spectra=4, seed=2)
    made = other.compute(other.setup(), other.blocks[0])
    assert not set(made["labels"].to_numpy()[:, 0]) & set(library["labels"].to_numpy()[:, 0])


def test_a_block_that_stands_is_not_written_again(stage):
    block = stage.blocks[1]
    standing = Ledger(stage.url).committed(block)
    empty = stage.compute(stage.setup(), block) * 0
    assert stage.write(block, empty) == standing
    assert (read_spectra(f"{stage.url}/spectra.zarr", *(N - 5, N))["flux"] > 0).any()


def test_a_library_goes_on_where_it_stopped(stage):
    again = stage_in(stage.url)
    done = Ledger(again.url).done()
    assert done == {block.index for block in again.blocks}
    assert (read_spectra(f"{again.url}/spectra.zarr", 0, 1)["flux"] > 0).any()


def test_without_a_truth_model_our_line_synthesis_makes_the_stars(tmp_path):
    labels = ("teff", "logg", "fe_h", "mg_fe")
    stage = stage_in(tmp_path, n_spectra=2, truth_model=None, labels=labels)
    made = stage.compute(stage.setup(), stage.blocks[0])
    assert made["label"].to_numpy().tolist() == list(labels)
    assert type(stage.setup()).__name__ == "LineSynthesis"


def test_a_library_block_is_raw_spectra_with_labels():
    model = synthesis_model()
    library = grid_block(2, model, rows=8, seed=1)
    check_spectra(library)
    assert library.labels.dims == ("spectrum", "label")
    assert library.label.to_numpy().tolist() == list(OURS)
    assert np.allclose(library.flux * np.sqrt(library.ivar), 1e5, rtol=1e-4)
    assert np.array_equal(library.wavelength, WAVELENGTH)
    assert np.all(library.rv == 0)
    assert library.identical(grid_block(2, model, rows=8, seed=1))
    other = grid_block(3, model, rows=8, seed=1)
    assert not set(library.obsid.to_numpy()) & set(other.obsid.to_numpy())


def test_lines_are_as_wide_as_the_instrument_shows_them():
    """Around 5500 Å, against scipy's Gaussian; the slope made on top is a parabola there."""
    model = synthesis_model()
    library = grid_block(0, model, rows=4, seed=1)
    with torch.no_grad():
        sharp = model(torch.tensor(library.labels.to_numpy())).numpy()
    instrument = INSTRUMENTS["lamost_lrs/coadd"]
    power = 1800 * (1 - instrument.fibre_droop / 3)  # R at 5500 Å in the mean fibre
    sigma = np.sqrt((2.0 / power) ** 2 - (2.0 / 1800) ** 2) / 2 / (2.35482 * np.log(10) * 5e-5)
    expected = gaussian_filter1d(sharp, sigma, axis=1)[:, 24 : 24 + 2 * 3909 : 2]
    middle = slice(1690, 1750)  # 5450 to 5530 Å
    ratio = (library.flux.to_numpy() / expected)[:, middle]
    x = np.linspace(-1, 1, ratio.shape[1])
    for row in ratio / ratio.mean(axis=1, keepdims=True):
        assert np.abs(row - np.polyval(np.polyfit(x, row, 2), x)).max() < 2e-3


def test_an_uneven_grid_is_refused():
    spec = EmulatorSpec("toy", LABELS, LOW, HIGH, np.linspace(3700, 9000, 2000), 1800.0)
    with pytest.raises(ValueError, match="log"):
        grid_block(0, Payne(spec, hidden=(4,)).eval(), rows=2)


def test_a_library_of_even_fibres_is_sharper():
    model = payne()
    model.spec = replace(model.spec, resolving_power=5000.0)
    mean, even = (grid_block(0, model, rows=4, even_fibres=e)["flux"].to_numpy() for e in (0, 1))
    roughness = [
        np.abs(np.diff(flux / flux.mean(1, keepdims=True))).mean() for flux in (mean, even)
    ]
    assert 1.0001 < roughness[1] / roughness[0] < 1.1  # R higher by 1.3 %
