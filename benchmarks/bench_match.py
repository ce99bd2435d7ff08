"""Crossmatch of a million by a million rows: our matcher beside scipy's bare tree and the peers.

Run: ``python benchmarks/bench_match.py [--quick] [--json F] [--lsdb-python P] [--part PART]``. CPU
time of this process (and of its workers, for Dask), so a shared machine shows little; the best of
some passes, ours and the tree's by turns. LSDB runs in a Python of its own, if that is given.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from scalespec.config import DaskTable, IngestTable, RunConfig, RunTable
from scalespec.engines.dask import DaskEngine
from scalespec.engines.local import LocalEngine
from scalespec.kernels.match import Motion, Pairs, match_sky, select_pairs
from scalespec.kernels.sky import ARCSEC, healpix_nested, propagate, unit_vectors
from scalespec.plan import plan_blocks
from scalespec.stages import folders
from scalespec.stages.crossmatch import crossmatch
from scalespec.stages.gather import read_matches
from scalespec.stages.segments import Segment, add_segment
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import create_spectra, write_spectra
from scalespec.store.tables import write_table

RADIUS = 3.0
EPOCH = 2016.0
PARTS = ("match", "field", "verb", "lsdb", "memory")
"""What is measured: all of it takes some eight minutes; parts add to the same ``--json`` file."""

LSDB_SCRIPT = """
import json, sys, time
import numpy as np, pandas as pd, lsdb
t = np.load(sys.argv[1])
left = pd.DataFrame({"ra": t["ra"], "dec": t["dec"], "row": np.arange(len(t["ra"]))})
right = pd.DataFrame({"ra": t["now_ra"], "dec": t["now_dec"], "row": np.arange(len(t["now_ra"]))})
args = dict(ra_column="ra", dec_column="dec", lowest_order=0, partition_rows=100_000)
a = lsdb.from_dataframe(left, catalog_name="a", **args)
b = lsdb.from_dataframe(right, catalog_name="b", margin_threshold=10, **args)
import dask
dask.config.set(scheduler="synchronous")
best = None
for _ in range(int(sys.argv[3])):
    cpu, wall = time.process_time(), time.perf_counter()
    found = a.crossmatch(b, n_neighbors=1, radius_arcsec=float(sys.argv[2]),
                         suffixes=("_a", "_b"), suffix_method="all_columns").compute()
    spent = time.process_time() - cpu, time.perf_counter() - wall
    best = min(best or spent, spent)
pairs = np.stack([found["row_a"].to_numpy(), found["row_b"].to_numpy()])
np.save(sys.argv[1] + ".pairs.npy", pairs[:, np.argsort(pairs[0])])
print(json.dumps({"cpu": best[0], "wall": best[1], "version": lsdb.__version__}))
"""


@dataclass(frozen=True)
class Sky:
    """Spectra, and a catalog that half of them are in, both in random order."""

    ra: np.ndarray
    dec: np.ndarray
    epoch: np.ndarray
    catalog_ra: np.ndarray
    catalog_dec: np.ndarray
    pmra: np.ndarray
    pmdec: np.ndarray
    key: np.ndarray

    @property
    def motion(self) -> Motion:
        """What moves the catalog to each spectrum's time."""
        return Motion(self.pmra, self.pmdec, EPOCH, self.epoch)


def make_sky(n: int, *, field_deg: float = 0.0) -> Sky:
    """Return `n` by `n` rows, over the whole sky or in a field; half of the spectra match."""
    rng = np.random.default_rng(1)

    def places(count: int) -> tuple[np.ndarray, np.ndarray]:
        if field_deg:
            return tuple(rng.uniform(0, field_deg, (2, count)) + 10)
        return rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))

    ra, dec = places(n)
    pmra, pmdec = rng.normal(0, 20, (2, n))
    epoch = rng.uniform(2011, 2023, n)
    seen_ra, seen_dec = places(n)
    half = n // 2
    star = rng.permutation(n)[:half]
    there = propagate(ra[star], dec[star], pmra[star], pmdec[star], EPOCH, epoch[:half])
    seen_ra[:half] = there[0]
    seen_dec[:half] = np.clip(there[1] + rng.normal(0, 0.2, half) / 3600, -90, 90)
    key = 10**18 + rng.permutation(n)
    return Sky(seen_ra, seen_dec, epoch, ra, dec, pmra, pmdec, key)


def bare_tree(sky: Sky) -> int:
    """Find nearest neighbors by a tree: no propagation, no ties, no ranks, no candidates."""
    left, right = unit_vectors(sky.ra, sky.dec), unit_vectors(sky.catalog_ra, sky.catalog_dec)
    tree = cKDTree(right, balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(left, distance_upper_bound=2 * np.sin(RADIUS * ARCSEC / 2))
    return int(np.isfinite(distance).sum())


def ours(sky: Sky) -> Pairs:
    """All pairs at each spectrum's time, with ties by key, ranks, candidates and mutuality."""
    return match_sky(
        sky.ra, sky.dec, sky.catalog_ra, sky.catalog_dec,
        radius_arcsec=RADIUS, right_key=sky.key, motion=sky.motion,
    )  # fmt: skip


def by_astropy(sky: Sky) -> int:
    """Match as astropy's documentation does; positions as they are listed."""
    from astropy import units
    from astropy.coordinates import SkyCoord

    left = SkyCoord(sky.ra, sky.dec, unit="deg")
    right = SkyCoord(sky.catalog_ra, sky.catalog_dec, unit="deg")
    _, separation, _ = left.match_to_catalog_sky(right)
    return int((separation < RADIUS * units.arcsec).sum())


def spent_by(calls: list[Callable[[], object]], passes: int) -> list[tuple[float, float]]:
    """Return the least CPU and wall time of each call, called by turns."""
    best = [(float("inf"), float("inf"))] * len(calls)
    for _ in range(passes):
        for i, call in enumerate(calls):
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            best[i] = min(best[i], spent)
    return best


def brute_force_differences(sky: Sky, n: int) -> int:
    """Count the pairs of `n` spectra in which we differ from a loop over the whole catalog."""
    rows = np.arange(0, len(sky.ra), len(sky.ra) // n)
    some = replace(sky, ra=sky.ra[rows], dec=sky.dec[rows], epoch=sky.epoch[rows])
    found = ours(some)
    wrong = 0
    for i in range(len(rows)):
        there = propagate(
            sky.catalog_ra, sky.catalog_dec, sky.pmra, sky.pmdec, EPOCH, some.epoch[i]
        )
        here = unit_vectors(some.ra[i : i + 1], some.dec[i : i + 1])[0]
        dot = unit_vectors(*there) @ here
        near = np.flatnonzero(dot > np.cos(2 * RADIUS * ARCSEC))  # then exactly, by the chord
        chord = np.linalg.norm(unit_vectors(there[0][near], there[1][near]) - here, axis=1)
        true = set(near[chord <= 2 * np.sin(RADIUS * ARCSEC / 2)].tolist())
        wrong += len(true ^ set(found.right[found.left == i].tolist()))
    return wrong


def by_lsdb(sky: Sky, python: str, folder: Path, passes: int) -> tuple[dict, int]:
    """Run LSDB on positions moved beforehand; count where its answers differ from ours."""
    now = propagate(sky.catalog_ra, sky.catalog_dec, sky.pmra, sky.pmdec, EPOCH, 2017.0)
    file = folder / "sky.npz"
    np.savez(file, ra=sky.ra, dec=sky.dec, now_ra=now[0], now_dec=now[1])
    script = folder / "by_lsdb.py"
    script.write_text(LSDB_SCRIPT)
    command = [python, str(script), str(file), str(RADIUS), str(passes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs = np.load(f"{file}.pairs.npy")
    best = select_pairs(match_sky(sky.ra, sky.dec, *now, radius_arcsec=RADIUS), "best")
    mine = np.stack([best.left, best.right])
    pairs = [set(map(tuple, one.T.tolist())) for one in (theirs, mine)]
    return json.loads(done.stdout.splitlines()[-1]), len(pairs[0] ^ pairs[1])


def make_run(folder: Path, sky: Sky, *, rows: int) -> RunConfig:
    """Store a survey's scalars and a catalog, and return the run that matches them."""
    import xarray as xr

    from scalespec.plan import BlockResult
    from scalespec.schema import PER_SPECTRUM

    catalog = {"ra": sky.catalog_ra, "dec": sky.catalog_dec, "pmra": sky.pmra, "pmdec": sky.pmdec}
    write_table(str(folder / "catalog.parquet"), catalog | {"key": sky.key, "teff": sky.pmra})
    config = RunConfig(
        run=RunTable(name="b", workspace=str(folder / "work"), spectra_per_block=rows),
        ingest=IngestTable(files="*"),
        crossmatch={
            "big": {
                "catalog": str(folder / "catalog.parquet"),
                "pmra": "pmra",
                "pmdec": "pmdec",
                "star_id": "key",
                "columns": {"teff": "teff"},
            }
        },
    )
    (folder / "config.json").write_text(config.model_dump_json())
    n = len(sky.ra)
    add_segment(folders.plan_url(config), 0, Segment(0, n, rows, ("*",), 1, n, "0", "a"))
    raw = folders.raw_url(config)
    known = {"ra": sky.ra, "dec": sky.dec, "obsid": np.arange(n)}
    known["mjd"] = 51544.5 + 365.25 * (sky.epoch - 2000)
    for block in plan_blocks(n, rows):
        part = slice(block.start, block.stop)
        data = {
            name: ("spectrum", known[name][part] if name in known else np.full(block.size, none, t))
            for name, (t, none, _) in PER_SPECTRUM.items()
        }
        data["flux"] = (("spectrum", "wavelength"), np.zeros((block.size, 1), np.float32))
        made = xr.Dataset(data)
        if block.index == 0:
            create_spectra(f"{raw}/spectra.zarr", made, n_spectrum=n, shard_rows=rows)
        write_spectra(f"{raw}/spectra.zarr", block, made)
        Ledger(raw).commit(block, BlockResult(block.size, {}, {}, "a"))
    return config


def worker_cpu() -> float:
    """CPU seconds of this process."""
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


def warm() -> None:
    """Import what the stages need, once per worker, as any run does."""
    import scalespec.stages.crossmatch  # noqa: F401


def through_stages(config: RunConfig, engine: DaskEngine | LocalEngine) -> tuple[float, float]:
    """Run the verb; return CPU seconds of driver and workers, and wall seconds."""
    client = getattr(engine, "_client", None)

    def cpu() -> float:
        others = client.run(worker_cpu).values() if client else ()
        return worker_cpu() + sum(others)

    if client:
        client.run(warm)
    before, started = cpu(), time.perf_counter()
    for stage in crossmatch(config):
        for report in engine.map(stage, stage.blocks):
            assert report.ok, report.error
    return cpu() - before, time.perf_counter() - started


def peak_megabytes(n_left: int, n_right: int) -> tuple[float, float]:
    """Match in a process of its own; return its peak memory, and that after imports alone."""
    with tempfile.TemporaryDirectory() as folder:
        sky = make_sky(n_right)
        left = {name: getattr(sky, name)[:n_left] for name in ("ra", "dec", "epoch")}
        make_run(Path(folder), replace(sky, **left), rows=50_000)
        command = [sys.executable, __file__, "--match", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split()[-2:])
    return after, before


def match_here(folder: Path) -> None:
    """Match what `make_run` left in a folder; print this process's peak memory before and after."""
    before = peak_here()
    config = RunConfig.model_validate(json.loads((folder / "config.json").read_text()))
    through_stages(config, LocalEngine())
    print(before, peak_here())


def peak_here() -> float:
    """Return the most memory [MB] this process has had; getrusage counts its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def row(name: str, value: float, unit: str, **more: float | str | None) -> dict:
    """Return one line of the table."""
    names = ("limit", "recipe", "ratio_to_recipe", "fraction_of_limit", "note")
    return {"name": name, "value": value, "unit": unit} | {n: more.get(n) for n in names}


def bench_kernel(sky: Sky, title: str, passes: int) -> list[dict]:
    """Time the tree, ours and astropy's on the same arrays in this process."""
    calls = [lambda: bare_tree(sky), lambda: ours(sky), lambda: by_astropy(sky)]
    tree, mine, astropy = spent_by(calls, passes)
    note = "limit: scipy's tree, no motion or ties; recipe: astropy match_to_catalog_sky"
    return [
        row(f"{title}: scipy's bare tree", tree[0], "CPU s", limit=tree[0],
            note=f"wall {tree[1]:.2f} s"),
        row(f"{title}: astropy", astropy[0], "CPU s", limit=tree[0],
            note=f"wall {astropy[1]:.2f} s"),
        row(f"{title}: ours, all pairs, motion, ties", mine[0], "CPU s", limit=tree[0],
            recipe=astropy[0], ratio_to_recipe=astropy[0] / mine[0],
            fraction_of_limit=tree[0] / mine[0], note=f"wall {mine[1]:.2f} s; {note}"),
    ]  # fmt: skip


def bench_stages(sky: Sky, tree: float, *, dask: bool) -> dict:
    """Time the whole verb with its stores, here or on Dask."""
    engine = DaskEngine(DaskTable(workers=1)) if dask else LocalEngine()
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = make_run(Path(folder), sky, rows=1 << 17)
            cpu, wall = through_stages(config, engine)
            found = len(read_matches(folders.matches_url(config, "big")))
    finally:
        engine.close()
    name = "Dask" if dask else "this process"
    note = f"wall {wall:.2f} s; {found} matches; reads catalog and store, writes cells and matches"
    return row(f"whole verb through {name}", cpu, "CPU s", limit=tree,
               fraction_of_limit=tree / cpu, note=note)  # fmt: skip


def bench_dask_arrays(sky: Sky, tree: float) -> dict:
    """Time the match alone through Dask: arrays cut into ranges of cells, one task each."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as c,
        Client(c) as client,
    ):
        spent = spent_by([lambda: dask_match(sky, client)], 2)[0]
    note = f"wall {spent[1]:.2f} s; cut by cell with margins, one task a range, joined again"
    return row("arrays through Dask, ours", spent[0], "CPU s", limit=tree,
               fraction_of_limit=tree / spent[0], note=note)  # fmt: skip


def bench_lsdb(sky: Sky, tree: float, python: str) -> list[dict]:
    """Time LSDB and compare its answers with ours."""
    with tempfile.TemporaryDirectory() as folder:
        spent, different = by_lsdb(sky, python, Path(folder), 2)
    note = f"lsdb {spent['version']}, no motion, build not in time; wall {spent['wall']:.2f} s"
    return [
        row("LSDB crossmatch", spent["cpu"], "CPU s", limit=tree, note=note),
        row("matches that differ from LSDB's", different, "pairs"),
    ]


def dask_match(sky: Sky, client: object) -> int:
    """Cut both tables into ranges of cells, match each in a task, and count the best pairs."""
    from scalespec.kernels.sky import cells_with_margin

    order, parts = 5, 16
    margin = RADIUS + np.hypot(sky.pmra, sky.pmdec) / 1000 * 24
    rows, cells = cells_with_margin(sky.catalog_ra, sky.catalog_dec, order, margin)
    home = healpix_nested(sky.ra, sky.dec, order)
    mine = np.argsort(home, kind="stable")
    edges = np.linspace(0, 12 * 4**order, parts + 1).astype(int)
    futures = []
    for a, b in pairwise(edges):
        i = mine[slice(*np.searchsorted(home[mine], (a, b)))]
        j = np.unique(rows[slice(*np.searchsorted(cells, (a, b)))])
        part = Sky(sky.ra[i], sky.dec[i], sky.epoch[i], sky.catalog_ra[j], sky.catalog_dec[j],
                   sky.pmra[j], sky.pmdec[j], sky.key[j])  # fmt: skip
        futures.append(
            client.submit(lambda p: len(select_pairs(ours(p), "best").left), part, pure=False)
        )
    return sum(client.gather(futures))


def measure(parts: Sequence[str], *, quick: bool, lsdb_python: str) -> Iterator[dict]:
    """Yield the lines of the table, as they are measured."""
    n, passes = (200_000, 2) if quick else (1_000_000, 3)
    sky = make_sky(n)
    if "match" in parts:
        kernel = bench_kernel(sky, f"{n:.0e} x {n:.0e}", passes)
        yield from kernel
        yield bench_dask_arrays(sky, kernel[0]["value"])
        different = brute_force_differences(sky, 100)
        yield row("pairs that differ from brute force, 100 spectra", different, "pairs")
    if "field" in parts:
        yield from bench_kernel(make_sky(n, field_deg=2.0), f"{n:.0e} x {n:.0e} in 4 deg2", passes)
    tree = spent_by([lambda: bare_tree(sky)], 2)[0][0] if {"verb", "lsdb"} & set(parts) else 0.0
    if "verb" in parts:
        yield bench_stages(sky, tree, dask=False)
        yield bench_stages(sky, tree, dask=True)
    if "lsdb" in parts and lsdb_python:
        yield from bench_lsdb(sky, tree, lsdb_python)
    elif "lsdb" in parts:
        print("LSDB: not measured; give --lsdb-python the Python of an environment with lsdb")
    if "memory" in parts:
        for size in (100_000, 400_000) if quick else (250_000, 1_000_000, 2_000_000):
            peak, before = peak_megabytes(100_000, size)
            note = f"one process, everything; imports alone {before:.0f} MB"
            yield row(f"peak memory, 1e5 spectra x {size:.1e} rows", peak, "MB", note=note)


def kept(file: Path, rows: list[dict]) -> list[dict]:
    """Return the rows of a file that were measured before, those of now in their place."""
    before = json.loads(file.read_text()) if file.exists() else []
    now = {one["name"]: one for one in rows}
    return [now.pop(one["name"], one) for one in before] + list(now.values())


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--lsdb-python", default="", help="Python that has lsdb installed")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may repeat")
    parser.add_argument("--match", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.match:
        match_here(options.match)
        return
    print(f"{'':50s} {'value':>9s} {'unit':6s} {'of tree':>8s}")
    rows = []
    parts = options.part or PARTS
    for one in measure(parts, quick=options.quick, lsdb_python=options.lsdb_python):
        rows.append(one)
        share = f"{one['value'] / one['limit']:8.2f}" if one["limit"] else " " * 8
        figure = f"{one['value']:9.2f} {one['unit']:6s} {share}"
        print(f"{one['name']:50s} {figure}  {one['note'] or ''}", flush=True)
        if options.json:  # a run that is cut short has said something, too
            options.json.write_text(json.dumps(kept(options.json, rows), indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
