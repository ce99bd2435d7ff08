"""What the page says of a run's calibration: every correction, drawn with its data."""

from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.config import RunConfig
from scalespec.figures import calibration as figures
from scalespec.stages import folders
from scalespec.stages.calibrate import RECORD, read_corrections
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.correction import Correction, Step
from scalespec.stages.page import Cell, heading, paragraph, picture, side_by_side, table
from scalespec.store import paths
from scalespec.store.ledger import read_json

CLASSES = ("dwarfs", "giants")
HOW = (
    "A correction is subtracted from the raw label, which stays in the catalog. Lines are what is "
    "subtracted, bands their error by bootstrap, faint points single stars or pairs, outlined ones "
    "their running medians, which should lie on the line. A pair knows differences only: its trend "
    "is 0 for dwarfs at 5,772 K."
)
CHECKS = (
    "Bias is a median, scatter 1.4826 MAD. Stars held out of the fit, and clusters, say what a "
    "correction is worth: scatter should shrink, or at least not grow."
)


def calibration(config: RunConfig) -> str:
    """Show order and version, each correction with its data, checks and error floors."""
    url = folders.calibrated_url(config)
    record = read_json(paths.join(url, RECORD))
    made = read_corrections(url)
    used = {"floors", *(step.source for one in made for step in one.steps)}
    order = ", then ".join(name for name in record["order"] if name in used)
    html = paragraph(f"Version {record['version']}; in this order: {order}.")
    html += paragraph(HOW, kind="quiet")
    left = [label_title(one.label) for one in made if not one.steps]
    if left:
        text = f"Too few stars speak of {', '.join(left)}: as it was fitted it stays."
        html += paragraph(text, kind="bad")
    html += side_by_side(drawn for one in made for drawn in _label(one))
    return html + heading("Before and after") + _checks(made)


def class_names(n: int) -> tuple[str, ...]:
    """Return what luminosity classes are called.

    Examples
    --------
    >>> class_names(2), class_names(3)
    (('dwarfs', 'giants'), ('class 0', 'class 1', 'class 2'))
    """
    return CLASSES if n == len(CLASSES) else tuple(f"class {i}" for i in range(n))


def _label(made: Correction) -> list[str]:
    """Draw a label's corrections, and its error floors where they are known."""
    title, unit = label_title(made.label), label_facts(made.label)[0]
    drawn = [_step(made, step) for step in made.steps]
    floors = made.record["floors"]
    known = {
        name: (_numbers(said["floor"]), _numbers(said["error"])) for name, said in floors.items()
    }
    if any(np.isfinite(floor).any() for floor, _ in known.values()):
        figure = figures.error_floors(
            made.snr_edges, known, made.floor, title=f"{title}: error floors", unit=unit
        )
        said = "What must be added to stated errors, in quadrature, so that measurements agree."
        drawn.append(picture(figure, said))
    return drawn


def _numbers(values: list[Any]) -> npt.NDArray[np.float64]:
    return np.array(values, float)


def _step(made: Correction, step: Step) -> str:
    title, unit = label_title(made.label), label_facts(made.label)[0]
    names = class_names(len(made.logg_edges) + 1)
    curves = {}
    for one, of in enumerate(names):
        kind = np.full(len(made.teff), one)
        trend = step.at(made.teff, kind) if one in step.classes else np.full(len(kind), np.nan)
        curves[of] = (made.teff, trend, made.error[one])
    kept = made.record["drawn"][step.source]
    points = {key: np.array(values) for key, values in kept.items()}
    figure = figures.trend_with_data(
        points, curves, title=f"{title} by {step.source}", unit=unit, what="correction"
    )
    how = "zero point per class" if step.form == "zero_point" else "spline in Teff"
    return picture(figure, f"{title} by {step.source}: {how}, fitted to {step.n:,}.")


def _checks(made: list[Correction]) -> str:
    rows: list[tuple[Cell, ...]] = [
        (
            label_title(one.label),
            check["what"],
            check["n"],
            *(float(check[f"{what}_{when}"]) for what in ("bias", "scatter") for when in WHEN),
        )
        for one in made
        for check in one.record["checks"]
    ]
    columns = ["label", "of", "n", "bias", "bias after", "scatter", "scatter after"]
    return table(columns, rows) + paragraph(CHECKS, kind="quiet")


WHEN = ("before", "after")
