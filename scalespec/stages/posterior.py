"""Chosen stars, fitted -> draws from the posterior of their labels, by Markov chains."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import xarray as xr

from scalespec.config import FitTable, PosteriorTable, RunConfig
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.wavelength import pixels_to_velocity, velocity_to_pixels
from scalespec.optimize.posterior import PosteriorStatus, sample_posterior
from scalespec.optimize.result import FitResult
from scalespec.plan import Block, BlockResult, Stage
from scalespec.schema import status_names
from scalespec.stages import folders
from scalespec.stages.emulators import Ready, load_ready, wanted_device
from scalespec.stages.fit import constraints_of, doubted, symmetric
from scalespec.stages.ingest import read_index
from scalespec.stages.regrid import correlation_of
from scalespec.stages.standing import blocks_done
from scalespec.store.catalog import read_part, read_parts, write_part
from scalespec.store.spectra import read_rows, read_spectra

Array = npt.NDArray[Any]
NOT_SAMPLED = ("polynomial", "vsini_kms", "lsf_kms", "robust")
"""Settings of ``[fit]`` whose posterior would have dimensions that chains here do not walk."""
FACTS = {"acceptance": pa.float64(), "r_hat": pa.float64(), "posterior_status": pa.uint32()}
"""What is said of a star's chains."""


@dataclass(frozen=True)
class Chosen:
    """The chosen stars of one block: spectra, first and best labels, row by row."""

    spectra: xr.Dataset
    first: pd.DataFrame
    best: pd.DataFrame


def posterior(config: RunConfig) -> Iterator[Stage]:
    """Yield the stage that draws from the posteriors of the chosen stars.

    Raises
    ------
    ConfigError
        If the fit has parameters that are not sampled.
    StageError
        If a star that the run file names is not among the fitted ones.
    """
    table, fit = config.posterior, config.fit
    if table is None or fit is None:
        raise ConfigError("the run file has no [posterior] or no [fit] table")
    if wrong := [n for n in NOT_SAMPLED if getattr(fit, n) is not None] + ["tied"] * bool(fit.tied):
        raise ConfigError(f"posterior: no draws of a fit with {', '.join(wrong)}")
    store = folders.spectra_store(config)
    head = read_spectra(store, 0, 0)
    # Named once: to name a folder, whole tables upstream are read.
    sources = store, folders.best_url(config), folders.first_url(config), folders.raw_url(config)
    url = folders.posterior_url(config)
    yield Stage(
        name="posterior",
        url=url,
        blocks=blocks_done(config, sources[1]),
        read=partial(_read, sources=sources, stars=table.stars),
        compute=partial(draw, table=table, fit=fit, seed=config.run.seed),
        write=partial(_write, url=url),
        runs_on="ray",
        setup=partial(
            load_ready,
            folders.model_urls(config),
            head["wavelength"].to_numpy(),
            dict(head.attrs),
            device=wanted_device(config),
        ),
        gpus=config.engine.ray.gpus_per_worker,
    )
    found = read_parts(url, ["obsid", "designation"])
    known = {*found["obsid"].to_pylist(), *found["designation"].to_pylist()}
    if lacking := [star for star in table.stars if star not in known]:
        raise StageError(f"posterior: {lacking} are no stars of this run that were fitted")


def _read(block: Block, sources: tuple[str, ...], stars: Sequence[int | str]) -> Chosen:
    """Read what is known of the chosen stars of a block that have a fit."""
    store, fits, estimates, raw = sources
    best = read_part(fits, block).to_pandas()
    index = read_index(raw, block)
    names = index["designation"].astype(str) if "designation" in index else pd.Series(dtype=str)
    best["designation"] = names.reindex(range(block.size), fill_value="").to_numpy()
    asked = best["obsid"].isin(set(stars)) | best["designation"].isin(set(stars))
    places = np.flatnonzero(asked & (best["model"] >= 0))
    first = read_part(estimates, block).to_pandas()
    rows = best["row"].to_numpy()[places]
    spectra = read_rows(store, rows) if len(rows) else read_spectra(store, 0, 0)
    return Chosen(spectra, first.iloc[places], best.iloc[places])


def draw(
    ready: Sequence[Ready], chosen: Chosen, table: PosteriorTable, fit: FitTable, seed: int
) -> pa.Table:
    """Draw from the posterior of each chosen star around its best fit, as the fit saw it.

    Parameters
    ----------
    ready : sequence of Ready
        The models of the fit.
    chosen : Chosen
        n stars.
    table : PosteriorTable
    fit : FitTable
    seed : int
        With its row it says a star's draws.

    Returns
    -------
    pa.Table
        n rows: row, obsid, designation; acceptance, r_hat (the worst parameter's), posterior_status
        (`PosteriorStatus` bits); and, for every label and rv [km/s, barycentric], a list of draws,
        chain after chain.
    """
    names = [*ready[0].labels, "rv"]
    columns: dict[str, list[Any]] = {name: [] for name in (*FACTS, *names)}
    for place in range(len(chosen.best)):
        star = chosen.best.iloc[place]
        one = ready[int(star["model"])]
        found = sample_posterior(
            doubted(one.model, fit.scatter),
            chosen.spectra["flux"].to_numpy()[place : place + 1],
            chosen.spectra["ivar"].to_numpy()[place : place + 1],
            _result(star, one.labels),
            n_draws=table.draws,
            n_chains=table.chains,
            seed=seed + int(star["row"]),
            smoothing=one.smoothing,
            constraints=constraints_of(fit, one.model.spec, chosen.first.iloc[place : place + 1]),
            noise_correlation=correlation_of(chosen.spectra)[place : place + 1],
        )
        flat = found.samples[0].reshape(-1, len(names)).T.astype(np.float64)
        step = float(chosen.spectra.attrs["log10_wavelength_step"])
        shift = chosen.spectra["rv_shift"].to_numpy()[place]
        pixels = velocity_to_pixels(flat[-1], step) + velocity_to_pixels(shift, step)
        flat[-1] = pixels_to_velocity(pixels, step)
        columns["acceptance"].append(float(found.acceptance[0]))
        columns["r_hat"].append(float(found.r_hat.max()))
        columns["posterior_status"].append(int(found.status[0]))
        for name, values in zip(names, flat, strict=True):
            columns[name].append(values.astype(np.float32))
    kinds = dict.fromkeys(names, pa.list_(pa.float32()))
    kinds |= FACTS
    made = {n: pa.array(chosen.best[n].to_numpy()) for n in ("row", "obsid")}
    made["designation"] = pa.array(chosen.best["designation"].tolist(), pa.string())
    return pa.table(made | {n: pa.array(v, kinds[n]) for n, v in columns.items()})


def _result(star: pd.Series, labels: Sequence[str]) -> FitResult:
    """Return a row of the best labels as the fit gave it."""
    result = FitResult.empty(1, len(labels), status=int(star["fit_status"]))
    result.labels[0] = star[list(labels)].to_numpy(np.float32)
    result.label_cov[0] = symmetric(np.asarray(star["label_cov"]), len(labels))
    result.rv[0], result.rv_err[0] = star["rv_residual"], star["rv_err"]
    return result


def _write(block: Block, table: pa.Table, url: str) -> BlockResult:
    counts = status_names(table["posterior_status"].to_numpy(), PosteriorStatus)
    counts.pop("OK")
    return write_part(url, block, table, counts={"sampled": table.num_rows} | counts)
