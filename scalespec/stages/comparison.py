"""How right the labels are: against other catalogs, and against the truth of a made-up survey.

A residual is prediction minus reference; bias is its median, scatter 1.4826 MAD.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scalespec import figures
from scalespec.errors import ConfigError
from scalespec.kernels.where import columns_in, where
from scalespec.optimize.result import FitStatus
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.evidence import Evidence
from scalespec.stages.page import heading, paragraph, picture, side_by_side, table
from scalespec.stages.samples import Array, Columns, Rows
from scalespec.store.batches import column_names, iterate_piece, list_pieces

SNR_EDGES = (0.0, 10.0, 20.0, 30.0, 50.0, 100.0, np.inf)
SAME = {"fe_h": ("fe_h", "m_h"), "m_h": ("m_h", "fe_h")}
"""Labels close enough to be compared: a model of [M/H] with a catalog of [Fe/H]."""
ONE_TO_ONE = (
    "Points should lie along the dashed line, residuals (scalespec - reference) around 0 without "
    "a slope. Orange crosses are apart: flagged, at the model's edge, or outside its range by the "
    "reference."
)
TRUTH = (
    "In the figures: S/N ≥ {:g}, no flag, the label off its bound; in the table every S/N. Bias is "
    "a median, scatter 1.4826 MAD. σ is the fit's own error: where neither box nor prior says "
    "more than the spectrum, the Cramér-Rao bound. A pull is (fit - truth) / σ."
)
RESIDUALS = "Residuals (fit - truth): narrow, and centered on 0."
PULLS = (
    "Pulls should follow the orange unit normal: wider means errors are too small, narrower too "
    "large."
)
TABLE = ("label", "stars", "n", "bias", "scatter", "median σ", "pull σ")
TRUTH_ROWS = 262_144
"""Rows of the table of true labels in memory at a time."""
TEST = 2
"""The split that no training sees."""


@dataclass(frozen=True)
class Compared:
    """One label of n stars beside a reference; NaN where either is unknown."""

    label: str
    value: Array
    err: Array
    reference: Array
    reference_err: Array

    @property
    def title(self) -> str:
        """Its name as printed."""
        return label_title(self.label)

    @property
    def unit(self) -> str:
        """Its unit."""
        return "km/s" if self.label == "rv" else label_facts(self.label)[0]

    @property
    def residual(self) -> Array:
        """(n,): prediction - reference."""
        residual: Array = self.value - self.reference
        return residual

    @property
    def pull(self) -> Array:
        """(n,): residual over both errors."""
        pull: Array = self.residual / np.hypot(self.err, self.reference_err)
        return pull

    def rows(self, groups: Mapping[str, Array]) -> list[tuple[str | int | float, ...]]:
        """Return label, group, n, bias, scatter, median error and width of pulls for each group."""
        name = f"{self.title} [{self.unit}]" if self.unit else self.title
        sigma = np.hypot(self.err, self.reference_err)
        rows: list[tuple[str | int | float, ...]] = []
        for group, stars in groups.items():
            found, pull = (figures.spread(a[stars]) for a in (self.residual, self.pull))
            if found.n:
                known = stars & np.isfinite(self.pull)
                middle = float(np.median(sigma[known])) if known.any() else float("nan")
                rows.append((name, group, found.n, found.bias, found.scatter, middle, pull.scatter))
        return rows


def references(evidence: Evidence) -> str:
    """Compare with every reference catalog, label by label."""
    report = evidence.config.report
    names = (report.references if report else ()) or tuple(evidence.config.crossmatch or {})
    html = "".join(_reference(evidence, name) for name in names)
    return html or paragraph("The run names no reference catalog.", kind="quiet")


def _reference(evidence: Evidence, catalog: str) -> str:
    stars = evidence.matched[catalog]
    pairs = _pairs(stars, catalog)
    html = heading(f"Against {catalog}")
    if not len(stars):
        return html + paragraph("No star with labels is in this catalog.", kind="quiet")
    inside = _inside(evidence, stars, pairs)
    html += paragraph(
        f"{evidence.counts['matched', catalog]:,} stars with labels are in this catalog. "
        + evidence.drawn_from(stars, ("matched", catalog))
        + f"{int(inside.sum()):,} of them are inside the range of a model by its labels. Trusted "
        "are those of them without a flag of theirs, with this label off its bound and known by "
        "their spectra; a pull is the residual over both errors."
    )
    rows, drawn = [], []
    for one in pairs:
        trusted = inside & stars.trusted(one.label)
        groups = {"inside": inside, "inside, trusted": trusted, "outside": ~inside}
        rows += one.rows(groups | _held_out(evidence, catalog, trusted))
        figure = figures.one_to_one(
            one.reference,
            one.value,
            name=one.title,
            unit=one.unit,
            err=one.err,
            apart=~trusted,
            reference_name=catalog,
        )
        drawn.append(picture(figure, f"{one.title} against {catalog}."))
    return html + table(TABLE, rows) + paragraph(ONE_TO_ONE) + side_by_side(drawn)


def _fitted_names(stars: Rows) -> list[str]:
    """Return what was measured with an error: labels; velocity and rotation where a fit did."""
    others = [name for name in ("rv", "vsini") if f"{name}_err" in stars.columns]
    return [*stars.labels, *(name for name in others if name not in stars.labels)]


def _pairs(stars: Rows, catalog: str) -> list[Compared]:
    """Return what was fitted and the catalog knows, too."""
    columns = stars.columns
    zero = np.zeros(len(stars))
    return [
        Compared(
            ours,
            columns[ours],
            columns[f"{ours}_err"],
            columns[f"{catalog}_{theirs}"],
            np.nan_to_num(columns.get(f"{catalog}_{theirs}_err", zero)),
        )
        for ours in _fitted_names(stars)
        for theirs in SAME.get(ours, (ours,))
        if f"{catalog}_{theirs}" in columns
    ]


def _inside(evidence: Evidence, stars: Rows, pairs: Sequence[Compared]) -> Array:
    """(n,) bool: stars whose reference labels, where known, lie in the range of one model."""
    if evidence.config.fit is None:  # a regressor says of spectra, not of labels, what it knows
        unknown = stars.columns["fit_status"] & np.uint32(FitStatus.OUT_OF_DOMAIN) != 0
        known: Array = stars.fitted & ~unknown
        return known
    inside = np.zeros(len(stars), bool)
    for fitted in evidence.models:
        spec = fitted.model.spec
        within = np.ones(len(inside), bool)
        for one in pairs:
            if one.label in spec.labels:
                k = spec.labels.index(one.label)
                within &= ~(one.reference < spec.minimum[k]) & ~(one.reference > spec.maximum[k])
        inside |= within
    return inside & stars.fitted


def _held_out(evidence: Evidence, catalog: str, stars: Array) -> dict[str, Array]:
    """Return the test stars among `stars`, if the model has learned from this catalog's."""
    train = evidence.config.train
    if train is None or train.catalog != catalog:
        return {}
    split = evidence.matched[catalog].columns[f"{catalog}_split"]
    return {"of these, never learned from": stars & (split == TEST)}


def truth(evidence: Evidence) -> str:
    """Compare with the true labels of a made-up survey: residuals, pulls, and both by S/N."""
    report = evidence.config.report
    if report is None or not report.truth:
        return paragraph("The run names no table of true labels.", kind="quiet")
    stars = evidence.stars
    true, left_out = read_truth(stars, report.truth, report.truth_where)
    columns, snr = stars.columns, stars.columns["snr"]
    zero = np.zeros(len(stars))
    compared = [
        Compared(name, columns[name], columns[f"{name}_err"], true[name], zero)
        for name in _fitted_names(stars)
        if name in true
    ]
    rows = []
    for one in compared:
        trusted = stars.trusted(one.label)
        bins = {_bin_name(a, b): trusted & (snr >= a) & (snr < b) for a, b in pairwise(SNR_EDGES)}
        rows += one.rows(bins)
    chosen = {one.title: stars.trusted(one.label) & (snr >= report.snr_min) for one in compared}
    residuals = {one.title: one.residual[chosen[one.title]] for one in compared}
    pulls = {one.title: one.pull[chosen[one.title]] for one in compared}
    units = {one.title: one.unit for one in compared}
    whose = (
        f"Stars with {report.truth_where}; {left_out:,} others are left out." if left_out else ""
    )
    wide = len(compared) > 2
    return (
        paragraph(evidence.drawn_from(stars) + TRUTH.format(report.snr_min))
        + (paragraph(whose) if whose else "")
        + picture(figures.histograms(residuals, units=units), f"{RESIDUALS} {whose}", wide=wide)
        + picture(figures.histograms(pulls, what="pull"), f"{PULLS} {whose}", wide=wide)
        + table(["label", "S/N", *TABLE[2:]], rows)
    )


def _bin_name(low: float, high: float) -> str:
    return f"over {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def read_truth(stars: Rows, url: str, condition: str = "") -> tuple[Columns, int]:
    """Return the truth of stars, joined by obsid, and how many of them `condition` leaves out.

    Parameters
    ----------
    stars : Rows
    url : str
        Table of true labels, read piece by piece.
    condition : str
        On its columns; "": all stars.

    Returns
    -------
    columns : dict of str to (n,) float64
        NaN where there is no truth, or the condition does not hold.
    left_out : int
        Stars with labels whose truth is known and not asked for.

    Raises
    ------
    ConfigError
        If the table has no obsid, or the condition cannot be read.
    """
    there = column_names(url)
    if "obsid" not in there:
        raise ConfigError(f"report.truth: {url} has no column obsid, only {sorted(there)}")
    labels = [name for name in _fitted_names(stars) if name in there]
    wanted = list(dict.fromkeys(["obsid", *labels, *_asked(condition, there)]))
    order = np.argsort(stars.columns["obsid"], kind="stable")
    ids = stars.columns["obsid"][order]
    true = {name: np.full(len(stars), np.nan) for name in labels}
    left_out = 0
    for piece in list_pieces(url, TRUTH_ROWS):
        for part in iterate_piece(piece, wanted, TRUTH_ROWS):
            row, place = _joined(ids, part["obsid"])
            chosen = _selected(condition, {name: values[row] for name, values in part.items()})
            left_out += int((~chosen & stars.fitted[order[place]]).sum())
            for name in labels:
                true[name][order[place[chosen]]] = part[name][row[chosen]]
    return true, left_out


def _joined(ids: Array, other: Array) -> tuple[Array, Array]:
    """Return places in `other` and in the sorted `ids` of every pair of equal ones."""
    first, last = (np.searchsorted(ids, other, side) for side in ("left", "right"))
    several = last - first  # spectra of one obsid
    row = np.repeat(np.arange(len(other)), several)
    place = np.arange(len(row)) - np.repeat(np.cumsum(several) - several, several) + first[row]
    return row, place


def _asked(condition: str, there: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that a condition is on."""
    if not condition:
        return ()
    try:
        names = columns_in(condition)
    except ValueError as error:
        raise ConfigError(f"report.truth_where: {error}") from error
    if unknown := [name for name in names if name not in there]:
        raise ConfigError(f"report.truth_where: the truth has no {unknown}, only {sorted(there)}")
    return names


def _selected(condition: str, columns: Columns) -> Array:
    if not condition:
        return np.ones(len(columns["obsid"]), bool)
    try:
        return where(condition, columns)
    except ValueError as error:
        raise ConfigError(f"report.truth_where: {error}") from error
