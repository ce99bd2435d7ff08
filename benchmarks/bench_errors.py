"""Do errors mean what they say: pulls per label and kind of star, over many mocks.

Run: ``python benchmarks/bench_errors.py MODEL [--stars N] [--restarts N] [--json F]``. For each S/N
it prints, per label, the median Cramér-Rao bound as a part of the box, the robust deviation of
pulls, the part of truths within 1 sigma, and how many are flagged PRIOR_DOMINATED.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.information import information
from scalespec.optimize.objective import Emulator
from scalespec.optimize.start import RidgeStart, ridge_start
from scalespec.store.model import load_model

RV_RANGE_KMS = 60.0


def bench(
    model: Emulator, ridge: RidgeStart, snr: float, n: int, restarts: int
) -> list[dict[str, Any]]:
    """Fit mocks of one S/N."""
    rng, spec = np.random.default_rng(int(snr)), model.spec
    x = rng.uniform(-0.45, 0.45, (n, len(spec.labels)))
    with torch.no_grad():
        clean = model.forward_scaled(torch.tensor(x).to(model.scatter)).numpy()
    flux = clean + rng.standard_normal(clean.shape).astype(np.float32) / snr
    ivar = np.where(rng.random(clean.shape) < 0.03, 0, snr**2).astype(np.float32)
    width = spec.maximum - spec.minimum
    truth = spec.minimum + (x + 0.5) * width
    options = FitOptions(rv_range=RV_RANGE_KMS, restarts=restarts)
    fit = fit_labels(model, flux, ivar, start=ridge.apply(flux, ivar), options=options)
    some = information(model, truth[:100], ivar[:100]).bound
    rows = []
    for k, name in enumerate(spec.labels):
        pull = (fit.labels[:, k] - truth[:, k]) / fit.label_err[:, k]
        flagged = fit.prior_dominated >> np.uint64(k) & np.uint64(1)
        bound = float(np.median(some[:, k]) / width[k])
        rows.append(
            {
                "name": f"S/N {snr:g}: {name}",
                "value": float(1.4826 * np.median(np.abs(pull))),
                "unit": "robust sigma of pulls",
                "limit": 1.0,
                "recipe": None,
                "ratio_to_recipe": None,
                "fraction_of_limit": None,
                "note": f"bound {bound:.3f} of the box; {np.mean(np.abs(pull) < 1):.3f} within 1 "
                f"sigma; {flagged.mean():.2f} flagged",
            }
        )
        print(f"{rows[-1]['name']:16s} {rows[-1]['value']:.2f}  {rows[-1]['note']}")
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--stars", type=int, default=3400)
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(given.model)
    ridge = ridge_start(model, n_draws=4000, seed=5)
    rows = []
    for snr in (20.0, 50.0, 200.0):
        rows += bench(model, ridge, snr, given.stars, given.restarts)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
