"""URLs and bytes on a local disk; tests/integration/test_s3.py holds the same for a bucket."""

import threading
from pathlib import Path

import pytest

from scalespec.errors import StoreError
from scalespec.store import listing, paths

S3 = "s3://bucket/run?region=x"


@pytest.mark.parametrize(
    ("url", "parts", "joined"),
    [
        ("run", ("raw",), "run/raw"),
        ("/run/", ("raw", "a.json"), "/run/raw/a.json"),
        ("/", ("raw",), "/raw"),
        ("what?.d", ("raw",), "what?.d/raw"),  # a local name may hold a question mark
        (S3, ("raw", "a"), "s3://bucket/run/raw/a?region=x"),
        ("s3://bucket", ("a",), "s3://bucket/a"),
        (S3, ("a#1 50%.fits",), "s3://bucket/run/a#1 50%.fits?region=x"),  # as it always was
        (S3, ("a?b", "50%3F"), "s3://bucket/run/a%3Fb/50%253F?region=x"),
    ],
)
def test_join_keeps_the_query_behind_the_path(url, parts, joined):
    assert paths.join(url, *parts) == joined


@pytest.mark.parametrize(
    "key", ["a?b", "a%3Fb", "a%253Fb", "%%3F", "%2?", "?%25", "a%20#1", "%3?F"]
)
def test_a_key_comes_back_from_its_url(key):
    url = paths.join(S3, "deep", key)
    assert paths.split(url) == ("s3://bucket/run/deep?region=x", key)
    assert paths.opened(url)[1] == f"run/deep/{key}"
    assert paths.join(paths.split(url)[0], key) == url
    assert paths.open_store(url).prefix == f"run/deep/{key}"


def test_local_path_refuses_an_object_store():
    assert str(paths.local_path("file:///a/b")) == "/a/b"
    with pytest.raises(StoreError, match="s3://b/x: wanted a local path"):
        paths.local_path("s3://b/x")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://b/x", "scheme 'gs' is not known"),
        ("s3://b/x?secret_access_key=hush", r"unknown options \['secret_access_key'\]"),
    ],
)
def test_urls_that_cannot_be_opened_say_what_is_known(url, message):
    with pytest.raises(StoreError, match=message):
        paths.open_store(url)


def test_bytes_come_back_and_are_replaced_whole(tmp_path):
    url = f"{tmp_path}/deep/er/x.bin"
    assert paths.write_bytes(url, b"first, and longer")
    assert paths.write_bytes(url, b"second")
    assert paths.read_bytes(url) == b"second"
    beside = [path.name for path in (tmp_path / "deep" / "er").iterdir()]
    assert beside == ["x.bin"]  # no half-written neighbour


def test_create_leaves_what_is_there(tmp_path):
    url = f"{tmp_path}/x"
    assert paths.write_bytes(url, b"mine", create=True)
    assert not paths.write_bytes(url, b"yours", create=True)
    assert paths.read_bytes(url) == b"mine"


def test_of_many_creators_exactly_one_wins(tmp_path):
    won = []
    ready = threading.Barrier(8)

    def create(i):
        ready.wait()
        won.append(paths.write_bytes(f"{tmp_path}/x", b"%d" % i, create=True) and i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = filter(None, won)
    assert paths.read_bytes(f"{tmp_path}/x") == b"%d" % winner


def test_what_is_missing_is_said_and_deleting_it_is_no_error(tmp_path):
    url = f"{tmp_path}/nowhere/x"
    assert not paths.exists(url)
    with pytest.raises(StoreError, match=f"{url}: not found"):
        paths.read_bytes(url)
    paths.delete(url)
    assert paths.delete_tree(f"{tmp_path}/no") == 0
    assert paths.list_keys(f"{tmp_path}/no") == []


@pytest.fixture
def tree(tmp_path):
    """Files at several depths; the folder's URL."""
    for name in ("spec-1.fits", "a/spec-2.fits.gz", "a/b/spec-3.fits.gz", "a/b/other.txt"):
        paths.write_bytes(f"{tmp_path}/{name}", name.encode())
    return str(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a/b/other.txt", "a/b/spec-3.fits.gz", "a/spec-2.fits.gz", "spec-1.fits"]),
        ("/**/spec-*.fits*", ["a/b/spec-3.fits.gz", "a/spec-2.fits.gz", "spec-1.fits"]),
        ("/*", ["spec-1.fits"]),  # a star does not look into folders
        ("/a/*.gz", ["a/spec-2.fits.gz"]),
        ("/a/b/spec-[0-9].fits.gz", ["a/b/spec-3.fits.gz"]),
        ("/a/spec-2.fits.gz", ["a/spec-2.fits.gz"]),  # one name
        ("/*/none", []),
    ],
)
def test_list_files_by_glob_folder_or_name(tree, pattern, names):
    found = listing.list_files(tree + pattern)
    assert [entry.url for entry in found] == [f"{tree}/{name}" for name in names]
    assert [entry.size for entry in found] == [len(name) for name in names]


def test_list_files_says_when_the_folder_is_missing(tree):
    with pytest.raises(StoreError, match=f"{tree}/nope: no such file or folder"):
        listing.list_files(f"{tree}/nope/*.fits")


def test_keys_are_relative_and_sorted(tree):
    assert paths.list_keys(f"{tree}/a") == ["b/other.txt", "b/spec-3.fits.gz", "spec-2.fits.gz"]


def test_delete_tree_takes_half_written_files_along(tree):
    Path(tree, "a", "b", "part.parquet#1").write_bytes(b"half")  # left by a kill
    assert paths.delete_tree(f"{tree}/a") == 3
    assert [path.name for path in Path(tree).iterdir()] == ["spec-1.fits"]


def test_a_message_tells_what_happened_without_the_stores_dump(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=f"^{tmp_path}/folder: .*Is a directory") as caught:
        paths.write_bytes(f"{tmp_path}/folder", b"over a folder")
    assert "Debug" not in str(caught.value)
