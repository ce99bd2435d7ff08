"""Which stars of the catalog are shown, along which axes, and which one comes next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalespec.optimize.result import FitStatus
from scalespec.schema import SpectrumStatus
from scalespec.stages.columns import describe, label_title
from scalespec.stages.evidence import Evidence
from scalespec.stages.samples import Array, Rows, Sample

MOST_POINTS = 20_000
"""Points that a browser is given; the same ones every time."""
REACH = 0.04
"""Part of the diagram's width and height within which a tap means a point."""

TRUSTED, GOOD, FITTED, ALL = "trusted", "good", "fitted", "all"
OTHERS = {"rv": "RV [km/s]", "snr": "S/N", "chi2_dof": "χ² per degree of freedom"}
"""What can be an axis beside the labels."""


@dataclass(frozen=True)
class Plane:
    """What the diagram shows: names of both axes and of the color."""

    x: str
    y: str
    color: str


def axes_of(rows: Rows) -> dict[str, str]:
    """Return what can be an axis or a color, and how it is written: labels, then others.

    Examples
    --------
    >>> axes_of(Rows({"row": np.arange(2), "teff": np.ones(2)}, ["teff"]))
    {'teff': 'Teff [K]', 'chi2_dof': 'χ² per degree of freedom'}
    """
    names = {name: _with_unit(name) for name in rows.labels}
    there = {name: text for name, text in OTHERS.items() if name in rows.columns}
    return names | there | {"chi2_dof": OTHERS["chi2_dof"]}


def _with_unit(name: str) -> str:
    unit = describe(name)[0]
    return f"{label_title(name)} [{unit}]" if unit else label_title(name)


def first_plane(rows: Rows) -> Plane:
    """Return the Kiel diagram colored by metallicity, or what comes nearest to it."""
    names = list(axes_of(rows))
    metal = next((name for name in ("fe_h", "m_h") if name in names), names[-1])
    kiel = all(name in names for name in ("teff", "logg"))
    return Plane("teff", "logg", metal) if kiel else Plane(names[0], names[1], metal)


def along(rows: Rows, name: str) -> Array:
    """(n,) float32: the rows' values of an axis."""
    values = rows.chi2_dof if name == "chi2_dof" else rows.columns[name]
    return np.asarray(values, np.float32)


def kinds_of(rows: Rows) -> dict[str, str]:
    """Return which groups of spectra can be shown, and what each is called."""
    found = {
        TRUSTED: "trusted stars",
        GOOD: "no flag but of single labels",
        FITTED: "all with labels",
        ALL: "every spectrum",
    }
    columns = rows.columns
    for kind, flags in (("fit", FitStatus), ("spectrum", SpectrumStatus)):
        for flag in flags:
            if n := int((columns[f"{kind}_status"] & np.uint32(flag.value) != 0).sum()):
                found[f"{kind}.{flag.name}"] = f"{kind} flag {flag.name} ({n:,})"
    return found


def of_kind(rows: Rows, kind: str, plane: Plane) -> Array:
    """(n,) bool: the rows that a group holds."""
    known = {GOOD: rows.good, FITTED: rows.fitted, ALL: np.ones(len(rows), bool)}
    if kind in known:
        return known[kind]
    if kind == TRUSTED:
        return rows.trusted(*(name for name in (plane.x, plane.y) if name in rows.labels))
    what, _, flag = kind.partition(".")
    bits = (FitStatus if what == "fit" else SpectrumStatus)[flag].value
    found: Array = rows.columns[f"{what}_status"] & np.uint32(bits) != 0
    return found


def points(rows: Rows, kind: str, plane: Plane) -> Rows:
    """Return the rows of a group that have a place in a plane: no more than a browser can hold."""
    placed = np.isfinite(along(rows, plane.x)) & np.isfinite(along(rows, plane.y))
    sample = Sample(MOST_POINTS)
    sample.add(rows.take(of_kind(rows, kind, plane) & placed))
    return sample.rows()


def limits(values: Array) -> tuple[float, float]:
    """Return limits that show all but the wildest values.

    Examples
    --------
    >>> limits(np.array([0.0, 1.0, np.nan]))
    (-0.05, 1.05)
    """
    known = np.asarray(values, np.float64)[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low, high = np.quantile(known, [0.002, 0.998] if len(known) > 500 else [0.0, 1.0])
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def nearest(x: Array, y: Array, place: tuple[float, float], spans: Sequence[float]) -> int | None:
    """Return the point at a place of the diagram, None if none is near.

    Parameters
    ----------
    x, y : (n,) float
        The points.
    place : (float, float)
        Where, in the same units.
    spans : (float, float)
        Widths of both axes as they are seen now.
    """
    if not len(x):
        return None
    distance = np.hypot((x - place[0]) / spans[0], (y - place[1]) / spans[1])
    found = int(np.argmin(distance))
    return found if distance[found] <= REACH else None


def step(shown: Array, row: int, by: int) -> int | None:
    """Return the row after (`by` 1) or before (-1) a row among those shown, the ends joined.

    Examples
    --------
    >>> step(np.array([2, 5, 9]), 5, 1), step(np.array([2, 5, 9]), 9, 1)
    (9, 2)
    >>> step(np.array([2, 5, 9]), 4, -1)
    2
    """
    if not len(shown):
        return None
    if by > 0:
        place = int(np.searchsorted(shown, row, "right"))
    else:
        place = int(np.searchsorted(shown, row, "left")) - 1
    return int(shown[place % len(shown)])


def first_row(examples: Mapping[str, tuple[Rows, int] | None], evidence: Evidence) -> int | None:
    """Return the row of the star that is shown first: an example, or the first of the sample."""
    for chosen in examples.values():
        if chosen is not None:
            rows, place = chosen
            return int(rows.columns["row"][place])
    rows = evidence.stars
    return int(rows.columns["row"][0]) if len(rows) else None
