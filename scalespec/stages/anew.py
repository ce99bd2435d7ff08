"""What a plan says of labels that a workspace has: which would be made anew, and why."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from scalespec.config import RunConfig
from scalespec.errors import ScalespecError
from scalespec.stages import folders
from scalespec.store import paths
from scalespec.store.ledger import Ledger, current, find_json, stage_url

MADE: dict[str, tuple[str, Callable[[RunConfig], str]]] = {
    "infer": ("first", folders.first_url),
    "fit": ("best", folders.best_url),
}
"""Stages whose rows are dear: their folder, and what names it."""
UPSTREAM = ("run", "store", "ingest", "preprocess", "crossmatch", "train", "infer", "fit")
SIZES = ("seed", "spectra_per_block")
"""What of ``[run]`` tells in labels."""


def made_anew(config: RunConfig) -> dict[str, str]:
    """Return by stage what would be made anew though it is there, and why; nothing is read of it.

    Inputs that came since are not looked for: what they would cost is said of ``train``.
    """
    found = {}
    fitted = 0
    for stage, (folder, url_of) in MADE.items():
        record = current(config.run.workspace, folder)
        if record is None or stage not in config.stages():
            continue
        there = stage_url(config.run.workspace, folder, str(record["digest"]))
        rows = sum(stop - start for _, start, stop in Ledger(there).planned() or ())
        url = _known(url_of, config)
        if url == there:
            fitted = rows
        elif not (url and Ledger(url).done()):  # else it goes on with what an earlier run left
            why = _changed(config, stage) or "what it is made of is not what it was"
            found[stage] = f"{rows:,} spectra that are done are done anew: {why}"
    table = config.train
    learns = table is not None and table.catalog and not table.segments
    if fitted and learns and not (config.infer and config.infer.models):
        found["train"] = (
            f"if more stars with labels come, the model is trained anew, and {fitted:,} spectra "
            "that are done are done anew; with [train] segments = 1 they stay"
        )
    return found


def _known(url_of: Callable[[RunConfig], str], config: RunConfig) -> str:
    try:
        return url_of(config)
    except ScalespecError:  # what is upstream is not there yet
        return ""


def _changed(config: RunConfig, stage: str) -> str:
    """Return which settings up to a stage differ from those of the last run."""
    record = find_json(paths.join(config.run.workspace, "run.json")) or {"config": {}}
    before, now = record["config"], config.model_dump(mode="json")
    names: list[str] = []
    for table in UPSTREAM[: UPSTREAM.index(stage) + 1]:
        was, is_now = (_flat(tables.get(table)) for tables in (before, now))
        keys = [key for key in {**was, **is_now} if was.get(key) != is_now.get(key)]
        names += [f"{table}.{key}" for key in keys if table != "run" or key in SIZES]
    return f"{', '.join(names)} changed" if names and record["config"] else ""


def _flat(table: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a table's settings as text, in which one that is no number equals itself."""
    return {key: json.dumps(value, sort_keys=True) for key, value in (table or {}).items()}
