"""What a run holds: counted, read back and checked, cleaned."""

import json
import shutil
from pathlib import Path

import pytest
from small_run import config_for, copied, done

from scalespec import status
from scalespec.config import (
    DeriveTable,
    PreprocessTable,
    RunConfig,
    RunTable,
    parse_config,
)
from scalespec.errors import StoreError
from scalespec.plan import plan_blocks
from scalespec.run import run
from scalespec.stages import folders
from scalespec.status import plan_run, run_folders, stage_states, verify_run
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import read_spectra
from scalespec.terminal import plan_table

EVERYTHING = """
[run]
name = "all"
workspace = "{workspace}"
[ingest]
files = "none"
[preprocess]
[crossmatch.apogee]
catalog = "a.fits"
[crossmatch.galah]
catalog = "g.fits"
[train]
labels = ["teff"]
library = "lib.zarr"
[infer]
[fit]
[publish]
[report]
"""


@pytest.fixture(scope="module")
def survey(write_survey, tmp_path_factory):
    """Ten files, one of them broken."""
    folder = tmp_path_factory.mktemp("survey")
    write_survey(folder, 10)[0].write_bytes(b"no FITS")
    return folder


@pytest.fixture(scope="module")
def _whole(survey, tmp_path_factory):
    return done(survey, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def config(survey, tmp_path, _whole):
    """The run file of a run that is done."""
    return copied(survey, _whole, tmp_path / "work")


def state_of(config, stage):
    (state,) = [s for s in stage_states(config) if s["stage"] == stage]
    return {k: state[k] for k in ("blocks", "done", "failed", "left", "rows")}


def test_a_finished_run_is_counted_with_its_rows_by_status(config):
    whole = {"blocks": 3, "done": 3, "failed": 0, "left": 0, "rows": 10}
    assert state_of(config, "ingest") == state_of(config, "preprocess") == whole
    counts = {s["stage"]: s["counts"] for s in stage_states(config)}
    assert counts["ingest"] == {"OK": 9, "NOT_FITS": 1, "fallbacks": 0}
    assert counts["preprocess"] == {"OK": 9, "NOT_FITS": 1}


def test_what_is_left_and_what_failed_are_told_apart(config):
    url = folders.spectra_url(config)
    for index in (0, 2):
        Path(url, "commits", f"{index:06d}.json").unlink()
    Ledger(url).record_failure(plan_blocks(10, 4)[0], "OSError: gone")
    assert state_of(config, "preprocess") == {
        "blocks": 3, "done": 1, "failed": 1, "left": 1, "rows": 4,
    }  # fmt: skip


def test_the_first_failures_are_said_with_their_causes(config, monkeypatch):
    monkeypatch.setattr("scalespec.status.FAILURES_SAID", 2)
    ledger = Ledger(folders.spectra_url(config))
    for block in reversed(plan_blocks(10, 4)):
        Path(ledger.url, "commits", f"{block.index:06d}.json").unlink()
        ledger.record_failure(block, f"OSError: {block.index} is gone")
    whys = {state["stage"]: state["why"] for state in stage_states(config)}
    first = {"0": "OSError: 0 is gone", "1": "OSError: 1 is gone"}
    assert whys == {"ingest": {}, "preprocess": first}


def test_a_stage_that_never_ran_is_not_counted_as_done(config, survey, tmp_path):
    never = config_for(survey, tmp_path / "empty")
    for stage in ("ingest", "preprocess"):
        state = state_of(never, stage)
        assert (state["blocks"], state["done"], state["left"]) == (None, 0, None)
    changed = config_for(survey, config.run.workspace, spike_sigma=9.0)
    assert state_of(changed, "ingest")["done"] == 3
    assert state_of(changed, "preprocess")["blocks"] is None


def test_folders_are_those_of_every_stage_in_order(tmp_path):
    found = run_folders(parse_config(EVERYTHING.format(workspace=tmp_path)))
    assert [folder.stage for folder in found] == [
        "ingest",
        "preprocess",
        *("crossmatch apogee", "crossmatch apogee train.zarr"),
        *("crossmatch galah", "crossmatch galah train.zarr"),
        *("train library", "train"),
        *("infer", "fit", "publish", "report"),
    ]
    assert {folder.url for folder in found} == {None}  # nothing ran: nothing has a place yet


def test_a_finished_run_verifies_and_every_object_is_read(config):
    problems, checked = verify_run(config)
    assert problems == []
    commits = [Ledger(f(config)).commits() for f in (folders.raw_url, folders.spectra_url)]
    fixed = 0
    for url in (folders.raw_url(config), folders.spectra_url(config)):
        arrays = [path.parent for path in Path(url, "spectra.zarr").glob("*/zarr.json")]
        fixed += 1 + len(arrays) + 1  # group, arrays, and the one chunk of wavelength
    assert checked == sum(len(r.objects) for found in commits for r in found.values()) + fixed


def shard(config, array="flux"):
    return Path(folders.spectra_url(config), "spectra.zarr", array, "c", "1", "0")


@pytest.mark.parametrize("key", ["zarr.json", "flux/zarr.json", "wavelength/c/0"])
def test_verify_reads_what_no_block_writes(config, key):
    """A changed unit or wavelength would spoil every spectrum, and no commit names it."""
    target = Path(folders.spectra_url(config), "spectra.zarr", key)
    whole = target.read_bytes()
    flip(target, len(whole) // 2)
    assert any(f"{target} changed since" in line for line in verify_run(config)[0])
    target.unlink()
    assert any(f"{target}: not found" in line for line in verify_run(config)[0])


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_verify_finds_a_flipped_byte_in_a_shard(config, place):
    flip(shard(config), place)
    (problem,) = verify_run(config)[0]
    assert problem.startswith(f"preprocess: block 1: {shard(config)} changed since its commit")


def test_verify_finds_a_flipped_byte_in_a_table(config):
    (part,) = Path(folders.raw_url(config), "index").glob("000002-*.parquet")
    flip(part, 50)
    (problem,) = verify_run(config)[0]
    assert problem.startswith(f"ingest: block 2: {part} changed")


def test_verify_finds_a_missing_object(config):
    shard(config).unlink()
    assert verify_run(config)[0] == [f"preprocess: block 1: {shard(config)}: not found"]


def test_verify_finds_a_shard_that_its_block_did_not_leave(config):
    """As an attempt does that is killed while it writes over a block of nothing but fill values."""
    ledger = Ledger(folders.spectra_url(config))
    store = Path(ledger.url, "spectra.zarr")
    named = {key.split("/")[1] for key in ledger.commits()[1].objects}
    empty = min({path.parent.name for path in store.glob("*/zarr.json")} - named - {"wavelength"})
    stray = store / empty / "c" / "1"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes((store / "snr" / "c" / "1").read_bytes())
    (problem, withdrawn) = verify_run(config, mend=True)[0]
    assert problem == f"preprocess: block 1: {stray}: there, and its commit does not name it"
    assert withdrawn.endswith("the next run makes it anew")
    assert run(config, engine="local").done == 1
    assert not stray.exists()
    assert verify_run(config)[0] == []


@pytest.mark.parametrize("array", ["flux", "status"])
def test_a_lost_shard_is_refused_and_one_that_never_was_is_not(config, array):
    """Zarr says fill values of both: of the one, spectra of nothing whose status is good."""
    url = f"{folders.spectra_url(config)}/spectra.zarr"
    stored = {key.split("/")[1] for key in Ledger(folders.spectra_url(config)).commits()[1].objects}
    assert {path.parent.name for path in Path(url).glob("*/zarr.json")} - stored - {"wavelength"}
    read_spectra(url, 4, 8)
    lost = Path(url, array, "c", "1", *["0"] * (array == "flux"))
    lost.unlink()
    with pytest.raises(StoreError, match=rf"{lost}: gone, though block 1 is committed with it"):
        read_spectra(url, 2, 6)
    read_spectra(url, 0, 4)
    Path(folders.spectra_url(config), "commits", "000001.json").unlink()  # nobody vouches for it
    read_spectra(url, 8, 10)


def test_a_run_file_is_told_of_its_own_run_whatever_ran_since_in_its_workspace(config, survey):
    other = config_for(survey, config.run.workspace, spike_sigma=9.0)
    assert run(other, engine="local").done == 3
    for one in (config, other):
        assert state_of(one, "preprocess")["blocks"] == state_of(one, "preprocess")["done"] == 3
        assert verify_run(one)[0] == []


@pytest.mark.parametrize("text", ["{}", '{"blocks": [[1]]}', '{"blocks": 3}', "[]", "nothing"])
def test_a_damaged_list_of_blocks_is_a_problem_until_the_next_run(config, text):
    Path(folders.spectra_url(config), "planned.json").write_text(text)
    (problem,) = verify_run(config)[0]
    assert "planned.json: " in problem
    assert run(config, engine="local").done == 0
    assert verify_run(config)[0] == []


def test_what_verify_mends_the_next_run_makes_anew_to_the_same_bytes(config):
    lost, changed = shard(config), shard(config, "ivar").parents[1] / "0" / "0"
    whole = lost.read_bytes(), changed.read_bytes()
    lost.unlink()
    flip(changed, 10)
    problems, _ = verify_run(config, mend=True)
    assert [line.partition(": ")[2][:7] for line in problems] == ["block 0"] * 2 + ["block 1"] * 2
    assert sum(line.endswith("the next run makes it anew") for line in problems) == 2
    assert state_of(config, "preprocess")["left"] == 2
    assert verify_run(config, mend=True)[0] == [
        f"preprocess: block {i} (rows {4 * i}:{4 * i + 4}) is not committed" for i in (0, 1)
    ]
    assert run(config, engine="local").done == 2
    assert (lost.read_bytes(), changed.read_bytes()) == whole
    assert verify_run(config)[0] == []


def test_a_run_on_a_lost_shard_fails_its_block_and_says_the_cure(config):
    Path(folders.raw_url(config), "spectra.zarr", "flux", "c", "2", "0").unlink()
    config = config.model_copy(update={"preprocess": PreprocessTable(spike_sigma=9.0)})
    summary = run(config, engine="local")
    assert list(summary.failed["preprocess"]) == [2]
    assert "`scalespec verify --mend`" in summary.failed["preprocess"][2]
    assert summary.exit_code == 3


def test_verify_finds_a_deleted_commit(config):
    Path(folders.raw_url(config), "commits", "000002.json").unlink()
    assert verify_run(config)[0] == ["ingest: block 2 (rows 8:10) is not committed"]


def test_verify_finds_a_torn_commit_and_goes_on(config):
    record = Path(folders.raw_url(config), "commits", "000001.json")
    record.write_bytes(record.read_bytes()[:40])
    shard(config).unlink()
    one, other = verify_run(config)[0]
    assert one.startswith(f"ingest: {record}: damaged JSON")
    assert other.startswith("preprocess: block 1: ")


def test_verify_finds_lost_rows(config):
    path = Path(folders.raw_url(config), "commits", "000001.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"rows": 3}))
    assert verify_run(config)[0] == ["ingest: block 1 holds 3 rows, planned were 4"]


def test_verify_finds_a_lost_array(config):
    shutil.rmtree(Path(folders.spectra_url(config), "spectra.zarr", "snr"))
    problems = verify_run(config)[0]
    assert any("no per-spectrum variable 'snr'" in line for line in problems)
    assert any("snr/c/0: not found" in line for line in problems)


def test_verify_says_what_did_not_run(config, survey, tmp_path):
    never = verify_run(config_for(survey, tmp_path / "empty"))
    assert never == (["ingest: not run yet", "preprocess: not run yet"], 0)
    changed = config_for(survey, config.run.workspace, spike_sigma=9.0)
    assert verify_run(changed)[0] == ["preprocess: not run yet with these settings"]


def test_a_catalog_that_is_not_there_does_not_end_the_status_of_what_is(tiny_run):
    derive = DeriveTable(color="gaia.bp_rp")  # a run file with it is refused when it is loaded
    states = stage_states(tiny_run.config.model_copy(update={"derive": derive}))
    urls = {state["stage"]: state["url"] for state in states}
    assert urls["fit"] == folders.best_url(tiny_run.config)
    assert urls["derive"] is None


def test_a_plan_is_said_without_touching_anything(survey, tmp_path):
    config = config_for(survey, tmp_path / "work")
    ingest, preprocess = plan_run(config)
    assert ingest["stage"] == "ingest"
    assert ingest["engine"] == preprocess["engine"] == "dask"
    assert (ingest["blocks"], ingest["spectra"]) == (3, 10)
    assert ingest["bytes"] == 10 * 3909 * (4 + 4 + 4)  # flux, ivar, mask
    assert ingest["memory_bytes"] > 4 * 3909 * 12
    assert not (tmp_path / "work").exists()


@pytest.fixture
def unlooked(monkeypatch):
    """Plans of run files that name what is not there."""
    monkeypatch.setattr(status, "check_inputs", lambda _: None)


@pytest.mark.usefixtures("unlooked")
@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_fits_take_a_batch_of_memory_where_they_run(survey, gpus):
    """By hand: 100 stars of 3,909 pixels at 64 bytes, and half a GiB."""
    text = EVERYTHING.format(workspace="nowhere").replace("[fit]", "[fit]\nstars_per_batch = 100")
    text = text.replace('"none"', f'"{survey}"')
    config = parse_config(text + f"\n[engine.ray]\ngpus_per_worker = {gpus}\n")
    facts = {fact["stage"]: fact for fact in plan_run(config)}
    batch = 100 * 3909 * 64 + 2**29
    assert facts["fit"]["gpu_bytes"] == (batch if gpus else 0)
    assert facts["fit"]["memory_bytes"] - facts["infer"]["memory_bytes"] == (0 if gpus else batch)
    assert facts["ingest"]["gpu_bytes"] == 0
    said = [
        str(cell) for column in plan_table(list(facts.values())).columns for cell in column.cells
    ]
    assert any("of its GPU" in cell for cell in said) == bool(gpus)


def test_a_plan_that_was_made_is_what_is_said(config):
    shutil.rmtree(Path(config.run.workspace, "raw"))
    assert plan_run(config)[0]["spectra"] == 10


def test_a_plan_knows_the_spectra_of_a_store_that_is_preprocessed(config, tmp_path):
    source = f"{folders.raw_url(config)}/spectra.zarr"
    table = PreprocessTable(source=source, steps=("mask",), windows=())
    run = RunTable(name="t", workspace=f"{tmp_path}/other", spectra_per_block=4)
    (fact,) = plan_run(RunConfig(run=run, preprocess=table))
    assert (fact["stage"], fact["spectra"], fact["blocks"]) == ("preprocess", 10, 3)
    assert fact["bytes"] == 10 * 3909 * 12
    assert fact["memory_bytes"] > 4 * 3909 * 12
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("unlooked")
def test_training_and_report_are_one_block(tmp_path, survey):
    text = EVERYTHING.format(workspace=tmp_path).replace('"none"', f'"{survey}"')
    facts = {fact["stage"]: fact for fact in plan_run(parse_config(text))}
    assert facts["train"]["blocks"] == facts["report"]["blocks"] == 1
    assert facts["fit"]["engine"] == facts["train"]["engine"] == "ray"
    assert facts["fit"]["spectra"] == 10
