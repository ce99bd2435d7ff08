"""Planning: which inputs are found, in which order, cut into which blocks, and what is new."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scalespec.config import IngestTable, RunConfig, RunTable
from scalespec.errors import ConfigError, StoreError, SurveyFileError
from scalespec.kernels.sky import healpix_nested
from scalespec.plan import Block
from scalespec.stages import folders, inputs
from scalespec.stages import release as release_stage
from scalespec.stages.ingest import ingest
from scalespec.stages.inputs import (
    Item,
    as_items,
    below,
    block_bytes,
    common_root,
    count_inputs,
    cut_items,
    list_inputs,
    plan_inputs,
    read_items,
)
from scalespec.stages.known import Seen, differs
from scalespec.stages.reader import survey_of
from scalespec.stages.segments import find_part
from scalespec.store import paths
from scalespec.store.listing import Entry
from scalespec.surveys import SURVEYS
from scalespec.surveys.rows import file_column


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A folder of 20 files in three folders that look like a survey's, and one that does not."""
    folder = tmp_path_factory.mktemp("survey")
    for i in range(20):
        path = folder / f"{i % 3}" / f"spec-56000-TEST_sp01-{i:03d}.fits"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * (i + 1))
    (folder / "README.txt").write_text("no spectrum")
    return folder


def listed(**table):
    table = IngestTable(**table)
    return list(list_inputs(table, survey_of(table)))


def names(**table):
    return [Path(entry.url).name for entry in listed(**table)]


def planned(config):
    """Names of the planned files, block by block."""
    url = folders.plan_url(config)
    return [read_items(url, b)["file"].tolist() for b in folders.planned_blocks(config)]


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
    assert names(files=f"{survey}{files}") == expected


def test_several_entries_are_put_together_and_each_file_is_planned_once(survey):
    files = (f"{survey}/1", f"{survey}/*/spec-*-00[01].fits")
    assert names(files=files) == [ALL[0], *ALL[7:14]]


def test_limit_takes_the_first(config_of, survey):
    config = config_of(files=str(survey), limit=3)
    assert count_inputs(config) == (3, 1 + 4 + 7)
    assert plan_inputs(config)["n"] == 3
    assert [name for part in planned(config) for name in part] == [f"0/{n}" for n in ALL[:3]]


def test_a_limit_is_of_the_run_whatever_sorts_first_later(config_of, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "fgh":
        (folder / f"spec-{name}.fits").write_bytes(b"old")
    config = config_of(size=2, files=str(folder), limit=5)
    assert plan_inputs(config)["n"] == 3
    for name in "abc":
        (folder / f"spec-{name}.fits").write_bytes(b"new")
    (folder / "spec-g.fits").write_bytes(b"another")
    plan = plan_inputs(config)
    assert (plan["n"], plan["added"], plan["changed"]) == (5, 2, [f"{folder}/spec-g.fits"])
    again = plan_inputs(config)  # full: nothing is added, changes are told all the same
    assert (again["n"], again["added"], again["changed"]) == (5, 0, plan["changed"])


def counting(monkeypatch, **facts):
    """Let every byte of a file be a spectrum of its own, of any survey."""
    made = replace(SURVEYS["lamost_lrs"], count_spectra=len, **facts)
    monkeypatch.setattr(inputs, "survey_of", lambda _: made)


def test_a_limit_counts_the_spectra_of_containers_and_cuts_the_last(
    config_of, tmp_path, monkeypatch
):
    counting(monkeypatch)
    for i in range(5):
        (tmp_path / f"spec-{i}.fits").write_bytes(b"12345")
    config = config_of(size=4, files=f"{tmp_path}/spec-*", limit=12)
    assert count_inputs(config) == (12, 15)
    assert plan_inputs(config)["n"] == 12
    blocks = folders.planned_blocks(config)
    table = pd.concat([read_items(folders.plan_url(config), block) for block in blocks])
    found = [(Path(row.file).name, row.first, row.count) for row in table.itertuples()]
    names = [f"spec-{i}.fits" for i in (0, 0, 1, 1, 2)]
    assert found == [*zip(names, (0, 4, 0, 3, 0), (4, 1, 3, 2, 2), strict=True)]
    assert plan_inputs(config)["added"] == 0


def test_a_list_names_files_relative_to_itself_and_the_missing_keep_their_row(survey, tmp_path):
    lines = [f"{survey}/0/{ALL[0]}", "", "# by hand", "gone.fits", "here.fits "]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    (tmp_path / "here.fits").write_bytes(b"x" * 7)
    found = {entry.url: entry.size for entry in listed(files=f"@{tmp_path}/list.txt")}
    assert found[f"{tmp_path}/gone.fits"] == -1
    assert found[f"{tmp_path}/here.fits"] == 7
    assert len(found) == 3


def test_a_list_beside_the_working_folder_names_files_there(survey, monkeypatch):
    monkeypatch.chdir(survey)
    Path("list.txt").write_text(f"0/{ALL[0]}\n")
    try:
        assert [entry.size for entry in listed(files="@list.txt")] == [1]
    finally:
        Path("list.txt").unlink()


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"files": "{folder}/none-*.fits"}, ConfigError, "nothing to read in .*none-"),
        ({"files": "{folder}/nowhere/*.fits"}, StoreError, "no such file or folder"),
        ({"files": "{folder}", "survey": "hubble"}, ConfigError, "hubble"),
        ({"files": "@{folder}/no.txt"}, StoreError, "no.txt: not found"),
        ({"files": "{folder}"}, ConfigError, "no file matches"),
    ],
)
def test_what_cannot_be_planned_is_said(config_of, tmp_path, table, error, message):
    config = config_of(**{k: v.format(folder=tmp_path) for k, v in table.items()})
    with pytest.raises(error, match=message):
        plan_inputs(config)


def test_a_run_file_without_ingest_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"no \[ingest\] table"):
        plan_inputs(RunConfig(run=RunTable(name="t", workspace=str(tmp_path))))


def test_the_plan_says_files_bytes_and_spectra_and_is_written_once(config_of, survey):
    config = config_of(files=str(survey))
    assert count_inputs(config) == (20, 210)  # before there is a plan: nothing is written
    assert not Path(config.run.workspace).exists()
    plan = plan_inputs(config)
    assert (plan["n"], plan["files"], plan["bytes"], plan["added"]) == (20, 20, 210, 20)
    before = {p: p.stat().st_mtime_ns for p in Path(config.run.workspace).rglob("*")}
    assert plan_inputs(config) == plan | {"added": 0}
    assert count_inputs(config) == (20, 210)
    assert block_bytes(config) == 8 * 210 // 20
    assert {p: p.stat().st_mtime_ns for p in Path(config.run.workspace).rglob("*")} == before


def test_a_part_holds_the_items_of_a_block_and_what_identifies_their_files(config_of, survey):
    config = config_of(files=str(survey))
    plan_inputs(config)
    blocks = folders.planned_blocks(config)
    assert [(b.start, b.stop) for b in blocks] == [(0, 8), (8, 16), (16, 20)]
    table = read_items(folders.plan_url(config), blocks[2])
    columns = ["url", "file", "size", "modified", "etag", "source_id", "first", "count"]
    assert table.columns.tolist() == columns
    for row in table.itertuples():
        stat = Path(row.url).stat()
        assert (row.size, row.modified) == (stat.st_size, stat.st_mtime)
        assert f"{survey}/{row.file}" == row.url
        assert (row.first, row.count, row.etag) == (0, 1, "")


def test_a_plan_whose_making_was_killed_is_made_again(config_of, survey):
    config = config_of(files=str(survey))
    plan_inputs(config)
    before = planned(config)
    Path(folders.plan_url(config), "segments", "000000.json").unlink()
    with pytest.raises(StoreError, match="no inputs are planned yet"):
        folders.raw_url(config)
    plan_inputs(config)
    assert planned(config) == before


def test_another_table_or_block_size_is_another_plan_and_another_store(config_of, survey):
    urls = set()
    for table in ({}, {"size": 4}, {"limit": 19}):
        config = config_of(files=str(survey), **table)
        plan_inputs(config)
        urls |= {folders.plan_url(config), folders.raw_url(config)}
    assert len(urls) == 6


@pytest.fixture
def growing(tmp_path, config_of):
    """A folder with three files, planned."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "bdf":
        (folder / f"spec-{name}.fits").write_bytes(b"old")
    config = config_of(size=2, files=str(folder))
    plan_inputs(config)
    return folder, config


def test_files_that_appear_later_become_blocks_of_their_own(growing):
    folder, config = growing
    before, raw = planned(config), folders.raw_url(config)
    for name in "ace":
        (folder / f"spec-{name}.fits").write_bytes(b"new")
    plan = plan_inputs(config)
    assert (plan["n"], plan["added"], plan["changed"]) == (6, 3, [])
    assert planned(config)[:2] == before == [["spec-b.fits", "spec-d.fits"], ["spec-f.fits"]]
    assert planned(config)[2:] == [["spec-a.fits", "spec-c.fits"], ["spec-e.fits"]]
    blocks = folders.planned_blocks(config)
    # A new segment begins at a whole block: row 3 is a hole, and block 1 stays as it was.
    assert [(b.index, b.start, b.stop) for b in blocks] == [
        (0, 0, 2),
        (1, 2, 3),
        (2, 4, 6),
        (3, 6, 7),
    ]
    assert folders.raw_url(config) == raw
    assert plan_inputs(config)["added"] == 0


def test_an_entry_added_to_files_goes_on_where_the_shorter_list_stood(growing, tmp_path, config_of):
    folder, config = growing
    other = tmp_path / "dr11"
    other.mkdir()
    (other / "spec-z.fits").write_bytes(b"new")
    longer = config_of(size=2, files=(str(folder), str(other)))
    assert plan_inputs(longer)["added"] == 1
    assert folders.raw_url(longer) == folders.raw_url(config)
    assert planned(longer) == [*planned(config), ["dr11/spec-z.fits"]]
    assert len(planned(config)) == 2  # the shorter run file still means what it meant
    (folder / "spec-y.fits").write_bytes(b"new")
    plan_inputs(config)
    starts = [b.start for c in (config, longer) for b in folders.planned_blocks(c)]
    assert starts == [0, 2, 6, 0, 2, 4, 6]  # no two segments share a block


def test_of_two_drivers_that_plan_at_once_one_plan_stands(growing, monkeypatch):
    folder, config = growing
    (folder / "spec-x.fits").write_bytes(b"new")
    from scalespec.stages import inputs

    add, raced = inputs.add_segment, []

    def slower(url, number, segment):
        monkeypatch.setattr(inputs, "add_segment", add)
        raced.append(plan_inputs(config))  # the other driver is through before this one
        return add(url, number, segment)

    monkeypatch.setattr(inputs, "add_segment", slower)
    assert plan_inputs(config)["n"] == 4
    assert [p["added"] for p in raced] == [1]
    assert [name for part in planned(config) for name in part].count("spec-x.fits") == 1


@pytest.mark.parametrize("change", ["size", "time"])
def test_an_input_that_changed_is_named_and_keeps_its_place(growing, caplog, change):
    folder, config = growing
    file = folder / "spec-d.fits"
    if change == "size":
        file.write_bytes(b"another")
    else:
        os.utime(file, (1e9, 1e9))
    with caplog.at_level(logging.WARNING):
        plan = plan_inputs(config)
    assert (plan["n"], plan["added"], plan["changed"]) == (3, 0, [str(file)])
    assert f"1 inputs changed since they were planned: {file};" in caplog.text
    assert folders.plan_url(config) in caplog.text  # what to delete to read all anew


def test_a_file_that_is_gone_keeps_its_row(growing):
    folder, config = growing
    (folder / "spec-b.fits").unlink()
    before = planned(config)
    plan = plan_inputs(config)
    assert (plan["n"], plan["added"]) == (3, 0)
    assert planned(config) == before


KNOWN = Entry("u", 10, 5.0, "abc")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (KNOWN, False),
        (KNOWN._replace(size=11), True),
        (KNOWN._replace(modified=6.0), False),  # the etag vouches for the content
        (KNOWN._replace(etag="abd"), True),
        (KNOWN._replace(modified=6.0, etag=""), True),
        (KNOWN._replace(size=-1), False),  # not known: nothing to compare
        (KNOWN._replace(modified=0.0, etag=""), False),
    ],
)
def test_what_makes_another_file(found, expected):
    assert differs(KNOWN, found) is expected


@pytest.fixture
def release(tmp_path):
    """A release catalog of six rows, and some of the files it names."""
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
    root = tmp_path / "dr7"
    (root / "20111024" / "TEST").mkdir(parents=True)
    (root / "20111024/TEST/spec-56000-TEST_sp01-003.fits.gz").write_bytes(b"seven b")
    return catalog, root


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_catalog_names_files_and_gives_their_order(release, tmp_path, kind):
    catalog, root = release
    url = f"{tmp_path}/release.{kind}"
    catalog.to_parquet(url) if kind == "parquet" else catalog.to_csv(url, index=False)
    found = listed(catalog=url, root=str(root), where="snrg > 10")
    kept = catalog[1:]
    cells = healpix_nested(kept["ra"].to_numpy(), kept["dec"].to_numpy(), 6)
    order = np.argsort(cells, kind="stable")
    wanted = [f"{root}/20111024/TEST/spec-56000-TEST_sp01-{i:03d}.fits.gz" for i in range(1, 6)]
    assert [entry.url for entry in found] == [wanted[i] for i in order]
    sizes = {Path(entry.url).name[-11:-8]: entry.size for entry in found}
    assert sizes == {"001": -1, "002": -1, "003": 7, "004": -1, "005": -1}


def test_rows_that_a_catalog_gains_become_a_segment(release, tmp_path, config_of):
    catalog, root = release
    catalog[:3].to_csv(tmp_path / "release.csv", index=False)
    config = config_of(size=2, catalog=f"{tmp_path}/release.csv", root=str(root))
    assert plan_inputs(config)["n"] == 3
    before = planned(config)
    catalog.to_csv(tmp_path / "release.csv", index=False)
    assert plan_inputs(config)["added"] == 3
    assert planned(config)[: len(before)] == before
    assert len({name for part in planned(config) for name in part}) == 6


@pytest.mark.parametrize("batch", [65_536, 3])
def test_a_row_that_is_there_twice_is_one_file(release, tmp_path, config_of, monkeypatch, batch):
    monkeypatch.setattr("scalespec.stages.release.BATCH_ROWS", batch)  # twice in one, and in two
    catalog, root = release
    once = f"{tmp_path}/once.csv"
    catalog.to_csv(once, index=False)
    twice = pd.concat([catalog, catalog[::2], catalog[4:].assign(ra=7.0, dec=8.0)])
    twice.to_csv(tmp_path / "twice.csv", index=False)
    table = {"catalog": f"{tmp_path}/twice.csv", "root": str(root)}
    assert listed(**table) == listed(**table | {"catalog": once})
    assert plan_inputs(config_of(**table))["n"] == 6


def test_a_container_that_many_rows_name_is_read_once_and_lies_where_the_first_says(
    tmp_path, config_of, monkeypatch
):
    counting(monkeypatch, catalog_path=file_column, catalog_columns=("file",))
    for name, content in (("a", b"12345"), ("b", b"123"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
    rows = {
        "file": list("aabbac"),
        "ra": [10.0, 200, 90, 10, 10, 250],
        "dec": [41.0, 5, 89, 1, 1, 2],
    }
    rows["source_id"] = [7, 8, 9, 10, 11, 12]
    pd.DataFrame(rows).to_csv(tmp_path / "targets.csv", index=False)
    asked, identify = [], release_stage.identify
    monkeypatch.setattr(
        release_stage, "identify", lambda urls: asked.extend(urls) or identify(urls)
    )
    table = {"catalog": f"{tmp_path}/targets.csv", "root": str(tmp_path), "source_id": "source_id"}
    config = config_of(size=4, **table)
    assert plan_inputs(config)["n"] == 9
    assert len(asked) == 3  # once a file, not once a target
    blocks = folders.planned_blocks(config)
    items = pd.concat([read_items(folders.plan_url(config), block) for block in blocks])
    cells = healpix_nested([10.0, 90, 250], [41.0, 89, 2], 6)
    order = [name for _, name in sorted(zip(cells, "abc", strict=True))]
    assert list(dict.fromkeys(items["file"])) == order
    # A row names one star of many, and not which; the only spectrum of a file is that star's.
    ids = items.groupby("file")["source_id"].unique()
    assert {name: list(ids[name]) for name in "abc"} == {"a": [-1], "b": [-1], "c": [12]}


def test_what_a_catalog_calls_a_star_is_said_of_all_its_visits(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    found = [Entry(str(tmp_path / "a"), 3, 0.0, "", 7)]
    for name, expected in (("apogee_visits", 7), ("lamost_mrs_exposures", 7), ("desi", -1)):
        survey = replace(SURVEYS[name], count_spectra=len)
        assert [item.entry.source_id for item in as_items(iter(found), survey)] == [expected], name


@given(st.lists(st.lists(st.sampled_from([f"n{i}" for i in range(40)]), max_size=30)))
def test_names_that_came_before_are_told_from_new_ones(batches):
    seen, before = Seen(), set()
    for batch in batches:
        expected = []
        for name in batch:
            expected.append(name not in before)
            before.add(name)
        assert seen.first(batch).tolist() == expected


SOURCES = [4295806720, 2**60 + 1, -1, 34361129088, -1, 38655544960]


@pytest.mark.parametrize("kind", ["csv", "fits", "parquet"])
@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
def test_a_catalog_says_which_star_a_file_is_of(release, tmp_path, config_of, kind, text):
    catalog, root = release
    url = f"{tmp_path}/release.{kind}"
    catalog["gaia_source_id"] = [str(i) if i > 0 else " " for i in SOURCES] if text else SOURCES
    if kind == "fits":
        Table.from_pandas(catalog).write(url)
    else:
        catalog.to_parquet(url) if kind == "parquet" else catalog.to_csv(url, index=False)
    config = config_of(size=4, catalog=url, root=str(root), source_id="gaia_source_id")
    plan_inputs(config)
    items = pd.concat(
        [read_items(folders.plan_url(config), b) for b in folders.planned_blocks(config)]
    )
    fibers = items["file"].str[-11:-8].astype(int)
    assert items["source_id"].tolist() == [SOURCES[i] for i in fibers]
    (stage,) = ingest(config)
    made = [stage.compute(None, stage.read(block))[0][""] for block in stage.blocks]
    found = np.concatenate([spectra["source_id"] for spectra in made])
    assert found.tolist() == items["source_id"].tolist()  # also of files that cannot be read


def test_ids_that_lost_digits_are_refused(release, tmp_path, config_of):
    catalog, root = release
    catalog["gaia_source_id"] = np.array(SOURCES, float)
    catalog.to_parquet(f"{tmp_path}/release.parquet")
    config = config_of(
        catalog=f"{tmp_path}/release.parquet", root=str(root), source_id="gaia_source_id"
    )
    with pytest.raises(ConfigError, match=r"'gaia_source_id' of .* is no exact id: .* 64-bit"):
        plan_inputs(config)


def test_stars_are_named_by_catalogs_only():
    with pytest.raises(ValidationError, match="source_id asks for columns of a catalog"):
        IngestTable(files="*", source_id="gaia_source_id")


def entries(n):
    return [Entry(f"f{i}", 1, 0.0) for i in range(n)]


@pytest.mark.parametrize("counts", [[1] * 9, [3, 2, 4], [9], [20, 1], [1, 7, 1, 8], [4, 4]])
def test_containers_are_cut_where_blocks_end_and_every_spectrum_is_in_one_item(counts):
    items = (Item(e, 0, n) for e, n in zip(entries(len(counts)), counts, strict=True))
    blocks = list(cut_items(items, 4))
    sizes = [sum(item.n for item in block) for block in blocks]
    assert sizes[:-1] == [4] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= 4
    covered = [
        (item.entry.url, item.first + i)
        for block in blocks
        for item in block
        for i in range(item.n)
    ]
    assert covered == [(f"f{k}", i) for k, n in enumerate(counts) for i in range(n)]


def test_a_container_that_cannot_be_counted_is_one_row(tmp_path):
    def count(content):
        if content == b"bad":
            raise SurveyFileError("no FITS", "not_fits")
        return len(content)

    found = []
    for name, content in (("a", b"four"), ("b", b"bad"), ("c", None), ("d", b"")):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        found.append(Entry(str(path), 1, 0.0))
    items = as_items(iter(found), SimpleNamespace(count_spectra=count, one_star=False))
    assert [(item.n, item.counted) for item in items] == [
        (4, True),
        *[(1, False)] * 3,  # one row, of which nothing was counted
    ]


@pytest.fixture
def stale(tmp_path, monkeypatch):
    """A container of four that a disk refuses `times` times; a function that counts it."""
    (tmp_path / "a").write_bytes(b"four")
    read, refusals = paths.read_bytes, []

    def shaky(url, times):
        if len(refusals) < times:
            refusals.append(url)
            with paths.explained(url):
                raise OSError(116, "Stale file handle")
        return read(url)

    def counted(times):
        monkeypatch.setattr(paths, "read_bytes", lambda url: shaky(url, times))
        monkeypatch.setattr(inputs, "PAUSE_S", 0.0)
        found = iter([Entry(str(tmp_path / "a"), 4, 0.0)])
        return [
            item.n for item in as_items(found, SimpleNamespace(count_spectra=len, one_star=False))
        ]

    return counted


def test_a_container_that_cannot_be_read_for_a_moment_is_counted_by_another_try(stale):
    assert stale(inputs.TRIES - 1) == [4]


def test_a_container_that_cannot_be_read_ends_planning_and_is_named(stale, tmp_path):
    wanted = f"^{tmp_path}/a: .*Stale file handle; .*: run again when it can be read$"
    with pytest.raises(StoreError, match=wanted):
        stale(inputs.TRIES)


@pytest.mark.parametrize(
    ("files", "root"),
    [
        ("/a/b/*.fits", "/a/b"),
        (("/a/b/*.fits", "/a/c/**/x"), "/a"),
        (("s3://k/a/*.fits?region=x", "s3://k/b/*"), "s3://k"),
        (("s3://k/a/*.fits", "s3://l/b/*"), ""),
        (("s3://k/a/*.fits", "/a/*"), ""),
    ],
)
def test_files_are_called_by_their_path_below_what_all_entries_share(config_of, files, root):
    assert common_root(config_of(files=files)) == root
    assert below("s3://k/a/1.fits?region=x", root) in ("a/1.fits", "s3://k/a/1.fits")


def test_a_block_that_is_not_planned_is_refused(growing):
    _, config = growing
    with pytest.raises(StoreError, match="no inputs are planned for block 7"):
        find_part(folders.plan_url(config), Block("spectrum", 7, 14, 16))


def test_a_damaged_record_of_a_segment_is_named(growing):
    _, config = growing
    url = paths.join(folders.plan_url(config), "segments", "000000.json")
    paths.write_bytes(url, b'{"start": 0, "files": []}')
    with pytest.raises(StoreError, match=r"000000\.json: no segment of a plan"):
        plan_inputs(config)


def test_planning_streams(config_of, monkeypatch, tmp_path):
    """Inputs are drawn as blocks are written, never all at first."""
    drawn, written = [], []

    def endless(table, survey):
        for entry in entries(100):
            drawn.append(entry)
            yield entry

    write = paths.write_bytes

    def counted(url, data, **options):
        written.append(len(drawn))
        return write(url, data, **options)

    monkeypatch.setattr(inputs, "list_inputs", endless)
    monkeypatch.setattr(paths, "write_bytes", counted)
    plan_inputs(config_of(size=10, files=f"{tmp_path}/*"))
    assert written[:10] == list(range(10, 101, 10))
    assert len(written) == 11  # ten parts and their record


def test_fits_files_of_other_names_in_a_folder_are_said(tmp_path, caplog):
    names = ["spec-1.fits.gz", "deep/spec-2.fits", "a.fits", "b.fits.gz", "c.fits", "deep/d.fits"]
    (tmp_path / "deep").mkdir()
    for name in [*names, "notes.txt"]:
        (tmp_path / name).write_bytes(b"x")
    table = IngestTable(files=str(tmp_path))
    found = [Path(entry.url).name for entry in list_inputs(table, SURVEYS["lamost_lrs"])]
    assert found == ["spec-2.fits", "spec-1.fits.gz"]
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}: 4 FITS files are left out, as a.fits, b.fits.gz, c.fits: ")
    assert "only spec-*.fits* are taken" in said
    caplog.clear()
    whole = IngestTable(files=f"{tmp_path}/**/spec-*.fits*")
    assert len(list(list_inputs(whole, SURVEYS["lamost_lrs"]))) == 2
    assert caplog.messages == []
