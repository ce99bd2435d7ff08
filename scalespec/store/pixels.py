"""Pixels of a store, and nothing else of it: what training reads, chunk after chunk."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from scalespec.store import paths
from scalespec.store.opening import explained, open_array, open_group
from scalespec.store.shards import Shards, read_metadata, shards


@lru_cache(maxsize=8)
def _pixel_arrays(url: str, names: tuple[str, ...]) -> tuple[Shards | zarr.Array[Any], ...]:
    known = [shards(read_metadata(url, name)) for name in names]
    return tuple(
        found or open_array(open_group(url), name) for name, found in zip(names, known, strict=True)
    )


@explained
def read_pixels(
    url: str,
    start: int,
    stop: int,
    names: tuple[str, ...] = ("flux", "ivar"),
    out: Sequence[npt.NDArray[Any]] | None = None,
) -> tuple[npt.NDArray[Any], ...]:
    """Read rows ``[start, stop)`` of arrays of a store that grows no more, and nothing else of it.

    What the store holds is looked up once per process, and not whether it has changed since.

    Parameters
    ----------
    url : str
    start, stop : int
    names : tuple of str
    out : sequence of arrays, optional
        One of each array's dtype, of at least ``stop - start`` rows: memory that may be used for
        what is returned.

    Raises
    ------
    StoreError
        If there is no spectra store at `url`, or a shard of it is damaged.

    Examples
    --------
    Past the last row there is nothing:

    >>> import tempfile
    >>> import xarray as xr
    >>> from scalespec.plan import Block
    >>> from scalespec.store.spectra import create_spectra, write_spectra
    >>> flux = np.arange(8, dtype=np.float32).reshape(4, 2)
    >>> stars = xr.Dataset({"flux": (("spectrum", "wavelength"), flux)})
    >>> with tempfile.TemporaryDirectory() as url:
    ...     create_spectra(url, stars, n_spectrum=4, shard_rows=4)
    ...     _ = write_spectra(url, Block("spectrum", 0, 0, 4), stars)
    ...     read_pixels(url, 2, 9, ("flux",))
    (array([[4., 5.],
           [6., 7.]], dtype=float32),)
    """
    arrays = _pixel_arrays(url, names)
    found: list[npt.NDArray[Any]] = []
    with paths.explained(f"{url}, rows {start}:{stop}", ValueError, RuntimeError):
        for i, (name, array) in enumerate(zip(names, arrays, strict=True)):
            rows = slice(start, min(stop, array.shape[0]))
            if isinstance(array, Shards):
                shape = (rows.stop - start, *array.shape[1:])
                into = np.empty(shape, array.dtype) if out is None else out[i][: shape[0]]
                array.read(paths.join(url, name), rows, into)
                found.append(into)
            else:
                found.append(np.asarray(array[rows]))
    return tuple(found)
