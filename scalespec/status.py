"""What a run holds: planned, done, failed and left; read back and checked."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from scalespec.config import PreprocessTable, RunConfig
from scalespec.errors import ScalespecError, StoreError
from scalespec.plan import BlockResult
from scalespec.schema import check_spectra
from scalespec.stages import folders
from scalespec.stages.anew import made_anew
from scalespec.stages.inputs import count_inputs, nothing_to_read
from scalespec.stages.named_inputs import check_inputs
from scalespec.stages.partitioned import FOLDER as HATS
from scalespec.stages.partitioned import verify_hats, withdraw_hats
from scalespec.stages.reader import survey_of
from scalespec.stages.regrid import theory_grid
from scalespec.store import paths
from scalespec.store.catalog import MANIFEST, verify_catalog
from scalespec.store.fixed import find_strays, is_recorded, verify_fixed
from scalespec.store.ledger import Ledger, own_steps, read_json
from scalespec.store.spectra import (
    arm_names,
    count_spectra,
    memory_bytes,
    open_spectra,
    read_spectra,
)
from scalespec.store.streams import differing

WITHDRAWN = "its record is withdrawn, the next run makes it anew"
"""What `verify --mend` says of what it has found broken."""
ENGINES = {
    "ingest": "dask",
    "preprocess": "dask",
    "crossmatch": "dask",
    "train": "ray",
    "infer": "ray",
    "fit": "ray",
    "posterior": "ray",
    "binaries": "ray",
    "calibrate": "dask",
    "derive": "ray",
    "ages": "dask",
    "publish": "dask",
    "report": "driver",
    "compare": "ray",
}
FITTING = ("fit", "binaries")
"""Stages that hold batches of fits."""
STORES = ("spectra.zarr", "train.zarr")
"""Names of what a stage's folder may hold."""
ROW_BYTES = {"ingest": 12, "preprocess": 12}
"""Bytes per pixel that a stage stores: flux, ivar, mask."""
FAILURES_SAID = 5
"""Failed blocks of a stage whose errors its state has; the folder ``failed`` has all."""


@dataclass(frozen=True)
class Folder:
    """One folder of a run: the stage it belongs to, and its URL once upstream is known."""

    stage: str
    url: str | None


def run_folders(config: RunConfig) -> list[Folder]:
    """Return the folders of every stage in the run file, in order; None: upstream is missing."""
    named: list[tuple[str, Callable[[], str]]] = []
    for stage in config.stages():
        named += [(label, call) for label, call in _stage_folders(config, stage)]
    return [Folder(label, _known(call)) for label, call in named]


def _stage_folders(config: RunConfig, stage: str) -> list[tuple[str, Callable[[], str]]]:
    found: list[tuple[str, Callable[[], str]]] = []
    if stage == "crossmatch":
        for name in config.crossmatch or {}:
            found.append((f"crossmatch {name}", partial(folders.matches_url, config, name)))
            if config.preprocess is not None:
                train = partial(folders.training_url, config, name)
                found.append((f"crossmatch {name} train.zarr", train))
        return found
    if stage == "train":
        library = config.train is not None and bool(config.train.library)
        if library:
            found.append(("train library", partial(folders.library_url, config)))
        if config.train is not None and config.train.model == "cannon":
            found += [
                (f"train {part}", partial(folders.pixels_url, config, part))
                for part in folders.PIXEL_PARTS
            ]
        return [*found, ("train", partial(folders.model_url, config))]
    if stage == "preprocess" and config.preprocess is not None and config.preprocess.library:
        theory = partial(folders.theory_url, config)
        found.append(("preprocess library", theory))
    if stage == "binaries":
        found.append(("binaries singles", partial(folders.singles_url, config)))
    simple = {
        "ingest": folders.raw_url,
        "preprocess": folders.spectra_url,
        "infer": folders.first_url,
        "fit": folders.best_url,
        "posterior": folders.posterior_url,
        "binaries": folders.binaries_url,
        "calibrate": folders.calibrated_url,
        "derive": folders.derived_url,
        "ages": folders.ages_url,
        "publish": folders.catalog_url,
        "report": folders.report_url,
        "compare": folders.compare_url,
    }
    return [*found, (stage, partial(simple[stage], config))]


def _known(call: Callable[[], str]) -> str | None:
    try:
        return call()
    except ScalespecError:
        return None


def stage_states(config: RunConfig) -> list[dict[str, Any]]:
    """Return per folder: blocks planned, done, failed and left, rows, and rows by status.

    `why` has the errors of the first `FAILURES_SAID` failed blocks, by their numbers. A stage's own
    steps, as a crossmatch does before it has matches, stand before it where blocks of them failed.
    """
    there = run_folders(config)
    shown = {folder.url for folder in there}
    return [state for folder in there for state in (*_failed_steps(folder, shown), _state(folder))]


def _steps(folder: Folder, shown: Collection[str | None]) -> dict[str, str]:
    """Return the folders of a stage's own steps by what to call them, but for those `shown`."""
    steps = own_steps(folder.url) if folder.url is not None else {}
    return {f"{folder.stage} {name}": url for name, url in steps.items() if url not in shown}


def _failed_steps(folder: Folder, shown: Collection[str | None]) -> list[dict[str, Any]]:
    """Return the states of a stage's own steps of which blocks failed."""
    steps = _steps(folder, shown).items()
    found = [_state(Folder(name, url)) for name, url in steps if Ledger(url).failures()]
    return [state for state in found if state["failed"]]


def _state(folder: Folder) -> dict[str, Any]:
    state: dict[str, Any] = {"stage": folder.stage, "url": folder.url, "counts": {}, "why": {}}
    if folder.url is None:
        return state | {"blocks": None, "done": 0, "failed": 0, "left": None, "rows": 0}
    if folder.stage in ("train", "report"):
        made = paths.exists(
            paths.join(folder.url, "model.json" if folder.stage == "train" else "index.html")
        )
        lost = {} if made else Ledger(folder.url).failures()
        state |= {"failed": len(lost), "why": {str(i): error for i, error in lost.items()}}
        return state | {"blocks": 1, "done": int(made), "left": 1 - made - len(lost), "rows": 0}
    ledger = Ledger(folder.url)
    blocks = ledger.planned()
    ours = {index for index, *_ in blocks or ()}  # a longer run file may share them
    commits = {i: result for i, result in ledger.commits().items() if i in ours or not ours}
    failures = {i: error for i, error in ledger.failures().items() if i in ours or not ours}
    counts: dict[str, int] = {}
    for result in commits.values():
        for name, n in result.counts.items():
            counts[name] = counts.get(name, 0) + n
    planned = None if blocks is None else len(blocks)
    left = None if planned is None else planned - len(commits) - len(failures)
    rows = sum(result.rows for result in commits.values())
    numbers = {"blocks": planned, "done": len(commits), "failed": len(failures)}
    why = {str(i): failures[i] for i in sorted(failures)[:FAILURES_SAID]}
    return state | numbers | {"left": left, "rows": rows, "counts": counts, "why": why}


def verify_run(config: RunConfig, *, mend: bool = False) -> tuple[list[str], int]:
    """Read everything committed back and compare it with its record.

    Parameters
    ----------
    config : RunConfig
    mend : bool
        Withdraw the records of blocks, and of a catalog, that are not as they say: the next run
        makes these anew, to the same bytes, so that what was made of them stands.

    Returns
    -------
    problems, n_checked
        One line per object that is missing, changed or of another shape; objects checked.
    """
    problems: list[str] = []
    checked, there = 0, run_folders(config)
    shown = {folder.url for folder in there}
    for folder in there:
        if folder.url is None:
            problems.append(f"{folder.stage}: not run yet")
            continue
        looks = {folder.stage: partial(_verify_folder, folder.stage, folder.url, mend=mend)}
        catalog = folder.url if folder.stage == "publish" else ""
        for name, url in _steps(folder, shown).items():
            if not catalog or url != paths.join(catalog, HATS):  # whose objects its manifest names
                looks[name] = partial(_verify_step, url, catalog, mend=mend)
        for stage, look in looks.items():
            try:
                found, n = look()
            except StoreError as error:  # a record that cannot be read; other folders may be fine
                found, n = [str(error)], 0
            problems += [f"{stage}: {line}" for line in found]
            checked += n
    return problems, checked


def _verify_step(url: str, catalog: str, *, mend: bool) -> tuple[list[str], int]:
    """Check what is there of a stage's own step: some is removed when the stage is done.

    A `catalog` that it belongs to is withdrawn with it: of one that is whole no step is run.
    """
    problems, checked = _verify_blocks(url, Ledger(url).commits(), mend=mend)
    for store in filter(is_recorded, (paths.join(url, name) for name in STORES)):
        found, n = verify_fixed(store)
        problems, checked = problems + found, checked + n
    if problems and mend and catalog:
        paths.delete(paths.join(catalog, MANIFEST))
    return problems, checked


def _verify_folder(stage: str, url: str, *, mend: bool) -> tuple[list[str], int]:
    if stage == "train":
        from scalespec.store.regressor import open_model  # with torch: seconds

        return _verified(lambda: open_model(url)), 1
    if stage == "report":
        return _verified(lambda: paths.read_bytes(paths.join(url, "index.html"))), 1
    blocks = Ledger(url).planned()
    if blocks is None:
        return ["not run yet with these settings"], 0
    commits = Ledger(url).commits()
    problems, checked = _verify_blocks(url, commits, mend=mend)
    for index, start, stop in blocks:
        if index not in commits:
            problems.append(f"block {index} (rows {start}:{stop}) is not committed")
        elif commits[index].rows != stop - start and stage != "crossmatch":
            problems += _verify_rows(stage, index, commits[index].rows, stop - start)
    found, n = _verify_store(url)
    problems, checked = problems + found, checked + n
    if stage == "publish":
        problems += _verify_manifest(url, mend=mend)
        checked += 1
    return problems, checked


def _verify_blocks(
    url: str, commits: Mapping[int, BlockResult], *, mend: bool
) -> tuple[list[str], int]:
    """Read back what the commits of a folder name; count the objects."""
    problems: list[str] = []
    checked = 0
    strays = {name: find_strays(paths.join(url, name), commits) for name in STORES}
    for index, result in sorted(commits.items()):
        found = differing(url, result.objects, "its commit")
        for name, keys in strays.items():
            there = (paths.join(url, name, key) for key in keys.get(index, ()))
            found += [f"{key}: there, and its commit does not name it" for key in there]
        problems += _verify_block(url, index, found, mend=mend)
        checked += len(result.objects)
    return problems, checked


def _verify_block(url: str, index: int, found: list[str], *, mend: bool) -> list[str]:
    found = [f"block {index}: {line}" for line in found]
    if found and mend:
        Ledger(url).withdraw(index)
        found.append(f"block {index}: {WITHDRAWN}")
    return found


def _verify_rows(stage: str, index: int, rows: int, planned: int) -> list[str]:
    """Every planned spectrum has its row; matches are as many as there are."""
    # a split, chosen stars, and mocks have the rows that they have
    if stage.startswith(("crossmatch", "compare", "posterior", "binaries singles")):
        return []
    return [f"block {index} holds {rows} rows, planned were {planned}"]


def _verified(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except ScalespecError as error:
        return [str(error)]
    return []


def _verify_store(url: str) -> tuple[list[str], int]:
    """Check what no commit names of a store: metadata, coordinates, schema."""
    for name in STORES:
        store = paths.join(url, name)
        if is_recorded(store) or paths.exists(paths.join(store, "zarr.json")):
            problems, n = verify_fixed(store)
            return problems + _verified(partial(_check_store, store)), n
    return [], 0


def _check_store(store: str) -> None:
    with paths.explained(store, ValueError, KeyError):  # what Zarr says of damaged metadata
        for name in ("", *arm_names(store)):
            check_spectra(open_spectra(paths.join(store, name) if name else store))


def _verify_manifest(url: str, *, mend: bool) -> list[str]:
    try:
        read_json(paths.join(url, MANIFEST))
    except StoreError as error:
        return [str(error)]
    try:
        lines = verify_catalog(url) or verify_hats(url)
    except StoreError as error:
        lines = [str(error)]
    found = [f"catalog: {line}" for line in lines]
    if found and mend:
        paths.delete(paths.join(url, MANIFEST))
        withdraw_hats(url)
        found.append(f"catalog: {WITHDRAWN}")
    return found


def plan_run(config: RunConfig) -> list[dict[str, Any]]:
    """Say what would run, touching nothing: blocks, spectra, bytes and memory per stage.

    Raises
    ------
    ConfigError
        If there is nothing to read, or not all that the run file names is there.
    """
    check_inputs(config)
    n, n_bytes = count_inputs(config)
    if config.ingest is not None and not n:
        raise nothing_to_read(config.ingest)
    size = config.run.spectra_per_block
    n_pixel = survey_of(config.ingest).n_pixel if config.ingest else 0
    memory = {  # as the stages themselves say it to their engine
        "ingest": memory_bytes(min(size, n), n_pixel, min(size, n) * n_bytes // max(n, 1))
    }
    counts = dict.fromkeys(config.stages(), (n, n_pixel))
    if config.preprocess is not None and (config.preprocess.source or config.preprocess.library):
        there = _count_source(config.preprocess)
        counts = dict.fromkeys(counts, there)
    n, n_pixel = counts.get("preprocess", (0, 0))
    memory["preprocess"] = 2 * memory_bytes(min(size, n), n_pixel)
    memory |= dict.fromkeys(FITTING, memory_bytes(min(size, n), n_pixel))
    memory["infer"] = memory["fit"]
    gpus, anew = config.engine.ray.gpus_per_worker, made_anew(config)
    fits = config.fit.batch_bytes(n_pixel) if config.fit else 0
    return [
        {
            "stage": stage,
            "engine": ENGINES[stage],
            "blocks": _count_blocks(config, stage, n),
            "spectra": n,
            "bytes": n * n_pixel * ROW_BYTES.get(stage, 0),
            "memory_bytes": memory.get(stage, 0) + (fits if stage in FITTING and not gpus else 0),
            "gpu_bytes": fits if stage in FITTING and gpus else 0,
            "anew": anew.get(stage, ""),
        }
        for stage, (n, n_pixel) in counts.items()
    ]


def _count_blocks(config: RunConfig, stage: str, n: int) -> int:
    if stage == "compare" and config.compare is not None:
        return len(config.compare.models) * config.compare.seeds
    return 1 if stage in ("train", "report") else -(-n // config.run.spectra_per_block)


def _count_source(table: PreprocessTable) -> tuple[int, int]:
    """Return spectra and pixels, of all arms, of what is preprocessed instead of a survey."""
    if table.library is not None:
        return table.library.n_spectra, len(theory_grid(table.library))
    url = table.source
    urls = [url, *(paths.join(url, arm) for arm in arm_names(url))]
    heads = [read_spectra(one, 0, 0) for one in urls]
    return count_spectra(url), sum(one["flux"].shape[1] for one in heads if "flux" in one)
