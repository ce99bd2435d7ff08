"""Spectra + models + first labels -> best labels, covariance, status."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr

from scalespec.config import FitTable, RunConfig
from scalespec.errors import ConfigError, StoreError
from scalespec.kernels.wavelength import pixels_to_velocity, velocity_to_pixels
from scalespec.kernels.where import where
from scalespec.models.base import Emulator
from scalespec.optimize.constraints import Constraints, Given
from scalespec.optimize.fit import FitOptions, Fitter
from scalespec.optimize.objective import EmulatorSpec
from scalespec.optimize.result import FitResult
from scalespec.optimize.shift import Broadening
from scalespec.optimize.start import start_of_kind
from scalespec.plan import Block, Stage
from scalespec.stages import folders
from scalespec.stages.emulators import Ready, load_ready, scatter_penalty, wanted_device
from scalespec.stages.question import UNASKED, write_labels
from scalespec.stages.regrid import correlation_of
from scalespec.stages.standing import blocks_done
from scalespec.store.catalog import read_part
from scalespec.store.spectra import memory_bytes, read_spectra


def best_labels(
    spectra: xr.Dataset, first: pd.DataFrame, ready: Sequence[Ready], table: FitTable
) -> pd.DataFrame:
    """Fit every star that has first labels, with every model; the likeliest fit is kept.

    Parameters
    ----------
    spectra : xr.Dataset
        n preprocessed spectra.
    first : pd.DataFrame
        Their first labels, row by row.
    ready : sequence of Ready
        The models that gave them.
    table : FitTable

    Returns
    -------
    pd.DataFrame
        n rows: row, obsid, model, <label>, <label>_err, label_cov (upper triangle, row by row),
        rv [km/s, barycentric], rv_err, rv_residual, chi2, dof, n_used, n_steps, at_bound,
        prior_dominated, fit_distance, training_distance, fit_status; vsini and lsf [km/s] with
        errors where fitted.
    """
    return labels_by(spectra, first, fitters(ready, table), table)


def fitters(ready: Sequence[Ready], table: FitTable) -> list[Fitter]:
    """Prepare the fits of every model, for any number of blocks."""
    return [
        Fitter.of(
            doubted(one.model, table.scatter),
            smoothing=one.smoothing if table.polynomial is None else None,
            options=fit_options(table),
        )
        for one in ready
    ]


def labels_by(
    spectra: xr.Dataset, first: pd.DataFrame, made: Sequence[Fitter], table: FitTable
) -> pd.DataFrame:
    """Return what `best_labels` does, by fits that `fitters` has prepared."""
    asked = np.flatnonzero(first["first_status"].to_numpy() == 0)
    names = made[0].model.spec.labels
    fits = [_fit(spectra, first, asked, one, table) for one in made]
    ivar = spectra["ivar"].to_numpy()[asked]
    doubt = [scatter_penalty(one.model.scatter, ivar) for one in made]
    chosen = _likeliest(fits, doubt) if len(asked) else np.zeros(0, np.int64)
    best = _merged(fits, chosen)
    n = len(first)
    full = FitResult.empty(n, len(names), n_width=best.widths.shape[1])
    for field in fields(FitResult):
        if field.name != "status":
            getattr(full, field.name)[asked] = getattr(best, field.name)
    status = first["first_status"].to_numpy().astype(np.uint32)
    status[asked] = best.status
    model = np.full(n, -1, np.int16)
    model[asked] = np.where(best.fitted, chosen, -1)
    widths = [name for name in ("vsini", "lsf") if getattr(table, f"{name}_kms") is not None]
    return _table(spectra, first, replace(full, status=status), model, (names, widths))


def _fit(
    spectra: xr.Dataset,
    first: pd.DataFrame,
    asked: npt.NDArray[np.intp],
    one: Fitter,
    table: FitTable,
) -> FitResult:
    spec = one.model.spec
    estimate = first[[f"first_{name}" for name in spec.labels]].to_numpy(np.float32)[asked]
    starts = [estimate, *(start_of_kind(spec, estimate, kind) for kind in table.starts)]
    return one.fit(
        spectra["flux"].to_numpy()[asked],
        spectra["ivar"].to_numpy()[asked],
        start=np.stack(starts, axis=1),
        rv_start=first["rv_start"].to_numpy(np.float32)[asked],
        constraints=constraints_of(table, spec, first.iloc[asked]),
        noise_correlation=correlation_of(spectra)[asked],
    )


def fit_options(table: FitTable) -> FitOptions:
    """Return the run file's settings as the optimizer takes them."""
    return FitOptions(
        max_steps=table.max_steps,
        tolerance=table.tolerance,
        rv_range=table.rv_range_kms,
        stars_per_batch=table.stars_per_batch,
        restarts=table.restarts,
        exact_covariance=table.exact_covariance,
        polynomial=table.polynomial,
        broadening=Broadening(vsini=table.vsini_kms, lsf=table.lsf_kms),
        robust=table.robust,
    )


def constraints_of(table: FitTable, spec: EmulatorSpec, first: pd.DataFrame) -> Constraints:
    """Return priors, fixed and tied labels of the stars with first estimates `first`.

    Raises
    ------
    ConfigError
        If the run file names a label that the model does not have.
    """
    if unknown := table.unknown(spec.labels):
        raise ConfigError(f"[fit] names {unknown}; the model has {list(spec.labels)}")
    values = np.full((len(first), len(spec.labels)), np.nan)
    for name, value in table.fixed.items():
        values[:, spec.labels.index(name)] = value
    columns = {str(name): first[name].to_numpy() for name in first}
    for kind in table.kinds:
        rows = where(kind.where, columns)
        for name, value in kind.fixed.items():
            values[rows, spec.labels.index(name)] = value
    prior = [table.prior.get(name, (0.0, np.inf)) for name in spec.labels]
    mean, sigma = np.array(prior).T
    return Constraints(
        prior_mean=mean if table.prior else None,
        prior_sigma=sigma if table.prior else None,
        low=values,
        high=values,
        tied=table.tied,
    )


def doubted(model: Emulator, scatter: float) -> Emulator:
    """Return the model with `scatter` added in quadrature to its own; the model itself stays."""
    if scatter == 0:
        return model
    copy = deepcopy(model)  # on its device, whatever the model is made of
    copy.scatter = torch.sqrt(model.scatter**2 + scatter**2)
    return copy


def _likeliest(
    fits: Sequence[FitResult], doubt: Sequence[npt.NDArray[np.floating[Any]]]
) -> npt.NDArray[np.int64]:
    """Return per star the fit of highest likelihood per pixel: models may use other pixels."""
    cost = [
        np.where(f.fitted, (f.chi2 + more) / np.maximum(f.n_used, 1), np.inf)
        for f, more in zip(fits, doubt, strict=True)
    ]
    best: npt.NDArray[np.int64] = np.argmin(cost, axis=0)
    return best


def _merged(fits: Sequence[FitResult], chosen: npt.NDArray[np.int64]) -> FitResult:
    """Return the chosen fit of each star."""
    stacked = FitResult.concatenate(list(fits))
    return stacked.take(chosen * len(chosen) + np.arange(len(chosen)))


def symmetric(upper: npt.NDArray[np.floating[Any]], n: int) -> npt.NDArray[np.float64]:
    """Return the (n, n) covariance of an upper triangle, row by row, as ``label_cov`` has it.

    Examples
    --------
    >>> symmetric(np.array([4.0, 3.0, 9.0]), 2).tolist()
    [[4.0, 3.0], [3.0, 9.0]]
    """
    matrix = np.zeros((n, n))
    first, second = np.triu_indices(n)
    matrix[first, second] = matrix[second, first] = upper
    return matrix


def _table(
    spectra: xr.Dataset,
    first: pd.DataFrame,
    best: FitResult,
    model: npt.NDArray[np.int16],
    named: tuple[Sequence[str], Sequence[str]],
) -> pd.DataFrame:
    names, widths = named
    step = float(spectra.attrs["log10_wavelength_step"])
    upper = np.triu_indices(len(names))
    pixels = velocity_to_pixels(spectra["rv_shift"].to_numpy(), step)
    pixels = pixels + velocity_to_pixels(np.nan_to_num(best.rv), step)
    rv = np.where(np.isfinite(best.rv), pixels_to_velocity(pixels, step), np.nan)
    columns = {"row": first["row"], "obsid": first["obsid"], "model": model}
    for k, name in enumerate(names):
        columns |= {name: best.labels[:, k], f"{name}_err": best.label_err[:, k]}
    columns |= {
        "label_cov": list(best.label_cov[:, upper[0], upper[1]]),
        "rv": rv.astype(np.float32),
        "rv_err": best.rv_err,
        "rv_residual": best.rv,
        "chi2": best.chi2,
        "dof": best.dof,
        "n_used": best.n_used,
        "n_steps": best.n_steps,
        "at_bound": best.at_bound,
        "prior_dominated": best.prior_dominated,
        "fit_distance": best.distance,
        "training_distance": best.training_distance,
        "fit_status": best.status,
    }
    for k, name in enumerate(widths):
        columns |= {name: best.widths[:, k], f"{name}_err": best.width_err[:, k]}
    return pd.DataFrame(columns)


def fit(config: RunConfig) -> Iterator[Stage]:
    """Yield the stage that fits every block that has first labels."""
    if config.fit is None or config.infer is None:
        raise ConfigError("the run file has no [fit] or no [infer] table")
    store = folders.spectra_store(config)
    first = folders.first_url(config)
    url = folders.best_url(config)
    head = read_spectra(store, 0, 0)
    fits = (folders.model_urls(config), head["wavelength"].to_numpy(), dict(head.attrs))
    size = config.run.spectra_per_block
    blocks = blocks_done(config, first)
    _check_constraints(config.fit, blocks[:1], first, fits)
    yield Stage(
        name="fit",
        url=url,
        blocks=blocks,
        read=partial(_read, store=store, first=first),
        compute=partial(_compute, table=config.fit),
        write=partial(write_labels, url=url, status="fit_status"),
        runs_on="ray",
        setup=partial(
            _setup,
            *fits,
            config.fit,
            wanted_device(config),
        ),
        gpus=config.engine.ray.gpus_per_worker,
        memory_bytes=memory_bytes(size, head.sizes["wavelength"]),
    )


def _check_constraints(
    table: FitTable,
    blocks: Sequence[Block],
    first: str,
    fits: tuple[Sequence[str], npt.NDArray[np.float64], Mapping[str, Any]],
) -> None:
    """Try the run file's fixed, tied and prior labels on a star, before workers do on every block.

    Raises
    ------
    ConfigError
        If a label or column that they name is not there, or a value cannot be.
    """
    for block in blocks:
        star = read_part(first, block).slice(0, 1).to_pandas()
        for one in load_ready(*fits):
            try:
                Given.of(one.model, constraints_of(table, one.model.spec, star), 1)
            except ValueError as error:
                raise ConfigError(f"[fit]: {error}") from error


def _read(block: Block, store: str, first: str) -> tuple[xr.Dataset, pd.DataFrame]:
    labels = read_part(first, block).to_pandas()
    if len(labels) != block.size:
        raise StoreError(f"{first}: block {block.index} has {len(labels)} rows, not {block.size}")
    return read_spectra(store, block.start, block.stop, without=UNASKED), labels


def _setup(
    urls: Sequence[str],
    wavelength: npt.NDArray[np.float64],
    attrs: Mapping[str, Any],
    table: FitTable,
    device: str,
) -> list[Fitter]:
    return fitters(load_ready(urls, wavelength, attrs, device=device), table)


def _compute(
    made: list[Fitter], data: tuple[xr.Dataset, pd.DataFrame], table: FitTable
) -> pd.DataFrame:
    spectra, first = data
    return labels_by(spectra, first, made, table)
