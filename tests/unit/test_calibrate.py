"""Calibration through its stages: injected trends and floors come back; raw labels stay."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalespec.config import parse_config
from scalespec.config.calibrate import CalibrateTable
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.calibration import PIN_TEFF, CalibrationStatus
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders
from scalespec.stages.calibrate import calibrate, read_corrections
from scalespec.stages.correction import Correction, LabelData, Referred
from scalespec.stages.trends import fit_correction
from scalespec.store import paths
from scalespec.store.catalog import read_parts
from scalespec.store.ledger import Ledger, read_json
from tests.kits.fitted_run import write_fitted, write_matches
from tests.kits.own_blocks import count_listings, run_blocks_of_their_own

N_PAIR, N_REPEAT = 2000, 3000
FLOOR = {20.0: 0.06, 80.0: 0.02}
"""Scatter that errors leave out, by S/N."""
OFFSET = {0: 0.07, 1: -0.11}
"""Of dwarfs and giants, added to all [Fe/H]: what only a reference can tell."""
GRID = np.linspace(4000.0, 7000.0, 61)
TABLES = """
[crossmatch.high]
catalog = "{root}/high.parquet"
columns = {{ fe_h = "FE_H", logg = "LOGG" }}
[calibrate]
snr_edges = [0.0, 50.0]
bootstrap = 20
[calibrate.pairs]
catalog = "{root}/pairs.parquet"
where = "chance < 0.1"
[calibrate.references.high]
[calibrate.clusters]
catalog = "{root}/clusters.parquet"
"""


def trend(teff):
    """0.3 dex over 4,000 to 7,000 K, bent, and 0 at the pin."""
    x = (np.asarray(teff) - PIN_TEFF) / 3000.0
    return 0.3 * x + 0.15 * x**2


def survey(seed=1):
    """Pairs, then repeats of single stars, then giants that a reference knows."""
    rng = np.random.default_rng(seed)
    n_star = 2 * N_PAIR + N_REPEAT + 500
    pair = np.arange(n_star) < 2 * N_PAIR
    giant = np.arange(n_star) >= n_star - 500
    fe_h = rng.normal(-0.2, 0.3, n_star)
    fe_h[: 2 * N_PAIR] = np.repeat(fe_h[:N_PAIR], 2)
    teff = rng.uniform(4000, 7000, n_star)
    logg = np.where(giant, rng.uniform(1.0, 3.0, n_star), rng.uniform(4.0, 4.8, n_star))
    source = 10**15 + 37 * np.arange(n_star)
    star = np.concatenate([np.arange(n_star), np.arange(2 * N_PAIR, 2 * N_PAIR + N_REPEAT)])
    snr = np.where(pair | giant, 80.0, rng.choice([20.0, 80.0], n_star))[star]
    floor = np.where(snr < 50, FLOOR[20.0], FLOOR[80.0])
    offset = np.where(giant, OFFSET[1], OFFSET[0] + trend(teff))
    err = np.full(len(star), 0.03)
    measured = (fe_h + offset)[star] + np.hypot(err, floor) * rng.normal(size=len(star))
    columns = {
        "teff": teff[star], "teff_err": np.full(len(star), 50.0),
        "logg": logg[star] + 0.2, "logg_err": np.full(len(star), 0.1),
        "fe_h": measured, "fe_h_err": err, "snr": snr, "source_id": source[star],
    }  # fmt: skip
    order = rng.permutation(len(star))  # the sky knows no pairs
    stars = {name: values[order] for name, values in columns.items()}
    true = {"fe_h": fe_h[star][order], "logg": logg[star][order], "giant": giant[star][order]}
    return stars, true, source


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A calibrated run: config, stars as fitted, what is true of them."""
    root = tmp_path_factory.mktemp("calibrate")
    stars, true, source = survey()
    rng = np.random.default_rng(7)
    one, two = source[: 2 * N_PAIR : 2], source[1 : 2 * N_PAIR : 2]
    chance = rng.integers(0, 2 * N_PAIR, (2, 300))  # listed, and no pairs at all
    listed = {
        "source_id_1": np.r_[one[:1000], two[1000:], source[chance[0]], 5],
        "source_id_2": np.r_[two[:1000], one[1000:], source[chance[1]], one[0]],
        "chance": np.r_[np.zeros(N_PAIR), np.full(300, 0.9), 0.0],
    }
    pq.write_table(pa.table(listed), root / "pairs.parquet")
    members = np.isin(stars["source_id"], source[-200:])
    cluster = {"source_id": stars["source_id"][members], "cluster": ["M67"] * int(members.sum())}
    pq.write_table(pa.table(cluster), root / "clusters.parquet")
    pq.write_table(pa.table({"FE_H": [0.0]}), root / "high.parquet")
    stars["fit_status"] = np.zeros(len(stars["teff"]), np.uint32)
    stars["fit_status"][:10] = FitStatus.POOR_FIT
    stars["teff"][20], stars["fe_h"][21] = 7500.0, np.nan
    config = write_fitted(root, stars, tables=TABLES.format(root=root), rows=2048)
    rows = np.flatnonzero(true["giant"] | (np.arange(len(true["fe_h"])) % 10 == 0))
    high = {"row": rows, "star": stars["source_id"][rows]}
    high |= {"fe_h": true["fe_h"][rows] + 0.03 * rng.normal(size=len(rows))}
    high |= {"logg": true["logg"][rows], "fe_h_err": np.full(len(rows), 0.03)}
    write_matches(config, "high", high)
    tiny.run_stage(calibrate(config))
    return config, stars, true


@pytest.fixture(scope="module")
def corrections(made):
    return {one.label: one for one in read_corrections(folders.calibrated_url(made[0]))}


def test_an_injected_trend_of_2000_pairs_is_recovered_within_two_hundredths(corrections):
    pairs = corrections["fe_h"].steps[0]
    assert pairs.source == "pairs"
    assert N_PAIR - 10 < pairs.n < N_PAIR  # flagged stars take no part, chance alignments neither
    found = pairs.at(GRID, np.zeros(len(GRID), int))
    assert np.abs(found - trend(GRID)).max() < 0.02


def test_references_give_the_zero_points_that_pairs_cannot(corrections):
    high = corrections["fe_h"].steps[1]
    assert (high.source, high.form, high.classes) == ("high", "zero_point", (0, 1))
    found = [high.at(np.array([5000.0]), np.array([one]))[0] for one in (0, 1)]
    # some 300 dwarfs and 350 giants with a scatter of 0.05 dex: 0.004 dex
    assert found == pytest.approx([OFFSET[0], OFFSET[1]], abs=0.015)


def test_error_floors_are_right_to_ten_percent(corrections):
    np.testing.assert_allclose(corrections["fe_h"].floor, [0.06, 0.02], rtol=0.1)


def test_a_label_without_pairs_gets_its_trend_from_the_reference(corrections):
    (only,) = corrections["logg"].steps
    assert (only.source, only.form) == ("high", "trend")
    found = corrections["logg"](GRID, np.full(len(GRID), 4.5))
    np.testing.assert_allclose(found, 0.2, atol=1e-3)  # the reference's log g has no noise


def test_calibrated_labels_are_right_and_raw_ones_stay(made):
    config, stars, true = made
    got = read_parts(folders.calibrated_url(config))
    assert got["row"].to_pylist() == list(range(len(stars["teff"])))
    residual = got["fe_h_cal"].to_numpy() - true["fe_h"]
    before = stars["fe_h"] - true["fe_h"]
    assert np.nanstd(residual) < 0.6 * np.nanstd(before)
    assert abs(np.nanmedian(residual)) < 0.01
    raw = read_parts(folders.best_url(config))["fe_h"].to_numpy()
    np.testing.assert_array_equal(raw, stars["fe_h"].astype(np.float32))


def test_pulls_with_floors_are_unit_normal(made):
    config, stars, true = made
    got = read_parts(folders.calibrated_url(config))
    pull = (got["fe_h_cal"].to_numpy() - true["fe_h"]) / got["fe_h_cal_err"].to_numpy()
    for low, high in ((0, 50), (50, np.inf)):
        here = (stars["snr"] >= low) & (stars["snr"] < high)
        assert 1.4826 * np.nanmedian(np.abs(pull[here])) == pytest.approx(1, abs=0.08)


def test_stars_beyond_the_trend_and_without_labels_say_so(made):
    got = read_parts(folders.calibrated_url(made[0]))
    status = got["calibration_status"].to_numpy()
    assert status[20] == CalibrationStatus.BEYOND_TREND
    assert status[22] == 0
    assert np.isnan(got["fe_h_cal"].to_numpy()[21])
    assert np.isnan(got["fe_h_cal_err"].to_numpy()[21])


def test_order_version_and_checks_are_recorded(made):
    url = folders.calibrated_url(made[0])
    record = read_json(paths.join(url, "calibration.json"))
    assert record["order"] == ["pairs", "high", "floors"]
    assert url.endswith(record["version"])
    checks = {c["what"]: c for one in record["corrections"] for c in one["record"]["checks"]}
    held = checks["high, held out"]
    assert held["n"] > 100
    pairs = next(c for c in record["corrections"][1]["record"]["checks"] if c["what"] == "pairs")
    assert pairs["scatter_after"] < 0.9 * pairs["scatter_before"]
    assert checks["cluster M67"]["n"] == 200
    drawn = record["corrections"][1]["record"]["drawn"]
    y, x = np.array(drawn["pairs"]["value"]), np.array(drawn["pairs"]["teff"])
    assert np.std(y - trend(x)) < 0.08  # each point is the trend and the noise of two spectra


def test_doing_it_again_changes_nothing(made, tiny):
    url = folders.calibrated_url(made[0])
    before = paths.read_bytes(paths.join(url, "calibration.json"))
    tiny.run_stage(calibrate(made[0]))
    assert paths.read_bytes(paths.join(url, "calibration.json")) == before


def test_two_runs_have_the_same_bytes(tiny, tmp_path):
    found = []
    rng = np.random.default_rng(0)
    n = 300
    teff = rng.uniform(4000, 7000, n)
    stars = {
        "teff": teff,
        "logg": np.full(n, 4.5),
        "fe_h": trend(teff),
        "source_id": 1 + np.arange(n),
    }
    stars |= {f"{name}_err": np.full(n, 0.05) for name in ("teff", "logg", "fe_h")}
    for name in "ab":
        root = tmp_path / name
        root.mkdir()
        ids = {"source_id_1": stars["source_id"][::2], "source_id_2": stars["source_id"][1::2]}
        pq.write_table(pa.table(ids), root / "pairs.parquet")
        tables = f'[calibrate]\nbootstrap = 5\n[calibrate.pairs]\ncatalog = "{root}/pairs.parquet"'
        config = write_fitted(root, stars, tables=tables, rows=100)
        tiny.run_stage(calibrate(config))
        record = read_json(paths.join(folders.calibrated_url(config), "calibration.json"))
        found.append(json.dumps(record["corrections"], sort_keys=True))
    assert found[0] == found[1]


def small(tmp_path, tables, **kinds):
    stars = {"teff": np.full(30, 5000.0), "logg": np.full(30, 4.5), "fe_h": np.zeros(30)}
    stars |= {f"{name}_err": np.full(30, 0.05) for name in ("teff", "logg", "fe_h")}
    pq.write_table(pa.table({"source_id_1": [1], "source_id_2": [2]}), tmp_path / "pairs.parquet")
    tables = tables.format(root=tmp_path)
    return write_fitted(tmp_path, stars, tables=tables, rows=16, **kinds)


PAIRS = '[calibrate.pairs]\ncatalog = "{root}/pairs.parquet"\n'


REFERENCE = """
[crossmatch.high]
catalog = "{root}/high.parquet"
columns = {{ fe_h = "FE_H" }}
[calibrate]
star_id = "name"
[calibrate.references.high]
"""


def test_blocks_read_their_own_only(tmp_path, monkeypatch):
    (tmp_path / "high.parquet").write_bytes(b"there")
    names = np.array([f"star {row // 2}" for row in range(30)])
    config = small(tmp_path, REFERENCE + PAIRS, index={"name": names})
    write_matches(config, "high", {"row": np.arange(30), "fe_h": np.zeros(30)})
    run = run_blocks_of_their_own(calibrate(config), monkeypatch)
    assert run == ["calibrate stars", "calibrate trends", "calibrate"]
    known = read_parts(paths.join(folders.calibrated_url(config), "stars"))
    assert len(set(known["star"].to_pylist())) == 15
    assert known["high:fe_h"].to_pylist() == [0.0] * 30


def test_what_is_done_is_listed_as_often_however_many_blocks_there_are(tmp_path, monkeypatch):
    assert count_listings(calibrate(small(tmp_path, PAIRS)), monkeypatch, 100) < 10


def test_a_fit_without_the_labels_of_trends_is_an_error_before_any_block(tmp_path):
    config = small(tmp_path, PAIRS, labels=("teff", "fe_h"))
    with pytest.raises(ConfigError, match=r"has no \['logg'\], by which trends are told"):
        next(calibrate(config))


def test_too_few_pairs_leave_labels_as_they_are_and_say_so(tiny, tmp_path):
    config = small(tmp_path, PAIRS)
    tiny.run_stage(calibrate(config))
    got = read_parts(folders.calibrated_url(config))
    assert set(got["calibration_status"].to_pylist()) == {CalibrationStatus.NO_TREND}
    assert got["fe_h_cal"].to_pylist() == [0.0] * 30


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ('[calibrate]\nlabels = ["mg_fe"]\n' + PAIRS, r"no label \['mg_fe'\]"),
        ('[calibrate]\nlabels = ["teff"]\n' + PAIRS, r"neither pairs nor references speak of"),
        ('[calibrate]\nstar_id = "name"\n' + PAIRS, "no column 'name'"),
    ],
)
def test_what_is_not_there_is_an_error_of_the_run_file(tiny, tmp_path, tables, said):
    config = small(tmp_path, tables)
    with pytest.raises(ConfigError, match=said):
        tiny.run_stage(calibrate(config))


def test_a_block_that_failed_stops_the_calibration(tmp_path):
    config = small(tmp_path, PAIRS)
    steps = calibrate(config)
    stage = next(steps)
    for block in stage.blocks[:1]:
        stage.write(block, stage.compute(None, stage.read(block)))
    Ledger(stage.url).record_failure(stage.blocks[1], "a worker died")
    with pytest.raises(StageError, match="block 1 failed: a worker died"):
        next(steps)


RUN = """
[run]
name = "a"
workspace = "w"
[ingest]
files = "f"
[preprocess]
[infer]
models = ["m"]
"""


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("[calibrate]\n[calibrate.references.apogee]\n", r"wants a \[crossmatch.apogee\] table"),
        ("[calibrate]\n", "give pairs or references"),
        (
            '[calibrate]\nlogg_edges = [4.0, 3.0]\n[calibrate.pairs]\ncatalog = "p"\n',
            "not in order",
        ),
        (
            '[calibrate]\nteff_range = [7e3, 4e3]\n[calibrate.pairs]\ncatalog = "p"\n',
            "lower limit first",
        ),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tables, said):
    with pytest.raises(ConfigError, match=said):
        parse_config(RUN + "[fit]\n" + tables)


def test_a_class_is_corrected_as_at_its_last_stars_beyond_them():
    """Giants end at 5,500 K: at 6,500 K they are not what a cubic does without data."""
    rng = np.random.default_rng(3)
    n = 600
    teff = np.concatenate([rng.uniform(4000, 7000, n), rng.uniform(4000, 5500, n)])
    logg = np.repeat([4.4, 2.5], n)
    wrong = np.where(logg > 3.5, 1e-4, 4e-4) * (teff - 5500)
    stars = Referred(
        teff=teff,
        logg=logg,
        snr=np.full(2 * n, 50.0),
        value=wrong + rng.normal(0, 0.02, 2 * n),
        err=np.full(2 * n, 0.02),
        star=np.arange(2 * n),
        reference=np.zeros(2 * n),
        reference_err=np.full(2 * n, 0.01),
    )
    table = CalibrateTable(references={"high": {}}, teff_range=(4000.0, 7000.0), bootstrap=20)
    made = fit_correction("fe_h", LabelData(references={"high": stars}), table)
    again = Correction.from_dict(json.loads(json.dumps(made.to_dict())))
    for one in (made, again):
        hot, last = one(np.array([6500.0, 5500.0]), np.array([2.5, 2.5]))
        assert hot == pytest.approx(last, abs=0.01)  # the fifth star from the end lies 15 K off it
        assert one(np.array([6500.0]), np.array([4.4]))[0] == pytest.approx(0.1, abs=0.01)
        beyond = one.outside(np.array([6500.0, 5000.0, 6500.0]), np.array([2.5, 2.5, 4.4]))
        assert beyond.tolist() == [True, False, False]
