"""Arrays -> figures of derivatives: how spectra answer to labels, by a model and by what is true.

Wavelengths are Å in vacuum; derivatives are changes of normalized flux per unit of the label.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from scalespec.figures import BLUE, GREY, INK, ORANGE, styled

FloatArray = npt.NDArray[np.floating[Any]]
MARGIN = 1.25
"""A panel's height, in units of the largest true derivative in it."""


class Gradients(NamedTuple):
    """One star's derivatives by one label.

    Attributes
    ----------
    label : str
        Said in the panel.
    wavelength : (n_pixel,) float [Å]
    truth : (n_pixel,) float
        The derivative that is taken as true.
    models : mapping of str to (n_pixel,) float
        The derivative by each model, by the name it goes by in the legend; at most three.
    """

    label: str
    wavelength: FloatArray
    truth: FloatArray
    models: Mapping[str, FloatArray]


def agreement(found: FloatArray, truth: FloatArray) -> tuple[float, float]:
    """Return the relative error of a derivative and its correlation with the truth.

    Examples
    --------
    >>> error, correlation = agreement(np.array([0.0, 1.1]), np.array([0.0, 1.0]))
    >>> round(error, 3), round(correlation, 3)
    (0.1, 1.0)
    """
    size = float(np.sqrt(np.mean(np.square(truth))))
    error = float(np.sqrt(np.mean(np.square(found - truth))))
    spread = float(np.std(found) * np.std(truth))
    if size == 0 or spread == 0:
        return float("nan"), float("nan")
    both = float(np.mean((found - np.mean(found)) * (truth - np.mean(truth))))
    return error / size, min(both / spread, 1.0)


@styled
def gradient_spectra(rows: Sequence[Gradients], *, title: str = "", unit: str = "dex") -> Figure:
    """Draw derivatives label by label: the truth in grey, models in color, errors in words.

    Parameters
    ----------
    rows : sequence of Gradients
        One panel each.
    title : str
        Said above.
    unit : str
        Of the labels.

    Raises
    ------
    ValueError
        If there is no row.
    """
    if not rows:
        raise ValueError("gradient_spectra wants at least one label, got none")
    figure = Figure(figsize=(11, 0.9 + 1.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, row in zip(panels, rows, strict=True):
        axes.fill_between(row.wavelength, row.truth, color=GREY, alpha=0.45, lw=0, label="truth")
        said = []
        for (name, found), color in zip(row.models.items(), (ORANGE, BLUE, INK), strict=False):
            axes.plot(row.wavelength, found, color=color, lw=0.8, label=name)
            error, correlation = agreement(found, row.truth)
            said.append(f"{name}: error {100 * error:.0f} %, correlation {correlation:.2f}")
        reach = MARGIN * float(np.max(np.abs(row.truth), initial=0.0)) or 1.0
        low = -reach if float(np.min(row.truth)) < -0.1 * reach else -0.3 * reach
        high = reach if float(np.max(row.truth)) > 0.1 * reach else 0.3 * reach
        axes.set_ylim(low, high)
        axes.set_ylabel(f"dF/d[{row.label}]\nper {unit}")
        axes.text(
            0.005, 0.06, "   ".join(said), transform=axes.transAxes, fontsize=8.5, color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    panels[0].set_title(title)
    panels[0].legend(
        loc="lower right", ncols=4, frameon=True, framealpha=0.8, edgecolor="none", borderpad=0.1
    )
    panels[-1].set_xlabel("wavelength (vacuum) [Å]")
    panels[-1].set_xlim(float(rows[0].wavelength[0]), float(rows[0].wavelength[-1]))
    return figure
