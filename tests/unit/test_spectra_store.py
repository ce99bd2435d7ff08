"""Spectra in Zarr shards: what goes in comes out, and only whole shards go in."""

import hashlib
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr

from scalespec.errors import StoreError
from scalespec.plan import Block, plan_blocks
from scalespec.schema import PER_SPECTRUM, check_spectra
from scalespec.store.spectra import (
    count_spectra,
    create_spectra,
    memory_bytes,
    open_spectra,
    read_rows,
    read_spectra,
    write_spectra,
)

N, ROWS, PIXELS = 20, 8, 37

ATTRS = {
    "survey": "made_up",
    "wavelength_medium": "vacuum",
    "frame": "rest",
    "flux_unit": "relative",
    "resolving_power": 1800.0,
}


def made_up(n, seed=0):
    """Spectra in the schema, every value different from what an empty store holds."""
    rng = np.random.default_rng(seed)
    pixels = {
        "flux": rng.normal(1, 0.1, (n, PIXELS)).astype(np.float32),
        "ivar": rng.uniform(1, 9, (n, PIXELS)).astype(np.float32),
        "mask": rng.integers(1, 2**32, (n, PIXELS), dtype=np.uint32),
    }
    variables = {k: (("spectrum", "wavelength"), v, {"units": "x"}) for k, v in pixels.items()}
    for name, (dtype, _, _) in PER_SPECTRUM.items():
        variables[name] = ("spectrum", rng.integers(1, 10_000, n).astype(dtype))
    coords = {"wavelength": 4000.0 + np.arange(PIXELS)}
    return xr.Dataset(variables, coords, {**ATTRS, "step": np.float64(0.1)})


@pytest.fixture
def url(tmp_path):
    """An empty store for N spectra."""
    url = f"{tmp_path}/spectra.zarr"
    create_spectra(url, made_up(0), n_spectrum=N, shard_rows=ROWS)
    return url


@pytest.fixture
def filled(url):
    """The store with every block written, and what was written."""
    spectra = made_up(N)
    for block in plan_blocks(N, ROWS):
        write_spectra(url, block, spectra.isel(spectrum=slice(block.start, block.stop)))
    return url, spectra


def test_a_round_trip_is_exact(filled):
    url, spectra = filled
    read = read_spectra(url, 0, N)
    xr.testing.assert_equal(read, spectra)
    for name, variable in spectra.variables.items():
        assert read[name].dtype == variable.dtype
    assert read["flux"].attrs == {"units": "x"}
    assert read.attrs == {**ATTRS, "step": 0.1, "shard_rows": ROWS}
    check_spectra(read)


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 0),  # coordinates and attributes alone
        (8, 16),  # one shard
        (5, 19),  # across shards
        (16, 99),  # beyond the end: what there is
    ],
)
def test_any_range_of_rows_can_be_read(filled, start, stop):
    url, spectra = filled
    xr.testing.assert_equal(
        read_spectra(url, start, stop), spectra.isel(spectrum=slice(start, stop))
    )


def test_only_the_named_variables_are_read(filled):
    url, spectra = filled
    read = read_spectra(url, 0, 4, names=["ivar", "snr"])
    assert set(read.variables) == {"ivar", "snr", "wavelength"}
    xr.testing.assert_equal(read["ivar"], spectra["ivar"][:4])


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [3],
        [19, 0, 8, 7, 19, 1],  # any order, several shards, one twice
    ],
)
def test_scattered_rows_come_in_the_order_asked_for(filled, rows):
    url, spectra = filled
    xr.testing.assert_equal(read_rows(url, np.array(rows, int)), spectra.isel(spectrum=rows))


def test_scattered_rows_are_read_by_codec_chunk(tmp_path):
    url = f"{tmp_path}/s.zarr"
    spectra = made_up(700)
    create_spectra(url, spectra, n_spectrum=700, shard_rows=512)  # two chunks of 256 a shard
    for block in plan_blocks(700, 512):
        write_spectra(url, block, spectra.isel(spectrum=slice(block.start, block.stop)))
    rows = np.array([699, 255, 256, 511, 512, 0])
    xr.testing.assert_equal(read_rows(url, rows), spectra.isel(spectrum=rows))


def test_open_is_lazy_with_a_dask_chunk_per_shard(filled):
    url, spectra = filled
    opened = open_spectra(url)
    assert isinstance(opened["flux"].data, dask.array.Array)
    assert opened["flux"].data.chunks == ((8, 8, 4), (PIXELS,))
    xr.testing.assert_equal(opened.load(), spectra)
    assert count_spectra(url) == N


def test_a_block_is_one_object_per_array_and_its_hash_is_true(url):
    spectra = made_up(ROWS)
    hashes = write_spectra(url, Block("spectrum", 1, 8, 16), spectra)
    names = [n for n, v in spectra.variables.items() if "spectrum" in v.dims]
    assert sorted(hashes) == sorted(
        f"{n}/c/1/0" if spectra[n].ndim == 2 else f"{n}/c/1" for n in names
    )
    for key, wanted in hashes.items():
        assert hashlib.sha256(Path(url, key).read_bytes()).hexdigest() == wanted


def test_the_same_block_gives_the_same_bytes_in_any_order(tmp_path):
    spectra = made_up(N)
    hashes = []
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        url = f"{tmp_path}/{name}.zarr"
        create_spectra(url, spectra, n_spectrum=N, shard_rows=ROWS)
        blocks = plan_blocks(N, ROWS)
        written = {}
        for i in order:
            part = spectra.isel(spectrum=slice(blocks[i].start, blocks[i].stop))
            written |= write_spectra(url, blocks[i], part)
        hashes.append(written)
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 4),  # half a shard: the other half would be lost
        (4, 12),  # across two
        (0, 16),  # two shards
        (8, 15),  # not the last, yet short
        (16, 24),  # beyond the end
    ],
)
def test_a_write_that_is_not_one_whole_shard_is_refused(url, start, stop):
    with pytest.raises(StoreError, match=f"{start}:{stop}.*not one whole shard of 8"):
        write_spectra(url, Block("spectrum", 0, start, stop), made_up(stop - start))
    assert not list(Path(url).glob("flux/c/*"))


def test_a_block_with_another_number_of_rows_is_refused(url):
    with pytest.raises(StoreError, match="0:8 with 7 spectra"):
        write_spectra(url, Block("spectrum", 0, 0, 8), made_up(7))


def test_a_variable_the_store_does_not_have_is_named(url):
    spectra = made_up(ROWS).assign(extra=("spectrum", np.ones(ROWS)))
    with pytest.raises(StoreError, match="no array 'extra'"):
        write_spectra(url, Block("spectrum", 0, 0, 8), spectra)


def test_a_store_that_is_there_is_left_alone(filled):
    url, spectra = filled
    create_spectra(url, made_up(0), n_spectrum=N, shard_rows=ROWS)
    xr.testing.assert_equal(read_spectra(url, 0, N), spectra)


def test_a_store_whose_making_was_killed_is_made_again(filled):
    url, spectra = filled
    whole = {p.relative_to(url): p.read_bytes() for p in Path(url).rglob("zarr.json")}
    Path(url, "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    Path(url, "dec", "zarr.json").unlink()
    create_spectra(url, spectra, n_spectrum=N, shard_rows=ROWS)
    assert {p.relative_to(url): p.read_bytes() for p in Path(url).rglob("zarr.json")} == whole


def test_no_store_is_said(tmp_path):
    for read in (open_spectra, count_spectra, lambda url: read_spectra(url, 0, 1)):
        with pytest.raises(StoreError, match="no spectra store there"):
            read(f"{tmp_path}/none.zarr")


def test_label_names_are_a_coordinate_though_the_store_holds_no_strings(tmp_path):
    url = f"{tmp_path}/train.zarr"
    labels = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
    spectra = made_up(ROWS).assign(labels=(("spectrum", "label"), labels))
    spectra = spectra.assign_coords(label=("label", ["teff", "logg"]))
    spectra.attrs["label_names"] = ["teff", "logg"]
    create_spectra(url, spectra, n_spectrum=ROWS, shard_rows=ROWS)
    write_spectra(url, Block("spectrum", 0, 0, ROWS), spectra)
    for read in (read_spectra(url, 0, ROWS), open_spectra(url), read_rows(url, np.array([5, 2]))):
        assert read["label"].values.tolist() == ["teff", "logg"]
    assert read["labels"].sel(label="logg").values.tolist() == [11.0, 5.0]


def test_memory_covers_what_a_block_holds_while_it_moves():
    one = 4096 * 3909 * (4 + 4 + 4)  # flux, ivar, mask
    assert 4 * one < memory_bytes(4096, 3909) < 8 * one  # read ahead, at work, copies, behind
