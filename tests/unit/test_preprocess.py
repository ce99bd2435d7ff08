"""Preprocessing: what is masked, shifted and normalized, and that blocks and rows do not matter."""

import pickle

import numpy as np
import pytest
import xarray as xr

from scalespec.config import IngestTable, PreprocessTable, RunConfig, RunTable
from scalespec.kernels import mask as masks
from scalespec.plan import BlockResult, plan_blocks
from scalespec.schema import C_KMS, PER_SPECTRUM, MaskBit, SpectrumStatus, check_spectra
from scalespec.stages import folders, stores
from scalespec.stages.preprocess import (
    normalization,
    prepare,
    preprocess,
    preprocess_block,
    preprocess_stage,
)
from scalespec.stages.segments import Segment
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import create_spectra, read_spectra, write_spectra
from scalespec.surveys.lamost import ATTRS, WAVELENGTH

STEP_KMS = C_KMS * np.tanh(1e-4 * np.log(10))  # of one pixel: 69.03 km/s
NO_WINDOWS = PreprocessTable(windows=())


def raw_spectra(n=4, rv=0.0, seed=0):
    """Smooth spectra with one narrow absorption line at rest 5500 Å, S/N 50."""
    rng = np.random.default_rng(seed)
    continuum = 1000 * (WAVELENGTH / 5000) ** -1.5
    rv = np.full(n, rv, np.float32)
    doppler = np.sqrt((1 + rv / C_KMS) / (1 - rv / C_KMS))[:, None]
    line = 1 - 0.5 * np.exp(-0.5 * ((WAVELENGTH / doppler - 5500) / 2) ** 2)
    flux = continuum * line + continuum / 50 * rng.normal(size=(n, WAVELENGTH.size))
    ivar = np.broadcast_to((50 / continuum) ** 2, flux.shape)
    columns = {
        name: ("spectrum", np.full(n, unknown, dtype))
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    columns["rv"] = ("spectrum", rv)
    pixels = {"flux": flux.astype(np.float32), "ivar": ivar.astype(np.float32)}
    pixels["mask"] = np.zeros(flux.shape, np.uint32)
    data = {name: (("spectrum", "wavelength"), values) for name, values in pixels.items()}
    return xr.Dataset(data | columns, {"wavelength": ("wavelength", WAVELENGTH)}, dict(ATTRS))


def test_the_result_is_a_spectra_dataset_on_the_grid_that_is_kept():
    made = check_spectra(preprocess_block(raw_spectra(), PreprocessTable()))
    wavelength = made["wavelength"].to_numpy()
    inside = (WAVELENGTH >= 3750) & (WAVELENGTH <= 8950)
    np.testing.assert_array_equal(wavelength, WAVELENGTH[inside])
    assert made.attrs["frame"].startswith("rest")
    assert made["rv_shift"].dtype == made["continuum_median"].dtype == np.float32


def test_limits_that_leave_no_pixel_are_refused_with_what_the_data_cover():
    table = PreprocessTable(wavelength_min_angstrom=9500, wavelength_max_angstrom=9900)
    with pytest.raises(ValueError, match=r"between 9500\.0 and 9900\.0 Å.*cover 3700\.0-9099\.\d"):
        prepare(raw_spectra(1), table)


@pytest.mark.parametrize("rv", [0.0, 34.0, 35.0, -120.0, 300.0])
def test_the_line_comes_to_rest_within_half_a_pixel(rv):
    made = preprocess_block(raw_spectra(1, rv), NO_WINDOWS)
    flux, wavelength = made["flux"][0].to_numpy(), made["wavelength"].to_numpy()
    near = np.abs(wavelength - 5500) < 8
    depth = 1 - flux[near]
    center = (wavelength[near] * depth).sum() / depth.sum()
    left = C_KMS * (center / 5500 - 1)
    shift = made["rv_shift"].item()
    assert abs(shift - rv) <= 0.502 * STEP_KMS  # whole pixels; their velocities grow by (v/c)^2
    assert left == pytest.approx(rv - shift, abs=12)  # noise of the centroid at S/N 50


def test_pixels_are_moved_not_mixed():
    """Noise stays white: what a pixel holds comes from one raw pixel, bit for bit."""
    raw = raw_spectra(1, rv=3 * STEP_KMS)
    raw["ivar"][:] = np.arange(1, 3910)[None]
    table = PreprocessTable(windows=(), spike_height=99.0)
    made = preprocess_block(raw, table)
    start = int(np.searchsorted(WAVELENGTH, 3750))
    continuum = raw["flux"].to_numpy()[0, start + 3 :][: made.sizes["wavelength"]]
    scale = continuum / made["flux"][0].to_numpy()
    expected = raw["ivar"].to_numpy()[0, start + 3 :][: made.sizes["wavelength"]] * scale**2
    np.testing.assert_allclose(made["ivar"][0], expected, rtol=2e-6)  # float32 products


def test_flux_is_near_one_and_its_error_follows():
    made = preprocess_block(raw_spectra(6), NO_WINDOWS)
    away = np.abs(made["wavelength"].to_numpy() - 5500) > 300
    flux = made["flux"].to_numpy()[:, away]
    assert np.abs(flux.mean() - 1) < 2e-3  # the noise of 20,000 pixels, and curvature under 50 Å
    pulls = (flux - 1) * np.sqrt(made["ivar"].to_numpy()[:, away])
    assert pulls.std() == pytest.approx(1, abs=0.02)


def test_survey_bits_and_windows_lose_their_weight_and_say_why():
    raw = raw_spectra(1)
    raw["mask"][0, 1000] = MaskBit.BAD_PIXEL
    raw["mask"][0, 1100] = MaskBit.BRIGHT_SKY  # not among the bad bits
    made = preprocess_block(raw, PreprocessTable())
    start = int(np.searchsorted(WAVELENGTH, 3750))
    mask, ivar = made["mask"].to_numpy()[0], made["ivar"].to_numpy()[0]
    assert mask[1000 - start] & MaskBit.POLICY
    assert ivar[1000 - start] == 0
    assert mask[1100 - start] == MaskBit.BRIGHT_SKY
    assert ivar[1100 - start] > 0
    wavelength = made["wavelength"].to_numpy()
    for name in ("SKY_LINE", "ARM_JOIN", "TELLURIC"):
        inside = masks.window_mask(wavelength, masks.LAMOST[name])
        assert inside.any()
        assert (mask[inside] & MaskBit[name]).all()
        assert (ivar[inside] == 0).all()
    assert made["flux"].to_numpy()[0][ivar == 0].tolist() == [0] * int((ivar == 0).sum())


def test_windows_are_of_the_observers_frame():
    raw = raw_spectra(2, rv=[0, 10 * STEP_KMS])
    made = preprocess_block(raw, PreprocessTable(windows=("TELLURIC",)))
    telluric = made["mask"].to_numpy() & MaskBit.TELLURIC > 0
    np.testing.assert_array_equal(telluric[1, :-10], telluric[0, 10:])


def test_a_cosmic_ray_is_masked_and_leaves_no_dent_in_the_continuum():
    clean, hit = raw_spectra(1), raw_spectra(1)
    hit["flux"][0, 2000:2003] = 30_000
    table = NO_WINDOWS
    start = int(np.searchsorted(WAVELENGTH, 3750))
    made, without = preprocess_block(hit, table), preprocess_block(clean, table)
    assert (made["mask"].to_numpy()[0, 2000 - start : 2003 - start] == MaskBit.SPIKE).all()
    assert (made["ivar"].to_numpy()[0, 2000 - start : 2003 - start] == 0).all()
    near = np.r_[1950:1990, 2010:2050] - start
    # three of some hundred pixels are missing under the Gaussian: their noise, 2 %, over a hundred
    difference = made["flux"].to_numpy()[0, near] - without["flux"].to_numpy()[0, near]
    np.testing.assert_allclose(difference, 0, atol=2e-3)


def test_a_spectrum_without_weight_says_so_and_an_unreadable_one_keeps_its_word():
    raw = raw_spectra(3)
    raw["ivar"][:2] = 0
    raw["flux"][:2] = 0
    raw["status"][0] = SpectrumStatus.CORRUPT
    made = preprocess_block(raw, PreprocessTable())
    assert made["status"].values.tolist() == [SpectrumStatus.CORRUPT, SpectrumStatus.NO_PIXELS, 0]
    for name in ("flux", "ivar"):
        assert np.isfinite(made[name]).all()
        assert (made[name][:2] == 0).all()


def test_an_unknown_velocity_stays_in_the_observed_frame():
    raw = raw_spectra(1)
    raw["rv"][:] = np.nan
    made = preprocess_block(raw, NO_WINDOWS)
    assert made["rv_shift"].item() == 0
    assert np.isnan(made["rv"].item())
    expected = preprocess_block(raw_spectra(1), NO_WINDOWS)
    np.testing.assert_array_equal(made["flux"], expected["flux"])


def test_shifting_marks_the_edge():
    made = preprocess_block(
        raw_spectra(1, rv=-700.0), PreprocessTable(wavelength_min_angstrom=3701, windows=())
    )
    edge = made["mask"].to_numpy()[0] & MaskBit.EDGE > 0
    assert np.flatnonzero(edge).tolist() == list(range(8))  # ten came in, two were cut at 3701 Å
    assert (made["ivar"].to_numpy()[0][edge] == 0).all()


def test_rows_do_not_know_each_other():
    raw = raw_spectra(5, rv=[0, 50, -50, 200, np.nan])
    whole = preprocess_block(raw, PreprocessTable())
    for i in (0, 3, 4):
        one = preprocess_block(raw.isel(spectrum=[i]), PreprocessTable())
        # float32 matrix product of another shape: its sums over 500 pixels run in another order
        xr.testing.assert_allclose(one, whole.isel(spectrum=[i]), rtol=1e-5)


def test_no_rows_give_the_template():
    empty = preprocess_block(raw_spectra(0), PreprocessTable())
    whole = preprocess_block(raw_spectra(2), PreprocessTable())
    assert {n: v.dtype for n, v in empty.variables.items()} == {
        n: v.dtype for n, v in whole.variables.items()
    }


@pytest.fixture
def stored(tmp_path):
    """Twenty raw spectra in a store, of which block 1 is not committed."""
    raw = raw_spectra(20, rv=np.linspace(-300, 300, 20))
    url = f"{tmp_path}/raw/spectra.zarr"
    create_spectra(url, raw, n_spectrum=20, shard_rows=8)
    for block in plan_blocks(20, 8):
        write_spectra(url, block, raw.isel(spectrum=slice(block.start, block.stop)))
    config = RunConfig(
        run=RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=8),
        ingest=IngestTable(files="*"),
        preprocess=PreprocessTable(),
    )
    return config, raw, url


def run_stage(stage):
    value = stage.setup()
    for block in stage.blocks:
        stage.write(block, stage.compute(value, stage.read(block)))


def test_the_stage_stores_what_the_function_gives(stored, tmp_path):
    config, raw, url = stored
    stage = preprocess_stage(config, url, f"{tmp_path}/out")
    run_stage(pickle.loads(pickle.dumps(stage)))
    made = read_spectra(f"{tmp_path}/out/spectra.zarr", 0, 20)
    for block in stage.blocks:
        rows = slice(block.start, block.stop)
        expected = preprocess_block(raw.isel(spectrum=rows), config.preprocess)
        xr.testing.assert_equal(made.isel(spectrum=rows), expected)
    assert made.attrs["normalization"] == normalization(config.preprocess)
    assert made.attrs["normalization"] == {"method": "gaussian", "width_angstrom": 50.0}
    commits = Ledger(f"{tmp_path}/out").commits()
    assert [r.rows for r in commits.values()] == [8, 8, 4]
    assert all(r.counts["OK"] == r.rows for r in commits.values())


def test_only_blocks_that_are_planned_and_committed_upstream_are_taken(
    stored, tmp_path, monkeypatch
):
    config, _, _ = stored
    blocks = plan_blocks(20, 8)
    for block in (blocks[0], blocks[2]):
        Ledger(f"{tmp_path}/raw").commit(block, BlockResult(block.size, {}))
    segment = Segment(0, 20, 8, ("*",), 0, 20, "", "")
    monkeypatch.setattr(folders, "planned_blocks", lambda _: blocks)
    monkeypatch.setattr(stores, "planned_segments", lambda _: [segment])
    monkeypatch.setattr(folders, "raw_url", lambda _: f"{tmp_path}/raw")
    monkeypatch.setattr(folders, "spectra_url", lambda _: f"{tmp_path}/out")
    (stage,) = preprocess(config)
    assert [block.index for block in stage.blocks] == [0, 2]


def test_a_committed_block_is_not_written_again(stored, tmp_path):
    config, _, url = stored
    stage = preprocess_stage(config, url, f"{tmp_path}/out")
    run_stage(stage)
    block = stage.blocks[0]
    assert stage.write(block, None) == Ledger(f"{tmp_path}/out").committed(block)
