"""What a spectra Dataset is: dims, variables, dtypes, units, mask bits and status bits.

Wavelengths are vacuum Å, velocities barycentric km/s, positions ICRS degrees.

Dims are ``(spectrum, wavelength)`` where all spectra share one grid, and ``(spectrum, pixel)`` with
a variable ``wavelength(spectrum, pixel)`` where each has its own; a row without spectrum then has
wavelength 0. A survey whose spectra come in arms is a *group* of Datasets of the same rows: the
root holds the per-spectrum variables and ``attrs["arms"]``, and each arm, a group of its own, is a
whole Dataset: pixels and all per-spectrum variables, of which ``snr`` and ``status`` are the arm's.

`REQUIRED_ATTRS` are in every Dataset. ``resolving_power`` is the nominal λ/FWHM; where the line
spread is known better there is ``lsf_sigma`` [Å], a Gaussian's, at the wavelengths ``lsf_node``
[Å, vacuum]: one for all spectra, dims ``(lsf_node,)``, or one for each, ``(spectrum, lsf_node)``;
0 where it is unknown. A ``frame`` that begins with "rest" says that ``rv`` is already taken out.

Where pixels were made of others, their noise is correlated, and ``ivar`` is that of each alone.
There are then per-spectrum variables ``noise_correlation`` and ``noise_correlation_rv``, float32:
by what the variance of lines' depths, and of their velocity, exceeds that of white noise; fits
multiply theirs by it. 1, or no such variables, is white noise.
"""

from enum import IntFlag

import numpy as np
import xarray as xr

from scalespec.errors import SchemaError

FORMAT_VERSION = 3
C_KMS = 299_792.458
"""Speed of light [km/s], exact (SI)."""


class MaskBit(IntFlag):
    """Why a pixel has ``ivar`` 0, and what the survey said of it.

    Bits 0-7 are set on reading, 8-15 hold the survey's "bad in all exposures" bits (LAMOST
    ANDMASK, and every survey's mask where it has but one), 16-23 its "bad in any exposure" bits
    (ORMASK, informational), 24-31 are set by preprocessing.
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
    COSMIC_RAY = 1 << 14
    SUSPECT = 1 << 15  # warned of, maybe good: persistence, ghost, telluric, a neighbor's light
    POLICY = 1 << 24  # a survey bit that the run's mask policy calls bad
    SKY_LINE = 1 << 25
    ARM_JOIN = 1 << 26
    TELLURIC = 1 << 27
    EDGE = 1 << 28  # the rest-frame shift moved the edge of the data in
    NO_CONTINUUM = 1 << 29  # smoothed flux is not positive
    SPIKE = 1 << 30  # normalized flux far above the continuum: a cosmic ray or sky residual
    COARSE = 1 << 31  # resolves less than the run wants: not to be sharpened


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
    CHANGED = 1 << 11  # the file is not the one that was planned: another size, time or etag
    PADDING = 1 << 12  # no spectrum was planned here: between two segments of a run
    NO_SIGNAL = 1 << 13  # median S/N per pixel below 1 in an arm: a failed exposure, or very faint
    COARSE = 1 << 14  # resolves, here or there, less than the run wants: no information there
    INEXACT_ID = 1 << 15  # the file's Gaia id is a float that has lost its last digits: unknown


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

NOISE_CORRELATION = ("noise_correlation", "noise_correlation_rv")
"""Per-spectrum variables: variances of depths and velocities of lines over those of white noise."""

REQUIRED_ATTRS = ("survey", "wavelength_medium", "frame", "flux_unit", "resolving_power")
"""Attributes without which flux has no meaning; every spectra Dataset has them."""


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
    """Return `spectra` if it keeps the schema; the root of a survey with arms has no pixels.

    Raises
    ------
    SchemaError
        If a variable, dim, dtype or attribute is missing or wrong.
    """
    problems = [] if spectra.attrs.get("arms") else _pixel_problems(spectra)
    for name, (dtype, _, _) in PER_SPECTRUM.items():
        if name not in spectra or spectra[name].dtype != dtype:
            problems.append(f"no per-spectrum variable '{name}' of {dtype}")
    for name in REQUIRED_ATTRS:
        if name not in spectra.attrs:
            problems.append(f"no attrs['{name}']")
    medium = spectra.attrs.get("wavelength_medium")
    if medium not in (None, "vacuum"):
        problems.append(f"attrs['wavelength_medium'] = {medium!r}, wanted 'vacuum'")
    if problems:
        raise SchemaError("not a spectra dataset: " + "; ".join(problems))
    return spectra


def _pixel_problems(spectra: xr.Dataset) -> list[str]:
    """Say what is wrong with flux, ivar, mask and wavelength."""
    own_grids = "pixel" in spectra.dims
    dims = ("spectrum", "pixel" if own_grids else "wavelength")
    wanted = {"flux": "float32", "ivar": "float32", "mask": "uint32"}
    problems = []
    for name, dtype in (wanted | ({"wavelength": "float64"} if own_grids else {})).items():
        if name not in spectra:
            problems.append(f"no variable '{name}'")
        elif spectra[name].dims != dims or spectra[name].dtype != dtype:
            found = f"{spectra[name].dtype}{spectra[name].dims}"
            problems.append(f"'{name}' is {found}, wanted {dtype}{dims}")
    return problems
