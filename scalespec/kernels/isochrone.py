"""Ages of stars from isochrones: a posterior over a grid of model stars, many stars at once.

Isochrones lie on equivalent evolutionary points (EEP), so that models of neighboring ages and
metallicities may be interpolated point by point. Ages in Gyr, masses in solar masses, temperatures
in K, abundances in dex, magnitudes as they are.

Xiang & Rix 2022, Nature 603, 599 (subgiants); Jørgensen & Lindegren 2005, A&A 436, 127 (method);
Salpeter 1955, ApJ 121, 161 (mass function).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalespec.kernels.compiled import compiled

FloatArray = npt.NDArray[np.float64]

IMF_SLOPE = -2.35
REACH_SIGMA = 5.0
"""Strips of model stars further than this from the first observable count for nothing."""
QUANTILES = (0.16, 0.5, 0.84)


@dataclass(frozen=True)
class IsochroneCube:
    """Isochrones on common points.

    Attributes
    ----------
    fe_h : (n_fe_h,) float64 [dex]
    age : (n_age,) float64 [Gyr]
    mass : (n_fe_h, n_age, n_eep) float64 [solar]
        Initial mass; NaN where an isochrone has no such point.
    columns : dict of str to (n_fe_h, n_age, n_eep) float64
        What a star shows: teff, logg, magnitudes, ...
    """

    fe_h: FloatArray
    age: FloatArray
    mass: FloatArray
    columns: Mapping[str, FloatArray]

    def __post_init__(self) -> None:
        shape = (len(self.fe_h), len(self.age))
        for name, values in {"mass": self.mass, **self.columns}.items():
            if values.shape[:2] != shape or values.shape != self.mass.shape:
                raise ValueError(
                    f"isochrone column {name} has shape {values.shape}, wanted {shape} and as "
                    f"many points as mass, {self.mass.shape}"
                )
        for name, axis in (("fe_h", self.fe_h), ("age", self.age)):
            if np.any(np.diff(axis) <= 0):
                raise ValueError(f"isochrones must come in order of {name}, got {axis}")


@dataclass(frozen=True)
class ModelStars:
    """Model stars in strips of the first observable, each with its prior weight.

    Attributes
    ----------
    names : tuple of str
        Observables, the first two being those that stars are searched by.
    values : (n, n_observable) float64
    age : (n_age,) float64 [Gyr]
    age_index : (n,) int64
        Age of each model star.
    weight : (n,) float64
        Of a uniform prior in age and metallicity and a power-law mass function.
    strips : (n_strip + 1,) int64
        Where each strip's models begin, in order of the second observable; and where all end.
    low, width : float
        The first strip's lower edge, and the width of all.
    """

    names: tuple[str, ...]
    values: FloatArray
    age: FloatArray
    age_index: npt.NDArray[np.int64]
    weight: FloatArray
    strips: npt.NDArray[np.int64]
    low: float
    width: float


@dataclass(frozen=True)
class AgePosterior:
    """What is known of each star's age.

    Attributes
    ----------
    mean, std : (n,) float64 [Gyr]
        NaN where no model star is near.
    quantiles : (n, n_quantile) float64 [Gyr]
    chi2 : (n,) float64
        Of the nearest model star.
    n_model : (n,) int64
        Model stars within reach.
    """

    mean: FloatArray
    std: FloatArray
    quantiles: FloatArray
    chi2: FloatArray
    n_model: npt.NDArray[np.int64]


def refine(cube: IsochroneCube, *, fe_h: int = 1, age: int = 1, eep: int = 1) -> IsochroneCube:
    """Put interpolated isochrones between those of a cube, point by point.

    Parameters
    ----------
    cube : IsochroneCube
    fe_h, age, eep : int
        Into how many steps each step is cut.

    Returns
    -------
    IsochroneCube
        Linear in metallicity, age and point; a point exists between two that do.

    Raises
    ------
    ValueError
        If a number is not positive.

    Examples
    --------
    >>> cube = IsochroneCube(np.array([0.0]), np.array([1.0, 2.0]), np.ones((1, 2, 3)), {})
    >>> refine(cube, age=4).age
    array([1.  , 1.25, 1.5 , 1.75, 2.  ])
    """
    if min(fe_h, age, eep) < 1:
        raise ValueError(f"steps are cut into 1 or more, got {fe_h}, {age} and {eep}")
    steps = (fe_h, age, eep)

    def finer(values: FloatArray) -> FloatArray:
        """Cut all three axes."""
        for axis, n in enumerate(steps):
            values = _cut(values, axis, n)
        return values

    columns = {name: finer(values) for name, values in cube.columns.items()}
    return IsochroneCube(
        _cut(cube.fe_h, 0, fe_h), _cut(cube.age, 0, age), finer(cube.mass), columns
    )


def _cut(values: FloatArray, axis: int, n: int) -> FloatArray:
    """Cut each step along an axis into `n`; the points that were there stay as they are."""
    moved = np.moveaxis(values, axis, 0)
    share = (np.arange(n) / n).reshape(-1, *[1] * (moved.ndim - 1))
    between = moved[:-1, None] * (1 - share) + moved[1:, None] * share
    between[:, 0] = moved[:-1]  # 0 times NaN is NaN: a neighbor that lacks must not undo a point
    joined = np.concatenate([between.reshape(-1, *moved.shape[1:]), moved[-1:]])
    return np.moveaxis(joined, 0, axis)


def model_stars(cube: IsochroneCube, names: Sequence[str]) -> ModelStars:
    """Return the points of a cube as model stars with their prior weights.

    Parameters
    ----------
    cube : IsochroneCube
    names : sequence of str
        Observables: columns of the cube, or ``fe_h``. Put the best measured ones first.

    Raises
    ------
    ValueError
        If a name is not known.

    Examples
    --------
    Masses from 1 to 2 weigh what m**-2.35 integrates to, (1 - 2**-1.35) / 1.35; two ages share it:

    >>> mass = np.broadcast_to(np.linspace(1.0, 2.0, 101), (1, 2, 101))
    >>> cube = IsochroneCube(np.zeros(1), np.array([1.0, 2.0]), mass, {"m_k": 5 - mass})
    >>> stars = model_stars(cube, ["m_k", "fe_h"])
    >>> stars.values.shape, np.bincount(stars.age_index, stars.weight).round(3)
    ((202, 2), array([0.225, 0.225]))
    """
    if strange := sorted(set(names) - {*cube.columns, "fe_h"}):
        raise ValueError(f"isochrones have no {strange}; they have {sorted(cube.columns)} and fe_h")
    shape = cube.mass.shape
    fe_h = np.broadcast_to(cube.fe_h[:, None, None], shape)
    number = np.broadcast_to(np.arange(len(cube.age))[None, :, None], shape)
    steps = _widths(cube.fe_h)[:, None, None] * _widths(cube.age)[None, :, None]
    weight = steps * _widths(cube.mass) * cube.mass**IMF_SLOPE
    columns = [fe_h if name == "fe_h" else cube.columns[name] for name in names]
    values = np.stack([column.ravel() for column in columns], axis=1)
    good = np.isfinite(values).all(axis=1) & np.isfinite(weight.ravel()) & (weight.ravel() > 0)
    kept = values[good]
    strip, low, width = _strips(kept[:, 0]) if len(kept) else (np.zeros(0, np.int64), 0.0, 1.0)
    second = kept[:, 1] if kept.shape[1] > 1 else kept[:, 0]
    rows = np.lexsort((second, strip))
    order = np.flatnonzero(good)[rows]
    starts = np.searchsorted(strip[rows], np.arange(strip.max(initial=0) + 2))
    return ModelStars(
        tuple(names),
        values[order],
        cube.age,
        number.ravel()[order],
        weight.ravel()[order],
        starts.astype(np.int64),
        low,
        width,
    )


def _strips(values: FloatArray) -> tuple[npt.NDArray[np.int64], float, float]:
    """Return the strip of each model: as many strips as models in one, were they spread evenly."""
    low, high = float(values.min()), float(values.max())
    width = (high - low) / max(int(np.sqrt(len(values))), 1) or 1.0
    return ((values - low) / width).astype(np.int64), low, width


def _widths(values: FloatArray) -> FloatArray:
    """Return the width of the cell around each point of the last axis; a lone point has 1.

    A cell ends at its point where the neighbor lacks.
    """
    if values.shape[-1] < 2:
        return np.ones(values.shape)
    half = np.nan_to_num(np.abs(np.diff(values)) / 2)
    width = np.zeros(values.shape)
    width[..., :-1] += half
    width[..., 1:] += half
    return width


def age_posterior(
    stars: ModelStars,
    observed: FloatArray,
    sigma: FloatArray,
    *,
    quantiles: Sequence[float] = QUANTILES,
) -> AgePosterior:
    """Sum model stars by their likelihood: the posterior of each star's age.

    Parameters
    ----------
    stars : ModelStars
        Denser than the errors: `refine` makes them so.
    observed, sigma : (n, n_observable) float64
        In the order of ``stars.names``; an error of infinity, or a NaN, says nothing is known. The
        first observable must be known.
    quantiles : sequence of float

    Returns
    -------
    AgePosterior

    Raises
    ------
    ValueError
        If shapes do not fit or an error is not positive.

    Examples
    --------
    >>> age = np.linspace(1.0, 10.0, 91)
    >>> mass = np.broadcast_to(np.linspace(1.0, 1.2, 5), (1, 91, 5)).copy()
    >>> luminosity = np.broadcast_to(3.0 - 0.2 * age[:, None], (1, 91, 5)).copy()
    >>> stars = model_stars(IsochroneCube(np.array([0.0]), age, mass, {"m_k": luminosity}), ["m_k"])
    >>> posterior = age_posterior(stars, np.array([[2.0]]), np.array([[0.1]]))
    >>> posterior.quantiles.round(1), posterior.mean.round(1)
    (array([[4.5, 5. , 5.5]]), array([5.]))
    """
    n_observable = len(stars.names)
    if observed.shape != sigma.shape or observed.shape[1:] != (n_observable,):
        raise ValueError(
            f"observed {observed.shape} and sigma {sigma.shape} must be (n, {n_observable}) for "
            f"{stars.names}"
        )
    if np.any(sigma <= 0):
        raise ValueError(f"errors must be positive, got {float(np.nanmin(sigma)):.6g}")
    known = np.isfinite(observed) & np.isfinite(sigma)
    inverse = np.where(known, 1 / np.where(known, sigma, 1.0), 0.0)
    values = np.where(known, observed, 0.0)
    models = (stars.values, stars.age_index, stars.weight)
    strips = (stars.strips, stars.low, stars.width)
    by_age, chi2, count = _sum_models(models, strips, len(stars.age), values, inverse)
    return _summarized(stars.age, by_age, chi2, count, np.asarray(quantiles, float))


@compiled
def _sum_models(
    tables: tuple[FloatArray, npt.NDArray[np.int64], FloatArray],
    strips: tuple[npt.NDArray[np.int64], float, float],
    n_age: int,
    observed: FloatArray,
    inverse: FloatArray,
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Return posterior mass by age, least chi² and number of model stars, star by star."""
    models, age_index, weight = tables
    starts, low, width = strips
    n, d = observed.shape
    by_age = np.zeros((n, n_age))
    best = np.full(n, np.inf)
    count = np.zeros(n, np.int64)
    for i in range(n):
        if inverse[i, 0] == 0.0:
            continue
        reach = REACH_SIGMA / inverse[i, 0]
        first = max(int(np.floor((observed[i, 0] - reach - low) / width)), 0)
        last = min(int(np.floor((observed[i, 0] + reach - low) / width)), len(starts) - 2)
        for strip in range(first, last + 1):
            begin, end = starts[strip], starts[strip + 1]
            if d > 1 and inverse[i, 1] > 0.0:  # beyond it chi² is above 60
                far = 7.75 / inverse[i, 1]
                inside = models[begin:end, 1]
                end = begin + np.searchsorted(inside, observed[i, 1] + far)
                begin = begin + np.searchsorted(inside, observed[i, 1] - far)
            for j in range(begin, end):
                chi2 = 0.0
                for k in range(d):
                    pull = (models[j, k] - observed[i, k]) * inverse[i, k]
                    chi2 += pull * pull
                    if chi2 > 60.0:  # e**-30: nothing beside any likely model
                        break
                if chi2 > 60.0:
                    continue
                count[i] += 1
                best[i] = min(best[i], chi2)
                by_age[i, age_index[j]] += weight[j] * np.exp(-0.5 * chi2)
    return by_age, best, count


def _summarized(
    age: FloatArray,
    by_age: FloatArray,
    chi2: FloatArray,
    count: npt.NDArray[np.int64],
    quantiles: FloatArray,
) -> AgePosterior:
    """Turn posterior mass by age into moments and quantiles."""
    total = by_age.sum(axis=1)
    some = total > 0
    share = by_age / np.where(some, total, 1.0)[:, None]
    mean = share @ age
    variance = share @ age**2 - mean**2
    # Mass lies over the cell around each age: cumulative at its edges, linear between.
    edges = np.concatenate([age[:1], (age[1:] + age[:-1]) / 2, age[-1:]])
    below = np.concatenate([np.zeros((len(share), 1)), np.cumsum(share, axis=1)], axis=1)
    at = np.full((len(share), len(quantiles)), np.nan)
    for row in np.flatnonzero(some):
        at[row] = np.interp(quantiles, below[row], edges)
    unknown = np.where(some, 0.0, np.nan)
    return AgePosterior(mean + unknown, np.sqrt(np.maximum(variance, 0)) + unknown, at, chi2, count)


def is_subgiant(teff: FloatArray, m_k: FloatArray, fe_h: FloatArray) -> npt.NDArray[np.bool_]:
    """Say which stars lie between turn-off and giant branch, where luminosity tells age.

    Parameters
    ----------
    teff, m_k, fe_h : (n,) float64 [K, mag, dex]
        ``m_k`` is the absolute magnitude in K_s.

    Returns
    -------
    (n,) bool
        Temperatures from 300 K above the base of the giant branch to the turn-off of the oldest
        stars, a little bluer for metal-poor ones, and magnitudes between 0.5 and 3.2.

    Notes
    -----
    A cut of our own after the region in Xiang & Rix 2022, fig. 1; its edges are round numbers.

    Examples
    --------
    >>> is_subgiant(np.array([5400.0, 4600.0]), np.array([2.0, 2.0]), np.array([0.0, 0.0]))
    array([ True, False])
    """
    cool = 5100.0 - 120.0 * fe_h
    hot = 6300.0 - 250.0 * np.minimum(fe_h, 0.0)
    return np.asarray((teff > cool) & (teff < hot) & (m_k > 0.5) & (m_k < 3.2))
