"""LAMOST low-resolution files, written: the layouts that releases have, for made-up surveys.

Headers say what those of DR1 (pilot), DR7 (image) and DR10 (COADD table) say, in their words; what
a made-up observation does not have (weather, focus) is left out.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from scalespec.surveys.lamost import LOG10_START, LOG10_STEP, catalog_path

BLOCK = 2880  # bytes, FITS Standard 4.0, section 3.1
BAD_PIXEL, SKY_TOO_BRIGHT, NO_DATA = 1, 8, 32
"""Values of ANDMASK and ORMASK."""
_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)
_ROWS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION")

_IMAGE = """\
SIMPLE  =                    T /Primary Header created by scalespec mock
BITPIX  =                  -32 /
NAXIS   =                    2 / Number of array dimensions
NAXIS1  = {n_pixel:20d} /
NAXIS2  =                    5 /
EXTEND  =                    T /

COMMENT --------FILE INFORMATION
FILENAME= '{stem}.fits' /
OBSID   = {obsid:20d} / Unique number ID of this spectrum
AUTHOR  = 'LAMOST Pipeline'    / Who compiled the information
DATA_V  = 'LAMOST DR7'         / Data release version
EXTEN0  = 'Flux, Inverse, Wavelength, Andmask, Ormask' /
N_EXTEN =                    1 / The extension number
EXTNAME = 'Flux    '           / The extension name
"""
_PRIMARY = """\
SIMPLE  =                    T /Primary Header created by scalespec mock
BITPIX  =                   16 /
NAXIS   =                    0 / Number of array dimensions
EXTEND  =                    T /

COMMENT --------FILE INFORMATION
FILENAME= '{stem}.fits' /
OBSID   = {obsid:20d} / Unique number ID of this spectrum
AUTHOR  = 'LAMOST Pipeline'    / Who compiled the information
DATA_V  = 'LAMOST DR10'        / Data release version
N_EXTEN =                    2 / The amount of extension
NORM    =                    1 / 1 if there exists a normalizated spectrum
"""
_PILOT = """\
SIMPLE  =                    T /Primary Header created by scalespec mock
BITPIX  =                  -32 /
NAXIS   =                    2 / Number of array dimensions
NAXIS1  = {n_pixel:20d} /
NAXIS2  =                    5 /
EXTEND  =                    T /
COMMENT --------FILE INFORMATION
FILENAME= '{stem}.fits' /
AUTHOR  = 'LAMOST Pipeline'    / Who compiled the information
N_EXTEN =                    1 / The extension number
EXTEN0  = 'Flux Inverse Subcontinuum Andmask Ormask' /
"""
_COMMON = """\
ORIGIN  = 'MOCK    '           / Not an observation: made by scalespec mock
COMMENT --------TELESCOPE PARAMETERS
TELESCOP= 'LAMOST  '           / GuoShouJing Telescope
LONGITUD=               117.58 / [deg] Longitude of site
LATITUDE=                40.39 / [deg] Latitude of site
COMMENT --------OBSERVATION PARAMETERS
DATE-OBS= '{date:%Y-%m-%dT%H:%M:%S}' / The observation median UTC
LMJD    = {lmjd:20d} / Local Modified Julian Day
MJD     = {day:20d} / Modified Julian Day
PLANID  = '{planid}' / Plan ID in use
RA      = {ra:20.6f} / [deg] Right ascension of object
DEC     = {dec:20.6f} / [deg] Declination of object
DESIG   = '{designation}' / Designation of LAMOST target
FIBERID = {fiberid:20d} / Fiber ID of Object
OBJTYPE = 'Star    '           / Object type from input catalog
OBS_TYPE= 'OBJ     '           / The type of target (OBJ, FLAT, ARC or BIAS)
RADECSYS= 'FK5     '           / Equatorial coordinate system
EQUINOX =              2000.00 / Equinox in years
NEXP    =                    2 / Number of valid exposures
EXPTIME =              1200.00 / [s] Minimum of exposure time for all cameras
COMMENT --------SPECTROGRAPH PARAMETERS
SPID    = {spid:20d} / Spectrograph ID
COMMENT --------DATA REDUCTION PARAMETERS
HELIO   =                    T / Heliocentric correction
HELIO_RV= {helio_rv:20.5f} / [km/s] Heliocentric correction
VACUUM  =                    T / Wavelengths are in vacuum
NWORDER =                    2 / Number of linear-log10 coefficients
WFITTYPE= 'LOG-LINEAR'         / Linear-log10 dispersion
COEFF0  = {coeff0:20.4f} / Central wavelength (log10) of first pixel
COEFF1  = {coeff1:20.4f} / Log10 dispersion per pixel
DC-FLAG =                    1 / Log-linear flag
COMMENT --------SPECTRA ANALYSIS RESULTS
VERSPIPE= 'mock    '           / Version of Pipeline
CLASS   = 'STAR    '           / Class of object
SUBCLASS= '{subclass:<8}'           / Subclass of object
Z       = {z:20.8f} / Redshift of object
Z_ERR   = {z_err:20.8f} / Redshift error of object
ZFLAG   = 'LASP    '           / Which method computes the redshift
SNRU    = {snr_u:20.2f} / SNR of u filter
SNRG    = {snr_g:20.2f} / SNR of g filter
SNRR    = {snr_r:20.2f} / SNR of r filter
SNRI    = {snr_i:20.2f} / SNR of i filter
SNRZ    = {snr_z:20.2f} / SNR of z filter
END"""
_TABLE = """\
XTENSION= 'BINTABLE'           /Binary table written by scalespec mock
BITPIX  =                    8 /Required value
NAXIS   =                    2 /Required value
NAXIS1  = {row_bytes:20d} /Number of bytes per row
NAXIS2  =                    1 /Number of rows
PCOUNT  =                    0 /Normally 0 (no varying arrays)
GCOUNT  =                    1 /Required value
TFIELDS =                    6 /Number of columns in table
EXTNAME = 'COADD   '           / The extension name
{columns}
END"""


_BANDS = "UGRIZ"
_LATE = 2  # days by which MJD cards of DR1 are


def _of_pilot(common: str) -> str:
    """Return the cards of DR1: other names for the S/N, no word on the redshift's origin."""
    for band in _BANDS:
        common = common.replace(f"SNR{band}    =", f"SN_{band}    =")
    return "".join(x for x in common.splitlines(keepends=True) if not x.startswith("ZFLAG"))


_COMMON_PILOT = _of_pilot(_COMMON)


def write_lrs(facts: Mapping[str, Any], rows: npt.NDArray[np.float32], *, layout: str) -> bytes:
    """Return one gzipped file; same input, same bytes.

    Parameters
    ----------
    facts : mapping
        obsid, mjd [d], planid, spid, fiberid, ra, dec [deg], subclass, z, z_err, helio_rv [km/s],
        snr_u ... snr_z, and first_pixel: where on the survey's grid the file begins.
    rows : (6, n_pixel) float32
        Flux, ivar, wavelength, andmask, ormask, normalized flux.
    layout : {"pilot", "image", "coadd"}
        Of DR1, where normalized flux stands in place of the wavelength, MJD is two days late and
        there is no OBSID; of DR2 to DR7, without the last row; of DR8 and later.

    Raises
    ------
    ValueError
        If there is no such `layout`.

    Examples
    --------
    The reader finds what was written:

    >>> from scalespec.surveys.lamost import WAVELENGTH, read_lrs
    >>> facts = dict(obsid=7, mjd=58396.75, planid="M31", spid=3, fiberid=31, ra=10.0, dec=41.0,
    ...              subclass="G3", z=1e-4, z_err=1e-5, helio_rv=0.0, first_pixel=2)
    >>> facts |= {f"snr_{band}": 10.0 for band in "ugriz"}
    >>> rows = np.ones((6, 3907), np.float32)
    >>> rows[2], rows[3:5] = WAVELENGTH[2:], 0
    >>> spectrum = read_lrs(write_lrs(facts, rows, layout="coadd"), "spec.fits.gz")
    >>> spectrum.flux[:4], spectrum.scalars["obsid"], spectrum.scalars["mjd"]
    (array([0., 0., 1., 1.], dtype=float32), 7, 58396.75)
    """
    n_pixel = rows.shape[1]
    date = observed_at(facts["mjd"])
    filled = dict(facts) | {
        "date": date,
        "day": int(facts["mjd"]),
        "lmjd": local_day(facts["mjd"]),
        "stem": file_path(facts).rpartition("/")[2].removesuffix(".fits.gz"),
        "designation": designation(facts["ra"], facts["dec"]),
        "coeff0": LOG10_START + LOG10_STEP * facts["first_pixel"],
        "coeff1": LOG10_STEP,
        "n_pixel": n_pixel,
    }
    if layout == "image":
        header = (_IMAGE + _COMMON).format_map(filled)
        data = _header(header) + _padded(rows[:5].astype(">f4").tobytes(), b"\0")
    elif layout == "pilot":
        header = (_PILOT + _COMMON_PILOT).format_map(filled | {"day": filled["day"] + _LATE})
        held = rows[[0, 1, 5, 3, 4]]
        data = _header(header) + _padded(held.astype(">f4").tobytes(), b"\0")
    elif layout == "coadd":
        columns = [f"TTYPE{i}  = '{name:<8}' /" for i, name in enumerate(_ROWS, 1)]
        columns += [f"TFORM{i}  = '{f'{n_pixel}E':<8}' /" for i in range(1, 7)]
        table = _TABLE.format(row_bytes=24 * n_pixel, columns="\n".join(columns))
        data = _header((_PRIMARY + _COMMON).format_map(filled)) + _header(table)
        data += _padded(rows.astype(">f4").tobytes(), b"\0")
    else:
        raise ValueError(f"layout must be 'pilot', 'image' or 'coadd', got {layout!r}")
    return bytes(isal_zlib.compress(data, 1, wbits=31))  # a gzip stream whose time is 0


def observed_at(mjd: float) -> datetime:
    """Return a time to the second, as headers have it."""
    return _EPOCH + timedelta(seconds=round(mjd * 86400))


def local_day(mjd: float) -> int:
    """Return the local Modified Julian Day that LAMOST counts by: Beijing is 8 h ahead."""
    return int(mjd + 8 / 24)


def file_path(facts: Mapping[str, Any]) -> str:
    """Return where a release would keep the file: `lamost.catalog_path`, from header facts."""
    date = f"{observed_at(facts['mjd']):%Y-%m-%d}"
    return catalog_path({**facts, "obsdate": date, "lmjd": local_day(facts["mjd"])})


def designation(ra: float, dec: float) -> str:
    """Return LAMOST's name of a target.

    Examples
    --------
    >>> designation(138.080956, 27.893459)
    'LAMOST J091219.42+275336.4'
    """
    centiseconds = int(ra / 15 * 360000) % 8640000
    tenths = int(abs(dec) * 36000)
    hours, minutes, seconds = _sexagesimal(centiseconds, 100)
    degrees, arcminutes, arcseconds = _sexagesimal(tenths, 10)
    sign = "-" if dec < 0 else "+"
    return (
        f"LAMOST J{hours:02d}{minutes:02d}{seconds:05.2f}"
        f"{sign}{degrees:02d}{arcminutes:02d}{arcseconds:04.1f}"
    )


def _sexagesimal(units: int, per_second: int) -> tuple[int, int, float]:
    whole, seconds = divmod(units, 60 * per_second)
    return whole // 60, whole % 60, seconds / per_second


def _header(text: str) -> bytes:
    """Lay lines out as 80-byte cards, filled up to whole blocks."""
    return _padded("".join(line.ljust(80) for line in text.split("\n")).encode("ascii"), b" ")


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % BLOCK)
