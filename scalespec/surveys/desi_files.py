"""DESI coadd files, written: many targets per file, three arms, resolution data, FIBERMAP.

HDU names, columns and dtypes as desispec writes them; made-up targets leave out most of FIBERMAP's
some ninety columns.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.surveys.fits_files import Card, image, primary, table

UNIT = "10**-17 erg/(s cm2 Angstrom)"
SOME_BAD, COSMIC_RAY, BRIGHT_SKY, NO_DATA = 1, 8, 32, 256
"""Values of the masks: SOMEBADPIX, COSMIC, BRIGHTSKY and NODATA of desispec's specmask."""
DIAGONALS = 11
"""Bands of the resolution matrix: pixels that a pixel's light comes from."""
_HDU_OF = {"flux": "FLUX", "ivar": "IVAR", "mask": "MASK", "resolution": "RESOLUTION"}


def resolution_data(sigma: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Return Gaussian resolution matrices as DESI stores them, by diagonals.

    Parameters
    ----------
    sigma : (n, n_pixel) float [pixel]

    Returns
    -------
    (n, 11, n_pixel) float32
        Element [i, k, j] is the weight of true pixel j in the extracted pixel j + k - 5, as
        desispec keeps its diagonals from the highest to the lowest; over k it adds to 1.

    Examples
    --------
    >>> resolution_data(np.full((1, 3), 1.0))[0, 4:7, 1].round(3)
    array([0.242, 0.399, 0.242], dtype=float32)
    """
    offset = np.arange(DIAGONALS)[:, None] - DIAGONALS // 2
    bands = np.exp(-0.5 * (offset / np.asarray(sigma, np.float64)[:, None, :]) ** 2)
    return np.asarray(bands / bands.sum(1, keepdims=True), np.float32)


def write_coadd(
    facts: Mapping[str, npt.NDArray[Any]],
    arms: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    *,
    healpix: int,
    survey: str,
) -> bytes:
    """Return the coadd file of a healpix cell.

    Parameters
    ----------
    facts : mapping of str to (n,) array
        targetid, ra, dec [deg], mjd [d], g [mag], source_id, fiber, tileid, night, z, z_err.
    arms : mapping of "B", "R", "Z" to mapping
        wavelength (n_pixel,) float64; flux, ivar (n, n_pixel) float32; mask (n, n_pixel) int32;
        sigma (n, n_pixel) float32: of the line spread function, in pixels.
    healpix : int
        Nested, nside 64.
    survey : str
        Goes into the header.

    Raises
    ------
    ValueError
        If `facts` or `arms` differ in their number of targets, or `survey` does not fit its card.

    Examples
    --------
    The reader finds what was written, and the line spread function again, 1 pixel of 0.8 Å:

    >>> from scalespec.surveys.desi import GRIDS, read_desi
    >>> names = ("targetid", "ra", "dec", "mjd", "g", "source_id", "fiber", "tileid", "night")
    >>> facts = {name: np.array([7]) for name in names}
    >>> facts |= {"z": np.array([1e-4]), "z_err": np.array([1e-5])}
    >>> flux, mask = np.full((1, 2751), 3, np.float32), np.zeros((1, 2751), np.int32)
    >>> blue = dict(wavelength=GRIDS["b"], flux=flux, ivar=flux, mask=mask, sigma=flux**0)
    >>> made = read_desi(write_coadd(facts, {"B": blue}, healpix=12, survey="main"), "coadd.fits")
    >>> made.scalars["obsid"], made.arms["b"].flux[0, :2], made.arms["b"].lsf_sigma[0, :2].round(3)
    (array([7]), array([3., 3.], dtype=float32), array([0.8, 0.8]))
    """
    cards: list[Card] = [
        ("SPGRP", "healpix", "Spectra grouping"),
        ("SPGRPVAL", healpix, ""),
        ("HPXNSIDE", 64, ""),
        ("HPXPIXEL", healpix, ""),
        ("HPXNEST", True, ""),
        ("SURVEY", survey, "Not an observation: made by scalespec mock"),
        ("PROGRAM", "bright", ""),
        ("INSTRUME", "DESI", ""),
        ("TELESCOP", "KPNO 4.0-m telescope", ""),
    ]
    data = primary(cards)
    data += table(_fibermap(facts), [("EXTNAME", "FIBERMAP", "")])
    data += table(_exposures(facts), [("EXTNAME", "EXP_FIBERMAP", "")])
    for arm, parts in arms.items():
        data += image(
            parts["wavelength"].astype(np.float64),
            [("EXTNAME", f"{arm}_WAVELENGTH", ""), ("BUNIT", "Angstrom", "")],
        )
        pixels = dict(parts) | {"resolution": resolution_data(parts["sigma"])}
        for key, name in _HDU_OF.items():
            unit: list[Card] = []
            if key in ("flux", "ivar"):
                unit = [
                    ("BUNIT", UNIT if key == "flux" else "10**+34 (s2 cm4 Angstrom2) / erg2", "")
                ]
            data += image(pixels[key], [("EXTNAME", f"{arm}_{name}", ""), *unit])
    data += table(_scores(facts, arms), [("EXTNAME", "SCORES", "")])
    known = {
        "TARGETID": np.asarray(facts["targetid"], np.int64),
        "Z": np.asarray(facts["z"], np.float64),
        "ZERR": np.asarray(facts["z_err"], np.float64),
        "ZWARN": np.where(facts["z"] > -9000, 0, 4).astype(np.int64),
        "SPECTYPE": np.full(len(facts["z"]), b"STAR", "S6"),
    }
    return data + table(known, [("EXTNAME", "REDSHIFTS", "")])


def _fibermap(facts: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    n = len(facts["targetid"])
    flux_g = 10 ** (-0.4 * (np.asarray(facts["g"], np.float64) - 22.5))  # nanomaggies
    return {
        "TARGETID": np.asarray(facts["targetid"], np.int64),
        "COADD_FIBERSTATUS": np.zeros(n, np.int32),
        "TARGET_RA": np.asarray(facts["ra"], np.float64),
        "TARGET_DEC": np.asarray(facts["dec"], np.float64),
        "OBJTYPE": np.full(n, b"TGT", "S3"),
        "FLUX_G": flux_g.astype(np.float32),
        "REF_ID": np.asarray(facts["source_id"], np.int64),
        "REF_CAT": np.full(n, b"G2", "S2"),
        "GAIA_PHOT_G_MEAN_MAG": np.asarray(facts["g"], np.float32),
        "COADD_NUMEXP": np.ones(n, np.int16),
        "COADD_EXPTIME": np.full(n, 500.0, np.float32),
        "MEAN_MJD": np.asarray(facts["mjd"], np.float64),
    }


def _exposures(facts: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {
        "TARGETID": np.asarray(facts["targetid"], np.int64),
        "PETAL_LOC": (np.asarray(facts["fiber"]) // 500).astype(np.int16),
        "FIBER": np.asarray(facts["fiber"], np.int32),
        "NIGHT": np.asarray(facts["night"], np.int32),
        "TILEID": np.asarray(facts["tileid"], np.int32),
        "EXPTIME": np.full(len(facts["fiber"]), 500.0, np.float64),
        "MJD": np.asarray(facts["mjd"], np.float64),
    }


def _scores(
    facts: Mapping[str, npt.NDArray[Any]], arms: Mapping[str, Mapping[str, npt.NDArray[Any]]]
) -> dict[str, npt.NDArray[Any]]:
    scores: dict[str, npt.NDArray[Any]] = {"TARGETID": np.asarray(facts["targetid"], np.int64)}
    for arm, parts in arms.items():
        pulls = parts["flux"] * np.sqrt(parts["ivar"])
        scores[f"MEDIAN_COADD_SNR_{arm}"] = np.median(pulls, axis=1).astype(np.float32)
        scores[f"MEDIAN_COADD_FLUX_{arm}"] = np.median(parts["flux"], axis=1).astype(np.float32)
    return scores
