"""Label catalogs piece by piece: the same rows as at once, in every format, in flat memory."""

import gzip
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import from_table
from astropy.table import MaskedColumn, Table

from scalespec.errors import StoreError
from scalespec.store import batches
from scalespec.store.batches import (
    Piece,
    iterate_piece,
    list_pieces,
    read_sorted_range,
    table_files,
)
from scalespec.store.tables import read_table, write_table

N = 1000
COLUMNS = {
    "id": 2**60 + np.arange(N),
    "ra": np.linspace(0, 359, N),
    "name": np.array([f"2M{i:04d}" for i in range(N)]),
    "t": np.arange(N, dtype=np.float32),
}


def as_parquet(folder):
    table = pa.table({name: pa.array(values) for name, values in COLUMNS.items()})
    pq.write_table(table, folder / "a.parquet", row_group_size=130)
    return folder / "a.parquet"


def as_fits(folder):
    write_table(str(folder / "a.fits"), COLUMNS)
    return folder / "a.fits"


def csv_text():
    lines = ["#id, ra,name,t"]
    lines += [",".join(map(str, row)) for row in zip(*COLUMNS.values(), strict=True)]
    return "\n".join(lines).encode()


def as_csv(folder):
    (folder / "a.csv").write_bytes(csv_text())
    return folder / "a.csv"


def as_csv_gz(folder):
    (folder / "a.csv.gz").write_bytes(gzip.compress(csv_text()))
    return folder / "a.csv.gz"


def as_fits_gz(folder):
    path = as_fits(folder)
    (folder / "a.fits.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder / "a.fits.gz"


def as_votable(folder):
    from_table(Table(COLUMNS)).to_xml(str(folder / "a.vot"))
    return folder / "a.vot"


def as_folder(folder):
    table = pa.table({name: pa.array(values) for name, values in COLUMNS.items()})
    (folder / "many" / "deep").mkdir(parents=True)
    pq.write_table(table[:400], folder / "many" / "a.parquet")
    pq.write_table(table[400:], folder / "many" / "deep" / "b.parquet")
    pq.write_table(table[:5], folder / "many" / "_metadata.parquet")  # of the others, no rows
    return folder / "many"


def as_hats(folder):
    """The layout of the HATS standard: leaf files by order and pixel, metadata beside them."""
    table = pa.table({name: pa.array(values) for name, values in COLUMNS.items()})
    root = folder / "hats" / "gaia"
    leaves = root / "dataset" / "Norder=0" / "Dir=0"
    leaves.mkdir(parents=True)
    (folder / "hats" / "collection.properties").write_text(
        "#HATS Collection\nobs_collection=gaia\nhats_primary_table_url=gaia\n"
    )
    (root / "hats.properties").write_text("#HATS catalog\nhats_col_ra=ra\n")
    pq.write_table(table[:0], root / "dataset" / "_common_metadata")
    pq.write_table(table[:7], root / "dataset" / "data_thumbnail.parquet")
    for pixel, part in enumerate((table[:300], table[300:])):
        pq.write_table(part, leaves / f"Npix={pixel}.parquet")
    return folder / "hats"


FORMATS = (
    as_parquet, as_fits, as_csv, as_csv_gz, as_fits_gz, as_votable, as_folder, as_hats
)  # fmt: skip


@pytest.mark.parametrize("write", FORMATS)
def test_pieces_hold_every_row_once_in_the_catalogs_order(write, tmp_path):
    url = str(write(tmp_path))
    wanted = ["name", "id", "ra", "t"]
    found, first = {name: [] for name in wanted}, 0
    for piece in list_pieces(url, 170):
        assert piece.first == first
        for part in iterate_piece(piece, wanted, 170):
            assert list(part) == wanted
            first += len(part["id"])
            for name in wanted:
                found[name].append(part[name])
    for name in wanted:
        np.testing.assert_array_equal(np.concatenate(found[name]), COLUMNS[name])
    assert np.concatenate(found["id"]).dtype == np.int64


@pytest.mark.parametrize("write", [as_parquet, as_fits, as_folder, as_hats])
def test_formats_that_are_read_at_any_place_make_many_pieces(write, tmp_path):
    pieces = list_pieces(str(write(tmp_path)), 170)
    assert len(pieces) > 4
    assert max(piece.stop - piece.start for piece in pieces) <= 170


@pytest.mark.parametrize("write", FORMATS)
def test_a_column_that_is_not_there_is_said_with_the_closest(write, tmp_path):
    (piece, *_) = list_pieces(str(write(tmp_path)), 10_000)
    with pytest.raises(StoreError, match=r"no column 'nam' among .*did you mean name"):
        list(iterate_piece(piece, ["nam"], 100))


def test_a_csv_column_is_of_one_type_in_all_its_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "CSV_BLOCK_BYTES", 1 << 12)
    rows = [f"{i},{'' if i == 3 else i},{i / 2 if i == 900 else i},{'x' if i > 990 else i}"
            for i in range(1000)]  # fmt: skip
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["whole,missing,broken,text", *rows]))
    names = ["missing", "broken", "whole", "text"]
    parts = list(iterate_piece(list_pieces(str(path), 10)[0], names, 10))
    assert len(parts) > 2
    whole = read_table(str(path), names)
    for name, kind in zip(names, "ffiU", strict=True):
        column = np.concatenate([part[name] for part in parts])
        assert column.dtype.kind == kind
        np.testing.assert_array_equal(column, whole[name])
    assert {part["text"].dtype.kind for part in parts} == {"U"}


def test_missing_values_of_a_votable_are_missing(tmp_path):
    table = Table()
    table["i"] = MaskedColumn([1, 2, 3], mask=[False, True, False])
    table["big"] = MaskedColumn([2**60, 2**60 + 1, 5], mask=[False, False, True])
    table["f"] = MaskedColumn([1.5, 2.5, 3.5], mask=[True, False, False])
    table["s"] = ["a", " b", ""]
    from_table(table).to_xml(str(tmp_path / "a.vot"), tabledata_format="binary2")
    found = read_table(str(tmp_path / "a.vot"))
    np.testing.assert_array_equal(found["i"], [1, np.nan, 3])
    assert found["big"].tolist() == [2**60, 2**60 + 1, -1]
    np.testing.assert_array_equal(found["f"], [np.nan, 2.5, 3.5])
    assert found["s"].tolist() == ["a", "b", ""]


def test_a_catalog_without_rows_is_one_empty_piece(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"ra": pa.array([], pa.float64())}), path)
    (piece,) = list_pieces(str(path), 10)
    assert piece == Piece(str(path), 0, 0, 0)
    (part,) = iterate_piece(piece, ["ra"], 10)
    assert part["ra"].shape == (0,)


def test_a_folder_without_parquet_is_no_catalog(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(StoreError, match="no Parquet file in this folder"):
        table_files(str(tmp_path))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(StoreError, match=r"none\.parquet: not found"):
        list_pieces(str(tmp_path / "none.parquet"), 10)


@pytest.mark.parametrize("write", [as_parquet, as_fits])
def test_a_damaged_file_is_said_with_its_path(write, tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(StoreError, match=path.name):
        [list(iterate_piece(piece, ["t"], 10)) for piece in list_pieces(str(path), 10)]


def test_a_range_of_a_sorted_file_is_its_rows(tmp_path):
    cell = np.sort(np.random.default_rng(0).integers(0, 50, N))
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"cell": cell, "i": np.arange(N)}), path, row_group_size=100)
    for start, stop in ((0, 50), (7, 19), (49, 60), (60, 70), (5, 5)):
        found = read_sorted_range(path, "cell", start, stop)
        expected = np.flatnonzero((cell >= start) & (cell < stop))
        np.testing.assert_array_equal(found["i"], expected)


@pytest.mark.parametrize("suffix", ["parquet", "csv.gz"])
def test_memory_does_not_grow_with_the_catalog(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(batches, "CSV_BLOCK_BYTES", 1 << 16)
    peaks = []
    for n in (40_000, 400_000):
        path = tmp_path / f"a{n}.{suffix}"
        if suffix == "parquet":
            table = pa.table({"x": np.arange(n) * 1.0, "y": np.zeros(n)})
            pq.write_table(table, path, row_group_size=1000)
        else:
            path.write_bytes(gzip.compress(b"x,y\n" + b"1.25,3\n" * n, 1))
        before = pa.default_memory_pool().bytes_allocated()
        most = 0
        tracemalloc.start()
        for piece in list_pieces(str(path), 20_000):
            for _ in iterate_piece(piece, ["x"], 20_000):
                most = max(most, pa.default_memory_pool().bytes_allocated() - before)
        peaks.append(tracemalloc.get_traced_memory()[1] + most)
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]  # ten times the rows; the list of pieces and a footer grow
