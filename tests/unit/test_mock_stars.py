"""Stars of a made-up survey when they are seen: ids, nights, motions against astropy."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import Distance, SkyCoord
from astropy.time import Time

from scalespec.kernels.families import Recipe
from scalespec.kernels.galaxy import POPULATIONS
from scalespec.kernels.stellar import PHASES
from scalespec.models.base import EmulatorSpec
from scalespec.stages.mock_stars import (
    PLATE_SPECTRA,
    UNITS,
    observed_stars,
    plate_night,
    source_ids,
    told,
    units_of,
)

SPEC = EmulatorSpec("toy", ("teff", "logg", "fe_h"), [4000, 0, -2], [7500, 5, 0.5], [5e3, 5001])
NUMBERS = np.arange(1200)


@pytest.fixture(scope="module")
def stars():
    return observed_stars(3, NUMBERS, SPEC, Recipe(binary=0.3))


def test_ids_are_all_different_and_fit_62_bits():
    ids = source_ids(np.arange(200_000))
    assert len(np.unique(ids)) == 200_000
    assert ids.min() > 0
    assert ids.max() < 2**62
    factor = 2862933555777941757
    assert source_ids(np.array([12345]))[0] == (12346 * factor) % 2**62


def test_a_star_seen_again_is_the_same_star(stars):
    again = np.flatnonzero(stars["star"] != stars["spectrum"])
    assert 0.05 < len(again) / len(NUMBERS) < 0.15
    first = stars["star"][again]
    assert np.all(first < NUMBERS[again])
    for name in ("teff", "fe_h", "ra_2016", "pmra", "rv_system", "source_id", "k_1", "g"):
        assert np.array_equal(stars[name][again], stars[name][first]), name


def test_a_spectrum_does_not_depend_on_its_block(stars):
    some = observed_stars(3, np.array([1100, 4]), SPEC, Recipe(binary=0.3))
    for name, values in some.items():
        np.testing.assert_array_equal(values, stars[name][[1100, 4]], err_msg=name)


def test_positions_move_as_astropy_has_it(stars):
    fast = np.argsort(-np.hypot(stars["pmra"], stars["pmdec"]))[:40]
    at = {name: values[fast] for name, values in stars.items()}
    begin = SkyCoord(
        at["ra_2016"] * u.deg, at["dec_2016"] * u.deg, distance=Distance(at["distance"] * u.kpc),
        pm_ra_cosdec=at["pmra"] * u.mas / u.yr, pm_dec=at["pmdec"] * u.mas / u.yr,
        radial_velocity=0 * at["rv"] * u.km / u.s, obstime=Time(2016.0, format="jyear"),
    )  # fmt: skip
    moved = begin.apply_space_motion(new_obstime=Time(at["mjd"], format="mjd", scale="tcb"))
    off = moved.separation(SkyCoord(at["ra"] * u.deg, at["dec"] * u.deg)).arcsec
    assert off.max() < 1e-3  # the time scales differ by a minute, and perspective is left out
    assert np.hypot(at["pmra"], at["pmdec"]).max() > 20


def test_binaries_move_and_others_do_not(stars):
    moving = stars["k_1"] > 0
    assert np.array_equal(stars["rv"][~moving], stars["rv_system"][~moving])
    assert np.all(np.abs(stars["rv"] - stars["rv_system"]) <= stars["k_1"] * (1 + 1e-12))
    pair = stars["binary"]
    assert np.array_equal(np.isfinite(stars["rv_2"]), pair)
    center = (stars["rv"] + stars["mass_ratio"] * stars["rv_2"]) / (1 + stars["mass_ratio"])
    assert center[pair] == pytest.approx(stars["rv_system"][pair], abs=1e-9)


def test_a_plate_is_one_night_between_2015_and_2019(stars):
    for plate in np.unique(stars["plate"]):
        assert len(np.unique(stars["mjd"][stars["plate"] == plate])) == 1
    assert stars["plate"].tolist() == (NUMBERS // PLATE_SPECTRA).tolist()
    nights = np.array([plate_night(1, plate) for plate in range(500)])
    assert Time(nights.min(), format="mjd").datetime.year == 2015
    assert Time(nights.max(), format="mjd").datetime.year <= 2019
    hour = 24 * (nights % 1) + 8  # Beijing
    assert hour.min() > 18.9  # dusk
    assert hour.max() < 29.2  # dawn
    assert plate_night(2, 7) != plate_night(1, 7)


def test_labels_that_the_model_lacks_are_not_told(stars):
    assert {"vsini", "vmic", "c_fe", "vsini_2", "he_h"}.isdisjoint(stars)
    rotating = EmulatorSpec(
        "toy", ("teff", "logg", "vsini"), [4000, 0, 0], [7500, 5, 200], [5e3, 5001]
    )
    assert {"vsini", "vsini_2"} <= set(observed_stars(3, NUMBERS[:5], rotating, Recipe()))


def test_there_may_be_no_spectra():
    none = observed_stars(3, NUMBERS[:0], SPEC, Recipe())
    assert {len(values) for values in none.values()} == {0}


def test_populations_and_phases_are_told_by_name(stars):
    names = told(stars)
    assert set(names["population"]) <= set(POPULATIONS)
    assert set(names["phase"]) <= {*PHASES, "spread over the model's range"}
    row = int(np.argmax(stars["phase"]))
    assert names["phase"][row] == PHASES[stars["phase"][row]]
    lost = told({name: values[:1] for name, values in stars.items()} | {"phase": np.array([-1])})
    assert lost["phase"][0] == "spread over the model's range"


def test_units_of_errors_and_secondaries_are_those_of_the_label():
    none = np.zeros(0)
    names = (
        "teff",
        "teff_err",
        "teff_2",
        "rv_2",
        "rv_err",
        "k_1",
        "fe_h",
        "ra_1",
        "dec_2",
        "flux_2",
    )
    found = units_of(dict.fromkeys(names, none))
    assert found == {
        "teff": "K", "teff_err": "K", "teff_2": "K", "rv_2": "km/s", "rv_err": "km/s",
        "k_1": "km/s", "ra_1": "deg", "dec_2": "deg",
    }  # fmt: skip
    for unit in UNITS.values():
        u.Unit(unit)  # astropy knows it
