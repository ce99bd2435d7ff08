"""The store on a real S3 server: the claims of tests/unit/test_paths.py and more, over HTTP."""

import pickle
import subprocess
import sys
import threading

import cloudpickle
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from scalespec.clean import clean_run
from scalespec.cli import main
from scalespec.config import IngestTable, PreprocessTable, RunConfig, RunTable
from scalespec.errors import StoreError
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.plan import BlockResult, plan_blocks
from scalespec.run import run
from scalespec.stages import folders
from scalespec.stages.ingest import ingest
from scalespec.status import verify_run
from scalespec.store import listing, paths
from scalespec.store.ledger import Ledger, current, set_current
from scalespec.store.model import checksum, export_payne, load_model
from scalespec.store.regressor import is_regressor
from scalespec.store.spectra import create_spectra, open_spectra, read_spectra, write_spectra

pytestmark = pytest.mark.s3


def test_bytes_come_back_and_create_leaves_what_is_there(bucket):
    url = paths.join(bucket, "deep", "x.bin")
    assert not paths.exists(url)
    assert paths.write_bytes(url, b"mine", create=True)
    assert not paths.write_bytes(url, b"yours", create=True)
    assert paths.read_bytes(url) == b"mine"
    assert paths.write_bytes(url, b"replaced")
    assert paths.read_bytes(url) == b"replaced"
    paths.delete(url)
    assert not paths.exists(url)
    paths.delete(url)


def test_what_is_missing_is_said(bucket):
    with pytest.raises(StoreError, match=r"/x\?endpoint=.*: not found"):
        paths.read_bytes(paths.join(bucket, "x"))
    assert paths.list_keys(bucket) == []
    assert listing.list_files(paths.join(bucket, "**", "*.fits")) == []


@pytest.fixture
def tree(bucket):
    """Objects at several depths; their prefix."""
    for name in ("spec-1.fits", "a/spec-2.fits.gz", "a/b/spec-3.fits.gz", "a/b/other.txt"):
        paths.write_bytes(paths.join(bucket, name), name.encode())
    return bucket


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ((), ["a/b/other.txt", "a/b/spec-3.fits.gz", "a/spec-2.fits.gz", "spec-1.fits"]),
        (("**", "spec-*.fits*"), ["a/b/spec-3.fits.gz", "a/spec-2.fits.gz", "spec-1.fits"]),
        (("*",), ["spec-1.fits"]),  # a star does not look into folders
        (("a", "*.gz"), ["a/spec-2.fits.gz"]),
        (("a", "b", "spec-[0-9].fits.gz"), ["a/b/spec-3.fits.gz"]),
        (("a", "spec-2.fits.gz"), ["a/spec-2.fits.gz"]),  # one name
        (("*", "none"), []),
    ],
)
def test_globs_mean_what_they_mean_on_a_disk(tree, pattern, names):
    found = listing.list_files(paths.join(tree, *pattern))
    assert [entry.url for entry in found] == [paths.join(tree, name) for name in names]
    assert [entry.size for entry in found] == [len(name) for name in names]


ODD = [
    "a b.fits",
    "a#1.fits",
    "a%20b.fits",
    "a%3Fb.fits",
    "a%253Fb.fits",
    "a+b&c=d.fits",
    "a?b.fits",
]
"""Keys of objects that somebody else has named."""


@pytest.mark.parametrize("folder", ["in", "in #1 50%?"])
def test_objects_with_odd_keys_are_listed_read_and_removed(bucket, folder):
    root = paths.join(bucket, folder)
    for key in ODD:
        assert paths.write_bytes(paths.join(root, key), key.encode(), create=True)
    assert sorted(paths.list_keys(root)) == sorted(ODD)
    assert paths.list_keys(bucket) == [f"{folder}/{key}" for key in sorted(ODD)]
    listed = listing.list_files(paths.join(root, "*.fits"))
    known = listing.identify([paths.join(root, key) for key in sorted(ODD)])  # few
    assert [entry.url for entry in listed] == [entry.url for entry in known]
    for entry, key in zip(listed, sorted(ODD), strict=True):
        assert paths.read_bytes(entry.url) == key.encode()
        assert entry.size == len(key)
        assert listing.list_files(entry.url) == [entry]
        assert paths.split(entry.url) == (root, key)
        assert paths.join(*paths.split(entry.url)) == entry.url
    for name in ODD[:2]:
        paths.delete(paths.join(root, name))
    assert paths.delete_tree(root) == len(ODD) - 2
    assert paths.list_keys(bucket) == []


def test_many_objects_with_odd_keys_are_identified_by_a_listing(bucket, monkeypatch):
    monkeypatch.setattr(listing, "FEW", 2)
    for key in ODD:
        paths.write_bytes(paths.join(bucket, key), b"x")
    urls = [paths.join(bucket, key) for key in ODD]
    assert [(entry.url, entry.size) for entry in listing.identify(urls)] == [(u, 1) for u in urls]


def test_a_prefix_is_a_folder_and_an_object_is_not(tree):
    assert paths.is_folder(paths.join(tree, "a"))
    assert not paths.is_folder(paths.join(tree, "a", "spec-2.fits.gz"))


def test_delete_tree_takes_what_is_below_and_no_more(tree):
    assert paths.delete_tree(paths.join(tree, "a")) == 3
    assert paths.list_keys(tree) == ["spec-1.fits"]


def test_a_bucket_is_asked_once_to_remove_a_thousand_objects(bucket, monkeypatch):
    for i in range(12):
        paths.write_bytes(paths.join(bucket, f"a/{i:02d}"), b"x")
    asked = []
    delete = paths.obstore.delete
    monkeypatch.setattr(
        paths.obstore, "delete", lambda *given: asked.append(given) or delete(*given)
    )
    assert paths.delete_tree(paths.join(bucket, "a")) == 12
    assert len(asked) == 1
    assert paths.list_keys(bucket) == []


def test_an_object_is_one_request_and_leaves_no_parts_when_its_writer_is_killed(bucket):
    """One that is larger than `ONE_PUT` has parts; S3 itself takes 5 GiB at once."""
    url = paths.join(bucket, "shard")
    paths.write_bytes(url, bytes(6 * 2**20))  # two parts, as it was
    (entry,) = listing.list_files(url)
    assert "-" not in entry.etag  # the etag of an object made of parts ends in their number
    store, key = paths.opened(url)
    paths.obstore.put(store, key, bytes(6 * 2**20), use_multipart=True)
    assert "-2" in listing.list_files(url)[0].etag


def test_what_is_found_or_not_is_one_request(bucket, monkeypatch):
    monkeypatch.setattr(paths, "head", None)  # nothing asks whether it is there
    assert current(bucket, "raw") is None
    set_current(bucket, "raw", "d1")
    assert current(bucket, "raw") == {"digest": "d1"}
    block = plan_blocks(1, 1)[0]
    assert Ledger(bucket).committed(block) is None
    Ledger(bucket).commit(block, BlockResult(1, {}))
    assert Ledger(bucket).committed(block) == BlockResult(1, {})


def test_of_eight_committing_threads_exactly_one_wins(bucket):
    ledger, blocks = Ledger(bucket), plan_blocks(3, 1)  # the server makes losers wait by seconds
    ready = threading.Barrier(8)
    stands = {block.index: [] for block in blocks}

    def commit(attempt):
        for block in blocks:
            ready.wait()
            stands[block.index].append(ledger.commit(block, BlockResult(1, {}, {}, attempt)))

    threads = [threading.Thread(target=commit, args=(f"{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    commits = ledger.commits()
    for index, results in stands.items():
        assert results == [commits[index]] * 8  # all are told of the one that won


def test_failures_and_the_digest_in_use_are_kept(bucket):
    ledger, blocks = Ledger(paths.join(bucket, "raw", "d1")), plan_blocks(3, 1)
    ledger.record_failure(blocks[2], "OSError: gone")
    assert ledger.failures() == {2: "OSError: gone"}
    set_current(bucket, "raw", "d1", blocks=3)
    assert current(bucket, "raw") == {"digest": "d1", "blocks": 3}


def test_a_spectra_store_round_trip_is_exact(bucket):
    rng = np.random.default_rng(1)
    flux = rng.normal(1, 0.1, (20, 50)).astype(np.float32)
    spectra = xr.Dataset(
        {"flux": (("spectrum", "wavelength"), flux), "status": ("spectrum", np.arange(20))},
        {"wavelength": 4000.0 + np.arange(50)},
    )
    url = paths.join(bucket, "spectra.zarr")
    create_spectra(url, spectra, n_spectrum=20, shard_rows=8)
    for block in plan_blocks(20, 8):
        part = spectra.isel(spectrum=slice(block.start, block.stop))
        hashes = write_spectra(url, block, part)
        for key, wanted in hashes.items():
            assert paths.sha256(paths.read_bytes(paths.join(url, key))) == wanted
    xr.testing.assert_equal(read_spectra(url, 0, 20), spectra)
    xr.testing.assert_equal(open_spectra(url).load(), spectra)


@pytest.fixture
def config(bucket, tmp_path, write_survey):
    """A run whose files and workspace are both in the bucket."""
    for path in write_survey(tmp_path / "raw", 11):
        key = str(path.relative_to(tmp_path))
        paths.write_bytes(paths.join(bucket, key), path.read_bytes())
    paths.write_bytes(paths.join(bucket, "raw", "README.txt"), b"no spectrum")
    return RunConfig(
        run=RunTable(name="s3", workspace=paths.join(bucket, "work"), spectra_per_block=4),
        ingest=IngestTable(files=paths.join(bucket, "raw")),
        preprocess=PreprocessTable(),
    )


def test_a_run_in_a_bucket_holds_what_a_run_on_disk_does(config, tmp_path):
    assert run(config, engine="local").exit_code == 0
    store = paths.join(folders.spectra_url(config), "spectra.zarr")
    paths.delete(paths.join(store, "ivar/c/1/0"))
    with pytest.raises(StoreError, match="gone, though block 1 is committed with it"):
        read_spectra(store, 4, 8)
    assert len(verify_run(config, mend=True)[0]) == 2
    assert run(config, engine="local").done == 1
    assert verify_run(config)[0] == []
    here = RunConfig(
        run=config.run.model_copy(update={"workspace": f"{tmp_path}/work"}),
        ingest=IngestTable(files=f"{tmp_path}/raw"),
        preprocess=PreprocessTable(),
    )
    run(here, engine="local")
    for folder in (folders.raw_url, folders.spectra_url):
        remote, local = folder(config), folder(here)
        assert len(Ledger(remote).commits()) == 3
        for index, result in Ledger(local).commits().items():
            shards = {k: v for k, v in result.objects.items() if k.startswith("spectra.zarr")}
            assert shards.items() <= Ledger(remote).commits()[index].objects.items()


def test_clean_leaves_in_a_bucket_what_is_young_too(config, bucket):
    workspace, digests = config.run.workspace, ("0" * 16, "f" * 16)
    unnamed = []
    for digest in digests:
        unnamed += [paths.join(workspace, "raw", digest, "parts", "000000-ab?.parquet")]
        paths.write_bytes(unnamed[-1], b"of an attempt that was killed")
    set_current(workspace, "raw", digests[0])
    unnamed[1] = paths.join(workspace, "raw", digests[1])
    assert clean_run(config, remove=True) == ([], unnamed)
    assert clean_run(config, remove=True, older_than=0) == (unnamed, [])
    assert paths.list_keys(workspace) == ["raw/current.json"]


def test_a_listed_object_that_is_missing_keeps_its_row(config, bucket):
    listed = ["0/spec-56000-TEST_sp01-000.fits", "0/gone.fits"]
    paths.write_bytes(paths.join(bucket, "raw", "list.txt"), "\n".join(listed).encode())
    table = IngestTable(files="@" + paths.join(bucket, "raw", "list.txt"))
    config = config.model_copy(update={"ingest": table, "preprocess": None})
    assert run(config, engine="local").exit_code == 0
    (result,) = Ledger(folders.raw_url(config)).commits().values()
    assert result.counts == {"OK": 1, "MISSING": 1, "fallbacks": 0}


def test_objects_of_a_prefix_that_is_gone_are_no_rows(config, bucket):
    (stage,) = ingest(config.model_copy(update={"preprocess": None}))
    prefix = config.ingest.files
    kept = {key: paths.read_bytes(paths.join(prefix, key)) for key in paths.list_keys(prefix)}
    first = min(kept)
    paths.delete(paths.join(prefix, first))
    assert sum(isinstance(piece.content, Exception) for piece in stage.read(stage.blocks[0])) == 1
    paths.delete_keys(prefix, list(kept))
    for block in stage.blocks:
        with pytest.raises(StoreError, match=r"gone or empty, though s3://.* was planned below it"):
            stage.read(block)
    for key, content in kept.items():
        paths.write_bytes(paths.join(prefix, key), content)
    assert all(isinstance(piece.content, bytes) for piece in stage.read(stage.blocks[0]))


def test_no_secret_travels_with_a_stage(config, secret):
    stage = next(ingest(config))
    stage.write(stage.blocks[0], stage.compute(None, stage.read(stage.blocks[0])))  # it was used
    for dumps in (pickle.dumps, cloudpickle.dumps):
        assert secret.encode() not in dumps(stage)
    assert secret not in repr(stage)


def test_a_worker_opens_the_store_with_its_own_environment(config):
    stage = next(ingest(config))
    code = (
        "import pickle, sys; stage = pickle.load(sys.stdin.buffer); block = stage.blocks[1];"
        "stage.write(block, stage.compute(None, stage.read(block)))"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(stage), check=True)
    assert Ledger(stage.url).done() == {1}


def test_a_wrong_secret_is_said_without_telling_it(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    url = paths.join(bucket, "x")
    calls = [
        lambda: paths.read_bytes(url),
        lambda: paths.write_bytes(url, b""),
        lambda: paths.exists(url),
        lambda: paths.list_keys(bucket),
        lambda: create_spectra(url, xr.Dataset(), n_spectrum=1, shard_rows=1),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="no permission: check owner or credentials") as caught:
            call()
        assert "another-secret" not in f"{caught.value!r} {caught.value.__cause__}"


def test_a_bucket_that_is_not_there_is_named(bucket):
    url = bucket.replace("s3://scalespec", "s3://nonesuch")
    with pytest.raises(StoreError, match=r"s3://nonesuch/.*not"):
        listing.list_files(url)
    with pytest.raises(StoreError, match=r"s3://nonesuch/.*not found"):
        paths.read_bytes(paths.join(url, "x"))


def test_the_paynes_file_is_a_model_in_a_bucket_too(bucket, tmp_path):
    spec = EmulatorSpec("toy", ("teff",), [4e3], [6e3], 5000.0 + np.arange(5))
    model = Payne(spec, hidden=(3, 3), activation="leaky_relu")
    export_payne(str(tmp_path / "toy.npz"), model)
    url = paths.join(bucket, "toy.npz")
    paths.write_bytes(url, (tmp_path / "toy.npz").read_bytes())
    assert load_model(url).spec.labels == ("teff",)
    assert checksum(url) == checksum(str(tmp_path / "toy.npz"))
    assert not is_regressor(url)
    assert CliRunner().invoke(main, ["inspect", url]).exit_code == 0
