"""One file per survey: what its files hold, as spectra in our schema.

A name of `SURVEYS` is one kind of row: files that hold several kinds (LAMOST's coadds and their
exposures, APOGEE's stars and their visits) are read under several names.
"""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from scalespec.errors import SurveyFileError
from scalespec.surveys import apogee, csst, desi, gaia_xp, lamost, lamost_mrs, sdss
from scalespec.surveys.rows import Groups, Survey
from scalespec.surveys.table import open_table

_ALL = (
    *(lamost.LRS, lamost_mrs.MRS, lamost_mrs.EXPOSURES),
    *(apogee.STARS, apogee.ASPCAP, apogee.VISITS, apogee.CHIPS_OF_VISITS),
    *(desi.DESI, sdss.SDSS, gaia_xp.XP, csst.CSST),
)
SURVEYS = {survey.name: survey for survey in _ALL}
"""Surveys by name; "table", of files that a description explains, is made by `open_survey`."""


def open_survey(name: str, description: Mapping[str, Any] | None = None) -> Survey:
    """Return a survey by name.

    Parameters
    ----------
    name : str
        A key of `SURVEYS`, or "table".
    description : mapping, optional
        Of "table": `surveys.table` says how.

    Raises
    ------
    ValueError
        If there is no such survey, or its description is wrong, missing or not wanted.

    Examples
    --------
    >>> lamost = open_survey("lamost_lrs")
    >>> lamost.pattern, [arm.name for arm in lamost.arms]
    ('**/spec-*.fits*', [''])
    """
    if name == "table":
        return open_table(description)
    if name not in SURVEYS:
        raise ValueError(f"no survey '{name}'; there are {sorted([*SURVEYS, 'table'])}")
    if description is not None:
        raise ValueError(f"survey '{name}' wants no description")
    return SURVEYS[name]


def read_survey(
    path: str | Path,
    survey: str = "lamost_lrs",
    *,
    arm: str = "",
    description: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Read local survey files into memory, spectra in the order of their files' paths.

    Parameters
    ----------
    path : str or Path
        A file, a folder (its files by the survey's pattern) or a glob.
    survey : str
        A key of `SURVEYS`, or "table".
    arm : str
        Which, of surveys that have arms: `read_arms` reads all.
    description : mapping, optional
        What the files of survey "table" hold: `surveys.table` says how.

    Returns
    -------
    xr.Dataset
        Dims ``(spectrum, wavelength)``, or ``(spectrum, pixel)`` where spectra have grids of their
        own: flux, ivar float32, mask uint32 (`schema.MaskBit`), and the per-spectrum variables; a
        spectrum that cannot be read is a row of ivar 0 whose ``status`` (`schema.SpectrumStatus`)
        and ``reason`` say why. The files' strings are coordinates: file, designation, class_,
        subclass, release, snr_g, reason.

    Raises
    ------
    ValueError
        If there is no such survey or no such arm.
    SurveyFileError
        If `path` names no file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
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
    arms = [one.name for one in open_survey(survey, description).arms]
    if arm not in arms:
        raise ValueError(f"{survey} has the arms {arms}: say arm=, or use read_arms; got '{arm}'")
    return read_arms(path, survey, description=description)[arm]


def read_arms(
    path: str | Path, survey: str, *, description: Mapping[str, Any] | None = None
) -> Groups:
    """Read local survey files into memory as `read_survey`, all arms by name.

    Returns
    -------
    dict of str to xr.Dataset
        The root, "", and the survey's arms: the same spectra in the same order in each.
    """
    reader = open_survey(survey, description)
    pattern = f"{glob.escape(str(path))}/{reader.pattern}" if Path(path).is_dir() else str(path)
    found = [name for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]  # noqa: PTH207 - an absolute pattern, which Path.glob refuses
    names = [str(path)] if Path(path).is_file() else sorted(found)
    if not names:
        raise SurveyFileError(f"no file matches '{pattern}'", "missing")
    groups, index = reader.read_block(reader.pieces([(name, _read(name)) for name in names]))
    strings = {str(column): ("spectrum", index[column].to_numpy()) for column in index}
    return {name: group.assign_coords(strings) for name, group in groups.items()}


def _read(name: str) -> bytes | Exception:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        return error
