"""Tables of a comparison, from predictions to text, LaTeX and rows of a page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scalespec.config.compare import CompareTable
from scalespec.kernels.scores import STATISTICS, Difference, compare_pairs, score
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.contest import group_members

ALL = "all"
DIGITS = {"K": 1}
"""Decimals of a unit; 4 for those not named."""


def score_table(tested: pd.DataFrame, table: CompareTable, *, seed: int) -> pd.DataFrame:
    """Score every model, label and group of stars.

    Parameters
    ----------
    tested : pd.DataFrame
        Predictions of test stars.
    table : CompareTable
    seed : int
        Of the bootstrap.

    Returns
    -------
    pd.DataFrame
        model, label, group, n, n_stars; per statistic its value, ``_low`` and ``_high`` (68 %, by
        stars); ``mae_seed``, the standard deviation of the MAE from split to split; ``pull``, that
        of residuals over their sigmas. For all
        stars also ``worse_by``, ``worse_low``, ``worse_high`` and ``p`` against the label's best.
    """
    rows = []
    for name in table.models:
        mine = tested[tested["model"] == name]
        if mine.empty:
            continue
        members = {ALL: np.ones(len(mine), bool)} | group_members(_truth(mine, table), table)
        for label in table.labels:
            if mine[label].isna().all():
                continue
            for group, inside in members.items():
                rows.append({"model": name, "label": label, "group": group}
                            | _scored(mine[inside], label, table, seed))  # fmt: skip
    scored = pd.DataFrame(rows)
    return scored.merge(_against_best(tested, scored, table, seed), how="left")


def _truth(mine: pd.DataFrame, table: CompareTable) -> dict[str, npt.NDArray[Any]]:
    known = {label: mine[f"{label}_true"].to_numpy() for label in table.labels}
    beside = {str(c): mine[c].to_numpy() for c in mine if c in ("snr", "obsid", "source_id")}
    return known | beside


def _scored(mine: pd.DataFrame, label: str, table: CompareTable, seed: int) -> dict[str, Any]:
    residual = (mine[label] - mine[f"{label}_true"]).to_numpy(np.float64)
    star = mine["star"].to_numpy()
    found = score(residual, star, n_bootstrap=table.bootstrap, seed=seed)
    by_split = [
        np.nanmean(np.abs(residual[mine["split"].to_numpy() == s]))
        for s in np.unique(mine["split"][np.isfinite(residual)])
    ]
    row: dict[str, Any] = {
        "n": found.n,
        "n_stars": len(np.unique(star[np.isfinite(residual)])),
        "mae_seed": float(np.std(by_split, ddof=1)) if len(by_split) > 1 else np.nan,
    }
    for k, name in enumerate(STATISTICS):
        row |= {name: found.values[k], f"{name}_low": found.low[k], f"{name}_high": found.high[k]}
    pull = residual / mine[f"{label}_sigma"].to_numpy(np.float64)
    known = pull[np.isfinite(pull)]
    row["pull"] = float(known.std()) if known.size > 1 else np.nan
    return row


def _against_best(
    tested: pd.DataFrame, scored: pd.DataFrame, table: CompareTable, seed: int
) -> pd.DataFrame:
    """Compare every model with the best of each label, on the stars of both."""
    ratio = table.test_fraction / (1 - table.test_fraction)
    if table.folds:
        ratio = 1 / (table.seeds - 1)
    rows = []
    for label in table.labels:
        ranked = scored[(scored["label"] == label) & (scored["group"] == ALL)].sort_values("mae")
        names = [str(name) for name in ranked["model"]]
        if not names:
            continue
        best = tested[tested["model"] == names[0]]
        rows.append({"model": names[0], "label": label, "group": ALL, "worse_by": 0.0})
        for name in names[1:]:
            both = tested[tested["model"] == name].merge(
                best[["row", "split", label]], on=["row", "split"], suffixes=("", "_best")
            )
            if len(both):
                gap = _gap(both, label, ratio, n_bootstrap=table.bootstrap, seed=seed)
                rows.append(
                    {"model": name, "label": label, "group": ALL, "worse_by": gap.mean}
                    | {"worse_low": gap.low, "worse_high": gap.high, "p": gap.p}
                )
    return pd.DataFrame(rows)


def _gap(both: pd.DataFrame, label: str, ratio: float, **options: int) -> Difference:
    """Compare the predictions `label` and ``<label>_best`` of the same rows."""
    one, other, star = {}, {}, {}
    truth = both[f"{label}_true"].to_numpy()
    split = both["split"].to_numpy()
    for s in np.unique(split):
        mine = split == s
        one[int(s)] = (both[label].to_numpy() - truth)[mine]
        other[int(s)] = (both[f"{label}_best"].to_numpy() - truth)[mine]
        star[int(s)] = both["star"].to_numpy()[mine]
    return compare_pairs(one, other, star, test_to_training=ratio, **options)


def _digits(label: str) -> int:
    return DIGITS.get(label_facts(label)[0], 4)


def _with_interval(row: Any, name: str, digits: int) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = f"{row[name]:.{digits}f}"
    return value if np.isnan(low) else f"{value} [{low:.{digits}f}, {high:.{digits}f}]"


def label_rows(scored: pd.DataFrame, label: str, group: str = ALL) -> list[list[str]]:
    """Return the rows of one label's table, the best first."""
    chosen = scored[(scored["label"] == label) & (scored["group"] == group)].sort_values("mae")
    digits, rows = _digits(label), []
    for _, row in chosen.iterrows():
        seeds = f"{row['mae_seed']:.{digits}f}" if np.isfinite(row["mae_seed"]) else "-"
        cells = [row["model"], f"{row['n']:,}", _with_interval(row, "mae", digits), seeds]
        cells += [_with_interval(row, name, digits) for name in STATISTICS[1:]]
        worse, p = row.get("worse_by", np.nan), row.get("p", np.nan)
        cells.append("-" if not np.isfinite(worse) else f"{worse:+.{digits}f}")
        cells.append("best" if worse == 0 else "-" if not np.isfinite(p) else f"{p:.2g}")
        rows.append(cells)
    return rows


LABEL_COLUMNS = ("model", "n", "MAE [68 %]", "seed SD", "SD", "median", "median abs.", "worse", "p")


def as_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as aligned text.

    Examples
    --------
    >>> print(as_text(["a", "b"], [["x", "1"]]))
    a  b
    x  1
    """
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in (columns, *rows)
    ]
    return "\n".join(lines)


def tables_text(scored: pd.DataFrame, table: CompareTable) -> str:
    """Return every table as text: per label all stars, then the classes and bins of S/N."""
    parts = []
    for label in table.labels:
        unit = label_facts(label)[0]
        parts.append(f"{label_title(label)}{f' [{unit}]' if unit else ''}, prediction - truth")
        parts += [as_text(LABEL_COLUMNS, label_rows(scored, label)), ""]
    parts += ["MAE by class and S/N (stars)", as_text(*group_rows(scored, table)), ""]
    parts += [PULLS, as_text(*pull_rows(scored, table)), ""]
    return "\n".join(parts)


def group_rows(scored: pd.DataFrame, table: CompareTable) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the MAE of every model and label by group of stars."""
    groups = [str(g) for g in dict.fromkeys(scored["group"]) if g != ALL]
    rows = []
    for label in table.labels:
        for name in table.models:
            mine = scored[(scored["label"] == label) & (scored["model"] == name)]
            if mine.empty:
                continue
            found = {
                str(g): (float(mae), int(n), int(stars))
                for g, mae, n, stars in zip(
                    *(mine[c] for c in ("group", "mae", "n", "n_stars")), strict=True
                )
            }
            cells = [_cell(*found.get(g, (np.nan, 0, 0)), _digits(label)) for g in groups]
            rows.append([label, name, *cells])
    return ["label", "model", *groups], rows


PULLS = "Standard deviation of (prediction - truth) / sigma: 1 if errors are as large as stated"


def pull_rows(scored: pd.DataFrame, table: CompareTable) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the width of every model's pulls, by label and group of stars."""
    groups = [str(g) for g in dict.fromkeys(scored["group"])]
    widths = {
        (str(label), str(model), str(group)): float(pull)
        for label, model, group, pull in zip(
            *(scored[c] for c in ("label", "model", "group", "pull")), strict=True
        )
    }
    rows = []
    for label in table.labels:
        for name in table.models:
            mine = [widths.get((label, name, group), np.nan) for group in groups]
            if np.isfinite(mine).any():
                rows.append([label, name, *("-" if np.isnan(w) else f"{w:.2f}" for w in mine)])
    return ["label", "model", *groups], rows


def _cell(mae: float, n: int, stars: int, digits: int) -> str:
    return f"{mae:.{digits}f} ({stars})" if n else "-"


def as_latex(scored: pd.DataFrame, table: CompareTable) -> str:
    """Return one LaTeX table: models by labels, MAE, SD and median residual of all stars."""
    labels = [label for label in table.labels if label in set(scored["label"])]
    head = " & ".join(["Model", *(rf"\multicolumn{{3}}{{c}}{{{_tex(label)}}}" for label in labels)])
    below = " & ".join(["", *["MAE & SD & M"] * len(labels)])
    lines = [
        rf"\begin{{tabular}}{{l{'rrr' * len(labels)}}}",
        r"\hline",
        rf"{head} \\",
        rf"{below} \\",
        r"\hline",
    ]
    every = scored[scored["group"] == ALL]
    found = {
        (str(m), str(x)): values
        for m, x, *values in zip(
            *(every[c] for c in ("model", "label", *STATISTICS[:3])), strict=True
        )
    }
    for name in table.models:
        cells = [name.replace("_", r"\_")]
        for label in labels:
            if (name, label) not in found:
                cells.append("-- & -- & --")
                continue
            digits = min(_digits(label), 3)
            cells.append(" & ".join(f"{value:.{digits}f}" for value in found[name, label]))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _tex(label: str) -> str:
    unit = label_facts(label)[0]
    return label_title(label).replace("_", r"\_") + (f" ({unit})" if unit else "")
