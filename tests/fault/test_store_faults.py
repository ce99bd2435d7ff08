"""What a disk does wrong: full, read-only, torn; and answers that get lost on the way."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import obstore
import pytest
import xarray as xr
from obstore.exceptions import AlreadyExistsError

from scalespec.config import IngestTable, RunConfig, RunTable
from scalespec.engines import worker
from scalespec.errors import StoreError
from scalespec.plan import Block, BlockResult, plan_blocks
from scalespec.run import run
from scalespec.stages import folders
from scalespec.stages import ingest as ingest_stage
from scalespec.stages.ingest import ingest, write_raw
from scalespec.store import paths
from scalespec.store.fixed import find_strays
from scalespec.store.ledger import Ledger, current
from scalespec.store.spectra import create_spectra, read_spectra, write_spectra

BLOCK = Block("spectrum", 0, 0, 8)
FULL = "No space left on device.*; free some space and run again$"
READ_ONLY = "Read-only file system.*; no permission: check owner or credentials$"


def mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no mounting here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", folder], check=True)


def noise(n: int) -> xr.Dataset:
    """Spectra that no codec makes small: 400 kB for eight."""
    flux = np.random.default_rng(1).integers(0, 2**32, (n, 12_500), np.uint32)
    return xr.Dataset({"flux": (("spectrum", "wavelength"), flux)})


def test_a_full_disk_is_said_and_leaves_no_half_object(disk):
    url = f"{disk}/parts/big.parquet"
    for create in (False, True):
        with pytest.raises(StoreError, match=f"^{url}: .*{FULL}"):
            paths.write_bytes(url, bytes(2_000_000), create=create)
    assert list(disk.rglob("*.*")) == []
    assert paths.write_bytes(url, b"less", create=True)


def test_a_full_disk_fails_a_shard_and_a_second_try_stores_it(disk):
    url = f"{disk}/spectra.zarr"
    create_spectra(url, noise(0), n_spectrum=8, shard_rows=8)
    (disk / "other").write_bytes(bytes(700_000))
    with pytest.raises(StoreError, match=f"^{url}: .*{FULL}"):
        write_spectra(url, BLOCK, noise(8))
    assert not (disk / "spectra.zarr/flux/c/0/0").exists()
    (disk / "other").unlink()
    write_spectra(url, BLOCK, noise(8))
    xr.testing.assert_equal(read_spectra(url, 0, 8), noise(8))


def test_a_run_on_a_full_disk_says_so_and_finishes_when_there_is_room(disk, tmp_path, write_survey):
    write_survey(tmp_path / "raw", 64)
    config = RunConfig(
        run=RunTable(name="full", workspace=f"{disk}/work", spectra_per_block=8),
        ingest=IngestTable(files=f"{tmp_path}/raw"),
    )
    try:
        summary = run(config, engine="local")
    except StoreError as error:  # so full that not even the failure could be noted
        said = [str(error)]
    else:
        assert summary.exit_code == 3
        said = list(summary.failed["ingest"].values())
    assert said
    assert all("free some space and run again" in line for line in said)
    mount("-o", "remount,size=64m", str(disk))
    assert run(config, engine="local", retry_failed=True).exit_code == 0
    commits = Ledger(folders.raw_url(config)).commits()
    assert sum(result.counts["OK"] for result in commits.values()) == 64


def test_a_read_only_disk_is_said(disk):
    create_spectra(f"{disk}/a.zarr", noise(0), n_spectrum=8, shard_rows=8)
    mount("-o", "remount,ro", str(disk))
    calls = {
        "x": lambda url: paths.write_bytes(url, b""),
        "new/x": lambda url: paths.write_bytes(url, b""),
        "a.zarr": lambda url: write_spectra(url, BLOCK, noise(8)),
        "a.zarr/zarr.json": paths.delete,
        "b.zarr": lambda url: create_spectra(url, noise(0), n_spectrum=8, shard_rows=8),
    }
    for name, call in calls.items():
        with pytest.raises(StoreError, match=f"^{disk}/{name.split('/x')[0]}.*: .*{READ_ONLY}"):
            call(f"{disk}/{name}")
    with pytest.raises(StoreError, match=READ_ONLY):
        Ledger(f"{disk}/raw").commit(BLOCK, BlockResult(8, {}))
    with pytest.raises(StoreError, match=READ_ONLY):
        paths.delete_tree(f"{disk}/a.zarr")


@pytest.mark.parametrize(
    "content",
    [
        b"",  # torn: the machine lost power
        b'{"rows": 8, "objects": {',
        b'["a commit", "of another program"]',
        b'{"rows": 8}',  # half of what we write
        b'{"rows": "eight", "objects": {}, "counts": {}, "attempt": ""}',
        b'{"rows": 8, "objects": 3, "counts": {}, "attempt": ""}',
    ],
)
def test_a_torn_or_foreign_commit_is_named_and_never_believed(tmp_path, content):
    ledger = Ledger(str(tmp_path))
    paths.write_bytes(f"{tmp_path}/commits/000000.json", content)
    calls = [
        ledger.commits,
        lambda: ledger.committed(BLOCK),
        lambda: ledger.commit(BLOCK, BlockResult(8, {})),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=f"^{tmp_path}/commits/000000.json: "):
            call()


def test_a_create_that_is_told_already_exists_though_it_was_ours_stands(tmp_path, monkeypatch):
    """As on S3: the answer to a conditional put is lost, it is sent again and answered 412."""
    put = obstore.put
    calls = []

    def lost_answer(store, name, data, mode):
        calls.append(name)
        put(store, name, data, mode=mode)
        raise AlreadyExistsError("412")

    monkeypatch.setattr(obstore, "put", lost_answer)
    mine = BlockResult(8, {"parts/a": "00"}, {"OK": 8}, "mine")
    assert Ledger(str(tmp_path)).commit(BLOCK, mine) == mine
    assert len(calls) == 1
    assert Ledger(str(tmp_path)).commits() == {0: mine}


class Back(BaseHTTPRequestHandler):
    """A store that is there again, with one object in it."""

    def do_GET(self):
        self.send_response(200)
        for name, value in (
            ("Content-Length", "4"),
            ("ETag", '"1"'),
            ("Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"back")

    def log_message(self, *_):
        """Say nothing."""


def test_a_server_that_restarts_is_waited_for(monkeypatch):
    """Two seconds in which connections are refused; the nightly SeaweedFS is back after four."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Back, bind_and_activate=False)
    server.server_bind()

    def come_back():
        time.sleep(2)
        server.server_activate()
        server.handle_request()

    threading.Thread(target=come_back, daemon=True).start()
    started = time.monotonic()
    url = f"s3://bucket/object?endpoint=http://127.0.0.1:{server.server_port}"
    assert paths.read_bytes(url) == b"back"
    assert time.monotonic() - started > 2
    server.server_close()


def test_two_writers_to_one_shard_are_refused(tmp_path):
    """Each would read the shard, set its rows and write it back: the first one's would be lost."""
    url = f"{tmp_path}/spectra.zarr"
    create_spectra(url, noise(0), n_spectrum=16, shard_rows=8)
    write_spectra(url, BLOCK, noise(8))
    for start, stop in ((0, 4), (4, 8), (4, 12)):
        with pytest.raises(StoreError, match="two writers in one shard lose rows"):
            write_spectra(url, Block("spectrum", 1, start, stop), noise(stop - start))
    xr.testing.assert_equal(read_spectra(url, 0, 8), noise(8))


def test_a_late_writer_leaves_what_is_committed(tmp_path):
    standing = BlockResult(8, {"spectra.zarr/flux/c/0/0": "00"}, {"OK": 8}, "first")
    Ledger(str(tmp_path)).commit(BLOCK, standing)
    never_read = (None, None)
    assert write_raw(BLOCK, never_read, str(tmp_path)) == standing
    assert paths.list_keys(str(tmp_path)) == ["commits/000000.json"]


def _ingest_of(tmp_path, files):
    """Return the stage that reads files in blocks of four."""
    run_table = RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=4)
    return next(ingest(RunConfig(run=run_table, ingest=IngestTable(files=str(files)))))


@pytest.mark.parametrize("lost", ["one", "all"])  # a shard is another one, or there is none
def test_a_late_attempt_that_wrote_other_content_does_its_block_again(
    tmp_path, write_survey, monkeypatch, lost
):
    """Its files change while it is away, another attempt reads and commits them, it wakes."""
    written = sorted(write_survey(tmp_path / "raw", 4))
    stage = _ingest_of(tmp_path, tmp_path / "raw")
    write, others = ingest_stage.write_arms, []

    def late(*what):
        monkeypatch.setattr(ingest_stage, "write_arms", write)
        for path in written[: 1 if lost == "one" else 4]:
            path.write_bytes(b"no FITS any more")
        made = stage.compute(None, stage.read(stage.blocks[0]))
        others.append(stage.write(stage.blocks[0], made))
        return write(*what)

    monkeypatch.setattr(ingest_stage, "write_arms", late)
    monkeypatch.setattr(worker, "PAUSE_S", 0.0)
    (report,) = worker.run_blocks(stage, stage.blocks)
    assert report.ok
    standing = Ledger(stage.url).commits()[0]
    assert standing == report.result != others[0]
    for key, sha256 in standing.objects.items():
        assert paths.sha256(paths.read_bytes(paths.join(stage.url, key))) == sha256, key
    assert find_strays(f"{stage.url}/spectra.zarr", {0: standing}) == {}


def test_files_of_a_disk_that_is_unmounted_fail_their_blocks_until_it_is_mounted(
    tmp_path, write_survey
):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_survey(tmp_path / "disk", 4)
    mount("--bind", str(tmp_path / "disk"), str(folder))
    try:
        stage = _ingest_of(tmp_path, folder)
        subprocess.run(["umount", folder], check=True)
        with pytest.raises(StoreError, match=f"{folder}: gone or empty, though "):
            stage.read(stage.blocks[0])
        mount("--bind", str(tmp_path / "disk"), str(folder))
        assert all(isinstance(piece.content, bytes) for piece in stage.read(stage.blocks[0]))
    finally:
        subprocess.run(["umount", folder], check=False)


@pytest.mark.parametrize(
    ("place", "found"),
    [
        (-1, "checksum"),  # in the shard's index
        (-5, "checksum"),
    ],
)
def test_a_torn_shard_is_named_when_it_is_read(tmp_path, place, found):
    url = f"{tmp_path}/spectra.zarr"
    create_spectra(url, noise(0), n_spectrum=16, shard_rows=8)
    for block in plan_blocks(16, 8):
        write_spectra(url, block, noise(8))
    shard = tmp_path / "spectra.zarr/flux/c/1/0"
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=f"{url}: 'flux', rows 8:16, is damaged: .*{found}"):
        read_spectra(url, 8, 16)
    xr.testing.assert_equal(read_spectra(url, 0, 8), noise(8))


def test_a_damaged_record_of_the_digest_in_use_is_named(tmp_path):
    paths.write_bytes(f"{tmp_path}/raw/current.json", json.dumps([1]).encode())
    with pytest.raises(StoreError, match=r"raw/current\.json: wanted a JSON object"):
        current(str(tmp_path), "raw")
