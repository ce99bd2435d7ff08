"""Known lines of a label are the strongest of its element, and peaks are named by what is there."""

import numpy as np
import pytest

from scalespec.kernels.linenames import (
    HYDROGEN_AND_STRONG,
    KNOWN,
    PEAKS,
    KnownLines,
    elements_of,
    known_lines,
    named_peaks,
    share_at_lines,
    strongest_known,
)
from scalespec.kernels.wavelength import vacuum_to_air
from scalespec.stages.mock_spectra import load_lines

R = 1800.0
GRID = 10 ** (3.5682 + 1e-4 * np.arange(3909))


@pytest.fixture(scope="module")
def atoms():
    lines = load_lines()
    return lines.wavelength, lines.element, lines.ion_stage, lines.excitation, lines.log_gf


def gaussian(*places, width=2.0):
    return sum(np.exp(-0.5 * ((GRID - place) / width) ** 2) for place in places)


@pytest.mark.parametrize(
    ("label", "famous"),
    # air wavelengths of any textbook
    [("ca_fe", (4226.73, 8542.09)), ("mg_fe", (5183.60,)), ("na_fe", (5889.95,)),
     ("ba_fe", (4554.03,)), ("sr_fe", (4077.71,)), ("eu_fe", (4129.72,))],
)  # fmt: skip
def test_the_famous_lines_of_an_element_are_known(atoms, label, famous):
    found = known_lines(label, *atoms, within=(3700.0, 9100.0))
    assert len(found.wavelength) <= KNOWN
    assert (np.diff(found.wavelength) > 0).all()
    air = vacuum_to_air(found.wavelength)
    for place in famous:
        assert np.abs(air - place).min() < 0.1  # hyperfine parts are put together within 0.12 Å


def test_lines_that_know_of_gravity_stand_in_vacuum():
    air = {
        "Ca II K": 3933.66, "Hδ": 4101.74, "Hγ": 4340.47, "Hβ": 4861.33, "Hα": 6562.80,
        "Ca II H": 3968.47,
    }  # fmt: skip
    for place, name in HYDROGEN_AND_STRONG:
        if name in air:
            assert vacuum_to_air(np.array([place]))[0] == pytest.approx(air[name], abs=0.03)


def test_only_lines_within_the_spectra_are_known(atoms):
    inside = known_lines("fe_h", *atoms, within=(5000.0, 5500.0))
    assert inside.wavelength.min() >= 5000.0
    assert inside.wavelength.max() <= 5500.0
    assert {name.split()[0] for name in inside.names} == {"Fe"}
    assert not len(known_lines("vsini", *atoms, within=(5000.0, 5500.0)))
    assert known_lines("teff", *atoms, within=(6500.0, 6600.0)).names == ("Hα",)


def test_names_of_labels_are_elements():
    assert elements_of("c_fe") == ("C",)
    assert elements_of("alpha_fe") == ("Mg", "Si", "Ca", "Ti")
    assert elements_of("m_h") == ("Fe",)
    assert elements_of("vmic") == elements_of("teff") == ()


def test_a_derivative_that_peaks_at_lines_names_them_and_no_others():
    lines = KnownLines(np.array([4500.0, 5000.0, 6000.0]), ("A I", "B I", "C I"), np.zeros(3))
    # at 6,000 Å stands the flank of a stronger feature two resolution elements away
    curve = gaussian(4500.0) + 0.5 * gaussian(5000.0) + 3 * gaussian(6000 + 2 * 6000 / R)
    found = strongest_known(GRID, curve, lines, resolving_power=R)
    assert [name for _, name in found] == ["A I", "B I"]
    np.testing.assert_allclose([place for place, _ in found], [4500.0, 5000.0], rtol=2.4e-4)


def test_of_crowded_lines_the_strongest_is_named():
    places = 5000.0 + 3.0 * np.arange(20)
    lines = KnownLines(places, tuple(f"L{i}" for i in range(20)), np.zeros(20))
    curve = gaussian(*places, width=0.5) + 2 * gaussian(places[7], width=0.5)
    found = strongest_known(GRID, curve, lines, resolving_power=R)
    assert "L7" in [name for _, name in found]
    assert len(found) <= PEAKS
    gaps = np.diff([place for place, _ in found])
    assert (gaps >= 12 * 5000 / R - 1e-6).all()


def test_a_band_is_named_where_the_derivative_is_largest_in_it():
    lines = KnownLines(np.zeros(0), (), np.zeros(0), ((4282.0, 4318.0, "CH"),))
    ((place, name),) = strongest_known(GRID, gaussian(4300.0, 4700.0), lines, resolving_power=R)
    assert name == "CH"
    assert place == pytest.approx(4300.0, abs=0.6)
    peaks = named_peaks(GRID, gaussian(4300.0, 4700.0), lines, resolving_power=R)
    assert [name for _, name in peaks] == ["CH", ""]


def test_the_share_at_lines_is_that_of_a_slow_sum():
    rng = np.random.default_rng(0)
    curve = rng.random(len(GRID))
    lines = KnownLines(
        np.sort(rng.uniform(4000, 9000, 30)), ("x",) * 30, np.zeros(30), ((5000.0, 5100.0, "C2"),)
    )
    inside, total, n = 0.0, 0.0, 0
    for place, value in zip(GRID, curve, strict=True):
        near = any(abs(place - line) <= 0.5 * line / R for line in lines.wavelength)
        total += value**2
        if near or 5000 <= place <= 5100:
            inside, n = inside + value**2, n + 1
    share = share_at_lines(GRID, curve, lines, resolving_power=R)
    assert share == pytest.approx((inside / total, n / len(GRID)))


def test_a_derivative_of_nothing_has_no_share():
    lines = KnownLines(np.array([5000.0]), ("x",), np.zeros(1))
    share, pixels = share_at_lines(GRID, np.zeros(len(GRID)), lines, resolving_power=R)
    assert np.isnan(share)
    assert pixels > 0
    assert strongest_known(GRID, gaussian(8000.0), lines, resolving_power=R) == []
