"""Regressors in a run: trained from a store, kept, and asked for the labels of every spectrum."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from labelled import GAUSSIAN, LABELS, WAVELENGTH, N, spectra_with_labels, store_spectra
from toy_lines import toy, toy_spec

import scalespec
from scalespec.config import TrainTable
from scalespec.engines.local import LocalContext
from scalespec.errors import ConfigError, ModelError
from scalespec.models.networks import Regressor
from scalespec.models.regressor import RegressorSpec
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders, inference
from scalespec.stages.infer import infer
from scalespec.stages.inference import Fast, best_batch, infer_labels, make_plan, precision_shift
from scalespec.stages.inspect import inspect_url
from scalespec.stages.regress import load_fitting, regress
from scalespec.stages.train_regressor import (
    labelled,
    regressor_spec,
    train_regressor_loop,
    untrained,
)
from scalespec.store import paths
from scalespec.store.catalog import read_part
from scalespec.store.ledger import read_json
from scalespec.store.model import load_model, model_record, save_model
from scalespec.store.regressor import is_regressor, load_regressor, open_model

NETWORK = {"options": {"hidden": [16]}, "epochs": 3, "batch_size": 64}


def table_of(**options):
    network = NETWORK | options.pop("network", {})
    known = {"model": "mlp", "labels": LABELS, "catalog": "apogee", "network": network}
    return TrainTable(**(known | options))


@pytest.fixture
def store(tmp_path):
    """A training store: star errors, and some labels missing."""
    spectra = spectra_with_labels()
    labels = spectra["labels"].to_numpy().copy()
    labels[::4, 1] = np.nan
    labels[7] = np.nan
    err = np.full_like(labels, 0.1)
    spectra = spectra.assign(
        labels=(("spectrum", "label"), labels), label_err=(("spectrum", "label"), err)
    )
    return store_spectra(str(tmp_path / "train.zarr"), spectra)


@pytest.fixture(scope="module")
def model():
    sample, _ = toy(60, n_pixel=200, seed=1, snr=(20, 100))
    spec = toy_spec(sample)
    return Regressor(spec, network="mlp", members=2, options={"hidden": [8]}).eval()


# --- training from a store


def test_spectra_with_any_label_are_learned_from(store):
    training, validation, _ = labelled(store, table_of(), seed=1)
    star = xr.open_zarr(store, consolidated=False)["star"].to_numpy()
    rows = np.concatenate([training.data.rows, validation.data.rows])
    assert 7 not in rows
    assert 8 in rows  # no logg, but the others
    assert set(star[training.data.rows]).isdisjoint(star[validation.data.rows])
    assert (star[training.data.rows] % 10 > 1).all()


def test_samples_hold_labels_errors_and_inputs(store):
    table = table_of(labels=("fe_h", "teff"), network={"inputs": ("logg",)})
    training, _, _ = labelled(store, table, seed=1)
    (sample,) = list(training.samples(0, 0, 1))
    stored = xr.open_zarr(store, consolidated=False)
    wanted = stored["labels"].to_numpy()[training.data.rows]
    seen = np.column_stack([sample.labels[:, 1], sample.extra[:, 0], sample.labels[:, 0]])

    def ordered(rows):
        return rows[np.lexsort(np.nan_to_num(rows).T)]

    assert np.array_equal(ordered(seen), ordered(wanted), equal_nan=True)
    assert np.allclose(sample.label_err, 0.1)


def test_a_library_without_errors_is_split_by_rows(tmp_path):
    spectra = spectra_with_labels(split=False).drop_vars("star")
    url = store_spectra(str(tmp_path / "library.zarr"), spectra)
    training, validation, _ = labelled(url, table_of(), seed=1)
    assert len(training.data.rows) + len(validation.data.rows) == N
    (sample,) = list(validation.samples(0, 0, 1))
    assert np.isnan(sample.label_err).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"labels": ("c_fe",)}, r"no label \['c_fe'\]"),
        ({"network": {"inputs": ("g_mag",)}}, r"no label \['g_mag'\]"),
        ({"snr_min": 1e4}, "no training spectrum: of 200, 0 have any"),
    ],
)
def test_what_the_store_does_not_have_is_said(store, table, message):
    with pytest.raises(ModelError, match=message):
        labelled(store, table_of(**table), seed=1)


def test_a_wrong_option_of_a_network_is_said(store):
    table = table_of(network={"options": {"depth": 3}})
    training, _, head = labelled(store, table, seed=1)
    with pytest.raises(ModelError, match=r"\[train.network\]: mlp: .*depth"):
        untrained(table, regressor_spec(table, training, head), 1)


def test_the_loop_leaves_a_model_that_says_what_it_learned(store, tmp_path):
    url = str(tmp_path / "model")
    train_regressor_loop(LocalContext(), table_of(), store, url, seed=1)
    record = model_record(url)
    assert record["metadata"]["source"] == "train.zarr"
    assert len(record["metadata"]["history"]) == 3
    model = load_regressor(url)
    assert model.spec.labels == LABELS
    assert dict(model.spec.normalization) == GAUSSIAN
    assert model.spec.resolving_power == 1800
    assert np.array_equal(model.spec.wavelength, WAVELENGTH)
    again = str(tmp_path / "again")
    train_regressor_loop(LocalContext(), table_of(), store, again, seed=1)
    for name in ("model.json", "weights.npz"):
        assert Path(url, name).read_bytes() == Path(again, name).read_bytes()


def test_windows_of_the_run_file_censor_the_bayesian_network(store):
    windows = {"fe_h": ((WAVELENGTH[10], WAVELENGTH[30]),)}
    table = table_of(model="bayesian", windows=windows, network={"options": {"samples": 2}})
    training, _, head = labelled(store, table, seed=1)
    model = untrained(table, regressor_spec(table, training, head), 1)
    assert len(model.members[0].windows["fe_h"]) == 21
    assert json.dumps(model.options)


def test_inputs_that_are_labels_are_refused():
    with pytest.raises(ValueError, match=r"network.inputs name \['teff'\]"):
        table_of(network={"inputs": ("teff",)})
    with pytest.raises(ValueError, match="snr_range must rise"):
        table_of(network={"snr_range": (50.0, 5.0)})


# --- kept and loaded


def test_a_model_is_the_same_when_it_was_stored(model, tmp_path):
    url = str(tmp_path / "model")
    assert save_model(url, model) == save_model(str(tmp_path / "copy"), model)
    sample, _ = toy(20, n_pixel=200, seed=3, snr=(20, 100))
    before = model.predict(sample.flux, sample.ivar)
    after = load_regressor(url).predict(sample.flux, sample.ivar)
    for name in ("labels", "sigma_aleatoric", "sigma_epistemic", "out_of_domain"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    assert is_regressor(url)
    assert isinstance(open_model(url), Regressor)
    assert isinstance(scalespec.load_regressor(url), Regressor)


def test_models_of_the_other_kind_are_refused(model, tiny_run, tmp_path):
    url = str(tmp_path / "model")
    save_model(url, model)
    with pytest.raises(ModelError, match="a regressor, flux to labels"):
        load_model(url)
    emulator = str(tiny_run.root / "model")
    with pytest.raises(ModelError, match="an emulator, labels to flux"):
        load_regressor(emulator)
    assert not is_regressor(emulator)
    assert not isinstance(open_model(emulator), Regressor)


def test_a_damaged_regressor_is_refused(model, tmp_path):
    url = tmp_path / "model"
    save_model(str(url), model)
    record = json.loads((url / "model.json").read_text())
    record["options"]["options"] = {"hidden": [9]}
    (url / "model.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="weights members"):
        load_regressor(str(url))
    record["options"]["network"] = "cnn"
    (url / "model.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="no network 'cnn'"):
        load_regressor(str(url))
    (url / "weights.npz").write_bytes(b"PK")
    with pytest.raises(ModelError, match="damaged"):
        load_regressor(str(url))


def test_a_regressor_says_what_it_is(model, tmp_path):
    save_model(str(tmp_path / "model"), model)
    lines = inspect_url(str(tmp_path / "model")).splitlines()
    assert lines[0] == "regressor toy: 2 x mlp, flux to labels"
    assert lines[1] == "grid: 200 pixels, 4000.00-8177.00 Å in vacuum"
    assert [line.split()[0] for line in lines[3:]] == list(LABELS)


# --- fast


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("residual", {"width": 64}),
        ("mlp", {}),
        ("starnet", {}),
        ("folded", {"channels": [16, 16, 16]}),
        ("bayesian", {"samples": 3}),
    ],
)
def test_fast_inference_is_the_models_own(network, options):
    sample, _ = toy(40, seed=1, snr=(20, 100))
    model = Regressor(toy_spec(sample), network=network, options=options).eval()
    own = model.predict(sample.flux, sample.ivar)
    for batch_size in (0, 16, 40):
        fast = infer_labels(model, sample.flux, sample.ivar, batch_size=batch_size)
        # float32 sums in another order, or by Fourier transforms: 1e-5 of the labels' spread
        assert (np.abs(fast.labels - own.labels) < 1e-4 * model.spec.label_std).all()
        assert np.allclose(fast.sigma, own.sigma, rtol=1e-3)
        assert np.allclose(fast.out_of_domain, own.out_of_domain, rtol=1e-4)
    rounded = infer_labels(model, sample.flux, sample.ivar, precision="bfloat16")
    moved = np.abs(rounded.labels - own.labels) / model.spec.label_std
    assert 0 < moved.max() < 0.2  # eight bits of mantissa, some layers deep


def test_products_are_left_as_they_were(model):
    with Fast():
        pass
    x = torch.randn(3, 4)
    layer = torch.nn.Linear(4, 2)
    with Fast("bfloat16"):
        inside = layer(x)
    assert not torch.equal(inside, layer(x))
    assert torch.allclose(inside, layer(x), atol=0.05)


def test_fewer_bits_are_used_only_where_they_do_no_harm(model, monkeypatch):
    sample, _ = toy(100, n_pixel=200, seed=3, snr=(20, 100))
    plan = make_plan(model, sample.flux, sample.ivar, batch_size=32, precision="bfloat16")
    assert plan.precision == "bfloat16"
    assert 0 < plan.shift < inference.LARGEST_SHIFT
    monkeypatch.setattr(inference, "LARGEST_SHIFT", plan.shift / 2)
    again = make_plan(model, sample.flux, sample.ivar, batch_size=32, precision="bfloat16")
    assert again.precision == "float32"
    assert again.shift == plan.shift
    assert make_plan(model, sample.flux, sample.ivar, batch_size=32).shift == 0


def test_without_a_usable_spectrum_nothing_is_known_of_fewer_bits(model):
    none = np.zeros((4, 200), np.float32)
    assert precision_shift(model, none, none, "bfloat16") == np.inf
    assert make_plan(model, none, none, batch_size=8, precision="bfloat16").precision == "float32"


def test_the_probe_takes_the_batch_of_least_time(model, monkeypatch):
    sample, _ = toy(30, n_pixel=200, seed=3, snr=(20, 100))
    clock = {"now": 0.0, "asked": []}

    def infer_slowly(_, flux, ivar, *, batch_size, precision):
        assert len(flux) == len(ivar) == batch_size
        clock["asked"].append(batch_size)
        clock["now"] += 1e-4 * (abs(batch_size - 128) + 10) * batch_size / 128

    monkeypatch.setattr(inference, "infer_labels", infer_slowly)
    monkeypatch.setattr(inference.time, "process_time", lambda: clock["now"])
    assert best_batch(model, sample.flux, sample.ivar) == 128
    monkeypatch.setattr(inference, "PROBE_S", 0.0)
    clock["asked"].clear()
    assert best_batch(model, sample.flux, sample.ivar) == 16  # no time for another
    assert set(clock["asked"]) == {16}


# --- the stage


@pytest.fixture
def run(tiny, tiny_run, tmp_path):
    """The tiny run, with a regressor on its grid, and a spectrum without a pixel."""
    sample, _ = toy(60, n_pixel=200, seed=1, snr=(20, 100))
    spec = toy_spec(sample).to_dict()
    spec |= {"wavelength": tiny.WAVELENGTH.tolist(), "resolving_power": 1800.0}
    spec |= {"normalization": {"method": "gaussian", "width_angstrom": 50.0}}
    model = Regressor(
        RegressorSpec.from_dict(spec), network="mlp", members=2, options={"hidden": [8]}
    )
    url = str(tmp_path / "regressor")
    save_model(url, model)

    def config(**options):
        table = tiny_run.config.infer.model_copy(update={"models": (url,)} | options)
        return tiny_run.config.model_copy(update={"infer": table})

    return config, url


def results(config):
    (stage,) = list(infer(config))
    value = stage.setup()
    for block in stage.blocks:
        stage.write(block, stage.compute(value, stage.read(block)))
    return stage, [read_part(stage.url, block).to_pandas() for block in stage.blocks]


def test_every_spectrum_gets_labels_both_errors_and_a_score(run):
    config, url = run
    stage, parts = results(config(spectra_per_batch=8))
    table = np.concatenate([part["row"] for part in parts])
    assert table.tolist() == list(range(20))
    first = parts[0]
    assert set(first) == {
        *("row", "obsid", "model", "out_of_domain", "first_status"),
        *(f"first_{n}{e}" for n in LABELS for e in ("", "_err", "_aleatoric", "_epistemic")),
    }
    assert stage.runs_on == "ray"
    spectra = xr.open_zarr(f"{folders.spectra_url(config())}/spectra.zarr", consolidated=False)
    whole = load_regressor(url).predict(
        spectra["flux"].to_numpy()[:8], spectra["ivar"].to_numpy()[:8]
    )
    good = first["row"].to_numpy() != 3
    assert np.allclose(first["first_teff"][good], whole.labels[good, 0], rtol=1e-5)
    assert np.allclose(first["first_fe_h_err"][good], whole.sigma[good, 2], rtol=1e-4)
    both = np.hypot(first["first_logg_aleatoric"], first["first_logg_epistemic"])
    assert np.allclose(both[good], first["first_logg_err"][good], rtol=1e-5)


def test_a_broken_spectrum_has_a_status_and_no_number(run):
    _, parts = results(run[0](spectra_per_batch=8))
    row = parts[0].iloc[3]
    assert row["first_status"] == FitStatus.BAD_SPECTRUM
    assert row["model"] == -1
    numbers = row.drop(["row", "obsid", "model", "first_status"]).to_numpy(float)
    assert np.isnan(numbers).all()


def test_a_spectrum_without_a_pixel_has_a_status_and_no_number(run):
    config = run[0](spectra_per_batch=8)
    (stage,) = list(infer(config))
    asked = stage.read(stage.blocks[0])
    asked.question.spectra["ivar"].to_numpy()[1] = 0
    asked.question.spectra["flux"].to_numpy()[5] = 40.0
    found = stage.compute(stage.setup(), asked)
    assert found["first_status"][1] == FitStatus.NO_PIXELS
    assert np.isnan(
        found.loc[1, ["first_teff", "first_teff_err", "out_of_domain"]].to_numpy(float)
    ).all()
    assert found["first_status"][5] == FitStatus.OUT_OF_DOMAIN
    assert np.isfinite(found["first_teff"][5])
    numbers = found.select_dtypes("float").to_numpy()
    assert not np.isinf(numbers).any()


def test_the_stage_travels_and_keeps_what_it_measured(run):
    config = run[0](precision="bfloat16")
    (stage,) = list(infer(config))
    record = read_json(f"{stage.url}/inference.json")
    assert record["batch_size"] in inference.PROBED
    assert record["precision"] == "bfloat16"
    moved = pickle.loads(pickle.dumps(stage))
    made = moved.compute(moved.setup(), moved.read(moved.blocks[2]))
    assert made["row"].tolist() == [16, 17, 18, 19]
    paths.write_bytes(
        f"{stage.url}/inference.json", json.dumps(record | {"batch_size": 7}).encode()
    )
    (again,) = list(regress(config))
    assert again.compute.keywords["plan"].batch_size == 7


def test_spectra_may_be_selected(run):
    _, parts = results(run[0](spectra_per_batch=8, where="snr > 200"))
    left_out = np.uint32(FitStatus.NOT_SELECTED | FitStatus.BAD_SPECTRUM)
    chosen = np.concatenate([part["first_status"] & left_out == 0 for part in parts])
    rows = np.arange(20)
    assert np.array_equal(chosen, (rows % 5 < 2) & (rows != 3))


def test_inputs_come_from_a_matched_catalog(run, tiny_run, tmp_path):
    config, _ = run
    spec = load_regressor(run[1]).spec.to_dict()
    spec["extra"] = {"inputs": {"names": ["teff"], "mean": [5000.0], "std": [800.0]}}
    model = Regressor(RegressorSpec.from_dict(spec), network="mlp", options={"hidden": [8]})
    url = str(tmp_path / "beside")
    save_model(url, model)
    with pytest.raises(ConfigError, match=r"name the \[crossmatch.NAME\] that"):
        next(regress(config(models=(url,))))
    with pytest.raises(ConfigError, match="or none where there are none"):
        next(regress(config(inputs="apogee")))
    with pytest.raises(ConfigError, match=r"wants a \[crossmatch.galah\] table"):
        next(regress(config(models=(url,), inputs="galah")))
    (stage,) = list(regress(config(models=(url,), inputs="apogee", spectra_per_batch=8)))
    asked = stage.read(stage.blocks[0])
    wanted = np.full(8, np.nan)
    wanted[[0, 6]] = tiny_run.labels[[0, 6], 0] - 50
    assert np.allclose(asked.extra[:, 0], wanted, equal_nan=True)
    assert np.isfinite(stage.compute(stage.setup(), asked)["first_teff"][1])


def test_one_regressor_at_a_time(run):
    config, url = run
    with pytest.raises(ConfigError, match="one regressor at a time"):
        next(infer(config(models=(url, url))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wavelength": np.linspace(4000, 5000, 199)}, "the data have 199 pixels"),
        ({"shift": 0.3}, "up to 0.30 pixels off"),
        ({"normalization": {"method": "continuum"}}, "normalized by"),
        ({"resolving_power": 900.0}, "R = 1800, the data R = 900"),
    ],
)
def test_a_regressor_that_does_not_fit_the_spectra_is_refused(run, tiny, change, message):
    pixel = tiny.WAVELENGTH * (10**1e-4 - 1)
    wavelength = change.get("wavelength", tiny.WAVELENGTH + change.get("shift", 0.0) * pixel)
    attrs = {"normalization": GAUSSIAN, "resolving_power": 1800.0} | change
    with pytest.raises(ModelError, match=message):
        load_fitting(run[1], wavelength, attrs)
