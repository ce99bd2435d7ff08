"""Spectra per second on one core of our line synthesis, and what a Jacobian costs.

Run: ``python benchmarks/bench_synthesis.py [--quick] [--json F]``. CPU time of one thread; the best
of several passes. The limit is the matrix products of the last step alone: widths into pixels.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from scalespec.kernels.wavelength import log_grid
from scalespec.models.gas import SYMBOLS
from scalespec.models.synthesis import LineSynthesis
from scalespec.stages.mock_spectra import LABELS, load_lines

LAMOST = log_grid(3.5682, 1e-4, 3909)
EVERY = (
    "teff", "logg", "fe_h", "vmic", "vsini", "vmac", "he_h",
    *(f"{symbol.lower()}_fe" for symbol in SYMBOLS[2:]),
)  # fmt: skip


def seconds_of(function: Callable[[], object], seconds: float) -> float:
    """Return the CPU time of one call: the best of as many as fit."""
    function()  # caches
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def drawn(model: LineSynthesis, n: int) -> torch.Tensor:
    """Return labels spread over the whole box."""
    low, high = model.spec.minimum, model.spec.maximum
    share = np.random.default_rng(0).random((n, len(low)))
    return torch.from_numpy(low + (high - low) * share)


def pixels_alone(model: LineSynthesis, n: int) -> Callable[[], object]:
    """Return the last matrix products of the model, on made-up widths."""
    near = [value for name, value in model.named_buffers() if name.startswith(("_near_", "_far_"))]
    rows = [torch.rand(n, matrix.shape[0]) for matrix in near]
    return lambda: [row @ matrix for row, matrix in zip(rows, near, strict=True)]


def bench_flux(name: str, model: LineSynthesis, batch: int, seconds: float) -> dict:
    """Measure the flux of a model in batches."""
    labels = drawn(model, batch)
    with torch.no_grad():
        rate = batch / seconds_of(lambda: model(labels), seconds)
        limit = batch / seconds_of(pixels_alone(model, batch), seconds)
    n_pixel, n_label = model.spec.n_pixel, model.spec.n_label
    note = f"{n_pixel} pixels, {n_label} labels, batch {batch}; limit widths into pixels"
    return _row(name, rate, "spectra/s/core", limit, None, note)


def bench_jacobian(model: LineSynthesis, batch: int, seconds: float) -> dict:
    """Measure exact Jacobians beside central differences of the same."""
    labels = drawn(model, batch)
    x = model.scale(labels)
    n_label = model.spec.n_label
    with torch.no_grad():
        exact = batch / seconds_of(lambda: model.flux_and_jacobian(x), seconds)
        shifted = torch.cat([x + sign * 1e-3 * e for e in torch.eye(n_label) for sign in (1, -1)])
        twice = batch / seconds_of(lambda: model.forward_scaled(shifted), seconds)
    note = f"{n_label} labels, batch {batch}; recipe {2 * n_label} spectra for differences"
    return _row("exact Jacobian", exact, "Jacobians/s/core", None, twice, note)


def _row(
    name: str, value: float, unit: str, limit: float | None, recipe: float | None, note: str
) -> dict:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "limit": limit,
        "recipe": recipe,
        "ratio_to_recipe": value / recipe if recipe else None,
        "fraction_of_limit": value / limit if limit else None,
        "note": note,
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds = 2.0 if options.quick else 8.0
    lines = load_lines()
    plain = LineSynthesis(lines, LAMOST, labels=LABELS)
    rotating = LineSynthesis(lines, LAMOST, labels=EVERY)
    infrared = log_grid(4.179, 6e-6, 8575)
    apogee = LineSynthesis(lines, infrared, labels=LABELS, resolving_power=22500.0)
    rows = [
        *(bench_flux("LAMOST, R = 1800", plain, n, seconds) for n in (16, 64, 128)),
        bench_flux("LAMOST, with rotation, all labels", rotating, 64, seconds),
        bench_flux("APOGEE's grid, R = 22500", apogee, 64, seconds),
        bench_jacobian(plain, 16, seconds),
    ]
    for row in rows:
        reference = row["limit"] or row["recipe"]
        numbers = f"{row['value']:8.1f} {reference:8.1f}"
        print(f"{row['name']:36s} {numbers} {row['unit']:18s} {row['note']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
