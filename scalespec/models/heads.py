"""What every network of a regressor is given, and what it must give: means and log variances."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LOG_VARIANCE = (-14.0, 4.0)
"""Range of the log variance [scaled label**2]: beyond it a loss has no bound, or no gradient."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Sizes of a network's inputs and outputs.

    Attributes
    ----------
    wavelength : (n_pixel,) float64 [Å, vacuum]
    labels : tuple of str
    n_channel : int
        1: scaled flux, 0 where masked; 2: the pixel's weight, 0 to 1, beside it.
    n_input : int
        Numbers beside the spectrum.
    """

    wavelength: NDArray[np.float64]
    labels: tuple[str, ...]
    n_channel: int = 2
    n_input: int = 0

    @property
    def n_pixel(self) -> int:
        """Number of pixels."""
        return int(self.wavelength.size)

    @property
    def n_label(self) -> int:
        """Number of labels."""
        return len(self.labels)


class Head(torch.nn.Module):
    """The last layer: features (n, n_feature) -> mean and log variance (n, 2, n_label)."""

    def __init__(self, n_feature: int, n_label: int) -> None:
        super().__init__()
        self.n_label = n_label
        self.linear = torch.nn.Linear(n_feature, 2 * n_label)
        with torch.no_grad():  # begin with the mean label, and its spread as the error
            self.linear.weight.mul_(0.1)
            self.linear.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Return means (scaled labels) and log variances."""
        mean, log_variance = self.linear(features).split(self.n_label, dim=1)
        return torch.stack([mean, log_variance.clamp(*LOG_VARIANCE)], dim=1)


def lecun_(module: torch.nn.Module, gain: float = 1.0) -> None:
    """Draw a module's linear and convolution weights with variance gain**2 / fan-in; biases 0.

    A gain of 1 is LeCun's, what SELU wants to keep means and variances; sqrt(2) is He's, for ReLU.

    References
    ----------
    Klambauer et al. 2017, NeurIPS, arXiv:1706.02515; He et al. 2015, ICCV, arXiv:1502.01852.
    """
    for part in module.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d):
            fan_in = part.weight[0].numel()
            torch.nn.init.normal_(part.weight, std=gain * fan_in**-0.5)
            if part.bias is not None:
                torch.nn.init.zeros_(part.bias)


def dense(sizes: tuple[int, ...], activation: type[torch.nn.Module]) -> torch.nn.Sequential:
    """Return linear layers of these sizes, each followed by an activation."""
    layers: list[torch.nn.Module] = []
    for i in range(len(sizes) - 1):
        layers += [torch.nn.Linear(sizes[i], sizes[i + 1]), activation()]
    return torch.nn.Sequential(*layers)
