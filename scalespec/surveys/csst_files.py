"""CSST slitless spectra, written: one table of sources per field, three bands of pixels.

The mission's format is not public: this is the layout that `surveys.csst` documents and reads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.surveys.fits_files import primary, table

UNIT = "1e-17 erg/s/cm2/Angstrom"
BAD_PIXEL, COSMIC_RAY, CONTAMINATED, NO_DATA = 1, 2, 4, 8
"""Values of the `_MASK` columns."""
FACTS = {
    "OBSID": ("obsid", np.int64, ""),
    "SOURCE_ID": ("source_id", np.int64, ""),
    "RA": ("ra", np.float64, "deg"),
    "DEC": ("dec", np.float64, "deg"),
    "MJD": ("mjd", np.float64, "d"),
    "Z": ("z", np.float32, ""),
    "Z_ERR": ("z_err", np.float32, ""),
    "MAG_G": ("g", np.float32, "mag"),
}
"""Columns that say what a source is: ours, dtype, unit."""


def write_csst(
    facts: Mapping[str, npt.NDArray[Any]],
    bands: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]],
    wavelength: Mapping[str, npt.NDArray[np.float64]],
) -> bytes:
    """Return the file of a field.

    Parameters
    ----------
    facts : mapping of str to (n,) array
        As in `FACTS`; z of -9999 where unknown.
    bands : mapping of "GU", "GV", "GI" to (flux, ivar, mask), each (n, n_pixel)
        float32, float32, int32.
    wavelength : mapping of the same to (n_pixel,) float64 [Å, vacuum]

    Raises
    ------
    ValueError
        If columns differ in length.

    Examples
    --------
    The reader finds what was written; a value of the mask has become a bit of the schema:

    >>> from scalespec.schema import MaskBit
    >>> from scalespec.surveys.csst import grid, read_csst
    >>> facts = {key: np.array([7]) for key, _, _ in FACTS.values()}
    >>> flux = np.full((1, 190), 3, np.float32)
    >>> bands = {"GU": (flux, 4 * flux, np.full((1, 190), COSMIC_RAY, np.int32))}
    >>> made = read_csst(write_csst(facts, bands, {"GU": grid("gu")}), "field.fits")
    >>> pixels = made.arms["gu"]
    >>> pixels.flux[0, :2], pixels.ivar[0, :2], MaskBit(int(pixels.mask[0, 0])).name
    (array([3., 3.], dtype=float32), array([12., 12.], dtype=float32), 'COSMIC_RAY')
    """
    columns = {name: np.asarray(facts[key], kind) for name, (key, kind, _) in FACTS.items()}
    units = {name: unit for name, (_, _, unit) in FACTS.items() if unit}
    for band, parts in bands.items():
        for end, part in zip(("FLUX", "IVAR", "MASK"), parts, strict=True):
            columns[f"{band}_{end}"] = part
        units |= {f"{band}_FLUX": UNIT, f"{band}_IVAR": f"({UNIT})-2"}
    data = primary([("TELESCOP", "CSST", ""), ("INSTRUME", "MOCK", "Not an observation")])
    data += table(columns, [("EXTNAME", "SPECTRA", "")], units=units)
    for band, grid in wavelength.items():
        name = ("EXTNAME", f"{band}_WAVELENGTH", "vacuum")
        data += table({"WAVELENGTH": grid}, [name], units={"WAVELENGTH": "Angstrom"})
    return data
