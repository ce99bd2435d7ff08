"""A few survey files -> their labels, with no run file, store or engine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from scalespec.config import FitTable, InferTable, PreprocessTable
from scalespec.errors import ConfigError, ModelError, StoreError
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.optimize.objective import Smoother
from scalespec.stages.emulators import load_starters, make_ready
from scalespec.stages.fit import best_labels
from scalespec.stages.infer import first_labels
from scalespec.stages.ingest import ingest_block
from scalespec.stages.normalizers import table_of
from scalespec.stages.preprocess import normalization, preprocess_block
from scalespec.stages.question import ask
from scalespec.store.fetch import fetch
from scalespec.store.model import load_model
from scalespec.surveys import SURVEYS


@dataclass(frozen=True)
class Prepared:
    """Spectra as a model wants them, and the model as these spectra want it.

    Attributes
    ----------
    spectra : xr.Dataset
        n normalized spectra at rest to the nearest pixel.
    model : Emulator
        On their grid, at their resolution.
    smoothing : Smoother or None
        The data's normalization, if the model's flux has yet to pass through it.
    """

    spectra: xr.Dataset
    model: Emulator
    smoothing: Smoother | None

    @property
    def flux(self) -> npt.NDArray[np.float32]:
        """(n, P) normalized flux."""
        return self.spectra["flux"].to_numpy()

    @property
    def ivar(self) -> npt.NDArray[np.float32]:
        """(n, P) inverse variance of `flux`, 0 where there is no information."""
        return self.spectra["ivar"].to_numpy()


def prepare(raw: xr.Dataset, model: Emulator) -> Prepared:
    """Preprocess spectra for a model, and bring the model to their grid and resolution.

    Parameters
    ----------
    raw : xr.Dataset
        Raw spectra, as `read_survey` gives them.
    model : Emulator

    Returns
    -------
    Prepared
        What `fit_labels` takes: ``fit_labels(p.model, p.flux, p.ivar, smoothing=p.smoothing)``.

    Raises
    ------
    ModelError
        If the model's grid or resolution does not fit the survey's.
    """
    spectra = _preprocessed(raw, model.spec)
    ready = make_ready(model, spectra["wavelength"].to_numpy(), spectra.attrs)
    return Prepared(spectra, ready.model, ready.smoothing)


def _preprocessed(raw: xr.Dataset, spec: EmulatorSpec) -> xr.Dataset:
    table = preparation_for(spec, raw["wavelength"].to_numpy())
    return preprocess_block(raw, table).assign_attrs(normalization=normalization(table))


def label_files(
    files: Sequence[str], *, models: Sequence[str], survey: str = "lamost_lrs", seed: int = 1
) -> pd.DataFrame:
    """Read, prepare and fit survey files.

    Parameters
    ----------
    files : sequence of str
        Local paths or URLs; a file that cannot be read is a row whose status says why.
    models : sequence of str
        Folders of ours, or The Payne's .npz; of several, the best χ² is kept per star.
    survey : str
        A key of ``SURVEYS``.
    seed : int
        Of the draws that the first estimate learns from.

    Returns
    -------
    pd.DataFrame
        One row per spectrum: file, designation, ..., snr, status, and the columns of `best_labels`.

    Raises
    ------
    ConfigError
        If the survey is not known.
    ModelError
        If a model does not fit the survey's spectra.
    """
    if survey not in SURVEYS:
        raise ConfigError(f"survey '{survey}' is not one of {sorted(SURVEYS)}")
    pieces = SURVEYS[survey].pieces(
        [
            (url, found if isinstance(found, StoreError) else found[0])
            for url, found in zip(files, fetch(files), strict=True)
        ]
    )
    groups, index = ingest_block(pieces, survey)
    if arms := [name for name in groups if name]:
        raise ConfigError(
            f"survey '{survey}' comes in arms {', '.join(arms)}: write a run file whose "
            "[preprocess] joins them by step 'regrid'"
        )
    spectra = _preprocessed(groups[""], load_model(models[0]).spec)
    infer = InferTable(models=tuple(models))
    starters = load_starters(
        models,
        spectra["wavelength"].to_numpy(),
        spectra.attrs,
        n_template=infer.templates,
        seed=seed,
    )
    first = first_labels(ask(spectra, np.arange(len(index))), starters, infer)
    ready = [one.ready for one in starters]
    best = best_labels(spectra, first, ready, FitTable()).drop(columns=["obsid", "row"])
    scalars = {name: spectra[name].to_numpy() for name in ("obsid", "ra", "dec", "snr", "status")}
    return pd.concat([index.reset_index(drop=True), pd.DataFrame(scalars), best], axis=1)


def preparation_for(spec: EmulatorSpec, wavelength: npt.NDArray[np.float64]) -> PreprocessTable:
    """Return the preprocessing that brings spectra on `wavelength` to what a model wants.

    Raises
    ------
    ModelError
        If model and survey have no wavelength in common.
    """
    default = PreprocessTable()
    low = max(float(spec.wavelength[0]), float(wavelength[0]))
    high = min(float(spec.wavelength[-1]), float(wavelength[-1]))
    if low < default.wavelength_max_angstrom and high > default.wavelength_min_angstrom:
        low = max(low, default.wavelength_min_angstrom)  # LAMOST's ends hold little
        high = min(high, default.wavelength_max_angstrom)
    if low >= high:
        raise ModelError(
            f"the model covers {spec.wavelength[0]:.0f}-{spec.wavelength[-1]:.0f} Å, the survey "
            f"{wavelength[0]:.0f}-{wavelength[-1]:.0f} Å: choose another model"
        )
    # Half a pixel of tolerance: the model's first pixel must not be lost to rounding.
    half = min(1e-4, 0.5 * float(spec.wavelength[1] / spec.wavelength[0] - 1))
    return default.model_copy(
        update={
            "wavelength_min_angstrom": low * (1 - half),
            "wavelength_max_angstrom": high * (1 + half),
            "continuum": table_of(spec.normalization),
        }
    )


def check_target(path: str) -> None:
    """Refuse a file that could not be written, before the work that fills it.

    Raises
    ------
    ConfigError
        If its folder is not there, or not ours to write.
    """
    target = Path(path)
    if "://" in path:
        return
    if not target.parent.is_dir():
        raise ConfigError(f"-o {path}: no folder {target.parent}: make it first")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise ConfigError(f"-o {path}: no permission to write there")
