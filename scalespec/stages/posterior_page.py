"""What a page says of the posteriors of chosen stars: corner plots, and fits beside the draws."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalespec.config import RunConfig
from scalespec.figures.posterior import Normal, corner
from scalespec.optimize.posterior import R_HAT_MAX
from scalespec.stages import folders
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.fit import symmetric
from scalespec.stages.page import heading, paragraph, picture, table
from scalespec.store.batches import column_names, iterate_piece, list_pieces
from scalespec.store.catalog import read_part, read_parts

Array = npt.NDArray[Any]
CORNER = (
    "Blue: draws from the posterior. Orange: the fit's normal distribution, at 1 and 2 σ. Where "
    "they agree, best values and covariance are all there is to say; curved or lopsided draws say "
    "that they are not."
)
TRUE = " Green: the truth of a made-up star."
CHAINS = (
    "R̂ compares chains with each other: over 1.05 more draws are wanted, over 1.1 they have not "
    "met. Errors hold photon noise and the model's scatter, as far as pixels are independent; what "
    "is wrong in labels learned from is in neither."
)
NOT_MET = (
    "The chains of this star have not met (posterior_status NOT_MET): its draws say neither a mean "
    "nor a width. Ask for more draws."
)
TRUTH_ROWS = 262_144


def posteriors(config: RunConfig) -> str:
    """Draw a corner plot of each chosen star, with what its fit says."""
    drawn = read_parts(folders.posterior_url(config))
    labels = [n for n in drawn.column_names if pa.types.is_list(drawn[n].type) and n != "rv"]
    html = ""
    for star in drawn.to_pylist():
        fit = _fit(config, star["row"], labels)
        truth = _truth(config, star["obsid"], labels)
        html += _one(star, labels, fit, truth)
    return html + paragraph(CHAINS, kind="quiet")


def _one(star: dict[str, Any], labels: list[str], fit: Normal, truth: Array) -> str:
    """Show one star."""
    draws = np.array([star[name] for name in labels], np.float64).T
    named = [
        label_title(n) + (f" [{u}]" if (u := label_facts(n)[0]) == "K" else "") for n in labels
    ]
    known = np.isfinite(truth).any()
    who = star["designation"] or f"obsid {star['obsid']}"
    figure = corner(draws, named, fit=fit, truth=truth if known else None, title=who)
    columns = ["label", "fit", "σ of the fit", "median of draws", "σ of draws", "16 %", "84 %"]
    sigma = np.sqrt(np.diag(fit.covariance))
    low, middle, high = np.percentile(draws, [16, 50, 84], axis=0)
    rows = [
        (named[k], *(_said(named[k], v[k]) for v in (fit.mean, sigma, middle)),
         *(_said(named[k], v[k]) for v in (draws.std(axis=0), low, high)))
        + ((_said(named[k], truth[k]),) if known else ())
        for k in range(len(labels))
    ]  # fmt: skip
    chains = f"{len(draws):,} draws; {100 * star['acceptance']:.0f} % of the steps were taken; "
    return (
        heading(who)
        + picture(figure, CORNER + TRUE * bool(known), wide=len(labels) > 3)
        + table([*columns, "truth"] if known else columns, rows)
        + paragraph(chains + f"R̂ at most {star['r_hat']:.3f}.")
        + paragraph(NOT_MET, kind="bad") * (not star["r_hat"] <= R_HAT_MAX)
    )


def _said(name: str, value: float) -> str:
    """Return a number with the digits that a label has."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.1f}" if name.endswith("[K]") else f"{value:.4f}"


def _fit(config: RunConfig, row: int, labels: list[str]) -> Normal:
    """Return the best labels of one row, and their covariance."""
    block = next(b for b in folders.planned_blocks(config) if b.start <= row < b.stop)
    best = read_part(folders.best_url(config), block, columns=[*labels, "label_cov"])
    star = best.slice(row - block.start, 1).to_pylist()[0]
    upper = np.array(star["label_cov"], np.float64)
    return Normal(np.array([star[name] for name in labels]), symmetric(upper, len(labels)))


def _truth(config: RunConfig, obsid: int, labels: list[str]) -> Array:
    """Return the true labels of a made-up star, NaN where there are none."""
    found = np.full(len(labels), np.nan)
    url = config.report.truth if config.report else ""
    if not url:
        return found
    there = [name for name in labels if name in column_names(url)]
    for piece in list_pieces(url, TRUTH_ROWS):
        for part in iterate_piece(piece, ["obsid", *there], TRUTH_ROWS):
            for place in np.flatnonzero(part["obsid"] == obsid)[:1]:
                for name in there:
                    found[labels.index(name)] = part[name][place]
    return found
