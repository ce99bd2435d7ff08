"""Arrays -> matplotlib figures: corrections with the data they were learned from, error floors."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalespec.figures import BLUE, GREEN, GREY, INK, ORANGE, say_empty, spread, styled

FloatArray = npt.NDArray[np.floating[Any]]

COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00")
"""Of luminosity classes, dwarfs first; distinct to color-blind readers."""
SHAPES = ("o", "^", "s", "D", "v")


@styled
def trend_with_data(
    points: Mapping[str, npt.NDArray[Any]],
    curves: Mapping[str, tuple[FloatArray, FloatArray, FloatArray]],
    *,
    title: str,
    unit: str,
    what: str,
) -> Figure:
    """Draw what stars say of a trend in temperature, the trend fitted, and residuals below.

    Parameters
    ----------
    points : mapping of str to (n,) array
        ``teff`` [K], ``value`` and ``kind`` (class, as a number) of stars.
    curves : mapping of str to three (n_grid,) arrays
        Per class, in the order of the numbers: temperatures, trend and its error.
    title, unit, what : str
        Of the figure and its vertical axis.
    """
    figure = Figure(figsize=(5.4, 5.2), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    top.set(ylabel=f"{what} [{unit}]" if unit else what, title=title)
    below.set(xlabel="Teff [K]", ylabel="residual")
    teff, value, kind = (np.asarray(points[name]) for name in ("teff", "value", "kind"))
    if not len(teff):
        say_empty(top, "no star speaks of it")
        return figure
    residual = np.full(len(value), np.nan)
    for number, (name, (grid, trend, error)) in enumerate(curves.items()):
        here = kind == number
        residual[here] = value[here] - np.interp(teff[here], grid, np.nan_to_num(trend))
        look = (COLORS[number % 5], SHAPES[number % 5])
        _points(top, teff[here], value[here], look)
        _points(below, teff[here], residual[here], look)
        top.plot(grid, trend, color=look[0], lw=2, label=f"{name}, {int(here.sum()):,} shown")
        top.fill_between(grid, trend - error, trend + error, color=look[0], alpha=0.25, lw=0)
    found = spread(residual)
    below.set_title(f"scatter {found.scatter:.3g} {unit} about the trend", fontsize=8.5)
    for axes, y in ((top, value), (below, residual)):
        low, high = np.nanquantile(y, [0.01, 0.99])
        margin = 0.15 * (high - low) or 0.1
        axes.set(ylim=(low - margin, high + margin))
        axes.axhline(0, color=GREY, lw=0.8, ls="--")
    first = next(iter(curves.values()))[0]
    margin = 0.05 * (first[-1] - first[0])
    top.set_xlim(first[-1] + margin, first[0] - margin)
    top.legend(loc="best")
    return figure


def _points(axes: Axes, x: FloatArray, y: FloatArray, look: tuple[str, str]) -> None:
    """Draw single stars faintly, and their running medians."""
    color, shape = look
    axes.scatter(x, y, s=5, c=color, marker=shape, alpha=0.25, lw=0)
    middle_x, middle = _running(x, y)
    axes.plot(middle_x, middle, shape, color=INK, ms=4, mfc=color, mew=0.6)


def _running(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return medians of at most 15 groups of as many stars each."""
    order = np.argsort(x, kind="stable")
    groups = [g for g in np.array_split(order, min(15, max(len(x) // 10, 1))) if len(g)]
    middle = [(np.median(x[g]), np.median(y[g])) for g in groups]
    return tuple(np.array(middle).reshape(-1, 2).T)  # type: ignore[return-value]


@styled
def error_floors(
    edges: Sequence[float],
    floors: Mapping[str, tuple[FloatArray, FloatArray]],
    used: FloatArray,
    *,
    title: str,
    unit: str,
) -> Figure:
    """Draw error floors by bin of S/N, as measured and as added to errors.

    Parameters
    ----------
    edges : sequence of float
        Lower edges of the bins.
    floors : mapping of str to two (n_bin,) arrays
        By where they are from: floor and its error, NaN where not known.
    used : (n_bin,) float
    title, unit : str
    """
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(edges))
    names = [f"{a:g}–{b:g}" for a, b in pairwise(edges)] + [f"> {edges[-1]:g}"]
    axes.set(xlabel="S/N", ylabel=f"error floor [{unit}]" if unit else "error floor", title=title)
    axes.set_xticks(place, names)
    axes.step(place, used, where="mid", color=INK, lw=1.4, label="added to errors")
    for number, (name, (floor, error)) in enumerate(floors.items()):
        shape, color = SHAPES[number % 5], COLORS[number % 5]
        axes.errorbar(place, floor, error, fmt=shape, color=color, ms=5, capsize=2, label=name)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
