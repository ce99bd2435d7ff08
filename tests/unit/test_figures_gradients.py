"""Figures of derivatives: what is drawn and what is said beside it."""

import numpy as np
import pytest

from scalespec.figures import to_png
from scalespec.figures.gradients import Gradients, agreement, gradient_spectra

WAVELENGTH = np.linspace(5000.0, 5100.0, 200)
TRUTH = -np.exp(-0.5 * ((WAVELENGTH - 5050) / 2) ** 2)


def row(label="Ba/M"):
    models = {"with": 0.9 * TRUTH, "without": np.roll(TRUTH, 60)}
    return Gradients(label, WAVELENGTH, TRUTH, models)


def texts(figure):
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_error_and_correlation_are_those_of_the_arrays():
    error, correlation = agreement(0.9 * TRUTH, TRUTH)
    assert error == pytest.approx(0.1)
    assert correlation == pytest.approx(1.0)
    found = TRUTH + 0.3 * np.random.default_rng(0).normal(size=200)
    assert agreement(found, TRUTH)[1] == pytest.approx(np.corrcoef(found, TRUTH)[0, 1])


def test_a_derivative_that_is_nothing_has_no_relative_error():
    assert np.isnan(agreement(TRUTH, 0 * TRUTH)).all()


def test_each_label_has_a_panel_that_says_how_far_models_are_off():
    figure = gradient_spectra([row(), row("Nd/M")], title="a star")
    assert len(figure.axes) == 2
    assert "with: error 10 %, correlation 1.00" in texts(figure)
    assert "without: error 14" in texts(figure)  # two lines apart: sqrt(2)
    assert figure.axes[0].get_title(loc="left") == "a star"
    assert len(figure.axes[0].get_lines()) == 2
    assert to_png(figure)[:4] == b"\x89PNG"


def test_panels_follow_the_truth_not_what_a_bad_model_makes_of_it():
    wild = Gradients("C/M", WAVELENGTH, TRUTH, {"wild": 50 * TRUTH})
    low, high = gradient_spectra([wild]).axes[0].get_ylim()
    assert low == pytest.approx(1.25 * TRUTH.min())
    assert 0 < high < 1


def test_a_flat_truth_can_be_drawn():
    flat = Gradients("C/M", WAVELENGTH, 0 * TRUTH, {"model": 0 * TRUTH})
    assert to_png(gradient_spectra([flat]))[:4] == b"\x89PNG"


def test_no_label_is_refused():
    with pytest.raises(ValueError, match="at least one label"):
        gradient_spectra([])
