"""Made-up stars: labels on a simple Kiel diagram, positions and motions, each from its own seed.

A star is its index: any process can draw star 123 of seed 7 and gets the same one. Temperatures in
K, velocities in km/s, positions ICRS degrees at `EPOCH`, proper motions in mas/yr with cos(dec).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

EPOCH = 2016.0
"""Julian year of the positions."""
FIELD_STARS = 1000
"""Stars per field of the sky: two plates see each field."""
REPEAT = 0.1
"""Fraction of spectra that show an earlier star of their field again."""
TRIES, N_UNIFORM, N_NORMAL = 16, 16, 48
_STAR, _FIELD = 1, 2  # last words of seeds, so that no two kinds of draw share one
ALPHA = {
    "alpha_fe": 1.0,
    "mg_fe": 1.0,
    "o_fe": 1.2,
    "si_fe": 0.8,
    "ca_fe": 0.7,
    "ti_fe": 0.75,
    "s_fe": 0.8,
}
"""How much of the alpha enhancement each element takes."""


def star_of(seed: int, spectra: IntArray) -> IntArray:
    """Say which star each spectrum shows: mostly the one of its own number, else an earlier one.

    Examples
    --------
    >>> bool(np.all(star_of(1, np.arange(50)) <= np.arange(50)))
    True
    """
    return np.array([_star_of(seed, int(s)) for s in spectra], np.int64)


def _star_of(seed: int, spectrum: int) -> int:
    first = spectrum - spectrum % FIELD_STARS
    again, which = np.random.default_rng([seed, spectrum, _STAR]).random(2)
    if again >= REPEAT or spectrum == first:
        return spectrum
    return _star_of(seed, first + int(which * (spectrum - first)))  # that one may be a repeat, too


def draw_stars(
    seed: int,
    stars: IntArray,
    labels: Sequence[str],
    minimum: FloatArray,
    maximum: FloatArray,
) -> dict[str, FloatArray]:
    """Draw everything there is to know of some stars.

    Giants, clump stars, subgiants and dwarfs; a thin disk, a thick one and a halo, each with its
    metallicities, alpha enhancement and velocities. A star outside the box of `minimum` and
    `maximum` is drawn again, and spread over the box if that never helps.

    Parameters
    ----------
    seed : int
    stars : (n,) int
        Their indices.
    labels : sequence of n_label str
        Which labels: ``teff``, ``logg``, ``fe_h``, ``vmic``, ``<element>_fe``; or ``m_h`` and
        ``<element>_m``, as some emulators have them.
    minimum, maximum : (n_label,) float
        Of the labels.

    Returns
    -------
    dict of str to (n,) float64
        The labels; rv, ra, dec, pmra, pmdec; and catalog, uniform in
        [0, 1), which says who is in whose catalog.

    Examples
    --------
    >>> box = np.array([3800.0, 0.0, -2.5]), np.array([7500.0, 5.0, 0.5])
    >>> some = draw_stars(1, np.array([5, 6]), ("teff", "logg", "fe_h"), *box)
    >>> alone = draw_stars(1, np.array([6]), ("teff", "logg", "fe_h"), *box)
    >>> bool(some["logg"][1] == alone["logg"][0])
    True
    """
    uniform = np.empty((len(stars), TRIES, N_UNIFORM))
    normal = np.empty((len(stars), TRIES, N_NORMAL))
    for row, star in enumerate(stars):
        rng = np.random.default_rng([seed, int(star), _STAR])
        rng.random(2)  # those of `star_of`
        uniform[row], normal[row] = (
            rng.random((TRIES, N_UNIFORM)),
            rng.normal(size=(TRIES, N_NORMAL)),
        )
    values, dispersion = _labels(uniform, normal, labels)
    inside = np.all((values >= minimum) & (values <= maximum), axis=2)
    first, rows = np.argmax(inside, axis=1), np.arange(len(stars))
    chosen = values[rows, first]
    spread = uniform[:, 0, -1 - np.arange(len(labels)) % N_UNIFORM]
    lost = ~inside.any(axis=1)
    chosen[lost] = (minimum + spread * (maximum - minimum))[lost]
    rv = np.clip(dispersion[rows, first] * normal[:, 0, -1], -300.0, 300.0)
    return {
        **dict(zip(labels, chosen.T, strict=True)),
        "rv": rv,
        **_motion(seed, stars, uniform[:, 0, 8:]),
    }


def _motion(seed: int, stars: IntArray, uniform: FloatArray) -> dict[str, FloatArray]:
    """Spread stars over their field, with proper motions from 1 to 200 mas/yr."""
    centers = {f: field_center(seed, f) for f in np.unique(stars // FIELD_STARS).tolist()}
    ra0, dec0 = np.array([centers[int(f)] for f in stars // FIELD_STARS]).T
    radius, angle = 2.3 * np.sqrt(uniform[:, 0]), 2 * np.pi * uniform[:, 1]
    dec = dec0 + radius * np.sin(angle)
    ra = ra0 + radius * np.cos(angle) / np.cos(np.radians(dec))
    speed, way = 10 ** (np.log10(200.0) * uniform[:, 2]), 2 * np.pi * uniform[:, 3]
    return {
        "ra": ra % 360.0,
        "dec": dec,
        "pmra": speed * np.cos(way),
        "pmdec": speed * np.sin(way),
        "catalog": uniform[:, 4],
    }


def field_center(seed: int, field: int) -> tuple[float, float]:
    """Return RA and Dec of a field's center [deg], where LAMOST can point."""
    ra, dec = np.random.default_rng([seed, field, _FIELD]).random(2)
    return 360.0 * ra, -6.0 + 62.0 * dec


def _labels(u: FloatArray, z: FloatArray, labels: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Turn uniform and normal numbers into labels (..., n_label) and a velocity dispersion."""
    thin, thick = u[..., 0] < 0.6, u[..., 0] < 0.88
    fe_h = np.where(thin, -0.1 + 0.2 * z[..., 0], np.where(thick, -0.5, -1.4) + 0.4 * z[..., 0])
    fe_h = 0.4 - np.abs(0.4 - fe_h)
    fe_h = np.abs(fe_h + 2.3) - 2.3
    alpha = np.where(thin, 0.03 - 0.1 * fe_h, np.where(thick, 0.22 - 0.12 * (fe_h + 0.5), 0.3))
    alpha = np.clip(alpha, -0.1, 0.4) + 0.03 * z[..., 1]
    teff, logg = _kiel(u, z, fe_h)
    known = {"teff": teff, "logg": logg, "fe_h": fe_h}
    known["vmic"] = np.clip(2.13 - 0.23 * logg + 0.1 * z[..., 2], 0.5, 3.0)
    mixed = np.clip(2.4 - logg, 0.0, 2.0)  # giants bring up nitrogen for carbon
    known["c_fe"] = 0.3 * (alpha - 0.05) - 0.15 * mixed + 0.07 * z[..., 3]
    known["n_fe"] = 0.25 * mixed + 0.07 * z[..., 4]
    columns = []
    for i, name in enumerate(map(_by_iron, labels)):
        scatter = z[..., 10 + i % 30]
        own = ALPHA.get(name, 0.0) * alpha + (0.03 if name in ALPHA else 0.08) * scatter
        columns.append(known.get(name, own))
    return np.stack(columns, axis=-1), np.where(thin, 30.0, np.where(thick, 60.0, 140.0))


def _by_iron(name: str) -> str:
    """Return the label that stands for one relative to all metals: of our stars, iron is the rest.

    Examples
    --------
    >>> [_by_iron(name) for name in ("m_h", "mg_m", "teff")]
    ['fe_h', 'mg_fe', 'teff']
    """
    return "fe_h" if name == "m_h" else f"{name[:-2]}_fe" if name.endswith("_m") else name


def _kiel(u: FloatArray, z: FloatArray, fe_h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Place stars on the Kiel diagram: 40 % dwarfs, 10 % subgiants, 15 % clump, 35 % giants."""
    kind, place = u[..., 1], u[..., 2]
    up = place**0.7  # 0 at the tip of the giant branch, 1 at its foot
    giant = 3950.0 + 1150.0 * up**0.8, 0.6 + 2.9 * up
    clump = np.full_like(place, 4780.0), np.full_like(place, 2.42)
    subgiant = 6000.0 - 900.0 * place, 4.1 - 0.55 * place
    dwarf = 4250.0 + 2450.0 * place, 4.66 - 0.45 * place**1.5
    teff, logg = (
        np.select([kind < 0.4, kind < 0.5, kind < 0.65], [d, s, c], g)
        for d, s, c, g in zip(dwarf, subgiant, clump, giant, strict=True)
    )
    teff = teff - np.where(kind < 0.4, 60.0, 170.0) * fe_h + 60.0 * z[..., 5]
    return np.clip(teff, 4000.0, 6800.0), np.clip(logg + 0.05 * z[..., 6], 0.5, 4.8)


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
