"""A catalog as a whole: where its stars are in the sky and among abundances -> figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from scalespec.figures import BLUE, CROWD, GREY, say_empty, styled

FloatArray = npt.NDArray[np.floating[Any]]


@styled
def sky_map(ra: FloatArray, dec: FloatArray) -> Figure:
    """Draw where stars are, in equatorial coordinates; right ascension grows to the left.

    Parameters
    ----------
    ra, dec : (n,) float [deg, ICRS]
        NaN where unknown.
    """
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.subplots(subplot_kw={"projection": "mollweide"})
    axes.grid(color=GREY, lw=0.4, alpha=0.6)
    hours = np.arange(-150, 151, 60)
    axes.set_xticks(np.radians(hours), [f"{-h % 360}°" for h in hours])
    known = np.isfinite(ra) & np.isfinite(dec)
    if not known.any():
        say_empty(axes, "no star has a position")
        return figure
    east = (np.asarray(ra, np.float64)[known] + 180) % 360 - 180
    size = float(np.clip(4000 / known.sum(), 0.4, 12))
    place = (np.radians(-east), np.radians(np.asarray(dec, np.float64)[known]))
    axes.scatter(*place, s=size, c=BLUE, alpha=0.5, lw=0)
    return figure


@styled
def abundance_planes(iron: FloatArray, ratios: Mapping[str, FloatArray], *, name: str) -> Figure:
    """Draw abundance ratios against metallicity, an element to a panel.

    Parameters
    ----------
    iron : (n,) float [dex]
        Metallicity.
    ratios : mapping of str to (n,) float [dex]
        Ratio by its name; NaN where unknown or not to be trusted.
    name : str
        What the metallicity is called.
    """
    columns = min(max(len(ratios), 1), 4)
    rows = -(-max(len(ratios), 1) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(ratios) :]:
        axes.axis("off")
    if not ratios:
        say_empty(panels[0], "no abundance ratio")
    for axes, (title, ratio) in zip(panels, ratios.items(), strict=False):
        known = np.isfinite(iron) & np.isfinite(ratio)
        axes.set(xlabel=name, ylabel=title)
        axes.axhline(0, color=GREY, lw=0.6, ls="--")
        if not known.any():
            say_empty(axes, "no star to be trusted")
        elif known.sum() > CROWD:
            axes.hexbin(iron[known], ratio[known], gridsize=60, bins="log", mincnt=1, cmap="Blues")
        else:
            size = float(np.clip(2000 / known.sum(), 2, 14))
            axes.scatter(iron[known], ratio[known], s=size, c=BLUE, alpha=0.6, lw=0)
    return figure
