"""What others published of a made-up survey's stars, which pairs are known, and broken files.

Positions are ICRS degrees, proper motions mas/yr, velocities km/s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scalespec.kernels.families import Recipe, paired
from scalespec.kernels.population import EPOCH, draw_stars, star_of
from scalespec.kernels.sky import propagate
from scalespec.models.base import EmulatorSpec
from scalespec.stages.mock_stars import Columns, source_ids
from scalespec.surveys.lamost_files import designation

FloatArray = npt.NDArray[np.float64]

BROKEN = ("truncated", "empty", "html", "bit_flip", "no_ivar")
"""Ways in which a file is broken."""
SIZES = {
    "teff": (40.0, 90.0), "logg": (0.05, 0.12), "fe_h": (0.02, 0.08), "m_h": (0.02, 0.08),
    "vmic": (0.1, 0.3), "vmac": (0.5, 1.5), "vsini": (1.0, 3.0),
}  # fmt: skip
"""Least and greatest error of each label in a catalog; 0.03 to 0.1 dex for an [X/Fe]."""
OUTLIER_SIGMA = 10.0
"""Scatter of outliers, in stated errors."""
MOTION_ERR = 0.05
"""Of a catalog's proper motions [mas/yr]."""
_CATALOG = 5  # last word of a seed; `mock_stars` has 3, `library` 4


@dataclass(frozen=True)
class Catalog:
    """A label catalog as another survey would publish it.

    Attributes
    ----------
    name : str
        Of the file.
    stars : tuple of 2 float
        Which stars are in it: those whose ``catalog`` number is in this range.
    epoch : float
        Julian year of its positions.
    offsets : mapping of str to float
        Added to the true labels: what its scale is off by.
    errors : float
        Its errors, over `SIZES`.
    outliers, sentinels, missing, twice, unknown : float
        Fractions: of labels that are far off, of labels that are -9999.99 and NaN, of stars that
        have two rows, of stars whose ``source_id`` is not given.
    centroid_arcsec : float
        Error of a position, each axis.
    """

    name: str
    stars: tuple[float, float]
    epoch: float
    offsets: Mapping[str, float] = field(default_factory=dict)
    errors: float = 1.0
    outliers: float = 0.01
    sentinels: float = 0.02
    missing: float = 0.03
    twice: float = 0.02
    unknown: float = 0.1
    centroid_arcsec: float = 0.015

    def descriptions(self, labels: Sequence[str]) -> dict[str, str]:
        """Say of each label's column what its numbers are."""
        return {
            name: f"truth {self.offsets.get(name, 0.0):+g}, with a scatter of {name}_err; "
            f"{self.outliers:.1%} of them are {OUTLIER_SIGMA:g} times as far off"
            for name in labels
        }


CATALOGS = (
    Catalog("labels", (0.0, 1 / 3), 2000.0),
    Catalog(
        "reference",
        (0.25, 0.45),
        EPOCH,
        offsets={"teff": 60.0, "logg": 0.08, "fe_h": -0.06, "m_h": -0.06, "mg_fe": 0.05},
        errors=0.6,
        outliers=0.005,
    ),
)
"""The one to learn from, and one on another scale, for calibration; some stars are in both."""


def label_catalog(
    catalog: Catalog, stars: Columns, labels: Sequence[str], rng: np.random.Generator
) -> Columns:
    """Return what a survey published of stars, which are rows of `observed_stars`."""
    n_star = len(stars["star"])
    again = np.flatnonzero(rng.random(n_star) < catalog.twice)
    row = np.concatenate([np.arange(n_star), again])
    n = len(row)
    here, moving = (
        (stars[a][row], stars[d][row]) for a, d in (("ra_2016", "dec_2016"), ("pmra", "pmdec"))
    )
    ra, dec = propagate(*here, *moving, EPOCH, catalog.epoch)
    sigma = catalog.centroid_arcsec / 3600
    dec = dec + rng.normal(0.0, sigma, n)
    ra = (ra + rng.normal(0.0, sigma, n) / np.cos(np.radians(dec))) % 360.0
    names = [designation(*place) for place in zip(ra.tolist(), dec.tolist(), strict=True)]
    known = rng.random(n_star)[row] >= catalog.unknown
    table: Columns = {
        "apogee_id": np.array(["2M" + name[8:].replace(".", "") for name in names], np.str_),
        "source_id": np.where(known, stars["source_id"][row], -1),
        "ra": ra,
        "dec": dec,
        "epoch": np.full(n, catalog.epoch),
        **{m: stars[m][row] + rng.normal(0.0, MOTION_ERR, n) for m in ("pmra", "pmdec")},
    }
    for label in labels:
        table |= measured(catalog, label, stars[label][row], rng)
    return table


def measured(catalog: Catalog, label: str, true: FloatArray, rng: np.random.Generator) -> Columns:
    """Return one label with its errors as a catalog has it: columns `label` and ``<label>_err``."""
    low, high = SIZES.get(label, (0.03, 0.10))
    error = catalog.errors * rng.uniform(low, high, len(true))
    wild = np.where(rng.random(len(true)) < catalog.outliers, OUTLIER_SIGMA, 1.0)
    value = true + catalog.offsets.get(label, 0.0) + wild * error * rng.normal(size=len(true))
    luck = rng.random(len(true)) + (label == "teff")  # temperature is always known
    missing = luck < catalog.missing + catalog.sentinels
    for where, sentinel in ((missing, -9999.99), (luck < catalog.missing, np.nan)):
        value, error = (np.where(where, sentinel, x) for x in (value, error))
    return {label: value.astype(np.float32), f"{label}_err": error.astype(np.float32)}


def catalog_rng(seed: int, block: int, catalog: Catalog) -> np.random.Generator:
    """Return the generator of a catalog's errors in one block."""
    return np.random.default_rng([seed, block, _CATALOG, CATALOGS.index(catalog)])


def pair_list(
    seed: int,
    numbers: npt.NDArray[np.int64],
    n_spectra: int,
    spec: EmulatorSpec,
    recipe: Recipe,
) -> Columns:
    """Return wide pairs whose first star's own spectrum is one of `numbers`, both observed.

    Parameters
    ----------
    seed : int
    numbers : (n,) int
        Of spectra.
    n_spectra : int
        Of the survey.
    spec : EmulatorSpec
        Of the model that makes the spectra, as of `observed_stars`.
    recipe : Recipe

    Returns
    -------
    dict of str to (n_pair,) array
        star, source_id, ra, dec [deg] at `EPOCH`, pmra, pmdec [mas/yr], parallax [mas], g, each
        with _1 and _2.
    """
    first = numbers[(numbers % 2 == 0) & (numbers + 1 < n_spectra)]
    first = first[paired(seed, first, recipe)]
    both = (star_of(seed, first) == first) & (star_of(seed, first + 1) == first + 1)
    first = first[both]
    table: Columns = {}
    for which, stars in (("1", first), ("2", first + 1)):
        true = draw_stars(seed, stars, spec.labels, spec.minimum, spec.maximum, recipe=recipe)
        seen = {name: true[name] for name in ("ra", "dec", "pmra", "pmdec", "parallax", "g")}
        columns = {"star": stars, "source_id": source_ids(stars)} | seen
        table |= {f"{name}_{which}": values for name, values in columns.items()}
    return table


def break_file(data: bytes, broken: str, rng: np.random.Generator) -> bytes:
    """Return a file broken the way `broken` says; "no_ivar" is a matter of what is in it."""
    if broken == "truncated":
        return data[: int(len(data) * rng.uniform(0.1, 0.9))]
    if broken == "empty":
        return b""
    if broken == "html":
        return b"<!DOCTYPE html><html><body><h1>503 Service Unavailable</h1></body></html>\n"
    if broken == "bit_flip":
        spoiled = bytearray(data)
        first = min(1000, (len(data) - 1) // 2)
        spoiled[rng.integers(first, len(data) - first)] ^= 1 << int(rng.integers(8))
        return bytes(spoiled)
    return data
