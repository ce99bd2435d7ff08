"""What a spectra Dataset is: dims, variables, dtypes, units, mask bits and status bits.

Wavelengths are vacuum Å, velocities barycentric km/s, positions ICRS degrees.
"""

from enum import IntFlag

import numpy as np
import xarray as xr

from scalespec.errors import SchemaError

FORMAT_VERSION = 1
C_KMS = 299_792.458
"""Speed of light [km/s], exact (SI)."""


class MaskBit(IntFlag):
    """Why a pixel has ``ivar`` 0, and what the survey said of it.

    Bits 0-7 are set on reading, 8-15 hold the survey's "bad in all exposures" bits (LAMOST
    ANDMASK), 16-23 its "bad in any exposure" bits (ORMASK, informational), 24-31 are set by
    preprocessing.
    """

    OUTSIDE = 1 << 0  # the file has no pixel here
    NOT_FINITE = 1 << 1  # flux or ivar is NaN or infinite in the file
    NO_IVAR = 1 << 2  # the file's ivar is zero or negative
    RESAMPLED_GAP = 1 << 3  # lost when an off-grid file was rebinned
    BAD_PIXEL = 1 << 8  # survey bits, all exposures: bad CCD pixel
    BAD_TRACE = 1 << 9  # bad extraction profile
    NO_SKY = 1 << 10  # no sky information
    BRIGHT_SKY = 1 << 11  # sky too bright
    OFF_CCD = 1 << 12  # fibre trace off the CCD
    NO_DATA = 1 << 13  # no good data
    POLICY = 1 << 24  # a survey bit that the run's mask policy calls bad
    SKY_LINE = 1 << 25
    ARM_JOIN = 1 << 26
    TELLURIC = 1 << 27
    EDGE = 1 << 28  # the rest-frame shift moved the edge of the data in
    NO_CONTINUUM = 1 << 29  # smoothed flux is not positive
    SPIKE = 1 << 30  # normalized flux far above the continuum: a cosmic ray or sky residual


class SpectrumStatus(IntFlag):
    """What is wrong with, or worth knowing of, one planned spectrum; 0 is a good one."""

    MISSING = 1 << 0  # no such file
    TRUNCATED = 1 << 1  # shorter than its header says
    CORRUPT = 1 << 2  # gzip stream or checksum broken
    NOT_FITS = 1 << 3  # no FITS file at all (an HTML page, zero bytes)
    BAD_LAYOUT = 1 << 4  # FITS, but not a layout of this survey
    BAD_GRID = 1 << 5  # wavelengths that cannot be put on the survey's grid
    NO_PIXELS = 1 << 6  # not one pixel with information
    RESAMPLED = 1 << 8  # was off the survey's grid and was rebinned
    NO_REDSHIFT = 1 << 9  # the file gives no velocity: left in the observed frame
    NO_POSITION = 1 << 10  # no usable RA, Dec


UNREADABLE = SpectrumStatus(0x7F)
"""Any of these bits: the row holds no spectrum."""

PER_SPECTRUM: dict[str, tuple[str, float | int, str]] = {
    # name: (dtype, value where unknown, unit)
    "obsid": ("int64", -1, ""),
    "source_id": ("int64", -1, ""),
    "ra": ("float64", float("nan"), "deg"),
    "dec": ("float64", float("nan"), "deg"),
    "mjd": ("float64", float("nan"), "d"),
    "rv": ("float32", float("nan"), "km/s"),
    "rv_err": ("float32", float("nan"), "km/s"),
    "snr": ("float32", 0.0, ""),
    "status": ("uint32", 0, ""),
}
"""Per-spectrum variables every spectra store has; ``rv`` is the survey's own velocity."""

PREPROCESSED = {
    "rv_shift": ("float32", 0.0, "km/s"),  # taken out by whole pixels: exact, noise stays white
    "continuum_median": ("float32", 0.0, "survey flux"),
}
"""Per-spectrum variables that preprocessing adds."""


def status_names(status: np.ndarray, flags: type[IntFlag]) -> dict[str, int]:
    """Count rows per status bit, and rows with none of them as ``OK``.

    Examples
    --------
    >>> status_names(np.array([0, 1, 1, 3], np.uint32), SpectrumStatus)
    {'OK': 1, 'MISSING': 3, 'TRUNCATED': 1}
    """
    status = np.asarray(status)
    counts = {"OK": int(np.sum(status == 0))}
    for flag in flags:
        n = int(np.sum(status & np.uint32(flag.value) != 0))
        if n and flag.name:
            counts[flag.name] = n
    return counts


def check_spectra(spectra: xr.Dataset) -> xr.Dataset:
    """Return `spectra` if it keeps the schema.

    Raises
    ------
    SchemaError
        If a variable, dim, dtype or the wavelength's medium is missing or wrong.
    """
    problems = []
    for name, dtype in (("flux", "float32"), ("ivar", "float32"), ("mask", "uint32")):
        if name not in spectra:
            problems.append(f"no variable '{name}'")
        elif spectra[name].dims != ("spectrum", "wavelength") or spectra[name].dtype != dtype:
            problems.append(
                f"'{name}' is {spectra[name].dtype}{spectra[name].dims}, "
                f"wanted {dtype}('spectrum', 'wavelength')"
            )
    for name, (dtype, _, _) in PER_SPECTRUM.items():
        if name not in spectra or spectra[name].dtype != dtype:
            problems.append(f"no per-spectrum variable '{name}' of {dtype}")
    if spectra.attrs.get("wavelength_medium") != "vacuum":
        medium = spectra.attrs.get("wavelength_medium")
        problems.append(f"attrs['wavelength_medium'] = {medium!r}, wanted 'vacuum'")
    if problems:
        raise SchemaError("not a spectra dataset: " + "; ".join(problems))
    return spectra
