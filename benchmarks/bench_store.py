"""Spectra stores: write and read rates by codec and layout, and shuffled reads as training does.

Run: ``python benchmarks/bench_store.py [--quick] [--json F]``. CPU time of one core (codecs may use
threads, all of which count); rates are of raw bytes, flux and ivar as float32. Writing has
`np.save` with fsync as its limit, reading a memory copy; both are beside the recipe of public
tutorials, one Zarr chunk per spectrum row group, Zstandard 3, no shards.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from scalespec.plan import plan_blocks
from scalespec.store import spectra as stores
from scalespec.store import training
from scalespec.store.encoding import Encoding
from scalespec.store.spectra import create_spectra, read_spectra, write_spectra

N_PIXEL = 3909
ROWS = 4096
CODECS = {
    "blosc": Encoding(),
    "lz4": Encoding("lz4"),
    "none": Encoding("none"),
    "pcodec": Encoding("pcodec"),
    "blosc, 12 bits": Encoding(lossy_bits=12),
}
CHUNKS = (64, 128, 256, 1024)


def make_spectra(rows: int) -> xr.Dataset:
    """Return spectra with lines, noise of S/N 5 to 200, and pixels without information."""
    rng = np.random.default_rng(1)
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(N_PIXEL))
    depth = rng.uniform(0, 0.7, (rows, 1)) * (np.sin(wavelength / 3) ** 8)
    snr = 10 ** rng.uniform(0.7, 2.3, (rows, 1))
    flux = (1 - depth) + rng.normal(0, 1, (rows, N_PIXEL)) / snr
    ivar = np.broadcast_to(snr**2, flux.shape) * rng.uniform(0.9, 1.1, (1, N_PIXEL))
    ivar = np.where(rng.random(flux.shape) < 0.02, 0, ivar)
    dims = ("spectrum", "wavelength")
    return xr.Dataset(
        {
            "flux": (dims, flux.astype(np.float32)),
            "ivar": (dims, ivar.astype(np.float32)),
            "status": ("spectrum", np.zeros(rows, np.uint32)),
        },
        {"wavelength": wavelength},
    )


def timed(call: Callable[[], object], seconds: float) -> float:
    """Return the least CPU seconds of a call, in passes that take so long."""
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def limits(folder: str, data: xr.Dataset, seconds: float) -> tuple[float, float]:
    """Return CPU seconds of `np.save` with fsync, and of a memory copy, of flux and ivar."""
    arrays = [data["flux"].to_numpy(), data["ivar"].to_numpy()]

    def save() -> None:
        for array in arrays:
            with Path(folder, "x.npy").open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())

    target = np.empty_like(arrays[0])

    def copy() -> None:
        for array in arrays:
            np.copyto(target, array)

    return timed(save, seconds), timed(copy, seconds)


def recipe(folder: str, data: xr.Dataset, seconds: float) -> tuple[float, float]:
    """Return CPU seconds of writing and reading by plain Zarr: Zstandard 3, chunks of 256 rows."""
    group = zarr.open_group(f"{folder}/recipe.zarr", mode="w")
    for name in ("flux", "ivar"):
        group.create_array(
            name,
            shape=data[name].shape,
            dtype=np.float32,
            chunks=(256, N_PIXEL),
            compressors=ZstdCodec(level=3),
        )

    def write() -> None:
        for name in ("flux", "ivar"):
            group[name][...] = data[name].to_numpy()

    return timed(write, seconds), timed(lambda: [group[n][...] for n in ("flux", "ivar")], seconds)


def row(name: str, value: float, unit: str, limit: float, beside: float, note: str) -> dict:
    """Return one row of the table."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "limit": limit,
        "recipe": beside,
        "ratio_to_recipe": value / beside if beside else None,
        "fraction_of_limit": value / limit,
        "note": note,
    }


def bench_codec(folder: str, name: str, data: xr.Dataset, chunk: int, seconds: float) -> tuple:
    """Return CPU seconds of writing and reading a block of spectra, and its compression."""
    url = f"{folder}/{name}-{chunk}.zarr"
    stores.CHUNK_ROWS = chunk
    create_spectra(
        url, data, n_spectrum=ROWS, shard_rows=data.sizes["spectrum"], encoding=CODECS[name]
    )
    (block,) = plan_blocks(data.sizes["spectrum"], ROWS)
    written = timed(lambda: write_spectra(url, block, data), seconds)
    read = timed(lambda: read_spectra(url, 0, ROWS, names=("flux", "ivar")), seconds)
    size = sum(p.stat().st_size for n in ("flux", "ivar") for p in Path(url, n).rglob("*"))
    stores.CHUNK_ROWS = 256
    return written, read, (data["flux"].nbytes + data["ivar"].nbytes) / size


def bench_shuffled(folder: str, data: xr.Dataset, blocks: int, seconds: float) -> float:
    """Return spectra per CPU second of an epoch in a new order, nothing kept: the best."""
    url, rows = f"{folder}/train.zarr", data.sizes["spectrum"]
    create_spectra(url, data, n_spectrum=rows * blocks, shard_rows=rows)
    for block in plan_blocks(rows * blocks, rows):
        write_spectra(url, block, data)
    n = rows * blocks
    source = training.TrainingData(
        url=url,
        labels=np.zeros((n, 3), np.float32),
        rows=np.arange(n),
        displacement=np.zeros(n, np.float32),
        chunk_rows=stores.chunk_rows(rows),
        seed=1,
    )
    training.CACHE_BYTES = 0
    epochs = iter(range(1000))

    def epoch() -> None:
        assert sum(len(batch[0]) for batch in source.chunks(next(epochs), 0, 1)) == n

    return n / timed(epoch, seconds)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    options = parser.parse_args()
    seconds, rows, blocks = (0.5, 1024, 4) if options.quick else (3.0, ROWS, 5)
    data = make_spectra(rows)
    raw = (data["flux"].nbytes + data["ivar"].nbytes) / 1e6
    found = []
    with tempfile.TemporaryDirectory() as folder:
        save, copy = limits(folder, data, seconds)
        ours = recipe(folder, data, seconds)
        cases = [(name, 256) for name in CODECS] + [("blosc", c) for c in CHUNKS if c != 256]
        for name, chunk in cases:
            try:
                written, read, ratio = bench_codec(folder, name, data, chunk, seconds)
            except OSError as error:
                print(f"{name}: left out: {error}")
                continue
            note = f"{rows} x {N_PIXEL}, 1 shard, chunks of {chunk} rows; compressed {ratio:.2f}"
            label = f"{name}, chunks of {chunk}"
            for verb, spent, limit, beside in (
                ("write", written, save, ours[0]),
                ("read", read, copy, ours[1]),
            ):
                rates = (raw / spent, "MB/s/core", raw / limit, raw / beside)
                found.append(row(f"{verb} {label}", *rates, note))
        shuffled = bench_shuffled(folder, data, blocks, seconds)
        decode = rows / next(raw / r["value"] for r in found if r["name"].startswith("read blosc,"))
        note = f"{blocks} shards of {rows}, cold; limit decodes whole shards"
        found.append(row("shuffled training reads", shuffled, "spectra/s/core", decode, 0, note))
    print(f"{'':34s} {'ours':>8s} {'limit':>8s} {'recipe':>8s}")
    for one in found:
        beside = f"{one['recipe']:8.0f}" if one["recipe"] else " " * 8
        print(f"{one['name']:34s} {one['value']:8.0f} {one['limit']:8.0f} {beside}  {one['note']}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
