"""Step "features" through a real run of several blocks: widths and images, as the kernels say."""

import numpy as np
import pytest
import xarray as xr

from scalespec.config import PreprocessTable, RunConfig, RunTable
from scalespec.kernels.features import equivalent_widths, window
from scalespec.kernels.fold import unfold
from scalespec.kernels.wavelength import log_grid, pixel_edges
from scalespec.plan import plan_blocks
from scalespec.run import run
from scalespec.schema import PER_SPECTRUM, check_spectra
from scalespec.stages import folders
from scalespec.stages.preprocess import prepare, preprocess_block
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import create_spectra, read_spectra, write_spectra

WAVELENGTH = log_grid(3.6, 4e-4, 256)  # 3,981 to 5,035 Å
N, SIZE = 10, 4


def stars():
    """Normalized spectra with a G band of growing depth; one without it, one without pixels."""
    rng = np.random.default_rng(2)
    low, high = window("CH_G")
    band = (low < WAVELENGTH) & (high > WAVELENGTH)
    flux = 1 - 0.05 * np.arange(N)[:, np.newaxis] * band + rng.normal(0, 0.01, (N, 256))
    ivar = np.full(flux.shape, 1e4)
    ivar[3, band], ivar[5] = 0, 0
    columns = {
        name: ("spectrum", np.full(N, unknown, dtype))
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    dims = ("spectrum", "wavelength")
    pixels = {"flux": (dims, flux.astype(np.float32)), "ivar": (dims, ivar.astype(np.float32))}
    pixels["mask"] = (dims, np.zeros(flux.shape, np.uint32))
    attrs = {
        "survey": "made up",
        "wavelength_medium": "vacuum",
        "frame": "rest",
        "flux_unit": "continuum",
        "resolving_power": 1000.0,
    }
    return xr.Dataset(pixels | columns, {"wavelength": WAVELENGTH}, attrs)


def table(**changed):
    settings = {"steps": ("features",), "line_windows": ("CH_G", "CA_K"), "fold_width": 16}
    return PreprocessTable(**(settings | changed))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What a run of three blocks leaves."""
    folder = tmp_path_factory.mktemp("features")
    source = f"{folder}/source.zarr"
    create_spectra(source, stars(), n_spectrum=N, shard_rows=SIZE)
    for block in plan_blocks(N, SIZE):
        write_spectra(source, block, stars().isel(spectrum=slice(block.start, block.stop)))
    run_table = RunTable(name="t", workspace=f"{folder}/work", spectra_per_block=SIZE)
    settings = table(source=source, line_windows=("CH_G",))
    config = RunConfig(run=run_table, preprocess=settings)
    assert run(config, engine="local").exit_code == 0
    url = folders.spectra_url(config)
    assert len(Ledger(url).done()) == 3
    return check_spectra(read_spectra(f"{url}/spectra.zarr", 0, N))


def test_widths_are_columns_and_what_is_lost_has_no_weight(made):
    flux, ivar = (made[name].to_numpy() for name in ("flux", "ivar"))
    windows = {"CH_G": window("CH_G")}
    width, error = equivalent_widths(flux, ivar, pixel_edges(WAVELENGTH), windows)
    known = [i for i in range(N) if i not in (3, 5)]
    np.testing.assert_allclose(made["ew_CH_G"][known], width[known, 0], rtol=1e-6)
    np.testing.assert_allclose(made["ew_CH_G_ivar"][known], error[known, 0] ** -2, rtol=1e-6)
    assert made["ew_CH_G"].attrs["units"] == "Angstrom"
    for lost in (3, 5):
        assert made["ew_CH_G"].values[lost] == made["ew_CH_G_ivar"].values[lost] == 0
    # The band is 50 Å wide: each star takes 2.5 Å more.
    assert made["ew_CH_G"].values[9] == pytest.approx(9 * 0.05 * 50, rel=0.05)


def test_images_hold_every_pixel_and_continuum_where_nothing_is_known(made):
    assert made["image"].shape == (N, 16, 16)
    back = unfold(made["image"].to_numpy())
    expected = np.where(made["ivar"].to_numpy() > 0, made["flux"].to_numpy(), 1)
    np.testing.assert_array_equal(back, expected)
    assert (made["image"][5] == 1).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"line_windows": ("CA_K",)}, r"line window CA_K, .* lies beyond the spectra"),
        ({"line_windows": ("H_Z",)}, "window 'H_Z' is none of"),  # no such name
        ({"fold_width": 60}, r"256 pixels do not fill lines of 60: a limit of 4961\.\d+ Å leaves"),
        ({"fold_width": 300}, "do not fill one line of 300"),  # not even one
    ],
)
def test_what_cannot_be_measured_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        prepare(stars(), table(**({"line_windows": ()} | changed)))


def test_the_limit_that_is_proposed_fits():
    cut = 4961.36  # as the message says, rounded up
    settings = table(
        steps=("cut", "features"), line_windows=(), fold_width=60,
        wavelength_min_angstrom=3000.0, wavelength_max_angstrom=cut,
    )  # fmt: skip
    assert preprocess_block(stars(), settings)["image"].shape == (N, 4, 60)


@pytest.mark.parametrize("changed", [{"line_windows": (), "fold_width": 0}, {"steps": ("mask",)}])
def test_the_step_and_its_settings_go_together(changed):
    with pytest.raises(ValueError, match="goes with line_windows or fold_width"):
        table(**changed)
