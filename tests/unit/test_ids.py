"""Identifiers: whole numbers exactly, text in one spelling."""

import numpy as np
import pytest

from scalespec.kernels.ids import identifiers, inexact, source_ids, twomass_ids


@pytest.mark.parametrize("kind", ["i2", "i8", "u1", "u8", "f4", "f8", ">i8", ">f8"])
def test_numbers_become_int64(kind):
    ids, known = identifiers(np.array([0, 5, 100], kind))
    assert ids.dtype == np.int64
    assert ids.tolist() == [0, 5, 100]
    assert known.all()


def test_large_integers_stay_exact_and_large_floats_are_refused():
    gaia = 6917528997577384320  # beyond 2**53
    assert identifiers(np.array([gaia]))[0][0] == gaia
    assert identifiers(np.array([2.0**53]))[0][0] == 2**53
    with pytest.raises(ValueError, match=r"6\.9\d*e\+18 is no exact id: .* as 64-bit integers"):
        identifiers(np.array([1.0, float(gaia)]))
    with pytest.raises(ValueError, match="is no exact id"):  # 20,000,001 of float32 is another
        identifiers(np.array([20_000_001], np.float32))
    with pytest.raises(ValueError, match="must fit in int64, got 18446744073709551615"):
        identifiers(np.array([2**64 - 1], np.uint64))


@pytest.mark.parametrize("bad", [0.5, np.inf, -np.inf, 1e300])
def test_floats_that_are_no_whole_number_are_refused(bad):
    with pytest.raises(ValueError, match="no exact id"):
        identifiers(np.array([1.0, bad]))


def test_floats_lose_the_digits_of_numbers_over_what_their_mantissa_holds():
    assert inexact(np.array([2.0**53, 2.0**53 + 2, -(2.0**60), np.nan])).tolist() == [0, 1, 1, 0]
    assert inexact(np.array([2**24, 2**24 + 2], np.float32)).tolist() == [False, True]
    assert not inexact(np.array([2**62 + 1])).any()
    assert not inexact(np.array(["4611686018427387905"])).any()


def test_negative_numbers_and_nan_are_no_ids():
    assert identifiers(np.array([-1, -9999, 3]))[1].tolist() == [False, False, True]
    ids, known = identifiers(np.array([np.nan, 7.0]))
    assert ids.tolist() == [-1, 7]
    assert known.tolist() == [False, True]


@pytest.mark.parametrize(
    "values",
    [
        np.array([" 2M0003 ", "", "   "]),
        np.array([b"2M0003", b"", b"  "]),
        np.array(["2M0003", None, float("nan")], object),
        np.array([b"2M0003 ", None, ""], object),
    ],
    ids=["str", "bytes", "objects", "bytes as objects"],
)
def test_text_is_stripped_and_empty_text_is_no_id(values):
    ids, known = identifiers(values)
    assert ids.tolist() == ["2M0003", "", ""]
    assert known.tolist() == [True, False, False]


@pytest.mark.parametrize("values", [[], np.zeros(0), np.zeros(0, int), np.zeros(0, "U5")])
def test_there_may_be_none(values):
    ids, known = identifiers(values)
    assert ids.size == known.size == 0


@pytest.mark.parametrize("values", [np.array([True]), np.array([3, "x"], object)])
def test_what_is_neither_is_refused(values):
    with pytest.raises(ValueError, match="wanted text, got"):
        identifiers(values)


def test_gaia_ids_of_any_spelling():
    assert source_ids(np.array([5, 0, -9999])).tolist() == [5, -1, -1]
    assert source_ids(np.array([5.0, np.nan])).tolist() == [5, -1]
    text = np.array([b" 2305843009213693953 ", b"", b"-9999"])
    assert source_ids(text).tolist() == [2**61 + 1, -1, -1]
    with pytest.raises(ValueError, match="'Gaia DR3 5' is no Gaia source id"):
        source_ids(["Gaia DR3 5"])


@pytest.mark.parametrize(
    ("written", "one"),
    [
        ("2M00003119+1516179", "00003119+1516179"),
        ("2MASS J00003119+1516179", "00003119+1516179"),
        ("2MASSJ00003119-1516179", "00003119-1516179"),
        ("J00003119+1516179", "00003119+1516179"),
        ("  00003119+1516179 ", "00003119+1516179"),
        ("2m00003119+1516179", "00003119+1516179"),
        ("AP00003119+1516179", ""),  # APOGEE's own name of a star without 2MASS
        ("00003119+151617", ""),  # a digit short
        ("00003119 1516179", ""),
        ("", ""),
    ],
)
def test_2mass_names_have_one_spelling(written, one):
    assert twomass_ids([written]).tolist() == [one]
    assert twomass_ids(np.array([written.encode()])).tolist() == [one]
