"""The figure of agreement: what it states is what the numbers are, on axes all panels share."""

import numpy as np
import pytest

from scalespec.figures import spread, to_png
from scalespec.figures.agreement import agreement

RNG = np.random.default_rng(0)


def source(n, bias, scatter):
    x = RNG.uniform(-0.5, 1.0, n)
    return x, bias + 0.1 * x + RNG.normal(0, scatter, n)


def drawn(**residuals):
    return agreement(residuals, name="[C/Fe]", unit="dex", reference="high")


def test_titles_state_bias_scatter_and_number():
    residuals = {"a": source(300, 0.02, 0.05), "b": source(60, 0.3, 0.1)}
    figure = drawn(**residuals)
    for axes, (name, (_, y)) in zip(figure.axes, residuals.items(), strict=True):
        found = spread(y)
        expected = f"{name}\nbias {found.bias:+.3g}, scatter {found.scatter:.3g} dex, n = {len(y)}"
        assert axes.get_title("left") == expected


def test_panels_share_axes_that_show_nearly_all_stars_and_zero():
    figure = drawn(a=source(300, 0.5, 0.05), b=source(300, 0.8, 0.05))
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim()
    low, high = first.get_ylim()
    assert low <= 0 < 0.9 < high


def test_the_running_median_follows_the_residuals():
    x, y = source(1000, 0.0, 0.01)
    (median,) = [line for line in drawn(a=(x, y)).axes[0].lines if len(line.get_xdata()) > 2]
    # 0.1 x, by bins of 83 stars: 0.01 / sqrt(83) * 1.25, four times
    np.testing.assert_allclose(median.get_ydata(), 0.1 * np.array(median.get_xdata()), atol=0.006)


@pytest.mark.parametrize("n", [0, 1, 10])
def test_few_stars_are_drawn_without_a_median(n):
    figure = drawn(a=source(n, 0.0, 0.1))
    assert to_png(figure).startswith(b"\x89PNG")
    assert ("no star in common" in figure.axes[0].get_title("left")) == (n == 0)
