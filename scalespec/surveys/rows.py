"""From files to rows: what one file gives, and a block of files as a Dataset and its index."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from scalespec.errors import SurveyFileError
from scalespec.schema import PER_SPECTRUM, MaskBit, SpectrumStatus

INDEX_COLUMNS = ("file", "designation", "class_", "subclass", "release", "snr_g", "reason")
_STATUS = dict(SpectrumStatus.__members__)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One file's spectrum on the survey's grid.

    Attributes
    ----------
    flux, ivar : (n_pixel,) float32
        As in the file, bit for bit, where both are finite; flux is kept where ivar is 0.
    mask : (n_pixel,) uint32
        `schema.MaskBit`.
    scalars : dict
        Values of the per-spectrum variables of `schema`, as far as the file has them.
    strings : dict
        designation, class_, subclass, release; and snr_g, the header's own S/N (NaN if unknown).
    status : SpectrumStatus
        What is worth knowing of it.
    fallback : bool
        Whether astropy had to read the file.
    """

    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint32]
    scalars: dict[str, float | int]
    strings: dict[str, str | float]
    status: SpectrumStatus
    fallback: bool


def read_rows(
    files: Sequence[tuple[str, bytes | Exception]],
    read: Callable[[bytes, str], Spectrum],
    *,
    wavelength: npt.NDArray[np.floating[Any]],
    attrs: Mapping[str, Any],
) -> tuple[xr.Dataset, pd.DataFrame]:
    """Read a block of files: one row each, whatever they hold.

    Parameters
    ----------
    files : sequence of (name, content)
        Content is the file's bytes, or the exception that fetching them ended in.
    read : callable
        Makes a `Spectrum` of content and name, or raises SurveyFileError.
    wavelength : (n_pixel,) float64 [Å, vacuum]
        The survey's grid.
    attrs : mapping
        Attributes of the survey's Dataset.

    Returns
    -------
    spectra : xr.Dataset
        In the schema; ``attrs["fallbacks"]`` counts files that astropy had to read.
    index : pd.DataFrame
        Columns `INDEX_COLUMNS`, one row per file; ``reason`` says why a row holds no spectrum.

    Examples
    --------
    >>> grid = np.array([4000.0, 4001.0])
    >>> files = [("a.fits", FileNotFoundError("no a.fits"))]
    >>> spectra, index = read_rows(files, lambda data, name: None, wavelength=grid, attrs={})
    >>> SpectrumStatus(int(spectra.status[0])).name, index.reason[0]
    ('MISSING', 'missing: FileNotFoundError: no a.fits')
    """
    n, n_pixel = len(files), len(wavelength)
    flux, ivar = np.zeros((2, n, n_pixel), np.float32)
    mask = np.full((n, n_pixel), MaskBit.OUTSIDE, np.uint32)
    columns = {key: np.full(n, unknown, dtype) for key, (dtype, unknown, _) in PER_SPECTRUM.items()}
    index: list[dict[str, Any]] = []
    fallbacks = 0
    for i, (name, content) in enumerate(files):
        index.append({"file": name})
        try:
            spectrum = read(_bytes(content), name)
        except SurveyFileError as error:
            columns["status"][i] = _STATUS.get(error.reason.upper(), SpectrumStatus.MISSING)
            index[i]["reason"] = f"{error.reason}: {error}"
            continue
        flux[i], ivar[i], mask[i] = spectrum.flux, spectrum.ivar, spectrum.mask
        for key, value in spectrum.scalars.items():
            columns[key][i] = value
        columns["status"][i] = spectrum.status
        index[i] |= spectrum.strings
        if spectrum.status & SpectrumStatus.NO_PIXELS:
            index[i]["reason"] = "no_pixels: no pixel has finite flux and positive ivar"
        fallbacks += spectrum.fallback
    pixels = {"flux": (flux, "relative"), "ivar": (ivar, "relative^-2"), "mask": (mask, "")}
    variables: dict[str, Any] = {
        key: (("spectrum", "wavelength"), values, {"units": unit})
        for key, (values, unit) in pixels.items()
    }
    for key, column in columns.items():
        variables[key] = ("spectrum", column, {"units": PER_SPECTRUM[key][2]})
    coords = {"wavelength": ("wavelength", wavelength, {"units": "Angstrom"})}
    return xr.Dataset(variables, coords, {**attrs, "fallbacks": fallbacks}), _table(index)


def _bytes(content: bytes | Exception) -> bytes:
    """Return a file's content; what came instead of it says why the row holds nothing."""
    if isinstance(content, SurveyFileError):
        raise content
    if isinstance(content, Exception):
        raise SurveyFileError(f"{type(content).__name__}: {content}", "missing") from content
    return content


def _table(index: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the index with a type per column, for no rows too."""
    columns = {
        key: pd.Series([row.get(key, math.nan) for row in index], dtype="float64")
        if key == "snr_g"
        else pd.Series([row.get(key, "") for row in index], dtype="str")
        for key in INDEX_COLUMNS
    }
    return pd.DataFrame(columns)
