"""Shards to and from bytes: the same objects as zarr-python's, byte for byte, and its numbers."""

import hashlib
import os

import numpy as np
import pytest
import xarray as xr
import zarr
from obstore.store import LocalStore

from scalespec.errors import StoreError
from scalespec.plan import plan_blocks
from scalespec.store import layout, paths, pixels, shards, spectra
from scalespec.store.encoding import Encoding
from scalespec.store.pixels import read_pixels
from scalespec.store.shards import read_metadata
from scalespec.store.spectra import create_spectra, read_spectra, write_spectra
from scalespec.store.wrapped import zarr_store

N, ROWS, PIXELS = 19, 8, 40
"""Two whole shards of two chunks, and one of which three rows are there."""
CODECS = [Encoding(), Encoding("lz4"), Encoding("none"), Encoding(lossy_bits=10)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(spectra, "CHUNK_ROWS", 4)
    pixels._pixel_arrays.cache_clear()


def made(n=N, seed=1):
    """Spectra some of whose chunks and shards hold nothing but the fill value, or nearly so."""
    rng = np.random.default_rng(seed)
    flux, ivar = rng.normal(1, 0.1, (2, n, PIXELS)).astype(np.float32)
    flux[4:8] = 0  # a chunk that is not stored
    ivar[:8] = 0  # a shard that is not stored
    ivar[8:12] = -0.0  # not the fill value to the bit: stored
    mask = np.zeros((n, PIXELS), np.uint32)
    mask[9, 3] = 7
    dims = ("spectrum", "wavelength")
    rv = np.where(np.arange(n) < ROWS, np.nan, 3.5)  # rv is unknown, NaN, where nobody wrote
    return xr.Dataset(
        {
            "flux": (dims, flux),
            "ivar": (dims, ivar),
            "mask": (dims, mask),
            "rv": ("spectrum", rv),
            "obsid": ("spectrum", np.arange(n, dtype=np.int64) - 1),
            "good": ("spectrum", np.arange(n) % 2 == 0),
        },
        {"wavelength": np.linspace(4000.0, 5000.0, PIXELS)},
    )


def objects(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stored(folder, data, encoding):
    create_spectra(str(folder), data, n_spectrum=N, shard_rows=ROWS, encoding=encoding)
    hashes = {}
    for block in plan_blocks(N, ROWS):
        part = data.isel(spectrum=slice(block.start, block.stop))
        hashes |= write_spectra(str(folder), block, part)
    return hashes


@pytest.mark.parametrize("encoding", CODECS, ids=str)
def test_objects_are_those_of_zarr_to_the_byte(tmp_path, monkeypatch, encoding):
    hashes = stored(tmp_path / "ours", made(), encoding)
    monkeypatch.setattr(layout, "shards", lambda metadata: None)  # all of it by zarr-python
    assert stored(tmp_path / "zarr", made(), encoding) == hashes
    ours = objects(tmp_path / "ours")
    assert ours == objects(tmp_path / "zarr")
    for key, digest in hashes.items():
        assert hashlib.sha256(ours[key]).hexdigest() == digest
    assert "ivar/c/0/0" not in ours
    assert "ivar/c/1/0" in ours


@pytest.mark.parametrize("encoding", CODECS, ids=str)
@pytest.mark.parametrize("rows", [(0, 19), (4, 8), (3, 11), (8, 16), (17, 40), (5, 5)], ids=str)
def test_rows_that_are_read_are_those_that_zarr_reads(tmp_path, encoding, rows):
    stored(tmp_path / "s", made(), encoding)
    group = zarr.open_group(zarr_store(f"{tmp_path}/s"), mode="r")
    names = ("flux", "ivar", "mask", "rv", "obsid")
    for name, found in zip(names, read_pixels(f"{tmp_path}/s", *rows, names), strict=True):
        wanted = group[name][rows[0] : rows[1]]
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("rows", [(0, 19), (9, 11)], ids=str)
def test_a_bucket_is_asked_for_parts_of_objects(tmp_path, monkeypatch, rows):
    stored(tmp_path / "s", made(), Encoding())
    wanted = read_pixels(f"{tmp_path}/s", *rows, ("flux", "ivar"))
    monkeypatch.setattr(paths, "is_remote", lambda url: True)
    monkeypatch.setattr(
        paths, "opened", lambda url: (LocalStore(prefix=tmp_path), os.path.relpath(url, tmp_path))
    )
    for found, one in zip(read_pixels(f"{tmp_path}/s", *rows), wanted, strict=True):
        np.testing.assert_array_equal(found, one)


def test_rows_are_read_into_memory_that_is_given(tmp_path):
    data = made()
    stored(tmp_path / "s", data, Encoding())
    memory = np.full((2, 8, PIXELS), 99, np.float32)
    flux, ivar = read_pixels(f"{tmp_path}/s", 8, 12, out=tuple(memory))
    assert np.shares_memory(flux, memory)
    assert np.shares_memory(ivar, memory)
    np.testing.assert_array_equal(flux, data["flux"][8:12])
    assert (memory[:, 4:] == 99).all()


def test_a_shard_that_holds_nothing_any_more_is_removed(tmp_path):
    data, url = made(), f"{tmp_path}/s"
    stored(tmp_path / "s", data, Encoding())
    assert (tmp_path / "s/flux/c/0/0").exists()
    nothing = data.isel(spectrum=slice(0, ROWS)).copy(deep=True)
    nothing["flux"][:] = 0
    block = plan_blocks(N, ROWS)[0]
    assert "flux/c/0/0" not in write_spectra(url, block, nothing)
    assert not (tmp_path / "s/flux/c/0/0").exists()
    write_spectra(url, block, nothing)  # again: nothing to remove
    assert not read_spectra(url, 0, ROWS)["flux"].any()


@pytest.mark.parametrize("place", ["index", "chunk's size", "chunk's bytes", "cut", "emptied"])
def test_a_damaged_shard_is_refused_and_named(tmp_path, place):
    stored(tmp_path / "s", made(), Encoding())
    shard = tmp_path / "s/flux/c/1/0"
    data = bytearray(shard.read_bytes())
    if place == "index":
        data[-10] ^= 1
    elif place == "chunk's size":
        data[12] ^= 1
    elif place == "chunk's bytes":
        data[16:60] = b"\xff" * 44
    shard.write_bytes({"cut": data[:50], "emptied": b""}.get(place, bytes(data)))
    with pytest.raises(StoreError, match=f"{tmp_path}/s, rows 8:12"):
        read_pixels(f"{tmp_path}/s", 8, 12)


def test_an_array_that_is_kept_in_another_way_is_left_to_zarr(tmp_path):
    group = zarr.open_group(f"{tmp_path}/s", mode="w")
    values = np.arange(24.0).reshape(6, 4)
    for name, options in {
        "plain": {"chunks": (2, 4)},
        "columns": {"chunks": (2, 2), "shards": (6, 4)},
        "zstd": {"chunks": (2, 4), "shards": (6, 4)},
    }.items():
        group.create_array(name, data=values, **options)
        assert shards.shards(read_metadata(f"{tmp_path}/s", name)) is None
        (found,) = read_pixels(f"{tmp_path}/s", 1, 4, (name,))
        np.testing.assert_array_equal(found, values[1:4])


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(StoreError, match="no spectra store there"):
        read_metadata(f"{tmp_path}/none")
    stored(tmp_path / "s", made(), Encoding())
    with pytest.raises(StoreError, match="no array 'extra' in this spectra store"):
        read_pixels(f"{tmp_path}/s", 0, 4, ("extra",))
