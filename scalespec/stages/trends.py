"""One label's calibration: trends from pairs, zero points from references, floors from repeats."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.config import CalibrateTable
from scalespec.figures import spread
from scalespec.kernels.calibration import (
    Trend,
    bootstrap_trend,
    error_floor,
    fit_pair_trend,
    fit_reference_trend,
    spline_knots,
)
from scalespec.stages.correction import (
    BoolArray,
    Correction,
    FloatArray,
    IntArray,
    LabelData,
    Measured,
    Referred,
    Stars,
    Step,
    nulls,
    snr_bin,
)
from scalespec.stages.samples import scrambled

LEAST_STARS = 20
"""A luminosity class with fewer stars has no trend of its own: it is left as it is, and flagged."""
END_STARS = 5
"""So many stars beyond it carry an end of a trend."""
MOST_ROWS = 200_000
"""Pairs or stars that a trend is fitted to: more make it no better than its knots allow."""
GRID_POINTS = 61
"""Temperatures at which the error of a correction is kept."""
DRAWN_ROWS = 2_000
"""Points that are kept of each fit, to be drawn."""


def held_out(star: IntArray, share: float) -> BoolArray:
    """Say which stars validate: the same ones in every run."""
    return np.asarray(scrambled(star) % np.uint64(1000) < np.uint64(round(1000 * share)))


def fit_correction(
    label: str, data: LabelData, table: CalibrateTable, *, seed: int = 0
) -> Correction:
    """Calibrate one label: pairs, then references, then floors.

    Parameters
    ----------
    label : str
    data : LabelData
    table : CalibrateTable
    seed : int
        Of the bootstrap.

    Returns
    -------
    Correction
        Without a step where nothing that could calibrate the label has enough stars.
    """
    knots = spline_knots(*table.teff_range, table.knots)
    teff = np.linspace(*table.teff_range, GRID_POINTS)
    n_class = len(table.logg_edges) + 1
    made = Correction(
        label,
        table.logg_edges,
        table.snr_edges,
        teff,
        (),
        np.full((n_class, GRID_POINTS), np.nan),
        np.zeros(len(table.snr_edges)),
    )
    variance = np.full((n_class, GRID_POINTS), np.nan)
    fits = (_pair_step, _reference_step)
    for number, fit in enumerate(fits):
        found = fit(made, data, table, knots)
        if found is None:
            continue
        step, again, arrays = found
        made = replace(made, steps=(*made.steps, step))
        trends = bootstrap_trend(again, arrays, n=table.bootstrap, seed=2 * seed + number)
        for one in step.classes:
            kind = np.full(GRID_POINTS, one)
            spread_of = np.std([replace(step, trend=t).at(teff, kind) for t in trends], axis=0)
            variance[one] = np.nan_to_num(variance[one]) + spread_of**2
    made = replace(made, error=np.sqrt(variance))
    floor, floors = _floors(made, data, table)
    checks = _checks(made, data, table)
    record = {"floors": floors, "checks": checks, "drawn": _drawn(made, data)}
    return replace(made, floor=floor, record=record)


Fitted = tuple[Step, Any, tuple[npt.NDArray[Any], ...]]
"""A step, how to fit its trend again, and to what."""


def _pair_step(
    made: Correction, data: LabelData, table: CalibrateTable, knots: FloatArray
) -> Fitted | None:
    pairs = _learned_from(data.pairs, table)
    if pairs is None:
        return None
    kind = made.kind(pairs.logg)
    classes, rows = _classes(kind, len(table.logg_edges) + 1)
    if not classes:
        return None
    pairs, kind = pairs.take(rows), kind[rows]
    difference = pairs.value[:, 0] - pairs.value[:, 1]
    fit = partial(_fitted_pairs, knots=knots, smoothness=table.smoothness)
    sigma = np.hypot(pairs.err[:, 0], pairs.err[:, 1])
    first = fit(pairs.teff, difference, sigma, kind)
    left = difference - first(pairs.teff[:, 0], kind[:, 0]) + first(pairs.teff[:, 1], kind[:, 1])
    arrays = (pairs.teff, difference, _with_scatter(left, sigma), kind)
    reach = _reach(pairs.teff, kind, classes)
    return Step("pairs", "trend", fit(*arrays), classes, reach, len(difference)), fit, arrays


def _fitted_pairs(
    teff: FloatArray, difference: FloatArray, sigma: FloatArray, kind: IntArray, **how: Any
) -> Trend:
    return fit_pair_trend(teff, difference, sigma, kind=kind, **how)


def _reference_step(
    made: Correction, data: LabelData, table: CalibrateTable, knots: FloatArray
) -> Fitted | None:
    name = next(iter(data.references), "")
    stars = _learned_from(data.references.get(name), table)
    if stars is None:
        return None
    stars = stars.take(~held_out(stars.star, table.held_out))
    kind = made.kind(stars.logg)
    classes, rows = _classes(kind, len(table.logg_edges) + 1)
    if not classes:
        return None
    stars, kind = stars.take(rows), kind[rows]
    form = table.references[name].form
    if form == "auto":
        form = "zero_point" if made.steps else "trend"
    fit = partial(_fitted_reference, knots=knots, smoothness=table.smoothness)
    if form == "zero_point":
        fit = partial(_zero_point, knots=knots)
    difference = stars.value - made(stars.teff, stars.logg) - stars.reference
    sigma = np.hypot(stars.err, stars.reference_err)
    first = fit(stars.teff, difference, sigma, kind)
    arrays = (
        stars.teff,
        difference,
        _with_scatter(difference - first(stars.teff, kind), sigma),
        kind,
    )
    reach = _reach(stars.teff, kind, classes)
    return Step(name, form, fit(*arrays), classes, reach, len(difference)), fit, arrays


def _fitted_reference(
    teff: FloatArray, difference: FloatArray, sigma: FloatArray, kind: IntArray, **how: Any
) -> Trend:
    return fit_reference_trend(teff, difference, sigma, kind=kind, **how)


def _zero_point(
    teff: FloatArray, difference: FloatArray, sigma: FloatArray, kind: IntArray, knots: FloatArray
) -> Trend:
    """Return the median difference of each class, as a trend that is flat."""
    del teff, sigma
    n_class, n_basis = int(kind.max(initial=0)) + 1, len(knots) - 4
    level, variance = np.zeros(n_class), np.zeros(n_class)
    for one in np.unique(kind):
        found = spread(difference[kind == one])
        level[one] = found.bias
        variance[one] = np.pi / 2 * found.scatter**2 / found.n  # of a median
    flat = np.repeat(level[:, None], n_basis, axis=1)
    covariance = np.asarray(np.kron(np.diag(variance), np.ones((n_basis, n_basis))), np.float64)
    return Trend(knots, flat, covariance)


def _with_scatter(left: FloatArray, sigma: FloatArray) -> FloatArray:
    """Return errors raised by what the residuals show beyond them: real scatter of the stars."""
    floor, _ = error_floor(left, sigma, np.zeros(len(left), np.int64), 1)
    return np.asarray(np.hypot(sigma, np.sqrt(2) * np.nan_to_num(floor[0])))


def _learned_from(stars: Stars | None, table: CalibrateTable) -> Stars | None:
    """Return the stars or pairs that trends are fitted to, at most `MOST_ROWS` of them."""
    if stars is None:
        return None
    low, high = table.teff_range  # beyond it all stars would pull at the end's one coefficient
    asked = (stars.snr >= table.snr_min) & (stars.teff >= low) & (stars.teff <= high)
    good = stars.known & (asked if asked.ndim == 1 else np.all(asked, axis=1))
    if isinstance(stars, Referred):
        good &= np.isfinite(stars.reference)
    rows = np.flatnonzero(good)
    if len(rows) > MOST_ROWS:
        rows = np.sort(rows[np.argsort(scrambled(rows), kind="stable")[:MOST_ROWS]])
    return stars.take(rows) if len(rows) >= LEAST_STARS else None


def _classes(kind: IntArray, n_class: int) -> tuple[tuple[int, ...], BoolArray]:
    """Return the classes that have stars enough, and the rows that hold no other."""
    counts = np.bincount(kind.ravel(), minlength=n_class)
    kept = tuple(int(one) for one in np.flatnonzero(counts >= LEAST_STARS))
    inside = np.isin(kind, kept)
    return kept, inside if inside.ndim == 1 else np.all(inside, axis=1)


def _reach(
    teff: FloatArray, kind: IntArray, classes: tuple[int, ...]
) -> tuple[tuple[float, float], ...]:
    """Return between which temperatures each class has stars: `END_STARS` are beyond either end."""
    found = []
    for one in classes:
        here = np.sort(teff[kind == one])
        found.append((float(here[END_STARS]), float(here[-1 - END_STARS])))
    return tuple(found)


def _floors(
    made: Correction, data: LabelData, table: CalibrateTable
) -> tuple[FloatArray, dict[str, Any]]:
    """Return the floor by S/N, and what repeats and pairs say of it."""
    n_bin = len(table.snr_edges)
    found, said = [], {}
    for name, two in (("repeats", data.repeats), ("pairs", data.pairs)):
        if two is None:
            continue
        floor, error, n = _floor(made, two.take(two.known), same=name == "repeats")
        said[name] = {"n": n.tolist(), "floor": nulls(floor), "error": nulls(error)}
        if name in table.floors:
            found.append(floor)
    known = np.fmax.reduce(found) if found else np.full(n_bin, np.nan)
    there = np.flatnonzero(np.isfinite(known))
    if not len(there):
        return np.zeros(n_bin), said
    # A bin without repeats has the floor of the nearest that has some.
    nearest = there[np.argmin(np.abs(np.arange(n_bin)[:, None] - there[None, :]), axis=1)]
    return known[nearest], said


def _floor(
    made: Correction, two: Measured, *, same: bool
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return floor, its error and number of differences by S/N, `same`: of both measurements."""
    n_bin = len(made.snr_edges)
    bins = snr_bin(two.snr, made.snr_edges)
    if same:  # the floor is of both; pairs are too few to ask that of them
        rows = np.flatnonzero(bins[:, 0] == bins[:, 1])
        two, bins = two.take(rows), bins[rows]
    left = _left(two, made)
    group: IntArray = bins.min(axis=1, initial=n_bin - 1)
    floor, error = error_floor(left, np.hypot(two.err[:, 0], two.err[:, 1]), group, n_bin)
    return floor, error, np.bincount(group, minlength=n_bin)


def _left(two: Measured, made: Correction) -> FloatArray:
    """Return the differences that a correction leaves."""
    first, second = (two.value[:, i] - made(two.teff[:, i], two.logg[:, i]) for i in (0, 1))
    return np.asarray(first - second)


def _checks(made: Correction, data: LabelData, table: CalibrateTable) -> list[dict[str, Any]]:
    """Return bias and scatter before and after, of what was not fitted where there is a choice."""
    return [one for one in _compared(made, data, table) if one["n"]]


def _compared(made: Correction, data: LabelData, table: CalibrateTable) -> Iterator[dict[str, Any]]:
    for name, stars in data.references.items():
        good = stars.known & np.isfinite(stars.reference) & (stars.snr >= table.snr_min)
        kept = stars.take(good & held_out(stars.star, table.held_out))
        raw = kept.value - kept.reference
        yield _check(f"{name}, held out", raw, raw - made(kept.teff, kept.logg))
    if data.pairs is not None:
        two = data.pairs.take(data.pairs.known)
        yield _check("pairs", two.value[:, 0] - two.value[:, 1], _left(two, made))
    for name, members in data.clusters.items():
        here = members.take(members.known)
        yield _check(f"cluster {name}", here.value, here.value - made(here.teff, here.logg))


def _check(what: str, before: FloatArray, after: FloatArray) -> dict[str, Any]:
    one, other = spread(before), spread(after)
    numbers = {"bias_before": one.bias, "scatter_before": one.scatter}
    numbers |= {"bias_after": other.bias, "scatter_after": other.scatter}
    kept = {key: round(value, 6) for key, value in numbers.items()}
    return {"what": what, "n": one.n, **(kept if one.n else dict.fromkeys(kept))}


def _drawn(made: Correction, data: LabelData) -> dict[str, Any]:
    """Return points that show each step's trend: Teff [K], what the data say of it, class."""
    points: dict[str, Any] = {}
    before = replace(made, steps=())
    for step in made.steps:
        through = replace(made, steps=(*before.steps, step))
        if step.source == "pairs" and data.pairs is not None:
            two = data.pairs.take(data.pairs.known)
            # A star less its companion as corrected: what the pair says of the star's own trend.
            other = two.value[:, 1] - through(two.teff[:, 1], two.logg[:, 1])
            teff, logg, y = two.teff[:, 0], two.logg[:, 0], two.value[:, 0] - other
        else:
            stars = data.references[step.source]
            stars = stars.take(stars.known & np.isfinite(stars.reference))
            teff, logg = stars.teff, stars.logg
            y = stars.value - before(teff, logg) - stars.reference
        rows = np.argsort(scrambled(np.arange(len(teff))), kind="stable")[:DRAWN_ROWS]
        points[step.source] = {
            "teff": teff[rows].round(1).tolist(),
            "value": y[rows].round(5).tolist(),
            "kind": made.kind(logg[rows]).tolist(),
        }
        before = through
    return points
