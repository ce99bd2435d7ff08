"""CSST spectra in the layout that the reader documents."""

import io

import numpy as np
import pytest
from astropy.io import fits
from survey_files import BANDS as MADE
from survey_files import csst

from scalespec.errors import SurveyFileError
from scalespec.schema import MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys import SURVEYS
from scalespec.surveys.csst import BANDS, count_spectra, grid, read_csst

FILE = csst()


def test_bands_have_two_pixels_per_resolution_element_from_255_to_1000_nm():
    for band, (first, last) in BANDS.items():
        wavelength = grid(band)
        assert wavelength[0] == pytest.approx(first)
        assert last / 1.01 < wavelength[-1] <= last
        ratio = wavelength[1:] / wavelength[:-1]
        np.testing.assert_allclose(np.log(ratio), 1 / 400, rtol=1e-9)  # 1/(2 R), R = 200


def test_rows_are_the_files_rows():
    assert count_spectra(FILE) == 3
    made = read_csst(FILE, "x", 1, 2)
    with fits.open(io.BytesIO(FILE)) as hdus:
        table = hdus["SPECTRA"].data
        for band in MADE:
            pixels = made.arms[band.lower()]
            np.testing.assert_array_equal(pixels.flux, table[f"{band}_FLUX"][1:])
            np.testing.assert_array_equal(pixels.ivar, table[f"{band}_IVAR"][1:])
        assert made.scalars["obsid"].tolist() == table["OBSID"][1:].tolist()
        np.testing.assert_array_equal(made.scalars["mjd"], table["MJD"][1:])


def test_masks_ids_and_velocities_are_translated():
    made = read_csst(FILE, "x", 0, 3)
    flags = [MaskBit.BAD_PIXEL, MaskBit.COSMIC_RAY, MaskBit.SUSPECT, MaskBit.NO_DATA]
    mask = made.arms["gu"].mask[0, :4] & ~np.uint32(0xFF)
    assert mask.tolist() == [int(flag) for flag in flags]
    assert made.scalars["source_id"].tolist() == [123456789, -1, 123456791]
    assert np.isnan(made.scalars["rv"]).tolist() == [True, False, False]
    assert made.scalars["rv"][1] == pytest.approx(29.979, abs=1e-3)  # float32 redshift


def test_bands_that_a_field_lacks_have_no_pixels():
    survey = SURVEYS["csst"]
    groups, _ = survey.read_block(survey.pieces([("a", csst(bands=("GV", "GI")))]))
    for group in groups.values():
        check_spectra(group)
    assert (groups["gu"].status.values & SpectrumStatus.NO_PIXELS > 0).all()
    assert (groups[""].status.values & SpectrumStatus.NO_PIXELS == 0).all()
    assert groups["gi"].attrs["log10_wavelength_start"] == pytest.approx(np.log10(6200))


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (csst(bands=()), "bad_layout", "no column <band>_FLUX"),
        (FILE.replace(b"'SPECTRA '", b"'SPECTRUM'"), "bad_layout", "no HDU SPECTRA"),
        (FILE.replace(b"'GU_MASK '", b"'GU_MUSK '"), "bad_layout", r"GU_FLUX without \['mask'\]"),
        (FILE.replace(b"'GV_WAVELENGTH'", b"'GV_WAVELENGTX'"), "bad_layout", "GV_WAVELENGTH"),
    ],
)
def test_other_layouts_are_refused(data, reason, message):
    with pytest.raises(SurveyFileError, match=message) as caught:
        read_csst(data, "x")
    assert caught.value.reason == reason


def test_other_wavelengths_are_refused():
    with fits.open(io.BytesIO(FILE)) as hdus:
        hdus["GI_WAVELENGTH"].data["WAVELENGTH"] *= 1.001
        file = io.BytesIO()
        hdus.writeto(file)
    with pytest.raises(SurveyFileError, match=r"GI.*not the survey's") as caught:
        read_csst(file.getvalue(), "x")
    assert caught.value.reason == "bad_grid"
