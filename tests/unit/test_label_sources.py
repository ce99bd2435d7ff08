"""The page says of catalogs made of several how they agree, and whose each label is."""

import numpy as np
import pandas as pd
import pytest

from scalespec.config import RunConfig
from scalespec.errors import StoreError
from scalespec.stages import folders, label_sources
from scalespec.stages.label_sources import label_catalogs
from scalespec.stages.merged import merge_catalogs
from scalespec.store import paths

N = 60


def matches(rng, rows, true, *, bias, scatter):
    """One catalog's matches: [C/Fe] of some rows with its bias and scatter."""
    table = {"row": rows, "obsid": rows + 500, "star": rows * 7, "by_id": False}
    table |= {"separation_arcsec": np.ones(len(rows), np.float32), "split": np.uint8(0)}
    table |= {"rank": np.zeros(len(rows), np.int32), "n_candidates": np.ones(len(rows), np.int32)}
    table["c_fe"] = true[rows] + bias + rng.normal(0, scatter, len(rows))
    table["c_fe_err"] = np.full(len(rows), max(scatter, 0.01))
    return pd.DataFrame(table)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A function that merges two catalogs, with a reference or not, and returns the run."""
    monkeypatch.setattr(folders, "matches_url", lambda _, name: f"{tmp_path}/{name}")

    def merge(**best):
        rng = np.random.default_rng(0)
        true = rng.normal(0, 0.3, N)
        for name, rows, bias, scatter in (
            ("bad", np.arange(40), 0.5, 0.02),
            ("good", np.arange(20, N), 0.0, 0.05),
            ("high", np.arange(N), 0.0, 0.0),
        ):
            made = matches(rng, rows, true, bias=bias, scatter=scatter)
            paths.write_bytes(f"{tmp_path}/{name}/matches.parquet", made.to_parquet())
        catalogs = {name: {"catalog": f"{name}.csv"} for name in ("bad", "good", "high")}
        tables = {"run": {"name": "t", "workspace": str(tmp_path)}, "ingest": {"files": "*"}}
        crossmatch = catalogs | {"best": {"sources": ["bad", "good"], **best}}
        run = RunConfig.model_validate(tables | {"crossmatch": crossmatch})
        merge_catalogs(run, "best")
        return run

    return merge


def test_agreement_is_shown_with_its_figure(config):
    html = label_catalogs(config(reference="high", choose="agreement"))
    assert "agrees best with high" in html
    assert html.count("<img") == 1
    first, second = html.index("<td>good</td>"), html.index("<td>bad</td>")
    assert first < second  # the first choice first
    assert "0.5" in html[second : second + 120]  # its bias


def test_the_spectra_of_each_source_are_counted(config, monkeypatch):
    monkeypatch.setattr(label_sources, "ROWS", 7)  # in many pieces
    html = label_catalogs(config(reference="high", choose="agreement"))
    shares = html[html.index("spectra by the source") :]
    numbers = [cell.partition("<")[0] for cell in shares.split('<td class="n">')[1:]]
    assert numbers == ["20", "40", "0"]  # of bad, of good, of none


def test_without_a_reference_the_first_that_knows_it_is_taken(config):
    html = label_catalogs(config())
    assert "the first of these sources that knows it" in html
    assert "<img" not in html
    numbers = [cell.partition("<")[0] for cell in html.split('<td class="n">')[1:]]
    assert numbers == ["40", "20", "0"]


def test_catalogs_that_are_not_merged_yet_are_an_error_of_the_store(config, tmp_path):
    run = config(reference="high")
    paths.delete(f"{tmp_path}/best/agreement.parquet")
    with pytest.raises(StoreError):
        label_catalogs(run)


def test_a_run_of_single_catalogs_says_so(tiny_run):
    assert "is made of several" in label_catalogs(tiny_run.config)
