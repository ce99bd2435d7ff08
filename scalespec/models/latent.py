"""Labels that are missing or noisy: stars are given a distribution of labels, not numbers.

A forward model trained on noisy labels has derivatives that are too flat (regression dilution), and
one trained on complete stars only throws most of them away. Here labels are latent. In turn, as
stochastic expectation maximization does,

* E: each star's labels get a posterior, Gaussian about its maximum, from its spectrum under the
  present model, its label measurements within their errors, and the population of all stars;
* the labels' axes are set anew: what a star's spectrum says of its labels is in units that the
  model made up, and the measurements, regressed on it, say what they should be (parameter
  expansion; without it the axes creep back to the truth in thousands of rounds);
* M: the model learns from one draw of every star's posterior.

Labels here are scaled, -0.5 to 0.5. Celeux & Diebolt 1985, Comput. Stat. Q. 2, 73 (stochastic EM);
Liu, Rubin & Wu 1998, Biometrika 85, 755 (parameter expansion).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespec.models.base import Emulator, shift_flux
from scalespec.models.known_labels import Latent, Measured, Population, first_guess, inverse

REACH = 0.75
"""Latent labels stay within this: a model knows little beyond its box."""
STEPS = 8
"""Gauss-Newton steps per star and round; each round goes on from the last one's end."""
ROWS = 64
"""Spectra whose derivatives are held at a time."""
WRONG_SIGMA = 4.0
"""A measurement further off, in errors of both sides, is taken for a mistake: it counts as none."""


@dataclass(frozen=True)
class Observed:
    """Spectra of n stars: flux, ivar (n, n_pixel) and by how many pixels their lines are off."""

    flux: Tensor
    ivar: Tensor
    shift: Tensor


def expect(
    model: Emulator, spectra: Observed, measured: Measured, population: Population, start: Tensor
) -> Latent:
    """Return every star's posterior: Gauss-Newton to its maximum, the curvature there.

    Parameters
    ----------
    model : Emulator
        With its scatter, which the spectra's noise is added to.
    spectra : Observed
    measured : Measured
    population : Population
    start : (n, n_label) tensor
        Scaled labels to begin from.

    Returns
    -------
    Latent

    Raises
    ------
    ValueError
        If spectra, measurements and first labels are not of the same stars, pixels and labels.

    Examples
    --------
    Four pixels of S/N 10 whose flux is half the label, a measurement within 0.1 and a population
    0.1 wide weigh the same, 100 each: of 0.2, 0.1 and 0 the star has the mean.

    >>> from scalespec.models.base import EmulatorSpec
    >>> from scalespec.models.cannon import Cannon
    >>> spec = EmulatorSpec("toy", ("teff",), [4000.0], [6000.0], [5000.0, 5001.0, 5002.0, 5003.0])
    >>> model = Cannon(spec, order=1)
    >>> _ = model.output.weight.data[:, 1].fill_(0.5)
    >>> flux = model.forward_scaled(torch.tensor([[0.2]])).detach()
    >>> spectra = Observed(flux, torch.full((1, 4), 100.0), torch.zeros(1))
    >>> measured = Measured.of(torch.tensor([[0.1]]), torch.tensor([[0.1]]))
    >>> population = Population(torch.zeros(1).double(), torch.tensor([[0.01]]).double())
    >>> star = expect(model, spectra, measured, population, torch.zeros(1, 1).double())
    >>> round(star.mean.item(), 4), round(1 / star.covariance.item())
    (0.1, 300)
    """
    _check(model, spectra, measured, start)
    parts = [
        _expect(model, spectra, measured, population, start, rows)
        for rows in torch.split(torch.arange(len(start)), ROWS)
    ]
    means, covariances = zip(*parts, strict=True)
    return Latent(torch.cat(means), torch.cat(covariances))


def _check(model: Emulator, spectra: Observed, measured: Measured, start: Tensor) -> None:
    n, spec = len(start), model.spec
    for name, values, wanted in (
        ("flux", spectra.flux, (n, spec.n_pixel)),
        ("ivar", spectra.ivar, (n, spec.n_pixel)),
        ("shift", spectra.shift, (n,)),
        ("measured labels", measured.value, (n, spec.n_label)),
        ("first labels", start, (n, spec.n_label)),
    ):
        if tuple(values.shape) != wanted:
            raise ValueError(f"{name} should be {wanted}, got {tuple(values.shape)}")


def _expect(
    model: Emulator,
    spectra: Observed,
    measured: Measured,
    population: Population,
    start: Tensor,
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    device = model.scatter.device
    flux, ivar, shift = (a[rows].to(device) for a in (spectra.flux, spectra.ivar, spectra.shift))
    used = ivar > 0
    variance = 1 / torch.where(used, ivar, 1.0) + model.scatter.square()
    weight = torch.where(used, 1 / variance.clamp(min=1e-12), 0.0)
    flux = torch.where(used, flux, 0.0)
    known, precision = measured.take(rows), inverse(population.covariance)
    target = torch.where(torch.isfinite(known.value), known.value, 0.0)
    stiff = precision + torch.diag_embed(known.weight)

    def cost(x: Tensor, residual: Tensor) -> Tensor:
        chi2 = (weight * residual.square()).sum(1).double().cpu()
        away = x - population.mean
        measured_chi2 = (known.weight * (x - target).square()).sum(1)
        return chi2 + measured_chi2 + ((away @ precision) * away).sum(1)

    def curvature(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            rest, slopes = model.flux_and_jacobian(x.to(model.scatter))
            n, n_label, n_pixel = slopes.shape
            if bool(shift.any()):
                rest = shift_flux(rest, shift)
                every = shift.repeat_interleave(n_label)
                slopes = shift_flux(slopes.reshape(-1, n_pixel), every).view(n, n_label, n_pixel)
        residual = flux - rest
        weighted = slopes * weight[:, None]
        hessian = (weighted @ slopes.transpose(1, 2)).double().cpu() + stiff
        pull = (weighted @ residual[:, :, None])[:, :, 0].double().cpu()
        pull -= known.weight * (x - target) + (x - population.mean) @ precision
        return hessian, pull, cost(x, residual)

    x = start[rows].clamp(-REACH, REACH)
    damping = torch.full((len(x),), 1e-3, dtype=torch.float64)
    hessian, pull, now = curvature(x)
    for _ in range(STEPS):
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        damped = hessian + torch.diag_embed(damping[:, None] * diagonal)
        step = torch.linalg.solve(damped, pull)
        tried = (x + step).clamp(-REACH, REACH)
        new = curvature(tried)
        better = new[2] <= now
        x = torch.where(better[:, None], tried, x)
        hessian = torch.where(better[:, None, None], new[0], hessian)
        pull, now = torch.where(better[:, None], new[1], pull), torch.where(better, new[2], now)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-6, 1e6)
    return x, inverse(hessian)


def reset_axes(latent: Latent, measured: Measured) -> tuple[Latent, int]:
    """Bring latent labels to the measurements' units, and count measurements that are mistakes.

    Each label's measurements are regressed on all latent labels, whose own errors enter the normal
    equations as they do in the M step; measurements `WRONG_SIGMA` off are then left out, once.

    Returns
    -------
    Latent
        Moved by the affine map found.
    int
        Measurements left out.
    """
    n, n_label = latent.mean.shape
    ones = torch.ones(n, 1, dtype=torch.float64)
    design = torch.cat([latent.mean, ones], dim=1)
    spread = torch.nn.functional.pad(latent.covariance, (0, 1, 0, 1))
    moments = design[:, :, None] * design[:, None] + spread
    value = torch.where(torch.isfinite(measured.value), measured.value, 0.0)
    # An exact measurement says no more of the axes than one good to a hundredth of the range.
    weight = torch.where(measured.weight > 0, 1 / (measured.error.square() + 1e-4), 0.0)

    def solved() -> Tensor:
        gram = torch.einsum("nk,nij->kij", weight, moments)
        right = torch.einsum("nk,ni->ki", weight * value, design)
        eye = torch.eye(n_label + 1, dtype=torch.float64)
        trace = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        found: Tensor = torch.linalg.solve(gram + 1e-9 * trace * eye, right)
        return found

    matrix = solved()
    off = value - design @ matrix.T
    turned = (matrix[:, :-1] @ latent.covariance @ matrix[:, :-1].T).diagonal(dim1=1, dim2=2)
    wrong = (weight > 0) & (off.square() > WRONG_SIGMA**2 * (measured.error.square() + turned))
    enough = (weight > 0).sum(0) - wrong.sum(0) > n_label + 1
    wrong &= enough
    weight = torch.where(wrong, 0.0, weight)
    matrix = solved()
    moved = (design @ matrix.T).clamp(-REACH, REACH)
    covariance = matrix[:, :-1] @ latent.covariance @ matrix[:, :-1].T
    return Latent(moved, 0.5 * (covariance + covariance.transpose(1, 2))), int(wrong.sum())


def mistakes(latent: Latent, measured: Measured) -> Measured:
    """Return the measurements without those that the latent labels say are mistakes."""
    variance = measured.error.square() + latent.covariance.diagonal(dim1=1, dim2=2)
    wrong = (measured.value - latent.mean).square() > WRONG_SIGMA**2 * variance
    return Measured(torch.where(wrong, torch.nan, measured.value), measured.error)


def learn_latent(
    model: Emulator,
    spectra: Observed,
    measured: Measured,
    learn: Callable[[Tensor, int], None],
    *,
    rounds: int = 5,
    seed: int = 0,
) -> tuple[Latent, list[dict[str, float]]]:
    """Train a model on stars whose labels are missing or noisy.

    Parameters
    ----------
    model : Emulator
        Trained in place by `learn`.
    spectra : Observed
        Training spectra.
    measured : Measured
        What is known of their labels.
    learn : callable
        Given scaled labels (n, n_label) of all stars and the round, trains the model on them and
        sets its scatter.
    rounds : int
        E and M steps after the first training.
    seed : int
        Of the draws.

    Returns
    -------
    Latent
        Posterior of each star's labels.
    list of dict
        Per round: ``missing`` and ``mistakes``, measurements that are not there or were left out;
        ``moved``, root mean square change of labels, in parts of their range; ``label_error``, the
        posteriors' mean standard deviation.

    Raises
    ------
    ValueError
        If spectra and measurements are not of the same stars, or not of the model's pixels and
        labels.

    References
    ----------
    Celeux & Diebolt 1985, Comput. Stat. Q. 2, 73; Liu, Rubin & Wu 1998, Biometrika 85, 755.

    Examples
    --------
    Every other star has no label; all get the one that their spectrum was made with:

    >>> from scalespec.models.base import EmulatorSpec
    >>> from scalespec.models.cannon import Cannon
    >>> from scalespec.models.regression import fit_pixels
    >>> spec = EmulatorSpec("toy", ("teff",), [4000.0], [6000.0], [5000.0, 5001.0, 5002.0, 5003.0])
    >>> model = Cannon(spec, order=1)
    >>> truth = torch.linspace(-0.5, 0.5, 40)[:, None]
    >>> spectra = Observed((0.8 - 0.4 * truth).expand(40, 4), torch.full((40, 4), 1e4),
    ...                    torch.zeros(40))
    >>> def teach(x, _):
    ...     fit = fit_pixels(x, spectra.flux, spectra.ivar, order=1)
    ...     model.output.weight.data.copy_(fit.coefficients)
    >>> known = truth.clone()
    >>> known[::2] = torch.nan
    >>> measured = Measured.of(known, torch.full((40, 1), 0.01))
    >>> latent, history = learn_latent(model, spectra, measured, teach)
    >>> bool((latent.mean - truth).abs().max() < 0.01), len(history)
    (True, 5)
    """
    _check(model, spectra, measured, measured.value)
    generator = torch.Generator().manual_seed(seed)
    latent = first_guess(measured)
    missing = float((measured.weight == 0).sum())
    history: list[dict[str, float]] = []
    learn(latent.mean.clamp(-REACH, REACH), 0)
    believed = measured
    for k in range(1, rounds + 1):
        before = latent.mean
        found = expect(model, spectra, believed, Population.of(latent), before)
        latent, _ = reset_axes(found, measured)
        believed = mistakes(latent, measured)
        drawn = latent.draw(generator).clamp(-REACH, REACH)
        learn(drawn, k)
        spread = latent.covariance.diagonal(dim1=1, dim2=2).sqrt()
        history.append(
            {
                "round": float(k),
                "missing": missing,
                "mistakes": float((believed.weight == 0).sum()) - missing,
                "moved": float((latent.mean - before).square().mean().sqrt()),
                "label_error": float(spread.mean()),
            }
        )
    return latent, history
