"""A direct regressor and the forward fit, both taught by MILES, on the same stars of LAMOST.

Run: ``python benchmarks/compare_forward_direct.py FIGURE.png [--json F]`` after
``scalespec run deploy/runs/lamost-miles.toml`` and what that file wants. The forward fit is that
run's: two Cannons of MILES, fitted to each spectrum. The regressors learn from the same MILES
spectra, normalized alike, with noise of S/N 20 to 150, and see the LAMOST spectra that the fit saw.
Truth is LASP's catalog, which has errors of its own.
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

from scalespec import open_catalog
from scalespec.figures import to_png
from scalespec.figures.comparison import one_to_one_panels
from scalespec.models.regressor import Sample, describe
from scalespec.stages.rivals import make_rival
from scalespec.store.spectra import read_spectra

LABELS, UNITS = ("teff", "logg", "fe_h"), ("K", "dex", "dex")
SNR = 20.0, 150.0  # of what a regressor is shown
SNR_MIN = 20.0  # of LASP's table
CHOSEN: dict[str, dict[str, Any]] = {
    "ridge": {"logarithmic": ["teff"]},
    "gaussian_process": {"logarithmic": ["teff"], "components": 50, "steps": 60},
}
"""The best and the simplest regressor of deploy/runs/miles-compare.toml."""


def one(pattern: str, folder: Path) -> str:
    """Return the one path below `folder`."""
    (found,) = folder.glob(pattern)
    return str(found)


def read_miles(folders: list[Path]) -> tuple[Sample, np.ndarray, np.ndarray]:
    """Return MILES spectra with labels, each once, their stars, and their wavelengths."""
    parts = [
        read_spectra(one("matches/miles/train/*/train.zarr", folder), 0, 2**62)
        for folder in folders
    ]
    flux, ivar, labels, star = (
        np.concatenate([part[name].to_numpy() for part in parts])
        for name in ("flux", "ivar", "labels", "star")
    )
    first = np.unique(labels @ [1.0, 1e4, 1e5], return_index=True)[1]  # both runs have some stars
    some = first[np.isfinite(labels[first]).all(axis=1)]
    sample = Sample(flux[some], ivar[some], labels[some], np.zeros_like(labels[some]))
    return sample, star[some], parts[0]["wavelength"].to_numpy()


def noisy(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return the spectra with noise of some S/N each."""
    snr = np.exp(rng.uniform(*np.log(SNR), (len(sample), 1)))
    used = sample.ivar > 0
    flux = (sample.flux + rng.standard_normal(used.shape) / snr * used).astype(np.float32)
    ivar = np.where(used, snr**2, 0.0).astype(np.float32)
    return Sample(flux, ivar, sample.labels, sample.label_err)


def direct(
    miles: tuple[Sample, np.ndarray, np.ndarray], flux: np.ndarray, ivar: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each regressor's labels of LAMOST's spectra."""
    sample, star, wavelength = miles
    rng = np.random.default_rng(0)
    held = star % 10 == 0
    training, validation = noisy(sample.take(~held), rng), noisy(sample.take(held), rng)
    found = {}
    for name, options in CHOSEN.items():
        spec = describe(name, LABELS, wavelength, training)
        model = make_rival(name, spec, **options)
        model.fit(training, validation, seed=0)
        found[name] = model.predict(flux, ivar).labels
    return found


def main() -> None:
    """Train, apply, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of the workspaces")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lamost = given.demo / "lamost-miles"
    catalog = open_catalog(str(lamost)).to_table().to_pandas()
    spectra = read_spectra(one("spectra/*/spectra.zarr", lamost), 0, 2**62)
    known = (catalog["lasp_snrg"] > SNR_MIN) & np.isfinite(catalog[list(LABELS)]).all(axis=1)
    known &= np.isfinite(catalog[[f"lasp_{k}" for k in LABELS]]).all(axis=1)
    stars = catalog[known]
    rows = stars["row"].to_numpy()
    flux, ivar = (spectra[name].to_numpy()[rows] for name in ("flux", "ivar"))
    miles = read_miles([given.demo / "miles-cool", given.demo / "miles-hot"])
    print(f"{len(miles[0])} stars of MILES, {len(stars)} of LAMOST with LASP's labels")
    found = {"forward: two Cannons": stars[list(LABELS)].to_numpy()} | {
        f"direct: {name}": labels for name, labels in direct(miles, flux, ivar).items()
    }
    results = []
    for k, (label, unit) in enumerate(zip(LABELS, UNITS, strict=True)):
        truth = stars[f"lasp_{label}"].to_numpy()
        for name, labels in found.items():
            off = labels[:, k] - truth
            middle = float(np.median(off))
            scatter = 1.4826 * float(np.median(np.abs(off - middle)))
            mae = float(np.abs(off).mean())
            print(f"{label:5s} {name:22s} MAE {mae:.3f} median {middle:+.3f} scatter {scatter:.3f}")
            note = f"median {middle:+.3f}, robust scatter {scatter:.3f}"
            results.append({"name": f"{label}, {name}", "value": mae, "unit": unit, "note": note})
        shown = {name: (truth, labels[:, k]) for name, labels in found.items()}
        name = f"{given.figure.stem}_{label}.png"
        given.figure.with_name(name).write_bytes(
            to_png(one_to_one_panels(shown, name=label, unit=unit))
        )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
