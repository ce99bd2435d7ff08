"""Emulators: training and answering, beside the matmul peak and the public recipe, in one process.

    python benchmarks/bench_models.py [--quick] [--json benchmarks/results/models.json]

CPU time of the process, the best of several, one thread. TheCannon's package wants an old NumPy, so
its published training step stands for it, pixel by pixel as it is: the scatter on a grid of 19
values half an e-fold apart, a solution of weighted least squares at each, a parabola through the
best three (github.com/annayqho/TheCannon, train_model.py).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from scalespec.config import RayTable
from scalespec.engines.ray import RayEngine
from scalespec.models.base import EmulatorSpec
from scalespec.models.cannon import Cannon, design, monomials
from scalespec.models.payne import Payne
from scalespec.models.regression import fit_pixels
from scalespec.models.training import TrainOptions, train_emulator
from scalespec.models.transformer import SpectrumTransformer
from scalespec.plan import Training

N_PIXEL, N_LABEL = 3909, 25
WAVELENGTH = 10 ** (3.5682 + 1e-4 * np.arange(N_PIXEL))


def spec_of(n_label: int = N_LABEL) -> EmulatorSpec:
    labels = tuple(f"l{k}" for k in range(n_label))
    return EmulatorSpec("bench", labels, np.zeros(n_label), np.ones(n_label), WAVELENGTH)


def best(call: Callable[[], object], repeats: int = 5) -> float:
    """Return the least CPU time [s] of a call."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def peak() -> float:
    """Return FLOP per second of a large float32 product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / best(lambda: a @ b, 10)


def row(name: str, value: float, unit: str, **more: object) -> dict[str, object]:
    keys = ("limit", "recipe", "ratio_to_recipe", "fraction_of_limit", "note")
    return {"name": name, "value": value, "unit": unit} | {key: more.get(key) for key in keys}


def answers(name: str, model: torch.nn.Module, flop: float, top: float) -> list[dict[str, object]]:
    """Forward and Jacobian of 1,000 stars against the floor of their products."""
    x = torch.rand(1000, N_LABEL) - 0.5
    with torch.inference_mode():
        forward = best(lambda: model.forward_scaled(x))
        jacobian = best(
            lambda: [model.flux_and_jacobian(part) for part in torch.split(x[:200], 20)], 3
        )
    floor = flop * 1000 / top
    slopes = floor * (1 + N_LABEL)
    note = "by one product after another: 26 columns instead of one"
    return [
        row(f"{name} forward", forward * 1e3, "ms per 1,000 stars", limit=floor * 1e3,
            fraction_of_limit=floor / forward),
        row(f"{name} flux and Jacobian", 5 * jacobian * 1e3, "ms per 1,000 stars",
            limit=slopes * 1e3, fraction_of_limit=slopes / (5 * jacobian), note=note),
    ]  # fmt: skip


def payne_flop(widths: tuple[int, ...]) -> float:
    return 2.0 * sum(a * b for a, b in pairwise(widths))


class InMemory:
    """Training spectra that are there already."""

    def __init__(self, n: int, n_label: int) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.uniform(0, 1, (n, n_label)).astype(np.float32)
        self.flux = (1 - 0.1 * rng.random((n, N_PIXEL))).astype(np.float32)
        self.ivar = np.full_like(self.flux, 1e4)

    def chunks(self, epoch, rank, world_size):  # noqa: ARG002 - the reader's signature
        yield self.labels, self.flux, self.ivar, np.zeros(len(self.labels), np.float32)

    def few(self):
        return self.labels[:16], self.flux[:16], self.ivar[:16], np.zeros(16, np.float32)


class Stopwatch:
    """Where the loop runs: here, or wherever `inner` is; it notes when epochs end."""

    def __init__(self, inner=None):
        self.inner, self.times = inner, []
        self.rank = inner.rank if inner else 0
        self.world_size = inner.world_size if inner else 1
        self.device = inner.device if inner else "cpu"

    def wrap(self, model):
        return self.inner.wrap(model) if self.inner else model

    def report(self, metrics):
        self.times.append((time.perf_counter(), time.process_time()))
        if self.inner:
            self.inner.report(metrics)


def epochs(context, n: int, n_epoch: int, model: str, out: str) -> None:
    """Train, and write the time of each epoch but the first: wall and CPU."""
    torch.set_num_threads(1)
    watch, n_label = Stopwatch(context), N_LABEL
    made = Payne(spec_of(), hidden=(300, 300))
    if model == "transformer":
        made = SpectrumTransformer(spec_of(), width=64, layers=2)
    options = TrainOptions(rounds=(), epochs=n_epoch, batch_size=128, validate_every=n_epoch)
    data = InMemory(n, n_label)
    train_emulator(made, data, data.few(), options=options, context=watch)
    times = np.diff(np.array(watch.times), axis=0)
    Path(out).write_text(json.dumps(times[:-1].tolist()))


def trained(n: int, n_epoch: int, model: str = "payne", *, on_ray: bool = False):
    """Return wall and CPU seconds of the fastest steady epoch."""
    with tempfile.NamedTemporaryFile() as file:
        loop = partial(epochs, n=n, n_epoch=n_epoch, model=model, out=file.name)
        if not on_ray:
            loop(None)
        else:
            engine = RayEngine(RayTable(workers=1))
            try:
                engine.train(Training("bench", tempfile.mkdtemp(), loop))
            finally:
                engine.close()
        return np.array(json.loads(Path(file.name).read_text())).min(axis=0)


def training(top: float, *, quick: bool) -> list[dict[str, object]]:
    n, n_epoch = (1024, 5) if quick else (4096, 6)
    wall, cpu = trained(n, n_epoch)
    flop = 3 * payne_flop((N_LABEL, 300, 300, N_PIXEL))  # forward, and twice that backward
    rows = [
        row("Payne training", n / cpu, "samples/s", limit=top / flop,
            fraction_of_limit=n / cpu * flop / top, note="Adam, batches of 128, 25-300-300-3909"),
    ]  # fmt: skip
    start = time.perf_counter()
    wall_ray, cpu_ray = trained(n, n_epoch, on_ray=True)
    apart = time.perf_counter() - start - n_epoch * wall_ray
    note = f"fastest steady epoch of {1e3 * wall:.0f} ms, 1 worker; start-up {apart:.0f} s, apart"
    rows += [
        row("Ray Train over the bare loop", wall_ray / wall, "times", limit=1.05, note=note),
        row("Ray Train over the bare loop, CPU", cpu_ray / cpu, "times",
            note="of the worker's process: Ray's own threads run beside the loop"),
    ]  # fmt: skip
    few = 16 if quick else 64
    _, cpu = trained(few, 4, "transformer")
    model = SpectrumTransformer(spec_of(), width=64, layers=2)
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        model.forward_scaled(torch.zeros(4, N_LABEL)).sum().backward()
    flop = counter.get_total_flops() / 4
    rows.append(
        row("Transformer training", few / cpu, "samples/s", limit=top / flop,
            fraction_of_limit=few / cpu * flop / top, note="float32, width 64, 2 layers, 3,909 px")
    )  # fmt: skip
    return rows


def cannon_data(n: int, n_pixel: int, n_label: int = 5):
    """Quadratic pixels with scatter and noise, 5 % of them masked."""
    rng = np.random.default_rng(1)
    x = np.clip(rng.normal(0, 0.2, (n, n_label)), -0.5, 0.5)
    terms = design(torch.from_numpy(x), torch.from_numpy(monomials(n_label, 2))).numpy()
    theta = rng.normal(0, 0.05, (terms.shape[1], n_pixel))
    theta[0] = 0.9
    scatter = rng.uniform(0.002, 0.03, n_pixel)
    sigma = rng.uniform(0.003, 0.02, (n, 1)) * rng.uniform(0.7, 1.4, (n, n_pixel))
    flux = terms @ theta + rng.normal(size=(n, n_pixel)) * np.hypot(scatter, sigma)
    ivar = sigma**-2
    ivar[rng.random(ivar.shape) < 0.05] = 0
    return x, terms, flux, ivar


def the_cannon(terms: np.ndarray, flux: np.ndarray, ivar: np.ndarray):
    """Train one pixel as TheCannon does; return coefficients, scatter."""

    def at(scatter):
        weight = ivar / (1 + ivar * scatter**2)
        theta = np.linalg.solve(terms.T @ (weight[:, None] * terms), terms.T @ (weight * flux))
        chi2 = weight * (flux - terms @ theta) ** 2
        used = weight > 0
        return theta, np.sum(chi2) - np.sum(np.log(weight[used]))

    grid = np.arange(np.log(1e-4), 0.0, 0.5)
    costs = np.array([at(np.exp(s))[1] for s in grid])
    lowest = int(np.argmin(costs))
    scatter = np.exp(grid[lowest])
    if 0 < lowest < len(grid) - 1:
        near = slice(lowest - 1, lowest + 2)
        a, b, _ = np.polyfit(grid[near], costs[near], 2)
        scatter = np.exp(-b / (2 * a))
    return at(scatter)[0], scatter


def cannon(*, quick: bool) -> list[dict[str, object]]:
    rows = []
    for n, n_pixel in ((1000, 256), (3000, 256))[: 1 if quick else 2]:
        x, terms, flux, ivar = cannon_data(n, n_pixel)
        tensors = [torch.from_numpy(a) for a in (x, flux.astype("f4"), ivar.astype("f4"))]
        fit = fit_pixels(*tensors)
        ours = best(lambda t=tensors: fit_pixels(*t)) / n_pixel
        some = 32 if quick else 64
        flux, ivar = (a.numpy().astype(np.float64) for a in tensors[1:])
        start = time.process_time()
        theirs = [the_cannon(terms, flux[:, i], ivar[:, i]) for i in range(some)]
        recipe = (time.process_time() - start) / some
        gain = min(
            float(fit.log_likelihood[i]) - log_likelihood(terms, flux[:, i], ivar[:, i], *theirs[i])
            for i in range(some)
        )
        rows.append(
            row(f"Cannon training, {n} stars, 5 labels", ours * 1e6, "us per pixel",
                recipe=recipe * 1e6, ratio_to_recipe=recipe / ours,
                note=f"ln L over the recipe's in every pixel by at least {gain:.1e}")
        )  # fmt: skip
    return rows


def log_likelihood(terms, flux, ivar, theta, scatter) -> float:
    used = ivar > 0
    weight = 1 / (1 / ivar[used] + scatter**2)
    residual = flux[used] - terms[used] @ theta
    return float(-0.5 * np.sum(weight * residual**2 - np.log(weight)))


def show(one: dict[str, object]) -> None:
    keys = ("limit", "recipe", "ratio_to_recipe", "fraction_of_limit")
    beside = ", ".join(f"{key} {one[key]:.4g}" for key in keys if one[key])
    value = f"{one['name']:<36}{one['value']:>10.4g} {one['unit']:<20}"
    print(value, beside, one["note"] or "", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    top = peak()
    rows = []
    widths = (N_LABEL, 300, 300, N_PIXEL)
    parts = [
        lambda: [row("matmul peak", top / 1e9, "GFLOP/s", note="float32, 1024 x 1024")],
        lambda: cannon(quick=given.quick),
        lambda: answers("Payne", Payne(spec_of(), hidden=(300, 300)), payne_flop(widths), top),
        lambda: answers("Cannon", Cannon(spec_of()), 2.0 * 351 * N_PIXEL, top),
        lambda: training(top, quick=given.quick),
    ]
    for part in parts:
        for one in part():
            show(one)
            rows.append(one)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
