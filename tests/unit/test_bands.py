"""Band models: heads where they are known to be, Franck-Condon factors, strengths kept."""

import math

import numpy as np
import pytest

from scalespec.models.bands import (
    SYSTEMS,
    State,
    _overtone,
    band_lines,
    franck_condon,
    honl_london,
)
from scalespec.models.gas import ELEMENTS, K_EV
from scalespec.models.molecules import MOLECULES


@pytest.mark.parametrize("s", SYSTEMS, ids=lambda s: f"{s.molecule}{s.origins[0]:.0f}")
def test_franck_condon_factors_of_the_0_0_bands_are_about_those_of_springs(s):
    a, b = (ELEMENTS[atom][0] for atom in MOLECULES[s.molecule].atoms)
    mass = a * b / (a + b)
    r = [math.sqrt(16.8576 / (mass * state.rotation)) for state in (s.upper, s.lower)]
    w = [state.vibration * mass / 16.8576 / 2 for state in (s.upper, s.lower)]  # 1/Å²
    # The overlap of two Gaussian ground states exp(-w (x - r)² / 2)
    expected = (
        2 * math.sqrt(w[0] * w[1]) / sum(w) * math.exp(-w[0] * w[1] / sum(w) * (r[0] - r[1]) ** 2)
    )
    found = franck_condon(s.molecule, s.upper, s.lower)[0, 0]
    # The potentials are not quite springs, least of all that of a state with one level
    assert found == pytest.approx(expected, abs=0.06 if s.levels > 1 else 0.12)


@pytest.mark.parametrize("s", SYSTEMS, ids=lambda s: f"{s.molecule}{s.origins[0]:.0f}")
def test_franck_condon_factors_add_up_to_at_most_one(s):
    found = franck_condon(s.molecule, s.upper, s.lower, 12)
    assert np.all(found >= 0)
    assert found.sum(0).max() <= 1 + 1e-6
    assert found[:, 0].sum() == pytest.approx(1.0, abs=0.02)  # of v = 0, complete by v = 11


@pytest.mark.parametrize("turn", [-1, 0, 1])
@pytest.mark.parametrize("angular", [0, 1, 2])
def test_honl_london_factors_add_up(turn, angular):
    if turn == -1 and angular == 0:
        return  # there is no such system
    j = np.arange(max(1, angular), 60).astype(float)
    shares = honl_london(j, angular, turn)
    assert np.sum(shares, 0) == pytest.approx(2 * j + 1)
    assert np.min(shares) >= 0


@pytest.mark.parametrize(
    ("molecule", "head", "shade"),
    [  # Pearse & Gaydon 1976, The Identification of Molecular Spectra; to vacuum
        ("CN", 3884.5, -1),
        ("C2", 5166.7, -1),
        ("C2", 4738.4, -1),
        ("MgH", 5212.5, -1),
        ("TiO", 7090.0, 1),
        ("TiO", 4956.0, 1),
        ("TiO", 5168.2, 1),
        ("CO", 15586.0, 1),
    ],
)
def test_band_heads_lie_where_they_are_known_to_be(molecule, head, shade):
    bands = band_lines(2500.0, 17000.0, 2e-4)
    mine = np.array([m == molecule for m in bands.molecule])
    strength = mine * 10**bands.log_gf * np.exp(-bands.excitation / (K_EV * 3500))
    side = shade * (bands.wavelength - head)
    wide = head * 2e-3
    inside, outside = (side > 0) & (side < wide), (side < -4) & (side > -4 - wide)
    near = (side > -4) & (side < 4)
    # a head is a pile of lines, and the band goes on to one side of it
    assert strength[inside | near].sum() > 1.5 * strength[outside].sum()
    assert strength[near].sum() > 0.05 * strength[inside | near].sum()


@pytest.mark.parametrize("cell", [2e-4, 1e-3])
def test_cells_hold_the_same_strength_whatever_their_width(cell):
    fine, wide = band_lines(4200.0, 4400.0, 1e-4), band_lines(4200.0, 4400.0, cell)

    def total(bands) -> float:
        return float(np.sum(10**bands.log_gf * np.exp(-bands.excitation / (K_EV * 3500))))

    assert total(wide) == pytest.approx(total(fine), rel=0.02)  # faint cells are left out


def test_there_may_be_no_bands():
    none = band_lines(2410.0, 2412.0, 5e-4)
    assert none.molecule == ()
    assert none.wavelength.size == none.count.size == 0


def test_ranges_that_meet_hold_what_the_whole_holds():
    """But for the cells that the meeting point cuts, and those too faint beside the strongest."""
    whole = band_lines(4200.0, 4400.0, 5e-4)
    parts = [band_lines(4200.0, 4300.0, 5e-4), band_lines(4300.0, 4400.0, 5e-4)]

    def strength(bands):
        return np.sum(10**bands.log_gf * np.exp(-bands.excitation / (K_EV * 3500)))

    assert sum(strength(part) for part in parts) == pytest.approx(strength(whole), rel=2e-3)


def test_overtones_of_carbon_monoxide_grow_with_the_level():
    """3-0, 4-1, ...: a harmonic oscillator's factor (v+1)(v+2)(v+3)/6, by bands of equal J."""
    wave, energy, gf, _ = _overtone()
    lowest = np.argsort(energy, kind="stable")
    assert energy[lowest[0]] == pytest.approx(1.9313 * 2 * 1.2398e-4, rel=0.02)  # J = 1 of v = 0
    by_level = gf.reshape(3, -1, 8).sum(axis=(0, 1))
    expected = [(v + 1) * (v + 2) * (v + 3) / 6 for v in range(8)]
    assert by_level / by_level[0] == pytest.approx(expected)
    assert wave.min() > 15_000


def test_franck_condon_factors_of_like_states_are_those_of_nothing_changed():
    state = State(2000.0, 15.0, 1.9, 0.017)
    found = franck_condon("CN", state, state)
    assert found == pytest.approx(np.eye(5), abs=1e-9)


def test_cells_are_sorted_and_count_lines():
    bands = band_lines(3800.0, 9000.0, 5e-4)
    assert np.all(np.diff(bands.wavelength) >= 0)
    assert bands.count.min() >= 1 - 1e-9
    assert np.all(bands.spread >= 0)
    assert np.all(bands.spread < bands.wavelength * 1e-3)  # within a cell, of TiO twice as wide
