"""How a model learned: histories and searches -> figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scalespec.figures import BLUE, GREY, INK, ORANGE, say_empty, styled

Point = Mapping[str, float]
SERIES: tuple[tuple[str, str, tuple[tuple[str, str, bool], ...]], ...] = (
    (
        "rms residual of flux",
        "log",
        (("loss", "training", True), ("validation_rms", "validation", False)),
    ),
    ("error of scaled labels", "log", (("validation_error", "validation", False),)),
    ("loss", "linear", (("loss", "training", False),)),
    (
        "gradients' relative error",
        "log",
        (("gradient_loss", "training", True), ("gradient_error", "at the references", False)),
    ),
)
"""Panels: axis, its scale, and which entries of a history are in it: key, name, whether a square.

Emulators have the first and, with a prior, the last; regressors the two between."""


@styled
def learning_curve(history: Sequence[Point]) -> Figure:
    """Draw what training and validation came to, step by step.

    Parameters
    ----------
    history : sequence of mapping
        As `train_emulator` and `train_regressor` return it: ``step`` or ``epoch``, ``loss``,
        ``validation_rms`` or ``validation_error``, ``gradient_loss``, ``gradient_error``.
    """
    panels = [one for one in SERIES if _has(history, one)]
    figure = Figure(figsize=(5.4 * max(len(panels), 1), 3.4), layout="constrained")
    all_axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    all_axes[0].set_xlabel("round or epoch")
    if not panels:
        all_axes[0].set_ylabel("rms residual of flux")
        say_empty(all_axes[0], "the model tells no history")
    for axes, (what, scale, entries) in zip(all_axes, panels, strict=False):
        axes.set(xlabel="round or epoch", ylabel=what, yscale=scale)
        for key, name, square in reversed(entries):
            _line(axes, history, key, name, square=square)
        _mark_rounds(axes, history)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return figure


def _has(history: Sequence[Point], series: Any) -> bool:
    """Whether a history has a panel: its last entry is there; regressors' loss is no square."""
    key = series[2][-1][0]
    there = any(key in point for point in history)
    of_regressor = any("validation_error" in point for point in history)
    return there and (key != "loss" or of_regressor)


def _line(axes: Axes, history: Sequence[Point], key: str, name: str, *, square: bool) -> None:
    points = [(_step(point), point[key]) for point in history if key in point]
    if not points:
        return
    steps, values = np.array(points, np.float64).T
    found = np.sqrt(values) if square else values
    look: dict[str, Any] = {"color": ORANGE if name == "training" else BLUE, "lw": 1.4}
    axes.plot(steps, found, marker="o" if len(steps) < 60 else "", ms=3, label=name, **look)


def _step(point: Point) -> float:
    return point.get("step", point.get("epoch", 0.0)) + 1


def _mark_rounds(axes: Axes, history: Sequence[Point]) -> None:
    """Mark where rounds of variable projection end and epochs of Adam begin, if both were."""
    rates = [point.get("learning_rate", 0.0) for point in history]
    rounds = next((i for i, rate in enumerate(rates) if rate > 0), 0)
    if rounds and "epoch" not in history[0]:
        axes.axvline(rounds + 0.5, color=GREY, lw=0.8, ls="--")


@styled
def search_outcomes(trials: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what each trial of a search came to, by each setting that is a number.

    Parameters
    ----------
    trials : sequence of mapping
        ``validation_rms`` (None if it failed), ``settings``, as `search.keep_best` returns them.
    """
    done = [one for one in trials if one["validation_rms"] is not None]
    names = sorted(
        {
            name
            for one in done
            for name, value in one["settings"].items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
    )
    columns = min(max(len(names), 1), 3)
    rows = -(-max(len(names), 1) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.axis("off")
    for axes, name in zip(panels, names, strict=False):
        known = [(one["settings"][name], one["validation_rms"]) for one in done
                 if name in one["settings"]]  # fmt: skip
        x, y = np.array(known, np.float64).T
        axes.set(xlabel=name, ylabel="validation rms", yscale="log")
        if x.min() > 0 and x.max() > 10 * x.min():
            axes.set_xscale("log")
        axes.scatter(x, y, s=22, c=BLUE, lw=0)
        best = int(np.argmin(y))
        axes.scatter(x[best], y[best], s=70, facecolors="none", edgecolors=INK, lw=1.3)
    return figure
