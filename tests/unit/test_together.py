"""Requests that wait for each other can only be answered side by side."""

import threading
import time

import pytest

from scalespec.plan import Block, BlockResult
from scalespec.store import ledger, together
from scalespec.store.ledger import Ledger


def test_items_are_asked_side_by_side_and_answered_in_order():
    both = threading.Barrier(2, timeout=10)

    def asked(n):
        both.wait()
        return n + 1

    assert together.each(asked, iter(range(8))) == list(range(1, 9))
    assert together.each(asked, []) == []


def test_what_a_call_raises_is_raised_and_the_others_are_not_begun(monkeypatch):
    monkeypatch.setattr(together, "AT_ONCE", 2)
    begun = []

    def failing(n):
        begun.append(n)
        time.sleep(0.01)
        raise ValueError(f"item {n}")

    with pytest.raises(ValueError, match="item 0"):
        together.each(failing, range(1000))
    assert len(begun) < 1000


def test_commits_are_read_side_by_side(tmp_path, monkeypatch):
    """Of ten million spectra there are thousands, each a request."""
    for index in range(6):
        block = Block("spectrum", index, index, index + 1)
        Ledger(str(tmp_path)).commit(block, BlockResult(1, {}, {"OK": index}, "a"))
    both, read = threading.Barrier(3, timeout=10), ledger.read_json

    def together_read(url):
        both.wait()
        return read(url)

    monkeypatch.setattr(ledger, "read_json", together_read)
    commits = Ledger(str(tmp_path)).commits()
    assert {index: one.counts["OK"] for index, one in commits.items()} == {n: n for n in range(6)}
