"""Many objects at once: in order, with their identity, each with its own error."""

import threading
import types

import pytest

from scalespec.errors import StoreError
from scalespec.store import fetch, paths
from scalespec.store.fetch import read_entry
from scalespec.store.listing import entry


def test_a_file_comes_with_what_identifies_it(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    content, found = read_entry(f"{tmp_path}/x")
    assert content == b"abc"
    assert found == entry(f"{tmp_path}/x")
    with pytest.raises(StoreError, match=f"{tmp_path}/y: not found"):
        read_entry(f"{tmp_path}/y")


@pytest.mark.parametrize("most", [1, 7, 2**20])
@pytest.mark.parametrize("size", [0, 5, 10, 12])
def test_all_of_a_file_is_read_whatever_its_size_was_and_one_call_gives(
    tmp_path, monkeypatch, size, most
):
    content = b"0123456789"
    (tmp_path / "x").write_bytes(content)
    stat, read = fetch.os.fstat, fetch.os.read
    when = types.SimpleNamespace(st_size=size, st_mtime=1.5)  # while it was being written
    monkeypatch.setattr(fetch.os, "fstat", lambda file: when if stat(file) else None)
    monkeypatch.setattr(fetch.os, "read", lambda file, n: read(file, min(n, most)))
    found, known = read_entry(f"{tmp_path}/x")
    assert found == content
    assert (known.size, known.modified) == (size, 1.5)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(StoreError, match="Is a directory"):
        read_entry(str(tmp_path))


def test_files_stay_in_order_and_one_that_is_missing_is_its_error(tmp_path):
    urls = [f"{tmp_path}/{i}" for i in range(50)]
    for i, url in enumerate(urls):
        if i != 7:
            paths.write_bytes(url, b"%d" % i)
    found = fetch.fetch(urls)
    assert isinstance(found[7], StoreError)
    assert "/7: not found" in str(found[7])
    assert [one[0] for i, one in enumerate(found) if i != 7] == [
        b"%d" % i for i in range(50) if i != 7
    ]


@pytest.mark.parametrize("in_flight", [1, 5, 64])
def test_as_many_are_in_flight_as_was_said(tmp_path, monkeypatch, in_flight):
    urls = [f"{tmp_path}/{i}" for i in range(64)]
    now, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(in_flight)

    def slow(url):
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        if int(url.rpartition("/")[2]) < in_flight:
            together.wait(10)
        with lock:
            now -= 1
        return b"", None

    monkeypatch.setattr(fetch, "read_entry", slow)
    fetch.fetch(urls, in_flight)
    assert most == in_flight


def test_files_of_a_prompt_disk_are_read_by_one_thread(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(fetch, "PROMPT_S", 10.0)  # prompt even on a machine that is busy
    monkeypatch.setattr(fetch, "read_entry", lambda url: seen.append(threading.get_ident()))
    fetch.fetch([f"{tmp_path}/{i}" for i in range(50)])
    assert seen == [threading.get_ident()] * 50


def test_nothing_is_fetched_of_nothing():
    assert fetch.fetch([]) == []
