"""Broken survey files: each ends as a row with a named reason, and none ends the block."""

import gzip
import io

import numpy as np
import pytest
from astropy.io import fits

from scalespec.errors import SurveyFileError
from scalespec.schema import MaskBit, SpectrumStatus, check_spectra, status_names
from scalespec.surveys.lamost import read_block

N = 3909


def _rows() -> np.ndarray:
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(N))
    rows = [np.linspace(90, 110, N), np.full(N, 0.1), wavelength, np.zeros(N), np.zeros(N)]
    return np.array(rows, np.float32)


def _header() -> fits.Header:
    cards = {"OBSID": 7, "RA": 10.0, "DEC": 41.0, "Z": 1e-4, "COEFF0": 3.5682, "COEFF1": 1e-4}
    return fits.Header(cards)


def _file(*hdus) -> bytes:
    file = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()


def _image() -> bytes:
    return _file(fits.PrimaryHDU(_rows(), _header()))


def _table() -> bytes:
    names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
    columns = [
        fits.Column(name, f"{N}E", array=row[np.newaxis])
        for name, row in zip(names, _rows(), strict=True)
    ]
    return _file(fits.PrimaryHDU(header=_header()), fits.BinTableHDU.from_columns(columns))


LAYOUTS = {"image": _image(), "table": _table()}
OK = SpectrumStatus(0)


def _flip(data: bytes, at: int, bit: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bit
    return bytes(changed)


def _matrix(fits_bytes: bytes) -> dict[str, tuple[bytes | Exception, SpectrumStatus]]:
    gz = gzip.compress(fits_bytes, 1)
    half = len(fits_bytes) // 2
    status = SpectrumStatus
    return {
        "whole": (gz, OK),
        "plain FITS named .gz": (fits_bytes, OK),
        "two members": (gzip.compress(fits_bytes[:half]) + gzip.compress(fits_bytes[half:]), OK),
        "junk after the stream": (gz + b"<html>gateway timeout</html>", OK),
        "empty": (b"", status.NOT_FITS),
        "one byte": (gz[:1], status.NOT_FITS),
        "an HTML page": (b"<!DOCTYPE html><h1>404</h1>", status.NOT_FITS),
        "an HTML page, gzipped": (gzip.compress(b"<!DOCTYPE html>"), status.NOT_FITS),
        "gzip of nothing": (gzip.compress(b""), status.NOT_FITS),
        "another compression": (b"BZh91AY&SY", status.NOT_FITS),
        "gzip header alone": (gz[:10], status.TRUNCATED),
        "cut in the middle": (gz[: len(gz) // 2], status.TRUNCATED),
        "cut in the trailer": (gz[:-3], status.TRUNCATED),
        "cut FITS, whole gzip": (gzip.compress(fits_bytes[:half]), status.TRUNCATED),
        "plain FITS cut in the header": (fits_bytes[:1000], status.TRUNCATED),
        "second member cut": (gz + gz[:50], status.TRUNCATED),
        "checksum": (_flip(gz, -6), status.CORRUPT),
        "length in the trailer": (_flip(gz, -1), status.CORRUPT),
        "gzip method": (_flip(gz, 2, 0xFF), status.CORRUPT),
        "a bomb": (gzip.compress(fits_bytes[:2880] + bytes(65 * 2**20), 1), status.BAD_LAYOUT),
        "no such file": (FileNotFoundError(2, "No such file or directory"), status.MISSING),
        "no permission": (PermissionError(13, "Permission denied"), status.MISSING),
        "refused by the store": (SurveyFileError("a store's own word"), status.MISSING),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_kind_of_damage_is_a_row_with_its_reason(layout):
    cases = _matrix(LAYOUTS[layout])
    spectra, index = read_block([(name, content) for name, (content, _) in cases.items()])
    check_spectra(spectra)
    assert index.file.tolist() == list(cases)
    for i, (name, (_, wanted)) in enumerate(cases.items()):
        assert SpectrumStatus(int(spectra.status[i])) == wanted, name
        if wanted == OK:
            np.testing.assert_array_equal(spectra.flux.values[i], _rows()[0], name)
            assert index.reason[i] == "", name
        else:
            assert index.reason[i] != "", name
            assert (spectra.mask.values[i] == MaskBit.OUTSIDE).all(), name
            assert spectra.obsid.values[i] == -1, name
    assert not spectra.flux.values[spectra.status.values != 0].any()
    assert not spectra.ivar.values[spectra.status.values != 0].any()
    assert status_names(spectra.status.values, SpectrumStatus)["OK"] == 4


def test_reason_begins_with_the_name_of_the_status():
    cases = _matrix(LAYOUTS["table"])
    _, index = read_block([(name, content) for name, (content, _) in cases.items()])
    reasons = dict(zip(index.file, index.reason, strict=True))
    for name, (content, wanted) in cases.items():
        if wanted != OK and not isinstance(content, SurveyFileError):
            assert reasons[name].split(":")[0] == wanted.name.lower(), name


def test_every_bit_flip_in_a_gzip_stream_is_caught_or_harmless():
    gz = gzip.compress(LAYOUTS["image"], 1)
    rng = np.random.default_rng(1)
    files = [("x", _flip(gz, int(at))) for at in rng.integers(10, len(gz), 100)]
    spectra, _ = read_block(files)
    unreadable = SpectrumStatus.CORRUPT | SpectrumStatus.TRUNCATED
    assert ((spectra.status.values & unreadable) > 0).all()  # a CRC misses one in 4e9
