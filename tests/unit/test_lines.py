"""Line constants and the gathering of all that absorbs."""

import math

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
    assert np.any(np.abs(found.wavelength[found.hydrogen] - 6564.7) < 0.2)
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
