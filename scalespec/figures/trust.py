"""Where a student may not be trusted: how far it is from its teacher, region by region."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scalespec.figures import INK, styled

FLUX_LIMIT, GRADIENT_LIMIT = 0.5, 25.0
"""Percent: what is over them is distrusted, and drawn from the middle of the colors on."""
DARK = 0.6
"""Share of the colors' range from which numbers are written in white."""


@styled
def trust_map(trust: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw errors of flux by label and region, and the worst ones of derivatives.

    Parameters
    ----------
    trust : mapping
        As `scalespec.models.distill.measure_trust` makes it.
    title : str
        Said above.

    Raises
    ------
    ValueError
        If there is no label.
    """
    labels = [str(name) for name in trust["labels"]]
    if not labels:
        raise ValueError("trust_map wants at least one label, got none")
    flux = 100 * np.array(trust["flux_rms_by_region"])
    slopes = 100 * np.array(trust["gradient_error_by_region"]).max(axis=1)
    height = 1.6 + 0.3 * len(labels)
    figure = Figure(figsize=(5.5 + 0.42 * len(labels), height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, max(len(labels) / 5, 1)))
    for axes, values, limit in ((left, flux, FLUX_LIMIT), (right, slopes, GRADIENT_LIMIT)):
        axes.imshow(values, cmap="YlOrBr", vmin=0, vmax=2 * limit, aspect="auto")
        for (i, k), value in np.ndenumerate(values):
            color = "white" if value > DARK * 2 * limit else INK
            text = f"{value:.2f}" if limit < 1 else f"{value:.0f}"
            axes.text(k, i, text, ha="center", va="center", fontsize=7, color=color)
        axes.set_yticks(range(len(labels)), labels)
    quarter = [f"{k + 1}/{flux.shape[1]}" for k in range(flux.shape[1])]
    left.set_xticks(range(flux.shape[1]), quarter)
    left.set_xlabel("part of the label's range")
    left.set_title("flux rms [%]")
    right.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    right.set_xlabel("derivative by")
    right.set_title("error of derivatives [%], in the worst part of the label's range")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
