"""A catalog of a million made-up rows: publish in every form and report, time and memory.

Run: ``python benchmarks/bench_publish.py [--rows N] [--labels K] [--formats fits,votable,hats]
[--folder F] [--json F]``. Parts as fit leaves them are written first (once, in a folder that is
given) and not counted. Workers are local Dask processes, as a run's are; memory is the most that
driver and workers held together.
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scalespec.config import parse_config
from scalespec.run import run
from scalespec.stages import folders
from tests.kits.fitted_run import HEAD, write_fitted

ABUNDANCES = (
    *("c_fe", "n_fe", "o_fe", "na_fe", "mg_fe", "al_fe", "si_fe", "s_fe", "ca_fe", "sc_fe"),
    *("ti_fe", "v_fe", "cr_fe", "mn_fe", "co_fe", "ni_fe", "cu_fe", "zn_fe", "y_fe", "ba_fe"),
    "eu_fe",
)
TABLES = """
[publish]
formats = [{formats}]
covariance = "{covariance}"
[publish.products.metal_poor]
where = "fe_h < -2"
trusted = ["fe_h"]
[publish.products.hot]
where = "teff > 7000"
[report]
[engine.dask]
workers = 2
"""


class Memory:
    """The most memory that this process and its children held together, sampled."""

    def __init__(self) -> None:
        self.most, self._stop = 0, threading.Event()
        self._cpu: dict[int, float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(1.0):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    info = process.memory_full_info()
                    total += info.pss
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
                except psutil.Error:
                    continue
            self.most = max(self.most, total)

    @property
    def cpu_seconds(self) -> float:
        """What driver and workers spent since the beginning, all together."""
        return sum(self._cpu.values()) - self._before

    def __enter__(self) -> "Memory":
        times = psutil.Process().cpu_times()
        self._before = times.user + times.system
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def made_up(n: int, labels: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Stars with labels, in the order of the sky in stripes, as plates leave them."""
    rng = np.random.default_rng(1)
    stars = {
        "teff": rng.uniform(3600, 7900, n), "logg": rng.uniform(0.2, 5.3, n),
        "fe_h": rng.normal(-0.4, 0.6, n).clip(-2.9, 0.9), "snr": rng.uniform(5, 200, n),
        "ra": np.sort(rng.uniform(0, 360, n)), "dec": rng.uniform(-10, 60, n),
        "source_id": rng.integers(1, 2**60, n), "rv": rng.normal(0, 60, n),
        "fit_status": np.where(rng.random(n) < 0.1, 1, 0),
    }  # fmt: skip
    stars |= {name: rng.normal(0, 0.2, n) for name in labels if name not in stars}
    return stars | {f"{name}_err": rng.uniform(0.02, 0.2, n) for name in labels}


def main() -> None:
    """Write parts, publish, report; print seconds and gigabytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=8)
    parser.add_argument("--formats", default="fits,votable,hats")
    parser.add_argument("--covariance", default="compact")
    parser.add_argument("--folder", type=Path, help="Where; it stays. Else a temporary one.")
    parser.add_argument("--verbs", default="publish,report")
    parser.add_argument("--prepare", action="store_true", help="Only write what is published.")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    labels = ("teff", "logg", "fe_h", *ABUNDANCES)[: args.labels]
    folder = args.folder or Path(tempfile.mkdtemp(prefix="bench-publish-"))
    formats = ", ".join(f'"{one}"' for one in args.formats.split(",") if one)
    tables = TABLES.format(formats=formats, covariance=args.covariance)
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / f"ready-{args.rows}-{args.labels}"
    if ready.exists():
        config = parse_config(HEAD.format(root=folder, rows=4096) + tables)
        if "publish" in args.verbs:
            shutil.rmtree(folder / "work" / "catalog", ignore_errors=True)
    else:
        config = write_fitted(folder, made_up(args.rows, labels), labels=labels, tables=tables)
        ready.touch()
    if args.prepare:
        return
    table = []
    for verb in args.verbs.split(","):
        begun = time.perf_counter()
        with Memory() as watched:
            run(config, verbs=[verb])
        seconds = time.perf_counter() - begun
        cpu = f"{watched.cpu_seconds:6.0f} s of CPU"
        print(f"{verb:8s} {seconds:8.1f} s {cpu} {watched.most / 1e9:6.2f} GB", flush=True)
        table.append({"name": f"{verb} {args.rows} rows", "value": seconds, "unit": "s"})
        table.append({"name": f"{verb} memory", "value": watched.most / 1e9, "unit": "GB"})
    url = Path(folders.catalog_url(config))
    for file in ("catalog.parquet", "catalog.fits", "catalog.vot"):
        if (url / file).exists():
            print(f"{file:18s} {(url / file).stat().st_size / 1e6:8.0f} MB")
    print("driver's own peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "GB")
    if args.json:
        empty = dict.fromkeys(("limit", "recipe", "ratio_to_recipe", "fraction_of_limit"))
        note = f"{args.labels} labels, {args.formats}, covariance {args.covariance}, 2 workers"
        args.json.write_text(json.dumps([row | empty | {"note": note} for row in table], indent=1))
    if args.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
