"""Finding rare kinds of stars: probabilities, thresholds, completeness, purity. Pure arrays.

A purity holds for one prevalence: that of the survey that is searched, never of the training set.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr, ndtri

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]

SURE = 1e-6
"""No probability is closer to 0 or 1 than this: no model is surer of a star."""


def probability_below(label: FloatArray, sigma: FloatArray, threshold: float) -> FloatArray:
    """Return the probability that a label lies below a threshold.

    Parameters
    ----------
    label, sigma : (n,) float
        Estimate and its 1 sigma, taken to be normal.
    threshold : float

    Returns
    -------
    (n,) float64
        NaN where either is unknown.

    Raises
    ------
    ValueError
        If a sigma is negative.

    Examples
    --------
    >>> probability_below(np.array([-2.0, -2.2]), np.array([0.1, 0.1]), -2.0).round(3).tolist()
    [0.5, 0.977]
    """
    sigma = np.asarray(sigma, np.float64)
    if np.any(sigma < 0):
        raise ValueError(f"a sigma must not be negative, got {np.nanmin(sigma):.6g}")
    away = (threshold - np.asarray(label, np.float64)) / np.maximum(sigma, 1e-12)
    below: FloatArray = np.clip(ndtr(away), SURE, 1 - SURE)
    return below


@dataclass(frozen=True)
class Recalibration:
    """Probabilities made honest: ``z(p') = slope * z(p) + offset``, z the normal quantile.

    For normal errors that are stated too small or too large, of stars whose labels are normally
    distributed, it is exact; Platt's is the same with the logistic function for the normal one.

    References
    ----------
    Platt 1999, in Advances in Large Margin Classifiers, MIT Press, 61 (the softened targets, too).
    """

    slope: float
    offset: float

    def __call__(self, probability: FloatArray) -> FloatArray:
        """Return recalibrated probabilities; NaN stays NaN."""
        z = ndtri(np.clip(np.asarray(probability, np.float64), SURE, 1 - SURE))
        made: FloatArray = ndtr(self.slope * z + self.offset)
        return made

    @classmethod
    def fit(cls, probability: FloatArray, truth: BoolArray) -> "Recalibration":
        """Learn it from stars whose kind is known.

        Raises
        ------
        ValueError
            If there is not at least one star of either kind.
        """
        z = ndtri(np.clip(np.asarray(probability, np.float64), SURE, 1 - SURE))
        truth = np.asarray(truth, bool)
        n_yes, n_no = int(truth.sum()), int((~truth).sum())
        if not n_yes or not n_no:
            raise ValueError(f"recalibration wants both kinds of stars, got {n_yes} and {n_no}")
        target = np.where(truth, (n_yes + 1) / (n_yes + 2), 1 / (n_no + 2))

        def loss(theta: FloatArray) -> tuple[float, FloatArray]:
            at = theta[0] * z + theta[1]
            yes, no = log_ndtr(at), log_ndtr(-at)
            density = -0.5 * at**2 - 0.5 * np.log(2 * np.pi)
            slope = -target * np.exp(density - yes) + (1 - target) * np.exp(density - no)
            total = -(target * yes + (1 - target) * no).mean()
            return float(total), np.array([(slope * z).mean(), slope.mean()])

        # A slope above 0: a surer star stays the surer one.
        found = minimize(
            loss, np.array([0.7, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.01, 10), (-10, 10)]
        )
        return cls(float(found.x[0]), float(found.x[1]))


@dataclass(frozen=True)
class Confusion:
    """Stars by what they are and what they were called.

    Examples
    --------
    >>> found = Confusion(tp=2761, fn=265, fp=167, tn=4307)
    >>> round(found.completeness, 4), round(found.fpr, 4), round(found.purity_at(0.002), 3)
    (0.9124, 0.0373, 0.047)
    """

    tp: int
    fn: int
    fp: int
    tn: int

    @property
    def completeness(self) -> float:
        """Part of the wanted stars that was found: TP / (TP + FN)."""
        return self.tp / max(self.tp + self.fn, 1)

    @property
    def fpr(self) -> float:
        """Part of the others that was taken for them: FP / (FP + TN)."""
        return self.fp / max(self.fp + self.tn, 1)

    @property
    def prevalence(self) -> float:
        """Wanted stars among all that were looked at."""
        return (self.tp + self.fn) / max(self.tp + self.fn + self.fp + self.tn, 1)

    def purity_at(self, prevalence: float) -> float:
        """Part of those found that is wanted, where `prevalence` of all stars is."""
        return float(purity(self.completeness, self.fpr, prevalence))

    def intervals(
        self, prevalence: float, *, level: float = 0.68, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Return intervals of completeness, FPR and purity from these counts.

        References
        ----------
        Jeffreys' prior of a binomial: Brown, Cai & DasGupta 2001, Statistical Science 16, 101.
        """
        rng = np.random.default_rng(seed)
        complete = rng.beta(self.tp + 0.5, self.fn + 0.5, 20_000)
        false = rng.beta(self.fp + 0.5, self.tn + 0.5, 20_000)
        drawn = {
            "completeness": complete,
            "fpr": false,
            "purity": purity(complete, false, prevalence),
        }
        ends = [(1 - level) / 2, (1 + level) / 2]
        return {
            name: (float(np.quantile(v, ends[0])), float(np.quantile(v, ends[1])))
            for name, v in drawn.items()
        }


def purity(
    completeness: float | FloatArray, fpr: float | FloatArray, prevalence: float
) -> FloatArray:
    """Return the purity of a sample where `prevalence` of all stars is wanted.

    Raises
    ------
    ValueError
        If the prevalence is not between 0 and 1.

    Examples
    --------
    >>> purity(0.9124, 0.0373, 0.4035).round(3)
    np.float64(0.943)
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence must be between 0 and 1, got {prevalence}")
    right = prevalence * np.asarray(completeness, np.float64)
    wrong = (1 - prevalence) * np.asarray(fpr, np.float64)
    found = right + wrong
    made: FloatArray = np.divide(right, found, out=np.full_like(found, np.nan), where=found > 0)
    return made[()]


def confusion(truth: BoolArray, called: BoolArray) -> Confusion:
    """Count stars by what they are and what they were called.

    Examples
    --------
    >>> confusion(np.array([True, True, False]), np.array([True, False, False]))
    Confusion(tp=1, fn=1, fp=0, tn=1)
    """
    truth, called = np.asarray(truth, bool), np.asarray(called, bool)
    return Confusion(
        int((truth & called).sum()),
        int((truth & ~called).sum()),
        int((~truth & called).sum()),
        int((~truth & ~called).sum()),
    )


@dataclass(frozen=True)
class Curve:
    """What every threshold would give, from the strictest on.

    Attributes
    ----------
    threshold, completeness, fpr, purity : (n,) float64
        Stars with a score at or above the threshold are called wanted.
    """

    threshold: FloatArray
    completeness: FloatArray
    fpr: FloatArray
    purity: FloatArray

    def at_fpr(self, most: float) -> float:
        """Return the lowest threshold whose false-positive rate is not above `most`.

        Examples
        --------
        >>> made = threshold_curve(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 0], bool), 0.1)
        >>> made.at_fpr(0.0), made.at_fpr(0.6)
        (0.9, 0.8)
        """
        allowed = np.flatnonzero(self.fpr <= most)
        return float(self.threshold[allowed[-1]]) if len(allowed) else float("inf")


def threshold_curve(score: FloatArray, truth: BoolArray, prevalence: float) -> Curve:
    """Return completeness, false-positive rate and purity of every threshold.

    Parameters
    ----------
    score : (n,) float
        Higher: surer to be wanted. Stars without a score are called not wanted; if none has one,
        the curve has no points.
    truth : (n,) bool
    prevalence : float
        Of wanted stars in the survey that is searched.

    Raises
    ------
    ValueError
        If there is not at least one star of either kind.

    Examples
    --------
    Two stars are wanted, two are not; in the survey one of a hundred is. From 0.3 down all wanted
    and half of the others are found: 1 of 1 + 99 / 2.

    >>> score, truth = np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False])
    >>> made = threshold_curve(score, truth, 0.01)
    >>> made.completeness, made.fpr, bool(np.isclose(made.purity[2], 1 / 50.5))
    (array([0.5, 0.5, 1. , 1. ]), array([0. , 0.5, 0.5, 1. ]), True)
    """
    score, truth = np.asarray(score, np.float64), np.asarray(truth, bool)
    if not truth.any() or truth.all():
        raise ValueError(f"a curve wants both kinds of stars, got {truth.sum()} of {truth.size}")
    known = np.isfinite(score)
    order = np.argsort(-score[known], kind="stable")
    ranked, wanted = score[known][order], truth[known][order]
    ends = np.append(np.diff(ranked) != 0, True)[: len(ranked)]  # equal scores stand together
    last = np.flatnonzero(ends)
    complete = np.cumsum(wanted)[last] / truth.sum()
    false = np.cumsum(~wanted)[last] / (~truth).sum()
    return Curve(ranked[last], complete, false, purity(complete, false, prevalence))


@dataclass(frozen=True)
class Reliability:
    """How often stars of a stated probability are what they are said to be.

    Attributes
    ----------
    stated, found, low, high : (n_bin,) float64
        Mean probability of a bin, part of its stars that is wanted, and its 68 % interval.
    n : (n_bin,) int64
    """

    stated: FloatArray
    found: FloatArray
    low: FloatArray
    high: FloatArray
    n: npt.NDArray[np.int64]


def reliability(probability: FloatArray, truth: BoolArray, *, n_bin: int = 10) -> Reliability:
    """Return a reliability diagram over bins of equal width; empty bins are left out.

    Raises
    ------
    ValueError
        If a probability is not between 0 and 1.

    Examples
    --------
    >>> made = reliability(np.array([0.05, 0.95, 0.97]), np.array([False, True, True]))
    >>> made.found.tolist(), made.n.tolist()
    ([0.0, 1.0], [1, 2])
    """
    probability, truth = np.asarray(probability, np.float64), np.asarray(truth, bool)
    known = np.isfinite(probability)
    probability, truth = probability[known], truth[known]
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise ValueError(f"probabilities from {probability.min():.4g} to {probability.max():.4g}")
    place = np.minimum((probability * n_bin).astype(np.int64), n_bin - 1)
    n = np.bincount(place, minlength=n_bin)
    some = n > 0
    n = n[some]
    stated = np.bincount(place, probability, n_bin)[some] / n
    yes = np.bincount(place, truth, n_bin)[some]
    rng = np.random.default_rng(0)
    drawn = rng.beta(yes + 0.5, n - yes + 0.5, (4000, len(n)))
    low, high = np.quantile(drawn, [0.16, 0.84], axis=0)
    return Reliability(stated, yes / n, low, high, n.astype(np.int64))


CEMP_RICH, CEMP_MILD = 1.0, 0.7
"""[C/Fe] above which a metal-poor star is carbon-enhanced: Beers & Christlieb 2005, ARA&A 43, 531,
and Aoki et al. 2007, ApJ 655, 492."""


def cemp_subclass(ba_fe: FloatArray, eu_fe: FloatArray) -> npt.NDArray[np.str_]:
    """Return the sub-class of carbon-enhanced stars by barium and europium; "" where unknown.

    Parameters
    ----------
    ba_fe, eu_fe : (n,) float [dex]
        NaN where unknown.

    References
    ----------
    Beers & Christlieb 2005, ARA&A 43, 531, table 2: CEMP-s has [Ba/Fe] > 1 and [Ba/Eu] > 0.5,
    CEMP-r [Eu/Fe] > 1, CEMP-r/s 0 < [Ba/Eu] < 0.5, CEMP-no [Ba/Fe] < 0.

    Examples
    --------
    >>> cemp_subclass(np.array([1.5, 1.2, -0.4, 0.3]), np.array([0.2, 1.0, np.nan, np.nan]))
    array(['s', 'r/s', 'no', ''], dtype='<U3')
    """
    ba_fe, eu_fe = np.asarray(ba_fe, np.float64), np.asarray(eu_fe, np.float64)
    ba_eu = ba_fe - eu_fe
    kind = np.full(ba_fe.shape, "", "U3")
    kind[ba_fe < 0] = "no"
    kind[eu_fe > 1] = "r"
    kind[(ba_eu > 0) & (ba_eu < 0.5) & (ba_fe > 0)] = "r/s"
    kind[(ba_fe > 1) & (ba_eu > 0.5)] = "s"
    return kind
