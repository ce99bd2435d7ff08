"""What preprocessing makes of spectra, and what a survey of them holds: arrays -> figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from scalespec.figures import BLUE, GREEN, GREY, INK, ORANGE, grey_out, say_empty, styled

FloatArray = npt.NDArray[np.floating[Any]]

PURPLE, SKY = "#CC79A7", "#56B4E9"
COLORS = (INK, ORANGE, BLUE, GREEN, PURPLE, SKY)
"""Of arms and classes, one after another: Okabe & Ito's."""
WAVELENGTH = "wavelength, vacuum [Å]"
MOST_CLASSES = 8
"""Classes of spectra that are drawn, the most frequent ones."""
FEW = 0.1
"""Least part of a class's spectra with information where its mean is drawn: few scatter wildly."""
COMPONENTS = 4
"""Principal components that are drawn."""


class Curve(NamedTuple):
    """A spectrum to draw: (n_pixel,) wavelength [Å], flux, ivar (0: no information); its name."""

    wavelength: FloatArray
    flux: FloatArray
    ivar: FloatArray
    name: str = ""


@styled
def before_after(
    before: Sequence[Curve],
    after: Curve,
    *,
    title: str = "",
    units: tuple[str, str] = ("", ""),
    bands: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Draw a spectrum as it was read, arm by arm, and below what preprocessing made of it.

    Parameters
    ----------
    before : sequence of Curve
        Its arms; of a survey without arms the spectrum.
    after : Curve
        The same spectrum preprocessed.
    title : str
        Said above.
    units : (str, str)
        Of flux before and after.
    bands : mapping of str to (float, float), optional
        Limits [Å] of the gratings of an instrument that was simulated.
    """
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True)
    for curve, color in zip(before, _colors(len(before)), strict=True):
        _draw(top, curve, color)
    _draw(below, after, INK)
    if len(before) == 1:
        grey_out(top, before[0].wavelength, before[0].ivar <= 0)
    elif before:
        top.legend(loc="upper right", ncols=len(before))
    grey_out(below, after.wavelength, after.ivar <= 0)
    for axes, curves, name in ((top, before, "before"), (below, [after], "after")):
        axes.set_ylabel(f"{name}: {units[axes is below] or 'flux'}")
        _frame(axes, curves)
    ends = [known[[0, -1]] for c in (*before, after) if len(known := c.wavelength[c.ivar > 0])]
    if ends:
        reach = np.concatenate([after.wavelength[[0, -1]], *ends])
        below.set_xlim(float(reach.min()), float(reach.max()))
    for name, (low, high) in (bands or {}).items():
        below.axvline(high, color=GREY, lw=0.9, ls=":")
        below.text(max(low, below.get_xlim()[0]), 0.03, f"  {name}", color=INK, fontsize=9,
                   weight="bold", transform=below.get_xaxis_transform())  # fmt: skip
    top.set_title(title)
    below.set_xlabel(WAVELENGTH)
    return figure


def _colors(n: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(n)]


def _draw(axes: Axes, curve: Curve, color: str) -> None:
    """Draw pixels with information, and 1 sigma to either side of them."""
    good = curve.ivar > 0
    flux = np.where(good, curve.flux, np.nan)
    sigma = 1 / np.sqrt(np.where(good, curve.ivar, np.nan).astype(np.float64))
    around: dict[str, Any] = {"color": color, "alpha": 0.25, "lw": 0, "step": "mid"}
    axes.fill_between(curve.wavelength, flux - sigma, flux + sigma, **around)
    style: dict[str, Any] = {"drawstyle": "steps-mid", "label": curve.name}
    axes.plot(curve.wavelength, flux, color=color, lw=0.7, **style)


def _frame(axes: Axes, curves: Sequence[Curve]) -> None:
    """Set limits that a few wild pixels do not widen."""
    known = np.concatenate([np.zeros(0), *(c.flux[c.ivar > 0] for c in curves)])
    if not len(known):
        say_empty(axes, "no pixel holds information")
        return
    low, high = np.quantile(known, [0.005, 0.995])
    margin = 0.12 * (high - low) or 0.1
    axes.set_ylim(float(low - margin), float(high + margin))


@styled
def snr_histogram(edges: FloatArray, counts: npt.NDArray[np.integer[Any]]) -> Figure:
    """Draw how many spectra have what S/N.

    Parameters
    ----------
    edges : (n,) float
        Lower edges of the bins, increasing; the last bin has no end.
    counts : (n,) int
        Spectra in each.
    """
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="S/N, median pixel", ylabel="spectra", xscale="log")
    there = np.flatnonzero(counts)
    if not len(there):
        say_empty(axes, "no spectrum")
        return figure
    # The first bin begins at 0 and the last has no end: on a logarithm they are as wide as others.
    ratio = edges[-1] / edges[-2]
    left = np.where(edges > 0, edges, edges[1] / ratio)
    right = np.append(edges[1:], edges[-1] * ratio)
    bars: dict[str, Any] = {"align": "edge", "color": BLUE, "edgecolor": "white", "lw": 0.5}
    axes.bar(left, counts, right - left, **bars)
    axes.set_xlim(left[max(there[0] - 2, 0)], right[min(there[-1] + 2, len(right) - 1)])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


@styled
def class_means(
    wavelength: FloatArray,
    mean: FloatArray,
    scatter: FloatArray,
    coverage: FloatArray,
    *,
    names: Sequence[str],
    rows: Sequence[int],
) -> Figure:
    """Draw the mean spectrum of each class, one above another, and where pixels hold information.

    Parameters
    ----------
    wavelength : (n_pixel,) float
    mean, scatter, coverage : (n_class, n_pixel) float
        Mean flux, its scatter from star to star, part of the spectra with information.
    names : sequence of str
        Of the classes.
    rows : sequence of int
        Spectra in each; the most frequent classes are drawn.
    """
    some = coverage > FEW
    frequent = np.argsort(-np.asarray(rows), kind="stable")
    shown = np.sort(frequent[some[frequent].any(axis=1)][:MOST_CLASSES])
    figure = Figure(figsize=(11, 2.6 + 0.8 * len(shown)), layout="constrained")
    ratios = (1.2 + 0.8 * len(shown), 1.2)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    what = "mean flux / continuum, shifted" if len(shown) > 1 else "mean flux"
    top.set(ylabel=what, xlim=(wavelength[0], wavelength[-1]))
    below.set(xlabel=WAVELENGTH, ylabel="coverage", ylim=(0, 1.05))
    for place, (k, color) in enumerate(zip(shown, _colors(len(shown)), strict=True)):
        level = np.where(some[k], mean[k], np.nan) + 0.6 * place
        around: dict[str, Any] = {"color": color, "alpha": 0.2, "lw": 0}
        top.fill_between(wavelength, level - scatter[k], level + scatter[k], **around)
        top.plot(wavelength, level, color=color, lw=0.8)
        end = np.flatnonzero(some[k])[-1]
        text = f"{names[k]}  ({rows[k]:,})"
        top.annotate(text, (wavelength[end], level[end]), color=color, fontsize=9, ha="right",
                         xytext=(0, 9), textcoords="offset points", weight="bold")  # fmt: skip
    weights = np.asarray(rows, np.float64)
    total = weights @ coverage / max(weights.sum(), 1)
    below.fill_between(wavelength, 0, total, color=GREY, alpha=0.5, lw=0, step="mid")
    known = np.concatenate(
        [np.zeros(0), *((mean[k] + 0.6 * i)[some[k]] for i, k in enumerate(shown))]
    )
    if len(known):
        low, high = np.quantile(known, [0.003, 0.997])
        top.set_ylim(float(low) - 0.15, float(high) + 0.35)
    else:
        say_empty(top, "no pixel holds information")
    return figure


@styled
def components(wavelength: FloatArray, vectors: FloatArray, part: FloatArray) -> Figure:
    """Draw the first principal components of the spectra.

    Parameters
    ----------
    wavelength : (n_pixel,) float
    vectors : (n_component, n_pixel) float
        Unit vectors, the one of the greatest variance first.
    part : (n_component,) float
        Part of all variance in each.
    """
    n = min(COMPONENTS, len(vectors))
    figure = Figure(figsize=(11, 1.0 + 1.3 * max(n, 1)), layout="constrained")
    panels = figure.subplots(max(n, 1), 1, sharex=True, squeeze=False)[:, 0]
    for k, axes in enumerate(panels[:n]):
        axes.axhline(0, color=GREY, lw=0.6)
        axes.plot(wavelength, vectors[k], color=BLUE, lw=0.8)
        axes.set_title(f"component {k + 1}: {100 * part[k]:.1f} % of the variance")
        axes.set(yticks=[], xlim=(wavelength[0], wavelength[-1]))
    if not n:
        say_empty(panels[0], "no component")
    panels[-1].set_xlabel(WAVELENGTH)
    return figure
