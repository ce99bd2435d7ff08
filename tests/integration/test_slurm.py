"""deploy/slurm for real: two nodes, one of them killed in the middle, the job requeued."""

import time
from pathlib import Path

import pytest
from slurm import PATIENCE_S, missing, slurm

ROOT = Path(__file__).resolve().parents[2]
ENGINES = """
[engine.dask]
address = "auto"
workers = 4
wait_seconds = 120
[engine.ray]
address = "auto"
workers = 4
wait_seconds = 120
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture(scope="module")
def cluster(shared):
    with slurm(shared / "design" / "slurm_two_nodes_one_host.conf") as running:
        yield running


def submitted(cluster, script, folder, nodes=2):
    said = cluster.call(
        "sbatch", "--nodes", nodes, f"deploy/slurm/{script}", "run.toml", cwd=folder
    )
    return said.split()[-1]


def prepared(line, folder):
    """A workspace beside which deploy/ lies, as beside a checkout's."""
    workspace = line.workspace(folder)
    workspace.run_file.write_text(workspace.run_file.read_text() + ENGINES)
    (folder / "deploy").symlink_to(ROOT / "deploy")
    return workspace


@pytest.mark.parametrize(
    ("script", "stage", "victim"),
    [("dask.sbatch", "spectra", "n2"), ("ray.sbatch", "best", "n1")],
)
def test_a_job_whose_node_dies_is_requeued_and_makes_the_same_catalog(
    cluster, line, tmp_path, script, stage, victim
):
    workspace = prepared(line, tmp_path)
    job = submitted(cluster, script, tmp_path)
    log = next(iter([tmp_path / f"scalespec-{script.partition('.')[0]}-{job}.log"]))
    end = time.monotonic() + PATIENCE_S
    while len(workspace.commits(stage)) < 2:
        assert time.monotonic() < end, log.read_text() if log.exists() else cluster.state(job)
        time.sleep(0.005)
    killed = cluster.kill_node(victim)
    there = {path: path.read_bytes() for path in workspace.commits(stage)}
    assert len(there) < 14
    print(f"# {victim} was killed with {', '.join(killed)} after {len(there)} blocks of {stage}")
    cluster.call("squeue")
    cluster.start_node(victim)
    cluster.call("scontrol", "update", f"nodename={victim}", "state=resume")
    assert cluster.until_ended(job) == "COMPLETED", log.read_text()[-6000:]
    shown = cluster.call("scontrol", "show", "job", job)
    assert "Restarts=1" in shown
    assert {path: path.read_bytes() for path in there} == there  # none of them was done again
    assert workspace.digest() == line.digest
    cluster.call("scalespec", "verify", "run.toml", cwd=tmp_path)
    assert workspace.problems() == []
    assert not list(tmp_path.glob(".scalespec-*"))  # its certificate and key are gone
    print("# the log:\n" + log.read_text())


@pytest.mark.parametrize("script", ["dask.sbatch"])
def test_the_signal_before_the_wall_limit_ends_the_blocks_in_flight_and_requeues(
    cluster, line, tmp_path, script
):
    workspace = prepared(line, tmp_path)
    job = submitted(cluster, script, tmp_path)
    end = time.monotonic() + PATIENCE_S
    while len(workspace.commits("spectra")) < 2:
        assert time.monotonic() < end
        time.sleep(0.005)
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    assert cluster.until_ended(job) == "COMPLETED"
    log = next(tmp_path.glob("*.log")).read_text()
    assert "finishing the blocks in flight" in log
    assert "Restarts=1" in cluster.call("scontrol", "show", "job", job)
    assert workspace.digest() == line.digest


def test_the_short_form_with_ray_makes_the_same_catalog(cluster, line, tmp_path):
    """On one node: two on one host have one address, and the `ray stop` of one ends the other."""
    workspace = prepared(line, tmp_path)
    job = submitted(cluster, "symmetric.sbatch", tmp_path, nodes=1)
    assert cluster.until_ended(job) == "COMPLETED", next(tmp_path.glob("*.log")).read_text()
    assert workspace.digest() == line.digest
    assert workspace.problems() == []


def test_what_the_readme_says_is_what_is_run_here():
    text = (ROOT / "deploy" / "README.md").read_text()
    for line in (
        "sbatch --nodes 2 deploy/slurm/dask.sbatch run.toml",
        "squeue",
        "scalespec verify",
    ):
        assert line in text
