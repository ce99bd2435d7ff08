"""Steps beyond the default chain: velocities, other pixels, arms, a simulated telescope."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from scalespec.config import (
    GridTable,
    PreprocessTable,
    SimulateTable,
    VelocityTable,
    load_config,
    parse_config,
)
from scalespec.errors import ConfigError
from scalespec.kernels.wavelength import linear_grid, log_grid, pixel_edges
from scalespec.plan import Block
from scalespec.schema import (
    C_KMS,
    NOISE_CORRELATION,
    PER_SPECTRUM,
    MaskBit,
    SpectrumStatus,
    check_spectra,
)
from scalespec.stages.preprocess import prepare, preprocess_block
from scalespec.stages.steps import policy_bits
from scalespec.store.spectra import create_spectra, write_spectra

GRID = log_grid(3.5682, 1e-4, 3909)
ATTRS = {
    "survey": "made up",
    "wavelength_medium": "vacuum",
    "frame": "observed, barycentric",
    "flux_unit": "relative",
    "resolving_power": 1800.0,
    "log10_wavelength_step": 1e-4,
    "log10_wavelength_start": 3.5682,
}
LINES = np.random.default_rng(5).uniform(3800, 8900, 150)
DEPTHS = np.random.default_rng(6).uniform(0.1, 0.5, 150)


def star(wavelength, rv=0.0):
    """Return a sloped spectrum with 150 lines of R = 1800, observed at a velocity."""
    rest = wavelength / np.sqrt((1 + rv / C_KMS) / (1 - rv / C_KMS))
    sigma = LINES / 1800 / 2.3548
    profile = np.exp(-0.5 * ((rest[:, np.newaxis] - LINES) / sigma) ** 2)
    return 1000 * (wavelength / 5000) ** -1.5 * np.prod(1 - DEPTHS * profile, axis=1)


def raw(wavelength=GRID, rv=(0.0,), snr=50.0, **attrs):
    """Return spectra in the raw schema, one per velocity; the survey knows none of them."""
    n, rng = len(rv), np.random.default_rng(1)
    clean = np.stack([star(wavelength, v) for v in rv])
    columns = {
        name: ("spectrum", np.full(n, unknown, dtype))
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    columns["status"] = ("spectrum", np.full(n, SpectrumStatus.NO_REDSHIFT, np.uint32))
    dims = ("spectrum", "wavelength")
    pixels = {
        "flux": (dims, (clean * (1 + rng.normal(size=clean.shape) / snr)).astype(np.float32)),
        "ivar": (dims, ((snr / clean) ** 2).astype(np.float32)),
        "mask": (dims, np.zeros(clean.shape, np.uint32)),
    }
    own = {k: v for k, v in (ATTRS | attrs).items() if v is not None}
    return xr.Dataset(pixels | columns, {"wavelength": ("wavelength", wavelength)}, own)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """A store of two templates at rest: the star, and another."""
    url = f"{tmp_path_factory.mktemp('templates')}/spectra.zarr"
    made = raw(rv=(0.0, 0.0), snr=1e4)
    made["flux"][0] = made["flux"][0, ::-1].to_numpy()
    create_spectra(url, made, n_spectrum=2, shard_rows=2)
    write_spectra(url, Block("spectrum", 0, 0, 2), made)
    return url


def test_velocities_are_measured_where_the_survey_has_none(templates):
    truth = (-900.0, -140.0, 0.0, 333.0, 950.0)
    spectra = raw(rv=truth)
    spectra["rv"][2] = 7.0  # this one has
    table = PreprocessTable(
        steps=("mask", "velocity", "rest", "cut", "normalize"),
        velocity=VelocityTable(templates=templates),
    )
    made = preprocess_block(spectra, table)
    error = made["rv"].to_numpy() - truth
    assert error[2] == 7
    measured = [0, 1, 3, 4]
    assert np.abs(error[measured]).max() < 3
    assert np.all(np.abs(error / made["rv_err"].to_numpy())[measured] < 4)
    assert made["rv_template"].values.tolist() == [1, 1, -1, 1, 1]
    assert np.all(made["rv_quality"].to_numpy()[measured] > 2)
    kept = made["status"].to_numpy() & SpectrumStatus.NO_REDSHIFT > 0
    assert kept.tolist() == [False, False, True, False, False]
    assert np.all(np.abs(made["rv_shift"].to_numpy() - made["rv"].to_numpy()) < 35)


def test_velocities_of_pixels_that_share_noise_are_known_less(templates):
    table = PreprocessTable(steps=("velocity",), velocity=VelocityTable(templates=templates))
    spectra = raw(rv=(50.0,))
    shared = spectra.assign(noise_correlation_rv=("spectrum", np.float32([1.44])))
    plain, wide = (preprocess_block(one, table)["rv_err"].item() for one in (spectra, shared))
    assert wide == pytest.approx(1.2 * plain, rel=1e-5)


def test_every_velocity_may_be_measured_anew_and_one_that_cannot_be_stays_unknown(templates):
    spectra = raw(rv=(50.0, 50.0))
    spectra["rv"][:] = 999.0
    spectra["ivar"][1] = 0
    velocity = VelocityTable(templates=templates, every=True)
    table = PreprocessTable(steps=("velocity", "rest", "normalize"), velocity=velocity)
    made = preprocess_block(spectra, table)
    assert made["rv"].values[0] == pytest.approx(50, abs=3)
    assert made["rv"].values[1] == 999  # nothing matched: the survey's stands
    assert made["rv_template"].values.tolist() == [1, -1]


def test_templates_out_of_range_are_refused(templates):
    far = raw(log_grid(4.1, 1e-4, 500), (0.0,))
    table = PreprocessTable(steps=("velocity",), velocity=VelocityTable(templates=templates))
    with pytest.raises(ValueError, match="no template has a pixel between 12589 and 14122"):
        prepare(far, table)


def test_a_linear_grid_comes_to_a_log_one_and_to_rest():
    none = dict.fromkeys(("log10_wavelength_step", "log10_wavelength_start"))
    spectra = raw(linear_grid(3700.0, 0.8, 6000), (120.0,), snr=500.0, **none)
    spectra["rv"][:] = 120.0
    with pytest.raises(ValueError, match=r"step 'rest' wants pixels even in log10.*'regrid'"):
        prepare(spectra, PreprocessTable())
    grid = GridTable(min_angstrom=GRID[200], max_angstrom=8300, step_log10=1e-4)
    table = PreprocessTable(steps=("mask", "regrid", "rest", "cut", "normalize"), grid=grid)
    made = check_spectra(preprocess_block(spectra, table))
    assert made.attrs["log10_wavelength_step"] == 1e-4
    direct = raw(rv=(120.0,), snr=500.0)
    direct["rv"][:] = 120.0
    expected = preprocess_block(direct, PreprocessTable()).sel(wavelength=slice(3900, 8200))
    found = made.sel(wavelength=slice(3900, 8200))
    use = (expected["ivar"].to_numpy() > 0) & (found["ivar"].to_numpy() > 0)
    difference = (found["flux"].to_numpy() - expected["flux"].to_numpy())[use]
    # Noise of 0.3 % in both, and what a line of 2.8 Å loses in pixels of 0.8 Å and 1.15 Å.
    assert difference.std() < 0.01
    assert expected["flux"].to_numpy()[use].std() > 0.05


@pytest.fixture
def arms():
    """Return root, blue and red with an overlap, on linear grids of their own."""
    blue = raw(linear_grid(3700, 1.0, 2200), (0.0, 0.0), log10_wavelength_step=None)
    red = raw(linear_grid(5800, 1.3, 2300), (0.0, 0.0), log10_wavelength_step=None)
    red["ivar"][1] = 0
    root = blue.drop_vars(["flux", "ivar", "mask", "wavelength"])
    return {"": root.assign_attrs(arms=["b", "r"]), "b": blue, "r": red}


def test_arms_are_joined(arms):
    grid = GridTable(min_angstrom=3750, max_angstrom=8700, step_log10=1e-4)
    table = PreprocessTable(steps=("mask", "regrid", "rest", "normalize"), windows=(), grid=grid)
    made = check_spectra(preprocess_block(arms, table))
    wavelength, ivar = made["wavelength"].to_numpy(), made["ivar"].to_numpy()
    assert "arms" not in made.attrs
    assert (ivar[0] > 0).all()
    np.testing.assert_array_equal(ivar[1] > 0, wavelength < 5899.5)
    overlap = (wavelength > 5805) & (wavelength < 5895)
    beside = (wavelength > 5700) & (wavelength < 5795)
    ratio = np.median(ivar[0, overlap]) / np.median(ivar[0, beside])
    assert 1.6 < ratio < 2.4  # two exposures where the arms overlap
    with pytest.raises(ValueError, match="wants one grid, the data have arms b, r"):
        prepare(arms, PreprocessTable())


def test_rows_with_wavelengths_of_their_own_are_joined_too(arms):
    blue = arms["b"]
    own = blue.drop_vars("wavelength").rename(wavelength="pixel")
    values = np.stack([blue["wavelength"].to_numpy(), np.zeros(2200)])
    own = own.assign(wavelength=(("spectrum", "pixel"), values))
    own["ivar"][1] = 0
    grid = GridTable(min_angstrom=3750, max_angstrom=8700, step_log10=1e-4)
    table = PreprocessTable(steps=("mask", "regrid", "normalize"), grid=grid)
    made = preprocess_block(arms | {"b": own}, table)
    one = preprocess_block(arms, table)
    np.testing.assert_array_equal(made["flux"][0], one["flux"][0])
    assert not made["ivar"][1].any()
    assert made["status"].to_numpy()[1] & SpectrumStatus.NO_PIXELS


def test_resolution_falls_and_never_rises():
    grid = GridTable(min_angstrom=4000, max_angstrom=8177, resolving_power=200, pixels_per_fwhm=1)
    table = PreprocessTable(steps=("mask", "rest", "regrid"), grid=grid)
    made = preprocess_block(raw(), table)
    assert made.sizes["wavelength"] == 143
    assert made.attrs["resolving_power"] == 200
    assert made.attrs["log10_wavelength_step"] == pytest.approx(np.log10(np.e) / 200)
    sharp = GridTable(min_angstrom=4000, max_angstrom=8000, resolving_power=2000)
    with pytest.raises(ValueError, match="cannot sharpen: R = 2000 wanted of data with R = 1800"):
        prepare(raw(), PreprocessTable(steps=("regrid",), grid=sharp))
    silent = raw(resolving_power=None)
    with pytest.raises(ValueError, match=r"set preprocess\.resolving_power"):
        prepare(silent, table)


def test_a_line_spread_known_better_than_r_counts():
    nodes = np.array([3700.0, 9100.0])
    sigma = nodes / 400 / 2.3548
    spectra = raw().assign(lsf_sigma=("lsf_node", sigma)).assign_coords(lsf_node=nodes)
    grid = GridTable(min_angstrom=4000, max_angstrom=8177, resolving_power=200)
    table = PreprocessTable(steps=("regrid",), grid=grid)
    known, nominal = preprocess_block(spectra, table), preprocess_block(raw(), table)
    same = preprocess_block(raw(resolving_power=400.0), table)
    np.testing.assert_allclose(known["flux"], same["flux"], rtol=1e-4)
    assert np.abs(known["flux"] / nominal["flux"] - 1).max() > 0.01
    assert "lsf_sigma" not in known


def own_spread(powers):
    """Return one star as spectra of these R show it, each with its own line spread."""
    nodes = np.array([3700.0, 6000.0, 9100.0])
    spectra = raw(rv=(0.0,) * len(powers), snr=1e4)
    sigma = (nodes / np.array(powers)[:, np.newaxis] / 2.3548).astype(np.float32)
    return spectra.assign(lsf_sigma=(("spectrum", "lsf_node"), sigma)).assign_coords(lsf_node=nodes)


@pytest.mark.parametrize("step", ["regrid", "simulate"])
def test_each_spectrum_is_degraded_from_its_own_line_spread(step):
    spectra = own_spread([500.0, 1800.0, np.inf, 150.0])  # ∞: a width of 0, not known
    settings = {
        "grid": GridTable(min_angstrom=4000, max_angstrom=8177, resolving_power=200),
        "simulate": SimulateTable(bands=("GV",), snr=None),
    }
    table = PreprocessTable(steps=(step,), **settings)
    made = preprocess_block(spectra, table)
    assert "lsf_sigma" not in made
    for row, power in enumerate([500.0, 1800.0, 1800.0]):
        alone = spectra.isel(spectrum=[row]).drop_vars(["lsf_sigma", "lsf_node"])
        alone.attrs["resolving_power"] = power
        same = preprocess_block(alone, table)
        use = same["ivar"].to_numpy()[0] > 0
        # Half a step of the levels of R.
        np.testing.assert_allclose(made["flux"][row, use], same["flux"][0, use], rtol=2e-4)
    assert not made["ivar"][3].any()
    assert np.all(made["mask"][3] & np.uint32(MaskBit.COARSE))
    coarse = made["status"].to_numpy() & SpectrumStatus.COARSE > 0
    assert coarse.tolist() == [False, False, False, True]
    assert made["status"].to_numpy()[3] & SpectrumStatus.NO_PIXELS


def test_the_run_files_r_goes_before_each_spectrums_own():
    grid = GridTable(min_angstrom=4000, max_angstrom=8177, resolving_power=200)
    table = PreprocessTable(steps=("regrid",), grid=grid, resolving_power=1800.0)
    made = preprocess_block(own_spread([500.0]), table)
    xr.testing.assert_equal(made["flux"], preprocess_block(raw(snr=1e4), table)["flux"])


def shared(made):
    """What spectra say of noise that their pixels share: of depths, of velocities."""
    return np.stack([made[name].to_numpy() for name in NOISE_CORRELATION], axis=1)


def test_regridded_spectra_say_what_noise_their_pixels_share():
    found = {}
    for per_fwhm in (1.0, 2.0):
        grid = GridTable(
            min_angstrom=4000, max_angstrom=8177, resolving_power=500, pixels_per_fwhm=per_fwhm
        )
        found[per_fwhm] = shared(
            preprocess_block(raw(), PreprocessTable(steps=("regrid",), grid=grid))
        )
    assert np.sqrt(found[1.0][0, 0]) == pytest.approx(1.13, abs=0.02)  # widths of pulls of labels
    assert np.sqrt(found[2.0][0, 0]) == pytest.approx(1.48, abs=0.02)  # measured with fits
    assert np.sqrt(found[2.0][0, 1]) == pytest.approx(1.07, abs=0.02)
    same = PreprocessTable(
        steps=("regrid",), grid=GridTable(min_angstrom=4000, max_angstrom=8000, step_log10=1e-4)
    )
    spectra = raw()
    spectra["noise_correlation"] = ("spectrum", np.float32([1.8]))
    half = raw(wavelength=GRID * 10**0.37e-4)
    assert shared(preprocess_block(half, same))[0, 0] > 1.4
    # What pixels shared before is not forgotten.
    again = shared(preprocess_block(spectra, same))
    np.testing.assert_allclose(again, shared(preprocess_block(raw(), same)) * [1.8, 1], rtol=1e-6)


def test_arms_share_noise_by_their_pixels_and_rows_by_their_own(arms):
    grid = GridTable(min_angstrom=3750, max_angstrom=8700, step_log10=1e-4)
    table = PreprocessTable(steps=("regrid",), grid=grid)
    both, blue = shared(preprocess_block(arms, table))  # the second has no red
    ones = [shared(preprocess_block({"": arms[name]}, table))[0, 0] for name in ("b", "r")]
    assert blue[0] == pytest.approx(ones[0], rel=1e-6)
    assert min(ones) < both[0] < max(ones)


def test_noise_that_a_telescope_adds_is_white():
    simulate = [SimulateTable(bands=("GV",), snr=snr) for snr in (None, 100, 3)]
    made = [
        shared(preprocess_block(raw(snr=50.0), PreprocessTable(steps=("simulate",), simulate=one)))
        for one in simulate
    ]
    assert made[0][0, 0] > made[1][0, 0] > made[2][0, 0] >= 1
    assert made[2][0, 0] < 1.02


def test_spectra_of_own_line_spread_share_noise_as_those_of_one():
    grid = GridTable(min_angstrom=4000, max_angstrom=8177, resolving_power=200)
    table = PreprocessTable(steps=("regrid",), grid=grid)
    made = shared(preprocess_block(own_spread([500.0, 1800.0, 150.0]), table))
    for row, power in enumerate([500.0, 1800.0]):
        alone = shared(preprocess_block(raw(resolving_power=power), table))
        np.testing.assert_allclose(made[row], alone[0], rtol=1e-3)
    assert made[2].tolist() == [1, 1]  # coarse: nothing of it


def test_one_bad_pixel_among_thirty_is_no_reason():
    spectra = raw()
    spectra["mask"][0, 1000], spectra["ivar"][0, 1000] = MaskBit.NO_IVAR, 0
    spectra["mask"][0, 2000:2200], spectra["ivar"][0, 2000:2200] = MaskBit.NO_IVAR, 0
    grid = GridTable(min_angstrom=3600, max_angstrom=8900, resolving_power=200)
    made = preprocess_block(spectra, PreprocessTable(steps=("regrid",), grid=grid))
    mask, ivar = made["mask"].to_numpy()[0], made["ivar"].to_numpy()[0]
    assert np.all((mask != 0) == (ivar == 0))
    assert mask[0] == MaskBit.OUTSIDE
    assert set(mask[ivar == 0]) == {int(MaskBit.OUTSIDE), int(MaskBit.NO_IVAR)}


def test_a_telescope_sees_its_bands_at_its_resolution_and_noise():
    simulate = SimulateTable(bands=("GV", "GI"), snr=30)
    table = PreprocessTable(steps=("mask", "simulate"), windows=(), simulate=simulate)
    made = preprocess_block(raw(snr=200, rv=(0.0,) * 20), table)
    wavelength = made["wavelength"].to_numpy()
    assert 4000 < wavelength[0] < wavelength[-1] < 10_000
    # The median of 560 noisy pixels: 1.25 / 30 / √560 of it, and what noise adds to a median.
    np.testing.assert_allclose(made["snr"], 30, rtol=0.02)
    use = (made["ivar"].to_numpy() > 0).all(axis=0)
    assert use[(wavelength > 4010) & (wavelength < 9000)].all()
    assert not use[wavelength > 9150].any()  # beyond LAMOST
    flux, ivar = made["flux"].to_numpy()[:, use], made["ivar"].to_numpy()[:, use]
    pulls = (flux - flux.mean(axis=0)) * np.sqrt(ivar)
    # Twenty stars of 560 pixels: 0.7 %; their mean takes 1/20 of the variance.
    assert pulls.std() == pytest.approx(np.sqrt(0.95), abs=0.03)


def test_noise_is_that_of_the_seed_and_block_and_no_other():
    simulate = SimulateTable(bands=("GV",), snr=30)
    table = PreprocessTable(steps=("simulate",), simulate=simulate)
    spectra = raw()
    one = preprocess_block(spectra, table, prepare(spectra, table, seed=3))
    again = preprocess_block(spectra, table, prepare(spectra, table, seed=3))
    xr.testing.assert_identical(one, again)
    for other in (
        preprocess_block(spectra, table, prepare(spectra, table, seed=4)),
        preprocess_block(spectra.assign_attrs(block=1), table, prepare(spectra, table, seed=3)),
    ):
        assert (one["flux"] != other["flux"]).any()
        assert "block" not in other.attrs


def test_theory_with_an_ultraviolet_fills_every_band():
    grid = np.exp(np.arange(np.log(2400), np.log(10_300), 1 / 10_000))
    theory = raw(grid, snr=1e4, resolving_power=5000.0, frame="rest")
    simulate = SimulateTable(magnitude=17.0, second_order=0.1)
    table = PreprocessTable(steps=("simulate", "normalize"), simulate=simulate)
    made = preprocess_block(theory, table)
    wavelength = made["wavelength"].to_numpy()
    assert (made["ivar"].to_numpy() > 0).all()
    assert wavelength[0] < 2560
    assert wavelength[-1] > 9950
    faint = table.model_copy(update={"simulate": SimulateTable(magnitude=21.0)})
    assert preprocess_block(theory, faint)["snr"].item() < 0.3 * made["snr"].item()


def test_spectra_at_rest_are_not_moved_again():
    spectra = raw(frame="rest")
    spectra["rv"][:] = 345.0
    made = preprocess_block(spectra, PreprocessTable(steps=("mask", "rest", "normalize")))
    assert made["rv_shift"].item() == 345
    assert not (made["mask"].to_numpy() & MaskBit.EDGE).any()
    windows = int(MaskBit.SKY_LINE | MaskBit.TELLURIC | MaskBit.ARM_JOIN)
    assert not (made["mask"].to_numpy() & windows).any()  # of a frame that is gone


def test_bits_are_named_and_any_exposure_counts_if_asked():
    apogee = ("BAD_PIXEL", "COSMIC_RAY", "NO_SKY", "BRIGHT_SKY")
    assert policy_bits(apogee) == sum(int(MaskBit[name]) for name in apogee)
    spectra = raw()
    spectra["mask"][0, 5] = int(MaskBit.NO_SKY) << 8
    plain = PreprocessTable(steps=("mask",), windows=())
    asked = PreprocessTable(steps=("mask",), windows=(), bad_bits=("or_NO_SKY",))
    assert preprocess_block(spectra, plain)["ivar"][0, 5] > 0
    made = preprocess_block(spectra, asked)
    assert made["ivar"][0, 5] == 0
    assert made["mask"][0, 5] & MaskBit.POLICY
    with pytest.raises(ValueError, match="'BAD_LUCK' is none of OUTSIDE"):
        prepare(spectra, PreprocessTable(bad_bits=("BAD_LUCK",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ("velocity",)}, r"wants a \[preprocess.velocity\] table"),
        ({"steps": ("regrid",)}, r"wants a \[preprocess.grid\] table"),
        ({"steps": ("rest", "rest")}, "each step may be taken once"),
        ({"components": 3}, "components want statistics"),
        ({"grid": {"min_angstrom": 4000, "max_angstrom": 5000}}, "give step_log10"),
        ({"simulate": {"snr": 3, "magnitude": 4}}, "give one of snr and magnitude"),
        ({"simulate": {"bands": ["GU", "GI"]}}, "next to each other"),
    ],
)
def test_tables_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PreprocessTable(**settings)


def test_every_step_takes_no_rows(templates):
    grid = GridTable(min_angstrom=3800, max_angstrom=8900, step_log10=1e-4)
    table = PreprocessTable(
        steps=("mask", "regrid", "velocity", "rest", "cut", "simulate", "normalize"),
        grid=grid,
        velocity=VelocityTable(templates=templates),
        simulate=SimulateTable(bands=("GV",), snr=20),
    )
    whole, none = raw(rv=(0.0, 9.0)), raw(rv=(0.0,)).isel(spectrum=slice(0, 0))
    made, empty = preprocess_block(whole, table), preprocess_block(none, table)
    assert {n: v.dtype for n, v in made.variables.items()} == {
        n: v.dtype for n, v in empty.variables.items()
    }
    assert pixel_edges(made["wavelength"].to_numpy())[0] == pytest.approx(4000, abs=0.1)


def test_paths_of_sources_and_templates_start_from_the_run_file(tmp_path):
    text = """
    [run]
    name = "t"
    workspace = "work"
    [preprocess]
    source = "library/spectra.zarr"
    steps = ["mask", "velocity"]
    velocity = { templates = "stars.zarr" }
    """
    (tmp_path / "run.toml").write_text(text)
    table = load_config(tmp_path / "run.toml").preprocess
    assert table.source == f"{tmp_path}/library/spectra.zarr"
    assert table.velocity.templates == f"{tmp_path}/stars.zarr"


def test_without_a_source_there_must_be_something_to_ingest():
    with pytest.raises(ConfigError, match=r"\[preprocess\] wants a \[ingest\] table"):
        parse_config('[run]\nname = "t"\nworkspace = "w"\n[preprocess]')


def test_run_files_in_deploy_are_whole():
    folder = Path(__file__).resolve().parents[2] / "deploy/runs"
    lamost = load_config(folder / "csst-lamost.toml")
    assert lamost.stages() == ("ingest", "preprocess", "report")
    assert lamost.preprocess.simulate.snr == 50
    ultraviolet = load_config(folder / "csst-ultraviolet.toml")
    assert ultraviolet.stages() == ("preprocess", "report")
    assert ultraviolet.preprocess.library.min_angstrom < 2550
    theory = load_config(folder / "csst-theory.toml")
    assert theory.stages() == ("preprocess", "report")
    assert theory.preprocess.simulate.bands == ("GU", "GV", "GI")
