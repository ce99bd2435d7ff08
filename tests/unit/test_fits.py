"""The strict parser against astropy's reading, and what it refuses."""

import gzip
import io

import numpy as np
import pytest
from astropy.io import fits
from isal import igzip_lib

from scalespec.errors import SurveyFileError
from scalespec.surveys.fits import parse_fits, parse_fits_astropy, read_fits
from scalespec.surveys.headers import UnsupportedFITS
from scalespec.surveys.inflate import gunzip


def _bytes(*hdus) -> bytes:
    file = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()


def _patch(data: bytes, keyword: str, card: str) -> bytes:
    """Replace the first card of `keyword`."""
    at = data.index(keyword.ljust(8).encode())
    assert at % 80 == 0
    return data[:at] + card.ljust(80).encode("latin-1") + data[at + 80 :]


IMAGE = _bytes(fits.PrimaryHDU(np.arange(12, dtype=np.float32).reshape(3, 4)))
TABLE = _bytes(
    fits.PrimaryHDU(),
    fits.BinTableHDU.from_columns(
        [
            fits.Column("FLUX", "3E", array=np.arange(6.0).reshape(2, 3)),
            fits.Column("WAVE", "D", array=np.array([1.5, 2.5])),
            fits.Column("MASK", "2J", array=np.array([[1, -2], [3, 4]])),
            fits.Column("SHORT", "I", array=np.array([7, -8])),
            fits.Column("LONG", "K", array=np.array([2**40, -1])),
            fits.Column("FLAG", "2L", array=np.array([[True, False], [False, True]])),
            fits.Column("NAME", "5A", array=np.array(["a b", "cdefg"])),
        ],
        name="MIXED",
    ),
)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i2", "i4"])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_images_equal_astropy(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    ours, ext = parse_fits(_bytes(fits.PrimaryHDU(array), fits.ImageHDU(array + 1, name="B")))
    np.testing.assert_array_equal(ours.data, array, strict=False)
    np.testing.assert_array_equal(ext.data, array + 1)
    assert ext.name == "B"


def test_table_columns_equal_astropy_bit_for_bit():
    ours, theirs = parse_fits(TABLE)[1], parse_fits_astropy(TABLE)[1]
    assert ours.header == theirs.header
    assert list(ours.data) == list(theirs.data)
    for name, column in ours.data.items():
        assert column.dtype == theirs.data[name].dtype, name
        assert column.shape == theirs.data[name].shape, name
        assert column.tobytes() == theirs.data[name].tobytes(), name


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("X       =                   -7 / an int", -7),
        ("X       = 42", 42),
        ("X       =               1.5E+3 / a float", 1500.0),
        ("X       =              -2.5D-1", -0.25),
        ("X       =                  .5/", 0.5),
        ("X       =                    T", True),
        ("X       =                    F / no", False),
        ("X       = 'it''s / here  ' / text", "it's / here"),  # quotes doubled, slash inside
        ("X       = '  led by blanks'", "  led by blanks"),
        ("X       = ''", ""),
        ("X       =                      / nothing", None),
    ],
)
def test_card_values_equal_astropy(card, value):
    data = _patch(_bytes(fits.PrimaryHDU(header=fits.Header({"X": 1}))), "X", card)
    ours = parse_fits(data, cards=["X"])[0].header["X"]
    theirs = parse_fits_astropy(data, cards=["X"])[0].header["X"]
    assert ours == value
    assert type(ours) is type(value)
    assert ours == theirs
    assert type(ours) is type(theirs)


def test_first_of_repeated_cards_counts_as_in_astropy():
    header = fits.Header([("X", 1), ("X", 2), ("COMMENT", "= no value")])
    data = _bytes(fits.PrimaryHDU(header=header))
    assert parse_fits(data)[0].header["X"] == parse_fits_astropy(data)[0].header["X"] == 1
    assert "COMMENT" not in parse_fits(data)[0].header


def test_only_cards_asked_for_are_parsed():
    data = _patch(_bytes(fits.PrimaryHDU(header=fits.Header({"X": 1}))), "X", "X       = 12 34")
    assert parse_fits(data, cards=["BITPIX", "ABSENT"])[0].header == {"BITPIX": 8}
    with pytest.raises(UnsupportedFITS, match="12 34"):
        parse_fits(data, cards=["X"])


UNSUPPORTED = {
    "scaled image": _bytes(fits.PrimaryHDU(np.arange(4, dtype=np.uint16))),  # BZERO = 32768
    "four axes": _bytes(fits.PrimaryHDU(np.zeros((2, 2, 2, 2), np.float32))),
    "text table": _bytes(
        fits.PrimaryHDU(), fits.TableHDU.from_columns([fits.Column("A", "F4.2", array=[1.0])])
    ),
    "scaled column": _bytes(
        fits.PrimaryHDU(),
        fits.BinTableHDU.from_columns(
            [fits.Column("A", "I", bzero=32768, array=np.array([40000], np.uint16))]
        ),
    ),
    "heap": _bytes(
        fits.PrimaryHDU(),
        fits.BinTableHDU.from_columns(
            [fits.Column("A", "PE()", array=np.array([[1.0], [1.0, 2.0]], object))]
        ),
    ),
    "complex column": _bytes(
        fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("A", "C", array=[1j])])
    ),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_whatever_is_outside_the_subset_is_refused_and_read_by_astropy(what):
    with pytest.raises(UnsupportedFITS):
        parse_fits(UNSUPPORTED[what])
    hdus, used_fallback = read_fits(UNSUPPORTED[what])
    assert used_fallback
    assert len(hdus) >= 1


@pytest.mark.parametrize(
    "data",
    [IMAGE + b"<html>".ljust(2880), TABLE.replace(b"'WAVE    '", b"'FLUX    '")],
    ids=["text after the last HDU", "two columns of a name"],
)
def test_what_both_refuse_is_corrupt(data):
    with pytest.raises(UnsupportedFITS):
        parse_fits(data)
    with pytest.raises(SurveyFileError) as caught:
        read_fits(data)
    assert caught.value.reason == "corrupt"


def test_fallback_gives_the_values_astropy_does():
    hdus, _ = read_fits(UNSUPPORTED["scaled image"])
    np.testing.assert_array_equal(hdus[0].data, np.arange(4))
    hdus, _ = read_fits(UNSUPPORTED["scaled column"])
    np.testing.assert_array_equal(hdus[1].data["A"], [40000])
    assert read_fits(IMAGE)[1] is False


@pytest.mark.parametrize(
    ("keyword", "card"),
    [
        ("BITPIX", "BITPIX  =                 -16"),
        ("NAXIS1", "NAXIS1  =                 4.0"),
        ("NAXIS1", "NAXIS1  =                  -4"),
        ("NAXIS1", "NAXIS1  = 99999999999999999999"),
        ("NAXIS", "NAXIS   =                    T"),
        ("SIMPLE", "SIMPLE  =                    F"),
        ("EXTEND", "EXTEND  =                  \xff"),
    ],
)
def test_odd_structure_cards_are_refused(keyword, card):
    with pytest.raises(UnsupportedFITS):
        parse_fits(_patch(IMAGE, keyword, card))


@pytest.mark.parametrize(
    ("data", "n_bytes"),
    [(IMAGE, 3 * 4 * 4), (TABLE, 2 * (12 + 8 + 8 + 2 + 8 + 2 + 5))],
    ids=["image", "table"],
)
def test_every_cut_inside_declared_bytes_is_truncated(data, n_bytes):
    end = len(data) - 2880 + n_bytes  # the last HDU's data fit one block
    cuts = set(range(30, end, 997)) | {end - n_bytes - 1, end - n_bytes, end - 1}
    for stop in cuts - {2880}:  # between the table's HDUs lies a whole file, if a poorer one
        with pytest.raises(SurveyFileError) as caught:
            parse_fits(data[:stop])
        assert caught.value.reason == "truncated"
    assert len(parse_fits(data[:end])) == len(parse_fits(data))


@pytest.mark.parametrize("n", [10**12, 1000, 8, "'7'"])
def test_odd_numbers_of_columns_are_refused_at_once(n):
    with pytest.raises(UnsupportedFITS):
        parse_fits(_patch(TABLE, "TFIELDS", f"TFIELDS = {n}"))


@pytest.mark.parametrize("form", ["99999999999999999999E", "9999999999999A", "E3", "3PE", "", "0E"])
def test_odd_column_formats_are_refused(form):
    with pytest.raises(UnsupportedFITS):
        parse_fits(_patch(TABLE, "TFORM1", f"TFORM1  = '{form}'"))
    with pytest.raises(UnsupportedFITS):
        parse_fits(_patch(TABLE, "XTENSION", "XTENSION= 'A3DTABLE'"))


def test_missing_padding_and_zeros_after_the_end_lose_nothing():
    np.testing.assert_array_equal(parse_fits(IMAGE[: 2880 + 48])[0].data, parse_fits(IMAGE)[0].data)
    assert len(parse_fits(IMAGE + bytes(5760))) == 1


def test_huge_declared_size_is_truncated_and_allocates_nothing():
    data = _patch(IMAGE, "NAXIS1", "NAXIS1  =        1000000000000")
    with pytest.raises(SurveyFileError, match=r"wants .* bytes of file") as caught:
        parse_fits(data)
    assert caught.value.reason == "truncated"


def test_gunzip_reads_plain_gzipped_and_multi_member_files():
    assert gunzip(IMAGE) is IMAGE  # a plain file named .gz
    assert gunzip(gzip.compress(IMAGE, mtime=0)) == IMAGE
    members = [
        gzip.compress(IMAGE[:1000], mtime=0),
        gzip.compress(b""),
        gzip.compress(IMAGE[1000:]),
    ]
    assert igzip_lib.decompress(b"".join(members), flag=igzip_lib.DECOMP_GZIP) == IMAGE[:1000]
    assert gunzip(b"".join(members)) == IMAGE  # one-shot calls give the first member only, silently


@pytest.mark.parametrize("junk", [bytes(512), b"<html>", b"\x1f"])
def test_gunzip_ignores_what_follows_the_last_member(junk):
    assert gunzip(gzip.compress(IMAGE, mtime=0) + junk) == IMAGE


def _flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("reader", [gunzip, parse_fits])
def test_a_file_of_no_bytes_is_called_empty(reader):
    with pytest.raises(SurveyFileError, match=r"^empty file$"):
        reader(b"")


GZ = gzip.compress(IMAGE, mtime=0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_fits"),
        (b"<!DOCTYPE html><title>404</title>", "not_fits"),
        (b"BZh91AY&SY", "not_fits"),
        (GZ[:1], "not_fits"),
        (GZ[:12], "truncated"),
        (GZ[:-1], "truncated"),  # the stream is whole, its trailer is not
        (GZ[: len(GZ) // 2], "truncated"),
        (_flip(GZ, -6), "corrupt"),  # the checksum
        (_flip(GZ, -2), "corrupt"),  # the length
        (_flip(GZ, 2), "corrupt"),  # the method
        (GZ + _flip(GZ, -6), "corrupt"),  # the second member's checksum
        (GZ + GZ[:40], "truncated"),
    ],
)
def test_broken_streams_are_named(data, reason):
    with pytest.raises(SurveyFileError) as caught:
        gunzip(data)
    assert caught.value.reason == reason


def test_gunzip_stops_at_its_limit_even_where_the_trailer_lies():
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 50_000
    lying = bomb[:-4] + (100).to_bytes(4, "little")
    for data in (bomb, lying, gzip.compress(bytes(600)) * 1000):
        with pytest.raises(SurveyFileError, match="more than 500000 bytes") as caught:
            gunzip(data, limit_bytes=500_000)
        assert caught.value.reason == "bad_layout"
    assert len(gunzip(gzip.compress(b"SIMPLE" + bytes(494)), limit_bytes=500)) == 500


def test_gunzipped_text_is_not_fits():
    with pytest.raises(SurveyFileError) as caught:
        parse_fits(gunzip(gzip.compress(b"<html></html>", mtime=0)))
    assert caught.value.reason == "not_fits"


def test_astropy_failures_carry_a_reason():
    for data in (b"", b"no FITS at all", IMAGE[:1000]):
        with pytest.raises(SurveyFileError) as caught:
            parse_fits_astropy(data)
        assert caught.value.reason in ("corrupt", "truncated")


def _column(form, values, **more):
    return fits.BinTableHDU.from_columns([fits.Column("A", form, array=values, **more)])


SUPPORTED = {
    "64-bit integers": [fits.PrimaryHDU(np.array([1, -(2**62)]))],
    "three axes": [fits.PrimaryHDU(np.arange(24, dtype=np.float32).reshape(2, 3, 4))],
    "bytes": [fits.PrimaryHDU(), _column("B", np.arange(5, dtype=np.uint8))],
    "vector with its shape": [
        fits.PrimaryHDU(),
        _column("3E", np.arange(6.0).reshape(2, 3), dim="(3)"),
    ],
    "integers with a null": [fits.PrimaryHDU(), _column("K", np.array([7, 999999]), null=999999)],
    "string over three cards": [fits.PrimaryHDU(header=fits.Header({"X": "it's " + "a&b " * 40}))],
    "string that ends with &": [fits.PrimaryHDU(header=fits.Header({"X": "a&"}))],
}


@pytest.mark.parametrize("what", SUPPORTED)
def test_what_other_surveys_hold_is_read_as_astropy_does(what):
    data = _bytes(*SUPPORTED[what])
    for ours, theirs in zip(parse_fits(data), parse_fits_astropy(data), strict=True):
        assert ours.header == theirs.header
        if isinstance(ours.data, dict):
            np.testing.assert_array_equal(ours.data["A"], theirs.data["A"])
            assert ours.data["A"].dtype == theirs.data["A"].dtype
        elif ours.data is not None:
            np.testing.assert_array_equal(ours.data, theirs.data)


@pytest.mark.parametrize(
    "hdu",
    [
        _column("4E", np.arange(8.0).reshape(2, 2, 2), dim="(2,2)"),
        _column("2E", np.ones((2, 2))),
    ],
    ids=["an array in each row", "a null of floats"],
)
def test_columns_that_are_more_than_vectors_are_refused(hdu):
    data = _bytes(fits.PrimaryHDU(), hdu)
    if b"TDIM1" not in data:
        data = data.replace(b"TFORM1  ", b"TNULL1  = 1".ljust(80) + b"TFORM1  ")[: len(data)]
    with pytest.raises(UnsupportedFITS):
        parse_fits(data)


def test_a_continued_string_whose_next_card_is_damaged_is_refused():
    data = _bytes(fits.PrimaryHDU(header=fits.Header({"X": "b" * 100})))
    at = data.index(b"CONTINUE") + 10
    data = data[:at] + b"bbbb" + data[at + 4 :]
    with pytest.raises(UnsupportedFITS, match="CONTINUE"):
        parse_fits(data)


def test_compressed_images_are_inflated_where_asked_and_only_to_a_limit(monkeypatch):
    image = np.arange(400, dtype=np.int32).reshape(20, 20)
    data = _bytes(fits.PrimaryHDU(), fits.CompImageHDU(image, name="MASK"))
    plain, _ = read_fits(data)
    assert isinstance(plain[1].data, dict)  # the table that it is stored as
    inflated, used_fallback = read_fits(data, decompress=True)
    assert used_fallback
    np.testing.assert_array_equal(inflated[1].data, image)
    monkeypatch.setattr("scalespec.surveys.fits.LIMIT_BYTES", 1000)
    with pytest.raises(SurveyFileError, match="inflates to 1600 bytes") as caught:
        read_fits(data, decompress=True)
    assert caught.value.reason == "bad_layout"
