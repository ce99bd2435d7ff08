"""Random numbers of an index are the same for whoever asks, and random."""

import numpy as np
import pytest
from galaxy_reference import words
from scipy import stats

from scalespec.kernels.draws import keys, normal, uniform

N = 20_000


@pytest.mark.parametrize("index", [0, 1, 123, 10**7, -5, 2**62])
@pytest.mark.parametrize(("seed", "kind", "attempt"), [(0, 0, 0), (7, 3, 0), (2**64 - 1, 9, 40)])
def test_words_equal_those_of_plain_integers(seed, kind, index, attempt):
    drawn = uniform(keys(seed, kind, np.array([index]), attempt), 9)[0]
    assert drawn.tolist() == words(9, seed, kind, index, attempt)


def test_a_word_does_not_depend_on_how_many_are_asked_for():
    key = keys(1, 2, np.arange(50))
    np.testing.assert_array_equal(uniform(key, 3), uniform(key, 20)[:, :3])


def test_splitmix_is_what_its_authors_say():
    """First outputs from state 1234567, as in public test vectors of SplitMix64."""
    known = np.array([6457827717110365317, 3203168211198807973, 9817491932198370423], np.uint64)
    drawn = uniform(np.array([1234567], np.uint64), 3)[0]
    np.testing.assert_array_equal(drawn, ((known >> np.uint64(11)) + 0.5) * 2.0**-53)


@pytest.mark.parametrize("differs", ["index", "word", "seed", "kind", "attempt"])
def test_numbers_are_even_and_unrelated(differs):
    """Kolmogorov-Smirnov and neighbors' correlation, at 4 sigma."""
    steps = np.arange(N)
    if differs == "index":
        drawn = uniform(keys(1, 2, steps), 1)[:, 0]
    elif differs == "word":
        drawn = uniform(keys(1, 2, np.array([5])), N)[0]
    else:
        args = {"seed": 1, "kind": 2, "attempt": 0}
        drawn = np.array(
            [uniform(keys(index=[5], **(args | {differs: i})), 1)[0, 0] for i in range(1000)]
        )
    assert stats.kstest(drawn, "uniform").pvalue > 6e-5
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 4 / np.sqrt(len(drawn))
    assert 0 < drawn.min() <= drawn.max() < 1


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_numbers_are_refused(numbers):
    seed, kind, attempt = numbers
    with pytest.raises(ValueError, match="want no negative numbers, got seed"):
        keys(seed, kind, [1], attempt)


def test_normal_numbers_are_normal():
    drawn = normal(keys(1, 2, np.arange(N)), 2).ravel()
    assert stats.kstest(drawn, "norm").pvalue > 6e-5
    assert np.all(np.isfinite(drawn))
