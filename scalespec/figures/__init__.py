"""Arrays -> matplotlib figures: Kiel diagram, one-to-one, pulls, spectra with their fits.

A residual is prediction minus reference everywhere. Wavelengths are Å in vacuum. Figures are made
without pyplot, so nothing global is touched and any thread may draw; colors are Okabe & Ito's,
which color-blind readers can tell apart.
"""

import io
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.floating[Any]]
Arguments = ParamSpec("Arguments")

BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8a9099", "#1f2430"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#5b616b",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}
WINDOWS = (
    ("Hβ", 4830.0, 4900.0),
    ("Mg b", 5140.0, 5210.0),
    ("Hα", 6530.0, 6600.0),
    ("Ca II", 8480.0, 8690.0),
)
"""Name and vacuum wavelengths [Å] of what a spectrum's figure shows at large."""
PICTURES = {"png": ("Software",), "pdf": ("CreationDate",), "svg": ("Date",)}
"""Forms of pictures, and what is left out of each: it would differ from one day to the next."""
CROWD = 5000
"""Points above which a scatter plot turns into a density."""


class Spread(NamedTuple):
    """Bias, robust scatter and number of some residuals."""

    bias: float
    scatter: float
    n: int


def spread(residual: FloatArray) -> Spread:
    """Return median, 1.4826 MAD and number of the finite residuals; NaN if there is none.

    References
    ----------
    Rousseeuw & Croux 1993, JASA 88, 1273: the factor makes it sigma for a normal distribution.

    Examples
    --------
    >>> spread(np.array([1.0, 2.0, 3.0, 4.0, 1000.0, np.nan]))
    Spread(bias=3.0, scatter=1.4826, n=5)
    """
    known = np.asarray(residual, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return Spread(float("nan"), float("nan"), 0)
    bias = float(np.median(known))
    return Spread(bias, 1.4826 * float(np.median(np.abs(known - bias))), len(known))


def to_png(figure: Figure, *, dpi: int = 150) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    return to_picture(figure, "png", dpi=dpi)


def to_picture(figure: Figure, form: str, *, dpi: int = 150) -> bytes:
    """Return a figure as one of `PICTURES`; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "scalespec"}):  # else names in an SVG are random
        figure.savefig(buffer, format=form, dpi=dpi, metadata=dict.fromkeys(PICTURES[form]))
    return buffer.getvalue()


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw in our style whatever the caller's settings are."""

    @wraps(draw)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with mpl.rc_context({**mpl.rcParamsDefault, **STYLE, "backend": "agg"}):
            return draw(*args, **kwargs)

    return styled


def _titled(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name


def say_empty(axes: Axes, text: str) -> None:
    """Say in the middle of a panel why there is nothing in it."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def _limits(*values: FloatArray) -> tuple[float, float]:
    """Return limits that show all but the wildest half percent on either side."""
    known = np.concatenate([np.ravel(v)[np.isfinite(np.ravel(v))] for v in values])
    if not len(known):
        return 0.0, 1.0
    low, high = np.quantile(known, [0.005, 0.995] if len(known) > 200 else [0.0, 1.0])
    margin = 0.06 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _cloud(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Draw points, or their density where there are too many to tell apart."""
    if len(x) <= CROWD:
        size = float(np.clip(3000 / max(len(x), 1), 3, 22))
        axes.scatter(x, y, s=size, c=BLUE, alpha=0.65, lw=0)
        return
    extent = (*_limits(x), *_limits(y))
    axes.hexbin(x, y, gridsize=70, bins="log", mincnt=1, cmap="Blues", lw=0.1, extent=extent)


@styled
def kiel_diagram(
    teff: FloatArray, logg: FloatArray, color: FloatArray, *, color_name: str = "[Fe/H]"
) -> Figure:
    """Draw stars in the plane of temperature and gravity, both axes reversed as in an HR diagram.

    Parameters
    ----------
    teff, logg, color : (n,) float [K, dex, dex]
        Places of the stars, and what they are colored by; NaN where unknown.
    color_name : str
        What that is called.
    """
    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="Teff [K]", ylabel="log g [dex]")
    known = np.isfinite(teff) & np.isfinite(logg)
    if not known.any():
        say_empty(axes, "no star has labels")
        return figure
    x, y, c = (np.asarray(v, np.float64)[known] for v in (teff, logg, color))
    low, high = _limits(c)
    common: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high}
    if len(x) <= 4 * CROWD:
        size = float(np.clip(6000 / len(x), 2, 24))
        drawn: Any = axes.scatter(x, y, c=c, s=size, lw=0, alpha=0.85, **common)
    else:
        drawn = axes.hexbin(x, y, C=c, gridsize=110, reduce_C_function=np.nanmedian, **common)
    figure.colorbar(drawn, ax=axes, label=f"{color_name} [dex]", pad=0.02)
    axes.set(xlim=_limits(x)[::-1], ylim=_limits(y)[::-1])
    return figure


@styled
def one_to_one(
    reference: FloatArray,
    value: FloatArray,
    *,
    name: str,
    unit: str,
    err: FloatArray | None = None,
    apart: npt.NDArray[np.bool_] | None = None,
    reference_name: str = "reference",
) -> Figure:
    """Draw values against a reference, and the residuals below with their histogram.

    Parameters
    ----------
    reference, value : (n,) float
        NaN where unknown.
    name, unit : str
        Of the label.
    err : (n,) float, optional
        1 sigma of `value`, drawn where points are few.
    apart : (n,) bool, optional
        Points drawn in orange and left out of the statistics: outside the model's domain.
    reference_name : str
        Where the reference comes from.
    """
    figure = Figure(figsize=(5.4, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(2.3, 1), width_ratios=(5, 1))
    top = figure.add_subplot(grid[0, 0])
    below = figure.add_subplot(grid[1, 0], sharex=top)
    side = figure.add_subplot(grid[1, 1], sharey=below)
    known = np.isfinite(reference) & np.isfinite(value)
    outside = known & apart if apart is not None else np.zeros(len(known), bool)
    inside = known & ~outside
    top.set_ylabel(f"{_titled(name, unit)}, scalespec")
    below.set(xlabel=f"{_titled(name, unit)}, {reference_name}", ylabel="residual")
    top.tick_params(labelbottom=False)
    side.axis("off")
    if not known.any():
        say_empty(top, "no star has both")
        return figure
    residual = np.asarray(value, np.float64) - reference
    if err is not None and inside.sum() <= 300:
        bars: dict[str, Any] = {"fmt": "none", "ecolor": BLUE, "elinewidth": 0.6, "alpha": 0.4}
        top.errorbar(reference[inside], value[inside], err[inside], **bars)
        below.errorbar(reference[inside], residual[inside], err[inside], **bars)
    for axes, y in ((top, value), (below, residual)):
        _cloud(axes, reference[inside], y[inside])
        axes.scatter(reference[outside], y[outside], s=18, marker="x", c=ORANGE, lw=1, zorder=3)
    _frame(top, below, reference[known], value[known], residual[known])
    bins = _bins(*below.get_ylim(), int(inside.sum()))
    side.hist(residual[inside], bins=bins, orientation="horizontal", color=BLUE)
    top.set_title(_stated(spread(residual[inside]), unit, int(outside.sum())))
    return figure


def _bins(low: float, high: float, n: int) -> list[float]:
    """Return edges of bins that `n` values fill: an odd number, so that one is centred."""
    edges: list[float] = np.linspace(low, high, 2 * int(np.clip(n**0.5, 5, 25)) + 2).tolist()
    return edges


def _frame(
    top: Axes, below: Axes, reference: FloatArray, value: FloatArray, residual: FloatArray
) -> None:
    """Set limits and draw the line of equality."""
    limits = _limits(reference, value)
    for x, y, axes in ((limits, limits, top), (limits, (0, 0), below)):
        axes.plot(x, y, color=INK, lw=0.9, ls="--", zorder=4)
    reach = max(abs(limit) for limit in _limits(residual))
    top.set(xlim=limits, ylim=limits)
    top.locator_params(nbins=6)
    below.set_ylim(-reach, reach)


def _stated(found: Spread, unit: str, outside: int = 0) -> str:
    if not found.n:
        return f"no trusted star (+ {outside:,} apart)"
    digits = {"K": 0, "km/s": 1, "σ": 2}.get(unit, 3)
    bias = round(found.bias, digits) + 0.0  # no minus before a zero
    text = f"bias {bias:+.{digits}f}, scatter {found.scatter:.{digits}f} {unit}, n = {found.n:,}"
    return text + (f" (+ {outside:,} apart)" if outside else "")


@styled
def histograms(
    values: Mapping[str, FloatArray],
    *,
    units: Mapping[str, str] | None = None,
    what: str = "residual",
) -> Figure:
    """Draw a histogram per label: of residuals, or of pulls beside the normal they should follow.

    Parameters
    ----------
    values : mapping of str to (n,) float
        Residuals (prediction - reference), or pulls (residual / sigma).
    units : mapping, optional
        Unit of each label.
    what : {"residual", "pull"}
        Pulls are drawn from -5 to 5 with N(0, 1), as densities.
    """
    figure, panels = _panels(len(values))
    pull = what == "pull"
    for axes, (name, value) in zip(panels, values.items(), strict=True):
        known = value[np.isfinite(value)]
        unit = (units or {}).get(name, "")
        reach = 5.0 if pull else max(abs(limit) for limit in _limits(known))
        axes.set(xlabel=f"{what} of {_titled(name, unit)}", xlim=(-reach, reach), yticks=[])
        axes.axvline(0, color=INK, lw=0.9, ls="--")
        axes.locator_params(axis="x", nbins=5)
        if pull:
            grid = np.linspace(-5, 5, 201)
            normal = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
            axes.plot(grid, normal, color=ORANGE, lw=1.6, zorder=3)
        if not len(known):
            say_empty(axes, "no star has both")
            continue
        bins = _bins(-reach, reach, len(known))
        weights = np.full(len(known), 1 / (len(known) * (bins[1] - bins[0])))
        axes.hist(known, bins=bins, weights=weights, color=BLUE, alpha=0.8)
        axes.set_title(_stated(spread(known), "σ" if pull else unit), fontsize=8.5)
    return figure


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    """Return a figure of `n` small panels, three to a row."""
    columns = min(max(n, 1), 3)
    rows = -(-max(n, 1) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.7 * rows), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for spare in panels[n:]:
        spare.axis("off")
    return figure, panels[:n]


@styled
def spectrum_fit(
    wavelength: FloatArray,
    flux: FloatArray,
    ivar: FloatArray,
    model: FloatArray | None,
    *,
    title: str = "",
) -> Figure:
    """Draw a spectrum with its best fit, and (model - data) / sigma below.

    Parameters
    ----------
    wavelength, flux, ivar : (n_pixel,) float
        Pixels of ``ivar`` 0 are grey: they did not count.
    model : (n_pixel,) float or None
        The best fit as the data would show it; None if there is none.
    title : str
        Said above.
    """
    figure = Figure(figsize=(11, 5.8), layout="constrained")
    windows = [w for w in WINDOWS if wavelength[0] <= w[1] and w[2] <= wavelength[-1]]
    grid = figure.add_gridspec(3, max(len(windows), 1), height_ratios=(2, 1, 1.8))
    top = figure.add_subplot(grid[0, :])
    below = figure.add_subplot(grid[1, :], sharex=top)
    good = ivar > 0
    _draw_pixels(top, wavelength, flux, good, model)
    grey_out(below, wavelength, ~good)
    top.set(ylabel="flux / continuum", title=title, xlim=(wavelength[0], wavelength[-1]))
    top.tick_params(labelbottom=False)
    below.set(xlabel="rest wavelength, vacuum [Å]", ylabel="(fit − data) / σ", ylim=(-6, 6))
    below.axhline(0, color=GREY, lw=0.6)
    if model is not None and good.any():
        pull = np.where(good, (model - flux) * np.sqrt(ivar), np.nan)
        below.plot(wavelength, pull, color=BLUE, lw=0.5)
        top.legend(loc="lower right", ncols=2)
    else:
        say_empty(top, "" if good.any() else "no pixel holds information")
        say_empty(below, "no fit")
    for column, (name, low, high) in enumerate(windows):
        axes = figure.add_subplot(grid[2, column])
        here = (wavelength >= low) & (wavelength <= high)
        part = None if model is None else model[here]
        _draw_pixels(axes, wavelength[here], flux[here], good[here], part)
        axes.set(title=name, xlim=(low, high))
        axes.locator_params(axis="x", nbins=5)
    return figure


def _draw_pixels(
    axes: Axes,
    wavelength: FloatArray,
    flux: FloatArray,
    good: npt.NDArray[np.bool_],
    model: FloatArray | None,
) -> None:
    """Draw data and fit, and grey out what did not count."""
    grey_out(axes, wavelength, ~good)
    data = np.where(good, flux, np.nan)
    axes.plot(wavelength, data, color=INK, lw=0.8, drawstyle="steps-mid", label="spectrum")
    if model is not None and good.any():
        axes.plot(wavelength, model, color=ORANGE, lw=0.9, alpha=0.9, label="best fit")
    if good.any():
        low, high = np.quantile(flux[good], [0.003, 0.997])
        axes.set_ylim(min(low, 0.9) - 0.06, max(high, 1.05) + 0.06)


def grey_out(axes: Axes, wavelength: FloatArray, bad: npt.NDArray[np.bool_]) -> None:
    """Shade runs of pixels that did not count."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]]).astype(np.int8)))
    last = len(wavelength) - 1
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        axes.axvspan(wavelength[start], wavelength[min(stop, last)], color="#e6e8eb", lw=0)


@styled
def mean_residual(wavelength: FloatArray, residual: FloatArray, error: FloatArray) -> Figure:
    """Draw the mean of (fit - data) over stars, and three times its error from photon noise."""
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="rest wavelength, vacuum [Å]", ylabel="mean (fit − data)")
    if not np.isfinite(residual).any():
        say_empty(axes, "no star was fitted")
        return figure
    axes.fill_between(wavelength, -3 * error, 3 * error, color=GREY, alpha=0.35, lw=0, label="±3σ")
    axes.plot(wavelength, residual, color=BLUE, lw=0.7)
    axes.axhline(0, color=INK, lw=0.6)
    reach = float(np.nanquantile(np.abs(residual), 0.995)) * 1.3 or 0.01
    axes.set(xlim=(wavelength[0], wavelength[-1]), ylim=(-reach, reach))
    axes.legend(loc="upper right")
    return figure
