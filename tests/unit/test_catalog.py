"""Parts by commits, one catalog in Parquet and FITS, the same bytes each time."""

import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.units import UnitsWarning
from obstore.store import MemoryStore

from scalespec.errors import StoreError
from scalespec.plan import plan_blocks
from scalespec.store import formats, paths
from scalespec.store.catalog import (
    open_catalog,
    read_part,
    read_parts,
    read_row_range,
    verify_catalog,
    write_catalog,
    write_part,
)
from scalespec.store.ledger import Ledger, set_current

N = 10
BLOCKS = plan_blocks(N, 4)
LIST = pa.list_(pa.field("element", pa.float32()), 3)  # Parquet's own name of the inner field
NAMES = ("catalog.parquet", "catalog.fits", "manifest.json")
NOTES = {"fit_status": {"1 MAX_STEPS": "out of steps while χ² still fell"}}


def table_of(block):
    """Every kind of column a catalog has, with something missing in each."""
    rows = np.arange(block.start, block.stop)
    teff = np.where(rows % 3 == 0, np.nan, 5000.0 + rows).astype(np.float32)
    cells = np.stack([rows, rows + 0.5, rows + 0.25], axis=1).astype(np.float32)
    columns = {
        "row": pa.array(rows),
        "obsid": pa.array(rows + 2**55),  # float64 could not hold these
        "teff": pa.array(teff, from_pandas=True),
        "ra": pa.array(rows / 7.0),
        "label_cov": pa.FixedSizeListArray.from_arrays(
            cells.ravel(), type=LIST, mask=pa.array(rows % 3 == 0)
        ),
        "name": pa.array([f"star-{'x' * int(r)}" if r else "" for r in rows]),
        "fit_status": pa.array((rows * 2**28).astype(np.uint32)),
        "at_bound": pa.array(np.uint64(2**63) + rows.astype(np.uint64)),
        "apogee_split": pa.array(np.where(rows % 2, -1, 2).astype(np.int16)),
    }
    facts = {"teff": ("K", "effective temperature"), "ra": ("deg", "right ascension, ICRS")}
    facts["obsid"] = ("", "a description that is much too long to fit into one FITS card at all")
    fields = []
    for name, values in columns.items():
        unit, text = facts.get(name, ("", name))
        metadata = {"unit": unit, "description": text}
        fields.append(pa.field(name, values.type, metadata=metadata))
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def fill(url, blocks=BLOCKS):
    for block in blocks:
        write_part(url, block, table_of(block), counts={"OK": block.size})
    return url


@pytest.fixture
def folder(tmp_path):
    return fill(str(tmp_path / "catalog" / "0123456789abcdef"))


@pytest.fixture
def whole(folder):
    write_catalog(folder, blocks=BLOCKS, notes=NOTES)
    return folder


def test_parts_are_read_in_block_order_whatever_order_they_were_written_in(tmp_path):
    url = fill(str(tmp_path / "best"), BLOCKS[::-1])
    assert read_parts(url)["row"].to_pylist() == list(range(N))


def test_a_part_no_commit_names_is_not_read(folder):
    stray = table_of(BLOCKS[0])
    pq.write_table(stray, f"{folder}/parts/000000-deadbeef.parquet")
    assert read_parts(folder, ["row"])["row"].to_pylist() == list(range(N))


def test_only_the_columns_asked_for_are_read(folder):
    assert read_parts(folder, ["teff", "row"]).column_names == ["teff", "row"]


def test_writing_a_committed_block_again_keeps_the_first(folder):
    before = Ledger(folder).committed(BLOCKS[0])
    assert write_part(folder, BLOCKS[0], table_of(BLOCKS[0]), counts={}) == before
    assert len(paths.list_keys(paths.join(folder, "parts"))) == len(BLOCKS)


def test_a_part_round_trip_is_exact(folder):
    assert read_part(folder, BLOCKS[1]).equals(table_of(BLOCKS[1]), check_metadata=True)


def test_reading_an_uncommitted_block_says_so(folder):
    with pytest.raises(StoreError, match="block 7 is not committed"):
        read_part(folder, plan_blocks(100, 10)[7])


def test_reading_a_stage_without_commits_says_so(tmp_path):
    with pytest.raises(StoreError, match="no block is committed"):
        read_parts(str(tmp_path))


def test_a_damaged_part_is_named(folder):
    key = next(iter(Ledger(folder).committed(BLOCKS[1]).objects))
    paths.write_bytes(paths.join(folder, key), b"not parquet")
    with pytest.raises(StoreError, match=f"{key}: not the Parquet"):
        read_parts(folder)


def test_parts_of_other_columns_are_refused(tmp_path):
    url = str(tmp_path)
    write_part(url, BLOCKS[0], pa.table({"row": [0]}), counts={})
    write_part(url, BLOCKS[1], pa.table({"row": [0.5]}), counts={})
    with pytest.raises(StoreError, match="block 1 has other columns"):
        read_parts(url)


def test_rows_of_a_block_are_found_in_a_sorted_table(tmp_path):
    url = str(tmp_path / "matches.parquet")
    rows = np.array([1, 3, 4, 5, 9])
    pq.write_table(pa.table({"row": rows, "teff": rows * 1000.0}), url, row_group_size=2)
    assert read_row_range(url, BLOCKS[1]).to_pydict() == {"row": [4, 5], "teff": [4000.0, 5000.0]}


def test_rows_of_a_missing_table_say_so(tmp_path):
    with pytest.raises(StoreError, match=r"matches\.parquet: not found"):
        read_row_range(str(tmp_path / "matches.parquet"), BLOCKS[0])


def test_the_parquet_catalog_holds_every_row_once(whole):
    wanted = pa.concat_tables([table_of(block) for block in BLOCKS])
    assert pq.read_table(f"{whole}/catalog.parquet").equals(wanted, check_metadata=True)


def test_the_catalog_is_the_same_bytes_for_any_attempts_and_order(tmp_path):
    made = []
    for order in (BLOCKS, BLOCKS[::-1]):
        url = str(tmp_path / f"run{order[0].index}" / "0123456789abcdef")
        write_catalog(fill(url, order), blocks=BLOCKS, notes=NOTES)
        made.append([paths.read_bytes(paths.join(url, name)) for name in NAMES])
    assert made[0] == made[1]


def test_a_row_group_holds_whole_blocks(folder, monkeypatch):
    monkeypatch.setattr(formats, "ROW_GROUP_ROWS", 5)
    write_catalog(folder, blocks=BLOCKS)
    found = pq.ParquetFile(f"{folder}/catalog.parquet").metadata
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [8, 2]


def test_the_manifest_names_rows_columns_and_checksums(whole):
    manifest = json.loads(paths.read_bytes(paths.join(whole, "manifest.json")))
    assert (manifest["rows"], manifest["missing_blocks"]) == (N, [])
    assert manifest["columns"][2] == {
        "name": "teff", "type": "float", "unit": "K", "ucd": "",
        "description": "effective temperature",
    }  # fmt: skip
    assert manifest["objects"]["catalog.parquet"] == paths.sha256(
        paths.read_bytes(paths.join(whole, "catalog.parquet"))
    )
    assert manifest["notes"] == NOTES


def test_a_chosen_set_of_columns_is_published_in_its_order(folder):
    write_catalog(folder, blocks=BLOCKS, columns=["teff", "obsid"])
    assert open_catalog(folder).schema.names == ["teff", "obsid"]
    with fits.open(f"{folder}/catalog.fits") as file:
        assert file[1].columns.names == ["teff", "obsid"]


def test_a_standing_catalog_is_left_alone(whole):
    paths.write_bytes(paths.join(whole, "catalog.parquet"), b"mark")
    write_catalog(whole, blocks=BLOCKS, notes=NOTES)
    assert paths.read_bytes(paths.join(whole, "catalog.parquet")) == b"mark"


def test_missing_blocks_are_named_and_filled_in_later(tmp_path):
    url = fill(str(tmp_path / "0123456789abcdef"), BLOCKS[::2])
    manifest = write_catalog(url, blocks=BLOCKS, notes=NOTES)
    assert (manifest["missing_blocks"], manifest["rows"]) == ([1], 6)
    fill(url)
    manifest = write_catalog(url, blocks=BLOCKS, notes=NOTES)
    assert (manifest["missing_blocks"], manifest["rows"]) == ([], N)
    assert verify_catalog(url) == []


def test_a_catalog_in_an_object_store_is_the_same_bytes(whole, monkeypatch):
    bucket = MemoryStore()
    monkeypatch.setattr(paths, "open_store", lambda url: {"s3://bucket": bucket}[url])
    remote = "s3://bucket/catalog/0123456789abcdef"
    write_catalog(fill(remote), blocks=BLOCKS, notes=NOTES)
    found = {name: paths.read_bytes(paths.join(remote, name)) for name in NAMES}
    dataset = open_catalog(remote)
    assert dataset.to_table(columns=["row"])["row"].to_pylist() == list(range(N))
    assert dataset.count_rows() == N  # a second scan reads the same object again
    assert verify_catalog(remote) == []
    monkeypatch.undo()
    assert found == {name: paths.read_bytes(paths.join(whole, name)) for name in NAMES}


def test_a_catalog_without_manifest_is_not_there(whole):
    paths.delete(paths.join(whole, "manifest.json"))
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        open_catalog(whole)


def test_a_catalog_opens_lazily_from_its_folder_or_its_workspace(whole, tmp_path):
    set_current(str(tmp_path), "catalog", "0123456789abcdef")
    for url in (whole, str(tmp_path)):
        wanted = pads.field("teff") > 5006
        found = open_catalog(url).to_table(columns=["obsid"], filter=wanted)
        assert found["obsid"].to_pylist() == [2**55 + 7, 2**55 + 8]


def test_a_workspace_whose_catalog_is_unfinished_says_so(tmp_path):
    set_current(str(tmp_path), "catalog", "0123456789abcdef")
    with pytest.raises(StoreError, match="not complete yet"):
        open_catalog(str(tmp_path))


def test_verify_finds_a_changed_and_a_missing_object(whole):
    assert verify_catalog(whole) == []
    data = bytearray(paths.read_bytes(paths.join(whole, "catalog.fits")))
    data[-5000] ^= 1
    paths.write_bytes(paths.join(whole, "catalog.fits"), bytes(data))
    paths.delete(paths.join(whole, "catalog.parquet"))
    problems = verify_catalog(whole)
    assert len(problems) == 2
    assert "sha256" in problems[0]
    assert "not found" in problems[1]


def test_an_object_that_fails_half_way_does_not_appear(folder, monkeypatch):
    def broken(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("scalespec.store.fits_table.row_bytes", broken)
    with pytest.raises(StoreError, match=r"catalog\.fits: No space left.*free some space"):
        write_catalog(folder, blocks=BLOCKS)
    assert not paths.exists(paths.join(folder, "catalog.fits"))
    assert not paths.exists(paths.join(folder, "manifest.json"))


def read_fits(url):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Archives write "dex", as we do; the FITS standard's list of units does not have it.
        warnings.simplefilter("ignore", UnitsWarning)
        return Table.read(url, hdu=1)


def test_the_fits_table_equals_the_parquet_one(whole):
    found = read_fits(f"{whole}/catalog.fits")
    wanted = pa.concat_tables([table_of(block) for block in BLOCKS])
    for name in ("row", "obsid", "ra", "fit_status", "at_bound"):
        assert found[name].tolist() == wanted[name].to_pylist(), name
    np.testing.assert_array_equal(
        np.ma.filled(found["teff"], np.nan), wanted["teff"].to_numpy().astype(np.float32)
    )
    assert np.ma.filled(found["name"], "").tolist() == wanted["name"].to_pylist()
    assert np.ma.filled(found["apogee_split"], -1).tolist() == wanted["apogee_split"].to_pylist()


def test_a_missing_list_is_a_row_of_nan_in_fits(whole):
    with fits.open(f"{whole}/catalog.fits") as file:
        cells = file[1].data["label_cov"]
    assert np.isnan(cells[0]).all()
    assert cells[1].tolist() == [1.0, 1.5, 1.25]


def test_the_fits_file_keeps_the_standard(whole):
    assert len(paths.read_bytes(paths.join(whole, "catalog.fits"))) % 2880 == 0
    with fits.open(f"{whole}/catalog.fits") as file:
        file.verify("exception")
        header = file[1].header
    assert (header["TUNIT3"], header.comments["TTYPE3"]) == ("K", "effective temperature")
    assert header.comments["TTYPE2"].endswith(" ..")
    assert header["TCOMM2"].endswith("at all")
    assert "fit_status 1 MAX_STEPS: out of steps while chi2 still fell" in str(header["COMMENT"])


def test_text_that_is_not_ascii_is_marked_in_fits(tmp_path):
    url = str(tmp_path)
    block = plan_blocks(1, 1)[0]
    write_part(url, block, pa.table({"name": ["Åland"]}), counts={})
    write_catalog(url, blocks=[block])
    with fits.open(f"{url}/catalog.fits") as file:
        assert file[1].data["name"][0] == "Angstromland"  # as units spell the letter, all of it
    assert open_catalog(url).to_table()["name"].to_pylist() == ["Åland"]


def test_a_catalog_without_one_known_label_is_whole(tmp_path):
    url = str(tmp_path)
    block = plan_blocks(3, 3)[0]
    nothing = pa.FixedSizeListArray.from_arrays(
        np.zeros(9, np.float32), type=LIST, mask=pa.array([True] * 3)
    )
    part = pa.table({"teff": pa.nulls(3, pa.float32()), "cov": nothing, "s": pa.array([""] * 3)})
    write_part(url, block, part, counts={})
    write_catalog(url, blocks=[block])
    assert verify_catalog(url) == []
    with fits.open(f"{url}/catalog.fits") as file:
        assert np.isnan(file[1].data["teff"]).all()
        assert np.isnan(file[1].data["cov"]).all()
