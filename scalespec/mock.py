"""The mock verb: a made-up survey, a library to train on, and run files for them, on Dask."""

from collections.abc import Callable
from typing import Any

from scalespec.config import DaskTable, EngineTable
from scalespec.engines import open_engine
from scalespec.errors import StageError
from scalespec.plan import BlockReport, Stage
from scalespec.run import Listener, Progress
from scalespec.stages.library import library_stage
from scalespec.stages.mock import LABELS, make_mock, run_file
from scalespec.store import paths
from scalespec.store.ledger import Ledger
from scalespec.store.model import load_model

SPECTRA_PER_BLOCK = 128
"""Small, so that a mock of two thousand spectra has blocks enough to show what a run does."""


def write_mock(
    folder: str,
    *,
    n_spectra: int,
    seed: int = 1,
    n_library: int = 0,
    emulator: str | None = None,
    workers: int = 2,
    listener: Listener = lambda _: None,
) -> str:
    """Write a made-up LAMOST survey and everything to run it with.

    Parameters
    ----------
    folder : str
        Where: ``files/``, ``truth.parquet``, ``labels.parquet``, ``library/``, ``run.toml`` (an
        emulator trained on the library) and ``matched.toml`` (one trained on matched stars).
    n_spectra : int
        Survey files.
    seed : int
    n_library : int
        Noiseless library spectra.
    emulator : str, optional
        A model's URL; it makes the true spectra instead of our own line synthesis.
    workers : int
        Dask worker processes.
    listener : callable
        Told of every stage begun and every block ended.

    Returns
    -------
    str
        What was written, in words.

    Raises
    ------
    StageError
        If a block could not be written; a library goes on from the blocks it has.
    """
    model = load_model(emulator) if emulator else None
    labels = model.spec.labels if model else LABELS
    engine = open_engine("dask", EngineTable(dask=DaskTable(workers=workers)))
    try:
        blocks = -(-n_spectra // 256)
        listener(Progress("mock", blocks, 0))
        counts = make_mock(
            folder,
            n_spectra=n_spectra,
            engine=engine,
            seed=seed,
            emulator=model,
            listener=_told("mock", listener),
        )
        if n_library:
            stage = library_stage(
                paths.join(folder, "library"),
                n_spectra=n_library,
                seed=seed,
                labels=labels,
                emulator=model,
            )
            _fill(stage, engine, listener)
    finally:
        engine.close()
    for name, source in (("run", "library"), ("matched", "catalog")):
        text = run_file(labels, seed=seed, spectra_per_block=SPECTRA_PER_BLOCK, source=source)
        paths.write_bytes(paths.join(folder, f"{name}.toml"), text.encode())
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{folder}: {told}; {n_library:,} library spectra; run files run.toml, matched.toml"


def _fill(stage: Stage, engine: Any, listener: Listener) -> None:
    done = Ledger(stage.url).done()
    left = [block for block in stage.blocks if block.index not in done]
    listener(Progress(stage.name, len(stage.blocks), len(done)))
    for report in engine.map(stage, left):
        _told(stage.name, listener)(report)
        if not report.ok:
            raise StageError(f"library block {report.block.index}: {report.error}")


def _told(name: str, listener: Listener) -> Callable[[BlockReport], None]:
    def tell(report: BlockReport) -> None:
        listener(Progress(name, 0, 0, report.block.size, report))

    return tell
