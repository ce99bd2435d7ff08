"""Figures of a comparison of models: arrays -> matplotlib figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalespec.figures import BLUE, GREY, INK, ORANGE, say_empty, spread, styled

FloatArray = npt.NDArray[np.floating[Any]]
POINTS = 3000
"""More stars than this are drawn as their density."""
BIN_STARS = 20
"""Fewest stars of a bin of the running median."""


@styled
def one_to_one_panels(
    models: Mapping[str, tuple[FloatArray, FloatArray]], *, name: str, unit: str
) -> Figure:
    """Draw predictions against the truth, and residuals below, a column per model.

    Parameters
    ----------
    models : mapping of str to ((n,) float, (n,) float)
        Model -> truth, prediction; the best first.
    name, unit : str
        Of the label.
    """
    n = max(len(models), 1)
    figure = Figure(figsize=(2.7 * n + 0.6, 4.6), layout="constrained")
    panels = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=[2, 1])
    every = [np.concatenate([x, y]) for x, y in models.values()]
    limits = _limits(np.concatenate(every) if every else np.zeros(0))
    residuals = [y - x for x, y in models.values()]
    width = max((4 * spread(r).scatter for r in residuals if spread(r).n), default=1.0)
    titled = f"{name} [{unit}]" if unit else name
    for k, (model, (x, y)) in enumerate(models.items()):
        top, below = panels[0, k], panels[1, k]
        known = np.isfinite(x) & np.isfinite(y)
        _cloud(top, x[known], y[known], limits, limits)
        _cloud(below, x[known], (y - x)[known], limits, (-width, width))
        top.plot(limits, limits, color=INK, lw=0.9, ls="--")
        below.axhline(0, color=INK, lw=0.9, ls="--")
        below.plot(*_running_median(x[known], (y - x)[known]), color=ORANGE, lw=1.5)
        mae = float(np.abs((y - x)[known]).mean()) if known.any() else float("nan")
        digits = 0 if unit == "K" else 3
        top.set_title(f"{model}\nMAE {mae:.{digits}f} {unit}", fontsize=9)
        below.set_xlabel("truth")
        top.set(xlim=limits, ylim=limits)
        below.set_ylim(-width, width)
    panels[0, 0].set_ylabel(titled)
    panels[1, 0].set_ylabel("prediction − truth")
    return figure


def _limits(values: FloatArray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.quantile(known, [0.002, 0.998])
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _cloud(
    axes: Axes, x: FloatArray, y: FloatArray, xlim: tuple[float, float], ylim: tuple[float, float]
) -> None:
    if len(x) <= POINTS:
        axes.scatter(x, y, s=float(np.clip(2500 / max(len(x), 1), 2, 14)), c=BLUE, alpha=0.5, lw=0)
        return
    axes.hexbin(x, y, gridsize=60, bins="log", cmap="Blues", mincnt=1, lw=0, extent=(*xlim, *ylim))


def _running_median(x: FloatArray, y: FloatArray) -> tuple[list[float], list[float]]:
    n_bins = min(len(x) // BIN_STARS, 15)
    if n_bins < 2:
        return [], []
    bins = np.array_split(np.argsort(x, kind="stable"), n_bins)
    return [float(np.median(x[b])) for b in bins], [float(np.median(y[b])) for b in bins]


@styled
def score_bars(
    scores: Mapping[str, Mapping[str, tuple[float, float, float]]], units: Mapping[str, str]
) -> Figure:
    """Draw the MAE of every model with its interval, a panel per label.

    Parameters
    ----------
    scores : mapping of str to mapping
        Label -> model -> MAE, low, high; the best first.
    units : mapping of str to str
    """
    n = max(len(scores), 1)
    columns = min(n, 4)
    rows = -(-n // columns)
    tall = 0.26 * max((len(models) for models in scores.values()), default=1) + 1.1
    figure = Figure(figsize=(3.4 * columns, tall * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(scores) :]:
        axes.set_axis_off()
    for axes, (label, models) in zip(panels, scores.items(), strict=False):
        names = list(models)
        value = np.array([models[m][0] for m in names])
        low, high = (np.array([models[m][k] for m in names]) for k in (1, 2))
        error = np.nan_to_num(np.abs(np.stack([value - low, high - value])))
        axes.errorbar(value, np.arange(len(names)), xerr=error, fmt="o", color=BLUE, ms=4, lw=1.4)
        axes.set_yticks(np.arange(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.grid(axis="x", color="#e6e8eb", lw=0.6)
        unit = units.get(label, "")
        axes.set_xlabel(f"MAE {label}{f' [{unit}]' if unit else ''}")
    return figure


@styled
def leakage_panels(
    matrices: Mapping[str, npt.NDArray[np.float64]],
    predicted: Sequence[str],
    changed: Sequence[str],
) -> Figure:
    """Draw d prediction / d truth of every model: 1 on the diagonal, 0 elsewhere, would be ideal.

    Parameters
    ----------
    matrices : mapping of str to (n_predicted, n_changed) float64
        In units of 0.1 dex or 100 K of either label.
    predicted, changed : sequence of str
        Titles.
    """
    n = max(len(matrices), 1)
    columns = min(n, 3)
    rows = -(-n // columns)
    size = (0.55 * len(changed) + 1.5, 0.45 * len(predicted) + 1.3)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for spare in panels[len(matrices) :]:
        spare.set_visible(False)
    for axes, (model, matrix) in zip(panels, matrices.items(), strict=False):
        axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        axes.set_title(model, fontsize=9)
        axes.set_xticks(np.arange(len(changed)), changed, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(np.arange(len(predicted)), predicted, fontsize=7)
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                color = "white" if abs(value) > 0.6 else INK
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)
        axes.tick_params(length=0)
    figure.supxlabel("label changed in the spectrum", fontsize=9)
    figure.supylabel("label predicted", fontsize=9)
    return figure


@styled
def attribution_panels(
    shares: Mapping[str, npt.NDArray[np.float64]], lines: Sequence[str], labels: Sequence[str]
) -> Figure:
    """Draw which lines carry each label, as shares of the whole, a panel per model.

    Parameters
    ----------
    shares : mapping of str to (n_line, n_label) float64
        Model -> mean absolute contribution; columns are made to sum to 1.
    lines, labels : sequence of str
    """
    n = max(len(shares), 1)
    columns = min(n, 3)
    rows = -(-n // columns)
    figure = Figure(
        figsize=((0.5 * len(labels) + 1.9) * columns, (0.24 * len(lines) + 1.0) * rows),
        layout="constrained",
    )
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for spare in panels[len(shares) :]:
        spare.set_visible(False)
    for k, (axes, (model, values)) in enumerate(zip(panels, shares.items(), strict=False)):
        total = np.maximum(values.sum(axis=0, keepdims=True), 1e-30)
        part = values / total
        axes.imshow(part, cmap="Blues", vmin=0, vmax=max(0.3, float(part.max())), aspect="auto")
        axes.set_title(model, fontsize=9)
        axes.set_xticks(np.arange(len(labels)), labels, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(np.arange(len(lines)), lines if k % columns == 0 else [], fontsize=7)
        for i, row in enumerate(part):
            for j, value in enumerate(row):
                if value >= 0.05:
                    color = "white" if value > 0.25 else INK
                    percent = f"{100 * value:.0f}"
                    axes.text(j, i, percent, ha="center", va="center", fontsize=6, color=color)
        axes.tick_params(length=0)
    return figure


@styled
def purity_figure(
    curves: Mapping[str, tuple[FloatArray, FloatArray]], chosen: tuple[float, float], *, title: str
) -> Figure:
    """Draw purity against completeness for several prevalences.

    Parameters
    ----------
    curves : mapping of str to ((n,) float, (n,) float)
        Name of a prevalence -> completeness, purity, from the strictest threshold on.
    chosen : (float, float)
        Completeness and purity of the threshold in use.
    title : str
    """
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for k, (name, (complete, pure)) in enumerate(curves.items()):
        axes.plot(complete, pure, color=(BLUE, GREY, INK)[k % 3], lw=1.5, label=name)
    axes.plot(*chosen, "o", color=ORANGE, ms=7, label="threshold in use", zorder=5)
    axes.set(xlabel="completeness", ylabel="purity", xlim=(0, 1.01), ylim=(0, 1.03), title=title)
    axes.legend(fontsize=8, frameon=False)
    return figure


@styled
def reliability_figure(
    stated: FloatArray,
    found: FloatArray,
    interval: tuple[FloatArray, FloatArray],
    n: npt.NDArray[np.int64],
) -> Figure:
    """Draw how often stars of a stated probability are what they are said to be.

    Parameters
    ----------
    stated, found : (n_bin,) float64
    interval : ((n_bin,), (n_bin,)) float64
        Ends for `found`.
    n : (n_bin,) int64
        Stars of a bin, written beside it.
    """
    figure = Figure(figsize=(4.0, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="stated probability", ylabel="part that is so", xlim=(-0.02, 1.02))
    if not len(stated):
        say_empty(axes, "no star has a probability")
        return figure
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=0.9)
    error = np.abs(np.stack([found - interval[0], interval[1] - found]))
    axes.errorbar(stated, found, yerr=error, fmt="o", color=BLUE, ms=5, lw=1.4)
    for x, y, stars in zip(stated, found, n, strict=True):
        axes.annotate(f"{stars:,}", (x, y), (5, -9), textcoords="offset points", fontsize=7)
    axes.set_ylim(-0.02, 1.02)
    return figure
