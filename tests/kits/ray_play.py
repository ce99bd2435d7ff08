"""Stages and trainings on a Ray, watched from a thread."""

import os
import threading
import time

from scalespec.plan import BlockResult, Stage, Training, plan_blocks


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)


def sleeping_stage(folder, n, seconds, **fields):
    """Blocks that sleep, unless a file `enough` is there; each leaves one when it is tried."""

    def compute(_, block):
        (folder / f"{block.index}.{os.getpid()}.{time.monotonic_ns()}").touch()
        until((folder / "enough").exists, seconds)
        return block

    def write(block, _):
        return BlockResult(block.size, {}, {"pid": os.getpid()})

    blocks = plan_blocks(n, 1)
    return Stage("sleep", str(folder), blocks, lambda b: b, compute, write, "ray", **fields)


def played(engine, stage, within=60, after=lambda reports: None):
    """Map a stage in a thread, so that one that never ends is seen; return its reports."""
    reports, errors = [], []

    def play():
        try:
            for report in engine.map(stage, stage.blocks):
                reports.append(report)
                after(reports)
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    thread.join(within)
    assert not thread.is_alive(), f"not ended after {len(reports)} of {len(stage.blocks)} reports"
    if errors:
        raise errors[0]
    return reports


def trained(engine, folder, within=60, seconds=0.0, meanwhile=lambda: None):
    """Train in a thread, so that what waits for ever is seen; return who trained.

    What is done meanwhile is done in this one: nodes of Ray start in no other.
    """
    errors = []

    def loop(context):
        (folder / f"{context.rank}-of-{context.world_size}.{time.monotonic_ns()}").touch()
        time.sleep(seconds)

    def play():
        try:
            engine.train(Training("train", str(folder), loop))
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    meanwhile()
    thread.join(within)
    assert not thread.is_alive(), f"not ended after {within} s"
    if errors:
        raise errors[0]
    return sorted({path.name.partition(".")[0] for path in folder.iterdir()})


def all_done(reports, n):
    return sorted(r.block.index for r in reports if r.ok) == list(range(n)) and len(reports) == n
