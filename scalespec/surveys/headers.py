"""FITS headers: where their cards lie, and the values of those that are asked for.

Byte layout: FITS Standard 4.0 (2018), sections 3.3 and 4.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

import numpy as np

from scalespec.errors import SurveyFileError

Value = str | bool | int | float | None
Cards = Collection[str] | None

CARD, BLOCK = 80, 2880  # bytes
TEXT = (b"", b"COMMENT", b"HISTORY")
_END = b"END".ljust(CARD)
_CONTINUE = b"CONTINUE"
_REFUSED = frozenset((b"BSCALE  ", b"BZERO   ", b"BLANK   ", b"HIERARCH", b"THEAP   "))
_VALUE = re.compile(
    rb"=  *+(?:'([^']*+(?:''[^']*+)*+)'|([TF])|([+-]?\d++)(?![.ED])"
    rb"|([+-]?(?:\d++\.?\d*+|\.\d++)(?:[ED][+-]?\d++)?))? *+(?:/.*+)?",
    re.DOTALL,
)
_STRING, _LOGICAL, _INTEGER = 1, 2, 3  # groups of _VALUE
_CONTINUED = re.compile(rb"  *+'([^']*+(?:''[^']*+)*+)' *+(?:/.*+)?", re.DOTALL)


class UnsupportedFITS(ValueError):  # noqa: N818 - no error: it only says who must read the file
    """The file may be good FITS, but is not of the subset the strict parser knows."""


class Header(NamedTuple):
    """One header of a file; values are parsed when asked for.

    Attributes
    ----------
    data : bytes
        The file.
    start : int
        Where in it the first card lies.
    keywords : bytes
        Of all cards, 8 bytes each.
    """

    data: bytes
    start: int
    keywords: bytes

    def cards(self, wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
        """Return those of the wanted cards that are there, in their order: names and bytes."""
        names, fields = _fields(self.keywords, wanted)
        return names, fields.unpack_from(self.data, self.start)

    def values(self, wanted: Cards) -> dict[str, Value]:
        """Return the values of the wanted cards that are there, or of every card.

        Raises
        ------
        UnsupportedFITS
            If one has no value that FITS knows.
        """
        names, cards = self.cards(self._all() if wanted is None else tuple(wanted))
        return dict(zip(names, map(parse_card, cards), strict=True))

    def _all(self) -> tuple[str, ...]:
        return tuple(
            keyword.decode().rstrip()
            for keyword, (offset, _) in _places(self.keywords).items()
            if self.data.startswith(b"= ", self.start + offset + 8) and keyword.rstrip() not in TEXT
        )


def find_header(data: bytes, start: int) -> tuple[Header, int]:
    """Return the header that begins at `start`, and where its data begin.

    Raises
    ------
    SurveyFileError
        With reason ``truncated``, if it does not end.
    UnsupportedFITS
        If it is not printable ASCII.
    """
    end = data.find(_END, start)
    while end >= 0 and (end - start) % CARD:
        end = data.find(_END, end + 1)
    if end < 0:
        raise SurveyFileError("the file ends before its header does: no END card", "truncated")
    text = np.frombuffer(data, np.uint8, end - start, start)
    if end > start and not (text.min() >= ord(" ") and text.max() <= ord("~")):
        raise UnsupportedFITS("a header that is not printable ASCII")
    keywords = np.ndarray(((end - start) // CARD,), "S8", data, start, (CARD,)).tobytes()
    return Header(data, start, keywords), start + padded(end + CARD - start)


def padded(n_bytes: int) -> int:
    """Return the bytes that so many take in a file, which comes in blocks."""
    return -(-n_bytes // BLOCK) * BLOCK


@lru_cache(maxsize=256)  # files of one release have their cards in one order
def _places(keywords: bytes) -> dict[bytes, tuple[int, int]]:
    """Return where the first card of each keyword lies, and its bytes with CONTINUE cards."""
    each = [keywords[i : i + 8] for i in range(0, len(keywords), 8)]
    places: dict[bytes, tuple[int, int]] = {}
    following = 0
    for i in reversed(range(len(each))):  # of a repeated keyword the first card counts
        places[each[i]] = CARD * i, CARD * (1 + following)
        following = following + 1 if each[i] == _CONTINUE else 0
    if not _REFUSED.isdisjoint(places):
        raise UnsupportedFITS(f"card {min(_REFUSED.intersection(places))!r}")
    return dict(sorted(places.items(), key=lambda place: place[1]))


@lru_cache(maxsize=256)
def _fields(keywords: bytes, wanted: tuple[str, ...]) -> tuple[tuple[str, ...], Struct]:
    """Return which of the wanted cards are there, and how to cut them out of a header."""
    places, keys = _places(keywords), {card.encode().ljust(8): card for card in wanted}
    layout, end, names = "", 0, []
    for key, (offset, size) in places.items():
        if key in keys:
            layout += f"{offset - end}x{size}s"
            end = offset + size
            names.append(keys[key])
    return tuple(names), Struct(layout)


@lru_cache(maxsize=128)  # what files of one plate have in common; what is a file's own passes by
def parse_card(card: bytes) -> Value:
    """Return the value of a card, with the CONTINUE cards behind it if it has any.

    Raises
    ------
    UnsupportedFITS
        If it has none that FITS knows.
    """
    found = _VALUE.fullmatch(card, 8, CARD)
    if found is None:
        raise UnsupportedFITS(f"card {card[:CARD]!r}")
    if (group := found.lastindex) is None:
        return None
    text: bytes = found[group]
    if group == _STRING:
        if len(card) > CARD:
            text = _long(text, card)
        return text.decode().replace("''", "'").rstrip()
    if group == _LOGICAL:
        return text == b"T"
    return int(text) if group == _INTEGER else float(text.replace(b"D", b"E"))


def _long(text: bytes, card: bytes) -> bytes:
    """Return a string with what the CONTINUE cards after its card add to it."""
    for at in range(CARD, len(card), CARD):
        if not text.endswith(b"&"):
            break
        found = _CONTINUED.fullmatch(card, at + 8, at + CARD)
        if found is None:
            raise UnsupportedFITS(f"card {card[at : at + CARD]!r}")
        text = text[:-1] + found[1]
    return text
