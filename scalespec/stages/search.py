"""A search for the best settings of ``[train]``: draws, one trial each, the best model kept."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from scalespec.config import RunConfig, TrainTable
from scalespec.errors import ConfigError, StageError
from scalespec.models.training import SameProcess
from scalespec.stages import folders
from scalespec.stages.emulators import device_here, wanted_device
from scalespec.stages.train import train_loop
from scalespec.store import paths
from scalespec.store.ledger import set_current
from scalespec.store.model import load_model, model_record, save_model

SEARCH = 17
"""Kind of random numbers: of the settings tried."""
SEARCHED = ("payne", "hotpayne", "transformer", "phdlspec")
"""Models whose training is one loop."""
FIXED = frozenset({"model", "labels", "library", "catalog", "search", "snr_min", "teacher"})
"""What makes another task, not another setting of this one."""


def draw_settings(table: TrainTable, seed: int) -> list[dict[str, Any]]:
    """Return the settings of each trial; none for the first, which is the table as it stands.

    Raises
    ------
    ConfigError
        If there is no search table, or a setting is none of ``[train]`` or is refused by it.
    """
    search = table.search
    if search is None:
        raise ConfigError("the run file has no [train.search] table")
    if table.model not in SEARCHED:
        raise ConfigError(f"train.search: model = '{table.model}' is none of {list(SEARCHED)}")
    known = set(TrainTable.model_fields) - FIXED
    if strange := sorted((set(search.choices) | set(search.ranges)) - known):
        raise ConfigError(f"train.search: {strange} are no settings that a search may change")
    rng = np.random.default_rng([seed, 0, SEARCH])
    drawn: list[dict[str, Any]] = [{}]
    while len(drawn) < search.trials:
        one: dict[str, Any] = {
            name: values[int(rng.integers(len(values)))] for name, values in search.choices.items()
        }
        for name, (low, high) in search.ranges.items():
            one[name] = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        drawn.append(one)
    return drawn


def with_settings(table: TrainTable, settings: Mapping[str, Any]) -> TrainTable:
    """Return a table with other settings, checked as a run file's are.

    Raises
    ------
    ConfigError
        If a value is refused.
    """
    plain = table.model_dump(exclude_unset=True) | dict(settings)
    try:
        return TrainTable.model_validate(plain)
    except ValueError as error:
        raise ConfigError(f"train.search: {dict(settings)}: {error}") from error


def search_trials(config: RunConfig) -> tuple[list[dict[str, Any]], Callable[[int], float]]:
    """Return the settings of all trials, and what trains one and returns its validation rms.

    Raises
    ------
    ConfigError
        As `draw_settings`, or if there is no ``[train]`` table.
    """
    table = config.train
    if table is None:
        raise ConfigError("the run file has no [train] table")
    settings = draw_settings(table, config.run.seed)
    tables = [with_settings(table, one) for one in settings]
    if table.library:
        source = paths.join(folders.library_url(config), "spectra.zarr")
    else:
        source = paths.join(folders.training_url(config, table.catalog), "train.zarr")
    if not paths.exists(paths.join(source, "zarr.json")):
        raise StageError(f"{source}: not there yet: run the stages before, or train once")
    url = paths.join(folders.model_url(config), "search")
    seed, device = config.run.seed, wanted_device(config)
    return settings, partial(
        _train, tables=tables, source=source, url=url, seed=seed, device=device
    )


def _train(
    trial: int, tables: list[TrainTable], source: str, url: str, seed: int, device: str
) -> float:
    """Train one trial, if that is not done, and return its validation rms."""
    target = paths.join(url, f"{trial:03d}")
    if not paths.exists(paths.join(target, "model.json")):
        train_loop(SameProcess(device_here(device)), tables[trial], source, target, seed)
    history = model_record(target)["metadata"]["history"]
    return float(min(one["validation_rms"] for one in history if "validation_rms" in one))


def keep_best(
    config: RunConfig, settings: list[dict[str, Any]], outcomes: Mapping[int, float | str]
) -> list[dict[str, Any]]:
    """Make the best trial's model the run's, and return the table of all.

    Parameters
    ----------
    config : RunConfig
    settings : list of dict
        Of each trial.
    outcomes : mapping
        Trial -> validation rms, or why there is none.

    Returns
    -------
    list of dict
        Best first: ``trial``, ``validation_rms`` (None if it failed), ``settings``, ``error``. It
        is in the model's metadata, and in ``search.json`` beside the trials.

    Raises
    ------
    StageError
        If every trial failed.
    """
    rows: list[dict[str, Any]] = []
    for trial, one in enumerate(settings):
        found = outcomes.get(trial, "it never ran")
        measured = isinstance(found, float) and np.isfinite(found)
        rows.append(
            {
                "trial": trial,
                "validation_rms": found if measured else None,
                "settings": one,
                "error": "" if measured else str(found),
            }
        )
    rows.sort(key=lambda row: (row["validation_rms"] is None, row["validation_rms"], row["trial"]))
    if rows[0]["validation_rms"] is None:
        raise StageError(f"train search: every trial failed; trial 0: {rows[0]['error']}")
    url = folders.model_url(config)
    best = paths.join(url, f"search/{rows[0]['trial']:03d}")
    metadata = model_record(best)["metadata"] | {"search": rows}
    save_model(url, load_model(best), metadata)
    text = json.dumps(rows, indent=1).encode()
    paths.write_bytes(paths.join(url, "search/search.json"), text)
    digest = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    set_current(config.run.workspace, "model", digest, stage="train")
    return rows
