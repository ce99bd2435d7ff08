"""How right predicted labels are: the field's numbers, their errors, and whether two models differ.

A residual is prediction minus truth. Repeated splits test some stars several times: errors are by
the bootstrap of stars, never of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

STATISTICS = ("mae", "sd", "median", "median_abs")
"""Mean absolute residual, standard deviation about the mean, median, median absolute residual."""


@dataclass(frozen=True)
class Score:
    """What residuals amount to.

    Attributes
    ----------
    n : int
        Residuals.
    values : (4,) float64
        In the order of `STATISTICS`.
    low, high : (4,) float64
        Ends of a 68 % interval, by the bootstrap of stars.
    """

    n: int
    values: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def statistics(residual: FloatArray) -> npt.NDArray[np.float64]:
    """Return the four `STATISTICS` of some residuals.

    Parameters
    ----------
    residual : (n,) float
        Prediction - truth; those that are not finite do not count.

    Returns
    -------
    (4,) float64
        NaN of nothing.

    Examples
    --------
    >>> statistics(np.array([-1.0, 1.0, 3.0, np.nan])).round(3).tolist()
    [1.667, 1.633, 1.0, 1.0]
    """
    known = np.asarray(residual, np.float64)
    known = known[np.isfinite(known)]
    if not known.size:
        return np.full(len(STATISTICS), np.nan)
    size = np.abs(known)
    return np.array([size.mean(), known.std(), np.median(known), np.median(size)])


def score(residual: FloatArray, star: IntArray, *, n_bootstrap: int = 200, seed: int = 0) -> Score:
    """Return the statistics of residuals with intervals from resampled stars.

    Parameters
    ----------
    residual : (n,) float
    star : (n,) int
        Which star each is of; all its residuals are drawn together.
    n_bootstrap : int
        Resamplings; 0 makes intervals of NaN.
    seed : int

    Raises
    ------
    ValueError
        If the arrays' lengths differ.

    References
    ----------
    Field & Welsh 2007, J. R. Stat. Soc. B 69, 369 (bootstrap of clusters).

    Examples
    --------
    >>> one = score(np.array([1.0, -1.0, 2.0]), np.array([1, 1, 2]))
    >>> one.n, float(one.values[0].round(3)), bool(one.low[0] <= one.values[0] <= one.high[0])
    (3, 1.333, True)
    """
    residual, star = np.asarray(residual, np.float64), np.asarray(star)
    if residual.shape != star.shape:
        raise ValueError(f"{residual.shape} residuals of {star.shape} stars")
    known = np.isfinite(residual)
    residual, star = residual[known], star[known]
    values = statistics(residual)
    if not residual.size or not n_bootstrap:
        nothing = np.full(len(STATISTICS), np.nan)
        return Score(len(residual), values, nothing, nothing)
    rng = np.random.default_rng(seed)
    drawn = np.array([statistics(residual[rows]) for rows in _resampled(star, n_bootstrap, rng)])
    low, high = np.quantile(drawn, [0.16, 0.84], axis=0)
    return Score(len(residual), values, low, high)


def _resampled(star: IntArray, n: int, rng: np.random.Generator) -> Any:
    """Yield the rows of `n` draws of as many stars as there are."""
    order = np.argsort(star, kind="stable")
    _, first, count = np.unique(star[order], return_index=True, return_counts=True)
    for _ in range(n):
        chosen = rng.integers(len(first), size=len(first))
        several = count[chosen]
        within = np.arange(several.sum()) - np.repeat(np.cumsum(several) - several, several)
        yield order[np.repeat(first[chosen], several) + within]


@dataclass(frozen=True)
class Difference:
    """How much worse one model is than another on the same stars.

    Attributes
    ----------
    mean : float
        Mean absolute residual of the one less that of the other; positive: the one is worse.
    low, high : float
        68 % interval, by the bootstrap of stars.
    p : float
        Two-sided probability of a difference at least as large if there were none, with the
        variance between repeated splits corrected for their common training stars; NaN of one.
    """

    mean: float
    low: float
    high: float
    p: float


def compare_pairs(
    one: Mapping[int, FloatArray],
    other: Mapping[int, FloatArray],
    star: Mapping[int, IntArray],
    *,
    test_to_training: float,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Difference:
    """Compare two models whose residuals are paired, star by star, in several splits.

    Parameters
    ----------
    one, other : mapping of int to (n,) float
        Split -> residuals of the same rows; rows that either lacks do not count.
    star : mapping of int to (n,) int
    test_to_training : float
        Test over training stars: how much the splits overlap.
    n_bootstrap : int
    seed : int

    Raises
    ------
    ValueError
        If the splits differ, or there is none.

    References
    ----------
    Nadeau & Bengio 2003, Machine Learning 52, 239: the corrected resampled t-test.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> truth = {s: rng.normal(size=500) for s in range(5)}
    >>> worse = {s: 1.5 * r for s, r in truth.items()}
    >>> stars = {s: np.arange(500) for s in range(5)}
    >>> found = compare_pairs(worse, truth, stars, test_to_training=3 / 7)
    >>> bool(found.low > 0), found.p < 0.01
    (True, True)
    """
    if not one or set(one) != set(other) or set(one) != set(star):
        raise ValueError(f"splits {sorted(one)} and {sorted(other)} are not the same")
    splits = sorted(one)
    gaps = {s: np.abs(np.asarray(one[s])) - np.abs(np.asarray(other[s])) for s in splits}
    every = np.concatenate([gaps[s] for s in splits])
    stars = np.concatenate([np.asarray(star[s]) for s in splits])
    known = np.isfinite(every)
    if not known.any():
        return Difference(np.nan, np.nan, np.nan, np.nan)
    every, stars = every[known], stars[known]
    rng = np.random.default_rng(seed)
    drawn = [every[rows].mean() for rows in _resampled(stars, n_bootstrap, rng)]
    low, high = np.quantile(drawn, [0.16, 0.84]) if drawn else (np.nan, np.nan)
    means = np.array([np.nanmean(gaps[s]) for s in splits if np.isfinite(gaps[s]).any()])
    p = corrected_t_test(means, test_to_training)
    return Difference(float(every.mean()), float(low), float(high), p)


def corrected_t_test(differences: FloatArray, test_to_training: float) -> float:
    """Return the two-sided p of a mean of differences from overlapping splits being 0.

    Parameters
    ----------
    differences : (n,) float
        One per split.
    test_to_training : float
        Test over training stars.

    Returns
    -------
    float
        NaN of fewer than two splits; 1 if no difference varies from 0, 0 if it is always the same.

    References
    ----------
    Nadeau & Bengio 2003, Machine Learning 52, 239, eq. 9.

    Examples
    --------
    >>> round(corrected_t_test(np.array([1.0, 1.2, 0.8, 1.1, 0.9]), 0.43), 5)
    0.00134
    """
    n = len(differences)
    if n < 2:
        return float("nan")
    mean, variance = float(np.mean(differences)), float(np.var(differences, ddof=1))
    if not variance:
        return 1.0 if not mean else 0.0
    statistic = abs(mean) / np.sqrt((1 / n + test_to_training) * variance)
    return float(2 * student.sf(statistic, n - 1))
