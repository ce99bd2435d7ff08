"""Best labels: the model of least chi2, honest errors, and a row for every star."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from scalespec.config import FitTable
from scalespec.errors import ConfigError, StoreError
from scalespec.kernels.continuum import gaussian_smoothing, normalize
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.optimize.fit import below_snr, fit_labels
from scalespec.optimize.objective import Smoother
from scalespec.optimize.result import FitStatus
from scalespec.plan import BlockResult
from scalespec.schema import C_KMS
from scalespec.stages import folders
from scalespec.stages.emulators import Ready
from scalespec.stages.fit import best_labels, doubted, fit
from scalespec.store import paths
from scalespec.store.ledger import Ledger

STEP, N_PIXEL = 1e-4, 400
WAVELENGTH = 10 ** (3.7 + STEP * np.arange(N_PIXEL))
LABELS = ("teff", "logg", "fe_h")
LOW, HIGH = np.array([4000.0, 1.0, -2.0]), np.array([6500.0, 5.0, 0.5])
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]  # the upper triangle, row by row


def lines(seed=1):
    """A Payne of random weights, smoothed to lines of R = 1800."""
    spec = EmulatorSpec(f"lines {seed}", LABELS, LOW, HIGH, WAVELENGTH, 1800.0)
    model = Payne(spec, hidden=(16, 16), seed=seed)
    with torch.no_grad():
        model.output.weight.mul_(3.0)
    return model.broadened(1.1, resolving_power=1800.0).eval()


ONE, OTHER = Ready(lines(1), None), Ready(lines(2), None)


def stars(labels, *, seed=1, snr=100.0, noise=1, rv_shift=0.0):
    """Spectra of the model `seed`, 30 pixels masked, and first labels a tenth of the box off."""
    rng = np.random.default_rng(seed)
    n, snr = len(labels), np.broadcast_to(snr, len(labels))
    with torch.inference_mode():
        clean = lines(seed)(torch.tensor(labels)).numpy()
    flux = clean + rng.normal(0, noise / snr[:, None], clean.shape)
    ivar = np.repeat(snr[:, None] ** 2.0, N_PIXEL, axis=1)
    ivar[:, 100:130] = flux[:, 100:130] = 0
    dims = ("spectrum", "wavelength")
    spectra = xr.Dataset(
        {
            "flux": (dims, flux.astype("f4")),
            "ivar": (dims, ivar.astype("f4")),
            "rv_shift": ("spectrum", np.full(n, rv_shift, "f4")),
        },
        {"wavelength": WAVELENGTH},
        {"log10_wavelength_step": STEP},
    )
    first = {"row": np.arange(n) + 40, "obsid": np.arange(n) + 9000}
    start = np.clip(labels + rng.choice([-0.1, 0.1], (n, 3)) * (HIGH - LOW), LOW, HIGH)
    first |= {f"first_{name}": start[:, k].astype("f4") for k, name in enumerate(LABELS)}
    first["rv_start"] = rng.normal(0, 10, n).astype("f4")
    first["first_status"] = np.zeros(n, np.uint32)
    return spectra, pd.DataFrame(first)


def labels_of(n, seed=1):
    return LOW + np.random.default_rng(seed).uniform(0.15, 0.85, (n, 3)) * (HIGH - LOW)


def values(best, suffix=""):
    return best[[f"{name}{suffix}" for name in LABELS]].to_numpy()


def test_pulls_of_labels_and_velocity_are_of_unit_width():
    labels = labels_of(200)
    snr = np.geomspace(50, 200, 200)
    best = best_labels(*stars(labels, snr=snr), [ONE], FitTable())
    assert (best["fit_status"] == 0).all()
    pulls = np.column_stack([(values(best) - labels) / values(best, "_err"), best.rv / best.rv_err])
    low, middle, high = np.percentile(pulls, [15.87, 50, 84.13], axis=0)
    width = (high - low) / 2
    assert np.all((width > 0.8) & (width < 1.2))  # 200 stars give it to 0.06
    assert np.all(np.abs(middle) < 0.3)  # 4 sigma of the mean of 200, times 1.25 for a median


def test_chi2_is_that_of_noise():
    best = best_labels(*stars(labels_of(50)), [ONE], FitTable())
    dof = best["n_used"] - 4
    assert (best["n_used"] > 350).all()
    assert (best["chi2"] / dof).mean() == pytest.approx(1, abs=0.04)  # 4 sigma of 50 x 360 pixels


def test_of_several_models_the_one_of_least_chi2_is_kept():
    labels = labels_of(4)
    parts = [stars(labels, seed=seed) for seed in (1, 2, 1)]
    spectra = xr.concat([part[0] for part in parts], dim="spectrum", data_vars="minimal")
    first = pd.concat([part[1] for part in parts], ignore_index=True)
    best = best_labels(spectra, first, [ONE, OTHER], FitTable())
    assert best["model"].tolist() == [0] * 4 + [1] * 4 + [0] * 4
    np.testing.assert_allclose(values(best), np.tile(labels, (3, 1)), atol=0.1, rtol=0.02)
    alone = best_labels(*parts[1], [OTHER], FitTable())
    # a distance of a thousandth of a sigma shows float32 sums of another batch
    pd.testing.assert_frame_equal(
        best[4:8].reset_index(drop=True).drop(columns="model"),
        alone.drop(columns="model"),
        atol=2e-5,
    )


@pytest.mark.parametrize(
    ("label", "bits"),
    [
        (None, 0),
        (0, 0b001),
        (1, 0b010),
        (2, 0b100),
    ],
)
def test_a_label_beyond_the_box_ends_at_its_bound_and_says_which(label, bits):
    labels = np.tile((LOW + HIGH) / 2, (3, 1))
    if label is not None:
        labels[:, label] = HIGH[label] + 0.2 * (HIGH - LOW)[label]
    best = best_labels(*stars(labels), [ONE], FitTable())
    assert set(best["at_bound"]) == {bits}
    assert set(best["fit_status"] & np.uint32(FitStatus.AT_BOUND)) == {4 * (bits > 0)}
    if label is not None:
        np.testing.assert_allclose(values(best)[:, label], HIGH[label], rtol=1e-6)


def test_the_covariance_is_the_upper_triangle_row_by_row():
    spectra, first = stars(labels_of(5))
    best = best_labels(spectra, first, [ONE], FitTable())
    direct = fit_labels(
        ONE.model,
        spectra["flux"].to_numpy(),
        spectra["ivar"].to_numpy(),
        start=first[[f"first_{name}" for name in LABELS]].to_numpy(),
        rv_start=first["rv_start"].to_numpy(),
    )
    found = np.stack(best["label_cov"])
    for k, (i, j) in enumerate(PAIRS):
        np.testing.assert_array_equal(found[:, k], direct.label_cov[:, i, j])
    np.testing.assert_allclose(np.sqrt(found[:, [0, 3, 5]]), values(best, "_err"), rtol=1e-6)
    assert np.abs(found[:, 1]).min() > 0  # correlated, so a transposed layout would differ


@pytest.mark.parametrize("scatter", [0.005, 0.02])
def test_scatter_widens_errors_as_it_adds_to_the_noise(scatter):
    spectra, first = stars(labels_of(5), snr=100.0)
    plain = best_labels(spectra, first, [ONE], FitTable(tolerance=1e-4))
    wide = best_labels(spectra, first, [ONE], FitTable(scatter=scatter, tolerance=1e-4))
    factor = np.sqrt(1 + (scatter * 100) ** 2)  # the same at every pixel: the same minimum
    np.testing.assert_allclose(values(wide, "_err") / values(plain, "_err"), factor, rtol=2e-3)
    # the tolerance of 1e-4 in chi2 is 0.01 sigma
    apart = np.abs(values(wide) - values(plain)) / values(plain, "_err")
    assert apart.max() < 0.05
    np.testing.assert_allclose(wide["chi2"] * factor**2, plain["chi2"], rtol=1e-3)


def test_stars_whose_pixels_share_noise_have_its_errors():
    spectra, first = stars(labels_of(6))
    plain = best_labels(spectra, first, [ONE], FitTable())
    excess = np.float32([1, 1, 1.8, 1.8, 2.2, 0])  # 0: a row that nothing was written in
    shared = spectra.assign(noise_correlation=("spectrum", excess))
    wide = best_labels(shared, first, [ONE], FitTable())
    factor = np.sqrt(np.where(excess > 0, excess, 1))
    ratio = values(wide, "_err") / values(plain, "_err")
    np.testing.assert_allclose(ratio, np.tile(factor, (3, 1)).T, rtol=0.01)
    np.testing.assert_allclose(
        wide["rv_err"], plain["rv_err"], rtol=0.01
    )  # of which nothing is said
    np.testing.assert_allclose(wide["chi2"], plain["chi2"], rtol=1e-4)
    np.testing.assert_array_equal(wide["fit_status"], plain["fit_status"])


def test_scatter_adds_to_what_the_model_says_of_itself_and_leaves_it_alone():
    model = lines()
    model.scatter.fill_(0.03)
    wide = doubted(model, 0.04)
    np.testing.assert_allclose(wide.scatter, 0.05, rtol=1e-6)
    np.testing.assert_allclose(model.scatter, 0.03, rtol=1e-6)
    assert doubted(model, 0.0) is model


def test_the_velocity_is_barycentric_as_relativity_has_it():
    shift = np.float32(-500.0)
    spectra, first = stars(labels_of(5), rv_shift=shift)
    first["rv_start"] = np.float32(100.0)  # at rest in fact: within reach of 150 km/s
    best = best_labels(spectra, first, [ONE], FitTable())
    one, two = float(shift) / C_KMS, best["rv_residual"].astype(float) / C_KMS
    total = C_KMS * (one + two) / (1 + one * two)
    np.testing.assert_allclose(best["rv"], total, atol=1e-4)  # float32 of 500 km/s
    assert (np.abs(best["rv_residual"]) < 5 * best["rv_err"]).all()


def test_a_star_that_ends_at_the_limit_of_velocity_says_so():
    spectra, first = stars(labels_of(3))
    first["rv_start"] = np.float32(60.0)
    best = best_labels(spectra, first, [ONE], FitTable(rv_range_kms=20.0))
    assert (best["fit_status"] & np.uint32(FitStatus.RV_AT_LIMIT) != 0).all()


@pytest.fixture
def mixed():
    """Of six stars one is not asked for, one has no pixel, and one a NaN."""
    spectra, first = stars(labels_of(6))
    first.loc[1, "first_status"] = FitStatus.NOT_SELECTED
    first.loc[1, [f"first_{name}" for name in LABELS] + ["rv_start"]] = np.nan
    spectra["ivar"][3] = 0
    spectra["flux"][4, 20] = np.nan
    return spectra, first


def test_a_star_without_a_fit_has_a_row_that_says_why(mixed):
    best = best_labels(*mixed, [ONE, OTHER], FitTable())
    why = [0, FitStatus.NOT_SELECTED, 0, FitStatus.NO_PIXELS, FitStatus.NONFINITE, 0]
    assert best["fit_status"].tolist() == why
    assert best["model"].tolist() == [-1 if status else 0 for status in why]
    columns = [*LABELS, "teff_err", "rv", "rv_err", "rv_residual", "chi2"]
    np.testing.assert_array_equal(best[columns].isna().all(axis=1), np.array(why) != 0)
    np.testing.assert_array_equal(np.isnan(np.stack(best["label_cov"])).all(1), np.array(why) != 0)
    assert best["row"].tolist() == [*range(40, 46)]
    assert best["obsid"].tolist() == [*range(9000, 9006)]


def test_stars_do_not_depend_on_those_beside_them(mixed):
    spectra, first = mixed
    best = best_labels(spectra, first, [ONE], FitTable())
    rows = [0, 2, 5]
    alone = best_labels(spectra.isel(spectrum=rows), first.iloc[rows], [ONE], FitTable())
    # sums of another batch size round otherwise: far below the errors
    apart = (values(best)[rows] - values(alone)) / values(alone, "_err")
    assert np.abs(apart).max() < 0.02


def test_a_block_without_rows_has_all_columns(mixed):
    full = best_labels(*mixed, [ONE], FitTable())
    spectra, first = mixed
    empty = best_labels(spectra.isel(spectrum=[]), first.iloc[:0], [ONE], FitTable())
    assert len(empty) == 0
    assert list(empty) == list(full)


def test_a_block_of_which_nothing_is_asked_has_all_its_rows(mixed):
    spectra, first = mixed
    first["first_status"] = np.uint32(FitStatus.BAD_SPECTRUM)
    best = best_labels(spectra, first, [ONE, OTHER], FitTable())
    assert best["fit_status"].tolist() == [FitStatus.BAD_SPECTRUM] * 6
    assert best["model"].tolist() == [-1] * 6
    assert best["teff"].isna().all()


def test_columns_are_of_the_types_that_parts_have(mixed):
    types = best_labels(*mixed, [ONE], FitTable()).dtypes
    assert types["row"] == types["obsid"] == np.int64
    assert (types["model"], types["n_used"], types["n_steps"]) == (np.int16, np.int32, np.int32)
    assert (types["at_bound"], types["fit_status"]) == (np.uint64, np.uint32)
    floats = [*LABELS, "teff_err", "rv", "rv_err", "rv_residual", "chi2"]
    assert set(types[floats]) == {np.dtype(np.float32)}


def test_the_same_block_gives_the_same_bytes(mixed):
    tables = [best_labels(*mixed, [ONE, OTHER], FitTable()) for _ in range(2)]
    assert tables[0].to_parquet() == tables[1].to_parquet()


# The stage, on the run of 20 spectra in 3 blocks.


@pytest.fixture
def stage(tiny_run):
    return next(fit(tiny_run.config))


def test_the_stage_does_every_block_that_has_first_labels(stage, tiny_run):
    assert [block.index for block in stage.blocks] == [0, 1, 2]
    paths.delete(f"{folders.first_url(tiny_run.config)}/commits/000000.json")
    assert [block.index for block in next(fit(tiny_run.config)).blocks] == [1, 2]


def test_the_stage_travels_and_fits_what_infer_left(stage, tiny, tiny_run):
    stage = pickle.loads(pickle.dumps(stage))
    best = stage.compute(stage.setup(), stage.read(stage.blocks[0]))
    assert best["fit_status"][3] == FitStatus.BAD_SPECTRUM
    fitted = np.delete(np.arange(8), 3)
    labels = best[list(tiny.LABELS)].to_numpy()[fitted]
    errors = best[[f"{name}_err" for name in tiny.LABELS]].to_numpy()[fitted]
    pulls = (labels - tiny_run.labels[fitted]) / errors
    assert np.abs(pulls).max() < 5
    assert stage.runs_on == "ray"


def test_first_labels_of_other_rows_are_refused(stage, tiny_run):
    url, block = folders.first_url(tiny_run.config), stage.blocks[1]
    part = pd.DataFrame({"row": np.arange(3)}).to_parquet()
    paths.write_bytes(f"{url}/parts/short.parquet", part)
    paths.delete(f"{url}/commits/000001.json")
    Ledger(url).commit(block, BlockResult(3, {"parts/short.parquet": "0"}))
    with pytest.raises(StoreError, match="block 1 has 3 rows, not 8"):
        stage.read(block)


@pytest.mark.parametrize("table", ["infer", "fit"])
def test_a_run_file_without_a_table_is_refused(table, tiny_run):
    with pytest.raises(ConfigError, match=r"no \[fit\] or no \[infer\] table"):
        next(fit(tiny_run.config.model_copy(update={table: None})))


def test_the_models_own_smoothing_reaches_the_fit():
    """A model of the true continuum is fitted to data normalized by smoothing."""
    labels = labels_of(20)
    spectra, first = stars(labels)
    operator = gaussian_smoothing(WAVELENGTH, 50.0)
    tilt = np.linspace(990, 1010, N_PIXEL, dtype=np.float32)  # 60 % over a whole spectrum
    data = normalize(
        spectra["flux"].to_numpy() * tilt, spectra["ivar"].to_numpy() / tilt**2, operator
    )
    normalized = spectra.assign(
        flux=(spectra["flux"].dims, data[0]), ivar=(spectra["flux"].dims, data[1])
    )
    ready = replace(ONE, smoothing=Smoother(operator.tiles, ONE.model.scatter))
    best = best_labels(normalized, first, [ready], FitTable())
    pulls = (values(best) - labels) / values(best, "_err")
    assert np.abs(np.median(pulls, axis=0)).max() < 1.2  # 4 sigma of a median of 20
    assert np.abs(pulls).max() < 5


def test_labels_are_fixed_tied_and_known_as_the_run_file_says():
    labels = labels_of(12)
    spectra, first = stars(labels)
    kinds = ({"where": "first_teff > 5200", "fixed": {"logg": 4.0}},)
    table = FitTable.model_validate({"kinds": kinds, "prior": {"fe_h": (-0.5, 1e-4)}})
    best = best_labels(spectra, first, [ONE], table)
    hot = first["first_teff"].to_numpy() > 5200
    assert hot.any()
    assert not hot.all()
    assert (best["logg"][hot] == 4.0).all()
    assert (best["logg_err"][hot] == 0).all()
    assert (best["logg_err"][~hot] > 0).all()
    np.testing.assert_allclose(best["fe_h"], -0.5, atol=2e-3)  # twenty of the prior's sigmas
    assert (best["prior_dominated"] & np.uint64(4) > 0).all()
    assert (best["fit_status"] & np.uint32(FitStatus.PRIOR_DOMINATED) > 0).all()


def test_labels_the_model_does_not_have_are_named():
    spectra, first = stars(labels_of(2))
    with pytest.raises(ConfigError, match=r"\[fit\] names \['vmic'\]; the model has"):
        best_labels(spectra, first, [ONE], FitTable(fixed={"vmic": 1.0}))


def test_widths_are_columns_where_they_are_fitted():
    labels = labels_of(6)
    plain = best_labels(*stars(labels), [ONE], FitTable())
    assert "vsini" not in plain
    best = best_labels(*stars(labels), [ONE], FitTable(vsini_kms=(0.0, 250.0)))
    assert (best["vsini"] < 120).all()  # they do not rotate; a pixel is 69 km/s
    assert np.isfinite(best["vsini_err"]).all()


def test_other_kinds_of_star_are_tried_as_starts():
    labels = labels_of(20)
    spectra, first = stars(labels)
    one = best_labels(spectra, first, [ONE], FitTable())
    more = best_labels(spectra, first, [ONE], FitTable(starts=("giant", "subgiant", "dwarf")))
    assert (more["chi2"] <= one["chi2"] + 0.02).all()  # twice the tolerance
    assert (more["n_steps"] > one["n_steps"]).all()


def test_a_median_below_a_limit_is_counted_as_it_is_sorted():
    rng = np.random.default_rng(4)
    for n_good in (0, 1, 2, 7, 40):
        flux = torch.tensor(rng.normal(1, 0.3, (200, 40)))
        ivar = torch.tensor(rng.uniform(1, 200, (200, 40)))
        weight = torch.zeros_like(ivar)
        weight[:, rng.permutation(40)[:n_good]] = 1
        values = torch.where(weight > 0, flux * ivar.sqrt(), torch.nan)
        sorted_out = values.nanmedian(dim=1).values < 9.0
        assert torch.equal(below_snr(flux, ivar, weight, 9.0), sorted_out)
        assert n_good == 0 or sorted_out.any()
