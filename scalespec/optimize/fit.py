"""The fit of many stars: labels, velocity and what else is free, with covariance and flags.

Labels are physical at the border (K, dex, km/s) and scaled to [-0.5, 0.5] inside, as are velocity
and line widths.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.constraints import Constraints, Given, box
from scalespec.optimize.domain import Domain
from scalespec.optimize.inputs import check_shapes, excess_variances, n_starts, plain
from scalespec.optimize.levenberg import Search, SearchOptions
from scalespec.optimize.normalization import FreePolynomial, Smoother, as_rows
from scalespec.optimize.objective import ArrayLike, Emulator, Objective
from scalespec.optimize.optima import best_of
from scalespec.optimize.pixels import finite_rows
from scalespec.optimize.result import FitResult, FitStatus
from scalespec.optimize.secant import over_errors
from scalespec.optimize.shift import Broadening
from scalespec.optimize.trust import fill
from scalespec.optimize.winding import Terrain

_SNR_PIXELS = 512  # that a median is taken of: a full sort costs as much as a step
_ROBUST_PASSES = 2
_RESTARTS = 6  # of models whose searches go astray


@dataclass(frozen=True)
class FitOptions:
    """How a fit runs and what it flags.

    Attributes
    ----------
    max_steps : int
        Most steps per star and start.
    tolerance : float
        A star is done when the next step promises to lower chi2 by less; 0.01 is a tenth of a
        sigma squared, and that step is still taken.
    rv_range : float [km/s]
        How far the velocity may move from its start; 0 holds it there.
    stars_per_batch : int
        Stars fitted together: about 3 x stars x P floats of memory.
    restarts : int, optional
        Most searches begun again; if not given, 6 for models with kinks (LeakyReLU) of whose mocks
        3 % end at a lesser optimum, none for others. They begin three sigma from the best end so
        far, until two in a row find the same; every second one all along a label on which
        optima lie behind each other, if mocks tell of one. Another optimum of nearly the same chi2
        is flagged, and its distance is in the covariance, which is of secants over an error, where
        the last layer is linear, not of derivatives (`optimize/secant.py`).
    exact_covariance : bool
        Covariances from every pixel's derivatives, also where wavelength blocks would do.
    polynomial : int or None
        Degree of a continuum polynomial that is marginalized.
    broadening : Broadening
        Line widths that are fitted: vsini, the LSF.
    robust : float or None
        A second pass gives pixels more than so many sigma off less weight, as Huber does.
    snr_min : float
        Median signal-to-noise per pixel under which a fit is flagged LOW_SNR.
    reduced_chi2_max : float
        Chi2 per degree of freedom over which a fit is flagged POOR_FIT.
    pixels_min : float
        Part of the model's pixels under which a fit is flagged FEW_PIXELS.
    distance_max : float
        Sigmas of chi2 that bounds cost over which a fit is flagged OUT_OF_DOMAIN; so is one farther
        from the labels that the model learned from than any of them.
    """

    max_steps: int = 50
    tolerance: float = 0.01
    rv_range: float = 150.0
    stars_per_batch: int = 1024
    restarts: int | None = None
    exact_covariance: bool = False
    polynomial: int | None = None
    broadening: Broadening = field(default_factory=Broadening)
    robust: float | None = None
    snr_min: float = 5.0
    reduced_chi2_max: float = 5.0
    pixels_min: float = 0.25
    distance_max: float = 10.0


def fit_labels(
    model: Emulator,
    flux: ArrayLike,
    ivar: ArrayLike,
    *,
    start: ArrayLike | None = None,
    rv_start: ArrayLike | None = None,
    smoothing: Smoother | None = None,
    options: FitOptions | None = None,
    constraints: Constraints | None = None,
    noise_correlation: ArrayLike | float = 1.0,
) -> FitResult:
    """Find the labels and velocity of least chi2 for each spectrum.

    chi2 = sum over pixels of (flux - F)^2 ivar / (1 + ivar scatter^2), F the model's flux shifted
    by the velocity and, with `smoothing`, divided by its own masked smoothing as the data were.

    Parameters
    ----------
    model : Emulator
        Its ``scatter`` says on which device and in which precision the fit runs.
    flux, ivar : (n, P) float
        Spectra on the model's wavelengths; ``ivar`` 0 means no information.
    start : (n, K) or (n, C, K) float, optional
        First labels, physical, C sets of them per star to begin from; where NaN or not given, the
        middle of the box. The best end of all is kept.
    rv_start : (n,) float [km/s], optional
        First velocities; where NaN or not given, 0.
    smoothing : Smoother, optional
        The data's normalization, when the model's is the true continuum.
    options : FitOptions, optional
        Steps, tolerance, velocity range, nuisance parameters, limits of the flags.
    constraints : Constraints, optional
        Priors, bounds, fixed and tied labels, the model's domain.
    noise_correlation : float, (n,) or (n, 2) float
        By what the variances of labels, and of the velocity, exceed those of white noise, where
        pixels share noise because they were made of others: `kernels.correlation` makes it,
        spectra that scalespec has regridded have it. The spectrum says so much less; its chi2 is
        that of its pixels.

    Returns
    -------
    FitResult
        One row per spectrum. A star that cannot be fitted has a row whose status says why.

    Raises
    ------
    ValueError
        If shapes, smoothing or constraints do not fit the model, or it has more than 64 labels.

    References
    ----------
    Marquardt 1963, J. SIAM 11, 431 (damping by the diagonal); Hintermüller, Ito & Kunisch 2002,
    SIAM J. Optim. 13, 865 (primal-dual active set for the bounds).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(labels=("depth",), minimum=np.array([0.0]), maximum=np.array([1.0]),
    ...                        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)))
    >>> line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2)
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(60),
    ...     forward_scaled=lambda x: 1 - (x + 0.5) * line,
    ...     flux_and_jacobian=lambda x: (1 - (x + 0.5) * line, -line.expand(len(x), 1, 60)))
    >>> fit = fit_labels(model, 1 - 0.3 * line[None], torch.full((1, 60), 1e4))
    >>> fit.labels.round(3), fit.label_err.round(3), fit.status
    (array([[0.3]], dtype=float32), array([[0.005]], dtype=float32), array([0], dtype=uint32))
    """
    fitter = Fitter.of(model, smoothing=smoothing, options=options)
    return fitter.fit(
        flux,
        ivar,
        start=start,
        rv_start=rv_start,
        constraints=constraints,
        noise_correlation=noise_correlation,
    )


@dataclass(frozen=True)
class Fitter:
    """A model, how it is fitted, and what all of its fits share: made once, used for any stars.

    Attributes
    ----------
    model : Emulator
        Must not change any more.
    smoothing : Smoother or None
    options : FitOptions
    search : Search
        With the model's Gram matrices by wavelength, half a second's work for 25 labels.
    along : int or None
        The label along which the model has many optima, where every second search begins again.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(labels=("depth",), minimum=np.array([0.0]), maximum=np.array([1.0]),
    ...                        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)))
    >>> line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2)
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(60),
    ...     forward_scaled=lambda x: 1 - (x + 0.5) * line,
    ...     flux_and_jacobian=lambda x: (1 - (x + 0.5) * line, -line.expand(len(x), 1, 60)))
    >>> fitter = Fitter.of(model, options=FitOptions(rv_range=5.0))
    >>> for depth in (0.3, 0.6):  # blocks of a run
    ...     print(fitter.fit(1 - depth * line[None], torch.full((1, 60), 1e4)).labels.round(3))
    [[0.3]]
    [[0.6]]
    """

    model: Emulator
    smoothing: Smoother | None
    options: FitOptions
    search: Search
    along: int | None = None

    @classmethod
    def of(
        cls,
        model: Emulator,
        *,
        smoothing: Smoother | None = None,
        options: FitOptions | None = None,
    ) -> Self:
        """Prepare fits; the parameters are those of `fit_labels`.

        Raises
        ------
        ValueError
            If the smoothing does not fit the model, or it has more than 64 labels.
        """
        asked, n_pixel = options or FitOptions(), len(model.spec.wavelength)
        if smoothing is not None and smoothing.n_pixel != n_pixel:
            raise ValueError(f"smoothing has {smoothing.n_pixel} pixels, the model {n_pixel}")
        if len(model.spec.labels) > 64:
            raise ValueError(
                f"a fit has at most 64 labels (bits of at_bound), got {len(model.spec.labels)}"
            )
        limits = SearchOptions(asked.max_steps, asked.tolerance, asked.exact_covariance)
        with torch.no_grad():

            def observe(flux: Tensor, ivar: Tensor) -> Objective:
                rest = flux[:, 0] * 0
                return _prepared(model, flux, ivar, rest, smoothing=smoothing, options=asked)[0]

            one = torch.ones((1, n_pixel)).to(model.scatter)
            search = Search.of(observe(one, one), limits)
            undecided, terrain = asked.restarts is None, Terrain(0.0, None)
            if asked.restarts or (undecided and getattr(model, "kinks", False)):
                terrain = Terrain.of(search, observe, model.scatter)
        restarts = _RESTARTS * terrain.several if undecided else asked.restarts
        return cls(model, smoothing, replace(asked, restarts=restarts), search, terrain.along)

    def fit(
        self,
        flux: ArrayLike,
        ivar: ArrayLike,
        *,
        start: ArrayLike | None = None,
        rv_start: ArrayLike | None = None,
        constraints: Constraints | None = None,
        noise_correlation: ArrayLike | float = 1.0,
    ) -> FitResult:
        """Fit spectra as `fit_labels` does.

        Raises
        ------
        ValueError
            If shapes or constraints do not fit the model, or `noise_correlation` is not positive.
        """
        model, options, constraints = self.model, self.options, constraints or Constraints()
        n, n_label = len(flux), len(model.spec.labels)
        check_shapes(model, flux, ivar, start, rv_start)
        starts = None if start is None else plain(start).reshape(n, n_starts(start), n_label)
        low, width = box(model)
        first = np.full((n, 1, n_label), np.nan) if starts is None else (starts - low) / width - 0.5
        first = np.nan_to_num(first, nan=0.0).clip(-0.5, 0.5)
        rv = np.zeros(n) if rv_start is None else np.nan_to_num(plain(rv_start))
        given = Given.of(model, constraints, n)
        excess, of_rv = excess_variances(noise_correlation, n)
        parts = [FitResult.empty(0, n_label, n_width=len(options.broadening.ranges))]
        with torch.no_grad():
            for begin in range(0, n, options.stars_per_batch):
                rows = slice(begin, begin + options.stars_per_batch)
                batch = (as_rows(values[rows], model.scatter) for values in (flux, ivar, rv))
                objective, result = _prepared(
                    model, *batch, smoothing=self.smoothing, options=options
                )
                share = as_rows(1 / excess[rows], model.scatter)[:, None]
                objective.weight.mul_(share)
                how = self.search, options, self.along
                _fit_batch(how, objective, result, first[rows], (given, rows, share))
                parts.append(result)
        result = FitResult.concatenate(parts)
        result.chi2[:] *= excess
        result.rv_err[:] *= np.sqrt(of_rv / excess)
        limits = {name: getattr(options, name) for name in ("reduced_chi2_max", "pixels_min")}
        result.flag_doubts(**limits, n_pixel=len(model.spec.wavelength))
        result.flag_unlike(Domain.of_model(model), distance_max=options.distance_max)
        return result


def _prepared(
    model: Emulator,
    flux: Tensor,
    ivar: Tensor,
    rv: Tensor,
    *,
    smoothing: Smoother | None,
    options: FitOptions,
) -> tuple[Objective, FitResult]:
    """Return a batch's objective, and its rows with the flags that the data alone decide."""
    broadening = options.broadening if options.broadening.ranges else None
    objective = Objective.of(
        model,
        flux,
        ivar,
        rv_start=rv,
        rv_range=options.rv_range,
        smoother=smoothing,
        broadening=broadening,
    )
    if options.polynomial is not None:
        if smoothing is not None:
            raise ValueError("a fit takes either smoothing or a continuum polynomial, not both")
        polynomial = FreePolynomial.of_degree(options.polynomial, model.scatter)
        objective = replace(objective, continuum=polynomial)
    used = objective.weight > 0
    n_used = used.sum(dim=1).cpu().numpy()
    n_width = len(options.broadening.ranges)
    result = FitResult.empty(len(flux), objective.n_label, n_width=n_width)
    result.n_used[:] = n_used
    n_linear = 0 if objective.continuum is None else objective.continuum.n_free
    result.raise_flag(FitStatus.NONFINITE, ~finite_rows(flux, ivar).cpu().numpy())
    result.raise_flag(FitStatus.NO_PIXELS, n_used <= objective.n_parameter + n_linear)
    weak = below_snr(flux, ivar, objective.weight, options.snr_min).cpu().numpy()
    result.raise_flag(FitStatus.LOW_SNR, result.fitted & weak)
    return objective, result


def below_snr(flux: Tensor, ivar: Tensor, weight: Tensor, snr: float) -> Tensor:
    """(n,) bool: the median S/N of pixels with a weight, of some thousand evenly chosen, is below.

    Half of them are, then: they are counted, which takes half the time of a median.
    """
    some = slice(None, None, max(1, flux.shape[1] // _SNR_PIXELS))
    known = weight[:, some] > 0
    faint = (flux[:, some] * torch.sqrt(ivar[:, some]) < snr) & known
    return 2 * faint.sum(dim=1) > (known.sum(dim=1) - 1).clamp(min=0)


def _fit_batch(
    how: tuple[Search, FitOptions, int | None],
    objective: Objective,
    result: FitResult,
    starts: NDArray[np.float64],
    given: tuple[Given, slice, Tensor],
) -> None:
    """Search from every start and write the best ends into `result`.

    `given` are constraints, which stars these are, and (n, 1) what part of their pixels' weight
    counts: chi2 is as much less.
    """
    search, options, along = how
    like = objective.model.scatter
    constraints, batch, share = given
    tie = constraints.tie(objective.model, like)
    low, high = constraints.bounds(batch, tie)
    objective = replace(objective, prior=constraints.prior(batch, like), tie=tie)
    fitted = np.flatnonzero(result.fitted)
    rows = torch.tensor(fitted, device=like.device)
    objective = objective.take(rows)
    low, high = _padded(low[fitted], objective, -0.5), _padded(high[fitted], objective, 0.5)
    bounds = as_rows(low, like), as_rows(high, like)
    own = starts if tie is None else starts[:, :, list(tie.free)]
    firsts = [as_rows(_padded(own[fitted, c], objective, 0.0), like) for c in range(own.shape[1])]
    if along is not None and tie is not None:
        along = list(tie.free).index(along) if along in tie.free else None
    found = best_of(search, objective, firsts, bounds, options.restarts or 0, along)
    state, several, spread = found.best, found.several, found.spread()
    if options.robust is not None:
        everything = objective
        for _ in range(_ROBUST_PASSES):
            limit = options.robust * torch.sqrt(share[rows])
            objective = _huber(everything, state.parameters, limit)
            state = search.run(objective, state.parameters, *bounds)
    finite = state.finite
    result.raise_flag(FitStatus.NONFINITE, fitted[~finite.cpu().numpy()])
    ends, chosen = state.take(finite), objective.take(finite)
    if options.restarts:
        over_errors(search.last_gram, chosen, ends)
    fill(result, fitted[finite.cpu().numpy()], chosen, ends, spread[finite])
    result.raise_flag(FitStatus.MULTIPLE_OPTIMA, fitted[(several & finite).cpu().numpy()])


def _padded(labels: NDArray[np.float64], objective: Objective, edge: float) -> NDArray[np.float64]:
    """Add line parameters at `edge` to labels (n, F); a velocity without a range stays at 0."""
    scale = np.array(objective.line_scale())
    line = np.where(scale > 0, edge, 0.0)
    return np.concatenate([labels, np.tile(line, (len(labels), 1))], axis=1)


def _huber(objective: Objective, parameters: Tensor, limit: Tensor) -> Objective:
    """Return the objective with less weight on pixels more than `limit` (n, 1) sigma off."""
    flux, weight = objective.data()
    off = torch.sqrt(weight) * (objective.predict(parameters) - flux).abs()
    rows = torch.arange(len(flux), device=flux.device)
    return replace(objective, flux=flux, weight=weight * (limit / off).clamp(max=1.0), rows=rows)
