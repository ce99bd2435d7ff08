"""The mock verb: a made-up survey, a library to train on, and run files for them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from scalespec.config import DaskTable, EngineTable
from scalespec.engines import open_engine
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.families import Recipe
from scalespec.plan import BlockReport, Stage, plan_blocks
from scalespec.run import Listener, Progress
from scalespec.stages.library import library_stage
from scalespec.stages.mock import LAMOST, make_mock
from scalespec.stages.mock_files import MOCK_SURVEYS
from scalespec.stages.mock_runfile import run_file
from scalespec.stages.mock_spectra import LABELS
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.model import load_model

SPECTRA_PER_BLOCK = 128
"""Small, so that a mock of two thousand spectra has blocks enough to show what a run does."""
LIBRARY = 4096
"""Spectra that teach an emulator of eight labels all it can learn."""
BLOCK = 256
"""Spectra that are made at a time, and in one file where a survey's files hold many."""


def write_mock(
    folder: str,
    *,
    n_spectra: int,
    seed: int = 1,
    n_library: int | None = None,
    engine: Literal["local", "dask"] = "dask",
    workers: int = 2,
    listener: Listener = lambda _: None,
    **made: Any,
) -> str:
    """Write a made-up survey and everything to run it with.

    Parameters
    ----------
    folder : str
        Where, local or ``s3://``: ``files/``, the tables ``truth``, ``labels``, ``reference`` and
        ``pairs`` as Parquet, ``library/``, ``run.toml`` (an emulator trained on the library) and
        ``matched.toml`` (one trained on matched stars).
    n_spectra : int
        Survey spectra.
    seed : int
    n_library : int, optional
        Noiseless library spectra, for the survey "lamost_lrs" alone; 4,096 by default there.
    engine : {"local", "dask"}
    workers : int
        Dask worker processes.
    listener : callable
        Told of every stage begun and every block ended.
    **made
        survey: whose format; truth_model: a model's URL, which makes the true spectra instead of
        our own line synthesis; labels: of the stars, for our own; recipe: mapping of fields of
        `Recipe` to fractions; spectra_per_file: made at a time, and in one file where a survey's
        files hold many; even_fibres: all resolve alike, as a fit of one resolution assumes;
        ivar_factor: stated over true ivar, for a pipeline that is wrong about its noise; limits:
        mapping of labels to (low, high), between which the stars lie.

    Returns
    -------
    str
        What was written, in words.

    Raises
    ------
    ConfigError
        If there is no such survey, or a recipe, `ivar_factor` or limit is wrong.
    StageError
        If a block could not be written; the same command goes on from the blocks it has.
    """
    options = _options(**made)
    model, survey = options["truth_model"], options["survey"]
    if n_library and survey != LAMOST:
        raise ConfigError(f"a library is made for {LAMOST} alone: leave --n-library out")
    n_library = n_library if n_library is not None else LIBRARY if survey == LAMOST else 0
    labels = model.spec.labels if model else options["labels"]
    running = open_engine(engine, EngineTable(dask=DaskTable(workers=workers)))
    try:
        blocks = len(plan_blocks(n_spectra, options["spectra_per_block"]))
        listener(Progress("mock", blocks, 0))
        counts = make_mock(
            folder,
            n_spectra=n_spectra,
            engine=running,
            seed=seed,
            listener=_told("mock", listener),
            **options,
        )
        if n_library:
            stage = library_stage(
                paths.join(folder, "library"),
                n_spectra=n_library,
                seed=seed,
                labels=labels,
                truth_model=model,
                even_fibres=options["even_fibres"],
            )
            _fill(stage, running, listener)
    finally:
        running.close()
    written = _write_run_files(folder, labels, seed, survey, library=n_library > 0)
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{folder}: {told}; {n_library:,} library spectra; run files {', '.join(written)}"


def _options(
    *,
    survey: str = LAMOST,
    truth_model: str | None = None,
    labels: Sequence[str] = LABELS,
    recipe: Mapping[str, float] | None = None,
    spectra_per_file: int | None = None,
    even_fibres: bool = False,
    ivar_factor: float = 1.0,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Return what the stage is to be told, checked."""
    if survey not in MOCK_SURVEYS:
        raise ConfigError(f"no made-up survey '{survey}'; there are {', '.join(MOCK_SURVEYS)}")
    if not 0.0 < ivar_factor < math.inf:
        raise ConfigError(f"ivar_factor must be a positive number, got {ivar_factor}")
    known = [f.name for f in fields(Recipe)]
    if wrong := sorted(set(recipe or {}) - set(known)):
        raise ConfigError(f"recipe: no {', '.join(wrong)}; there are {', '.join(known)}")
    try:
        made = Recipe(**(recipe or {}))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return {
        "survey": survey,
        "truth_model": load_model(truth_model) if truth_model else None,
        "labels": tuple(labels),
        "recipe": made,
        "spectra_per_block": spectra_per_file or BLOCK,
        "even_fibres": even_fibres,
        "ivar_factor": ivar_factor,
        "limits": tuple((label, *ends) for label, ends in (limits or {}).items()),
    }


def _fill(stage: Stage, engine: Any, listener: Listener) -> None:
    done = Ledger(stage.url).done()
    left = [block for block in stage.blocks if block.index not in done]
    listener(Progress(stage.name, len(stage.blocks), len(done)))
    for report in engine.map(stage, left):
        _told(stage.name, listener)(report)
        if not report.ok:
            raise StageError(f"library block {report.block.index}: {report.error}")


def _write_run_files(
    folder: str, labels: Sequence[str], seed: int, survey: str, *, library: bool
) -> list[str]:
    """Write the run files for what there is to learn from, and return their names."""
    sources = {"run.toml": "library", "matched.toml": "catalog"}
    if not library:
        sources = {"run.toml": "catalog"}
    for name, source in sources.items():
        text = run_file(
            labels,
            seed=seed,
            spectra_per_block=SPECTRA_PER_BLOCK,
            source=source,
            survey=survey,
            folder=folder if paths.is_remote(folder) else "",
        )
        paths.write_bytes(paths.join(folder, name), text.encode())
    return list(sources)


def _told(name: str, listener: Listener) -> Callable[[BlockReport], None]:
    def tell(report: BlockReport) -> None:
        listener(Progress(name, 0, 0, report))

    return tell
