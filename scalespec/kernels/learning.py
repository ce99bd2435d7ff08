"""What a model's error becomes with the number of spectra it learns from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LearningCurve:
    """What a model's error becomes with the number of stars it learns from.

    Attributes
    ----------
    n : (n_size,) int64
        Spectra learned from.
    error : (n_size, n_repeat, n_label) float64
        As the fit measured it on held-out stars.
    """

    n: IntArray
    error: FloatArray

    def slope(self) -> FloatArray:
        """Return d log(error) / d log(n) of each label: -0.5 is noise averaging out, 0 a floor.

        Raises
        ------
        ValueError
            If there are fewer than two sizes.
        """
        if len(self.n) < 2:
            raise ValueError(f"a slope wants two sizes or more, got {self.n.tolist()}")
        x = np.log(self.n)
        y = np.log(self.error.mean(axis=1))
        slope: FloatArray = np.polyfit(x, y, 1)[0]
        return slope


def learning_curve(
    fit: Callable[[IntArray, IntArray], npt.ArrayLike],
    star: npt.ArrayLike,
    *,
    sizes: Sequence[int],
    repeats: int = 3,
    held_out: float = 0.2,
    seed: int = 0,
) -> LearningCurve:
    """Measure a model's error against the number of spectra it learns from.

    Each repeat deals the stars anew to those learned from and those held out; a larger training set
    holds the smaller ones, so that sizes differ by the stars added and by nothing else.

    Parameters
    ----------
    fit : callable
        From rows to learn from and rows held out to the errors of each label, (n_label,): trains
        whatever it likes.
    star : (n,) int
        Star of each row; no star is on both sides.
    sizes : sequence of int
        Numbers of spectra to learn from, ascending.
    repeats : int
        How often stars are dealt.
    held_out : float
        Share of the stars that are never learned from.
    seed : int
        Of the dealing.

    Returns
    -------
    LearningCurve

    Raises
    ------
    ValueError
        If a size is above the number of rows to learn from, or sizes do not ascend.

    Examples
    --------
    A mean of noisy values is known to the root of their number:

    >>> values = np.random.default_rng(0).normal(size=4000)
    >>> curve = learning_curve(
    ...     lambda learned, asked: [abs(values[learned].mean() - values[asked].mean())],
    ...     np.arange(4000), sizes=(10, 100, 1000), repeats=30)
    >>> curve.error.shape, curve.slope().round(1)
    ((3, 30, 1), array([-0.4]))
    """
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 1:
        raise ValueError(f"sizes must ascend from 1 or more, got {list(sizes)}")
    names, back = np.unique(np.asarray(star), return_inverse=True)
    error = []
    for repeat in range(repeats):
        order = np.random.default_rng([seed, repeat]).permutation(len(names))
        place = np.empty(len(names), np.int64)
        place[order] = np.arange(len(names))
        first = max(round(held_out * len(names)), 1)
        rows = np.argsort(place[back], kind="stable")
        asked, learned = np.split(rows, [int(np.sum(place[back] < first))])
        if len(learned) < sizes[-1]:
            raise ValueError(
                f"sizes go to {sizes[-1]}, there are {len(learned)} rows to learn from: of "
                f"{len(rows)}, {len(asked)} are held out"
            )
        error.append([np.asarray(fit(learned[:n], asked), np.float64) for n in sizes])
    return LearningCurve(np.array(sizes, np.int64), np.swapaxes(np.array(error), 0, 1))
