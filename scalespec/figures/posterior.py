"""Draws from a posterior -> a corner plot: every label against every other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalespec.figures import BLUE, GREEN, INK, ORANGE, styled

FloatArray = npt.NDArray[np.floating[Any]]
LEVELS = (1.0, 2.0)
"""Of contours and ellipses, in sigmas of a normal distribution of two dimensions."""
BINS, REACH = 28, 4.0
"""Bins of a histogram, and how many sigmas a panel shows to either side."""


class Normal(NamedTuple):
    """A normal distribution to draw beside the draws: (n,) mean, (n, n) covariance."""

    mean: FloatArray
    covariance: FloatArray


@styled
def corner(
    draws: FloatArray,
    names: Sequence[str],
    *,
    fit: Normal | None = None,
    truth: FloatArray | None = None,
    title: str = "",
) -> Figure:
    """Draw marginal distributions, one label on the diagonal and two below it.

    Parameters
    ----------
    draws : (n_draw, n) float
        NaN nowhere.
    names : sequence of n str
        With units.
    fit : Normal, optional
        What a fit says: orange ellipses of one and two sigmas, and curves.
    truth : (n,) float, optional
        Green lines; NaN where unknown.
    title : str
        Said above.

    Raises
    ------
    ValueError
        If there are not as many names as labels, or fewer draws than two.
    """
    n_draw, n = draws.shape
    if n != len(names) or n_draw < 2:
        raise ValueError(f"{n_draw} draws of {n} labels want names of each, got {list(names)}")
    figure = Figure(figsize=(1.7 * n + 0.8, 1.7 * n + 0.6), layout="constrained")
    panels = figure.subplots(n, n, sharex="col", squeeze=False)
    middle = np.median(draws, axis=0)
    width = np.std(draws, axis=0)
    limits = [(m - REACH * w, m + REACH * w) for m, w in zip(middle, width, strict=True)]
    for row in range(n):
        for column in range(n):
            axes = panels[row, column]
            axes.tick_params(labelsize=7.5)
            axes.locator_params(nbins=3)
            if column > row:
                axes.axis("off")
            elif column == row:
                _one(axes, draws[:, row], (limits[row], fit, row))
            else:
                axes.set_ylim(limits[row])
                _two(axes, draws[:, [column, row]], (limits[column], limits[row]))
                if fit is not None:
                    _ellipses(axes, fit, column, row)
            if truth is not None and column <= row:
                _lines(axes, truth[column], truth[row] if column < row else np.nan)
            axes.set_xlim(limits[column])
            _name(axes, names, row, column, n)
    figure.suptitle(title, fontsize=10.5, fontweight="bold", x=0.98, ha="right")
    return figure


def _name(axes: Axes, names: Sequence[str], row: int, column: int, n: int) -> None:
    """Write names at the outer edge, and no numbers within."""
    axes.tick_params(labelbottom=row == n - 1, labelleft=column == 0 and row > 0)
    if row == n - 1:
        axes.set_xlabel(names[column], fontsize=9)
        axes.tick_params(axis="x", rotation=35)
    if column == 0 and row > 0:
        axes.set_ylabel(names[row], fontsize=9)


def _one(
    axes: Axes, draws: FloatArray, how: tuple[tuple[float, float], Normal | None, int]
) -> None:
    """Draw one label's histogram, and the fit's normal over it."""
    limits, fit, k = how
    axes.hist(draws, bins=BINS, range=limits, density=True, color=BLUE, alpha=0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if fit is not None:
        sigma = float(np.sqrt(fit.covariance[k, k]))
        grid = np.linspace(*limits, 200)
        curve = np.exp(-0.5 * ((grid - fit.mean[k]) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        axes.plot(grid, curve, color=ORANGE, lw=1.3)


def _two(
    axes: Axes, draws: FloatArray, limits: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    """Draw the density of two labels: darker where it is higher."""
    counts, x, y = np.histogram2d(draws[:, 0], draws[:, 1], bins=BINS, range=limits)
    extent = (float(x[0]), float(x[-1]), float(y[0]), float(y[-1]))
    axes.imshow(
        np.where(counts > 0, counts, np.nan).T, origin="lower", extent=extent, aspect="auto",
        cmap="Blues", vmin=-0.15 * float(counts.max()), interpolation="nearest",
    )  # fmt: skip


def ellipse(
    mean: FloatArray, covariance: FloatArray, sigma: float, *, n: int = 90
) -> tuple[FloatArray, FloatArray]:
    """Return a curve around a normal distribution of two dimensions, `sigma` from its middle.

    Examples
    --------
    >>> x, y = ellipse(np.zeros(2), np.diag([4.0, 1.0]), 1.0, n=4)
    >>> x.round(6).tolist(), y.round(6).tolist()
    ([2.0, -1.0, -1.0, 2.0], [0.0, 0.866025, -0.866025, -0.0])
    """
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-np.abs(vectors[0]))  # the first axis nearest to x, so that it is told
    angle = np.linspace(0, 2 * np.pi, n)
    circle = sigma * np.stack([np.cos(angle), np.sin(angle)])
    axes = vectors[:, order] * np.sqrt(np.maximum(values[order], 0))
    axes *= np.where(np.diag(axes) < 0, -1.0, 1.0)
    place = axes @ circle
    return mean[0] + place[0], mean[1] + place[1]


def _ellipses(axes: Axes, fit: Normal, column: int, row: int) -> None:
    pair = [column, row]
    for sigma in LEVELS:
        x, y = ellipse(fit.mean[pair], fit.covariance[np.ix_(pair, pair)], sigma)
        axes.plot(x, y, color=ORANGE, lw=1.2)


def _lines(axes: Axes, x: float, y: float) -> None:
    style: dict[str, Any] = {"color": GREEN, "lw": 1.1, "ls": "--", "zorder": 5}
    if np.isfinite(x):
        axes.axvline(x, **style)
    if np.isfinite(y):
        axes.axhline(y, **style)
        axes.plot([x], [y], "s", color=GREEN, ms=4, mec=INK, mew=0.4, zorder=6)
