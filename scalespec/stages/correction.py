"""What a calibration does to one label: what is subtracted, and what errors leave out.

A correction is subtracted from the raw label; errors are 1 sigma, in the label's unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from scalespec.kernels.calibration import Trend

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """One label of n stars, or of n pairs of spectra, shape (n,) or (n, 2) throughout.

    Attributes
    ----------
    teff, logg, snr, value, err : float64
        As fitted; NaN: unknown, or not to be trusted.
    """

    teff: FloatArray
    logg: FloatArray
    snr: FloatArray
    value: FloatArray
    err: FloatArray

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """Return some rows."""
        return replace(self, **{name: values[rows] for name, values in vars(self).items()})

    @property
    def known(self) -> BoolArray:
        """(n,) bool: all numbers are there, and errors are positive."""
        good = np.isfinite(self.teff + self.logg + self.snr + self.value) & (self.err > 0)
        good &= np.isfinite(self.err)
        return good if good.ndim == 1 else np.all(good, axis=1)


@dataclass(frozen=True)
class Referred(Measured):
    """Stars beside a reference: its label and error (0: not stated), and who each star is."""

    reference: FloatArray
    reference_err: FloatArray
    star: IntArray


Stars = TypeVar("Stars", bound=Measured)


@dataclass(frozen=True)
class LabelData:
    """All that speaks of one label's errors.

    Attributes
    ----------
    pairs, repeats : Measured
        Two columns: wide pairs; two spectra of one star.
    references : mapping of str to Referred
        The first calibrates, all of them validate.
    clusters : mapping of str to Measured
        Members of each.
    """

    pairs: Measured | None = None
    repeats: Measured | None = None
    references: Mapping[str, Referred] = field(default_factory=dict)
    clusters: Mapping[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One correction in order: where it comes from, its trend, and the classes it is known for.

    A class is known between the temperatures [K] of `reach`; beyond them its end is taken, for a
    spline without stars goes anywhere.
    """

    source: str
    form: str
    trend: Trend
    classes: tuple[int, ...]
    reach: tuple[tuple[float, float], ...]
    n: int

    def at(self, teff: FloatArray, kind: IntArray) -> FloatArray:
        """Return the correction; 0 for a class without a trend."""
        made = np.where(np.isnan(teff), np.nan, 0.0)
        for one, (low, high) in zip(self.classes, self.reach, strict=True):
            if one < len(self.trend.coefficients):  # a resample may have no star of the last one
                there = kind == one
                made[there] = self.trend(np.clip(teff[there], low, high), kind[there])
        return made

    def beyond(self, teff: FloatArray, kind: IntArray) -> BoolArray:
        """(n,) bool: the class is known, but not at this temperature; a flat step is everywhere."""
        found = np.zeros(teff.shape, bool)
        for one, (low, high) in zip(self.classes, self.reach, strict=True):
            found |= (kind == one) & ((teff < low) | (teff > high))
        return found & (self.form == "trend")


@dataclass(frozen=True)
class Correction:
    """What is done to one label.

    Attributes
    ----------
    label : str
    logg_edges, snr_edges, teff : tuple or (n_grid,)
        Edges of classes and bins, and the temperatures [K] of `error`.
    steps : tuple of Step
        In the order in which they are subtracted.
    error : (n_class, n_grid) float64
        Of the correction, by bootstrap; NaN for a class without one.
    floor : (n_bin,) float64
        Added in quadrature to errors, by S/N.
    record : mapping
        What a page says of it: scatters before and after, floors as measured, points to draw.
    """

    label: str
    logg_edges: tuple[float, ...]
    snr_edges: tuple[float, ...]
    teff: FloatArray
    steps: tuple[Step, ...]
    error: FloatArray
    floor: FloatArray
    record: Mapping[str, Any] = field(default_factory=dict)

    def kind(self, logg: FloatArray) -> IntArray:
        """Return the luminosity class of stars."""
        return luminosity_class(logg, self.logg_edges)

    def __call__(self, teff: FloatArray, logg: FloatArray) -> FloatArray:
        """Return what to subtract; NaN where Teff is unknown."""
        kind = self.kind(logg)
        total = np.where(np.isnan(teff), np.nan, 0.0)
        for step in self.steps:
            total += step.at(teff, kind)
        return total

    def calibrated(self, stars: Measured) -> tuple[FloatArray, FloatArray]:
        """Return the label and its error with correction and floors."""
        kind = self.kind(stars.logg)
        error = np.zeros(len(stars.teff))
        for one in np.unique(kind):
            rows = kind == one
            found = np.interp(stars.teff[rows], self.teff, np.nan_to_num(self.error[one]))
            error[rows] = found
        floor = self.floor[snr_bin(stars.snr, self.snr_edges)]
        value = stars.value - self(stars.teff, stars.logg)
        return value, np.where(np.isnan(value), np.nan, np.sqrt(stars.err**2 + error**2 + floor**2))

    def outside(self, teff: FloatArray, logg: FloatArray) -> BoolArray:
        """(n,) bool: temperature beyond where the correction was learned for such stars."""
        found = np.asarray((teff < self.teff[0]) | (teff > self.teff[-1]))
        for step in self.steps:
            found = found | step.beyond(teff, self.kind(logg))
        return found

    def without(self, logg: FloatArray) -> BoolArray:
        """(n,) bool: the star's luminosity class has no correction."""
        known = {one for step in self.steps for one in step.classes}
        return ~np.isin(self.kind(logg), sorted(known))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; NaN as null."""
        return {
            "label": self.label,
            "logg_edges": list(self.logg_edges),
            "snr_edges": list(self.snr_edges),
            "teff": self.teff.tolist(),
            "steps": [vars(s) | {"trend": s.trend.to_dict()} for s in self.steps],
            "error": nulls(self.error),
            "floor": self.floor.tolist(),
            "record": dict(self.record),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the correction that `to_dict` wrote."""
        steps = [
            Step(
                source=s["source"],
                form=s["form"],
                trend=Trend.from_dict(s["trend"]),
                classes=tuple(s["classes"]),
                reach=tuple((low, high) for low, high in s["reach"]),
                n=s["n"],
            )
            for s in plain["steps"]
        ]
        return cls(
            label=plain["label"],
            logg_edges=tuple(plain["logg_edges"]),
            snr_edges=tuple(plain["snr_edges"]),
            teff=np.array(plain["teff"], float),
            steps=tuple(steps),
            error=np.array(plain["error"], float),
            floor=np.array(plain["floor"], float),
            record=plain["record"],
        )


def nulls(values: npt.NDArray[np.floating[Any]]) -> list[Any]:
    """Return nested lists with None for NaN, which JSON does not have.

    Examples
    --------
    >>> nulls(np.array([1.0, np.nan]))
    [1.0, None]
    """
    plain = values.astype(object)
    plain[np.isnan(values)] = None
    return list(plain.tolist())


def luminosity_class(logg: npt.ArrayLike, edges: tuple[float, ...]) -> IntArray:
    """Return the number of edges above each log g: 0 are dwarfs.

    Examples
    --------
    >>> luminosity_class([4.4, 2.0], (3.5,))
    array([0, 1])
    """
    above = np.asarray(edges)[:, None] > np.ravel(np.asarray(logg, float))[None, :]
    return np.asarray(above.sum(axis=0), np.int64).reshape(np.shape(logg))


def snr_bin(snr: npt.ArrayLike, edges: tuple[float, ...]) -> IntArray:
    """Return the bin of each S/N: `edges` are their lower ends; what is below all is in the first.

    Examples
    --------
    >>> snr_bin([5.0, 40.0, 1e4], (0.0, 30.0, 100.0))
    array([0, 1, 2])
    """
    place = np.searchsorted(edges, np.asarray(snr, float), side="right") - 1
    return np.asarray(np.clip(place, 0, len(edges) - 1), np.int64)
