"""Labels that models of MILES give: LAMOST's stars against LASP's, MILES' own hot stars by folds.

python benchmarks/compare_miles.py demo/lamost-miles
python benchmarks/compare_miles.py --hot deploy/runs/miles-hot.toml [--json F]

The first reads the catalog of a run of deploy/runs/lamost-*.toml. The second takes the raw spectra
of a run of MILES, prepares them as `HOT` says, and lets a HotPayne, trained anew in each of eight
folds, measure the 144 stars of 7,000 K and more that it has not seen; kernel ridge regression of
the labels on the same spectra's principal components says what they hold.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge

from scalespec import open_catalog
from scalespec.config import load_config
from scalespec.models.base import EmulatorSpec
from scalespec.models.hot import HotPayne
from scalespec.models.leeway import with_leeway
from scalespec.models.training import TrainOptions, train_emulator
from scalespec.optimize.constraints import Constraints
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.stages import folders
from scalespec.stages.preprocess import preprocess_block
from scalespec.store import paths
from scalespec.store.spectra import read_spectra

LABELS = ("teff", "logg", "fe_h")
HOT = {"lowest": 3600.0, "highest": 7350.0, "resolving_power": 1400.0, "width": 1000.0}
"""Wavelengths [Å], R, and the width [Å] of the smoothing that normalizes: wide enough to leave the
wings of hydrogen's lines and Balmer's jump, which 50 Å take away."""
KEPT, HOTTEST, COOLEST_TESTED = 6000.0, 40000.0, 7000.0
FOLDS, SNR, NEAREST = 8, 150.0, 6
HIDDEN, ROUNDS = (32, 32), (0, 5, 15, 40)
LEEWAY, SCATTER, PRIOR_WIDTH = 24, 3.0, np.array([3.0, 1.0, 0.7])
"""The model's errors run along many pixels: so many of their components are labels, and the scatter
of what is left counts so many times. The prior's width is in units of the training stars' own."""
INNER = 4
"""Folds of the training stars, whose networks say how wrong one is about stars it has not seen."""
COMPONENTS = 25
KERNEL = {"teff": {"alpha": 0.01, "gamma": 0.3}, "logg": {"alpha": 0.03, "gamma": 0.1}}
"""Of the regression, by cross-validation in the first fold."""


def table(catalog: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute difference and median difference by release and type of star."""
    rows = []
    for name, column, low in (
        ("lasp", "lasp_snrg", 20),
        ("lasp", "snr_g", 20),
        ("pylasp", "snr_g", 0),
    ):
        known = catalog[f"{name}_teff"].notna() & (catalog[column] > low)
        for kind in ("AFGK", *"AFGK"):
            here = catalog[known & catalog["subclass"].str[0].isin(list(kind))]
            if not len(here):
                continue
            difference = np.stack([here[k] - here[f"{name}_{k}"] for k in LABELS], axis=1)
            fitted = np.isfinite(difference).all(axis=1)
            row = {"labels": name, "of S/N": f"{column} > {low}", "type": kind, "n": len(here)}
            row |= {"fitted": int(fitted.sum())}
            for k, values in zip(LABELS, difference[fitted].T, strict=True):
                row |= {f"{k} MAE": np.abs(values).mean(), f"{k} median": np.median(values)}
            if name == "lasp":  # what the labels' own errors would make of a perfect model
                row["MAE of LASP's error"] = 0.8 * here["lasp_teff_err"].mean()
            rows.append(row)
    return pd.DataFrame(rows)


@dataclass
class Stars:
    """Spectra with labels, and the context and reader of their training."""

    labels: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    wavelength: np.ndarray
    rank = 0
    world_size = 1
    device = "cpu"

    def take(self, rows):
        return Stars(self.labels[rows], self.flux[rows], self.ivar[rows], self.wavelength)

    def batch(self):
        n = len(self.labels)
        return self.labels.astype("f4"), self.flux, self.ivar, np.zeros(n, np.float32)

    def chunks(self, _epoch, _rank, _world_size):
        yield self.batch()

    def wrap(self, model):
        return model

    def report(self, metrics):
        """Say nothing."""


def hot_stars(run_file: Path) -> Stars:
    """Return MILES' stars of `KEPT` K and more, prepared as `HOT` says."""
    config = load_config(run_file)
    folder = folders.raw_url(config)
    raw = read_spectra(paths.join(folder, "spectra.zarr"), 0, 2**62)
    index = pd.concat(map(pd.read_parquet, sorted(Path(folder, "index").glob("*.parquet"))))
    table = config.preprocess
    start = int(np.ceil((np.log10(HOT["lowest"] - 30) - 3.5682) / 1e-4))
    grid = {"min_angstrom": 10 ** (3.5682 + 1e-4 * start), "max_angstrom": HOT["highest"] + 59}
    grid = table.grid.model_copy(update=grid | {"resolving_power": HOT["resolving_power"]})
    continuum = {"width_angstrom": HOT["width"], "passes": 1}
    cut = {"wavelength_min_angstrom": HOT["lowest"], "wavelength_max_angstrom": HOT["highest"]}
    continuum = table.continuum.model_copy(update=continuum)
    made = preprocess_block(
        raw, table.model_copy(update={**cut, "grid": grid, "continuum": continuum})
    )
    known = pd.read_csv(config.crossmatch["miles"].catalog).set_index("designation")
    labels = known.reindex(index["designation"])[list(LABELS)].to_numpy(np.float64)
    kept = np.isfinite(labels).all(axis=1) & (labels[:, 0] > KEPT) & (labels[:, 0] < HOTTEST)
    ivar = np.where(made["ivar"].to_numpy()[kept] > 0, np.float32(SNR**2), np.float32(0))
    flux = made["flux"].to_numpy()[kept]
    return Stars(labels[kept], flux, ivar, made["wavelength"].to_numpy())


def emulated(stars: Stars, test: Stars, seed: int) -> np.ndarray:
    """Return the labels that a HotPayne of `stars` gives others, its own errors marginalized."""
    model, n = _hot_payne(stars, seed), len(stars.labels)
    left, inner = torch.zeros(stars.flux.shape), np.random.default_rng(seed + 100).permutation(n)
    for k in range(INNER):
        rows = inner % INNER == k
        other, labels = _hot_payne(stars.take(~rows), seed), torch.from_numpy(stars.labels[rows])
        with torch.no_grad():
            left[rows] = torch.from_numpy(stars.flux[rows]) - other(labels)
    perfect = torch.where(torch.from_numpy(stars.ivar) > 0, torch.inf, 0.0)
    model = with_leeway(model, left, perfect, LEEWAY)
    model.scatter.mul_(SCATTER)
    start = _nearest(stars, test)
    known = np.pad(stars.labels, ((0, 0), (0, LEEWAY)))
    sigma = stars.labels.std(0) * PRIOR_WIDTH
    fit = fit_labels(
        model,
        test.flux,
        np.where(test.ivar > 0, np.float32(1e4), np.float32(0)),
        start=np.pad(start, ((0, 0), (0, 0), (0, LEEWAY))).astype(np.float32),
        rv_start=np.zeros(len(test.flux), np.float32),
        options=FitOptions(rv_range=100.0),
        constraints=Constraints(
            prior_mean=known.mean(0),
            prior_sigma=np.append(sigma, np.full(LEEWAY, np.nan)),
        ),
    )
    return fit.labels[:, : len(LABELS)].astype(np.float64)


def _hot_payne(stars: Stars, seed: int) -> HotPayne:
    """Train a network."""
    low, high = stars.labels.min(0), stars.labels.max(0)
    normalization = {"method": "gaussian", "width_angstrom": HOT["width"]}
    spec = EmulatorSpec(
        "hot", LABELS, low, high, stars.wavelength, HOT["resolving_power"], normalization
    )
    model = HotPayne(spec, hidden=HIDDEN, seed=seed)
    held = np.random.default_rng(seed).random(len(stars.labels)) < 0.1
    training, validation = stars.take(~held), stars.take(held).batch()
    train_emulator(
        model, training, validation, options=TrainOptions(rounds=ROUNDS), context=training
    )
    return model


def _nearest(stars: Stars, test: Stars) -> np.ndarray:
    """Return labels (n, NEAREST, 3) of the stars whose spectra are most alike."""
    good = (test.ivar > 0).astype(np.float32)
    distance = (good * test.flux**2).sum(1)[:, None] - 2 * (good * test.flux) @ stars.flux.T
    distance = distance + good @ (stars.flux**2).T
    return stars.labels[np.argsort(distance, axis=1)[:, :NEAREST]]


def regressed(stars: Stars, test: Stars, _seed: int) -> np.ndarray:
    """Return log Teff, as Teff, and log g by kernel ridge regression; [Fe/H] is not asked."""
    filled = [np.where(part.ivar > 0, part.flux, 1.0) for part in (stars, test)]
    components = PCA(COMPONENTS, random_state=0).fit(filled[0])
    known, new = (components.transform(part) for part in filled)
    unit = known.std(axis=0)[0]
    found = np.full((len(new), 3), np.nan)
    for k, name in enumerate(("teff", "logg")):
        label = np.log10(stars.labels[:, 0]) if name == "teff" else stars.labels[:, k]
        mean, spread = label.mean(), label.std()
        fit = KernelRidge(kernel="rbf", **KERNEL[name]).fit(known / unit, (label - mean) / spread)
        found[:, k] = fit.predict(new / unit) * spread + mean
    found[:, 0] = 10 ** found[:, 0]
    return found


HOT_MODELS = {"HotPayne": emulated, "kernel ridge": regressed}


def hot_rows(stars: Stars, models: list[str], seeds: int) -> list[dict[str, object]]:
    """Return errors of each model over repeated folds."""
    tested = stars.labels[:, 0] >= COOLEST_TESTED
    errors: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for seed in range(seeds):
        fold = np.random.default_rng(seed).permutation(len(stars.labels)) % FOLDS
        found = {name: np.full_like(stars.labels, np.nan) for name in errors}
        for k in range(FOLDS):
            rows = (fold == k) & tested
            parts = stars.take(fold != k), stars.take(rows)
            for name in models:
                found[name][rows] = HOT_MODELS[name](*parts, seed)
        for name, labels in found.items():
            wrong = labels[tested] - stars.labels[tested]
            wrong[:, 0] = np.log10(labels[tested, 0] / stars.labels[tested, 0])
            errors[name].append(np.abs(wrong))
            print(seed, name, np.abs(wrong).mean(0).round(4), flush=True)
    rows = []
    for name, found in errors.items():
        for k, (label, limit) in enumerate((("log Teff", 0.022), ("log g", 0.27))):
            values = [one[:, k].mean() for one in found]
            note = f"{tested.sum()} stars, {seeds} x {FOLDS} folds, which scatter by "
            rows.append(
                {
                    "name": f"MILES, hot stars, {name}: MAE of {label}",
                    "value": float(np.mean(values)),
                    "unit": "dex",
                    "limit": limit,
                    "fraction_of_limit": limit / float(np.mean(values)),
                    "note": note + f"{np.std(values):.4f}; median {np.median(found[0][:, k]):.4f}",
                }
            )
    return rows


def main() -> None:
    """Print one table or the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("catalog", nargs="?", help="workspace of a run on LAMOST's spectra")
    parser.add_argument("--hot", type=Path, help="run file of MILES, which was run")
    parser.add_argument("--models", nargs="+", choices=HOT_MODELS, default=list(HOT_MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.catalog:
        frame = open_catalog(asked.catalog).to_table().to_pandas()
        print(table(frame).round(3).to_string(index=False))
    if asked.hot:
        rows = hot_rows(hot_stars(asked.hot), asked.models, asked.seeds)
        for row in rows:
            print(f"{row['name']:<50}{row['value']:.4f} (limit {row['limit']}) {row['note']}")
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
