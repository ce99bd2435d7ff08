"""LAMOST low-resolution spectra (LRS): files of every release -> rows on the survey's one grid.

Wavelengths are vacuum Å, heliocentric; flux is relative. What a file is, is decided by its content,
never by its release or name.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from scalespec.errors import SurveyFileError
from scalespec.kernels.resample import rebin
from scalespec.kernels.wavelength import log_grid, pixel_edges
from scalespec.schema import C_KMS, MaskBit, SpectrumStatus
from scalespec.surveys.fits import HDU, Value, gunzip, read_fits
from scalespec.surveys.rows import Spectrum, read_rows

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
MaskArray: TypeAlias = npt.NDArray[np.uint32]

LOG10_START, LOG10_STEP, N_PIXEL = 3.5682, 1e-4, 3909
WAVELENGTH = log_grid(LOG10_START, LOG10_STEP, N_PIXEL)
WAVELENGTH.flags.writeable = False
ATTRS: Mapping[str, Any] = {
    "survey": "lamost_lrs",
    "wavelength_medium": "vacuum",
    "frame": "observed, heliocentric",
    "resolving_power": 1800.0,  # at 5500 Å, as the release documents say; no LSF per fiber
    "log10_wavelength_start": LOG10_START,
    "log10_wavelength_step": LOG10_STEP,
}
_OFF_GRID = 0.02  # pixels; a real DR7 file sits 0.0175 off throughout
_DISAGREES = 0.1  # pixels between the header's grid and the file's own wavelengths
_FASTEST_Z = 0.01  # beyond the Galaxy's fastest stars: a QSO, a galaxy or a failed fit
_MJD_EPOCH = datetime(1858, 11, 17)  # UTC, as DATE-OBS is without saying so
_PATH = re.compile(r"spec-(\d+)-(.+)_sp(\d+)-(\d+)")
_COLUMNS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
_CARDS = (
    *("OBSID", "LMJD", "PLANID", "SPID", "FIBERID", "RA", "DEC", "DATE-OBS", "MJD", "Z", "Z_ERR"),
    *("DESIG", "CLASS", "SUBCLASS", "DATA_V", "SNRG", "SN_G"),
    *("EXTEN0", "COEFF0", "COEFF1", "VACUUM", "HELIO"),
)


def catalog_path(row: Mapping[str, Any]) -> str:
    """Return where a release keeps the file of a catalog row, relative to its root.

    Parameters
    ----------
    row : mapping
        Catalog columns obsdate (with or without dashes), planid, lmjd, spid, fiberid.

    References
    ----------
    http://www.lamost.org/dr8/v1.0/doc/lr-data-production-description, names of files.

    Examples
    --------
    >>> catalog_path(dict(obsdate="2011-10-24", planid="F5902", lmjd=55859, spid=1, fiberid=13))
    '20111024/F5902/spec-55859-F5902_sp01-013.fits.gz'
    """
    plan, day = str(row["planid"]).strip(), str(row["obsdate"])[:10].replace("-", "")
    lmjd, spid, fiber = (int(row[name]) for name in ("lmjd", "spid", "fiberid"))
    return f"{day}/{plan}/spec-{lmjd:05d}-{plan}_sp{spid:02d}-{fiber:03d}.fits.gz"


def read_block(
    files: Sequence[tuple[str, bytes | Exception]],
) -> tuple[xr.Dataset, pd.DataFrame]:
    """Read a block of LRS files, one row each: `rows.read_rows`, which says what comes back.

    Examples
    --------
    >>> spectra, index = read_block([("a.fits.gz", b"")])
    >>> dict(spectra.sizes), index.reason[0]
    ({'spectrum': 1, 'wavelength': 3909}, "not_fits: neither gzip nor FITS: begins with b''")
    """
    return read_rows(files, read_lrs, wavelength=WAVELENGTH, attrs=ATTRS)


def read_lrs(data: bytes, name: str) -> Spectrum:
    """Read one LRS file of any release.

    Parameters
    ----------
    data : bytes
        The file's content, gzipped or not.
    name : str
        Its path or file name; makes the `obsid` where the header does not.

    Raises
    ------
    SurveyFileError
        With reason ``not_fits``, ``truncated``, ``corrupt``, ``bad_layout`` or ``bad_grid``.

    Notes
    -----
    Two layouts: a primary image whose rows are flux, ivar, wavelength (in DR1: flux less
    continuum), andmask, ormask; or a table whose one row holds the vectors FLUX, IVAR, WAVELENGTH,
    ANDMASK, ORMASK.
    """
    hdus, fallback = read_fits(gunzip(data), cards=_CARDS)
    return _spectrum(hdus, name, fallback=fallback)


@np.errstate(over="ignore", invalid="ignore")  # files hold NaN, and float64 beyond float32
def _spectrum(hdus: list[HDU], name: str, *, fallback: bool) -> Spectrum:
    header = hdus[0].header
    for card in ("VACUUM", "HELIO"):
        if header.get(card) is False:
            raise SurveyFileError(f"{card} = F: wavelengths are not the survey's", "bad_grid")
    flux, ivar, wavelength, andmask, ormask = _find_pixels(hdus)
    grid = _check_wavelength(header, wavelength, len(flux))
    bits = _survey_bits(andmask, 8) | _survey_bits(ormask, 16)
    offset = _lattice_offset(grid)
    scalars = _scalars(header, name)
    status = SpectrumStatus(0)
    if offset is None:
        flux, ivar, mask = _resample(flux, ivar, bits, grid)
        status |= SpectrumStatus.RESAMPLED
    else:
        flux, ivar, mask = _place(flux, ivar, bits, offset)
    good = ivar > 0
    if good.any():
        scalars["snr"] = float(np.median(flux[good] * np.sqrt(ivar[good])))
    else:
        status |= SpectrumStatus.NO_PIXELS
    if math.isnan(scalars["rv"]):
        status |= SpectrumStatus.NO_REDSHIFT
    if math.isnan(scalars["ra"]):
        status |= SpectrumStatus.NO_POSITION
    return Spectrum(flux, ivar, mask, scalars, _strings(header), status, fallback)


def _find_pixels(hdus: list[HDU]) -> tuple[np.ndarray, ...]:
    """Return the file's flux, ivar, wavelength (empty if it has none), andmask and ormask."""
    image = hdus[0].data
    if isinstance(image, np.ndarray):
        if image.ndim != 2 or len(image) < 5 or image.shape[1] < 2:
            raise SurveyFileError(f"an image of shape {image.shape}, wanted (5, n)", "bad_layout")
        return image[0], image[1], _wavelength_row(hdus[0].header, image[2]), image[3], image[4]
    tables = [
        hdu for hdu in hdus if isinstance(hdu.data, dict) and hdu.data.keys() >= set(_COLUMNS)
    ]
    if len(tables) > 1:  # single exposures may come beside their sum
        tables = [hdu for hdu in tables if hdu.name == "COADD"]
    if len(tables) != 1 or not isinstance(tables[0].data, dict):
        names = [hdu.name or f"HDU {i}" for i, hdu in enumerate(hdus)]
        raise SurveyFileError(
            f"no image and no single table of {_COLUMNS} in {names}", "bad_layout"
        )
    columns = [np.asarray(tables[0].data[column]) for column in _COLUMNS]
    if all(column.ndim == 2 and len(column) == 1 for column in columns):
        columns = [column[0] for column in columns]
    shapes = {column.shape for column in columns}
    kinds = {column.dtype.kind for column in columns}
    if len(shapes) > 1 or columns[0].ndim != 1 or columns[0].size < 2 or not kinds <= set("fiu"):
        raise SurveyFileError(
            f"columns {_COLUMNS} have shapes {shapes}, kinds {kinds}", "bad_layout"
        )
    return tuple(columns)


def _wavelength_row(header: Mapping[str, Value], row: np.ndarray) -> np.ndarray:
    """Return an image's third row where it is wavelength: in DR1 it is flux less continuum."""
    title = str(header.get("EXTEN0") or "").lower()
    if "subcontinuum" in title:
        return row[:0]
    if "wavelength" in title or bool(np.all(row[1:] > row[:-1])):
        return row
    return row[:0]


def _check_wavelength(
    header: Mapping[str, Value], wavelength: np.ndarray, n_pixel: int
) -> FloatArray:
    """Return the wavelengths of a file's pixels; its header and its own row must not disagree."""
    start, step = (_number(header.get(card)) for card in ("COEFF0", "COEFF1"))
    known = 3 < start < 5 and 0 < step * n_pixel < 1  # log10 Å
    if not len(wavelength):
        if not known:
            raise SurveyFileError(f"no wavelengths, COEFF0 = {start}, COEFF1 = {step}", "bad_grid")
        return _log_grid(start, step, n_pixel)
    grid = wavelength.astype(np.float64)
    if not (1e3 < grid[0] < 1e5 and bool(np.all(grid[1:] > grid[:-1])) and grid[-1] < 1e5):
        raise SurveyFileError(
            f"wavelengths {grid[0]:.6g} ... {grid[-1]:.6g} Å do not increase within 1e3-1e5 Å",
            "bad_grid",
        )
    if known:
        ends = _log_grid(start, step, n_pixel)[[0, -1]]
        apart = float(np.max(np.abs(np.log10(grid[[0, -1]] / ends)))) / step
        if apart > _DISAGREES:
            raise SurveyFileError(
                f"wavelengths lie {apart:.3g} pixels off COEFF0 = {start}, COEFF1 = {step}",
                "bad_grid",
            )
    return grid


_log_grid = lru_cache(maxsize=64)(log_grid)


def _lattice_offset(grid: FloatArray) -> int | None:
    """Return by how many pixels a file starts after the survey grid; None if off its lattice."""
    offset = round((math.log10(grid[0]) - LOG10_START) / LOG10_STEP)
    ours = slice(max(0, offset), min(N_PIXEL, offset + len(grid)))
    if ours.start >= ours.stop:
        raise SurveyFileError(
            f"wavelengths {grid[0]:.6g} ... {grid[-1]:.6g} Å lie outside the survey's", "bad_grid"
        )
    theirs = grid[ours.start - offset : ours.stop - offset]
    apart = np.abs(theirs - WAVELENGTH[ours])
    near = apart <= _OFF_GRID * LOG10_STEP * math.log(10) * WAVELENGTH[ours]
    return offset if bool(near.all()) else None


def _place(
    flux: np.ndarray, ivar: np.ndarray, bits: MaskArray, offset: int
) -> tuple[np.ndarray, np.ndarray, MaskArray]:
    """Put a file's pixels where they belong on the survey grid: no number is changed."""
    ours = slice(max(0, offset), min(N_PIXEL, offset + len(flux)))
    theirs = slice(ours.start - offset, ours.stop - offset)
    row_flux, row_ivar = np.zeros((2, N_PIXEL), np.float32)
    mask = np.full(N_PIXEL, MaskBit.OUTSIDE, np.uint32)
    row_flux[ours], row_ivar[ours], reason = _clean(flux[theirs], ivar[theirs])
    mask[ours] = bits[theirs] | reason
    return row_flux, row_ivar, mask


def _clean(flux: np.ndarray, ivar: np.ndarray) -> tuple[FloatArray, FloatArray, MaskArray]:
    """Return float32 flux and ivar, finite and ivar >= 0, and bits that say what was not."""
    flux, ivar = flux.astype(np.float32), ivar.astype(np.float32)
    finite, positive = np.isfinite(flux) & np.isfinite(ivar), ivar > 0
    reason = np.zeros(len(flux), np.uint32)
    if not finite.all():
        reason[~finite] = MaskBit.NOT_FINITE
        flux[~finite] = ivar[~finite] = 0
    if not positive.all():
        reason[finite & ~positive] = MaskBit.NO_IVAR
        ivar[~positive] = 0
    return flux, ivar, reason


def _resample(
    flux: np.ndarray, ivar: np.ndarray, bits: MaskArray, grid: FloatArray
) -> tuple[np.ndarray, np.ndarray, MaskArray]:
    """Rebin a file that is off the survey's lattice; a pixel has the bits of all it came from."""
    step = float(np.median(np.diff(np.log10(grid)))) / LOG10_STEP
    if not 0.5 < step < 2:  # another instrument's: its LSF would not be the survey's either
        raise SurveyFileError(f"pixels are {step:.3g} of the survey's", "bad_grid")
    flux, ivar, reason = _clean(flux, ivar)
    ours, theirs = pixel_edges(WAVELENGTH), pixel_edges(grid)
    new_flux, new_ivar = (row[0] for row in rebin(flux[None], ivar[None], theirs, ours))
    first = np.searchsorted(theirs, ours[:-1], side="right") - 1
    last = np.searchsorted(theirs, ours[1:], side="left") - 1
    inside = (last >= 0) & (first < len(flux))
    mask = np.where(inside, np.uint32(0), np.uint32(MaskBit.OUTSIDE))
    bits = bits | reason
    for k in range(int(np.max(last - first)) + 1):
        source = np.clip(first + k, 0, len(flux) - 1)
        mask |= np.where(inside & (first + k <= last), bits[source], np.uint32(0))
    mask[new_ivar > 0] &= ~np.uint32(MaskBit.NOT_FINITE | MaskBit.NO_IVAR)  # the rest sufficed
    mask[inside & (new_ivar == 0)] |= np.uint32(MaskBit.RESAMPLED_GAP)
    return new_flux, new_ivar, mask


def _survey_bits(values: np.ndarray, shift: int) -> MaskArray:
    """Return a row of a file's mask as bits from `shift` on; masks may be floats.

    A value that is no whole number from 0 to 255 (NaN, -1) names no bit and is passed over.
    """
    if not values.any():
        return np.zeros(len(values), np.uint32)
    known = np.where((values >= 0) & (values < 256), values, 0)
    return known.astype(np.uint32) << np.uint32(shift)


def _scalars(header: Mapping[str, Value], name: str) -> dict[str, float | int]:
    ra, dec = _number(header.get("RA")), _number(header.get("DEC"))
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        ra = dec = math.nan
    z, z_err = _number(header.get("Z")), _number(header.get("Z_ERR"))
    known = abs(z) <= _FASTEST_Z
    return {
        "obsid": _obsid(header, name),
        "ra": ra % 360,
        "dec": dec,
        "mjd": _mjd(header),
        "rv": C_KMS * z if known else math.nan,
        "rv_err": C_KMS * z_err if known and 0 < z_err < _FASTEST_Z else math.nan,
    }


def _strings(header: Mapping[str, Value]) -> dict[str, str | float]:
    cards = {"designation": "DESIG", "class_": "CLASS", "subclass": "SUBCLASS", "release": "DATA_V"}
    strings: dict[str, str | float] = {
        name: str(header.get(card) or "") for name, card in cards.items()
    }
    snr_g = [_number(header.get(card)) for card in ("SNRG", "SN_G")]  # SN_G in DR1 and DR2
    strings["snr_g"] = next((value for value in snr_g if value > -9000), math.nan)
    return strings


def _number(value: Value) -> float:
    """Return a card's value as a finite float; NaN where it is none."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if usable else math.nan  # type: ignore[arg-type]


def _obsid(header: Mapping[str, Value], name: str) -> int:
    """Return the survey's id of the spectrum, or one made from what identifies it.

    Files of DR1 and DR2 have no OBSID. Theirs is the SHA-256 of "lmjd-planid-spid-fiberid", its top
    62 bits with the highest set: beyond all real OBSIDs, and the same in both releases. The four
    come from the header, else from the file name; a name that does not hold them is hashed itself.
    """
    obsid = header.get("OBSID")
    if type(obsid) is int and 0 < obsid < 2**61:
        return obsid
    parts: Sequence[Value] = [header.get(card) for card in ("LMJD", "PLANID", "SPID", "FIBERID")]
    if None in parts:
        found = _PATH.search(PurePath(name).name)
        parts = (
            [int(text) if text.isdigit() else text for text in found.groups()] if found else [name]
        )
    digest = hashlib.sha256("-".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2 | 2**61


def _mjd(header: Mapping[str, Value]) -> float:
    """Return the middle of the observation [d]; from MJD, a whole day, where DATE-OBS is damaged.

    MJD cards of DR1 and DR2 are two days late; their DATE-OBS is right.
    """
    try:
        date = datetime.fromisoformat(str(header.get("DATE-OBS"))).replace(tzinfo=None)
    except ValueError:
        return _number(header.get("MJD"))
    return (date - _MJD_EPOCH).total_seconds() / 86400
