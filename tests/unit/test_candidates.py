"""Candidates among tested stars, on predictions whose errors are known."""

import numpy as np
import pandas as pd
import pytest

from scalespec.config import CandidatesTable, CompareTable
from scalespec.kernels.detection import confusion, threshold_curve
from scalespec.stages.candidates import candidate_columns, carbon_columns, search, section

WANTED = CandidatesTable(model="a", prevalence=0.002, fpr=0.01)


def predictions(*, n=4000, splits=5, sigma=0.2, stated=0.2, repeats=1, seed=0):
    """Test stars of folds: a tenth of them metal-poor, predicted with an error of `sigma`."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(n) < 0.1, rng.uniform(-3, -2.02, n), rng.uniform(-1.98, 0.4, n))
    c_fe = rng.normal(0.5, 0.6, n)
    once = {
        "row": np.arange(n), "star": np.arange(n), "obsid": np.arange(n) + 7,
        "source_id": -np.ones(n, int), "snr": np.full(n, 50, "f4"), "model": "a", "part": "test",
        "fe_h_sigma": stated, "fe_h_true": truth, "c_fe_sigma": 0.2, "c_fe_true": c_fe,
    }  # fmt: skip
    parts = [
        pd.DataFrame(once).assign(
            split=(np.arange(n) + repeat) % splits,
            fe_h=truth + rng.normal(0, sigma, n),
            c_fe=c_fe + rng.normal(0, 0.2, n),
        )
        for repeat in range(repeats)
    ]
    return pd.concat(parts, ignore_index=True)


def test_thresholds_keep_the_rate_on_stars_that_did_not_make_them():
    made = search(predictions(), "fe_h", WANTED, threshold=-2.0, above=False)
    assert made.found.fpr == pytest.approx(0.01, abs=0.005)  # 3,600 others: 3 sigma
    assert 0.5 < made.found.completeness < 0.95
    assert made.found.purity_at(0.002) < 0.2 < made.found.purity_at(made.found.prevalence)


def test_completeness_is_about_what_the_best_threshold_gives():
    frame = predictions()
    made = search(frame, "fe_h", WANTED, threshold=-2.0, above=False)
    truth = frame["fe_h_true"].to_numpy() < -2
    score = -frame["fe_h"].to_numpy()
    limit = threshold_curve(score, truth, 0.002).at_fpr(0.01)
    best = confusion(truth, score >= limit)
    assert made.found.completeness == pytest.approx(best.completeness, abs=0.05)


def test_errors_that_are_stated_wrong_do_not_move_who_is_called():
    one = search(predictions(stated=0.2), "fe_h", WANTED, threshold=-2.0, above=False)
    other = search(predictions(stated=0.05), "fe_h", WANTED, threshold=-2.0, above=False)
    same = one.stars["called"].to_numpy() == other.stars["called"].to_numpy()
    assert same.mean() > 0.99
    gap = np.abs(one.stars["probability"] - other.stars["probability"])
    assert gap.median() < 0.02  # recalibrated


def test_stars_tested_several_times_count_once():
    made = search(predictions(n=900, repeats=3), "fe_h", WANTED, threshold=-2.0, above=False)
    assert len(made.stars) == 900
    assert (made.stars["n_tests"] == 3).all()


def test_stars_above_a_threshold_are_found_as_well():
    made = search(predictions(), "c_fe", WANTED, threshold=1.0, above=True)
    truth = made.stars["c_fe_true"] > 1.0
    np.testing.assert_array_equal(made.stars["truth"], truth)
    assert made.stars.loc[made.stars["called"], "c_fe"].min() > 1.0


def test_too_few_stars_are_no_search():
    few = predictions(n=60)
    few["fe_h_true"] = -1.0
    assert search(few, "fe_h", WANTED, threshold=-2.0, above=False) is None


def test_without_errors_there_is_no_search_and_where_some_lack_them_these_stars_are_not_called():
    """Networks learn no error of a label that no validation star has."""
    none = predictions().assign(fe_h_sigma=np.nan)
    assert search(none, "fe_h", WANTED, threshold=-2.0, above=False) is None
    some = predictions(n=1000, splits=2)
    some.loc[some["split"] == 0, "fe_h_sigma"] = np.nan
    made = search(some, "fe_h", WANTED, threshold=-2.0, above=False)
    called = made.stars["called"].to_numpy()
    assert not called[np.isnan(made.stars["fe_h_sigma"])].any()


def test_the_catalog_has_every_source_beside_ours():
    frame = predictions()
    metal = search(frame, "fe_h", WANTED, threshold=-2.0, above=False)
    known = {"lit_fe_h": frame["fe_h_true"].to_numpy(), "ba": np.full(4000, 1.5),
             "eu": np.full(4000, 0.2), "correction": np.full(4000, 0.3)}  # fmt: skip
    wanted = WANTED.model_copy(
        update={"barium": "ba", "europium": "eu", "carbon_correction": "correction"}
    )
    made = candidate_columns(frame, metal, wanted, known)
    assert {"reference_lit_fe_h", "p_metal_poor", "p_threshold", "fe_h", "fe_h_err"} <= set(made)
    assert np.all(np.diff(made["p_metal_poor"]) <= 0)
    rows = made["row"]
    np.testing.assert_allclose(made["reference_lit_fe_h"], known["lit_fe_h"][rows], rtol=1e-6)
    np.testing.assert_allclose(made["c_fe_corrected"], made["c_fe"] + 0.3, rtol=1e-5)
    np.testing.assert_array_equal(made["is_cemp_0p7"], made["c_fe_corrected"] > 0.7)
    assert set(made["cemp_subclass"][made["is_cemp_0p7"]]) == {"s"}
    assert set(made["cemp_subclass"][~made["is_cemp_0p7"]]) <= {""}


def test_without_barium_there_is_no_subclass():
    made = carbon_columns(np.array([1.2]), np.array([0]), WANTED, {})
    assert set(made) == {"is_cemp_1p0", "is_cemp_0p7"}
    assert made["is_cemp_1p0"].tolist() == [True]


def test_the_page_says_what_the_sample_cannot_say(tmp_path):
    settings = CompareTable(
        source="x", labels=("fe_h", "c_fe"), models={"a": {}}, candidates=WANTED
    )
    frame = predictions(n=1500)
    html, text = section(frame, settings, str(tmp_path), {"fe_h": frame["fe_h_true"].to_numpy()})
    lowest = frame["fe_h_true"].min()
    assert f"[Fe/H] = {lowest:.2f}: of stars below that it says nothing" in text
    assert "purity at prevalence 0.002" in text
    assert "[C/Fe] &gt; 0.7, by a" in html
    assert (tmp_path / "candidates.fits").exists()


def test_the_page_says_so_where_nothing_can_be_found(tmp_path):
    settings = CompareTable(source="x", labels=("fe_h",), models={"a": {}}, candidates=WANTED)
    frame = predictions(n=60)
    frame["fe_h_true"] = -1.0
    _, text = section(frame, settings, str(tmp_path), {})
    assert "too few such stars" in text
    assert not (tmp_path / "candidates.fits").exists()


def test_one_split_is_said_to_be_why_nothing_is_searched(tmp_path):
    settings = CompareTable(source="x", labels=("fe_h",), models={"a": {}}, candidates=WANTED)
    _, text = section(predictions(splits=1), settings, str(tmp_path), {})
    assert "learned from the others, and there is one (seeds = 1)" in text
