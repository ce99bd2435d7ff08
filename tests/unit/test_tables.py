"""Catalogs written by astropy, pyarrow and by hand, read back as the same columns."""

import gzip
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

from scalespec.errors import StoreError
from scalespec.store import tables
from scalespec.store.tables import read_table, write_table

GAIA = [4_295_806_720_123_456_789, 4_295_806_720_123_456_790, 12]


@pytest.fixture
def labels():
    """Three stars, as a label catalog has them."""
    return {
        "APOGEE_ID": np.array(["2M0001", "", "2M00033"]),
        "source_id": np.array(GAIA),
        "TEFF": np.array([4500.5, np.nan, -9999.99], dtype=np.float32),
        "ra": np.array([0.1, 359.9, 180.0]),
        "flag": np.array([1, -2, 1 << 23], dtype=np.int32),
        "good": np.array([True, False, True]),
        "FPARAM": np.arange(6, dtype=np.float32).reshape(3, 2),
    }


def put(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    return str(path)


def as_parquet(columns):
    table = pa.table({
        name: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1])
        if v.ndim == 2
        else pa.array(v)
        for name, v in columns.items()
    })  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def as_fits(columns):
    sink = io.BytesIO()
    Table(columns).write(sink, format="fits")
    return sink.getvalue()


def as_csv(columns, delimiter=","):
    names = [name for name, v in columns.items() if v.ndim == 1]
    rows = zip(*(columns[name].tolist() for name in names), strict=True)
    lines = [delimiter.join(names), *(delimiter.join(map(str, row)) for row in rows)]
    return "\n".join(lines).encode() + b"\n"


def assert_equal(got, expected):
    assert list(got) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
        assert got[name].dtype.isnative


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("form", [as_parquet, as_fits])
def test_binary_tables_come_back_as_they_were(tmp_path, labels, form, zipped):
    data = form(labels)
    url = put(tmp_path, "any name", gzip.compress(data) if zipped else data)
    got = read_table(url)
    assert_equal(got, labels)
    assert {n: v.dtype for n, v in got.items()} == {n: v.dtype for n, v in labels.items()}


@pytest.mark.parametrize("delimiter", [",", "|", "\t", ";"])  # LAMOST's release catalogs use |
def test_csv_comes_back_as_it_was(tmp_path, labels, delimiter):
    del labels["FPARAM"]
    data = as_csv(labels, delimiter)
    for url in (put(tmp_path, "a.csv", data), put(tmp_path, "a.csv.gz", gzip.compress(data))):
        got = read_table(url)
        labels["TEFF"] = np.array([4500.5, np.nan, float(np.float32(-9999.99))])  # now float64
        assert_equal(got, labels)


@pytest.mark.parametrize("form", [as_parquet, as_fits, as_csv])
def test_only_the_columns_asked_for_are_read_in_that_order(tmp_path, labels, form):
    got = read_table(put(tmp_path, "t", form(labels)), ["flag", "APOGEE_ID"])
    assert list(got) == ["flag", "APOGEE_ID"]
    np.testing.assert_array_equal(got["flag"], labels["flag"])


@pytest.mark.parametrize("form", [as_parquet, as_fits, as_csv])
def test_a_missing_column_is_said_with_the_closest(tmp_path, labels, form):
    url = put(tmp_path, "t", form(labels))
    with pytest.raises(StoreError, match=r"t: no column 'teff' among [67]; did you mean TEFF"):
        read_table(url, ["ra", "teff"])


@pytest.mark.parametrize("form", [as_parquet, as_fits, as_csv])
def test_a_table_without_rows_is_read(tmp_path, labels, form):
    empty = {name: values[:0] for name, values in labels.items()}
    got = read_table(put(tmp_path, "t", form(empty)))
    assert {len(values) for values in got.values()} == {0}


def test_missing_integers_become_nan_or_no_id(tmp_path):
    table = pa.table({
        "n": pa.array([1, None, 3], pa.int16()),
        "source_id": pa.array([GAIA[0], None, GAIA[1]]),
        "all": pa.array([None, None, None], pa.int64()),
        "null": pa.nulls(3),
        "x": pa.array([None, 2.5, 3], pa.float32()),
        "good": pa.array([True, None, False]),
        "name": pa.array([" a ", None, "b"]).dictionary_encode(),
    })  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(table, sink)
    got = read_table(put(tmp_path, "t.parquet", sink.getvalue()))
    np.testing.assert_array_equal(got["n"], [1, np.nan, 3])
    assert got["source_id"].tolist() == [GAIA[0], -1, GAIA[1]]
    assert np.isnan(got["all"]).all()
    assert np.isnan(got["null"]).all()
    np.testing.assert_array_equal(got["x"], np.array([np.nan, 2.5, 3], np.float32))
    assert got["good"].tolist() == [True, False, False]
    assert got["name"].tolist() == ["a", "", "b"]


def test_other_arrow_types(tmp_path):
    table = pa.table({
        "date": pa.array(["2011-10-24", None]).cast(pa.date32()),
        "ragged": pa.array([[1.0], [1.0, 2.0]]),
        "even": pa.array([[1.0, 2.0], None], pa.list_(pa.float64())),
        "words": pa.array([["a"], None], pa.list_(pa.string())),
        "blob": pa.array([b"1", b"2"]),
        "price": pa.array([1, None], pa.int64()).cast(pa.decimal128(25, 2)),
        "star": pa.array([2**62 + 1, None], pa.int64()).cast(pa.decimal128(19, 0)),
        "hash": pa.array([10**30, None], pa.decimal128(38, 0)),
    })  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(table, sink)
    url = put(tmp_path, "t.parquet", sink.getvalue())
    got = read_table(url)
    assert list(got) == [
        "date",
        "even",
        "price",
        "star",
        "hash",
    ]  # what no label comes in is left out
    assert got["date"].tolist() == ["2011-10-24", ""]
    np.testing.assert_array_equal(got["even"], [[1, 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(got["price"], [1, np.nan])
    assert got["star"].tolist() == [2**62 + 1, -1]  # a database's bigint or numeric
    np.testing.assert_array_equal(got["hash"], [1e30, np.nan])
    with pytest.raises(StoreError, match="columns of this type: ragged, blob"):
        read_table(url, ["ragged", "date", "blob"])


def test_fits_nulls_unsigned_scaled_and_odd_columns(tmp_path):
    columns = [
        fits.Column("n", "J", array=[1, -99, 3], null=-99),
        fits.Column("mask", "J", array=np.array([1, 2, 2**32 - 1], np.uint32), bzero=2**31),
        fits.Column("scaled", "I", array=[1, 2, 3]),
        fits.Column("name", "8A", array=["a  ", " b", ""]),
        fits.Column("cov", "4E", dim="(2,2)", array=np.arange(12).reshape(3, 2, 2)),
        fits.Column("ragged", "PE()", array=np.array([[1.0], [2.0], [3.0, 4]], dtype=object)),
        fits.Column("z", "C", array=[1j, 2, 3]),
    ]
    hdus = fits.HDUList([
        fits.PrimaryHDU(np.zeros((2, 2))), fits.ImageHDU(np.zeros(3)),
        fits.BinTableHDU.from_columns(columns), fits.BinTableHDU.from_columns(columns[:1]),
    ])  # fmt: skip
    sink = io.BytesIO()
    hdus.writeto(sink)
    url = put(tmp_path, "t.fits", sink.getvalue())
    fits.setval(url, "TSCAL3", value=0.5, ext=2)
    got = read_table(url)
    assert list(got) == ["n", "mask", "scaled", "name", "cov"]
    np.testing.assert_array_equal(got["n"], [1, np.nan, 3])
    assert got["mask"].tolist() == [1, 2, 2**32 - 1]
    np.testing.assert_array_equal(got["scaled"], [0.5, 1.0, 1.5])
    assert got["name"].tolist() == ["a", "b", ""]
    np.testing.assert_array_equal(got["cov"], np.arange(12).reshape(3, 4))


def test_ascii_fits_tables_are_read(tmp_path):
    columns = [fits.Column("TEFF", "F10.3", ascii=True, array=[5000.125, 4000.5])]
    sink = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.TableHDU.from_columns(columns)]).writeto(sink)
    assert read_table(put(tmp_path, "t", sink.getvalue()))["TEFF"].tolist() == [5000.125, 4000.5]


def test_a_csv_type_is_decided_by_all_rows(tmp_path):
    rows = ["1"] * 600_000 + ["2.5"]  # Arrow alone decides by the first megabyte
    got = read_table(put(tmp_path, "t.csv", ("x\n" + "\n".join(rows)).encode()))
    assert got["x"].dtype == np.float64
    assert got["x"][-1] == 2.5


@pytest.mark.parametrize("header", ["#id,teff", "# id, teff", "\ufeffid,teff"])
def test_commented_headers_and_byte_order_marks(tmp_path, header):
    got = read_table(put(tmp_path, "t.csv", f'{header}\n"a, b",5000\nc,\n'.encode()))
    assert got["id"].tolist() == ["a, b", "c"]
    np.testing.assert_array_equal(got["teff"], [5000, np.nan])


def halved(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda t: halved(as_parquet(t)), "Parquet"),
        (lambda t: as_fits(t)[:-2880], "."),
        (lambda t: as_fits(t)[:2880], "no table among its 1 HDUs"),
        (lambda t: halved(gzip.compress(as_fits(t))), "end-of-stream"),
        (lambda t: gzip.compress(as_fits(t))[:40] + b"\xff" * 400, "broken gzip stream"),
        (lambda t: b"a,b\n1,2\n3\n", "Expected 2 columns, got 1"),
        (lambda t: b"a,a\n1,2\n", "columns a are there twice"),
        (lambda t: b"", "Empty"),
        (lambda t: b"<?xml version='1.0'?>\n<VOTABLE>", "no element found"),
        (lambda t: b"\xfd7zXZ\0\0\0\n", "no Parquet, CSV or FITS table"),
    ],
)
def test_a_damaged_file_is_said_with_its_path(tmp_path, labels, data, message):
    url = put(tmp_path, "labels.dat", data(labels))
    with pytest.raises(StoreError, match=f"labels.dat: .*{message}"):
        read_table(url)


def test_no_file_is_said_with_its_path(tmp_path):
    with pytest.raises(StoreError, match=r"nothing\.csv: not found"):
        read_table(str(tmp_path / "nothing.csv"))
    with pytest.raises(StoreError, match="directory"):
        read_table(str(tmp_path))


def test_remote_tables_go_through_the_store(tmp_path, labels, monkeypatch):
    data = {"s3://b/t.fits": as_fits(labels), "s3://b/t.parquet": as_parquet(labels)}
    monkeypatch.setattr(tables.paths, "read_bytes", data.__getitem__)
    for url in data:
        assert_equal(read_table(url), labels)


@pytest.mark.parametrize("ending", ["parquet", "fits"])
def test_write_table_round_trip_is_exact_and_deterministic(tmp_path, labels, ending):
    urls = [str(tmp_path / f"{name}.{ending}") for name in "ab"]
    hashes = {write_table(url, labels, units={"TEFF": "K"}) for url in urls}
    assert len(hashes) == 1
    assert hashes == {tables.paths.sha256((tmp_path / f"a.{ending}").read_bytes())}
    assert_equal(read_table(urls[0]), labels)


def test_written_fits_is_clean_and_says_what_columns_are(tmp_path, labels):
    path = tmp_path / "t.fits"
    write_table(
        str(path), labels, units={"TEFF": "K"}, descriptions={"TEFF": "effective temperature"}
    )
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert hdus[1].columns["TEFF"].unit == "K"
        assert "effective temperature" in hdus[1].header.values()


def test_written_parquet_says_what_columns_are(tmp_path, labels):
    path = tmp_path / "t.parquet"
    write_table(str(path), labels, descriptions={"TEFF": "effective temperature"})
    metadata = pq.read_schema(path).field("TEFF").metadata
    assert metadata == {b"unit": b"", b"description": b"effective temperature"}


def test_letters_that_ascii_spells_longer_are_not_cut(tmp_path):
    url = str(tmp_path / "t.fits")
    write_table(url, {"name": ["σ Ori", "6707.8 Å", "χ² é", ""]})
    assert fits.getdata(url)["name"].tolist() == ["sigma Ori", "6707.8 Angstrom", "chi2 ?", ""]


def test_write_table_refuses_other_endings(tmp_path):
    with pytest.raises(StoreError, match=r"written as \.parquet or \.fits"):
        write_table(str(tmp_path / "t.csv"), {"a": [1]})
