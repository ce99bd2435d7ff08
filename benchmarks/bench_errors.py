"""Do errors mean what they say: pulls per label and kind of star, over many mocks.

Run: ``python benchmarks/bench_errors.py MODEL [--stars N] [--realizations N] [--json F]``. Kinds of
star are thirds of the model's range of metallicity; truths are uniform over the whole box. Stars
whose Cramér-Rao bound of a label is under a third of the box's half-width count as measured: their
pulls should have unit width (half of the central 68.27 %). Of the others it prints how many are
flagged PRIOR_DOMINATED, and the part within 1 sigma; and the latter of all labels without that
flag, whatever the truth. Then the scatter of fits of many noise
realizations of single stars, over the bound.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
from dataclasses import dataclass
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
MEASURED = 1 / 6  # of the box: a third of its half-width
FEW = 300  # stars, whose width of pulls is known to 0.06
AT_ONCE = 1000
KINDS = ("metal-poor", "middle", "metal-rich")
SIGMA = 15.865, 84.135  # percentiles
INSIDE = 0.25  # scaled labels of the stars that are observed again and again


@dataclass(frozen=True)
class Mocks:
    """Fits of ``n`` mocks of K labels; all but bits in units of the box.

    Attributes
    ----------
    truth, off, error, bound : (n, K)
        Scaled labels, fit less truth, its error, Cramér-Rao bound at the truth.
    flagged : (n, K) bool
        PRIOR_DOMINATED.
    """

    truth: np.ndarray
    off: np.ndarray
    error: np.ndarray
    bound: np.ndarray
    flagged: np.ndarray


def fit_mocks(
    model: Emulator, ridge: RidgeStart, x: np.ndarray, snr: float, options: FitOptions
) -> Mocks:
    """Fit a noise realization of every star with scaled labels `x` (n, K)."""
    rng, spec = np.random.default_rng([int(snr), len(x)]), model.spec
    width = spec.maximum - spec.minimum
    parts = []
    for begin in range(0, len(x), AT_ONCE):
        some = x[begin : begin + AT_ONCE]
        with torch.no_grad():
            clean = model.forward_scaled(torch.tensor(some).to(model.scatter)).numpy()
        flux = clean + rng.standard_normal(clean.shape, dtype=np.float32) / np.float32(snr)
        ivar = np.where(rng.random(clean.shape) < 0.03, 0, snr**2).astype(np.float32)
        fit = fit_labels(model, flux, ivar, start=ridge.apply(flux, ivar), options=options)
        truth = spec.minimum + (some + 0.5) * width
        bits = np.arange(len(width), dtype=np.uint64)
        flagged = fit.prior_dominated[:, np.newaxis] >> bits & np.uint64(1) > 0
        bound = information(model, truth, ivar).bound / width
        off = (fit.labels - truth) / width
        parts.append((some, off, fit.label_err / width, bound, flagged))
    return Mocks(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def half_width(values: np.ndarray) -> float:
    """Return half of the range that holds the central 68.27 %."""
    low, high = np.percentile(values, SIGMA)
    return float((high - low) / 2)


def row(name: str, value: float, unit: str, note: str) -> dict[str, Any]:
    """Print and return one result."""
    print(f"{name:36s} {value:.3f}  {note}", flush=True)
    nothing = {"recipe": None, "ratio_to_recipe": None, "fraction_of_limit": None}
    return {"name": name, "value": value, "unit": unit, "limit": 1.0, **nothing, "note": note}


def cells(
    model: Emulator, mocks: Mocks, snr: float, kind_label: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the cells of measured labels, and those of the others."""
    kind = np.searchsorted([-1 / 6, 1 / 6], mocks.truth[:, model.spec.labels.index(kind_label)])
    measured, others = [], []
    for k, label in enumerate(model.spec.labels):
        pull = mocks.off[:, k] / mocks.error[:, k]
        good = mocks.bound[:, k] < MEASURED
        for j, name in enumerate(KINDS):
            cell = f"S/N {snr:g}, {name}, {label}"
            some = (kind == j) & good
            if some.sum() >= FEW:
                chance = 0.96 / float(some.sum()) ** 0.5
                note = f"{some.sum()} stars, chance {chance:.3f}"
                made = row(cell, half_width(pull[some]), "width of pulls", note)
                measured.append(made | {"chance": chance})
            some = (kind == j) & ~good
            if some.sum() >= FEW:
                flagged = float(mocks.flagged[some, k].mean())
                note = f"{some.sum()} stars not measured; {flagged:.2f} flagged"
                within, bare = np.abs(pull) < 1, some & ~mocks.flagged[:, k]
                made = row(cell, float(within[some].mean()), "part within 1 sigma", note)
                counts = {"unflagged": int(bare.sum()), "within": int(within[bare].sum())}
                others.append(made | {"flagged": flagged} | counts)
    return measured, others


def unflagged(mocks: Mocks, snr: float) -> dict[str, Any]:
    """Return what a user sees, who does not know the truth: labels without a flag."""
    within = np.abs(mocks.off / mocks.error)[~mocks.flagged] < 1
    note = f"{within.size} of {mocks.flagged.size} labels"
    return row(f"S/N {snr:g}, no flag", float(within.mean()), "part within 1 sigma", note)


def scatter_over_bound(
    model: Emulator, ridge: RidgeStart, n: int, options: FitOptions
) -> list[dict[str, Any]]:
    """Observe four stars again and again; compare the scatter of each label with its bound."""
    rng, rows = np.random.default_rng(0), []
    for snr in (50.0, 200.0):
        for star in range(4):
            x = rng.uniform(-INSIDE, INSIDE, (1, len(model.spec.labels)))
            mocks = fit_mocks(model, ridge, np.repeat(x, n, axis=0), snr, options)
            bound = np.median(mocks.bound, axis=0)
            ratio = np.array([half_width(column) for column in mocks.off.T]) / bound
            known = bound < INSIDE / 3  # the box is three sigma away
            note = f"{known.sum()} labels, {ratio[known].min():.2f} to {ratio[known].max():.2f}"
            name = f"S/N {snr:g}, star {star}: scatter / bound"
            rows.append(row(name, float(np.median(ratio[known])), "median over labels", note))
    return rows


def summary(measured: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say how many cells are as they should be."""
    width = np.array([r["value"] for r in measured])
    beyond = np.abs(width - 1) > 0.05 + 2 * np.array([r["chance"] for r in measured])
    inside = np.array([r["value"] for r in others])
    flagged = np.array([r["flagged"] for r in others])
    ok = (inside > 0.65) & (inside < 0.71)
    bare, within = (sum(r[key] for r in others) for key in ("unflagged", "within"))
    return [
        row("measured cells", float(np.median(width)), "median width of pulls",
            f"{np.mean(np.abs(width - 1) <= 0.05):.1%} of {len(width)} within 1.00 +- 0.05, "
            f"{np.mean(np.abs(width - 1) <= 0.10):.1%} within 0.10; {beyond.sum()} off by more and "
            f"twice their chance; "
            f"{width.min():.2f} to {width.max():.2f}"),
        row("other cells", float(np.median(inside)), "median part within 1 sigma",
            f"{np.mean(ok):.1%} of {len(ok)} within 0.65 to 0.71; flagged {flagged.min():.2f} to "
            f"{flagged.max():.2f}, median {np.median(flagged):.2f}; of {bare} labels without flag "
            f"{within / max(bare, 1):.3f} within"),
    ]  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--stars", type=int, default=10_000)
    parser.add_argument("--realizations", type=int, default=600)
    parser.add_argument("--restarts", type=int, help="as by default for the model")
    parser.add_argument("--kind", default="m_h", help="label whose thirds are the kinds of star")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(given.model)
    ridge = ridge_start(model, n_draws=4000, seed=5)
    options = FitOptions(rv_range=RV_RANGE_KMS, restarts=given.restarts)
    measured: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    bare: list[dict[str, Any]] = []
    for snr in (20.0, 50.0, 200.0):
        x = np.random.default_rng(int(snr)).uniform(-0.5, 0.5, (given.stars, len(ridge.minimum)))
        mocks = fit_mocks(model, ridge, x, snr, options)
        good, rest = cells(model, mocks, snr, given.kind)
        measured, others = measured + good, others + rest
        bare.append(unflagged(mocks, snr))
    scatter = scatter_over_bound(model, ridge, given.realizations, options)
    rows = summary(measured, others) + bare + measured + others + scatter
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
