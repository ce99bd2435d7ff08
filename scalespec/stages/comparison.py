"""How right the labels are: against other catalogs, and against the truth of a made-up survey.

A residual is prediction minus reference; bias is its median, scatter 1.4826 MAD.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scalespec import figures
from scalespec.errors import ConfigError
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.evidence import Array, Columns, Evidence
from scalespec.stages.page import heading, paragraph, picture, side_by_side, table
from scalespec.store.tables import read_table

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
    "a median, scatter 1.4826 MAD; a pull is (fit - truth) / σ."
)
RESIDUALS = "Residuals (fit - truth): narrow, and centered on 0."
PULLS = (
    "Pulls should follow the orange unit normal: wider means errors are too small, narrower too "
    "large."
)
TABLE = ("label", "stars", "n", "bias", "scatter", "pull σ")
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

    def rows(self, groups: Mapping[str, Array]) -> list[tuple[str, str, int, float, float, float]]:
        """Return label, group, n, bias, scatter and width of the pulls for each group."""
        found = {name: figures.spread(self.residual[stars]) for name, stars in groups.items()}
        name = f"{self.title} [{self.unit}]" if self.unit else self.title
        return [
            (name, group, s.n, s.bias, s.scatter, figures.spread(self.pull[groups[group]]).scatter)
            for group, s in found.items()
            if s.n
        ]


def references(evidence: Evidence) -> str:
    """Compare with every reference catalog, label by label."""
    report = evidence.config.report
    names = (report.references if report else ()) or tuple(evidence.config.crossmatch or {})
    html = "".join(_reference(evidence, name) for name in names)
    return html or paragraph("The run names no reference catalog.", kind="quiet")


def _reference(evidence: Evidence, catalog: str) -> str:
    pairs = _pairs(evidence, catalog)
    matched = np.zeros(len(evidence.fitted), bool)
    for one in pairs:
        matched |= evidence.fitted & np.isfinite(one.reference)
    html = heading(f"Against {catalog}")
    if not matched.any():
        return html + paragraph("No star with labels is in this catalog.", kind="quiet")
    inside = _inside(evidence, pairs)
    html += paragraph(
        f"{int(matched.sum()):,} stars with labels are in this catalog, "
        f"{int((matched & inside).sum()):,} of them inside the range of a model by its labels. "
        "Trusted are those of them without a flag and with this label off its bound; a pull is the "
        "residual over both errors."
    )
    rows, drawn = [], []
    for one in pairs:
        trusted = inside & evidence.trusted(one.label)
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


def _pairs(evidence: Evidence, catalog: str) -> list[Compared]:
    """Return what was fitted and the catalog knows, too."""
    columns = evidence.columns
    zero = np.zeros(len(evidence.fitted))
    return [
        Compared(
            ours,
            columns[ours],
            columns[f"{ours}_err"],
            columns[f"{catalog}_{theirs}"],
            np.nan_to_num(columns.get(f"{catalog}_{theirs}_err", zero)),
        )
        for ours in (*evidence.labels, "rv")
        for theirs in SAME.get(ours, (ours,))
        if f"{catalog}_{theirs}" in columns
    ]


def _inside(evidence: Evidence, pairs: Sequence[Compared]) -> Array:
    """(n,) bool: stars whose reference labels, where known, lie in the range of one model."""
    inside = np.zeros(len(evidence.fitted), bool)
    for fitted in evidence.models:
        spec = fitted.model.spec
        within = np.ones(len(inside), bool)
        for one in pairs:
            if one.label in spec.labels:
                k = spec.labels.index(one.label)
                within &= ~(one.reference < spec.minimum[k]) & ~(one.reference > spec.maximum[k])
        inside |= within
    return inside & evidence.fitted


def _held_out(evidence: Evidence, catalog: str, stars: Array) -> dict[str, Array]:
    """Return the test stars among `stars`, if the model has learned from this catalog's."""
    train = evidence.config.train
    if train is None or train.catalog != catalog:
        return {}
    return {"of these, never learned from": stars & (evidence.columns[f"{catalog}_split"] == TEST)}


def truth(evidence: Evidence) -> str:
    """Compare with the true labels of a made-up survey: residuals, pulls, and both by S/N."""
    report = evidence.config.report
    if report is None or not report.truth:
        return paragraph("The run names no table of true labels.", kind="quiet")
    true = _true_columns(evidence, report.truth)
    columns, snr = evidence.columns, evidence.columns["snr"]
    zero = np.zeros(len(snr))
    compared = [
        Compared(name, columns[name], columns[f"{name}_err"], true[name], zero)
        for name in (*evidence.labels, "rv")
        if name in true
    ]
    rows = []
    for one in compared:
        trusted = evidence.trusted(one.label)
        bins = {_bin_name(a, b): trusted & (snr >= a) & (snr < b) for a, b in pairwise(SNR_EDGES)}
        rows += one.rows(bins)
    chosen = {one.title: evidence.trusted(one.label) & (snr >= report.snr_min) for one in compared}
    residuals = {one.title: one.residual[chosen[one.title]] for one in compared}
    pulls = {one.title: one.pull[chosen[one.title]] for one in compared}
    units = {one.title: one.unit for one in compared}
    return (
        paragraph(TRUTH.format(report.snr_min))
        + picture(figures.histograms(residuals, units=units), RESIDUALS, wide=len(compared) > 2)
        + picture(figures.histograms(pulls, what="pull"), PULLS, wide=len(compared) > 2)
        + table(["label", "S/N", *TABLE[2:]], rows)
    )


def _bin_name(low: float, high: float) -> str:
    return f"over {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def _true_columns(evidence: Evidence, url: str) -> Columns:
    """Return the truth on the catalog's rows, joined by obsid; NaN where there is none."""
    source = read_table(url)
    if "obsid" not in source:
        raise ConfigError(f"report.truth: {url} has no column obsid, only {sorted(source)}")
    order = np.argsort(source["obsid"], kind="stable")
    ids = source["obsid"][order]
    place = np.searchsorted(ids, evidence.columns["obsid"]).clip(0, len(ids) - 1)
    known = ids[place] == evidence.columns["obsid"]
    return {
        name: np.where(known, values[order][place], np.nan)
        for name, values in source.items()
        if values.dtype.kind == "f"
    }
