"""Made-up LAMOST spectra beside real ones: S/N, lost pixels, residuals over stated errors.

Run: ``python benchmarks/compare_mock_lamost.py [--png F] [--json F]``. Every real low-resolution
file of ``../shared/data/lamost`` gets a twin: a star of its spectral type and magnitude, seen
through the instrument of its release, with ivar and noise as LAMOST's pipeline states and smooths
them. What is not in a header, how good each night was, is one number per sample of files.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from astropy.io import fits

from scalespec.kernels.observation_lsf import log_grid_of
from scalespec.kernels.observation_noise import Conditions, Sources
from scalespec.kernels.observation_surveys import (
    INSTRUMENTS,
    LAMOST_IVAR_FACTOR,
    LAMOST_NOISE_SIGMA,
)
from scalespec.stages.mock_files import survey_model
from scalespec.stages.mock_layouts import Night
from scalespec.stages.mock_spectra import star_flux
from scalespec.surveys.lamost import WAVELENGTH, read_block

mpl.use("Agg")
from matplotlib import pyplot as plt

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "lamost"
SAMPLES = {
    # layout: folders, log10 of how good the nights were, and its scatter
    "pilot": (("dr1_sample",), -0.05, 0.15),
    "image": (("dr7_mdwarfs", "formats"), -0.5, 0.5),
    "coadd": (("dr10_coadd",), -0.4, 0.15),
}
TYPES = {"O": 30000, "B": 15000, "A": 8600, "F": 6700, "G": 5650, "K": 4600, "M": 3850}
WINDOWS = ((3700, 3800), (3800, 4000), (4000, 4300), (4300, 4800), (4800, 5500), (5500, 5850))
WINDOWS += ((5850, 6200), (6200, 7000), (7000, 7580), (7580, 7680), (7680, 8500), (8500, 8900))
WINDOWS += ((8900, 9050), (9050, 9101))


def real_files(folders: Sequence[str]) -> list[Path]:
    """Return the low-resolution files of some samples."""
    return [path for folder in folders for path in sorted((SHARED / folder).glob("*.fits.gz"))]


def magnitude(header: fits.Header) -> float:
    """Return r, or what is nearest to G, from a header; NaN if it has none."""
    names = str(header.get("MAGTYPE", ""))
    place = {"u": 3, "g": 2, "K": 1}.get(names[:1], 0)
    found = [header.get(f"MAG{place}"), header.get("MAG_PS_R"), header.get("MAG_PS_G")]
    return next((float(m) for m in found if m is not None and 5 < m < 25), float("nan"))


def twins(
    paths: Sequence[Path], night: float, spread: float, seed: int = 1
) -> tuple[dict[str, Any], Any]:
    """Return stars of the types and magnitudes in real headers, and their throughput."""
    rng = np.random.default_rng(seed)
    headers = [fits.getheader(path) for path in paths]
    g = np.array([magnitude(header) for header in headers])
    g = np.where(np.isnan(g), np.nanmedian(g), g)
    kinds = [str(header.get("SUBCLASS", "G5")).lstrip("sdegDZ") or "G5" for header in headers]
    teff = np.array([TYPES.get(kind[:1], 5650) for kind in kinds], float)
    teff = np.clip(teff * (1 + 0.06 * rng.normal(size=len(g))), 3810, 29000)
    n = len(g)
    stars = {
        "teff": teff,
        "logg": np.where(teff < 5000, 3.0, 4.2),
        "fe_h": rng.normal(-0.2, 0.2, n),
    }
    stars |= {"g": g, "rv": rng.normal(0, 30, n), "ebv": rng.gamma(2.0, 0.06, n)}
    exposure = np.array([float(header.get("EXPTIME", 1800.0)) for header in headers]) / 2400.0
    scatter = 10 ** (night + spread * rng.normal(size=n))
    return stars, exposure * scatter


def mock_sample(layout: str) -> dict[str, np.ndarray]:
    """Return flux and ivar of the twins of one sample."""
    folders, night, spread = SAMPLES[layout]
    stars, throughput = twins(real_files(folders), night, spread)
    model = survey_model("lamost_lrs", ("teff", "logg", "fe_h"))
    n = len(stars["teff"])
    sources = Sources(
        star_flux(model, stars),
        log_grid_of(model.spec.wavelength),
        1800.0,
        *(stars[name] for name in ("teff", "g", "ebv", "rv")),
    )
    factor = (LAMOST_IVAR_FACTOR, LAMOST_IVAR_FACTOR)
    rng = np.random.default_rng(5)
    instrument = INSTRUMENTS[f"lamost_lrs/{layout}"]
    if layout == "pilot":  # exposure times are in the headers already
        instrument = replace(instrument, exposure=2400.0)
    seen = Conditions(rng.uniform(-1, 1, n), throughput, np.zeros(n), factor, LAMOST_NOISE_SIGMA)
    night_of = Night({"no_ivar": np.zeros(n, bool)}, sources, seen, rng, 0)
    made = night_of.observe(instrument)["coadd"]
    return {"flux": made.flux, "ivar": made.ivar}


def real_sample(layout: str) -> dict[str, np.ndarray]:
    """Return flux and ivar of one sample's files, as our reader gives them."""
    paths = real_files(SAMPLES[layout][0])
    made = read_block([(str(path), path.read_bytes()) for path in paths])
    spectra = made[0][""] if isinstance(made[0], dict) else made[0]
    return {"flux": spectra.flux.to_numpy(), "ivar": spectra.ivar.to_numpy()}


def pulls(flux: np.ndarray, ivar: np.ndarray, lag: int = 2) -> np.ndarray:
    """Return each pixel less the mean of two neighbours, over its stated error; NaN where lost."""
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(ivar > 0, 1 / ivar, np.nan)
        left, here, right = slice(None, -2 * lag), slice(lag, -lag), slice(2 * lag, None)
        difference = flux[:, here] - 0.5 * (flux[:, left] + flux[:, right])
        error = variance[:, here] + 0.25 * (variance[:, left] + variance[:, right])
        return np.pad(difference / np.sqrt(error), ((0, 0), (lag, lag)), constant_values=np.nan)


def measure(sample: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the numbers of the table for one sample."""
    flux, ivar = sample["flux"], sample["ivar"]
    good = ivar > 0
    snr_pixel = np.where(good, flux * np.sqrt(ivar), np.nan)
    snr = np.nanmedian(snr_pixel, axis=1)
    residual = pulls(flux, ivar)
    level = np.nanmedian(np.where(good, flux, np.nan), axis=1)
    local = np.nan_to_num(snr_pixel)
    kernel = np.ones(31) / 31
    local = np.array([np.convolve(row, kernel, "same") for row in local])
    quiet = [
        residual[(local > a) & (local < b) & np.isfinite(residual)]
        for a, b in ((0, 8), (8, 30), (30, 1e9))
    ]
    inside = [(a <= WAVELENGTH) & (b > WAVELENGTH) for a, b in WINDOWS]
    ratio = snr_pixel / snr[:, None]
    relative = [
        float(np.median(ratio[:, w][good[:, w]])) if good[:, w].any() else np.nan for w in inside
    ]
    return {
        "snr": snr,
        "level": level,
        "lost": [float(1 - good[:, w].mean()) for w in inside],
        "lost_all": float(1 - good.mean()),
        "relative": relative,
        "pulls": quiet,
        "width": [
            float(np.percentile(np.abs(q), 68.3)) if q.size > 50 else float("nan") for q in quiet
        ],
        "spikes": float(np.nanmean(np.abs(residual) > 8)),
        "snr_pixel": snr_pixel,
        "good": good.mean(0),
    }


def draw(samples: dict[str, tuple[dict[str, Any], dict[str, Any]]], path: str) -> None:
    """Draw real and made-up samples side by side, a row per layout."""
    figure, axes = plt.subplots(len(samples), 5, figsize=(26, 5 * len(samples)))
    for row, (layout, both) in zip(axes, samples.items(), strict=True):
        for made, name, color in zip(both, ("real", "mock"), ("k", "C3"), strict=True):
            row[0].hist(
                np.log10(np.maximum(made["snr"], 1)),
                25,
                range=(0.5, 3),
                histtype="step",
                color=color,
                label=name,
            )
            row[1].hist(
                np.log10(np.maximum(made["level"], 1)),
                25,
                range=(0.5, 5),
                histtype="step",
                color=color,
            )
            ratio = made["snr_pixel"] / made["snr"][:, None]
            with np.errstate(all="ignore"):
                low, middle, high = np.nanpercentile(ratio, [16, 50, 84], axis=0)
            row[2].plot(WAVELENGTH, middle, color=color, lw=0.8)
            row[2].fill_between(WAVELENGTH, low, high, color=color, alpha=0.15, lw=0)
            row[3].plot(WAVELENGTH, 1 - made["good"], color=color, lw=0.8)
            for q, style in zip(made["pulls"], ("-", "--", ":"), strict=True):
                if q.size > 500:
                    row[4].hist(
                        q, 80, range=(-6, 6), density=True, histtype="step", color=color, ls=style
                    )
        row[2].set_ylim(0, 4)
        row[4].set_yscale("log")
        row[4].set_ylim(1e-4, 1)
        labels = (
            "log10 median S/N",
            "log10 median flux",
            "S/N of a pixel over the median",
            "part of spectra with ivar 0",
        )
        for axis, label in zip(
            row, (*labels, "pixel less neighbours, over its error"), strict=True
        ):
            axis.set_xlabel(label)
        row[0].set_title(f"{layout}: {len(both[0]['snr'])} files")
        row[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main() -> None:
    """Print the table; draw, and write JSON, where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", default="")
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    samples = {x: (measure(real_sample(x)), measure(mock_sample(x))) for x in SAMPLES}
    rows = []
    for layout, (real, mock) in samples.items():
        pairs = {
            **{
                f"S/N, percentile {p}": [float(np.percentile(m["snr"], p)) for m in (real, mock)]
                for p in (16, 50, 84)
            },
            "flux, median": [float(np.median(m["level"])) for m in (real, mock)],
            "ivar 0, all": [real["lost_all"], mock["lost_all"]],
            "beyond 8 sigma": [real["spikes"], mock["spikes"]],
        }
        names = ("S/N < 8", "8-30", "> 30")
        pairs |= {
            f"width of pulls, {n}": [real["width"][i], mock["width"][i]]
            for i, n in enumerate(names)
        }
        for i, (a, b) in enumerate(WINDOWS):
            pairs[f"S/N over median, {a}-{b}"] = [real["relative"][i], mock["relative"][i]]
            pairs[f"ivar 0, {a}-{b}"] = [real["lost"][i], mock["lost"][i]]
        print(f"\n{layout}: {len(real['snr'])} files\n{'':34}{'real':>10}{'mock':>10}")
        for name, (first, second) in pairs.items():
            print(f"{name:34}{first:10.3f}{second:10.3f}")
            rows.append({"name": f"{layout}: {name}", "real": first, "mock": second})
    if arguments.png:
        draw(samples, arguments.png)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
