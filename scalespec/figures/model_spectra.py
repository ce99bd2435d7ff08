"""What a model of spectra has learned: its scatter, its lines at large, families of its spectra."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalespec.figures import BLUE, GREY, INK, ORANGE, say_empty, styled

FloatArray = npt.NDArray[np.floating[Any]]
Named = Sequence[tuple[float, str]]
"""Wavelengths [Å] of features, and what is known there; "" where nothing is."""
WAVELENGTH = "rest wavelength, vacuum [Å]"


@styled
def scatter_spectrum(
    wavelength: FloatArray, flux: FloatArray, scatter: FloatArray, *, named: Named = ()
) -> Figure:
    """Draw a model's scatter of each pixel below the spectrum of one star.

    Parameters
    ----------
    wavelength, flux, scatter : (n_pixel,) float
        Flux and scatter in units of the continuum; NaN where nothing was learned.
    named : sequence of (float, str)
        Where the scatter is large.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.5))
    top.plot(wavelength, np.where(np.isfinite(scatter), flux, np.nan), color=INK, lw=0.5)
    top.set(ylabel="flux of a star")
    below.plot(wavelength, scatter, color=BLUE, lw=0.6)
    below.set(xlabel=WAVELENGTH, ylabel="scatter of the model", xlim=wavelength[[0, -1]])
    most = float(np.nanmax(np.append(scatter, 0.0)))
    if most == 0:
        say_empty(below, "the model has no scatter of its own")
        return figure
    below.axhline(float(np.nanmedian(scatter)), color=GREY, lw=0.8, ls="--", label="median")
    below.set_ylim(0, 1.25 * most)
    for place, name in named:
        value = float(scatter[int(np.argmin(np.abs(wavelength - place)))])
        below.annotate(
            name or f"{place:.0f}", (place, value), xytext=(0, 3), textcoords="offset points",
            ha="center", va="bottom", fontsize=7.5, color=INK,
        )  # fmt: skip
    below.legend(loc="upper right")
    return figure


class Close(NamedTuple):
    """Derivatives by one label around one line.

    Attributes
    ----------
    title : str
        The label, as printed.
    per : str
        Of what change.
    wavelength, curve : (n_pixel,) float
        A few Å.
    lines : sequence of (float, str)
        Known lines there, vacuum Å.
    """

    title: str
    per: str
    wavelength: FloatArray
    curve: FloatArray
    lines: Named


@styled
def close_gradients(rows: Sequence[Sequence[Close]]) -> Figure:
    """Draw derivatives around lines, a label to a row, each line at its place in vacuum.

    Parameters
    ----------
    rows : sequence of sequences of Close
        One row at least.
    """
    n_column = max(len(row) for row in rows)
    figure = Figure(figsize=(2.75 * n_column, 2.3 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), n_column, squeeze=False, sharey="row")
    for row, line in zip(rows, panels, strict=True):
        for axes in line[len(row) :]:
            axes.axis("off")
        for one, axes in zip(row, line, strict=False):
            _close(axes, one)
        line[0].set_ylabel(f"dF/d{row[0].title}\nper {row[0].per}", fontsize=9)
    figure.supxlabel(WAVELENGTH, fontsize=10)
    return figure


def _close(axes: Axes, one: Close) -> None:
    axes.axhline(0, color=GREY, lw=0.5)
    axes.plot(one.wavelength, one.curve, color=BLUE, lw=1.0, drawstyle="steps-mid")
    axes.set_xlim(float(one.wavelength[0]), float(one.wavelength[-1]))
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.tick_params(labelsize=8)
    axes.margins(y=0.2)
    middle = float(one.wavelength[len(one.wavelength) // 2])
    room = 0.45 * float(np.ptp(one.wavelength))  # that a name takes
    named: list[float] = []
    for place, name in sorted(one.lines, key=lambda line: abs(line[0] - middle)):
        axes.axvline(place, color=ORANGE, lw=1.0, ls="--")
        if place < middle + room / 2 and all(abs(place - other) > room for other in named):
            named.append(place)
            axes.text(
                place, 0.02, f" {name} {place:.2f}", transform=axes.get_xaxis_transform(),
                fontsize=7.5, color=INK, va="bottom",
            )  # fmt: skip


@styled
def offset_spectra(
    wavelength: FloatArray,
    spectra: FloatArray,
    values: FloatArray,
    *,
    name: str,
    named: Named = (),
    offset: float = 0.25,
) -> Figure:
    """Draw spectra one above another, colored by what differs between them.

    Parameters
    ----------
    wavelength : (n_pixel,) float
    spectra : (n, n_pixel) float
        In units of the continuum.
    values : (n,) float
        What differs, the lowest spectrum's first.
    name : str
        What that is called.
    named : sequence of (float, str)
        Known lines, drawn through all.
    offset : float
        Between two spectra.
    """
    n = len(spectra)
    figure = Figure(figsize=(11, 2.2 + 0.55 * n), layout="constrained")
    axes = figure.subplots()
    low, high = float(np.min(values)), float(np.max(values))
    colors = mpl.colormaps["viridis"]
    for number, (flux, value) in enumerate(zip(spectra, values, strict=True)):
        color = colors(0.9 * (value - low) / ((high - low) or 1.0))
        axes.plot(wavelength, flux + offset * number, color=color, lw=1.0)
        axes.text(
            1.005, 1 + offset * number, f"{value:+.2f}", transform=axes.get_yaxis_transform(),
            color=color, fontsize=9, va="center",
        )  # fmt: skip
    top = 1 + offset * (n - 1) + 0.06
    for place, said in named:
        axes.axvline(place, color=GREY, lw=0.6, ls=":", zorder=0)
        axes.text(place, top, said, rotation=90, fontsize=7.5, ha="center", va="bottom", color=INK)
    axes.set(
        xlabel=WAVELENGTH, ylabel="flux / continuum, shifted", xlim=wavelength[[0, -1]],
        title=name,
    )  # fmt: skip
    axes.set_ylim(float(np.min(spectra[0])) - 0.04, top + 0.16 * bool(len(named)))
    return figure
