"""The map of trust: every number is where it belongs."""

import numpy as np
import pytest

from scalespec.figures import to_png
from scalespec.figures.trust import trust_map

LABELS = ["teff", "logg", "mg_fe"]
RNG = np.random.default_rng(3)
FLUX = RNG.uniform(0, 0.01, (3, 4))
SLOPES = RNG.uniform(0, 0.6, (3, 4, 3))


def drawn():
    trust = {"labels": LABELS, "flux_rms_by_region": FLUX.tolist()}
    return trust_map(trust | {"gradient_error_by_region": SLOPES.tolist()}, title="a student")


def numbers(axes):
    """Return what is written in each cell, by row and column."""
    return {tuple(map(int, text.get_position()[::-1])): text for text in axes.texts}


def test_flux_errors_stand_by_label_and_part():
    figure = drawn()
    left, _ = figure.axes
    found = numbers(left)
    assert len(found) == 12
    for (i, k), text in found.items():
        assert text.get_text() == f"{100 * FLUX[i, k]:.2f}"
    assert [tick.get_text() for tick in left.get_yticklabels()] == LABELS
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1/4", "2/4", "3/4", "4/4"]
    assert left.get_title(loc="left") == "flux rms [%]"
    assert figure.get_suptitle() == "a student"


def test_derivatives_are_those_of_the_worst_part():
    _, right = drawn().axes
    worst = np.maximum.reduce([SLOPES[:, b] for b in range(4)])
    for (i, k), text in numbers(right).items():
        assert text.get_text() == f"{100 * worst[i, k]:.0f}"


def test_what_is_distrusted_is_in_the_upper_half_of_the_colors():
    left, right = drawn().axes
    for axes, limit in ((left, 0.5), (right, 25.0)):
        image = axes.images[0]
        assert image.norm(limit) == pytest.approx(0.5)


def test_the_same_report_gives_the_same_picture():
    assert to_png(drawn(), dpi=40) == to_png(drawn(), dpi=40)


def test_no_label_is_refused():
    with pytest.raises(ValueError, match="at least one label"):
        trust_map({"labels": []})
