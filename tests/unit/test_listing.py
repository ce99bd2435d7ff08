"""Listing: the order of keys, many folders at once, links, odd names, and what identifies files."""

import os
from datetime import UTC, datetime

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from scalespec.store import listing, paths
from scalespec.store.listing import Entry, identify, iterate_files, list_files, split_glob

BUCKET = "s3://bucket"


@pytest.fixture
def bucket(monkeypatch):
    """An object store in memory, of which a prefix is opened like S3's."""
    memory = MemoryStore()
    monkeypatch.setattr(paths, "open_store", lambda url: {BUCKET: memory}[url])
    return memory


def names(found, root):
    return [entry.url.removeprefix(f"{root}/") for entry in found]


NAMES = st.lists(
    st.lists(
        st.sampled_from(["a", "a-b", "a.b", "ab", "b", "A", "é", "0"]), min_size=1, max_size=3
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(tree=NAMES)
def test_a_disk_is_listed_in_the_order_of_its_keys(tmp_path_factory, tree):
    """That of a bucket: '/' sorts among the other characters, behind '-' and '.'."""
    root = tmp_path_factory.mktemp("tree")
    for parts in tree:
        path = root.joinpath(*parts[:-1], f"{parts[-1]}.fits")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    wanted = [str(p.relative_to(root)) for p in root.rglob("*.fits") if p.is_file()]
    found = names(iterate_files(f"{root}/**/*.fits"), root)
    assert found == sorted(wanted, key=str.encode)


def test_many_folders_are_listed_at_once_and_come_in_order(tmp_path):
    for i in range(100):
        (tmp_path / f"{i:03d}").mkdir()
        for k in range(3):
            (tmp_path / f"{i:03d}" / f"spec-{k}.fits").write_bytes(b"x" * k)
    found = list_files(f"{tmp_path}/*/spec-*.fits")
    assert [entry.size for entry in found] == [0, 1, 2] * 100
    assert names(found, tmp_path) == [
        f"{i:03d}/spec-{k}.fits" for i in range(100) for k in range(3)
    ]


def test_a_large_folder_is_held_in_columns_and_sorted(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "ROWS", 7)  # so that a small folder is a large one
    for i in range(50):
        (tmp_path / f"{(i * 37) % 50:02d}").touch()
    assert names(list_files(f"{tmp_path}/*"), tmp_path) == [f"{i:02d}" for i in range(50)]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*/x", ["a/x", "b/x"]),
        ("*/*/x", ["a/b/x"]),
        ("**/x", ["a/b/x", "a/x", "b/x", "x"]),
        ("a/**", ["a/b/x", "a/x", "a/y"]),
        ("a/**/x", ["a/b/x", "a/x"]),
        ("[ab]/x", ["a/x", "b/x"]),
        ("?", ["x"]),
    ],
)
def test_globs_go_only_where_they_may_match(tmp_path, glob, found, monkeypatch):
    for name in ("x", "a/x", "a/y", "a/b/x", "b/x", "deep/er/and/deeper/z"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    scanned, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(str(path)) or scandir(path))
    assert names(list_files(f"{tmp_path}/{glob}"), tmp_path) == found
    if "**" not in glob:
        assert not [path for path in scanned if "deeper" in path]


def test_links_are_followed_but_never_in_circles(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(b"12")
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "data" / "up").symlink_to("..")
    (tmp_path / "data" / "nowhere").symlink_to("gone")
    found = list_files(f"{tmp_path}/**")
    assert names(found, tmp_path) == ["data/x", "link/x"]
    assert [entry.size for entry in found] == [2, 2]


def test_names_that_are_no_text_are_listed(tmp_path):
    (tmp_path / os.fsdecode(b"spec-\xff.fits")).write_bytes(b"1")
    (entry,) = list_files(f"{tmp_path}/*.fits")
    assert paths.read_bytes(entry.url) == b"1"


@pytest.mark.parametrize(
    ("pattern", "split"),
    [
        ("/a/b", ("/a/b", "**")),
        ("/a/*/c", ("/a", "*/c")),
        ("*.fits", (".", "*.fits")),
        ("/*", ("/", "*")),
        ("s3://b/a?region=x", ("s3://b/a?region=x", "**")),
    ],
)
def test_a_glob_begins_where_the_first_wildcard_is(pattern, split):
    assert split_glob(pattern) == split


def test_a_file_that_is_not_there_has_no_size(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    os.utime(tmp_path / "x", (5, 5))
    urls = [f"{tmp_path}/gone", f"{tmp_path}/x"]
    assert identify(urls) == [Entry(urls[0], -1, 0.0), Entry(urls[1], 3, 5.0)]


def test_of_a_bucket_folders_are_listed_where_many_are_wanted(bucket, monkeypatch):
    for i in range(20):
        obstore.put(bucket, f"dr/many/{i:02d}", b"x" * i)
    obstore.put(bucket, "dr/few/00", b"abc")
    asked, head = [], paths.head
    monkeypatch.setattr(paths, "head", lambda url: asked.append(url) or head(url))
    urls = [f"{BUCKET}/dr/many/{i:02d}" for i in range(19, -1, -1)]
    urls += [f"{BUCKET}/dr/many/gone", f"{BUCKET}/dr/few/00", f"{BUCKET}/dr/few/gone"]
    found = identify(urls)
    assert [entry.url for entry in found] == urls
    assert [entry.size for entry in found] == [*range(19, -1, -1), -1, 3, -1]
    assert sorted(asked) == sorted(urls[-2:])
    assert all(entry.etag for entry in found if entry.size >= 0)
    now = datetime.now(UTC).timestamp()
    assert all(abs(entry.modified - now) < 60 for entry in found if entry.size >= 0)
