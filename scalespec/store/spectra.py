"""Spectra in sharded Zarr: create from a template, write a block, open.

One block of spectra is one shard of every array, written by one writer; a write that is not whole
shards is refused, because two writers in one shard lose rows without a word.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from scalespec.errors import StoreError
from scalespec.plan import Block
from scalespec.schema import PER_SPECTRUM, SpectrumStatus
from scalespec.store import paths
from scalespec.store.encoding import Encoding, round_bits
from scalespec.store.fixed import is_recorded, record_fixed
from scalespec.store.layout import layout_of
from scalespec.store.opening import dims_of, explained, open_array, open_group
from scalespec.store.wrapped import HashingStore, zarr_store

CHUNK_ROWS = 256
"""Spectra per codec chunk: random chunks feed training at 40,000 spectra/s, rows alone at 1,000."""

OWN = ("shard_rows", "ends", "codec", "lossy_bits")
"""Attributes of a store itself, which no store made from it takes over."""
UNPLANNED: dict[str, float | int] = {
    **{name: unknown for name, (_, unknown, _) in PER_SPECTRUM.items()},
    "status": int(SpectrumStatus.PADDING),
}
"""What rows hold that no spectrum was planned for; ivar 0 in all of them."""


def chunk_rows(rows: int) -> int:
    """Return the rows of a codec chunk in shards of `rows`.

    Examples
    --------
    >>> chunk_rows(4096), chunk_rows(100)
    (256, 100)
    """
    return CHUNK_ROWS if rows % CHUNK_ROWS == 0 else rows


def create_spectra(
    url: str,
    template: xr.Dataset,
    *,
    n_spectrum: int,
    shard_rows: int,
    encoding: Encoding = Encoding(),  # noqa: B008 - frozen
) -> None:
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
    encoding : Encoding
        How pixels are kept.

    Raises
    ------
    StoreError
        If the store cannot be made there.

    See Also
    --------
    open_spectra : has an example of making, writing and reading.

    Examples
    --------
    The second call finds a store and leaves it alone:

    >>> import tempfile
    >>> star = xr.Dataset({"status": ("spectrum", np.zeros(1, np.uint32))})
    >>> with tempfile.TemporaryDirectory() as url:
    ...     create_spectra(url, star, n_spectrum=6, shard_rows=4)
    ...     create_spectra(url, star, n_spectrum=9, shard_rows=4)
    ...     count_spectra(url)
    6
    """
    create_arms(
        url, {"": template}, n_spectrum=n_spectrum, shard_rows=shard_rows, encoding=encoding
    )


@explained
def _create(
    url: str, template: xr.Dataset, n_spectrum: int, shard_rows: int, encoding: Encoding
) -> None:
    group = zarr.open_group(zarr_store(url), mode="a", use_consolidated=False)
    if "shard_rows" in group.attrs:
        return
    for name in map(str, template.variables):
        variable = template.variables[name]
        if name == "label":  # its names are an attribute
            continue
        per_row = variable.dims[:1] == ("spectrum",)
        shape = ((n_spectrum,) if per_row else variable.shape[:1]) + variable.shape[1:]
        shards = (shard_rows, *variable.shape[1:])
        # Per-spectrum companions are one chunk a shard; pixels come in chunks a reader can shuffle.
        rows = chunk_rows(shard_rows) if variable.ndim > 1 else shard_rows
        attrs, codecs = encoding.of(name, variable.dtype, variable.ndim)
        array = group.create_array(
            name,
            shape=shape,
            dtype=variable.dtype,
            chunks=(rows, *variable.shape[1:]) if per_row else shape,
            shards=shards if per_row else None,
            fill_value=UNPLANNED.get(name, 0) if per_row else 0,
            dimension_names=[str(d) for d in variable.dims],
            attributes=_plain(variable.attrs) | attrs,
            overwrite=True,
            **codecs,
        )
        if not per_row:
            array[...] = variable.values
    facts = {name: value for name, value in _plain(template.attrs).items() if name not in OWN}
    group.attrs.update(facts | encoding.attrs() | {"shard_rows": shard_rows})


def grow_spectra(url: str, ends: Sequence[int]) -> None:
    """Make room for further rows; nothing that is stored is touched.

    Parameters
    ----------
    url : str
        A spectra store, with or without arms.
    ends : sequence of int
        Rows behind the last one of each segment; a block ends there or is a whole shard.

    Raises
    ------
    StoreError
        If there is no spectra store at `url`.

    Examples
    --------
    >>> import tempfile
    >>> stars = xr.Dataset({"status": ("spectrum", np.zeros(4, np.uint32))})
    >>> with tempfile.TemporaryDirectory() as url:
    ...     create_spectra(url, stars, n_spectrum=4, shard_rows=4)
    ...     _ = write_spectra(url, Block("spectrum", 0, 0, 4), stars)
    ...     grow_spectra(url, [4, 6])
    ...     open_spectra(url).status.values == SpectrumStatus.PADDING
    array([False, False, False, False,  True,  True])
    """
    grown = [_grow(_group(url, name), list(ends)) for name in (*arm_names(url), "")]
    if any(grown):
        _record(url)


@explained
def _grow(url: str, ends: list[int]) -> bool:
    group = zarr.open_group(zarr_store(url), mode="r+", use_consolidated=False)
    before: Any = group.attrs.get("ends") or [count_spectra(url)]
    if ends[-1] <= before[-1]:
        return False
    for _, array in group.arrays():
        if dims_of(array)[:1] == ("spectrum",) and array.shape[0] < ends[-1]:
            array.resize((ends[-1], *array.shape[1:]))
    group.attrs.update({"ends": ends})  # last: a kill before it is mended by the next call
    return True


def _record(url: str) -> None:
    """Keep the checksums of what no block writes."""
    per_row = set()
    for arm in ("", *arm_names(url)):
        for name, array in open_group(_group(url, arm)).arrays():
            if dims_of(array)[:1] == ("spectrum",):
                per_row.add(f"{arm}/{name}" if arm else name)
    record_fixed(url, frozenset(per_row))


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON can hold them."""
    return {
        str(k): v.tolist() if isinstance(v, np.ndarray | np.generic) else v
        for k, v in attrs.items()
    }


@explained
def write_spectra(url: str, block: Block, data: xr.Dataset) -> dict[str, str]:
    """Write one block, whole shards only; pixels lose the bits that the store does not keep.

    Returns
    -------
    dict
        Object key relative to `url` -> sha256 of the bytes stored.

    Raises
    ------
    StoreError
        If the block is not exactly one shard of the store, or holds another number of rows.
    """
    layout = layout_of(url)
    rows = int(layout.attrs["shard_rows"])
    hashes: dict[str, str] = {}
    for name, variable in data.variables.items():
        if variable.dims[:1] != ("spectrum",):  # coordinates were written with the store
            continue
        held = layout.arrays.get(str(name))
        if held is None:
            raise StoreError(f"{url}: no array '{name}' in this spectra store")
        ends = layout.attrs.get("ends") or held.array.shape[:1]
        end = next((end for end in ends if end > block.start), 0)
        whole = block.start % rows == 0 and block.stop == min(block.start + rows, end)
        if not whole or variable.shape[0] != block.size:
            raise StoreError(
                f"{url}: rows {block.start}:{block.stop} with {variable.shape[0]} spectra are not "
                f"one whole shard of {rows}: two writers in one shard lose rows"
            )
        bits = held.attrs.get("lossy_bits")
        values = variable.values if bits is None else round_bits(variable.values, bits)
        if held.shards:
            hashes |= held.shards.write(url, str(name), block.start // rows, values)
        else:
            hashes |= _write_by_zarr(url, str(name), block, values)
    return dict(sorted(hashes.items()))


def _write_by_zarr(url: str, name: str, block: Block, values: npt.NDArray[Any]) -> dict[str, str]:
    hashing = HashingStore(zarr_store(url))
    group = zarr.open_group(hashing, mode="r+", use_consolidated=False)
    open_array(group, name)[block.start : block.stop] = values
    return hashing.hashes


def create_arms(
    url: str,
    groups: Mapping[str, xr.Dataset],
    *,
    n_spectrum: int,
    shard_rows: int,
    encoding: Encoding = Encoding(),  # noqa: B008 - frozen
) -> None:
    """Make an empty store: `create_spectra` of the root, "", and below it of each arm.

    The root, which says that the store is whole, is made last.
    """
    for name in sorted(groups, reverse=True):
        _create(_group(url, name), groups[name], n_spectrum, shard_rows, encoding)
    if not is_recorded(url):
        _record(url)


def write_arms(url: str, block: Block, groups: Mapping[str, xr.Dataset]) -> dict[str, str]:
    """Write one block of the root and of each arm: `write_spectra`, keys relative to `url`."""
    hashes: dict[str, str] = {}
    for name, group in groups.items():
        prefix = f"{name}/" if name else ""
        written = write_spectra(_group(url, name), block, group)
        hashes |= {prefix + key: value for key, value in written.items()}
    return dict(sorted(hashes.items()))


@explained
def arm_names(url: str) -> tuple[str, ...]:
    """Return the arms of the store at `url`; of a store whose root has the pixels, none."""
    return tuple(map(str, layout_of(url).attrs.get("arms", [])))


def _group(url: str, name: str) -> str:
    return paths.join(url, name) if name else url


@explained
def read_spectra(
    url: str,
    start: int,
    stop: int,
    *,
    names: Iterable[str] | None = None,
    without: Collection[str] = (),
) -> xr.Dataset:
    """Read rows ``[start, stop)`` into memory, with coordinates and attributes.

    Of their variables it reads those called `names`, or all, but for those that are not wanted.

    Raises
    ------
    StoreError
        If there is no spectra store at `url`, or a shard of it is damaged.
    """
    layout = layout_of(url)
    wanted = None if names is None else set(names)
    variables = {
        name: array.variable(start, stop)
        for name, array in layout.arrays.items()
        if name not in without and (wanted is None or name in wanted or not array.per_row)
    }
    coords = {n: v for n, v in variables.items() if v.dims == (n,)}
    data = {n: v for n, v in variables.items() if n not in coords}
    return _named(xr.Dataset(data, coords=coords, attrs=deepcopy(layout.attrs)))


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


@explained
def count_spectra(url: str) -> int:
    """Return the number of rows of the store at `url`."""
    return int(open_array(open_group(url), "status").shape[0])


@explained
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

    Examples
    --------
    One block of four stars in a store for six; the other two have yet to come (status PADDING):

    >>> import tempfile
    >>> stars = xr.Dataset({"flux": (("spectrum", "wavelength"), np.ones((4, 2), np.float32)),
    ...                     "status": ("spectrum", np.zeros(4, np.uint32))},
    ...                    coords={"wavelength": [5000.0, 5001.0]})
    >>> with tempfile.TemporaryDirectory() as url:
    ...     create_spectra(url, stars, n_spectrum=6, shard_rows=4)
    ...     _ = write_spectra(url, Block("spectrum", 0, 0, 4), stars)
    ...     spectra = open_spectra(url).compute()
    >>> spectra.flux.sum("wavelength").values, spectra.status.values == SpectrumStatus.PADDING
    (array([2., 2., 2., 2., 0., 0.], dtype=float32),
     array([False, False, False, False,  True,  True]))
    """
    group = open_group(url)
    rows = int(group.attrs["shard_rows"])  # type: ignore[arg-type]
    store = zarr_store(url, read_only=True)
    spectra: xr.Dataset = xr.open_zarr(store, chunks={"spectrum": rows}, consolidated=False)
    return _named(spectra)


def memory_bytes(rows: int, n_pixel: int, input_bytes: int = 0) -> int:
    """Return what a worker holds for blocks of `rows` spectra: read ahead, at work, written behind.

    A block that is made of files holds theirs, `input_bytes`, too: read ahead, and at work.

    Examples
    --------
    >>> memory_bytes(4096, 3909) // 2**20
    976
    """
    one = rows * n_pixel * 12  # flux, ivar, mask
    return math.ceil(one * 5.33 + input_bytes * 3)
