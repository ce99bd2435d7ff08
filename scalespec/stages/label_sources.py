"""Where labels to learn from come from: how label catalogs agree, and who gave which label."""

import io
from collections import Counter

import pandas as pd

from scalespec.config import CrossmatchTable, RunConfig
from scalespec.stages import folders
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.page import Cell, embedded, heading, paragraph, table
from scalespec.store import paths
from scalespec.store.batches import column_names, iterate_piece, list_pieces

ROWS = 65_536
"""Matches in memory at a time."""
AGREEMENT = (
    "Residuals are catalog less reference, on the spectra that both know: bias is their median, "
    "scatter 1.4826 MAD, a pull the residual over both errors. The line in a figure is a running "
    "median."
)
NONE = "No label catalog of this run is made of several: each is taken as it is."


def label_catalogs(config: RunConfig) -> str:
    """Show of each catalog made of several how they agree, and which label is whose."""
    merged = {name: one for name, one in (config.crossmatch or {}).items() if one.sources}
    html = "".join(_merged(config, name, one) for name, one in merged.items())
    return html or paragraph(NONE, kind="quiet")


def _merged(config: RunConfig, name: str, catalog: CrossmatchTable) -> str:
    url = folders.matches_url(config, name)
    sources = ", ".join(catalog.sources)
    html = heading(f"{name}: {sources}")
    if catalog.reference and catalog.choose == "agreement":
        html += paragraph(f"Each label is of the source that agrees best with {catalog.reference}.")
    else:
        html += paragraph("Each label is of the first of these sources that knows it.")
    if catalog.reference:
        html += _agreement(url, catalog.reference)
    return html + heading(f"{name}: spectra by the source of each label") + _shares(url, catalog)


def _agreement(url: str, reference: str) -> str:
    """Show the table of agreement with the reference, and the figure of each label."""
    data = paths.read_bytes(paths.join(url, "agreement.parquet"))
    found = pd.read_parquet(io.BytesIO(data))
    if not found["n"].any():
        text = f"No spectrum is in {reference} and in a source, too: nothing to compare."
        return paragraph(text, kind="quiet")
    rows: list[tuple[Cell, ...]] = []
    drawn = []
    for label, here in found.groupby("label", sort=False):
        title, unit = label_title(str(label)), label_facts(str(label))[0]
        named = f"{title} [{unit}]" if unit else title
        for one in here.sort_values("order").to_dict("records"):
            numbers = (one["n"], one["bias"], one["scatter"], one["pull_scatter"])
            rows.append((named, one["order"] + 1, one["source"], *numbers))
        picture = paths.join(url, f"agreement-{label}.png")
        if here["n"].any() and paths.exists(picture):
            caption = f"{title} of each source against {reference}, the first choice first."
            drawn.append(embedded(paths.read_bytes(picture), caption, wide=len(here) > 1))
    columns = ["label", "choice", "source", "n", "bias", "scatter", "pull σ"]
    return table(columns, rows) + paragraph(AGREEMENT, kind="quiet") + "".join(drawn)


def _shares(url: str, catalog: CrossmatchTable) -> str:
    """Count the spectra whose label is of each source."""
    target = paths.join(url, "matches.parquet")
    chosen = [name for name in column_names(target) if name.endswith("_from")]
    counts = {name: Counter[str]() for name in chosen}
    for piece in list_pieces(target, ROWS):
        for part in iterate_piece(piece, chosen, ROWS):
            for name in chosen:
                counts[name].update(map(str, part[name]))
    rows: list[tuple[Cell, ...]] = [
        (
            label_title(name.removesuffix("_from")),
            *(counts[name][source] for source in catalog.sources),
            counts[name][""],
        )
        for name in chosen
    ]
    return table(["label", *catalog.sources, "none knows it"], rows)
