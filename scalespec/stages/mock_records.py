"""What the headers, the damage and the label catalog of a made-up LAMOST survey say.

Positions are ICRS degrees, proper motions mas/yr, velocities km/s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.observation import Spectra
from scalespec.kernels.population import EPOCH, FIELD_STARS, field_center
from scalespec.kernels.sky import propagate
from scalespec.schema import C_KMS
from scalespec.surveys.lamost import WAVELENGTH
from scalespec.surveys.lamost_files import designation, write_lrs

FloatArray = npt.NDArray[np.float64]

PLATE_SPECTRA = 500
"""Spectra of a plate: two spectrographs of 250 fibres; two plates see each field."""
BROKEN = ("truncated", "empty", "html", "bit_flip", "no_ivar")
"""Ways in which a file is broken."""
CATALOG_EPOCH = 2000.0
"""Julian year of the label catalog's positions."""
CENTROID_ARCSEC = 0.015
"""Error of those, each axis."""
SENTINEL_FRACTION, DUPLICATE_FRACTION = 0.02, 0.02
SIZES = {"teff": (40.0, 90.0), "logg": (0.05, 0.12), "fe_h": (0.02, 0.08), "vmic": (0.1, 0.3)}
"""Least and greatest error of each label in the catalog; 0.03 to 0.1 dex for an [X/Fe]."""
_PLATE = 3  # last word of a seed; `kernels.population` has 1 and 2, `stages.mock` 4 and 5


def headers(
    seed: int,
    numbers: npt.NDArray[np.int64],
    stars: dict[str, FloatArray],
    spectra: Spectra,
    rng: np.random.Generator,
) -> dict[str, npt.NDArray[Any]]:
    """Return what the headers of a block say, a column per card."""
    n, plate = len(numbers), numbers // PLATE_SPECTRA
    plates = {p: _plate(seed, p) for p in np.unique(plate).tolist()}
    mjd = np.array([plates[p][0] for p in plate.tolist()])
    year = 2000.0 + (mjd - 51544.5) / 365.25
    ra, dec = propagate(stars["ra"], stars["dec"], stars["pmra"], stars["pmdec"], EPOCH, year)
    spid = 1 + 2 * (plate % 8) + numbers % PLATE_SPECTRA // 250
    fiber = 1 + numbers % 250
    z_err = 5e-6 + 3e-4 / spectra.snr
    z = stars["rv"] / C_KMS + z_err * rng.normal(size=n)
    lost, lost_u = rng.random((2, n)) < SENTINEL_FRACTION
    in_bands = np.where(spectra.snr_bands > 0, spectra.snr_bands, -9999.0)
    in_bands[lost_u, 0] = -9999.0
    return {
        "obsid": (1001 + plate) * 100000 + spid * 1000 + fiber,
        "mjd": mjd,
        "planid": np.array([plates[p][1] for p in plate.tolist()]),
        "spid": spid,
        "fiberid": fiber,
        "ra": np.round(ra, 6),
        "dec": np.round(dec, 6),
        "subclass": np.array([_subclass(t) for t in stars["teff"].tolist()]),
        "z": np.where(lost, -9999.0, z),
        "z_err": np.where(lost, -9999.0, z_err),
        "helio_rv": rng.uniform(-28.0, 28.0, n),
        **{f"snr_{band}": in_bands[:, i] for i, band in enumerate("ugriz")},
        "first_pixel": spectra.first_pixel,
        "layout": np.where(rng.random(n) < 0.5, "image", "coadd"),
    }


def _plate(seed: int, plate: int) -> tuple[float, str]:
    """Return when a plate was observed [MJD], in 2015 to 2019 at night, and what it is called."""
    day, hour = np.random.default_rng([seed, plate, _PLATE]).random(2)
    mjd = 57023 + int(1826 * day) + round((0.46 + 0.42 * hour) * 86400) / 86400
    ra, dec = field_center(seed, plate * PLATE_SPECTRA // FIELD_STARS)
    place = designation(ra, abs(dec)).removeprefix("LAMOST J").replace(".", "")
    half = "S" if dec < 0 else "N"
    return mjd, f"HD{place[:6]}{half}{place[9:15]}V{1 + plate % 2:02d}"


def _subclass(teff: float) -> str:
    """Return a spectral type: F0 at 7300 K, G0 at 5950 K, K0 at 5250 K, M0 at 3850 K."""
    number = int(np.interp(-teff, [-7300.0, -5950.0, -5250.0, -3850.0], [0.0, 10.0, 20.0, 29.9]))
    return f"{'FGK'[number // 10]}{number % 10}"


def file_content(
    facts: dict[str, Any], spectra: Spectra, row: int, broken: str, rng: np.random.Generator
) -> bytes:
    """Return one file, broken the way `broken` says."""
    pixels = slice(facts["first_pixel"], facts["first_pixel"] + spectra.n_pixel[row])
    rows = file_rows(spectra, row)[:, pixels]
    if broken == "no_ivar":
        rows[1] = 0.0
    data = write_lrs(facts, rows, layout=str(facts["layout"]))
    if broken == "truncated":
        return data[: int(len(data) * rng.uniform(0.1, 0.9))]
    if broken == "empty":
        return b""
    if broken == "html":
        return b"<!DOCTYPE html><html><body><h1>503 Service Unavailable</h1></body></html>\n"
    if broken == "bit_flip":
        spoiled = bytearray(data)
        spoiled[rng.integers(1000, len(data) - 1000)] ^= 1 << int(rng.integers(8))
        return bytes(spoiled)
    return data


def file_rows(spectra: Spectra, row: int) -> npt.NDArray[np.float32]:
    """Return a spectrum as its file holds it, (6, n_pixel), before ends are cut."""
    columns = (spectra.flux, spectra.ivar, None, spectra.andmask, spectra.ormask)
    parts = [WAVELENGTH if c is None else c[row] for c in (*columns, spectra.normalized)]
    return np.stack(parts).astype(np.float32)


def source_ids(stars: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return an id like Gaia's for each star: 62 bits, all different.

    Examples
    --------
    >>> source_ids(np.array([0, 1]))
    array([2862933555777941757, 1114181093128495610])
    """
    mixed = (stars.astype(np.uint64) + np.uint64(1)) * np.uint64(2862933555777941757)
    return (mixed % np.uint64(2**62)).astype(np.int64)  # an odd factor modulo 2**62 is one to one


def label_catalog(
    shown: npt.NDArray[np.int64],
    stars: dict[str, FloatArray],
    labels: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, npt.NDArray[Any]]:
    """Return what a survey like APOGEE published of some stars, a few of them twice."""
    again = np.flatnonzero(rng.random(len(shown)) < DUPLICATE_FRACTION)
    row = np.concatenate([np.arange(len(shown)), again])
    n = len(row)
    here = {name: stars[name][row] for name in ("ra", "dec", "pmra", "pmdec")}
    ra, dec = propagate(here["ra"], here["dec"], here["pmra"], here["pmdec"], EPOCH, CATALOG_EPOCH)
    dec = dec + rng.normal(0.0, CENTROID_ARCSEC / 3600, n)
    ra = (ra + rng.normal(0.0, CENTROID_ARCSEC / 3600, n) / np.cos(np.radians(dec))) % 360.0
    names = [designation(*place) for place in zip(ra.tolist(), dec.tolist(), strict=True)]
    known = rng.random(len(shown))[row] < 0.9
    table: dict[str, npt.NDArray[Any]] = {
        "apogee_id": np.array(["2M" + name[8:].replace(".", "") for name in names], np.str_),
        "source_id": np.where(known, source_ids(shown[row]), -1),
        "ra": ra,
        "dec": dec,
        "epoch": np.full(n, CATALOG_EPOCH),
        "pmra": here["pmra"],
        "pmdec": here["pmdec"],
    }
    for label in labels:
        low, high = SIZES.get(label, (0.03, 0.10))
        error = rng.uniform(low, high, n)
        value = stars[label][row] + error * rng.normal(size=n)
        luck = rng.random(n) + (label == "teff")  # temperature is always known
        for limit, sentinel in ((0.05, -9999.99), (0.03, np.nan)):
            value, error = (np.where(luck < limit, sentinel, x) for x in (value, error))
        table[label], table[f"{label}_err"] = value.astype(np.float32), error.astype(np.float32)
    return table
