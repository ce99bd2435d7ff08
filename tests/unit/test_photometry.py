"""Magnitudes of made-up stars against known ones."""

import numpy as np
import pytest

from scalespec.kernels import photometry

SIRIUS = {"teff": 9940.0, "logg": 4.33, "mass": 2.06, "m_v": 1.43}


def test_the_suns_magnitudes():
    sun = (np.array([x]) for x in (5772.0, 4.438, 1.0))
    assert photometry.absolute_magnitude(*sun)[0] == pytest.approx(
        4.67, abs=0.03
    )  # Casagrande 2018
    seen = photometry.magnitudes(np.array([5772.0]), np.array([10.0]), np.zeros(1))
    assert seen["bp_rp"][0] == pytest.approx(0.82, abs=0.02)  # the same paper
    assert seen["j"][0] - seen["k"][0] == pytest.approx(0.36, abs=0.03)


def test_sirius_is_as_bright_as_it_is():
    star = (np.array([SIRIUS[name]]) for name in ("teff", "logg", "mass"))
    assert photometry.absolute_magnitude(*star)[0] == pytest.approx(SIRIUS["m_v"], abs=0.15)


def test_hotter_stars_are_bluer():
    teff = np.geomspace(3000, 32000, 200)
    seen = photometry.magnitudes(teff, np.full(200, 12.0), np.zeros(200))
    for color in (seen["bp_rp"], seen["g"] - seen["k"], seen["j"] - seen["k"]):
        assert np.all(np.diff(color) <= 0)


def test_dust_reddens():
    clear, dusty = (
        photometry.magnitudes(np.full(1, 5000.0), np.full(1, 12.0), np.full(1, e))
        for e in (0.0, 0.5)
    )
    assert dusty["bp_rp"][0] - clear["bp_rp"][0] == pytest.approx(0.65)
    assert clear["k"][0] - dusty["k"][0] == pytest.approx(0.5 * (2.5 - 0.31))  # behind it, G is k's
    assert dusty["g"] == clear["g"]
