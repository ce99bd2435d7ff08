"""Figures of spectra before and after, and of what a survey holds, show what their arrays say."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from scalespec import figures
from scalespec.figures import spectra as figures_spectra
from scalespec.figures.spectra import Curve

WAVELENGTH = np.linspace(4000.0, 6000.0, 200)
FLUX = 10 + np.sin(WAVELENGTH / 50)
IVAR = np.full(200, 4.0)


def drawn(figure):
    return imread(io.BytesIO(figures.to_png(figure, dpi=60)))


def texts(figure):
    found = [t.get_text() for axes in figure.axes for t in axes.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return " | ".join(found)


def curve(name="", **changes):
    values = {"wavelength": WAVELENGTH, "flux": FLUX, "ivar": IVAR} | changes
    return Curve(**values, name=name)


def test_before_and_after_share_their_wavelengths_and_name_their_units():
    lower = curve(wavelength=WAVELENGTH - 1500, flux=FLUX / 10)
    figure = figures_spectra.before_after(
        [curve()], lower, title="star", units=("relative", "continuum")
    )
    top, below = figure.axes
    assert top.get_xlim() == below.get_xlim() == (2500.0, 6000.0)
    assert "before: relative" in texts(figure)
    assert "after: continuum" in texts(figure)
    assert drawn(figure).std() > 0


def test_the_band_is_one_sigma_to_either_side():
    figure = figures_spectra.before_after([curve()], curve())
    band = figure.axes[0].collections[0].get_datalim(figure.axes[0].transData)
    assert band.y0 == pytest.approx(FLUX.min() - 0.5)  # ivar 4
    assert band.y1 == pytest.approx(FLUX.max() + 0.5)


def test_pixels_without_information_are_not_drawn_but_greyed():
    ivar = IVAR.copy()
    ivar[50:80] = 0
    flux = np.where(ivar > 0, FLUX, 1e9)
    figure = figures_spectra.before_after([curve(ivar=ivar, flux=flux)], curve())
    line = figure.axes[0].lines[0].get_ydata()
    assert np.isnan(line[50:80]).all()
    assert np.isfinite(line[:50]).all()
    assert len(figure.axes[0].patches) == 1
    assert figure.axes[0].get_ylim()[1] < 100


def test_arms_are_drawn_in_colors_of_their_own_and_named():
    arms = [curve(name, wavelength=WAVELENGTH + 1000 * k) for k, name in enumerate("brz")]
    figure = figures_spectra.before_after(arms, curve())
    top = figure.axes[0]
    assert len({line.get_color() for line in top.lines}) == 3
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["b", "r", "z"]


def test_gratings_that_were_simulated_are_named_at_their_limits():
    bands = {"GU": (3000.0, 4000.0), "GV": (4000.0, 6200.0)}
    figure = figures_spectra.before_after([curve()], curve(), bands=bands)
    words = [text.get_text().strip() for text in figure.axes[1].texts]
    assert words == ["GU", "GV"]


def test_a_spectrum_without_information_says_so():
    empty = curve(ivar=np.zeros(200))
    figure = figures_spectra.before_after([empty], empty)
    assert texts(figure).count("no pixel holds information") == 2
    assert drawn(figure).std() > 0


def test_bars_of_snr_are_as_high_as_their_counts():
    edges, counts = np.array([0.0, 1.0, 2.0, 4.0]), np.array([3, 0, 5, 7])
    figure = figures_spectra.snr_histogram(edges, counts)
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == counts.tolist()
    # The bins without a beginning or an end are as wide, on the logarithm, as the last with both.
    assert bars[0].get_x() == pytest.approx(0.5)
    assert bars[3].get_x() + bars[3].get_width() == pytest.approx(8.0)
    assert drawn(figure).std() > 0


def test_no_spectrum_has_no_distribution():
    figure = figures_spectra.snr_histogram(np.array([0.0, 1.0, 2.0]), np.zeros(3, int))
    assert "no spectrum" in texts(figure)


def means(n_class, coverage=1.0):
    mean = np.ones((n_class, 200))
    names = [f"class {k}" for k in range(n_class)]
    return figures_spectra.class_means(
        WAVELENGTH,
        mean,
        0.1 * mean,
        np.broadcast_to(coverage, mean.shape),
        names=names,
        rows=[10 * (k + 1) for k in range(n_class)],
    )


def test_each_class_has_its_line_above_the_one_before():
    figure = means(3)
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines]
    assert levels == [1.0, 1.6, 2.2]
    assert "class 2  (30)" in texts(figure)
    assert drawn(figure).std() > 0


def test_of_many_classes_the_frequent_ones_are_drawn():
    figure = means(12)
    assert len(figure.axes[0].lines) == figures_spectra.MOST_CLASSES
    assert "class 11" in texts(figure)
    assert "class 3 " not in texts(figure)


def test_a_class_without_information_takes_no_place():
    coverage = np.array([[0.0], [1.0]]) * np.ones(200)
    figure = means(2, coverage)
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [1.0]
    assert "class 1" in texts(figure)
    assert "class 0" not in texts(figure)


def test_a_mean_of_few_stars_is_left_out():
    coverage = np.where(np.arange(200) < 100, 1.0, 0.01)
    line = means(1, coverage).axes[0].lines[0].get_ydata()
    assert np.isfinite(line[:100]).all()
    assert np.isnan(line[100:]).all()
    assert "no pixel holds information" in texts(means(1, 0.0))


def test_components_say_their_part_of_the_variance():
    vectors = np.eye(6, 200)
    figure = figures_spectra.components(WAVELENGTH, vectors, np.array([0.5, 0.25, *[0.05] * 4]))
    assert "component 1: 50.0 % of the variance" in texts(figure)
    assert len(figure.axes) == figures_spectra.COMPONENTS
    assert "no component" in texts(figures_spectra.components(WAVELENGTH, vectors[:0], np.ones(0)))
