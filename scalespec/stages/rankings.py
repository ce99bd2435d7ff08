"""Which rows of a catalog stand at the head of a list: (key, which rows can be on it)."""

from collections.abc import Callable

import numpy as np

from scalespec.kernels.detection import probability_below
from scalespec.optimize.result import FitStatus
from scalespec.stages.samples import Array, Rows

LIST_ROWS = 20
"""Rows that a list holds."""
LIMITS = {"VMP": -2.0, "EMP": -3.0, "UMP": -4.0}
"""Very, extremely and ultra metal-poor: [Fe/H] below this. Beers & Christlieb 2005, ARA&A 43, 531,
doi:10.1146/annurev.astro.42.053102.134057."""
METALS = ("fe_h", "m_h")


def metal_label(rows: Rows) -> str:
    """Return the label that is the metallicity; "" if none is."""
    return next((name for name in METALS if name in rows.labels), "")


def metallicity(rows: Rows) -> tuple[Array, Array]:
    """Return metallicities and their errors, calibrated where there are such; NaN: not trusted."""
    name = metal_label(rows)
    if not name:
        return np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    trusted = rows.trusted(name)
    column = f"{name}_cal" if f"{name}_cal" in rows.columns else name
    value, err = (rows.columns[one].astype(np.float64) for one in (column, f"{column}_err"))
    unknown = ~trusted | ~np.isfinite(value) | ~(err > 0)
    return np.where(unknown, np.nan, value), np.where(unknown, np.nan, err)


def poor_probability(rows: Rows, limit: float) -> Array:
    """Return the probability that a star is more metal-poor than `limit`; 0 where it is unknown."""
    value, err = metallicity(rows)
    known = np.isfinite(value)
    found = np.zeros(len(rows))
    found[known] = probability_below(value[known], err[known], limit)
    return found


def most_metal_poor(rows: Rows) -> tuple[Array, Array]:
    """Rank those that are more probably VMP than not by what they are below at 2 sigma."""
    value, err = metallicity(rows)
    return value + 2 * err, poor_probability(rows, LIMITS["VMP"]) > 0.5


def least_usual(rows: Rows) -> tuple[Array, Array]:
    """Rank by how unusual the residual of the fit is; kinds that the model does not know are out.

    What is out of its domain is flagged so, and would fill the list.
    """
    if "anomaly" not in rows.columns:
        return np.zeros(len(rows)), np.zeros(len(rows), bool)
    known = rows.columns["fit_status"] & np.uint32(FitStatus.OUT_OF_DOMAIN) == 0
    return -rows.columns["anomaly"], rows.fitted & known


LISTS: dict[str, Callable[[Rows], tuple[Array, Array]]] = {
    "metal-poor": most_metal_poor,
    "unusual": least_usual,
}
"""Lists that a page shows: rows of the least key, among those that can be on it."""


def head_of(rows: Rows, rank: Callable[[Rows], tuple[Array, Array]]) -> Rows:
    """Return the rows at the head of a list, the first one first."""
    key, where = rank(rows)
    places = np.flatnonzero(where & np.isfinite(key))
    order = np.lexsort((rows.columns["row"][places], key[places]))[:LIST_ROWS]
    return rows.take(places[order])
