"""The ingest stage over every survey: plan, read, store, commit; damaged files keep their rows."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from survey_files import SURVEY_FILES, description_of, desi, write_files

from scalespec.config import IngestTable, RunConfig, RunTable
from scalespec.errors import ConfigError
from scalespec.run import run
from scalespec.schema import UNREADABLE, SpectrumStatus, check_spectra
from scalespec.stages import folders
from scalespec.stages.ingest import ingest, read_index
from scalespec.stages.inputs import read_items
from scalespec.stages.reader import description_of as described
from scalespec.stages.reader import survey_of
from scalespec.status import verify_run
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import arm_names, count_spectra, open_spectra, read_spectra
from scalespec.surveys import open_survey, read_arms

PER_BLOCK = 3
BROKEN = {"cut": lambda data: data[: len(data) // 2], "page": lambda data: b"<html>404</html>"}


def _config(tmp_path, survey, **table):
    description = f"{tmp_path}/library.json" if survey == "table" else ""
    return RunConfig(
        run=RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=PER_BLOCK),
        ingest=IngestTable(survey=survey, description=description, **table),
    )


def _run(config):
    (stage,) = ingest(config)
    stage = pickle.loads(pickle.dumps(stage))  # as an engine's worker gets it
    for block in stage.blocks:
        stage.write(block, stage.compute(None, stage.read(block)))
    return stage


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    return made


def _store_equals(url, groups):
    """The store holds what reading the files by hand gives, in every group."""
    n = groups[""].sizes["spectrum"]
    assert count_spectra(url) == n
    assert arm_names(url) == tuple(name for name in groups if name)
    for name, group in groups.items():
        place = f"{url}/{name}" if name else url
        stored = check_spectra(read_spectra(place, 0, n))
        for key, variable in group.data_vars.items():
            assert stored[key].dims == variable.dims, (name, key)
            assert stored[key].dtype == variable.dtype, (name, key)
            np.testing.assert_array_equal(stored[key], variable, f"{name} {key}")
        if "wavelength" in group.coords:
            np.testing.assert_array_equal(stored.wavelength, group.wavelength)
        check_spectra(open_spectra(place))


@pytest.mark.parametrize("survey", SURVEY_FILES)
def test_the_store_holds_what_the_reader_reads_and_damage_keeps_its_row(tmp_path, folder, survey):
    names = write_files(folder, survey, 4)
    for name, damage in zip(names[2:], BROKEN.values(), strict=True):
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    stage = _run(_config(tmp_path, survey, files=str(folder)))
    groups = read_arms(folder, survey, description=description_of(survey))
    url = f"{stage.url}/spectra.zarr"
    _store_equals(url, groups)
    n = groups[""].sizes["spectrum"]
    assert len(stage.blocks) == -(-n // PER_BLOCK)
    status = read_spectra(url, 0, n)["status"].values
    unread = status & int(UNREADABLE) > 0
    assert unread.sum() == 2  # one row each: nobody can say how many spectra they held
    assert status[unread].tolist() == [SpectrumStatus.TRUNCATED, SpectrumStatus.NOT_FITS]
    reasons = [r for block in stage.blocks for r in read_index(stage.url, block)["reason"]]
    assert [bool(reason) for reason in reasons] == unread.tolist()


@pytest.mark.parametrize("survey", ["desi", "lamost_mrs_exposures"])
def test_every_object_of_every_arm_is_in_the_ledger_with_its_hash(tmp_path, folder, survey):
    write_files(folder, survey, 2)
    stage = _run(_config(tmp_path, survey, files=str(folder)))
    results = [Ledger(stage.url).committed(block) for block in stage.blocks]
    for result in results:
        for key, wanted in result.objects.items():
            assert paths.sha256(paths.read_bytes(f"{stage.url}/{key}")) == wanted
    arms = [arm.name for arm in open_survey(survey).arms]
    for result in results:
        for arm in arms:
            assert any(key.startswith(f"spectra.zarr/{arm}/flux/") for key in result.objects)


def test_containers_are_cut_into_blocks_and_no_spectrum_is_lost(tmp_path, folder):
    write_files(folder, "desi", 3)  # 12 targets in 3 files, 4 blocks of 3
    stage = _run(_config(tmp_path, "desi", files=str(folder)))
    assert [block.size for block in stage.blocks] == [3, 3, 3, 3]
    stored = read_spectra(f"{stage.url}/spectra.zarr", 0, 12)["obsid"].values
    expected = [39627640000000000 + 1000 * i + j for i in range(3) for j in range(3)]
    assert [int(one) for one in stored if one < 2**61] == expected
    files = [f for block in stage.blocks for f in read_index(stage.url, block)["file"]]
    assert [files.count(name) for name in sorted(set(files))] == [4, 4, 4]


def test_a_container_that_lost_spectra_since_it_was_planned_says_so(tmp_path, folder):
    write_files(folder, "desi", 1)
    config = _config(tmp_path, "desi", files=str(folder))
    (stage,) = ingest(config)
    next(folder.iterdir()).write_bytes(desi(n=2))
    for block in stage.blocks:
        stage.write(block, stage.compute(None, stage.read(block)))
    status = read_spectra(f"{stage.url}/spectra.zarr", 0, 4)["status"].values
    assert (status & SpectrumStatus.CHANGED > 0).all()
    assert (status & SpectrumStatus.TRUNCATED > 0).all()


def test_a_block_of_arms_that_stands_is_not_written_again(tmp_path, folder):
    write_files(folder, "lamost_mrs", 2)
    stage = _run(_config(tmp_path, "lamost_mrs", files=str(folder)))
    before = {k: paths.read_bytes(f"{stage.url}/{k}") for k in paths.list_keys(stage.url)}
    for block in stage.blocks:
        stage.write(block, stage.compute(None, stage.read(block)))
    assert before == {k: paths.read_bytes(f"{stage.url}/{k}") for k in paths.list_keys(stage.url)}


def test_another_description_is_another_store(tmp_path, folder):
    write_files(folder, "table", 1)
    config = _config(tmp_path, "table", files=str(folder))
    first = _run(config).url
    described_otherwise = json.loads((tmp_path / "library.json").read_text())
    described_otherwise["medium"] = "vacuum"
    (tmp_path / "library.json").write_text(json.dumps(described_otherwise) + "\n")
    assert folders.raw_url(config) != first


def test_what_is_wrong_with_a_description_is_said(tmp_path, folder):
    write_files(folder, "table", 1)
    assert survey_of(IngestTable(survey="desi", files="x")).name == "desi"
    assert described(IngestTable(survey="desi", files="x")) is None
    for text, message in (
        ("{", "ingest.description: .*library.json"),
        ("[1]", "holds no JSON object"),
        ("{}", "ingest.survey = 'table': the description is wrong"),
    ):
        (tmp_path / "library.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            survey_of(_config(tmp_path, "table", files="x").ingest)
    with pytest.raises(ConfigError, match=r"no survey 'hubble'; there are .*'desi'"):
        survey_of(IngestTable(survey="hubble", files="x"))
    with pytest.raises(ConfigError, match="wants a description"):
        survey_of(IngestTable(survey="table", files="x"))


def test_large_files_are_fetched_one_at_a_time_and_give_the_same_rows(
    tmp_path, folder, monkeypatch
):
    write_files(folder, "desi", 3)
    (folder / "coadd-main-dark-001.fits").write_bytes(b"<html>")
    config = _config(tmp_path, "desi", files=str(folder))
    (stage,) = ingest(config)
    at_once = [stage.compute(None, stage.read(block)) for block in stage.blocks]
    monkeypatch.setattr("scalespec.stages.ingest.LARGE_BYTES", 1000)
    for block, (groups, index) in zip(stage.blocks, at_once, strict=True):
        files = pickle.loads(pickle.dumps(stage.read(block)))
        assert all(callable(file.content) or len(file.content) < 1000 for file in files)
        again, same_index = stage.compute(None, files)
        for name, group in groups.items():
            assert group.identical(again[name])
        assert index.equals(same_index)


def test_a_large_file_is_looked_at_when_its_turn_comes(tmp_path, folder, monkeypatch):
    write_files(folder, "desi", 2)
    monkeypatch.setattr("scalespec.stages.ingest.LARGE_BYTES", 1000)
    (stage,) = ingest(_config(tmp_path, "desi", files=str(folder)))
    files = [stage.read(block) for block in stage.blocks]
    (folder / "coadd-main-dark-000.fits").write_bytes(desi(n=5))
    (folder / "coadd-main-dark-001.fits").unlink()
    made = [stage.compute(None, pieces)[0][""].status.values for pieces in files]
    status = np.concatenate(made) & ~np.uint32(SpectrumStatus.NO_REDSHIFT)
    assert status.tolist() == [SpectrumStatus.CHANGED] * 4 + [SpectrumStatus.MISSING] * 4


def test_verify_reads_every_arm_back(tmp_path, folder):
    write_files(folder, "desi", 1)
    config = _config(tmp_path, "desi", files=str(folder))
    run(config, engine="local")
    problems, checked = verify_run(config)
    assert problems == []
    assert checked > 4 * 9  # an object per variable and group of two blocks, at least
    shard = next(Path(folders.raw_url(config), "spectra.zarr/z/flux").rglob("c/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    problems, _ = verify_run(config)
    assert any("spectra.zarr/z/flux" in line for line in problems)


def test_what_the_catalog_calls_a_star_is_on_its_row(tmp_path, folder, monkeypatch):
    write_files(folder, "csst", 1)
    (stage,) = ingest(_config(tmp_path, "csst", files=str(folder)))
    read = read_items

    def with_ids(plan_url, block):
        return read(plan_url, block).assign(source_id=np.int64(4242))

    monkeypatch.setattr("scalespec.stages.ingest.read_items", with_ids)
    groups, _ = stage.compute(None, stage.read(stage.blocks[0]))
    # the file's own word counts more; its second source has none
    assert groups[""].source_id.values.tolist() == [123456789, 4242, 123456791]
