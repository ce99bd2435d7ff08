"""The whole line in a bucket: the same catalog as on disk, whatever the network and server do."""

import threading
import time
from pathlib import Path

import pytest
from proxy import faulty

from scalespec.config import RunConfig, load_config
from scalespec.run import run
from scalespec.stages import folders
from scalespec.status import verify_run
from scalespec.store import paths

pytestmark = pytest.mark.s3

PER_BLOCK = 7  # 112 spectra: 16 blocks
NAMES = ("catalog.parquet", "catalog.fits")
FAULTS = {"error": 0.05, "slow": 0.05, "cut": 0.05, "lost": 0.05}


@pytest.fixture(scope="module")
def config(line):
    """The shared line's run file, in blocks of seven."""
    workspace = line.undisturbed
    text = workspace.run_file.read_text()
    path = workspace.folder / "sevens.toml"
    text = text.replace("spectra_per_block = 8", f"spectra_per_block = {PER_BLOCK}")
    path.write_text(text.replace('workspace = "work"', 'workspace = "sevens"'))
    return load_config(path)


@pytest.fixture(scope="module")
def expected(config):
    """The catalog of a run on disk that nothing disturbed."""
    assert run(config, engine="local").exit_code == 0
    assert len(folders.planned_blocks(config)) == 16
    return catalog(config)


def catalog(config: RunConfig) -> dict[str, bytes]:
    url = folders.catalog_url(config)
    return {name: paths.read_bytes(paths.join(url, name)) for name in NAMES}


def moved(config: RunConfig, bucket: str, endpoint: str = "") -> RunConfig:
    """The same run with files, label catalog and workspace in a bucket."""
    base = bucket.partition("?")[0] + f"?endpoint={endpoint}" if endpoint else bucket
    files = Path(config.ingest.files)
    for path in sorted(files.rglob("*.fits*")):
        key = str(path.relative_to(files))
        paths.write_bytes(paths.join(bucket, "files", key), path.read_bytes())
    table = config.crossmatch["apogee"]
    paths.write_bytes(paths.join(bucket, "labels.parquet"), Path(table.catalog).read_bytes())
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"workspace": paths.join(base, "work")}),
            "ingest": config.ingest.model_copy(update={"files": paths.join(base, "files")}),
            "crossmatch": {
                "apogee": table.model_copy(update={"catalog": paths.join(base, "labels.parquet")})
            },
        }
    )


def test_the_catalog_in_a_bucket_is_that_of_the_disk(config, expected, bucket):
    there = moved(config, bucket)
    assert run(there, engine="local").exit_code == 0
    assert catalog(there) == expected
    assert verify_run(there)[0] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fifth_of_all_requests_failing_changes_nothing(config, expected, bucket, s3_endpoint):
    with faulty(s3_endpoint) as proxy:
        there = moved(config, bucket, proxy.endpoint)
        proxy.chances |= FAULTS
        summary = run(there, engine="local")
        if summary.exit_code == 3:  # a block that met four faults in a row: as a user would
            summary = run(there, engine="local", retry_failed=True)
        proxy.chances.clear()
        assert summary.exit_code == 0, summary.failed
        assert catalog(there) == expected
        assert verify_run(there)[0] == []
    print(proxy.done)
    met = sum(proxy.done[fault] for fault in FAULTS)
    assert all(proxy.done[fault] > 20 for fault in FAULTS)
    assert met > 0.15 * proxy.done["requests"]


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_changes_nothing(config, expected, weed, bucket):
    server = weed()
    there = moved(config, bucket.partition("?")[0] + f"?endpoint={server.endpoint}")
    outages: list[str] = []

    def disturb() -> None:
        for stage in ("raw", "first"):
            while not _begun(there, stage):
                time.sleep(0.05)
            server.kill()
            time.sleep(3)
            server.start()
            outages.append(stage)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    summary = run(there, engine="local")
    thread.join(120)
    if summary.exit_code == 3:
        summary = run(there, engine="local", retry_failed=True)
    assert summary.exit_code == 0, summary.failed
    assert outages == ["raw", "first"]
    assert catalog(there) == expected
    assert verify_run(there)[0] == []


def _begun(config: RunConfig, stage: str) -> bool:
    """Whether some, but not all, blocks of a stage are committed."""
    keys = paths.list_keys(paths.join(config.run.workspace, stage))
    return sum("/commits/" in key for key in keys) >= 2
