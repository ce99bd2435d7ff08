"""What a page says of a model's own spectra: lines at their places, families along labels."""

import numpy as np
import pytest

from scalespec.figures import to_png
from scalespec.figures.model_spectra import (
    Close,
    close_gradients,
    offset_spectra,
    scatter_spectrum,
)
from scalespec.kernels.linenames import KnownLines
from scalespec.stages.mock_spectra import load_lines
from scalespec.stages.model_spectra import giant_branch, line_offsets, strongest_lines, unblended

WAVELENGTH = 10 ** (4.179 + 6e-6 * np.arange(2000))
POWER = 22_500.0


def dip(center, depth):
    sigma = center / POWER / 2.3548
    return -depth * np.exp(-0.5 * ((WAVELENGTH - center) / sigma) ** 2)


def test_peaks_of_lines_are_found_between_pixels():
    places = (15160.03, 15200.11, 15300.07)
    curve = sum(dip(place, 0.2 + 0.1 * k) for k, place in enumerate(places))
    known = KnownLines(np.array(places), ("Mg I", "Si I", "Fe I"), np.zeros(3))
    found = line_offsets(WAVELENGTH, curve, known, POWER)
    assert [name for *_, name in found] == ["Mg I", "Si I", "Fe I"]
    for line, peak, _ in found:
        assert abs(peak - line) < 0.02  # a tenth of a pixel: a Gaussian is nearly a parabola


def test_lines_of_air_stand_off_by_what_a_resolution_element_allows():
    """A line list in air looks 4 Å to the blue: there is no peak, and the offset is at its most."""
    curve = dip(15200.11, 0.3) + dip(15196.5, 0.01)
    known = KnownLines(np.array([15200.11 - 4.15]), ("Si I",), np.zeros(1))
    (line, peak, _) = line_offsets(WAVELENGTH, curve, known, POWER)[0]
    assert abs(peak - line) > 0.3


def test_of_two_lines_within_a_blend_the_stronger_is_taken():
    curve = dip(15200.0, 0.3)
    known = KnownLines(np.array([15200.0, 15201.0]), ("Si I", "Fe I"), np.zeros(2))
    assert [name for *_, name in line_offsets(WAVELENGTH, curve, known, POWER)] == ["Si I"]


@pytest.mark.parametrize(
    ("place", "name"),
    # NIST, vacuum
    [
        (16811.1, "H Br11"),
        (15745.02, "Mg I"),
        (15753.29, "Mg I"),
        (15892.77, "Si I"),
        (15964.42, "Si I"),
    ],
)
def test_strong_lines_of_the_h_band_are_among_the_strongest(place, name):
    strong = strongest_lines(load_lines(), (15150.0, 16950.0))
    assert (np.diff(strong.wavelength) >= 0).all()
    assert strong.name_at(place, 0.1) == name


def test_blended_lines_are_left_out():
    lines = load_lines()
    places = np.array([15753.266, 15745.017])  # Fe I 15746.22 is 1.7 resolution elements off
    names = ("Mg I", "Mg I")
    order = np.argsort(places)
    known = KnownLines(places[order], names, np.zeros(2))
    assert unblended(known, lines, POWER).wavelength.tolist() == [15753.266]
    assert len(unblended(known, lines, 10 * POWER)) == 2


def test_up_the_giant_branch_stars_grow_and_cool():
    made = giant_branch(
        ("teff", "logg", "fe_h", "mg_fe", "vmic"), np.array([4600, 2, -0.3, 0.2, 1.5])
    )
    assert (np.diff(made[:, 0]) < 0).all()
    assert (np.diff(made[:, 1]) < 0).all()
    assert (made[:, 2:4] == 0).all()
    assert (made[:, 4] == 1.5).all()


def panels(figure):
    return [axes for axes in figure.axes if axes.axison]


def test_scatter_is_drawn_without_what_was_never_learned():
    scatter = 0.01 - 0.1 * dip(15200.0, 0.3)
    scatter[500:700] = np.nan
    figure = scatter_spectrum(WAVELENGTH, 1 + dip(15200.0, 0.3), scatter, named=[(15200.0, "Si I")])
    flux, below = panels(figure)
    assert np.isnan(flux.lines[0].get_ydata()[500:700]).all()
    assert below.get_ylim()[1] < 0.06
    assert "Si I" in [text.get_text() for text in below.texts]
    assert to_png(figure) == to_png(figure)


def test_a_model_without_scatter_says_so():
    figure = scatter_spectrum(WAVELENGTH, np.ones(2000), np.zeros(2000))
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "the model has no scatter of its own" in said


def test_lines_at_large_are_drawn_at_their_places():
    here = np.abs(WAVELENGTH - 15200) < 8
    one = Close("[Si/Fe]", "dex", WAVELENGTH[here], dip(15200.0, 0.3)[here], [(15200.0, "Si I")])
    figure = close_gradients([[one, one], [one]])
    drawn = panels(figure)
    assert len(drawn) == 3  # the fourth place stays empty
    assert drawn[0].lines[-1].get_xdata()[0] == 15200.0
    assert drawn[0].texts[0].get_text() == " Si I 15200.00"


def test_spectra_stand_one_above_another():
    spectra = np.stack([1 + dip(15200.0, d) for d in (0.1, 0.2, 0.3)])
    values = np.array([-1.0, 0.0, 0.5])
    figure = offset_spectra(WAVELENGTH, spectra, values, name="[Fe/H]", named=[(15200.0, "Si I")])
    axes = panels(figure)[0]
    levels = [line.get_ydata()[0] for line in axes.lines[:3]]
    assert np.allclose(np.diff(levels), 0.25)
    assert [t.get_text() for t in axes.texts][:3] == ["-1.00", "+0.00", "+0.50"]
