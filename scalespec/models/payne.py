"""The Payne: a small perceptron from labels to the flux of all pixels, with its exact Jacobian.

Ting et al. 2019, ApJ 879, 69; weights travel in the npz layout of github.com/tingyuansen/The_Payne.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from scalespec.models.base import EmulatorSpec, Multiply
from scalespec.models.linear_emulator import LinearEmulator

ACTIVATIONS = ("silu", "leaky_relu")
INPUT_GAIN = 2.0
"""First-layer weights start this much larger than torch's: scaled labels are smaller than 0.5."""


class Payne(LinearEmulator):
    """Labels -> hidden layers -> flux of all pixels.

    Parameters
    ----------
    spec : EmulatorSpec
        Labels, ranges, grid.
    hidden : sequence of int
        Widths of the hidden layers.
    activation : {"silu", "leaky_relu"}
        Smooth by default; imported weights want ``leaky_relu``, whose gradients jump.
    slope : float
        Slope of ``leaky_relu`` below zero.
    seed : int
        Of the first weights; the output layer starts at the continuum, flux 1.
    leeway : int
        So many labels, the last, go past the hidden layers: amplitudes of the model's own errors
        (`scalespec.models.leeway`).

    Raises
    ------
    ValueError
        If a width is not positive, the activation is unknown or no label is left.

    Examples
    --------
    >>> spec = EmulatorSpec("toy", ("teff", "logg"), [4000, 0], [6000, 5], [5000.0, 5001.0, 5002.0])
    >>> model = Payne(spec, hidden=(16, 16))
    >>> model(torch.tensor([[5000.0, 2.5]])).shape
    torch.Size([1, 3])
    >>> [tensor.shape for tensor in model.flux_and_jacobian(torch.zeros(4, 2))]
    [torch.Size([4, 3]), torch.Size([4, 2, 3])]
    """

    output: torch.nn.Linear

    def __init__(
        self,
        spec: EmulatorSpec,
        *,
        hidden: Sequence[int] = (300, 300),
        activation: str = "silu",
        slope: float = 0.01,
        seed: int = 0,
        leeway: int = 0,
    ) -> None:
        super().__init__(spec)
        if not 0 <= leeway < spec.n_label:
            raise ValueError(f"leeway must leave a label of {spec.n_label}, got {leeway}")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden widths must be positive, got {tuple(hidden)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, got '{activation}'")
        self.activation = activation
        self.slope = float(slope)
        self.leeway = int(leeway)
        widths = [spec.n_label - self.leeway, *(int(width) for width in hidden)]
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            self.hidden = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in pairwise(widths))
            self.output = torch.nn.Linear(widths[-1] + self.leeway, spec.n_pixel)
        with torch.no_grad():
            self._layers()[0].weight.mul_(INPUT_GAIN)
            self.output.bias.fill_(1.0)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the constructor that matter once there are weights."""
        hidden = [layer.out_features for layer in self._layers()]
        options = {"hidden": hidden, "activation": self.activation, "slope": self.slope}
        return options | ({"leeway": self.leeway} if self.leeway else {})

    @property
    def kinks(self) -> bool:
        """Whether the flux is made of pieces, so that fits have many optima."""
        return self.activation == "leaky_relu"

    def features(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, (n, width), for scaled labels; then the leeway's."""
        x, past = self._parted(x)
        for layer in self._layers():
            x = self._activate(layer(x))
        return torch.cat([x, past], dim=1) if self.leeway else x

    def forward_scaled(self, x: Tensor) -> Tensor:
        """Return flux (n, n_pixel) for scaled labels `x` (n, n_label)."""
        flux: Tensor = self.output(self.features(x))
        return flux

    def features_and_jacobian(
        self, x: Tensor, multiply: Multiply = torch.nn.functional.linear
    ) -> tuple[Tensor, Tensor]:
        """Return the last hidden layer (n, width) and its derivatives (n, n_label, width).

        The derivatives run forward beside the values, as matrix products over all spectra at once:
        ``D0 = act'(z0) W0``, ``D1 = act'(z1) W1 D0``.
        """
        slopes: Tensor | None = None  # (n, n_label, width)
        x, past = self._parted(x)
        for layer in self._layers():
            z = layer(x)
            own = self._slope(z)[:, None, :]
            if slopes is None:
                slopes = own * layer.weight.T
            else:
                flat = multiply(slopes.flatten(0, 1), layer.weight)
                # No -1 for the width: of no rows it cannot be told.
                moved = flat.view(*slopes.shape[:2], flat.shape[1])
                slopes = own * moved if torch.is_grad_enabled() else moved.mul_(own)
            x = self._activate(z)
        found = cast("Tensor", slopes)
        if self.leeway:
            found = torch.nn.functional.pad(found, (0, self.leeway, 0, self.leeway))
            found[:, -self.leeway :, -self.leeway :] = torch.eye(self.leeway).to(found)
            x = torch.cat([x, past], dim=1)
        return x, found

    def label_weight(self) -> tuple[Tensor, int]:
        """Return the first layer's weights; labels are their columns."""
        return self._layers()[0].weight, 1

    def _parted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels that the hidden layers see, and those that go past them."""
        n = self.spec.n_label - self.leeway
        return x[:, :n], x[:, n:]

    def _layers(self) -> list[torch.nn.Linear]:
        return cast("list[torch.nn.Linear]", list(self.hidden))

    def _activate(self, z: Tensor) -> Tensor:
        if self.activation == "silu":
            return torch.nn.functional.silu(z)
        return torch.nn.functional.leaky_relu(z, self.slope)

    def _slope(self, z: Tensor) -> Tensor:
        """Return the activation's derivative at `z`."""
        if self.activation == "silu":
            s = torch.sigmoid(z)
            return s * (1 + z * (1 - s))
        return torch.where(z > 0, 1.0, self.slope)
