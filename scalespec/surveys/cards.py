"""What headers say, in our words: numbers, positions, velocities, ids and mask bits."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.schema import C_KMS, MaskBit
from scalespec.surveys.headers import Value

FASTEST_Z = 0.01
"""Beyond the Galaxy's fastest stars: a QSO, a galaxy or a failed fit."""


def number(value: Value) -> float:
    """Return a card's value as a finite float; NaN where it is none.

    Examples
    --------
    >>> number(3), number("3"), number(True), number(None)
    (3.0, nan, nan, nan)
    """
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if usable else math.nan  # type: ignore[arg-type]


def position(ra: Value, dec: Value) -> dict[str, float]:
    """Return ra and dec [deg] of a header; NaN both where they are no place on the sky."""
    east, north = number(ra), number(dec)
    if not (0 <= east <= 360 and -90 <= north <= 90):
        east = north = math.nan
    return {"ra": east % 360, "dec": north}


def velocity(z: Value, z_err: Value) -> dict[str, float]:
    """Return rv and rv_err [km/s] of a redshift; NaN where it is no star's."""
    redshift, error = number(z), number(z_err)
    known = abs(redshift) <= FASTEST_Z
    return {
        "rv": C_KMS * redshift if known else math.nan,
        "rv_err": C_KMS * error if known and 0 < error < FASTEST_Z else math.nan,
    }


def made_id(*parts: Any) -> int:
    """Return the id of a spectrum whose survey gave it none, made from what identifies it.

    It is the SHA-256 of the parts, joined by "-": its top 62 bits with the highest set, so beyond
    all ids that surveys give, and the same wherever the files lie.

    Examples
    --------
    >>> made_id("55859", "F5902", 1, 13) == made_id("55859-F5902-1-13") > 2**61
    True
    """
    digest = hashlib.sha256("-".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2 | 2**61


def survey_bits(
    values: npt.NDArray[np.integer[Any]], meaning: Mapping[int, MaskBit]
) -> npt.NDArray[np.uint32]:
    """Translate a survey's mask into ours.

    Parameters
    ----------
    values : (...) int
        Masks as the survey has them.
    meaning : mapping
        Bit number of theirs -> bit of ours.

    Examples
    --------
    >>> survey_bits(np.array([1, 4, 6]), {1: MaskBit.NO_SKY, 2: MaskBit.NO_DATA}).tolist()
    [0, 8192, 9216]
    """
    bits = np.zeros(values.shape, np.uint32)
    if not values.any():
        return bits
    for bit, ours in meaning.items():
        theirs = values & (np.int64(1) << bit) != 0
        bits[theirs] |= np.uint32(ours)
    return bits
