"""What pages need of a catalog: counted exactly, sampled, in memory that does not grow with it."""

import tracemalloc

import numpy as np
import pytest

from scalespec.optimize.result import FitStatus
from scalespec.schema import SpectrumStatus
from scalespec.stages import evidence as module
from scalespec.stages.evidence import (
    committed_blocks,
    count,
    find_extremes,
    gather,
    read_evidence,
)
from scalespec.stages.publish import publish
from scalespec.stages.samples import Rows

LABELS = ("teff", "logg", "fe_h")


def made_up(start, stop, n_catalog=30):
    """Rows of a catalog: every tenth spectrum is broken, every seventh in another catalog."""
    row = np.arange(start, stop)
    broken, known = row % 10 == 3, row % 7 == 0
    value = np.where(broken, np.nan, 1.0 + row % 5).astype(np.float32)
    columns = {"row": row, "obsid": row + 2**55, "snr": (1 + row * 7919 % 1000).astype(np.float32)}
    for name in (*LABELS, "rv", "chi2", "rv_residual"):
        columns |= {name: value, f"{name}_err": value}
    status = np.where(broken, FitStatus.BAD_SPECTRUM, 0) | np.where(row % 4, 0, FitStatus.AT_BOUND)
    columns["fit_status"] = status.astype(np.uint32)
    columns["spectrum_status"] = np.where(broken, SpectrumStatus.CORRUPT, 0).astype(np.uint32)
    columns |= {"at_bound": (row % 4 == 0).astype(np.uint64), "n_used": np.full(len(row), 100)}
    columns["prior_dominated"] = np.where(row % 6 == 0, 4, 0).astype(np.uint64)
    columns["model"] = np.where(broken, -1, 0).astype(np.int16)
    for k in range(n_catalog):
        columns[f"apogee_x{k}"] = np.where(known, value, np.nan)
    return Rows(columns, LABELS)


def gathered(config, n, size=4096):
    parts = (made_up(start, min(start + size, n)) for start in range(0, n, size))
    return gather(config, n, parts)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_ROWS", 1000)
    monkeypatch.setattr(module, "NEAR_ROWS", 512)


def test_every_row_is_counted_however_few_are_kept(tiny_run, small):
    found, whole = gathered(tiny_run.config, 30_000), made_up(0, 30_000)
    counts = found.counts
    assert counts["rows", "all"] == 30_000
    assert counts["rows", "fitted"] == counts["rows", "readable"] == 27_000
    assert counts["spectrum_status", "CORRUPT"] == 3_000
    assert counts["fit_status", "AT_BOUND"] == 7_500
    assert counts["at_bound", "teff"] == int((whole.fitted & (whole.columns["row"] % 4 == 0)).sum())
    assert counts["at_bound", "logg"] == 0
    assert counts["trusted", "fe_h"] == int(whole.trusted("fe_h").sum())
    assert counts["matched", "apogee"] == int(
        (whole.fitted & (whole.columns["row"] % 7 == 0)).sum()
    )
    assert len(found.stars) == len(found.matched["apogee"]) == 1000
    assert "sample of 1,000 out of 30,000 rows" in found.drawn_from(found.stars)


def test_blocks_make_no_difference(tiny_run, small):
    one, other = (gathered(tiny_run.config, 9_000, size) for size in (9_000, 100))
    assert one.counts == other.counts
    for a, b in (
        (one.stars, other.stars),
        (one.near, other.near),
        (one.extremes, other.extremes),
        (one.matched["apogee"], other.matched["apogee"]),
    ):
        assert a.columns.keys() == b.columns.keys()
        for name, values in a.columns.items():
            np.testing.assert_array_equal(values, b.columns[name])


def test_extremes_are_those_of_all_rows(tiny_run, small):
    found, whole = gathered(tiny_run.config, 9_000), made_up(0, 9_000)
    kept = {kind: found.extremes.columns["row"][i] for kind, i in found_places(found).items()}
    assert kept == find_extremes(whole)


def found_places(found):
    return find_extremes(found.extremes)


def test_what_a_catalog_says_is_kept_only_for_its_own_rows(tiny_run, small):
    found = gathered(tiny_run.config, 9_000)
    assert not any(name.startswith("apogee_") for name in found.stars.columns)
    assert np.isfinite(found.matched["apogee"].columns["apogee_x0"]).all()
    assert found.near.good.all()


def test_memory_does_not_grow_with_the_rows(tiny_run, small):
    peaks = []
    for n in (20_000, 200_000):
        tracemalloc.start()
        gathered(tiny_run.config, n)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Ten times the rows; samples fill up at once, and how full they were is what differs.
    assert peaks[1] < 1.2 * peaks[0]


def test_a_whole_catalog_is_read_by_its_needed_columns(tiny, tiny_run):
    tiny.run_stage(publish(tiny_run.config))
    found = read_evidence(tiny_run.config)
    assert found.stars.columns["row"].tolist() == list(range(20))
    assert not {"first_teff", "survey_rv", "mjd", "n_steps"} & set(found.stars.columns)
    assert found.counts["rows", "all"] == found.planned == 20
    assert found.drawn_from(found.stars) == ""
    assert found.matched["apogee"].columns["row"].tolist() == [0, 6, 9, 12, 15, 18]
    assert 3 not in found.near.columns["row"]


def test_counts_of_parts_add_up():
    whole = count(made_up(0, 100))
    parts = count(made_up(0, 40))
    parts.update(count(made_up(40, 100)))
    assert parts == whole


def test_the_blocks_of_a_run_are_those_that_are_done(tiny_run):
    assert [block.index for block in committed_blocks(tiny_run.config)] == [0, 1, 2]
