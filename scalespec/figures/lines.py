"""Derivatives of a model's spectra by label, and the lines that are known to make them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from scalespec.figures import BLUE, GREY, INK, ORANGE, styled

FloatArray = npt.NDArray[np.floating[Any]]
ROOM = 1.5
"""A panel's height, in units of a derivative that few pixels exceed: names stand about curves."""
MOST = 0.998
"""Part of the pixels whose derivatives fit into a panel; without it, one line would be all."""


class Panel(NamedTuple):
    """One label's derivatives.

    Attributes
    ----------
    title : str
        The label, as printed.
    per : str
        Of what change, as ``100 K``.
    curves : mapping of str to (n_pixel,) float
        Derivative of normalized flux, by the kind of star; at most two.
    lines : (n_line,) float [Å]
        Where known lines lie.
    named : sequence of (float, str)
        Wavelength and name of the strongest features that are known lines.
    """

    title: str
    per: str
    curves: Mapping[str, FloatArray]
    lines: FloatArray
    named: Sequence[tuple[float, str]]


@styled
def line_gradients(wavelength: FloatArray, panels: Sequence[Panel]) -> Figure:
    """Draw derivatives, a label to a panel, with ticks at known lines and names at strong ones.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å, vacuum]
    panels : sequence of Panel
        At least one.
    """
    figure = Figure(figsize=(11, 0.8 + 1.75 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        for (name, curve), color in zip(panel.curves.items(), (BLUE, ORANGE), strict=False):
            axes.plot(wavelength, curve, color=color, lw=0.7, label=name)
        most = max(float(np.quantile(np.abs(c), MOST)) for c in panel.curves.values()) or 1.0
        axes.set_ylim(-ROOM * most, ROOM * most)
        axes.axhline(0, color=GREY, lw=0.5)
        axes.set_ylabel(f"dF/d{panel.title}\nper {panel.per}", fontsize=9)
        axes.vlines(panel.lines, -ROOM * most, -0.9 * ROOM * most, color=GREY, lw=0.5)
        for place, name in panel.named:
            at = int(np.argmin(np.abs(wavelength - place)))
            value = max((float(c[at]) for c in panel.curves.values()), key=abs)
            up = value > 0
            value = float(np.clip(value, -1.1 * most, 1.1 * most))
            axes.annotate(
                name, (place, value), xytext=(0, 3 if up else -3), textcoords="offset points",
                ha="center", va="bottom" if up else "top", fontsize=7.5, color=INK,
            )  # fmt: skip
    all_axes[0].legend(loc="upper right", ncols=2, fontsize=8)
    all_axes[-1].set_xlabel("rest wavelength, vacuum [Å]")
    all_axes[-1].set_xlim(float(wavelength[0]), float(wavelength[-1]))
    return figure
