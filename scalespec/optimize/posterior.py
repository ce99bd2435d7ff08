"""The posterior of chosen stars: Hamiltonian Monte Carlo on the same batched chi2 and gradient.

All chains of all stars step together; labels are physical (K, dex, km/s), velocities km/s.
"""

from dataclasses import dataclass, replace
from enum import IntFlag

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.constraints import Constraints, Given, box
from scalespec.optimize.inputs import excess_variances
from scalespec.optimize.normalization import Smoother, as_rows
from scalespec.optimize.objective import ArrayLike, Emulator, Objective
from scalespec.optimize.result import FitResult

Array = NDArray[np.float64]

_LEAPS = 6
_LONGEST_LEAP = 0.35  # in sigmas: six are a third of a turn; a whole one ends where it began
_TARGET = 0.75  # share of accepted trajectories that warm-up steers to
_SLOWER, _FASTER = 0.85, 1.06  # factors on the leap; balanced at the target
_VELOCITY_SIGMAS = 10.0  # half range of the velocity
_BOUNCES = 32  # off walls, of one leap; labels that hang together stand in sharp corners

R_HAT_MAX = 1.1
"""Over it chains have not met: their draws say neither a mean nor a width."""


class PosteriorStatus(IntFlag):
    """Why draws are not to be trusted; 0 are good ones."""

    NOT_MET = 1 << 0  # the worst parameter's r_hat is above `R_HAT_MAX`


@dataclass(frozen=True)
class Posterior:
    """Draws from the posteriors of ``n`` stars.

    Attributes
    ----------
    samples : (n, chains, draws, K + 1) float32
        Physical labels, the velocity [km/s] last.
    acceptance : (n,) float64
        Share of trajectories accepted after warm-up.
    r_hat : (n, K + 1) float64
        Spread between chains over that within them; 1 where they have met, over 1.05 more draws are
        wanted, over `R_HAT_MAX` see `status`.
    """

    samples: NDArray[np.float32]
    acceptance: NDArray[np.float64]
    r_hat: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """(n, K + 1) posterior means."""
        found: NDArray[np.float64] = self.samples.mean(axis=(1, 2), dtype=np.float64)
        return found

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(n, K + 1, K + 1) posterior covariances."""
        n, _, _, size = self.samples.shape
        away = self.samples.reshape(n, -1, size) - self.mean[:, np.newaxis]
        found: NDArray[np.float64] = away.transpose(0, 2, 1) @ away / (away.shape[1] - 1)
        return found

    @property
    def status(self) -> NDArray[np.uint32]:
        """(n,) `PosteriorStatus` bits."""
        met = (self.r_hat <= R_HAT_MAX).all(axis=1)  # what is no number has not
        return np.where(met, 0, PosteriorStatus.NOT_MET.value).astype(np.uint32)


def sample_posterior(  # noqa: PLR0913 - what a fit is given, and how chains run
    model: Emulator,
    flux: ArrayLike,
    ivar: ArrayLike,
    best: FitResult,
    *,
    n_draws: int = 300,
    n_chains: int = 4,
    seed: int = 0,
    smoothing: Smoother | None = None,
    constraints: Constraints | None = None,
    noise_correlation: ArrayLike | float = 1.0,
) -> Posterior:
    """Draw from exp(-chi2 / 2) within the model's box around the best fits.

    Parameters
    ----------
    model, flux, ivar, smoothing, constraints
        As given to `fit_labels`; ties are not supported here.
    best : FitResult
        Its result for the same stars; its covariance is the metric, so it need not be exact.
    n_draws : int
        Draws kept per chain; a third as many before them are for warm-up.
    n_chains : int
        Chains per star, at least 2.
    seed : int
        Of the draws: a star's depend on it, its row, and the largest velocity error among the
        stars, by which pixels at the edges count or do not.
    noise_correlation : float, (n,) or (n, 2) float
        As given to `fit_labels`. Labels and velocity are drawn from one chi2, whose weights are
        divided by what the labels' variances exceed those of white noise by: so much wider are the
        velocities, too, whatever is said of theirs.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError
        If a star has no fit, labels are tied, there are fewer than 2 chains, or `noise_correlation`
        is of another shape or not positive.

    References
    ----------
    Neal 2011, in Handbook of Markov Chain Monte Carlo, ch. 5 (HMC); Afshar & Domke 2015, NeurIPS
    28, 2989 (walls that reflect); Gelman & Rubin 1992, Stat. Sci. 7, 457, on halves of chains.

    Examples
    --------
    Of a line's depth in pixels of S/N 100 the error is 0.01 over the root of its squares' sum:

    >>> from types import SimpleNamespace
    >>> from scalespec.optimize.fit import fit_labels
    >>> spec = SimpleNamespace(labels=("depth",), minimum=np.array([0.0]), maximum=np.array([1.0]),
    ...                        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)))
    >>> line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2)
    >>> model = SimpleNamespace(spec=spec, scatter=torch.zeros(60),
    ...     forward_scaled=lambda x: 1 - (x + 0.5) * line,
    ...     flux_and_jacobian=lambda x: (1 - (x + 0.5) * line, -line.expand(len(x), 1, 60)))
    >>> flux, ivar = 1 - 0.3 * line[None], torch.full((1, 60), 1e4)
    >>> drawn = sample_posterior(model, flux, ivar, fit_labels(model, flux, ivar), n_draws=60)
    >>> error = 0.01 / line.square().sum().sqrt().item()
    >>> bool(abs(drawn.mean[0, 0] - 0.3) < 0.3 * error)
    True
    >>> bool(abs(drawn.covariance[0, 0, 0] / error**2 - 1) < 0.3)
    True
    """
    constraints = constraints or Constraints()
    if not best.fitted.all():
        row = int(np.flatnonzero(~best.fitted)[0])
        raise ValueError(f"star {row} has no fit to sample around: choose those that have")
    if n_chains < 2 or constraints.tied:
        raise ValueError(f"sampling wants 2 chains or more and no tied labels, got {n_chains}")
    given = Given.of(model, constraints, len(best))
    excess, _ = excess_variances(noise_correlation, len(best))
    with torch.no_grad():
        chains = _Chains.of(model, (flux, ivar, excess), best, given, (n_chains, smoothing))
        return chains.run(n_draws, seed)


@dataclass(frozen=True)
class _Chains:
    """All chains, one row each: where they began, their metric and their bounds."""

    objective: Objective
    center: Tensor
    factor: Tensor
    lower: Tensor
    upper: Tensor
    n_chains: int

    @classmethod
    def of(
        cls,
        model: Emulator,
        data: tuple[ArrayLike, ArrayLike, Array],
        best: FitResult,
        given: Given,
        how: tuple[int, Smoother | None],
    ) -> "_Chains":
        """Set up `how` many chains per star around the best fits.

        `data` are flux, ivar, and by what the labels' variances exceed those of white noise.
        """
        n_chains, smoothing = how
        low, width = box(model)
        like, n = model.scatter, len(best)
        rv_range = max(_VELOCITY_SIGMAS * float(best.rv_err.max()), 1e-3)
        flux, ivar, excess, rv = (as_rows(a, like) for a in (*data, best.rv))
        objective = Objective.of(
            model, flux, ivar, rv_start=rv, rv_range=rv_range, smoother=smoothing
        )
        objective.weight.div_(excess[:, None])
        objective = replace(objective, prior=given.prior(slice(None), like))
        rows = torch.arange(n, device=like.device).repeat_interleave(n_chains)
        # A fixed label lies on its bounds but for float32's rounding, and must not lie outside.
        x = ((best.labels - low) / width - 0.5).clip(given.low, given.high)
        x, least, most = (
            np.pad(a, ((0, 0), (0, 1)), constant_values=v)
            for a, v in ((x, 0.0), (given.low, -0.5), (given.high, 0.5))
        )
        slope = objective.evaluate(as_rows(x, like)).gradient.cpu().numpy()
        spread = _within(_covariance(best, width, rv_range), slope, (least - x, most - x))
        center, metric, lower, upper = (
            torch.tensor(a)[rows.cpu()] for a in (x, _root(spread), least, most)
        )
        return cls(objective.take(rows), center, metric, lower, upper, n_chains)

    def run(self, n_draws: int, seed: int) -> Posterior:
        """Warm up, then keep `n_draws` states of every chain."""
        n_rows, size = self.center.shape
        n_warm = max(1, n_draws // 3)
        noise = np.random.default_rng  # one generator per star: its draws are its own
        stars = n_rows // self.n_chains
        draws = np.stack(
            [
                noise([seed, star]).standard_normal((n_warm + n_draws, self.n_chains, size + 2))
                for star in range(stars)
            ],
            axis=1,
        ).reshape(n_warm + n_draws, n_rows, size + 2)
        random = torch.tensor(draws)
        z, _, _ = self._drift(torch.zeros_like(random[0, :, :size]), random[0, :, :size], 0.3)
        leap = torch.full((n_rows, 1), _LONGEST_LEAP, dtype=torch.float64)
        kept, accepted = [], torch.zeros(n_rows, dtype=torch.float64)
        for step in range(n_warm + n_draws):
            uniform = 0.5 * torch.erfc(random[step, :, size] / 2**0.5)
            jitter = 1.0 + 0.2 * torch.tanh(random[step, :, size + 1 :])
            z, taken = self._trajectory(z, random[step, :, :size], leap * jitter, uniform)
            if step < n_warm:
                share = taken.double().view(stars, -1).mean(dim=1)
                factor = torch.where(share > _TARGET, _FASTER, _SLOWER)
                leap = leap * factor.repeat_interleave(self.n_chains)[:, None]
                leap = leap.clamp(max=_LONGEST_LEAP)
            else:
                kept.append(self._parameters(z))
                accepted += taken.double()
        return self._collected(torch.stack(kept, dim=1), accepted / n_draws)

    def _trajectory(
        self, z: Tensor, momentum: Tensor, leap: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Leap along Hamilton's equations within the box; return the states, and which are new."""
        chi2, slope = self._potential(z)
        before = 0.5 * chi2 + 0.5 * (momentum**2).sum(dim=1)
        place, p = z, momentum - 0.5 * leap * slope
        taken = torch.ones_like(uniform, dtype=torch.bool)
        for i in range(_LEAPS):
            place, p, arrived = self._drift(place, p, leap)
            taken &= arrived
            chi2, slope = self._potential(place)
            p = p - (0.5 if i == _LEAPS - 1 else 1.0) * leap * slope
        after = 0.5 * chi2 + 0.5 * (p**2).sum(dim=1)
        taken &= uniform < torch.exp((before - after).clamp(max=0.0))
        return torch.where(taken[:, None], place, z), taken

    def _drift(self, z: Tensor, p: Tensor, time: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Move straight on for `time`, mirrored by every wall that is met; who got there is last.

        The normal of label k's walls is row k of `factor`. Mirrored where it meets them, in their
        order, a path leads back on itself and no volume is lost: what is drawn is exact. A path of
        too many bounces has not arrived, and neither has the way back.
        """
        every, left = torch.arange(len(z)), torch.zeros_like(z[:, :1]) + time
        for _ in range(_BOUNCES):
            speed = torch.bmm(self.factor, p[:, :, None]).squeeze(-1)
            way = torch.where(speed > 0, self.upper, self.lower) - self._parameters(z)
            # A label without room has a row of zeros: nothing moves it, and it meets no wall.
            until = torch.where(speed == 0, torch.inf, (way / speed).clamp(min=0.0))
            first, wall = until.min(dim=1, keepdim=True)
            step = torch.minimum(first, left)
            z, left = z + step * p, left - step
            bounces = first[:, 0] < left[:, 0] + step[:, 0]
            if not bounces.any():
                break
            normal = self.factor[every, wall[:, 0]]
            share = (p * normal).sum(dim=1) / (normal**2).sum(dim=1).clamp(min=1e-300)
            p = torch.where(bounces[:, None], p - 2 * share[:, None] * normal, p)
        return z, p, ~bounces

    def _potential(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return chi2 and the gradient of half of it, by whitened parameters."""
        point = self.objective.evaluate(self._parameters(z).to(self.objective.flux))
        slope = torch.bmm(self.factor.transpose(1, 2), point.gradient.cpu()[:, :, None])
        return point.chi2.cpu(), slope.squeeze(-1)

    def _parameters(self, z: Tensor) -> Tensor:
        x = self.center + torch.bmm(self.factor, z[:, :, None]).squeeze(-1)
        return torch.minimum(torch.maximum(x, self.lower), self.upper)  # but for rounding within

    def _collected(self, kept: Tensor, acceptance: Tensor) -> Posterior:
        """Turn (rows, draws, Q) parameters to physical samples per star."""
        low, width = box(self.objective.model)
        n_draws, size = kept.shape[1:]
        x = kept.numpy()
        labels = low + (x[:, :, :-1] + 0.5) * width
        rv = self.objective.rv_start.double().cpu().numpy()[:, np.newaxis]
        rv = rv + 2 * self.objective.rv_range * x[:, :, -1]
        samples = np.concatenate([labels, rv[:, :, np.newaxis]], axis=2)
        samples = samples.reshape(-1, self.n_chains, n_draws, size)
        share = acceptance.view(-1, self.n_chains).mean(dim=1).numpy()
        moving = (self.factor != 0).any(dim=2).view(-1, self.n_chains, size)[:, 0]
        return Posterior(samples.astype(np.float32), share, _r_hat(samples, moving.numpy()))


def _r_hat(samples: NDArray[np.float64], moving: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, chains, draws, Q) -> (n, Q) potential scale reduction of half chains.

    Infinite where a parameter never moved that is `moving` (n, Q), 1 where one is fixed.
    """
    half = samples.shape[2] // 2
    parts = np.concatenate([samples[:, :, :half], samples[:, :, half : 2 * half]], axis=1)
    within = parts.var(axis=2, ddof=1).mean(axis=1)
    between = parts.mean(axis=2).var(axis=1, ddof=1)
    ratio = between / np.where(within > 0, within, 1.0)
    met = np.where(within > 0, np.sqrt((half - 1) / half + ratio), np.inf)
    r_hat: NDArray[np.float64] = np.where(moving, met, 1.0)
    return r_hat


def _covariance(best: FitResult, width: Array, rv_range: float) -> Array:
    """(n, Q, Q) covariance of the fit's scaled labels and velocity."""
    n, size = len(best), len(width) + 1
    spread = np.zeros((n, size, size))
    spread[:, :-1, :-1] = best.label_cov / np.multiply.outer(width, width)
    spread[:, -1, -1] = (best.rv_err / (2 * rv_range)) ** 2
    return spread


def _within(spread: Array, slope: Array, walls: tuple[Array, Array]) -> Array:
    """Shrink covariances (n, Q, Q) to what the `walls`, (n, Q) from the center, leave of them.

    A label that the `slope` (n, Q) of half chi2 presses against a wall falls off before it as an
    exponential of length 1 / slope does. One without room does not move.
    """
    low, high = walls
    sigma = np.sqrt(np.diagonal(spread, axis1=1, axis2=2))
    with np.errstate(divide="ignore", invalid="ignore"):
        length = np.where(slope < 0, high, -low) + 1 / np.abs(slope)
        share = np.where(high > low, np.fmin(1.0, length / sigma), 0.0)
    return spread * share[:, :, np.newaxis] * share[:, np.newaxis]


def _root(spread: Array) -> Array:
    """(n, Q, Q) covariances -> factors F of them, F F^T."""
    values, vectors = np.linalg.eigh(spread)
    factor: Array = vectors * np.sqrt(np.maximum(values, 0.0))[:, np.newaxis]
    factor[np.diagonal(spread, axis1=1, axis2=2) == 0] = 0.0  # but for rounding: it is fixed
    return factor
