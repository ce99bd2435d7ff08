"""Where a training stands: the newest whole state, whatever a kill or a disk left of others."""

import numpy as np
import pytest

from scalespec.errors import ModelError
from scalespec.models.base import EmulatorSpec
from scalespec.store import paths
from scalespec.store.checkpoints import CheckpointFolder, meaning_of
from scalespec.store.model import pack


def arrays_of(step):
    return {"model/w": np.full((3, 2), step, np.float32), "adam/0/step": np.array(step)}


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(str(tmp_path / "model" / "checkpoints"))


def save(folder, *steps):
    for step in steps:
        folder.save(step, arrays_of(step), {"history": [{"step": step}], "best_loss": 0.1})


def step_of(folder):
    """The step that training would go on from; its arrays are those of that step."""
    latest = folder.latest()
    if latest is None:
        return None
    step, arrays, meta = latest
    np.testing.assert_array_equal(arrays["model/w"], arrays_of(step)["model/w"])
    assert meta["history"] == [{"step": step}]
    return step


def keys(folder):
    return paths.list_keys(folder.url)


def test_without_a_state_there_is_none(folder):
    assert folder.latest() is None


def test_a_state_comes_back_as_it_was(folder):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(7)}
    meta = {"best_loss": 0.1 + 0.2, "stale": 3, "history": [{"validation_rms": 1e-3}]}
    folder.save(5, arrays, meta)
    step, found, again = folder.latest()
    assert (step, again) == (5, meta)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


def test_the_newest_state_is_taken_whatever_the_digits(folder):
    save(folder, 9, 10, 1_000_001)
    assert step_of(folder) == 1_000_001


def test_three_states_are_kept(folder):
    save(folder, 1, 2, 3, 4, 5)
    assert keys(folder) == [f"{step:06d}.{kind}" for step in (3, 4, 5) for kind in ("json", "npz")]


def test_arrays_that_a_kill_left_without_their_json_are_no_state(folder):
    save(folder, 1, 2)
    paths.write_bytes(f"{folder.url}/000003.npz", pack(arrays_of(3)))
    assert step_of(folder) == 2


def test_what_kills_left_is_swept_with_the_next_state(folder):
    save(folder, 1)
    paths.write_bytes(f"{folder.url}/000002.npz", pack(arrays_of(2)))
    save(folder, 3)
    assert keys(folder) == ["000001.json", "000001.npz", "000003.json", "000003.npz"]


DAMAGE = {
    "arrays cut short": ("npz", lambda data: data[: len(data) // 2]),
    "one bit flipped": ("npz", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "arrays empty": ("npz", lambda _: b""),
    "json cut short": ("json", lambda data: data[:-3]),
    "json of something else": ("json", lambda _: b"[1, 2]"),
    "json without a checksum": ("json", lambda _: b'{"step": 3, "meta": {}}'),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_state_is_passed_over_with_a_warning(kind, folder, caplog):
    save(folder, 2, 3)
    ending, damage = DAMAGE[kind]
    url = f"{folder.url}/000003.{ending}"
    paths.write_bytes(url, damage(paths.read_bytes(url)))
    assert step_of(folder) == 2
    assert "passed over" in caplog.text
    assert "000003" in caplog.text


def test_arrays_that_are_gone_are_passed_over(folder):
    save(folder, 2, 3)
    paths.delete(f"{folder.url}/000003.npz")
    assert step_of(folder) == 2


def test_when_every_state_is_damaged_training_begins_anew(folder):
    save(folder, 2, 3)
    for key in keys(folder):
        paths.write_bytes(f"{folder.url}/{key}", b"torn")
    assert folder.latest() is None


def test_damaged_states_do_not_crowd_out_the_ones_saved_after_them(folder):
    save(folder, 10, 20)
    for key in ("000010.npz", "000020.npz"):
        paths.write_bytes(f"{folder.url}/{key}", b"torn")
    save(folder, 1)  # training began anew
    assert step_of(folder) == 1
    save(folder, 2)
    assert keys(folder) == ["000001.json", "000001.npz", "000002.json", "000002.npz"]


def test_a_state_saved_again_replaces_the_damaged_one(folder):
    save(folder, 2, 3)
    paths.write_bytes(f"{folder.url}/000003.npz", b"torn")
    save(folder, 3)
    assert step_of(folder) == 3


def test_the_same_state_is_the_same_bytes(folder, tmp_path):
    other = CheckpointFolder(str(tmp_path / "other"))
    for one in (folder, other):
        save(one, 4)
    for key in ("000004.npz", "000004.json"):
        assert paths.read_bytes(f"{folder.url}/{key}") == paths.read_bytes(f"{other.url}/{key}")


SPEC = {"labels": ("teff", "logg"), "minimum": [4e3, 1], "maximum": [6e3, 5]}
SPEC |= {"wavelength": np.linspace(5000, 5100, 9), "resolving_power": 1800.0}
SPEC |= {"normalization": {"method": "gaussian", "width_angstrom": 50.0}}
OTHERS = {
    "labels": {"labels": ("teff", "fe_h")},
    "grid": {"wavelength": np.linspace(5000, 5101, 9)},
    "resolving_power": {"resolving_power": 1500.0},
    "normalization": {"normalization": {"method": "continuum"}},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_state_of_another_meaning_is_refused_by_name(what, tmp_path):
    url = str(tmp_path / "checkpoints")
    save(CheckpointFolder(url, meaning_of(EmulatorSpec("one", **SPEC))), 3)
    same = CheckpointFolder(url, meaning_of(EmulatorSpec("again", **SPEC)))
    assert step_of(same) == 3
    other = CheckpointFolder(url, meaning_of(EmulatorSpec("other", **(SPEC | OTHERS[what]))))
    with pytest.raises(ModelError, match=rf"000003.json: a checkpoint of another {what}"):
        other.latest()
