"""HATS holds every row that has a position, whenever its block came, whatever kill came between."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fitted_run import write_fitted

from scalespec.errors import StageError
from scalespec.plan import BlockResult, plan_blocks
from scalespec.run import Runner
from scalespec.stages import folders, partitioned
from scalespec.stages.publish import publish
from scalespec.status import verify_run
from scalespec.store import paths
from scalespec.store.catalog import verify_catalog
from scalespec.store.ledger import Ledger

N, PER_BLOCK, LATE, UNPLACED = 40, 8, 1, 3
FEW, MANY = 1000, 4
"""Rows per partition: one on the late block or without it, and others with it."""


@pytest.fixture
def config_of(tmp_path):
    """A function that writes a run whose catalog has partitions of some rows."""

    def make(partition_rows):
        rng = np.random.default_rng(2)
        stars = {"teff": np.full(N, 5000.0), "logg": np.full(N, 4.0), "fe_h": np.zeros(N)}
        stars |= {f"{name}_err": np.ones(N) for name in list(stars)}
        stars |= {"ra": rng.uniform(40, 60, N), "dec": rng.uniform(5, 20, N)}
        stars["ra"][UNPLACED] = stars["dec"][UNPLACED] = np.nan
        tables = f'[publish]\nformats = ["hats"]\npartition_rows = {partition_rows}\n'
        return write_fitted(tmp_path, stars, tables=tables, rows=PER_BLOCK)

    return make


def folder_of(config):
    return Path(folders.catalog_url(config))


def lose(config):
    """Let the fit of a block fail; return what brings it back."""
    ledger = Ledger(folders.best_url(config))
    url = f"{ledger.url}/commits/{LATE:06d}.json"
    commit = paths.read_bytes(url)
    paths.delete(url)
    ledger.record_failure(plan_blocks(N, PER_BLOCK)[LATE], "a worker died")
    return lambda: paths.write_bytes(url, commit)


def first_night(config, tiny):
    """Publish without a block, then fit it."""
    bring_back = lose(config)
    tiny.run_stage(publish(config))
    assert json.loads((folder_of(config) / "manifest.json").read_text())["missing_blocks"] == [LATE]
    bring_back()


def run_publish(config):
    """Publish as a run does."""
    runner = Runner(config, "local")
    runner.run(["publish"])
    assert runner.summary.exit_code == 0


def partition_files(config):
    return sorted(folder_of(config).glob("hats/dataset/Norder=*/Dir=*/Npix=*.parquet"))


def assert_whole(config):
    """Every row with a position is in one partition, in the files that the manifest names."""
    folder = folder_of(config)
    rows = np.concatenate(
        [pq.read_table(file)["row"].to_numpy() for file in partition_files(config)]
    )
    assert sorted(rows) == [row for row in range(N) if row != UNPLACED]
    objects = json.loads((folder / "manifest.json").read_text())["objects"]
    there = {file.relative_to(folder).as_posix() for file in partition_files(config)}
    assert {name for name in objects if "Npix=" in name} == there
    assert pq.read_metadata(folder / "hats/dataset/_metadata").num_rows == N - 1
    assert verify_catalog(str(folder)) == []
    assert partitioned.verify_hats(str(folder)) == []


@pytest.mark.parametrize("partition_rows", [FEW, MANY])
def test_a_block_that_is_fitted_late_is_in_the_partitions(config_of, tiny, partition_rows):
    config = config_of(partition_rows)
    first_night(config, tiny)
    tiny.run_stage(publish(config))
    assert_whole(config)


def test_a_late_block_changes_partitions_or_only_what_they_hold(config_of, tiny):
    for partition_rows, same in ((FEW, True), (MANY, False)):
        config = config_of(partition_rows)
        first_night(config, tiny)
        before = partition_files(config)
        tiny.run_stage(publish(config))
        assert (partition_files(config) == before) is same


class Killed(BaseException):
    """Nobody catches it, as nobody catches a kill."""


def die_before(*_):
    raise Killed


def die_amid(url):
    """Remove the first half of what is there, as an object store does, one by one."""
    keys = paths.list_keys(url)
    for key in keys[: len(keys) // 2]:
        paths.delete(paths.join(url, key))
    raise Killed


def die_after(url, remove=paths.delete_tree):
    remove(url)
    raise Killed


@pytest.mark.parametrize("die", [die_before, die_amid, die_after])
@pytest.mark.parametrize("partition_rows", [FEW, MANY])
def test_a_kill_while_room_is_made_leaves_no_catalog_and_the_next_run_a_whole_one(
    config_of, tiny, monkeypatch, die, partition_rows
):
    config = config_of(partition_rows)
    first_night(config, tiny)

    with monkeypatch.context() as patch:
        patch.setattr("scalespec.store.paths.delete_tree", die)
        with pytest.raises(Killed):
            tiny.run_stage(publish(config))
    assert not (folder_of(config) / "manifest.json").exists()
    tiny.run_stage(publish(config))
    assert_whole(config)


def attempts(config):
    commits = Ledger(str(folder_of(config) / "hats")).commits()
    return {index: result.attempt for index, result in commits.items()}


def test_partitions_of_the_same_plan_are_gone_on_with(config_of, tiny):
    config = config_of(MANY)
    for stage in publish(config):
        hats = stage.name == "publish hats"
        for block in stage.blocks[:2] if hats else stage.blocks:
            stage.write(block, stage.compute(None, stage.read(block)))
    before = attempts(config)
    assert sorted(before) == [0, 1]
    tiny.run_stage(publish(config))
    after = attempts(config)
    assert {index: after[index] for index in before} == before
    assert_whole(config)


def test_partitions_of_which_no_plan_is_known_are_made_anew(config_of, tiny):
    config = config_of(FEW)
    first_night(config, tiny)
    before = attempts(config)
    (folder_of(config) / "hats" / partitioned.PLAN).unlink()  # a version wrote none
    tiny.run_stage(publish(config))
    assert not set(before.values()) & set(attempts(config).values())
    assert_whole(config)


def test_a_worker_of_an_earlier_plan_that_commits_late_ends_in_no_catalog(config_of, tiny):
    config = config_of(FEW)
    steps = publish(config)
    for stage in steps:
        for block in stage.blocks:
            table = stage.compute(None, stage.read(block))
            if stage.name == "publish hats":
                Ledger(stage.url).commit(block, BlockResult(table.num_rows - 2, {}))
            stage.write(block, table)
        if stage.name == "publish hats":
            break
    with pytest.raises(
        StageError, match=r"partitions hold \d+ rows, 39 have a position; run again"
    ):
        next(steps)
    assert not (folder_of(config) / "manifest.json").exists()
    tiny.run_stage(publish(config))
    assert_whole(config)


def problems_of(config, **how):
    """What `verify` says of the catalog; of the rest, which no run made, it says that."""
    found = verify_run(config, **how)[0]
    return [line for line in found if line.startswith("publish: ")]


def test_rows_that_partitions_lack_are_counted_by_verify(config_of):
    """As of a version that left out what came late: every checksum is right."""
    config = config_of(MANY)
    run_publish(config)
    assert problems_of(config) == []
    manifest = folder_of(config) / "manifest.json"
    record = json.loads(manifest.read_text())
    lost = next(key for key in record["objects"] if "Npix=" in key)
    n = pq.read_metadata(folder_of(config) / lost).num_rows
    del record["objects"][lost]
    manifest.write_text(json.dumps(record))
    (said,) = problems_of(config)
    assert f"hats: {39 - n} rows in {len(partition_files(config)) - 1} partitions, 39 of" in said


def test_rows_that_the_metadata_of_partitions_lacks_are_counted(config_of):
    """Readers know partitions by it alone."""
    config = config_of(MANY)
    run_publish(config)
    url = folder_of(config) / "hats" / "dataset" / "_metadata"
    pq.write_table(pq.read_table(partition_files(config)[0]), url)
    manifest = folder_of(config) / "manifest.json"
    record = json.loads(manifest.read_text())
    record["objects"]["hats/dataset/_metadata"] = paths.sha256(url.read_bytes())
    manifest.write_text(json.dumps(record))
    (said,) = problems_of(config)
    assert " rows in dataset/_metadata, 39 of the catalog have a position" in said


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_partition_that_verify_mends_is_made_anew_to_the_same_bytes(config_of, how):
    config = config_of(MANY)
    run_publish(config)
    file = partition_files(config)[1]
    whole = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        pd.read_parquet(file).iloc[:1].to_parquet(file)
    said, withdrawn = problems_of(config, mend=True)
    assert str(file) in said
    assert withdrawn.endswith("the next run makes it anew")
    run_publish(config)
    assert file.read_bytes() == whole
    assert problems_of(config) == []
    assert_whole(config)
