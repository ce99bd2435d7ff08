"""One way to compile a loop over pixels: numba, one thread, results that repeat bit for bit."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])

_FASTER = {"contract", "reassoc", "arcp", "nsz"}
"""Sums may be reordered and fused; NaN and infinity keep their meaning."""


def compiled(function: Function) -> Function:
    """Return `function` compiled at its first call, and from then on read from numba's cache."""
    return cast(Function, numba.njit(cache=True, fastmath=_FASTER, nogil=True)(function))
