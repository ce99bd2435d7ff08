"""One way to compile a loop over pixels: numba, one thread, results that repeat bit for bit."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])

_FASTER = {"contract", "reassoc", "arcp", "nsz"}
"""Sums may be reordered and fused; NaN and infinity keep their meaning."""


def compiled(function: Function) -> Function:
    """Return `function` compiled at its first call, and from then on read from numba's cache.

    Where no folder can be written to, as in a sealed container, each process compiles for itself.
    """
    # Division by 0 is infinity or NaN, as in NumPy: looking out for it would undo vector loops.
    options = {"fastmath": _FASTER, "error_model": "numpy", "nogil": True}
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # what numba raises when it finds no place for its cache
        made = numba.njit(**options)(function)
    return cast(Function, made)
