"""FITS bytes are what astropy takes for headers, images and tables."""

import gzip
import io

import numpy as np
import pytest
from astropy.io import fits

from scalespec.surveys.fits_files import gzipped, header, image, primary, table


def opened(data: bytes) -> fits.HDUList:
    assert len(data) % 2880 == 0
    hdus = fits.open(io.BytesIO(data))
    hdus.verify("exception")
    return hdus


def test_cards_come_back_as_they_were():
    cards = [
        ("TEXT", "it's", "with a quote"),
        ("LONG", "x" * 68, ""),
        ("WHOLE", -12345678901, "of eight bytes"),
        ("SMALL", 6e-6, "step"),
        ("LARGE", 1.5e30, ""),
        ("PI", np.float64(3.141592653589793), "all digits"),
        ("YES", True, ""),
        ("NO", np.bool_(False), ""),
        ("COMMENT ---- between",),
    ]
    with opened(primary(cards)) as hdus:
        for key, value, comment in (card for card in cards if len(card) == 3):
            assert hdus[0].header[key] == value
            assert type(hdus[0].header[key]) is type(value) or isinstance(value, np.generic)
            assert hdus[0].header.comments[key] == comment
        assert "between" in str(hdus[0].header["COMMENT"])


def test_bad_cards_are_refused():
    with pytest.raises(ValueError, match="no such number"):
        header([("BAD", float("nan"), "")])
    with pytest.raises(ValueError, match="longer than 68"):
        header([("BAD", "x" * 69, "")])


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_images_keep_their_numbers_and_types(kind):
    array = (np.arange(30).reshape(5, 6) * 3.7).astype(kind)
    with opened(primary([]) + image(array, [("EXTNAME", "THE_IMAGE", "")])) as hdus:
        found = hdus["THE_IMAGE"].data
        assert found.dtype.str[1:] == kind
        assert np.array_equal(found, array)


def test_an_image_may_be_empty():
    with opened(primary([]) + image(None, [])) as hdus:
        assert hdus[1].data is None


def test_tables_keep_columns_types_units_and_shapes():
    columns = {
        "FLAG": np.array([True, False, True]),
        "SHORT": np.array([1, -2, 3], np.int16),
        "INT": np.array([1, -2, 3], np.int32),
        "LONG": np.array([1, -(2**60), 3]),
        "FLUX": np.arange(12, dtype=np.float32).reshape(3, 4),
        "CUBE": np.arange(24, dtype=np.float64).reshape(3, 2, 4),
        "NAME": np.array([b"ab", b"cde", b""]),
    }
    data = primary([]) + table(columns, [("EXTNAME", "T", "")], units={"FLUX": "Jy"}, dims=True)
    with opened(data) as hdus:
        found = hdus["T"]
        assert found.columns.names == list(columns)
        assert found.columns.formats == ["L", "I", "J", "K", "4E", "8D", "3A"]
        assert found.columns["FLUX"].unit == "Jy"
        assert found.columns["CUBE"].dim == "(4,2)"
        for name in ("FLAG", "SHORT", "INT", "LONG", "FLUX", "CUBE"):
            assert np.array_equal(found.data[name], columns[name])
        assert found.data["NAME"].tolist() == ["ab", "cde", ""]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        table({"A": np.zeros(2), "B": np.zeros(3)}, [])


def test_gzip_streams_repeat_and_open():
    assert gzipped(b"x" * 5000) == gzipped(b"x" * 5000)
    assert gzip.decompress(gzipped(b"x" * 5000)) == b"x" * 5000
