"""The secret key is nowhere but in the environment: a scan of all that a run makes and says."""

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
from proxy import faulty

from scalespec.cli import main
from scalespec.config import IngestTable, PreprocessTable, RunConfig, RunTable, load_config
from scalespec.errors import ConfigError, StoreError
from scalespec.run import run
from scalespec.stages import folders
from scalespec.stages.ingest import ingest
from scalespec.stages.preprocess import preprocess
from scalespec.store import paths, s3
from scalespec.store.listing import list_files

pytestmark = pytest.mark.s3


@pytest.fixture
def config(bucket, tmp_path, write_survey):
    """A run whose files and workspace are both in the bucket."""
    for path in write_survey(tmp_path / "raw", 5):
        key = str(path.relative_to(tmp_path))
        paths.write_bytes(paths.join(bucket, key), path.read_bytes())
    return RunConfig(
        run=RunTable(name="s3", workspace=paths.join(bucket, "work"), spectra_per_block=2),
        ingest=IngestTable(files=paths.join(bucket, "raw")),
        preprocess=PreprocessTable(),
    )


def test_stores_logs_and_requests_of_a_run_hold_no_secret(config, secret, caplog, bucket):
    """Everything is logged that any library says, and every request's headers are looked at."""
    endpoint = bucket.partition("endpoint=")[2]
    with faulty(endpoint, {"error": 0.03}) as proxy, caplog.at_level(logging.DEBUG, logger=""):
        proxy.record = True
        there = config.model_copy(
            update={
                "run": config.run.model_copy(
                    update={"workspace": config.run.workspace.replace(endpoint, proxy.endpoint)}
                )
            }
        )
        assert run(there, engine="local").exit_code == 0
    assert len(proxy.seen) > 100
    assert not [seen for seen in proxy.seen if secret.encode() in seen]
    keys = paths.list_keys(config.run.workspace)
    assert len(keys) > 50
    for key in keys:
        assert secret.encode() not in paths.read_bytes(paths.join(config.run.workspace, key)), key
    assert secret not in caplog.text


def test_stages_and_their_parts_pickle_without_it(config, secret):
    for make in (ingest, preprocess):
        for stage in make(config):
            for block in stage.blocks:
                stage.write(block, stage.compute(_value(stage), stage.read(block)))
            for thing in (stage, stage.read, stage.compute, stage.write, config):
                for dumps in (pickle.dumps, cloudpickle.dumps):
                    assert secret.encode() not in dumps(thing)
                assert secret not in repr(thing)


def _value(stage):
    return stage.setup() if stage.setup else None


def test_a_dask_graph_of_a_store_holds_none(config, secret):
    """What is opened lazily travels to workers as a graph; a store in it would bring its key."""
    run(config, verbs=("ingest",), engine="local")
    url = paths.join(folders.raw_url(config), "spectra.zarr")
    code = f"""
import cloudpickle
from scalespec.store.spectra import open_spectra
spectra = open_spectra({url!r})
graph = cloudpickle.dumps(spectra.__dask_graph__())
print(graph.count({secret.encode()!r}), float(spectra.flux.sum()))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    count, total = said.stdout.split()
    assert (count, float(total) > 0) == ("0", True)


PROFILE = "[telescope]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"


@pytest.fixture
def profile(tmp_path, monkeypatch, secret):
    """The key in a profile of ~/.aws, and nowhere else."""
    key = os.environ["AWS_ACCESS_KEY_ID"]
    (tmp_path / "credentials").write_text(PROFILE.format(key=key, secret=secret))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    paths.open_store.cache_clear()
    return "telescope"


def test_a_profile_opens_a_bucket_and_pickles_as_its_name(bucket, profile, secret):
    url = f"{bucket}&profile={profile}"
    assert paths.write_bytes(paths.join(url, "x"), b"by profile")
    assert paths.read_bytes(paths.join(url, "x")) == b"by profile"
    assert list_files(paths.join(url, "*"))[0].size == 10
    store = paths.open_store("s3://scalespec?" + url.partition("?")[2])
    assert secret.encode() not in pickle.dumps(s3.ProfileCredentials(profile))
    assert secret not in f"{store!r} {s3.ProfileCredentials(profile).__dict__}"


def test_a_profile_that_is_not_there_is_named(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"profile 'nonesuch'.*could not be found"):
        paths.read_bytes(f"{bucket}&profile=nonesuch")


@pytest.mark.parametrize("where", ["store", "url"])
def test_a_secret_in_a_run_file_is_refused_without_repeating_it(tmp_path, where, capsys):
    hush = "hush-in-a-run-file"
    files = f"s3://b/x?secret_access_key={hush}" if where == "url" else "s3://b/x"
    table = f'[store]\nsecret_access_key = "{hush}"\n' if where == "store" else ""
    path = tmp_path / "run.toml"
    path.write_text(f'{table}[run]\nname="t"\nworkspace="w"\n[ingest]\nfiles = "{files}"\n')
    with pytest.raises((ConfigError, StoreError)) as caught:
        run(load_config(path), engine="local")
    assert hush not in f"{caught.value} {caught.value!r}"
    with pytest.raises(SystemExit):
        main(["run", str(path), "--engine", "local"])
    said = capsys.readouterr()
    assert hush not in said.out + said.err
    assert not [p for p in Path(tmp_path).rglob("*") if p.is_file() and p != path]
