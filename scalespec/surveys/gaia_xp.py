"""Gaia XP sampled mean spectra: tables of many sources on one grid, 336-1020 nm in steps of 2 nm.

FITS tables with vectors flux and flux_error, or the archive's own CSV or ECSV, gzipped or not,
whose vectors are written as text. Wavelengths are vacuum Å. Fluxes of 1e-16 W/m2/nm and errors a
hundred times smaller do not fit an inverse variance in float32, so every row is divided by its
median flux: rows that came divided (column medflux) keep what they were divided by.
"""

import csv
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.surveys.fits import HDU, read_fits
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lattice import clean, inverse_variance
from scalespec.surveys.rows import Arm, Pixels, Rows, Survey
from scalespec.surveys.tables import (
    LOST,
    check_range,
    filled_ids,
    ids,
    length,
    numbers,
    places,
    table_of,
    texts,
    vectors,
)

WAVELENGTH = 3360.0 + 20.0 * np.arange(343)
"""(343,) Å."""
LSF_NODES = np.array([3360.0, 4400.0, 5400.0, 6380.0, 6420.0, 8000.0, 9000.0, 10200.0])
LSF_R = np.array([100.0, 75.0, 50.0, 30.0, 100.0, 87.0, 79.0, 70.0])
"""λ/FWHM there, roughly: 100 to 30 along BP, 100 to 70 along RP from 640 nm on (Gaia Collaboration,
Vallenari et al. 2023, A&A 674, A1)."""
LIMIT_BYTES = 2**31
_LEAST_ID = 2**32  # a source_id begins with its HEALPix cell, from bit 35 on; nulls are 999999
_FWHM = 2 * math.sqrt(2 * math.log(2))
_SOURCE = ("source_id", "gaiadr3_source_id", "gaiaedr3_source_id", "gaia_source_id")
_NUMBERS = ("source_id", "ra", "dec", "medflux")
csv.field_size_limit(2**20)


def count_spectra(data: bytes) -> int:
    """Return how many sources a file holds.

    Raises
    ------
    SurveyFileError
        If it cannot be read.
    """
    table, _ = _read(data)
    return length(table)


def read_xp(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:
    """Read sources ``[first, first + count)`` of a table.

    Raises
    ------
    SurveyFileError
        With reason ``not_fits``, ``truncated``, ``corrupt`` or ``bad_layout``.
    """
    table, fallback = _read(data)
    rows = check_range(first, count, length(table))
    n = len(WAVELENGTH)
    flux = vectors(table, "flux", rows, n).astype(np.float64)
    error = vectors(table, "flux_error", rows, n).astype(np.float64)
    if "medflux" not in table:
        middle = _middle(flux)[:, np.newaxis]
        flux, error = flux / middle, error / middle
    row_flux, row_ivar, mask = clean(flux, inverse_variance(error))
    source = ids(table, rows, *_SOURCE)
    source = np.where((source < _LEAST_ID) & (source != LOST), -1, source)
    scalars = {
        "obsid": filled_ids(source, "gaia_xp", name, rows.start),
        "source_id": source,
        **places(numbers(table, rows, "ra"), numbers(table, rows, "dec")),
    }
    strings = {"designation": texts(table, rows, "designation", "apogee_id"), "release": "Gaia DR3"}
    return Rows({"": Pixels(row_flux, row_ivar, mask)}, scalars, strings, fallback=fallback)


@np.errstate(invalid="ignore")
def _middle(flux: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each row's median flux; 1 where it is no positive number."""
    finite = np.where(np.isfinite(flux), flux, 0)
    middle = np.median(finite, axis=1)
    return np.where(middle > 0, middle, 1.0)


def _read(data: bytes) -> tuple[dict[str, np.ndarray], bool]:
    """Return the table's columns by lower-case name."""
    plain = data if _is_text(data) else gunzip(data, limit_bytes=LIMIT_BYTES)
    if _is_text(plain):
        return _read_csv(plain), False
    hdus, fallback = read_fits(plain, cards=())
    return _first_table(hdus), fallback


def _is_text(data: bytes) -> bool:
    return data.startswith((b"#", b"source_id", b"solution_id", b"designation"))


def _first_table(hdus: list[HDU]) -> dict[str, np.ndarray]:
    for hdu in hdus:
        if isinstance(hdu.data, dict) and {"flux", "flux_error"} <= {k.lower() for k in hdu.data}:
            return table_of(hdu)
    raise SurveyFileError("no table with columns flux and flux_error", "bad_layout")


def _read_csv(data: bytes) -> dict[str, np.ndarray]:
    """Read the archive's CSV: comments, a header line, vectors as "[a,b,...]" or "(a,b,...)"."""
    lines = (line for line in io.StringIO(data.decode("latin-1")) if not line.startswith("#"))
    reader = csv.reader(lines)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in ("flux", "flux_error") if name not in names]
        if missing:
            raise SurveyFileError(f"no columns {missing} in {names[:20]}", "bad_layout")
        filled = [record for record in reader if len(record) > 1 or "".join(record).strip()]
        records = _whole(filled, len(names))
        columns: dict[str, np.ndarray] = {}
        for name in ("flux", "flux_error"):
            place = names.index(name)
            columns[name] = np.array([_vector(record[place]) for record in records], np.float64)
        for name in set(names) & set(_NUMBERS):
            place = names.index(name)
            kind: Any = np.int64 if name == "source_id" else np.float64
            columns[name] = np.array([_number(record[place], kind) for record in records], kind)
    except (csv.Error, ValueError, OverflowError) as error:
        raise SurveyFileError(f"a table that cannot be read: {error}", "corrupt") from error
    for name in ("flux", "flux_error"):
        columns[name] = columns[name].reshape(len(records), len(WAVELENGTH))
    return columns


def _whole(records: list[list[str]], n_field: int) -> list[list[str]]:
    """Return records if all are whole: without one, the sources after it would change places."""
    wrong = [i for i, record in enumerate(records) if len(record) != n_field]
    last = len(records) - 1
    if wrong and (wrong[0] < last or len(records[last]) > n_field):
        i = wrong[0]
        raise SurveyFileError(
            f"record {i + 1} has {len(records[i])} fields, the header {n_field}", "corrupt"
        )
    if wrong or (records and _is_cut(records[last][-1])):
        raise SurveyFileError(f"it ends within record {last + 1}", "truncated")
    return records


def _is_cut(text: str) -> bool:
    """Whether a vector is not closed: its last number may have lost digits."""
    return text.startswith(("[", "(")) and not text.rstrip().endswith(("]", ")"))


def _vector(text: str) -> list[float]:
    values = [float(part) for part in text.strip("[]() ").split(",")]
    if len(values) != len(WAVELENGTH):
        raise ValueError(f"a vector of {len(values)} numbers, wanted {len(WAVELENGTH)}")
    return values


def _number(text: str, kind: Any) -> Any:
    text = text.strip().strip('"')
    if text.lower() in ("", "null", "nan"):
        return -1 if kind is np.int64 else math.nan
    return kind(text)


XP = Survey(
    name="gaia_xp",
    pattern="**/*",
    arms=(Arm("", WAVELENGTH, len(WAVELENGTH), {}, LSF_NODES, LSF_NODES / LSF_R / _FWHM),),
    attrs={
        "wavelength_medium": "vacuum",
        "frame": "observed, barycentric",
        "flux_unit": "median of the spectrum",
        "resolving_power": 50.0,
        "source_id_kind": "gaia_dr3",
    },
    read=read_xp,
    count_spectra=count_spectra,
)
