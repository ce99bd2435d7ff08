"""What is drawn of ages, velocities, learning and derivatives is what was given."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from scalespec import figures
from scalespec.figures import findings
from scalespec.figures.learning import learning_curve, search_outcomes
from scalespec.figures.lines import Panel, line_gradients


def seen(figure):
    """Draw, and see that there is something."""
    pixels = imread(io.BytesIO(figures.to_png(figure, dpi=50)))
    assert pixels.std() > 0
    return figure


def test_only_dated_stars_are_drawn_and_brighter_ones_are_higher():
    rng = np.random.default_rng(0)
    teff, height = rng.uniform(5000, 6500, 50), rng.uniform(1, 4, 50)
    age = np.where(np.arange(50) < 30, 5.0, np.nan)
    iron = np.where(np.arange(50) < 20, -0.5, np.nan)
    figure = seen(findings.age_planes(teff, height, iron, age, height_name="M_K"))
    diagram, plane, ages = figure.axes[:3]
    assert len(diagram.collections[0].get_offsets()) == 30
    assert diagram.yaxis_inverted()
    assert diagram.xaxis_inverted()
    assert len(plane.collections[0].get_offsets()) == 20
    assert sum(patch.get_height() for patch in ages.patches) == 30


def test_a_crowd_of_dated_stars_is_a_density():
    n = figures.CROWD + 1
    values = np.random.default_rng(0).normal(0, 1, (4, n))
    figure = findings.age_planes(*values[:3], 5 + values[3], height_name="log g")
    assert type(figure.axes[1].collections[0]).__name__ == "PolyCollection"


def test_no_dated_star_is_said():
    none = np.full(3, np.nan)
    figure = seen(findings.age_planes(none, none, none, none, height_name="log g"))
    assert figure.axes[0].texts[0].get_text() == "no star has an age"


def test_the_line_of_constant_stars_is_that_of_the_upper_half():
    counts = np.full(findings.P_BINS, 40)
    counts[0] = 900
    error = np.geomspace(1, 5, 60)
    p = np.where(np.arange(60) < 5, 1e-9, 0.4)
    figure = seen(findings.variable_velocities(counts, error, 2 * error, p, sure=1e-3))
    left, right = figure.axes
    assert left.lines[0].get_ydata()[0] == 40
    assert left.get_yscale() == "symlog"
    assert [len(one.get_offsets()) for one in right.collections] == [55, 5]
    even = findings.variable_velocities(counts * 0 + 40, error, error, p, sure=1e-3)
    assert even.axes[0].get_yscale() == "linear"


def test_no_repeats_are_said():
    none = np.zeros(0)
    counts = np.zeros(findings.P_BINS, int)
    figure = seen(findings.variable_velocities(counts, none, none, none, sure=1e-3))
    assert figure.axes[0].texts[0].get_text() == "no star was seen twice"


def test_a_distribution_shows_all_but_the_wildest():
    values = np.append(np.linspace(0, 1, 1000), [np.nan, 1e9])
    figure = seen(findings.distribution(values, name="x", unit="mag"))
    axes = figure.axes[0]
    assert axes.get_xlabel() == "x [mag]"
    shown = sum(patch.get_height() for patch in axes.patches)
    assert 990 <= shown <= 1000
    assert axes.get_xlim()[1] < 2
    same = findings.distribution(np.full(9, 0.3), name="x", log=True)
    assert sum(patch.get_height() for patch in same.axes[0].patches) == 9
    empty = findings.distribution(np.full(9, np.nan), name="x")
    assert empty.axes[0].texts[0].get_text() == "no star has one"


# --- learning


def test_training_is_drawn_as_a_root_mean_square_beside_validation():
    history = [{"step": i, "learning_rate": 0.0, "validation_rms": 0.1} for i in range(3)]
    history += [
        {"step": i, "learning_rate": 1e-3, "loss": 0.04, "validation_rms": 0.3} for i in range(3, 8)
    ]
    figure = seen(learning_curve(history))
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["training"].get_ydata(), 0.2)
    assert lines["training"].get_xdata().tolist() == [4, 5, 6, 7, 8]
    assert len(lines["validation"].get_xdata()) == 8
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [3.5]


def test_a_prior_has_its_panel():
    history = [
        {"step": i, "learning_rate": 1e-3, "loss": 0.1, "validation_rms": 0.1,
         "gradient_loss": 0.25, "gradient_error": 0.6, "gradient_weight": 1.0}
        for i in range(4)
    ]  # fmt: skip
    figure = seen(learning_curve(history))
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "rms residual of flux",
        "gradients' relative error",
    ]
    training = next(line for line in figure.axes[1].lines if line.get_label() == "training")
    np.testing.assert_allclose(training.get_ydata(), 0.5)


def test_a_regressor_shows_its_loss_as_it_is_and_may_be_below_zero():
    history = [
        {"epoch": float(i), "learning_rate": 1e-3, "loss": 1.0 - i, "validation_error": 0.1}
        for i in range(4)
    ]
    figure = seen(learning_curve(history))
    assert [axes.get_ylabel() for axes in figure.axes] == ["error of scaled labels", "loss"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [1.0, 0.0, -1.0, -2.0]


def test_each_number_that_was_searched_has_its_panel_and_failures_none():
    trials = [
        {"validation_rms": 0.02, "settings": {}},
        {"validation_rms": 0.01, "settings": {"learning_rate": 1e-4, "hidden": 64, "a": True}},
        {"validation_rms": 0.03, "settings": {"learning_rate": 1e-2, "hidden": 300, "a": False}},
        {"validation_rms": None, "settings": {"learning_rate": 1.0, "hidden": 64}},
    ]
    figure = seen(search_outcomes(trials))
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels] == ["hidden", "learning_rate"]
    assert [axes.get_xscale() for axes in panels] == ["linear", "log"]
    offsets = panels[1].collections[0].get_offsets()
    np.testing.assert_allclose(offsets, [[1e-4, 0.01], [1e-2, 0.03]])
    np.testing.assert_allclose(panels[1].collections[1].get_offsets(), [[1e-4, 0.01]])


# --- derivatives


@pytest.mark.parametrize("sign", [1, -1])
def test_a_named_line_stands_beyond_the_curve(sign):
    grid = np.linspace(4000, 5000, 500)
    curve = sign * np.exp(-0.5 * ((grid - 4500) / 20) ** 2)
    panel = Panel("[Mg/Fe]", "dex", {"dwarf": curve}, np.array([4500.0]), [(4500.0, "Mg I")])
    figure = seen(line_gradients(grid, [panel, panel]))
    assert len(figure.axes) == 2
    (text,) = figure.axes[0].texts
    assert text.get_text() == "Mg I"
    assert text.get_va() == ("bottom" if sign > 0 else "top")
    low, high = figure.axes[0].get_ylim()
    assert low < text.xy[1] < high


def test_curves_of_gains_fall_from_all_stars_to_the_last():
    rng = np.random.default_rng(1)
    single, stars = rng.chisquare(2, 5000), rng.chisquare(2, 300) * 3
    figure = findings.gains(single, stars, threshold=13.8, rate=0.001)
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    drawn = lines["mock single stars"]
    assert drawn[0, 0] == single.max()
    assert drawn[0, 1] == pytest.approx(1 / 5000)
    at = np.interp(2.0, drawn[::-1, 0], drawn[::-1, 1])
    assert at == pytest.approx((single > 2).mean(), abs=0.01)
    assert (
        findings.gains(single[:0], stars, threshold=1.0, rate=0.1).axes[0].texts
    )  # says why it is empty
