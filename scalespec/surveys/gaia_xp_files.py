"""Gaia XP spectra, written: one table of sampled mean spectra, in the columns of a matched library.

Wavelengths are 336 to 1020 nm in steps of 2 nm and are not in the file; flux is over `medflux`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.surveys.fits_files import primary, table

WATT = 1e-19
"""W/m²/nm in 1e-17 erg/s/cm²/Å: the unit of `medflux`, over ours."""
MISSING = ("j", "h", "k", "ak_targ", "snr")
"""Columns of other surveys, which a made-up one has nothing to say of: NaN."""
LABELS = ("teff", "logg", "alpha_m", "fe_h")
"""Label columns of the library, each with its `_err`: NaN too, for truth lies elsewhere."""


def write_xp(
    facts: Mapping[str, npt.NDArray[Any]],
    flux: npt.NDArray[np.float32],
    ivar: npt.NDArray[np.float32],
) -> bytes:
    """Return a file of sampled mean spectra.

    Parameters
    ----------
    facts : mapping of str to (n,) array
        source_id, g, bp_rp [mag], ra, dec [deg], and name (bytes): what the star is called.
    flux, ivar : (n, 343) float32
        1e-17 erg/s/cm²/Å, and its inverse variance; 0 becomes an infinite error.

    Raises
    ------
    ValueError
        If `facts` and spectra differ in length.

    Examples
    --------
    The reader finds flux over its median, 3, and ivar times that squared:

    >>> from scalespec.surveys.gaia_xp import read_xp
    >>> facts = {name: np.array([10.0]) for name in ("g", "bp_rp", "ra", "dec")}
    >>> facts |= {"source_id": np.array([5853498713190525696]), "name": np.array([b"Proxima"])}
    >>> flux = np.full((1, 343), 3, np.float32)
    >>> made = read_xp(write_xp(facts, flux, 4 * flux**0), "xp.fits")
    >>> pixels = made.arms[""]
    >>> made.scalars["source_id"], pixels.flux[0, :2], pixels.ivar[0, :2].round(3)
    (array([5853498713190525696]), array([1., 1.], dtype=float32),
     array([36., 36.], dtype=float32))
    """
    n = len(flux)
    middle = np.median(flux, axis=1)
    level = np.where(middle > 0, middle, 1.0).astype(np.float32)
    error = np.divide(1, np.sqrt(ivar), out=np.full_like(ivar, np.inf), where=ivar > 0)
    nothing = np.full(n, np.nan, np.float32)
    g, bp_rp = (np.asarray(facts[name], np.float32) for name in ("g", "bp_rp"))
    columns: dict[str, npt.NDArray[Any]] = {
        "apogee_id": np.asarray(facts["name"], "S30"),
        **dict.fromkeys(MISSING, nothing),
        "gaiaedr3_source_id": np.asarray(facts["source_id"], np.int64),
        "gaiaedr3_phot_g_mean_mag": g,
        # the bands' mean magnitudes scatter about G by about this part of the color
        "gaiaedr3_phot_bp_mean_mag": g + np.float32(0.4) * bp_rp,
        "gaiaedr3_phot_rp_mean_mag": g - np.float32(0.6) * bp_rp,
        **{name + end: nothing for name in LABELS for end in ("", "_err")},
        "flux": flux / level[:, None],
        "flux_error": error / level[:, None],
        "medflux": np.float32(WATT) * level,
        "ra": np.asarray(facts["ra"], np.float64),
        "dec": np.asarray(facts["dec"], np.float64),
    }
    return primary([]) + table(columns, [], dims=True)
