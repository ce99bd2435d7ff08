"""First labels: near the truth at any velocity, for the stars asked for, by the best model."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from scalespec.config import InferTable
from scalespec.errors import ConfigError, ModelError
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.optimize.result import FitStatus
from scalespec.plan import plan_blocks
from scalespec.schema import C_KMS, SpectrumStatus
from scalespec.stages import folders
from scalespec.stages.emulators import load_starters
from scalespec.stages.infer import first_labels, infer
from scalespec.stages.question import ask, match_columns, read_question, write_labels
from scalespec.store import paths
from scalespec.store.catalog import read_part
from scalespec.store.ledger import Ledger
from scalespec.store.model import load_model, save_model

STEP, N_PIXEL = 1e-4, 400
WAVELENGTH = 10 ** (3.7 + STEP * np.arange(N_PIXEL))
LABELS = ("teff", "logg", "fe_h")
LOW, HIGH = np.array([4000.0, 1.0, -2.0]), np.array([6500.0, 5.0, 0.5])
GAUSSIAN = {"method": "gaussian", "width_angstrom": 50.0}
ATTRS = {"log10_wavelength_step": STEP, "resolving_power": 1800.0, "normalization": GAUSSIAN}
KMS = C_KMS * np.log(10) * STEP  # of one pixel, for small velocities


def lines(seed):
    """A Payne of random weights, smoothed to lines of R = 1800."""
    spec = EmulatorSpec(f"lines {seed}", LABELS, LOW, HIGH, WAVELENGTH, 1800.0, GAUSSIAN)
    model = Payne(spec, hidden=(16, 16), seed=seed)
    with torch.no_grad():
        model.output.weight.mul_(3.0)
    return model.broadened(1.1, resolving_power=1800.0).eval()


@pytest.fixture(scope="module")
def starters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    urls = [str(folder / str(seed)) for seed in (1, 2)]
    for seed, url in enumerate(urls, 1):
        save_model(url, lines(seed))
    return load_starters(urls, WAVELENGTH, ATTRS, n_template=48, seed=1)


def moved(flux, pixels):
    """Lines moved to the red: Fourier phases on a mirrored spectrum, which no end tears."""
    mirrored = np.concatenate([flux, flux[:, ::-1]], axis=1)
    frequency = np.fft.rfftfreq(mirrored.shape[1])
    phase = np.exp(-2j * np.pi * np.asarray(pixels)[:, None] * frequency)
    return np.fft.irfft(np.fft.rfft(mirrored) * phase, mirrored.shape[1])[:, : flux.shape[1]]


def stars(n, *, seed=1, snr=80.0, pixels=0.0, rv_shift=0.0):
    """n spectra of the model `seed`, their lines `pixels` off rest; labels within the box."""
    rng = np.random.default_rng(seed)
    labels = LOW + rng.uniform(0.1, 0.9, (n, 3)) * (HIGH - LOW)
    with torch.inference_mode():
        clean = lines(seed)(torch.tensor(labels)).numpy()
    flux = moved(clean, np.broadcast_to(pixels, n)) + rng.normal(0, 1 / snr, clean.shape)
    ivar = np.full(flux.shape, snr**2)
    ivar[:, 100:108] = 0
    flux[:, 100:108] = 0
    dims = ("spectrum", "wavelength")
    columns = {
        "obsid": np.arange(n) + 9000,
        "snr": np.full(n, snr, np.float32),
        "status": np.zeros(n, np.uint32),
        "rv_shift": np.broadcast_to(np.float32(rv_shift), n).copy(),
    }
    pixels_of = {"flux": (dims, flux.astype("f4")), "ivar": (dims, ivar.astype("f4"))}
    spectra = xr.Dataset(
        pixels_of | {name: ("spectrum", values) for name, values in columns.items()},
        {"wavelength": WAVELENGTH},
        ATTRS,
    )
    return spectra, labels


def asked(spectra):
    return ask(spectra, np.arange(len(spectra["obsid"])) + 40)


def test_first_labels_are_near_the_truth(starters):
    spectra, labels = stars(60)
    first = first_labels(asked(spectra), starters[:1], InferTable())
    found = first[[f"first_{name}" for name in LABELS]].to_numpy()
    error = np.abs(found - labels) / (HIGH - LOW)
    assert np.median(error) < 0.03  # of the box; the middle of the box is wrong by 0.2
    assert first["first_status"].tolist() == [0] * 60
    assert first["row"].tolist() == [*range(40, 100)]
    assert first["obsid"].tolist() == [*range(9000, 9060)]


@pytest.mark.parametrize("pixels", [-5.3, -1.0, -0.45, 0.0, 0.3, 2.0, 6.6])
def test_velocities_are_found_across_whole_pixels(pixels, starters):
    spectra, _ = stars(20, pixels=pixels)
    first = first_labels(asked(spectra), starters[:1], InferTable())
    velocity = C_KMS * np.tanh(pixels * STEP * np.log(10))
    # the template is not the star: a tenth of a pixel
    np.testing.assert_allclose(first["rv_start"], velocity, atol=0.1 * KMS)
    pulls = (first["rv_start"] - velocity) / first["first_rv_err"]
    assert np.abs(pulls).median() < 4  # errors are those of noise alone


def test_velocities_add_as_relativity_has_it(starters):
    shift = np.float32(400.0)
    spectra, _ = stars(10, pixels=3.2, rv_shift=shift)
    first = first_labels(asked(spectra), starters[:1], InferTable())
    one, two = float(shift) / C_KMS, first["rv_start"].astype(float) / C_KMS
    total = C_KMS * (one + two) / (1 + one * two)
    # float32 holds 600 km/s to 3e-5; the plain sum would be off by 1e-3
    np.testing.assert_allclose(first["first_rv"], total, atol=1e-4)
    assert np.abs(total - float(shift) - first["rv_start"]).min() > 5e-4


def test_a_velocity_beyond_the_limit_is_not_searched(starters):
    spectra, _ = stars(5, pixels=6.6)
    first = first_labels(asked(spectra), starters[:1], InferTable(rv_max_kms=200.0))
    assert np.abs(first["rv_start"]).max() <= 3.5 * KMS  # three whole lags and a half


def test_of_several_models_the_one_that_made_the_star_is_kept(starters):
    parts = [stars(6, seed=seed)[0] for seed in (1, 2, 1)]
    spectra = xr.concat(parts, dim="spectrum", data_vars="minimal")
    first = first_labels(asked(spectra), starters, InferTable())
    assert first["model"].tolist() == [0] * 6 + [1] * 6 + [0] * 6
    alone = first_labels(asked(parts[1]), starters[1:], InferTable())
    for name in ("first_teff", "first_rv", "first_chi2", "rv_quality"):
        np.testing.assert_array_equal(first[name][6:12], alone[name], err_msg=name)


def test_a_model_that_knows_its_pixels_badly_does_not_win_by_a_low_chi2(starters):
    """The star's own model, of small scatter, against another one whose scatter hides all lines."""
    spectra, _ = stars(12, seed=1)
    vague = starters[1].ready.model.slice_grid(0, N_PIXEL)
    vague.scatter = torch.full_like(vague.scatter, 0.5)
    other = replace(starters[1], ready=replace(starters[1].ready, model=vague))
    chi2 = [
        first_labels(asked(spectra), [one], InferTable())["first_chi2"]
        for one in (starters[0], other)
    ]
    assert (chi2[1] < chi2[0]).all()
    first = first_labels(asked(spectra), [starters[0], other], InferTable())
    assert first["model"].tolist() == [0] * 12


@pytest.fixture
def partly_asked(starters):
    spectra, _ = stars(6)
    spectra["status"][1] = SpectrumStatus.TRUNCATED
    spectra["snr"][4] = 3.0
    selected = np.array([True, True, False, True, True, True])
    question = ask(spectra, np.arange(6), selected=selected, snr_min=5.0)
    return question, first_labels(question, starters, InferTable(snr_min=5.0))


def test_stars_not_asked_for_keep_their_rows_and_say_why(partly_asked):
    _, first = partly_asked
    weak = FitStatus.LOW_SNR | FitStatus.NOT_SELECTED
    why = [0, FitStatus.BAD_SPECTRUM, FitStatus.NOT_SELECTED, 0, weak, 0]
    assert first["first_status"].tolist() == why
    assert (first["model"] == -1).tolist() == [bool(status) for status in why]
    numbers = [c for c in first if c.startswith(("first_", "rv_")) and c != "first_status"]
    unknown = first[numbers].isna()
    np.testing.assert_array_equal(unknown.all(axis=1), [bool(status) for status in why])


def test_stars_asked_for_do_not_depend_on_the_others(partly_asked, starters):
    question, first = partly_asked
    rows = [0, 3, 5]
    alone = first_labels(
        ask(question.spectra.isel(spectrum=rows), np.array(rows)), starters, InferTable()
    )
    for name in ("first_teff", "first_rv", "first_chi2"):
        # the sums of a batch of another size round otherwise
        np.testing.assert_allclose(first[name][rows], alone[name], rtol=1e-5, err_msg=name)


def test_a_block_of_which_nothing_is_asked_has_all_its_rows(starters):
    spectra, _ = stars(3)
    nothing = ask(spectra, np.arange(3), selected=np.zeros(3, bool))
    first = first_labels(nothing, starters, InferTable())
    assert first["first_teff"].isna().all()
    assert first["first_status"].tolist() == [FitStatus.NOT_SELECTED] * 3


def test_columns_are_of_the_types_that_parts_have(partly_asked, starters):
    spectra, _ = stars(2)
    types = first_labels(asked(spectra), starters, InferTable()).dtypes
    assert types["row"] == types["obsid"] == np.int64
    assert types["model"] == np.int16
    assert types["first_status"] == np.uint32
    floats = ["first_teff", "first_rv", "first_rv_err", "rv_start", "first_chi2", "rv_quality"]
    assert set(types[floats]) == {np.dtype(np.float32)}
    assert types.to_dict() == partly_asked[1].dtypes.to_dict()


def test_the_same_block_gives_the_same_bytes(starters):
    tables = [first_labels(asked(stars(8)[0]), starters, InferTable()) for _ in range(2)]
    assert tables[0].to_parquet() == tables[1].to_parquet()


def test_a_featureless_star_has_labels_and_no_error_of_velocity(starters):
    spectra, _ = stars(1)
    spectra["flux"][:] = 1.0
    first = first_labels(asked(spectra), starters, InferTable())
    assert np.isfinite(first["first_teff"]).all()
    assert first["rv_start"][0] == 0
    assert np.isnan(first["first_rv_err"][0])


# The stage, on the run of 20 spectra in 3 blocks.


def asked_rows(tiny_run, condition, index=0, **table):
    config = tiny_run.config
    question = read_question(
        plan_blocks(20, 8)[index],
        url=f"{folders.spectra_url(config)}/spectra.zarr",
        index_url=folders.raw_url(config),
        matches={"apogee": folders.matches_url(config, "apogee")},
        table=InferTable(where=condition, **table),
    )
    return question.rows[question.excluded == 0].tolist()


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("", [0, 1, 2, 4, 5, 6, 7]),  # all but the broken one
        ("snr > 200", [0, 1, 5, 6]),  # of the store
        ("class_ != 'STAR'", [5]),  # of the index
        ("apogee_teff > 0", [0, 6]),  # of the matches; unmatched is never more than 0
        ("apogee_split == 0 and ra < 1", [0]),
    ],
)
def test_where_selects_by_store_index_and_matches(condition, rows, tiny_run):
    assert asked_rows(tiny_run, condition) == rows


def test_where_and_the_least_snr_hold_together(tiny_run):
    assert asked_rows(tiny_run, "ra < 1.5", snr_min=200) == [0, 1]


def test_columns_of_a_match_are_on_the_rows_of_the_block(tiny_run):
    url = folders.matches_url(tiny_run.config, "apogee")
    columns = match_columns("apogee", url, plan_blocks(20, 8)[1])  # rows 8 to 15
    known = np.isfinite(columns["apogee_teff"])
    assert np.flatnonzero(known).tolist() == [1, 4, 7]
    np.testing.assert_array_equal(
        columns["apogee_teff"][known], tiny_run.labels[[9, 12, 15], 0] - 50
    )


@pytest.fixture
def stage(tiny_run):
    return next(infer(tiny_run.config))


def test_the_stage_does_every_preprocessed_block(stage, tiny_run):
    assert [block.index for block in stage.blocks] == [0, 1, 2]
    paths.delete(f"{folders.spectra_url(tiny_run.config)}/commits/000001.json")
    assert [block.index for block in next(infer(tiny_run.config)).blocks] == [0, 2]


def test_the_stage_travels_and_its_models_are_loaded_once_per_worker(stage, tiny):
    stage = pickle.loads(pickle.dumps(stage))
    (starter,) = stage.setup()
    assert starter.ready.labels == tiny.LABELS
    first = stage.compute([starter], stage.read(stage.blocks[2]))
    assert first["row"].tolist() == [16, 17, 18, 19]
    assert (first["model"] == 0).all()
    assert stage.runs_on == "ray"


def test_a_model_that_does_not_fit_is_said_before_workers_start(tiny_run):
    url = str(tiny_run.root / "other")
    model = load_model(str(tiny_run.root / "model"))
    model.spec = replace(model.spec, resolving_power=900.0)
    save_model(url, model)
    table = tiny_run.config.infer.model_copy(update={"models": (url,)})
    with pytest.raises(ModelError, match="the model has R = 900, the data R = 1800"):
        next(infer(tiny_run.config.model_copy(update={"infer": table})))


def test_a_run_file_without_the_table_is_refused(tiny_run):
    with pytest.raises(ConfigError, match=r"no \[infer\] table"):
        next(infer(tiny_run.config.model_copy(update={"infer": None})))


PART = pd.DataFrame({"row": np.arange(8), "first_status": np.array([0, 1024] * 4, np.uint32)})


def test_a_part_is_read_back_as_it_was_written(stage, tmp_path):
    block, url = stage.blocks[1], str(tmp_path / "first")
    write_labels(block, PART, url, "first_status")
    assert read_part(url, block).to_pandas().equals(PART)
    assert Ledger(url).commits()[1].counts == {"OK": 4, "NOT_SELECTED": 4}


def test_a_late_writer_finds_the_part_that_stands(stage, tmp_path):
    block, url = stage.blocks[1], str(tmp_path / "first")
    first = write_labels(block, PART, url, "first_status")
    assert write_labels(block, PART.iloc[:3], url, "first_status") == first
    assert read_part(url, block).num_rows == 8
