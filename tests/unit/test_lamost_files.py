"""Written LAMOST files are what astropy, and our own reader, take for the survey's."""

import gzip
import io

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits

from scalespec.surveys.lamost import WAVELENGTH, read_lrs
from scalespec.surveys.lamost_files import designation, file_path, write_lrs

FACTS = {
    "obsid": 677503031,
    "mjd": 58396.68055555555,
    "planid": "EG014118N254444M01",
    "spid": 3,
    "fiberid": 31,
    "ra": 24.376852,
    "dec": -5.427147,
    "subclass": "G3",
    "z": -0.0001234,
    "z_err": 0.0000138,
    "helio_rv": -9.40313,
    "first_pixel": 2,
} | {f"snr_{band}": 10.0 for band in "ugriz"}
ROWS = np.random.default_rng(1).random((6, 3907)).astype(np.float32)
ROWS[2] = WAVELENGTH[2:]


@pytest.mark.parametrize("layout", ["image", "coadd"])
def test_astropy_finds_nothing_wrong(layout):
    data = gzip.decompress(write_lrs(FACTS, ROWS, layout=layout))
    assert len(data) % 2880 == 0
    with fits.open(io.BytesIO(data)) as hdus:
        hdus.verify("exception")
        header = hdus[0].header
        assert header["OBSID"] == 677503031
        assert header["LMJD"] == 58397
        assert header["DATE-OBS"] == "2018-10-05T16:20:00"
        assert header["DESIG"] == "LAMOST J013730.44-052537.7"
        assert header["COEFF0"] == pytest.approx(3.5684, abs=1e-12)
        if layout == "image":
            assert np.array_equal(hdus[0].data, ROWS[:5])
        else:
            table = hdus["COADD"].data
            names = ["FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION"]
            assert table.columns.names == names
            for name, row in zip(names, ROWS, strict=True):
                assert np.array_equal(table[name][0], row)


@pytest.mark.parametrize("layout", ["image", "coadd"])
def test_our_reader_finds_what_was_written(layout):
    spectrum = read_lrs(write_lrs(FACTS, ROWS, layout=layout), "a.fits.gz")
    assert not spectrum.fallback
    assert spectrum.status == 0
    assert np.array_equal(spectrum.flux[2:], ROWS[0])
    assert spectrum.scalars["obsid"] == 677503031
    assert spectrum.scalars["mjd"] == pytest.approx(58396.68055555, abs=1e-6)
    assert spectrum.scalars["rv"] == pytest.approx(-0.0001234 * 299792.458, abs=2e-3)  # 8 digits


def test_pilot_files_are_as_those_of_dr1():
    data = gzip.decompress(write_lrs(FACTS, ROWS, layout="pilot"))
    with fits.open(io.BytesIO(data)) as hdus:
        hdus.verify("exception")
        header = hdus[0].header
        assert header["EXTEN0"] == "Flux Inverse Subcontinuum Andmask Ormask"
        assert (header["LMJD"], header["MJD"]) == (58397, 58398)  # two days late
        assert not {"OBSID", "DATA_V", "ZFLAG", "SNRG"} & set(header)
        assert header["SN_G"] == 10
        assert np.array_equal(hdus[0].data, ROWS[[0, 1, 5, 3, 4]])
    spectrum = read_lrs(write_lrs(FACTS, ROWS, layout="pilot"), "a.fits.gz")
    assert np.array_equal(spectrum.flux[2:], ROWS[0])


def test_same_input_gives_same_bytes():
    assert write_lrs(FACTS, ROWS, layout="image") == write_lrs(FACTS, ROWS, layout="image")


def test_path_is_the_releases_rule():
    path = "20181005/EG014118N254444M01/spec-58397-EG014118N254444M01_sp03-031.fits.gz"
    assert file_path(FACTS) == path


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.9999, -0.5), (187.70593, 12.391123)])
def test_designation_truncates_as_astropy_prints(ra, dec):
    place = SkyCoord(ra * units.deg, dec * units.deg)
    # a hundredth of a second and a tenth of an arcsecond, cut off and not rounded
    hours = place.ra.to_string(unit=units.hour, sep="", precision=6, pad=True)
    degrees = place.dec.to_string(sep="", precision=6, pad=True, alwayssign=True)
    assert designation(ra, dec) == f"LAMOST J{hours[:9]}{degrees[:9]}"


def test_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="drawn"):
        write_lrs(FACTS, ROWS, layout="drawn")
