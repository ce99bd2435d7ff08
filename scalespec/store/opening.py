"""Groups and arrays of a spectra store, opened by zarr-python; what goes wrong names the URL."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import zarr

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.wrapped import zarr_store

P = ParamSpec("P")
T = TypeVar("T")


def explained(call: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
    """Let what a disk or an object store says to Zarr become a StoreError that names the URL."""

    @wraps(call)
    def explained(url: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with paths.explained(url):
            return paths.persistent(lambda: call(url, *args, **kwargs))

    return explained


def open_group(url: str) -> zarr.Group:
    """Open the group at `url` to be read; StoreError if there is none."""
    if not paths.exists(paths.join(url, "zarr.json")):
        raise StoreError(f"{url}: no spectra store there")
    return zarr.open_group(zarr_store(url, read_only=True), mode="r", use_consolidated=False)


def open_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return an array of a group; StoreError if it has none of that name."""
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{group.store}: no array '{name}' in this spectra store")
    return array


def dims_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Return the names of an array's axes; none where it does not say."""
    return tuple(str(dim) for dim in getattr(array.metadata, "dimension_names", None) or ())
