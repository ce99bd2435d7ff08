"""What a page says of single kinds of stars: metal-poor ones, dated ones, variable or odd ones."""

from collections import Counter

import numpy as np

from scalespec import figures
from scalespec.figures import findings as figures_findings
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders
from scalespec.stages.ages import AgeStatus
from scalespec.stages.columns import AGE_STATUS, label_title
from scalespec.stages.evidence import Evidence
from scalespec.stages.inspect import best_fit_flux, star_title, status_text
from scalespec.stages.page import (
    Cell,
    by_status,
    heading,
    paragraph,
    picture,
    table,
    tiles,
)
from scalespec.stages.rankings import LIMITS, metal_label, metallicity, poor_probability
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import read_rows

DRAWN = 3
"""Unusual spectra that are drawn."""
POOR = (
    "Counted are stars whose [Fe/H], by its error taken as normal, is more probably below the "
    "limit than not, and to be trusted: no flag, off the model's edge, not the prior's word. "
    "Metal-poor stars are rare: errors bring more ordinary stars below a limit than they take "
    "away, so that of those just below it many are not. The list is led by stars that are "
    "metal-poor at 2 sigma."
)
DATED = (
    "Ages are medians of posteriors on isochrones, errors their standard deviations. A subgiant's "
    "luminosity tells its age; unresolved binaries look younger than they are. One should see no "
    "star much older than the universe, 13.8 Gyr, but by its error."
)
DUST = (
    "By observed color less that of the temperature. Values below 0 are errors of color or "
    "temperature; a peak far from 0 in stars that are near is a temperature scale that is off."
)
UNUSUAL = (
    "By how many robust sigmas the residual of a fit is unusual, given what residuals of this run "
    "have in common. High values: emission lines, two stars in one, sky or arms gone wrong, kinds "
    "of stars that the model does not know. Those flagged OUT_OF_DOMAIN are not listed."
)


def metal_poor(evidence: Evidence) -> str:
    """Count and list the stars that are probably metal-poor; "" where no metallicity is."""
    stars, counts = evidence.lists.get("metal-poor"), evidence.counts
    if stars is None or not metal_label(evidence.stars):
        return ""
    name = metal_label(evidence.stars)
    found = [(kind, limit, counts["metal-poor", kind]) for kind, limit in LIMITS.items()]
    html = tiles([(f"{n:,}", f"{kind}: [Fe/H] < {limit:g}") for kind, limit, n in found])
    html += paragraph(POOR, kind="quiet")
    if not len(stars):
        return html + paragraph("No star is more probably below the limit than above.")
    value, err = metallicity(stars)
    more = [label for label in ("teff", "logg", "c_fe", "mg_fe") if label in stars.labels]
    columns = stars.columns
    carbon = stars.trusted("c_fe") if "c_fe" in more else np.zeros(len(stars), bool)
    chance = poor_probability(stars, LIMITS["VMP"])
    rows: list[tuple[Cell, ...]] = []
    for i in range(len(stars)):
        shown = [float(columns[label][i]) for label in more]
        shown = [
            v if n != "c_fe" or carbon[i] else float("nan")
            for n, v in zip(more, shown, strict=True)
        ]
        rows.append((
            str(columns["obsid"][i]), float(columns["snr"][i]), float(value[i]), float(err[i]),
            float(chance[i]), *shown,
        ))  # fmt: skip
    heads = ["obsid", "S/N", label_title(name), "error", "P(VMP)", *map(label_title, more)]
    calibrated = ", calibrated," if f"{name}_cal" in columns else ""
    said = f"The {len(stars)} most metal-poor by {label_title(name)}{calibrated} + 2 errors."
    return html + heading("Candidates") + paragraph(said) + table(heads, rows)


def ages(evidence: Evidence) -> str:
    """Draw the stars that have an age."""
    stars, config = evidence.dated, evidence.config
    commits = Ledger(folders.ages_url(config)).commits().values()
    status: Counter[str] = Counter()
    for one in commits:
        status.update(one.counts)
    n = evidence.counts["rows", "dated"]
    html = tiles([(f"{n:,}", "stars with an age")])
    if len(stars):
        relative = np.median(stars.columns["age_err"] / stars.columns["age"])
        html = tiles([
            (f"{n:,}", "stars with an age"),
            (f"{100 * relative:.0f} %", "median error of an age"),
            (f"{np.median(stars.columns['age']):.1f} Gyr", "median age"),
        ])  # fmt: skip
    rows = evidence.counts["rows", "all"]
    meaning = {AgeStatus[key.partition(" ")[2]]: text for key, text in AGE_STATUS.items()}
    html += heading("Stars by status of their age") + by_status(status, rows, meaning)
    if not len(stars):
        return html
    html += paragraph(evidence.drawn_from(stars, ("rows", "dated")) + DATED, kind="quiet")
    iron, _ = metallicity(stars)
    by_magnitude = "m_k" in stars.columns
    figure = figures_findings.age_planes(
        stars.columns["teff"],
        stars.columns["m_k" if by_magnitude else "logg"],
        iron,
        stars.columns["age"],
        height_name="absolute K_s [mag]" if by_magnitude else "log g [dex]",
    )
    caption = "Left: where dated stars stand; middle: age and metallicity; right: ages."
    return html + picture(figure, caption, wide=True)


def reddening(evidence: Evidence) -> str:
    """Draw the distribution of E(B-V); "" where the run has none."""
    stars = evidence.stars
    if "ebv" not in stars.columns:
        return ""
    ebv = stars.columns["ebv"]
    n = int(np.isfinite(ebv).sum())
    if not n:
        return paragraph("No star has a color and a temperature to be trusted.", kind="quiet")
    figure = figures_findings.distribution(ebv, name="E(B-V)", unit="mag")
    said = f"{n:,} stars, median {np.nanmedian(ebv):.3f} mag. {evidence.drawn_from(stars)}{DUST}"
    return picture(figure, said)


def unusual(evidence: Evidence) -> str:
    """List and draw the spectra that are least like their fits; "" where none were looked for."""
    stars = evidence.lists.get("unusual")
    if stars is None or "anomaly" not in evidence.stars.columns:
        return ""
    html = paragraph(UNUSUAL, kind="quiet")
    if not len(stars):
        return html + paragraph("No spectrum has a fit.", kind="quiet")
    score = evidence.stars.columns["anomaly"]
    figure = figures_findings.distribution(score, name="anomaly", unit="σ", log=True)
    html += picture(
        figure, f"{evidence.drawn_from(evidence.stars)}All but the wildest half percent."
    )
    named = [label for label in ("teff", "logg", "fe_h") if label in stars.labels]
    columns = stars.columns
    rows: list[tuple[Cell, ...]] = [
        (str(columns["obsid"][i]), float(columns["snr"][i]), float(columns["anomaly"][i]),
         *(float(columns[label][i]) for label in named),
         status_text(int(columns["fit_status"][i]), FitStatus))
        for i in range(len(stars))
    ]  # fmt: skip
    html += heading("The least usual") + table(
        ["obsid", "S/N", "anomaly [σ]", *map(label_title, named), "fit"], rows
    )
    return html + _drawn(evidence)


def _drawn(evidence: Evidence) -> str:
    """Draw the first of the list with their fits."""
    stars, html = evidence.lists["unusual"], ""
    for place in range(min(DRAWN, len(stars))):
        best = stars.take(np.array([place])).columns
        spectra = read_rows(evidence.store, best["row"])
        fit = best_fit_flux(evidence.models, spectra, best)[0]
        star = {name: values[0] for name, values in best.items()}
        figure = figures.spectrum_fit(
            spectra["wavelength"].to_numpy(),
            spectra["flux"].to_numpy()[0],
            spectra["ivar"].to_numpy()[0],
            fit if np.isfinite(fit).all() else None,
            title=star_title(star, stars.labels),
        )
        html += picture(figure, f"Anomaly {float(star['anomaly']):.1f} σ.", wide=True)
    return html
