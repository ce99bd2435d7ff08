"""The page of variable velocities counts and lists what the table of stars holds."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import Reader

from scalespec.config import DeriveTable
from scalespec.figures.findings import P_BINS
from scalespec.kernels.variability import variability
from scalespec.stages import folders, velocities
from scalespec.stages.derive import VARIABLE
from scalespec.stages.rankings import LIST_ROWS

STARS, BINARIES = 3000, 60


@pytest.fixture(scope="module")
def visits():
    """Three visits of many stars, some of them binaries."""
    rng = np.random.default_rng(2)
    star = np.repeat(10**18 + np.arange(STARS), 3)
    rv = rng.normal(0, 40, STARS).repeat(3) + 4 * rng.normal(size=3 * STARS)
    rv[: 3 * BINARIES] += rng.normal(0, 60, 3 * BINARIES)
    return variability(star, rv, np.full(3 * STARS, 4.0), floor=0.0)


def stored(tmp_path, found, **meta):
    table = pa.table({name: getattr(found, name) for name in velocities.COLUMNS})
    known = {"rv_floor_kms": f"{found.floor:.4g}"} | meta
    pq.write_table(table.replace_schema_metadata(known), tmp_path / VARIABLE)
    return str(tmp_path / VARIABLE)


def test_stars_are_counted_in_batches_as_at_once(tmp_path, visits, monkeypatch):
    url = stored(tmp_path, visits)
    whole = velocities.read_visits(url)
    monkeypatch.setattr(velocities, "BATCH_ROWS", 257)
    pieces = velocities.read_visits(url)
    np.testing.assert_array_equal(whole.counts, pieces.counts)
    np.testing.assert_array_equal(
        whole.counts, np.histogram(visits.p_value, np.linspace(0, 1, P_BINS + 1))[0]
    )
    assert whole.variable == pieces.variable == (visits.p_value < velocities.SURE).sum()
    # 60 binaries of amplitudes far over the errors; 3 of 3,000 others by chance
    assert abs(whole.variable - BINARIES) < 10
    for name in velocities.COLUMNS:
        np.testing.assert_array_equal(whole.first[name], pieces.first[name])
        np.testing.assert_array_equal(whole.shown[name], pieces.shown[name])


def test_the_surest_come_first_and_the_sample_is_bounded(tmp_path, visits, monkeypatch):
    monkeypatch.setattr(velocities, "SHOWN_STARS", 100)
    found = velocities.read_visits(stored(tmp_path, visits))
    assert len(found.first["star"]) == LIST_ROWS
    assert (np.diff(found.first["p_value"]) >= 0).all()
    assert found.first["p_value"][0] == visits.p_value.min()
    assert len(found.shown["star"]) == 100
    # drawn by lot: neither the first stars nor the surest
    assert 0.2 < np.mean(found.shown["star"] - 10**18) / STARS < 0.8


def run_of(tiny_run, monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "derived_url", lambda _: str(tmp_path))
    return tiny_run.config.model_copy(update={"derive": DeriveTable()})


def test_the_page_says_how_many_vary_and_how_many_would_by_chance(
    tiny_run, tmp_path, visits, monkeypatch
):
    stored(tmp_path, visits)
    html = velocities.velocities(run_of(tiny_run, monkeypatch, tmp_path))
    text = Reader(html).text
    n = int((visits.p_value < 1e-3).sum())
    assert text.startswith(f"3,000 stars seen more than once {n} vary: p < 0.001 3.0 would")
    first = np.lexsort((-visits.difference, visits.p_value))[0]
    row = text[text.index("p-value 1000") :].split()
    assert row[1] == str(visits.star[first])
    assert row[2] == "3"
    assert len(Reader(html).pictures) == 1


def test_without_repeats_there_is_nothing_to_draw(tiny_run, tmp_path, monkeypatch):
    nobody = variability(np.arange(5), np.zeros(5), np.ones(5), floor=1.0)
    stored(tmp_path, nobody)
    html = velocities.velocities(run_of(tiny_run, monkeypatch, tmp_path))
    assert "No star was seen twice" in html
    assert not Reader(html).pictures


def test_a_run_in_which_nobody_varies_lists_nobody(tiny_run, tmp_path, monkeypatch):
    star = np.repeat(np.arange(40), 2)
    still = variability(star, np.zeros(80), np.ones(80), floor=0.0)
    stored(tmp_path, still)
    html = velocities.velocities(run_of(tiny_run, monkeypatch, tmp_path))
    assert "No star is sure to vary" in html
