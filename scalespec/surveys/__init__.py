"""One file per survey: what its files hold, as spectra in our schema."""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from scalespec.errors import SurveyFileError
from scalespec.surveys import lamost


@dataclass(frozen=True)
class Survey:
    """What the stages know of a survey.

    Attributes
    ----------
    name : str
        Its name in run files, and in ``attrs["survey"]``.
    pattern : str
        Glob of its files below a folder.
    wavelength : (n_pixel,) float64 [Å, vacuum]
        The grid its spectra are put on.
    read_block : callable
        Files as (name, content or exception) -> spectra and index, one row each.
    catalog_path : callable
        A row of the survey's release catalog -> path of its file below the release's root.
    """

    name: str
    pattern: str
    wavelength: npt.NDArray[np.floating[Any]]
    read_block: Callable[[Sequence[tuple[str, bytes | Exception]]], tuple[xr.Dataset, pd.DataFrame]]
    catalog_path: Callable[[Mapping[str, Any]], str]


SURVEYS = {
    "lamost_lrs": Survey(
        name="lamost_lrs",
        pattern="**/spec-*.fits*",
        wavelength=lamost.WAVELENGTH,
        read_block=lamost.read_block,
        catalog_path=lamost.catalog_path,
    ),
}


def read_survey(path: str | Path, survey: str = "lamost_lrs") -> xr.Dataset:
    """Read local survey files into memory, one row per file in the order of their paths.

    Parameters
    ----------
    path : str or Path
        A file, a folder (its files by the survey's pattern) or a glob.
    survey : str
        A key of `SURVEYS`.

    Returns
    -------
    xr.Dataset
        Dims ``(spectrum, wavelength)``: flux, ivar float32, mask uint32 (`schema.MaskBit`), and the
        per-spectrum variables; a file that cannot be read is a row of ivar 0 whose ``status``
        (`schema.SpectrumStatus`) and ``reason`` say why. The files' strings are coordinates:
        file, designation, class_, subclass, release, snr_g, reason.

    Raises
    ------
    ValueError
        If there is no such survey.
    SurveyFileError
        If `path` names no file.

    Examples
    --------
    >>> import tempfile
    >>> from astropy.io import fits
    >>> rows = np.ones((5, 3909), np.float32)
    >>> rows[2:] = 10 ** (3.5682 + 1e-4 * np.arange(3909)), np.zeros(3909), np.zeros(3909)
    >>> header = fits.Header({"OBSID": 7, "RA": 10.0, "DEC": 41.0, "Z": 1e-4, "CLASS": "STAR"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fits.PrimaryHDU(rows, header).writeto(f"{folder}/spec-55859-F5902_sp01-013.fits.gz")
    ...     spectra = read_survey(folder)
    >>> spectra.flux.shape, spectra.obsid.item(), spectra.class_.item(), spectra.rv.round(2).item()
    ((1, 3909), 7, 'STAR', 29.979999542236328)
    """
    if survey not in SURVEYS:
        raise ValueError(f"no survey '{survey}'; there are {sorted(SURVEYS)}")
    reader = SURVEYS[survey]
    pattern = f"{glob.escape(str(path))}/{reader.pattern}" if Path(path).is_dir() else str(path)
    found = [name for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]  # noqa: PTH207 - an absolute pattern, which Path.glob refuses
    names = [str(path)] if Path(path).is_file() else sorted(found)
    if not names:
        raise SurveyFileError(f"no file matches '{pattern}'", "missing")
    spectra, index = reader.read_block([(name, _read(name)) for name in names])
    strings = {str(column): ("spectrum", index[column].to_numpy()) for column in index}
    return spectra.assign_coords(strings)


def _read(name: str) -> bytes | Exception:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        return error
