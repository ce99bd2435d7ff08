"""Random numbers that belong to an index: word k of star 123 is the same whoever asks for it.

SplitMix64 as a generator that can be entered anywhere: a key is a hash of a seed and some whole
numbers, its words are the generator's outputs from there.

References
----------
Steele, Lea & Flood 2014, OOPSLA, 453 (SplitMix64); constants as in its figure 14.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def keys(seed: int, kind: int, index: npt.ArrayLike, attempt: int = 0) -> Keys:
    """Return a key for each index.

    Parameters
    ----------
    seed, kind, attempt : int
        Not negative: which survey, what the numbers are for, which try.
    index : (n,) int
        Of the stars, fields or whatever else is drawn.

    Returns
    -------
    (n,) uint64

    Raises
    ------
    ValueError
        If seed, kind or attempt is negative: -1 would be 2**64 - 1.

    Examples
    --------
    >>> keys(7, 1, [122, 123])[1] == keys(7, 1, [123])[0]
    np.True_
    """
    if min(seed, kind, attempt) < 0:
        raise ValueError(f"want no negative numbers, got seed {seed}, kind {kind}, try {attempt}")
    key = _mixed(np.array([seed % 2**64], np.uint64) + GOLDEN)
    for word in (np.uint64(kind), np.asarray(index, np.int64).view(np.uint64), np.uint64(attempt)):
        key = _mixed(key ^ _mixed(word + GOLDEN))
    return np.asarray(key, np.uint64)


def uniform(key: Keys, n: int) -> FloatArray:
    """Return the first `n` words of each key as numbers in (0, 1), ends excluded.

    Parameters
    ----------
    key : (n_key,) uint64
    n : int

    Returns
    -------
    (n_key, n) float64

    Examples
    --------
    >>> some = uniform(keys(7, 1, np.array([122, 123])), 3)
    >>> bool(np.all(some[1] == uniform(keys(7, 1, np.array([123])), 3)[0]))
    True
    """
    steps = GOLDEN * np.arange(1, n + 1, dtype=np.uint64)
    words = _mixed(key[:, np.newaxis] + steps)
    return np.asarray(((words >> np.uint64(11)) + 0.5) * 2.0**-53)


def normal(key: Keys, n: int) -> FloatArray:
    """Return the first `n` words of each key as standard normal numbers, (n_key, n)."""
    return np.asarray(ndtri(uniform(key, n)))


def _mixed(word: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # sums and products modulo 2**64 are what is meant
        word = np.atleast_1d(word)
        word = (word ^ (word >> np.uint64(30))) * _A
        word = (word ^ (word >> np.uint64(27))) * _B
        return word ^ (word >> np.uint64(31))
