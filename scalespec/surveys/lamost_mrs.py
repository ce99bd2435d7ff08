"""LAMOST medium-resolution spectra (MRS): coadds, and single exposures, of a blue and a red arm.

Wavelengths are vacuum Å, heliocentric; flux is relative. A file holds the coadds COADD_B and
COADD_R and the exposures B-<lmjm> and R-<lmjm>, named by the local Modified Julian Minute that they
began in. Coadds are stretches of one lattice; exposures have grids of their own, the red one
running downwards. Until DR9 a table has a row per pixel and LOGLAM, since then one row of vectors
and WAVELENGTH: which it is, its columns say.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.schema import MaskBit, SpectrumStatus
from scalespec.surveys.cards import made_id, number
from scalespec.surveys.fits import HDU, read_fits
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lamost import (
    CARDS,
    CATALOG_COLUMNS,
    catalog_path,
    check_frame,
    lamost_bits,
    scalars_of,
    strings_of,
)
from scalespec.surveys.lattice import Lattice, check_increasing, clean
from scalespec.surveys.rows import Arm, Pixels, Rows, Survey

LATTICES = {
    "blue": Lattice(3.6880, 1e-5, 4601, tolerance=0.05),  # float32 LOGLAM is good to 0.034 pixel
    "red": Lattice(3.7960, 1e-5, 4301, tolerance=0.05),
}
"""What the coadds are stretches of: 4875-5420 Å and 6252-6902 Å."""
N_EXPOSURE = 4136
"""Pixels of a single exposure."""
_LETTER = {"blue": "B", "red": "R"}
_EXPOSURE = re.compile(r"([BR])-(\d+)\Z")
_CARDS = (*CARDS, "LMJM", "EXPTIME")
_LEAST_SNR = 1.0
_BEIJING = 8 / 24  # days that local time is ahead
ATTRS: Mapping[str, Any] = {
    "wavelength_medium": "vacuum",
    "frame": "observed, heliocentric",
    "flux_unit": "relative",
    "resolving_power": 7500.0,  # as the release documents say; no LSF per fiber
}

Columns = tuple[np.ndarray, np.ndarray, npt.NDArray[np.floating[Any]], npt.NDArray[np.uint32]]


def mrs_path(row: Mapping[str, Any]) -> str:
    """Return where a release keeps the file of a catalog row: as in LRS, but for its first letters.

    Examples
    --------
    >>> mrs_path(dict(obsdate="2018-10-16", planid="TD01", lmjd=58408, spid=1, fiberid=15))
    '20181016/TD01/med-58408-TD01_sp01-015.fits.gz'
    """
    return catalog_path(row).replace("/spec-", "/med-")


def read_coadds(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:  # noqa: ARG001 - one spectrum
    """Read the coadds of a file; an arm that it lacks has no pixels.

    Raises
    ------
    SurveyFileError
        With reason ``not_fits``, ``truncated``, ``corrupt``, ``bad_layout`` or ``bad_grid``.
    """
    hdus, fallback = _read(data)
    by_name = {hdu.name: hdu for hdu in hdus}
    arms = {}
    for arm, lattice in LATTICES.items():
        if f"COADD_{_LETTER[arm]}" in by_name:
            flux, ivar, wavelength, bits = _columns(by_name[f"COADD_{_LETTER[arm]}"])
            (flux, ivar, mask), resampled = lattice.put(flux, ivar, bits, wavelength)
            status = _signal(flux, ivar)
            arms[arm] = Pixels(flux, ivar, mask, status=status)
            if resampled:
                shared = lattice.correlation(ivar, wavelength, ATTRS["resolving_power"])
                status |= SpectrumStatus.RESAMPLED
                arms[arm] = arms[arm]._replace(status=status, noise_correlation=shared)
    if not arms:
        raise SurveyFileError(f"no COADD_B or COADD_R in {sorted(by_name)}", "bad_layout")
    header = hdus[0].header
    return Rows(arms, scalars_of(header, name), strings_of(header), fallback=fallback)


def count_exposures(data: bytes) -> int:
    """Return how many exposures a file holds, blue and red of one time counted once."""
    hdus, _ = _read(data)
    return len(_exposures(hdus))


def read_exposures(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:
    """Read exposures ``[first, first + count)`` of a file, by their time.

    Raises
    ------
    SurveyFileError
        As `read_coadds`.
    """
    hdus, fallback = _read(data)
    exposures = _exposures(hdus)
    chosen = sorted(exposures)[first : first + count]
    if len(chosen) < count:
        raise SurveyFileError(
            f"exposures {first}:{first + count} were planned, the file has {len(exposures)}",
            "truncated",
        )
    arms = {arm: _stack([exposures[minute].get(arm) for minute in chosen]) for arm in LATTICES}
    scalars: dict[str, Any] = dict(scalars_of(hdus[0].header, name))
    scalars["mjd"] = [_middle(minute, exposures[minute]) for minute in chosen]
    scalars["obsid"] = [made_id(scalars["obsid"], minute) for minute in chosen]
    return Rows(arms, scalars, strings_of(hdus[0].header), fallback=fallback)


def _read(data: bytes) -> tuple[list[HDU], bool]:
    hdus, fallback = read_fits(gunzip(data), cards=_CARDS)
    check_frame(hdus[0].header)
    return hdus, fallback


def _exposures(hdus: Sequence[HDU]) -> dict[int, dict[str, HDU]]:
    """Return the exposures by the minute they began in, and arm."""
    found: dict[int, dict[str, HDU]] = {}
    for hdu in hdus:
        if match := _EXPOSURE.match(hdu.name):
            arm = "blue" if match[1] == "B" else "red"
            found.setdefault(int(match[2]), {})[arm] = hdu
    if not found:
        names = [hdu.name for hdu in hdus]
        raise SurveyFileError(f"no exposure B-<lmjm> or R-<lmjm> in {names}", "bad_layout")
    return found


def _columns(hdu: HDU) -> Columns:
    """Return a table's flux, ivar, increasing wavelength [Å] and mask bits."""
    table = hdu.data if isinstance(hdu.data, dict) else {}
    scale = "LOGLAM" if "LOGLAM" in table else "WAVELENGTH"
    masks = ("ANDMASK", "ORMASK") if "ANDMASK" in table else ("PIXMASK",)
    names = ("FLUX", "IVAR", scale, *masks)
    missing = [name for name in names if name not in table]
    if missing:
        raise SurveyFileError(f"HDU '{hdu.name}' has no columns {missing}", "bad_layout")
    columns = [np.asarray(table[name]) for name in names]
    if all(column.ndim == 2 and len(column) == 1 for column in columns):
        columns = [column[0] for column in columns]
    kinds = {column.dtype.kind for column in columns}
    if any(column.ndim != 1 or len(column) < 2 for column in columns) or not kinds <= set("fiu"):
        shapes = [column.shape for column in columns]
        raise SurveyFileError(f"HDU '{hdu.name}': columns {names} of {shapes}", "bad_layout")
    if columns[2][0] > columns[2][-1]:
        columns = [column[::-1] for column in columns]
    wavelength = columns[2].astype(np.float64)
    if scale == "LOGLAM":
        if not np.all((wavelength > 3) & (wavelength < 5)):
            raise SurveyFileError(f"LOGLAM {wavelength[0]} ... {wavelength[-1]}", "bad_grid")
        wavelength = 10**wavelength
    bits = lamost_bits(columns[3], 8)
    if len(columns) > 4:
        bits = bits | lamost_bits(columns[4], 16)
    return columns[0], columns[1], check_increasing(wavelength), bits


def _stack(hdus: Sequence[HDU | None]) -> Pixels:
    """Return exposures of one arm as rows, padded; one that is missing has no pixels."""
    shape = (len(hdus), N_EXPOSURE)
    flux, ivar = np.zeros((2, *shape), np.float32)
    mask, wavelength = np.full(shape, MaskBit.OUTSIDE, np.uint32), np.zeros(shape)
    status = np.zeros(len(hdus), np.uint32)
    for row, hdu in enumerate(hdus):
        if hdu is None:
            continue
        one_flux, one_ivar, grid, bits = _columns(hdu)
        if len(grid) > N_EXPOSURE:
            raise SurveyFileError(
                f"HDU '{hdu.name}' has {len(grid)} pixels, an exposure {N_EXPOSURE}", "bad_grid"
            )
        n = slice(len(grid))
        flux[row, n], ivar[row, n], reason = clean(one_flux, one_ivar)
        mask[row, n], wavelength[row, n] = bits | reason, grid
        status[row] = _signal(flux[row], ivar[row])
    return Pixels(flux, ivar, mask, wavelength, status=status)


@np.errstate(over="ignore")  # a damaged file's flux may be near the largest float32
def _signal(flux: np.ndarray, ivar: np.ndarray) -> int:
    """Return NO_SIGNAL for an arm whose exposures failed: hardly any light in it."""
    good = ivar > 0
    failed = good.any() and not np.median(flux[good] * np.sqrt(ivar[good])) >= _LEAST_SNR
    return int(SpectrumStatus.NO_SIGNAL) if failed else 0


def _middle(minute: int, arms: Mapping[str, HDU]) -> float:
    """Return the middle of an exposure [MJD, d] from the local minute that it began in."""
    times = [number(hdu.header.get("EXPTIME")) for hdu in arms.values()]
    seconds = next((time for time in times if 0 < time < 86400), 0.0)
    middle = minute / 1440 - _BEIJING + seconds / 2 / 86400
    return middle if 0 < middle < 1e6 else math.nan


MRS = Survey(
    name="lamost_mrs",
    pattern="**/med-*.fits*",
    arms=tuple(
        Arm(
            name,
            lattice.wavelength,
            lattice.n,
            {"log10_wavelength_start": lattice.start, "log10_wavelength_step": lattice.step},
        )
        for name, lattice in LATTICES.items()
    ),
    attrs=ATTRS,
    read=read_coadds,
    catalog_path=mrs_path,
    catalog_columns=CATALOG_COLUMNS,
)
EXPOSURES = Survey(
    name="lamost_mrs_exposures",
    pattern="**/med-*.fits*",
    arms=tuple(Arm(name, None, N_EXPOSURE, {}) for name in LATTICES),
    attrs=ATTRS,
    read=read_exposures,
    count_spectra=count_exposures,
    one_star=True,
    catalog_path=mrs_path,
    catalog_columns=CATALOG_COLUMNS,
)
