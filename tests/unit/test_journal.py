"""What a run tells machines: JSON lines and Prometheus' text format."""

import json
import re

import pytest

from scalespec.journal import METRICS, Journal
from scalespec.plan import Block, BlockReport, BlockResult
from scalespec.run import Progress

BLOCK = Block("spectrum", 3, 30, 40)
DONE = BlockReport(
    BLOCK, BlockResult(10, {}, {"OK": 9, "BAD": 1, "NONE": 0}), "", 1.25, "host:7", 512
)
LOST = BlockReport(BLOCK, None, 'ValueError: a "quoted"\nreason', 0.5, "host:8")
EVENTS = [
    Progress("fit", 4, 1),
    Progress("fit", 4, 0, DONE),
    Progress("fit", 4, 0, LOST),
    Progress("fit", 4, 0, DONE),
]


def told(tmp_path, events=EVENTS, name="a run"):
    log, metrics = tmp_path / "run.jsonl", tmp_path / "run.prom"
    with Journal(name, log=log, metrics=metrics, clock=lambda: 1_795_284_000.25) as journal:
        for event in events:
            journal(event)
    return [json.loads(line) for line in log.read_text().splitlines()], metrics.read_text()


def parsed(text):
    """Every sample, by a grammar of the format that is not the program's."""
    sample = re.compile(r'(\w+)\{((?:\w+="(?:[^"\\\n]|\\.)*",?)*)\} (\S+)')
    found = {}
    for line in text.splitlines():
        if line.startswith("# "):
            assert re.fullmatch(r"# (HELP \w+ [^\n]+|TYPE \w+ (gauge|counter))", line)
            continue
        name, labels, value = sample.fullmatch(line).groups()
        found[name, tuple(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))] = float(value)
    return found


def test_every_block_is_a_line_that_says_what_became_of_it_and_where(tmp_path):
    lines, _ = told(tmp_path)
    assert [line["event"] for line in lines] == ["stage", "block", "block", "block"]
    assert lines[0] | {"blocks": 4, "done_before": 1} == lines[0]
    assert lines[1] == {
        "time": "2026-11-21T18:00:00.250Z",
        "run": "a run",
        "stage": "fit",
        "event": "block",
        "block": 3,
        "start": 30,
        "stop": 40,
        "seconds": 1.25,
        "worker": "host:7",
        "memory_bytes": 512,
        "ok": True,
        "rows": 10,
        "counts": {"OK": 9, "BAD": 1},
    }
    assert lines[2]["ok"] is False
    assert lines[2]["error"] == LOST.error


def test_a_run_that_was_started_again_goes_on_in_the_same_file(tmp_path):
    told(tmp_path)
    lines, _ = told(tmp_path)
    assert len(lines) == 2 * len(EVENTS)


def test_counts_are_those_of_the_blocks(tmp_path):
    _, text = told(tmp_path)
    found = parsed(text)
    stage = (("run", "a run"), ("stage", "fit"))
    assert found["scalespec_blocks_planned", stage] == 4
    assert found["scalespec_blocks_done_before", stage] == 1
    assert found["scalespec_blocks_done_total", stage] == 2
    assert found["scalespec_blocks_failed_total", stage] == 1
    assert found["scalespec_rows_total", stage] == 20
    assert found["scalespec_rows_by_status_total", (*stage, ("status", "BAD"))] == 2
    assert found["scalespec_block_seconds_sum", stage] == 3.0
    assert found["scalespec_last_block_timestamp_seconds", stage] == 1_795_284_000
    assert {name.removeprefix("scalespec_") for name, _ in found} == set(METRICS)


def test_a_name_cannot_leave_its_label(tmp_path):
    name = 'x",stage="y"} 1\nscalespec_rows_total{run="\\'
    _, text = told(tmp_path, name=name)
    for _, labels in parsed(text):
        said = dict(labels)["run"]
        back = said.replace(r"\n", "\n").replace(r"\"", '"').replace(r"\\", "\\")
        assert back == name


def test_nothing_asked_for_nothing_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Journal("a run") as journal:
        for event in EVENTS:
            journal(event)
    assert not list(tmp_path.iterdir())


def test_counts_are_replaced_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("scalespec.journal.WRITE_EVERY_S", 0.0)
    metrics = tmp_path / "run.prom"
    with Journal("a run", metrics=metrics) as journal:
        for event in EVENTS:
            journal(event)
            assert parsed(metrics.read_text())
            assert [path.name for path in tmp_path.iterdir()] == ["run.prom"]


@pytest.mark.parametrize("which", ["log", "metrics"])
def test_a_file_that_cannot_be_written_is_said_before_anything_happens(tmp_path, which):
    with pytest.raises(OSError, match="nowhere"):
        Journal("a run", **{which: tmp_path / "nowhere" / "run.txt"})
