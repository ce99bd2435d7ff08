"""Training chunks: every row once an epoch, ranks apart, the same order for the same epoch."""

import numpy as np
import pytest
import xarray as xr

from scalespec.errors import ModelError
from scalespec.plan import plan_blocks
from scalespec.store import training
from scalespec.store.spectra import create_spectra, write_spectra
from scalespec.store.training import TrainingData

N, CHUNK, PIXELS = 50, 8, 5


@pytest.fixture
def url(tmp_path):
    """A store whose flux is its row number, and ivar twice that."""
    row = np.arange(N, dtype=np.float32)[:, None] + np.zeros(PIXELS, np.float32)
    dims = ("spectrum", "wavelength")
    spectra = xr.Dataset({"flux": (dims, row), "ivar": (dims, 2 * row)})
    url = f"{tmp_path}/train.zarr"
    create_spectra(url, spectra, n_spectrum=N, shard_rows=CHUNK)
    for block in plan_blocks(N, CHUNK):
        write_spectra(url, block, spectra.isel(spectrum=slice(block.start, block.stop)))
    return url


def data_of(url, rows=None, seed=1):
    rows = np.arange(N) if rows is None else np.asarray(rows, np.int64)
    labels = np.stack([rows, -rows], axis=1).astype(np.float32)
    return TrainingData(url, labels, rows, rows.astype(np.float32) / 100, CHUNK, seed)


def drawn(data, epoch=0, rank=0, world_size=1):
    """Rows in the order in which an epoch gives them, by the flux that was read."""
    batches = list(data.chunks(epoch, rank, world_size))
    return np.concatenate([flux[:, 0] for _, flux, _, _ in batches]).astype(int)


def test_an_epoch_is_every_row_once(url):
    assert sorted(drawn(data_of(url))) == list(range(N))


def test_only_the_rows_asked_for_are_drawn(url):
    rows = [1, 2, 3, 17, 40, 49]
    assert sorted(drawn(data_of(url, rows))) == rows


def test_labels_and_displacements_stay_with_their_spectra(url):
    for labels, flux, ivar, displacement in data_of(url, [4, 9, 11, 33]).chunks(3, 0, 1):
        np.testing.assert_array_equal(labels, np.stack([flux[:, 0], -flux[:, 0]], axis=1))
        np.testing.assert_array_equal(ivar, 2 * flux)
        np.testing.assert_array_equal(displacement, flux[:, 0] / np.float32(100))


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_an_epoch_evenly_and_never_a_row(url, world_size):
    parts = [drawn(data_of(url), 5, rank, world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {N // world_size}  # gradients are averaged in step
    together = np.concatenate(parts)
    assert len(set(together)) == len(together)


def test_more_ranks_than_rows_still_step_together(url):
    for rank in range(4):
        assert drawn(data_of(url, [7, 8]), 0, rank, 4).size == 1


def test_a_resumed_epoch_is_the_same_epoch_and_another_is_not(url):
    first = drawn(data_of(url), epoch=2)
    np.testing.assert_array_equal(first, drawn(data_of(url), epoch=2))
    assert not np.array_equal(first, drawn(data_of(url), epoch=3))
    assert not np.array_equal(first, drawn(data_of(url, seed=2), epoch=2))


def test_rows_of_several_chunks_are_mixed(url):
    chunks = drawn(data_of(url)) // CHUNK
    changes = np.count_nonzero(np.diff(chunks))
    assert changes > N // CHUNK  # one change per chunk is what chunk after chunk would give


def test_a_small_buffer_gives_the_same_rows_in_several_batches(url, monkeypatch):
    monkeypatch.setattr(training, "BUFFER_ROWS", 16)
    data = data_of(url)
    assert [len(flux) for _, flux, _, _ in data.chunks(0, 0, 1)] == [16, 16, 16, 2]
    assert sorted(drawn(data)) == list(range(N))


def test_without_room_chunks_are_read_anew_and_are_the_same(url, monkeypatch):
    kept = drawn(data_of(url))
    monkeypatch.setattr(training, "CACHE_BYTES", 3 * 2 * CHUNK * PIXELS * 4)  # three chunks
    data = data_of(url)
    np.testing.assert_array_equal(drawn(data), kept)
    assert len(data._cache) == 3


def test_chunks_are_decoded_once(url, monkeypatch):
    reads = []
    read = training.read_pixels

    def counted(url, start, stop, **wanted):
        reads.append(start)
        return read(url, start, stop, **wanted)

    monkeypatch.setattr(training, "read_pixels", counted)
    data = data_of(url)
    for epoch in range(3):
        drawn(data, epoch)
    assert sorted(reads) == list(range(0, N, CHUNK))


def test_nothing_to_learn_from_is_refused(url):
    with pytest.raises(ModelError, match="not one spectrum with all labels"):
        data_of(url, [])
    with pytest.raises(ModelError, match="asked for no rows"):
        data_of(url).read(np.empty(0, np.int64))
