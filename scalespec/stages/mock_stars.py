"""Which stars a made-up survey's spectra show, when, and what is true of them at that time.

Positions ICRS degrees, times MJD, velocities km/s.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.families import Recipe
from scalespec.kernels.galaxy import POPULATIONS
from scalespec.kernels.population import EPOCH, draw_stars, star_of, velocities_at
from scalespec.kernels.sky import propagate
from scalespec.kernels.stellar import OWN, PHASES
from scalespec.models.base import EmulatorSpec

Columns = dict[str, npt.NDArray[Any]]

PLATE_SPECTRA = 500
"""Spectra of a plate: two spectrographs of 250 fibres; two plates see each field."""
_PLATE = 3  # last word of a seed; `mock_records` has 5, `library` 4

UNITS = {
    "ra": "deg", "dec": "deg", "mjd": "d", "rv": "km/s", "rv_2": "km/s", "rv_system": "km/s",
    "k_1": "km/s", "vmic": "km/s", "vmac": "km/s", "vsini": "km/s", "teff": "K", "pmra": "mas/yr",
    "pmdec": "mas/yr", "parallax": "mas", "distance": "kpc", "epoch": "yr", "period": "d",
    "age": "Gyr", "mass": "solMass", "g": "mag", "bp_rp": "mag", "j": "mag", "k": "mag",
    "ebv": "mag",
}  # fmt: skip
DESCRIPTIONS = {
    "star": "index of the star: number of the first spectrum that shows it",
    "rv": "of the star (of a binary: the brighter one) at the epoch, barycentric",
    "rv_2": "of the secondary at the epoch",
    "rv_system": "of the star or the binary's center of mass",
    "binary": "the light of two stars is in the spectrum",
    "mass_ratio": "of the companion, seen or not; 0: none",
    "flux_2": "the secondary's share of G",
    "area_2": "disk of the secondary over the primary's",
    "cemp": "0: no; 1: CEMP-no; 2: CEMP-s, as born",
    "cluster": "number of the cluster it is in; -1: none",
    "pair": "index of the other star of its wide pair; -1: none",
    "broken": "how the file is broken; empty: it is not",
}


def units_of(columns: Columns) -> dict[str, str]:
    """Return the unit of each column that has one; errors and secondaries have their label's."""
    bases = {name: name.removesuffix("_err") for name in columns}
    bases = {
        name: base if base in UNITS else base.removesuffix("_1").removesuffix("_2")
        for name, base in bases.items()
    }
    return {name: UNITS[base] for name, base in bases.items() if base in UNITS}


def source_ids(stars: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return an id like Gaia's for each star: 62 bits, all different.

    Examples
    --------
    >>> source_ids(np.array([0, 1]))
    array([2862933555777941757, 1114181093128495610])
    """
    mixed = (stars.astype(np.uint64) + np.uint64(1)) * np.uint64(2862933555777941757)
    return (mixed % np.uint64(2**62)).astype(np.int64)  # an odd factor modulo 2**62 is one to one


def observed_stars(
    seed: int, numbers: npt.NDArray[np.int64], spec: EmulatorSpec, recipe: Recipe
) -> Columns:
    """Return what is true of the stars that some spectra show, at the time they were taken.

    Parameters
    ----------
    seed : int
    numbers : (n,) int
        Of the spectra in the survey.
    spec : EmulatorSpec
        Of the model that makes the spectra: which labels, and their ranges.
    recipe : Recipe

    Returns
    -------
    dict of str to (n,) array
        All of `draw_stars`, but labels that the model does not have; rv and rv_2 [km/s] at the
        epoch, rv_system; ra and dec [deg] at the epoch, ra_2016 and dec_2016; mjd, plate,
        spectrum, star, source_id.
    """
    shown = star_of(seed, numbers)
    stars = draw_stars(seed, shown, spec.labels, spec.minimum, spec.maximum, recipe=recipe)
    unseen = set(OWN) - {"teff", "logg", *spec.labels}
    stars = {k: v for k, v in stars.items() if k.removesuffix("_2") not in unseen}
    plate = numbers // PLATE_SPECTRA
    nights = {p: plate_night(seed, p) for p in np.unique(plate).tolist()}
    mjd = np.array([nights[p] for p in plate.tolist()])
    year = 2000.0 + (mjd - 51544.5) / 365.25
    ra, dec = propagate(stars["ra"], stars["dec"], stars["pmra"], stars["pmdec"], EPOCH, year)
    rv, rv_2 = velocities_at(stars, mjd)
    return stars | {
        "spectrum": numbers,
        "star": shown,
        "source_id": source_ids(shown),
        "plate": plate,
        "mjd": mjd,
        "ra_2016": stars["ra"],
        "dec_2016": stars["dec"],
        "ra": ra,
        "dec": dec,
        "rv_system": stars["rv"],
        "rv": rv,
        "rv_2": rv_2,
    }


def plate_night(seed: int, plate: int) -> float:
    """Return when a plate was observed [MJD]: in 2015 to 2019, at night in China."""
    day, hour = np.random.default_rng([seed, plate, _PLATE]).random(2)
    return float(57023 + int(1826 * day) + round((0.46 + 0.42 * hour) * 86400) / 86400)


def told(stars: Columns) -> Columns:
    """Return the columns of stars for a table: populations and phases by name."""
    names = np.array(POPULATIONS)[stars["population"]]
    phases = np.array([*PHASES, "spread over the model's range"])[stars["phase"]]
    return stars | {"population": names, "phase": phases}
