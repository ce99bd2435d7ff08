"""A tiny run, as far as fit, written by the very functions that stages write with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xarray as xr

from scalespec.config import RunConfig, parse_config
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.optimize.result import FitStatus
from scalespec.plan import plan_blocks
from scalespec.schema import PER_SPECTRUM, SpectrumStatus
from scalespec.stages import folders
from scalespec.stages.ingest import write_raw
from scalespec.stages.preprocess import write_preprocessed
from scalespec.stages.question import write_labels
from scalespec.stages.segments import Segment, add_segment
from scalespec.store.model import save_model
from scalespec.store.spectra import create_spectra

N, ROWS = 20, 8
WAVELENGTH = 10 ** (3.7 + 1e-4 * np.arange(200))
LOW, HIGH = np.array([4000.0, 1.0, -2.0]), np.array([6500.0, 5.0, 0.5])
LABELS = ("teff", "logg", "fe_h")
RUN_FILE = """
[run]
name = "tiny <b>run</b>"
workspace = "{root}/work"
spectra_per_block = 8
[ingest]
files = "{root}/*.fits"
[preprocess]
[crossmatch.apogee]
catalog = "{root}/apogee.parquet"
columns = {{ teff = "TEFF", fe_h = "FE_H" }}
[infer]
models = ["{root}/model"]
[fit]
[publish]
[report]
truth = "{root}/truth.parquet"
snr_min = 0.0
"""


@dataclass(frozen=True)
class TinyRun:
    """A run file, and what is true of its stars."""

    config: RunConfig
    root: Path
    labels: np.ndarray


def tiny_model():
    """A small Payne whose spectra differ."""
    normalization = {"method": "gaussian", "width_angstrom": 50.0}
    spec = EmulatorSpec("tiny", LABELS, LOW, HIGH, WAVELENGTH, 1800.0, normalization)
    return Payne(spec, hidden=(8,), seed=1)


def true_labels():
    """Labels of N stars, half of them giants."""
    rng = np.random.default_rng(1)
    labels = LOW + rng.uniform(0.1, 0.9, (N, 3)) * (HIGH - LOW)
    labels[:, 1] = np.where(np.arange(N) % 2, 2.0, 4.5)
    return labels


def spectra_block(block, labels):
    """Preprocessed spectra of a block: the model's flux and noise; row 3 is unreadable."""
    rng = np.random.default_rng(block.index)
    rows = np.arange(block.start, block.stop)
    sigma = (0.002 * (1 + rows % 5))[:, None]
    with torch.inference_mode():
        clean = tiny_model()(torch.tensor(labels[rows])).numpy()
    readable = (rows != 3)[:, None]
    flux = (clean + sigma * rng.normal(size=clean.shape)) * readable
    ivar = np.broadcast_to(sigma**-2 * readable, flux.shape).copy()
    ivar[:, 40:50] = 0
    columns = {
        name: np.full(block.size, unknown, dtype)
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    columns["obsid"] = 2**55 + rows
    columns["ra"], columns["dec"] = rows / 3.0, rows / 7.0
    columns["snr"] = (1 / sigma[:, 0] * readable[:, 0]).astype(np.float32)
    columns["status"] = np.where(rows == 3, SpectrumStatus.CORRUPT, 0).astype(np.uint32)
    data = {"flux": flux.astype(np.float32), "ivar": ivar.astype(np.float32)}
    data["mask"] = (ivar == 0).astype(np.uint32)
    variables = {name: (("spectrum", "wavelength"), values) for name, values in data.items()}
    variables |= {name: ("spectrum", values) for name, values in columns.items()}
    attrs = {
        "wavelength_medium": "vacuum",
        "log10_wavelength_step": 1e-4,
        "resolving_power": 1800.0,
        "normalization": {"method": "gaussian", "width_angstrom": 50.0},
    }
    variables["rv_shift"] = ("spectrum", np.zeros(block.size, np.float32))
    return xr.Dataset(variables, {"wavelength": ("wavelength", WAVELENGTH)}, attrs)


def index_block(block):
    """Strings of a block's files; one of them would run in a browser that believed it."""
    rows = range(block.start, block.stop)
    names = [f"spec-{row}.fits" for row in rows]
    text = ["<script>alert(1)</script>" if row == 5 else "STAR" for row in rows]
    reason = ["corrupt: bad CRC" if row == 3 else "" for row in rows]
    return pd.DataFrame({"file": names, "class_": text, "reason": reason})


def first_block(block, labels):
    """First labels: the truth, rounded; none for the broken one."""
    rows = np.arange(block.start, block.stop)
    status = np.where(rows == 3, FitStatus.BAD_SPECTRUM, 0).astype(np.uint32)
    known = np.where(status[:, None] == 0, labels[rows], np.nan).astype(np.float32)
    table = {"row": rows, "obsid": 2**55 + rows, "model": np.where(status, -1, 0).astype(np.int16)}
    table |= {f"first_{name}": known[:, k].round(1) for k, name in enumerate(LABELS)}
    zero = np.where(status, np.nan, 0.0).astype(np.float32)
    table |= dict.fromkeys(("first_rv", "first_rv_err", "rv_start", "first_chi2"), zero)
    return pd.DataFrame(table | {"rv_quality": zero, "first_status": status})


def best_block(block, labels):
    """Best labels: the truth and a draw of its error; row 6 has Teff at its bound."""
    rows = np.arange(block.start, block.stop)
    rng = np.random.default_rng(100 + block.index)
    status = np.where(rows == 3, FitStatus.BAD_SPECTRUM, 0).astype(np.uint32)
    status[rows == 6] = FitStatus.AT_BOUND
    err = np.array([20.0, 0.05, 0.03]) * np.ones((block.size, 3))
    value = labels[rows] + err * rng.normal(size=err.shape)
    value[rows == 6, 0] = HIGH[0]
    value[status == FitStatus.BAD_SPECTRUM] = np.nan
    err[np.isnan(value)] = np.nan
    table = {"row": rows, "obsid": 2**55 + rows}
    table["model"] = np.where(np.isnan(value[:, 0]), -1, 0).astype(np.int16)
    for k, name in enumerate(LABELS):
        table |= {name: value[:, k].astype(np.float32), f"{name}_err": err[:, k].astype(np.float32)}
    cov = np.zeros((block.size, 6), np.float32) + err[:, :1].astype(np.float32)
    zero = np.where(np.isnan(value[:, 0]), np.nan, 0.0).astype(np.float32)
    table |= {"label_cov": list(cov), "rv": zero, "rv_err": zero + 1, "rv_residual": zero}
    table |= {
        "chi2": zero + 190 + rows.astype(np.float32),
        "n_used": np.full(block.size, 190, np.int32),
    }
    table |= {"n_steps": np.full(block.size, 4, np.int32)}
    table["at_bound"] = (rows == 6).astype(np.uint64)
    return pd.DataFrame(table | {"fit_status": status})


def matches_with(labels):
    """Every third spectrum in another catalog, whose Teff is 50 K too low."""
    rows = np.arange(0, N, 3)
    rows = rows[rows != 3]
    return pa.table(
        {
            "row": rows,
            "obsid": 2**55 + rows,
            "star": rows,
            "separation_arcsec": (rows / 10).astype(np.float32),
            "teff": labels[rows, 0] - 50,
            "fe_h": np.where(rows == 9, np.nan, labels[rows, 2]),
            "split": np.zeros(len(rows), np.uint8),
        }
    )


def write_run(root: Path) -> TinyRun:
    """Write the run's stores as far as fit."""
    labels = true_labels()
    pq.write_table(pa.table({"TEFF": labels[:, 0]}), root / "apogee.parquet")
    true = {name: labels[:, k] for k, name in enumerate(LABELS)}
    pq.write_table(pa.table({"obsid": 2**55 + np.arange(N), **true}), root / "truth.parquet")
    save_model(str(root / "model"), tiny_model())
    config = parse_config(RUN_FILE.format(root=root))
    plan = Segment(0, N, ROWS, folders.entries_of(config), 1, N, "0", "a")
    add_segment(folders.plan_url(config), 0, plan)
    blocks = plan_blocks(N, ROWS)
    raw, spectra = folders.raw_url(config), folders.spectra_url(config)
    for url in (raw, spectra):
        template = spectra_block(blocks[0], labels)
        create_spectra(f"{url}/spectra.zarr", template, n_spectrum=N, shard_rows=ROWS)
    for block in blocks:
        made = spectra_block(block, labels)
        write_raw(block, ({"": made}, index_block(block)), raw)
        write_preprocessed(block, made, spectra)
        first, best = folders.first_url(config), folders.best_url(config)
        write_labels(block, first_block(block, labels), first, "first_status")
        write_labels(block, best_block(block, labels), best, "fit_status")
    matches = Path(folders.matches_url(config, "apogee"))
    matches.mkdir(parents=True)
    pq.write_table(matches_with(labels), matches / "matches.parquet")
    return TinyRun(config, root, labels)


def run_stage(steps):
    """Run a verb's steps here, one block after another."""
    for stage in steps:
        value = stage.setup() if stage.setup else None
        for block in stage.blocks:
            stage.write(block, stage.compute(value, stage.read(block)))
