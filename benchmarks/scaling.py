"""How far it scales: the driver and its ledger alone, and the stages over workers.

::

    python benchmarks/scaling.py noop --engine dask --blocks 25000  # engine, driver, ledger alone
    python benchmarks/scaling.py stages RUN.toml --workers 1 2 4 8  # a real run, stage by stage

Each writes rows into ``--json F``. A no-op block reads nothing and computes nothing, but commits:
what is left is the price of the engine, the driver and the ledger. ``simulate.py`` goes on from
there to a thousand workers.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from scalespec.config import DaskTable, EngineTable, RayTable, RunConfig, RunTable, load_config
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
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
    """Notes when the first block ended; stops the run after so many."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.started = time.monotonic()
        self.first = self.last = self.first_cpu = self.last_cpu = 0.0
        self.ended, self.stop_after = 0, stop_after

    def __call__(self, progress) -> None:
        if progress.report is not None:
            self.ended += 1
            self.last, self.last_cpu = time.monotonic() - self.started, time.process_time()
            if self.ended == 1:
                self.first, self.first_cpu = self.last, self.last_cpu

    def stop(self) -> bool:
        return self.stop_after is not None and self.ended >= self.stop_after


def passed(config: RunConfig, engine: str, stage: Stage, watch: Watch) -> Watch:
    runner = Runner(config, engine, False, watch, watch.stop)
    try:
        runner.map(stage)
    finally:
        runner.close()
    return watch


def noop(arguments) -> list[dict]:
    """Half of the blocks, then the rest: overhead, memory, and how soon a resume works."""
    folder = tempfile.mkdtemp(prefix="scaling-")
    tables = EngineTable(dask=DaskTable(workers=2), ray=RayTable(workers=2))
    config = RunConfig(run=RunTable(name="noop", workspace=folder), engine=tables)
    stage = noop_stage(f"{folder}/noop/0", arguments.blocks)
    half = arguments.blocks // 2
    try:
        begun = passed(config, arguments.engine, stage, Watch(half))
        resumed = passed(config, arguments.engine, stage, Watch())
        listed = time.monotonic()
        done = Ledger(stage.url).done()
        listed = time.monotonic() - listed
    finally:
        shutil.rmtree(folder)
    assert len(done) == arguments.blocks, (len(done), arguments.blocks)
    assert begun.ended + resumed.ended == arguments.blocks  # none was done twice
    spent = (begun.last - begun.first) + (resumed.last - resumed.first)
    cpu = (begun.last_cpu - begun.first_cpu) + (resumed.last_cpu - resumed.first_cpu)
    return [
        {
            "what": "no-op blocks",
            "engine": arguments.engine,
            "blocks": arguments.blocks,
            "overhead_ms_per_block": round(1e3 * spent / arguments.blocks, 3),
            # Dask's scheduler lives in the driver: with it, what a busy machine does not change
            "driver_cpu_ms_per_block": round(1e3 * cpu / arguments.blocks, 3),
            "engine_start_s": round(begun.first, 2),
            "resume_first_block_s": round(resumed.first, 2),
            "ledger_listing_s": round(listed, 3),
            "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
    ]


def stages(arguments) -> list[dict]:
    """Each stage of a run that is done up to it, over numbers of workers: strong and weak."""
    rows = []
    for verb in arguments.verbs:
        for workers in arguments.workers:
            for kind in ("strong", "weak"):
                share = 1.0 if kind == "strong" else workers / max(arguments.workers)
                rows.append(measured(arguments.run_file, verb, workers, share) | {"kind": kind})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def measured(run_file: str, verb: str, workers: int, share: float) -> dict:
    """Time one stage with so many workers on a share of its blocks; what it stores is removed."""
    tables = EngineTable(dask=DaskTable(workers=workers), ray=RayTable(workers=workers))
    config = load_config(run_file).model_copy(update={"engine": tables})
    stage = next(_stages(config, verb))
    kept = Path(stage.url).rename(stage.url + ".kept")
    shutil.copytree(kept, stage.url, ignore=_without_results)
    try:
        blocks = stage.blocks[: max(1, round(len(stage.blocks) * share))]
        watch = passed(config, None, _first(stage, blocks), Watch())
    finally:
        shutil.rmtree(stage.url)
        kept.rename(stage.url)
    n = sum(block.size for block in blocks)
    return {
        "what": "stage",
        "stage": verb,
        "engine": stage.runs_on,
        "workers": workers,
        "blocks": len(blocks),
        "start_s": round(watch.first, 2),
        "seconds": round(watch.last, 2),
        # from the first block's end on: the engine's start is no matter of scaling
        "spectra_per_s": round(
            (n - blocks[0].size * workers) / max(watch.last - watch.first, 1e-9), 1
        ),
    }


def _stages(config: RunConfig, verb: str):
    for step in VERBS[verb](config):
        if isinstance(step, Stage):
            yield step
            return  # nothing is combined: the stage is all that is wanted


def _first(stage: Stage, blocks) -> Stage:
    return replace(stage, blocks=list(blocks))


def _without_results(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("commits", "parts", "index", "c", "failed")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("noop")
    one.add_argument("--engine", choices=["local", "dask", "ray"], default="dask")
    one.add_argument("--blocks", type=int, default=25_000)
    one.set_defaults(do=noop)
    two = verbs.add_parser("stages")
    two.add_argument("run_file")
    two.add_argument("--verbs", nargs="+", default=["ingest", "preprocess", "infer", "fit"])
    two.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    two.set_defaults(do=stages)
    arguments = parser.parse_args()
    rows = arguments.do(arguments)
    facts = {"cpus": os.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 2**30)}
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
