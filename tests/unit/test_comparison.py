"""Truth is joined piece by piece, of the stars that the run file asks for."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalespec.errors import ConfigError
from scalespec.stages import comparison
from scalespec.stages.comparison import read_truth, truth
from scalespec.stages.evidence import read_evidence
from scalespec.stages.publish import publish
from scalespec.stages.samples import Rows

OBSID = np.array([7, 3, 9, 3, 5])


@pytest.fixture
def stars():
    """Five spectra; two are of one obsid, one is not known, one has no labels."""
    value = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    columns = {"row": np.arange(5), "obsid": OBSID, "teff": value, "teff_err": value, "rv": value}
    return Rows(columns | {"rv_err": value}, ("teff",))


@pytest.fixture
def table(tmp_path):
    """The truth of obsids 1 to 8: Teff is ten times as much; even ones are binaries."""
    ids = np.array([8, 2, 3, 7, 1, 4, 5, 6])
    url = str(tmp_path / "truth.parquet")
    columns = {"obsid": ids, "teff": ids * 10.0, "binary": ids % 2 == 0, "kind": list("abcdefgh")}
    columns["mass"] = ids / 4
    pq.write_table(pa.table(columns), url, row_group_size=3)
    return url


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_truth_is_joined_by_obsid_in_pieces(stars, table, monkeypatch, rows):
    monkeypatch.setattr(comparison, "TRUTH_ROWS", rows)
    true, left_out = read_truth(stars, table)
    assert list(true) == ["teff"]
    np.testing.assert_array_equal(true["teff"], [70, 30, np.nan, 30, 50])
    assert left_out == 0


@pytest.mark.parametrize(
    ("condition", "wanted", "left_out"),
    [
        ("binary == 0", [70, 30, np.nan, 30, 50], 0),
        ("mass > 1", [70, np.nan, np.nan, np.nan, 50], 2),
        ("kind == 'd' and not binary", [70, np.nan, np.nan, np.nan, np.nan], 2),  # 5 has no labels
    ],
)
def test_a_condition_leaves_stars_out_and_counts_them(stars, table, condition, wanted, left_out):
    true, n = read_truth(stars, table, condition)
    np.testing.assert_array_equal(true["teff"], wanted)
    assert n == left_out


def test_a_binary_is_left_out(stars, table):
    four = Rows(stars.columns | {"obsid": np.array([2, 4, 6, 8, 1])}, stars.labels)
    true, n = read_truth(four, table, "binary == 0")
    np.testing.assert_array_equal(true["teff"], [np.nan] * 4 + [10])
    assert n == 4


@pytest.mark.parametrize(
    ("condition", "said"),
    [("bynary == 0", "no \\['bynary'\\]"), ("binary ==", "no condition"), ("mass", "a float")],
)
def test_a_wrong_condition_is_an_error_of_the_run_file(stars, table, condition, said):
    with pytest.raises(ConfigError, match=f"report.truth_where: .*{said}"):
        read_truth(stars, table, condition)


def test_the_page_says_how_many_stars_are_left_out(tiny, tiny_run):
    tiny.run_stage(publish(tiny_run.config))
    evidence = read_evidence(tiny_run.config)
    giants = int((np.delete(tiny_run.labels, 3, axis=0)[:, 1] < 3).sum())
    report = tiny_run.config.report.model_copy(update={"truth_where": "logg < 3"})
    config = tiny_run.config.model_copy(update={"report": report})
    html = truth(replace(evidence, config=config))
    said = f"Stars with logg &lt; 3; {19 - giants} others are left out."
    assert html.count(said) == 5  # above, and with either figure's caption and alt
    assert "left out" not in truth(evidence)
