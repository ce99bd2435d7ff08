"""A made-up survey written and ingested: stars, spectra and files per second, all on Dask.

Run: ``python benchmarks/bench_mock.py [--n 100000] [--workers 2] [--quick] [--json F]``. Parts are
in CPU time of one process; the whole is in wall time, so nothing else may run beside it.
"""

import argparse
import gzip
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from scalespec.config import load_config
from scalespec.kernels.families import Recipe
from scalespec.kernels.population import draw_stars
from scalespec.mock import write_mock
from scalespec.run import run
from scalespec.stages.mock import MockSurvey, mock_block
from scalespec.stages.mock_files import made_files, survey_model
from scalespec.stages.mock_spectra import star_flux
from scalespec.stages.mock_stars import observed_stars
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lamost_files import write_lrs

ROWS = 256
INGEST_BLOCK = 4096


def cpu(function: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU time [s] of some calls, after one for imports and caches."""
    function()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def wall(function: Callable[[], Any]) -> float:
    """Return the wall time [s] of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def row(name: str, value: float, unit: str, note: str, **others: float | None) -> dict[str, Any]:
    """Return one row of the table."""
    limit, recipe = others.get("limit"), others.get("recipe")
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "limit": limit,
        "recipe": recipe,
        "ratio_to_recipe": value / recipe if recipe else None,
        "fraction_of_limit": value / limit if limit else None,
        "note": note,
    }


def astropy_file(rows: np.ndarray) -> bytes:
    """Write one image file by the public recipe: astropy, and Python's gzip through it."""
    header = fits.Header((f"CARD{i}", i / 7, "one of many") for i in range(80))
    plain = io.BytesIO()
    fits.PrimaryHDU(rows[:5], header).writeto(plain)
    return gzip.compress(plain.getvalue(), 6)


def bench_parts(repeats: int) -> list[dict[str, Any]]:
    """Measure what a block takes, part by part, on one core."""
    model = survey_model("lamost_lrs")
    spec, numbers = model.spec, np.arange(ROWS)
    stars = observed_stars(1, numbers, spec, Recipe())
    stars["no_ivar"] = np.zeros(ROWS, bool)
    many = np.arange(20_000)
    draw = cpu(lambda: draw_stars(1, many, spec.labels, spec.minimum, spec.maximum), repeats)
    flux = cpu(lambda: star_flux(model, stars), repeats)
    files = cpu(lambda: made_files("lamost_lrs", stars, model, seed=1, block=0), repeats)
    block = cpu(lambda: mock_block(0, model, MockSurvey("unused", ROWS)), repeats)
    content = [data for _, data in made_files("lamost_lrs", stars, model, seed=1, block=0).files]
    rows = _arrays(content[0])
    ours = cpu(lambda: [write_lrs(_facts(), rows, layout="image") for _ in range(50)], repeats)
    recipe = cpu(lambda: [astropy_file(rows) for _ in range(50)], repeats)
    with tempfile.TemporaryDirectory() as folder:
        plain = cpu(lambda: _write_plain(Path(folder), content), repeats)
    return [
        row("stars drawn", len(many) / draw, "stars/s/core", "8 labels, all truth columns"),
        row("true spectra", ROWS / flux, "spectra/s/core", "line synthesis, a tenth binaries"),
        row(
            "observed and packed",
            ROWS / max(files - flux, 1e-9),
            "files/s/core",
            "noise, sky, damage, FITS, gzip; limit: writing the same bytes to disk",
            limit=ROWS / plain,
        ),
        row(
            "packed alone",
            50 / ours,
            "files/s/core",
            "FITS header and gzip; recipe: astropy and gzip of the same arrays",
            recipe=50 / recipe,
        ),
        row("block, with tables", ROWS / block, "files/s/core", "all of it, but the disk"),
    ]


def _arrays(data: bytes) -> np.ndarray:
    with fits.open(io.BytesIO(gunzip(data))) as hdus:
        if hdus[0].data is not None:
            found = np.asarray(hdus[0].data, np.float32)
        else:
            found = np.stack([hdus[1].data[name][0] for name in hdus[1].columns.names])
    return np.concatenate([found, found])[:6].astype(np.float32)


def _facts() -> dict[str, Any]:
    bands = {f"snr_{band}": 50.0 for band in "ugriz"}
    return bands | {
        "obsid": 1, "mjd": 58000.5, "planid": "MOCK", "spid": 1, "fiberid": 1, "ra": 10.0,
        "dec": 40.0, "subclass": "G2", "z": 1e-4, "z_err": 1e-5, "helio_rv": 1.0, "first_pixel": 0,
    }  # fmt: skip


def _write_plain(folder: Path, content: list[bytes]) -> None:
    for i, data in enumerate(content):
        (folder / f"{i}.fits.gz").write_bytes(data)


def bench_whole(n: int, workers: int, folder: Path, parts: list[dict]) -> list[dict[str, Any]]:
    """Write and ingest a survey on Dask, in wall time."""
    out = str(folder / "survey")
    wrote = wall(lambda: write_mock(out, n_spectra=n, n_library=0, workers=workers))
    files = sum(1 for _ in Path(out, "files").rglob("*.fits.gz"))
    size = sum(p.stat().st_size for p in Path(out, "files").rglob("*.fits.gz"))
    config = load_config(f"{out}/run.toml")
    table = config.run.model_copy(update={"spectra_per_block": min(INGEST_BLOCK, n)})
    dask = config.engine.dask.model_copy(update={"workers": workers})
    engine = config.engine.model_copy(update={"dask": dask})
    config = config.model_copy(update={"run": table, "engine": engine})
    read = wall(lambda: run(config, verbs=("ingest",), engine="dask"))
    sample = [
        p.read_bytes() for p, _ in zip(Path(out, "files").rglob("*.gz"), range(200), strict=False)
    ]
    alone = len(sample) / cpu(lambda: [_try_gunzip(data) for data in sample], 3)
    block = next(r["value"] for r in parts if r["name"] == "block, with tables")
    told = (
        f"{files:,} files, {size / 1e9:.2f} GB, {workers} workers on {os.cpu_count()} cores, wall"
    )
    both = (
        ("mock on Dask", wrote, block, "a block's rate"),
        ("ingest on Dask", read, alone, "gunzip alone"),
    )
    return [
        row(
            name, n / took, "files/s", f"{told}; limit: {what} times workers", limit=limit * workers
        )
        for name, took, limit, what in both
    ]


def _try_gunzip(data: bytes) -> None:
    try:
        gunzip(data)
    except Exception:  # noqa: BLE001 - some files are broken on purpose
        return


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="files of the whole")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write, and leave, the survey")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    options = parser.parse_args()
    n = 512 if options.quick else options.n
    rows = bench_parts(1 if options.quick else 3)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench-mock-"))
    try:
        rows += bench_whole(n, options.workers, folder, rows)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    print(f"{'':24s} {'value':>10s} {'unit':16s} {'limit':>8s} {'recipe':>8s}")
    for each in rows:
        others = [f"{each[k]:8.0f}" if each[k] else " " * 8 for k in ("limit", "recipe")]
        print(f"{each['name']:24s} {each['value']:10,.0f} {each['unit']:16s} {' '.join(others)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
