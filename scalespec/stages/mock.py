"""A made-up survey with known truth: files, broken ones too, label catalogs, pairs, truth.

Block by block and from seeds alone: any block can be made by any process, and comes out the same.
Wavelengths are vacuum Å, velocities km/s, positions ICRS degrees.
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.errors import StageError
from scalespec.kernels.families import Recipe
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.plan import Block, BlockReport, BlockResult, Engine, Stage, plan_blocks
from scalespec.stages import mock_allstar
from scalespec.stages.mock_files import made_files, survey_model
from scalespec.stages.mock_records import (
    BROKEN,
    CATALOGS,
    Catalog,
    break_file,
    catalog_rng,
    label_catalog,
    pair_list,
)
from scalespec.stages.mock_spectra import LABELS
from scalespec.stages.mock_stars import DESCRIPTIONS, Columns, observed_stars, told, units_of
from scalespec.store import paths
from scalespec.store.joined import join_parquet
from scalespec.store.ledger import Ledger, new_attempt
from scalespec.store.tables import write_table

BROKEN_FRACTION = 0.015
WRITERS = 16
"""Objects in flight to an object store, per worker."""
LAMOST = "lamost_lrs"
APOGEE = "apogee"
TABLES = ("truth", *(catalog.name for catalog in CATALOGS), "pairs")
"""Of every survey; APOGEE's has an allStar beside them."""


@dataclass(frozen=True)
class MockSurvey:
    """What a made-up survey is to be.

    Attributes
    ----------
    out : str
        Folder or prefix it is written under.
    n_spectra, seed, spectra_per_block : int
        A block's content depends on the last two alone.
    labels : tuple of str
        Of the stars, for our own line synthesis.
    truth_model : Emulator or None
        Makes the spectra, and brings its labels.
    recipe : Recipe
        How much of what there is among the stars.
    survey : str
        One of `mock_files.MOCK_SURVEYS`: whose files are written. Where a file holds many
        spectra, it holds a block.
    even_fibres : bool
        All fibres resolve alike.
    ivar_factor : float
        Stated over true ivar.
    limits : tuple of (label, low, high)
        Between which the stars lie, within the model's own: giants alone, for one.
    """

    out: str
    n_spectra: int
    seed: int = 1
    spectra_per_block: int = 256
    labels: tuple[str, ...] = LABELS
    truth_model: Emulator | None = None
    recipe: Recipe = field(default_factory=Recipe)
    survey: str = LAMOST
    even_fibres: bool = False
    ivar_factor: float = 1.0
    limits: tuple[tuple[str, float, float], ...] = ()

    def within(self, spec: EmulatorSpec) -> EmulatorSpec:
        """Return what a model knows of, cut to the limits.

        Raises
        ------
        ValueError
            If a limit is of no label, or leaves nothing of its range.
        """
        low, high = spec.minimum.copy(), spec.maximum.copy()
        for label, least, most in self.limits:
            if label not in spec.labels:
                raise ValueError(f"limits name the label '{label}', the model has {spec.labels}")
            k = spec.labels.index(label)
            low[k], high[k] = max(low[k], least), min(high[k], most)
            if not low[k] < high[k]:
                known = f"{spec.minimum[k]:g} to {spec.maximum[k]:g}"
                raise ValueError(f"limits {least:g} to {most:g} of {label}: the model has {known}")
        return replace(spec, minimum=low, maximum=high)


@dataclass(frozen=True)
class MockBlock:
    """One block of a made-up survey.

    Attributes
    ----------
    files : list of (path under ``files/``, content)
    tables : dict of str to dict of str to array
        ``truth``, one row per spectrum; label catalogs of stars first seen here; ``pairs``; of
        APOGEE ``allStar``, one row per file.
    """

    files: list[tuple[str, bytes]]
    tables: dict[str, Columns]

    @property
    def truth(self) -> Columns:
        """The truth of each spectrum."""
        return self.tables["truth"]


def mock_block(index: int, model: Emulator, survey: MockSurvey) -> MockBlock:
    """Make one block of a survey: pure, and the same wherever it runs."""
    start = index * survey.spectra_per_block
    numbers = np.arange(start, min(start + survey.spectra_per_block, survey.n_spectra))
    rng = np.random.default_rng([survey.seed, index])
    drawn = survey.within(model.spec)
    stars = observed_stars(survey.seed, numbers, drawn, survey.recipe)
    unlucky = rng.random(len(numbers)) < BROKEN_FRACTION
    kinds = np.where(unlucky, np.array(BROKEN)[rng.integers(len(BROKEN), size=len(numbers))], "")
    stars["no_ivar"] = kinds == "no_ivar"
    made = made_files(
        survey.survey,
        stars,
        model,
        seed=survey.seed,
        block=index,
        even_fibres=survey.even_fibres,
        ivar_factor=survey.ivar_factor,
    )
    of_file = _of_files(made.spectra["file"], kinds)
    files = [(name, break_file(data, of_file[name], rng)) for name, data in made.files]
    broken = np.array([of_file[name] for name in made.spectra["file"].tolist()])
    broken = np.where((broken == "") & stars.pop("no_ivar"), "no_ivar", broken)
    file = np.strings.add("files/", made.spectra["file"])
    truth = told(stars) | dict(made.spectra) | {"file": file, "broken": broken}
    first = stars["star"] == numbers
    tables = {
        "truth": truth,
        **{c.name: _published(c, stars, first, survey, index, model) for c in CATALOGS},
        "pairs": pair_list(survey.seed, numbers, survey.n_spectra, drawn, survey.recipe),
    }
    if survey.survey == APOGEE:
        tables[mock_allstar.NAME] = mock_allstar.allstar(
            truth, model.spec.labels, seed=survey.seed, block=index
        )
    return MockBlock(files, tables)


def _of_files(names: npt.NDArray[np.str_], kinds: npt.NDArray[np.str_]) -> dict[str, str]:
    """Say how each file is broken as a whole: as its first spectrum's luck has it."""
    of_file: dict[str, str] = {}
    for name, kind in zip(names.tolist(), kinds.tolist(), strict=True):
        of_file.setdefault(name, kind if kind != "no_ivar" else "")
    return of_file


def _published(
    catalog: Catalog,
    stars: Columns,
    first: npt.NDArray[np.bool_],
    survey: MockSurvey,
    index: int,
    model: Emulator,
) -> Columns:
    """Return a catalog's rows of stars whose own spectra are in this block."""
    low, high = catalog.stars
    chosen = first & (stars["catalog"] >= low) & (stars["catalog"] < high)
    known = {name: values[chosen] for name, values in stars.items()}
    rng = catalog_rng(survey.seed, index, catalog)
    return label_catalog(catalog, known, model.spec.labels, rng)


def mock_stage(survey: MockSurvey) -> Stage:
    """Return the stage that writes a survey's files, and tables by parts for `make_mock`."""
    return Stage(
        name="mock",
        url=_parts(survey),
        blocks=plan_blocks(survey.n_spectra, survey.spectra_per_block),
        read=_index,
        compute=partial(_compute, survey=survey),
        write=partial(_write, survey=survey),
        runs_on="dask",
        setup=partial(_model, survey),
    )


def _parts(survey: MockSurvey) -> str:
    """Return where parts of the tables lie until all are there; each survey has its place."""
    name = hashlib.sha256(repr(replace(survey, out="", truth_model=None)).encode())
    if survey.truth_model is not None:
        name.update(repr(survey.truth_model.spec).encode())
        for weights in survey.truth_model.state_dict().values():
            name.update(weights.numpy().tobytes())
    return paths.join(survey.out, "parts", name.hexdigest()[:12])


def _index(block: Block) -> int:
    return block.index


def _model(survey: MockSurvey) -> Emulator:
    return survey.truth_model or survey_model(survey.survey, survey.labels)


def _compute(model: Emulator, index: int, survey: MockSurvey) -> MockBlock:
    return mock_block(index, model, survey)


def _part(table: str, index: int) -> str:
    return f"{table}-{index:06d}.parquet"


def _write(block: Block, made: MockBlock, survey: MockSurvey) -> BlockResult:
    """Write one block's files and its parts of the tables, then commit it."""
    _write_files(paths.join(survey.out, "files"), made.files)
    url = _parts(survey)
    hashes = {}
    for table, columns in made.tables.items():
        part = _part(table, block.index)
        named = {
            c.name: c.descriptions([x for x in columns if f"{x}_err" in columns]) for c in CATALOGS
        }
        notes = {k: v for k, v in DESCRIPTIONS.items() if k in columns} | named.get(table, {})
        hashes[part] = write_table(
            paths.join(url, part), columns, units=units_of(columns), descriptions=notes
        )
    kinds, counts = np.unique(made.truth["broken"], return_counts=True)
    by_kind = {str(k) or "healthy": int(n) for k, n in zip(kinds, counts, strict=True)}
    rows = {
        "labelled": len(made.tables[CATALOGS[0].name]["ra"]),
        "pairs": len(made.tables["pairs"]["star_1"]),
    }
    return Ledger(url).commit(block, BlockResult(block.size, hashes, by_kind | rows, new_attempt()))


def _write_files(url: str, files: list[tuple[str, bytes]]) -> None:
    def write(file: tuple[str, bytes]) -> None:
        paths.write_bytes(paths.join(url, file[0]), file[1])

    if not paths.is_remote(url):
        for file in files:
            write(file)
        return
    with ThreadPoolExecutor(WRITERS) as pool:  # an answer takes longer than the bytes
        list(pool.map(write, files))


def make_mock(
    out: str,
    *,
    n_spectra: int,
    engine: Engine,
    seed: int = 1,
    truth_model: Emulator | None = None,
    listener: Callable[[BlockReport], None] = lambda _: None,
    **options: Any,
) -> dict[str, int]:
    """Write a made-up survey: ``files/`` and the tables `TABLES`; one stopped before goes on.

    Memory here is that of a few blocks' tables, whatever the size of the survey.

    Parameters
    ----------
    out : str
        Folder or prefix.
    n_spectra : int
        How many spectra.
    engine : Engine
        Runs the blocks.
    seed : int
    truth_model : Emulator, optional
        Makes the true spectra instead of our line synthesis.
    listener : callable
        Told of every block done.
    **options
        Further fields of `MockSurvey`.

    Returns
    -------
    dict of str to int
        Files by what was done to them, and rows of the label catalog and the pair list.

    Raises
    ------
    StageError
        If a block could not be written.
    """
    survey = MockSurvey(out, n_spectra, seed, truth_model=truth_model, **options)
    stage = mock_stage(survey)
    ledger = Ledger(stage.url)
    done = ledger.done()
    for report in engine.map(stage, (b for b in stage.blocks if b.index not in done)):
        listener(report)
        if report.result is None:
            raise StageError(f"mock block {report.block.index}: {report.error}")
    counts: dict[str, int] = {}
    for _, result in sorted(ledger.commits().items()):
        _add(counts, result.counts)
    for table in (*TABLES, *[mock_allstar.NAME] * (survey.survey == APOGEE)):
        parts = (paths.join(stage.url, _part(table, b.index)) for b in stage.blocks)
        join_parquet(paths.join(out, f"{table}.parquet"), parts)
    paths.delete_tree(paths.join(out, "parts"))
    return counts


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count
