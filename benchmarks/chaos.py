"""Kills drivers and workers at random while they read and write, and compares the final catalogs.

::

    python benchmarks/chaos.py --events 200 --engines local dask ray --stores disk s3 --json F.json

Every run is the same made-up survey of 16 blocks. Any process of it may be killed (SIGKILL) before
or after any operation on the store, by ``tests/kits/chaos``; the same command is typed again until
it ends well, and the catalog must be, byte for byte, that of the run that nothing disturbed. In
every run, kills must have hit every stage. Stores are done side by side.
"""

import argparse
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "kits")]

import line as lines  # noqa: E402 - what tests of whole runs share
import pyarrow.parquet as pq  # noqa: E402
from buckets import upload  # noqa: E402
from drivers import STAGES as PRELOADED  # noqa: E402
from drivers import Drivers  # noqa: E402

from scalespec.config import load_config  # noqa: E402
from scalespec.stages import folders  # noqa: E402
from scalespec.status import verify_run  # noqa: E402
from scalespec.store import paths  # noqa: E402

PER_BLOCK = 7
PATIENCE_S = 1200
"""Longest that one command may take: on a busy machine, workers that die take their time."""
STAGES = {
    "listing": "/files|/work/plan/",
    "ingest": "/work/raw/",
    "preprocess": "/work/spectra/",
    "crossmatch": "/work/matches/",
    "infer": "/work/first/",
    "fit": "/work/best/",
    "publish": "/work/catalog/",
}
"""Where a process is killed, by the stage that it was at then."""
SHARES = {"local": (20, 0), "dask": (2, 5), "ray": (1, 2)}
"""Of 200 kills, drivers and workers per stage: dear is what has a cluster to start again."""


def undisturbed(folder: Path) -> lines.Line:
    """Return the survey and its catalog in blocks of seven; what is there already is kept."""
    workspace = lines.Workspace(folder / "survey")
    if not (folder / "survey" / "done").exists():
        workspace = lines.build(folder).undisturbed
        workspace.change("spectra_per_block = 8", f"spectra_per_block = {PER_BLOCK}")
        (folder / "survey" / "done").touch()
    code, said = workspace.call("run", "--engine", "local")
    if code:
        raise SystemExit(said)
    return lines.found(folder)


def disturbed(line: lines.Line, engine: str, bucket: str, events: int, rate: float) -> dict:
    """Run until it ends well, whatever is killed; say what was killed and what came of it."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    workspace = line.workspace(folder)
    if bucket:
        workspace.run_file.write_text(upload(workspace.run_file, bucket))
    log = folder / "kills.log"
    started, codes, kills = time.monotonic(), [], []
    with Drivers(surroundings(log, engine, events, rate), engine, PATIENCE_S) as drivers:
        while not codes or codes[-1] != 0:
            before = len(kills)
            said = folder / f"{len(codes)}.log"
            code, text = drivers.call(
                said, "run", workspace.run_file, "--engine", engine, "--retry-failed"
            )
            codes.append(code)
            kills = log.read_text().splitlines() if log.exists() else []
            if code and len(kills) == before:
                raise SystemExit(f"ends with {code} though nothing was killed:\n{text}")
    config = load_config(workspace.run_file)
    outcome = judged(line, config) | {
        "engine": engine,
        "store": "s3" if bucket else "disk",
        "events": len(kills),
        "victims": dict(Counter(kill.split()[0] for kill in kills)),
        "stages": dict(Counter(map(stage_of, kills))),
        "commands": len(codes),
        "seconds": round(time.monotonic() - started, 1),
    }
    shutil.rmtree(folder)
    return outcome


def surroundings(log: Path, engine: str, events: int, rate: float) -> dict[str, str]:
    """Return a run's environment: how often, where and how many of its processes are killed."""
    kits = [str(TESTS / "kits" / "chaos"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    most = []
    for role, share in zip(("driver", "worker"), SHARES[engine], strict=True):
        number = -(-share * events // 200)
        most += [f"^{role} .*(?:{pattern})={number}" for pattern in STAGES.values() if number]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, kits)),
        "CHAOS_LOG": str(log),
        "CHAOS_RATE": str(rate),
        "CHAOS_MOST": "\n".join(most),
        "CHAOS_IMPORT": " ".join(PRELOADED),
        "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",
    }


def judged(line: lines.Line, config) -> dict:
    """Compare the catalog, row by row and byte by byte, with the undisturbed one."""
    url = paths.join(folders.catalog_url(config), "catalog.parquet")
    data = paths.read_bytes(url)
    rows = pq.read_table(io.BytesIO(data), columns=["row"])["row"].to_pylist()
    return {
        "blocks": len(folders.planned_blocks(config)),
        "lost": lines.N_SPECTRA - len(set(rows)),
        "doubled": len(rows) - len(set(rows)),
        "identical": paths.sha256(data) == line.digest,
        "problems": len(verify_run(config)[0]),
    }


def stage_of(kill: str) -> str:
    """The stage whose folder a killed process was at."""
    return next(stage for stage, pattern in STAGES.items() if re.search(pattern, kill))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=200, help="kills in all, per store")
    parser.add_argument("--engines", nargs="+", default=["local", "dask", "ray"])
    parser.add_argument("--stores", nargs="+", default=["disk"], choices=["disk", "s3"])
    parser.add_argument(
        "--bucket", default="", help="s3://bucket?endpoint=...; else SeaweedFS is started"
    )
    parser.add_argument("--rate", type=float, default=0.15, help="chance of a kill per operation")
    parser.add_argument("--line", type=Path, default=Path(tempfile.gettempdir(), "scalespec-chaos"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    line = undisturbed(arguments.line)
    rows: list[dict] = []
    with (
        _store("s3" in arguments.stores, arguments.bucket) as bucket,
        ThreadPoolExecutor(len(arguments.stores)) as pool,
    ):
        futures = [
            pool.submit(rounds, line, arguments, store, bucket, rows) for store in arguments.stores
        ]
    for future in futures:
        future.result()
    bad = [row for row in rows if wrong(row)]
    total = sum(row["events"] for row in rows)
    print(f"{total} kills in {len(rows)} runs, {len(bad)} runs with another catalog or no kill")
    raise SystemExit(bool(bad) or total < arguments.events * len(arguments.stores))


def wrong(row: dict) -> bool:
    """Whether a run's catalog is another, or a stage of it was left in peace."""
    other = row["lost"] or row["doubled"] or row["problems"] or not row["identical"]
    return bool(other or set(row["stages"]) != set(STAGES))


def rounds(line: lines.Line, arguments, store: str, bucket: str, rows: list[dict]) -> None:
    """Runs on one kind of store until there were kills enough; each is recorded as it ends."""
    left, number = arguments.events, 0
    while left > 0:
        engine = arguments.engines[number % len(arguments.engines)]
        where = paths.join(bucket, f"chaos{time.time_ns()}") if store == "s3" else ""
        row = disturbed(line, engine, where, arguments.events, arguments.rate)
        print(json.dumps(row), flush=True)
        rows.append(row)
        if arguments.json:
            record = {"kills": sum(row["events"] for row in rows), "runs": rows}
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
        left, number = left - max(row["events"], 1), number + 1


def _store(wanted: bool, bucket: str):
    """A bucket: the one given, or one of a SeaweedFS that ends with this program."""
    from contextlib import contextmanager

    @contextmanager
    def opened():
        if not wanted or bucket:
            yield bucket
            return
        spec = importlib.util.spec_from_file_location("s3", TESTS / "integration" / "conftest.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        program = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        server = module.Weed(program, Path(tempfile.mkdtemp(prefix="chaos-s3-")))
        os.environ |= {"AWS_ACCESS_KEY_ID": module.KEY, "AWS_SECRET_ACCESS_KEY": module.SECRET}
        try:
            server.start()
            yield f"s3://scalespec?endpoint={server.endpoint}"
        finally:
            server.remove()

    return opened()


if __name__ == "__main__":
    main()
