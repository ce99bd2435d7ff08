"""How pixels are kept: codecs give back what they took, and lost bits are as few as was said."""

import importlib.util
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from scalespec.errors import StoreError
from scalespec.plan import plan_blocks
from scalespec.store import encoding
from scalespec.store.encoding import Encoding, round_bits
from scalespec.store.fixed import verify_fixed
from scalespec.store.pixels import read_pixels
from scalespec.store.spectra import (
    create_spectra,
    grow_spectra,
    open_spectra,
    read_spectra,
    write_spectra,
)


def spectra(n=16, n_pixel=64, seed=1):
    rng = np.random.default_rng(seed)
    dims = ("spectrum", "wavelength")
    flux = rng.normal(1, 0.1, (n, n_pixel)).astype(np.float32)
    return xr.Dataset(
        {
            "flux": (dims, flux),
            "ivar": (dims, np.where(flux > 0.9, 100, 0).astype(np.float32)),
            "mask": (dims, rng.integers(0, 2**31, (n, n_pixel), np.uint32)),
            "status": ("spectrum", np.arange(n, dtype=np.uint32)),
            "obsid": ("spectrum", np.arange(n)),
        },
        {"wavelength": 4000.0 + np.arange(n_pixel)},
    )


def stored(url, data, how, rows=8):
    create_spectra(url, data, n_spectrum=data.sizes["spectrum"], shard_rows=rows, encoding=how)
    for block in plan_blocks(data.sizes["spectrum"], rows):
        write_spectra(url, block, data.isel(spectrum=slice(block.start, block.stop)))
    return read_spectra(url, 0, data.sizes["spectrum"])


@pytest.mark.parametrize("codec", ["blosc", "lz4", "none", "pcodec"])
def test_every_codec_gives_back_every_bit(tmp_path, codec):
    if codec == "pcodec" and importlib.util.find_spec("pcodec") is None:
        pytest.skip("pcodec is not installed")
    data = spectra()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pcodec: an extension codec
        found = stored(f"{tmp_path}/s.zarr", data, Encoding(codec))
    xr.testing.assert_equal(found, data)
    assert found.attrs.get("codec", "blosc") == codec
    assert "lossy_bits" not in found.attrs


def test_a_codec_whose_package_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match="pip install pcodec"):
        stored(f"{tmp_path}/s.zarr", spectra(), Encoding("pcodec"))


def test_fewer_bits_are_recorded_and_only_pixels_lose_them(tmp_path):
    data = spectra()
    url = f"{tmp_path}/s.zarr"
    found = stored(url, data, Encoding(lossy_bits=12))
    assert found.attrs["lossy_bits"] == 12
    assert found["flux"].attrs["lossy_bits"] == found["ivar"].attrs["lossy_bits"] == 12
    for name in ("mask", "status", "obsid", "wavelength"):
        xr.testing.assert_equal(found[name], data[name])
    np.testing.assert_array_equal(found["flux"], round_bits(data["flux"].to_numpy(), 12))
    assert not np.array_equal(found["flux"], data["flux"])
    np.testing.assert_array_equal(found["ivar"] == 0, data["ivar"] == 0)
    assert zarr.open_group(url)["flux"].attrs["lossy_bits"] == 12  # to be seen by anybody


@pytest.mark.parametrize("bits", [4, 8, 12, 22])
def test_rounding_is_to_the_nearest_and_never_to_infinity(bits):
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) > 1e-37)]  # subnormals round absolutely
    values = np.append(values, [np.float32(0), np.finfo(np.float32).max, -1.0])
    found = round_bits(values, bits)
    assert np.isfinite(found).all()
    # Half a unit of the last bit kept; a whole one for the largest, which cannot be rounded up.
    limit = np.where(np.abs(values) > 3.3e38, 2.0**-bits, 2.0 ** -(bits + 1))
    assert (np.abs(found.astype(float) - values) <= limit * np.abs(values.astype(float))).all()
    assert not np.any(found.view(np.uint32) & np.uint32((1 << (23 - bits)) - 1))
    np.testing.assert_array_equal(round_bits(found, bits), found)


def test_all_bits_are_left_alone():
    values = np.array([1.1, -2.3], np.float32)
    assert round_bits(values, 23) is values


def test_pixels_alone_are_read_as_they_are(tmp_path):
    data = spectra()
    stored(f"{tmp_path}/s.zarr", data, Encoding())
    flux, ivar = read_pixels(f"{tmp_path}/s.zarr", 3, 11)
    np.testing.assert_array_equal(flux, data["flux"][3:11])
    np.testing.assert_array_equal(ivar, data["ivar"][3:11])


def test_dask_chunks_are_whole_shards(tmp_path):
    stored(f"{tmp_path}/s.zarr", spectra(20), Encoding())
    opened = open_spectra(f"{tmp_path}/s.zarr")
    assert opened["flux"].chunks == ((8, 8, 4), (64,))
    assert opened["obsid"].chunks == ((8, 8, 4),)


def test_a_store_grows_without_touching_what_is_stored(tmp_path):
    url, data = f"{tmp_path}/s.zarr", spectra(11)
    stored(url, data, Encoding())
    shards = {p: p.read_bytes() for p in tmp_path.rglob("c/*/*") if p.is_file()}
    grow_spectra(url, [11, 20])
    assert {p: p.read_bytes() for p in shards} == shards
    later = spectra(4, seed=2)
    (block,) = [b for b in plan_blocks(20, 8) if b.start == 16]
    write_spectra(url, block, later)
    found = read_spectra(url, 0, 20)
    xr.testing.assert_equal(found.isel(spectrum=slice(11)), data)
    xr.testing.assert_equal(found.isel(spectrum=slice(16, 20)), later)
    assert not found["ivar"][11:16].any()
    assert verify_fixed(url)[0] == []
    grow_spectra(url, [11, 20])  # again: nothing to do
    assert read_spectra(url, 0, 0).attrs["ends"] == [11, 20]


def test_in_a_grown_store_a_short_block_ends_where_its_segment_does(tmp_path):
    url, data = f"{tmp_path}/s.zarr", spectra(20)
    create_spectra(url, data, n_spectrum=11, shard_rows=8)
    grow_spectra(url, [11, 20])
    blocks = plan_blocks(11, 8)
    write_spectra(url, blocks[1], data.isel(spectrum=slice(8, 11)))
    with pytest.raises(StoreError, match="two writers in one shard"):
        write_spectra(url, plan_blocks(20, 8)[1], data.isel(spectrum=slice(8, 16)))


def test_what_a_store_is_kept_by_is_not_inherited(tmp_path):
    first = stored(f"{tmp_path}/a.zarr", spectra(), Encoding("lz4", 8))
    grow_spectra(f"{tmp_path}/a.zarr", [16, 24])
    second = stored(f"{tmp_path}/b.zarr", first, Encoding())
    assert not {"codec", "lossy_bits", "ends"} & set(second.attrs)
