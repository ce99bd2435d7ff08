"""A made-up LAMOST survey with known truth: files, broken ones too, label catalog, truth, library.

Block by block and from seeds alone: any block can be made by any process, and comes out the same.
Wavelengths are vacuum Å, velocities km/s, positions ICRS degrees.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from scalespec.errors import StageError
from scalespec.kernels.observation import Spectra, continuum, observe, shifted
from scalespec.kernels.population import draw_library, draw_stars, star_of
from scalespec.kernels.wavelength import log_grid, velocity_to_pixels
from scalespec.models.base import Emulator
from scalespec.models.synthesis import LineList, LineSynthesis
from scalespec.plan import Block, BlockReport, BlockResult, Engine, Stage, plan_blocks
from scalespec.schema import PER_SPECTRUM, MaskBit
from scalespec.stages.mock_records import (
    BROKEN,
    CATALOG_EPOCH,
    file_content,
    headers,
    label_catalog,
    source_ids,
)
from scalespec.store import paths
from scalespec.store.tables import read_table, write_table
from scalespec.surveys.lamost import ATTRS, LOG10_START, LOG10_STEP, N_PIXEL, WAVELENGTH
from scalespec.surveys.lamost_files import file_path

FloatArray = npt.NDArray[np.float64]

LABELS = ("teff", "logg", "fe_h", "c_fe", "mg_fe", "si_fe", "ca_fe", "ti_fe")
"""Labels of the stars, unless an emulator brings its own."""
OVERSAMPLING, MARGIN_PIXELS = 2, 12  # of the synthesis; 300 km/s are 4.3 pixels
BROKEN_FRACTION = 0.015
LIBRARY_SNR = 1e5
"""Stated for spectra without noise: training takes what lies above it for the model's own error."""
_LIBRARY, _CATALOG = 4, 5  # last words of seeds; `population` and `mock_records` have 1 to 3


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
    emulator : Emulator or None
        Makes the spectra, and brings its labels.
    """

    out: str
    n_spectra: int
    seed: int = 1
    spectra_per_block: int = 256
    labels: tuple[str, ...] = LABELS
    emulator: Emulator | None = None


@dataclass(frozen=True)
class MockBlock:
    """One block of a made-up survey.

    Attributes
    ----------
    files : list of (path under ``files/``, content)
    truth, catalog : dict of str to array
        Tables; `catalog` holds the labelled stars first seen here.
    spectra : Spectra
        What healthy files hold, and the noiseless flux.
    """

    files: list[tuple[str, bytes]]
    truth: dict[str, npt.NDArray[Any]]
    catalog: dict[str, npt.NDArray[Any]]
    spectra: Spectra


def load_lines() -> LineList:
    """Read the package's table of atomic lines."""
    text = files("scalespec").joinpath("data/lines.csv").read_text()
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    return LineList(
        np.array([float(row["wavelength_vac_angstrom"]) for row in rows]),
        tuple(row["element"] for row in rows),
        np.array([int(row["ion_stage"]) for row in rows]),
        np.array([float(row["excitation_ev"]) for row in rows]),
        np.array([float(row["log_gf"]) for row in rows]),
    )


def synthesis_model(labels: Sequence[str] = LABELS) -> LineSynthesis:
    """Return the line synthesis of mock surveys: LAMOST's grid, finer and a little wider."""
    step = LOG10_STEP / OVERSAMPLING
    start = LOG10_START - MARGIN_PIXELS * LOG10_STEP
    n_pixel = OVERSAMPLING * (N_PIXEL + 2 * MARGIN_PIXELS)
    grid = log_grid(start, step, n_pixel).astype(np.float64)
    return LineSynthesis(load_lines(), grid, labels=labels, resolving_power=1800.0).eval()


def mock_block(index: int, model: Emulator, survey: MockSurvey) -> MockBlock:
    """Make one block of a survey: pure, and the same wherever it runs."""
    start = index * survey.spectra_per_block
    numbers = np.arange(start, min(start + survey.spectra_per_block, survey.n_spectra))
    rng = np.random.default_rng([survey.seed, index])
    shown = star_of(survey.seed, numbers)
    names = model.spec.labels
    stars = draw_stars(survey.seed, shown, names, model.spec.minimum, model.spec.maximum)
    labels = np.stack([stars[name] for name in names], axis=1)
    flux, covered = _normalized(model, labels, stars["rv"])
    spectra = observe(flux, covered, WAVELENGTH, stars["teff"], rng)
    cards = headers(survey.seed, numbers, stars, spectra, rng)
    broken = rng.random(len(shown)) < BROKEN_FRACTION
    kinds = np.where(broken, np.array(BROKEN)[rng.integers(len(BROKEN), size=len(shown))], "")
    rows = [{name: values[i] for name, values in cards.items()} for i in range(len(shown))]
    content = [file_content(row, spectra, i, str(kinds[i]), rng) for i, row in enumerate(rows)]
    urls = [file_path(row) for row in rows]
    truth = {
        "obsid": cards["obsid"],
        "star": shown,
        "source_id": source_ids(shown),
        "file": np.array([f"files/{url}" for url in urls]),
        **{name: cards[name] for name in ("ra", "dec", "mjd", "layout")},
        **{name: stars[name] for name in (*names, "rv")},
        "snr": spectra.snr,
        "broken": kinds,
    }
    first = (shown == numbers) & (stars["catalog"] < 1 / 3)
    known = {name: values[first] for name, values in stars.items()}
    catalog_rng = np.random.default_rng([survey.seed, index, _CATALOG])
    catalog = label_catalog(shown[first], known, names, catalog_rng)
    return MockBlock(list(zip(urls, content, strict=True)), truth, catalog, spectra)


def _normalized(
    model: Emulator, labels: FloatArray, rv: FloatArray
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return normalized flux on LAMOST's pixels, Doppler shifted, and where the model has any.

    Raises
    ------
    ValueError
        If the model's grid is not LAMOST's or a whole number of times finer.
    """
    grid = np.log10(model.spec.wavelength)
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    stride = round(LOG10_STEP / step)
    uneven = float(np.max(np.abs(np.diff(grid) - step))) / step
    if uneven > 1e-3 or abs(stride * step / LOG10_STEP - 1) > 1e-6:
        raise ValueError(
            f"a mock survey wants a model on a grid of {LOG10_STEP} dex or a whole fraction of it, "
            f"got one of {step:.6g} dex from {model.spec.wavelength[0]:.2f} Å"
        )
    with torch.no_grad():  # few at a time: the lines of 64 stars fit a cache
        parts = [model(torch.from_numpy(labels[i : i + 64])) for i in range(0, len(labels), 64)]
    flux = torch.cat(parts).float().numpy()
    start = float(LOG10_START - grid[0]) / step
    pixels = velocity_to_pixels(rv, step)
    return shifted(flux, pixels, start=start, stride=stride, n_pixel=N_PIXEL)


def grid_block(index: int, model: Emulator, *, rows: int, seed: int = 1) -> xr.Dataset:
    """Make one block of a noiseless library to train an emulator on: raw spectra and labels.

    Parameters
    ----------
    index : int
        Of the block; it and `seed` say what comes out.
    model : Emulator
    rows : int
        Spectra in the block.
    seed : int

    Returns
    -------
    xr.Dataset
        In the raw schema, at rest, with a random smooth slope and S/N `LIBRARY_SNR`, and
        ``labels`` on dims ``spectrum`` and ``label``.
    """
    rng = np.random.default_rng([seed, index, _LIBRARY])
    labels = draw_library(rng, rows, model.spec.labels, model.spec.minimum, model.spec.maximum)
    flux, covered = _normalized(model, labels, np.zeros(rows))
    flux = flux * continuum(WAVELENGTH, labels[:, model.spec.labels.index("teff")], rng) * covered
    ivar = np.divide(LIBRARY_SNR**2, flux**2, out=np.zeros_like(flux), where=flux > 0)
    mask = np.where(covered, 0, MaskBit.OUTSIDE.value).astype(np.uint32)
    columns = {
        key: np.full(rows, unknown, kind) for key, (kind, unknown, _) in PER_SPECTRUM.items()
    }
    columns["obsid"] = index * rows + np.arange(1, rows + 1, dtype=np.int64)
    columns["rv"] = columns["rv_err"] = np.zeros(rows, np.float32)
    columns["snr"] = np.full(rows, LIBRARY_SNR, np.float32)
    pixels = {"flux": (flux, "relative"), "ivar": (ivar, "relative^-2"), "mask": (mask, "")}
    return xr.Dataset(
        {k: (("spectrum", "wavelength"), v, {"units": unit}) for k, (v, unit) in pixels.items()}
        | {k: ("spectrum", v, {"units": PER_SPECTRUM[k][2]}) for k, v in columns.items()}
        | {"labels": (("spectrum", "label"), labels.astype(np.float32))},
        {
            "wavelength": ("wavelength", WAVELENGTH, {"units": "Angstrom"}),
            "label": np.array(model.spec.labels),
        },
        dict(ATTRS),
    )


def mock_stage(survey: MockSurvey) -> Stage:
    """Return the stage that writes a survey's files, and tables by parts for `make_mock`."""
    return Stage(
        name="mock",
        url=survey.out,
        blocks=plan_blocks(survey.n_spectra, survey.spectra_per_block),
        read=_index,
        compute=partial(_compute, survey=survey),
        write=partial(_write, out=survey.out),
        runs_on="dask",
        setup=partial(_model, survey),
    )


def _index(block: Block) -> int:
    return block.index


def _model(survey: MockSurvey) -> Emulator:
    return survey.emulator or synthesis_model(survey.labels)


def _compute(model: Emulator, index: int, survey: MockSurvey) -> MockBlock:
    return mock_block(index, model, survey)


def _part(out: str, table: str, index: int) -> str:
    return paths.join(out, "parts", f"{table}-{index:06d}.parquet")


def _write(block: Block, made: MockBlock, out: str) -> BlockResult:
    """Write one block's files and its parts of the tables."""
    for name, content in made.files:
        paths.write_bytes(paths.join(out, "files", name), content)
    for table in ("truth", "labels"):
        rows = made.truth if table == "truth" else made.catalog
        write_table(_part(out, table, block.index), rows)
    kinds, counts = np.unique(made.truth["broken"], return_counts=True)
    by_kind = {str(k) or "healthy": int(n) for k, n in zip(kinds, counts, strict=True)}
    return BlockResult(block.size, {}, by_kind | {"labelled": len(made.catalog["ra"])})


def make_mock(
    out: str,
    *,
    n_spectra: int,
    engine: Engine,
    seed: int = 1,
    emulator: Emulator | None = None,
    listener: Callable[[BlockReport], None] = lambda _: None,
    **options: Any,
) -> dict[str, int]:
    """Write a made-up survey: ``files/``, ``truth.parquet`` and ``labels.parquet``.

    Parameters
    ----------
    out : str
        Folder or prefix.
    n_spectra : int
        How many files.
    engine : Engine
        Runs the blocks.
    seed : int
    emulator : Emulator, optional
        Makes the true spectra instead of our line synthesis.
    listener : callable
        Told of every block done.
    **options
        Further fields of `MockSurvey`.

    Returns
    -------
    dict of str to int
        Files by what was done to them, and rows of the label catalog.

    Raises
    ------
    StageError
        If a block could not be written.
    """
    survey = MockSurvey(out, n_spectra, seed, emulator=emulator, **options)
    stage = mock_stage(survey)
    counts: dict[str, int] = {}
    for report in engine.map(stage, stage.blocks):
        listener(report)
        if report.result is None:
            raise StageError(f"mock block {report.block.index}: {report.error}")
        for name, count in report.result.counts.items():
            counts[name] = counts.get(name, 0) + count
    for table in ("truth", "labels"):
        parts = [read_table(_part(out, table, block.index)) for block in stage.blocks]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        write_table(paths.join(out, f"{table}.parquet"), whole, units=_units(whole))
    paths.delete_tree(paths.join(out, "parts"))
    return counts


def _units(columns: Sequence[str] | dict[str, Any]) -> dict[str, str]:
    """Return the unit of each column that has one."""
    known = {"ra": "deg", "dec": "deg", "mjd": "d", "rv": "km/s", "vmic": "km/s", "teff": "K"}
    known |= {"pmra": "mas/yr", "pmdec": "mas/yr", "epoch": "yr"}
    return {c: known[c.removesuffix("_err")] for c in columns if c.removesuffix("_err") in known}


RUN_FILE = """\
# A made-up survey; every key is explained in scalespec/config.py.
[run]
name = "mock, emulator from the {learned}"
workspace = "work"
seed = {seed}
spectra_per_block = {spectra_per_block}

[ingest]
survey = "lamost_lrs"
files = "files/**/*.fits.gz"

[preprocess]

[crossmatch.apogee]
catalog = "labels.parquet"
pmra = "pmra"
pmdec = "pmdec"
epoch = {epoch}
star_id = "apogee_id"
columns = {{ {columns} }}

[train]
{source}
labels = [{labels}]
rounds = [0, 10, 30, 60]

[infer]

[fit]

[publish]

[report]
truth = "truth.parquet"
"""


SOURCES = {
    "library": 'library = "library/spectra.zarr"  # noiseless spectra over the whole label range',
    "catalog": 'catalog = "apogee"  # matched stars, with their noise and the catalog\'s labels\n'
    "hidden = 16  # some hundred stars with noisy labels know no more",
}
"""What an emulator learns from, as a line of ``[train]``."""


def run_file(
    labels: Sequence[str] = LABELS,
    *,
    seed: int = 1,
    spectra_per_block: int = 128,
    source: str = "library",
) -> str:
    """Return the text of a run file for a made-up survey, to lie in its folder.

    Parameters
    ----------
    labels : sequence of str
        What to measure.
    seed, spectra_per_block : int
        As in ``[run]``.
    source : {"library", "catalog"}
        What the emulator learns from: the theoretical library, or matched stars.
    """
    taken = [column for label in labels for column in (label, f"{label}_err")]
    return RUN_FILE.format(
        seed=seed,
        spectra_per_block=spectra_per_block,
        source=SOURCES[source],
        learned={"library": "library", "catalog": "matched stars"}[source],
        epoch=CATALOG_EPOCH,
        columns=", ".join(f'{column} = "{column}"' for column in taken),
        labels=", ".join(f'"{label}"' for label in labels),
    )
