"""LAMOST files per second on one core: gunzip alone, our parser, a whole block, astropy, fitsio.

Run: ``python benchmarks/bench_ingest.py [--quick] [--s3 URL] [--json F]``. CPU time, so a shared
machine shows little; the best of several passes. From a bucket it is the wall clock.
"""

import argparse
import gzip
import importlib.util
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import obstore
from astropy.io import fits
from isal import isal_zlib

from scalespec.config import IngestTable, RunConfig, RunTable
from scalespec.plan import Stage
from scalespec.stages.ingest import ingest
from scalespec.store import paths
from scalespec.store.fetch import GETS_IN_FLIGHT
from scalespec.surveys.fits import parse_fits
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lamost import N_PIXEL, WAVELENGTH, read_block, read_lrs

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "lamost"
BLOCK_ROWS = 1024  # codec chunks are of 256 rows, as in a survey's blocks
COLUMNS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION")


def make_files(layout: str, n: int) -> list[bytes]:
    """Return `n` made-up files with about 110 cards, gzipped as the archive's are."""
    rng = np.random.default_rng(0)
    header = fits.Header({"OBSID": 1, "RA": 10.0, "DEC": 41.0, "Z": 1e-4, "CLASS": "STAR"})
    header.update({"COEFF0": 3.5682, "COEFF1": 1e-4, "DATE-OBS": "2011-10-24T12:30:00"})
    header.update({"MJD": 55858, "LMJD": 55859, "PLANID": "F5902", "SPID": 1, "FIBERID": 1})
    header.extend((f"CARD{i}", i / 7, "one of many that nobody asks for") for i in range(100))
    files = []
    for i in range(n):
        ra, dec, z = rng.uniform([0, -10, -1e-3], [360, 60, 1e-3]).round(6).tolist()
        own = {"OBSID": 3703110 + i, "FIBERID": i, "RA": ra, "DEC": dec, "Z": z, "SNRG": 30 + ra}
        header.update(
            own | {"DESIG": f"LAMOST J{i:06d}", "DATE-OBS": f"2011-10-24T12:30:{i:06.3f}"}
        )
        flux = np.round(rng.normal(1000, 20, N_PIXEL), 2)  # real flux compresses to 0.45
        rows = [flux, 1 / flux, WAVELENGTH, np.zeros(N_PIXEL), np.zeros(N_PIXEL), flux / 1000]
        file = io.BytesIO()
        if layout == "image":
            fits.PrimaryHDU(np.array(rows[:5], np.float32), header).writeto(file)
        else:
            columns = [
                fits.Column(name, f"{N_PIXEL}E", array=row[np.newaxis])
                for name, row in zip(COLUMNS, rows, strict=True)
            ]
            table = fits.BinTableHDU.from_columns(columns, name="COADD")
            fits.HDUList([fits.PrimaryHDU(header=header), table]).writeto(file)
        files.append(gzip.compress(file.getvalue(), 6))
    return files


def load_real(layout: str) -> list[bytes]:
    """Return real files of a layout; none where the data are not beside the checkout."""
    folder = SHARED / ("dr7_mdwarfs" if layout == "image" else "dr10_coadd")
    return [path.read_bytes() for path in sorted(folder.glob("*.fits.gz"))]


def read_strict(data: bytes) -> list[np.ndarray]:
    """Gunzip, parse, and make native arrays: what the target is about."""
    hdu = parse_fits(gunzip(data), cards=("OBSID", "RA", "DEC", "Z", "COEFF0"))[-1]
    columns = hdu.data.values() if isinstance(hdu.data, dict) else [hdu.data]
    return [column.astype(np.float32) for column in columns]


def read_astropy(path: Path) -> list[np.ndarray]:
    """Read the same by the public recipe: `fits.open` of the path."""
    with fits.open(path) as hdus:
        header = hdus[0].header
        _ = [header.get(card) for card in ("OBSID", "RA", "DEC", "Z", "COEFF0")]
        if hdus[0].data is not None:
            return [hdus[0].data.astype(np.float32)]
        table = hdus[1].data
        return [table[name].astype(np.float32) for name in table.columns.names]


def one_shot(data: bytes) -> bytes:
    """Gunzip as the fastest call there is does that trusts the size in the trailer."""
    return isal_zlib.decompress(data, 31, int.from_bytes(data[-4:], "little"))


def rate(function: Callable[[Any], Any], items: Sequence[Any], seconds: float) -> float:
    """Return items per second of CPU time: the best pass over all items."""
    function(items[0])  # imports, caches
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.process_time()
        for item in items:
            function(item)
        best = min(best, (time.process_time() - start) / len(items))
    return 1 / best


def read_fitsio(path: Path) -> list[np.ndarray]:
    """Read the same by fitsio, where it is installed."""
    import fitsio

    with fitsio.FITS(str(path)) as hdus:
        header = hdus[0].read_header()
        _ = [header.get(card) for card in ("OBSID", "RA", "DEC", "Z", "COEFF0")]
        if hdus[0].has_data():
            return [hdus[0].read().astype(np.float32)]
        table = hdus[1].read()
        return [table[name].astype(np.float32) for name in table.dtype.names]


def block_stage(folder: str, files: list[bytes], rows: int, source: str = "") -> Stage:
    """Write files below a folder, or a bucket's prefix, and return the stage that ingests them."""
    base = source or f"{folder}/files"
    for i in range(rows):
        url = paths.join(base, f"spec-{i:05d}.fits.gz")
        paths.write_bytes(url, files[i % len(files)])
    run = RunTable(name="bench", workspace=f"{folder}/work", spectra_per_block=rows)
    return next(ingest(RunConfig(run=run, ingest=IngestTable(files=base))))


def bench_block(folder: str, files: list[bytes], rows: int, passes: int) -> float:
    """Return files per CPU second of a whole block: read, parse, write and commit."""
    best = float("inf")
    for i in range(passes):
        stage = block_stage(f"{folder}/{i}", files, rows)
        (block,) = stage.blocks
        start = time.process_time()
        stage.write(block, stage.compute(None, stage.read(block)))
        best = min(best, (time.process_time() - start) / rows)
    return 1 / best


def bench_s3(bucket: str, folder: str, files: list[bytes], rows: int) -> tuple[float, float]:
    """Return files per second of the wall clock from a bucket: the stage, and a bare GET loop.

    Both read and parse; the loop has as many GETs in flight, and does nothing else.
    """
    stage = block_stage(folder, files, rows, paths.join(bucket, "bench-ingest"))
    (block,) = stage.blocks
    store = paths.open_store(bucket)
    keys = [f"bench-ingest/spec-{i:05d}.fits.gz" for i in range(rows)]

    def bare() -> None:
        with ThreadPoolExecutor(GETS_IN_FLIGHT) as pool:
            found = pool.map(lambda key: bytes(obstore.get(store, key).bytes()), keys)
            read_block([("", data) for data in found])

    def ours() -> None:
        stage.compute(None, stage.read(block))

    spent: dict[Callable[[], None], list[float]] = {bare: [], ours: []}
    for call in (bare, ours) * 3:
        start = time.perf_counter()
        call()
        spent[call].append(time.perf_counter() - start)
    return rows / min(spent[ours]), rows / min(spent[bare])


def bench_layout(
    source: str, layout: str, files: list[bytes], seconds: float, bucket: str
) -> list[dict]:
    """Measure one kind of file."""
    limit = max(rate(gunzip, files, seconds), rate(one_shot, files, seconds))
    rows = BLOCK_ROWS
    with tempfile.TemporaryDirectory() as folder:
        there = [Path(folder) / f"{i}.fits.gz" for i in range(len(files))]
        for path, data in zip(there, files, strict=True):
            path.write_bytes(data)
        recipe = rate(read_astropy, there, seconds)
        values = {
            "gunzip alone": limit,
            "gunzip, parse, native arrays": rate(read_strict, files, seconds),
            "to the survey grid, masks, scalars": rate(
                lambda data: read_lrs(data, ""), files, seconds
            ),
            "whole block: read, parse, write, commit": bench_block(folder, files, rows, 5),
            "astropy": recipe,
        }
        if importlib.util.find_spec("fitsio"):
            values["fitsio"] = rate(read_fitsio, there, seconds)
        size = np.mean([len(gunzip(data)) for data in files]) / 1e3
        note = f"{len(files)} files of {size:.0f} kB; limit gunzip alone, recipe astropy"
        found = [
            row(f"{source} {layout}: {name}", value, "files/s/core", limit, recipe, note)
            for name, value in values.items()
        ]
        if bucket:
            ours, bare = bench_s3(bucket, f"{folder}/s3", files, rows)
            note = "wall clock; limit a bare GET loop and parse"
            found.append(
                row(f"{source} {layout}: from a bucket", ours, "files/s", bare, recipe, note)
            )
    return found


def row(name: str, value: float, unit: str, limit: float, recipe: float, note: str) -> dict:
    """Return one row of the table."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "limit": limit,
        "recipe": recipe,
        "ratio_to_recipe": value / recipe,
        "fraction_of_limit": value / limit,
        "note": note,
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--s3", default="", help="s3://bucket?endpoint=... to read from, too")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    options = parser.parse_args()
    seconds, n = (0.5, 20) if options.quick else (4.0, 100)
    rows = []
    for layout in ("image", "table"):
        for source, files in (
            ("generated", make_files(layout, n)),
            ("real", load_real(layout)[:n]),
        ):
            if files:
                rows += bench_layout(source, layout, files, seconds, options.s3)
    print(
        f"{'files/s/core':52s} {'ours':>6s} {'gunzip':>6s} {'astropy':>7s} {'x':>5s} {'limit':>5s}"
    )
    for row in rows:
        numbers = f"{row['value']:6.0f} {row['limit']:6.0f} {row['recipe']:7.0f}"
        ratios = f"{row['ratio_to_recipe']:5.1f} {row['fraction_of_limit']:5.2f}"
        print(f"{row['name']:52s} {numbers} {ratios}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
