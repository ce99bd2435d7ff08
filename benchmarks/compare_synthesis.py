"""Our line synthesis beside other people's spectra: tables of agreement, and figures to look at.

Run: ``python benchmarks/compare_synthesis.py [--figures FOLDER] [--json F]``. It wants the
reference spectra of ``../shared/data``: three emulators of Synspec giants, MOOG spectra on ATLAS9
models, the atlas of the Sun. Flux is divided by the true continuum on both sides; all at R = 1800
on LAMOST's vacuum pixels.
"""

import argparse
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from astropy.io import fits

from scalespec.kernels.wavelength import air_to_vacuum, log_grid
from scalespec.models.gas import SYMBOLS
from scalespec.models.synthesis import LineSynthesis
from scalespec.stages.mock_spectra import load_lines
from scalespec.store.model import load_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
GRID = log_grid(3.5682, 1e-4, 3909)
ELEMENT_LABELS = tuple(f"{symbol.lower()}_fe" for symbol in SYMBOLS[2:])
LABELS = ("teff", "logg", "fe_h", "vmic", *ELEMENT_LABELS)
STEPS = {"teff": 100.0, "logg": 0.1, "fe_h": 0.1, "vmic": 0.1}  # of gradients; [X/Fe] 0.1
REACH, APART = 2, 5  # pixels: one resolution element is 2.4; features are two of them apart
BALMER = (4341.7, 4862.7)  # not reliable in MOOG
GIANTS = {
    "giants_3500-4200": ((4000.0, 1.0, -0.2), (4100.0, 1.5, -0.5)),
    "giants_4000-5000": ((4500.0, 2.0, 0.0), (4800.0, 2.5, -1.0)),
    "giants_4900-6000": ((5200.0, 2.8, -0.3), (5600.0, 3.2, -0.3)),
}


@dataclass
class Case:
    """One star: both fluxes, and both differences per label, on the same pixels."""

    source: str
    star: tuple[float, ...]
    wavelength: np.ndarray
    theirs: np.ndarray
    ours: np.ndarray
    gradients: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def title(self) -> str:
        """Say which star of which source."""
        return f"{self.source} " + " ".join(f"{x:g}" for x in self.star)


def our_model() -> LineSynthesis:
    """Return our synthesis with every label that the references have."""
    return LineSynthesis(load_lines(), GRID, labels=LABELS)


def vmic_of(logg: float) -> float:
    """Return the microturbulence that our model assumes where none is given [km/s]."""
    return 2.13 - 0.23 * logg


def our_spectra(
    model: LineSynthesis, star: tuple[float, ...], labels: list[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return flux and central differences of some labels; `star` is teff, logg, fe_h, vmic."""
    base = np.zeros(len(LABELS))
    base[:4] = star
    rows = [base]
    for label in labels:
        for sign in (1, -1):
            row = base.copy()
            row[LABELS.index(label)] += sign * STEPS.get(label, 0.1)
            rows.append(row)
    with torch.no_grad():
        flux = model(torch.tensor(np.array(rows))).double().numpy()
    return flux[0], {label: flux[2 * i + 1] - flux[2 * i + 2] for i, label in enumerate(labels)}


def emulator_cases(model: LineSynthesis) -> Iterator[Case]:
    """Yield stars inside the emulators of Synspec giants."""
    near = (GRID > 4000) & (GRID < 6800)
    for name, stars in GIANTS.items():
        emulator = load_model(str(SHARED / "emulators" / f"{name}_lamost.npz"))
        theirs = list(emulator.spec.labels)
        ours = ["fe_h" if x == "m_h" else x.replace("_m", "_fe") for x in theirs]
        for teff, logg, fe_h in stars:
            flux, changes = our_spectra(model, (teff, logg, fe_h, vmic_of(logg)), ours)
            base = np.zeros(len(theirs))
            base[:3] = teff, logg, fe_h
            shift = np.diag([STEPS.get(x, 0.1) for x in ours])
            rows = torch.tensor(np.concatenate([[base], base + shift, base - shift]))
            with torch.no_grad():
                spectra = emulator(rows).double().numpy()
            slopes = np.split(spectra[1:], 2)[0] - np.split(spectra[1:], 2)[1]
            pairs = {x: (slopes[i][near], changes[x][near]) for i, x in enumerate(ours)}
            yield Case(name, (teff, logg, fe_h), GRID[near], spectra[0][near], flux[near], pairs)


def moog_cases(model: LineSynthesis) -> Iterator[Case]:
    """Yield the reference stars of the MOOG spectra, without H-beta and H-gamma."""
    with np.load(SHARED / "moog_atlas9_computed" / "moog_atlas9_gradients.npz") as npz:
        data = dict(npz)
    wave = data["wave_vac"]
    first = int(np.argmin(np.abs(GRID - wave[0])))
    here = slice(first, first + wave.size)
    valid = np.all([np.abs(wave - line) > 25 for line in BALMER], axis=0)
    names = {"mh": "fe_h"} | {x: x for x in ("logg", "vmic")}
    columns = {
        names.get(str(x), f"{str(x).lower()}_fe"): i
        for i, x in enumerate(data["grad_names"])
        if str(x) not in ("teff", "Fe")  # Fe alone is no label of ours; Teff as a grid difference
    }
    for star, flux, slopes in zip(
        data["base_labels"], data["base_flux"], data["grad"], strict=True
    ):
        ours, changes = our_spectra(model, tuple(star), list(columns))
        pairs = {
            x: (np.where(valid, slopes[i], 0.0), np.where(valid, changes[x][here], 0.0))
            for x, i in columns.items()
            if np.abs(slopes[i][valid]).max() > 1e-3
        }
        yield Case("MOOG", tuple(star), wave[valid], flux[valid], ours[here][valid], pairs)


def sun(model: LineSynthesis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return wavelength, the solar atlas smoothed to R = 1800, and our Sun, 4820 to 6780 Å."""
    data = gzip.decompress((SHARED / "benchmark" / "ATLAS.Sun_47000.fits.gz").read_bytes())
    with fits.open(io.BytesIO(data)) as hdus:
        header, atlas = hdus[0].header, hdus[0].data.astype(float)
    air = 10 * (header["CRVAL1"] + header["CDELT1"] * np.arange(atlas.size))
    wave = air_to_vacuum(air)
    here = GRID[(GRID > 4820) & (GRID < 6780)]
    smooth = np.empty(here.size)
    for i, center in enumerate(here):
        sigma = center * np.sqrt(1800.0**-2 - 47000.0**-2) / 2.3548
        near = slice(*np.searchsorted(wave, [center - 5 * sigma, center + 5 * sigma]))
        weight = np.exp(-0.5 * ((wave[near] - center) / sigma) ** 2)
        smooth[i] = np.sum(weight * atlas[near]) / weight.sum()
    flux, _ = our_spectra(model, (5772.0, 4.44, 0.0, 1.0), [])
    return here, smooth, flux[(GRID > 4820) & (GRID < 6780)]


def extrema(change: np.ndarray) -> np.ndarray:
    """Return the pixels where the size of a difference has a maximum."""
    size = np.abs(change)
    return np.flatnonzero((size[1:-1] >= size[:-2]) & (size[1:-1] > size[2:])) + 1


def features(change: np.ndarray, n: int = 5) -> list[int]:
    """Return the strongest maxima of a difference, at least `APART` pixels from each other."""
    places = extrema(change)
    chosen: list[int] = []
    for place in places[np.argsort(-np.abs(change[places]))]:
        if all(abs(place - other) >= APART for other in chosen):
            chosen.append(int(place))
    return chosen[:n]


def agreement(theirs: np.ndarray, ours: np.ndarray) -> list[bool]:
    """Say of each of their strongest features whether we have one there, of the same sign.

    Ours counts if it is within one resolution element and at least 5 % of our largest.
    """
    size = np.abs(ours)
    mine = [i for i in extrema(ours) if size[i] > 0.05 * size.max()]
    return [
        any(abs(i - place) <= REACH and np.sign(ours[i]) == np.sign(theirs[place]) for i in mine)
        for place in features(theirs)
    ]


def table(cases: list[Case]) -> list[dict]:
    """Return what is to be printed: correlations of stars, agreement of labels by source."""
    rows = []
    for case in cases:
        size = (1 - case.ours).mean() / (1 - case.theirs).mean()
        note = f"mean depth ours/theirs {size:.2f}"
        value = float(np.corrcoef(case.theirs, case.ours)[0, 1])
        rows.append(_row(f"{case.title}: flux", value, "correlation", note))
    for source in ("giants", "MOOG"):
        found: dict[str, list[bool]] = {}
        for case in cases:
            if case.source.startswith(source):
                for label, pair in case.gradients.items():
                    found.setdefault(label, []).extend(agreement(*pair))
        for label, hits in found.items():
            note = f"{sum(hits)} of {len(hits)} features"
            rows.append(_row(f"{source} {label}: gradient", float(np.mean(hits)), "fraction", note))
    return rows


def _row(name: str, value: float, unit: str, note: str) -> dict:
    row = dict.fromkeys(("limit", "recipe", "ratio_to_recipe", "fraction_of_limit"))
    return {"name": name, "value": value, "unit": unit, **row, "note": note}


def draw(cases: list[Case], atlas: tuple[np.ndarray, ...], folder: Path) -> None:
    """Write the figures: fluxes, gradients, the Sun."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [cases[i] for i in (1, 3, 5)] + [c for c in cases if c.source == "MOOG"][:3]
    _fluxes(
        [(c.title, c.wavelength, c.theirs, c.ours) for c in shown],
        folder / "flux.png",
    )
    here, smooth, ours = atlas
    parts = [(here > a) & (here < a + 500) for a in (4800, 5290, 5780, 6270)]
    _fluxes([("Sun", here[p], smooth[p], ours[p]) for p in parts], folder / "sun.png")
    case = cases[3]
    labels = [x for x in case.gradients if x in ("teff", "logg", "c_fe", "n_fe", "na_fe", "mg_fe",
              "si_fe", "ca_fe", "ti_fe", "cr_fe", "ni_fe", "ba_fe")]  # fmt: skip
    figure, axes = plt.subplots(len(labels), 1, figsize=(16, 2 * len(labels)), sharex=True)
    for axis, label in zip(axes, labels, strict=True):
        theirs, mine = case.gradients[label]
        axis.plot(case.wavelength, theirs, "k", lw=0.8, label="reference")
        axis.plot(case.wavelength, mine, "r", lw=0.8, label="ours")
        axis.set_ylabel(label)
    axes[0].legend(loc="lower right")
    axes[0].set_title(f"{case.title}: differences")
    axes[-1].set_xlabel("vacuum wavelength [Å]")
    figure.tight_layout()
    figure.savefig(folder / "gradients.png", dpi=70)


def _fluxes(panels: list[tuple], path: Path) -> None:
    figure, axes = plt.subplots(len(panels), 1, figsize=(16, 3 * len(panels)))
    for axis, (title, *columns) in zip(axes, panels, strict=True):
        gaps = np.flatnonzero(np.diff(columns[0]) > 5) + 1  # left out on purpose: no line across
        wave, theirs, ours = (np.insert(column, gaps, np.nan) for column in columns)
        axis.plot(wave, theirs, "k", lw=0.9, label="reference")
        axis.plot(wave, ours, "r", lw=0.9, label="ours")
        axis.set(title=title, xlim=(wave[0], wave[-1]), ylabel="flux / continuum")
    axes[0].legend(loc="lower right")
    axes[-1].set_xlabel("vacuum wavelength [Å]")
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main() -> None:
    """Compare, print, draw, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", type=Path, help="folder to draw to")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    model = our_model()
    cases = [*emulator_cases(model), *moog_cases(model)]
    rows = table(cases)
    here, smooth, ours = sun(model)
    note = f"mean difference {np.mean(ours - smooth):+.3f}, rms {np.std(ours - smooth):.3f}"
    value = float(np.corrcoef(smooth, ours)[0, 1])
    rows.append(_row("Sun, atlas smoothed: flux", value, "correlation", note))
    for row in rows:
        print(f"{row['name']:52s} {row['value']:6.3f} {row['unit']:12s} {row['note']}")
    if options.figures:
        draw(cases, (here, smooth, ours), options.figures)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
