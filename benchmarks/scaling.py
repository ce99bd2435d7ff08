"""How far it scales: the driver and its ledger alone, and the stages over workers.

::

    python benchmarks/scaling.py noop --engine dask --blocks 25000  # engine, driver, ledger alone
    python benchmarks/scaling.py noop --engine dask --single        # one block a call, as if long
    python benchmarks/scaling.py stages RUN.toml --workers 1 2 4 8  # a finished run, stage by stage
    python benchmarks/scaling.py alone RUN.toml --workers 1 2       # computing, and no engine

``--json F`` puts rows into a file, in the place of older ones of the same kind. A no-op block reads
nothing and computes nothing, but commits: what is left is the price of the engine, the driver and
the ledger. Strong scaling is all blocks on more workers, weak so many blocks per worker; the share
that a worker is busy is its rate over that of the stage's computing alone, data in memory.
``simulate.py`` goes on from there to a thousand workers.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from scalespec.config import DaskTable, EngineTable, RayTable, RunConfig, RunTable, load_config
from scalespec.engines import worker
from scalespec.plan import Block, BlockReport, BlockResult, Stage, plan_blocks
from scalespec.run import Runner
from scalespec.stages import VERBS
from scalespec.store.ledger import Ledger


def nothing(block: Block) -> None:
    """Read nothing."""


def same(_: None, data: None) -> None:
    """Compute nothing."""


def commit(block: Block, _: None, url: str) -> BlockResult:
    """Commit a block without objects, as every stage does at the end of its own."""
    return Ledger(url).commit(block, BlockResult(block.size, {}, {"ok": block.size}, "noop"))


def noop_stage(url: str, n: int) -> Stage:
    """Blocks that cost nothing but their handling."""
    return Stage(
        name="noop",
        url=url,
        blocks=plan_blocks(n * 4096, 4096),
        read=nothing,
        compute=same,
        write=partial(commit, url=url),
        runs_on="dask",
    )


class Watch:
    """Notes when blocks ended, and what that cost driver and scheduler; stops after so many."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.started = time.monotonic()
        self.ends: list[float] = []
        self.reports: list[BlockReport] = []
        self.first_cost = self.last_cost = (0.0, 0.0)
        self.stop_after = stop_after

    def __call__(self, progress) -> None:
        if progress.report is None:
            return
        self.ends.append(time.monotonic() - self.started)
        self.reports.append(progress.report)
        if len(self.ends) == 1:
            self.first_cost = cost()
        elif len(self.ends) % 250 == 0:  # looking at all processes takes milliseconds
            self.last_cost = cost()

    def stop(self) -> bool:
        return self.stop_after is not None and len(self.ends) >= self.stop_after

    def warm(self) -> int:
        """Blocks that had ended when every worker had ended its first."""
        firsts = {}
        for i, report in enumerate(self.reports):
            firsts.setdefault(report.worker, i + 1)
        return max(firsts.values())


def cost() -> tuple[float, float]:
    """CPU seconds so far of the driver's thread, and of what schedules: Dask's threads, Ray's head.

    Dask's scheduler lives in the driver's process, beside the client; Ray's head is two others.
    """
    driver = time.thread_time()
    heads = [
        sum(process.cpu_times()[:2])
        for process in psutil.Process().children(recursive=True)
        if process.name() in ("raylet", "gcs_server")
    ]
    return driver, time.process_time() - driver + sum(heads)


def passed(config: RunConfig, engine: str, stage: Stage, watch: Watch) -> Watch:
    runner = Runner(config, engine, False, watch, watch.stop)
    try:
        runner.map(stage)
    finally:
        runner.close()
    return watch


def noop(arguments) -> list[dict]:
    """Half of the blocks by one driver, the rest by the next: overhead, memory, and the resume."""
    folder, n = tempfile.mkdtemp(prefix="scaling-"), arguments.blocks
    try:
        begun, resumed = (drive(folder, arguments, stop_after) for stop_after in (n // 2, None))
        began = time.monotonic()
        done = Ledger(f"{folder}/noop/0").done()
        listed = time.monotonic() - began
    finally:
        shutil.rmtree(folder)
    assert len(done) == n, (len(done), n)
    assert begun["ended"] + resumed["ended"] == n  # none was done twice
    per_block = {
        name: round((begun[name] + resumed[name]) / n, 3)
        for name in ("overhead_ms", "driver_cpu_ms", "scheduler_cpu_ms")
    }
    return [
        {
            "what": "no-op blocks" + ", one a call" * arguments.single,
            "engine": arguments.engine,
            "workers": 2,
            "blocks": n,
            **{f"{name}_per_block": value for name, value in per_block.items()},
            # from the start of the process: imports, engine, listing, plan
            "first_block_s": round(begun["first_s"], 2),
            "resume_first_block_s": round(resumed["first_s"], 2),
            "ledger_listing_s": round(listed, 3),
            "driver_peak_mb": max(begun["peak_mb"], resumed["peak_mb"]),
        }
    ]


def drive(folder: str, arguments, stop_after: int | None) -> dict:
    """A driver in a process of its own, as one that was killed and started again."""
    command = [sys.executable, __file__, "driver", folder, "--engine", arguments.engine]
    command += ["--blocks", str(arguments.blocks), "--began", str(time.time())]
    command += ["--single"] * arguments.single
    command += ["--stop-after", str(stop_after)] * (stop_after is not None)
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def driver(arguments) -> list[dict]:
    """Run what is left of the no-op stage, or so many blocks of it, as `scalespec run` does."""
    tables = EngineTable(dask=DaskTable(workers=2), ray=RayTable(workers=2))
    config = RunConfig(run=RunTable(name="noop", workspace=arguments.folder), engine=tables)
    stage = noop_stage(f"{arguments.folder}/noop/0", arguments.blocks)
    VERBS["ingest"] = lambda _: [stage]
    if arguments.single:
        worker.SHARE = arguments.blocks
    late = time.time() - arguments.began  # before this process's clock began
    watch = Watch(arguments.stop_after)
    Runner(config, arguments.engine, False, watch, watch.stop).run(["ingest"])
    assert all(report.ok for report in watch.reports)
    spent = [1e3 * (b - a) for a, b in zip(watch.first_cost, watch.last_cost, strict=True)]
    facts = {
        "ended": len(watch.ends),
        "first_s": watch.ends[0] + late,
        "overhead_ms": 1e3 * (watch.ends[-1] - watch.ends[0]),
        "driver_cpu_ms": spent[0],
        "scheduler_cpu_ms": spent[1],
        "peak_mb": round(_peak_mib()),
    }
    print(json.dumps(facts))
    return []


def _peak_mib() -> float:
    """Return the most memory this process has had; getrusage counts its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def stages(arguments) -> list[dict]:
    """Each stage of a run that is done up to it, over numbers of workers: strong and weak."""
    rows, most = [], max(arguments.workers)
    for verb in arguments.verbs:
        for workers in arguments.workers:
            for kind in arguments.kinds if workers < most else ["strong"]:
                share = 1.0 if kind == "strong" else workers / most
                row = measured(arguments, verb, workers, share)
                # all blocks on most workers are the end of both
                kinds = arguments.kinds if workers == most else [kind]
                rows += [row | {"kind": kind} for kind in kinds]
                print(json.dumps(rows[-1]), flush=True)
    return rows


def measured(arguments, verb: str, workers: int, share: float) -> dict:
    """Time one stage with so many workers on a share of its blocks; what it stores is removed."""
    tables = EngineTable(dask=DaskTable(workers=workers), ray=RayTable(workers=workers))
    config = load_config(arguments.run_file).model_copy(update={"engine": tables})
    stage = first_stage(config, verb)
    kept = Path(stage.url).rename(stage.url + ".kept")
    shutil.copytree(kept, stage.url, ignore=_without_results)
    try:
        blocks = stage.blocks[: max(1, round(len(stage.blocks) * share))]
        watch = passed(config, arguments.engine, _first(stage, blocks), Watch())
    finally:
        shutil.rmtree(stage.url)
        kept.rename(stage.url)
    assert len(watch.reports) == len(blocks)
    assert all(report.ok for report in watch.reports)
    warm = watch.warm()
    steady = sum(report.block.size for report in watch.reports[warm:])
    seconds = watch.ends[-1] - watch.ends[warm - 1]
    return {
        "what": "stage",
        "stage": verb,
        "engine": arguments.engine or stage.runs_on,
        "workers": workers,
        "blocks": len(blocks),
        "rows": sum(block.size for block in blocks),
        "seconds": round(watch.ends[-1], 2),
        "warm_s": round(watch.ends[warm - 1], 2),  # until every worker had ended its first block
        # since then; fewer blocks than workers are no measure
        "spectra_per_s": round(steady / seconds, 1) if len(blocks) >= warm + workers else None,
        "block_s": [round(report.seconds, 3) for report in watch.reports[warm:]],
    }


def alone(arguments) -> list[dict]:
    """What a stage computes from memory, in one process or some at once: what no worker can pass.

    Several processes have one memory and one cache: that they are slower than one is no engine's
    doing.
    """
    rows = []
    for verb in arguments.verbs:
        for workers in arguments.workers:
            spawn = multiprocessing.get_context("spawn")
            barrier, rates = spawn.Barrier(workers), spawn.Queue()
            given = arguments.run_file, verb, barrier, rates
            processes = [spawn.Process(target=computed, args=given) for _ in range(workers)]
            for process in processes:
                process.start()
            total = sum(rates.get(timeout=3600) for _ in processes)
            for process in processes:
                process.join()
            rate = round(total, 1)
            rows.append({"what": "alone", "stage": verb, "workers": workers, "spectra_per_s": rate})
    return rows


def computed(run_file: str, verb: str, barrier, rates) -> None:
    """Compute all blocks of a stage from memory beside others; tell how many spectra a second."""
    stage = first_stage(load_config(run_file), verb)
    made = None if stage.setup is None else stage.setup()
    data = [stage.read(block) for block in stage.blocks]
    stage.compute(made, data[0])
    barrier.wait()
    begin = time.perf_counter()
    for one in data:
        stage.compute(made, one)
    rates.put(sum(block.size for block in stage.blocks) / (time.perf_counter() - begin))


def first_stage(config: RunConfig, verb: str) -> Stage:
    """Return a verb's first stage; nothing is combined: the stage is all that is wanted."""
    return next(step for step in VERBS[verb](config) if isinstance(step, Stage))


def _first(stage: Stage, blocks) -> Stage:
    return replace(stage, blocks=list(blocks))


def _without_results(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("commits", "parts", "index", "c", "failed")]


def merged(path: Path, rows: list[dict]) -> list[dict]:
    """Return the rows of a file with new ones in the place of those of the same kind."""
    names = ("what", "stage", "engine", "workers", "kind")

    def key(row: dict) -> tuple:
        return tuple(row.get(name) for name in names)

    before = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {key(row) for row in rows}
    return [row for row in before if key(row) not in new] + rows


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = made.add_subparsers(required=True)
    one = verbs.add_parser("noop")
    one.set_defaults(do=noop)
    half = verbs.add_parser("driver")  # what noop starts
    half.add_argument("folder")
    half.add_argument("--began", type=float)
    half.add_argument("--stop-after", type=int)
    half.set_defaults(do=driver)
    for part in (one, half):
        part.add_argument("--engine", choices=["local", "dask", "ray"], default="dask")
        part.add_argument("--blocks", type=int, default=25_000)
        part.add_argument("--single", action="store_true")
    two = verbs.add_parser("stages")
    two.add_argument("run_file")
    two.add_argument("--engine", choices=["dask", "ray"])
    two.add_argument("--verbs", nargs="+", default=["ingest", "preprocess", "infer", "fit"])
    two.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    two.add_argument("--kinds", nargs="+", default=["strong", "weak"])
    two.set_defaults(do=stages)
    three = verbs.add_parser("alone")
    three.add_argument("run_file")
    three.add_argument("--verbs", nargs="+", default=["fit"])
    three.add_argument("--workers", nargs="+", type=int, default=[1])
    three.set_defaults(do=alone)
    for part in (one, half, two, three):
        part.add_argument("--json", type=Path)
    return made


def main() -> None:
    arguments = parser().parse_args()
    rows = arguments.do(arguments)
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items() if name != "block_s"))
    if arguments.json:
        facts = {"cpus": os.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 2**30)}
        record = {"machine": facts, "rows": merged(arguments.json, rows)}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
