"""A run of any number of made-up stars, as far as fit: spectra of a few pixels, labels as given."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from scalespec.config import parse_config
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.optimize.result import FitStatus
from scalespec.plan import plan_blocks
from scalespec.schema import PER_SPECTRUM
from scalespec.stages import folders
from scalespec.stages.ingest import write_raw
from scalespec.stages.preprocess import write_preprocessed
from scalespec.stages.question import write_labels
from scalespec.stages.segments import Segment, add_segment
from scalespec.store.model import save_model
from scalespec.store.spectra import create_spectra

WAVELENGTH = 10 ** (3.7 + 1e-4 * np.arange(12))
HEAD = """
[run]
name = "made up"
workspace = "{root}/work"
spectra_per_block = {rows}
[ingest]
files = "{root}/*.fits"
[preprocess]
[infer]
models = ["{root}/model"]
[fit]
"""
RANGES = {"teff": (3500.0, 8000.0), "logg": (0.0, 5.5), "fe_h": (-3.0, 1.0)}


def write_fitted(root, stars, *, labels=("teff", "logg", "fe_h"), tables="", rows=4096, index=None):
    """Write the stores of a run whose fit found `stars`; return its config.

    `stars` holds arrays: every label with its ``_err``; what of ``ra, dec, snr, source_id, mjd,
    rv, rv_err, fit_status`` is not made up. `tables` is the rest of the run file.
    """
    root = Path(root)
    n = len(stars["teff"])
    low, high = np.array([RANGES.get(name, (-3.0, 3.0)) for name in labels]).T
    normalization = {"method": "gaussian", "width_angstrom": 50.0}
    spec = EmulatorSpec("made up", labels, low, high, WAVELENGTH, 1800.0, normalization)
    save_model(str(root / "model"), Payne(spec, hidden=(4,), seed=1))
    config = parse_config(HEAD.format(root=root, rows=rows) + tables)
    plan = Segment(0, n, rows, folders.entries_of(config), 1, n, "0", "a")
    add_segment(folders.plan_url(config), 0, plan)
    raw, spectra = folders.raw_url(config), folders.spectra_url(config)
    blocks = plan_blocks(n, rows)
    for url in (raw, spectra):
        template = _spectra(blocks[0], stars)
        create_spectra(f"{url}/spectra.zarr", template, n_spectrum=n, shard_rows=rows)
    first_url, best_url = folders.first_url(config), folders.best_url(config)
    for block in blocks:
        made = _spectra(block, stars)
        there = slice(block.start, block.stop)
        strings = {"file": [f"spec-{row}.fits" for row in range(block.start, block.stop)]}
        strings |= {name: values[there] for name, values in (index or {}).items()}
        write_raw(block, ({"": made}, pd.DataFrame(strings)), raw)
        write_preprocessed(block, made, spectra)
        write_labels(block, _first(block, stars, labels), first_url, "first_status")
        write_labels(block, _best(block, stars, labels), best_url, "fit_status")
    return config


def write_matches(config, name, columns):
    """Write a crossmatch table's matches: row and whatever else."""
    folder = Path(folders.matches_url(config, name))
    folder.mkdir(parents=True)
    n = len(columns["row"])
    base = {"obsid": columns["row"], "star": columns["row"], "split": np.zeros(n, np.uint8)}
    base["separation_arcsec"] = np.zeros(n, np.float32)
    pq.write_table(pa.table(base | columns), folder / "matches.parquet")


def _given(stars, block, name, unknown):
    there = slice(block.start, block.stop)
    return stars[name][there] if name in stars else np.full(block.size, unknown)


def _spectra(block, stars):
    shape = (block.size, len(WAVELENGTH))
    columns = {}
    for name, (dtype, unknown, _) in PER_SPECTRUM.items():
        columns[name] = np.full(block.size, unknown, dtype)
    columns["obsid"] = np.arange(block.start, block.stop)
    given = (
        ("ra", 10.0), ("dec", 20.0), ("snr", 50.0), ("source_id", -1), ("mjd", 55000.0)
    )  # fmt: skip
    for name, unknown in given:
        columns[name] = _given(stars, block, name, unknown).astype(columns[name].dtype)
    pixels = {"flux": np.ones(shape, np.float32), "ivar": np.ones(shape, np.float32)}
    pixels["mask"] = np.zeros(shape, np.uint32)
    variables = {name: (("spectrum", "wavelength"), values) for name, values in pixels.items()}
    variables |= {name: ("spectrum", values) for name, values in columns.items()}
    variables["rv_shift"] = ("spectrum", np.zeros(block.size, np.float32))
    attrs = {
        "wavelength_medium": "vacuum",
        "log10_wavelength_step": 1e-4,
        "resolving_power": 1800.0,
        "normalization": {"method": "gaussian", "width_angstrom": 50.0},
    }
    return xr.Dataset(variables, {"wavelength": ("wavelength", WAVELENGTH)}, attrs)


def _first(block, stars, labels):
    rows = np.arange(block.start, block.stop)
    zero = np.zeros(block.size, np.float32)
    table = {"row": rows, "obsid": rows, "model": np.zeros(block.size, np.int16)}
    table |= {f"first_{name}": stars[name][rows].astype(np.float32) for name in labels}
    table |= dict.fromkeys(("first_rv", "first_rv_err", "rv_start", "first_chi2"), zero)
    return pd.DataFrame(
        table | {"rv_quality": zero, "first_status": np.zeros(block.size, np.uint32)}
    )


def _best(block, stars, labels):
    rows = np.arange(block.start, block.stop)
    n, k = block.size, len(labels)
    table = {"row": rows, "obsid": rows, "model": np.zeros(n, np.int16)}
    for name in labels:
        table |= {c: stars[c][rows].astype(np.float32) for c in (name, f"{name}_err")}
    cov = np.zeros((n, k * (k + 1) // 2), np.float32)
    at = 0
    for i, name in enumerate(labels):
        cov[:, at] = stars[f"{name}_err"][rows] ** 2
        at += k - i
    table["label_cov"] = list(cov)
    table["rv"] = _given(stars, block, "rv", 0.0).astype(np.float32)
    table["rv_err"] = _given(stars, block, "rv_err", 1.0).astype(np.float32)
    table["rv_residual"] = np.zeros(n, np.float32)
    table |= {"chi2": np.full(n, 8.0, np.float32), "dof": np.full(n, 8, np.int32)}
    table |= {"n_used": np.full(n, 12, np.int32), "n_steps": np.full(n, 4, np.int32)}
    table |= {"at_bound": np.zeros(n, np.uint64), "prior_dominated": np.zeros(n, np.uint64)}
    status = _given(stars, block, "fit_status", FitStatus(0)).astype(np.uint32)
    return pd.DataFrame(table | {"fit_status": status})
