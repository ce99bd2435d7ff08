"""Isochrones over a Kiel diagram."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from scalespec.figures import styled

FloatArray = npt.NDArray[np.floating[Any]]

STYLES = ("-", "--", "-.", ":")
INK = "#1f2430"


@styled
def with_isochrones(figure: Figure, lines: Mapping[str, tuple[FloatArray, FloatArray]]) -> Figure:
    """Draw isochrones over a Kiel diagram, within its limits, told apart by the kind of line.

    Parameters
    ----------
    figure : Figure
        As `figures.kiel_diagram` draws it.
    lines : mapping of str to two (n,) arrays
        By what is said of each in the legend: temperatures [K] and log g; NaN breaks a line.

    Returns
    -------
    Figure
        The same.
    """
    axes = figure.axes[0]
    limits = axes.get_xlim(), axes.get_ylim()
    for number, (name, (teff, logg)) in enumerate(lines.items()):
        style = STYLES[number % len(STYLES)]
        axes.plot(teff, logg, style, color="white", lw=2.8, zorder=5)
        axes.plot(teff, logg, style, color=INK, lw=1.2, zorder=6, label=name)
    axes.set(xlim=limits[0], ylim=limits[1])
    if lines:
        axes.legend(loc="upper left", fontsize=8)
    return figure
