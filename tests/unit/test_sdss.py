"""SDSS spec- files of several eras."""

import io

import numpy as np
import pytest
from astropy.io import fits
from survey_files import sdss, to_bytes

from scalespec.errors import SurveyFileError
from scalespec.schema import MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys import SURVEYS
from scalespec.surveys.sdss import LATTICE, LSF_NODES, read_spec, spec_path


@pytest.mark.parametrize(("start", "n"), [(35800, 3850), (35523, 4640), (35400, 4801)])
def test_stretches_of_segue_boss_and_later_lie_on_one_lattice(start, n):
    data = sdss(start=start, n=n)
    pixels = read_spec(data, "x").arms[""]
    with fits.open(io.BytesIO(data)) as hdus:
        table = hdus["COADD"].data
        log10, flux, ivar = (np.array(table[key]) for key in ("loglam", "flux", "ivar"))
    place = np.argmin(np.abs(np.log10(LATTICE.wavelength) - log10[0].astype("f8")))
    assert place == start - 35400
    np.testing.assert_array_equal(pixels.flux[place : place + n], flux)
    np.testing.assert_array_equal(pixels.ivar[place : place + n], ivar)
    assert (pixels.mask == MaskBit.OUTSIDE).sum() == LATTICE.n - n
    assert pixels.status == 0


def test_bits_are_translated_and_those_of_the_whole_fiber_left_out():
    mask = read_spec(sdss(), "x").arms[""].mask[400:429] & ~np.uint32(0xFF)
    flags = MaskBit
    expected = [flags.BAD_TRACE] * 4 + [0] * 12 + [flags.SUSPECT, flags.BAD_TRACE, flags.BAD_PIXEL]
    expected += [flags.SUSPECT] * 3 + [flags.NO_SKY, flags.BRIGHT_SKY, flags.NO_DATA]
    expected += [flags.BAD_PIXEL, flags.SUSPECT, flags.NO_SKY, flags.NO_SKY]
    assert mask.tolist() == [int(bit) for bit in expected]


def test_or_mask_is_kept_as_any():
    mask = read_spec(sdss(n=3850), "x").arms[""].mask[400 + 3850 - 29 : 400 + 3850]
    assert (mask[::-1] & MaskBit.BRIGHT_SKY << 8 > 0).tolist().index(True) == 23


def test_lsf_is_in_angstrom():
    sigma = read_spec(sdss(), "x").arms[""].lsf_sigma
    # 1.1 pixels of 1e-4 dex, float32
    np.testing.assert_allclose(sigma, 1.1e-4 * np.log(10) * LSF_NODES, rtol=1e-6)
    data = sdss().replace(b"'wdisp   '", b"'wdisq   '")
    assert not read_spec(data, "x").arms[""].lsf_sigma.any()


@pytest.mark.parametrize("about", ["SPECOBJ", "SPALL"])
def test_position_class_and_velocity_are_the_second_tables(about):
    made = read_spec(sdss(about=about), "x")
    assert (made.scalars["ra"], made.scalars["dec"]) == (146.714, -1.0413)
    assert made.scalars["rv"] == pytest.approx(59.9585, abs=1e-3)  # float32 redshift
    assert made.scalars["mjd"] == pytest.approx(51629.5)
    assert (made.strings["class_"], made.strings["subclass"]) == ("STAR", "F5 (30743)")


def _with_noqso(class_, subclass, z, z_err):
    """A file whose table has the fit without quasars too."""
    more = [
        fits.Column("CLASS_NOQSO", "6A", array=[class_]),
        fits.Column("SUBCLASS_NOQSO", "21A", array=[subclass]),
        fits.Column("Z_NOQSO", "E", array=[z]),
        fits.Column("Z_ERR_NOQSO", "E", array=[z_err]),
    ]
    with fits.open(io.BytesIO(sdss())) as hdus:
        hdus["SPECOBJ"] = fits.BinTableHDU.from_columns(
            hdus["SPECOBJ"].columns + fits.ColDefs(more), name="SPECOBJ"
        )
        file = io.BytesIO()
        hdus.writeto(file)
    return file.getvalue()


def test_the_fit_without_quasars_counts_where_there_is_one():
    made = read_spec(_with_noqso("GALAXY", "M1", -3e-4, 2e-5), "x")
    assert (made.strings["class_"], made.strings["subclass"]) == ("GALAXY", "M1")
    # c times float32 redshifts
    assert made.scalars["rv"] == pytest.approx(-89.9377, abs=1e-3)
    assert made.scalars["rv_err"] == pytest.approx(5.99585, abs=1e-3)


def test_blank_columns_of_legacy_and_segue_stars_are_no_fit():
    made = read_spec(_with_noqso("", "", 0.0, 0.0), "x")
    assert (made.strings["class_"], made.strings["subclass"]) == ("STAR", "F5 (30743)")
    assert made.scalars["rv"] == pytest.approx(59.9585, abs=1e-3)  # float32 redshift
    assert made.scalars["rv_err"] == pytest.approx(2.99792, abs=1e-3)


def test_without_that_table_the_header_speaks():
    made = read_spec(sdss(about="OTHER", TAI=None), "x")
    assert made.scalars["ra"] == 146.7
    assert made.scalars["mjd"] == 51630
    assert np.isnan(made.scalars["rv"])


def test_ids_are_made_of_plate_day_and_fiber_or_catalog_id():
    header = read_spec(sdss(), "x").scalars["obsid"]
    name = read_spec(sdss(PLATEID=None), "a/spec-0266-51630-0005.fits").scalars["obsid"]
    other = read_spec(sdss(FIBERID=6), "x").scalars["obsid"]
    later = "spec-015143-59205-27021597775696137.fits"  # SDSS-V: field, day, catalog id
    ids = {header, other, read_spec(sdss(), later).scalars["obsid"]}
    assert header == name
    assert len(ids) == 3


def test_off_the_lattice_is_rebinned_and_said():
    data = sdss()
    with fits.open(io.BytesIO(data)) as hdus:
        hdus["COADD"].data["loglam"] += 4e-5
        file = io.BytesIO()
        hdus.writeto(file)
    groups, _ = SURVEYS["sdss"].read_block([("a", file.getvalue())])
    check_spectra(groups[""])
    assert groups[""].status.item() == SpectrumStatus.RESAMPLED
    assert groups[""].noise_correlation.item() > 1.05


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (sdss(VACUUM=False), "bad_grid"),
        (sdss(start=10000), "bad_grid"),
        (sdss().replace(b"'loglam  '", b"'loglan  '"), "bad_layout"),
        (sdss().replace(b"'COADD   '", b"'COADDS  '"), "bad_layout"),
    ],
)
def test_what_is_not_the_surveys_is_refused(data, reason):
    with pytest.raises(SurveyFileError) as caught:
        read_spec(data, "x")
    assert caught.value.reason == reason


def test_path_is_the_data_models():
    row = {"PLATE": 266, "MJD": 51602, "FIBERID": 5}
    assert spec_path(row) == "0266/spec-0266-51602-0005.fits"


@pytest.mark.parametrize(
    ("form", "known", "status"),
    [
        ("K", 6917528997577384321, 0),
        ("19A", 6917528997577384321, 0),
        ("D", -1, SpectrumStatus.INEXACT_ID),  # digits are lost: not the id of another star
    ],
)
def test_gaia_ids_of_nineteen_digits_are_kept_or_marked(form, known, status):
    gaia = 6917528997577384321
    with fits.open(io.BytesIO(sdss(about="SPALL"))) as hdus:
        values = [str(gaia)] if form == "19A" else np.array([gaia])
        more = fits.ColDefs([fits.Column("GAIA_DR3_SOURCE_ID", form, array=values)])
        about = fits.BinTableHDU.from_columns(hdus[2].columns + more, name="SPALL")
        data = to_bytes(hdus[0], hdus[1], about)
    spectra = SURVEYS["sdss"].read_block([("spec-266-51630-0005.fits", data)])[0][""]
    assert spectra.source_id.values.tolist() == [known]
    assert spectra.status.values[0] & SpectrumStatus.INEXACT_ID == status
