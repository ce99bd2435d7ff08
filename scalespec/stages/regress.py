"""Spectra + a regressor -> labels of every spectrum, on Ray actors."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from scalespec.config import InferTable, RunConfig
from scalespec.errors import ConfigError, ModelError
from scalespec.models.baselines import Baseline
from scalespec.models.networks import Regressor
from scalespec.models.regressor import Prediction
from scalespec.optimize.result import NOT_FITTED, FitStatus
from scalespec.plan import Block, Stage
from scalespec.stages import folders
from scalespec.stages.emulators import LATTICE_PIXELS, SAME_RESOLUTION, device_here, wanted_device
from scalespec.stages.inference import Plan, infer_labels, make_plan
from scalespec.stages.question import (
    Question,
    check_where,
    match_columns,
    read_question,
    write_labels,
)
from scalespec.stages.standing import blocks_done
from scalespec.store import paths
from scalespec.store.ledger import read_json, write_json
from scalespec.store.regressor import load_regressor
from scalespec.store.spectra import memory_bytes, read_spectra

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
VARIABLES = ("flux", "ivar", "obsid", "snr", "status")
"""What is read of a block's spectra."""
PROBE_SPECTRA = 2048


@dataclass(frozen=True)
class Asked:
    """One block's spectra, and the inputs beside them, (n, n_input) or none."""

    question: Question
    extra: FloatArray | None


def regress(config: RunConfig) -> Iterator[Stage]:
    """Yield the stage that estimates labels of every block of spectra by a regressor.

    Raises
    ------
    ConfigError
        If more than one model is named, or the regressor wants inputs that the run file does not.
    ModelError
        If the regressor does not fit the spectra.
    """
    table = config.infer
    if table is None:
        raise ConfigError("the run file has no [infer] table")
    urls = folders.model_urls(config)
    if len(urls) > 1:
        raise ConfigError(f"infer.models: one regressor at a time, got {list(urls)}")
    spectra = folders.spectra_url(config)
    store, url = paths.join(spectra, "spectra.zarr"), folders.first_url(config)
    head = read_spectra(store, 0, 0)
    model = load_fitting(urls[0], head["wavelength"].to_numpy(), head.attrs)
    _check_inputs(model, config)
    blocks = blocks_done(config, spectra)
    matches = {name: folders.matches_url(config, name) for name in config.crossmatch or {}}
    check_where(blocks[:1], store, folders.raw_url(config), matches, table)
    plan = plan_of(url, model, store, blocks[:1], table)
    yield Stage(
        name="infer",
        url=url,
        blocks=blocks,
        read=partial(
            read_asked,
            url=store,
            index_url=folders.raw_url(config) if table.where else "",
            matches=matches if table.where or table.inputs else {},
            table=table,
            inputs=model.spec.inputs,
        ),
        compute=partial(labels_of, plan=plan, far=table.out_of_domain),
        write=partial(write_labels, url=url, status="first_status"),
        runs_on="ray",
        setup=partial(load_there, urls[0], wanted_device(config)),
        gpus=config.engine.ray.gpus_per_worker,
        memory_bytes=memory_bytes(config.run.spectra_per_block, head.sizes["wavelength"]),
    )


def _check_inputs(model: Regressor | Baseline, config: RunConfig) -> None:
    table, wanted = config.infer.inputs if config.infer else "", model.spec.inputs
    if bool(wanted) != bool(table):
        raise ConfigError(
            f"infer.inputs = '{table}', the regressor's inputs beside the spectrum are {wanted}: "
            "name the [crossmatch.NAME] that has them, or none where there are none"
        )
    if table and table not in (config.crossmatch or {}):
        raise ConfigError(f"infer.inputs = '{table}' wants a [crossmatch.{table}] table")


def load_there(url: str, device: str) -> Regressor | Baseline:
    """Load a regressor, a network onto the device that is wanted; see `device_here`.

    On a GPU convolutions would be in TF32, less than the float32 that a run file asks for.
    """
    torch.backends.cudnn.allow_tf32 = False
    model = load_regressor(url)
    return model.to(device_here(device)) if isinstance(model, Regressor) else model


def load_fitting(
    url: str, wavelength: npt.NDArray[np.float64], attrs: Mapping[str, Any]
) -> Regressor | Baseline:
    """Load a regressor for a spectra store.

    Raises
    ------
    ModelError
        If its pixels, resolution or normalization are not the store's.
    """
    model = load_regressor(url)
    spec = model.spec
    cure = "preprocess the spectra as those it learned from, or train on these"
    if len(wavelength) != spec.n_pixel:
        raise ModelError(
            f"{url}: the data have {len(wavelength)} pixels, the regressor {spec.n_pixel}: {cure}"
        )
    pixel = np.gradient(spec.wavelength) if spec.n_pixel > 1 else spec.wavelength
    offset = float(np.max(np.abs(wavelength - spec.wavelength) / pixel))
    if offset > LATTICE_PIXELS:
        raise ModelError(
            f"{url}: the regressor's pixels lie up to {offset:.2f} pixels off the data's: {cure}"
        )
    if dict(spec.normalization) != dict(attrs.get("normalization") or {}):
        raise ModelError(
            f"{url}: the regressor's spectra are normalized by {dict(spec.normalization)}, the "
            f"data by {attrs.get('normalization')}: {cure}"
        )
    own, theirs = spec.resolving_power, attrs.get("resolving_power")
    if own and theirs and abs(own / theirs - 1) > SAME_RESOLUTION:
        raise ModelError(f"{url}: the regressor has R = {own:g}, the data R = {theirs:g}: {cure}")
    return model


def plan_of(
    url: str, model: Regressor | Baseline, store: str, blocks: list[Block], table: InferTable
) -> Plan:
    """Measure batch and precision on the first spectra, or return what an earlier run measured."""
    where = paths.join(url, "inference.json")
    if paths.exists(where):
        return Plan(**read_json(where))
    stop = min(blocks[0].stop, blocks[0].start + PROBE_SPECTRA) if blocks else 0
    probe = read_spectra(store, blocks[0].start if blocks else 0, stop, names=VARIABLES)
    flux, ivar = probe["flux"].to_numpy(), probe["ivar"].to_numpy()
    if not len(flux):  # nothing to infer
        return Plan(1, "float32", 0.0)
    wanted = table.precision
    plan = make_plan(model, flux, ivar, batch_size=table.spectra_per_batch, precision=wanted)
    if plan.precision != wanted:
        log.warning(
            "%s moves labels by %.2f of their errors: inferring with %s",
            *(wanted, plan.shift, plan.precision),
        )
    write_json(where, asdict(plan))
    return plan


def read_asked(
    block: Block,
    url: str,
    index_url: str,
    matches: dict[str, str],
    table: InferTable,
    inputs: tuple[str, ...],
) -> Asked:
    """Read one block's spectra and the inputs beside them; an unmatched star has none of those."""
    selecting = matches if table.where else {}
    question = read_question(block, url, index_url, selecting, table, VARIABLES)
    if not inputs:
        return Asked(question, None)
    found = match_columns(table.inputs, matches[table.inputs], block)
    columns = [f"{table.inputs}_{name}" for name in inputs]
    if lacking := [name for name in columns if name not in found]:
        raise ModelError(f"{matches[table.inputs]}: no {lacking} in it; there are {sorted(found)}")
    return Asked(question, np.stack([found[name] for name in columns], axis=1).astype(np.float32))


def labels_of(model: Regressor | Baseline, asked: Asked, plan: Plan, far: float) -> pd.DataFrame:
    """Estimate labels of every spectrum asked for.

    Parameters
    ----------
    model : Regressor or Baseline
    asked : Asked
        n spectra.
    plan : Plan
    far : float
        Score from which a spectrum is out of the model's domain.

    Returns
    -------
    pd.DataFrame
        n rows: row, obsid, model, first_<label>, its first_<label>_err (all of it),
        first_<label>_aleatoric and first_<label>_epistemic, out_of_domain, first_status.
    """
    question = asked.question
    rows = np.flatnonzero(question.excluded == 0)
    flux, ivar = (question.spectra[name].to_numpy()[rows] for name in ("flux", "ivar"))
    extra = None if asked.extra is None else asked.extra[rows]
    found = infer_labels(
        model, flux, ivar, extra, batch_size=plan.batch_size, precision=plan.precision
    )
    status = question.excluded.copy()
    status[rows] |= _status(found, far)
    n = len(question.rows)
    labels = (found.labels, found.sigma, found.sigma_aleatoric, found.sigma_epistemic)
    columns = {
        "row": question.rows,
        "obsid": question.spectra["obsid"].to_numpy(),
        "model": np.where(status & np.uint32(NOT_FITTED), -1, 0).astype(np.int16),
    }
    for k, name in enumerate(model.spec.labels):
        for ending, values in zip(("", "_err", "_aleatoric", "_epistemic"), labels, strict=True):
            columns[f"first_{name}{ending}"] = _spread(values[:, k], rows, n)
    columns["out_of_domain"] = _spread(found.out_of_domain, rows, n)
    return pd.DataFrame(columns | {"first_status": status})


def _status(found: Prediction, far: float) -> npt.NDArray[np.uint32]:
    """Say why spectra have no labels, or why to look twice at those they have."""
    empty = np.isinf(found.out_of_domain)
    known = np.isfinite(found.labels).all(axis=1)
    status = np.zeros(len(empty), np.uint32)
    status[empty] |= np.uint32(FitStatus.NO_PIXELS)
    status[~known & ~empty] |= np.uint32(FitStatus.NONFINITE)
    status[known & ~(found.out_of_domain < far)] |= np.uint32(FitStatus.OUT_OF_DOMAIN)
    return status


def _spread(values: FloatArray, rows: npt.NDArray[np.intp], n: int) -> FloatArray:
    """Put values back among all rows; NaN in the others, and for what is not finite."""
    full = np.full(n, np.nan, np.float32)
    full[rows] = np.where(np.isfinite(values), values, np.nan)
    return full
