"""What a page says of velocities that vary: the table of stars that were seen several times."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from scalespec.config import RunConfig
from scalespec.figures import findings as figures
from scalespec.figures.findings import P_BINS
from scalespec.stages import folders
from scalespec.stages.derive import VARIABLE
from scalespec.stages.page import Cell, heading, paragraph, picture, table, tiles
from scalespec.stages.rankings import LIST_ROWS
from scalespec.stages.samples import scrambled
from scalespec.store import paths, streams

Columns = dict[str, npt.NDArray[Any]]

SURE = 1e-3
"""Stars whose velocities scatter with a lower p-value are called variable."""
SHOWN_STARS = 4000
"""Stars of several visits that are drawn."""
BATCH_ROWS = 262_144
COLUMNS = ("star", "n_visit", "mean", "mean_err", "scatter", "difference", "p_value")
VARIES = (
    "A p-value is the chance that a star of constant velocity scatters as much. Such stars fill "
    "all bins alike; those that pile up in the first one vary: binaries, pulsators, or errors that "
    "are too small."
)


@dataclass(frozen=True)
class Visits:
    """What the table of stars that were seen several times comes to.

    Attributes
    ----------
    counts : (P_BINS,) int64
        Stars by p-value.
    variable : int
        Stars below `SURE`.
    shown : dict of str to array
        Columns of a sample of them.
    first : dict of str to array
        Columns of the surest ones.
    floor : float [km/s]
        What was added to errors.
    """

    counts: npt.NDArray[np.int64]
    variable: int
    shown: Columns
    first: Columns
    floor: float


def read_visits(url: str) -> Visits:
    """Read the table that `derive` made, a batch in memory at a time.

    Parameters
    ----------
    url : str
        ``variability.parquet``.
    """
    counts, variable = np.zeros(P_BINS, np.int64), 0
    shown: Columns = {}
    first: Columns = {}
    with streams.opened(url) as source, pq.ParquetFile(source) as file:
        floor = float((file.schema_arrow.metadata or {}).get(b"rv_floor_kms", b"nan"))
        for batch in file.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            here = {name: batch[name].to_numpy() for name in COLUMNS}
            here = {name: values[np.isfinite(here["p_value"])] for name, values in here.items()}
            counts += np.histogram(here["p_value"], bins=P_BINS, range=(0, 1))[0]
            variable += int((here["p_value"] < SURE).sum())
            shown = _head(_joined(shown, here), _drawn_by_lot, SHOWN_STARS)
            first = _head(_joined(first, here), _surest, LIST_ROWS)
    return Visits(counts, variable, shown, first, floor)


def _joined(before: Columns, here: Columns) -> Columns:
    return {n: np.concatenate([before[n], here[n]]) if before else here[n] for n in here}


def _head(columns: Columns, key: Callable[[Columns], tuple[Any, ...]], n: int) -> Columns:
    order = np.lexsort(key(columns))[:n]
    return {name: values[order] for name, values in columns.items()}


def _drawn_by_lot(columns: Columns) -> tuple[Any, ...]:
    return (scrambled(columns["star"]),)


def _surest(columns: Columns) -> tuple[Any, ...]:
    """Sort by p-value; where it is 0 to the last digit, by the difference of velocities."""
    return (columns["star"], -columns["difference"], columns["p_value"])


def velocities(config: RunConfig) -> str:
    """Count, draw and list the stars whose velocity varies."""
    url = paths.join(folders.derived_url(config), VARIABLE)
    found = read_visits(url)
    n = int(found.counts.sum())
    if not n:
        return paragraph("No star was seen twice with a good fit.", kind="quiet")
    html = tiles([
        (f"{n:,}", "stars seen more than once"),
        (f"{found.variable:,}", f"vary: p < {SURE:g}"),
        (f"{SURE * n:,.1f}", "would by chance"),
        (f"{found.floor:.2g} km/s", "added to errors"),
    ])  # fmt: skip
    html += paragraph(VARIES, kind="quiet")
    shown = found.shown
    figure = figures.variable_velocities(
        found.counts,
        shown["mean_err"] * np.sqrt(shown["n_visit"]),
        shown["scatter"],
        shown["p_value"],
        sure=SURE,
    )
    sample = f" Right: {len(shown['star']):,} of them." if n > len(shown["star"]) else ""
    html += picture(figure, f"{n:,} stars with several visits.{sample}", wide=True)
    return html + heading("The surest") + _listed(found.first)


def _listed(first: Columns) -> str:
    rows: list[tuple[Cell, ...]] = [
        (str(first["star"][i]), int(first["n_visit"][i]),
         *(float(first[name][i]) for name in ("mean", "scatter", "difference", "p_value")))
        for i in np.flatnonzero(first["p_value"] < SURE)
    ]  # fmt: skip
    heads = ["star", "visits", "mean [km/s]", "scatter [km/s]", "difference [km/s]", "p-value"]
    return table(heads, rows) if rows else paragraph("No star is sure to vary.", kind="quiet")
