"""Abundances of made-up stars: sequences of their populations, and how elements vary together.

[X/Fe] = (population's trend) + (what the star has more or less of each common source) + its own.
The common sources are alpha (core collapse), s (giants), r (rare events) and odd (metal-dependent
yields); loadings and slopes are rough readings of published trends, good for made-up stars only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Element:
    """How one [X/Fe] comes about.

    Attributes
    ----------
    alpha, s, r, odd : float
        Loadings of the common sources.
    slope : float
        Of the trend with [Fe/H] below solar, beside that of alpha.
    own : float
        Scatter that no other element shares [dex].
    """

    alpha: float = 0.0
    s: float = 0.0
    r: float = 0.0
    odd: float = 0.0
    slope: float = 0.0
    own: float = 0.03


ELEMENTS = {
    "c": Element(0.30, own=0.05),
    "n": Element(0.10, own=0.07),
    "o": Element(1.20),
    "na": Element(0.20, odd=1.0, own=0.04),
    "mg": Element(1.00, own=0.02),
    "al": Element(0.70, odd=0.5),
    "si": Element(0.80, own=0.02),
    "p": Element(0.60, own=0.06),
    "s": Element(0.80),
    "k": Element(0.70, odd=0.5, own=0.05),
    "ca": Element(0.70, own=0.02),
    "sc": Element(0.40, odd=0.4),
    "ti": Element(0.75, own=0.025),
    "v": Element(0.30, odd=0.3, own=0.05),
    "cr": Element(slope=0.04, own=0.02),
    "mn": Element(-0.30, odd=0.8, slope=0.15),
    "co": Element(0.30, odd=0.3, own=0.04),
    "ni": Element(0.10, odd=0.3, own=0.02),
    "cu": Element(0.10, odd=1.0, slope=0.25, own=0.05),
    "zn": Element(0.40, slope=-0.06, own=0.05),
    "rb": Element(0.10, s=0.6, r=0.4, own=0.06),
    "sr": Element(s=0.9, r=0.4, slope=0.06, own=0.05),
    "y": Element(s=0.9, r=0.4, slope=0.08, own=0.04),
    "zr": Element(0.20, s=0.8, r=0.4, own=0.05),
    "ba": Element(s=1.0, r=0.4, slope=0.10, own=0.05),
    "la": Element(s=0.9, r=0.6, slope=0.05, own=0.05),
    "ce": Element(s=0.9, r=0.5, slope=0.05, own=0.05),
    "pr": Element(0.10, s=0.6, r=0.7, own=0.06),
    "nd": Element(0.20, s=0.6, r=0.8, own=0.05),
    "sm": Element(0.40, s=0.3, r=1.0, own=0.06),
    "eu": Element(0.80, r=1.0, own=0.04),
    "gd": Element(0.60, r=1.0, own=0.06),
    "dy": Element(0.60, r=1.0, own=0.06),
}
OTHER = Element(own=0.08)
"""For an element that is not in the table."""
SOURCES = ("alpha", "s", "r", "odd")
N_NORMAL = len(SOURCES) + len(ELEMENTS) + 1
"""Normal numbers that a star's abundances take: of the sources, of each element, of any other."""
SCATTER = {"alpha": 0.025, "s": 0.06, "r": 0.05, "odd": 0.03}
"""Of the common sources, in the disk [dex]."""
HALO_R = 0.25
"""Scatter of the r source in the halo: few events, badly mixed."""
CEMP_MIN = 0.7
"""[C/Fe] from which a star is CEMP (Aoki et al. 2007, ApJ 655, 492)."""
_EXCESS = {
    # class of CEMP star: {element: dex above its population}
    1: {"n": 0.5, "o": 0.4, "na": 0.3, "mg": 0.2},  # no excess of barium
    2: {"n": 0.6, "o": 0.2, "sr": 0.7, "y": 0.7, "zr": 0.7, "rb": 0.6, "ba": 1.4, "la": 1.3}
    | {"ce": 1.3, "pr": 1.1, "nd": 1.2, "sm": 0.8, "eu": 0.4},  # CEMP-s
}


def covariance(elements: Sequence[str], *, halo: bool = False) -> FloatArray:
    """Return how [X/Fe] of one population, [Fe/H] and age scatter together.

    Parameters
    ----------
    elements : sequence of n_element str
        Symbols in lower case.
    halo : bool
        With the halo's scatter of r elements.

    Returns
    -------
    (n_element, n_element) float64 [dex²]

    Examples
    --------
    >>> covariance(["mg", "ca", "eu"]).round(6)
    array([[0.001025, 0.000438, 0.0005  ],
           [0.000438, 0.000706, 0.00035 ],
           [0.0005  , 0.00035 , 0.0045  ]])
    """
    known = [ELEMENTS.get(name, OTHER) for name in elements]
    loads = np.array([[getattr(e, source) for source in SOURCES] for e in known])
    sizes = np.array([HALO_R if halo and s == "r" else SCATTER[s] for s in SOURCES])
    return np.asarray((loads * sizes**2) @ loads.T + np.diag([e.own**2 for e in known]))


def alpha_sequence(fe_h: FloatArray, thin: npt.NDArray[np.bool_]) -> FloatArray:
    """Return mean [alpha/Fe] of the thin disk, else of the thick disk and the halo.

    Examples
    --------
    >>> alpha_sequence(np.array([-0.5, -0.5, -2.0]), np.array([True, False, False])).round(2)
    array([0.1 , 0.25, 0.35])
    """
    low = np.clip(0.03 - 0.14 * fe_h, 0.0, 0.15)
    high = np.clip(0.18 - 0.14 * fe_h, 0.05, 0.35)
    return np.where(thin, low, high)


def cemp_probability(fe_h: FloatArray) -> FloatArray:
    """Return the fraction of stars of a metallicity that are born rich in carbon.

    It grows from nothing at [Fe/H] = -1.5 over 0.15, 0.4 and 0.8 at -2, -3 and -4, after Placco et
    al. 2014, ApJ 797, 21 (20, 43 and 81 % of all stars below these).

    Examples
    --------
    >>> cemp_probability(np.array([0.0, -2.0, -3.5])).round(3)
    array([0.  , 0.15, 0.6 ])
    """
    return np.interp(fe_h, [-4.0, -3.0, -2.0, -1.5], [0.8, 0.4, 0.15, 0.0])


def cemp_class(fe_h: FloatArray, u: FloatArray) -> npt.NDArray[np.int64]:
    """Return 0 for a normal star, 1 for CEMP-no, 2 for CEMP-s.

    Parameters
    ----------
    fe_h : (n,) float
    u : (n, 2) float
        Uniform numbers: whether, and which.

    Examples
    --------
    >>> cemp_class(np.array([-2.5, -2.5, 0.0]), np.array([[0.9, 0.5], [0.1, 0.5], [0.1, 0.5]]))
    array([0, 2, 0])
    """
    rich_in_s = u[:, 1] < np.where(fe_h > -3.0, 0.7, 0.1)
    return np.where(u[:, 0] < cemp_probability(fe_h), np.where(rich_in_s, 2, 1), 0)


def abundances(
    elements: Sequence[str],
    fe_h: FloatArray,
    alpha: FloatArray,
    z: FloatArray,
    *,
    age: FloatArray,
    halo: npt.NDArray[np.bool_],
    cemp: npt.NDArray[np.int64],
) -> dict[str, FloatArray]:
    """Return [X/Fe] as stars are born with.

    Parameters
    ----------
    elements : sequence of str
        Symbols in lower case.
    fe_h, alpha : (n,) float
        Metallicity, and the mean [alpha/Fe] of the star's population.
    z : (n, N_NORMAL) float
        Standard normal numbers.
    age : (n,) float [Gyr]
        Younger stars of the disk have more s elements.
    halo : (n,) bool
    cemp : (n,) int
        As of `cemp_class`.

    Returns
    -------
    dict of str to (n,) float64

    Examples
    --------
    A star of the halo with nothing of its own, and the same as a CEMP-s star.

    >>> old, fe_h = {"age": np.full(2, 12.0), "halo": np.ones(2, bool)}, np.full(2, -2.5)
    >>> alpha, z = np.full(2, 0.35), np.zeros((2, N_NORMAL))
    >>> made = abundances(["mg", "c", "ba"], fe_h, alpha, z, cemp=np.array([0, 2]), **old)
    >>> {name: values.round(2).tolist() for name, values in made.items()}
    {'mg': [0.35, 0.35], 'c': [0.1, 0.77], 'ba': [-0.25, 1.15]}
    """
    common = {source: SCATTER[source] * z[:, i] for i, source in enumerate(SOURCES)}
    common["alpha"] = common["alpha"] + alpha
    common["s"] = common["s"] + np.where(halo, 0.0, 0.025 * (5.0 - np.minimum(age, 10.0)))
    common["r"] = common["r"] * np.where(halo, HALO_R / SCATTER["r"], 1.0)
    common["odd"] = common["odd"] + 0.1 * np.clip(fe_h, -2.0, 0.4)
    poor = np.clip(fe_h, -3.5, 0.0)
    places = {name: len(SOURCES) + i for i, name in enumerate(ELEMENTS)}
    born = {}
    for name in elements:
        element = ELEMENTS.get(name, OTHER)
        value = element.slope * poor + element.own * z[:, places.get(name, N_NORMAL - 1)]
        for source in SOURCES:
            if load := getattr(element, source):
                value = value + load * common[source]
        for kind, excess in _EXCESS.items():
            value = value + np.where(cemp == kind, excess.get(name, 0.0), 0.0)
        born[name] = value
    if "c" in born:
        rich = CEMP_MIN + 0.45 * np.abs(z[:, places["c"]]) - 0.15 * np.minimum(fe_h + 2.0, 0.0)
        born["c"] = np.where(cemp > 0, rich, np.minimum(born["c"], CEMP_MIN - 0.01))
    return born


def mixing(logg: FloatArray, teff: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return by how much giants have less carbon and more nitrogen than they were born with.

    The first dredge-up is over at log g = 3; more follows above the bump of the giant branch
    (Gratton et al. 2000, A&A 354, 169). Stars hotter than 7,000 K show nothing of it.

    Examples
    --------
    >>> [x.round(2).tolist() for x in mixing(np.array([4.4, 2.4, 1.0]), np.full(3, 4800.0))]
    [[-0.0, -0.13, -0.28], [0.0, 0.25, 0.46]]
    """
    depth = np.where(teff < 7000.0, 1.0 / (1.0 + np.exp(-(3.2 - logg) / 0.1)), 0.0)
    above = np.where(teff < 7000.0, np.clip(2.2 - logg, 0.0, 2.0), 0.0)
    return -0.13 * depth - 0.125 * above, 0.25 * depth + 0.175 * above
