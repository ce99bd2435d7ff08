"""APOGEE spectra: stars (apStar, aspcapStar), visits in an apStar, and visits by chip (apVisit).

apStar and aspcapStar lie on the survey's grid 10**(4.179 + 6e-6 i) Å, 8,575 pixels, vacuum, at
rest. An apVisit holds three chips with wavelengths of their own, vacuum, topocentric; they are
brought to the barycenter here by the file's own BC, and run upwards. Flux is in 1e-17 erg/s/cm2/Å,
except in aspcapStar, where it is over a pseudo-continuum. Files give errors, not ivar.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.schema import C_KMS, MaskBit
from scalespec.surveys.cards import made_id, number, position, survey_bits
from scalespec.surveys.fits import HDU, read_fits
from scalespec.surveys.headers import Value
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lattice import Lattice, check_increasing, clean, inverse_variance
from scalespec.surveys.rows import Arm, Pixels, Rows, Survey

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

LATTICE = Lattice(4.179, 6e-6, 8575, tolerance=0.02)
RESOLVING_POWER = 22500.0
"""λ/FWHM: Majewski et al. 2017, AJ 154, 94, section 2.3."""
CHIPS = {"blue": 2, "green": 1, "red": 0}
"""Rows of an apVisit's images."""
N_CHIP = 4096
BITS = {
    **dict.fromkeys((0, 2, 3, 4, 5, 6), MaskBit.BAD_PIXEL),
    1: MaskBit.COSMIC_RAY,
    7: MaskBit.NO_SKY,
    **dict.fromkeys((8, 9, 10, 11, 13), MaskBit.SUSPECT),  # ghost, persistence, telluric
    12: MaskBit.BRIGHT_SKY,
    14: MaskBit.BAD_TRACE,
}
"""APOGEE_PIXMASK: https://www.sdss4.org/dr17/algorithms/bitmasks/#APOGEE_PIXMASK."""
_LARGEST_ERROR = 1e9  # the pipelines' way of saying that a pixel is bad: 1e10 and more
_FASTEST = 3000.0  # km/s; 999999 is the pipelines' "unknown"
_JD_MJD = 2400000.5
_RELEASE = re.compile(r"(?:ap|as)(?:Star|Visit|capStar)-([a-z]\w*)-")
_VISIT = re.compile(r"(?:ap|as)Visit-\w+-(\w+)-(\d+)-(\d+)")
_LSF_NODES = {
    "blue": (15200.0, 15500.0, 15800.0),
    "green": (15900.0, 16150.0, 16400.0),
    "red": (16500.0, 16700.0, 16900.0),
}


def star_path(row: Mapping[str, Any]) -> str:
    """Return where DR17 keeps the apStar of an allStar row, below ``stars/``.

    Examples
    --------
    >>> star_path(dict(TELESCOPE="apo25m", FIELD="000+02", FILE="apStar-dr17-2M17.fits"))
    'apo25m/000+02/apStar-dr17-2M17.fits'
    """
    lower = {str(key).lower(): str(value).strip() for key, value in row.items()}
    return "/".join(lower[key] for key in ("telescope", "field", "file"))


def read_star(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:  # noqa: ARG001 - one spectrum
    """Read the combined spectrum of an apStar: its first row, pixels weighted by their errors.

    Raises
    ------
    SurveyFileError
        With reason ``not_fits``, ``truncated``, ``corrupt``, ``bad_layout`` or ``bad_grid``.
    """
    hdus, fallback = read_fits(gunzip(data))
    flux, error, mask = _star_images(hdus)
    header = hdus[0].header
    scalars = _star_scalars(header, name)
    return Rows(
        {"": _pixels(flux[0], error[0], mask[0])}, scalars, _strings(header, name), 0, fallback
    )


def read_aspcap(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:  # noqa: ARG001 - one spectrum
    """Read the spectrum of an aspcapStar, over its pseudo-continuum; it has no mask.

    Raises
    ------
    SurveyFileError
        As `read_star`.
    """
    hdus, fallback = read_fits(gunzip(data))
    flux, error, model = (_image(hdus, i, LATTICE.n) for i in (1, 2, 3))
    if model.dtype.kind != "f":
        raise SurveyFileError("HDU 3 is a mask, no model: an apStar", "bad_layout")
    _check_grid(hdus[1].header, hdus[0].header)
    header = hdus[0].header
    return Rows(
        {"": _pixels(flux[0], error[0], np.zeros(LATTICE.n, np.int64))},
        _star_scalars(header, name),
        _strings(header, name),
        0,
        fallback,
    )


def count_visits(data: bytes) -> int:
    """Return how many visits an apStar holds."""
    hdus, _ = read_fits(gunzip(data))
    return len(_visit_rows(hdus[0].header, _star_images(hdus)[0]))


def read_visits(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:
    """Read visits ``[first, first + count)`` of an apStar, on the survey's grid and at rest.

    Raises
    ------
    SurveyFileError
        As `read_star`.
    """
    hdus, fallback = read_fits(gunzip(data))
    flux, error, mask = _star_images(hdus)
    header = hdus[0].header
    rows = _visit_rows(header, flux)
    if first + count > len(rows):
        raise SurveyFileError(
            f"visits {first}:{first + count} were planned, the file has {len(rows)}", "truncated"
        )
    chosen = rows[first : first + count]
    visits = range(first + 1, first + count + 1)
    scalars = {
        **position(header.get("RA"), header.get("DEC")),
        "obsid": [_visit_id(header.get(f"SFILE{i}"), name, i) for i in visits],
        "mjd": [_mjd(header.get(f"JD{i}")) for i in visits],
        "rv": [_rv(header, f"VHELIO{i}", f"VHBARY{i}") for i in visits],
        "rv_err": [_rv_err(header, f"VERR{i}", f"VRADERR{i}") for i in visits],
    }
    pixels = _pixels(flux[chosen], error[chosen], mask[chosen])
    return Rows({"": pixels}, scalars, _strings(header, name), 0, fallback)


def read_chips(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:  # noqa: ARG001 - one spectrum
    """Read an apVisit: three arms with wavelengths of their own, barycentric.

    Raises
    ------
    SurveyFileError
        As `read_star`; ``bad_grid`` also without the barycentric correction BC.
    """
    hdus, fallback = read_fits(gunzip(data))
    images = [_image(hdus, i) for i in (1, 2, 3, 4)]
    if {image.shape for image in images} != {images[0].shape} or len(images[0]) != len(CHIPS):
        shapes = [image.shape for image in images]
        raise SurveyFileError(f"images of {shapes}, wanted three chips of one size", "bad_layout")
    if images[0].shape[1] > N_CHIP or images[2].dtype.kind not in "iu":
        raise SurveyFileError(f"chips of {images[0].shape[1]} pixels", "bad_layout")
    header = hdus[0].header
    correction = number(header.get("BC"))
    if not abs(correction) < 40:  # the Earth moves at 30 km/s, and turns
        raise SurveyFileError(f"BC = {header.get('BC')}: no barycentric correction", "bad_grid")
    coefficients = hdus[10].data if len(hdus) > 10 else None
    arms = {}
    for arm, row in CHIPS.items():
        flux, error, mask, wavelength = (image[row, ::-1] for image in images)
        grid = check_increasing(wavelength.astype(np.float64) * (1 + correction / C_KMS))
        pixels = _pixels(flux, error, mask)
        sigma = _chip_lsf(arm, row, grid, coefficients)
        arms[arm] = Pixels(pixels.flux, pixels.ivar, pixels.mask, grid, sigma)
    scalars = {
        **position(header.get("RA"), header.get("DEC")),
        "obsid": _chips_id(header, name),
        "mjd": _mjd(header.get("JD-MID")),
        "rv": _rv(header, "VHELIO", "VHBARY"),
        "rv_err": _rv_err(header, "VRADERR"),
    }
    return Rows(arms, scalars, _strings(header, name), 0, fallback)


def _image(hdus: Sequence[HDU], i: int, n_pixel: int = 0) -> np.ndarray:
    """Return HDU `i` as (n_row, n_pixel)."""
    data = hdus[i].data if i < len(hdus) else None
    if not isinstance(data, np.ndarray) or data.ndim not in (1, 2):
        raise SurveyFileError(f"HDU {i} of {len(hdus)} is no image of spectra", "bad_layout")
    rows = np.atleast_2d(data)
    if n_pixel and rows.shape[1] != n_pixel:
        raise SurveyFileError(f"HDU {i} has {rows.shape[1]} pixels, wanted {n_pixel}", "bad_layout")
    return rows


def _star_images(hdus: Sequence[HDU]) -> list[np.ndarray]:
    """Return an apStar's flux, error and mask, (n_row, 8575) each."""
    images = [_image(hdus, i, LATTICE.n) for i in (1, 2, 3)]
    if len({image.shape for image in images}) > 1 or images[2].dtype.kind not in "iu":
        shapes = [f"{image.dtype}{image.shape}" for image in images]
        raise SurveyFileError(f"HDUs 1-3 are {shapes}, wanted flux, error, mask", "bad_layout")
    _check_grid(hdus[1].header, hdus[0].header)
    return images


def _check_grid(*headers: Mapping[str, Value]) -> None:
    start, step = (
        next((number(header[card]) for header in headers if card in header), math.nan)
        for card in ("CRVAL1", "CDELT1")
    )
    last = start + step * (LATTICE.n - 1)
    ours = LATTICE.start + LATTICE.step * (LATTICE.n - 1)
    near = LATTICE.tolerance * LATTICE.step
    if not (abs(start - LATTICE.start) < near and abs(last - ours) < near):
        raise SurveyFileError(f"CRVAL1 = {start}, CDELT1 = {step}: not the survey's", "bad_grid")


def _visit_rows(header: Mapping[str, Value], flux: np.ndarray) -> list[int]:
    """Return the rows of visits: after two combinations, or the only row of a single visit."""
    n = header.get("NVISITS")
    if type(n) is not int or not 1 <= n <= 1000:
        raise SurveyFileError(f"NVISITS = {n!r}", "bad_layout")
    if n == 1:
        return [0]
    if len(flux) != n + 2:
        raise SurveyFileError(f"{len(flux)} rows for NVISITS = {n}", "bad_layout")
    return list(range(2, n + 2))


@np.errstate(invalid="ignore")
def _pixels(flux: np.ndarray, error: np.ndarray, mask: np.ndarray) -> Pixels:
    ivar = np.where(error < _LARGEST_ERROR, inverse_variance(error), 0.0)
    row_flux, row_ivar, reason = clean(flux, ivar)
    return Pixels(row_flux, row_ivar, survey_bits(mask, BITS) | reason)


def _chip_lsf(arm: str, row: int, grid: FloatArray, coefficients: Any) -> FloatArray:
    """Return sigma [Å] of the LSF's Gaussian core at the arm's nodes; 0 where it is not known.

    The coefficients are those of LSF_GH: bin size, offset, Hermite order H, H + 1 polynomial
    orders, then the polynomials, of which the first number is the sigma in pixels mid-chip.
    """
    nodes = np.array(_LSF_NODES[arm])
    if not isinstance(coefficients, np.ndarray) or coefficients.ndim != 2:
        return np.zeros(len(nodes))
    order = coefficients[row, 2] if coefficients.shape[1] > 3 else math.nan
    place = 3 + int(order) + 1 if 0 <= order < 20 else coefficients.shape[1]
    pixels = float(coefficients[row, place]) if place < coefficients.shape[1] else 0.0
    if not 0 < pixels < 20:
        return np.zeros(len(nodes))
    sigma: FloatArray = pixels * np.interp(nodes, grid, np.gradient(grid))
    return sigma


def _star_scalars(header: Mapping[str, Value], name: str) -> dict[str, Any]:
    n = header.get("NVISITS")
    visits = range(1, n + 1) if type(n) is int and 0 < n <= 1000 else range(0)
    times = [time for i in visits if math.isfinite(time := _mjd(header.get(f"JD{i}")))]
    star = header.get("OBJID")
    telescope = "asStar" if str(header.get("SFILE1")).startswith("as") else "apStar"
    parts = (header.get("FIELD", header.get("LOCID")), star) if star else (PurePath(name).name,)
    return {
        **position(header.get("RA"), header.get("DEC")),
        "obsid": made_id(telescope, *parts),
        "mjd": float(np.mean(times)) if times else math.nan,
        "rv": _rv(header, "VHELIO", "VHBARY"),
        "rv_err": _rv_err(header, "VERR"),
    }


def _chips_id(header: Mapping[str, Value], name: str) -> int:
    """Return the id of an apVisit: its header's plate, day and fiber, else the file name's."""
    parts = [header.get(card) for card in ("PLATE", "MJD5", "FIBERID")]
    file = PurePath(name).name
    return _visit_id(file, file, 1) if {None, ""} & set(parts) else made_id("apVisit", *parts)


def _visit_id(file: Value, name: str, i: int) -> int:
    """Return the id of a visit: that of its apVisit, which plate, day and fiber make."""
    found = _VISIT.search(str(file))
    if not found:
        return made_id("apVisit", PurePath(name).name, i)
    plate, day, fiber = found.groups()
    return made_id("apVisit", plate, int(day), int(fiber))


def _mjd(jd: Value) -> float:
    mjd = number(jd) - _JD_MJD
    return mjd if 0 < mjd < 1e6 else math.nan


def _rv(header: Mapping[str, Value], *cards: str) -> float:
    """Return the first velocity of some cards that is one: VHELIO to DR17, VHBARY since SDSS-V."""
    known = (rv for card in cards if abs(rv := number(header.get(card))) < _FASTEST)
    return next(known, math.nan)


def _rv_err(header: Mapping[str, Value], *cards: str) -> float:
    """Return the first error of some cards; 0, which SDSS-V writes as VERR, is none."""
    known = (err for card in cards if 0 < (err := number(header.get(card))) < _FASTEST)
    return next(known, math.nan)


def _strings(header: Mapping[str, Value], name: str) -> dict[str, Any]:
    found = _RELEASE.search(str(header.get("SFILE1"))) or _RELEASE.search(PurePath(name).name)
    return {
        "designation": str(header.get("OBJID") or ""),
        "class_": "STAR",
        "release": f"APOGEE {found[1]}" if found else "",
    }


_ATTRS = {"wavelength_medium": "vacuum", "resolving_power": RESOLVING_POWER}
_FLUX_UNIT = "1e-17 erg/s/cm2/Angstrom"
_ON_GRID = (
    Arm(
        "",
        LATTICE.wavelength,
        LATTICE.n,
        {"log10_wavelength_start": LATTICE.start, "log10_wavelength_step": LATTICE.step},
    ),
)
STARS = Survey(
    name="apogee",
    pattern="**/a[ps]Star-*.fits*",
    arms=_ON_GRID,
    attrs={**_ATTRS, "frame": "rest", "flux_unit": _FLUX_UNIT},
    read=read_star,
    catalog_path=star_path,
    catalog_columns=("TELESCOPE", "FIELD", "FILE"),
)
ASPCAP = Survey(
    name="apogee_aspcap",
    pattern="**/aspcapStar-*.fits*",
    arms=_ON_GRID,
    attrs={**_ATTRS, "frame": "rest", "flux_unit": "pseudo-continuum"},
    read=read_aspcap,
)
VISITS = replace(
    STARS, name="apogee_visits", read=read_visits, count_spectra=count_visits, one_star=True
)
CHIPS_OF_VISITS = Survey(
    name="apogee_chips",
    pattern="**/a[ps]Visit-*.fits*",
    arms=tuple(Arm(name, None, N_CHIP, {}, np.array(_LSF_NODES[name])) for name in CHIPS),
    attrs={**_ATTRS, "frame": "observed, barycentric", "flux_unit": _FLUX_UNIT},
    read=read_chips,
)
