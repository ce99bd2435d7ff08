"""Spectra at a lower resolution, each from its own: an operator per level of resolution. Å."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.kernels.compiled import compiled
from scalespec.kernels.correlation import noise_correlation, row_means
from scalespec.kernels.lsf import (
    FWHM,
    LEAST_COVERAGE,
    ROUNDING,
    BandOperator,
    degrade_operator,
    prepared,
)

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

LEVEL = 0.01
"""Step of resolving power, in ln: a width is wrong by half a percent of the data's at most, and
that of what comes out by less."""
FINEST = 1e6
"""Resolving power above which it makes no difference."""


@dataclass(frozen=True)
class LevelOperators:
    """From one grid, and any resolving power above it, to another grid of one resolving power.

    Operators are made for the levels that spectra are found to have, and kept.

    Attributes
    ----------
    edges_in, edges_out : (n_in + 1,), (n_out + 1,) float [Å]
        Increasing pixel edges.
    resolving_power : float
        λ/FWHM of what comes out.
    """

    edges_in: FloatArray
    edges_out: FloatArray
    resolving_power: float
    _made: dict[int, BandOperator] = field(default_factory=dict, repr=False, compare=False)

    def apply(
        self, flux: FloatArray, ivar: FloatArray, resolving_power: FloatArray
    ) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Degrade each spectrum from its own resolving power, by the good pixels alone.

        Parameters
        ----------
        flux, ivar : (n_spectrum, n_in) float
            As `lsf.BandOperator.apply` takes them.
        resolving_power : (n_spectrum, n_out) float
            λ/FWHM of the data at the output pixels.

        Returns
        -------
        flux, ivar : (n_spectrum, n_out) dtype of `flux`
            As `lsf.BandOperator.apply`; both 0 where `coarse`.
        coarse : (n_spectrum, n_out) bool
            Where the data resolve no more than what is wanted, or are not known to: what was not
            resolved cannot be sharpened.

        Raises
        ------
        ValueError
            If shapes do not fit the grids.

        Examples
        --------
        >>> edges = np.exp(np.linspace(8.3, 8.32, 101))
        >>> operators = LevelOperators(edges, edges[[40, 50, 60]], 500.0)
        >>> flux, power = np.full((2, 100), 3.0), np.array([[2000.0], [400.0]]) * np.ones(2)
        >>> made, _, coarse = operators.apply(flux, flux**0, power)
        >>> made.round(6).tolist(), coarse.all(axis=1).tolist()
        ([[3.0, 3.0], [0.0, 0.0]], [False, True])
        """
        n_in, n_out = len(self.edges_in) - 1, len(self.edges_out) - 1
        if flux.shape != ivar.shape or flux.shape[1:] != (n_in,):
            raise ValueError(f"want (n, {n_in}) flux and ivar, got {flux.shape} and {ivar.shape}")
        if resolving_power.shape != (len(flux), n_out):
            raise ValueError(f"want R of {(len(flux), n_out)}, got {resolving_power.shape}")
        levels, which, coarse = self._levels(resolving_power)
        first, weights = self._stacked(levels, flux.dtype)
        flux = np.ascontiguousarray(flux)
        made = _apply(flux, np.ascontiguousarray(ivar, flux.dtype), which, first, weights)
        return *made, coarse

    def noise_correlation(self, ivar: FloatArray, resolving_power: FloatArray) -> FloatArray:
        """Return each spectrum's mean of `correlation.noise_correlation` over its good pixels.

        Parameters
        ----------
        ivar : (n_spectrum, n_out) float
            Of `apply`.
        resolving_power : (n_spectrum, n_out) float
            As given to it.

        Returns
        -------
        (n_spectrum, 2) float64
        """
        levels, which, coarse = self._levels(resolving_power)
        made = [
            noise_correlation(self._operator(level), self.edges_out, self.resolving_power)
            for level in levels.tolist()
        ]
        white = np.ones((1, len(self.edges_out) - 1, 2))  # stands for none at all
        stack = np.concatenate([*(one[np.newaxis] for one in made), white])
        return row_means(stack, np.where(coarse, 0, ivar), which % len(stack))

    def _levels(self, resolving_power: FloatArray) -> tuple[IntArray, IntArray, BoolArray]:
        """Return the levels there are, which one each pixel has (-1: none), and `coarse`."""
        # Not "<=": of what is not known nothing can be said.
        coarse = ~(resolving_power > self.resolving_power)
        lowest = int(np.floor(np.log(self.resolving_power) / LEVEL)) + 1
        power = np.minimum(np.where(coarse, FINEST, resolving_power), FINEST)
        wanted = np.maximum(np.rint(np.log(power) / LEVEL).astype(np.int64), lowest)
        used = np.bincount(wanted[~coarse] - lowest) > 0
        levels = lowest + np.flatnonzero(used)
        place = np.append(np.cumsum(used) - 1, -1)  # of each level in the stack; the last of none
        return levels, place[np.where(coarse, len(used), wanted - lowest)], coarse

    def _stacked(self, levels: IntArray, dtype: npt.DTypeLike) -> tuple[IntArray, FloatArray]:
        """Return the bands of some levels as one array, padded to the widest."""
        n_out = len(self.edges_out) - 1
        operators = [self._operator(level) for level in levels.tolist()]
        width = max((one.weights.shape[1] for one in operators), default=1)
        first = np.zeros((len(operators), n_out), np.int64)
        weights = np.zeros((len(operators), n_out, width), dtype)
        n_in = len(self.edges_in) - 1
        for i, one in enumerate(operators):
            own = one.weights.shape[1]
            first[i] = np.minimum(one.first, n_in - width)
            at = (one.first - first[i])[:, np.newaxis] + np.arange(own)
            np.put_along_axis(weights[i], at, one.weights.astype(dtype), axis=1)
        return first, weights

    def _operator(self, level: int) -> BandOperator:
        if level not in self._made:
            self._made[level] = degrade_operator(
                self.edges_in, self.edges_out, np.exp(level * LEVEL), self.resolving_power
            )
        return self._made[level]


def own_resolving_power(
    sigma: FloatArray, nodes: FloatArray, wavelength: FloatArray, nominal: FloatArray
) -> FloatArray:
    """Return each spectrum's λ/FWHM at wavelengths from its line spread at nodes.

    Parameters
    ----------
    sigma : (n_spectrum, n_node) float [Å]
        Of the Gaussian line spread; 0 where it is not known.
    nodes : (n_node,) float [Å]
        Increasing.
    wavelength : (n_pixel,) float [Å]
    nominal : (n_pixel,) float
        λ/FWHM of spectra of which no node is known.

    Returns
    -------
    (n_spectrum, n_pixel) float64
        Linear between the nodes that are known, constant σ beyond them.

    Examples
    --------
    >>> sigma = np.array([[1.0, 2.0], [0.0, 0.0]])
    >>> nodes, at = np.array([4e3, 6e3]), np.array([5e3])
    >>> own_resolving_power(sigma, nodes, at, np.array([1800.0])).round()
    array([[1416.],
           [1800.]])
    """
    made = np.tile(np.asarray(nominal, np.float64), (len(sigma), 1))
    known = np.isfinite(sigma) & (sigma > 0)
    for row in np.flatnonzero(known.any(axis=1)):
        here = known[row]
        width = np.interp(wavelength, nodes[here], sigma[row, here].astype(np.float64))
        made[row] = wavelength / (FWHM * width)
    return made


@compiled
def _apply(
    flux: FloatArray, ivar: FloatArray, level: IntArray, first: IntArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    n, n_out = level.shape
    flux_out, ivar_out = np.zeros((2, n, n_out), flux.dtype)
    zero = flux.dtype.type(0)
    for row in range(n):
        scale, good, light, noise = prepared(flux[row], ivar[row])
        for j in range(n_out):
            if level[row, j] < 0:
                continue
            weight, start = weights[level[row, j], j], first[level[row, j], j]
            stop = start + len(weight)
            coverage, total, variance = zero, zero, zero
            # Sliced, and one sum at a time: only so does the compiler see vectors.
            band = good[start:stop]
            for k in range(len(weight)):
                coverage += weight[k] * band[k]
            band = light[start:stop]
            for k in range(len(weight)):
                total += weight[k] * band[k]
            band = noise[start:stop]
            for k in range(len(weight)):
                variance += weight[k] * weight[k] * band[k]
            if coverage >= LEAST_COVERAGE - ROUNDING and variance > 0:
                flux_out[row, j] = total / coverage
                ivar_out[row, j] = scale * (coverage * coverage / variance)
    return flux_out, ivar_out
