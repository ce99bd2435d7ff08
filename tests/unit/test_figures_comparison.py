"""Figures of comparisons: what they show, read back from the figures themselves."""

import numpy as np
import pytest

from scalespec.figures import comparison as figures
from scalespec.figures import to_png


def _axes(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


@pytest.mark.parametrize("n", [200, 5000], ids=["points", "density"])
def test_panels_say_each_models_error(n):
    rng = np.random.default_rng(1)
    truth = rng.uniform(4000, 7000, n)
    models = {name: (truth, truth + rng.normal(0, s, n)) for name, s in (("a", 50), ("b", 100))}
    figure = figures.one_to_one_panels(models, name="Teff", unit="K")
    titles = [axes.get_title(loc="left") for axes in _axes(figure)[:2]]
    for title, (name, (x, y)) in zip(titles, models.items(), strict=True):
        assert title == f"{name}\nMAE {np.abs(y - x).mean():.0f} K"
    limits = {axes.get_ylim() for axes in _axes(figure)[:2]}
    assert len(limits) == 1
    assert to_png(figure).startswith(b"\x89PNG")


def test_panels_of_nothing_known_are_drawn():
    empty = {"a": (np.full(3, np.nan), np.full(3, np.nan))}
    assert to_png(figures.one_to_one_panels(empty, name="x", unit=""))
    assert to_png(figures.one_to_one_panels({}, name="x", unit=""))


def test_bars_stand_where_the_errors_are():
    scores = {"Teff": {"a": (80.0, 75.0, 85.0), "b": (90.0, np.nan, np.nan)}}
    (axes,) = _axes(figures.score_bars(scores, {"Teff": "K"}))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert axes.lines[0].get_xdata().tolist() == [80.0, 90.0]
    assert axes.get_xlabel() == "MAE Teff [K]"


def test_bars_of_many_labels_stand_in_rows_of_four():
    scores = {f"label {k}": {"a": (1.0 + k, 0.5, 1.5)} for k in range(7)}
    figure = figures.score_bars(scores, {})
    assert figure.get_figwidth() == pytest.approx(4 * 3.4)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in shown] == [f"MAE label {k}" for k in range(7)]
    assert shown[4].get_position().y0 < shown[3].get_position().y0


def test_matrices_are_written_out():
    matrix = np.array([[1.0, 0.25], [-0.5, 0.75]])
    axes = _axes(figures.leakage_panels({"a": matrix}, ["p", "q"], ["r", "s"]))[0]
    assert [text.get_text() for text in axes.texts] == ["1.00", "0.25", "-0.50", "0.75"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["r", "s"]


def test_shares_of_lines_add_up_to_all():
    values = np.array([[3.0, 0.0], [1.0, 5.0]])
    axes = _axes(figures.attribution_panels({"a": values}, ["H", "Fe"], ["p", "q"]))[0]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "100"]
    np.testing.assert_allclose(axes.images[0].get_array().sum(axis=0), 1.0)


def test_the_threshold_in_use_is_marked():
    curve = np.linspace(0, 1, 5), np.linspace(1, 0, 5)
    (axes,) = _axes(figures.purity_figure({"0.002": curve}, (0.7, 0.4), title="VMP"))
    marked = axes.lines[-1]
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == (0.7, 0.4)


def test_reliability_is_drawn_with_the_number_of_stars():
    p = np.array([0.1, 0.9])
    (axes,) = _axes(figures.reliability_figure(p, p, (p - 0.05, p + 0.05), np.array([1234, 7])))
    assert [text.get_text() for text in axes.texts] == ["1,234", "7"]
    none = np.zeros(0)
    (empty,) = _axes(figures.reliability_figure(none, none, (none, none), np.zeros(0, int)))
    assert "no star" in empty.texts[0].get_text()
