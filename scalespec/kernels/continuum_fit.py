"""Normalization by polynomials fitted to continuum pixels, chip by chip. Wavelengths in Å."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scalespec.kernels.compiled import compiled
from scalespec.kernels.continuum_robust import running_quantile

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Chips: TypeAlias = Sequence[tuple[int, int]]

RIDGE = 1e-10
"""Part of the largest moment added to the diagonal: what float32 sums have lost."""
ROWS = 64
"""Spectra worked on at a time: their temporaries stay in cache."""
SEGMENTS = 12
"""Continuum pixels are chosen in so many stretches of a chip, the best of each."""


def chebyshev_continuum(
    flux: FloatArray,
    ivar: FloatArray,
    *,
    degree: int,
    chips: Chips,
    pixels: BoolArray | None = None,
) -> tuple[Float32Array, BoolArray]:
    """Fit a Chebyshev polynomial in pixel number to each chip, by ivar, on continuum pixels.

    Parameters
    ----------
    flux, ivar : (n_spectrum, n_pixel) float
        Pixels of ``ivar <= 0``, or where either is not finite, carry no weight.
    degree : int
        Of the polynomials.
    chips : sequence of (start, stop)
        Pixels of each chip or arm, half-open; pixels on none of them have no continuum.
    pixels : (n_pixel,) bool, optional
        Those of the continuum; all, if not given.

    Returns
    -------
    continuum : (n_spectrum, n_pixel) float32
        0 where `bad`.
    bad : (n_spectrum, n_pixel) bool
        Between chips; on chips whose good continuum pixels do not fix the polynomial (fewer than
        ``degree + 1``); and where it is not positive.

    Raises
    ------
    ValueError
        If shapes differ, `degree` is negative, or a chip has no more pixels than `degree`.

    References
    ----------
    Ness et al. 2015, ApJ 808, 16, section 2.3. All moments are of single polynomials, for
    T_a T_b = (T_{a+b} + T_{|a-b|}) / 2.

    Examples
    --------
    >>> flux = np.linspace(1.0, 2.0, 50)[np.newaxis]
    >>> continuum, bad = chebyshev_continuum(flux, flux**0, degree=1, chips=[(0, 40)])
    >>> np.abs(continuum[0, :40] - flux[0, :40]).max() < 1e-5, bad[0, 38:42]
    (np.True_, array([False, False,  True,  True]))
    """
    if flux.shape != ivar.shape or flux.ndim != 2:
        raise ValueError(f"flux {flux.shape} and ivar {ivar.shape} must be alike in (n, n_pixel)")
    if degree < 0:
        raise ValueError(f"a polynomial wants degree >= 0, got {degree}")
    chosen = np.ones(flux.shape[1], np.bool_) if pixels is None else pixels
    continuum = np.zeros(flux.shape, np.float32)
    bad = np.ones(flux.shape, np.bool_)
    for start, stop in chips:
        if not 0 <= start < stop - degree <= flux.shape[1] - degree:
            raise ValueError(f"chip ({start}, {stop}) of {flux.shape[1]} pixels, degree {degree}")
        here = slice(start, stop)
        basis = _chebyshev(stop - start, 2 * degree)
        for first in range(0, len(flux), ROWS):
            rows = slice(first, first + ROWS)
            weights, target = _weighted(flux[rows, here], ivar[rows, here], chosen[here])
            coefficient, fixed = _solved(weights, target, basis, degree)
            fit = coefficient.astype(np.float32) @ basis[:, : degree + 1].T
            _keep(fit, fixed, continuum[rows, here], bad[rows, here])
    return continuum, bad


def marginalized_polynomial(
    flux: FloatArray, ivar: FloatArray, model: FloatArray, *, degree: int
) -> tuple[Float32Array, FloatArray]:
    """Fit each spectrum as its model times a polynomial: what is left of χ² is the model's own.

    Parameters
    ----------
    flux, ivar, model : (n_spectrum, n_pixel) float
        Data, their inverse variances, and one model per spectrum.
    degree : int
        Of the Chebyshev polynomial in pixel number.

    Returns
    -------
    polynomial : (n_spectrum, n_pixel) float32
        Best multiplier of the model, by weighted least squares; 0 where nothing fixes it.
    chi2 : (n_spectrum,) float64
        Of ``flux - polynomial * model``.

    Raises
    ------
    ValueError
        If shapes differ or `degree` is negative.

    References
    ----------
    Koposov et al. 2011, ApJ 736, 146, section 3.1: the continuum as a linear part of the fit.

    Examples
    --------
    >>> model = 1 - 0.5 * (np.arange(60) % 9 == 0)[np.newaxis]
    >>> polynomial, chi2 = marginalized_polynomial(3 * model, model**0, model, degree=2)
    >>> polynomial[0, ::30].round(4), bool(chi2[0] < 1e-6)
    (array([3., 3.], dtype=float32), True)
    """
    if not flux.shape == ivar.shape == model.shape or flux.ndim != 2 or degree < 0:
        shapes = f"{flux.shape}, {ivar.shape}, {model.shape}"
        raise ValueError(f"flux, ivar and model must be alike, degree >= 0; got {shapes}, {degree}")
    basis = _chebyshev(flux.shape[1], 2 * degree)
    relative, good = _relative(ivar), ivar > 0
    data = np.where(good, flux, 0)
    weights = (relative * model**2).astype(np.float32)
    target = (relative * model * data).astype(np.float32)
    coefficient, fixed = _solved(weights, target, basis, degree)
    polynomial = np.where(fixed[:, np.newaxis], coefficient @ basis[:, : degree + 1].T, 0)
    residual = np.where(good, data - polynomial * model, 0)
    chi2: FloatArray = np.sum(ivar * residual**2, axis=1, dtype=np.float64)
    return polynomial.astype(np.float32), chi2


def select_continuum_pixels(
    flux_norm: FloatArray,
    ivar_norm: FloatArray,
    labels: FloatArray,
    *,
    chips: Chips,
    fraction: float = 0.07,
) -> BoolArray:
    """Choose the pixels that tell least of the labels and lie at the continuum.

    A linear model of scaled labels is fitted to each pixel; of every stretch of a chip the pixels
    are taken where the largest slope, and the distance of the mean from 1, are lowest.

    Parameters
    ----------
    flux_norm, ivar_norm : (n_star, n_pixel) float
        Normalized spectra of stars with known labels.
    labels : (n_star, n_label) float
        Finite.
    chips : sequence of (start, stop)
        Pixels of each chip, half-open.
    fraction : float
        Part of the pixels that are chosen; TheCannon takes 5-7 %.

    Returns
    -------
    (n_pixel,) bool

    Raises
    ------
    ValueError
        If there are fewer stars than a linear model wants, or `fraction` is not in (0, 1].

    References
    ----------
    Ness et al. 2015, ApJ 808, 16, section 2.3, with ranks within stretches for their fixed limits:
    limits in units of one survey's labels leave whole stretches of another without a pixel.

    Examples
    --------
    Every fifth pixel has no line, so no label moves it:

    >>> quiet, label = np.arange(240) % 5 == 0, np.linspace(-1, 1, 30)[:, np.newaxis]
    >>> flux = 1 - ~quiet * (0.3 + 0.1 * label)
    >>> chosen = select_continuum_pixels(flux, flux**0, label, chips=[(0, 240)], fraction=0.2)
    >>> np.array_equal(chosen, quiet)
    True
    """
    n_star, n_label = labels.shape
    if n_star <= n_label + 1:
        raise ValueError(f"{n_star} stars cannot fix {n_label + 1} coefficients per pixel")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    mean, slopes = _linear_model(flux_norm, ivar_norm, labels)
    score = np.maximum(np.max(np.abs(slopes), axis=0), np.abs(mean - 1))
    chosen = np.zeros(flux_norm.shape[1], np.bool_)
    for start, stop in chips:
        for part in np.array_split(np.arange(start, stop), SEGMENTS):
            n = max(1, round(fraction * len(part))) if len(part) else 0
            best = part[np.argsort(score[part], kind="stable")[:n]]
            chosen[best[np.isfinite(score[best])]] = True
    return chosen


def find_continuum_pixels(
    flux: FloatArray,
    ivar: FloatArray,
    labels: FloatArray,
    wavelength: FloatArray,
    *,
    chips: Chips,
    degree: int = 2,
    fraction: float = 0.07,
    rounds: int = 5,
) -> BoolArray:
    """Choose continuum pixels and normalize by them in turn, until the choice stands.

    Parameters
    ----------
    flux, ivar : (n_star, n_pixel) float
        Spectra of stars with known labels.
    labels : (n_star, n_label) float
    wavelength : (n_pixel,) float [Å]
    chips, degree, fraction
        As in `chebyshev_continuum` and `select_continuum_pixels`.
    rounds : int
        Most rounds after the first, which starts from the running 90 % quantile within 50 Å.

    Returns
    -------
    (n_pixel,) bool

    Raises
    ------
    ValueError
        As `select_continuum_pixels` and `chebyshev_continuum`.

    References
    ----------
    Ness et al. 2015, ApJ 808, 16, section 2.3.

    Examples
    --------
    Every fifth pixel has no line; the continuum tilts with the label:

    >>> quiet, label = np.arange(240) % 5 == 0, np.linspace(-1, 1, 30)[:, np.newaxis]
    >>> level = 100 + 50 * label * np.linspace(-1, 1, 240)
    >>> flux = level * (1 - ~quiet * (0.3 + 0.1 * label))
    >>> chosen = find_continuum_pixels(flux, level**-2, label, 5000.0 + np.arange(240),
    ...                                chips=[(0, 240)], degree=1, fraction=0.2)
    >>> np.array_equal(chosen, quiet)
    True
    """
    continuum, bad = running_quantile(flux, ivar, wavelength, half_width_angstrom=50.0)
    chosen = np.zeros(flux.shape[1], np.bool_)
    for _ in range(rounds + 1):
        level = np.where(bad, 1, continuum)
        weight = np.where(bad, 0, ivar * level**2)
        flux_norm = np.where(weight > 0, flux / level, 1)
        before = chosen
        chosen = select_continuum_pixels(flux_norm, weight, labels, chips=chips, fraction=fraction)
        if np.array_equal(before, chosen):
            break
        continuum, bad = chebyshev_continuum(flux, ivar, degree=degree, chips=chips, pixels=chosen)
    return chosen


def _linear_model(
    flux: FloatArray, ivar: FloatArray, labels: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return mean flux at the median labels and slopes; infinite where stars do not fix them."""
    low, middle, high = np.percentile(labels, [2.5, 50, 97.5], axis=0)
    scaled = (labels - middle) / np.where(high > low, high - low, 1)
    design = np.concatenate([np.ones((len(labels), 1)), scaled], axis=1)
    normal = np.einsum("sp,sa,sb->pab", _relative(ivar.T).T, design, design, optimize=True)
    right = np.einsum("sp,sa->pa", _relative(ivar.T).T * flux, design, optimize=True)
    fixed = np.linalg.cond(normal) < 1e8
    normal = np.where(fixed[:, None, None], normal, np.eye(normal.shape[-1]))
    solution = np.linalg.solve(normal, right[..., None])[..., 0].T  # (1 + n_label, n_pixel)
    solution = np.where(fixed, solution, np.inf)
    return solution[0], solution[1:]


@compiled
def _weighted(
    flux: FloatArray, ivar: FloatArray, chosen: BoolArray
) -> tuple[Float32Array, Float32Array]:
    """Return ivar on chosen pixels, over each row's largest, and its product with flux."""
    n, n_pixel = flux.shape
    weights = np.zeros((n, n_pixel), np.float32)
    target = np.zeros((n, n_pixel), np.float32)
    for row in range(n):
        top = 0.0
        for i in range(n_pixel):
            top = max(top, ivar[row, i] if ivar[row, i] < np.inf else 0.0)
        scale = 1 / top if top > 0 else 0.0
        for i in range(n_pixel):
            if chosen[i] and 0 < ivar[row, i] < np.inf and np.isfinite(flux[row, i]):
                weights[row, i] = scale * ivar[row, i]
                target[row, i] = weights[row, i] * flux[row, i]
    return weights, target


@compiled
def _keep(fit: Float32Array, fixed: BoolArray, continuum: Float32Array, bad: BoolArray) -> None:
    """Write what is known of the fit into views of the result."""
    for row in range(fit.shape[0]):
        for i in range(fit.shape[1]):
            known = fixed[row] and fit[row, i] > 0
            bad[row, i] = not known
            continuum[row, i] = fit[row, i] if known else np.float32(0)


def _chebyshev(n: int, degree: int) -> Float32Array:
    """Return T_0 ... T_degree at `n` pixels, (n, degree + 1)."""
    x = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
    return np.ascontiguousarray(np.polynomial.chebyshev.chebvander(x, degree), np.float32)


def _relative(ivar: FloatArray) -> Float32Array:
    """Return ivar over each row's largest: ivar itself may leave float32 when summed."""
    top = ivar.max(axis=1, initial=0, keepdims=True)
    scale = 1 / np.where(top > 0, top, 1)
    return np.maximum(ivar * scale, 0).astype(np.float32, copy=False)


def _solved(
    weights: Float32Array, target: Float32Array, basis: Float32Array, degree: int
) -> tuple[FloatArray, BoolArray]:
    """Return Chebyshev coefficients by weighted least squares, and which rows have enough pixels.

    `target` is the weight times what is to be fitted; `basis` goes to twice the degree.
    """
    moment = (weights @ basis).astype(np.float64)  # (n, 2 degree + 1)
    right = (target @ basis[:, : degree + 1]).astype(np.float64)
    a = np.arange(degree + 1)
    normal = (moment[:, np.add.outer(a, a)] + moment[:, np.abs(np.subtract.outer(a, a))]) / 2
    fixed = np.count_nonzero(weights, axis=1) > degree
    normal = np.where(fixed[:, None, None], normal, np.eye(degree + 1))
    top = np.abs(moment[:, :1, np.newaxis])
    normal = normal + RIDGE * np.where(fixed[:, None, None], top, 1) * np.eye(degree + 1)
    coefficient: FloatArray = np.linalg.solve(normal, right[..., np.newaxis])[..., 0]
    return np.where(fixed[:, np.newaxis], coefficient, 0), fixed
