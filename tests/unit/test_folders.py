"""Where a run's things lie: a folder's name changes with all that its content depends on."""

import io

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from scalespec.config import (
    CalibrateTable,
    PreprocessTable,
    TrainTable,
    VelocityTable,
    digest,
    parse_config,
)
from scalespec.errors import ConfigError, StoreError
from scalespec.plan import BlockResult, plan_blocks
from scalespec.schema import FORMAT_VERSION
from scalespec.stages import folders
from scalespec.stages.identities import checksums, identities, identity
from scalespec.stages.segments import Segment, add_segment
from scalespec.store import paths
from scalespec.store.ledger import Ledger

RUN_FILE = """
[run]
name = "t"
workspace = "{folder}/work"
[ingest]
files = "{folder}/*.fits"
[preprocess]
[crossmatch.apogee]
catalog = "{folder}/labels.csv"
columns = {{ teff = "teff" }}
[train]
labels = ["teff"]
catalog = "apogee"
"""


@pytest.fixture
def config(tmp_path):
    """A run whose inputs are planned and which is matched with a catalog."""
    config = parse_config(RUN_FILE.format(folder=tmp_path))
    (tmp_path / "labels.csv").write_text("teff\n5000\n")
    plan(config, "1")
    match(config, b"matches")
    return config


def plan(config, sha256, *, number=0, start=0):
    segment = Segment(start, start + 3, 8, folders.entries_of(config), 1, 3, sha256, "a")
    add_segment(folders.plan_url(config), number, segment)


def match(config, content):
    paths.write_bytes(paths.join(folders.matches_url(config, "apogee"), "matches.parquet"), content)


def names(config):
    return {
        "raw": folders.raw_url(config),
        "spectra": folders.spectra_url(config),
        "matches": folders.matches_url(config, "apogee"),
        "train.zarr": folders.training_url(config, "apogee"),
        "model": folders.model_url(config),
    }


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def test_nothing_has_a_place_before_inputs_are_planned(tmp_path):
    config = parse_config(RUN_FILE.format(folder=tmp_path))
    with pytest.raises(StoreError, match="no inputs are planned yet: run ingest"):
        folders.raw_url(config)


def test_the_same_run_file_gives_the_same_folders_and_the_workspace_is_no_part_of_them(config):
    assert names(config) == names(config)
    assert all("/work/" in url for url in names(config).values())
    tail = folders.plan_url(config).rpartition("/")[2]
    moved = config.model_copy(
        update={"run": config.run.model_copy(update={"workspace": "s3://b/w?region=x"})}
    )
    assert folders.plan_url(moved) == f"s3://b/w/plan/{tail}?region=x"


def test_a_changed_setting_moves_what_depends_on_it(config):
    table = PreprocessTable(spike_sigma=7.0)
    after = names(config.model_copy(update={"preprocess": table}))
    assert changed(names(config), after) == {"spectra", "train.zarr", "model"}


def test_other_inputs_move_everything_but_the_plan(config):
    before = names(config)
    paths.delete_tree(folders.plan_url(config))
    plan(config, "2")
    with pytest.raises(StoreError, match="run crossmatch first"):
        names(config)
    match(config, b"matches")
    assert changed(before, names(config)) == set(before)


def test_a_further_segment_moves_nothing_but_the_catalog(tmp_path):
    text = RUN_FILE.replace('[train]\nlabels = ["teff"]\ncatalog = "apogee"\n', "")
    config = parse_config(text.format(folder=tmp_path))
    (tmp_path / "labels.csv").write_text("teff\n5000\n")
    plan(config, "1")
    before = folders.raw_url(config), folders.spectra_url(config)
    assert [(b.index, b.size) for b in folders.planned_blocks(config)] == [(0, 3)]
    plan(config, "2", number=1, start=8)
    assert (folders.raw_url(config), folders.spectra_url(config)) == before
    assert [(b.index, b.start, b.size) for b in folders.planned_blocks(config)] == [
        (0, 0, 3),
        (1, 8, 3),
    ]


def test_where_a_bucket_is_is_no_part_of_what_is_in_it(tmp_path):
    urls = set()
    for port in (1, 2):
        text = (
            f'[run]\nname="t"\nworkspace="{tmp_path}"\n[ingest]\nfiles="s3://b/x?endpoint=h:{port}"'
        )
        urls.add(folders.plan_url(parse_config(text)))
    assert len(urls) == 1


def test_a_changed_catalog_moves_its_matches(config, tmp_path):
    before = names(config)
    (tmp_path / "labels.csv").write_text("teff\n5000\n6000\n")
    match(config, b"matches")
    assert changed(before, names(config)) == {"matches", "train.zarr", "model"}


def test_a_block_that_is_matched_or_preprocessed_later_makes_another_training_store(config):
    before = names(config)
    match(config, b"matches of one more block")
    middle = names(config)
    assert changed(before, middle) == {"train.zarr", "model"}
    (block,) = plan_blocks(8, 8)
    Ledger(folders.spectra_url(config)).commit(block, BlockResult(8, {}))
    assert changed(middle, names(config)) == {"train.zarr", "model"}


def table_of(rows):
    buffer = io.BytesIO()
    pd.DataFrame({"row": rows, "teff": 5000.0 + np.asarray(rows)}).to_parquet(buffer, index=False)
    return buffer.getvalue()


def test_a_pinned_training_set_stays_when_the_run_grows_and_moves_when_it_changes(config):
    before = names(updated(config, "train", segments=0))["model"]
    assert before == folders.model_url(config)
    dumped = config.train.model_dump(mode="json", exclude={"segments"})  # as it was before the key
    source = folders.training_url(config, "apogee").rpartition("/")[2]
    assert before.endswith(f"/{digest(dumped, 1, source, FORMAT_VERSION)}")
    pinned = updated(config, "train", segments=1)
    match(pinned, table_of([0, 2]))
    was, loose = names(pinned), names(config)
    plan(config, "2", number=1, start=8)
    match(pinned, table_of([0, 2, 8, 9]))
    assert changed(was, names(pinned)) == set()
    assert changed(loose, names(config)) == {"train.zarr", "model"}
    assert folders.learned_until(pinned, "apogee") == 3
    assert folders.learned_until(pinned, "another") is None
    match(pinned, table_of([0, 1, 2, 8, 9]))  # a block of the first segment is matched late
    assert changed(was, names(pinned)) == {"train.zarr", "model"}


def test_a_library_has_no_segments():
    with pytest.raises(ValidationError, match="segments asks which matched stars"):
        TrainTable(library="x", labels=("teff",), segments=1)


def test_a_missing_catalog_is_named(config, tmp_path):
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(StoreError, match=r"labels\.csv: no such file"):
        folders.matches_url(config, "apogee")


def test_a_catalog_that_the_run_file_does_not_have_is_an_error_of_ours(config):
    with pytest.raises(ConfigError, match=r"\[crossmatch.gaia\]"):
        folders.matches_url(config, "gaia")


@pytest.mark.parametrize("name", ["labels[1].csv", "labels[1]"])
def test_a_name_that_looks_like_a_glob_is_a_name(tmp_path, name):
    target = tmp_path / name
    if target.suffix:
        target.write_text("teff")
    else:
        target.mkdir()
        (target / "0.parquet").write_text("teff")
    before = identity(str(target))
    (target if target.suffix else target / "0.parquet").write_text("teff,logg")
    assert identity(str(target)) != before


def updated(config, stage, **changes):
    table = getattr(config, stage)
    return config.model_copy(update={stage: table.model_copy(update=changes)})


def test_another_file_of_gradients_makes_another_model(config, tmp_path):
    file = tmp_path / "gradients.npz"
    file.write_bytes(b"one")
    config = updated(config, "train", gradients=str(file))
    before = names(config)
    file.write_bytes(b"two")  # as large, and perhaps in the same second
    assert changed(before, names(config)) == {"model"}


def store(folder):
    """What tells a spectra store from another: its metadata."""
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize("kind", ["store", "model"])
def test_other_templates_make_other_spectra(config, tmp_path, kind):
    file = tmp_path / ("store/zarr.json" if kind == "store" else "model.npz")
    url = store(tmp_path / "store") if kind == "store" else str(file)
    file.write_text("{}")
    config = updated(config, "preprocess", velocity=VelocityTable(templates=url))
    before = names(config)
    file.write_text("{ }")
    assert changed(before, names(config)) == {"spectra", "train.zarr", "model"}


def test_another_library_that_fills_makes_another_training_store(config, tmp_path):
    table = config.crossmatch["apogee"]
    filled = table.training.model_copy(update={"library": store(tmp_path / "lib"), "fill": 3})
    catalogs = {"apogee": table.model_copy(update={"training": filled})}
    config = config.model_copy(update={"crossmatch": catalogs})
    match(config, b"matches")
    before = names(config)
    (tmp_path / "lib" / "zarr.json").write_text("{ }")
    assert changed(before, names(config)) == {"train.zarr", "model"}


def test_other_spectra_of_broken_correlations_make_another_comparison(tmp_path):
    source, broken = store(tmp_path / "source"), store(tmp_path / "broken")
    text = (
        f'[run]\nname = "t"\nworkspace = "{tmp_path}/work"\n'
        f'[compare]\nsource = "{source}"\nlabels = ["teff"]\nmodels = {{ ridge = {{}} }}\n'
        f'[compare.leakage]\nlabels = ["teff"]\nbroken = "{broken}"\n'
    )
    config = parse_config(text)
    before = folders.compare_url(config)
    (tmp_path / "broken" / "zarr.json").write_text("{ }")
    assert folders.compare_url(config) != before


def test_files_that_are_not_named_are_no_part_of_a_digest():
    assert identities("") == checksums("") == []
    assert folders._templates(PreprocessTable()) == []


def test_the_order_of_references_is_part_of_the_digest_of_calibrated_labels(tiny_run):
    """The first that has a label calibrates it."""
    run = tiny_run.config
    catalogs = dict.fromkeys(("a", "b"), run.crossmatch["apogee"])
    config = run.model_copy(update={"crossmatch": catalogs})
    best = folders.best_url(run)
    urls = set()
    for order in ("ab", "ba"):
        table = CalibrateTable(references={name: {"labels": ["teff"]} for name in order})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folders, "best_url", lambda _: best)
            patch.setattr(folders, "_matched", lambda _, name: f"rows of {name}")
            urls.add(folders.calibrated_url(config.model_copy(update={"calibrate": table})))
    assert len(urls) == 2
