"""A run of made-up dwarfs, a third of them pairs, as far as preprocess."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

from scalespec.config import RunConfig, parse_config
from scalespec.kernels.continuum import gaussian_smoothing, normalize
from scalespec.models.base import EmulatorSpec, shift_flux
from scalespec.models.binary import BinaryEmulator, MainSequence
from scalespec.models.payne import Payne
from scalespec.plan import plan_blocks
from scalespec.schema import PER_SPECTRUM
from scalespec.stages import folders
from scalespec.stages.ingest import write_raw
from scalespec.stages.preprocess import write_preprocessed
from scalespec.stages.segments import Segment, add_segment
from scalespec.store.model import save_model
from scalespec.store.spectra import create_spectra
from tests.kits.fitted_run import HEAD as FITTED

N_PIXEL, STEP = 700, 1e-4
WAVELENGTH = 10 ** (3.7 + STEP * np.arange(N_PIXEL))
LABELS = ("teff", "logg", "fe_h")
LOW, HIGH = np.array([3900.0, 3.5, -1.5]), np.array([6800.0, 5.0, 0.6])
NORMALIZATION = {"method": "gaussian", "width_angstrom": 50.0}
OBSID = 2**54
MASS = np.linspace(0.4, 1.3, 19)
SEQUENCE = MainSequence(
    MASS, 3600 + 2300 * (MASS - 0.4) ** 0.9 + 700 * (MASS - 0.4), 4.85 - 0.5 * MASS
)
"""Of no isochrone, but like one: 3,600 K to 6,300 K."""
HEAD = FITTED + "rv_range_kms = 60.0\n"


@dataclass(frozen=True)
class PairsRun:
    """A run file, and what is true of its stars: q is NaN of single ones."""

    config: RunConfig
    labels: np.ndarray
    q: np.ndarray
    dv: np.ndarray


def single_model() -> Payne:
    """A network over the true continuum: lines 3 pixels wide, most deep in cool stars."""
    spec = EmulatorSpec("dwarfs", LABELS, LOW, HIGH, WAVELENGTH, 1800.0, {"method": "continuum"})
    model, rng, hidden = (
        Payne(spec, hidden=(24, 24), activation="silu", seed=3),
        np.random.default_rng(3),
        24,
    )
    center = rng.uniform(0, N_PIXEL, N_PIXEL // 8)
    profile = np.exp(-0.5 * ((np.arange(N_PIXEL)[:, None] - center) / 1.4) ** 2)
    with torch.no_grad():
        model.output.weight.copy_(
            torch.tensor(-profile @ rng.normal(0, 0.35, (len(center), hidden)))
        )
        model.output.bias.copy_(torch.tensor(1 - profile @ rng.uniform(0.1, 0.4, len(center))))
    return model


def write_pairs(
    root: Path, n: int, tables: str, *, rows: int, snr=(60.0, 150.0), seed: int = 5, share=1 / 3
) -> PairsRun:
    """Write the stores of `n` dwarfs; `tables` is the rest of the run file."""
    rng, model = np.random.default_rng(seed), single_model()
    teff = rng.uniform(4900, 6200, n)
    logg = np.interp(teff, SEQUENCE.teff, SEQUENCE.logg) + rng.normal(0, 0.04, n)
    labels = np.column_stack([teff, logg, rng.uniform(-0.7, 0.3, n)])
    two = rng.random(n) < share
    q = np.where(two, rng.uniform(0.5, 0.9, n), np.nan)
    dv = np.where(two, rng.choice([-1, 1], n) * rng.uniform(20, 150, n), np.nan)
    pair = BinaryEmulator(model, SEQUENCE, q_range=(0.3, 1.0))
    with torch.inference_mode():
        clean = model(torch.tensor(labels))
        both = torch.tensor(np.column_stack([labels, q, dv])[two])
        clean[torch.tensor(two)] = pair(both)
        moved = shift_flux(clean, torch.tensor(rng.uniform(-0.4, 0.4, n)).float()).numpy()
    level = np.exp(rng.normal(0, 0.2, n))[:, None]
    sigma = level / np.exp(rng.uniform(*np.log(snr), n))[:, None]
    ivar = np.where(rng.random(moved.shape) < 0.02, 0, sigma**-2).astype(np.float32)
    flux = (level * moved + sigma * rng.standard_normal(moved.shape)).astype(np.float32)
    operator = gaussian_smoothing(WAVELENGTH, NORMALIZATION["width_angstrom"])
    flux, ivar, _, _ = normalize(flux, ivar, operator)
    save_model(str(root / "model"), model)
    table = pd.DataFrame({"mass": SEQUENCE.mass, "teff": SEQUENCE.teff, "logg": SEQUENCE.logg})
    table.to_csv(root / "isochrone.csv", index=False)
    config = parse_config(HEAD.format(root=root, rows=rows) + tables.format(root=root))
    write_stores(config, flux, ivar)
    return PairsRun(config, labels, q, dv)


def write_stores(config: RunConfig, flux: np.ndarray, ivar: np.ndarray) -> None:
    """Write raw and preprocessed spectra as their stages do."""
    n, size = len(flux), config.run.spectra_per_block
    plan = Segment(0, n, size, folders.entries_of(config), 1, n, "0", "a")
    add_segment(folders.plan_url(config), 0, plan)
    raw, spectra = folders.raw_url(config), folders.spectra_url(config)
    blocks = plan_blocks(n, size)
    for url in (raw, spectra):
        template = _block(blocks[0], flux, ivar)
        create_spectra(f"{url}/spectra.zarr", template, n_spectrum=n, shard_rows=size)
    for block in blocks:
        made = _block(block, flux, ivar)
        names = [f"spec-{row}.fits" for row in range(block.start, block.stop)]
        write_raw(block, ({"": made}, pd.DataFrame({"file": names, "designation": names})), raw)
        write_preprocessed(block, made, spectra)


def _block(block, flux, ivar) -> xr.Dataset:
    there = slice(block.start, block.stop)
    columns = {
        name: np.full(block.size, unknown, dtype)
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    columns["obsid"] = OBSID + np.arange(block.start, block.stop)
    columns["snr"] = np.sqrt(np.median(ivar[there], axis=1)).astype(np.float32)
    pixels = {"flux": flux[there], "ivar": ivar[there]}
    pixels["mask"] = (ivar[there] == 0).astype(np.uint32)
    variables = {name: (("spectrum", "wavelength"), values) for name, values in pixels.items()}
    variables |= {name: ("spectrum", values) for name, values in columns.items()}
    variables["rv_shift"] = ("spectrum", np.zeros(block.size, np.float32))
    attrs = {
        "wavelength_medium": "vacuum",
        "log10_wavelength_step": STEP,
        "resolving_power": 1800.0,
        "normalization": NORMALIZATION,
    }
    return xr.Dataset(variables, {"wavelength": ("wavelength", WAVELENGTH)}, attrs)
