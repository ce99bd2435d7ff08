"""Blocks of matches put together, one in memory at a time: against pandas on all of them."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from scalespec.kernels.match import split_by_star
from scalespec.plan import plan_blocks
from scalespec.stages import matches
from scalespec.stages.matches import Split, combine_matches
from scalespec.stages.matching import repeats
from scalespec.store import paths
from scalespec.store.catalog import write_part

N, SIZE = 60, 7
SPLIT = Split((0.5, 0.1, 0.4), 5)


def pairs(n, rng):
    """Return matches of n spectra with 25 stars, a third of them with a second candidate."""
    first = pd.DataFrame(
        {
            "row": np.arange(n),
            "obsid": 500 + np.arange(n),
            "spectrum_snr": rng.integers(5, 9, n).astype(np.float32),
            "separation_arcsec": rng.random(n).astype(np.float32),
            "rank": np.zeros(n, np.int64),
            "n_candidates": np.ones(n, np.int64),
            "by_id": False,
            "mutual": True,
            "right": rng.integers(0, 99, n),
            "star": rng.integers(0, 25, n) << 40,  # alike in their lower bits
            "teff": rng.normal(5000, 500, n),
            "name": [f"star {i}" for i in range(n)],
        }
    )
    second = first.iloc[::3].assign(rank=1, star=1 + np.arange(len(first.iloc[::3])))
    both = pd.concat([first, second], ignore_index=True)
    return both.sort_values(["row", "rank"], kind="stable").reset_index(drop=True)


def store(url, table):
    for block in plan_blocks(N, SIZE):
        here = table[(table["row"] >= block.start) & (table["row"] < block.stop)]
        counts = {"matched": int((here["rank"] == 0).sum())}
        part = pa.Table.from_pandas(here.reset_index(drop=True), preserve_index=False)
        write_part(url, block, part, counts=counts)


def read(url, name):
    return pd.read_parquet(io.BytesIO(paths.read_bytes(f"{url}/{name}.parquet")))


@pytest.mark.parametrize("sieve", [1 << 24, 1, 4])  # 1: every star is looked at
def test_the_tables_are_those_of_all_at_once(tmp_path, monkeypatch, sieve):
    monkeypatch.setattr(matches, "SIEVE", sieve)
    table, url = pairs(N, np.random.default_rng(3)), str(tmp_path)
    store(url, table)
    combine_matches(url, SPLIT, table.iloc[:0])
    split = split_by_star(table["star"].to_numpy(), fractions=(0.5, 0.1, 0.4), seed=5)
    every = table.assign(split=split)
    best = every[every["rank"] == 0].reset_index(drop=True)
    expected = best.drop(columns=["right", "mutual", "spectrum_snr"])
    pd.testing.assert_frame_equal(read(url, "matches"), expected)
    pd.testing.assert_frame_equal(read(url, "pairs"), every.drop(columns="spectrum_snr"))
    pd.testing.assert_frame_equal(read(url, "repeats"), repeats(best))
    assert len(read(url, "repeats")) > 30


def test_without_second_candidates_there_is_no_table_of_pairs(tmp_path):
    table, url = pairs(N, np.random.default_rng(3)), str(tmp_path)
    store(url, table[table["rank"] == 0])
    combine_matches(url, SPLIT, table.iloc[:0])
    assert len(read(url, "matches")) == N
    assert not paths.exists(f"{url}/pairs.parquet")


def test_no_match_is_a_table_with_every_column(tmp_path):
    table, url = pairs(N, np.random.default_rng(3)), str(tmp_path)
    store(url, table.iloc[:0])
    combine_matches(url, SPLIT, table.iloc[:0])
    for name, columns in (("matches", {"split", "teff", "name"}), ("repeats", {"star_rank"})):
        found = read(url, name)
        assert len(found) == 0
        assert columns <= set(found)


def test_one_block_is_in_memory_at_a_time(tmp_path, monkeypatch):
    table, url = pairs(N, np.random.default_rng(3)), str(tmp_path)
    store(url, table)
    alive, most = set(), []
    plain = matches.iterate_parts

    def watched(*args):
        for number, part in enumerate(plain(*args)):
            alive.add(number)
            most.append(len(alive))
            yield part
            alive.discard(number)

    monkeypatch.setattr(matches, "iterate_parts", watched)
    combine_matches(url, SPLIT, table.iloc[:0])
    assert max(most) == 1
