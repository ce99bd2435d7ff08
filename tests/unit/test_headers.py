"""Header cards: each file's own values, whatever is remembered of files before it."""

import numpy as np
import pytest
from astropy.io import fits

from scalespec.errors import SurveyFileError
from scalespec.surveys.headers import UnsupportedFITS, find_header, padded, parse_card


def made(*cards: str) -> bytes:
    """Return a header of these cards and END, as a file has it."""
    text = "".join(card.ljust(80) for card in (*cards, "END"))
    return text.ljust(padded(len(text))).encode()


def values(data: bytes, *wanted: str, start: int = 0) -> dict:
    return find_header(data, start)[0].values(wanted or None)


def test_files_of_one_layout_have_values_of_their_own():
    rng = np.random.default_rng(1)
    for obsid, ra in zip(rng.integers(1, 10**9, 500), rng.uniform(0, 360, 500), strict=True):
        data = made(f"OBSID   = {obsid:20d} / id", "COMMENT any", f"RA      = {ra:20.6f} / [deg]")
        found = values(data, "RA", "ABSENT", "OBSID")
        assert found == {"OBSID": int(obsid), "RA": float(f"{ra:.6f}")}


def test_what_is_asked_for_in_another_order_or_twice_is_the_same():
    data = made("A       = 1", "B       = 'x'", "C       = T")
    assert values(data, "C", "A") == values(data, "A", "C", "A") == {"A": 1, "C": True}
    assert values(data) == {"A": 1, "B": "x", "C": True}


def test_a_header_further_on_is_read_from_where_it_begins():
    first, second = made("A       = 1"), made("A       = 2", "B       = 3")
    header, body = find_header(first + second, len(first))
    assert header.values(["A", "B"]) == {"A": 2, "B": 3}
    assert body == len(first) + len(second)


@pytest.mark.parametrize(
    ("cards", "value"),
    [
        (["X       = 'one &'", "CONTINUE  'two &' / why", "CONTINUE  'three'"], "one two three"),
        (["X       = 'one&'", "CONTINUE  'two'", "CONTINUE  'not its'"], "onetwo"),
        (["X       = 'one'", "CONTINUE  'stray'"], "one"),  # nothing says that it goes on
        (["X       = 'one&'", "Y       = 'two'"], "one&"),  # nor that this ends
        (["X       =  7", "CONTINUE  'stray'"], 7),
        (["X       = 'it''s&'", "CONTINUE  '''so'''"], "it's'so'"),
    ],
)
def test_strings_go_on_in_the_cards_that_continue_them(cards, value):
    data = made(*cards, "X       = 'a later one'")
    assert values(data, "X") == {"X": value}


def test_what_was_continued_in_one_file_is_not_in_the_next():
    long = made("X       = 'one&'", "CONTINUE  'two'")
    assert [values(data, "X")["X"] for data in (long, made("X       = 'one&'"), long)] == [
        "onetwo",
        "one&",
        "onetwo",
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("12", "-7 / minus", "+3", "1.5", "-.5", "2.", "1E5", "1.5D-3", "1.E+2", "00012", "4.2/"),
        *("T", "F / false", "''", "' '", "'a''b'", "''''", "'a / b' / c", "'  lead'", ""),
    ],
)
def test_values_are_those_of_astropy(text):
    card = f"X       = {text}".ljust(80)
    theirs = fits.Card.fromstring(card).value
    ours = parse_card(card.encode())
    theirs = None if isinstance(theirs, fits.card.Undefined) else theirs
    assert (ours, type(ours)) == (theirs, type(theirs))


@pytest.mark.parametrize(
    "text",
    [
        *("12 34", "1.2.3", "1E", "1E+", "+", ".", "--1", "1_000", "inf", "nan", "0x10", "TRUE"),
        *("'open", "'a' b", "'a'b'", "'''", "(1, 2)", "12D", "1.5F"),
    ],
)
def test_what_is_no_value_is_left_to_astropy(text):
    with pytest.raises(UnsupportedFITS, match="card"):
        parse_card(f"X       = {text}".ljust(80).encode())


@pytest.mark.parametrize("keyword", ["BSCALE", "BZERO", "BLANK", "HIERARCH", "THEAP"])
def test_cards_that_change_what_numbers_mean_are_refused_wherever_they_are(keyword):
    header, _ = find_header(made("A       = 1", f"{keyword:8s}= 2"), 0)
    with pytest.raises(UnsupportedFITS, match=keyword):
        header.values(["A"])


def test_a_header_must_end_and_be_text():
    with pytest.raises(SurveyFileError, match="no END") as caught:
        find_header(made("A       = 1")[:100], 0)
    assert caught.value.reason == "truncated"
    with pytest.raises(UnsupportedFITS, match="printable"):
        find_header(made("A       = 1").replace(b"= 1", b"=\t1"), 0)
    inside = made("A       = 'END'", "COMMENT   END" + " " * 60)  # not at the head of a card
    assert values(inside, "A") == {"A": "END"}
