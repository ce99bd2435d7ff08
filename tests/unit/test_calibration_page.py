"""The page shows each correction with its data; isochrones lie over Kiel diagrams."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from scalespec import figures
from scalespec.config import CalibrateTable, ReportTable
from scalespec.figures.calibration import error_floors, trend_with_data
from scalespec.figures.isochrones import with_isochrones
from scalespec.stages import folders
from scalespec.stages.calibrate import calibrate
from scalespec.stages.calibration_page import calibration, class_names
from scalespec.stages.correction import LabelData, Measured, Referred, snr_bin
from scalespec.stages.report import WANTS, isochrones
from scalespec.stages.trends import MOST_ROWS, fit_correction
from tests.kits.fitted_run import write_fitted


def wrong(teff):
    return 1e-4 * (teff - 5772)


def stars_with_pairs(n=400):
    rng = np.random.default_rng(0)
    teff = rng.uniform(4100, 6900, n)
    true = np.repeat(rng.normal(0, 0.3, n // 2), 2)
    stars = {"teff": teff, "logg": np.full(n, 4.5), "source_id": 1 + np.arange(n)}
    stars["fe_h"] = true + wrong(teff) + 0.03 * rng.normal(size=n)
    return stars | {f"{name}_err": np.full(n, 0.03) for name in ("teff", "logg", "fe_h")}


def test_every_correction_is_drawn_with_its_data(tiny, tmp_path):
    stars = stars_with_pairs()
    pairs = {f"source_id_{i}": stars["source_id"][i - 1 :: 2] for i in (1, 2)}
    pd.DataFrame(pairs).to_parquet(tmp_path / "pairs.parquet")
    tables = f'[calibrate]\nbootstrap = 5\n[calibrate.pairs]\ncatalog = "{tmp_path}/pairs.parquet"'
    config = write_fitted(tmp_path, stars, tables=tables, rows=128)
    tiny.run_stage(calibrate(config))
    html = calibration(config)
    assert f"Version {folders.calibrated_url(config).rpartition('/')[2]}" in html
    assert html.count("<img") == 2  # the trend, and what pairs say of errors
    assert "[Fe/H] by pairs: spline in Teff, fitted to 200." in html
    assert "<td>pairs</td>" in html
    assert WANTS["Calibration"](config)


def referred(n, *, seed=1, giants=0.0):
    rng = np.random.default_rng(seed)
    teff = rng.uniform(4100, 6900, n)
    logg = np.where(rng.random(n) < giants, 2.0, 4.5)
    true = rng.normal(0, 0.3, n)
    value = true + 0.1 + wrong(teff) + 0.05 * rng.normal(size=n)
    ones = np.ones(n)
    return Referred(
        teff, logg, 80 * ones, value, 0.05 * ones, true, 0.0 * ones, np.arange(1, n + 1)
    )


def test_a_class_with_too_few_stars_is_left_as_it_is():
    table = CalibrateTable(references={"high": {}}, bootstrap=5)
    made = fit_correction("fe_h", LabelData(references={"high": referred(600, giants=0.02)}), table)
    assert made.steps[0].classes == (0,)
    assert made(np.array([5000.0]), np.array([2.0])).tolist() == [0.0]
    assert made.without(np.array([2.0, 4.5])).tolist() == [True, False]
    assert made(np.array([5000.0]), np.array([4.5]))[0] == pytest.approx(0.1 - 0.0772, abs=0.02)


def test_stars_beyond_the_range_do_not_bend_its_end():
    table = CalibrateTable(references={"high": {}}, bootstrap=5, teff_range=(4500.0, 6500.0))
    stars = referred(2000)
    beyond = stars.teff > 6500
    stars.value[beyond] += 1.0
    made = fit_correction("fe_h", LabelData(references={"high": stars}), table)
    found = made(np.array([6450.0]), np.array([4.5]))[0]
    assert found == pytest.approx(0.1 + wrong(6450.0), abs=0.03)


def test_errors_of_a_correction_are_its_scatter_over_surveys():
    table = CalibrateTable(references={"high": {}}, bootstrap=30, knots=2)
    at = (np.array([4500.0, 5500.0, 6500.0]), np.full(3, 4.5))
    made = [
        fit_correction("fe_h", LabelData(references={"high": referred(200, seed=s)}), table, seed=s)
        for s in range(20)
    ]
    scatter = np.std([one(*at) for one in made], axis=0)
    stated = np.mean([np.interp(at[0], one.teff, one.error[0]) for one in made], axis=0)
    np.testing.assert_allclose(stated, scatter, rtol=0.5)  # 20 surveys know a scatter to 16 %
    assert MOST_ROWS > 1000


def test_two_measurements_in_different_bins_say_nothing_of_either_floor():
    rng = np.random.default_rng(2)
    two = np.ones((3000, 2))
    snr = rng.choice([20.0, 80.0], (3000, 2))
    value = np.where(snr < 50, 0.06, 0.02) * rng.normal(size=(3000, 2))
    repeats = Measured(5500 * two, 4.5 * two, snr, value, 0.01 * two)
    table = CalibrateTable(references={"high": {}}, bootstrap=5, snr_edges=(0.0, 50.0, 200.0))
    data = LabelData(repeats=repeats, references={"high": referred(100)})
    made = fit_correction("fe_h", data, table)
    wanted = np.sqrt(np.array([0.06, 0.02]) ** 2 - 0.01**2)
    np.testing.assert_allclose(made.floor[:2], wanted, rtol=0.1)
    assert made.floor[2] == made.floor[1]  # nobody that bright: the nearest bin's
    assert snr_bin([1e9], (0.0, 50.0, 200.0)).tolist() == [2]


def test_isochrones_lie_over_the_diagram_and_do_not_move_it(shared):
    grid = str(shared / "data" / "isochrones" / "dartmouth_dsep.h5")
    table = ReportTable(isochrones=grid, isochrone_gyr=5.0, isochrone_fe_h=(-1.0, 0.0))
    lines = isochrones(type("Run", (), {"report": table})())
    assert list(lines) == ["5 Gyr, [Fe/H] -1.00", "5 Gyr, [Fe/H] +0.00"]
    rng = np.random.default_rng(3)
    figure = figures.kiel_diagram(
        rng.uniform(4500, 6500, 50), rng.uniform(1, 4.5, 50), rng.normal(size=50)
    )
    before = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    with_isochrones(figure, lines)
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == before
    assert len(figure.axes[0].lines) == 4
    assert isochrones(type("Run", (), {"report": ReportTable()})()) == {}


def test_figures_of_nothing_say_so():
    empty = {name: np.zeros(0) for name in ("teff", "value", "kind")}
    figure = trend_with_data(empty, {}, title="t", unit="dex", what="w")
    assert figure.axes[0].texts[0].get_text() == "no star speaks of it"
    bars = {"repeats": (np.array([0.1, np.nan]), np.array([0.01, np.nan]))}
    drawn = error_floors((0.0, 50.0), bars, np.array([0.1, 0.1]), title="t", unit="dex")
    import io

    assert imread(io.BytesIO(figures.to_png(drawn))).shape[2] >= 3


def test_classes_have_names():
    assert class_names(1) == ("class 0",)
