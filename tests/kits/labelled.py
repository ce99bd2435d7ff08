"""A store of spectra with labels, made by a known Payne: what training tests learn from."""

import numpy as np
import torch
import xarray as xr

from scalespec.models.base import EmulatorSpec, shift_flux
from scalespec.models.payne import Payne
from scalespec.plan import plan_blocks
from scalespec.schema import C_KMS, PER_SPECTRUM
from scalespec.store.spectra import create_spectra, write_spectra

N, ROWS, N_PIXEL, STEP = 200, 100, 120, 1e-4
WAVELENGTH = 10 ** (3.7 + STEP * np.arange(N_PIXEL))
LABELS = ("teff", "logg", "fe_h")
LOW, HIGH = np.array([4000.0, 1.0, -2.0]), np.array([6500.0, 5.0, 0.5])
GAUSSIAN = {"method": "gaussian", "width_angstrom": 50.0}
KMS = C_KMS * np.log(10) * STEP  # of one pixel, for small velocities


def truth():
    """The Payne that made the spectra."""
    spec = EmulatorSpec("truth", LABELS, LOW, HIGH, WAVELENGTH, 1800.0, GAUSSIAN)
    return Payne(spec, hidden=(6,), seed=4).broadened(1.1, resolving_power=1800.0).eval()


def spectra_with_labels(*, split=True):
    """200 spectra of 150 stars, their lines up to half a pixel off rest."""
    rng = np.random.default_rng(0)
    star = np.concatenate([np.arange(150), np.arange(50)])
    labels = (LOW + rng.uniform(0, 1, (150, 3)) * (HIGH - LOW))[star]
    rv = rng.uniform(-0.5, 0.5, N) * KMS + 3 * KMS
    with torch.inference_mode():
        flux = shift_flux(truth()(torch.tensor(labels)), torch.tensor(rv / KMS - 3)).numpy()
    ivar = np.full(flux.shape, 200.0**2)
    flux = flux + rng.normal(0, 1 / 200, flux.shape)
    columns = {name: np.full(N, value, kind) for name, (kind, value, _) in PER_SPECTRUM.items()}
    columns |= {"snr": np.full(N, 200, "f4"), "rv": rv.astype("f4"), "obsid": np.arange(N)}
    columns |= {"rv_shift": np.full(N, 3 * KMS, "f4"), "star": star}
    if split:
        columns["split"] = (star % 10 == 0).astype(np.uint8) + 2 * (star % 10 == 1).astype(np.uint8)
    dims = ("spectrum", "wavelength")
    pixels = {"flux": flux.astype("f4"), "ivar": ivar.astype("f4")}
    data = {name: (dims, values) for name, values in pixels.items()}
    data |= {name: ("spectrum", values) for name, values in columns.items()}
    data |= {"labels": (("spectrum", "label"), labels.astype("f4"))}
    attrs = {"log10_wavelength_step": STEP, "resolving_power": 1800.0}
    attrs |= {"normalization": GAUSSIAN, "label_names": list(LABELS)}
    return xr.Dataset(data, {"wavelength": WAVELENGTH}, attrs)


def store_spectra(url, spectra):
    """Store them in two blocks; return the URL."""
    create_spectra(url, spectra, n_spectrum=N, shard_rows=ROWS)
    for block in plan_blocks(N, ROWS):
        write_spectra(url, block, spectra.isel(spectrum=slice(block.start, block.stop)))
    return url
