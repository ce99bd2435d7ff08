"""How unlike the training spectra a spectrum is, whatever a model says of its labels."""

import torch
from torch import Tensor

from scalespec.models.residual import principal

COMPONENTS = 16
FIT_ROWS = 4096
"""Most training spectra that the components are learned from."""
FAR_QUANTILE = 0.99
"""Of the spectra held back: the score is 1 there."""


class Domain(torch.nn.Module):
    """Principal components of the training spectra; the score looks along them and off them.

    Along them: squares of the components' amplitudes over their variance in training. Off them:
    squares of what the components leave, over its variance in training. Noise is added to both
    variances. The score is the root of the larger, each in units of the 99th percentile of the
    spectra held back.
    """

    components: Tensor
    spread: Tensor
    remainder: Tensor
    far: Tensor

    def __init__(self, n_pixel: int) -> None:
        super().__init__()
        n = min(COMPONENTS, n_pixel)
        self.register_buffer("components", torch.zeros(n, n_pixel))
        self.register_buffer("spread", torch.ones(n))
        self.register_buffer("remainder", torch.ones(n_pixel))
        self.register_buffer("far", torch.ones(2))

    def learn(self, x: Tensor) -> None:
        """Learn what is usual from scaled training flux (n, n_pixel), 0 where it is masked."""
        x = x[:FIT_ROWS]
        components, spread = principal(x, len(self.components))
        self.components.copy_(components)
        self.spread.copy_(spread)
        left = x - (x @ components.T) @ components
        self.remainder.copy_(left.square().mean(dim=0).clamp(min=1e-8))

    def reach(self, x: Tensor, variance: Tensor) -> None:
        """Set how far is far, from scaled spectra held back; see `forward`."""
        distance, _ = self._distances(x, variance)
        self.far.copy_(distance.quantile(FAR_QUANTILE, dim=0).clamp(min=1e-6))

    def forward(self, x: Tensor, variance: Tensor) -> Tensor:
        """Return scores (n,).

        Parameters
        ----------
        x : (n, n_pixel) tensor
            Scaled flux, 0 where masked.
        variance : (n, n_pixel) tensor
            Of its noise; infinite where masked. A spectrum that is all masked scores infinity.

        Examples
        --------
        >>> domain = Domain(4)  # it has learned nothing: all directions scatter by 1
        >>> noise = torch.tensor([[1.0, 1.0, 1.0, 1.0], [torch.inf] * 4])
        >>> domain(torch.tensor([[2.0, 2.0, 2.0, 2.0], [0.0] * 4]), noise).round(decimals=2)
        tensor([1.4100,    inf])
        """
        distance, n_good = self._distances(x, variance)
        score = (distance / self.far).amax(dim=1).sqrt()
        return torch.where(n_good == 0, torch.inf, score)

    def _distances(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean squares along and off the components, (n, 2), and the good pixels, (n,)."""
        good = torch.isfinite(variance)
        n_good = good.sum(dim=1)
        count = n_good.clamp(min=1)
        noise = torch.where(good, variance, 0.0).sum(dim=1) / count
        amplitude = torch.nn.functional.linear(x, self.components)
        usual = self.spread.square() + noise[:, None] + 1e-8
        along = (amplitude.square() / usual).mean(dim=1)
        left = torch.addmm(x, amplitude, self.components, alpha=-1).square_()
        off = left.div_(self.remainder + variance).sum(dim=1) / count  # 0 where masked: over inf
        return torch.stack([along, off], dim=1), n_good
