"""What a run file names and the run itself does not make: looked at before the first stage.

A name that is wrong would else be found after days of the stages before it. Only heads of files are
read: whether they are there, what they are, and which columns, labels and units they have.
"""

import importlib.util
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from scalespec.config import BinariesTable, CrossmatchTable, FitTable, RunConfig, TrainTable
from scalespec.errors import ConfigError, ScalespecError
from scalespec.kernels.where import columns_in
from scalespec.stages.label_units import POSITION, with_stated_units
from scalespec.stages.sampling import sampling_notes
from scalespec.store import paths
from scalespec.store.batches import column_units, opened
from scalespec.store.isochrones import HDF5, read_main_sequence
from scalespec.store.spectra import read_spectra
from scalespec.store.tables import chosen

log = logging.getLogger(__name__)

Look = Callable[[str], Iterable[str]]
"""From a path to what is wrong with what lies there; or it raises that."""
DAMAGED = (zipfile.BadZipFile, ValueError, EOFError, RuntimeError)
"""What zipfile raises for what is no archive, or none that is read here."""
PAYNE_ARRAYS = ("x_min", "x_max", "labels", "wavelength_vac", "w_array_0", "b_array_0")
"""Some arrays without which an npz is no emulator."""


def check_inputs(config: RunConfig, verbs: Sequence[str] = ()) -> None:
    """Refuse to run on inputs that are not there, or lack what the run file asks of them.

    What lies below the workspace and is not there is taken for something that the run makes. Pixels
    too coarse for the lines that will be put on them are warned of.

    Parameters
    ----------
    config : RunConfig
    verbs : sequence of str
        Stages that are to run; all of the run file by default. Others' inputs are not looked at.

    Raises
    ------
    ConfigError
        With every problem at once.
    """
    asked = verbs or config.stages()
    problems = [
        f"{key}: {problem}"
        for verb in asked
        for key, url, look in (LOOKED_AT[verb](config) if verb in LOOKED_AT else ())
        for problem in _problems(config, url, look)
    ]
    if problems:
        found = "\n  ".join(dict.fromkeys(problems))
        raise ConfigError(f"{config.run.name}: {len(set(problems))} wrong\n  {found}")
    for note in sampling_notes(config) if "preprocess" in asked else ():
        log.warning(note)


Named = Iterator[tuple[str, str, Look]]


def _problems(config: RunConfig, url: str, look: Look) -> list[str]:
    if not url or _is_made(config, url):
        return []
    try:
        return list(look(url))
    except (ScalespecError, ValueError, OSError) as error:
        return [str(error)]


def _is_made(config: RunConfig, url: str) -> bool:
    """Whether a path is one of the workspace where nothing lies yet."""
    root = paths.plain(config.run.workspace).rstrip("/") + "/"
    if not paths.plain(url).startswith(root):
        return False
    return not paths.exists(url) and not paths.list_keys(url)


def _preprocess(config: RunConfig) -> Named:
    if (table := config.preprocess) is None:
        return
    yield "preprocess.source", table.source, _spectra(())
    if table.velocity is not None:
        yield "preprocess.velocity.templates", table.velocity.templates, _templates


def _crossmatch(config: RunConfig) -> Named:
    for name, table in (config.crossmatch or {}).items():
        yield f"crossmatch.{name}.catalog", table.catalog, _label_catalog(name, table)
        library = table.training.library
        yield f"crossmatch.{name}.training.library", library, _spectra(())


def _train(config: RunConfig) -> Named:
    if (table := config.train) is None:
        return
    labels = (*table.labels, *table.network.inputs)
    yield "train.library", table.library, _spectra(labels)
    yield "train.teacher", table.teacher, _model
    yield "train.adapt", table.adapt, _adapted(table)
    yield "train.gradients", table.gradients, _gradients


def _infer(config: RunConfig) -> Named:
    for url in config.infer.models if config.infer else ():
        yield "infer.models", url, _model


def _fit(config: RunConfig) -> Named:
    if (table := config.fit) is None or not table.unknown(()):
        return
    if config.infer and config.infer.models:
        for url in config.infer.models:
            yield "fit", url, _fitted(table)
    elif config.train:
        yield "fit", config.train.adapt, _fitted(table, config.train.leeway_labels)


def _calibrate(config: RunConfig) -> Named:
    pairs = config.calibrate.pairs if config.calibrate else None
    clusters = config.calibrate.clusters if config.calibrate else None
    if pairs is not None:
        look = _table({"id_1": pairs.id_1, "id_2": pairs.id_2}, pairs.where)
        yield "calibrate.pairs.catalog", pairs.catalog, look
    if clusters is not None:
        look = _table({"id": clusters.id, "name": clusters.name})
        yield "calibrate.clusters.catalog", clusters.catalog, look


def _ages(config: RunConfig) -> Named:
    if config.ages is not None:
        yield "ages.isochrones", config.ages.isochrones, _isochrones


def _binaries(config: RunConfig) -> Named:
    if (table := config.binaries) is None:
        return
    yield "binaries.isochrone", table.isochrone, _main_sequence
    train, models = config.train, config.infer.models if config.infer else ()
    for url in models or ((train.teacher or train.adapt,) if train else ()):
        yield "binaries", url, _pairs(table)


def _report(config: RunConfig) -> Named:
    if (table := config.report) is None:
        return
    yield "report.truth", table.truth, _table({"": "obsid"}, table.truth_where)
    yield "report.isochrones", table.isochrones, _isochrones


def _compare(config: RunConfig) -> Named:
    if (table := config.compare) is None:
        return
    labels = (*table.labels, *table.extra)
    yield "compare.source", table.source, _spectra(labels)
    if table.leakage is not None:
        yield "compare.leakage.broken", table.leakage.broken, _spectra(labels)


LOOKED_AT: Mapping[str, Callable[[RunConfig], Named]] = {
    "preprocess": _preprocess,
    "crossmatch": _crossmatch,
    "train": _train,
    "infer": _infer,
    "fit": _fit,
    "calibrate": _calibrate,
    "binaries": _binaries,
    "ages": _ages,
    "report": _report,
    "compare": _compare,
}
"""What each verb reads beside what verbs before it made: key, path, and how it is looked at."""


def _table(columns: Mapping[str, str], condition: str = "") -> Look:
    """Return how a table is looked at that must have columns, by the keys that name them."""

    def look(url: str) -> Iterator[str]:
        yield from _lacking(list(column_units(url)), url, columns, condition)

    return look


def _label_catalog(name: str, table: CrossmatchTable) -> Look:
    position = {key: getattr(table, key) for key in (*POSITION, "star_id")}
    named = {key: theirs for key, theirs in position.items() if theirs}
    named |= {f"key.{ours}": theirs for ours, theirs in table.key.items()}
    named |= {f"columns.{ours}": theirs for ours, theirs in table.columns.items()}
    named |= {"magnitude.theirs": table.magnitude.theirs} if table.magnitude else {}
    named |= {"epoch": table.epoch} if isinstance(table.epoch, str) else {}

    def look(url: str) -> Iterator[str]:
        stated = column_units(url)
        yield from _lacking(list(stated), url, named, table.where)
        try:
            with_stated_units(name, table, stated, level=logging.WARNING)
        except ConfigError as error:
            yield str(error)

    return look


def _lacking(
    there: Sequence[str], url: str, columns: Mapping[str, str], condition: str
) -> Iterator[str]:
    """Say which columns a table lacks, of those that keys name and that a condition is on."""
    try:
        asked = [("where", theirs) for theirs in columns_in(condition or "0 == 0")]
    except ValueError as error:
        yield str(error)
        asked = []
    for key, theirs in (*columns.items(), *asked):
        try:
            chosen(there, [theirs])
        except ValueError as error:
            yield f"{url}: {f'{key}: ' if key else ''}{error}"


def _spectra(labels: Sequence[str]) -> Look:
    """Return how a spectra store is looked at that must have labels."""

    def look(url: str) -> Iterator[str]:
        head = read_spectra(url, 0, 0)
        there = [str(name) for name in head["label"].values] if "label" in head.coords else []
        if lacking := [name for name in labels if name not in there]:
            yield f"{url}: no labels {lacking}; there are {there}"

    return look


def _templates(url: str) -> Iterator[str]:
    is_store = paths.exists(paths.join(url, "zarr.json"))
    yield from _spectra(())(url) if is_store else _model(url)


def _model(url: str) -> Iterator[str]:
    if not paths.plain(url).endswith(".npz"):
        from scalespec.store.model import model_record  # with torch, which other inputs do without

        model_record(url)
    elif lacking := [name for name in PAYNE_ARRAYS if name not in _arrays(url)]:
        yield f"{url}: no emulator: no {', '.join(lacking)} in it"


def _adapted(table: TrainTable) -> Look:
    def look(url: str) -> Iterator[str]:
        yield from _model(url)
        from scalespec.stages.adapting import described
        from scalespec.store.model import load_model

        described(load_model(url).spec, table)

    return look


def _fitted(table: FitTable, more: Sequence[str] = ()) -> Look:
    def look(url: str) -> Iterator[str]:
        from scalespec.store.model import load_model

        labels = (*load_model(url).spec.labels, *more)
        if unknown := table.unknown(labels):
            yield f"{url}: it has no label {unknown}; it has {list(labels)}"

    return look


def _main_sequence(url: str) -> Iterator[str]:
    read_main_sequence(url)
    yield from ()


def _pairs(table: BinariesTable) -> Look:
    """Return how an emulator is looked at whose stars are to be added to each other."""

    def look(url: str) -> Iterator[str]:
        from scalespec.stages.two_stars import read_sequence, two_of
        from scalespec.store.model import load_model

        if paths.exists(table.isochrone):  # else that is what is wrong
            two_of(load_model(url), table, read_sequence(table.isochrone))
        yield from ()

    return look


def _gradients(url: str) -> Iterator[str]:
    if not paths.plain(url).endswith(".npz") or "w_array_0" in _arrays(url):
        yield from _model(url)


def _arrays(url: str) -> list[str]:
    """Return the names of an npz's arrays."""
    with paths.explained(url, *DAMAGED), opened(url) as source, zipfile.ZipFile(source) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _isochrones(url: str) -> Iterator[str]:
    with paths.explained(url), opened(url) as source:
        head = bytes(source.read(len(HDF5)))
    if head == HDF5 and importlib.util.find_spec("h5py") is None:
        yield f"{url}: isochrones in HDF5 want the package h5py: pip install h5py"
    if not head or (b"\0" in head and head != HDF5):
        yield f"{url}: no isochrones: neither HDF5 nor a table of text"
