"""What a store is made of is looked up once, and again when the store has changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from scalespec.errors import StoreError
from scalespec.plan import Block
from scalespec.store import layout
from scalespec.store.spectra import create_spectra, grow_spectra, read_spectra, write_spectra


def some(n, first=5000.0):
    """Spectra of two pixels, numbered from 1."""
    rows = np.arange(1, n + 1, dtype=np.float32)
    return xr.Dataset(
        {
            "flux": (("spectrum", "wavelength"), np.stack([rows, -rows], axis=1), {"unit": "x"}),
            "status": ("spectrum", np.zeros(n, np.uint32)),
            "sky": ("wavelength", np.ones(2, bool)),
        },
        {"wavelength": [first, first + 1]},
        {"survey": {"name": "a"}},
    )


@pytest.fixture
def url(tmp_path):
    """Two blocks of four spectra."""
    url = f"{tmp_path}/spectra.zarr"
    create_spectra(url, some(0), n_spectrum=8, shard_rows=4)
    for index in range(2):
        write_spectra(url, Block("spectrum", index, 4 * index, 4 * index + 4), some(4))
    layout._layout.cache_clear()
    return url


@pytest.fixture
def opened(monkeypatch):
    """Names of what was opened or asked for since."""
    asked = []
    for module, name in ((layout, "open_group"), (layout, "read_metadata")):
        real = getattr(module, name)

        def noting(*args, name=name, real=real):
            asked.append(name)
            return real(*args)

        monkeypatch.setattr(module, name, noting)
    return asked


def test_blocks_after_the_first_open_nothing_but_their_shards(url, opened):
    first = read_spectra(url, 0, 4)
    assert sorted(opened) == ["open_group", "read_metadata", "read_metadata"]
    xr.testing.assert_identical(read_spectra(url, 4, 8), first)
    write_spectra(url, Block("spectrum", 1, 4, 8), some(4))
    assert len(opened) == 3


def test_what_a_reader_does_to_its_spectra_is_its_own_affair(url):
    mine, truth = read_spectra(url, 0, 4), read_spectra(url, 0, 4)
    for name in ("flux", "status", "sky"):
        mine[name].values[:] = 7
    mine.attrs["survey"]["name"] = mine["flux"].attrs["unit"] = "mine"
    xr.testing.assert_identical(read_spectra(url, 0, 4), truth)


def test_long_coordinates_are_read_each_time(url, monkeypatch):
    monkeypatch.setattr(layout, "KEPT_BYTES", 8)
    held = layout.layout_of(url).arrays["wavelength"]
    assert held.whole() is not held.whole()
    assert held.whole().tolist() == [5000.0, 5001.0]
    assert "_kept" not in vars(held)


def test_a_store_that_grows_is_seen_by_who_knew_it(url):
    assert read_spectra(url, 0, 12).sizes["spectrum"] == 8
    grow_spectra(url, [8, 12])
    assert read_spectra(url, 0, 12)["flux"].values[8:].tolist() == [[0, 0]] * 4
    write_spectra(url, Block("spectrum", 2, 8, 12), some(4))
    assert read_spectra(url, 8, 12)["flux"].values[:, 0].tolist() == [1, 2, 3, 4]


def test_another_store_in_its_place_is_seen(url):
    read_spectra(url, 0, 4)
    shutil.rmtree(url)
    with pytest.raises(StoreError, match="no spectra store there"):
        read_spectra(url, 0, 4)
    create_spectra(url, some(0, first=6000.0), n_spectrum=4, shard_rows=4)
    assert read_spectra(url, 0, 8)["wavelength"].values.tolist() == [6000.0, 6001.0]
    assert read_spectra(url, 0, 8).sizes["spectrum"] == 4


def test_what_is_kept_says_nothing_of_damage_to_a_block(url):
    read_spectra(url, 0, 8)
    (shard,) = Path(url).glob("flux/c/1/*")
    shard.write_bytes(shard.read_bytes()[:-3] + b"xyz")
    with pytest.raises(StoreError, match="'flux', rows 0:8, is damaged"):
        read_spectra(url, 0, 8)
