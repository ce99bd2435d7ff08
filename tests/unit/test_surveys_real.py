"""Every real LRS file: the strict parser and our rows against astropy's reading."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from parsed import assert_parsed_as_astropy_does

from scalespec.schema import MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys import read_survey
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lamost import WAVELENGTH, read_block

FOLDERS = {"dr1_sample": 176, "dr7_mdwarfs": 54, "dr10_coadd": 25, "formats": 7}


def _files(shared: Path, folder: str) -> list[Path]:
    files = sorted((shared / "data" / "lamost" / folder).glob("*.fits.gz"))
    if not files:
        pytest.skip(f"no {folder} beside this checkout")
    return files


def _astropy_pixels(path: Path) -> tuple[np.ndarray, ...]:
    """Flux, ivar and the file's wavelengths in log10, read the slow obvious way."""
    with fits.open(path) as hdus:
        if hdus[0].data is not None:
            flux, ivar = np.array(hdus[0].data[:2])
        else:
            flux, ivar = (np.array(hdus["COADD"].data[name][0]) for name in ("FLUX", "IVAR"))
        start, step = hdus[0].header["COEFF0"], hdus[0].header["COEFF1"]
    return flux, ivar, start + step * np.arange(len(flux))


@pytest.mark.parametrize("folder", FOLDERS)
def test_strict_parser_equals_astropy_on_every_real_file(shared, folder):
    files = _files(shared, folder)
    assert len(files) == FOLDERS[folder]
    for path in files:
        assert_parsed_as_astropy_does(gunzip(path.read_bytes()), path)


@pytest.mark.parametrize("folder", FOLDERS)
def test_stored_pixels_equal_astropy_reading_on_finite_valid_pixels(shared, folder):
    files = _files(shared, folder)
    spectra, index = read_block([(str(path), path.read_bytes()) for path in files])
    assert spectra.attrs["fallbacks"] == 0
    assert (index.reason == "").all()
    for i, path in enumerate(files):
        flux, ivar, log10 = _astropy_pixels(path)
        # where the pixel belongs, found without our code: nearest of the grid's points
        ours = np.argmin(np.abs(np.log10(WAVELENGTH) - log10[:, np.newaxis][::400]), axis=1)
        place = ours[0] + np.arange(len(flux))
        assert np.array_equal(place[::400], ours), path
        valid = np.isfinite(flux) & (ivar > 0)
        assert np.array_equal(spectra.flux.values[i, place][valid], flux.astype("f4")[valid]), path
        assert np.array_equal(spectra.ivar.values[i, place][valid], ivar.astype("f4")[valid]), path
        assert np.array_equal(spectra.ivar.values[i, place] > 0, valid), path
        outside = np.setdiff1d(np.arange(len(WAVELENGTH)), place)
        assert (spectra.mask.values[i, outside] == MaskBit.OUTSIDE).all(), path


def test_real_rows_keep_the_schema_and_carry_what_the_headers_say(shared):
    files = _files(shared, "dr10_coadd")
    spectra = check_spectra(read_survey(files[0].parent / "*.fits.gz"))
    assert [int(path.name.split(".")[0]) for path in files] == spectra.obsid.values.tolist()
    assert set(spectra.release.values) == {"LAMOST DR10"}
    assert (spectra.status == 0).all()
    for i, path in enumerate(files):
        header = fits.getheader(path)
        assert spectra.designation.values[i] == header["DESIG"]
        assert spectra.snr_g.values[i] == header["SNRG"]
        assert (spectra.ra.values[i], spectra.dec.values[i]) == (header["RA"], header["DEC"])
        # float32 km/s
        assert spectra.rv.values[i] == pytest.approx(299792.458 * header["Z"], rel=1e-6)
        # the middle of a night's observation lies within a day of its integer MJD
        assert 0 < spectra.mjd.values[i] - header["MJD"] < 1


def test_dr1_pixels_lie_at_vacuum_wavelengths_though_row_2_holds_none(shared):
    spectra = read_survey(_files(shared, "dr1_sample")[0].parent)
    hot = spectra.subclass.str.startswith("A").values
    window = np.abs(WAVELENGTH - 4862.7) < 20
    flux = spectra.flux.values[hot][:, window]
    profile = np.mean(flux / np.median(flux, axis=1, keepdims=True), axis=0)
    # Hβ: 4862.69 Å in vacuum (4861.33 in air), moved by the stars' own velocities
    expected = 4862.69 * (1 + np.nanmedian(spectra.rv.values[hot]) / 299792.458)
    # half a pixel is 0.56 Å
    assert WAVELENGTH[window][np.argmin(profile)] == pytest.approx(expected, abs=0.56)


def test_dr1_spectra_have_distinct_ids_made_from_their_plates(shared):
    spectra = read_survey(_files(shared, "dr1_sample")[0].parent)
    assert len(np.unique(spectra.obsid)) == FOLDERS["dr1_sample"]
    assert (spectra.obsid.values >> 61 == 1).all()


def test_failed_redshifts_are_rows_without_velocity(shared):
    spectra, _ = read_block([(p.name, p.read_bytes()) for p in _files(shared, "dr7_mdwarfs")])
    failed = np.isnan(spectra.rv.values)
    assert failed.sum() == 4  # Z = -9999 in two stars and two of class Unknown
    assert np.array_equal(spectra.status.values & SpectrumStatus.NO_REDSHIFT > 0, failed)


def test_medium_resolution_files_are_rows_of_bad_layout(shared):
    spectra, index = read_block([(p.name, p.read_bytes()) for p in _files(shared, "mrs")])
    assert (spectra.status == SpectrumStatus.BAD_LAYOUT).all()
    assert index.reason.str.contains("COADD_B").all()
