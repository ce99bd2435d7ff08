"""What a catalog tells beside labels: ages, velocities that vary, reddening -> figures."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalespec.figures import BLUE, CROWD, GREY, INK, ORANGE, say_empty, styled

FloatArray = npt.NDArray[np.floating[Any]]

OLDEST_GYR = 15.0
"""Where axes of age end; the universe is 13.8."""
P_BINS = 20
"""Bins of a histogram of p-values."""
POINTS = 400
"""Steps that a cumulative distribution is drawn with."""


MANY = 10
"""Times as many stars in the first bin as in others, from which on counts are logarithmic."""


@styled
def age_planes(
    teff: FloatArray, height: FloatArray, iron: FloatArray, age: FloatArray, *, height_name: str
) -> Figure:
    """Draw dated stars: their place in an HR or Kiel diagram, age and metallicity, and the ages.

    Parameters
    ----------
    teff, height, iron, age : (n,) float [K, mag or dex, dex, Gyr]
        NaN where unknown; both axes of the diagram are reversed.
    height_name : str
        What stands up in the diagram: log g or an absolute magnitude.
    """
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    diagram, plane, ages = figure.subplots(1, 3, width_ratios=(1.15, 1, 0.9))
    diagram.set(xlabel="Teff [K]", ylabel=height_name)
    plane.set(xlabel="age [Gyr]", ylabel="[Fe/H]", xlim=(0, OLDEST_GYR))
    ages.set(xlabel="age [Gyr]", ylabel="stars", xlim=(0, OLDEST_GYR))
    known = np.isfinite(teff) & np.isfinite(height) & np.isfinite(age)
    if not known.any():
        for axes in (diagram, plane, ages):
            say_empty(axes, "no star has an age")
        return figure
    size = float(np.clip(4000 / known.sum(), 2, 16))
    color: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 13.8}
    drawn = diagram.scatter(
        teff[known], height[known], c=age[known], s=size, alpha=0.85, lw=0, **color
    )
    figure.colorbar(drawn, ax=diagram, label="age [Gyr]", pad=0.02)
    diagram.invert_xaxis()
    diagram.invert_yaxis()
    both = known & np.isfinite(iron)
    _points(plane, age[both], iron[both])
    ages.hist(age[known], bins=np.linspace(0, OLDEST_GYR, 31), color=BLUE)
    return figure


def _points(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Draw points, or their density where they are a crowd."""
    if len(x) > CROWD:
        axes.hexbin(x, y, gridsize=50, bins="log", mincnt=1, cmap="Blues", lw=0.1)
    else:
        axes.scatter(x, y, s=float(np.clip(3000 / max(len(x), 1), 2, 14)), c=BLUE, alpha=0.5, lw=0)


@styled
def variable_velocities(
    counts: npt.NDArray[np.integer[Any]], error: FloatArray, scatter: FloatArray, p: FloatArray,
    *, sure: float
) -> Figure:  # fmt: skip
    """Draw how probable the scatter of each star's velocities is, and that scatter.

    Parameters
    ----------
    counts : (P_BINS,) int
        Stars by p-value, in even bins from 0 to 1.
    error, scatter, p : (n,) float [km/s, km/s, 1]
        Of some stars: error of one visit, standard deviation of visits, p-value.
    sure : float
        Stars with a lower p-value are drawn apart.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, 1, P_BINS + 1)
    left.set(xlabel="p-value of a constant velocity", ylabel="stars", xlim=(0, 1))
    right.set(xlabel="error of one visit [km/s]", ylabel="scatter of the visits [km/s]")
    if not counts.sum():
        for axes in (left, right):
            say_empty(axes, "no star was seen twice")
        return figure
    left.bar(edges[:-1], counts, 1 / P_BINS, align="edge", color=BLUE, edgecolor="white", lw=0.5)
    # Of stars that do not vary, each bin holds as many; those above one half are hardly others.
    even = 2 * counts[P_BINS // 2 :].sum() / P_BINS
    left.axhline(even, color=INK, lw=1, ls="--", label="if no star varied")
    if counts[0] > MANY * max(even, 1.0):
        left.set_yscale("symlog", linthresh=max(float(even), 1.0))
    left.legend()
    for chosen, color, name in ((p >= sure, BLUE, "others"), (p < sure, ORANGE, f"p < {sure:g}")):
        right.scatter(error[chosen], scatter[chosen], s=9, c=color, alpha=0.6, lw=0, label=name)
    high = float(np.max(error, initial=1.0))
    right.plot([0, high], [0, high], color=GREY, lw=0.8, ls="--")
    right.set(xscale="log", yscale="log")
    right.legend()
    return figure


@styled
def gains(singles: FloatArray, stars: FloatArray, *, threshold: float, rate: float) -> Figure:
    """Draw which share of mock single stars, and of stars, gain more chi2 by a second star.

    Parameters
    ----------
    singles, stars : (n,), (m,) float
        Gains of chi2; those below 1 are drawn at 1.
    threshold : float
        Above it, stars are two.
    rate : float
        Share of single stars that are above it.
    """
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="gain of χ² by a second star", ylabel="share of stars that gain more")
    if not len(singles) or not len(stars):
        say_empty(axes, "no star was asked for")
        return figure
    for values, color, name in ((singles, GREY, "mock single stars"), (stars, BLUE, "stars")):
        n = len(values)
        places = np.unique(np.geomspace(1, n, POINTS).astype(int))  # from the greatest gain on
        gain = np.sort(values)[::-1][places - 1]
        axes.step(np.maximum(gain, 1.0), places / n, where="post", color=color, label=name)
    axes.axvline(threshold, color=ORANGE, lw=1, ls="--", label=f"threshold, {threshold:.3g}")
    axes.axhline(rate, color=INK, lw=0.8, ls=":")
    axes.set(xscale="log", yscale="log")
    axes.legend()
    return figure


@styled
def distribution(values: FloatArray, *, name: str, unit: str = "", log: bool = False) -> Figure:
    """Draw how many stars have which value.

    Parameters
    ----------
    values : (n,) float
        NaN where unknown; all but the wildest half percent are shown.
    name, unit : str
    log : bool
        Whether counts are drawn by their logarithm.
    """
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=f"{name} [{unit}]" if unit else name, ylabel="stars")
    known = values[np.isfinite(values)]
    if not len(known):
        say_empty(axes, "no star has one")
        return figure
    low, high = np.quantile(known, [0.0025, 0.9975])
    axes.hist(known, bins=50, range=(float(low), float(max(high, low + 1e-6))), color=BLUE)
    if log:
        axes.set_yscale("log")
    return figure
