"""The loop: what is left is run, what is done is not, and every end has its exit code."""

import importlib
import json
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from scalespec.config import IngestTable, PreprocessTable, RunConfig, RunTable
from scalespec.engines.worker import run_blocks
from scalespec.errors import StageError
from scalespec.plan import BlockResult, Stage, Training, plan_blocks
from scalespec.run import Summary, run
from scalespec.stages import VERBS, folders
from scalespec.status import verify_run
from scalespec.store import paths
from scalespec.store.ledger import Ledger, current, new_attempt, read_json


@pytest.fixture(scope="module")
def survey(write_survey, tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    write_survey(folder, 17)
    return folder


def config_for(survey, workspace):
    """Seventeen spectra in six blocks, ingested and preprocessed."""
    return RunConfig(
        run=RunTable(name="test", workspace=str(workspace), spectra_per_block=3),
        ingest=IngestTable(files=str(survey)),
        preprocess=PreprocessTable(),
    )


@pytest.fixture
def config(survey, tmp_path):
    return config_for(survey, tmp_path / "work")


@pytest.fixture(scope="module")
def whole(survey, tmp_path_factory):
    workspace = tmp_path_factory.mktemp("undisturbed")
    here(config_for(survey, workspace))
    return workspace


@pytest.fixture(scope="module")
def undisturbed(whole):
    """What a run stores that nothing disturbs."""
    return contents(whole)


@pytest.fixture
def finished(config, whole):
    """The run file of a run that is done: a workspace may be moved."""
    shutil.copytree(whole, config.run.workspace)
    return config


here = partial(run, engine="local")


class Heard:
    """A listener that counts, and a stop that is asked for after so many reports."""

    def __init__(self, stop_after=10**9):
        self.blocks = []
        self.begun = []
        self.stop_after = stop_after

    def __call__(self, progress):
        if progress.report is None:
            self.begun.append((progress.stage, progress.planned, progress.done_before))
        else:
            self.blocks.append((progress.stage, progress.report.block.index))

    def stop(self):
        return len(self.blocks) >= self.stop_after


def stored(workspace):
    """What a run stores of spectra, and when: path -> (bytes, time of change)."""
    files = [p for p in Path(workspace).rglob("spectra.zarr/**/*") if p.is_file()]
    return {str(p.relative_to(workspace)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def contents(workspace):
    return {name: data for name, (data, _) in stored(workspace).items()}


def test_a_run_does_every_block_of_every_stage_and_says_so(config):
    heard = Heard()
    summary = here(config, listener=heard)
    assert (summary.resumed, summary.done, summary.left, summary.failed) == (0, 12, 0, {})
    assert summary.exit_code == 0
    assert heard.begun == [("ingest", 6, 0), ("preprocess", 6, 0)]
    assert heard.blocks == [(stage, i) for stage in ("ingest", "preprocess") for i in range(6)]


def test_a_second_run_does_nothing(finished):
    before = stored(finished.run.workspace)
    heard = Heard()
    summary = here(finished, listener=heard)
    assert (summary.resumed, summary.done, summary.exit_code) == (12, 0, 0)
    assert heard.begun == [("ingest", 6, 6), ("preprocess", 6, 6)]
    assert heard.blocks == []
    assert stored(finished.run.workspace) == before


def test_resume_runs_only_what_is_left(finished):
    before = stored(finished.run.workspace)
    Path(folders.spectra_url(finished), "commits", "000001.json").unlink()
    heard = Heard()
    assert here(finished, listener=heard).exit_code == 0
    assert heard.blocks == [("preprocess", 1)]
    after = stored(finished.run.workspace)
    assert {n: data for n, (data, _) in after.items()} == {n: d for n, (d, _) in before.items()}
    changed = {name for name in after if after[name] != before[name]}
    assert all("/c/1" in name for name in changed)


def test_a_changed_setting_redoes_what_it_touches_and_nothing_else(finished):
    before = stored(finished.run.workspace)
    table = PreprocessTable(spike_sigma=7.0)
    changed = finished.model_copy(update={"preprocess": table})
    heard = Heard()
    summary = here(changed, listener=heard)
    assert (summary.resumed, summary.done) == (6, 6)
    assert {stage for stage, _ in heard.blocks} == {"preprocess"}
    after = stored(finished.run.workspace)
    assert before.items() <= after.items()  # the old lies beside the new
    assert folders.raw_url(changed) == folders.raw_url(finished)
    assert folders.spectra_url(changed) != folders.spectra_url(finished)
    used = current(finished.run.workspace, "spectra")["digest"]
    assert folders.spectra_url(changed).endswith(used)
    heard = Heard()
    here(finished, listener=heard)  # back to the first setting: it is still there
    assert heard.blocks == []


@pytest.mark.parametrize(
    ("stop_after", "done", "left"),
    [
        (0, 0, 6),  # before the first block
        (1, 4, 2),  # in the middle of ingest: a call of the local engine is four blocks
        (6, 6, 0),  # just when it was done
        (7, 10, 2),  # in preprocess
    ],
)
def test_a_stopped_run_leaves_after_the_blocks_in_flight_and_the_next_one_finishes(
    config, undisturbed, stop_after, done, left
):
    heard, finishing = Heard(stop_after), Heard()
    summary = here(config, listener=heard, stop=heard.stop)
    assert (summary.stopped, summary.done, summary.left, summary.exit_code) == (True, done, left, 1)
    assert here(config, listener=finishing).exit_code == 0
    assert sorted(heard.blocks + finishing.blocks) == sorted(
        (stage, i) for stage in ("ingest", "preprocess") for i in range(6)
    )
    assert contents(config.run.workspace) == undisturbed


class KilledError(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("when", ["before its data", "between data and commit", "after its commit"])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(config, undisturbed, monkeypatch, when):
    commit = Ledger.commit

    def dying(ledger, block, result):
        if block.index == 1 and "spectra/" in ledger.url:
            if when == "after its commit":
                commit(ledger, block, result)
            if when == "before its data":
                for key in result.objects:
                    Path(ledger.url, key).unlink()
            raise KilledError
        return commit(ledger, block, result)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", dying)
        with pytest.raises(KilledError):
            here(config)
    assert here(config).exit_code == 0
    assert verify_run(config)[0] == []
    assert contents(config.run.workspace) == undisturbed


@pytest.mark.dask
def test_local_and_dask_store_the_same_bytes(config, survey, whole, undisturbed):
    """All have one thread: a matrix product's last bit depends on their number."""
    summary = run(config)  # Dask is what the stages name
    assert (summary.done, summary.exit_code) == (12, 0)
    assert contents(config.run.workspace) == undisturbed
    mine, theirs = config_for(survey, whole), config
    for folder in (folders.raw_url, folders.spectra_url):
        one, other = Ledger(folder(mine)).commits(), Ledger(folder(theirs)).commits()
        assert {i: r.counts for i, r in one.items()} == {i: r.counts for i, r in other.items()}


# What follows runs a made-up verb in the place of ingest.


@pytest.fixture
def verb(monkeypatch, tmp_path):
    """Replace ingest by four blocks that fail as ``verb.script`` says; its run file."""

    class Verb:
        config = RunConfig(
            run=RunTable(name="made up", workspace=f"{tmp_path}/work"),
            ingest=IngestTable(files="none"),
        )
        url = f"{tmp_path}/work/made/0123456789abcdef"

        def __init__(self):
            self.script, self.tried, self.combined = {}, Counter(), 0

        def steps(self, config):
            blocks = plan_blocks(4, 1)
            yield Stage("made", self.url, blocks, self.read, self.compute, self.write, "dask")
            self.combined += 1

        def read(self, block):
            self.tried[block.index] += 1
            if block.index in self.script:
                raise self.script[block.index]
            return block.index

        def compute(self, value, data):
            return data

        def write(self, block, data):
            return Ledger(self.url).commit(block, BlockResult(1, {}, {"OK": 1}, new_attempt()))

    verb = Verb()
    monkeypatch.setitem(VERBS, "ingest", verb.steps)
    return verb


def test_failed_blocks_end_no_run_and_are_named(verb):
    verb.script = {1: ValueError("bad flux"), 3: KeyError("OBSID")}
    summary = here(verb.config)
    assert summary.exit_code == 3
    assert (summary.done, summary.left) == (2, 0)
    assert summary.failed == {"made": {1: "ValueError: bad flux", 3: "KeyError: 'OBSID'"}}
    assert Ledger(verb.url).done() == {0, 2}
    assert verb.combined == 1


def test_failed_blocks_are_left_alone_until_asked_for(verb):
    verb.script = {1: ValueError("bad flux"), 3: ValueError("worse")}
    here(verb.config)
    verb.script = {3: ValueError("worse")}
    verb.tried.clear()
    summary = here(verb.config)
    assert summary.exit_code == 3
    assert summary.resumed == 2  # a failed block is not a done one
    assert not verb.tried
    summary = here(verb.config, retry_failed=True)
    assert dict(verb.tried) == {1: 1, 3: 1}
    assert summary.failed == {"made": {3: "ValueError: worse"}}
    verb.script = {}
    summary = here(verb.config, retry_failed=True)
    assert (summary.exit_code, summary.resumed, summary.done) == (0, 3, 1)


def test_a_failed_block_is_not_hidden_by_a_later_stop(verb):
    verb.script = {0: ValueError("bad flux")}
    summary = here(verb.config, stop=lambda: bool(verb.tried))
    assert summary.stopped
    assert summary.exit_code == 3


def test_a_stopped_verb_does_not_put_together_what_is_not_whole(verb):
    summary = here(verb.config, stop=lambda: True)
    assert (summary.exit_code, summary.left, verb.combined) == (1, 4, 0)
    assert here(verb.config).exit_code == 0
    assert verb.combined == 1


def test_the_workspace_says_what_ran(verb):
    here(verb.config)
    workspace = verb.config.run.workspace
    record = json.loads(Path(workspace, "run.json").read_text())
    assert RunConfig.model_validate(record["config"]) == verb.config
    assert {"scalespec", "numpy", "zarr", "dask", "ray"} <= set(record["versions"])
    assert current(workspace, "made") == {"digest": "0123456789abcdef", "stage": "made"}
    assert Ledger(verb.url).planned() == [(i, i, i + 1) for i in range(4)]


def test_time_adds_up_over_runs(verb):
    verb.script = {2: ValueError("bad")}
    here(verb.config)
    first = read_json(paths.join(verb.url, "timing.json"))
    assert first["rows"] == 3
    verb.script = {}
    here(verb.config, retry_failed=True)
    second = read_json(paths.join(verb.url, "timing.json"))
    assert second["rows"] == 4
    assert second["seconds"] >= first["seconds"]


def test_a_verb_without_a_table_is_refused(verb):
    with pytest.raises(StageError, match=r"no \[fit\] table"):
        here(verb.config, verbs=("ingest", "fit"))
    assert not verb.tried


class FakeEngine:
    """Does every block at once, and notes what is asked of it."""

    workers = 1

    def __init__(self, name, notes):
        self.name, self.notes = name, notes
        notes.append(f"open {name}")

    def map(self, stage, blocks):
        self.notes.append(f"{stage.name} on {self.name}")
        yield from run_blocks(stage, blocks)

    def train(self, training):
        self.notes.append(f"{training.name} on {self.name}")

    def close(self):
        self.notes.append(f"close {self.name}")


@pytest.fixture
def engines(monkeypatch):
    notes = []
    module = importlib.import_module("scalespec.run")
    monkeypatch.setattr(module, "open_engine", lambda name, table: FakeEngine(name, notes))
    return notes


def steps_on(verb, *engines):
    def steps(config):
        for i, name in enumerate(engines):
            if name == "train":
                yield Training(f"s{i}", f"{verb.url}{i}", lambda context: None)
                continue
            verb.url = f"{verb.config.run.workspace}/s{i}/d"
            yield Stage(
                f"s{i}", verb.url, plan_blocks(2, 1), verb.read, verb.compute, verb.write, name
            )

    return steps


def test_each_stage_runs_on_the_engine_it_names_and_one_is_open_at_a_time(
    verb, engines, monkeypatch
):
    monkeypatch.setitem(VERBS, "ingest", steps_on(verb, "dask", "dask", "ray", "train", "dask"))
    assert run(verb.config).exit_code == 0
    assert engines == [
        *("open dask", "s0 on dask", "s1 on dask", "close dask"),
        *("open ray", "s2 on ray", "s3 on ray", "close ray"),
        *("open dask", "s4 on dask", "close dask"),
    ]


def test_one_engine_may_be_asked_for_everything(verb, engines, monkeypatch):
    monkeypatch.setitem(VERBS, "ingest", steps_on(verb, "dask", "ray"))
    run(verb.config, engine="ray")
    assert engines == ["open ray", "s0 on ray", "s1 on ray", "close ray"]


def test_no_engine_is_started_when_nothing_is_left(verb, engines):
    run(verb.config)
    engines.clear()
    run(verb.config)
    assert engines == []


def test_the_engine_is_let_go_whatever_happens(verb, engines, monkeypatch):
    monkeypatch.setattr(FakeEngine, "map", lambda self, stage, blocks: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(verb.config)
    assert engines == ["open dask", "close dask"]


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (Summary(done=3), 0),
        (Summary(stopped=True), 1),
        (Summary(failed={"fit": {0: "x"}}), 3),
        (Summary(failed={"fit": {0: "x"}}, stopped=True), 3),  # what failed wants a person
    ],
)
def test_exit_codes(summary, code):
    assert summary.exit_code == code
