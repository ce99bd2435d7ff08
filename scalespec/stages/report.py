"""Catalog + stores -> one page a person can look at. Residual = prediction - reference."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scalespec import figures
from scalespec.config import RunConfig
from scalespec.errors import ScalespecError
from scalespec.optimize.result import FitStatus
from scalespec.plan import Stage
from scalespec.schema import UNREADABLE
from scalespec.stages import folders
from scalespec.stages.columns import (
    FIT_STATUS,
    SPECTRUM_STATUS,
    label_title,
)
from scalespec.stages.comparison import references, truth
from scalespec.stages.evidence import Array, Evidence, read_evidence, stage_folders
from scalespec.stages.inspect import best_fit_flux, star_title
from scalespec.stages.page import (
    bars,
    folded,
    heading,
    page,
    paragraph,
    picture,
    side_by_side,
    table,
    tiles,
)
from scalespec.store import paths
from scalespec.store.ledger import read_json, set_current
from scalespec.store.model import checksum, model_record
from scalespec.store.spectra import read_rows

GIANT_LOGG = 3.5
"""Below it a star is called a giant here; the examples show one of either kind."""
MEAN_STARS, MEAN_CHUNKS = 512, 8
"""Stars in the mean residual, and places of the store they are read from."""
CHUNK_ROWS = 256
EXAMPLE = "Black: the spectrum; orange: its best fit; grey: pixels that did not count."


def summary(evidence: Evidence) -> str:
    """Say how many spectra became stars with labels, and what became of the others."""
    columns = evidence.columns
    spectrum, fit = columns["spectrum_status"], columns["fit_status"]
    readable = spectrum & np.uint32(UNREADABLE) == 0
    asked = readable & (fit & np.uint32(FitStatus.NOT_SELECTED) == 0)
    missing = evidence.planned - len(fit)
    html = tiles(
        [
            (f"{evidence.planned:,}", "spectra planned"),
            (f"{int(readable.sum()):,}", "readable"),
            (f"{int(asked.sum()):,}", "asked for"),
            (f"{int(evidence.fitted.sum()):,}", "with labels"),
            (f"{int(evidence.good.sum()):,}", "no flag, or only a label at its edge"),
            (f"{int((evidence.fitted & (fit == 0)).sum()):,}", "without any flag"),
        ]
    )
    if missing:
        text = f"{missing:,} planned spectra are in blocks that failed and have no row."
        html += paragraph(text + " Run again with --retry-failed.", kind="bad")
    html += heading("Fits by status")
    html += paragraph("A star may carry several flags. No flag: a fit to be trusted.", kind="quiet")
    html += _by_status(fit, FIT_STATUS)
    html += heading("Spectra by status") + _by_status(spectrum, SPECTRUM_STATUS)
    return html + _at_bounds(evidence)


def _by_status(status: Array, meaning: Mapping[Any, str]) -> str:
    n = max(len(status), 1)
    rows = [("OK", "nothing to say", int(np.sum(status == 0)))]
    for flag, text in meaning.items():
        rows.append((str(flag.name), text, int(np.sum(status & np.uint32(flag.value) != 0))))
    shown = [(name, k, 100 * k / n, text) for name, text, k in rows if k]
    return table(["status", "rows", "%", "what it says"], shown)


def _at_bounds(evidence: Evidence) -> str:
    bits = evidence.columns["at_bound"].astype(np.uint64)
    counts = {
        label_title(name): int(np.sum(bits >> np.uint64(i) & np.uint64(1)))
        for i, name in enumerate(evidence.labels)
    }
    told = " · ".join(f"{name} {k:,}" for name, k in counts.items() if k)
    title = "Stars with a label on the edge of the model's range, by label"
    return heading(title) + paragraph(told) if told else ""


def kiel(evidence: Evidence) -> str:
    """Draw the Kiel diagram of the stars without flags."""
    columns = evidence.columns
    metal = next((name for name in ("fe_h", "m_h") if name in columns), "")
    if not {"teff", "logg", metal} <= set(columns):
        return paragraph("The model has no Teff, log g and metallicity to draw.", kind="quiet")
    shown = evidence.trusted("teff", "logg")
    text = (
        "One should see a main sequence at log g 4-5 and a giant branch that is cooler where "
        "metals are many; stars along a straight edge are where the model ends."
    )
    title = label_title(metal)
    drawn = [picture(_kiel(columns, ("teff", "logg", metal), shown, title), "Fitted labels.")]
    for catalog in evidence.config.crossmatch or {}:
        names = [f"{catalog}_{name}" for name in ("teff", "logg", metal)]
        if set(names) <= set(columns) and np.isfinite(columns[names[1]][shown]).any():
            caption = f"The same stars by {catalog}, as far as they are in it."
            drawn.append(picture(_kiel(columns, names, shown, title), caption))
    return (
        paragraph(f"{int(shown.sum()):,} stars without flag, Teff and log g off their edges.")
        + paragraph(text, kind="quiet")
        + side_by_side(drawn)
    )


def _kiel(columns: Mapping[str, Array], names: Sequence[str], shown: Array, title: str) -> Figure:
    teff, logg, color = (columns[name][shown] for name in names)
    return figures.kiel_diagram(teff, logg, color, color_name=title)


def examples(evidence: Evidence) -> str:
    """Draw one spectrum of each kind with its best fit."""
    html = ""
    for kind, place in pick_examples(evidence).items():
        if place is None:
            html += heading(kind) + paragraph("The run has none.", kind="quiet")
            continue
        star = {name: values[place] for name, values in evidence.columns.items()}
        spectra = read_rows(evidence.store, np.array([star["row"]]))
        best = {name: values[[place]] for name, values in evidence.columns.items()}
        fit = best_fit_flux(evidence.models, spectra, best)[0]
        figure = figures.spectrum_fit(
            spectra["wavelength"].to_numpy(),
            spectra["flux"].to_numpy()[0],
            spectra["ivar"].to_numpy()[0],
            fit if np.isfinite(fit).all() else None,
            title=star_title(star, evidence.labels),
        )
        html += heading(kind) + picture(figure, EXAMPLE, wide=True)
    return html


def pick_examples(evidence: Evidence) -> dict[str, int | None]:
    """Return which row shows what; None where no row does.

    The two good ones are of middling χ², so that they show what a fit usually is.
    """
    columns, fitted = evidence.columns, evidence.fitted
    quality = columns["chi2"] / np.maximum(columns["n_used"], 1)
    report = evidence.config.report
    clear = evidence.trusted("teff", "logg") & (columns["snr"] >= (report.snr_min if report else 0))
    giant = columns["logg"] < GIANT_LOGG if "logg" in columns else fitted
    bound = columns["fit_status"] & np.uint32(FitStatus.AT_BOUND) != 0
    broken = columns["spectrum_status"] & np.uint32(UNREADABLE) != 0
    return {
        "A giant": _middle(quality, clear & giant),
        "A dwarf": _middle(quality, clear & ~giant),
        "The lowest S/N with labels": _first(columns["snr"], fitted),
        "The worst χ²": _first(-quality, fitted),
        "A label at the edge of the model": _first(-columns["snr"], fitted & bound),
        "A broken file": _first(columns["row"], broken),
    }


def _first(key: Array, where: Array) -> int | None:
    rows = np.flatnonzero(where & np.isfinite(key))
    return int(rows[np.argmin(key[rows])]) if len(rows) else None


def _middle(key: Array, where: Array) -> int | None:
    rows = np.flatnonzero(where & np.isfinite(key))
    return int(rows[np.argsort(key[rows], kind="stable")[len(rows) // 2]]) if len(rows) else None


def mean_residual(evidence: Evidence) -> str:
    """Draw what the model gets wrong in all stars alike."""
    rows = _spread_out(evidence.columns["row"], evidence.good)
    if not len(rows):
        return paragraph("No star was fitted without a flag.", kind="quiet")
    spectra = read_rows(evidence.store, evidence.columns["row"][rows])
    best = {name: values[rows] for name, values in evidence.columns.items()}
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


def _spread_out(row: Array, good: Array) -> Array:
    """Return up to MEAN_STARS good places, in chunks of the store that lie far apart."""
    places = np.flatnonzero(good)
    chunks = np.unique(row[places] // CHUNK_ROWS)
    step = max(1, -(-len(chunks) // MEAN_CHUNKS))
    near = places[np.isin(row[places] // CHUNK_ROWS, chunks[::step])]
    return near[:: max(1, -(-len(near) // MEAN_STARS))]


def throughput(evidence: Evidence) -> str:
    """Say how fast each stage was."""
    timings = [
        read_json(paths.join(url, "timing.json"))
        for url in stage_folders(evidence.config).values()
        if paths.exists(paths.join(url, "timing.json"))
    ]
    if not timings:
        return paragraph("The run kept no record of time.", kind="quiet")
    rows = [
        (t["stage"], t["rows"], t["workers"], float(t["seconds"]), t["rows"] / (t["seconds"] or 1))
        for t in timings
        if t["rows"] > 1
    ]
    text = "Wall time, all workers together, the start of the engine included."
    columns = ["stage", "rows", "workers", "seconds", "rows/s"]
    return bars(columns, rows) + paragraph(text, kind="quiet")


def learning(evidence: Evidence) -> str:
    """Draw how the trained model learned."""
    config = evidence.config
    if config.train is None or folders.model_url(config) not in folders.model_urls(config):
        return paragraph("The run's models were trained elsewhere.", kind="quiet")
    metadata = model_record(folders.model_url(config))["metadata"]
    figure = figures.learning_curve(metadata.get("history", []))
    caption = "Validation should follow training down; a gap that opens is over-fitting."
    return picture(figure, caption)


def provenance(evidence: Evidence) -> str:
    """Say what made this: models, digests, versions, the run file as resolved."""
    config = evidence.config
    models = [(number, url, checksum(url)) for number, url in enumerate(folders.model_urls(config))]
    html = heading("Models") + table(["model", "where", "checksum"], models)
    digests = [(name, url) for name, url in stage_folders(config).items()]
    html += heading("Folders in use") + table(["stage", "folder"], digests)
    run = paths.join(config.run.workspace, "run.json")
    if paths.exists(run):
        html += folded("Package versions", json.dumps(read_json(run)["versions"], indent=1))
    return html + folded("Run file as resolved", config.model_dump_json(indent=1))


SECTIONS: dict[str, Callable[[Evidence], str]] = {
    "Summary": summary,
    "Kiel diagram": kiel,
    "Against other catalogs": references,
    "Against the truth": truth,
    "Example spectra": examples,
    "Mean residual": mean_residual,
    "Throughput": throughput,
    "Learning": learning,
    "Provenance": provenance,
}


def write_report(config: RunConfig) -> str:
    """Write the run's page and return its URL; what cannot be shown is said instead.

    Raises
    ------
    StoreError
        If nothing is published yet, or the page cannot be written.
    """
    evidence = read_evidence(config)
    sections = [(name, _made(make, evidence)) for name, make in SECTIONS.items()]
    lead = f"{len(evidence.fitted):,} spectra, {', '.join(map(label_title, evidence.labels[:8]))}"
    html = page(config.run.name, lead, sections)
    folder = folders.report_url(config)
    url = paths.join(folder, "index.html")
    paths.write_bytes(url, html.encode())
    set_current(config.run.workspace, "report", folder.partition("?")[0].rpartition("/")[2])
    return url


def _made(make: Callable[[Evidence], str], evidence: Evidence) -> str:
    try:
        return make(evidence)
    except ScalespecError as error:
        return paragraph(f"This cannot be shown: {error}", kind="bad")


def report(config: RunConfig) -> Iterator[Stage]:
    """Write the run's page; there is nothing to map."""
    write_report(config)
    yield from ()
