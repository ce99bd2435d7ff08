"""APOGEE apStar files, written: a combined spectrum and the visits of one star, as DR17 has them.

Rows of each image: combined with weights by pixel, combined with one weight per visit, then the
visits; a star of one visit has two rows, the second empty. Rest frame, vacuum, log grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.surveys.fits_files import Card, gzipped, image, primary, table

LOG10_START, LOG10_STEP, N_PIXEL = 4.179, 6e-6, 8575
BADPIX, CRPIX, BADFLAT, NOSKY, SIG_SKYLINE, SIG_TELLURIC = 1, 2, 32, 128, 4096, 8192
"""Values of PIXMASK that are used here."""
UNKNOWN = 1e12
"""Factor on the error of a pixel that nothing is known of."""
MISSING = -9999.990234375
CHIPS = {"B": (202, 3322), "G": (3538, 6128), "R": (6295, 8380)}
"""Pixels of the detectors, as first and past the last."""
_GRID: tuple[Card, ...] = (
    ("CRVAL1", LOG10_START, ""),
    ("CDELT1", LOG10_STEP, ""),
    ("CRPIX1", 1, ""),
    ("CTYPE1", "LOG-LINEAR", ""),
)
_CCF = {True: 765, False: 243}
"""Velocities of the cross correlation, of visits and of the combined spectrum."""


@dataclass(frozen=True)
class Visits:
    """The spectra of one star.

    Attributes
    ----------
    flux, error : (n_row, 8575) float [1e-17 erg/s/cm²/Å]
        Rows as in the file, where they are float64.
    mask : (n_row, 8575) int
        int64 in the file.
    sky, sky_error, telluric, telluric_error : (n_row, 8575) float
    """

    flux: npt.NDArray[Any]
    error: npt.NDArray[Any]
    mask: npt.NDArray[Any]
    sky: npt.NDArray[Any]
    sky_error: npt.NDArray[Any]
    telluric: npt.NDArray[Any]
    telluric_error: npt.NDArray[Any]


def star_path(facts: Mapping[str, Any]) -> str:
    """Return where a release keeps the file: by telescope and field.

    Examples
    --------
    >>> star_path({"field": "M67", "apogee_id": "2M08510017+1154321"})
    'stars/apo25m/M67/apStar-dr17-2M08510017+1154321.fits.gz'
    """
    return f"stars/apo25m/{facts['field']}/apStar-dr17-{facts['apogee_id']}.fits.gz"


def write_apstar(
    facts: Mapping[str, Any], visits: Visits, nights: Sequence[Mapping[str, Any]]
) -> bytes:
    """Return one gzipped file; same input, same bytes.

    Parameters
    ----------
    facts : mapping
        apogee_id, field, ra, dec [deg], h [mag], snr, vhelio, verr [km/s], teff, logg, fe_h: what
        the radial velocities were fitted with.
    visits : Visits
    nights : sequence of mapping
        For each visit: plate, mjd [d], fiber, bc, vhelio, verr [km/s], snr.

    Raises
    ------
    ValueError
        If a number is not finite, or a name does not fit its card.

    Examples
    --------
    The reader finds two visits, below the two combined spectra:

    >>> from scalespec.surveys.apogee import read_visits
    >>> facts = dict(apogee_id="2M0", field="M67", ra=10.0, dec=41.0, h=9.0, snr=100.0, vhelio=30.0,
    ...              verr=0.1, teff=5777.0, logg=4.4, fe_h=0.0)
    >>> nights = [dict(plate=7496, mjd=56804.5 + i, fiber=171, bc=0.0, vhelio=29.0 + 2 * i,
    ...                verr=0.1, snr=70.0) for i in range(2)]
    >>> flux = np.tile(np.arange(1.0, 5.0)[:, np.newaxis], 8575)
    >>> visits = Visits(flux, 0.5 * flux**0, 0 * flux.astype(int), *[0 * flux] * 4)
    >>> made = read_visits(write_apstar(facts, visits, nights), "apStar.fits.gz", 0, 2)
    >>> made.arms[""].flux[:, 0], made.arms[""].ivar[:, 0], made.scalars["rv"]
    (array([3., 4.], dtype=float32), array([4., 4.], dtype=float32), [29.0, 31.0])
    """
    data = primary(_header(facts, nights))
    units = "10^-17 erg/s/cm^2/Ang"
    planes: tuple[tuple[npt.NDArray[Any], str], ...] = (
        (visits.flux, f"Flux ({units})"),
        (visits.error, f"Err ({units})"),
        (visits.mask, "Pixel bitmask"),
        (visits.sky, f"Sky ({units})"),
        (visits.sky_error, f"Sky error ({units})"),
        (visits.telluric, "Telluric"),
        (visits.telluric_error, "Telluric error"),
    )
    for plane, unit in planes:
        kind = np.float64 if plane.dtype.kind == "f" else np.int64
        data += image(plane.astype(kind), [*_GRID, ("BUNIT", unit, "")])
    data += image(None, [])
    data += table(_velocities(facts, nights, of_visits=True), [], dims=True)
    combined = [
        {**nights[0], "vhelio": facts["vhelio"], "verr": facts["verr"], "snr": facts["snr"]}
    ]
    return gzipped(data + table(_velocities(facts, combined, of_visits=False), [], dims=True))


def _header(facts: Mapping[str, Any], nights: Sequence[Mapping[str, Any]]) -> list[Card]:
    spread = float(np.std([night["vhelio"] for night in nights]))
    edges: list[Card] = []
    for chip, (first, stop) in reversed(CHIPS.items()):
        edges += [(f"{chip}MIN", first, "Min pixel of chip"), (f"{chip}MAX", stop - 1, "Max pixel")]
        edges += [(f"{chip}OVERMIN", first, ""), (f"{chip}OVERMAX", stop - 1, "")]
    cards: list[Card] = [
        ("CRVAL1", LOG10_START, "Start log10(wavelength) in subsequent HDUs"),
        ("CDELT1", LOG10_STEP, "Dispersion in log10(wave) in subsequent HDUs"),
        ("CRPIX1", 1, "Pixel of starting wavelength in subsequent HDUs"),
        ("CTYPE1", "LOG-LINEAR", "Logarithmic wavelength scale in subsequent HDUs"),
        ("DC-FLAG", 1, "Logarithmic wavelength scale in subsequent HDUs"),
        ("NWAVE", N_PIXEL, "Number of wavelengths in subsequent HDUs"),
        ("FIELD", str(facts["field"]), "APOGEE field name"),
        ("OBJID", str(facts["apogee_id"]), "APOGEE object name"),
        ("SNR", float(facts["snr"]), "Median S/N per apStar pixel"),
        ("RA", round(float(facts["ra"]), 6), "right ascension, deg, J2000"),
        ("DEC", round(float(facts["dec"]), 6), "declination, deg, J2000"),
        ("H", float(facts["h"]), "2MASS H magnitude"),
        ("WASH_M", MISSING, ""),
        ("NVISITS", len(nights), "Number of visit spectra combined flag"),
        ("STARFLAG", 0, "bitwise OR of individual visit starflags"),
        ("ANDFLAG", 0, "bitwise AND of individual visit starflags"),
        ("N_COMP", 1, "Maximum number of components in RV CCFs"),
        ("VHELIO", float(facts["vhelio"]), "S/N weighted mean barycentric RV"),
        ("VSCATTER", spread, "standard deviation of visit RVs"),
        ("VERR", float(facts["verr"]), "weighted error in VHELIO"),
        ("RV_TEFF", float(facts["teff"]), "Effective temperature from RV fit"),
        ("RV_LOGG", float(facts["logg"]), "Surface gravity from RV fit"),
        ("RV_FEH", float(facts["fe_h"]), "Metallicity from RV fit"),
        ("MEANFIB", float(np.mean([n["fiber"] for n in nights])), "S/N weighted mean fiber number"),
        ("NRES", " 5.00 4.25 3.50", "number of pixels/resolution used for sinc"),
        *edges,
        ("ORIGIN", "MOCK", "Not an observation: made by scalespec mock"),
    ]
    for i, night in enumerate(nights, start=1):
        mjd = float(night["mjd"])
        cards += [
            (f"COMMENT VISIT {i} INFORMATION",),
            (f"SFILE{i}", visit_file(night), f"Visit #{i} spectrum file"),
            (f"JD{i}", mjd + 2400000.5, f"Julian date of visit {i}"),
            (f"FIBER{i}", night["fiber"], f"Fiber, visit {i}"),
            (f"BC{i}", float(night["bc"]), f"Barycentric correction (km/s), visit {i}"),
            (f"VRAD{i}", float(night["vhelio"] - night["bc"]), "Radial velocity (km/s)"),
            (f"VERR{i}", float(night["verr"]), "Uncertainty in radial velocity (km/s)"),
            (f"VHELIO{i}", float(night["vhelio"]), f"Barycentric velocity (km/s), visit {i}"),
            (f"SNRVIS{i}", float(night["snr"]), f"Median S/N per apStar pixel, visit {i}"),
            (f"FLAG{i}", 0, f"STARFLAG for visit {i}"),
        ]
    return cards


def visit_file(night: Mapping[str, Any]) -> str:
    """Return the name of a visit's own file.

    Examples
    --------
    >>> visit_file({"plate": 7496, "mjd": 56804.43, "fiber": 171})
    'apVisit-dr17-7496-56804-171.fits'
    """
    return f"apVisit-dr17-{night['plate']}-{int(night['mjd'])}-{night['fiber']:03d}.fits"


def _velocities(
    facts: Mapping[str, Any], nights: Sequence[Mapping[str, Any]], *, of_visits: bool
) -> dict[str, npt.NDArray[Any]]:
    """Return the table of radial velocities, cross correlations included."""
    n, n_ccf = len(nights), _CCF[of_visits]
    speed = np.tile((np.arange(n_ccf) - n_ccf // 2) * 4.1, (n, 1))  # a pixel is 4.14 km/s
    velocity = np.array([float(night["vhelio"]) for night in nights])
    error = np.array([float(night["verr"]) for night in nights])
    bc = np.array([float(night["bc"]) for night in nights])
    peak = np.exp(-0.5 * ((speed - velocity[:, None]) / 11.3) ** 2)
    fitted = {"teff": facts["teff"], "logg": facts["logg"], "feh": facts["fe_h"]}
    columns: dict[str, npt.NDArray[Any]] = {
        "filename": np.array([visit_file(night) for night in nights], "S72"),
        "jd": np.array([night["mjd"] + 2400000.5 for night in nights]),
        "snr": np.array([float(night["snr"]) for night in nights]),
        "vhelio": velocity,
        "vrel": velocity - bc,
        "vrelerr": error,
    }
    for name, value in fitted.items():
        columns |= {name: np.full(n, float(value)), f"{name}err": np.zeros(n)}
    columns |= {
        "chisq": np.ones(n),
        "bc": bc,
        "x_ccf": speed,
        "ccf": peak,
        "ccferr": np.full_like(peak, 0.01),
        "xcorr_vrel": velocity - bc,
        "xcorr_vrelerr": error,
        "xcorr_vhelio": velocity,
        "ccpfwhm": np.full(n, 26.6),
        "autofwhm": np.full(n, 20.9),
        "autoccf": np.exp(-0.5 * (speed / 8.9) ** 2),
    }
    return {
        name: column if name == "filename" else np.asarray(column, np.float64)
        for name, column in columns.items()
    }
