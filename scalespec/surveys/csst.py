"""CSST slitless spectra in a table layout of our own, until the survey says what its files are.

Three bands GU, GV, GI of 255-410, 400-620 and 620-1000 nm at an average R of 200; wavelengths are
vacuum Å, barycentric; flux is per Å.

The layout (one file per field): HDU0 has no data, and TELESCOP = 'CSST'. A table SPECTRA has one
row per source, with OBSID and SOURCE_ID (K; -1 unknown), RA and DEC (D, ICRS, deg), MJD (D), Z and
Z_ERR (E; -9999 unknown), MAG_G (E), and for each band B three vectors of its n pixels: B_FLUX (E),
B_IVAR (E; 0 is no information) and B_MASK (J: bit 0 bad pixel, 1 cosmic ray, 2 light of a
neighbor, 3 no data). A table B_WAVELENGTH for each band has one column WAVELENGTH (D, Å) of n
rows, and they are `grid`. A band may lack its columns: its rows are then without pixels.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.kernels.wavelength import log_grid
from scalespec.schema import C_KMS, MaskBit
from scalespec.surveys.cards import FASTEST_Z, survey_bits
from scalespec.surveys.fits import read_fits
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lattice import clean
from scalespec.surveys.rows import Arm, Pixels, Rows, Survey
from scalespec.surveys.tables import (
    Table,
    check_range,
    filled_ids,
    ids,
    length,
    named,
    numbers,
    places,
    table_of,
    vectors,
)

RESOLVING_POWER = 200.0
"""λ/FWHM on average: Zhan 2021, Chinese Science Bulletin 66, 1290."""
LOG10_STEP = 1 / (2 * RESOLVING_POWER * math.log(10))
"""Two pixels per FWHM."""
BANDS: Mapping[str, tuple[float, float]] = {
    "gu": (2550.0, 4100.0),
    "gv": (4000.0, 6200.0),
    "gi": (6200.0, 10000.0),
}
"""First and last wavelength [Å, vacuum] of the bands."""
BITS = {0: MaskBit.BAD_PIXEL, 1: MaskBit.COSMIC_RAY, 2: MaskBit.SUSPECT, 3: MaskBit.NO_DATA}
FLUX_UNIT = "1e-17 erg/s/cm2/Angstrom"
LIMIT_BYTES = 2**31


def grid(band: str) -> npt.NDArray[np.float64]:
    """Return the wavelengths of a band.

    Returns
    -------
    (n_pixel,) float64 [Å, vacuum]

    Examples
    --------
    >>> [(len(grid(band)), round(float(grid(band)[-1]))) for band in BANDS]
    [(190, 4090), (176, 6195), (192, 9995)]
    """
    first, last = (math.log10(edge) for edge in BANDS[band])
    n = int((last - first) / LOG10_STEP) + 1
    return np.asarray(log_grid(first, LOG10_STEP, n), np.float64)


def count_spectra(data: bytes) -> int:
    """Return how many spectra a file holds.

    Raises
    ------
    SurveyFileError
        If it cannot be read.
    """
    hdus, _ = read_fits(gunzip(data, limit_bytes=LIMIT_BYTES), cards=())
    return length(table_of(named(hdus, "SPECTRA")))


def read_csst(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:
    """Read rows ``[first, first + count)`` of a file's table.

    Raises
    ------
    SurveyFileError
        With reason ``not_fits``, ``truncated``, ``corrupt``, ``bad_layout`` or ``bad_grid``.
    """
    hdus, fallback = read_fits(gunzip(data, limit_bytes=LIMIT_BYTES), cards=())
    table = table_of(named(hdus, "SPECTRA"))
    rows = check_range(first, count, length(table))
    arms = {}
    for band in BANDS:
        if f"{band}_flux" in table:
            wavelength = table_of(named(hdus, f"{band.upper()}_WAVELENGTH"), "wavelength")
            _check_grid(band, wavelength["wavelength"])
            arms[band] = _pixels(table, band, rows)
    if not arms:
        raise SurveyFileError(f"no column <band>_FLUX in {sorted(table)}", "bad_layout")
    return Rows(arms, _scalars(table, rows, name), {"release": "mock"}, fallback=fallback)


def _check_grid(band: str, wavelength: np.ndarray) -> None:
    ours = grid(band)
    same = wavelength.shape == ours.shape and np.allclose(wavelength, ours, rtol=1e-5, atol=0)
    if not same:  # 1e-5 is 0.004 of a pixel, and more than float32 rounds
        raise SurveyFileError(
            f"{band.upper()}: {wavelength.shape} wavelengths are not the survey's {ours.shape}",
            "bad_grid",
        )


def _pixels(table: Table, band: str, rows: slice) -> Pixels:
    n = len(grid(band))
    missing = [key for key in ("ivar", "mask") if f"{band}_{key}" not in table]
    if missing:
        raise SurveyFileError(f"{band.upper()}_FLUX without {missing}", "bad_layout")
    flux, ivar, reason = clean(
        vectors(table, f"{band}_flux", rows, n), vectors(table, f"{band}_ivar", rows, n)
    )
    theirs = vectors(table, f"{band}_mask", rows, n)
    if theirs.dtype.kind not in "iu":
        raise SurveyFileError(f"column {band}_mask is {theirs.dtype}", "bad_layout")
    return Pixels(flux, ivar, survey_bits(theirs, BITS) | reason)


def _scalars(table: Table, rows: slice, name: str) -> dict[str, Any]:
    z, z_err = numbers(table, rows, "z"), numbers(table, rows, "z_err")
    with np.errstate(invalid="ignore"):
        known = np.abs(z) <= FASTEST_Z
        measured = known & (z_err > 0) & (z_err < FASTEST_Z)
    return {
        "obsid": filled_ids(ids(table, rows, "obsid"), "csst", name, rows.start),
        "source_id": ids(table, rows, "source_id"),
        **places(numbers(table, rows, "ra"), numbers(table, rows, "dec")),
        "mjd": numbers(table, rows, "mjd"),
        "rv": np.where(known, C_KMS * z, math.nan),
        "rv_err": np.where(measured, C_KMS * z_err, math.nan),
    }


CSST = Survey(
    name="csst",
    pattern="**/*.fits*",
    arms=tuple(
        Arm(
            band,
            grid(band),
            len(grid(band)),
            {
                "log10_wavelength_start": math.log10(BANDS[band][0]),
                "log10_wavelength_step": LOG10_STEP,
            },
        )
        for band in BANDS
    ),
    attrs={
        "wavelength_medium": "vacuum",
        "frame": "observed, barycentric",
        "flux_unit": FLUX_UNIT,
        "resolving_power": RESOLVING_POWER,
    },
    read=read_csst,
    count_spectra=count_spectra,
)
