"""Spectra + models -> first labels: velocity by cross-correlation, then the cheapest good start."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from scalespec.config import InferTable, RunConfig
from scalespec.errors import ConfigError
from scalespec.kernels.resample import shift_pixels
from scalespec.kernels.rv import cross_correlate
from scalespec.kernels.wavelength import pixels_to_velocity, velocity_to_pixels
from scalespec.optimize.start import best_start
from scalespec.plan import Stage
from scalespec.stages import folders
from scalespec.stages.emulators import (
    Starter,
    load_ready,
    load_starters,
    scatter_penalty,
    wanted_device,
)
from scalespec.stages.question import Question, check_where, read_question, write_labels
from scalespec.stages.regress import regress
from scalespec.stages.standing import blocks_done
from scalespec.store import paths
from scalespec.store.regressor import is_regressor
from scalespec.store.spectra import memory_bytes, read_spectra

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _First:
    """First estimates of n stars by one model."""

    labels: FloatArray
    rv: FloatArray
    rv_err: FloatArray
    quality: FloatArray
    chi2: FloatArray


def first_labels(
    question: Question, starters: Sequence[Starter], table: InferTable
) -> pd.DataFrame:
    """Estimate labels and velocity of every star asked for.

    Parameters
    ----------
    question : Question
        n preprocessed spectra.
    starters : sequence of Starter
        Models to try; the likeliest one is kept per star.
    table : InferTable

    Returns
    -------
    pd.DataFrame
        n rows: row, obsid, model, first_<label>, first_rv [km/s, barycentric], first_rv_err,
        rv_start [km/s, against rv_shift], first_chi2, rv_quality, first_status.
    """
    spectra = question.spectra
    asked = np.flatnonzero(question.excluded == 0)
    flux = spectra["flux"].to_numpy()[asked]
    ivar = spectra["ivar"].to_numpy()[asked]
    step = float(spectra.attrs["log10_wavelength_step"])
    tries = [_first(flux, ivar, one, table, step) for one in starters]
    doubt = [scatter_penalty(one.ready.model.scatter, ivar) for one in starters]
    cost = [one.chi2 + more for one, more in zip(tries, doubt, strict=True)]
    best = np.argmin(cost, axis=0) if len(asked) else np.zeros(0, np.int64)
    n = len(question.rows)

    def spread(name: str) -> FloatArray:
        """Put the best model's values back among all rows."""
        values = np.stack([getattr(one, name) for one in tries])
        full = np.full((n, *values.shape[2:]), np.nan, np.float32)
        full[asked] = values[best, np.arange(len(asked))]
        return full

    model = np.full(n, -1, np.int16)
    model[asked] = best
    labels, start = spread("labels"), spread("rv")
    shift = velocity_to_pixels(spectra["rv_shift"].to_numpy(), step)
    total = pixels_to_velocity(shift + velocity_to_pixels(np.nan_to_num(start), step), step)
    columns = {"row": question.rows, "obsid": spectra["obsid"].to_numpy(), "model": model}
    columns |= {f"first_{name}": labels[:, k] for k, name in enumerate(starters[0].ready.labels)}
    columns |= {
        "first_rv": np.where(np.isfinite(start), total, np.nan).astype(np.float32),
        "first_rv_err": spread("rv_err"),
        "rv_start": start,
        "first_chi2": spread("chi2"),
        "rv_quality": spread("quality"),
        "first_status": question.excluded,
    }
    return pd.DataFrame(columns)


def _first(
    flux: FloatArray, ivar: FloatArray, one: Starter, table: InferTable, step: float
) -> _First:
    """Estimate with one model: cross-correlate, move to rest, regress, keep the better start."""
    lag = int(np.ceil(velocity_to_pixels(table.rv_max_kms, step)))
    found = cross_correlate(flux, ivar, one.template_flux, max_lag=lag, step_log10=step)
    pixels = np.rint(velocity_to_pixels(found.rv, step)).astype(np.int64)
    at_rest = shift_pixels(flux, pixels, 0.0), shift_pixels(ivar, pixels, 0.0)
    candidates = np.stack(
        [one.template_labels[np.maximum(found.template, 0)], one.ridge.apply(*at_rest)], axis=1
    )
    model, smoothing = one.ready.model, one.ready.smoothing
    labels, chi2 = best_start(model, flux, ivar, candidates, rv=found.rv, smoothing=smoothing)
    rv_err = np.where(np.isfinite(found.rv_err), found.rv_err, np.nan)  # no line found: unknown
    return _First(
        labels, found.rv.astype(np.float32), rv_err.astype(np.float32), found.quality, chi2
    )


def infer(config: RunConfig) -> Iterator[Stage]:
    """Yield the stage that estimates first labels of every block of spectra."""
    if config.infer is None:
        raise ConfigError("the run file has no [infer] table")
    if any(is_regressor(url) for url in folders.model_urls(config)):
        yield from regress(config)
        return
    spectra = folders.spectra_url(config)
    store = paths.join(spectra, "spectra.zarr")
    url = folders.first_url(config)
    head = read_spectra(store, 0, 0)
    size = config.run.spectra_per_block
    blocks = blocks_done(config, spectra)
    matches = {name: folders.matches_url(config, name) for name in config.crossmatch or {}}
    fits = (folders.model_urls(config), head["wavelength"].to_numpy(), dict(head.attrs))
    check_where(blocks[:1], store, folders.raw_url(config), matches, config.infer)
    load_ready(*fits)  # a model that does not fit this store is said here, before workers start
    yield Stage(
        name="infer",
        url=url,
        blocks=blocks,
        read=partial(
            read_question,
            url=store,
            index_url=folders.raw_url(config),
            matches=matches if config.infer.where else {},
            table=config.infer,
        ),
        compute=partial(_compute, table=config.infer),
        write=partial(write_labels, url=url, status="first_status"),
        runs_on="ray",
        setup=partial(
            load_starters,
            *fits,
            n_template=config.infer.templates,
            seed=config.run.seed,
            device=wanted_device(config),
        ),
        gpus=config.engine.ray.gpus_per_worker,
        memory_bytes=memory_bytes(size, head.sizes["wavelength"]),
    )


def _compute(starters: list[Starter], question: Question, table: InferTable) -> pd.DataFrame:
    return first_labels(question, starters, table)
