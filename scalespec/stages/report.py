"""Catalog + stores -> one page a person can look at. Residual = prediction - reference."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scalespec import figures
from scalespec.config import RunConfig
from scalespec.errors import ScalespecError
from scalespec.figures.isochrones import with_isochrones
from scalespec.plan import Stage
from scalespec.stages import folders
from scalespec.stages.binaries_page import binaries
from scalespec.stages.calibration_page import calibration
from scalespec.stages.columns import FIT_STATUS, SPECTRUM_STATUS, label_title
from scalespec.stages.comparison import references, truth
from scalespec.stages.costs import throughput
from scalespec.stages.evidence import Evidence, read_evidence, stage_folders
from scalespec.stages.examples import examples, mean_residual
from scalespec.stages.findings import ages, metal_poor, reddening, unusual
from scalespec.stages.label_sources import label_catalogs
from scalespec.stages.model_spectra import model_spectra
from scalespec.stages.overview import abundances, sky
from scalespec.stages.page import (
    by_status,
    folded,
    heading,
    page,
    paragraph,
    picture,
    side_by_side,
    table,
    tiles,
)
from scalespec.stages.posterior_page import posteriors
from scalespec.stages.samples import Array
from scalespec.stages.survey_pages import (
    before_and_after,
    spectra_lead,
    spectra_summary,
    survey_statistics,
)
from scalespec.stages.training_pages import gradients, learning, search
from scalespec.stages.velocities import velocities
from scalespec.store import paths
from scalespec.store.isochrones import read_lines
from scalespec.store.ledger import read_json, set_current
from scalespec.store.model import checksum


def summary(evidence: Evidence) -> str:
    """Say how many spectra became stars with labels, and what became of the others."""
    counts = evidence.counts
    missing = evidence.planned - counts["rows", "all"]
    html = tiles(
        [
            (f"{evidence.planned:,}", "spectra planned"),
            (f"{counts['rows', 'readable']:,}", "readable"),
            (f"{counts['rows', 'asked']:,}", "asked for"),
            (f"{counts['rows', 'fitted']:,}", "with labels"),
            (f"{counts['rows', 'good']:,}", "no flag but of single labels"),
            (f"{counts['rows', 'unflagged']:,}", "without any flag"),
        ]
    )
    if missing:
        text = f"{missing:,} planned spectra are in blocks that failed and have no row."
        html += paragraph(text + " Run again with --retry-failed.", kind="bad")
    html += heading("Fits by status")
    html += paragraph("A star may carry several flags. No flag: a fit to be trusted.", kind="quiet")
    html += by_status(_counted(evidence, "fit_status"), counts["rows", "all"], FIT_STATUS)
    html += heading("Spectra by status")
    html += by_status(_counted(evidence, "spectrum_status"), counts["rows", "all"], SPECTRUM_STATUS)
    return html + _by_label(evidence)


def _counted(evidence: Evidence, what: str) -> dict[str, int]:
    return {value: n for (name, value), n in evidence.counts.items() if name == what}


def _by_label(evidence: Evidence) -> str:
    """Say of each label in how many stars it is to be trusted, and what is against it."""
    counts, fitted = evidence.counts, evidence.counts["rows", "fitted"]
    if not fitted:
        return ""
    rows = [
        (
            label_title(name),
            counts["trusted", name],
            100 * counts["trusted", name] / fitted,
            counts["at_bound", name],
            counts["prior_dominated", name],
        )
        for name in evidence.stars.labels
    ]
    text = (
        "Of the stars with labels. At its bound: the label ended on the edge of the model's range. "
        "Said by the prior: range or prior say as much of it as the spectrum does. Trusted: "
        "neither, and no other flag."
    )
    columns = ["label", "trusted", "%", "at its bound", "said by the prior"]
    return heading("Trust by label") + table(columns, rows) + paragraph(text, kind="quiet")


def kiel(evidence: Evidence) -> str:
    """Draw the Kiel diagram of the stars without flags; "" where the model has none."""
    stars = evidence.stars
    metal = next((name for name in ("fe_h", "m_h") if name in stars.columns), "")
    names = ("teff", "logg", metal)
    if not set(names) <= set(stars.columns):
        return ""
    shown = stars.trusted("teff", "logg")
    text = (
        "One should see a main sequence at log g 4-5 and a giant branch that is cooler where "
        "metals are many; stars along a straight edge are where the model ends."
    )
    title = label_title(metal)
    lines = isochrones(evidence.config)
    drawn = [picture(_kiel(stars.columns, names, shown, title, lines), "Fitted labels.")]
    for catalog, rows in evidence.matched.items():
        theirs = [f"{catalog}_{name}" for name in names]
        here = rows.trusted("teff", "logg") if len(rows) else np.zeros(0, bool)
        if set(theirs) <= set(rows.columns) and np.isfinite(rows.columns[theirs[1]][here]).any():
            caption = f"The same stars by {catalog}, as far as they are in it."
            drawn.append(picture(_kiel(rows.columns, theirs, here, title, lines), caption))
    said = f"{int(shown.sum()):,} stars without flag, with a Teff and a log g to be trusted."
    return (
        paragraph(evidence.drawn_from(stars) + said)
        + paragraph(text, kind="quiet")
        + side_by_side(drawn)
    )


Lines = Mapping[str, tuple[Array, Array]]
"""What is said of each isochrone, and its temperatures and gravities."""


def isochrones(config: RunConfig) -> Lines:
    """Return the isochrones that the run file wants over Kiel diagrams."""
    table = config.report
    if table is None or not table.isochrones:
        return {}
    found = read_lines(table.isochrones, age=table.isochrone_gyr, fe_h=table.isochrone_fe_h)
    ages = [f"{one.age:.2g} Gyr, " if np.isfinite(one.age) else "" for one in found]
    return {
        f"{age}[Fe/H] {one.fe_h:+.2f}": (one.teff, one.logg)
        for age, one in zip(ages, found, strict=True)
    }


def _kiel(
    columns: Mapping[str, Array], names: Sequence[str], shown: Array, title: str, lines: Lines
) -> Figure:
    teff, logg, color = (columns[name][shown] for name in names)
    figure = figures.kiel_diagram(teff, logg, color, color_name=title)
    return with_isochrones(figure, lines)


def provenance(config: RunConfig) -> str:
    """Say what made this: models, digests, versions, the run file as resolved."""
    urls = folders.model_urls(config) if config.infer or config.train else ()
    models = [(number, url, checksum(url)) for number, url in enumerate(urls)]
    html = heading("Models") + table(["model", "where", "checksum"], models) if models else ""
    digests = [(name, url) for name, url in stage_folders(config).items()]
    html += heading("Folders in use") + table(["stage", "folder"], digests)
    run = paths.join(config.run.workspace, "run.json")
    if paths.exists(run):
        html += folded("Package versions", json.dumps(read_json(run)["versions"], indent=1))
    return html + folded("Run file as resolved", config.model_dump_json(indent=1))


OF_CATALOG: dict[str, Callable[[Evidence], str]] = {
    "Summary": summary,
    "Sky": sky,
    "Kiel diagram": kiel,
    "Abundances": abundances,
    "Metal-poor stars": metal_poor,
    "Ages": ages,
    "Reddening": reddening,
    "Against other catalogs": references,
    "Against the truth": truth,
    "Example spectra": examples,
    "Mean residual": mean_residual,
    "Unusual spectra": unusual,
}
"""Sections of a run that ends in a catalog."""
OF_SPECTRA: dict[str, Callable[[RunConfig], str]] = {
    "Spectra": spectra_summary,
    "Before and after": before_and_after,
    "Survey statistics": survey_statistics,
}
"""Sections of every run."""
OF_RUN: dict[str, Callable[[RunConfig], str]] = {
    "Variable velocities": velocities,
    "Label catalogs": label_catalogs,
    "Calibration": calibration,
    "Learning": learning,
    "Search": search,
    "Gradients": gradients,
    "Model spectra": model_spectra,
    "Posteriors": posteriors,
    "Two stars": binaries,
    "Throughput": throughput,
    "Provenance": provenance,
}
"""Sections of every run that has something to say there; they come last."""


def _emulates(config: RunConfig) -> bool:
    """Whether the run's labels are of fits, by models that make spectra."""
    return config.fit is not None


WANTS: dict[str, Callable[[RunConfig], bool]] = {
    "Ages": lambda config: config.ages is not None,
    "Reddening": lambda config: bool(config.derive and config.derive.color),
    "Unusual spectra": lambda config: bool(config.derive and config.derive.anomaly_sample),
    "Variable velocities": lambda config: config.derive is not None,
    "Against other catalogs": lambda config: bool(config.crossmatch),
    "Against the truth": lambda config: bool(config.report and config.report.truth),
    "Example spectra": _emulates,
    "Mean residual": _emulates,
    "Label catalogs": lambda config: any(t.sources for t in (config.crossmatch or {}).values()),
    "Calibration": lambda config: config.calibrate is not None,
    "Learning": lambda config: config.train is not None,
    "Posteriors": lambda config: config.posterior is not None,
    "Two stars": lambda config: config.binaries is not None,
    "Search": lambda config: config.train is not None and config.train.search is not None,
}
"""Sections that only some run files have, and which do; one whose text is empty is left out."""


def write_report(config: RunConfig) -> str:
    """Write the run's page and return its URL; what cannot be shown is said instead.

    Raises
    ------
    StoreError
        If nothing is published yet, or preprocessed where the run publishes nothing, or the page
        cannot be written.
    """
    sections: list[tuple[str, str]] = []
    if config.publish is not None:
        evidence = read_evidence(config)
        sections += _sections(OF_CATALOG, config, evidence)
        titles = ", ".join(map(label_title, evidence.stars.labels[:8]))
        lead = f"{evidence.counts['rows', 'all']:,} spectra, {titles}"
    else:
        lead = spectra_lead(config)
    sections += _sections(OF_SPECTRA | OF_RUN, config, config)
    html = page(config.run.name, lead, sections)
    folder = folders.report_url(config)
    url = paths.join(folder, "index.html")
    paths.write_bytes(url, html.encode())
    set_current(config.run.workspace, "report", folder.partition("?")[0].rpartition("/")[2])
    return url


def _sections(
    makers: Mapping[str, Callable[[Any], str]], config: RunConfig, of: Evidence | RunConfig
) -> list[tuple[str, str]]:
    """Return name and text of the sections that this run has something to say in."""
    wanted = [name for name in makers if name not in WANTS or WANTS[name](config)]
    made = [(name, _made(partial(makers[name], of))) for name in wanted]
    return [(name, text) for name, text in made if text]


def _made(make: Callable[[], str]) -> str:
    try:
        return make()
    except ScalespecError as error:
        return paragraph(f"This cannot be shown: {error}", kind="bad")


def report(config: RunConfig) -> Iterator[Stage]:
    """Write the run's page; there is nothing to map."""
    write_report(config)
    yield from ()
