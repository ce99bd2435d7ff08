"""Any spectra in Parquet, npz or FITS, with a small JSON that says what their columns are.

`surveys.description` says what the JSON holds. Names in it are those of Parquet columns, npz
arrays, FITS columns, or FITS images: their EXTNAME, or "HDU0", "HDU1", ... An array ``(n_pixel,)``
is one spectrum, ``(n, n_pixel)`` are n.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from scalespec.errors import SurveyFileError
from scalespec.kernels.wavelength import air_to_vacuum
from scalespec.surveys.description import (
    Description,
    check_description,
    log_attrs,
    policy,
)
from scalespec.surveys.fits import read_fits
from scalespec.surveys.inflate import gunzip
from scalespec.surveys.lattice import check_increasing, clean, inverse_variance
from scalespec.surveys.rows import Arm, Pixels, Rows, Survey
from scalespec.surveys.tables import check_range, filled_ids, ids, numbers, places, texts

LIMIT_BYTES = 2**31
_MOST_ROWS = 10**7
_FWHM = 2 * math.sqrt(2 * math.log(2))

_ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, OSError, EOFError, MemoryError),
    *(RuntimeError, ValueError, TypeError, LookupError, SyntaxError),
)

Arrays = Mapping[str, np.ndarray]


def open_table(description: Mapping[str, Any] | None) -> Survey:
    """Return the survey that a description makes of files.

    Parameters
    ----------
    description : mapping
        As `surveys.description` says.

    Raises
    ------
    ValueError
        If something is missing, unknown or has no meaning; it names all of it.

    Examples
    --------
    >>> survey = open_table({
    ...     "name": "miles", "medium": "air", "frame": "rest", "flux_unit": "relative",
    ...     "wavelength": {"start": 3540.5, "step": 0.9, "n": 4300},
    ...     "resolution": {"fwhm_angstrom": 2.5}, "flux": "HDU0", "assumed_snr": 100})
    >>> survey.name, survey.arms[0].wavelength[[0, -1]].round(2).tolist()
    ('miles', [3541.51, 7411.64])
    """
    if description is None:
        raise ValueError("wants a description: a JSON file that says what its columns are")
    checked = check_description(description)
    survey = {
        "wavelength_medium": "vacuum",
        "frame": description["frame"],
        "flux_unit": description["flux_unit"],
        "ivar_policy": policy(checked),
    }
    middle = 5500.0 if checked.grid is None else float(np.median(checked.grid))
    resolution = description["resolution"]
    if "fwhm_angstrom" in resolution:
        fwhm = float(resolution["fwhm_angstrom"])
        ends = np.array([1e3, 1e5]) if checked.grid is None else checked.grid[[0, -1]]
        survey["resolving_power"] = middle / fwhm
        arm = Arm("", checked.grid, checked.n_pixel, {}, ends, np.full(2, fwhm / _FWHM))
    else:
        survey["resolving_power"] = float(resolution["resolving_power"])
        arm = Arm("", checked.grid, checked.n_pixel, log_attrs(description))
    return Survey(
        name=checked.name,
        pattern=str(description.get("pattern", "**/*")),
        arms=(arm,),
        attrs=survey,
        read=partial(_read, description=checked),
        count_spectra=partial(_count, description=checked),
    )


def _count(data: bytes, *, description: Description) -> int:
    arrays, _ = _arrays(data, description)
    return len(_spectra(arrays, description.flux, description))


def _read(data: bytes, name: str, first: int, count: int, *, description: Description) -> Rows:
    arrays, fallback = _arrays(data, description)
    flux = _spectra(arrays, description.flux, description)
    rows = check_range(first, count, len(flux))
    n_file = flux.shape[1]
    flux = flux[rows].astype(np.float64)
    ivar = _ivar(arrays, flux, rows, description)
    row_flux, row_ivar, mask = clean(flux, ivar)
    wavelength = None
    if description.grid is None:
        wavelength = _own_wavelengths(arrays, rows, flux.shape, description)
    elif n_file != description.n_pixel:
        raise SurveyFileError(
            f"spectra of {n_file} pixels, the description has {description.n_pixel}", "bad_grid"
        )
    pixels = Pixels(row_flux, row_ivar, mask, wavelength)
    return Rows(
        {"": pixels},
        _scalars(arrays, rows, name, description),
        _strings(arrays, rows, name, description),
        fallback=fallback,
    )


def _arrays(data: bytes, description: Description) -> tuple[dict[str, np.ndarray], bool]:
    """Return the file's arrays by name, and whether astropy had to read it."""
    if data.startswith(b"PAR1"):
        return _parquet(data, description), False
    if data.startswith(b"PK\x03\x04"):
        return _npz(data), False
    hdus, fallback = read_fits(gunzip(data, limit_bytes=LIMIT_BYTES), cards=(), decompress=True)
    arrays: dict[str, np.ndarray] = {}
    for i, hdu in enumerate(hdus):
        if isinstance(hdu.data, dict):
            arrays |= {key: column for key, column in hdu.data.items() if key not in arrays}
        elif hdu.data is not None:
            image = hdu.data.T if description.transposed else hdu.data
            arrays[f"HDU{i}"] = image
            arrays.setdefault(hdu.name or f"HDU{i}", image)
    return arrays, fallback


def _parquet(data: bytes, description: Description) -> dict[str, np.ndarray]:
    wanted = {description.flux, description.noise, description.wavelength}
    wanted |= set(description.columns.values())
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        names = [name for name in file.schema_arrow.names if name in wanted]
        few = file.metadata.num_rows <= _MOST_ROWS
        table = file.read(columns=names).combine_chunks() if few else None
        keys = {description.columns.get(key) for key in ("obsid", "source_id")}
        columns = {name: table[name] for name in names} if table is not None else {}
        arrays = {name: _column(one, name in keys) for name, one in columns.items()}
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise SurveyFileError(f"pyarrow cannot read it: {error}", "corrupt") from error
    if not few:
        raise SurveyFileError(f"more than {_MOST_ROWS} spectra in one file", "bad_layout")
    return arrays


def _column(column: Any, is_id: bool) -> np.ndarray:
    """Return a Parquet column as an array: lists of one length as rows, text as bytes.

    A null among whole numbers makes them floats with NaN, which would round ids: there it is 0.
    """
    kind = column.type
    if pa.types.is_decimal(kind):  # as databases write ids
        column = column.cast(pa.int64() if is_id and kind.scale == 0 else pa.float64())
    if is_id and pa.types.is_integer(column.type):
        column = column.fill_null(0)  # no id either, and unsigned columns hold no -1
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = [np.asarray(row, np.float64) for row in column.to_numpy()]
        if len({row.shape for row in rows}) > 1:
            raise ValueError("lists of several lengths in one column")
        return np.array(rows).reshape(len(rows), -1)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([(text or "").encode() for text in column.to_pylist()], "S")
    return np.asarray(column.to_numpy())


def _npz(data: bytes) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size <= LIMIT_BYTES:
                members = {member.filename: archive.read(member) for member in archive.infolist()}
                arrays = {name.removesuffix(".npy"): _npy(one) for name, one in members.items()}
    except _ZIP_DAMAGE as error:
        raise SurveyFileError(f"no zip file of arrays: {error}", "corrupt") from error
    if size > LIMIT_BYTES:
        raise SurveyFileError(f"inflates to {size} bytes", "bad_layout")
    return {name: array for name, array in arrays.items() if array is not None}


def _npy(data: bytes) -> np.ndarray | None:
    """Return the array of an .npy file; none of Python objects, which would have to be unpickled.

    NumPy's own reader believes the header and asks for the memory before it looks at the data.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of version {version}")
    first = version == (1, 0)
    read_header = (
        np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "fiubSU":
        return None
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes != len(data) - file.tell() or not dtype.itemsize:
        raise ValueError(f"{len(data) - file.tell()} bytes of an array of {dtype}{shape}")
    array = np.frombuffer(data, dtype, offset=file.tell())
    array = array.reshape(shape, order="F" if fortran else "C")
    return np.strings.encode(array, "latin-1", "replace") if dtype.kind == "U" else array


def _array(arrays: Arrays, name: str) -> np.ndarray:
    if name not in arrays:
        raise SurveyFileError(f"no '{name}' in {sorted(arrays)[:30]}", "bad_layout")
    array = arrays[name]
    if array.dtype.kind not in "fiu":
        raise SurveyFileError(f"'{name}' is {array.dtype}, no numbers", "bad_layout")
    return array


def _spectra(arrays: Arrays, name: str, description: Description) -> np.ndarray:
    """Return an array of spectra as (n, n_pixel)."""
    array = _array(arrays, name)
    if array.ndim not in (1, 2) or not 2 <= array.shape[-1] <= description.n_pixel:
        raise SurveyFileError(
            f"'{name}' is {array.shape}, wanted (n, {description.n_pixel})", "bad_grid"
        )
    return np.atleast_2d(array)


def _ivar(
    arrays: Arrays, flux: npt.NDArray[np.float64], rows: slice, description: Description
) -> npt.NDArray[np.floating[Any]]:
    if description.kind == "assumed_snr":
        finite = np.where(np.isfinite(flux), flux, 0)
        middle = np.abs(np.median(finite, axis=1))
        error = np.where(middle > 0, middle, np.nan)[:, np.newaxis] / description.assumed_snr
        return inverse_variance(np.broadcast_to(error, flux.shape))
    noise = _spectra(arrays, description.noise, description)[rows]
    if noise.shape != flux.shape:
        raise SurveyFileError(f"'{description.noise}' is {noise.shape}", "bad_layout")
    return noise.astype(np.float64) if description.kind == "ivar" else inverse_variance(noise)


def _own_wavelengths(
    arrays: Arrays, rows: slice, shape: tuple[int, ...], description: Description
) -> npt.NDArray[np.float64]:
    array = np.atleast_2d(_array(arrays, description.wavelength)).astype(np.float64)
    grids = np.broadcast_to(array, shape) if len(array) == 1 else array[rows]
    if grids.shape != shape:
        raise SurveyFileError(f"wavelengths {grids.shape} of fluxes {shape}", "bad_layout")
    for grid in grids[:1] if len(array) == 1 else grids:
        check_increasing(grid)
    if not description.air:
        return grids
    if not grids.min() > 2000:
        raise SurveyFileError(f"{grids.min():.6g} Å in air", "bad_grid")
    return air_to_vacuum(grids).astype(np.float64)


def _scalars(arrays: Arrays, rows: slice, name: str, description: Description) -> dict[str, Any]:
    columns = {
        ours: arrays[theirs] for ours, theirs in description.columns.items() if theirs in arrays
    }
    return {
        "obsid": filled_ids(ids(columns, rows, "obsid"), description.name, name, rows.start),
        "source_id": ids(columns, rows, "source_id"),
        **places(numbers(columns, rows, "ra"), numbers(columns, rows, "dec")),
        **{key: numbers(columns, rows, key) for key in ("mjd", "rv", "rv_err")},
    }


def _strings(arrays: Arrays, rows: slice, name: str, description: Description) -> dict[str, Any]:
    columns = {
        ours: arrays[theirs] for ours, theirs in description.columns.items() if theirs in arrays
    }
    strings: dict[str, Any] = {
        key: texts(columns, rows, key) for key in ("designation", "class_", "subclass")
    }
    if "designation" not in columns:
        file = PurePath(name.removesuffix(".gz"))
        strings["designation"] = file.stem
    return strings
