"""Find the continuum pixels of APOGEE stars with known labels, as windows for a run file.

    python deploy/runs/continuum_pixels.py "FOLDER/MOCK0*/*.gz" ALLSTAR

The first are apStar files, or a glob of them; the second is their table of labels. Printed are the
windows of ``[preprocess] continuum``, vacuum Å: pixels that tell least of the labels and lie at the
continuum.
"""

import argparse
import sys

import numpy as np
import numpy.typing as npt

from scalespec import read_survey
from scalespec.config import ContinuumTable, PreprocessTable
from scalespec.kernels.continuum_fit import find_continuum_pixels
from scalespec.stages.normalizers import chip_pixels
from scalespec.stages.preprocess import preprocess_block
from scalespec.store.tables import read_table

CHIPS = ((15150.0, 15833.0), (15833.0, 16453.0), (16453.0, 16950.0))
DEGREE = 5
"""Of the polynomials, chip by chip."""
FEWEST = 2
"""Pixels of a window: a single one is chance."""
LABELS = ("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE")
RAW = PreprocessTable(
    steps=("mask", "rest", "cut"),
    continuum=ContinuumTable(method="none"),
    wavelength_min_angstrom=15150.0,
    wavelength_max_angstrom=16950.0,
    bad_bits=("BAD_PIXEL", "BAD_TRACE", "NO_SKY", "NO_DATA", "COSMIC_RAY", "BRIGHT_SKY"),
)


def known_stars(url: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return labels of giants by APOGEE_ID, as the lab chose them."""
    table = read_table(url, ("APOGEE_ID", "SNR", *LABELS))
    labels = np.stack([np.asarray(table[name], np.float64) for name in LABELS], axis=1)
    good = (np.asarray(table["SNR"]) > 50) & (labels > -9000).all(axis=1)
    good &= (labels[:, 1] < 4) & (labels[:, 0] < 5700) & (labels[:, 2] > -1)
    names = [str(name) for name in table["APOGEE_ID"]]
    return {names[i]: labels[i] for i in np.flatnonzero(good)}


def windows(
    wavelength: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_]
) -> list[tuple[float, float]]:
    """Return runs of `FEWEST` chosen pixels or more, with half a pixel to either side.

    Examples
    --------
    >>> windows(np.array([1.0, 1.2, 1.4, 1.6]), np.array([False, True, True, False]))
    [(1.1, 1.5)]
    """
    half = np.gradient(wavelength) / 2
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [
        (round(float(wavelength[a] - half[a]), 2), round(float(wavelength[b - 1] + half[b - 1]), 2))
        for a, b in zip(edges[::2], edges[1::2], strict=True)
        if b - a >= FEWEST
    ]


def main() -> None:
    """Print the windows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files")
    parser.add_argument("allstar")
    asked = parser.parse_args()
    known = known_stars(asked.allstar)
    raw = read_survey(asked.files, survey="apogee")
    names = raw["designation"].to_numpy().tolist()
    rows = np.flatnonzero([name in known for name in names])
    spectra = preprocess_block(raw.isel(spectrum=rows), RAW)
    wavelength = spectra["wavelength"].to_numpy()
    chosen = find_continuum_pixels(
        spectra["flux"].to_numpy(),
        spectra["ivar"].to_numpy(),
        np.stack([known[names[row]] for row in rows]),
        wavelength,
        chips=chip_pixels(wavelength, CHIPS),
        degree=DEGREE,
    )
    found = [f"[{low:.2f}, {high:.2f}]" for low, high in windows(wavelength, chosen)]
    lines = [", ".join(found[i : i + 6]) for i in range(0, len(found), 6)]
    sys.stdout.write("pixels = [\n  " + ",\n  ".join(lines) + ",\n]\n")


if __name__ == "__main__":
    main()
