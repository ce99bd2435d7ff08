"""Ingest: which files are planned, in which order, and what becomes of each."""

import io
import pickle
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalespec.config import IngestTable, RunConfig, RunTable
from scalespec.errors import ConfigError, StoreError
from scalespec.kernels.sky import healpix_nested
from scalespec.plan import plan_blocks
from scalespec.schema import SpectrumStatus, check_spectra
from scalespec.stages import folders
from scalespec.stages.ingest import (
    READS_IN_FLIGHT,
    ingest,
    ingest_block,
    read_files,
    read_index,
)
from scalespec.stages.inputs import list_inputs, plan_inputs
from scalespec.store import paths
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


@pytest.fixture
def config_of(tmp_path):
    def make(size=8, **table):
        return RunConfig(
            run=RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=size),
            ingest=IngestTable(**table),
        )

    return make


def run_ingest(config):
    """Run the stage here, and return it."""
    (stage,) = ingest(config)
    for block in stage.blocks:
        stage.write(block, stage.compute(None, stage.read(block)))
    return stage


def names(table):
    return [Path(url).name for url in list_inputs(table)["url"]]


ALL = [
    f"spec-56000-TEST_sp01-{i:03d}.fits"
    for i in (*range(0, 20, 3), *range(1, 20, 3), *range(2, 20, 3))
]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("", ALL),  # a folder: what looks like a file of the survey, in order of path
        ("/**/spec-*.fits", ALL),
        ("/1/*", ALL[7:14]),
        ("/0/spec-56000-TEST_sp01-003.fits", ALL[1:2]),
    ],
)
def test_files_are_found_by_folder_glob_or_name(survey, files, expected):
    assert names(IngestTable(files=f"{survey}{files}")) == expected


def test_several_entries_are_put_together_and_each_file_is_planned_once(survey):
    table = IngestTable(files=(f"{survey}/1", f"{survey}/*/spec-*-00[01].fits"))
    assert names(table) == [ALL[0], *ALL[7:14]]


def test_limit_takes_the_first(survey):
    assert names(IngestTable(files=str(survey), limit=3)) == ALL[:3]


def test_a_list_names_files_relative_to_itself_and_the_missing_keep_their_row(survey, tmp_path):
    lines = [f"{survey}/0/{ALL[0]}", "", "# by hand", "gone.fits", "here.fits "]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    (tmp_path / "here.fits").write_bytes(b"x" * 7)
    inputs = list_inputs(IngestTable(files=f"@{tmp_path}/list.txt"))
    found = dict(zip(inputs["url"], inputs["size"], strict=True))
    assert found[f"{tmp_path}/gone.fits"] == -1
    assert found[f"{tmp_path}/here.fits"] == 7
    assert len(found) == 3


def test_a_list_beside_the_working_folder_names_files_there(survey, monkeypatch):
    monkeypatch.chdir(survey)
    Path("list.txt").write_text(f"0/{ALL[0]}\n")
    try:
        assert list_inputs(IngestTable(files="@list.txt"))["size"].min() > 0
    finally:
        Path("list.txt").unlink()


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"files": "{folder}/none-*.fits"}, ConfigError, "nothing to read in .*none-"),
        ({"files": "{folder}/nowhere/*.fits"}, StoreError, "no such file or folder"),
        ({"files": "{folder}", "survey": "hubble"}, ConfigError, "'hubble' is not one of"),
        ({"files": "@{folder}/no.txt"}, StoreError, "no.txt: not found"),
    ],
)
def test_what_cannot_be_planned_is_said(config_of, tmp_path, table, error, message):
    config = config_of(**{k: v.format(folder=tmp_path) for k, v in table.items()})
    with pytest.raises(error, match=message):
        plan_inputs(config)


def test_an_empty_folder_is_said(config_of, tmp_path):
    with pytest.raises(ConfigError, match="no file matches"):
        plan_inputs(config_of(files=str(tmp_path)))


def test_a_run_file_without_ingest_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"no \[ingest\] table"):
        plan_inputs(RunConfig(run=RunTable(name="t", workspace=str(tmp_path))))


def test_the_plan_is_made_once(config_of, tmp_path):
    (tmp_path / "spec-1.fits").write_bytes(b"12345")
    config = config_of(files=f"{tmp_path}/spec-*.fits")
    plan = plan_inputs(config)
    assert (plan["n"], plan["bytes"]) == (1, 5)
    (tmp_path / "spec-2.fits").write_bytes(b"later")  # what a run reads is settled when it begins
    assert plan_inputs(config) == plan


def test_a_plan_whose_making_was_killed_is_made_again(config_of, survey):
    config = config_of(files=str(survey))
    plan = plan_inputs(config)
    Path(folders.plan_url(config), "plan.json").unlink()
    assert plan_inputs(config) == plan


def test_a_catalog_names_files_and_gives_their_order(config_of, survey, tmp_path):
    n = 6
    catalog = pd.DataFrame(
        {
            "obsdate": "2011-10-24",
            "planid": "TEST",
            "lmjd": 56000,
            "spid": 1,
            "fiberid": np.arange(n),
            "ra": [350.0, 10.0, 200.0, 11.0, 90.0, 10.1],
            "dec": [-80.0, 41.0, 5.0, 41.0, 89.0, 41.0],
            "snrg": [5.0, 50, 50, 50, 50, 50],
        }
    )
    catalog.to_csv(tmp_path / "release.csv", index=False)
    table = IngestTable(catalog=f"{tmp_path}/release.csv", root="/data/dr7", where="snrg > 10")
    inputs = list_inputs(table)
    kept = catalog[1:]
    order = np.argsort(
        healpix_nested(kept["ra"].to_numpy(), kept["dec"].to_numpy(), 6), kind="stable"
    )
    wanted = [f"/data/dr7/20111024/TEST/spec-56000-TEST_sp01-{i:03d}.fits.gz" for i in range(1, n)]
    assert inputs["url"].tolist() == [wanted[i] for i in order]


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


def test_files_are_fetched_many_at_once_and_stay_in_order(config_of, survey, monkeypatch):
    config = config_of(files=str(survey), size=20)
    plan_inputs(config)
    together = threading.Barrier(READS_IN_FLIGHT, timeout=10)
    read = paths.read_bytes
    left = iter(range(READS_IN_FLIGHT))

    def slow(url):
        if url.endswith(".fits") and next(left, None) is not None:
            together.wait()  # passes only when as many are here at the same time
        return read(url)

    monkeypatch.setattr(paths, "read_bytes", slow)
    (block,) = plan_blocks(20, 20)
    files = read_files(block, folders.plan_url(config))
    assert [Path(name).name for name, _ in files] == ALL
    assert all(isinstance(content, bytes) for _, content in files)


def test_no_files_give_an_empty_dataset_in_the_schema():
    spectra, index = ingest_block([], "lamost_lrs")
    assert check_spectra(spectra).sizes["spectrum"] == 0
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


def test_another_table_or_block_size_is_another_plan_and_another_store(config_of, survey):
    urls = set()
    for table in ({}, {"size": 4}, {"limit": 19}):
        config = config_of(files=str(survey), **table)
        plan_inputs(config)
        urls |= {folders.plan_url(config), folders.raw_url(config)}
    assert len(urls) == 6


def test_input_lists_are_parquet_with_size_and_time(config_of, survey):
    config = config_of(files=str(survey))
    plan_inputs(config)
    part = paths.read_bytes(f"{folders.plan_url(config)}/inputs/000002.parquet")
    table = pd.read_parquet(io.BytesIO(part))
    assert table.columns.tolist() == ["url", "size", "modified", "file"]
    assert len(table) == 4
