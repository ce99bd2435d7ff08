"""A few survey files -> their labels, with no run file, store or engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import xarray as xr

from scalespec.config import FitTable, InferTable, IngestTable, PreprocessTable
from scalespec.errors import ConfigError, ModelError, StoreError
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.optimize.objective import Smoother
from scalespec.optimize.result import FitStatus
from scalespec.schema import SpectrumStatus
from scalespec.stages.columns import NOTES
from scalespec.stages.emulators import load_starters, make_ready
from scalespec.stages.fit import best_labels
from scalespec.stages.infer import first_labels
from scalespec.stages.ingest import ingest_block
from scalespec.stages.inputs import list_inputs
from scalespec.stages.inspect import status_text
from scalespec.stages.joining import STORE_COLUMNS, assembled
from scalespec.stages.normalizers import table_of
from scalespec.stages.preprocess import normalization, preprocess_block
from scalespec.stages.question import ask
from scalespec.stages.regrid import correlation_of
from scalespec.store import formats, paths
from scalespec.store.fetch import fetch
from scalespec.store.listing import WILD
from scalespec.store.model import load_model
from scalespec.surveys import SURVEYS

WRITERS = {
    "parquet": lambda url, schema, parts, _: formats.write_parquet(url, schema, parts),
    "fits": formats.write_fits,
    "vot": formats.write_votable,
}
"""Writers of a table of labels, those of a catalog, by the ending of the file's name."""
SHOWN = ("file", "teff", "teff_err", "logg", "logg_err", "fe_h", "m_h", "rv", "chi2", "fit_status")
"""Columns that a terminal has room for."""
ROWS_SHOWN = 20
SCALARS = ("obsid", "ra", "dec", "snr", "status")


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

    @property
    def noise_correlation(self) -> npt.NDArray[np.float64]:
        """(n, 2) by what variances of labels and velocity exceed those of white noise."""
        return correlation_of(self.spectra)


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
        What `fit_labels` takes: ``fit_labels(p.model, p.flux, p.ivar, smoothing=p.smoothing,
        noise_correlation=p.noise_correlation)``.

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
        Local paths or URLs, globs, folders and ``@list.txt``, as ``[ingest] files`` has them; a
        file that cannot be read is a row whose status says why.
    models : sequence of str
        Folders of ours, or The Payne's .npz; of several, the best χ² is kept per star.
    survey : str
        A key of ``SURVEYS``.
    seed : int
        Of the draws that the first estimate learns from.

    Returns
    -------
    pd.DataFrame
        One row per spectrum: file, designation, ..., snr, spectrum_status, and the columns of
        `best_labels`; ``model`` is -1 where there are no labels.

    Raises
    ------
    ConfigError
        If the survey is not known, or a glob or folder holds no file of it.
    ModelError
        If a model does not fit the survey's spectra.
    """
    if survey not in SURVEYS:
        raise ConfigError(f"survey '{survey}' is not one of {sorted(SURVEYS)}")
    urls = [url for name in files for url in _named(name, survey)]
    pieces = SURVEYS[survey].pieces(
        [
            (url, found if isinstance(found, StoreError) else found[0])
            for url, found in zip(urls, fetch(urls), strict=True)
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
    scalars = {STORE_COLUMNS[name]: spectra[name].to_numpy() for name in SCALARS}
    return pd.concat([index.reset_index(drop=True), pd.DataFrame(scalars), best], axis=1)


def _named(name: str, survey: str) -> Iterator[str]:
    """Yield the files that one name stands for; one that no file has stands for itself.

    It keeps its row, which says so: the others are labelled all the same.
    """
    if not paths.is_remote(name) and paths.local_path(name).is_file():
        yield name  # whatever is in its name
        return
    several = name.startswith("@") or any(letter in paths.plain(name) for letter in WILD)
    if not several and not paths.is_folder(name):
        yield name
        return
    pattern = SURVEYS[survey].pattern
    table = IngestTable(survey=survey, files=name)
    found = [entry.url for entry in list_inputs(table, SURVEYS[survey])]
    if found:
        yield from found
    elif several or not paths.is_remote(name):
        raise ConfigError(
            f"{name}: no file of survey '{survey}' there; of a folder '{pattern}' is taken"
        )
    else:  # of a bucket, what is no object is a folder, or nothing
        yield name


def write_labels(table: pd.DataFrame, url: str) -> None:
    """Write labels as a catalog is written: with units, descriptions and meanings of bits.

    Parameters
    ----------
    table : pd.DataFrame
        As `label_files` gives it.
    url : str
        What is to be written; its ending is a key of `WRITERS`.
    """
    columns = {str(name): pa.array(values, from_pandas=True) for name, values in table.items()}
    made = assembled([columns])
    notes = {name: codes for name, codes in NOTES.items() if name in columns}

    def parts(names: Sequence[str] | None) -> Iterator[pa.Table]:
        yield made if names is None else made.select(list(names))

    ending = paths.plain(url).rpartition(".")[2].lower()
    WRITERS[ending](url, made.schema, parts, notes)


def label_text(table: pd.DataFrame) -> str:
    """Return the first rows of `label_files` as a terminal shows them, bits by their names."""
    shown = table[[name for name in SHOWN if name in table]].head(ROWS_SHOWN).copy()
    shown["fit_status"] = [status_text(int(bits), FitStatus) for bits in shown["fit_status"]]
    return shown.to_string(index=False)


def without_labels(table: pd.DataFrame) -> tuple[int, list[str]]:
    """Return how many rows of `label_files` have no labels; of the first, which and why.

    Examples
    --------
    >>> row = {"file": "a.fits", "reason": "missing: StoreError: a.fits: not found"}
    >>> row |= {"spectrum_status": 1, "fit_status": 512, "model": -1}
    >>> without_labels(pd.DataFrame([row]))
    (1, ['a.fits: MISSING, BAD_SPECTRUM: no such file'])
    """
    rows = table[table["model"] < 0]
    lines = [_why(row) for row in rows.head(ROWS_SHOWN).itertuples()]
    if more := len(rows) - len(lines):
        lines.append(f"{more:,} more, as their column 'reason' says")
    return len(rows), lines


def _why(row: Any) -> str:
    """Say why a row has no labels: the bits that are set, by name, and the reader's words."""
    bits = ((row.spectrum_status, SpectrumStatus), (row.fit_status, FitStatus))
    names = [status_text(int(value), flags) for value, flags in bits if value]
    words = str(row.reason).partition(": ")[2].removeprefix(f"StoreError: {row.file}: ")
    said = {"not found": "no such file"}.get(words, words)
    return ": ".join(filter(None, [str(row.file), ", ".join(names), said]))


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
