"""The gradient prior: an emulator's derivatives must be those of physics at some reference stars.

Spectra whose labels go together (all alpha elements, say) leave open which label makes which line.
Derivatives of theoretical spectra at a few reference stars settle it: the loss gains
``strength * mean of |dF/dx - G|² / |G|²``, ``|G|²`` being each label's mean over the references, so
that a weak line counts by its relative error as a strong one does.

Ting et al. 2017, ApJL 849, L9 and Xiang et al. 2019, ApJS 245, 34 (DD-Payne); here with squares,
which variable projection solves exactly in the output layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespec.models.base import Emulator


@dataclass(frozen=True)
class GradientPrior:
    """Derivatives of normalized flux by scaled labels, one row per reference star and label.

    Attributes
    ----------
    x : (n, n_label) tensor
        Scaled labels of the reference star.
    label : (n,) int64 tensor
        Which label the row is the derivative by.
    gradient : (n, n_pixel) tensor
        Of flux, by the scaled label: the change over the label's whole range.
    known : (n_pixel,) bool tensor
        Pixels that the references cover.
    strength : float
        Weight of the mean square relative error of gradients beside that of flux.

    Raises
    ------
    ValueError
        If shapes do not fit, something is not finite or `strength` is negative.
    """

    x: Tensor
    label: Tensor
    gradient: Tensor
    known: Tensor
    strength: float = 1.0

    def __post_init__(self) -> None:
        n, n_pixel = self.gradient.shape
        if self.x.shape[0] != n or self.label.shape != (n,) or self.known.shape != (n_pixel,):
            raise ValueError(
                f"gradients {tuple(self.gradient.shape)} do not fit labels {tuple(self.x.shape)}, "
                f"{tuple(self.label.shape)} and pixels {tuple(self.known.shape)}"
            )
        if not bool(torch.isfinite(self.x).all() and torch.isfinite(self.gradient).all()):
            raise ValueError("gradients and labels of reference stars must be finite")
        if not self.strength >= 0:
            raise ValueError(
                f"the strength of the gradient prior must be >= 0, got {self.strength}"
            )

    def __len__(self) -> int:
        return len(self.gradient)

    def to(self, like: Tensor) -> "GradientPrior":
        """Return the prior on the device and in the precision of `like`."""
        moved = (self.x.to(like), self.label.to(like.device), self.gradient.to(like))
        return GradientPrior(*moved, self.known.to(like.device), self.strength)

    def share(self, pixel: Tensor) -> Tensor:
        """Return the weight (n,) of each row's square error summed over pixels, weighted `pixel`.

        Rows of one label share one norm: a label without effect on some references is asked to
        have little there, not to be exact to a tenth of nothing.
        """
        square = (self.gradient.square() * (pixel * self.known)).sum(1)
        total = torch.zeros(self.x.shape[1], dtype=square.dtype, device=square.device)
        count = torch.zeros_like(total)
        total.index_add_(0, self.label, square)
        count.index_add_(0, self.label, torch.ones_like(square))
        norm = (total / count.clamp(min=1))[self.label]
        return torch.where(norm > 0, 1 / (norm * len(self)), 0.0)

    def slopes(self, model: Emulator) -> Tensor:
        """Return the derivatives of the model's features, (n, n_feature), row by row."""
        return _along(model.features, self.x, self.label)

    def loss(self, model: Emulator, pixel: Tensor) -> Tensor:
        """Return the mean square relative error of the model's gradients, times the strength.

        Parameters
        ----------
        model : Emulator
        pixel : (n_pixel,) tensor
            Weight of each pixel.

        Examples
        --------
        >>> from scalespec.models.base import EmulatorSpec
        >>> from scalespec.models.payne import Payne
        >>> teacher = Payne(EmulatorSpec("t", ("teff", "logg"), [4e3, 0], [6e3, 5], [5e3, 5001.0]))
        >>> gradient_prior(teacher, torch.zeros(3, 2)).loss(teacher, torch.ones(2)) < 1e-9
        tensor(True)
        """
        error = _along(model.forward_scaled, self.x, self.label) - self.gradient
        square = (error.square() * (pixel * self.known)).sum(1)
        return self.strength * (self.share(pixel) * square).sum()

    def sampled_loss(
        self, model: Emulator, share: Tensor, rows: Tensor, pixels: Tensor | None = None
    ) -> Tensor:
        """Return what `loss` is on average, all pixels weighing 1, from some rows and pixels.

        Parameters
        ----------
        model : Emulator
            Any that forward-mode differentiation goes through.
        share : (n,) tensor
            What `share` gives for pixels of weight 1.
        rows : (m,) int64 tensor
            Drawn evenly from all.
        pixels : (k,) int64 tensor, optional
            Drawn evenly from all; all by default.

        Examples
        --------
        >>> from scalespec.models.base import EmulatorSpec
        >>> from scalespec.models.payne import Payne
        >>> model = Payne(EmulatorSpec("m", ("teff", "logg"), [4e3, 0], [6e3, 5], [5e3, 5001.0]))
        >>> prior = gradient_prior(Payne(model.spec, seed=1), torch.zeros(3, 2))
        >>> whole, share = prior.loss(model, torch.ones(2)), prior.share(torch.ones(2))
        >>> rows, parts = torch.arange(6), torch.tensor([[0], [1]])
        >>> halves = [prior.sampled_loss(model, share, rows, part) for part in parts]
        >>> torch.isclose(sum(halves) / 2, whole)
        tensor(True)
        """

        def flux(x: Tensor) -> Tensor:
            return model.flux_at(x, None, pixels)

        wanted, known = self.gradient[rows], self.known
        if pixels is not None:
            wanted, known = wanted[:, pixels], known[pixels]
        error = _along(flux, self.x[rows], self.label[rows]) - wanted
        square = (error.square() * known).sum(1)
        scale = len(self) / len(rows) * self.gradient.shape[1] / wanted.shape[1]
        return self.strength * scale * (share[rows] * square).sum()


def _along(function: Callable[[Tensor], Tensor], x: Tensor, label: Tensor) -> Tensor:
    """Return the derivative of `function` at each row of `x` by that row's label."""
    direction = torch.nn.functional.one_hot(label, x.shape[1]).to(x)
    slope: Tensor = torch.func.jvp(function, (x,), (direction,))[1]
    return slope


def gradient_prior(model: Emulator, x: Tensor, *, strength: float = 1.0) -> GradientPrior:
    """Return the prior that a teacher's own derivatives make at some stars.

    Parameters
    ----------
    model : Emulator
        The teacher, in the student's scaling, grid and normalization.
    x : (n_star, n_label) tensor
        Scaled labels of the reference stars.
    strength : float

    Examples
    --------
    >>> from scalespec.models.base import EmulatorSpec
    >>> from scalespec.models.payne import Payne
    >>> teacher = Payne(EmulatorSpec("t", ("teff", "logg"), [4e3, 0], [6e3, 5], [5e3, 5001.0]))
    >>> gradient_prior(teacher, torch.zeros(3, 2)).gradient.shape
    torch.Size([6, 2])
    """
    with torch.no_grad():
        _, jacobian = model.flux_and_jacobian(x)
    return prior_of(x, jacobian, strength=strength)


def prior_of(x: Tensor, gradient: Tensor, *, strength: float = 1.0) -> GradientPrior:
    """Return the prior of derivatives by all labels, known in all pixels.

    Parameters
    ----------
    x : (n_star, n_label) tensor
        Scaled labels of the reference stars.
    gradient : (n_star, n_label, n_pixel) tensor
        By scaled labels.
    strength : float

    Examples
    --------
    >>> len(prior_of(torch.zeros(3, 2), torch.ones(3, 2, 5)))
    6
    """
    n_star, n_label, n_pixel = gradient.shape
    return GradientPrior(
        x.repeat_interleave(n_label, dim=0),
        torch.arange(n_label, device=x.device).repeat(n_star),
        gradient.reshape(n_star * n_label, n_pixel),
        torch.ones(n_pixel, dtype=torch.bool, device=x.device),
        strength,
    )
