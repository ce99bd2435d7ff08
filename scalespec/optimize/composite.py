"""Is it one star or two: a composite model is accepted when it lowers chi2 by more than chance.

Labels are physical (K, dex, km/s), velocities km/s.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from scalespec.optimize.constraints import Constraints, box
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.inputs import excess_variances
from scalespec.optimize.normalization import Smoother, as_rows
from scalespec.optimize.objective import ArrayLike, Emulator, Objective
from scalespec.optimize.result import FitResult, FitStatus

BEYOND = 0.01
"""By so much of their range labels may leave a composite model's limits unflagged."""

Starts = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""(n, K) labels of the single fit -> (n, C, K') first labels of the composite one."""

Estimate = Callable[[NDArray[np.float64], NDArray[np.float32]], NDArray[np.floating]]
"""(n, P) flux and ivar -> (n, K) or (n, C, K) first labels of the single fit."""


@dataclass(frozen=True)
class CompositeResult:
    """Both fits of ``n`` stars and the choice between them.

    Attributes
    ----------
    single, composite : FitResult
        Of the same pixels.
    gain : (n,) float64
        Chi2 of the single fit less that of the composite one, as of pixels that share no noise:
        over the labels' `noise_correlation`; 0 where either is missing.
    accepted : (n,) bool
        The gain is above the threshold.
    """

    single: FitResult
    composite: FitResult
    gain: NDArray[np.float64]
    accepted: NDArray[np.bool_]


def fit_composite(
    models: tuple[Emulator, Emulator],
    flux: ArrayLike,
    ivar: ArrayLike,
    *,
    single: FitResult,
    starts: Starts,
    threshold: float,
    smoothing: Smoother | None = None,
    options: FitOptions | None = None,
    noise_correlation: ArrayLike | float = 1.0,
) -> CompositeResult:
    """Fit the composite model to stars with single fits, from several starts each.

    Then the single model is fitted again, from where both fits ended, on the same pixels: a single
    fit that had stopped at a lesser optimum is no sign of a companion.

    Parameters
    ----------
    models : (Emulator, Emulator)
        The single model, and the composite one on the same pixels, whose labels are those of the
        single one and more. If that has a method ``limits``, (n, K') labels -> lowest and highest
        (n, K') labels, the fits keep to those of the single stars; a fit that ends beyond its own
        is flagged OUT_OF_DOMAIN.
    flux, ivar, smoothing, options
        As given to `fit_labels` for the single fits; both models are fitted so.
    single : FitResult
        Those fits: from their labels and velocities both begin, without constraints of theirs.
    starts : callable
        Where the composite fit begins; posteriors in q have two peaks, so give several.
    threshold : float
        Least gain of chi2: see `gain_threshold`.
    noise_correlation : float, (n,) or (n, 2) float
        As given to `fit_labels`. Where pixels share noise, chance gains so much more chi2, and the
        threshold is one of white noise: the gain is divided by the labels' part.

    Returns
    -------
    CompositeResult

    Raises
    ------
    ValueError
        If `single` is of other stars, the composite model lacks a label of the single one, shapes,
        starts or smoothing do not fit the models, or `noise_correlation` is not positive.

    References
    ----------
    El-Badry et al. 2018, MNRAS 476, 528, section 3.

    Examples
    --------
    A second line, 0.2 deep, that one star of two has costs the model of one line as much chi2 as
    the squares of its depth over the noise add up to:

    >>> from types import SimpleNamespace
    >>> def model_of(centers):
    ...     n, away = len(centers), torch.arange(90.0) - torch.tensor(centers)[:, None]
    ...     shape = torch.exp(-0.5 * (away / 2) ** 2)
    ...     spec = SimpleNamespace(labels=("one", "two")[:n], minimum=[0.0] * n, maximum=[1.0] * n,
    ...                            wavelength=10 ** (3.7 + 1e-4 * np.arange(90)))
    ...     return SimpleNamespace(spec=spec, scatter=torch.zeros(90),
    ...         forward_scaled=lambda x: 1 - (x + 0.5) @ shape,
    ...         flux_and_jacobian=lambda x: (1 - (x + 0.5) @ shape, -shape.expand(len(x), n, 90)))
    >>> models = model_of([30]), model_of([30, 60])
    >>> flux = models[1].forward_scaled(torch.tensor([[-0.2, -0.5], [-0.2, -0.3]]))
    >>> ivar = torch.full((2, 90), 1e4)
    >>> found = fit_composite(models, flux, ivar, single=fit_labels(models[0], flux, ivar),
    ...                       starts=lambda x: np.stack([x, x], axis=2), threshold=30.0)
    >>> bool(abs(found.gain[1] - ((1 - flux[1, 45:]) ** 2).sum() * 1e4) < 1), found.accepted
    (True, array([False,  True]))
    >>> found.composite.labels.round(3)
    array([[0.3, 0. ],
           [0.3, 0.2]], dtype=float32)
    """
    if len(single) != len(flux):
        raise ValueError(f"fits of {len(single)} stars, but spectra of {len(flux)}")
    names, more = (model.spec.labels for model in models)
    if lacking := [name for name in names if name not in more]:
        raise ValueError(f"the composite model lacks labels of the single one: {lacking}")
    shared = np.stack(excess_variances(noise_correlation, len(single)), axis=1)
    both = single.fitted
    first = starts(single.labels[both])
    fit = partial(
        fit_labels,
        flux=flux[both],
        ivar=ivar[both],
        rv_start=single.rv[both],  # it says which pixels at the edges count
        smoothing=smoothing,
        options=options,
        noise_correlation=shared[both],
    )
    limits = getattr(models[1], "limits", None)
    constraints = Constraints()
    if limits is not None:
        low, high = limits(first[:, 0])
        constraints = Constraints(low=low, high=high)
    pair = fit(models[1], start=first, constraints=constraints)
    if limits is not None:
        low, high = limits(pair.labels)
        slack = BEYOND * box(models[1])[1]
        beyond = (pair.labels < low - slack) | (pair.labels > high + slack)
        pair.raise_flag(FitStatus.OUT_OF_DOMAIN, pair.fitted & beyond.any(axis=1))
    primary = pair.labels[:, [more.index(name) for name in names]]
    one = fit(models[0], start=np.stack([single.labels[both], primary], axis=1))
    single, composite = (_placed(part, both, single.status) for part in (one, pair))
    with np.errstate(invalid="ignore"):
        gain = np.nan_to_num(single.chi2.astype(np.float64) - composite.chi2) / shared[:, 0]
    return CompositeResult(single, composite, gain, gain > threshold)


def _placed(part: FitResult, rows: NDArray[np.bool_], status: NDArray[np.uint32]) -> FitResult:
    """Return fits of the chosen rows of many, all others without a fit and of their `status`."""
    result = FitResult.empty(len(status), part.labels.shape[1], n_width=part.widths.shape[1])
    result.status[:] = status
    for name, values in vars(part).items():
        getattr(result, name)[rows] = values
    return result


def gain_threshold(
    models: tuple[Emulator, Emulator],
    ivar: ArrayLike,
    labels: NDArray[np.floating],
    *,
    start: Estimate,
    starts: Starts,
    rate: float,
    seed: int = 0,
    smoothing: Smoother | None = None,
    options: FitOptions | None = None,
) -> float:
    """Measure the gain of chi2 that single stars exceed with probability `rate`, by chance.

    Mocks are fitted as stars are: searches that go astray gain from a companion that is not there,
    so a threshold of mocks that begin at the truth would let too many through.

    Parameters
    ----------
    models, starts, smoothing, options
        As of `fit_composite`.
    ivar : (n, P) float
        White noise of the mocks; that of the single model, its scatter, is added.
    labels : (n, K) float
        Their labels: single stars of the kind that will be asked.
    start : callable
        Where the stars' single fits begin, as `RidgeStart.apply` says it of their flux and ivar.
    rate : float
        False positives allowed, 0 < rate < 1.
    seed : int
        Of the noise.

    Returns
    -------
    float
        The (1 - rate) quantile of the gains, never under 0.

    Raises
    ------
    ValueError
        If there are fewer than 1 / rate mocks: the quantile would be made up.

    Examples
    --------
    A second line that is not there gains the square of a normal number: above 1 at a rate of 0.317.

    >>> from types import SimpleNamespace
    >>> def model_of(*centers):
    ...     n, away = len(centers), torch.arange(90.0) - torch.tensor(centers)[:, None]
    ...     shape = torch.exp(-0.5 * (away / 2) ** 2)
    ...     spec = SimpleNamespace(labels=("one", "two")[:n], minimum=[-1.0] * n, maximum=[1.0] * n,
    ...                            wavelength=10 ** (3.7 + 1e-4 * np.arange(90)))
    ...     return SimpleNamespace(spec=spec, scatter=torch.zeros(90),
    ...         forward_scaled=lambda x: 1 - 2 * x @ shape,
    ...         flux_and_jacobian=lambda x: (1 - 2 * x @ shape, -2 * shape.expand(len(x), n, 90)))
    >>> found = gain_threshold(
    ...     (model_of(30), model_of(30, 60)), np.full((400, 90), 1e4), np.full((400, 1), 0.5),
    ...     start=lambda flux, ivar: 1 - flux[:, [30]], rate=0.317,
    ...     starts=lambda x: np.stack([x, 0 * x], axis=2))
    >>> bool(abs(found - 1) < 0.3)
    True
    """
    n = len(labels)
    if not 0 < rate < 1 or n * rate < 1:
        raise ValueError(
            f"a rate of {rate:.3g} wants at least {1 / max(rate, 1e-9):.0f} mocks, got {n}"
        )
    model, options = models[0], options or FitOptions()
    low = np.asarray(model.spec.minimum)
    scaled = (labels - low) / (np.asarray(model.spec.maximum) - low) - 0.5
    with torch.no_grad():
        x, noise = as_rows(scaled, model.scatter), as_rows(ivar, model.scatter)
        objective = Objective.of(
            model,
            torch.ones_like(noise),
            noise,
            rv_start=torch.zeros_like(x[:, 0]),
            rv_range=0.0,
            smoother=smoothing,
        )
        clean = objective.predict(torch.nn.functional.pad(x, (0, 1))).cpu().numpy()
    weights, scatter = noise.cpu().numpy(), model.scatter.cpu().numpy()
    there = weights > 0
    sigma = np.where(there, np.sqrt(1 / np.where(there, weights, 1) + scatter**2), 0)
    flux = clean + sigma * np.random.default_rng(seed).standard_normal(clean.shape)
    first = start(flux, weights)
    single = fit_labels(model, flux, weights, start=first, smoothing=smoothing, options=options)
    found = fit_composite(
        models, flux, weights, single=single, starts=starts, threshold=np.inf,
        smoothing=smoothing, options=replace(options),
    )  # fmt: skip
    return max(0.0, float(np.quantile(found.gain, 1 - rate)))
