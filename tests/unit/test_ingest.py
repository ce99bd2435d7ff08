"""Ingest: which files are planned, in which order, and what becomes of each."""

import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from scalespec.errors import StoreError
from scalespec.plan import plan_blocks
from scalespec.schema import SpectrumStatus, check_spectra
from scalespec.stages import folders
from scalespec.stages.ingest import ingest, ingest_block, read_files, read_index
from scalespec.stages.inputs import plan_inputs
from scalespec.store import fetch, paths
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import count_spectra, read_spectra
from scalespec.surveys import read_survey


@pytest.fixture(scope="module")
def survey(write_survey, tmp_path_factory):
    """A folder of 20 made-up LAMOST files in three folders, and a file that is none of them."""
    folder = tmp_path_factory.mktemp("survey")
    write_survey(folder, 20)
    (folder / "README.txt").write_text("no spectrum")
    return folder


def run_ingest(config):
    """Run the stage here, and return it."""
    (stage,) = ingest(config)
    for block in stage.blocks:
        stage.write(block, stage.compute(None, stage.read(block)))
    return stage


ALL = [
    f"spec-56000-TEST_sp01-{i:03d}.fits"
    for i in (*range(0, 20, 3), *range(1, 20, 3), *range(2, 20, 3))
]


def test_rows_are_what_read_survey_reads_and_every_file_has_one(config_of, survey):
    config = config_of(files=str(survey))
    stage = run_ingest(config)
    url = f"{stage.url}/spectra.zarr"
    assert count_spectra(url) == 20
    stored = check_spectra(read_spectra(url, 0, 20))
    expected = read_survey(survey)
    for name in ("flux", "ivar", "mask", "obsid", "ra", "dec", "rv", "snr", "status"):
        np.testing.assert_array_equal(stored[name], expected[name], err_msg=name)
    files = [file for block in stage.blocks for file in read_index(stage.url, block)["file"]]
    # Below the inputs' common folder: a catalog must not depend on where a survey lies.
    assert [f"{survey}/{file}" for file in files] == expected["file"].to_numpy().tolist()


def test_files_that_hold_no_spectrum_keep_their_row_with_a_status(config_of, survey, tmp_path):
    whole = (survey / "0" / ALL[0]).read_bytes()
    (tmp_path / "spec-1.fits").write_bytes(whole[:50_000])
    (tmp_path / "spec-2.fits").write_bytes(b"<html>404</html>")
    (tmp_path / "spec-3.fits").write_bytes(whole)
    files = [f"spec-{i}.fits" for i in (0, 1, 2, 3)]  # the first is missing
    (tmp_path / "list.txt").write_text("\n".join(files))
    config = config_of(files=f"@{tmp_path}/list.txt", size=3)
    stage = run_ingest(config)
    spectra = read_spectra(f"{stage.url}/spectra.zarr", 0, 4)
    flags = SpectrumStatus
    assert spectra["status"].values.tolist() == [flags.MISSING, flags.TRUNCATED, flags.NOT_FITS, 0]
    assert (spectra["ivar"][:3] == 0).all()
    assert (spectra["ivar"][3] > 0).any()
    reasons = read_index(stage.url, stage.blocks[0])["reason"]
    assert reasons[0].startswith("missing: ")
    assert "spec-0.fits: not found" in reasons[0]
    commits = Ledger(stage.url).commits()
    assert commits[0].counts == {
        "OK": 0,
        "MISSING": 1,
        "TRUNCATED": 1,
        "NOT_FITS": 1,
        "fallbacks": 0,
    }
    assert commits[1].counts == {"OK": 1, "fallbacks": 0}
    assert [r.rows for r in commits.values()] == [3, 1]


def test_a_commit_names_every_object_with_its_hash(config_of, survey):
    stage = run_ingest(config_of(files=str(survey)))
    for result in Ledger(stage.url).commits().values():
        kinds = {key.split("/")[0] for key in result.objects}
        assert kinds == {"spectra.zarr", "index"}
        for key, wanted in result.objects.items():
            assert paths.sha256(Path(stage.url, key).read_bytes()) == wanted


def test_a_committed_block_is_not_written_again(config_of, survey):
    stage = run_ingest(config_of(files=str(survey)))
    before = {p: p.stat().st_mtime_ns for p in Path(stage.url).rglob("*") if p.is_file()}
    block = stage.blocks[0]
    made = stage.compute(None, stage.read(block))
    assert stage.write(block, made) == Ledger(stage.url).committed(block)
    assert {p: p.stat().st_mtime_ns for p in Path(stage.url).rglob("*") if p.is_file()} == before


def test_a_block_that_was_killed_before_its_commit_is_done_again_to_the_same_bytes(
    config_of, survey
):
    stage = run_ingest(config_of(files=str(survey)))
    block = stage.blocks[1]
    first = Ledger(stage.url).committed(block)
    Path(stage.url, "commits", "000001.json").unlink()
    second = stage.write(block, stage.compute(None, stage.read(block)))
    shards = {k: v for k, v in first.objects.items() if k.startswith("spectra.zarr")}
    assert shards.items() <= second.objects.items()
    assert first.attempt != second.attempt


def test_files_of_a_slow_disk_are_fetched_many_at_once_and_in_order(config_of, survey, monkeypatch):
    config = config_of(files=str(survey), size=20)
    plan_inputs(config)
    together = threading.Barrier(fetch.READS_IN_FLIGHT, timeout=10)
    read = fetch.read_entry
    calls = iter(range(20))

    def slow(url):
        call = next(calls)
        if call == 0:
            time.sleep(fetch.PATIENCE_S + 0.01)  # by this one it shows that it is slow
        elif call <= fetch.READS_IN_FLIGHT:
            together.wait()  # passes only when as many are here at the same time
        return read(url)

    monkeypatch.setattr(fetch, "read_entry", slow)
    (block,) = plan_blocks(20, 20)
    files = read_files(block, folders.plan_url(config))
    assert [Path(file.name).name for file in files] == ALL
    assert all(isinstance(file.content, bytes) for file in files)


def test_no_files_give_an_empty_dataset_in_the_schema():
    groups, index = ingest_block([], "lamost_lrs")
    assert check_spectra(groups[""]).sizes["spectrum"] == 0
    assert index.empty


def test_the_stage_travels_and_says_what_it_wants(config_of, survey):
    stage = next(ingest(config_of(files=str(survey))))
    assert [b.size for b in pickle.loads(pickle.dumps(stage)).blocks] == [8, 8, 4]
    assert stage.runs_on == "dask"
    assert stage.memory_bytes > 8 * 3909 * 12


def test_the_index_of_a_block_that_is_not_committed_is_refused(config_of, survey):
    stage = next(ingest(config_of(files=str(survey))))
    with pytest.raises(StoreError, match="block 2 is not committed"):
        read_index(stage.url, stage.blocks[2])
