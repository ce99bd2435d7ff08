"""Degrading spectra that resolve differently: against the operator of each one's own R."""

import pickle

import numpy as np
import pytest

from scalespec.kernels.lsf import FWHM, degrade_operator
from scalespec.kernels.lsf_levels import LEVEL, LevelOperators, own_resolving_power
from scalespec.kernels.wavelength import log_grid, pixel_edges, resolution_edges

WAVELENGTH = log_grid(3.65, 1e-4, 1500)
EDGES = pixel_edges(WAVELENGTH)
COARSE = resolution_edges(4600.0, 6200.0, 500.0, pixels_per_fwhm=2.0)
CENTER = np.sqrt(COARSE[1:] * COARSE[:-1])
ON_LEVEL = np.exp(LEVEL * np.array([735, 750, 790]))  # R = 1,556 to 2,697


def spectra(powers, seed=0):
    """Return one star as instruments of different R show it, with noise and lost pixels."""
    rng = np.random.default_rng(seed)
    centers, depths = rng.uniform(4480, 6300, 200), rng.uniform(0.1, 0.6, 200)
    flux = np.ones((len(powers), WAVELENGTH.size))
    for row, power in enumerate(powers):
        sigma = centers / power / FWHM
        lines = depths * 0.5 / sigma * np.exp(-0.5 * ((WAVELENGTH[:, None] - centers) / sigma) ** 2)
        flux[row] -= lines.sum(axis=1)
    ivar = np.where(rng.random(flux.shape) > 0.1, 400.0, 0)
    return flux, ivar


def test_a_spectrum_is_degraded_as_the_operator_of_its_own_r_does():
    flux, ivar = spectra(ON_LEVEL)
    powers = np.repeat(ON_LEVEL[:, np.newaxis], len(CENTER), axis=1)
    made = LevelOperators(EDGES, COARSE, 500.0).apply(flux, ivar, powers)
    assert not made[2].any()
    for row, power in enumerate(ON_LEVEL):
        one = slice(row, row + 1)
        expected = degrade_operator(EDGES, COARSE, power, 500.0).apply(flux[one], ivar[one])
        for mine, theirs in zip(made, expected, strict=False):
            np.testing.assert_allclose(mine[one], theirs, rtol=1e-12)


@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_a_flux_that_is_no_number_is_lost_alone(junk):
    flux, ivar = spectra(ON_LEVEL)
    powers = np.repeat(ON_LEVEL[:, np.newaxis], len(CENTER), axis=1)
    operators, ivar[:, 900] = LevelOperators(EDGES, COARSE, 500.0), 0
    expected = operators.apply(flux, ivar, powers)
    flux[:, 900], ivar[:, 900] = junk, 400.0
    for mine, theirs in zip(operators.apply(flux, ivar, powers), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_one_star_looks_the_same_whatever_resolved_it():
    powers = np.array([1234.5, 1800.0, 2345.6])
    flux, _ = spectra(powers)
    full = np.full(flux.shape, 400.0)
    own = np.repeat(powers[:, np.newaxis], len(CENTER), axis=1)
    made = LevelOperators(EDGES, COARSE, 500.0).apply(flux, full, own)[0]
    nominal = degrade_operator(EDGES, COARSE, 1800.0, 500.0).apply(flux, full)[0]
    inner = slice(20, -20)
    # Half a step of R is 0.2 % of the degraded width at most; lines are 0.3 deep.
    assert np.abs(made - made[1])[:, inner].max() < 1e-3
    assert np.abs(nominal - nominal[1])[:, inner].max() > 3e-3


def test_resolution_may_change_along_each_spectrum():
    flux, ivar = spectra(ON_LEVEL[:1])
    power = np.where(np.arange(len(CENTER)) < 100, ON_LEVEL[0], ON_LEVEL[2])[np.newaxis]
    made = LevelOperators(EDGES, COARSE, 500.0).apply(flux, ivar, power)
    expected = degrade_operator(EDGES, COARSE, power[0], 500.0).apply(flux, ivar)
    np.testing.assert_allclose(made[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(made[1], expected[1], rtol=1e-12)


@pytest.mark.parametrize("power", [499.0, 500.0, 0.0, np.nan])
def test_what_does_not_resolve_enough_is_said_and_the_others_are_made(power):
    flux, ivar = spectra(ON_LEVEL)
    own = np.repeat(ON_LEVEL[:, np.newaxis], len(CENTER), axis=1)
    whole = LevelOperators(EDGES, COARSE, 500.0).apply(flux, ivar, own)
    own[1], own[2, :7] = power, power
    made = LevelOperators(EDGES, COARSE, 500.0).apply(flux, ivar, own)
    assert made[2][1].all()
    assert made[2][2].tolist() == [True] * 7 + [False] * (len(CENTER) - 7)
    assert not made[0][1].any()
    assert not made[1][2, :7].any()
    np.testing.assert_array_equal(made[0][0], whole[0][0])
    np.testing.assert_array_equal(made[0][2, 7:], whole[0][2, 7:])


def test_just_above_what_is_wanted_is_not_refused():
    flux, ivar = spectra(ON_LEVEL[:1])
    made = LevelOperators(EDGES, COARSE, 500.0).apply(flux, ivar, np.full((1, len(CENTER)), 500.1))
    assert not made[2].any()
    assert np.isfinite(made[0]).all()


def test_order_and_batches_change_nothing_and_operators_travel():
    flux, ivar = spectra(np.geomspace(1000, 3000, 9))
    own = np.repeat(np.geomspace(1000, 3000, 9)[:, np.newaxis], len(CENTER), axis=1)
    operators = LevelOperators(EDGES, COARSE, 500.0)
    whole = operators.apply(flux, ivar, own)
    order = np.random.default_rng(1).permutation(9)
    mixed = pickle.loads(pickle.dumps(operators)).apply(flux[order], ivar[order], own[order])
    np.testing.assert_array_equal(mixed[0], whole[0][order])
    alone = LevelOperators(EDGES, COARSE, 500.0).apply(flux[3:4], ivar[3:4], own[3:4])
    np.testing.assert_array_equal(alone[1], whole[1][3:4])


def test_no_spectra_are_none():
    none = np.zeros((0, WAVELENGTH.size))
    made = LevelOperators(EDGES, COARSE, 500.0).apply(none, none, np.zeros((0, len(CENTER))))
    assert [one.shape for one in made] == [(0, len(CENTER))] * 3


@pytest.mark.parametrize(
    ("shape", "power", "message"),
    [
        ((2, 7), (2, len(CENTER)), r"want \(n, 1500\) flux and ivar"),  # another grid
        ((2, 1500), (2, 1), r"want R of \(2, \d+\), got \(2, 1\)"),  # one R for all pixels
    ],
)
def test_what_does_not_fit_is_refused(shape, power, message):
    with pytest.raises(ValueError, match=message):
        LevelOperators(EDGES, COARSE, 500.0).apply(np.ones(shape), np.ones(shape), np.ones(power))


def test_unknown_nodes_are_passed_over():
    nodes, at = np.array([4000.0, 5000.0, 6000.0]), np.array([3900.0, 4500.0, 5500.0])
    sigma = np.array([[1.0, 2.0, 0.0], [0.0, np.nan, 3.0], [0.0, 0.0, 0.0]])
    power = own_resolving_power(sigma, nodes, at, np.full(3, 1800.0))
    expected = at / FWHM / np.array([[1.0, 1.5, 2.0], [3.0, 3.0, 3.0]])
    np.testing.assert_allclose(power[:2], expected)
    assert power[2].tolist() == [1800.0] * 3
