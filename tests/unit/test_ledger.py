"""Commits, failures and the digest in use."""

import json

import pytest

from scalespec.errors import StoreError
from scalespec.plan import BlockResult, plan_blocks
from scalespec.store.ledger import (
    Ledger,
    current,
    find_json,
    note_step,
    own_steps,
    read_json,
    set_current,
    stage_url,
    write_json,
)

FIRST, SECOND, THIRD = plan_blocks(20, 8)
RESULT = BlockResult(8, {"parts/000000-a.parquet": "00ff"}, {"OK": 7, "MISSING": 1}, "a")


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"{tmp_path}/raw/d1")


def test_a_commit_comes_back_as_it_was(ledger):
    assert ledger.committed(FIRST) is None
    assert ledger.commit(FIRST, RESULT) == RESULT
    assert ledger.committed(FIRST) == RESULT
    assert ledger.commits() == {0: RESULT}


def test_the_second_of_two_attempts_is_told_what_stands(ledger):
    ledger.commit(FIRST, RESULT)
    late = BlockResult(8, {"parts/000000-b.parquet": "11"}, {}, "b")
    assert ledger.commit(FIRST, late) == RESULT
    assert ledger.commits() == {0: RESULT}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"x.zarr/c/0": "1"}, {"x.zarr/c/0": "2"}),
        ({"x.zarr/c/0": "1"}, {}),  # of nothing but fill values: the shard is gone
        ({}, {"x.zarr/c/0": "1"}),
    ],
)
def test_of_two_attempts_that_made_different_shards_none_is_committed_until_one_tries_again(
    ledger, first, second
):
    one, two = (
        BlockResult(8, shards | {f"index/{attempt}": "0"}, {}, attempt)
        for shards, attempt in ((first, "aa"), (second, "bb"))
    )
    ledger.commit(FIRST, one)
    with pytest.raises(StoreError, match=r"000000\.json: withdrawn: another attempt"):
        ledger.commit(FIRST, two)
    assert ledger.done() == set()
    assert ledger.commit(FIRST, two) == two


def test_an_attempt_that_made_the_same_shards_leaves_the_first_its_record(ledger):
    shards = {"x.zarr/c/0": "1"}
    one, two = (BlockResult(8, shards | {f"index/{a}": a}, {}, a) for a in ("aa", "bb"))
    ledger.commit(FIRST, one)
    assert ledger.commit(FIRST, two) == one


def test_done_counts_commits_and_nothing_else(ledger, tmp_path):
    ledger.commit(FIRST, RESULT)
    ledger.commit(THIRD, BlockResult(4, {}))
    for name in ("notes.txt", "readme.json", "0.json", "000007.json.bak", "old/000001.json"):
        path = tmp_path / "raw/d1/commits" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    assert ledger.done() == {0, 2}
    assert set(ledger.commits()) == {0, 2}


def test_an_empty_ledger_is_empty(ledger):
    assert ledger.done() == set()
    assert ledger.commits() == {}
    assert ledger.failures() == {}


def test_a_failure_is_kept_until_its_block_is_committed(ledger):
    ledger.record_failure(FIRST, "OSError: gone")
    ledger.record_failure(SECOND, "ValueError: bad")
    ledger.record_failure(SECOND, "ValueError: still bad")
    assert ledger.failures() == {0: "OSError: gone", 1: "ValueError: still bad"}
    ledger.commit(FIRST, RESULT)
    assert ledger.failures() == {1: "ValueError: still bad"}


def test_a_commit_says_which_rows_it_holds(ledger, tmp_path):
    ledger.commit(THIRD, BlockResult(4, {}))
    record = json.loads((tmp_path / "raw/d1/commits/000002.json").read_text())
    assert (record["start"], record["stop"], record["rows"]) == (16, 20, 4)


def test_stages_lie_under_their_digest():
    assert stage_url("s3://b/w?region=x", "raw", "d1") == "s3://b/w/raw/d1?region=x"


def test_current_names_the_digest_in_use_and_facts(tmp_path):
    workspace = str(tmp_path)
    assert current(workspace, "raw") is None
    set_current(workspace, "raw", "d1", blocks=[[0, 0, 8]])
    assert current(workspace, "raw") == {"digest": "d1", "blocks": [[0, 0, 8]]}
    set_current(workspace, "raw", "d2")
    assert current(workspace, "raw") == {"digest": "d2"}


def test_current_is_not_rewritten_when_nothing_changed(tmp_path):
    set_current(str(tmp_path), "raw", "d1")
    before = (tmp_path / "raw/current.json").stat().st_mtime_ns
    set_current(str(tmp_path), "raw", "d1")
    assert (tmp_path / "raw/current.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"rows": 8', "damaged JSON"),  # torn
        (b"", "damaged JSON"),
        (b"\xff\xfe", "damaged JSON"),
        (b"[1, 2]", "wanted a JSON object, found list"),
    ],
)
def test_json_that_is_not_ours_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    for read in (read_json, find_json):
        with pytest.raises(StoreError, match=rf"x\.json: {message}"):
            read(f"{tmp_path}/x.json")


def test_what_is_not_there_is_no_record_to_one_and_an_error_to_the_other(tmp_path):
    assert find_json(f"{tmp_path}/x.json") is None
    with pytest.raises(StoreError, match=r"x\.json: not found"):
        read_json(f"{tmp_path}/x.json")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        find_json(f"{tmp_path}/x.json")


def test_a_record_that_goes_while_it_is_asked_for_is_none(ledger, tmp_path, monkeypatch):
    """As `clean` or another driver may remove it between a question and a read."""
    monkeypatch.setattr("scalespec.store.paths.exists", lambda _: True)
    assert ledger.committed(FIRST) is None
    assert current(str(tmp_path), "raw") is None
    set_current(str(tmp_path), "raw", "d1")
    assert current(str(tmp_path), "raw") == {"digest": "d1"}


def test_json_is_the_same_bytes_for_the_same_record(tmp_path):
    write_json(f"{tmp_path}/a", {"b": 1, "a": 2})
    write_json(f"{tmp_path}/b", {"a": 2, "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_stage_knows_the_last_of_each_of_its_own_steps(tmp_path):
    stage, old, new = (f"spectra/{letter * 16}" for letter in "abc")
    for place in (stage, f"{stage}/statistics", f"{stage}/pairs/{old[8:]}/all"):
        note_step(str(tmp_path), place)
    note_step(str(tmp_path), f"{stage}/pairs/{new[8:]}/all")
    assert own_steps(f"{tmp_path}/{stage}") == {
        "statistics": f"{tmp_path}/{stage}/statistics",
        "pairs all": f"{tmp_path}/{stage}/pairs/{new[8:]}/all",
    }
    assert own_steps(f"{tmp_path}/{old}") == {}


def test_a_step_that_leads_out_of_its_stage_is_refused(tmp_path):
    write_json(f"{tmp_path}/steps.json", {"statistics": "../../other"})
    with pytest.raises(StoreError, match="leads out of its folder"):
        own_steps(str(tmp_path))
