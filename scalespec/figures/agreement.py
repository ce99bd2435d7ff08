"""How label catalogs agree with a reference: arrays -> a matplotlib figure."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from scalespec.figures import BLUE, GREY, INK, STYLE, spread

FloatArray = npt.NDArray[np.float64]
BIN_STARS = 25
"""Fewest stars of a bin of the running median."""


def agreement(
    residuals: Mapping[str, tuple[FloatArray, FloatArray]], *, name: str, unit: str, reference: str
) -> Figure:
    """Draw each catalog's label less the reference's, against the reference's, on common axes.

    Parameters
    ----------
    residuals : mapping of str to ((n,) float, (n,) float)
        Catalog -> label of the reference, residual; the best first.
    name, unit : str
        Of the label.
    reference : str
        The reference's name.

    Returns
    -------
    matplotlib.figure.Figure
        A panel per catalog, with a running median where stars are many.
    """
    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE, "backend": "agg"}):
        figure = Figure(figsize=(4.0 * max(len(residuals), 1), 3.3), layout="constrained")
        panels = figure.subplots(1, max(len(residuals), 1), sharex=True, sharey=True, squeeze=False)
        every = np.concatenate([np.zeros(0), *(y for _, y in residuals.values())])
        for axes, (source, (x, y)) in zip(panels[0], residuals.items(), strict=False):
            found = spread(y)
            axes.set_title(
                f"{source}\nbias {found.bias:+.3g}, scatter {found.scatter:.3g}"
                f"{' ' + unit if unit else ''}, n = {found.n}"
                if found.n
                else f"{source}\nno star in common"
            )
            axes.axhline(0.0, color=GREY, lw=0.8, ls="--")
            axes.scatter(x, y, s=9, c=BLUE, alpha=0.5, lw=0)
            axes.plot(*_running_median(x, y), color=INK, lw=1.4)
            axes.set_xlabel(f"{name}{f' [{unit}]' if unit else ''}, {reference}")
        if len(every):
            low, high = np.quantile(every, [0.01, 0.99])
            margin = 0.15 * (high - low) or 0.5
            panels[0, 0].set_ylim(min(low - margin, 0), max(high + margin, 0))
        panels[0, 0].set_ylabel(f"catalog less {reference}")
        return figure


def _running_median(x: FloatArray, y: FloatArray) -> tuple[list[float], list[float]]:
    """Medians of equally many stars, in the order of `x`."""
    n_bins = min(len(x) // BIN_STARS, 12)
    if n_bins < 2:
        return [], []
    bins = np.array_split(np.argsort(x, kind="stable"), n_bins)
    return [float(np.median(x[b])) for b in bins], [float(np.median(y[b])) for b in bins]
