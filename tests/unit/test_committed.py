"""Blocks are written and committed once; what a stage builds on is whole or it stops."""

import hashlib
import logging

import numpy as np
import pytest
import xarray as xr

from scalespec.errors import StageError, StoreError
from scalespec.plan import Block, BlockResult, plan_blocks
from scalespec.stages.standing import refuse_failures, whole
from scalespec.store import paths
from scalespec.store.committed import commit_bytes, commit_spectra
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import create_spectra, read_spectra

BLOCKS = plan_blocks(10, 4)


def stars(value, n=4):
    flux = np.full((n, 3), value, np.float32)
    return xr.Dataset(
        {"flux": (("spectrum", "wavelength"), flux), "status": ("spectrum", np.zeros(n, "u4"))},
        coords={"wavelength": [5000.0, 5001.0, 5002.0]},
    )


def sha256(url, key):
    return hashlib.sha256(paths.read_bytes(paths.join(url, key))).hexdigest()


@pytest.mark.parametrize("name", ["spectra.zarr", "train.zarr"])
def test_spectra_are_committed_with_their_checksums_and_counts(tmp_path, name):
    url = str(tmp_path)
    create_spectra(f"{url}/{name}", stars(0), n_spectrum=10, shard_rows=4)
    made = commit_spectra(
        url, BLOCKS[1], stars(2.0), count=lambda x: {"good": x.sizes["spectrum"] - 1}, store=name
    )
    assert made == Ledger(url).committed(BLOCKS[1])
    assert (made.rows, made.counts) == (4, {"good": 3})
    assert all(key.startswith(f"{name}/") for key in made.objects)
    assert len(made.objects) == 2  # a shard of flux, one of status
    for key, wanted in made.objects.items():
        assert sha256(url, key) == wanted
    assert read_spectra(f"{url}/{name}", 4, 8).flux.values.tolist() == [[2.0] * 3] * 4


def test_a_second_attempt_changes_neither_spectra_nor_record(tmp_path):
    url = str(tmp_path)
    create_spectra(f"{url}/spectra.zarr", stars(0), n_spectrum=10, shard_rows=4)
    first = commit_spectra(url, BLOCKS[0], stars(1.0))
    assert commit_spectra(url, BLOCKS[0], stars(9.0), count=pytest.fail) == first
    assert (read_spectra(f"{url}/spectra.zarr", 0, 4).flux == 1).all()


def test_spectra_that_are_no_whole_shard_are_not_committed(tmp_path):
    url = str(tmp_path)
    create_spectra(f"{url}/spectra.zarr", stars(0), n_spectrum=10, shard_rows=4)
    with pytest.raises(StoreError, match="not one whole shard of 4"):
        commit_spectra(url, BLOCKS[0], stars(1.0, n=3))
    assert Ledger(url).committed(BLOCKS[0]) is None


def test_bytes_are_named_by_block_and_attempt(tmp_path):
    url = str(tmp_path)
    whole_block = commit_bytes(url, BLOCKS[2], b"abc", "npz")
    one_row = commit_bytes(url, BLOCKS[1], b"abc", "json", rows=1, counts={"pairs": 7})
    assert (whole_block.rows, whole_block.counts) == (2, {})
    assert (one_row.rows, one_row.counts) == (1, {"pairs": 7})
    (key,) = one_row.objects
    assert key == f"parts/000001-{one_row.attempt}.json"
    assert one_row.objects[key] == sha256(url, key)
    assert whole_block.attempt != one_row.attempt


def test_bytes_of_a_second_attempt_are_not_written(tmp_path):
    url = str(tmp_path)
    first = commit_bytes(url, BLOCKS[0], b"first", "bin")
    assert commit_bytes(url, BLOCKS[0], b"second", "bin") == first
    assert [path.read_bytes() for path in (tmp_path / "parts").iterdir()] == [b"first"]


def test_a_stage_is_whole_when_all_blocks_are_committed(tmp_path, caplog):
    url = str(tmp_path)
    for block in BLOCKS[:2]:
        Ledger(url).commit(block, BlockResult(block.size, {}))
    with caplog.at_level(logging.INFO):
        assert not whole(url, 3)
    assert caplog.messages == [f"{url}: stopped before the last block"]
    Ledger(url).commit(BLOCKS[2], BlockResult(2, {}))
    assert whole(url, 3)


def test_a_failure_is_named_until_its_block_is_done(tmp_path):
    url = str(tmp_path)
    for block in (BLOCKS[2], BLOCKS[1]):
        Ledger(url).record_failure(block, f"cause {block.index}")
    with pytest.raises(StageError, match=r"block 1 failed: cause 1; then run with --retry-failed"):
        whole(url, 3)
    Ledger(url).commit(BLOCKS[1], BlockResult(4, {}))
    with pytest.raises(StageError, match="partition 2 failed: cause 2"):
        refuse_failures(url, unit="partition")
    Ledger(url).commit(Block("spectrum", 2, 8, 10), BlockResult(2, {}))
    refuse_failures(url)
