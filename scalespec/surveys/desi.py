"""DESI coadd files: three arms B, R, Z on linear grids of 0.8 Å, hundreds of targets in a file.

Wavelengths are vacuum Å, barycentric; flux is in 1e-17 erg/s/cm2/Å. Images {B,R,Z}_FLUX, _IVAR and
_MASK have a row per target, a table FIBERMAP says who they are. The resolution matrix
{B,R,Z}_RESOLUTION is summarized by the sigma of its columns at some wavelengths of each arm.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.errors import SurveyFileError
from scalespec.schema import C_KMS, MaskBit
from scalespec.surveys.cards import FASTEST_Z, survey_bits
from scalespec.surveys.fits import HDU, read_fits
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
    texts,
)

STEP = 0.8
GRIDS = {
    "b": 3600.0 + STEP * np.arange(2751),
    "r": 5760.0 + STEP * np.arange(2326),
    "z": 7520.0 + STEP * np.arange(2881),
}
"""Wavelengths [Å, vacuum] of the arms, the same in all files."""
LSF_NODES = {name: np.linspace(grid[40], grid[-41], 8) for name, grid in GRIDS.items()}
RESOLVING_POWER = {"b": 2600.0, "r": 3600.0, "z": 4600.0}
"""λ/FWHM mid-arm: Abareshi et al. 2022, AJ 164, 207, section 5."""
BITS = {
    **dict.fromkeys((1, 3), MaskBit.BAD_PIXEL),
    **dict.fromkeys((4, 9, 10), MaskBit.BAD_TRACE),
    5: MaskBit.BRIGHT_SKY,
    6: MaskBit.NO_SKY,
    8: MaskBit.NO_DATA,
    12: MaskBit.SUSPECT,
}
"""specmask of desispec, https://github.com/desihub/desispec/blob/main/py/desispec/maskbits.py."""
ANY_BITS = {0: MaskBit.BAD_PIXEL, 2: MaskBit.COSMIC_RAY}
"""Said of some of the exposures that went in: kept as "in any" bits."""
LIMIT_BYTES = 4 * 2**30
_FIBERMAP = ("FIBERMAP", "FIBERMAP_COADD")


def count_spectra(data: bytes) -> int:
    """Return how many targets a file holds.

    Raises
    ------
    SurveyFileError
        If it cannot be read.
    """
    hdus, _ = _read(data)
    return length(table_of(named(hdus, *_FIBERMAP), "targetid"))


def read_desi(data: bytes, name: str, first: int = 0, count: int = 1) -> Rows:
    """Read targets ``[first, first + count)`` of a coadd file.

    Raises
    ------
    SurveyFileError
        With reason ``not_fits``, ``truncated``, ``corrupt``, ``bad_layout`` or ``bad_grid``.
    """
    hdus, fallback = _read(data)
    table = table_of(named(hdus, *_FIBERMAP), "targetid")
    n = length(table)
    rows = check_range(first, count, n)
    by_name = {hdu.name.upper(): hdu for hdu in hdus}
    arms = {
        arm: _pixels(by_name, arm, rows, n) for arm in GRIDS if f"{arm.upper()}_FLUX" in by_name
    }
    if not arms:
        raise SurveyFileError(f"no HDU B_FLUX, R_FLUX, Z_FLUX in {sorted(by_name)}", "bad_layout")
    scalars = _scalars(hdus, table, rows, name)
    strings = {
        "designation": [str(target) for target in table["targetid"][rows]],
        "class_": texts(table, rows, "objtype"),
    }
    return Rows(arms, scalars, strings, fallback=fallback)


def _read(data: bytes) -> tuple[list[HDU], bool]:
    return read_fits(gunzip(data, limit_bytes=LIMIT_BYTES), cards=(), decompress=True)


def _image(hdus: Mapping[str, HDU], name: str, shape: tuple[int, int]) -> np.ndarray:
    data = hdus[name].data if name in hdus else None
    if not isinstance(data, np.ndarray) or data.shape != shape:
        found = getattr(data, "shape", "nothing")
        raise SurveyFileError(f"HDU {name} has {found}, wanted {shape}", "bad_layout")
    return data


def _pixels(hdus: Mapping[str, HDU], arm: str, rows: slice, n: int) -> Pixels:
    grid = GRIDS[arm]
    letter = arm.upper()
    wavelength = hdus[f"{letter}_WAVELENGTH"].data if f"{letter}_WAVELENGTH" in hdus else None
    if not isinstance(wavelength, np.ndarray) or wavelength.shape != grid.shape:
        raise SurveyFileError(f"{letter}_WAVELENGTH is not the survey's {grid.shape}", "bad_grid")
    apart = float(np.max(np.abs(wavelength - grid)))
    if not apart < 0.02 * STEP:
        raise SurveyFileError(f"{letter}_WAVELENGTH lies {apart:.3g} Å off", "bad_grid")
    shape = (n, len(grid))
    flux, ivar, reason = clean(
        _image(hdus, f"{letter}_FLUX", shape)[rows], _image(hdus, f"{letter}_IVAR", shape)[rows]
    )
    if f"{letter}_MASK" in hdus:
        theirs = _image(hdus, f"{letter}_MASK", shape)[rows]
        if theirs.dtype.kind not in "iu":
            raise SurveyFileError(f"{letter}_MASK is {theirs.dtype}", "bad_layout")
        values = theirs.astype(np.int64)
        bits = survey_bits(values, BITS) | survey_bits(values, ANY_BITS) << np.uint32(8)
        reason = reason | bits
    resolution = hdus[f"{letter}_RESOLUTION"].data if f"{letter}_RESOLUTION" in hdus else None
    return Pixels(flux, ivar, reason, None, _lsf(resolution, arm, rows, n))


def _lsf(resolution: Any, arm: str, rows: slice, n: int) -> npt.NDArray[np.float64]:
    """Return sigma [Å] of the resolution matrix at the arm's nodes, from its second moments.

    Parameters
    ----------
    resolution : (n, n_diagonal, n_pixel) float
        Diagonals, the highest first: element [i, k, j] is where light of pixel j goes.
    """
    n_node = len(LSF_NODES[arm])
    known = isinstance(resolution, np.ndarray) and resolution.ndim == 3 and len(resolution) == n
    if not known or resolution.shape[2] != len(GRIDS[arm]):
        return np.zeros((rows.stop - rows.start, n_node))
    place = np.rint((LSF_NODES[arm] - GRIDS[arm][0]) / STEP).astype(np.int64)
    weights = resolution[rows][:, :, place].astype(np.float64)  # (n_row, n_diagonal, n_node)
    weights = np.where(np.isfinite(weights), weights, 0)
    offset = np.arange(weights.shape[1])[np.newaxis, :, np.newaxis] - weights.shape[1] // 2
    total = weights.sum(axis=1)
    good = total > 0.1  # a fiber without light has no matrix
    total = np.where(good, total, 1)
    mean = (weights * offset).sum(axis=1) / total
    variance = (weights * offset**2).sum(axis=1) / total - mean**2
    return np.where(good, np.sqrt(np.maximum(variance, 0)) * STEP, 0)


def _scalars(hdus: Sequence[HDU], table: Table, rows: slice, name: str) -> dict[str, Any]:
    targets = table["targetid"]
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise SurveyFileError(f"TARGETID is {targets.dtype}{targets.shape}", "bad_layout")
    targetid = ids(table, rows, "targetid")  # -1: a fiber on no target
    gaia = ids(table, rows, "ref_id")
    dr3 = np.array([text.upper() == "G3" for text in texts(table, rows, "ref_cat")])
    z, z_err = _redshifts(hdus, rows, len(targets))
    with np.errstate(invalid="ignore"):
        known = np.abs(z) <= FASTEST_Z
        measured = known & (z_err > 0) & (z_err < FASTEST_Z)
    return {
        "obsid": filled_ids(targetid, "desi", name, rows.start),
        "source_id": np.where(dr3, gaia, -1),
        **places(
            numbers(table, rows, "target_ra", "mean_fiber_ra"),
            numbers(table, rows, "target_dec", "mean_fiber_dec"),
        ),
        "mjd": _mjd(hdus, table, rows),
        "rv": np.where(known, C_KMS * z, math.nan),
        "rv_err": np.where(measured, C_KMS * z_err, math.nan),
    }


def _redshifts(hdus: Sequence[HDU], rows: slice, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return z and its error where a table REDSHIFTS came in the same file, else NaN."""
    by_name = {hdu.name.upper(): hdu.data for hdu in hdus}
    found = by_name.get("REDSHIFTS")
    table = {k.lower(): v for k, v in found.items()} if isinstance(found, dict) else {}
    if length(table) != n:
        table = {}
    return numbers(table, rows, "z"), numbers(table, rows, "zerr", "z_err")


def _mjd(hdus: Sequence[HDU], table: Table, rows: slice) -> npt.NDArray[np.float64]:
    """Return a target's mean time, from FIBERMAP or from its exposures."""
    mjd = numbers(table, rows, "mean_mjd", "mjd")
    exposures = {hdu.name.upper(): hdu.data for hdu in hdus}.get("EXP_FIBERMAP")
    if not np.isnan(mjd).all() or not isinstance(exposures, dict):
        return mjd
    columns = {name.lower(): column for name, column in exposures.items()}
    every = slice(0, length(columns))
    targets, times = ids(columns, every, "targetid"), numbers(columns, every, "mjd")
    for i, target in enumerate(ids(table, rows, "targetid")):
        mine = times[(targets == target) & np.isfinite(times)] if target > 0 else times[:0]
        mjd[i] = mine.mean() if len(mine) else math.nan
    return mjd


DESI = Survey(
    name="desi",
    pattern="**/coadd-*.fits*",
    arms=tuple(
        Arm(name, grid, len(grid), {"resolving_power": RESOLVING_POWER[name]}, LSF_NODES[name])
        for name, grid in GRIDS.items()
    ),
    attrs={
        "wavelength_medium": "vacuum",
        "frame": "observed, barycentric",
        "flux_unit": "1e-17 erg/s/cm2/Angstrom",
        "source_id_kind": "gaia_dr3",
    },
    read=read_desi,
    count_spectra=count_spectra,
)
