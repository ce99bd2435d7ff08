"""Templates: rows of a store, on its own grid or another, and spectra that a model makes."""

import numpy as np
import pytest
import xarray as xr

from scalespec.config import ContinuumTable
from scalespec.kernels.wavelength import linear_grid, log_grid
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.plan import Block
from scalespec.schema import PER_SPECTRUM
from scalespec.stages.normalizers import normalizer
from scalespec.stages.templates import load_templates
from scalespec.store.model import save_model
from scalespec.store.spectra import create_spectra, write_spectra

GRID = log_grid(3.7, 1e-4, 800)
NORMAL = normalizer(GRID, ContinuumTable())


def write_store(url, wavelength, n=6):
    """Store spectra whose line at 5500 Å deepens from row to row; the last has no pixel."""
    line = np.exp(-0.5 * ((wavelength - 5500) / 3) ** 2)
    flux = 7 * (1 - np.linspace(0.1, 0.6, n)[:, np.newaxis] * line)
    ivar = np.ones(flux.shape)
    ivar[-1] = 0
    dims = ("spectrum", "wavelength")
    columns = {
        name: ("spectrum", np.full(n, unknown, dtype))
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    pixels = {
        "flux": (dims, flux.astype(np.float32)),
        "ivar": (dims, ivar.astype(np.float32)),
        "mask": (dims, np.zeros(flux.shape, np.uint32)),
    }
    made = xr.Dataset(pixels | columns, {"wavelength": wavelength})
    create_spectra(url, made, n_spectrum=n, shard_rows=n)
    write_spectra(url, Block("spectrum", 0, 0, n), made)
    return url


@pytest.mark.parametrize("wavelength", [GRID, linear_grid(5100.0, 0.7, 900)])
def test_rows_spread_over_the_store_come_normalized_on_the_datas_pixels(tmp_path, wavelength):
    url = write_store(f"{tmp_path}/spectra.zarr", wavelength)
    made = load_templates(url, 3, GRID, NORMAL)  # rows 0, 2 and 5, of which 5 is empty
    assert made.shape == (2, 800)
    assert made.dtype == np.float32
    depth = 1 - made[:, np.argmin(np.abs(GRID - 5500))]
    # The Gaussian of 50 Å holds some of the line; 6 % of its depth.
    np.testing.assert_allclose(depth, [0.1, 0.3], rtol=0.1)
    beyond = (wavelength[-1] + 2 < GRID) | (wavelength[0] - 2 > GRID)
    assert np.all(made[:, beyond] == 1)


def test_more_templates_than_rows_are_all_rows(tmp_path):
    url = write_store(f"{tmp_path}/spectra.zarr", GRID)
    assert len(load_templates(url, 50, GRID, NORMAL)) == 5


def test_a_model_makes_templates_on_another_grid(tmp_path):
    own = log_grid(3.69, 1e-4, 1000)
    spec = EmulatorSpec(
        name="t",
        labels=("teff", "logg"),
        minimum=np.array([4000.0, 1.0]),
        maximum=np.array([6000.0, 5.0]),
        wavelength=own,
        resolving_power=1800.0,
    )
    save_model(f"{tmp_path}/model", Payne(spec, hidden=(4, 4)))
    made = load_templates(f"{tmp_path}/model", 4, GRID, NORMAL)
    assert made.shape == (4, 800)
    assert np.isfinite(made).all()
    again = load_templates(f"{tmp_path}/model", 4, GRID, NORMAL)
    np.testing.assert_array_equal(made, again)


def test_templates_elsewhere_are_refused(tmp_path):
    url = write_store(f"{tmp_path}/spectra.zarr", linear_grid(9000.0, 1.0, 300))
    with pytest.raises(ValueError, match="no template has a pixel between 5012 and 6024"):
        load_templates(url, 3, GRID, NORMAL)
