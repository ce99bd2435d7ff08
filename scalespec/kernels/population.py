"""Made-up stars of a simple Galaxy: labels, places, motions, magnitudes, company; from seeds alone.

A star is its index: any process can draw star 123 of seed 7 and gets the same one. Temperatures in
K, velocities in km/s, positions ICRS degrees at `EPOCH`, proper motions in mas/yr with cos(dec).
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from scalespec.kernels.draws import keys, uniform
from scalespec.kernels.families import Columns, FloatArray, IntArray, Recipe, draw_family
from scalespec.kernels.galaxy import FIELD_STARS
from scalespec.kernels.orbits import orbital_velocity
from scalespec.kernels.stellar import (
    BRIGHTEST,
    FAINT,
    OWN,
    draw_distance,
    draw_luck,
    draw_motion,
    draw_star,
)

EPOCH = 2016.0
"""Julian year of the positions."""
REPEAT = 0.1
"""Fraction of spectra that show an earlier star of their field again."""
TRIES = 48
_REPEAT, _SPREAD, _SPREAD_FAMILY = 9, 10, 11  # kinds of keys


def star_of(seed: int, spectra: IntArray) -> IntArray:
    """Say which star each spectrum shows: mostly the one of its own number, else an earlier one.

    Examples
    --------
    >>> bool(np.all(star_of(1, np.arange(50)) <= np.arange(50)))
    True
    """
    shown = np.array(spectra, np.int64)
    left = np.arange(len(shown))
    while left.size:  # that one may be a repeat, too
        again, which = uniform(keys(seed, _REPEAT, shown[left]), 2).T
        first = shown[left] - shown[left] % FIELD_STARS
        moves = (again < REPEAT) & (shown[left] > first)
        earlier = first + (which * (shown[left] - first)).astype(np.int64)
        shown[left[moves]] = earlier[moves]
        left = left[moves]
    return shown


def draw_stars(
    seed: int,
    stars: IntArray,
    labels: Sequence[str],
    minimum: FloatArray,
    maximum: FloatArray,
    *,
    recipe: Recipe | None = None,
) -> Columns:
    """Draw everything there is to know of some stars.

    A star that is not within `minimum` and `maximum`, or whose secondary is not, is drawn again:
    first with its population, phase and company as they are, then with others. If that never helps
    its labels are spread evenly over the box.

    Parameters
    ----------
    seed : int
    stars : (n,) int
        Their indices.
    labels : sequence of n_label str
        Which labels: ``teff``, ``logg``, ``fe_h``, ``vmic``, ``vmac``, ``vsini``,
        ``he_h``, ``<element>_fe``; or ``m_h`` and ``<element>_m``, as some emulators have them.
    minimum, maximum : (n_label,) float
        Of the labels.
    recipe : Recipe, optional
        Fractions of populations, binaries and so on.

    Returns
    -------
    dict of str to (n,) array
        The labels, of the brighter star of a binary; ``<label>_2`` of `stellar.OWN` labels, NaN
        for a star alone. population, phase (indices into `galaxy.POPULATIONS`,
        `stellar.PHASES`; -1: spread over the box), age [Gyr], mass [solar], cemp (0; 1: no
        barium; 2: s), cluster, pair (-1, or the cluster's and the partner's index). binary,
        mass_ratio (0 for a star alone), period [d], k_1, orbit_phase, area_2, flux_2. rv of the
        star or the system, ra, dec, pmra, pmdec, parallax [mas], distance [kpc], ebv, g, bp_rp,
        j, k; and catalog, uniform in (0, 1), which says who is in whose catalog.

    Examples
    --------
    >>> box = np.array([3800.0, 0.0, -2.5]), np.array([7500.0, 5.0, 0.5])
    >>> some = draw_stars(1, np.array([5, 6]), ("teff", "logg", "fe_h"), *box)
    >>> alone = draw_stars(1, np.array([6]), ("teff", "logg", "fe_h"), *box)
    >>> bool(some["logg"][1] == alone["logg"][0])
    True
    """
    stars, recipe = np.asarray(stars, np.int64), recipe or Recipe()
    names = [_by_iron(name) for name in labels]
    box = dict(zip(names, zip(minimum, maximum, strict=True), strict=True))
    elements = [name.removesuffix("_fe") for name in names if name.endswith("_fe")]

    def family_of(rows: IntArray, attempt: int) -> Columns:
        """Draw the families of some rows."""
        return draw_family(seed, stars[rows], attempt, elements, recipe)

    def born_inside(family: Columns) -> npt.NDArray[np.bool_]:
        """Say which have labels within the box."""
        return _inside(family, [name for name in names if name in family], box)

    family, lost = _drawn(family_of, born_inside, len(stars))
    _spread(family, lost, keys(seed, _SPREAD_FAMILY, family["family"]), box)
    star_at = partial(_try_star, seed, stars, family, recipe)
    fits = partial(_star_inside, box=box)
    star, lost = _drawn(star_at, fits, len(stars))
    if lost.size:
        _spread(star, lost, keys(seed, _SPREAD, stars), box)
        _make_single(star, lost)
        part = {name: values[lost] for name, values in star.items()}
        home = {name: values[lost] for name, values in family.items()}
        for name, values in draw_distance(part, home, part["distance_word"]).items():
            star[name][lost] = values
    words = {name.removesuffix("_word"): v for name, v in star.items() if name.endswith("_word")}
    motion = draw_motion(star["distance"], family, words, star["age"])
    hidden = {"alpha", "sin_b", "dust", "distance_u", "motion", "shared", "family"}
    drawn = {k: v for k, v in family.items() if k not in hidden}
    drawn |= {k: v for k, v in star.items() if not k.endswith("_word")} | motion
    return drawn | {label: drawn[name] for label, name in zip(labels, names, strict=True)}


def _try_star(
    seed: int, stars: IntArray, family: Columns, recipe: Recipe, rows: IntArray, attempt: int
) -> Columns:
    """Draw stars of given families, with their distances."""
    luck = draw_luck(seed, stars[rows], attempt)
    home = {name: values[rows] for name, values in family.items()}
    star = draw_star(luck, home, recipe)
    star |= draw_distance(star, home, luck.words["distance"])
    kept = ("distance", "away", "turn", "move_0", "move_1", "move_2")
    return star | {"catalog": luck.catalog} | {f"{name}_word": luck.words[name] for name in kept}


def _star_inside(star: Columns, box: dict[str, tuple[float, float]]) -> npt.NDArray[np.bool_]:
    own = [name for name in OWN if name in box and name in star]
    second = _inside({name: star[f"{name}_2"] for name in own}, own, box)
    seen = (star["g"] > BRIGHTEST) & (star["g"] < FAINT + 0.01)
    return np.asarray(seen & _inside(star, own, box) & (second | ~star["binary"]))


def _inside(
    values: Columns, names: Sequence[str], box: dict[str, tuple[float, float]]
) -> npt.NDArray[np.bool_]:
    inside = np.ones(len(next(iter(values.values()))), bool) if values else np.ones(1, bool)
    for name in names:
        low, high = box[name]
        inside &= (values[name] >= low) & (values[name] <= high)
    return inside


def _drawn(
    draw: Callable[[IntArray, int], Columns],
    accept: Callable[[Columns], npt.NDArray[np.bool_]],
    n: int,
) -> tuple[Columns, IntArray]:
    """Draw `n` rows, those not accepted again; return them, and which never were."""
    values = draw(np.arange(n), 0)
    left = np.flatnonzero(~accept(values))
    for attempt in range(1, TRIES):
        if not left.size:
            break
        again = draw(left, attempt)
        good = accept(again)
        for name, new in again.items():
            values[name][left[good]] = new[good]
        left = left[~good]
    return values, left


def _spread(
    values: Columns,
    rows: IntArray,
    key: npt.NDArray[np.uint64],
    box: dict[str, tuple[float, float]],
) -> None:
    """Spread what labels there are evenly over the box, in place."""
    if not rows.size:
        return
    even = uniform(key[rows], len(box))
    for column, (name, (low, high)) in enumerate(box.items()):
        if name in values:
            values[name][rows] = low + even[:, column] * (high - low)


def _make_single(star: Columns, rows: IntArray) -> None:
    """Leave stars of no known phase without a companion, in place."""
    for name in star:
        if name.endswith("_2"):
            star[name][rows] = np.nan
    for name in ("mass_ratio", "period", "k_1", "orbit_phase", "area_2", "binary"):
        star[name][rows] = 0
    star["phase"][rows], star["mass"][rows] = -1, 1.0


def velocities_at(stars: Columns, mjd: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the radial velocities of the primary and of the secondary at an epoch.

    Parameters
    ----------
    stars : dict of str to (n,) array
        As of `draw_stars`: rv, k_1, period, orbit_phase, mass_ratio, binary.
    mjd : (n,) float [d]

    Returns
    -------
    rv, rv_2 : (n,) float64 [km/s]
        The second is NaN where no secondary is seen.

    Examples
    --------
    >>> pair = {"rv": 50.0, "k_1": 10.0, "period": 4.0, "orbit_phase": 0.0, "mass_ratio": 0.5}
    >>> columns = {k: np.array([v]) for k, v in pair.items()} | {"binary": np.array([True])}
    >>> velocities_at(columns, np.array([1.0]))
    (array([60.]), array([30.]))
    """
    moves = orbital_velocity(stars["k_1"], stars["period"], stars["orbit_phase"], mjd)
    ratio = np.where(stars["binary"], stars["mass_ratio"], np.nan)
    return np.asarray(stars["rv"] + moves), np.asarray(stars["rv"] - moves / ratio)


def _by_iron(name: str) -> str:
    """Return the label that stands for one relative to all metals: of our stars, iron is the rest.

    Examples
    --------
    >>> [_by_iron(name) for name in ("m_h", "mg_m", "teff")]
    ['fe_h', 'mg_fe', 'teff']
    """
    return "fe_h" if name == "m_h" else f"{name[:-2]}_fe" if name.endswith("_m") else name


LIBRARY_RANGES = {
    "teff": (3900.0, 7000.0),
    "fe_h": (-2.5, 0.5),
    "c_fe": (-0.7, 0.6),
    "n_fe": (-0.5, 0.8),
    "vmic": (0.5, 3.0),
}
"""A little beyond what `draw_stars` gives; an ``[X/Fe]`` not named spans -0.4 to 0.6."""


def draw_library(
    rng: np.random.Generator,
    n: int,
    labels: Sequence[str],
    minimum: FloatArray,
    maximum: FloatArray,
) -> FloatArray:
    """Draw labels evenly over all that stars of the survey may have, to train an emulator on.

    Parameters
    ----------
    rng : Generator
    n : int
        How many.
    labels : sequence of n_label str
    minimum, maximum : (n_label,) float
        Of the model that will make the spectra.

    Returns
    -------
    (n, n_label) float64
        Even in every label but ``logg``, which leaves out hot stars of very low gravity.

    Examples
    --------
    >>> limits = np.array([4000.0, 0.0, -4.0]), np.array([6500.0, 5.0, 0.5])
    >>> rng, labels = np.random.default_rng(1), ("teff", "logg", "fe_h")
    >>> drawn = draw_library(rng, 1000, labels, *limits)
    >>> drawn[:, 2].min().round(1), drawn[:, 2].max().round(1)
    (np.float64(-2.5), np.float64(0.5))
    >>> bool(drawn[drawn[:, 0] > 6000, 1].min() > 1.6)
    True
    """
    ranges = np.array([LIBRARY_RANGES.get(_by_iron(name), (-0.4, 0.6)) for name in labels])
    names = list(labels)
    if "logg" in names:
        ranges[names.index("logg")] = 0.2, 5.0
    low, high = np.maximum(ranges[:, 0], minimum), np.minimum(ranges[:, 1], maximum)
    even = rng.random((n, len(names)))
    drawn = low + even * (high - low)
    if {"teff", "logg"} <= set(names):
        column = names.index("logg")
        floor = np.clip(
            (drawn[:, names.index("teff")] - 5000.0) * 0.0016, low[column], high[column]
        )
        drawn[:, column] = floor + even[:, column] * (high[column] - floor)
    return np.asarray(drawn)
