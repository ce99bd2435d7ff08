"""Files that cannot be read for a while: no row says for good that there is none."""

import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from survey_files import write_files

from scalespec.config import IngestTable, RunConfig, RunTable
from scalespec.engines import worker
from scalespec.errors import StoreError
from scalespec.run import Runner, run
from scalespec.schema import SpectrumStatus
from scalespec.stages import folders, inputs
from scalespec.stages import ingest as ingest_stage
from scalespec.stages.ingest import ingest
from scalespec.stages.inputs import plan_inputs
from scalespec.store import fetch, paths
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import count_spectra, read_spectra

N = 8
PER_BLOCK = 4


def _config(tmp_path, files, survey="lamost_lrs"):
    return RunConfig(
        run=RunTable(name="t", workspace=f"{tmp_path}/work", spectra_per_block=PER_BLOCK),
        ingest=IngestTable(survey=survey, files=files),
    )


@pytest.fixture
def config(tmp_path, write_survey):
    """A run over eight files in two blocks."""
    write_survey(tmp_path / "raw", N)
    return _config(tmp_path, f"{tmp_path}/raw")


@pytest.fixture
def disk(monkeypatch):
    """A disk that refuses paths with the words `disk["refuse"]`, by the number `disk["error"]`."""
    real, how = os.open, {"refuse": "", "error": 5}

    def opened(path, *more, **options):
        if how["refuse"] and how["refuse"] in str(path):
            raise OSError(how["error"], os.strerror(how["error"]), path)
        return real(path, *more, **options)

    monkeypatch.setattr(fetch.os, "open", opened)
    monkeypatch.setattr(worker, "PAUSE_S", 0.0)
    return how


def _status(config):
    url = f"{folders.raw_url(config)}/spectra.zarr"
    status = read_spectra(url, 0, count_spectra(url)).status.values
    return (status & ~np.uint32(SpectrumStatus.NO_REDSHIFT)).tolist()  # a coadd of DESI has none


@pytest.mark.parametrize("error", [5, 116, 24])  # EIO, ESTALE, EMFILE
def test_a_block_with_a_file_that_cannot_be_read_now_fails_and_is_mended(config, disk, error):
    disk |= {"refuse": "sp01-004", "error": error}
    failed = run(config, engine="local")
    assert failed.exit_code == 3
    (why,) = failed.failed["ingest"].values()
    assert "sp01-004" in why
    assert os.strerror(error) in why
    assert len(Ledger(folders.raw_url(config)).commits()) == 1  # the other block
    disk["refuse"] = ""
    assert run(config, engine="local", retry_failed=True).exit_code == 0
    assert _status(config) == [0] * N


def test_a_file_that_was_taken_away_or_closed_is_a_row(config, disk, tmp_path):
    plan_inputs(config)
    gone, closed = sorted((tmp_path / "raw").rglob("*.fits"))[:2]
    gone.unlink()
    closed.chmod(0)
    disk |= {"refuse": closed.name, "error": 13}  # as if we were not root
    assert run(config, engine="local").exit_code == 0
    assert _status(config) == [SpectrumStatus.MISSING] * 2 + [0] * (N - 2)


def test_a_late_attempt_that_met_an_error_leaves_what_another_committed(config, disk, monkeypatch):
    (stage,) = ingest(config)
    block = stage.blocks[0]
    good = stage.compute(None, stage.read(block))
    write = ingest_stage.write_arms

    def late(*what):
        """Write after another attempt has committed, as a worker does that was thought lost."""
        monkeypatch.setattr(ingest_stage, "write_arms", write)
        stage.write(block, good)
        return write(*what)

    monkeypatch.setattr(ingest_stage, "write_arms", late)
    disk |= {"refuse": "raw/", "error": 116}
    with pytest.raises(StoreError, match="Stale file handle"):
        stage.write(block, stage.compute(None, stage.read(block)))
    stage.write(block, good)
    assert _status(config)[: block.stop] == [0] * block.size


@pytest.fixture
def store(monkeypatch):
    """An S3 server that answers every question as the first part of its key says."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            number, code = self.path.split("/")[2].split("-")
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(int(number))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"s3://bucket?endpoint=http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_object_that_is_not_there_is_its_error(store):
    (found,) = fetch.fetch([paths.join(store, "404-NoSuchKey", "x")])
    assert isinstance(found, StoreError)
    assert str(found).endswith(": not found")


@pytest.mark.parametrize(
    "answer", ["403-AccessDenied", "401-Unauthorized", "400-ExpiredToken", "404-NoSuchBucket"]
)
def test_any_other_answer_of_a_store_is_raised(store, answer):
    url = paths.join(store, answer, "x")
    with pytest.raises(StoreError) as raised:
        fetch.fetch([paths.join(store, "404-NoSuchKey", "y"), url])
    assert url in str(raised.value)


@pytest.fixture
def containers(tmp_path, monkeypatch):
    """A run over one DESI file of four targets, listed by name, and the file."""
    (name,) = write_files(tmp_path, "desi", 1)
    (tmp_path / "list.txt").write_text(name)
    monkeypatch.setattr(inputs, "PAUSE_S", 0.0)
    return _config(tmp_path, f"@{tmp_path}/list.txt", "desi"), tmp_path / name


def test_a_container_that_cannot_be_read_is_not_planned_as_one_row(containers, monkeypatch):
    config, path = containers
    read = paths.read_bytes

    def down(url):
        if url == str(path):
            raise StoreError(f"{url}: Generic S3 error: 503 Slow Down")
        return read(url)

    monkeypatch.setattr(paths, "read_bytes", down)
    with pytest.raises(StoreError, match=f"{path}: .*503 Slow Down.*: run again"):
        run(config, engine="local")
    monkeypatch.setattr(paths, "read_bytes", read)
    assert run(config, engine="local").exit_code == 0
    assert _status(config) == [0] * 4


@pytest.mark.parametrize("large_bytes", [-1, 2**26])  # fetched when its turn comes, or before
def test_a_container_that_came_after_it_was_planned_says_so(
    containers, monkeypatch, caplog, large_bytes
):
    config, path = containers
    monkeypatch.setattr(ingest_stage, "LARGE_BYTES", large_bytes)
    content = path.read_bytes()
    path.unlink()
    plan_inputs(config)
    path.write_bytes(content)
    assert run(config, engine="local").exit_code == 0
    assert _status(config) == [SpectrumStatus.CHANGED]
    assert f"{path.name} could not be read when it was planned" in caplog.text
    assert "holds 4 spectra now" in caplog.text


def test_a_container_that_is_still_damaged_is_a_row_of_its_damage(containers):
    config, path = containers
    path.write_bytes(path.read_bytes()[:5000])
    assert run(config, engine="local").exit_code == 0
    assert _status(config) == [SpectrumStatus.TRUNCATED]


class Mount:
    """A disk of survey files that is taken away and given back, as `mount` does it."""

    def __init__(self, point, disk):
        self.point, self.disk = point, disk

    def leave(self, how):
        self.point.rename(self.disk)
        if how == "empty":  # a mount point is a folder like any other
            self.point.mkdir()
        elif how == "of empty folders":
            (self.point / "lamost" / "dr10").mkdir(parents=True)

    def come_back(self):
        if self.point.exists():
            shutil.rmtree(self.point)
        self.disk.rename(self.point)


@pytest.fixture
def mount(tmp_path):
    """Where a run's files lie."""
    (tmp_path / "raw").mkdir(exist_ok=True)
    return Mount(tmp_path / "raw", tmp_path / "elsewhere")


@pytest.fixture
def _prompt(monkeypatch):
    monkeypatch.setattr(worker, "PAUSE_S", 0.0)


def _run_without(config, mount, how):
    """Plan with the mount, read without; the plan stands, as of a mount that goes amid a run."""
    (stage,) = ingest(config)
    mount.leave(how)
    runner = Runner(config, "local")
    runner.map(stage)
    runner.close()
    return runner.summary


@pytest.mark.usefixtures("_prompt")
@pytest.mark.parametrize("how", ["gone", "empty", "of empty folders"])
def test_blocks_of_a_mount_that_vanished_fail_by_its_name_and_are_mended(config, mount, how):
    lost = _run_without(config, mount, how)
    assert lost.exit_code == 3
    assert set(lost.failed["ingest"]) == {0, 1}
    for why in lost.failed["ingest"].values():
        assert f"{mount.point}: gone or empty" in why
        assert "mount it" in why
        assert "--retry-failed" in why
    assert Ledger(folders.raw_url(config)).commits() == {}
    mount.come_back()
    assert run(config, engine="local", retry_failed=True).exit_code == 0
    assert _status(config) == [0] * N


@pytest.mark.usefixtures("_prompt")
def test_each_of_two_mounts_is_missed_by_itself(tmp_path, write_survey, mount):
    write_survey(tmp_path / "raw", N)
    write_survey(tmp_path / "zone", PER_BLOCK)
    config = _config(tmp_path, [f"{tmp_path}/raw", f"{tmp_path}/zone/**/*.fits"])
    lost = _run_without(config, mount, "empty")
    assert set(lost.failed["ingest"]) == {0, 1}
    assert set(Ledger(folders.raw_url(config)).commits()) == {2}  # the other mount's


def test_a_folder_of_a_root_that_is_gone_is_rows(config, tmp_path):
    """As a plate that nobody fetched: the root still holds others."""
    plan_inputs(config)
    folder = min((tmp_path / "raw").rglob("*.fits")).parent
    n = len(list(folder.iterdir()))
    assert 0 < n < N
    shutil.rmtree(folder)
    assert run(config, engine="local").exit_code == 0
    assert _status(config).count(SpectrumStatus.MISSING) == n


def test_roots_are_looked_at_only_for_files_that_are_missing(config, monkeypatch):
    looked = []
    monkeypatch.setattr(fetch, "holds_files", lambda url: looked.append(url) or True)
    assert run(config, engine="local").exit_code == 0
    assert looked == []


@pytest.mark.usefixtures("_prompt")
@pytest.mark.parametrize("large_bytes", [-1, 2**26])  # fetched when its turn comes, or before
def test_a_container_of_a_mount_that_vanished_is_no_row(tmp_path, mount, monkeypatch, large_bytes):
    monkeypatch.setattr(ingest_stage, "LARGE_BYTES", large_bytes)
    (name,) = write_files(mount.point, "desi", 1)
    (tmp_path / "list.txt").write_text(f"raw/{name}")
    config = _config(tmp_path, f"@{tmp_path}/list.txt", "desi")
    (why,) = _run_without(config, mount, "empty").failed["ingest"].values()
    assert f"{(mount.point / name).parent}: gone or empty" in why
    mount.come_back()
    assert run(config, engine="local", retry_failed=True).exit_code == 0
    assert _status(config) == [0] * 4


def test_nothing_is_planned_of_a_list_whose_mount_is_not_there(tmp_path, mount):
    """Its containers would be one row each, and that for good."""
    (name,) = write_files(mount.point, "desi", 1)
    (tmp_path / "list.txt").write_text(f"raw/{name}")
    config = _config(tmp_path, f"@{tmp_path}/list.txt", "desi")
    mount.leave("gone")
    with pytest.raises(StoreError, match=r"gone or empty, though .* was planned below it"):
        run(config, engine="local")
    mount.come_back()
    assert run(config, engine="local").exit_code == 0
    assert _status(config) == [0] * 4
