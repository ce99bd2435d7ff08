"""Hydrogen's lines: published wavelengths and strengths."""

import numpy as np
import pytest

from scalespec.models.hydrogen import (
    FINE_STRUCTURE,
    HIGHEST,
    _binding,
    hydrogen_lines,
    oscillator_strength,
)


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [  # Wiese & Fuhr 2009, JPCRD 38, 565
        (2, 3, 0.6407),
        (2, 4, 0.1193),
        (2, 5, 0.04467),
        (2, 10, 0.003851),
        (3, 4, 0.8421),
        (3, 5, 0.1506),
        (4, 5, 1.038),
        (4, 10, 0.01196),
    ],
)
def test_oscillator_strengths_are_the_published_ones(lower, upper, expected):
    assert oscillator_strength(lower, upper) == pytest.approx(expected, rel=0.01)  # as promised


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [  # NIST, vacuum
        (2, 3, 6564.61),
        (2, 4, 4862.69),
        (2, 8, 3890.16),
        (3, 7, 10052.13),
        (4, 11, 16811.11),
    ],
)
def test_lines_lie_at_their_vacuum_wavelengths(lower, upper, expected):
    lines = hydrogen_lines()
    found = lines.wavelength[(lines.lower == lower) & (lines.upper == upper)]
    # the two decimals given, and a little for strengths of components that differ: 1 km/s
    assert found == pytest.approx([expected], rel=3e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_levels_are_means_over_the_states_of_dirac(n):
    """Every state of the level by itself: 2 j + 1 of each orbital and total momentum."""
    energies = []
    for orbital in range(n):
        for j in {abs(orbital - 0.5), orbital + 0.5}:
            fine = 1 + FINE_STRUCTURE / n**2 * (n / (j + 0.5) - 0.75)
            energies += round(2 * j + 1) * [fine / n**2]
    assert len(energies) == 2 * n**2
    assert _binding(np.array([n]))[0] == pytest.approx(np.mean(energies), rel=1e-14)


def test_lines_are_sorted_and_each_there_once():
    lines = hydrogen_lines()
    assert np.all(np.diff(lines.wavelength) > 0)
    assert len(lines.upper) == sum(last - lower for lower, last in HIGHEST.items())


def test_higher_lines_are_weaker_and_wider():
    lines = hydrogen_lines()
    balmer = lines.lower == 2  # in order of wavelength: the highest first
    assert np.all(np.diff(lines.log_gf[balmer]) > 0)
    assert np.all(np.diff(lines.stark[balmer][:-1]) < 0)
