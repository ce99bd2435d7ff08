"""Where a fit begins: a closed-form regression of labels on flux, templates, and the best of many.

Everything is learned from spectra drawn from the emulator itself, so it needs no data. Labels are
physical (K, dex, km/s), velocities km/s.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.matmul import whole
from scalespec.optimize.normalization import Smoother, as_rows
from scalespec.optimize.objective import ArrayLike, Emulator, EmulatorSpec, Objective
from scalespec.optimize.shift import C_KMS, log_step

FloatArray = NDArray[np.float32]

_BATCH = 256  # spectra drawn at a time
_N_BASIS_DRAWS = 512  # spectra that make the principal components
_N_LINEAR, _N_QUADRATIC = 96, 24  # principal components used as they are, and in products
_RIDGE = 1e-4  # of the diagonal: only keeps the normal equations solvable


@dataclass(frozen=True)
class RidgeStart:
    """A regression of labels and velocity on principal components of the flux and their products.

    Attributes
    ----------
    minimum, maximum : (K,) float64
        The model's box; estimates are clipped to it.
    mean : (P,) float32
        Mean spectrum; it fills pixels without information.
    basis : (P, q) float32
        Principal components, each divided by the spread of its coefficient.
    coefficients : (F, K + 1) float64
        Scaled labels, and velocity [km/s], per feature.
    rv_kms : float [km/s]
        Velocities that it has learned from, to either side; estimates are clipped to it.
    """

    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    mean: FloatArray
    basis: FloatArray
    coefficients: NDArray[np.float64]
    rv_kms: float

    def apply(self, flux: FloatArray, ivar: FloatArray) -> FloatArray:
        """Estimate labels.

        Parameters
        ----------
        flux, ivar : (n, P) float32
            Spectra within half a pixel of rest; ``ivar`` 0 means no information.

        Returns
        -------
        (n, K) float32
            Physical labels within the box.

        Examples
        --------
        >>> from scalespec.models.base import EmulatorSpec
        >>> from scalespec.models.payne import Payne
        >>> _ = torch.manual_seed(0)
        >>> spec = EmulatorSpec("toy", ("teff",), [4e3], [6e3], 5000.0 * 1.0001 ** np.arange(64))
        >>> model = Payne(spec, hidden=(4,))
        >>> flux = model.forward_scaled(torch.tensor([[0.2]])).detach().numpy()
        >>> ridge_start(model, n_draws=500).apply(flux, np.full_like(flux, 1e6)).round(-2)
        array([[5400.]], dtype=float32)
        """
        return self.estimate(flux, ivar)[0]

    def estimate(self, flux: FloatArray, ivar: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Estimate labels as `apply` does, and velocities (n,) [km/s]."""
        basis, mean = torch.tensor(self.basis), torch.tensor(self.mean)
        coefficients = torch.tensor(self.coefficients)
        parts = [torch.empty(0, coefficients.shape[1], dtype=torch.float64)]
        for begin in range(0, len(flux), _BATCH):
            rows = slice(begin, begin + _BATCH)
            used = np.isfinite(flux[rows]) & (ivar[rows] > 0)
            filled = as_rows(np.where(used, flux[rows], self.mean), mean)
            filled = filled[whole(torch.arange(len(used)))]
            part = _features(filled, mean, basis) @ coefficients
            parts.append(part[: len(used)])
        found = torch.cat(parts).numpy()
        x, rv = found[:, :-1].clip(-0.5, 0.5), found[:, -1].clip(-self.rv_kms, self.rv_kms)
        labels = self.minimum + (x + 0.5) * (self.maximum - self.minimum)
        return labels.astype(np.float32), rv.astype(np.float32)


def ridge_start(
    model: Emulator,
    *,
    n_draws: int = 4096,
    seed: int = 0,
    snr: tuple[float, float] = (10.0, 200.0),
    rv_kms: float | None = None,
    smoothing: Smoother | None = None,
) -> RidgeStart:
    """Learn a first estimate from the emulator's own spectra, in closed form.

    Spectra are drawn over the whole box, moved a little, given white noise and up to
    a tenth of masked pixels, and regressed on.

    Parameters
    ----------
    model : Emulator
        What will be fitted.
    n_draws : int
        Spectra to learn from.
    seed : int
        Of the draws.
    snr : (float, float)
        Range of the signal-to-noise per pixel, uniform in its logarithm.
    rv_kms : float [km/s], optional
        Velocities that it will meet, to either side; half a pixel if not given.
    smoothing : Smoother, optional
        The data's normalization, when the model's is the true continuum.

    Returns
    -------
    RidgeStart
        Its `apply` takes flux and ivar to labels.

    Raises
    ------
    ValueError
        If there are no draws, `snr` is no range of positive numbers, or `rv_kms` is negative or not
        finite.

    Examples
    --------
    Depths of a line, from the spectra alone:

    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(labels=("depth",), minimum=np.array([0.0]), maximum=np.array([1.0]),
    ...                        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)))
    >>> line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2)
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(60),
    ...                         forward_scaled=lambda x: 1 - (x + 0.5) * line)
    >>> depth = np.array([[0.3], [0.5], [0.9]])
    >>> flux = (1 - depth * line.numpy()).astype(np.float32)
    >>> found = ridge_start(model).apply(flux, np.full_like(flux, 1e4))
    >>> bool(np.abs(found - depth).max() < 0.05)
    True
    """
    if n_draws < 1:
        raise ValueError(f"a first estimate is learned from at least 1 draw, got {n_draws}")
    if not 0 < snr[0] <= snr[1] < math.inf:
        raise ValueError(f"snr must be a range of positive numbers, got {snr[0]:g} to {snr[1]:g}")
    if rv_kms is not None and not 0 <= rv_kms < math.inf:
        raise ValueError(f"rv_kms must be 0 km/s or more, got {rv_kms:g}")
    rng = np.random.default_rng(seed)
    most = 0.5 * _pixel_kms(model) if rv_kms is None else rv_kms
    with torch.inference_mode():
        clean, _ = _draw(model, _N_BASIS_DRAWS, rng, smoothing=smoothing)
        mean, basis = _principal_components(clean, _N_LINEAR)
        gram = cross = torch.zeros((), dtype=torch.float64).to(mean.device)
        for begin in range(0, n_draws, _BATCH):
            n = min(_BATCH, n_draws - begin)
            flux, x = _draw(model, n, rng, smoothing=smoothing, snr=snr, fill=mean, rv_kms=most)
            features = _features(flux, mean, basis)
            gram = gram + features.T @ features
            cross = cross + features.T @ x
        gram = gram + _RIDGE * gram.diagonal().diag()
        coefficients = torch.linalg.solve(gram, cross)
    return RidgeStart(
        minimum=np.asarray(model.spec.minimum, np.float64),
        maximum=np.asarray(model.spec.maximum, np.float64),
        mean=mean.float().cpu().numpy(),
        basis=basis.float().cpu().numpy(),
        coefficients=coefficients.cpu().numpy(),
        rv_kms=most,
    )


def templates(
    model: Emulator, n: int, *, seed: int = 0, smoothing: Smoother | None = None
) -> tuple[FloatArray, FloatArray]:
    """Choose spectra that stand for all the model can make, to cross-correlate with.

    Of 50 n spectra drawn over the box, those nearest to the centers of n clusters (k-means on
    principal components): spread by how spectra look, not by label, and none a freak of a corner.

    Parameters
    ----------
    model : Emulator
        Where the spectra come from.
    n : int
        How many templates, at least 1.
    seed : int
        Of the draws.
    smoothing : Smoother, optional
        The data's normalization, when the model's is the true continuum.

    Returns
    -------
    flux : (n, P) float32
        Templates at rest.
    labels : (n, K) float32
        Their labels.

    Raises
    ------
    ValueError
        If `n` is less than 1.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(labels=("depth",), minimum=np.array([0.0]), maximum=np.array([1.0]),
    ...                        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)))
    >>> line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2)
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(60),
    ...                         forward_scaled=lambda x: 1 - (x + 0.5) * line)
    >>> flux, labels = templates(model, 2)  # of depths from 0 to 1
    >>> flux.shape, bool((np.abs(np.sort(labels[:, 0]) - [0.25, 0.75]) < 0.1).all())
    ((2, 60), True)
    """
    if n < 1:
        raise ValueError(f"cross-correlation wants at least 1 template, got n = {n}")
    low, high = np.asarray(model.spec.minimum), np.asarray(model.spec.maximum)
    with torch.inference_mode():
        flux, x = _draw(model, 50 * n, np.random.default_rng(seed), smoothing=smoothing)
        mean, basis = _principal_components(flux[:_N_BASIS_DRAWS], 16)
        points = (flux - mean) @ basis * (basis.norm(dim=0) ** -2)
        centers = _cluster(points, n)
        chosen = torch.cdist(centers, points).argmin(dim=1)
        scaled = x[chosen, :-1].cpu().numpy()
    labels = low + (scaled + 0.5) * (high - low)
    return flux[chosen].float().cpu().numpy(), labels.astype(np.float32)


def best_start(
    model: Emulator,
    flux: ArrayLike,
    ivar: ArrayLike,
    candidates: FloatArray,
    *,
    rv: ArrayLike | None = None,
    smoothing: Smoother | None = None,
    stars_per_batch: int = 64,
) -> tuple[FloatArray, FloatArray]:
    """Keep, per star, the candidate labels of least chi2.

    Parameters
    ----------
    model, flux, ivar, smoothing
        As in `fit_labels`.
    candidates : (n, C, K) float32
        Physical labels to choose from; those outside the box are clipped to it.
    rv : (n,) float [km/s], optional
        Velocities at which to compare; 0 if not given.
    stars_per_batch : int
        Stars compared together.

    Returns
    -------
    labels : (n, K) float32
        The best candidate, the first one where chi2 is not finite.
    chi2 : (n,) float32
        Its chi2 at that velocity; infinite where it is not finite.

    Raises
    ------
    ValueError
        If `candidates` is not (n, C, K) with C at least 1.

    Examples
    --------
    Off by 0.05 of a line, chi2 is the line's squares, 3.545 in sum, times 0.05² over 0.01²:

    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(labels=("depth",), minimum=np.array([0.0]), maximum=np.array([1.0]),
    ...                        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)))
    >>> line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2)
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(60),
    ...                         forward_scaled=lambda x: 1 - (x + 0.5) * line)
    >>> depths = np.array([[[0.1], [0.35], [0.9]]])
    >>> labels, chi2 = best_start(model, 1 - 0.3 * line[None], torch.full((1, 60), 1e4), depths)
    >>> labels, chi2.round(1)
    (array([[0.35]], dtype=float32), array([88.6], dtype=float32))
    """
    n, n_label = len(flux), len(model.spec.labels)
    candidates = np.asarray(candidates, np.float32)
    if candidates.ndim != 3 or candidates.shape[::2] != (n, n_label) or not candidates.shape[1]:
        raise ValueError(f"candidates should be ({n}, C, {n_label}), got {candidates.shape}")
    low, high = np.asarray(model.spec.minimum), np.asarray(model.spec.maximum)
    scaled = np.clip((candidates - low) / (high - low) - 0.5, -0.5, 0.5)
    scaled = np.pad(scaled, ((0, 0), (0, 0), (0, 1)))
    rv = np.zeros(n) if rv is None else rv
    found = [np.zeros((0, candidates.shape[1]), np.float32)]
    with torch.inference_mode():
        for begin in range(0, n, stars_per_batch):
            rows = slice(begin, begin + stars_per_batch)
            x, y, w, v = (as_rows(a[rows], model.scatter) for a in (scaled, flux, ivar, rv))
            objective = Objective.of(model, y, w, rv_start=v, rv_range=0.0, smoother=smoothing)
            chi2 = torch.stack([objective.chi2(x[:, c]) for c in range(x.shape[1])], dim=1)
            found.append(chi2.nan_to_num(nan=torch.inf).cpu().numpy())
    tried = np.concatenate(found)
    best = np.argmin(tried, axis=1)
    return candidates[np.arange(n), best], tried[np.arange(n), best]


KINDS = {"giant": (4500.0, 2.0), "subgiant": (5100.0, 3.5), "dwarf": (5700.0, 4.5)}
"""Effective temperature [K] and log g [cgs] that a kind of star is begun from."""


def start_of_kind(spec: EmulatorSpec, labels: FloatArray, kind: str) -> FloatArray:
    """Replace temperature and gravity of first `labels` (n, K) by those of a kind, within the box.

    Raises
    ------
    ValueError
        If the kind is not one of `KINDS`, or the model has neither ``teff`` nor ``logg``.
    """
    if kind not in KINDS:
        raise ValueError(f"a kind of star is one of {sorted(KINDS)}, got '{kind}'")
    names = [name for name in ("teff", "logg") if name in spec.labels]
    if not names:
        raise ValueError(f"a kind of star wants teff or logg, the model has {spec.labels}")
    start = labels.copy()
    for name, value in zip(("teff", "logg"), KINDS[kind], strict=True):
        if name in names:
            k = list(spec.labels).index(name)
            start[:, k] = np.clip(value, spec.minimum[k], spec.maximum[k])
    return start


def _draw(
    model: Emulator,
    n: int,
    rng: np.random.Generator,
    *,
    smoothing: Smoother | None,
    snr: tuple[float, float] | None = None,
    fill: Tensor | None = None,
    rv_kms: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(n, P) spectra of labels all over the box; (n, K + 1) their scaled labels and velocities.

    With `snr` and `fill`: moved by up to `rv_kms`, with noise, masked pixels filled.
    """
    like = model.scatter
    x = as_rows(rng.uniform(-0.5, 0.5, (n, len(model.spec.labels))), like)
    mask = torch.ones((n, len(like))).to(like)
    rv = torch.zeros(n).to(like)
    if fill is not None:
        masked = rng.random((n, len(like)), dtype=np.float32) < 0.1 * rng.random((n, 1))
        mask = as_rows(~masked, like)
        rv = as_rows(rng.uniform(-rv_kms, rv_kms, n), like)
    objective = Objective.of(model, mask, mask, rv_start=rv, rv_range=0.0, smoother=smoothing)
    flux = objective.predict(torch.nn.functional.pad(x, (0, 1)))
    if snr is not None and fill is not None:
        sigma = np.exp(-rng.uniform(math.log(snr[0]), math.log(snr[1]), (n, 1)))
        noise = rng.standard_normal((n, len(like)), dtype=np.float32)
        flux = torch.where(mask > 0, flux + as_rows(noise * sigma, like), fill)
    return flux, torch.cat([x, rv[:, None]], dim=1).double()


def _pixel_kms(model: Emulator) -> float:
    return C_KMS * log_step(model.spec.wavelength)


def _principal_components(flux: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(P,) mean and (P, q <= n) components that turn spectra to coefficients of unit spread."""
    mean = flux.mean(dim=0)
    _, s, vt = torch.linalg.svd(flux - mean, full_matrices=False)
    keep = min(n, int((s > 1e-4 * s[0]).sum()))
    return mean, (vt[:keep] * (len(flux) ** 0.5 / s[:keep, None])).T.contiguous()


def _features(flux: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """(n, P) flux -> (n, F) float64: 1, coefficients, and products of the leading ones."""
    z = ((flux - mean) @ basis).double()
    lead = z[:, :_N_QUADRATIC]
    i, j = torch.triu_indices(lead.shape[1], lead.shape[1], device=z.device)
    return torch.cat([torch.ones_like(z[:, :1]), z, lead[:, i] * lead[:, j]], dim=1)


def _cluster(points: Tensor, n: int, *, rounds: int = 20) -> Tensor:
    """(n, q) centers of `points` by k-means; an empty cluster keeps its center."""
    centers = points[:n].clone()
    for _ in range(rounds):
        member = torch.nn.functional.one_hot(torch.cdist(points, centers).argmin(dim=1), n)
        member = member.to(points)
        count = member.sum(dim=0)[:, None]
        centers = torch.where(count > 0, (member.T @ points) / count.clamp(min=1.0), centers)
    return centers
