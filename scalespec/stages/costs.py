"""What a page says of a run's speed: rows per second, how busy workers were, what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from scalespec.config import RunConfig
from scalespec.stages.evidence import stage_folders
from scalespec.stages.page import Cell, bars, heading, paragraph, table
from scalespec.store import paths
from scalespec.store.ledger import read_json

Timing = Mapping[str, Any]
"""A stage's ``timing.json``: stage, seconds, rows, workers, worker_seconds."""
MILLION = 1_000_000
WALL = (
    "Seconds are of the wall, all workers together, the start of the engine included. Busy is the "
    "part of the workers' time that blocks took, 100 at most: a worker reads one ahead and writes "
    "one behind. The rest is the engine's start and waiting."
)


def throughput(config: RunConfig) -> str:
    """Say how fast each stage was, how busy its workers were, and what it cost."""
    timings = read_timings(config)
    if not timings:
        return paragraph("The run kept no record of time.", kind="quiet")
    price = config.report.worker_hour if config.report else 0.0
    rows: list[tuple[Cell, ...]] = []
    for one in timings:
        seconds = float(one["seconds"])
        many = one["rows"] > 1
        per_million = hours(one) * MILLION / one["rows"] if many else float("nan")
        money = (hours(one) * price,) if price else ()
        speed = one["rows"] / (seconds or 1) if many else 0.0
        rows.append((
            one["stage"], int(one["rows"]) if many else float("nan"), int(one["workers"]), seconds,
            100 * busy(one), per_million, *money, speed,
        ))  # fmt: skip
    heads = ["stage", "rows", "workers", "seconds", "busy, %", "worker hours / 10⁶ rows"]
    heads += ["cost"] if price else []
    html = bars([*heads, "rows/s"], rows) + paragraph(WALL, kind="quiet")
    total = sum(map(hours, timings))
    said = f"All stages together took {total:.3g} worker hours"
    said += f" and cost {total * price:.3g} at {price:g} per worker hour." if price else "."
    return html + paragraph(said) + foretold(config, timings)


def read_timings(config: RunConfig) -> list[Timing]:
    """Return the records of time of the run's stages that kept one, those within others too."""
    urls = [
        paths.join(url, *inner)
        for url in stage_folders(config).values()
        for inner in ((), *INNER)
        if paths.exists(paths.join(url, *inner, "timing.json"))
    ]
    return [read_json(paths.join(url, "timing.json")) for url in dict.fromkeys(urls)]


INNER = (
    *(("stars",), ("chosen",), ("singles",), ("trends",), ("visits",), ("sample",)),
    *(("hats",), ("best_fit",)),
)
"""Folders of stages within a stage's."""


def hours(one: Timing) -> float:
    """Return the worker hours of a stage.

    Examples
    --------
    >>> hours({"seconds": 1800.0, "workers": 4})
    2.0
    """
    return float(one["seconds"]) * int(one["workers"]) / 3600


def busy(one: Timing) -> float:
    """Return the part of its workers' time that a stage's blocks took; NaN where it is not known.

    Blocks overlap, as one is read while another is computed: 1 at most.

    Examples
    --------
    >>> busy({"seconds": 10.0, "workers": 2, "worker_seconds": 15.0})
    0.75
    """
    available = float(one["seconds"]) * int(one["workers"])
    worked = float(one.get("worker_seconds", 0.0))
    return min(worked / available, 1.0) if available and worked else float("nan")


def foretold(config: RunConfig, timings: Sequence[Timing]) -> str:
    """Hold times and cost against what ``plan --probe`` said of them, if it was asked."""
    url = paths.join(config.run.workspace, "prediction.json")
    if not paths.exists(url):
        return ""
    record = read_json(url)
    said = {one["stage"]: float(one["seconds"]) for one in record["stages"]}
    both = [(one, said[one["stage"]]) for one in timings if one["stage"] in said]
    both = [(one, seconds) for one, seconds in both if float(one["seconds"]) > 0]
    if not both:
        return ""
    rows: list[tuple[Cell, ...]] = [
        (one["stage"], seconds, float(one["seconds"]), _off(seconds, float(one["seconds"])))
        for one, seconds in both
    ]
    predicted, took = sum(s for _, s in both), sum(float(one["seconds"]) for one, _ in both)
    rows.append(("together", predicted, took, _off(predicted, took)))
    columns = ["stage", "predicted, s", "took, s", "error, %"]
    html = heading("Prediction") + table(columns, rows)
    text = f"Predicted by plan --probe from a few blocks, for {record['workers']} workers."
    price = config.report.worker_hour if config.report else 0.0
    if price:
        wanted = predicted * record["workers"] / 3600 * price
        spent = sum(hours(one) for one, _ in both) * price
        text += f" Workers were to cost {wanted:.3g}, and cost {spent:.3g}."
    return html + paragraph(text, kind="quiet")


def _off(predicted: float, took: float) -> float:
    return 100 * (predicted - took) / took
