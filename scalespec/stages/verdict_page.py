"""The page of a comparison: tables, one-to-one panels, leakage, attribution, candidates."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scalespec.config.compare import CompareTable
from scalespec.figures import comparison as figures
from scalespec.figures import to_png
from scalespec.stages.candidates import section as candidates
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.leakage import bounds, load_perturbed
from scalespec.stages.page import heading, page, paragraph, picture
from scalespec.stages.page import table as html_table
from scalespec.stages.verdict_tables import (
    ALL,
    LABEL_COLUMNS,
    PULLS,
    as_text,
    group_rows,
    label_rows,
    pull_rows,
)
from scalespec.store import paths

PANELS = 6
"""Most models drawn side by side: the best ones."""
TEFF_UNIT, DEX_UNIT = 100.0, 0.1
"""What a leakage matrix counts in: labels of 100 K and 0.1 dex are of one size."""
Facts = Mapping[tuple[str, int], Mapping[str, Any]]


def write_page(
    url: str,
    table: CompareTable,
    made: tuple[pd.DataFrame, pd.DataFrame, Facts],
    *,
    name: str,
    columns: dict[str, npt.NDArray[Any]],
) -> str:
    """Write ``index.html`` and its figures; return what the tables' text should say besides.

    Parameters
    ----------
    url : str
        Folder of the comparison.
    table : CompareTable
    made : (predictions, scores, facts)
    name : str
        Of the run.
    columns : dict of str to array
        Label columns of the store.
    """
    predictions, scored, facts = made
    tested = predictions[predictions["part"] == "test"]
    sections = [("Tables", _tables(scored, table)), ("One to one", _panels(url, tested, scored))]
    by_class = paragraph("Mean absolute residual (stars).") + html_table(*group_rows(scored, table))
    by_class += paragraph(f"{PULLS}.") + html_table(*pull_rows(scored, table))
    sections.append(("Classes and S/N", by_class))
    leak, leak_text = _leakage(url, table, facts, columns)
    broken, broken_text = _broken(predictions, table)
    if leak or broken:
        sections.append(("Which labels leak", leak + broken))
    if shares := _attribution(url, table, facts):
        sections.append(("Which lines count", shares))
    found, found_text = candidates(tested, table, url, columns)
    if found:
        sections.append(("Candidates", found))
    sizes = next((f["sizes"] for f in facts.values() if "sizes" in f), [0, 0, 0])
    what = "folds" if table.folds else "random split" if table.seeds == 1 else "random splits"
    lead = (
        f"{len(table.models)} models on {table.seeds} {what} by star: {sizes[0]:,} spectra to "
        f"learn from, {sizes[1]:,} held back, {sizes[2]:,} tested. Residuals are prediction − "
        "truth; intervals are 68 %, by the bootstrap of stars."
    )
    paths.write_bytes(paths.join(url, "index.html"), page(name, lead, sections).encode())
    return leak_text + broken_text + found_text


def _tables(scored: pd.DataFrame, table: CompareTable) -> str:
    html = paragraph(
        "MAE: mean absolute residual, with the standard deviation from split to split; SD about "
        "the mean; worse: MAE above the best model's, on the same stars; p: of a difference at "
        "least as large by chance, by the t-test corrected for splits that overlap."
    )
    for label in table.labels:
        rows = label_rows(scored, label)
        if rows:
            unit = label_facts(label)[0]
            html += heading(f"{label_title(label)}{f' [{unit}]' if unit else ''}")
            html += html_table(LABEL_COLUMNS, rows)
    return html


def _keep(url: str, name: str, figure: Any) -> None:
    paths.write_bytes(paths.join(url, "figures", f"{name}.png"), to_png(figure))


def _panels(url: str, tested: pd.DataFrame, scored: pd.DataFrame) -> str:
    every = scored[scored["group"] == ALL].sort_values("mae")
    html, bars, units = "", {}, {}
    for label in dict.fromkeys(scored["label"]):
        ranked = every[every["label"] == label]
        title, unit = label_title(label), label_facts(label)[0]
        units[title] = unit
        bars[title] = {
            row["model"]: (row["mae"], row["mae_low"], row["mae_high"])
            for _, row in ranked.iterrows()
        }
        drawn = {}
        for model in ranked["model"][:PANELS]:
            mine = tested[tested["model"] == model]
            drawn[model] = (
                mine[f"{label}_true"].to_numpy(np.float64),
                mine[label].to_numpy(np.float64),
            )
        figure = figures.one_to_one_panels(drawn, name=title, unit=unit)
        _keep(url, f"one_to_one_{label}", figure)
        html += picture(figure, f"{title} of test stars, all splits; the best models.", wide=True)
    figure = figures.score_bars(bars, units)
    _keep(url, "mae", figure)
    return picture(figure, "MAE of every model with its 68 % interval.", wide=True) + html


def in_common_units(
    matrix: npt.NDArray[np.float64], predicted: tuple[str, ...], changed: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    """Return d prediction / d truth in units of 100 K and 0.1 dex.

    Examples
    --------
    >>> in_common_units(np.array([[50.0]]), ("teff",), ("fe_h",)).tolist()
    [[0.05]]
    """

    def unit(labels: tuple[str, ...]) -> npt.NDArray[np.float64]:
        kelvin = np.array([label_facts(label)[0] == "K" for label in labels])
        return np.where(kelvin, TEFF_UNIT, DEX_UNIT)

    scaled: npt.NDArray[np.float64] = matrix * unit(changed) / unit(predicted)[:, np.newaxis]
    return scaled


def _leakage(
    url: str, table: CompareTable, facts: Facts, columns: Mapping[str, npt.NDArray[Any]]
) -> tuple[str, str]:
    wanted = table.leakage
    if wanted is None:
        return "", ""
    matrices: dict[str, npt.NDArray[np.float64]] = {}
    for name in table.models:
        mine = [
            np.array(f["leakage"]) for (m, _), f in facts.items() if m == name and "leakage" in f
        ]
        if mine:
            mean = np.mean(mine, axis=0)
            matrices[name] = in_common_units(mean, table.labels, wanted.labels)
    if not matrices:
        return "", ""
    titles = [label_title(label) for label in table.labels], [label_title(x) for x in wanted.labels]
    figure = figures.leakage_panels(matrices, *titles)
    _keep(url, "leakage", figure)
    words = (
        "What each model says (rows) when one label alone (columns) changes in the physics: mean "
        "derivative over reference stars, in units of 100 K and 0.1 dex. Off the diagonal a label "
        "is read off another's lines."
    )
    rows = [
        [name, label, *(f"{value:+.3f}" for value in matrix[i])]
        for name, matrix in matrices.items()
        for i, label in enumerate(table.labels)
    ]
    text = "Leakage: d prediction / d truth [100 K, 0.1 dex]\n"
    text += as_text(["model", "predicted", *wanted.labels], rows) + "\n\n"
    html = picture(figure, words, wide=True)
    least, least_text = _bounds(url, table, columns)
    return html + least, text + least_text


def _bounds(
    url: str, table: CompareTable, columns: Mapping[str, npt.NDArray[Any]]
) -> tuple[str, str]:
    """Return the Cramér-Rao bounds at every S/N that a model of the comparison was given."""
    given = sorted({m.snr for m in table.models.values() if m.snr is not None}, reverse=True)
    if not given:
        return "", ""
    perturbed = load_perturbed(paths.join(url, "perturbed"))
    head = ["S/N", *perturbed.labels]
    found: dict[str, npt.NDArray[np.float64] | None] = {
        "Cramér-Rao bound, 1 sigma, all labels unknown together: median over the reference stars. "
        "The mean absolute residual of normal errors is 0.80 of it.": None
    }
    if set(perturbed.labels) <= set(columns):
        spread = np.array([np.nanstd(columns[x], dtype=np.float64) for x in perturbed.labels])
        found["The same when the spread of each label is known beforehand (van Trees), mean."] = (
            spread
        )
    html = text = ""
    for words, known in found.items():
        rows = [[f"{s:g}", *(f"{x:.3g}" for x in bounds(perturbed, s, known))] for s in given]
        html += paragraph(words) + html_table(head, rows)
        text += f"{words}\n{as_text(head, rows)}\n\n"
    return html, text


def _broken(predictions: pd.DataFrame, table: CompareTable) -> tuple[str, str]:
    """Compare the stars of the split with stars whose labels depend on each other in no way."""
    theirs = predictions[predictions["part"] == "broken"]
    if theirs.empty:
        return "", ""
    rows = []
    for name in dict.fromkeys(theirs["model"]):
        for label in table.labels:
            cells: list[str] = [name, label]
            for part in (predictions[predictions["part"] == "test"], theirs):
                mine = part[part["model"] == name]
                residual = (mine[label] - mine[f"{label}_true"]).to_numpy(np.float64)
                slope = _slope(mine[f"{label}_true"].to_numpy(np.float64), mine[label].to_numpy())
                cells += [f"{np.nanmean(np.abs(residual)):.4g}", f"{slope:.2f}"]
            rows.append(cells)
    columns = ["model", "label", "MAE", "slope", "MAE, broken", "slope, broken"]
    words = (
        "Stars whose labels are drawn apart from each other: what a model had from correlations "
        "it loses here. Slope: of the prediction against the truth."
    )
    text = "Correlation broken\n" + as_text(columns, rows) + "\n\n"
    return paragraph(words) + html_table(columns, rows), text


def _slope(truth: npt.NDArray[np.float64], value: npt.NDArray[Any]) -> float:
    known = np.isfinite(truth) & np.isfinite(value)
    if known.sum() < 2 or not np.ptp(truth[known]):
        return float("nan")
    return float(np.polyfit(truth[known], value[known].astype(np.float64), 1)[0])


def _attribution(url: str, table: CompareTable, facts: Facts) -> str:
    shares: dict[str, npt.NDArray[np.float64]] = {}
    lines: list[str] = []
    for name in table.models:
        found = facts.get((name, 0), {}).get("attribution")
        if found:
            lines = list(found)
            shares[name] = np.nan_to_num(np.array([found[line] for line in lines]))
    if not shares:
        return ""
    figure = figures.attribution_panels(shares, lines, [label_title(x) for x in table.labels])
    _keep(url, "lines", figure)
    words = (
        "Integrated gradients from the mean training spectrum, summed over lines and averaged over "
        "test stars of the first split: percent of the whole. A line's share includes what its "
        "window's continuum says."
    )
    return picture(figure, words, wide=True)
