"""Distillation: a small fast student learns the spectra and the derivatives of a teacher.

The teacher has no end of spectra: every epoch draws labels anew from the teacher's box. Where the
student may not be trusted is measured on draws that it has never seen, label by label and region by
region.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.models.base import Emulator
from scalespec.models.prior import GradientPrior, prior_of
from scalespec.models.training import Batch

STARS_AT_ONCE = 256
GRADIENT_STARS_AT_ONCE = 8
GRADIENT_STEP = 0.04
"""Half the span of central differences, in units of a label's range: 0.1 dex of 2.5. Networks with
kinks have derivatives that jump from point to point; a fit feels their mean over such a span."""
LEARNED, HELD, REFERENCE = range(3)
"""What labels are drawn for: different draws of one seed."""


def draw_labels(n_label: int, n: int, seed: tuple[int, ...], *, margin: float = 0.0) -> Tensor:
    """Return `n` sets of scaled labels, even over the box less `margin` on every side.

    Examples
    --------
    >>> float(draw_labels(3, 1000, (1, 2), margin=0.1).abs().max()) <= 0.4
    True
    """
    half = 0.5 - margin
    drawn = np.random.default_rng(seed).uniform(-half, half, (n, n_label))
    return torch.from_numpy(drawn.astype(np.float32))


@torch.no_grad()
def emulated(model: Emulator, x: Tensor) -> Tensor:
    """Return flux (n, n_pixel) of scaled labels, some stars at a time."""
    return torch.cat([model.forward_scaled(part) for part in torch.split(x, STARS_AT_ONCE)])


@torch.no_grad()
def central_gradients(model: Emulator, x: Tensor, step: Tensor) -> Tensor:
    """Return central differences (n, n_label, n_pixel) of flux, by scaled labels.

    Parameters
    ----------
    model : Emulator
    x : (n, n_label) tensor
        Scaled labels.
    step : (n_label,) tensor
        Half the span of each label's difference, scaled.

    Examples
    --------
    >>> from scalespec.models.base import EmulatorSpec
    >>> from scalespec.models.payne import Payne
    >>> model = Payne(EmulatorSpec("t", ("teff", "logg"), [4e3, 0], [6e3, 5], [5e3, 5001.0]))
    >>> x, step = torch.zeros(3, 2), torch.full((2,), 0.01)
    >>> exact = model.flux_and_jacobian(x)[1]
    >>> torch.allclose(central_gradients(model, x, step), exact, atol=1e-3)
    True
    """
    moves = torch.diag(step.to(x))
    ends = [
        emulated(model, (x[:, None] + sign * moves).flatten(0, 1)).view(*x.shape, -1)
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * step.to(x))[:, None]


@dataclass(frozen=True)
class TeacherSpectra:
    """Spectra that a teacher makes at labels drawn from its box: a `training.Reader`.

    Attributes
    ----------
    teacher : Emulator
    n : int
        Spectra per epoch, on all ranks together.
    seed : int
    """

    teacher: Emulator
    n: int
    seed: int

    def chunks(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield this rank's part of an epoch, `STARS_AT_ONCE` rows and more at a time."""
        x = self._drawn(epoch)
        mine = x[: max(self.n // world_size, 1) * world_size][rank::world_size]
        for part in torch.split(mine, 8 * STARS_AT_ONCE):
            yield self._batch(part)

    def labels(self, epoch: int) -> NDArray[np.float32]:
        """Return the physical labels (n, n_label) of an epoch's spectra."""
        return self.teacher.unscale(self._drawn(epoch).double()).float().numpy()

    def held(self, n: int) -> Batch:
        """Return spectra that no epoch has."""
        return self._batch(draw_labels(self.teacher.spec.n_label, n, (self.seed, HELD)))

    def references(self, n: int, strength: float) -> GradientPrior:
        """Return the prior that the teacher's derivatives at `n` stars make."""
        n_label = self.teacher.spec.n_label
        x = draw_labels(n_label, n, (self.seed, REFERENCE), margin=GRADIENT_STEP)
        x = x.to(self.teacher.scatter)
        step = torch.full((n_label,), GRADIENT_STEP)
        gradient = torch.cat(
            [
                central_gradients(self.teacher, part, step)
                for part in torch.split(x, GRADIENT_STARS_AT_ONCE)
            ]
        )
        return prior_of(x, gradient, strength=strength)

    def _drawn(self, epoch: int) -> Tensor:
        return draw_labels(self.teacher.spec.n_label, self.n, (self.seed, LEARNED, epoch))

    def _batch(self, x: Tensor) -> Batch:
        flux = emulated(self.teacher, x.to(self.teacher.scatter)).float().cpu().numpy()
        labels = self.teacher.unscale(x.double()).float().numpy()
        ivar = np.full(flux.shape, np.inf, np.float32)
        return labels, flux, ivar, np.zeros(len(x), np.float32)


def measure_trust(
    teacher: Emulator, student: Emulator, *, n: int = 512, bins: int = 4, seed: int = 0
) -> dict[str, Any]:
    """Say how far a student is from its teacher, for each label and each region of label space.

    Parameters
    ----------
    teacher, student : Emulator
        Of the same labels, ranges and grid.
    n : int
        Held-out draws.
    bins : int
        Regions per label: equal parts of its range.
    seed : int
        Of the draws.

    Returns
    -------
    dict of plain JSON types
        ``flux_rms`` and ``gradient_error`` (n_label,) over all draws: of flux, and of the
        derivative by each label relative to the teacher's own. By region, ``flux_rms_by_region``
        (n_label, bins) and ``gradient_error_by_region`` (n_label, bins, n_label): region of one
        label, derivative by another. ``edges`` (n_label, bins + 1) in physical units.
        ``flux_rms_by_pixel`` (n_pixel,).

    Raises
    ------
    ValueError
        If labels, ranges or grids differ.

    Examples
    --------
    >>> from scalespec.models.base import EmulatorSpec
    >>> from scalespec.models.payne import Payne
    >>> model = Payne(EmulatorSpec("t", ("teff", "logg"), [4e3, 0], [6e3, 5], [5e3, 5001.0]))
    >>> measure_trust(model, model, n=16)["gradient_error"]
    [0.0, 0.0]
    """
    _check_alike(teacher, student)
    spec = teacher.spec
    x = draw_labels(spec.n_label, n, (seed, HELD, 1), margin=GRADIENT_STEP)
    step = torch.full((spec.n_label,), GRADIENT_STEP)
    flux_error, by_pixel = [], torch.zeros(spec.n_pixel, dtype=torch.float64)
    gradient_error, gradient_size = [], []
    for part in torch.split(x, GRADIENT_STARS_AT_ONCE):
        wrong = (emulated(student, part) - emulated(teacher, part)).square().double()
        flux_error.append(wrong.mean(1))
        by_pixel += wrong.sum(0) / n
        wanted = central_gradients(teacher, part, step)
        missed = central_gradients(student, part, step) - wanted
        gradient_error.append(missed.square().sum(2).double())
        gradient_size.append(wanted.square().sum(2).double())
    flux, error, size = (
        torch.cat(parts).numpy() for parts in (flux_error, gradient_error, gradient_size)
    )
    region = np.clip(((x.numpy() + 0.5) * bins).astype(int), 0, bins - 1)  # (n, n_label)
    inside = (region[:, :, None] == np.arange(bins)).astype(float)  # (n, n_label, bins)
    span = (spec.maximum - spec.minimum)[:, None]
    edges = spec.minimum[:, None] + span * np.linspace(0, 1, bins + 1)
    flux_by_region = _mean(np.einsum("nlb,n->lb", inside, flux), inside.sum(0))
    error_by_region = np.einsum("nlb,nk->lbk", inside, error)
    size_by_region = np.einsum("nlb,nk->lbk", inside, size)
    return {
        "labels": list(spec.labels),
        "n": n,
        "edges": edges.tolist(),
        "flux_rms": float(np.sqrt(flux.mean())),
        "flux_rms_by_pixel": by_pixel.sqrt().tolist(),
        "flux_rms_by_region": np.sqrt(flux_by_region).tolist(),
        "gradient_error": np.sqrt(_mean(error.sum(0), size.sum(0))).tolist(),
        "gradient_error_by_region": np.sqrt(_mean(error_by_region, size_by_region)).tolist(),
    }


def distrusted(
    trust: dict[str, Any], *, flux_rms: float = 0.005, gradient_error: float = 0.25
) -> list[str]:
    """Say in words where a student is farther from its teacher than these limits.

    Examples
    --------
    >>> trust = {
    ...     "labels": ["teff"], "edges": [[4000.0, 5000.0, 6000.0]],
    ...     "flux_rms_by_region": [[0.001, 0.02]], "gradient_error_by_region": [[[0.1], [0.3]]],
    ... }
    >>> distrusted(trust)
    ['teff 5000 to 6000: flux 0.020', 'teff 5000 to 6000: derivatives by teff 30 %']
    """
    found = []
    for k, label in enumerate(trust["labels"]):
        edges = trust["edges"][k]
        for b, (low, high) in enumerate(pairwise(edges)):
            where = f"{label} {low:g} to {high:g}"
            if (rms := trust["flux_rms_by_region"][k][b]) > flux_rms:
                found.append(f"{where}: flux {rms:.3f}")
            errors = trust["gradient_error_by_region"][k][b]
            found += [
                f"{where}: derivatives by {by} {100 * error:.0f} %"
                for by, error in zip(trust["labels"], errors, strict=True)
                if error > gradient_error
            ]
    return found


def _mean(total: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return totals over weights; 0 where there is nothing: no draw, or no derivative to miss."""
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), 0.0)


def _check_alike(teacher: Emulator, student: Emulator) -> None:
    for name in ("labels", "minimum", "maximum", "wavelength"):
        ours, theirs = (getattr(model.spec, name) for model in (student, teacher))
        if len(ours) != len(theirs) or not np.array_equal(ours, theirs):
            raise ValueError(f"teacher and student differ in {name}: {theirs} and {ours}")
