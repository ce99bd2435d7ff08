"""Planning ten million inputs: time, and the peak memory of a process that does nothing else.

Run: ``python benchmarks/bench_plan.py [--quick] [--json F]``. Every row is a process of its own.
The limit of a listing is `os.walk` with a `stat` per file; of a catalog, reading its columns.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scalespec.config import IngestTable, RunConfig, RunTable
from scalespec.stages import inputs
from scalespec.store.listing import Entry, list_files

PER_FOLDER = 2500  # a LAMOST plate


def synthetic(n: int) -> Iterator[Entry]:
    """Yield what a listing of a bucket with `n` LAMOST files would give, in its order."""
    for i in range(n):
        folder, fiber = divmod(i, PER_FOLDER)
        name = (
            f"{20111024 + folder}/F{folder:05d}/spec-55859-F{folder:05d}_sp01-{fiber:04d}.fits.gz"
        )
        yield Entry(f"s3://lamost/dr10/{name}", 41_000 + i % 997, 1.7e9 + i, f'"{i:032x}"')


def config_of(folder: str, **table: Any) -> RunConfig:
    """Return a run over inputs."""
    run = RunTable(name="plan", workspace=f"{folder}/work")
    return RunConfig(run=run, ingest=IngestTable(**table))


def plan_listing(folder: str, n: int) -> float:
    """Plan `n` listed files, as they come."""
    inputs.list_inputs = lambda *_: synthetic(n)
    start = time.perf_counter()
    made = inputs.plan_inputs(config_of(folder, files="s3://lamost/dr10/**/spec-*.gz"))
    assert made["added"] == n
    return time.perf_counter() - start


def plan_again(folder: str, n: int) -> float:
    """Plan the same files once more, and five thousand new ones."""
    inputs.list_inputs = lambda *_: synthetic(n + 5000)
    start = time.perf_counter()
    assert (
        inputs.plan_inputs(config_of(folder, files="s3://lamost/dr10/**/spec-*.gz"))["added"]
        == 5000
    )
    return time.perf_counter() - start


def write_catalog(folder: str, n: int) -> float:
    """Write a release catalog of `n` rows; not measured."""
    start = time.perf_counter()
    rng = np.random.default_rng(1)
    rows = 1_000_000
    for first in range(0, n, rows):
        i = np.arange(first, min(first + rows, n))
        plate = i // PER_FOLDER
        columns = {
            "obsid": i,
            "obsdate": np.char.add("2011-10-", np.char.zfill((plate % 28 + 1).astype(str), 2)),
            "planid": np.char.add("F", np.char.zfill(plate.astype(str), 5)),
            "lmjd": 55859 + plate % 28,
            "spid": i % 16 + 1,
            "fiberid": i % 250 + 1,
            "ra": rng.uniform(0, 360, len(i)),
            "dec": rng.uniform(-10, 60, len(i)),
            "snrg": rng.uniform(0, 100, len(i)),
        }
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        if first == 0:
            writer = pq.ParquetWriter(f"{folder}/release.parquet", table.schema)
        writer.write_table(table)
    writer.close()
    return time.perf_counter() - start


def read_catalog(folder: str, n: int) -> float:
    """Read a catalog's columns and no more: the limit of planning from it."""
    start = time.perf_counter()
    for batch in pq.ParquetFile(f"{folder}/release.parquet").iter_batches():
        n -= batch.num_rows
    assert n == 0
    return time.perf_counter() - start


def plan_catalog(folder: str, n: int) -> float:
    """Plan from a release catalog, sorted by sky cell; no file is there, each is asked for."""
    start = time.perf_counter()
    table = {"catalog": f"{folder}/release.parquet", "root": f"{folder}/dr10", "where": "snrg >= 0"}
    assert inputs.plan_inputs(config_of(folder, **table))["n"] == n
    return time.perf_counter() - start


def make_tree(folder: str, n: int) -> float:
    """Make real, empty files; not measured."""
    start = time.perf_counter()
    for entry in synthetic(n):
        path = Path(folder, "tree", entry.url.removeprefix("s3://lamost/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return time.perf_counter() - start


def walk(folder: str, n: int) -> float:
    """List them by `os.walk` and a `stat` each."""
    start = time.perf_counter()
    found = [
        os.stat(f"{parent}/{name}").st_size  # noqa: PTH116 - what is compared with
        for parent, _, names in os.walk(f"{folder}/tree")
        for name in names
    ]
    assert len(found) == n
    return time.perf_counter() - start


def list_tree(folder: str, n: int) -> float:
    """List them by ours, in order of their keys."""
    start = time.perf_counter()
    assert len(list_files(f"{folder}/tree/**/spec-*.fits*")) == n
    return time.perf_counter() - start


def _child(pipe: Any, call: Callable[[str, int], float], folder: str, n: int) -> None:
    seconds = call(folder, n)
    pipe.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measured(call: Callable[[str, int], float], folder: str, n: int) -> tuple[float, float]:
    """Return seconds and peak bytes of a call in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(there, call, folder, n))
    process.start()
    there.close()  # a child that fails is then the end of the pipe
    seconds, peak = here.recv()
    process.join()
    return seconds, peak


def row(name: str, n: int, found: tuple[float, float], limit: float | None, note: str) -> dict:
    """Return one row of the table."""
    seconds, peak = found
    return {
        "name": f"{name}, {n:,} inputs",
        "value": seconds,
        "unit": "s",
        "limit": limit,
        "recipe": None,
        "ratio_to_recipe": None,
        "fraction_of_limit": limit / seconds if limit else None,
        "note": f"{n / seconds:,.0f}/s, peak memory {peak / 1e9:.2f} GB; {note}",
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    options = parser.parse_args()
    n, n_files = (200_000, 20_000) if options.quick else (10_000_000, 200_000)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = measured(plan_listing, folder, n)
        rows.append(row("plan a listing", n, found, None, "42 kB files with etags, 4,096 a block"))
        found = measured(plan_again, folder, n)
        rows.append(row("plan it again", n, found, None, "all known, 5,000 new"))
    with tempfile.TemporaryDirectory() as folder:
        write_catalog(folder, n)
        limit, _ = measured(read_catalog, folder, n)
        found = measured(plan_catalog, folder, n)
        rows.append(row("plan a release catalog", n, found, limit, "limit reads its columns"))
    with tempfile.TemporaryDirectory() as folder:
        make_tree(folder, n_files)
        limit, _ = measured(walk, folder, n_files)
        found = measured(list_tree, folder, n_files)
        rows.append(row("list a tree", n_files, found, limit, "limit os.walk and stat"))
    for one in rows:
        print(f"{one['name']:45s} {one['value']:8.1f} s   {one['note']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
