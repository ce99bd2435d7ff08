"""LAMOST low-resolution spectra (LRS): files of every release -> rows on the survey's one grid.

Wavelengths are vacuum Å, heliocentric; flux is relative. What a file is, is decided by its content,
never by its release or name.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from scalespec.errors import SurveyFileError
from scalespec.kernels.wavelength import log_grid
from scalespec.schema import MaskBit, SpectrumStatus
from scalespec.surveys.cards import made_id, number, position, velocity
from scalespec.surveys.fits import HDU, read_fits
from scalespec.surveys.headers import Value
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lattice import Lattice, check_increasing
from scalespec.surveys.rows import Arm, Pixels, Rows, Survey

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
MaskArray: TypeAlias = npt.NDArray[np.uint32]

LOG10_START, LOG10_STEP, N_PIXEL = 3.5682, 1e-4, 3909
LATTICE = Lattice(LOG10_START, LOG10_STEP, N_PIXEL, tolerance=0.02)  # a real DR7 file: 0.0175 off
WAVELENGTH = LATTICE.wavelength
ATTRS: Mapping[str, Any] = {
    "survey": "lamost_lrs",
    "wavelength_medium": "vacuum",
    "frame": "observed, heliocentric",
    "flux_unit": "relative",
    "resolving_power": 1800.0,  # at 5500 Å, as the release documents say; no LSF per fiber
    "log10_wavelength_start": LOG10_START,
    "log10_wavelength_step": LOG10_STEP,
}
_EXPLAINED = np.uint32(64)
_SUSPECT = np.uint32(MaskBit.SUSPECT >> 8)
_BITS = np.arange(256, dtype=np.uint32) % _EXPLAINED
_BITS[_EXPLAINED:] |= _SUSPECT
_DISAGREES = 0.1  # pixels between the header's grid and the file's own wavelengths
_MJD_EPOCH = datetime(1858, 11, 17)  # UTC, as DATE-OBS is without saying so
_PATH = re.compile(r"(?:spec|med)-(\d+)-(.+)_sp(\d+)-(\d+)")
_COLUMNS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
CARDS = (
    *("OBSID", "LMJD", "PLANID", "SPID", "FIBERID", "RA", "DEC", "DATE-OBS", "MJD", "Z", "Z_ERR"),
    *("DESIG", "CLASS", "SUBCLASS", "DATA_V", "SNRG", "SN_G"),
    *("EXTEN0", "COEFF0", "COEFF1", "VACUUM", "HELIO"),
)

CATALOG_COLUMNS = ("obsdate", "planid", "lmjd", "spid", "fiberid")
"""What `catalog_path` wants of a row."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One LRS file's spectrum on the survey's grid.

    Attributes
    ----------
    flux, ivar : (n_pixel,) float32
        As in the file, bit for bit, where both are finite; flux is kept where ivar is 0.
    mask : (n_pixel,) uint32
        `schema.MaskBit`.
    scalars, strings : dict
        As of `rows.Rows`.
    status : SpectrumStatus
        RESAMPLED, or nothing.
    fallback : bool
        Whether astropy had to read the file.
    """

    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint32]
    scalars: dict[str, float | int]
    strings: dict[str, str | float]
    status: SpectrumStatus
    fallback: bool


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
    """Read a block of LRS files, one row each, into the survey's one Dataset: `rows.read_rows`.

    Examples
    --------
    >>> spectra, index = read_block([("a.fits.gz", b"")])
    >>> dict(spectra.sizes), index.reason[0]
    ({'spectrum': 1, 'wavelength': 3909}, 'not_fits: empty file')
    """
    groups, index = LRS.read_block(files)
    return groups[""], index


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

    Examples
    --------
    A file that begins two pixels late:

    >>> from io import BytesIO
    >>> from astropy.io import fits
    >>> rows, file = np.zeros((5, 3907), np.float32), BytesIO()
    >>> rows[0], rows[1], rows[2] = 3, 4, WAVELENGTH[2:]
    >>> fits.PrimaryHDU(rows, fits.Header({"OBSID": 7, "Z": 1e-4})).writeto(file)
    >>> spectrum = read_lrs(file.getvalue(), "spec.fits")
    >>> spectrum.flux[:4], [MaskBit(int(bits)).name for bits in spectrum.mask[:2]]
    (array([0., 0., 3., 3.], dtype=float32), ['OUTSIDE', 'OUTSIDE'])
    >>> spectrum.scalars["obsid"], round(spectrum.scalars["rv"], 2)  # 1e-4 c
    (7, 29.98)
    """
    with np.errstate(over="ignore", invalid="ignore"):  # files hold NaN, and beyond float32
        rows = _read(data, name, 0, 1)
    part = rows.arms[""]
    ours = slice(part.first, part.first + len(part.flux))
    flux, ivar = np.zeros((2, N_PIXEL), np.float32)
    mask = np.full(N_PIXEL, MaskBit.OUTSIDE, np.uint32)
    flux[ours], ivar[ours], mask[ours] = part.flux, part.ivar, part.mask
    scalars, strings = dict(rows.scalars), dict(rows.strings)
    return Spectrum(flux, ivar, mask, scalars, strings, part.status, rows.fallback)


def _read(data: bytes, name: str, first: int, count: int) -> Rows:  # noqa: ARG001 - one spectrum
    hdus, fallback = read_fits(gunzip(data), cards=CARDS)
    header = hdus[0].header
    check_frame(header)
    flux, ivar, wavelength, andmask, ormask = _find_pixels(hdus)
    grid, offset = _find_grid(header, wavelength, len(flux))
    bits = lamost_bits(andmask, 8)
    bits |= lamost_bits(ormask, 16)
    if offset is None:
        row, start = LATTICE.resample(flux, ivar, bits, grid), 0
    else:
        row, start = LATTICE.cut(flux, ivar, bits, offset)
    pixels = Pixels(*row, status=SpectrumStatus(0), first=start)
    if offset is None:
        shared = LATTICE.correlation(row[1], grid, ATTRS["resolving_power"])
        pixels = pixels._replace(status=SpectrumStatus.RESAMPLED, noise_correlation=shared)
    return Rows({"": pixels}, scalars_of(header, name), strings_of(header), fallback=fallback)


def check_frame(header: Mapping[str, Value]) -> None:
    """Refuse a header that says that wavelengths are in air or not heliocentric."""
    for card in ("VACUUM", "HELIO"):
        if header.get(card) is False:
            raise SurveyFileError(f"{card} = F: wavelengths are not the survey's", "bad_grid")


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


def _find_grid(
    header: Mapping[str, Value], wavelength: np.ndarray, n_pixel: int
) -> tuple[FloatArray, int | None]:
    """Return the wavelengths of a file's pixels, and `Lattice.offset` of them.

    Files of a release have wavelengths that are the same to the bit: those of the last file that
    had as many need not be looked at again.
    """
    start, step = number(header.get("COEFF0")), number(header.get("COEFF1"))
    key = start, step, wavelength.dtype, wavelength.tobytes()
    known = _GRIDS.get(n_pixel)
    if known is not None and known[0] == key:
        return known[1]
    wavelength = _check_wavelength(start, step, wavelength, n_pixel)
    grid = wavelength, LATTICE.offset(wavelength)
    if len(_GRIDS) >= _MAX_GRIDS:
        _GRIDS.clear()
    _GRIDS[n_pixel] = key, grid
    return grid


_GRIDS: dict[int, tuple[tuple[object, ...], tuple[FloatArray, int | None]]] = {}
_MAX_GRIDS = 64  # 3 MB; files lose some pixels at their ends


def _check_wavelength(
    start: float, step: float, wavelength: np.ndarray, n_pixel: int
) -> FloatArray:
    """Return the wavelengths of a file's pixels; its header and its own row must not disagree."""
    known = 3 < start < 5 and 0 < step * n_pixel < 1  # log10 Å
    if not len(wavelength):
        if not known:
            raise SurveyFileError(f"no wavelengths, COEFF0 = {start}, COEFF1 = {step}", "bad_grid")
        return _log_grid(start, step, n_pixel)
    grid = check_increasing(wavelength.astype(np.float64))
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


def lamost_bits(values: np.ndarray, shift: int) -> MaskArray:
    """Return a row of a file's mask as bits from `shift` on; masks may be floats.

    A value that is no whole number from 0 to 255 (NaN, -1) names no bit and is passed over. Of the
    eight bits the releases explain six; real files also hold 64, which is kept as SUSPECT.
    """
    bits = np.zeros(len(values), np.uint32)
    raw = values.view(f"u{values.itemsize}")  # faster, and says of any byte order what is not 0
    if np.count_nonzero(raw):
        where = np.flatnonzero(raw)
        some = values[where]
        bits[where] = _BITS[np.where((some >= 0) & (some < 256), some, 0).astype(np.intp)]
        bits <<= np.uint32(shift)
    return bits


def scalars_of(header: Mapping[str, Value], name: str) -> dict[str, float | int]:
    """Return obsid, position, time and velocity of a LAMOST header."""
    return {
        "obsid": _obsid(header, name),
        **position(header.get("RA"), header.get("DEC")),
        "mjd": _mjd(header),
        **velocity(header.get("Z"), header.get("Z_ERR")),
    }


def strings_of(header: Mapping[str, Value]) -> dict[str, str | float]:
    """Return what the index holds of a LAMOST header."""
    cards = {"designation": "DESIG", "class_": "CLASS", "subclass": "SUBCLASS", "release": "DATA_V"}
    strings: dict[str, str | float] = {
        name: str(header.get(card) or "") for name, card in cards.items()
    }
    snr_g = [number(header.get(card)) for card in ("SNRG", "SN_G")]  # SN_G in DR1 and DR2
    strings["snr_g"] = next((value for value in snr_g if value > -9000), math.nan)
    return strings


def _obsid(header: Mapping[str, Value], name: str) -> int:
    """Return the survey's id of the spectrum, or one made from what identifies it.

    Files of DR1 and DR2 have no OBSID. Theirs is `made_id` of lmjd, planid, spid and fiberid: the
    same in both releases. The four come from the header, else from the file name; a name that does
    not hold them is hashed itself.
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
    return made_id(*parts)


def _mjd(header: Mapping[str, Value]) -> float:
    """Return the middle of the observation [d]; from MJD, a whole day, where DATE-OBS is damaged.

    MJD cards of DR1 and DR2 are two days late; their DATE-OBS is right.
    """
    try:
        date = datetime.fromisoformat(str(header.get("DATE-OBS"))).replace(tzinfo=None)
    except ValueError:
        return number(header.get("MJD"))
    return (date - _MJD_EPOCH).total_seconds() / 86400


LRS = Survey(
    name="lamost_lrs",
    pattern="**/spec-*.fits*",
    arms=(Arm("", WAVELENGTH, N_PIXEL, {}),),
    attrs=ATTRS,
    read=_read,
    catalog_path=catalog_path,
    catalog_columns=CATALOG_COLUMNS,
)
