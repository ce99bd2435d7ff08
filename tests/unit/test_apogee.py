"""APOGEE: stars on the survey's grid, their visits, and visits by chip."""

import io

import numpy as np
import pytest
from astropy.io import fits
from survey_files import apstar, apvisit, aspcap

from scalespec.errors import SurveyFileError
from scalespec.schema import MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys import SURVEYS
from scalespec.surveys.apogee import (
    LATTICE,
    count_visits,
    read_aspcap,
    read_chips,
    read_star,
    read_visits,
    star_path,
)


def _images(data, n=3):
    with fits.open(io.BytesIO(data)) as hdus:
        return [np.array(hdus[i].data) for i in range(1, n + 1)]


def test_grid_is_the_surveys():
    # the data model's 15100.802 Å, and 8575 pixels of 6e-6 dex
    assert LATTICE.wavelength[0] == pytest.approx(15100.802, abs=5e-4)
    assert LATTICE.wavelength[-1] == pytest.approx(10 ** (4.179 + 6e-6 * 8574))
    assert LATTICE.n == 8575


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_star_is_the_first_combination(dtype):
    data = apstar(dtype=dtype)
    flux, error, _ = _images(data)
    pixels = read_star(data, "x").arms[""]
    good = np.isfinite(flux[0]) & (error[0] > 0) & (error[0] < 1e9)
    np.testing.assert_array_equal(pixels.ivar > 0, good)
    np.testing.assert_array_equal(pixels.flux[good], flux[0, good].astype("f4"))
    # float32 of a float64 quotient
    np.testing.assert_allclose(pixels.ivar[good], 1 / error[0, good].astype("f8") ** 2, rtol=1e-7)
    assert (pixels.mask[:200] & MaskBit.NOT_FINITE > 0).all()


def test_one_spectrum_in_one_axis_is_read_too():
    data = apstar(n_visits=1, single_row=True)
    assert _images(data)[0].ndim == 1
    np.testing.assert_array_equal(
        read_star(data, "x").arms[""].flux[300:], _images(data)[0][300:].astype("f4")
    )


def test_pixmask_is_translated():
    mask = read_star(apstar(), "x").arms[""].mask
    flags = MaskBit
    expected = [flags.BAD_PIXEL, flags.COSMIC_RAY, *[flags.BAD_PIXEL] * 5, flags.NO_SKY]
    expected += [flags.SUSPECT, flags.SUSPECT, flags.BRIGHT_SKY, flags.SUSPECT, flags.BAD_TRACE]
    assert mask[500:513].tolist() == [int(bit) for bit in expected]


def test_velocity_time_and_names_are_the_headers():
    made = read_star(apstar(), "apStar-dr17-2M17335483-2753043.fits")
    assert made.scalars["rv"] == 15.68
    assert made.scalars["rv_err"] == 0.028
    # the mean of three Julian dates, less the epoch of MJD
    assert made.scalars["mjd"] == pytest.approx(2456398.992 - 2400000.5)
    assert made.strings["designation"] == "2M17335483-2753043"
    assert made.strings["release"] == "APOGEE dr17"
    unknown = read_star(apstar(VHELIO=999999.0), "x").scalars["rv"]
    assert np.isnan(unknown)


def test_a_star_without_velocity_is_at_rest_all_the_same():
    groups, _ = SURVEYS["apogee"].read_block([("a", apstar(VHELIO=999999.0))])
    check_spectra(groups[""])
    assert groups[""].attrs["frame"] == "rest"
    assert groups[""].status.item() == 0


def test_visits_follow_the_two_combinations():
    data = apstar()
    flux, _, _ = _images(data)
    assert count_visits(data) == 3
    made = read_visits(data, "x", 1, 2)
    np.testing.assert_array_equal(made.arms[""].flux[:, 300:], flux[3:, 300:].astype("f4"))
    assert made.scalars["rv"] == [17.0, 18.0]
    assert made.scalars["mjd"] == pytest.approx([56398.492, 56399.492])


def _sdss5():
    """An apStar with the cards of SDSS-V: VHBARY for VHELIO, no errors, and VERR = 0, unused."""
    gone = dict.fromkeys(("VHELIO", *(f"{c}{i}" for c in ("VHELIO", "VERR") for i in (1, 2, 3))))
    there = {f"VHBARY{i}": 20.0 + i for i in (1, 2, 3)}
    return apstar(**gone, **there, VHBARY=22.5, VERR=0.0)


def test_velocities_of_sdss5_are_read_and_an_unused_error_is_unknown():
    star = read_star(_sdss5(), "x").scalars
    assert star["rv"] == 22.5
    assert np.isnan(star["rv_err"])
    visits = read_visits(_sdss5(), "x", 0, 3).scalars
    assert visits["rv"] == [21.0, 22.0, 23.0]
    assert np.isnan(visits["rv_err"]).all()


def test_errors_of_zero_or_less_are_unknown():
    visits = read_visits(apstar(VERR1=0.0, VERR2=-1.0, VRADERR2=0.2), "x", 0, 3).scalars
    np.testing.assert_array_equal(visits["rv_err"], [np.nan, 0.2, 0.03])
    assert np.isnan(read_chips(apvisit(VRADERR=0.0), "x").scalars["rv_err"])


def test_a_single_visit_is_the_only_row_that_holds_one():
    data = apstar(n_visits=1)
    flux, _, _ = _images(data)
    made = read_visits(data, "x", 0, 1)
    np.testing.assert_array_equal(made.arms[""].flux[0, 300:], flux[0, 300:].astype("f4"))


def test_a_visit_has_the_id_of_its_apvisit():
    star = apstar(n_visits=1, SFILE1="apVisit-r13-5095-55844-128.fits")
    assert read_visits(star, "x").scalars["obsid"] == [read_chips(apvisit(), "y").scalars["obsid"]]


def test_a_visit_without_plate_day_or_fiber_has_the_id_of_its_files_name():
    nameless = apvisit(PLATE=None, MJD5=None, FIBERID=None)
    names = ("a/apVisit-dr17-56358-2M03.fits", "apVisit-dr17-56359-2M04.fits")
    first, second = (read_chips(nameless, name).scalars["obsid"] for name in names)
    assert first != second
    assert first == read_chips(apvisit(FIBERID=None), "b/" + names[0][2:]).scalars["obsid"]
    told = read_chips(nameless, "apVisit-r13-5095-55844-128.fits").scalars["obsid"]
    assert told == read_chips(apvisit(), "x").scalars["obsid"]


def test_one_star_seen_from_two_observatories_is_two_spectra():
    north = read_star(apstar(), "x").scalars["obsid"]
    south = read_star(apstar(SFILE1="asVisit-dr17-5815-56396-212.fits"), "x").scalars["obsid"]
    assert north != south


def test_aspcap_is_over_its_pseudo_continuum_and_huge_errors_are_no_information():
    pixels = read_aspcap(aspcap(), "x").arms[""]
    assert (pixels.ivar[:100] == 0).all()
    assert (pixels.ivar[100:] > 0).all()
    assert SURVEYS["apogee_aspcap"].attrs["flux_unit"] == "pseudo-continuum"


def test_chips_run_upwards_at_the_barycenter():
    data = apvisit()
    flux, error, _, wavelength = _images(data, 4)
    made = read_chips(data, "x")
    for arm, row in (("blue", 2), ("green", 1), ("red", 0)):
        pixels = made.arms[arm]
        np.testing.assert_array_equal(pixels.flux, flux[row, ::-1])
        # moved by the header's +11.2977627 km/s
        factor = 1 + 11.2977627448 / 299792.458
        np.testing.assert_allclose(pixels.wavelength, wavelength[row, ::-1] * factor, rtol=1e-14)
        np.testing.assert_array_equal(pixels.ivar > 0, error[row, ::-1] < 1e9)
        assert (pixels.mask[-3:] == MaskBit.BAD_PIXEL | MaskBit.NO_SKY | MaskBit.NO_IVAR).all()


def test_chips_carry_their_lsf():
    made = read_chips(apvisit(), "x")
    # pixels of 577/4095 Å in the green chip, 2.4 of them
    np.testing.assert_allclose(made.arms["green"].lsf_sigma, 2.4 * 578 / 4095, rtol=1e-3)
    # R of 22,500 or so: FWHM of 0.6 to 0.9 Å
    for pixels in made.arms.values():
        assert (pixels.lsf_sigma * 2.355 > 0.5).all()
        assert (pixels.lsf_sigma * 2.355 < 1.0).all()


def test_chips_without_lsf_say_zero():
    with fits.open(io.BytesIO(apvisit())) as hdus:
        file = io.BytesIO()
        fits.HDUList([hdu.copy() for hdu in hdus[:5]]).writeto(file)
    assert not read_chips(file.getvalue(), "x").arms["red"].lsf_sigma.any()


@pytest.mark.parametrize(
    ("read", "data", "reason", "message"),
    [
        (read_star, aspcap(), "bad_layout", "wanted flux, error, mask"),
        (read_star, apvisit(), "bad_layout", "4096 pixels, wanted 8575"),
        (read_aspcap, apstar(), "bad_layout", "an apStar"),
        (read_chips, apstar(), "bad_layout", "HDU 4 of 4 is no image"),
        (read_visits, apstar(NVISITS=5), "bad_layout", "5 rows for NVISITS = 5"),
        (read_visits, apstar(NVISITS="many"), "bad_layout", "NVISITS = 'many'"),
        (read_chips, apvisit(BC=None), "bad_grid", "no barycentric correction"),
        (
            read_star,
            apstar().replace(b"CDELT1  =                6E-06", b"CDELT1  =                7E-06"),
            "bad_grid",
            "CDELT1 = 7e-06",
        ),
    ],
)
def test_files_of_another_kind_are_refused(read, data, reason, message):
    with pytest.raises(SurveyFileError, match=message) as caught:
        read(data, "x")
    assert caught.value.reason == reason


def test_visits_that_are_not_there_cannot_be_read():
    with pytest.raises(SurveyFileError, match="2:4 were planned, the file has 3"):
        read_visits(apstar(), "x", 2, 2)


def test_rows_of_every_kind_are_in_the_schema():
    made = {"apogee": apstar(), "apogee_aspcap": aspcap(), "apogee_chips": apvisit()}
    for name, data in made.items():
        groups, index = SURVEYS[name].read_block([("a", data), ("b", b"")])
        for group in groups.values():
            check_spectra(group)
        assert groups[""].status.values[1] == SpectrumStatus.NOT_FITS
        assert index.class_.tolist() == ["STAR", ""]


def test_path_is_the_allstars():
    row = {"TELESCOPE": "apo25m ", "FIELD": "000+02", "FILE": "apStar-dr17-2M1.fits"}
    assert star_path(row) == "apo25m/000+02/apStar-dr17-2M1.fits"
