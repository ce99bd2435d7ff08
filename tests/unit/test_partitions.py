"""Cells and partitions: nothing that could match is ever in two of them."""

import numpy as np
import pandas as pd
import pytest

from scalespec.kernels.sky import separation_arcsec, unit_vectors
from scalespec.plan import Block
from scalespec.stages import partitions
from scalespec.stages.partitions import (
    N_CELLS,
    SKY_CELLS,
    count_cells,
    id_entries,
    plan_partitions,
    sky_entries,
    sorted_tables,
    write_sorted,
)
from scalespec.store.ledger import Ledger


def around_poles_and_zero(rng, n):
    """Places near the poles, RA 0 and corners of base cells, and anywhere."""
    ra = np.concatenate(
        [rng.uniform(0, 360, n), rng.normal(0, 0.01, n) % 360, rng.normal(45, 0.01, n)]
    )
    corner = rng.choice([0.0, 41.8103149, -41.8103149], n) + rng.normal(0, 0.01, n)
    dec = np.concatenate([90 - np.abs(rng.normal(0, 0.01, n)), rng.uniform(-89, 89, n), corner])
    return pd.DataFrame({"ra": ra, "dec": dec * rng.choice([-1, 1], 3 * n)})


def test_all_pairs_within_the_margin_meet_in_the_left_ones_cell():
    rng = np.random.default_rng(0)
    left = around_poles_and_zero(rng, 300)
    turn, far = rng.uniform(0, 2 * np.pi, len(left)), rng.uniform(0, 60 / 3600, len(left))
    dec = np.clip(left["dec"] + far * np.sin(turn), -90, 90)
    ra = left["ra"] + far * np.cos(turn) / np.maximum(np.cos(np.radians(dec)), 1e-9)
    right = pd.DataFrame({"ra": ra % 360, "dec": dec})
    apart = separation_arcsec(unit_vectors(*left.T.to_numpy()), unit_vectors(*right.T.to_numpy()))
    mine = sky_entries(left.assign(row=np.arange(len(left))), 0.0)
    theirs = sky_entries(right.assign(right=np.arange(len(left))), 61.0)
    met = set(zip(theirs["right"], theirs["cell"], strict=True))
    near = np.flatnonzero(apart <= 60)
    cells = mine.set_index("row")["cell"]
    assert len(near) > 500
    assert all((row, cells[row]) in met for row in near.tolist())
    assert theirs["own"].sum() == len(right)


def test_equal_ids_meet_in_one_cell_behind_those_of_the_sky():
    ids = np.array([7, -1, 4 * 10**18, 7])
    left, right = id_entries(pd.DataFrame({"id": ids})), id_entries(pd.DataFrame({"id": ids[::-1]}))
    assert len(left) == 3  # no id, no cell
    for name in (7, 4 * 10**18):
        cells = {*left["cell"][left["id"] == name], *right["cell"][right["id"] == name]}
        assert len(cells) == 1
        assert SKY_CELLS <= min(cells) < N_CELLS
    words = id_entries(pd.DataFrame({"id": ["a", "", "a"]}))
    assert words["cell"].nunique() == 1
    assert len(words) == 2


def counts(**rows):
    made = np.zeros(N_CELLS, np.int64)
    for cell, n in rows.items():
        made[int(cell[1:])] = n
    return made


def test_partitions_cover_all_cells_that_both_have_once(monkeypatch):
    monkeypatch.setattr(partitions, "ROWS_PER_PARTITION", 500)
    rng = np.random.default_rng(1)
    left, right = np.zeros((2, N_CELLS), np.int64)
    left[rng.integers(0, N_CELLS, 3000)] = rng.integers(1, 20, 3000)
    right[rng.integers(0, N_CELLS, 90_000)] = rng.integers(1, 9, 90_000)
    both = (left > 0) & (right > 0)
    blocks = plan_partitions(left, right)
    assert len(blocks) > 100
    covered = np.zeros(N_CELLS, int)
    for i, block in enumerate(blocks):
        assert block.index == i
        covered[block.start : block.stop] += 1
        rows = (left + right)[block.start : block.stop].sum()
        assert rows <= 500 + 30  # and the last cell's own
        assert (block.start < SKY_CELLS) == (block.stop <= SKY_CELLS)
    assert (covered[both] == 1).all()
    assert covered.max() == 1


def test_cells_between_that_one_table_alone_fills_are_not_read():
    empty_between = plan_partitions(counts(c5=1, c90=1), counts(c5=1, c50=10**9, c90=1))
    assert empty_between == [Block("healpix", 0, 5, 6), Block("healpix", 1, 90, 91)]


@pytest.mark.parametrize("cells", [{}, {"c3": 4}])
def test_without_a_common_cell_there_is_no_partition(cells):
    assert plan_partitions(counts(**cells), counts(c9=5)) == []


@pytest.fixture
def stored(tmp_path):
    """Three tables of a folder, sorted by cell when they are written, and all their rows."""
    rng = np.random.default_rng(2)
    url = str(tmp_path / "cells")
    made = [pd.DataFrame({"cell": rng.integers(a, a + 900, n), "x": rng.normal(size=n)})
            for a, n in ((0, 40_000), (500, 100), (5000, 0))]  # fmt: skip
    for i, table in enumerate(made):
        write_sorted(url, Block("row", i, 0, len(table)), [table], {})
    return url, pd.concat(made)


@pytest.mark.parametrize(("start", "stop"), [(0, 10_000), (100, 120), (890, 930), (7000, 7001)])
def test_a_range_of_cells_is_read_from_all_tables(stored, start, stop):
    url, rows = stored
    found = sorted_tables(url, "cell").read("cell", start, stop)
    expected = rows[(rows["cell"] >= start) & (rows["cell"] < stop)]
    assert list(found) == ["cell", "x"]
    np.testing.assert_array_equal(np.sort(found["x"]), np.sort(expected["x"]))


def test_tables_say_how_far_they_reach_and_count_their_cells(stored):
    url, rows = stored
    tables = sorted_tables(url, "cell")
    assert tables.low[0] == rows["cell"].min()
    assert tables.high[1] == rows["cell"][-100:].max()
    assert (tables.low[2], tables.high[2]) == (0, -1)
    np.testing.assert_array_equal(count_cells(tables), np.bincount(rows["cell"], minlength=N_CELLS))


def test_what_stands_is_not_written_again_and_tables_come_one_by_one(tmp_path):
    url, block = str(tmp_path), Block("row", 0, 0, 5)
    tables = [pd.DataFrame({"row": [3, 1, 2]}), pd.DataFrame({"row": [9]})]
    result = write_sorted(url, block, iter(tables), {"a": 1})
    assert (result.rows, len(result.objects), dict(result.counts)) == (4, 2, {"a": 1})
    assert sorted_tables(url, "row").read("row", 0, 9)["row"].tolist() == [1, 2, 3]
    assert write_sorted(url, block, iter([]), {}) == result
    assert Ledger(url).done() == {0}
