"""Requests side by side: of small objects an answer takes longer than its bytes."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

P = TypeVar("P")
T = TypeVar("T")

AT_ONCE = 16


def each(call: Callable[[P], T], items: Iterable[P]) -> list[T]:
    """Return what `call` says of each item, in their order, `AT_ONCE` of them at a time.

    What it raises is raised here, and no item is begun after that.

    Examples
    --------
    >>> each(len, ["sun", "moon"])
    [3, 4]
    """
    many = list(items)
    if len(many) < 2:
        return [call(item) for item in many]
    pool = ThreadPoolExecutor(min(AT_ONCE, len(many)))
    try:
        return list(pool.map(call, many))
    finally:
        pool.shutdown(cancel_futures=True)
