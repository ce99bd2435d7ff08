"""Spectra with their best fits: one of each kind of star, and what the model gets wrong in all."""

import numpy as np

from scalespec import figures
from scalespec.stages.evidence import CHUNK_ROWS, Evidence, find_extremes
from scalespec.stages.inspect import best_fit_flux, star_title
from scalespec.stages.page import heading, paragraph, picture
from scalespec.stages.samples import Array, Rows
from scalespec.store.spectra import read_rows

GIANT_LOGG = 3.5
"""Below it a star is called a giant here; the examples show one of either kind."""
MEAN_STARS, MEAN_CHUNKS = 512, 8
"""Stars in the mean residual, and places of the store they are read from."""
EXAMPLE = "Black: the spectrum; orange: its best fit; grey: pixels that did not count."


def examples(evidence: Evidence) -> str:
    """Draw one spectrum of each kind with its best fit."""
    html = ""
    for kind, chosen in pick_examples(evidence).items():
        if chosen is None:
            html += heading(kind) + paragraph("The run has none.", kind="quiet")
            continue
        rows, place = chosen
        star = {name: values[place] for name, values in rows.columns.items()}
        spectra = read_rows(evidence.store, np.array([star["row"]]))
        best = rows.take(np.array([place])).columns
        fit = best_fit_flux(evidence.models, spectra, best)[0]
        figure = figures.spectrum_fit(
            spectra["wavelength"].to_numpy(),
            spectra["flux"].to_numpy()[0],
            spectra["ivar"].to_numpy()[0],
            fit if np.isfinite(fit).all() else None,
            title=star_title(star, rows.labels),
        )
        html += heading(kind) + picture(figure, EXAMPLE, wide=True)
    return html


def pick_examples(evidence: Evidence) -> dict[str, tuple[Rows, int] | None]:
    """Return which row shows what, and among which; None where no row does.

    The two good ones are of middling χ², so that they show what a fit usually is.
    """
    stars, report = evidence.stars, evidence.config.report
    snr_min = report.snr_min if report else 0
    clear = stars.trusted("teff", "logg") & (stars.columns["snr"] >= snr_min)
    giant = stars.columns["logg"] < GIANT_LOGG if "logg" in stars.columns else stars.fitted
    found: dict[str, tuple[Rows, int] | None] = {}
    for kind, where in (("A giant", clear & giant), ("A dwarf", clear & ~giant)):
        place = _middle(stars.chi2_dof, where)
        found[kind] = None if place is None else (stars, place)
    for kind, place in find_extremes(evidence.extremes).items():
        found[kind] = None if place is None else (evidence.extremes, place)
    return found


def _middle(key: Array, where: Array) -> int | None:
    rows = np.flatnonzero(where & np.isfinite(key))
    return int(rows[np.argsort(key[rows], kind="stable")[len(rows) // 2]]) if len(rows) else None


def mean_residual(evidence: Evidence) -> str:
    """Draw what the model gets wrong in all stars alike."""
    rows = _spread_out(evidence.near.columns["row"])
    if not len(rows):
        return paragraph("No star was fitted without a flag.", kind="quiet")
    best = evidence.near.take(rows).columns
    spectra = read_rows(evidence.store, best["row"])
    fit = best_fit_flux(evidence.models, spectra, best)
    ivar = np.where(np.isfinite(fit), spectra["ivar"].to_numpy(), 0).astype(np.float64)
    weight = ivar.sum(axis=0)
    total = (ivar * np.nan_to_num(fit - spectra["flux"].to_numpy())).sum(axis=0)
    known = np.where(weight > 0, weight, np.nan)
    figure = figures.mean_residual(
        spectra["wavelength"].to_numpy(), total / known, 1 / np.sqrt(known)
    )
    caption = (
        f"Weighted mean of {len(rows):,} stars without flags. Photon noise alone would keep it in "
        "the grey band; a line that sticks out is wrong or missing in the model."
    )
    return picture(figure, caption, wide=True)


def _spread_out(row: Array) -> Array:
    """Return up to MEAN_STARS places, in chunks of the store that lie far apart."""
    chunks = np.unique(row // CHUNK_ROWS)
    step = max(1, -(-len(chunks) // MEAN_CHUNKS))
    near = np.flatnonzero(np.isin(row // CHUNK_ROWS, chunks[::step]))
    return near[:: max(1, -(-len(near) // MEAN_STARS))]
