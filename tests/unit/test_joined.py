"""Parts become one Parquet file, in order, with what their columns mean."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalespec.errors import StoreError
from scalespec.store import formats
from scalespec.store.joined import join_parquet
from scalespec.store.tables import read_table, write_table


@pytest.fixture
def parts(tmp_path):
    """Five parts, one of them empty."""
    urls = []
    for i, n in enumerate((3, 2, 0, 4, 1)):
        urls.append(str(tmp_path / f"part-{i}.parquet"))
        columns = {"x": np.arange(n) + 10 * i, "name": np.array([f"p{i}"] * n, np.str_)}
        write_table(urls[-1], columns, units={"x": "K"}, descriptions={"x": "warm"})
    return urls


def test_rows_are_those_of_the_parts_in_order(tmp_path, parts):
    url = str(tmp_path / "all.parquet")
    assert join_parquet(url, parts) == 10
    found = read_table(url)
    assert found["x"].tolist() == [0, 1, 2, 10, 11, 30, 31, 32, 33, 40]
    assert found["name"].tolist() == ["p0"] * 3 + ["p1"] * 2 + ["p3"] * 4 + ["p4"]
    assert pq.read_schema(url).field("x").metadata == {b"unit": b"K", b"description": b"warm"}


def test_row_groups_are_whole_parts(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(formats, "ROW_GROUP_ROWS", 4)
    url = str(tmp_path / "all.parquet")
    join_parquet(url, parts)
    groups = pq.ParquetFile(url).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [5, 4, 1]


def test_the_same_parts_give_the_same_bytes(tmp_path, parts):
    urls = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    for url in urls:
        join_parquet(url, iter(parts))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_parts_that_differ_are_refused_and_nothing_is_left(tmp_path, parts):
    other = str(tmp_path / "other.parquet")
    write_table(other, {"x": np.arange(2.0), "name": np.array(["a", "b"])})
    with pytest.raises(StoreError, match=r"other\.parquet: has the columns .* first part"):
        join_parquet(str(tmp_path / "all.parquet"), [*parts, other])
    assert not (tmp_path / "all.parquet").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(b"junk", "not the Parquet"), (None, "not found")]
)
def test_a_part_that_is_none_is_named(tmp_path, parts, content, message):
    bad = tmp_path / "bad.parquet"
    if content:
        bad.write_bytes(content)
    with pytest.raises(StoreError, match=rf"bad\.parquet: {message}"):
        join_parquet(str(tmp_path / "all.parquet"), [parts[0], str(bad)])


def test_no_parts_are_an_error(tmp_path):
    with pytest.raises(StoreError, match="there are no parts"):
        join_parquet(str(tmp_path / "all.parquet"), [])


def test_memory_does_not_grow_with_the_number_of_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "ROW_GROUP_ROWS", 4000)
    url = str(tmp_path / "part.parquet")
    write_table(url, {f"x{i}": np.random.default_rng(i).random(2000) for i in range(20)})
    size = 20 * 2000 * 8
    before, seen = pa.total_allocated_bytes(), []

    def parts():
        for _ in range(60):
            seen.append(pa.total_allocated_bytes() - before)
            yield url

    assert join_parquet(str(tmp_path / "all.parquet"), parts()) == 120_000
    # two or three parts, their join, and what is being written: an eighth of all 60
    assert max(seen) < 8 * size
