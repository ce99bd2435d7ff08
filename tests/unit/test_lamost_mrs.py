"""LAMOST MRS: coadds on one lattice, exposures on grids of their own, of both eras."""

import io

import numpy as np
import pytest
from astropy.io import fits
from survey_files import mrs

from scalespec.errors import SurveyFileError
from scalespec.schema import MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys import SURVEYS, read_arms, read_survey
from scalespec.surveys.lamost_mrs import (
    LATTICES,
    count_exposures,
    mrs_path,
    read_coadds,
    read_exposures,
)


def _hdus(data):
    return fits.open(io.BytesIO(data))


def _column(hdu, name):
    return np.asarray(hdu.data[name]).ravel()


@pytest.mark.parametrize("era", ["loglam", "vectors"])
def test_coadds_lie_where_their_wavelengths_say(era):
    data = mrs(era=era, starts=(369012, 379950), n=(4077, 3791))
    made = read_coadds(data, "x")
    hdus = _hdus(data)
    for arm, letter in (("blue", "B"), ("red", "R")):
        hdu = hdus[f"COADD_{letter}"]
        log10 = (
            _column(hdu, "LOGLAM").astype("f8")
            if era == "loglam"
            else np.log10(_column(hdu, "WAVELENGTH").astype("f8"))
        )
        ours = np.log10(LATTICES[arm].wavelength)
        # the nearest pixel of the grid, found without our code, every 500th pixel
        place = np.argmin(np.abs(ours - log10[::500, None]), axis=1)
        first = place[0]
        assert np.array_equal(place, first + 500 * np.arange(len(place)))
        pixels, n = made.arms[arm], len(log10)
        np.testing.assert_array_equal(pixels.flux[first : first + n], _column(hdu, "FLUX"))
        np.testing.assert_array_equal(pixels.ivar[first : first + n], _column(hdu, "IVAR"))
        outside = np.ones(len(ours), bool)
        outside[first : first + n] = False
        assert (pixels.mask[outside] == MaskBit.OUTSIDE).all()
        assert not (pixels.mask[~outside] & MaskBit.OUTSIDE).any()
        andmask = pixels.mask[~outside] & MaskBit.BAD_PIXEL > 0
        np.testing.assert_array_equal(andmask, _column(hdu, "ANDMASK") == 1)


def test_both_eras_give_the_same_rows():
    old, new = (read_coadds(mrs(era=era), "x") for era in ("loglam", "vectors"))
    for arm in LATTICES:
        np.testing.assert_array_equal(old.arms[arm].flux, new.arms[arm].flux)
        np.testing.assert_array_equal(old.arms[arm].mask, new.arms[arm].mask)


def test_coadds_of_many_files_share_a_grid_though_starts_and_lengths_differ():
    survey = SURVEYS["lamost_mrs"]
    files = [("a", mrs(1, starts=(368960, 379730))), ("b", mrs(2, starts=(369088, 380000)))]
    groups, _ = survey.read_block(files)
    for arm, lattice in LATTICES.items():
        check_spectra(groups[arm])
        np.testing.assert_array_equal(groups[arm].wavelength, lattice.wavelength)
        assert groups[arm].attrs["log10_wavelength_step"] == 1e-5


def test_an_arm_off_the_grid_is_rebinned_and_says_what_noise_its_pixels_share():
    groups, _ = SURVEYS["lamost_mrs"].read_block([("a", mrs(starts=(368960.5, 379730)))])
    assert groups["blue"].status.item() & SpectrumStatus.RESAMPLED
    # Half a pixel off, lines many pixels wide: 1 + 2 * 1/2, less what ends there.
    assert groups["blue"].noise_correlation.item() == pytest.approx(1.96, abs=0.03)
    assert groups["red"].noise_correlation.item() == 1


def test_an_arm_that_is_missing_costs_that_arm_alone():
    groups, index = SURVEYS["lamost_mrs"].read_block([("a", mrs(n=(4100, 0)))])
    assert groups["red"].status.item() & SpectrumStatus.NO_PIXELS
    assert not groups["blue"].status.item() & SpectrumStatus.NO_PIXELS
    assert not groups[""].status.item() & SpectrumStatus.NO_PIXELS
    assert index.reason.item() == ""


def test_failed_exposures_are_kept_with_a_status():
    for name in ("lamost_mrs", "lamost_mrs_exposures"):
        survey = SURVEYS[name]
        groups, _ = survey.read_block(survey.pieces([("a", mrs(failed=("B",)))]))
        flag = SpectrumStatus.NO_SIGNAL
        assert (groups["blue"].status.values & flag > 0).all()
        assert (groups[""].status.values & flag > 0).all()
        assert (groups["blue"].flux.values != 0).any()  # the pixels are kept
        assert (groups["red"].snr.values > 10).all()


def test_exposures_keep_grids_of_their_own_and_run_upwards():
    data = mrs(minutes=3)
    assert count_exposures(data) == 3
    made = read_exposures(data, "x", 1, 2)
    hdus = _hdus(data)
    for row, minute in enumerate((84107335, 84107359)):
        blue, red = hdus[f"B-{minute}"], hdus[f"R-{minute}"]
        np.testing.assert_array_equal(made.arms["blue"].flux[row], _column(blue, "FLUX"))
        np.testing.assert_array_equal(made.arms["red"].flux[row], _column(red, "FLUX")[::-1])
        wavelength = 10 ** _column(red, "LOGLAM").astype("f8")[::-1]
        # NumPy's powers differ in the last bit with the direction of the array
        np.testing.assert_allclose(made.arms["red"].wavelength[row], wavelength, rtol=1e-15)
        assert (np.diff(made.arms["red"].wavelength[row]) > 0).all()


def test_an_exposures_time_is_the_middle_of_it():
    scalars = read_exposures(mrs(), "x", 0, 2).scalars
    # 84107311 minutes are 58407.8549 local days, 8 h less in UTC, and 600 s to the middle
    expected = 84107311 / 1440 - 8 / 24 + 600 / 86400
    assert scalars["mjd"] == pytest.approx([expected, expected + 24 / 1440], abs=1e-9)
    assert len(set(scalars["obsid"])) == 2


def test_ids_of_coadds_are_the_surveys_and_of_exposures_are_made():
    assert read_coadds(mrs(), "x").scalars["obsid"] == 681001015
    assert min(read_exposures(mrs(), "x", 0, 2).scalars["obsid"]) >= 2**61


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (mrs(VACUUM=False), "bad_grid", "VACUUM = F"),
        (mrs(starts=(250000, 379900)), "bad_grid", "LOGLAM|outside"),
        (mrs(n=(0, 0)), "bad_layout", "no COADD_B or COADD_R"),
    ],
)
def test_coadds_that_are_not_the_surveys_are_refused(data, reason, message):
    with pytest.raises(SurveyFileError, match=message) as caught:
        read_coadds(data, "x")
    assert caught.value.reason == reason


def test_more_exposures_than_there_are_cannot_be_read():
    with pytest.raises(SurveyFileError, match="0:5 were planned, the file has 2"):
        read_exposures(mrs(), "x", 0, 5)
    with pytest.raises(SurveyFileError, match="no exposure"):
        count_exposures(mrs(minutes=0))


def test_columns_that_are_missing_are_named():
    data = mrs().replace(b"'LOGLAM  '", b"'LOGLAMB '")
    with pytest.raises(SurveyFileError, match=r"COADD_B.* no columns \['WAVELENGTH'\]"):
        read_coadds(data, "x")


def test_read_survey_wants_an_arm_and_read_arms_gives_all(tmp_path):
    (tmp_path / "med-1.fits").write_bytes(mrs())
    with pytest.raises(ValueError, match=r"\['blue', 'red'\]: say arm="):
        read_survey(tmp_path, "lamost_mrs")
    red = read_survey(tmp_path, "lamost_mrs", arm="red")
    arms = read_arms(tmp_path, "lamost_mrs")
    assert red.equals(arms["red"])
    assert arms["blue"].designation.item() == "LAMOST J220848.54-020324.3"


def test_path_rule_is_lrs_but_for_its_prefix():
    row = {"obsdate": "2018-10-16", "planid": "TD01", "lmjd": 58408, "spid": 1, "fiberid": 15}
    assert mrs_path(row) == "20181016/TD01/med-58408-TD01_sp01-015.fits.gz"
