"""SDSS optical spectra: the spec- files of SEGUE, BOSS, eBOSS and SDSS-V.

A table COADD has a row per pixel: flux, ivar, loglam, and_mask, or_mask, wdisp; a table of one row,
SPECOBJ or SPALL, says what was observed. Wavelengths are vacuum Å, heliocentric, on one lattice of
1e-4 in log10, of which each file has a stretch; flux is in 1e-17 erg/s/cm2/Å.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.schema import MaskBit, SpectrumStatus
from scalespec.surveys.cards import made_id, number, position, survey_bits, velocity
from scalespec.surveys.fits import HDU, read_fits
from scalespec.surveys.headers import Value
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lattice import Lattice, check_increasing
from scalespec.surveys.rows import Arm, Pixels, Rows, Survey
from scalespec.surveys.tables import Table, ids, length, named, numbers, table_of, texts

LATTICE = Lattice(3.5400, 1e-4, 4801, tolerance=0.05)
"""3467-10471 Å: what SEGUE, BOSS and SDSS-V spectra are stretches of."""
RESOLVING_POWER = 2000.0
"""1800-2200 in the middle: Smee et al. 2013, AJ 146, 32."""
LSF_NODES = np.array([3900.0, 4400.0, 5000.0, 5600.0, 6200.0, 7000.0, 8000.0, 9000.0])
BITS = {
    **dict.fromkeys((0, 1, 2, 3, 17), MaskBit.BAD_TRACE),
    **dict.fromkeys((18, 25), MaskBit.BAD_PIXEL),
    **dict.fromkeys((22, 27, 28), MaskBit.NO_SKY),
    23: MaskBit.BRIGHT_SKY,
    24: MaskBit.NO_DATA,
    **dict.fromkeys((16, 19, 20, 21, 26), MaskBit.SUSPECT),
}
"""SPPIXMASK: https://www.sdss4.org/dr17/algorithms/bitmasks/#SPPIXMASK. Bits 4-12 tell of the whole
fiber and are left out."""
_CARDS = (
    *("PLATEID", "MJD", "FIBERID", "PLUG_RA", "PLUG_DEC", "RA", "DEC"),
    *("TAI", "VACUUM", "RUN2D"),
)
_PATH = re.compile(r"spec-(\w+)-(\d+)-(\w+)")
_LN10 = math.log(10)


def spec_path(row: Mapping[str, Any]) -> str:
    """Return where a release keeps the file of a catalog row, below a reduction's ``spectra/``.

    Parameters
    ----------
    row : mapping
        Catalog columns plate, mjd, fiberid.

    References
    ----------
    https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html

    Examples
    --------
    >>> spec_path(dict(PLATE=266, MJD=51602, FIBERID=5))
    '0266/spec-0266-51602-0005.fits'
    """
    lower = {str(key).lower(): value for key, value in row.items()}
    plate, mjd, fiber = (int(lower[key]) for key in ("plate", "mjd", "fiberid"))
    return f"{plate:04d}/spec-{plate:04d}-{mjd:05d}-{fiber:04d}.fits"


def read_spec(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:  # noqa: ARG001 - one spectrum
    """Read the coadd of a spec- file.

    Raises
    ------
    SurveyFileError
        With reason ``not_fits``, ``truncated``, ``corrupt``, ``bad_layout`` or ``bad_grid``.
    """
    hdus, fallback = read_fits(gunzip(data), cards=_CARDS)
    header = hdus[0].header
    if header.get("VACUUM") is False:
        raise SurveyFileError("VACUUM = F: wavelengths are not the survey's", "bad_grid")
    table = table_of(named(hdus, "COADD"), "flux", "ivar", "loglam")
    flux, ivar, loglam = (table[key] for key in ("flux", "ivar", "loglam"))
    shapes = {column.shape for column in (flux, ivar, loglam)}
    kinds = {column.dtype.kind for column in (flux, ivar, loglam)}
    if len(shapes) > 1 or flux.ndim != 1 or len(flux) < 2 or not kinds <= set("fiu"):
        raise SurveyFileError(f"columns of {shapes}, kinds {kinds}", "bad_layout")
    with np.errstate(over="ignore", invalid="ignore"):
        grid = check_increasing(10 ** loglam.astype(np.float64))
    bits = _bits(table, "and_mask") | _bits(table, "or_mask") << np.uint32(8)
    (new_flux, new_ivar, mask), resampled = LATTICE.put(flux, ivar, bits, grid)
    pixels = Pixels(new_flux, new_ivar, mask, None, _lsf(table, grid))
    if resampled:
        shared = LATTICE.correlation(new_ivar, grid, RESOLVING_POWER)
        pixels = pixels._replace(status=int(SpectrumStatus.RESAMPLED), noise_correlation=shared)
    about = _about(hdus)
    scalars, strings = _scalars(header, about, name), _strings(header, about)
    return Rows({"": pixels}, scalars, strings, fallback=fallback)


def _bits(table: Table, name: str) -> npt.NDArray[np.uint32]:
    n = length(table)
    values = table.get(name)
    if values is None or values.ndim != 1 or values.dtype.kind not in "iu":
        return np.zeros(n, np.uint32)
    return survey_bits(values.astype(np.int64), BITS)


@np.errstate(over="ignore", invalid="ignore")
def _lsf(table: Table, grid: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Return sigma [Å] at the nodes; the file has it in pixels of 1e-4 dex, 0 where unknown."""
    pixels = table.get("wdisp")
    if pixels is None or pixels.ndim != 1 or pixels.dtype.kind != "f":
        return np.zeros(len(LSF_NODES))
    known = np.isfinite(pixels) & (pixels > 0) & (pixels < 20)
    if not known.any():
        return np.zeros(len(LSF_NODES))
    widths = np.interp(LSF_NODES, grid[known], pixels[known].astype(np.float64), left=0, right=0)
    sigma: npt.NDArray[np.floating[Any]] = widths * LATTICE.step * _LN10 * LSF_NODES
    return sigma


def _about(hdus: Sequence[HDU]) -> Table:
    """Return the table of one row that says what was observed, if there is one."""
    try:
        return table_of(named(hdus, "SPECOBJ", "SPALL"))
    except SurveyFileError:
        return {}


def _fit(about: Table) -> str:
    """Return how the columns of the best fit end: "_noqso" where quasars were left out, or "".

    SDSS and SEGUE rows have the ``_noqso`` columns too, all 0 and blank: BOSS alone fills them.
    """
    return "_noqso" if texts(about, slice(0, 1), "class_noqso")[0] else ""


def _scalars(header: Mapping[str, Value], about: Table, name: str) -> dict[str, Any]:
    one, fit = slice(0, 1), _fit(about)
    facts = {
        key: float(numbers(about, one, *names)[0])
        for key, names in {
            "ra": ("plug_ra", "racat", "ra"),
            "dec": ("plug_dec", "deccat", "dec"),
            "z": (f"z{fit}",),
            "z_err": (f"z_err{fit}",),
        }.items()
    }
    place = position(facts["ra"], facts["dec"])
    if math.isnan(place["ra"]):
        place = position(
            header.get("PLUG_RA", header.get("RA")), header.get("PLUG_DEC", header.get("DEC"))
        )
    mjd = number(header.get("TAI")) / 86400  # TAI is in seconds since MJD 0
    return {
        "obsid": _obsid(header, name),
        "source_id": int(ids(about, one, "gaia_dr3_source_id", "gaia_id_dr3")[0]),
        **place,
        "mjd": mjd if 1e4 < mjd < 1e6 else number(header.get("MJD")),
        **velocity(facts["z"], facts["z_err"]),
    }


def _obsid(header: Mapping[str, Value], name: str) -> int:
    """Return an id made of plate (or field), day, and fiber (or SDSS-V's catalog id).

    They are the file name's, else the header's; without both the whole name is taken.
    """
    if found := _PATH.search(PurePath(name).name):
        return made_id("sdss", *(text.lstrip("0") for text in found.groups()))
    parts = [header.get(card) for card in ("PLATEID", "MJD", "FIBERID")]
    return made_id("sdss", *([PurePath(name).name] if None in parts else parts))


def _strings(header: Mapping[str, Value], about: Table) -> dict[str, Any]:
    one, fit = slice(0, 1), _fit(about)
    kinds = {"class_": f"class{fit}", "subclass": f"subclass{fit}"}
    strings: dict[str, Any] = {key: texts(about, one, name)[0] for key, name in kinds.items()}
    return {**strings, "release": str(header.get("RUN2D") or "").strip()}


SDSS = Survey(
    name="sdss",
    pattern="**/spec-*.fits*",
    arms=(
        Arm(
            "",
            LATTICE.wavelength,
            LATTICE.n,
            {"log10_wavelength_start": LATTICE.start, "log10_wavelength_step": LATTICE.step},
            LSF_NODES,
        ),
    ),
    attrs={
        "wavelength_medium": "vacuum",
        "frame": "observed, heliocentric",
        "flux_unit": "1e-17 erg/s/cm2/Angstrom",
        "resolving_power": RESOLVING_POWER,
    },
    read=read_spec,
    catalog_path=spec_path,
    catalog_columns=("PLATE", "MJD", "FIBERID"),
)
