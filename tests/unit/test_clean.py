"""What nothing names: found, removed when it is old, left where a run may be about to name it."""

import os
import time
from pathlib import Path

import pytest
from small_run import config_for, copied, done

from scalespec.clean import clean_run
from scalespec.config import (
    CompareTable,
    InferTable,
    IngestTable,
)
from scalespec.run import run
from scalespec.stages import folders, segments
from scalespec.status import verify_run
from scalespec.store import ledger, paths


@pytest.fixture(scope="module")
def survey(write_survey, tmp_path_factory):
    """Ten files."""
    folder = tmp_path_factory.mktemp("survey")
    write_survey(folder, 10)
    return folder


@pytest.fixture(scope="module")
def _whole(survey, tmp_path_factory):
    return done(survey, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def config(survey, tmp_path, _whole):
    """The run file of a run that is done."""
    return copied(survey, _whole, tmp_path / "work")


def files(workspace):
    return sorted(str(p) for p in Path(workspace).rglob("*") if p.is_file())


def age(path, hours):
    """Make a file, or all in a folder, as old as that."""
    for one in [path, *path.rglob("*")]:
        os.utime(one, (time.time() - hours * 3600,) * 2)


def leave(config):
    """Leave what killed attempts leave: a part, the lists of a plan, a half-written file."""
    part = Path(folders.raw_url(config), "index", "000001-0123456789abcdef.parquet")
    lists = Path(folders.plan_url(config), "inputs", "0123")
    half = Path(folders.raw_url(config), "catalog.parquet#1")
    lists.mkdir()
    for path in (part, half, lists / "000000.parquet", lists / "000001.parquet"):
        path.write_bytes(b"of an attempt that was killed")
    return part, lists, half


def test_clean_takes_what_a_kill_left_half_written_and_lists_nobody_names(config):
    before = files(config.run.workspace)
    part, lists, half = leave(config)
    left = sorted(map(str, (part, half, *lists.iterdir())))
    assert clean_run(config, remove=False, older_than=0) == (left, [])
    assert clean_run(config, remove=True, older_than=0) == (left, [])
    assert files(config.run.workspace) == before
    assert verify_run(config)[0] == []


def test_what_is_younger_than_a_day_is_left_and_counted(config):
    part, lists, half = leave(config)
    listed = sorted(map(str, lists.iterdir()))
    age(half, 25)
    age(part, 23)
    age(Path(listed[0]), 99)  # by hour 99 of a plan that is still being made
    assert clean_run(config, remove=True) == ([str(half)], sorted([*listed, str(part)]))
    age(lists, 25)
    assert clean_run(config, remove=True) == (listed, [str(part)])
    assert clean_run(config, remove=True, older_than=22.9) == ([str(part)], [])
    assert verify_run(config)[0] == []


def test_a_folder_is_as_old_as_what_was_written_there_last(config, survey):
    old = Path(folders.spectra_url(config))
    changed = config_for(survey, config.run.workspace, spike_sigma=9.0)
    run(changed, engine="local")
    age(old, 50)
    age(old / "commits" / "000002.json", 1)  # by another run file's run, at work since days
    assert clean_run(changed, remove=True) == ([], [str(old)])
    age(old, 50)
    assert clean_run(changed, remove=True) == ([str(old)], [])


@pytest.mark.parametrize(
    ("module", "kind"), [(ledger, "/commits/"), (segments, "/segments/")], ids=["commit", "segment"]
)
def test_clean_beside_a_run_takes_nothing_that_is_about_to_be_named(
    survey, tmp_path, monkeypatch, module, kind
):
    config, write, cleaned = config_for(survey, tmp_path), module.write_json, []

    def write_after_clean(url, value, **how):
        if kind in url:
            cleaned.append(clean_run(config, remove=True))
        return write(url, value, **how)

    monkeypatch.setattr(module, "write_json", write_after_clean)
    assert run(config, engine="local").exit_code == 0
    assert len(cleaned) == (6 if module is ledger else 1)
    assert all(old == [] for old, _ in cleaned)
    assert any(young for _, young in cleaned)  # it was there, and nothing named it
    assert verify_run(config)[0] == []


def test_what_is_committed_while_clean_looks_is_kept_whatever_its_age(config, monkeypatch):
    record = Path(folders.raw_url(config), "commits", "000001.json")
    segment = Path(folders.plan_url(config), "segments", "000000.json")
    later = {path: path.read_bytes() for path in (record, segment)}
    for path in later:
        path.unlink()
    list_modified = paths.list_modified

    def list_then_commit(url):
        found = list_modified(url)
        for path, data in later.items():
            path.write_bytes(data)
        return found

    monkeypatch.setattr(paths, "list_modified", list_then_commit)
    assert clean_run(config, remove=True, older_than=0) == ([], [])
    assert verify_run(config)[0] == []


def test_a_fresh_run_leaves_nothing_to_clean(config):
    assert clean_run(config, remove=True, older_than=0) == ([], [])
    assert verify_run(config)[0] == []


def test_clean_lists_what_a_changed_setting_left_behind_and_what_no_commit_names(config, survey):
    old = folders.spectra_url(config)
    changed = config_for(survey, config.run.workspace, spike_sigma=9.0)
    run(changed, engine="local")
    orphan = Path(folders.raw_url(config), "index", "000001-0123456789abcdef.parquet")
    orphan.write_bytes(b"of an attempt that was killed")
    before = files(config.run.workspace)
    assert clean_run(changed, remove=False, older_than=0) == ([str(orphan), old], [])
    assert files(config.run.workspace) == before
    assert clean_run(changed, remove=True, older_than=0) == ([str(orphan), old], [])
    gone = set(before) - set(files(config.run.workspace))
    assert gone == {f for f in before if f.startswith(f"{old}/")} | {str(orphan)}
    assert verify_run(changed)[0] == []
    assert clean_run(changed, remove=False, older_than=0) == ([], [])


def test_a_changed_run_file_alone_makes_nothing_old(config, survey):
    changed = config_for(survey, config.run.workspace, spike_sigma=9.0)
    assert clean_run(changed, remove=False, older_than=0) == ([], [])
    elsewhere = changed.model_copy(update={"ingest": IngestTable(files="/nowhere/*.fits")})
    assert clean_run(elsewhere, remove=False, older_than=0) == ([], [])


@pytest.mark.parametrize("link", [False, True])
def test_clean_keeps_what_the_run_file_names_by_its_path(config, survey, tmp_path, link):
    """Another run file made it, so that no stage of this one does, and a later one is current."""
    workspace = Path(config.run.workspace)
    kept, old = (workspace / "model" / (letter * 16) for letter in "ab")
    for folder in (kept, old):
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
    source = Path(folders.spectra_url(config), "spectra.zarr")
    (workspace / "spectra" / "current.json").unlink()
    if link:
        (tmp_path / "link").symlink_to(workspace)
    named = tmp_path / "link" if link else workspace
    infer = InferTable(models=(str(named / "model" / kept.name), "elsewhere.npz"))
    compare = CompareTable(source=str(source), labels=("teff",), models={"ridge": {}})
    changed = config_for(survey, workspace, spike_sigma=9.0)
    changed = changed.model_copy(update={"infer": infer, "compare": compare})
    assert clean_run(changed, remove=True, older_than=0) == ([str(old)], [])
    assert kept.is_dir()
    assert source.is_dir()
