"""One star or two: place on the Kiel diagram, rotation, companion, distance and brightness.

Temperatures K, ages Gyr, masses solar, velocities km/s, distances kpc, magnitudes Vega.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from scalespec.kernels import galaxy, kiel, orbits, photometry
from scalespec.kernels.abundances import mixing
from scalespec.kernels.draws import keys, uniform
from scalespec.kernels.families import Columns, FloatArray, IntArray, Recipe
from scalespec.kernels.galaxy import HALO, THIN, YOUNG

BRIGHT, FAINT = 9.0, 17.8
"""Range of G; where a population ends before a luminous star is so faint it may be brighter."""
BRIGHTEST = 7.0
"""But not brighter than this."""
PHASES = (
    "dwarf", "subgiant", "giant", "clump", "tip", "blue horizontal branch", "hot main sequence",
)  # fmt: skip
DWARF, SUBGIANT, GIANT, CLUMP, TIP, BLUE, HOT = range(7)
SHARES = (0.40, 0.12, 0.29, 0.17, 0.02)
"""Of the first five phases in all populations but the young one."""
FREE = 8
"""Tries that keep population, phase and company as drawn first, so that a model's box changes
their fractions only where it has no room for them."""
OWN = ("teff", "logg", "vmic", "vmac", "vsini", "he_h", "c_fe", "n_fe")
"""Labels that members of a family, and the two stars of a binary, do not share."""
_STAR, _CHOICE = 1, 8  # kinds of keys
_WORDS = (
    "place", "lived", "vmic", "vmac", "spin", "tilt", "mass_ratio", "period", "orbit_tilt",
    "orbit_phase", "distance", "away", "turn", "carbon", "nitrogen", "move_0", "move_1", "move_2",
    "helium",
)  # fmt: skip


@dataclass(frozen=True)
class Luck:
    """Uniform numbers of some stars: by name, one for each star."""

    phase: FloatArray
    company: FloatArray
    catalog: FloatArray
    words: Columns


def draw_luck(seed: int, stars: IntArray, attempt: int) -> Luck:
    """Draw the uniform numbers that some stars are made of."""
    first = uniform(keys(seed, _CHOICE, stars, attempt if attempt >= FREE else 0), 3).T
    words = uniform(keys(seed, _STAR, stars, attempt), len(_WORDS)).T
    return Luck(first[0], first[1], first[2], dict(zip(_WORDS, words, strict=True)))


def draw_star(luck: Luck, family: Columns, recipe: Recipe) -> Columns:
    """Draw phase, labels and companion of stars of some families.

    Parameters
    ----------
    luck : Luck
    family : dict of str to (n,) array
        As of `families.draw_family`: population, age, fe_h, alpha, ``c_fe`` and ``n_fe`` if wanted.
    recipe : Recipe

    Returns
    -------
    dict of str to (n,) array
        phase, age, mass, the labels `OWN` and, NaN for a star alone, ``<label>_2``; binary (bool),
        mass_ratio, period [d], k_1 [km/s], orbit_phase; area_2: the disk of the secondary over the
        primary's.

    Examples
    --------
    >>> home = {"population": THIN, "age": 5.0, "fe_h": 0.0, "alpha": 0.0}
    >>> family = {name: np.full(3, value) for name, value in home.items()}
    >>> some = draw_star(draw_luck(1, np.arange(3), 0), family, Recipe(binary=1.0, dark=0.0))
    >>> bool(np.all(some["binary"] & (some["mass_ratio"] <= 1) & (some["k_1"] > 0)))
    True
    """
    w, m_h = luck.words, kiel.metals(family["fe_h"], family["alpha"])
    phase = _phase(luck.phase, family["population"], recipe)
    teff, logg, mass, age = _on_kiel(phase, w, family["age"], m_h)
    star = {"phase": phase, "age": age, "mass": mass}
    star |= _own_labels(teff, logg, phase == BLUE, w, family)
    return star | _companion(star, luck, family, m_h, recipe)


def _phase(u: FloatArray, population: IntArray, recipe: Recipe) -> IntArray:
    blue = np.where(population >= HALO, recipe.blue, 0.0)
    rest = (u - blue) / np.maximum(1.0 - blue, 1e-9)
    phase = np.searchsorted(np.cumsum(SHARES[:-1]), rest, side="right")
    return np.where(population == YOUNG, HOT, np.where(u < blue, BLUE, phase))


def _on_kiel(
    phase: IntArray, w: Columns, age: FloatArray, m_h: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return Teff, log g, mass and age."""
    top, base, most = (f(age, m_h) for f in (kiel.turnoff_logg, kiel.base_logg, kiel.turnoff_mass))
    place = w["place"]
    mass = _least_mass(m_h) + (np.minimum(most, 1.65) - _least_mass(m_h)) * place**0.8
    teff, logg = kiel.dwarf(mass, age, m_h)
    up = np.select(
        [phase == SUBGIANT, phase == GIANT],
        [top - 0.03 - (top - 0.03 - base) * place, base - (base - 0.9) * place**1.4],
        0.9 - 0.8 * place,
    )
    evolved = (phase == SUBGIANT) | (phase == GIANT) | (phase == TIP)
    logg = np.where(evolved, up, logg)
    on_branch = kiel.evolved(up, age, m_h)
    teff, mass = (
        np.where(evolved, new, old) for new, old in zip(on_branch, (teff, mass), strict=True)
    )
    burning = (phase == CLUMP) | (phase == BLUE)
    on_branch = kiel.horizontal_branch(place, phase == BLUE, m_h)
    on_branch = on_branch[0], on_branch[1] + 0.05 * ndtri(w["lived"])
    teff, logg = (
        np.where(burning, new, old) for new, old in zip(on_branch, (teff, logg), strict=True)
    )
    mass = np.where(phase == BLUE, 0.58, np.where(phase == CLUMP, most, mass))
    heavy = 1.0 / (1.0 / 1.5 - place * (1.0 / 1.5 - 1.0 / 15.0))
    young = kiel.young_star(heavy, w["lived"], m_h)
    teff, logg = (
        np.where(phase == HOT, new, old) for new, old in zip(young, (teff, logg), strict=True)
    )
    life = w["lived"] * kiel.main_sequence_life(heavy)
    return teff, logg, np.where(phase == HOT, heavy, mass), np.where(phase == HOT, life, age)


def _least_mass(m_h: FloatArray) -> FloatArray:
    """Return the mass of a dwarf of about 4,000 K."""
    return np.clip(0.58 + 0.13 * m_h, kiel.COOLEST_FIT, 0.65)


def _own_labels(
    teff: FloatArray, logg: FloatArray, blue: npt.NDArray[np.bool_], w: Columns, family: Columns
) -> Columns:
    """Return what depends on where a star is on the Kiel diagram."""
    carbon, nitrogen = mixing(logg, teff)
    labels = {
        "teff": teff,
        "logg": logg,
        "vmic": np.clip(2.13 - 0.23 * logg + 0.1 * ndtri(w["vmic"]), 0.5, 3.0),
        "vmac": np.clip(3.5 + 0.003 * (teff - 5500.0) + ndtri(w["vmac"]), 0.5, 20.0),
        "vsini": _rotation(teff, logg, blue, w),
        # helium sinks in blue horizontal-branch stars beyond 11,500 K (Behr 2003)
        "he_h": 0.03 * ndtri(w["helium"]) - np.where(blue & (teff > 11500.0), 0.7, 0.0),
    }
    if "c_fe" in family:
        labels["c_fe"] = family["c_fe"] + carbon + 0.03 * ndtri(w["carbon"])
    if "n_fe" in family:
        labels["n_fe"] = family["n_fe"] + nitrogen + 0.03 * ndtri(w["nitrogen"])
    return labels


def _rotation(
    teff: FloatArray, logg: FloatArray, blue: npt.NDArray[np.bool_], w: Columns
) -> FloatArray:
    """Return v sin i [km/s]: slow below 6,250 K (Kraft 1967, ApJ 150, 551), fast above 7,500 K.

    Blue horizontal-branch stars turn at some 15 km/s below 11,500 K and hardly above (Behr 2003,
    ApJS 149, 67); A and B stars have a Rayleigh distribution of 130 km/s.
    """
    spread = ndtri(w["spin"])
    slow = 10.0 ** (0.35 + 0.2 * spread + 1.4 * np.clip((teff - 6250.0) / 1250.0, 0.0, 1.0))
    tilt = np.sqrt(1.0 - w["tilt"] ** 2)
    fast = 130.0 * np.sqrt(-2.0 * np.log(w["spin"])) * tilt
    on_branch = np.where(teff < 11500.0, 12.0, 2.0) * np.sqrt(-2.0 * np.log(w["spin"])) * tilt
    return np.maximum(
        np.where(blue, on_branch, np.where((teff > 7500.0) & (logg > 3.0), fast, slow)), 0.5
    )


def _companion(
    star: Columns, luck: Luck, family: Columns, m_h: FloatArray, recipe: Recipe
) -> Columns:
    """Return the companions' labels and orbits."""
    w, mass = luck.words, star["mass"]
    binary = luck.company < recipe.binary
    dark = ~binary & (luck.company < recipe.binary + recipe.dark)
    least = np.minimum(_least_mass(m_h), 0.98 * mass)
    heaviest = np.where(
        star["phase"] == HOT, mass, np.minimum(mass, kiel.turnoff_mass(star["age"], m_h))
    )
    seen = least + (np.maximum(heaviest, least) - least) * w["mass_ratio"]
    mass_2 = np.where(binary, seen, 0.2 + 0.4 * w["mass_ratio"])
    cool = kiel.dwarf(mass_2, star["age"], m_h)
    hot = kiel.young_star(
        mass_2, np.minimum(star["age"] / kiel.main_sequence_life(mass_2), 1.0), m_h
    )
    teff_2, logg_2 = (
        np.where((star["phase"] == HOT) & (mass_2 > 1.5), h, c)
        for h, c in zip(hot, cool, strict=True)
    )
    other = {name: w[name] for name in ("carbon", "nitrogen", "vmic", "vmac", "helium")}
    other |= {"spin": w["mass_ratio"], "tilt": w["orbit_tilt"]}
    second = _own_labels(teff_2, logg_2, np.zeros(len(mass), bool), other, family)
    ratio = np.where(binary | dark, mass_2 / mass, 0.0)
    radius = np.sqrt(mass * 10.0 ** (kiel.LOG_G_SUN - star["logg"]))
    days = orbits.period(w["period"], radius, mass + mass_2)
    sin_i = np.sqrt(1.0 - w["orbit_tilt"] ** 2)
    columns = {f"{name}_2": np.where(binary, value, np.nan) for name, value in second.items()}
    return columns | {
        "binary": binary,
        "mass_ratio": ratio,
        "period": np.where(ratio > 0, days, 0.0),
        "k_1": np.where(ratio > 0, orbits.amplitude(days, mass, ratio, sin_i), 0.0),
        "orbit_phase": np.where(ratio > 0, w["orbit_phase"], 0.0),
        "area_2": np.where(binary, ratio * 10.0 ** (star["logg"] - logg_2), 0.0),
    }


def draw_distance(star: Columns, family: Columns, u: FloatArray) -> Columns:
    """Put stars where their population is and G is within the survey's range.

    Parameters
    ----------
    star : dict of str to (n,) array
        teff, logg, mass, and of the companion teff_2, logg_2, mass_ratio, binary.
    family : dict of str to (n,) array
        population, cluster, pair, sin_b, dust, distance_u. Families are at one distance.
    u : (n,) float
        Uniform numbers, for stars alone.

    Returns
    -------
    dict of str to (n,) float64
        distance [kpc], parallax [mas], ebv, flux_2 (the secondary's share of G), g, bp_rp, j, k.

    Examples
    --------
    Suns towards the pole, from as bright as may be to the end of the disk.

    >>> sun = {"teff": 5772.0, "logg": 4.44, "mass": 1.0, "binary": False, "mass_ratio": 0.0}
    >>> star = {name: np.full(2, value) for name, value in sun.items()}
    >>> star |= {name: np.full(2, np.nan) for name in ("teff_2", "logg_2")}
    >>> home = {"population": THIN, "cluster": -1, "pair": -1, "sin_b": 1.0, "dust": 0.0}
    >>> family = {name: np.full(2, value) for name, value in home.items()} | {"distance_u": 0.5}
    >>> draw_distance(star, family, np.array([0.0, 1.0]))["g"].round(1)
    array([ 9. , 15.1])
    """
    bright = photometry.absolute_magnitude(star["teff"], star["logg"], star["mass"])
    ratio = np.where(star["binary"], star["mass_ratio"], 1.0)
    second = (
        np.where(star["binary"], star["teff_2"], 5000.0),
        np.where(star["binary"], star["logg_2"], 4.5),
    )
    fainter = photometry.absolute_magnitude(*second, star["mass"] * ratio)
    flux = np.where(star["binary"], 10.0 ** (-0.4 * (fainter - bright)), 0.0)
    absolute = bright - 2.5 * np.log10(1.0 + flux)
    end = galaxy.farthest(family["population"], family["sin_b"])
    pair, cluster = family["pair"] >= 0, family["cluster"] >= 0
    globular = cluster & (family["population"] != THIN)
    # a family is no farther than where half of such stars would still be seen
    typical = np.where(pair, 5.0, np.where(globular, 0.5, 3.5))
    far = _faintest(np.where(pair | cluster, typical, absolute), family)
    far = np.minimum(far, _modulus(end))
    near = np.minimum(np.maximum(BRIGHT - absolute, 0.0), far - 1.0)
    slope = 0.2 * np.log(10.0)  # twice as many stars every 1.5 mag
    alone = near + np.log1p(u * np.expm1(slope * (far - near))) / slope
    low, high = np.where(pair, -1.1, np.where(globular, 0.6, -0.5)), np.where(globular, 1.2, 0.6)
    high = np.where(pair, 0.0, high)
    together = np.minimum(_modulus(10.0 ** (low + (high - low) * family["distance_u"])), far)
    modulus = np.where(pair | cluster, together, alone)
    distance = 10.0 ** (modulus / 5 - 2)
    ebv = galaxy.reddening(distance, family["sin_b"], family["dust"])
    g = absolute + modulus + photometry.EXTINCTION["g"] * ebv
    return {
        "distance": distance,
        "parallax": 1.0 / distance,
        "ebv": ebv,
        "flux_2": flux / (1.0 + flux),
        **photometry.magnitudes(star["teff"], g, ebv),
    }


def _modulus(distance: FloatArray) -> FloatArray:
    return np.asarray(5 * np.log10(distance) + 10.0)


def _faintest(absolute: FloatArray, family: Columns) -> FloatArray:
    """Return the distance modulus at which a star is as faint as `FAINT`, with its extinction."""
    low, high = np.zeros_like(absolute), np.maximum(FAINT - absolute, 0.0)
    for _ in range(20):  # halvings: to 1e-5 mag
        middle = (low + high) / 2
        ebv = galaxy.reddening(10.0 ** (middle / 5 - 2), family["sin_b"], family["dust"])
        beyond = absolute + middle + photometry.EXTINCTION["g"] * ebv > FAINT
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return low


def draw_motion(distance: FloatArray, family: Columns, words: Columns, age: FloatArray) -> Columns:
    """Draw positions and motions: those of the family, and a little of one's own.

    Returns
    -------
    dict of str to (n,) float64
        ra, dec [deg], pmra, pmdec [mas/yr], rv [km/s] of the star or of the binary's middle.
    """
    moves = galaxy.velocity(
        family["ra"],
        family["dec"],
        distance,
        population=family["population"],
        age=age,
        z=family["motion"],
    )
    inside, globular = family["cluster"] >= 0, family["population"] != THIN
    own = np.where(inside, np.where(globular, 5.0, 0.6), 0.0)[:, None]
    moves = moves + own * ndtri(np.stack([words[f"move_{i}"] for i in range(3)], axis=1))
    cluster_reach = np.where(globular, 0.05, 0.12) * np.sqrt(-2.0 * np.log(words["away"]))
    second = (family["pair"] >= 0) & (family["family"] == family["pair"])
    pair_reach = 10.0 ** (0.7 + 1.5 * family["shared"][:, 0]) / 3600.0  # 5 to 160 arcsec
    reach = np.where(inside, cluster_reach, np.where(second, pair_reach, 0.0))
    turn = np.where(inside, words["turn"], family["shared"][:, 1])
    ra, dec = galaxy.offset(family["ra"], family["dec"], reach, turn)
    rv, pmra, pmdec = galaxy.seen_motion(ra, dec, distance, moves)
    return {"ra": ra, "dec": dec, "pmra": pmra, "pmdec": pmdec, "rv": rv}
