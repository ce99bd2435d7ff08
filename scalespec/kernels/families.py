"""Who was born together: single stars, wide pairs and clusters, and what their members share.

A family is drawn from its own index, so that each member, wherever it is drawn, gets the same age,
abundances, place and motion. Ages Gyr, distances kpc, velocities km/s, positions ICRS degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from scalespec.kernels import abundances, galaxy
from scalespec.kernels.draws import keys, normal, uniform
from scalespec.kernels.galaxy import HALO, POOR, THICK, THIN, YOUNG

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]

_FAMILY, _PAIRED, _MEMBER, _CLUSTER, _SHARED = 3, 4, 5, 6, 7  # kinds of keys
_METALS = {
    # population: mean, sigma, least and greatest [Fe/H]
    YOUNG: (0.00, 0.12, -0.4, 0.4),
    THIN: (-0.08, 0.20, -0.9, 0.45),
    THICK: (-0.55, 0.25, -1.5, 0.2),
    HALO: (-1.40, 0.35, -2.0, -0.5),
}
_AGES = {YOUNG: (0.01, 1.0), THIN: (1.5, 10.0), THICK: (8.0, 12.5), HALO: (10.5, 13.5)}
POOREST = -4.0
"""Least [Fe/H]; below -2, stars become ten times rarer per dex."""


@dataclass(frozen=True)
class Recipe:
    """How much of what a made-up survey has, as fractions of its stars.

    Attributes
    ----------
    young, thick, halo, very_metal_poor : float
        Populations; the rest is the thin disk's. Young stars are A, B and O stars; very metal-poor
        ones have [Fe/H] < -2, a tenth of them < -3.
    cemp_boost : float
        How many times more often than in nature metal-poor stars are rich in carbon.
    blue : float
        Of the halo's stars, those on the blue horizontal branch.
    binary : float
        Stars with an unresolved companion that adds its light.
    dark : float
        Stars with a companion that moves them but is not seen.
    pair : float
        Stars that are one of a wide pair.
    cluster : float
        Stars that are in the cluster of their field.
    """

    young: float = 0.03
    thick: float = 0.25
    halo: float = 0.10
    very_metal_poor: float = 0.005
    cemp_boost: float = 1.0
    blue: float = 0.05
    binary: float = 0.10
    dark: float = 0.04
    pair: float = 0.06
    cluster: float = 0.03

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not 0.0 <= value <= (np.inf if name == "cemp_boost" else 1.0):
                raise ValueError(f"recipe: {name} must be a fraction from 0 to 1, got {value}")
        for together in (
            ("young", "thick", "halo", "very_metal_poor"),
            ("binary", "dark"),
            ("pair", "cluster"),
        ):
            if (total := sum(getattr(self, name) for name in together)) > 1.0:
                raise ValueError(f"recipe: {' + '.join(together)} = {total:.6g} is more than 1")


def paired(seed: int, stars: IntArray, recipe: Recipe) -> npt.NDArray[np.bool_]:
    """Say which stars are one of a wide pair: 2 k and 2 k + 1 are, or neither.

    Examples
    --------
    >>> both = paired(1, np.array([6, 7, 8, 9]), Recipe(pair=1.0, cluster=0.0))
    >>> both.tolist()
    [True, True, True, True]
    """
    return np.asarray(uniform(keys(seed, _PAIRED, stars // 2), 1)[:, 0] < recipe.pair)


def cluster_of(seed: int, stars: IntArray, recipe: Recipe) -> IntArray:
    """Return the number of the cluster each star is in, that of its field; -1 for none."""
    share = recipe.cluster / (1.0 - recipe.pair) if recipe.pair < 1.0 else 0.0
    member = uniform(keys(seed, _MEMBER, stars), 1)[:, 0] < share
    member &= ~paired(seed, stars, recipe)
    return np.where(member, stars // galaxy.FIELD_STARS, -1)


def draw_family(
    seed: int, stars: IntArray, attempt: int, elements: Sequence[str], recipe: Recipe
) -> Columns:
    """Draw what stars have from the family they were born in.

    Parameters
    ----------
    seed : int
    stars : (n,) int
    attempt : int
        Which try; the first eight leave the population as it is.
    elements : sequence of str
        Whose abundances.
    recipe : Recipe

    Returns
    -------
    dict of str to (n,) or (n, k) array
        family (its key's index), cluster, pair (the star's partner, or -1), population, age, fe_h,
        alpha, cemp, ``<el>_fe`` as born, ra, dec (of the family's middle), sin_b, dust (factor of
        the reddening), distance_u, motion (3 normal numbers) and shared (uniform numbers of pairs
        and clusters).

    Examples
    --------
    The two stars of a wide pair, and the next one.

    >>> pairs = Recipe(pair=1.0, cluster=0.0)
    >>> drawn = draw_family(1, np.array([6, 7, 8]), 0, ["mg"], pairs)
    >>> drawn["pair"].tolist()
    [7, 6, 9]
    >>> (drawn["mg_fe"] == drawn["mg_fe"][0]).tolist()
    [True, True, False]
    """
    pair, cluster = paired(seed, stars, recipe), cluster_of(seed, stars, recipe)
    family = np.where(cluster >= 0, -1 - cluster, np.where(pair, stars - stars % 2, stars))
    u = uniform(keys(seed, _FAMILY, family, attempt), 8)
    first = uniform(keys(seed, _FAMILY, family, attempt if attempt >= 8 else 0), 1)[:, 0]
    z = normal(keys(seed, _SHARED, family, attempt), 3 + abundances.N_NORMAL)
    globular = (cluster >= 0) & (u[:, 1] < 0.3)
    population = np.where(cluster < 0, _population(first, recipe), np.where(globular, HALO, THIN))
    fe_h, age = _metals(population, u[:, 2]), _ages(population, u[:, 3])
    alpha = abundances.alpha_sequence(fe_h, (population == THIN) | (population == YOUNG))
    luck = np.stack([u[:, 4] / max(recipe.cemp_boost, 1e-9), u[:, 5]], axis=1)
    cemp = np.where(globular, 0, abundances.cemp_class(fe_h, luck))
    born = abundances.abundances(
        elements,
        fe_h,
        alpha,
        z[:, 3:],
        age=age,
        halo=population >= HALO,
        cemp=cemp,
    )
    return {
        "family": family,
        "cluster": cluster,
        "pair": np.where(pair & (cluster < 0), stars + 1 - 2 * (stars % 2), -1),
        "population": population,
        "age": age,
        "fe_h": fe_h,
        "alpha": alpha,
        "cemp": cemp,
        **{f"{name}_fe": value for name, value in born.items()},
        **_place(seed, stars, family, cluster),
        "motion": z[:, :3],
        "shared": u[:, 6:8],
    }


def _population(u: FloatArray, recipe: Recipe) -> IntArray:
    shares = (recipe.very_metal_poor, recipe.halo, recipe.thick, recipe.young)
    chosen = np.searchsorted(np.cumsum(shares), u, side="right")
    return np.asarray(np.array([POOR, HALO, THICK, YOUNG, THIN])[chosen])


def _metals(population: IntArray, u: FloatArray) -> FloatArray:
    """Return [Fe/H]: Gaussians with cut tails, and the exponential tail of the halo."""
    steps = -POOREST - 2.0
    fe_h = -2.0 + np.log10(1.0 - u * (1.0 - 10.0**-steps))
    for kind, (mean, sigma, low, high) in _METALS.items():
        a, b = ndtr((low - mean) / sigma), ndtr((high - mean) / sigma)
        fe_h = np.where(population == kind, mean + sigma * ndtri(a + u * (b - a)), fe_h)
    return np.asarray(fe_h)


def _ages(population: IntArray, u: FloatArray) -> FloatArray:
    """Return ages, even within each population's range; a young star's own life sets its age."""
    low, high = np.array([_AGES[min(kind, HALO)] for kind in range(POOR + 1)])[population].T
    return np.asarray(low + u * (high - low))


def _place(seed: int, stars: IntArray, family: IntArray, cluster: IntArray) -> Columns:
    """Put families into the field of their stars; tries leave them where they are."""
    u = uniform(keys(seed, _CLUSTER, family), 4)
    ra, dec = galaxy.field_center(seed, stars // galaxy.FIELD_STARS)
    reach = np.where(cluster >= 0, 1.5, galaxy.FIELD_RADIUS)
    ra, dec = galaxy.offset(ra, dec, reach * np.sqrt(u[:, 0]), u[:, 1])
    return {
        "ra": ra,
        "dec": dec,
        "sin_b": galaxy.galactic_latitude_sine(ra, dec),
        "dust": 10.0 ** (0.15 * ndtri(u[:, 2])),
        "distance_u": u[:, 3],
    }
