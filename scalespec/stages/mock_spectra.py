"""True spectra of made-up stars: our line synthesis or another emulator, two stars in one where so.

Wavelengths are vacuum Å, velocities km/s, flux is normalized to the continuum.
"""

import csv
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scalespec.kernels.observation import shifted
from scalespec.kernels.wavelength import log_grid, velocity_to_pixels
from scalespec.models.base import Emulator
from scalespec.models.lines import LineList
from scalespec.models.synthesis import LineSynthesis
from scalespec.surveys.lamost import LOG10_START, LOG10_STEP, N_PIXEL

Array32 = npt.NDArray[np.float32]

LABELS = ("teff", "logg", "fe_h", "c_fe", "mg_fe", "si_fe", "ca_fe", "ti_fe")
"""Labels of the stars, unless an emulator brings its own."""
OVERSAMPLING, MARGIN_PIXELS = 2, 12  # of the synthesis; 300 km/s are 4.3 pixels
BATCH = 64
"""Stars at a time: the lines of so many fit a cache."""
C2 = 1.438776877e8
"""Second radiation constant [Å K], exact (SI)."""


def load_lines() -> LineList:
    """Read the package's tables of atomic lines, and of the veil of weak ones."""
    rows: list[dict[str, str]] = []
    for name in ("lines", "lines_uv_nir", "veil"):
        text = files("scalespec").joinpath(f"data/{name}.csv").read_text()
        rows += csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    rows.sort(key=lambda row: float(row["wavelength_vac_angstrom"]))
    return LineList(
        np.array([float(row["wavelength_vac_angstrom"]) for row in rows]),
        tuple(row["element"] for row in rows),
        np.array([int(row["ion_stage"]) for row in rows]),
        np.array([float(row["excitation_ev"]) for row in rows]),
        np.array([float(row["log_gf"]) for row in rows]),
        np.array([float(row.get("count", 1)) for row in rows]),
        np.array([float(row.get("spread_angstrom", 0)) for row in rows]),
    )


def synthesis_model(labels: Sequence[str] = LABELS) -> LineSynthesis:
    """Return the line synthesis of mock surveys: LAMOST's grid, finer and a little wider."""
    step = LOG10_STEP / OVERSAMPLING
    start = LOG10_START - MARGIN_PIXELS * LOG10_STEP
    n_pixel = OVERSAMPLING * (N_PIXEL + 2 * MARGIN_PIXELS)
    grid = log_grid(start, step, n_pixel).astype(np.float64)
    return LineSynthesis(load_lines(), grid, labels=labels, resolving_power=1800.0).eval()


def model_flux(model: Emulator, labels: npt.NDArray[np.float64]) -> Array32:
    """Return a model's flux for labels (n, n_label), few stars at a time."""
    with torch.no_grad():
        parts = [
            model(torch.from_numpy(labels[i : i + BATCH])).float().numpy()
            for i in range(0, len(labels), BATCH)
        ]
    return np.concatenate(parts) if parts else np.zeros((0, model.spec.n_pixel), np.float32)


def star_flux(model: Emulator, stars: Mapping[str, npt.NDArray[Any]]) -> Array32:
    """Return the normalized flux of stars as seen at rest with each one's (brighter) primary.

    An unresolved binary shows both stars: their spectra, one shifted by the difference of the
    velocities, are added with the weights of their continua (black bodies of their temperatures and
    areas) and divided by the sum of those (El-Badry et al. 2018, MNRAS 473, 5043, section 2).

    Parameters
    ----------
    model : Emulator
        Its grid is uniform in log wavelength.
    stars : mapping of str to (n,) array
        Every label of the model; ``teff`` [K], ``rv`` [km/s]. For binaries also ``binary`` (bool),
        ``rv_2`` [km/s], ``area_2`` (disk of the secondary over the primary's) and ``<label>_2``
        where a label is not the primary's own, ``teff_2`` among them.

    Returns
    -------
    (n, n_pixel) float32
        On the model's grid.

    Raises
    ------
    ValueError
        If there are binaries and the model's grid is not uniform in log wavelength.
    """
    names = model.spec.labels
    flux = model_flux(
        model, np.stack([np.asarray(stars[name], np.float64) for name in names], axis=1)
    )
    rows = np.flatnonzero(stars["binary"]) if "binary" in stars else np.zeros(0, np.int64)
    if rows.size == 0:
        return flux
    second = [np.asarray(stars.get(f"{n}_2", stars[n])[rows], np.float64) for n in names]
    other = model_flux(model, np.stack(second, axis=1))
    step = _log_step(model)
    pixels = velocity_to_pixels((stars["rv_2"] - stars["rv"])[rows], step)
    other, _ = shifted(other, pixels, start=0.0, stride=1, n_pixel=flux.shape[1])
    weight = _continuum_ratio(model.spec.wavelength, stars["teff"][rows], stars["teff_2"][rows])
    weight *= np.asarray(stars["area_2"], np.float32)[rows, None]
    flux[rows] = (flux[rows] + weight * other) / (1 + weight)
    return flux


def _log_step(model: Emulator) -> float:
    """Return the step of a model's grid in log10 wavelength, if it has but one."""
    steps = np.diff(np.log10(model.spec.wavelength))
    if np.ptp(steps) > 1e-3 * steps.mean():
        raise ValueError(
            f"two stars in one spectrum want a grid uniform in log wavelength, got steps of "
            f"{steps.min():.6g} to {steps.max():.6g} dex"
        )
    return float(steps.mean())


def _continuum_ratio(
    wavelength: npt.NDArray[np.float64],
    first: npt.NDArray[np.float64],
    second: npt.NDArray[np.float64],
) -> Array32:
    """Return the black body of one temperature over that of another, (n, n_pixel)."""
    above, below = (np.expm1(C2 / (wavelength * t[:, np.newaxis])) for t in (first, second))
    return np.asarray(above / below, np.float32)
