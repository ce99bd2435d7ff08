"""Figures say what their arrays say, for any arrays, and touch nothing global."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy import stats

from scalespec import figures
from scalespec.figures.learning import learning_curve

RNG = np.random.default_rng(1)
NONE = np.full(4, np.nan)
WAVELENGTH = 10 ** (3.6 + 1e-4 * np.arange(400))


def texts(figure):
    """All words of a figure: titles, labels, notes."""
    found = [t.get_text() for axes in figure.axes for t in axes.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return " | ".join(found)


def drawn(figure):
    """The pixels of a figure; drawing must not fail."""
    return imread(io.BytesIO(figures.to_png(figure, dpi=60)))


def test_spread_is_median_and_robust_sigma():
    values = np.concatenate([RNG.normal(3.0, 2.0, 20_000), [1e9, np.nan, np.inf]])
    found = figures.spread(values)
    known = values[np.isfinite(values)]
    assert found.bias == np.median(known)
    # scipy's constant has more digits than 1.4826
    assert found.scatter == pytest.approx(stats.median_abs_deviation(known, scale="normal"), 1e-4)
    assert found.n == 20_001


def test_spread_of_nothing_is_nan():
    found = figures.spread(NONE)
    assert np.isnan(found.bias)
    assert found.n == 0


def test_one_to_one_states_prediction_minus_reference():
    reference = np.array([4000.0, 5000.0, 6000.0, np.nan])
    figure = figures.one_to_one(
        reference, reference + 50, name="Teff", unit="K", reference_name="APOGEE"
    )
    assert "bias +50, scatter 0 K, n = 3" in texts(figure)
    assert "APOGEE" in texts(figure)


def test_one_to_one_leaves_stars_outside_the_domain_out_of_its_statistics():
    reference = np.array([1.0, 2.0, 3.0, 4.0])
    value = reference + np.array([0.1, 0.1, 0.1, 3.0])
    apart = np.array([False, False, False, True])
    figure = figures.one_to_one(reference, value, name="log g", unit="dex", apart=apart)
    assert "bias +0.100, scatter 0.000 dex, n = 3 (+ 1 apart)" in texts(figure)


def test_one_to_one_of_stars_that_are_all_apart_says_so():
    one = np.array([1.0])
    figure = figures.one_to_one(one, one, name="a", unit="dex", apart=np.array([True]))
    assert "no trusted star (+ 1 apart)" in texts(figure)


def test_one_to_one_draws_every_star_of_a_few_with_its_error():
    reference = np.linspace(0, 1, 30)
    figure = figures.one_to_one(
        reference, reference, err=np.full(30, 0.1), name="[Fe/H]", unit="dex"
    )
    assert len(figure.axes[0].collections[0].get_segments()) == 30
    assert drawn(figure).std() > 0


def test_one_to_one_of_many_stars_is_a_density():
    reference = RNG.normal(size=figures.CROWD + 1)
    figure = figures.one_to_one(reference, reference + 0.1, name="[Fe/H]", unit="dex")
    counts = figure.axes[0].collections[0].get_array()
    assert counts.sum() > 0.9 * figures.CROWD  # the wildest percent lies outside the frame
    assert drawn(figure).std() > 0


def test_one_to_one_frames_both_panels_alike():
    reference = np.array([4000.0, 6000.0])
    figure = figures.one_to_one(reference, reference, name="Teff", unit="K")
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim() == figure.axes[1].get_xlim()


def test_kiel_diagram_reverses_both_axes():
    figure = figures.kiel_diagram(
        np.array([4000.0, 6000.0]), np.array([1.0, 4.5]), np.array([0.0, -1.0])
    )
    axes = figure.axes[0]
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_kiel_diagram_of_very_many_stars_is_binned():
    n = 4 * figures.CROWD + 1
    figure = figures.kiel_diagram(RNG.normal(5e3, 500, n), RNG.normal(3, 1, n), RNG.normal(size=n))
    assert drawn(figure).std() > 0


def test_pull_histograms_state_the_robust_sigma_of_each_label():
    pulls = {"teff": RNG.normal(0, 2, 4000), "logg": RNG.normal(0, 1, 4000), "fe_h": NONE}
    figure = figures.histograms(pulls, what="pull")
    wanted = figures.spread(pulls["teff"]).scatter
    assert f"scatter {wanted:.2f} σ, n = 4,000" in texts(figure)
    assert "no star has both" in texts(figure)


def test_a_pull_histogram_and_its_curve_have_unit_area():
    figure = figures.histograms({"teff": RNG.normal(size=4000)}, what="pull")
    axes = figure.axes[0]
    grid, curve = axes.lines[1].get_data()
    # N(0, 1) holds all but 6e-7 within 5 sigma; the trapezoid rule adds less than that
    assert np.trapezoid(curve, grid) == pytest.approx(1, abs=1e-5)
    area = sum(patch.get_width() * patch.get_height() for patch in axes.patches)
    assert area == pytest.approx(1, abs=1e-9)


def test_wild_pulls_lower_the_histogram_and_not_only_its_title():
    figure = figures.histograms({"teff": np.array([0.0, 100.0])}, what="pull")
    area = sum(patch.get_width() * patch.get_height() for patch in figure.axes[0].patches)
    assert area == pytest.approx(0.5)


def test_residual_histograms_have_a_panel_per_label():
    residuals = {name: RNG.normal(size=50) for name in ("a", "b", "c", "d")}
    figure = figures.histograms(residuals, units={"a": "K"})
    assert "residual of a [K]" in texts(figure)
    assert sum(axes.axison for axes in figure.axes) == 4


def test_spectrum_fit_shows_residuals_in_sigma_where_pixels_count():
    flux = np.ones(400, np.float32)
    ivar = np.full(400, 100.0, np.float32)
    ivar[50:80] = 0
    figure = figures.spectrum_fit(WAVELENGTH, flux, ivar, flux + 0.2, title="a star")
    pull = figure.axes[1].lines[-1].get_ydata()
    np.testing.assert_allclose(pull[ivar > 0], 2.0, rtol=1e-5)  # float32
    assert np.isnan(pull[50:80]).all()
    assert len(figure.axes[0].patches) == 1  # one grey run of pixels
    assert "a star" in texts(figure)


@pytest.mark.parametrize("ivar", [np.zeros(400), np.ones(400)])
def test_spectrum_without_a_fit_says_so(ivar):
    figure = figures.spectrum_fit(WAVELENGTH, np.ones(400), ivar, None)
    assert "no fit" in texts(figure)
    assert drawn(figure).std() > 0


def test_masked_pixels_at_both_ends_are_greyed():
    ivar = np.ones(400)
    ivar[[0, -1]] = 0
    figure = figures.spectrum_fit(WAVELENGTH, np.ones(400), ivar, np.ones(400))
    assert len(figure.axes[0].patches) == 2


def test_mean_residual_keeps_the_common_error_in_view():
    residual = np.full(400, np.nan)
    residual[100:300] = 0.02
    figure = figures.mean_residual(WAVELENGTH, residual, np.full(400, 0.001))
    assert figure.axes[0].get_ylim()[1] > 0.02
    assert drawn(figure).std() > 0


def test_spectrum_fit_shows_the_lines_that_are_on_its_grid():
    wavelength = np.linspace(5100.0, 6700.0, 3000)
    one = np.ones(3000)
    figure = figures.spectrum_fit(wavelength, one, one, one)
    assert [axes.get_title(loc="left") for axes in figure.axes[2:]] == ["Mg b", "Hα"]
    assert drawn(figure).std() > 0


def test_learning_curve_draws_the_points_that_were_validated():
    history = [{"step": i, "validation_rms": 0.1 / (i + 1)} for i in range(5)]
    line = learning_curve([*history, {"step": 5}]).axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert line.get_ydata().tolist() == [point["validation_rms"] for point in history]


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (lambda: figures.kiel_diagram(NONE, NONE, NONE), "no star has labels"),
        (lambda: figures.one_to_one(NONE, NONE, name="a", unit=""), "no star has both"),
        (lambda: figures.histograms({"a": NONE}), "no star has both"),
        (lambda: figures.histograms({"a": NONE}, what="pull"), "no star has both"),
        (lambda: figures.mean_residual(NONE, NONE, NONE), "no star was fitted"),
        (lambda: learning_curve([]), "no history"),
    ],
)
def test_a_figure_of_nothing_says_so(figure, said):
    made = figure()
    assert said in texts(made)
    assert drawn(made).std() > 0


def test_one_star_alone_can_be_drawn():
    one = np.array([5000.0])
    for figure in (
        figures.kiel_diagram(one, one, one),
        figures.one_to_one(one, one, name="Teff", unit="K"),
        figures.histograms({"a": one}),
        figures.histograms({"a": one}, what="pull"),
    ):
        assert drawn(figure).std() > 0


def test_the_same_arrays_give_the_same_bytes():
    made = [figures.to_png(figures.histograms({"a": np.arange(9.0)})) for _ in range(2)]
    assert made[0] == made[1]


def test_the_callers_style_neither_matters_nor_changes():
    plain = figures.to_png(learning_curve([]))
    with mpl.rc_context({"font.size": 30, "axes.grid": True}):
        styled = learning_curve([])
        assert mpl.rcParams["font.size"] == 30
    assert isinstance(styled, Figure)
    assert figures.to_png(styled) == plain
