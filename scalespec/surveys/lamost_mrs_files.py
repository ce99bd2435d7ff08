"""LAMOST medium-resolution files, written: coadded arms and exposures, as two eras have them.

Until DR9's first version a table has one row per pixel with LOGLAM; since then one row of vectors
with WAVELENGTH. Wavelengths vacuum Å, heliocentric; flux in counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.surveys.fits_files import Card, gzipped, primary, table
from scalespec.surveys.lamost_files import designation, file_path, local_day, observed_at

ERAS = {"loglam": "LAMOST DR7", "wavelength": "LAMOST DR10"}
"""Layouts, and a release of each."""
BAD_PIXEL = 1
"""Value of the masks."""
_PER_CARD = 3  # exposures that one LMJMLIS card lists


@dataclass(frozen=True)
class Part:
    """One table of a file.

    Attributes
    ----------
    arm : {"B", "R"}
    lmjm : int
        Local modified Julian minute of an exposure; 0 for the coadded spectrum.
    wavelength : (n_pixel,) float64 [Å, vacuum]
    flux, ivar : (n_pixel,) float32
    andmask, ormask : (n_pixel,) int16
        An exposure has but one mask, `ormask`.
    """

    arm: str
    lmjm: int
    wavelength: npt.NDArray[np.float64]
    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    andmask: npt.NDArray[np.int16]
    ormask: npt.NDArray[np.int16]

    @property
    def name(self) -> str:
        """The table's EXTNAME."""
        return f"{self.arm}-{self.lmjm}" if self.lmjm else f"COADD_{self.arm}"


def mrs_path(facts: Mapping[str, Any]) -> str:
    """Return where a release would keep the file.

    Examples
    --------
    >>> mrs_path({"mjd": 58648.7, "planid": "TD1936", "spid": 10, "fiberid": 159})
    '20190614/TD1936/med-58649-TD1936_sp10-159.fits.gz'
    """
    folder, _, name = file_path(facts).rpartition("/")
    return f"{folder}/med-{name.removeprefix('spec-')}"


def write_mrs(facts: Mapping[str, Any], parts: Sequence[Part], *, era: str) -> bytes:
    """Return one gzipped file; same input, same bytes.

    Parameters
    ----------
    facts : mapping
        obsid, mjd [d], planid, spid, fiberid, ra, dec [deg], helio_rv [km/s], g, bp_rp [mag].
    parts : sequence of Part
        Coadded arms first, then exposures.
    era : {"loglam", "wavelength"}

    Raises
    ------
    ValueError
        If there is no such `era`.
    """
    if era not in ERAS:
        raise ValueError(f"era must be one of {sorted(ERAS)}, got {era!r}")
    minutes = {arm: [p.lmjm for p in parts if p.lmjm and p.arm == arm] for arm in "BR"}
    data = primary(_information(facts, len(parts), minutes, era))
    for part in parts:
        data += _table(part, minutes[part.arm], era)
    return gzipped(data)


def _information(
    facts: Mapping[str, Any], n_parts: int, minutes: Mapping[str, list[int]], era: str
) -> list[Card]:
    stem = mrs_path(facts).rpartition("/")[2].removesuffix(".gz")
    magnitudes = (facts["g"], facts["g"] + 0.4 * facts["bp_rp"], facts["g"] - 0.6 * facts["bp_rp"])
    return [
        ("COMMENT --------FILE INFORMATION",),
        ("FILENAME", stem, ""),
        ("OBSID", facts["obsid"], "Unique number ID of this spectrum"),
        ("AUTHOR", "LAMOST Pipeline", "Who compiled the information"),
        ("DATA_V", ERAS[era], "Data release version"),
        ("N_EXTEN", n_parts + 1, "The extension number"),
        ("EXTNAME", "Information", "The extension name"),
        ("ORIGIN", "MOCK", "Not an observation: made by scalespec mock"),
        ("COMMENT --------TELESCOPE PARAMETERS",),
        ("TELESCOP", "LAMOST", "GuoShouJing Telescope"),
        ("LONGITUD", 117.58, "[deg] Longitude of site"),
        ("LATITUDE", 40.39, "[deg] Latitude of site"),
        ("COMMENT --------OBSERVATION PARAMETERS",),
        ("DATE-OBS", f"{observed_at(facts['mjd']):%Y-%m-%dT%H:%M:%S}", "Median UTC"),
        ("LMJD", local_day(facts["mjd"]), "Local Modified Julian Day"),
        ("MJD", int(facts["mjd"]), "Modified Julian Day"),
        ("PLANID", str(facts["planid"]), "Plan ID in use"),
        ("RA", round(float(facts["ra"]), 6), "[deg] Right ascension of object"),
        ("DEC", round(float(facts["dec"]), 6), "[deg] Declination of object"),
        ("DESIG", designation(facts["ra"], facts["dec"]), "Designation of LAMOST target"),
        ("FIBERID", facts["fiberid"], "Fiber ID of Object"),
        ("OBJTYPE", "Star", "Object type from input catalog"),
        ("MAGTYPE", "gbprp", "Magnitude type of object"),
        *((f"MAG{i}", round(float(m), 2), "[mag]") for i, m in enumerate(magnitudes, 1)),
        ("OBS_TYPE", "OBJ", "The type of target (OBJ, FLAT, ARC or BIAS)"),
        ("RADECSYS", "FK5", "Equatorial coordinate system"),
        ("EQUINOX", 2000.0, "Equinox in years"),
        ("NEXP_B", len(minutes["B"]), "Number of valid blue exposures"),
        ("COMBIN_B", True, "Whether the combined data of B band exists"),
        ("NEXP_R", len(minutes["R"]), "Number of valid red exposures"),
        ("COMBIN_R", True, "Whether the combined data of R band exists"),
        ("COMMENT --------SPECTROGRAPH PARAMETERS",),
        ("SPID", facts["spid"], "Spectrograph ID"),
        ("COMMENT --------DATA REDUCTION PARAMETERS",),
        ("HELIO", True, "Heliocentric correction"),
        ("HELIO_RV", round(float(facts["helio_rv"]), 5), "[km/s] Heliocentric correction"),
        ("VACUUM", True, "Wavelengths are in vacuum"),
    ]


def _table(part: Part, minutes: Sequence[int], era: str) -> bytes:
    snr = max(float(np.median(part.flux * np.sqrt(part.ivar))), 0.0)  # as the survey's: never below
    cards: list[Card] = [("EXTNAME", part.name, "The extension name")]
    if part.lmjm:
        cards += [
            ("LMJM", str(part.lmjm), "Local Modified Julian Minute"),
            ("EXPTIME", 1200, "[s] Exposure duration time"),
        ]
    else:
        for i in range(0, len(minutes), _PER_CARD):
            listed = "-".join(str(m) for m in minutes[i : i + _PER_CARD])
            cards.append((f"LMJMLIS{i // _PER_CARD}", listed, "Local Modified Julian Minute list"))
    cards += [
        ("SNR", round(snr, 2), "Signal to noise ratio"),
        ("LAMPLIST", "lampthar.dat", "Arc lamp emission line list"),
    ]
    masks = {"PIXMASK": part.ormask}
    if not part.lmjm:
        masks = {"ANDMASK": part.andmask, "ORMASK": part.ormask}
    columns: dict[str, npt.NDArray[Any]] = {"FLUX": part.flux, "IVAR": part.ivar}
    if era == "loglam":
        columns["LOGLAM"] = np.log10(part.wavelength).astype(np.float32)
        return table(columns | masks, cards)
    columns["WAVELENGTH"] = part.wavelength.astype(np.float32)
    rows = {name: np.asarray(x, np.float32)[np.newaxis] for name, x in (columns | masks).items()}
    return table(rows, cards)
