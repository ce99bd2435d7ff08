"""Many objects at once: in order, with their identity, each with its own error."""

import errno
import os
import threading
import types

import pytest

from scalespec.errors import StoreError
from scalespec.store import fetch, paths
from scalespec.store.fetch import is_lasting, read_entry
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


def _refused(url, number):
    """Return the error that a disk's refusal ends in."""
    with pytest.raises(StoreError) as raised, paths.explained(url):
        raise OSError(number, os.strerror(number))  # becomes the class of its number
    return raised.value


@pytest.mark.parametrize(
    ("number", "lasting"),
    [
        (errno.ENOENT, True),
        (errno.ENOTDIR, True),  # a file where the name wants a folder
        (errno.EISDIR, True),
        (errno.ENAMETOOLONG, True),
        (errno.ELOOP, True),
        (errno.EIO, False),
        (errno.ESTALE, False),
        (errno.EMFILE, False),
        (errno.ETIMEDOUT, False),
        (errno.EACCES, False),  # of a file whose mode allows it: a ticket has expired
    ],
)
def test_what_a_disk_says_of_a_name_stays_and_all_else_may_pass(tmp_path, number, lasting):
    (tmp_path / "x").write_bytes(b"")
    assert is_lasting(f"{tmp_path}/x", _refused(f"{tmp_path}/x", number)) == lasting


@pytest.mark.parametrize(
    ("file", "folder", "lasting"),
    [
        (0o644, 0o755, False),
        (0o200, 0o755, True),
        (0o044, 0o755, True),  # the owner is none of the others
        (0o644, 0o600, True),  # a folder that is not to be entered
        (0o644, 0o700, False),
    ],
)
def test_a_file_is_closed_by_its_mode_or_its_folders(tmp_path, monkeypatch, file, folder, lasting):
    path = tmp_path / "in" / "x"
    path.parent.mkdir()
    path.write_bytes(b"")
    error = _refused(str(path), errno.EACCES)
    path.chmod(file)
    path.parent.chmod(folder)
    if not folder & 0o100:  # root may enter it
        stat = type(path).stat

        def refused(self, **how):
            if self == path:
                raise PermissionError(errno.EACCES, "Permission denied")
            return stat(self, **how)

        monkeypatch.setattr(type(path), "stat", refused)
    found = is_lasting(str(path), error)
    path.parent.chmod(0o755)
    assert found == lasting


@pytest.mark.parametrize("in_flight", [None, 4])
def test_an_error_that_may_pass_is_raised_and_the_rest_is_not_asked_for(
    tmp_path, monkeypatch, in_flight
):
    seen = []

    def broken(url):
        seen.append(url)
        raise _refused(url, errno.EIO)

    monkeypatch.setattr(fetch, "PROMPT_S", 10.0)  # one thread, unless more are asked for
    monkeypatch.setattr(fetch, "read_entry", broken)
    with pytest.raises(StoreError, match=f"{tmp_path}/.*Input/output error"):
        fetch.fetch([f"{tmp_path}/{i}" for i in range(1000)], in_flight)
    assert len(seen) <= (in_flight or 1)
