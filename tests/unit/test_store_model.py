"""Models on a store: exact round trips, real files of The Payne's layout, damage that is named."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scalespec.errors import ModelError, StoreError
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.store import model as store
from scalespec.store.model import (
    checksum,
    export_payne,
    import_payne,
    load_model,
    pack,
    save_model,
    unpack,
)

REAL = ("giants_3500-4200_lamost", "giants_4000-5000_lamost", "giants_4900-6000_lamost")


def payne(activation="silu", seed=1):
    spec = EmulatorSpec(
        "toy",
        ("teff", "logg", "m_h"),
        [4000.0, 0.1, -2.5],
        [6000.0, 5.0, 0.5],
        10 ** (3.6 + 1e-4 * np.arange(30)),
        resolving_power=1800.0,
        normalization={"method": "gaussian", "width_angstrom": 50.0},
        extra={"vmic": 2.0},
    )
    model = Payne(spec, hidden=(8, 6), activation=activation, slope=0.03, seed=seed)
    model.scatter.copy_(torch.linspace(0.001, 0.01, 30))
    return model


def labels(model, n=5):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (n, model.spec.n_label))
    return model.unscale(torch.tensor(x))


@pytest.fixture
def url(tmp_path):
    save_model(f"{tmp_path}/model", payne(), {"epochs": 3})
    return f"{tmp_path}/model"


@pytest.fixture
def npz(tmp_path):
    """Arrays of a good file in The Payne's layout, and where to write a worse one."""
    url = f"{tmp_path}/toy.npz"
    export_payne(url, payne("leaky_relu"))
    with np.load(url) as stored:
        return {name: stored[name] for name in stored.files}, url


def test_a_model_comes_back_exactly(url):
    model, there = payne(), load_model(url)
    assert isinstance(there, Payne)
    assert not there.training
    assert there.spec.to_dict() == model.spec.to_dict()
    assert torch.equal(there.scatter, model.scatter)
    assert torch.equal(there(labels(model)), model(labels(model)))
    assert store.model_record(url)["metadata"] == {"epochs": 3}


def test_one_model_has_one_checksum_and_the_same_bytes(tmp_path):
    first, again = (save_model(f"{tmp_path}/{name}", with_scatter(0.01)) for name in "ab")
    assert first == again == checksum(f"{tmp_path}/a")
    for name in ("weights.npz", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # What the numbers mean is part of it, what was noted in training is not.
    assert save_model(f"{tmp_path}/c", with_scatter(0.01), {"note": "x"}) == first
    assert save_model(f"{tmp_path}/d", with_scatter(0.02)) != first


def with_scatter(value):
    model = payne()
    model.scatter.fill_(value)
    return model


def test_the_description_is_written_last(tmp_path, monkeypatch):
    written = []
    real = store.paths.write_bytes
    monkeypatch.setattr(
        store.paths, "write_bytes", lambda url, data: (written.append(url), real(url, data))
    )
    save_model(f"{tmp_path}/model", payne())
    assert [url.rpartition("/")[2] for url in written] == ["weights.npz", "model.json"]


def test_arrays_of_every_shape_come_back_exactly():
    arrays = {
        "number": np.array(3.5),
        "empty": np.zeros((0, 4), np.float32),
        "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "names": np.array(["teff", "logg"]),
    }
    there = unpack(pack(arrays), "here")
    assert there.keys() == arrays.keys()
    for name, array in arrays.items():
        assert there[name].shape == array.shape, name
        assert there[name].dtype == array.dtype, name
        np.testing.assert_array_equal(there[name], array)
    assert pack(arrays) == pack(dict(reversed(arrays.items())))


@pytest.mark.parametrize("name", REAL)
def test_real_emulators_are_the_formula_of_their_description(shared, name):
    path = shared / "data" / "emulators" / f"{name}.npz"
    with np.load(path) as stored:
        z = {key: stored[key] for key in stored.files}
    model = load_model(str(path))
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (7, 22))
    a = x
    for i in range(2):
        a = a @ z[f"w_array_{i}"].T.astype(np.float64) + z[f"b_array_{i}"]
        a = np.where(a > 0, a, 0.01 * a)
    wanted = a @ z["w_array_2"].T.astype(np.float64) + z["b_array_2"]
    physical = torch.tensor((x + 0.5) * (z["x_max"] - z["x_min"]) + z["x_min"])
    made = model(physical).detach().numpy()
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5)  # sums of 300 products in float32
    assert model.spec.labels[:5] == ("teff", "logg", "m_h", "c_m", "n_m")
    assert model.spec.labels[15] == "co_m"  # cobalt, not [C/O]
    assert model.spec.resolving_power == 1800
    assert model.spec.normalization == {"method": "continuum"}
    np.testing.assert_allclose(model.spec.wavelength, 10 ** (3.5682 + 1e-4 * np.arange(3909)))


def test_a_real_emulator_survives_our_folder_and_its_own_layout(shared, tmp_path):
    model = load_model(str(shared / "data" / "emulators" / f"{REAL[1]}.npz"))
    save_model(f"{tmp_path}/folder", model)
    export_payne(f"{tmp_path}/{REAL[1]}.npz", model)
    for url in (f"{tmp_path}/folder", f"{tmp_path}/{REAL[1]}.npz"):
        there = load_model(url)
        assert there.spec.to_dict() == model.spec.to_dict()
        assert torch.equal(there(labels(model)), model(labels(model)))


def test_export_writes_what_the_paynes_own_code_reads(npz):
    arrays, _ = npz
    model = payne("leaky_relu")
    assert {f"{kind}_array_{i}" for kind in "wb" for i in range(3)} < arrays.keys()
    x = np.zeros((1, 3))
    a = x
    for i in range(2):
        a = a @ arrays[f"w_array_{i}"].T + arrays[f"b_array_{i}"]
        a = np.where(a > 0, a, 0.03 * a)
    wanted = a @ arrays["w_array_2"].T + arrays["b_array_2"]
    middle = torch.tensor((arrays["x_min"] + arrays["x_max"]) / 2)[None]
    np.testing.assert_allclose(model(middle).detach(), wanted, atol=1e-6)


def test_export_refuses_an_activation_the_layout_does_not_know(tmp_path):
    with pytest.raises(ModelError, match="activation 'silu'"):
        export_payne(f"{tmp_path}/a.npz", payne("silu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None, "wavelength_vac": None}, "no labels, wavelength_vac in it"),
        ({"w_array_1": None}, "no w_array_1 in it"),
        ({"b_array_2": None}, "no b_array_2 in it"),
        ({"w_array_1": np.zeros((6, 9))}, r"hidden.1.weight: \(6, 9\), wanted \(6, 8\)"),
        ({"w_array_0": np.array(1.0)}, "unsized"),
        ({"w_array_0": np.full((8, 3), np.nan)}, "w_array_0 holds numbers that are not finite"),
        ({"x_min": np.zeros(2)}, r"minimum has shape \(2,\), wanted \(3,\)"),
        ({"wavelength_vac": np.arange(30)[::-1] + 1.0}, "increase"),
        ({"labels": np.array(["teff", None, "m_h"])}, "allow_pickle=False"),
        ({"resolving_power": np.array("high")}, "high"),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(npz, changes, message):
    arrays, url = npz
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    np.savez(url, **arrays)
    with pytest.raises(ModelError, match=message) as caught:
        import_payne(url)
    assert url in str(caught.value)


def test_no_damage_raises_anything_but_a_model_error(npz):
    arrays, url = npz
    np.savez_compressed(url, **arrays)
    good = Path(url).read_bytes()
    rng = np.random.default_rng(0)
    for i in range(300):
        data = bytearray(good)
        if i % 3:
            data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        else:
            del data[rng.integers(len(data)) :]
        Path(url).write_bytes(data)
        with contextlib.suppress(ModelError):
            load_model(url)  # a date in the archive may well change


def _edit(url, **changes):
    path = Path(url) / "model.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format 99, this version reads format 1"),
        ({"format": None}, "not a model's description"),
        ({"model": "cannon9"}, "model 'cannon9' is not one of"),
        ({"options": {"hidden": [8, 7]}}, r"hidden.1.*\(6,\), wanted \(7,\)"),
        ({"options": {"depth": 3}}, "depth"),
        ({"spec": {"name": "toy"}}, "labels"),
        ({"weights_sha256": "0" * 64}, "damaged"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(url, changes, message):
    _edit(url, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(url)


def test_damaged_weights_are_refused(url, tmp_path):
    path = tmp_path / "model" / "weights.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"weights.npz is not the one .* damaged"):
        load_model(url)


def test_weights_without_a_description_are_no_model(url, tmp_path):
    (tmp_path / "model" / "model.json").unlink()
    with pytest.raises(StoreError, match=r"no model there \(no model.json\)"):
        load_model(url)
    (tmp_path / "model" / "model.json").write_text("{")
    with pytest.raises(ModelError, match="not a model's description"):
        load_model(url)


def test_more_weights_than_memory_are_not_unpacked(monkeypatch):
    monkeypatch.setattr(store, "LARGEST_BYTES", 1000)
    with pytest.raises(ModelError, match=r"\d+ bytes of weights unpacked, at most 1000"):
        unpack(pack({"w": np.zeros(1000)}), "here")


def test_a_model_that_no_name_stands_for_is_not_stored(tmp_path):
    with pytest.raises(ModelError, match="Emulator is no model that can be stored"):
        save_model(f"{tmp_path}/m", Emulator(payne().spec))
