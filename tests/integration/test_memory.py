"""What an ingest worker holds: no more after forty blocks than after ten, and what was said."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from scalespec.config import IngestTable, RunConfig, RunTable
from scalespec.stages.ingest import ingest
from scalespec.status import plan_run

pytestmark = pytest.mark.slow

WORKER = """
import json, pickle, sys
from pathlib import Path
from scalespec.engines.worker import run_blocks
stage = pickle.load(sys.stdin.buffer)

def peak():
    # Its own: ru_maxrss begins with that of the process that started it, a whole test session.
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(kib) * 1024

before = peak()
assert all(report.ok for report in run_blocks(stage, stage.blocks))
print(json.dumps([before, peak()]))
"""


@pytest.fixture
def measured(tmp_path, write_survey):
    """A function that ingests so many blocks in a worker; its memory before and at its peak."""
    files = write_survey(tmp_path / "made", 16)

    def measure(n_blocks, rows):
        folder = tmp_path / f"in-{n_blocks}-{rows}"
        folder.mkdir()
        for i in range(n_blocks * rows):
            os.link(files[i % len(files)], folder / f"spec-{i:05d}.fits")
        config = RunConfig(
            run=RunTable(
                name="t", workspace=f"{tmp_path}/{n_blocks}-{rows}", spectra_per_block=rows
            ),
            ingest=IngestTable(files=str(folder)),
        )
        stage = next(ingest(config))
        assert len(stage.blocks) == n_blocks
        done = subprocess.run(
            [sys.executable, "-c", WORKER],
            input=pickle.dumps(stage),
            capture_output=True,
            check=True,
        )
        before, peak = json.loads(done.stdout)
        return peak - before, config

    return measure


def test_memory_does_not_grow_with_the_number_of_blocks(measured):
    one, ten, forty = (measured(n, 64)[0] for n in (1, 10, 40))
    block = 64 * 3909 * 12
    print([f"{held / 2**20:.0f} MiB" for held in (one, ten, forty)])
    assert one > block  # it is measured at all
    # Blocks that stayed would be thirty of these, and as much again and more for their files.
    assert forty - ten < 10 * block


def test_a_worker_holds_less_than_the_plan_said(measured):
    held, config = measured(6, 1024)
    (said,) = [f["memory_bytes"] for f in plan_run(config) if f["stage"] == "ingest"]
    print(f"held {held / 2**20:.0f} MiB, said {said / 2**20:.0f} MiB")
    assert held < said
    assert said < 3 * held  # and the plan is of use
