"""Fits of two stars beside those of one: emulators of pairs, mock singles, rows of a table.

Labels are physical (K, dex, km/s), velocities km/s; mass ratio q = M2 / M1.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from enum import IntFlag
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
import xarray as xr

from scalespec.config import BinariesTable, FitTable, InferTable
from scalespec.errors import ConfigError
from scalespec.kernels.wavelength import pixels_to_velocity, velocity_to_pixels
from scalespec.models.base import Emulator
from scalespec.models.binary import BinaryEmulator, MainSequence, composite_starts
from scalespec.optimize.composite import CompositeResult, fit_composite
from scalespec.optimize.fit import Fitter
from scalespec.optimize.normalization import Smoother
from scalespec.optimize.result import FitResult, FitStatus
from scalespec.stages.emulators import Ready, Starter
from scalespec.stages.fit import doubted, fit_options, labels_by
from scalespec.stages.infer import first_labels
from scalespec.stages.inspect import Fitted, best_fit_flux
from scalespec.stages.question import Question
from scalespec.stages.regrid import correlation_of
from scalespec.stages.samples import BY_LABEL, scrambled
from scalespec.store.isochrones import read_main_sequence

Array = npt.NDArray[Any]

WHY_NOT = (
    "the light of two stars adds up over the true continuum, not over what a survey's spectrum "
    "was divided by: name an emulator of theory in infer.models (as The Payne's npz), or one that "
    "[train] learns from it, with teacher or adapt"
)
MOCKS = pa.schema({"row": pa.int64(), "mock": pa.int64(), "binary_gain": pa.float64()})
"""What is kept of mock single stars."""


class BinaryStatus(IntFlag):
    """Why nothing is known of a companion, or what is; 0: one star is enough."""

    NOT_ASKED = 1 << 0
    NO_FIT = 1 << 1
    TWO_STARS = 1 << 2
    DOUBTFUL = 1 << 3


@dataclass(frozen=True)
class Pair:
    """One model of the fit, alone and twice, on one store's grid."""

    single: Emulator
    double: BinaryEmulator
    smoothing: Smoother | None


@dataclass(frozen=True)
class Bench:
    """What mock stars go through, as the run's stars did: first labels, fits of one, of two."""

    starters: Sequence[Starter]
    fitters: Sequence[Fitter]
    pairs: Sequence[Pair]


def read_sequence(url: str) -> MainSequence:
    """Return the main sequence of the isochrone at `url`."""
    return MainSequence(**read_main_sequence(url))


def two_of(model: Emulator, table: BinariesTable, sequence: MainSequence) -> BinaryEmulator:
    """Return the emulator of pairs of a model's stars.

    Raises
    ------
    ConfigError
        If the model's spectra cannot be added, or it knows no star of the main sequence.
    """
    try:
        return BinaryEmulator(model, sequence, q_range=table.q_range, dv_kms=table.dv_kms)
    except ValueError as error:
        continuum = model.spec.normalization.get("method") == "continuum"
        why = "" if continuum else f": {WHY_NOT}"
        raise ConfigError(f"binaries: {model.spec.name}: {error}{why}") from error


def pairs_of(
    ready: Sequence[Ready], table: BinariesTable, fit: FitTable, sequence: MainSequence
) -> list[Pair]:
    """Make every model of the fit ready for one star and for two, as the fit took it."""
    made = []
    for one in ready:
        model = _with_priors(doubted(one.model, fit.scatter), fit)
        double = two_of(model, table, sequence).to(model.scatter.device)
        made.append(Pair(model, double, one.smoothing if fit.polynomial is None else None))
    return made


def _with_priors(model: Emulator, fit: FitTable) -> Emulator:
    """Return the model with the fit's priors as its own, which fits of both kinds then have."""
    if not fit.prior:
        return model
    made, extra = copy(model), dict(model.spec.extra)
    extra["prior"] = dict(extra.get("prior", {})) | dict(fit.prior)
    made.spec = replace(model.spec, extra=extra)
    return made


def compare_fits(
    pairs: Sequence[Pair],
    spectra: xr.Dataset,
    best: pd.DataFrame,
    table: BinariesTable,
    fit: FitTable,
    *,
    threshold: float,
) -> CompositeResult:
    """Fit two stars where the fit found one, each with the model that it found it with.

    Parameters
    ----------
    pairs : sequence of Pair
    spectra : xr.Dataset
        n preprocessed spectra.
    best : pd.DataFrame
        Their best labels, row by row.
    table : BinariesTable
    fit : FitTable
    threshold : float
        Least gain of chi2.

    Returns
    -------
    CompositeResult
        Of n stars.
    """
    n, n_label = len(best), pairs[0].single.spec.n_label
    status = int(FitStatus.NOT_SELECTED)
    single = FitResult.empty(n, n_label, status=status)
    double = FitResult.empty(n, n_label + 2, status=status)
    gain = np.zeros(n)
    starts = partial(composite_starts, q=table.q_starts, dv=table.dv_starts_kms)
    for number, pair in enumerate(pairs):
        rows = np.flatnonzero(best["model"].to_numpy() == number)
        if not len(rows):
            continue
        found = fit_composite(
            (pair.single, pair.double),
            spectra["flux"].to_numpy()[rows],
            spectra["ivar"].to_numpy()[rows],
            single=_fitted_before(best.iloc[rows], pair.single.spec.labels),
            starts=starts,
            threshold=threshold,
            smoothing=pair.smoothing,
            options=fit_options(fit),
            noise_correlation=correlation_of(spectra)[rows],
        )
        gain[rows] = found.gain
        for whole, part in ((single, found.single), (double, found.composite)):
            for field in fields(FitResult):
                getattr(whole, field.name)[rows] = getattr(part, field.name)
    return CompositeResult(single, double, gain, gain > threshold)


def _fitted_before(best: pd.DataFrame, labels: Sequence[str]) -> FitResult:
    """Return what a fit of two stars begins with of the fit of one."""
    result = FitResult.empty(len(best), len(labels))
    result.labels[:] = best[list(labels)].to_numpy(np.float32)
    result.rv[:] = best["rv_residual"].to_numpy(np.float32)
    result.status[:] = best["fit_status"].to_numpy(np.uint32)
    return result


def draw_mocks(rows: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.int64]:
    """Return how many mocks each star gives: `share` on average, by the star's row and the seed.

    Examples
    --------
    >>> draw_mocks(np.arange(10), 1.5, seed=1)
    array([2, 2, 1, 2, 2, 2, 1, 2, 1, 2])
    """
    whole, rest = divmod(share, 1.0)
    chance = scrambled(rows + seed) / 2.0**64
    number: npt.NDArray[np.int64] = int(whole) + (chance < rest).astype(np.int64)
    return number


def mock_singles(bench: Bench, spectra: xr.Dataset, best: pd.DataFrame, *, seed: int) -> xr.Dataset:
    """Return single stars of the labels, velocities, noise and masks of others: their best fits.

    They are normalized as the data are, whatever the fits do about that.

    Noise is white, of the pixels' and the model's variance, and so much more of it as pixels that
    share noise know less: what chance gains is then, over `noise_correlation`, as of those.

    Parameters
    ----------
    bench : Bench
    spectra : xr.Dataset
        n spectra, in which a star may be several times.
    best : pd.DataFrame
        Their best labels, row by row, and ``mock``, which of a star's mocks it is.
    seed : int
        With row and mock it says the noise.
    """
    numbers = best["model"].to_numpy()
    columns = {str(name): best[name].to_numpy() for name in best}
    fitted = [Fitted(one.ready.model, one.ready.smoothing) for one in bench.starters]
    flux = best_fit_flux(fitted, spectra, columns)
    scatter = np.stack([pair.single.scatter.cpu().numpy() for pair in bench.pairs])[numbers]
    ivar, shared = spectra["ivar"].to_numpy(), correlation_of(spectra)[:, :1]
    there = ivar > 0
    variance = shared * (1 / np.where(there, ivar, 1) + scatter**2)
    for place, (row, mock) in enumerate(zip(best["row"], best["mock"], strict=True)):
        draw = np.random.default_rng([seed, row, mock]).standard_normal(flux.shape[1])
        flux[place] += np.where(there[place], np.sqrt(variance[place]) * draw, 0)
    return spectra.assign(flux=(("spectrum", "wavelength"), flux))


def gains_of_singles(
    bench: Bench,
    spectra: xr.Dataset,
    best: pd.DataFrame,
    table: BinariesTable,
    settings: tuple[InferTable, FitTable, int],
) -> pa.Table:
    """Return by how much two stars lower chi2 of mock single ones, fitted as the run's stars are.

    Parameters
    ----------
    bench : Bench
    spectra, best
        As of `mock_singles`.
    table : BinariesTable
    settings : (InferTable, FitTable, int)
        How the run's stars were fitted, and the seed.

    Returns
    -------
    pa.Table
        n rows: row, mock, binary_gain.
    """
    infer, fit, seed = settings
    if best.empty:
        return MOCKS.empty_table()
    mocks = mock_singles(bench, spectra, best, seed=seed)
    rows = best["row"].to_numpy(np.int64)
    question = Question(mocks, rows, np.zeros(len(rows), np.uint32))
    first = first_labels(question, bench.starters, infer)
    found = labels_by(mocks, first, bench.fitters, fit)
    gain = compare_fits(bench.pairs, mocks, found, table, fit, threshold=np.inf).gain
    return pa.table([rows, best["mock"].to_numpy(), gain], schema=MOCKS)


def pair_table(
    pairs: Sequence[Pair],
    spectra: xr.Dataset,
    best: pd.DataFrame,
    found: CompositeResult,
    threshold: float,
) -> dict[str, Array]:
    """Return what fits of two stars say of n stars, by column of the stage's table."""
    names = pairs[0].double.spec.labels
    single, double = found.single, found.composite
    both = single.fitted & double.fitted
    status = np.where(both, 0, BinaryStatus.NO_FIT).astype(np.uint32)
    flagged = double.status & ~np.uint32(BY_LABEL) != 0
    status[found.accepted] |= np.uint32(BinaryStatus.TWO_STARS)
    status[found.accepted & flagged] |= np.uint32(BinaryStatus.DOUBTFUL)
    step = float(spectra.attrs["log10_wavelength_step"])
    pixels = velocity_to_pixels(spectra["rv_shift"].to_numpy(), step)
    pixels = pixels + velocity_to_pixels(np.nan_to_num(double.rv), step)
    made: dict[str, Array] = {
        "binary_gain": np.where(both, found.gain, np.nan),
        "binary_threshold": np.full(len(best), threshold),
        "binary_accepted": found.accepted,
        "binary_single_chi2": single.chi2,
        "binary_chi2": double.chi2,
    }
    for k, name in enumerate(names):
        made |= {
            f"binary_{name}": double.labels[:, k],
            f"binary_{name}_err": double.label_err[:, k],
        }
    made |= _secondaries(pairs, best, double)
    made["binary_rv"] = np.where(double.fitted, pixels_to_velocity(pixels, step), np.nan)
    made |= {"binary_rv_err": double.rv_err, "binary_single_fit_status": single.status}
    made |= {"binary_fit_status": double.status, "binary_status": status}
    return {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in made.items()}


def _secondaries(pairs: Sequence[Pair], best: pd.DataFrame, double: FitResult) -> dict[str, Array]:
    """Return temperature and gravity of the stars beside."""
    names = pairs[0].single.spec.labels
    made = {f"binary_{name}_2": np.full(len(best), np.nan) for name in ("teff", "logg")}
    for number, pair in enumerate(pairs):
        rows = np.flatnonzero((best["model"].to_numpy() == number) & double.fitted)
        labels = torch.tensor(double.labels[rows].astype(np.float64))
        second = pair.double.secondary(labels.to(pair.single.scatter.device))[0].cpu().numpy()
        for name in ("teff", "logg"):
            made[f"binary_{name}_2"][rows] = second[:, names.index(name)]
    return made
