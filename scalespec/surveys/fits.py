"""FITS files as arrays: a strict, fast parser of the plain subset; astropy for the rest.

The strict parser takes what survey spectra are made of and refuses everything else, so that it is
either right or not used. Byte layout: FITS Standard 4.0 (2018), sections 3, 4 and 7.3.
"""

import math
import re
import warnings
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from scalespec.errors import SurveyFileError
from scalespec.surveys.headers import (
    TEXT,
    Cards,
    Header,
    UnsupportedFITS,
    Value,
    find_header,
    padded,
    parse_card,
)
from scalespec.surveys.inflate import LIMIT_BYTES

_IMAGE_DTYPES = {-64: ">f8", -32: ">f4", 8: "u1", 16: ">i2", 32: ">i4", 64: ">i8"}
_COLUMN_DTYPES = {"E": ">f4", "D": ">f8", "I": ">i2", "J": ">i4", "K": ">i8", "B": "u1", "L": "u1"}
_COLUMN_DTYPES |= {"A": "S"}
_REFUSED_COLUMNS = (b"TSCA", b"TZER")
_FIELD = ("TTYPE", "TFORM", "TDIM", "TNULL")
_MOST_FIELDS = 999  # that the standard allows
_STRUCTURE = (
    *("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3"),
    *("PCOUNT", "GCOUNT", "EXTNAME"),
)
_TFORM = re.compile(r"(\d*)([A-Z])\Z")


class HDU(NamedTuple):
    """One header and its data.

    Attributes
    ----------
    name : str
        EXTNAME, or "" where there is none.
    header : dict
        Keyword -> value, of the cards asked for; None is a card without a value.
    data : array, dict or None
        An image; the columns of a table, each ``(n_row,)`` or ``(n_row, repeat)``; or nothing.
        Arrays are read-only views of the file's own big-endian bytes.
    """

    name: str
    header: dict[str, Value]
    data: np.ndarray | dict[str, np.ndarray] | None


def read_fits(
    data: bytes, *, cards: Cards = None, decompress: bool = False
) -> tuple[list[HDU], bool]:
    """Read FITS bytes by the strict parser, or by astropy where that one refuses.

    Parameters and errors are those of `parse_fits_astropy`, which see.

    Returns
    -------
    hdus : list of HDU
        Every HDU of the file.
    used_fallback : bool
        Whether astropy had to read it.
    """
    try:
        return parse_fits(data, cards=cards), False
    except UnsupportedFITS:
        return parse_fits_astropy(data, cards=cards, decompress=decompress), True


def parse_fits(data: bytes, *, cards: Cards = None) -> list[HDU]:
    """Parse FITS bytes of the strict subset.

    It knows images of up to three axes and binary tables of fixed vectors (TFORM letters E, D, I,
    J, K, B, L, A), unscaled and without a heap.

    Parameters
    ----------
    data : bytes
        A FITS file's content, not gzipped.
    cards : collection of str, optional
        Keywords to have in the headers; all of them when not given.

    Raises
    ------
    SurveyFileError
        With reason ``not_fits``, or ``truncated`` when a header says more bytes than came.
    UnsupportedFITS
        For anything outside the subset; `parse_fits_astropy` may know it.

    Examples
    --------
    >>> from astropy.io import fits
    >>> file = BytesIO()
    >>> fits.PrimaryHDU(np.array([1.5, 2.5], np.float32)).writeto(file)
    >>> hdu, = parse_fits(file.getvalue(), cards=["BITPIX"])
    >>> hdu.header, hdu.data
    ({'BITPIX': -32}, array([1.5, 2.5], dtype='>f4'))
    """
    if not data:
        raise SurveyFileError("empty file", "not_fits")
    if not data.startswith(b"SIMPLE  ="):
        raise SurveyFileError(f"no FITS file: begins with {data[:20]!r}", "not_fits")
    hdus: list[HDU] = []
    start = 0
    while start < len(data):
        if hdus and not data.startswith(b"XTENSION=", start):
            if data.count(0, start) == len(data) - start:
                break  # zeros to fill a tape block
            raise UnsupportedFITS(f"{data[start : start + 20]!r} after HDU {len(hdus) - 1}")
        hdu, start = _parse_hdu(data, start, cards)
        hdus.append(hdu)
    return hdus


def _integer(cards: dict[str, Value], keyword: str, missing: int | None = None) -> int:
    value = cards.get(keyword)
    if value is None and missing is not None:
        return missing
    if type(value) is not int or abs(value) > 2**40:  # a bool is no integer here
        raise UnsupportedFITS(f"{keyword} = {value!r}, wanted an integer")
    return value


def _string(cards: dict[str, Value], keyword: str) -> str:
    value = cards.get(keyword)
    if not isinstance(value, str):
        raise UnsupportedFITS(f"{keyword} = {value!r}, wanted a string")
    return value


class _Structure(NamedTuple):
    """What a header says of its data."""

    is_table: bool
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    name: str


@lru_cache(maxsize=128)  # files of one release are built alike
def _structure(names: tuple[str, ...], cards: tuple[bytes, ...], first: bool) -> _Structure:
    """Return what the cards `_STRUCTURE`, as far as there, say of the data behind a header."""
    values = dict(zip(names, map(parse_card, cards), strict=True))
    kind = "IMAGE" if first else _string(values, "XTENSION")
    if kind not in ("IMAGE", "BINTABLE") or (first and values.get("SIMPLE") is not True):
        raise UnsupportedFITS(f"an HDU of kind {kind!r}")
    bitpix, naxis = _integer(values, "BITPIX"), _integer(values, "NAXIS")
    known = bitpix in _IMAGE_DTYPES and 0 <= naxis <= 3
    if not known or (kind == "BINTABLE" and (bitpix, naxis) != (8, 2)):
        raise UnsupportedFITS(f"BITPIX = {bitpix}, NAXIS = {naxis}")
    shape = tuple(_integer(values, f"NAXIS{axis}") for axis in range(naxis, 0, -1))
    odd = _integer(values, "PCOUNT", 0) or _integer(values, "GCOUNT", 1) != 1
    if min(shape, default=1) < 1 or odd:
        raise UnsupportedFITS(f"shape {shape} with a heap, groups or no elements")
    n_bytes = abs(bitpix) // 8 * math.prod(shape) if shape else 0
    name = str(values.get("EXTNAME", ""))
    return _Structure(kind == "BINTABLE", _IMAGE_DTYPES[bitpix], shape, n_bytes, name)


def _parse_hdu(data: bytes, start: int, cards: Cards) -> tuple[HDU, int]:
    """Return the HDU that begins at `start`, and where the next one does."""
    header, body = find_header(data, start)
    is_table, dtype, shape, n_bytes, name = _structure(*header.cards(_STRUCTURE), start == 0)
    if body + n_bytes > len(data):
        raise SurveyFileError(
            f"HDU at byte {start} wants {body + n_bytes} bytes of file, got {len(data)}",
            "truncated",
        )
    array: np.ndarray | dict[str, np.ndarray] | None = None
    if is_table:
        array = _parse_table(header, body, shape)
    elif shape:
        array = np.frombuffer(data, dtype, math.prod(shape), body).reshape(shape)
    return HDU(name, header.values(cards), array), body + padded(n_bytes)


def _parse_table(header: Header, body: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the columns, by name, of the binary table whose data begin at `body`."""
    columns, dtype = _table_layout(header.data[header.start : body])
    if dtype.itemsize != shape[1]:
        raise UnsupportedFITS(f"a table of shape {shape} whose columns take {dtype.itemsize} bytes")
    rows = np.frombuffer(header.data, dtype, shape[0], body)
    return {name: _column(rows[name], form) for name, form in columns}


@lru_cache(maxsize=64)  # files of one release have tables of one header
def _table_layout(text: bytes) -> tuple[tuple[tuple[str, str], ...], np.dtype[np.void]]:
    """Return names and forms of a table's columns, and the dtype of a row."""
    header, _ = find_header(text, 0)
    keywords = range(0, len(header.keywords), 8)
    if any(header.keywords.startswith(_REFUSED_COLUMNS, i) for i in keywords):
        raise UnsupportedFITS("a table with scaled columns")
    n = _integer(header.values(["TFIELDS"]), "TFIELDS")
    if n > _MOST_FIELDS:
        raise UnsupportedFITS(f"TFIELDS = {n}")
    fields = range(1, n + 1)
    cards = header.values([f"{what}{i}" for i in fields for what in _FIELD])
    names = tuple(_string(cards, f"TTYPE{i}") for i in fields)
    forms = tuple(_string(cards, f"TFORM{i}") for i in fields)
    for i, form in zip(fields, forms, strict=True):
        _check_shape(cards, i, form)
    return tuple(zip(names, forms, strict=True)), _row_dtype(names, forms)


def _check_shape(cards: dict[str, Value], i: int, form: str) -> None:
    """Refuse a column of arrays, or of numbers that stand for none and are no integers."""
    shape = cards.get(f"TDIM{i}")
    if shape is not None and shape != f"({form[:-1]})":
        raise UnsupportedFITS(f"TDIM{i} = {shape!r} of TFORM {form!r}")
    if f"TNULL{i}" in cards and form[-1:] not in "BIJK":
        raise UnsupportedFITS(f"TNULL{i} of TFORM {form!r}")


def _row_dtype(names: tuple[str, ...], forms: tuple[str, ...]) -> np.dtype[np.void]:
    """Return the dtype of one row of a binary table."""
    fields: list[Any] = []
    for name, form in zip(names, forms, strict=True):
        found = _TFORM.match(form)
        if found is None or found[2] not in _COLUMN_DTYPES or found[1].startswith("0"):
            raise UnsupportedFITS(f"TFORM {form!r}")
        repeat, letter = int(found[1] or 1), found[2]
        if letter == "A":
            fields.append((name, f"S{repeat}"))
        else:
            fields.append((name, _COLUMN_DTYPES[letter], () if repeat == 1 else (repeat,)))
    try:
        return np.dtype(fields)
    except (TypeError, ValueError) as error:  # a vector too long, two columns of one name
        raise UnsupportedFITS(f"columns {names}: {error}") from error


def _column(column: np.ndarray, form: str) -> np.ndarray:
    if form.endswith("L"):
        return np.asarray(column == ord("T"))
    return np.strings.rstrip(column) if form.endswith("A") else column


def parse_fits_astropy(data: bytes, *, cards: Cards = None, decompress: bool = False) -> list[HDU]:
    """Parse FITS bytes by astropy: the reference for `parse_fits`, and the way for the rest.

    Parameters
    ----------
    data, cards
        As of `parse_fits`.
    decompress : bool
        Whether tables that hold compressed images become images, of `LIMIT_BYTES` at most.

    Returns
    -------
    list of HDU
        Those that are neither image nor binary table have no data.

    Raises
    ------
    SurveyFileError
        With reason ``truncated`` or ``corrupt`` when astropy cannot read it, or ``bad_layout``
        when a compressed image is larger than the limit.
    """
    from astropy.io import fits

    damage = (  # what astropy and NumPy are known to raise; VerifyError is a bare Exception
        *(ArithmeticError, AttributeError, LookupError, MemoryError, NameError, OSError),
        *(RuntimeError, TypeError, ValueError, fits.VerifyError),
    )
    options = {"memmap": False, "disable_image_compression": not decompress}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with fits.open(BytesIO(data), **options) as hdus:
                return [_from_astropy(hdu, cards) for hdu in hdus]
        except SurveyFileError:
            raise
        except damage as error:
            short = any("truncated" in str(warning.message) for warning in caught)
            reason = "truncated" if short else "corrupt"
            raise SurveyFileError(f"astropy cannot read it: {error!r}", reason) from error


def _from_astropy(hdu: Any, cards: Cards) -> HDU:
    """Return astropy's HDU as ours."""
    from astropy.io import fits

    header: dict[str, Value] = {}
    for card in hdu.header.cards:
        if card.keyword.encode() not in TEXT and (cards is None or card.keyword in cards):
            header.setdefault(card.keyword, _card_value(card))
    name = str(hdu.header.get("EXTNAME", ""))
    if hdu.is_image and isinstance(hdu, fits.CompImageHDU):
        n_bytes = abs(hdu.header["BITPIX"]) // 8 * math.prod(hdu.shape)
        if n_bytes > LIMIT_BYTES:
            raise SurveyFileError(f"HDU '{name}' inflates to {n_bytes} bytes", "bad_layout")
    elif hasattr(hdu, "columns"):
        columns = {column: _plain(hdu.data[column]) for column in hdu.columns.names}
        return HDU(name, header, columns)
    return HDU(name, header, hdu.data if hdu.is_image else None)


def _card_value(card: Any) -> Value:
    """Return astropy's value of a card; one that it cannot parse has none."""
    from astropy.io import fits

    try:
        value = card.value
    except (fits.VerifyError, ValueError):
        return None
    return value if isinstance(value, str | bool | int | float) else None


def _plain(column: np.ndarray) -> np.ndarray:
    """Return a table's column as a plain array, its text as bytes without trailing blanks."""
    plain = np.asarray(column)
    return (
        np.strings.rstrip(np.strings.encode(plain, "ascii")) if plain.dtype.kind == "U" else plain
    )
