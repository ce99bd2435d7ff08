"""Spectra in sharded Zarr: create from a template, write a block, open.

One block of spectra is one shard of every array, written by one writer; a write that is not whole
shards is refused, because two writers in one shard lose rows without a word.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import ObjectStore, WrapperStore

from scalespec.errors import StoreError
from scalespec.plan import Block
from scalespec.store import paths

CHUNK_ROWS = 256
"""Spectra per codec chunk: random chunks feed training at 40,000 spectra/s, rows alone at 1,000."""

P = ParamSpec("P")
T = TypeVar("T")


def _explained(call: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
    """Let what a disk or an object store says to Zarr become a StoreError that names the URL."""

    @wraps(call)
    def explained(url: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with paths.explained(url):
            return call(url, *args, **kwargs)

    return explained


class _HashingStore(WrapperStore[Store]):
    """Passes everything on, and remembers the SHA-256 of what is set."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.hashes: dict[str, str] = {}

    async def set(self, key: str, value: Buffer) -> None:
        self.hashes[key] = paths.sha256(value.to_bytes())
        await super().set(key, value)


def _store(url: str, *, read_only: bool = False) -> Store:
    return ObjectStore(paths.open_store(url), read_only=read_only)


def _open_group(url: str) -> zarr.Group:
    if not paths.exists(paths.join(url, "zarr.json")):
        raise StoreError(f"{url}: no spectra store there")
    return zarr.open_group(_store(url, read_only=True), mode="r", use_consolidated=False)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{group.store}: no array '{name}' in this spectra store")
    return array


def chunk_rows(rows: int) -> int:
    """Return the rows of a codec chunk in shards of `rows`.

    Examples
    --------
    >>> chunk_rows(4096), chunk_rows(100)
    (256, 100)
    """
    return CHUNK_ROWS if rows % CHUNK_ROWS == 0 else rows


@_explained
def create_spectra(url: str, template: xr.Dataset, *, n_spectrum: int, shard_rows: int) -> None:
    """Make an empty store for `n_spectrum` spectra; one that is there already is left alone.

    Parameters
    ----------
    url : str
        Where; the group's attributes are written last: a store is whole or is made again.
    template : xr.Dataset
        Any number of rows: gives variables, dtypes, coordinates without dim ``spectrum``, attrs.
    n_spectrum : int
        Rows of the store.
    shard_rows : int
        Rows per shard, that is per block.
    """
    group = zarr.open_group(_store(url), mode="a", use_consolidated=False)
    if "shard_rows" in group.attrs:
        return
    codec = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")
    for name in map(str, template.variables):
        variable = template.variables[name]
        if name == "label":  # its names are an attribute
            continue
        per_row = variable.dims[:1] == ("spectrum",)
        shape = ((n_spectrum,) if per_row else variable.shape[:1]) + variable.shape[1:]
        shards = (shard_rows, *variable.shape[1:])
        # Per-spectrum companions are one chunk a shard; pixels come in chunks a reader can shuffle.
        rows = chunk_rows(shard_rows) if variable.ndim > 1 else shard_rows
        array = group.create_array(
            name,
            shape=shape,
            dtype=variable.dtype,
            chunks=(rows, *variable.shape[1:]) if per_row else shape,
            shards=shards if per_row else None,
            compressors=codec,
            fill_value=0,
            dimension_names=[str(d) for d in variable.dims],
            attributes=_plain(variable.attrs),
            overwrite=True,
        )
        if not per_row:
            array[...] = variable.values
    group.attrs.update(_plain(template.attrs) | {"shard_rows": shard_rows})


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON can hold them."""
    return {
        str(k): v.tolist() if isinstance(v, np.ndarray | np.generic) else v
        for k, v in attrs.items()
    }


@_explained
def write_spectra(url: str, block: Block, data: xr.Dataset) -> dict[str, str]:
    """Write one block, whole shards only.

    Returns
    -------
    dict
        Object key relative to `url` -> sha256 of the bytes stored.

    Raises
    ------
    StoreError
        If the block is not exactly one shard of the store, or holds another number of rows.
    """
    hashing = _HashingStore(_store(url))
    group = zarr.open_group(hashing, mode="r+", use_consolidated=False)
    rows = int(group.attrs["shard_rows"])  # type: ignore[arg-type]
    for name, variable in data.variables.items():
        if variable.dims[:1] != ("spectrum",):  # coordinates were written with the store
            continue
        array = _array(group, str(name))
        n = array.shape[0]
        whole = block.start % rows == 0 and block.stop == min(block.start + rows, n)
        if not whole or variable.shape[0] != block.size:
            raise StoreError(
                f"{url}: rows {block.start}:{block.stop} with {variable.shape[0]} spectra are not "
                f"one whole shard of {rows}: two writers in one shard lose rows"
            )
        array[block.start : block.stop] = variable.values
    return dict(sorted(hashing.hashes.items()))


@_explained
def read_spectra(
    url: str, start: int, stop: int, *, names: Iterable[str] | None = None
) -> xr.Dataset:
    """Read rows ``[start, stop)`` into memory, with coordinates and attributes.

    Raises
    ------
    StoreError
        If there is no spectra store at `url`, or a shard of it is damaged.
    """
    group = _open_group(url)
    wanted = None if names is None else set(names)
    variables: dict[str, xr.Variable] = {}
    for name, array in group.arrays():
        dims = tuple(str(dim) for dim in getattr(array.metadata, "dimension_names", None) or ())
        per_row = dims[:1] == ("spectrum",)
        if per_row and wanted is not None and name not in wanted:
            continue
        try:
            values = array[start:stop] if per_row else array[...]
        except (ValueError, RuntimeError) as error:  # what checksums and codecs raise
            raise StoreError(
                f"{url}: '{name}', rows {start}:{stop}, is damaged: {error}"
            ) from error
        variables[name] = xr.Variable(dims, np.asarray(values), dict(array.attrs))
    coords = {n: v for n, v in variables.items() if v.dims == (n,)}
    data = {n: v for n, v in variables.items() if n not in coords}
    return _named(xr.Dataset(data, coords=coords, attrs=dict(group.attrs)))


def _named(spectra: xr.Dataset) -> xr.Dataset:
    """Give dim ``label`` its coordinate: strings are attributes in the store, not arrays."""
    names = spectra.attrs.get("label_names")
    return spectra if names is None else spectra.assign_coords(label=("label", list(names)))


def read_rows(url: str, rows: npt.NDArray[np.int64]) -> xr.Dataset:
    """Read scattered rows into memory, in the order given, a codec chunk at a time.

    Raises
    ------
    StoreError
        If there is no spectra store at `url`.
    """
    size = chunk_rows(int(read_spectra(url, 0, 0).attrs["shard_rows"]))
    parts, places = [], []
    for chunk in np.unique(rows // size):
        here = np.flatnonzero(rows // size == chunk)
        start = int(chunk) * size
        part = read_spectra(url, start, start + size)
        parts.append(part.isel(spectrum=rows[here] - start))
        places.append(here)
    if not parts:
        return read_spectra(url, 0, 0)
    joined = xr.concat(parts, dim="spectrum", data_vars="minimal", combine_attrs="override")
    return joined.isel(spectrum=np.argsort(np.concatenate(places), kind="stable"))


def count_spectra(url: str) -> int:
    """Return the number of rows of the store at `url`."""
    return int(_array(_open_group(url), "status").shape[0])


def open_spectra(url: str) -> xr.Dataset:
    """Open a spectra store lazily, one Dask chunk per shard.

    Parameters
    ----------
    url : str
        A ``spectra.zarr`` of ours, local or ``s3://``.

    Returns
    -------
    xr.Dataset
        Dims ``(spectrum, wavelength)``: flux, ivar float32, mask uint32; per-spectrum variables.

    Raises
    ------
    StoreError
        If there is no spectra store at `url`.
    """
    group = _open_group(url)
    rows = int(group.attrs["shard_rows"])  # type: ignore[arg-type]
    store = _store(url, read_only=True)
    spectra: xr.Dataset = xr.open_zarr(store, chunks={"spectrum": rows}, consolidated=False)
    return _named(spectra)


def memory_bytes(rows: int, n_pixel: int) -> int:
    """Return what a worker holds for blocks of `rows` spectra: read ahead, at work, written behind.

    Examples
    --------
    >>> memory_bytes(4096, 3909) // 2**20
    976
    """
    one = rows * n_pixel * 12  # flux, ivar, mask
    return math.ceil(one * 5.33)
