"""Labels of a synthesis: ranges, refusals, abundances."""

import numpy as np
import pytest

from scalespec.models.gas import SYMBOLS
from scalespec.models.starlabels import LIMITS, abundance_matrix, check_labels, label_box


def test_the_box_is_that_of_all_stars():
    names = ("teff", "logg", "fe_h", "vmic", "vsini", "he_h", "ba_fe")
    assert label_box(names, None)[:, 0].tolist() == [3800.0, 0.0, -4.0, 0.5, 0.0, -1.0, -1.5]
    assert LIMITS["teff"] == (3800.0, 30000.0)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"teff": (3000.0, 5000.0)}, "3800"),  # wider than may be
        ({"teff": (5000.0, 4000.0)}, "5000"),  # empty
        ({"vsini": (0.0, 10.0)}, "vsini"),  # of no label
    ],
)
def test_wrong_ranges_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        label_box(("teff", "logg", "fe_h"), limits)


@pytest.mark.parametrize("name", ["he_fe", "h_fe", "xx_fe", "mg_h"])
def test_unknown_labels_are_refused(name):
    with pytest.raises(ValueError, match=name):
        check_labels(("teff", "logg", "fe_h", name))


def test_elements_follow_iron_unless_named():
    matrix = abundance_matrix(("teff", "fe_h", "mg_fe", "he_h"))
    added = np.array([5000.0, -1.0, 0.4, 0.2]) @ matrix
    expected = {"H": 0.0, "He": 0.2, "Mg": -0.6}
    for i, symbol in enumerate(SYMBOLS):
        assert added[i] == pytest.approx(expected.get(symbol, -1.0)), symbol
