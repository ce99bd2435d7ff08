"""Very metal-poor and carbon-enhanced stars among those a comparison has tested.

A star's probability comes from predictions by models that have never seen it. Probabilities and
thresholds are learned from the other splits, so that neither has seen it either.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scalespec.config.compare import CandidatesTable, CompareTable
from scalespec.figures import comparison as figures
from scalespec.kernels.detection import (
    CEMP_MILD,
    CEMP_RICH,
    Confusion,
    Curve,
    Recalibration,
    cemp_subclass,
    confusion,
    probability_below,
    purity,
    reliability,
    threshold_curve,
)
from scalespec.stages.page import heading, paragraph, picture
from scalespec.stages.page import table as html_table
from scalespec.store import paths
from scalespec.store.tables import write_table

METAL = "fe_h"
CARBON = "c_fe"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Search:
    """What looking for one kind of star came to.

    Attributes
    ----------
    stars : pd.DataFrame
        A row per spectrum: label, sigma, truth, ``probability``, ``threshold``, ``called``.
    found : Confusion
    curve : Curve
    prevalence : float
    """

    stars: pd.DataFrame
    found: Confusion
    curve: Curve
    prevalence: float


def search(
    tested: pd.DataFrame, label: str, wanted: CandidatesTable, *, threshold: float, above: bool
) -> Search | None:
    """Look for stars whose label lies beyond a threshold.

    Parameters
    ----------
    tested : pd.DataFrame
        One model's predictions of test stars.
    label : str
    wanted : CandidatesTable
    threshold : float
        Of the label.
    above : bool
        Whether wanted stars lie above it.

    Returns
    -------
    Search or None
        None where the truth has not both kinds of stars in every split but one, or no star has a
        probability.
    """
    known = tested[np.isfinite(tested[f"{label}_true"]) & np.isfinite(tested[label])]
    side = -1.0 if above else 1.0
    p = probability_below(
        side * known[label].to_numpy(), known[f"{label}_sigma"].to_numpy(), side * threshold
    )
    truth = side * known[f"{label}_true"].to_numpy() < side * threshold
    if not np.isfinite(p).any():  # no error was learned for want of validation stars
        return None
    made = known.assign(truth=truth, raw=p)
    parts = []
    for split, mine in made.groupby("split"):
        others = made[(made["split"] != split) & ~made["star"].isin(mine["star"])]
        if not others["truth"].any() or others["truth"].all():
            return None
        honest = Recalibration.fit(others["raw"].to_numpy(), others["truth"].to_numpy())
        curve = threshold_curve(
            honest(others["raw"].to_numpy()), others["truth"].to_numpy(), wanted.prevalence
        )
        limit = curve.at_fpr(wanted.fpr)
        mine_p = honest(mine["raw"].to_numpy())
        parts.append(mine.assign(probability=mine_p, limit=limit, margin=mine_p - limit))
    if not parts:
        return None
    stars = _per_spectrum(pd.concat(parts), label)
    truth = stars["truth"].to_numpy()
    if not truth.any() or truth.all():
        return None
    curve = threshold_curve(stars["probability"].to_numpy(), truth, wanted.prevalence)
    return Search(stars, confusion(truth, stars["called"].to_numpy()), curve, wanted.prevalence)


def _per_spectrum(every: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return one row per spectrum: the mean over the splits that tested it."""
    grouped = every.groupby("row")
    names = [label, f"{label}_sigma", f"{label}_true", "probability", "limit", "snr"]
    stars = grouped[[*names, "margin"]].mean()
    stars["truth"] = grouped["truth"].first()
    stars[["obsid", "source_id", "star"]] = grouped[["obsid", "source_id", "star"]].first()
    stars["n_tests"] = grouped.size()
    return stars.assign(called=stars["margin"] >= 0).reset_index()


def section(
    predictions: pd.DataFrame, table: CompareTable, url: str, columns: dict[str, Array]
) -> tuple[str, str]:
    """Look for both kinds of stars; store the candidates; return a page's section and its text.

    Parameters
    ----------
    predictions : pd.DataFrame
        Of test stars.
    table : CompareTable
        With a `candidates` table.
    url : str
        Folder of the comparison; ``candidates.parquet`` and ``candidates.fits`` go there.
    columns : dict of str to array
        Label columns of the store by its rows: other sources' labels.
    """
    wanted = table.candidates
    if wanted is None:
        return "", ""
    mine = predictions[predictions["model"] == wanted.model]
    html, text = "", ""
    metal = search(mine, METAL, wanted, threshold=wanted.threshold, above=False)
    if metal is None:
        why = "too few such stars to learn from"
        if mine["split"].nunique() < 2:
            why = "each split's threshold is learned from the others, and there is one (seeds = 1)"
        words = f"No search for [Fe/H] < {wanted.threshold:g}: {why}."
        return paragraph(words), words + "\n"
    name = f"[Fe/H] < {wanted.threshold:g}, by {wanted.model}"
    html, text = _shown(metal, name, wanted)
    lowest = float(metal.stars[f"{METAL}_true"].min())
    words = (
        f"The most metal-poor star of this sample has [Fe/H] = {lowest:.2f}: of stars below that "
        "it says nothing."
    )
    html, text = html + paragraph(words), text + words + "\n"
    write_candidates(url, candidate_columns(mine, metal, wanted, columns))
    if CARBON in table.labels:
        for limit in (CEMP_RICH, CEMP_MILD):
            carbon = search(mine, CARBON, wanted, threshold=limit, above=True)
            title = f"[C/Fe] > {limit:g}, by {wanted.model}"
            more = _shown(carbon, title, wanted) if carbon else _none(title)
            html, text = html + more[0], text + more[1]
    return html, text


def _none(title: str) -> tuple[str, str]:
    words = f"{title}: too few such stars are tested to say anything."
    return paragraph(words), words + "\n"


def _shown(made: Search, title: str, wanted: CandidatesTable) -> tuple[str, str]:
    rows = summary_rows(made)
    found = made.found
    plane = html_table(
        ["", "is one", "is none"],
        [["called one", found.tp, found.fp], ["called none", found.fn, found.tn]],
    )
    curves = {
        f"prevalence {p:.2g}": (made.curve.completeness, purity_of(made.curve, p))
        for p in (made.prevalence, made.found.prevalence)
    }
    chosen = (found.completeness, found.purity_at(made.prevalence))
    stars = made.stars
    honest = reliability(stars["probability"].to_numpy(), stars["truth"].to_numpy())
    drawn = picture(
        figures.purity_figure(curves, chosen, title=title),
        "Purity against completeness as the threshold falls, at the survey's prevalence and at "
        "this sample's own.",
    ) + picture(
        figures.reliability_figure(
            honest.stated, honest.found, (honest.low, honest.high), honest.n
        ),
        "Of the stars of a stated probability, the part that is so, with 68 % intervals; numbers "
        "are stars.",
    )
    words = (
        f"Stars are called candidates where the false-positive rate of the other splits is "
        f"{100 * wanted.fpr:.2g} %; purity is for a survey in which {100 * wanted.prevalence:.2g} "
        "% of the stars are wanted."
    )
    html = heading(title) + paragraph(words) + plane
    html += html_table(["", "value", "68 % from", "to"], rows) + drawn
    lines = [
        f"  {name:<28} {value:.4f}  [{low:.4f}, {high:.4f}]" for name, value, low, high in rows
    ]
    text = "\n".join(
        [
            title,
            f"  TP {found.tp}  FN {found.fn}  FP {found.fp}  TN {found.tn}",
            *lines,
            "",
        ]
    )
    return html, text


def purity_of(curve: Curve, prevalence: float) -> npt.NDArray[Any]:
    """Return a curve's purity at another prevalence."""
    return np.asarray(purity(curve.completeness, curve.fpr, prevalence))


def summary_rows(made: Search) -> list[tuple[str, float, float, float]]:
    """Return name, value and interval of what a search came to."""
    found = made.found
    ends = found.intervals(made.prevalence)
    rows = [
        ("completeness", found.completeness, *ends["completeness"]),
        ("false-positive rate", found.fpr, *ends["fpr"]),
        (f"purity at prevalence {made.prevalence:g}", found.purity_at(made.prevalence),
         *ends["purity"]),
    ]  # fmt: skip
    at = found.intervals(found.prevalence)["purity"]
    rows.append((f"purity in this sample ({found.prevalence:.3f})",
                 found.purity_at(found.prevalence), *at))  # fmt: skip
    return rows


def candidate_columns(
    tested: pd.DataFrame, metal: Search, wanted: CandidatesTable, columns: dict[str, Array]
) -> dict[str, Array]:
    """Return the catalog of candidates: ours, probability and threshold, every other source.

    Parameters
    ----------
    tested : pd.DataFrame
        One model's predictions.
    metal : Search
    wanted : CandidatesTable
    columns : dict of str to (n,) array
        Label columns of the store, by its rows; NaN where a source does not know a star.
    """
    called = metal.stars[metal.stars["called"]].sort_values("probability", ascending=False)
    rows = called["row"].to_numpy()
    labels = [c.removesuffix("_true") for c in map(str, tested) if c.endswith("_true")]
    means = tested.groupby("row")[[*labels, *(f"{label}_sigma" for label in labels)]].mean()
    ours = means.loc[rows]
    made: dict[str, Array] = {name: called[name].to_numpy() for name in ("obsid", "source_id")}
    made |= {"row": rows, "snr": called["snr"].to_numpy(np.float32)}
    made["p_metal_poor"] = called["probability"].to_numpy(np.float32)
    made["p_threshold"] = called["limit"].to_numpy(np.float32)
    for label in labels:
        made[label] = ours[label].to_numpy(np.float32)
        made[f"{label}_err"] = ours[f"{label}_sigma"].to_numpy(np.float32)
    for name in wanted.references or tuple(columns):
        made[f"reference_{name}"] = np.asarray(columns[name], np.float32)[rows]
    if CARBON in labels:
        made |= carbon_columns(made[CARBON], rows, wanted, columns)
    return made


def carbon_columns(
    c_fe: Array, rows: Array, wanted: CandidatesTable, columns: dict[str, Array]
) -> dict[str, Array]:
    """Return what our [C/Fe] says of candidates: corrected if asked for, flags, sub-class."""
    made: dict[str, Array] = {}
    carbon = np.asarray(c_fe, np.float64)
    if wanted.carbon_correction:
        added = np.asarray(columns[wanted.carbon_correction], np.float64)[rows]
        carbon = carbon + np.nan_to_num(added)
        made["c_fe_corrected"] = carbon.astype(np.float32)
    made["is_cemp_1p0"] = carbon > CEMP_RICH
    made["is_cemp_0p7"] = carbon > CEMP_MILD
    if wanted.barium and wanted.europium:
        heavy = [np.asarray(columns[n], np.float64)[rows] for n in (wanted.barium, wanted.europium)]
        kind = cemp_subclass(*heavy)
        made["cemp_subclass"] = np.where(carbon > CEMP_MILD, kind, "")
    return made


def write_candidates(url: str, columns: dict[str, Array]) -> None:
    """Store the candidates as Parquet and as FITS."""
    for ending in ("parquet", "fits"):
        write_table(
            paths.join(url, f"candidates.{ending}"),
            columns,
            descriptions={
                "p_metal_poor": "probability of [Fe/H] below the limit, by models blind to it",
                "p_threshold": "probability above which a star is called a candidate",
            },
        )
