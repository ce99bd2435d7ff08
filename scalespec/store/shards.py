"""Shards of our own arrays to and from bytes at once, without Zarr's machinery for each chunk.

The bytes are those that zarr-python writes, object by object. An array that is kept in any other
way than ours, say by pcodec, has no `Shards`: zarr-python reads and writes it.
"""

import contextlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import obstore
from numcodecs import blosc  # type: ignore[import-untyped]

from scalespec.errors import StoreError
from scalespec.store import paths
from scalespec.store.lost import refuse_lost

blosc.use_threads = False  # a process has one core; zarr-python says so too
_EMPTY = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk that holds nothing but the fill value."""
_SHUFFLES = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECKED = [_LITTLE, {"name": "crc32c"}]
_HEADER = 16  # bytes of a blosc chunk: among them its sizes
_CHECKSUM = 4  # bytes of a CRC-32C


@dataclass(frozen=True)
class Shards:
    """How the rows of an array lie in its objects.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    dtype : np.dtype
    shard_rows, chunk_rows : int
        Rows of an object, and of a chunk in it, over all other axes.
    fill : float or int
        What rows hold that nobody wrote.
    blosc : blosc.Blosc, optional
        Of each chunk; None keeps it as it is.

    References
    ----------
    Zarr specification 3.1, codec "sharding_indexed" 1.0: chunks, then their offsets and lengths
    as uint64, then the CRC-32C of these.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shard_rows: int
    chunk_rows: int
    fill: float | int
    blosc: Any

    def key(self, shard: int) -> str:
        """Return the object of a shard, relative to the array.

        Examples
        --------
        >>> Shards((20, 3), np.dtype("f4"), 8, 4, 0, None).key(2)
        'c/2/0'
        """
        return "/".join(["c", str(shard), *["0"] * (len(self.shape) - 1)])

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
        """Return the object of a shard whose first rows are `values`; None if it holds nothing.

        Parameters
        ----------
        values : (n, ...) array
            At most `shard_rows`; of the rows that are missing each holds `fill`.
        """
        n_chunks = self.shard_rows // self.chunk_rows
        index = np.full((n_chunks, 2), _EMPTY, "<u8")
        largest = self.chunk_rows * math.prod(self.shape[1:]) * self.dtype.itemsize + _HEADER
        # One array for all chunks: NumPy's memory comes in huge pages, that of many bytes objects
        # that wait to be joined page by page at two microseconds. What is not filled costs nothing.
        data = np.empty(n_chunks * largest + index.nbytes + _CHECKSUM, np.uint8)
        end = 0
        for i in range(n_chunks):
            chunk = self._chunk(values[i * self.chunk_rows : (i + 1) * self.chunk_rows])
            if chunk is not None:
                packed = chunk if self.blosc is None else self.blosc.encode(chunk)
                part = np.frombuffer(packed, np.uint8)
                index[i] = end, len(part)
                data[end : end + len(part)] = part
                end += len(part)
        if not end:
            return None
        table = index.tobytes()
        tail = table + google_crc32c.value(table).to_bytes(_CHECKSUM, "little")
        data[end : end + len(tail)] = np.frombuffer(tail, np.uint8)
        return data[: end + len(tail)]

    def _chunk(self, values: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """Return a chunk, filled up; None if all of it is the fill value."""
        chunk = np.ascontiguousarray(values, self.dtype)
        if not len(chunk) or (self._is_fill(chunk[:1]) and self._is_fill(chunk)):
            return None
        if len(chunk) < self.chunk_rows:
            whole = np.full((self.chunk_rows, *self.shape[1:]), self.fill, self.dtype)
            whole[: len(chunk)] = chunk
            return whole
        return chunk

    def _is_fill(self, chunk: npt.NDArray[Any]) -> bool:
        """Whether rows are all fill value: -0.0 is not 0.0, and NaN is NaN, as Zarr has it."""
        if self.dtype.kind == "f" and self.fill == 0:
            return not chunk.view(f"u{self.dtype.itemsize}").any()
        if self.fill != self.fill:
            return bool(np.isnan(chunk).all())
        return bool((chunk == self.fill).all())

    def read(self, url: str, rows: slice, out: npt.NDArray[Any]) -> None:
        """Read rows of the array at `url` into memory.

        Parameters
        ----------
        url : str
            The array's.
        rows : slice
            ``[start, stop)`` within the array.
        out : (stop - start, ...) array
            C-contiguous, of the array's dtype; what is read goes there.

        Raises
        ------
        ValueError, RuntimeError
            If the bytes of a shard are not what they should be.
        StoreError
            If a shard is gone.
        """
        for shard in range(rows.start // self.shard_rows, -(-rows.stop // self.shard_rows)):
            first = shard * self.shard_rows
            start, stop = max(rows.start, first), min(rows.stop, first + self.shard_rows)
            part = slice(start - first, stop - first)
            there = paths.join(url, self.key(shard))
            if not self._read_shard(there, part, out[start - rows.start : stop - rows.start]):
                refuse_lost(there, shard)

    def _read_shard(self, url: str, rows: slice, out: npt.NDArray[Any]) -> bool:
        """Read rows of one shard: its index, and then all chunks at once that they lie in.

        False if there is no object, as of one that would hold nothing but fill values.
        """
        table = 16 * (self.shard_rows // self.chunk_rows)
        tail = _read_part(url, -(table + _CHECKSUM), table + _CHECKSUM)
        if tail is None:
            out.fill(self.fill)
            return False
        if google_crc32c.value(tail[:table]) != int.from_bytes(tail[table:], "little"):
            raise ValueError("Stored and computed checksum do not match: of the shard's index")
        chunks = range(rows.start // self.chunk_rows, -(-rows.stop // self.chunk_rows))
        index = np.frombuffer(tail, "<u8", table // 8).reshape(-1, 2)[chunks.start : chunks.stop]
        there = index[index[:, 0] != _EMPTY].astype(np.int64)
        base = int(there[:, 0].min()) if len(there) else 0
        size = int(there.sum(axis=1).max()) - base if len(there) else 0
        data = memoryview(_read_part(url, base, size) or b"")
        for i, (offset, length) in zip(chunks, index.tolist(), strict=True):
            first = i * self.chunk_rows
            start, stop = max(rows.start, first), min(rows.stop, first + self.chunk_rows)
            target = out[start - rows.start : stop - rows.start]
            if offset == _EMPTY:
                target.fill(self.fill)
                continue
            chunk = data[offset - base : offset - base + length]
            if stop - start == self.chunk_rows:
                self._decode(chunk, target)
            else:
                whole = np.empty((self.chunk_rows, *self.shape[1:]), self.dtype)
                self._decode(chunk, whole)
                target[:] = whole[start - first : stop - first]
        return True

    def _decode(self, chunk: memoryview, out: npt.NDArray[Any]) -> None:
        """Decode one chunk, which must be of the right size before blosc sees it."""
        if self.blosc is None:
            out.reshape(-1)[:] = np.frombuffer(chunk, self.dtype)
            return
        sizes = [int.from_bytes(chunk[i : i + 4], "little") for i in (4, 12)]
        if len(chunk) < _HEADER or sizes != [out.nbytes, len(chunk)]:
            raise ValueError(
                f"a chunk says {sizes} bytes, decoded and stored; wanted {[out.nbytes, len(chunk)]}"
            )
        blosc.decompress(chunk, out)

    def write(self, url: str, name: str, shard: int, values: npt.NDArray[Any]) -> dict[str, str]:
        """Store a shard of array `name` of the group at `url`; remove it if it holds nothing.

        Returns
        -------
        dict of str
            Its key, relative to `url` -> sha256 of its bytes; nothing if there is no object.
        """
        store, key = paths.open_store(url), f"{name}/{self.key(shard)}"
        data = self.encode(values)
        if data is None:
            with contextlib.suppress(FileNotFoundError):
                paths.persistent(lambda: obstore.delete(store, key))
            return {}
        paths.persistent(lambda: paths.put(store, key, data))
        return {key: paths.sha256(data)}


def _read_part(url: str, start: int, size: int) -> bytes | None:
    """Return bytes of an object, from its end if `start` is negative; None if there is none."""
    try:
        if not paths.is_remote(url):
            with paths.local_path(url).open("rb", buffering=0) as file:
                file.seek(start, 2 if start < 0 else 0)
                return file.read(size)
        return paths.persistent(lambda: _fetch_part(url, start, size)) if size else b""
    except FileNotFoundError:
        return None


def _fetch_part(url: str, start: int, size: int) -> bytes:
    store, key = paths.opened(url)
    if start < 0:
        return bytes(obstore.get(store, key, options={"range": {"suffix": -start}}).bytes())
    return bytes(obstore.get_range(store, key, start=start, length=size))


def read_metadata(url: str, name: str = "") -> bytes:
    """Return the ``zarr.json`` of a group, or of an array in it.

    Raises
    ------
    StoreError
        If it is not there or cannot be read.
    """
    try:
        where = paths.join(url, *[name] * bool(name), "zarr.json")
        return paths.persistent(lambda: paths.read_bytes(where))
    except StoreError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        missing = f"no array '{name}' in this spectra store" if name else "no spectra store there"
        raise StoreError(f"{url}: {missing}") from error


@lru_cache(maxsize=256)
def shards(metadata: bytes) -> Shards | None:
    """Return how an array lies in its objects, from its ``zarr.json``; None if not as ours do."""
    facts = json.loads(metadata)
    codecs, keys = facts["codecs"], facts["chunk_key_encoding"]
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed" or keys["name"] != "default":
        return None
    inner = codecs[0]["configuration"]
    shape, shard = facts["shape"], facts["chunk_grid"]["configuration"]["chunk_shape"]
    packed = inner["codecs"][1:]
    known = (
        inner["codecs"][:1] == [_LITTLE]
        and inner["index_codecs"] == _CHECKED
        and inner.get("index_location", "end") == "end"
        and keys.get("configuration", {}).get("separator", "/") == "/"
        and [codec["name"] for codec in packed] in ([], ["blosc"])
        and shard[1:] == inner["chunk_shape"][1:] == shape[1:]
    )
    fill = float("nan") if facts["fill_value"] == "NaN" else facts["fill_value"]
    if not known or not isinstance(fill, int | float):
        return None
    options = dict(packed[0]["configuration"]) if packed else {}
    if options:
        options["shuffle"] = _SHUFFLES[options["shuffle"]]
    return Shards(
        shape=tuple(shape),
        dtype=np.dtype(facts["data_type"]).newbyteorder("<"),
        shard_rows=shard[0],
        chunk_rows=inner["chunk_shape"][0],
        fill=fill,
        blosc=blosc.Blosc(**options) if options else None,
    )
