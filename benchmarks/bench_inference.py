"""Spectra labelled per second and core by each network, beside the matrix products' own peak.

Run: ``python benchmarks/bench_inference.py [--quick] [--json F] [--no-ray]``. One core, CPU time of
the process, the best of three means; the limit is the faster of torch's two libraries on square
products of 512, 1,024 and 2,048, in the precision used; operations are those of the network as it
is written, so a convolution by Fourier transforms may pass it. The recipe is the same network in
torch as it comes. On Ray, two actors read spectra from Zarr and write labels; the limit is what two
processes do that only infer spectra in memory, at the same time; both are wall time once all run,
and beside it CPU time, which another load on the machine moves little.
All of it has the environment of a worker: one thread, and pages of memory kept for the next batch.
"""

import os
import sys

from scalespec.engines.worker import THREAD_LIMITS

if any(os.environ.get(name) != value for name, value in THREAD_LIMITS.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | THREAD_LIMITS)

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from scalespec.config import InferTable, RayTable
from scalespec.models.networks import Regressor
from scalespec.models.regressor import RegressorSpec
from scalespec.optimize.matmul import linear
from scalespec.plan import Block, BlockResult, Stage, plan_blocks
from scalespec.schema import PER_SPECTRUM
from scalespec.stages.inference import PROBED, Fast, Plan, Precision, best_batch, infer_labels
from scalespec.stages.question import write_labels
from scalespec.stages.regress import labels_of, read_asked
from scalespec.store.model import save_model
from scalespec.store.regressor import load_regressor
from scalespec.store.spectra import create_spectra, write_spectra

LABELS = ("teff", "logg", "fe_h")
NETWORKS = {
    "residual": ("residual ANN, 143 px", 143, 16384, 40),
    "starnet": ("StarNet, 3,909 px", 3909, 4096, 8),
    "folded": ("2-D CNN, 4,096 px", 4096, 256, 12),
}
"""Name, pixels, and for Ray the spectra of a block and the blocks: 4,096 is a run file's default,
of short spectra more, of a slow network less."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
WORKERS = 2
Row = dict[str, Any]


def operations(model: Regressor) -> float:
    """Return twice the multiplications of a spectrum's way through the network."""
    total = 0.0

    def count(layer: Any, _: Any, made: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        places = made.numel() / len(weight) if isinstance(layer, torch.nn.Conv2d) else 1
        total += 2 * weight.numel() * places

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    n_pixel = model.spec.n_pixel
    model(torch.ones(1, n_pixel), torch.ones(1, n_pixel))
    for handle in handles:
        handle.remove()
    for layer in model.modules():  # StarNet's own convolutions: as many pixels out as in
        if isinstance(layer, torch.nn.Conv1d):
            total += 2 * layer.weight.numel() * n_pixel
    return total


def make(network: str, n_pixel: int, n: int) -> tuple[Regressor, np.ndarray, np.ndarray]:
    """Return an untrained network and n noisy spectra for it."""
    rng = np.random.default_rng(1)
    flux = 1 - 0.3 * rng.random(n_pixel) ** 4 + rng.normal(0, 0.02, (n, n_pixel))
    one = np.ones(n_pixel)
    spec = RegressorSpec(
        network,
        LABELS,
        np.power(10, 3.5682 + 1e-4 * np.arange(n_pixel)).astype(np.float64),
        np.array([5500.0, 3.0, -1.0]),
        np.array([800.0, 1.0, 0.7]),
        flux.mean(axis=0),
        0.05 * one,
        resolving_power=1800.0,
    )
    ivar = np.full(flux.shape, 50.0**2, np.float32)
    return Regressor(spec, network=network).eval(), flux.astype(np.float32), ivar


def cpu_time(call: Callable[[], Any], budget: float) -> float:
    """Return the CPU time of a call: the least of three means over a third of a budget [s]."""
    call()
    means = []
    for _ in range(3):  # means: some systems count CPU time by ticks longer than a call
        n, start = 0, time.process_time()
        while n < 1 or time.process_time() - start < budget / 3:
            call()
            n += 1
        means.append((time.process_time() - start) / n)
    return min(means)


def peak(precision: Precision, budget: float) -> float:
    """Return operations per second of square products, of the size that is fastest."""
    kind = torch.float32 if precision == "float32" else torch.bfloat16
    rates = []
    for n in (512, 1024, 2048):
        a, b = torch.randn(2, n, n).to(kind)
        calls: list[Callable[[], Any]] = [partial(torch.nn.functional.linear, a, b)]
        if precision == "float32":
            calls.append(partial(linear, a, b))
        with torch.inference_mode():
            rates += [2 * n**3 / cpu_time(call, budget) for call in calls]
    return max(rates)


def on_one_core(budget: float) -> list[Row]:
    """Measure every network, alone and with all that a prediction is made of."""
    rows = []
    peaks = {precision: peak(precision, budget) for precision in PRECISIONS}
    for precision, value in peaks.items():
        rows.append(row(f"matrix product, {precision}", value / 1e9, "GFLOP/s"))
    for network, (title, n_pixel, _, _) in NETWORKS.items():
        model, flux, ivar = make(network, n_pixel, max(PROBED))
        cost = operations(model)
        size = best_batch(model, flux, ivar)
        given = torch.from_numpy(flux[:size]), torch.from_numpy(ivar[:size])
        with torch.inference_mode():
            seen = model.see(*given)

            def forward(model: Regressor = model, seen: Any = seen) -> torch.Tensor:
                made: torch.Tensor = model.members[0](seen.x, seen.extra)
                return made

            plain = size / cpu_time(forward, budget)
            exact = forward()
            for precision in PRECISIONS:
                with Fast(precision):
                    rate = size / cpu_time(forward, budget)
                    off = float((forward() - exact)[:, 0].abs().mean())
                note = f"batch {size}, {cost / 1e6:.1f} MFLOP each, labels move {off:.1e} of a std"
                rows.append(
                    row(
                        f"{title}, {precision}",
                        rate,
                        "spectra/s/core",
                        limit=peaks[precision] / cost,
                        recipe=plain,
                        note=note,
                    )
                )
        whole = size / cpu_time(
            partial(infer_labels, model, flux[:size], ivar[:size], batch_size=size), budget
        )
        rows.append(
            row(
                f"{title}, infer_labels",
                whole,
                "spectra/s/core",
                limit=peaks["float32"] / cost,
                recipe=plain,
                note="labels, two errors and score, from arrays to arrays",
            )
        )
    return rows


def row(
    name: str,
    value: float,
    unit: str,
    *,
    limit: float | None = None,
    recipe: float | None = None,
    note: str = "",
) -> Row:
    """Print one row of the table, and return it."""
    near = "" if limit is None else f"{value / limit:6.0%} of the limit"
    better = "" if recipe is None else f"{value / recipe:5.1f} x recipe"
    print(f"{name:<36}{value:>12,.0f} {unit:<16}{near:<20}{better:<16}{note}", flush=True)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "limit": limit,
        "recipe": recipe,
        "ratio_to_recipe": None if recipe is None else value / recipe,
        "fraction_of_limit": None if limit is None else value / limit,
        "note": note,
    }


def spectra_block(flux: np.ndarray, ivar: np.ndarray, wavelength: np.ndarray) -> xr.Dataset:
    """Return a block as preprocessing stores it."""
    n = len(flux)
    columns = {name: np.full(n, value, kind) for name, (kind, value, _) in PER_SPECTRUM.items()}
    columns["snr"] = np.full(n, 50, np.float32)
    dims = ("spectrum", "wavelength")
    variables: dict[str, Any] = {"flux": (dims, flux), "ivar": (dims, ivar)}
    variables["mask"] = (dims, np.zeros(flux.shape, np.uint32))
    variables |= {name: ("spectrum", values) for name, values in columns.items()}
    attrs = {"log10_wavelength_step": 1e-4, "resolving_power": 1800.0}
    return xr.Dataset(variables, {"wavelength": wavelength}, attrs)


def infer_for(
    seconds: float, network: str, n_pixel: int, size: int, ready: Any
) -> tuple[float, float]:
    """Infer spectra in memory for some seconds beside others; return spectra per second and CPU."""
    torch.set_num_threads(1)
    model, flux, ivar = make(network, n_pixel, max(size, 512))
    call = partial(infer_labels, model, flux, ivar, batch_size=size)
    call()
    ready.wait()
    start, spent, n = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        call()
        n += len(flux)
    return n / (time.perf_counter() - start), n / (time.process_time() - spent)


def model_alone(network: str, n_pixel: int, size: int, seconds: float) -> tuple[float, float]:
    """Return spectra per second of `WORKERS` processes that only infer, and per second of CPU."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(WORKERS) as pool:
        ready = manager.Barrier(WORKERS)
        given = (seconds, network, n_pixel, size, ready)
        wall, cpu = zip(*pool.starmap(infer_for, [given] * WORKERS), strict=True)
    return sum(wall), sum(cpu) / WORKERS


def write_noting(block: Block, labels: Any, url: str, noted: str) -> BlockResult:
    """Store a block's labels, and how much CPU time their actor has taken by then."""
    result = write_labels(block, labels, url, "first_status")
    Path(noted, f"{os.getpid()} {time.process_time():.6f}").touch()
    return result


def cpu_per_block(noted: Path) -> float:
    """Return the CPU time that an actor takes for a block once it runs."""
    actors: dict[str, list[float]] = {}
    for note in noted.iterdir():
        pid, spent = note.name.split()
        actors.setdefault(pid, []).append(float(spent))
    blocks = sum(len(spent) - 1 for spent in actors.values())
    return sum(max(spent) - min(spent) for spent in actors.values()) / blocks


def on_ray(seconds: float, share: float, networks: Sequence[str]) -> list[Row]:
    """Measure actors that read from Zarr and write labels, beside processes that only infer."""
    from scalespec.engines.ray import RayEngine

    rows = []
    engine = RayEngine(RayTable(workers=WORKERS))
    for network in networks:
        title, n_pixel, block_rows, most = NETWORKS[network]
        folder = Path(tempfile.mkdtemp(prefix="scalespec-inference-"))
        model, flux, ivar = make(network, n_pixel, block_rows)
        size = best_batch(model, flux, ivar)
        save_model(str(folder / "model"), model)
        block = spectra_block(flux, ivar, np.array(model.spec.wavelength))
        n_block = max(int(most * share), 6)
        blocks = plan_blocks(n_block * block_rows, block_rows)
        store, noted = str(folder / "spectra.zarr"), folder / "noted"
        noted.mkdir()
        create_spectra(store, block, n_spectrum=n_block * block_rows, shard_rows=block_rows)
        for one in blocks:
            write_spectra(store, one, block)
        stage = Stage(
            name=f"infer {network}",
            url=str(folder / "first"),
            blocks=blocks,
            read=partial(
                read_asked, url=store, index_url="", matches={}, table=InferTable(), inputs=()
            ),
            compute=partial(labels_of, plan=Plan(size, "float32", 0.0), far=3.0),
            write=partial(write_noting, url=str(folder / "first"), noted=str(noted)),
            runs_on="ray",
            setup=partial(load_regressor, str(folder / "model")),
        )
        ended = []
        for report in engine.map(stage, blocks):
            if not report.ok:
                raise RuntimeError(report.error)
            ended.append(time.perf_counter())
        cpu = block_rows / cpu_per_block(noted)
        shutil.rmtree(folder)
        steady = ended[WORKERS - 1 :]  # until every actor has loaded its model
        rate = (len(steady) - 1) * block_rows / (steady[-1] - steady[0])
        limit, cpu_limit = model_alone(network, n_pixel, size, seconds)
        note = f"{WORKERS} actors, blocks of {block_rows}, batch {size}"
        rows.append(
            row(f"{title}, Ray actors from Zarr", rate, "spectra/s", limit=limit, note=note)
        )
        unit = "spectra/s of CPU"
        rows.append(row(f"{title}, one Ray actor", cpu, unit, limit=cpu_limit, note=note))
    engine.close()
    return rows


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--only-ray", nargs="*", choices=NETWORKS, help="of these networks, or all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    if options.only_ray is None:
        rows = on_one_core(0.3 if options.quick else 2.0)
    if not options.no_ray:
        networks = options.only_ray or list(NETWORKS)
        rows += on_ray(2.0 if options.quick else 6.0, 0.5 if options.quick else 1.0, networks)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
