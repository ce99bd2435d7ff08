"""Line constants and the gathering of all that absorbs."""

import math
from dataclasses import replace

import numpy as np
import pytest

from scalespec.models.gas import ELEMENTS, SYMBOLS
from scalespec.models.lines import LineList, gather
from scalespec.models.molecules import BANDED


def sodium() -> LineList:
    return LineList(
        np.array([5891.583, 5897.558]),
        ("Na", "Na"),
        np.array([1, 1]),
        np.array([0.0, 0.0]),
        np.array([0.108, -0.194]),
    )


def atoms(lines: LineList):
    found = gather(lines, 5880.0, 5910.0, 5e-4)
    return found.take(found.species == 2 * SYMBOLS.index("Na"))


def test_what_is_left_out_is_one_line_without_spread():
    lines = sodium()
    assert lines.count.tolist() == [1.0, 1.0]
    assert lines.spread.tolist() == [0.0, 0.0]
    assert lines.take(np.array([1])).log_gf.tolist() == [-0.194]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"element": ("Na",)}, "columns of lines differ in length"),
        ({"log_gf": np.zeros(3)}, "'log_gf': 3"),
        ({"count": np.ones(1)}, "'count': 1"),
        ({"ion_stage": np.array([1, 3])}, r"ion stages \[3\]"),
        ({"ion_stage": np.array([0, 1])}, r"ion stages \[0\]"),
    ],
)
def test_columns_that_are_no_lines_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(sodium(), **change)


def test_lines_can_be_taken_in_any_order_and_none_at_all():
    lines = sodium()
    swapped = lines.take(np.array([1, 0]))
    assert swapped.wavelength.tolist() == [5897.558, 5891.583]
    assert swapped.element == ("Na", "Na")
    none = lines.take(np.zeros(0, int))
    assert none.element == ()
    found = gather(none, 5880.0, 5910.0, 5e-4)
    assert not np.any(found.species == 2 * SYMBOLS.index("Na"))


def test_natural_widths_are_those_of_a_classical_oscillator():
    # gamma = 8 pi² e² / (3 m c lambda²), Gray 2005, eq. 11.13
    expected = 8 * math.pi**2 * 4.80320e-10**2 / (3 * 9.10938e-28 * 2.99792458e10)
    found = atoms(sodium())
    assert found.natural == pytest.approx(expected / (found.wavelength * 1e-8) ** 2, rel=1e-3)


def test_ions_are_a_column_beside_their_atoms_and_helium_feels_electrons_more():
    bound = 3.4  # eV, the lower level: so lines of equally wide upper levels
    energy = np.array([ELEMENTS["Fe"][2] - bound, 3.0, ELEMENTS["He"][2] - bound])
    wave, stages = np.full(3, 5890.0), np.array([1, 2, 1])
    found = gather(
        LineList(wave, ("Fe", "Fe", "He"), stages, energy, np.zeros(3)), 5880.0, 5900.0, 5e-4
    )
    mine = found.take(np.abs(found.wavelength - 5890.0) < 1e-9)
    iron, helium = 2 * SYMBOLS.index("Fe"), 2 * SYMBOLS.index("He")
    assert sorted(mine.species.tolist()) == sorted([iron, iron + 1, helium])
    assert set(mine.mass.tolist()) == {ELEMENTS["Fe"][0], ELEMENTS["He"][0]}
    width = dict(zip(mine.species.tolist(), mine.stark.tolist(), strict=True))
    assert width[helium] == pytest.approx(10 * width[iron])


@pytest.mark.parametrize("stop", [5900.0, 6000.0])
def test_what_is_gathered_does_not_depend_on_how_far_the_range_goes(stop):
    wide, narrow = gather(sodium(), 5500.0, stop, 5e-4), gather(sodium(), 5500.0, 5895.0, 5e-4)
    for found in (wide, narrow):
        assert np.sum(np.abs(found.wavelength - 5891.583) < 1e-9) == 1
    assert np.sum(wide.species == 2 * SYMBOLS.index("Na")) == 2


def test_strength_is_the_classical_cross_section():
    # pi e²/(m c) f lambda²/c, cm² Å: e = 4.80320e-10 esu, m = 9.10938e-28 g
    found = atoms(sodium())
    area = math.pi * 4.80320e-10**2 / (9.10938e-28 * 2.99792458e10)
    for wave, gf, log in zip(found.wavelength, (0.108, -0.194), found.strength, strict=True):
        expected = area * 10**gf * (wave * 1e-8) ** 2 / 2.99792458e10 * 1e8
        assert math.exp(log) == pytest.approx(expected, rel=1e-4)


def test_collisions_broaden_sodium_as_published():
    # Barklem, Piskunov & O'Mara 2000, A&AS 142, 467: log of width per hydrogen atom at 10000 K
    waals = atoms(sodium()).waals[0]
    gas = 1e17 * 1.0855 * 1.380649e-16 * 10000.0  # pressure of 1e17 hydrogen nuclei per cm³
    found = math.log10(waals * gas * 10000.0**-0.7 / 1e17)
    assert found == pytest.approx(-7.53, abs=0.03)  # all formulas are scaled to it


def test_gather_brings_hydrogen_from_beyond_the_ends_and_molecules():
    found = gather(sodium(), 6400.0, 6500.0, 5e-4)
    assert np.any(np.abs(found.wavelength[found.hydrogen] - 6564.61) < 0.02)
    molecules = {BANDED[i - 2 * len(SYMBOLS)] for i in found.species if i >= 2 * len(SYMBOLS)}
    assert {"TiO", "CN"} <= molecules
    assert not np.any(found.species == 2 * SYMBOLS.index("Na"))  # out of range


def test_everything_is_sorted_positive_and_finite():
    found = gather(sodium(), 3700.0, 9100.0, 5e-4)
    assert np.all(np.diff(found.wavelength) >= 0)
    for name in ("strength", "natural", "waals", "stark", "mass", "count", "spread"):
        assert np.all(np.isfinite(getattr(found, name))), name
    assert found.count.min() >= 1 - 1e-9
    masses = {2 * i: ELEMENTS[s][0] for i, s in enumerate(SYMBOLS)}
    near = np.abs(found.wavelength - 5891.583) < 1e-6
    assert found.mass[near].tolist() == [masses[2 * SYMBOLS.index("Na")]]
