"""Emulators that end in a linear layer: what holds for all, whatever makes their features."""

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.linear import smoothed_pixels


class LinearEmulator(Emulator):
    """Features, then one linear layer to all pixels. A subclass gives `features` and `options`.

    Its constructor takes the specification, and `options` by name.
    """

    output: torch.nn.Linear

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return flux (n, n_pixel) and its derivatives (n, n_label, n_pixel) by scaled labels."""
        features, slopes = self.features_and_jacobian(x)
        return self.output(features), slopes @ self.output.weight.T

    def slice_grid(self, start: int, stop: int) -> Self:
        """Return this emulator for pixels ``[start, stop)`` only; it shares no memory with this.

        Raises
        ------
        ValueError
            If the range is empty or leaves the grid.
        """
        part = self._like(self.spec.slice(start, stop))
        state = self.state_dict()
        for name in ("output.weight", "output.bias", "scatter"):
            state[name] = state[name][start:stop]
        part.load_state_dict(state)
        return part

    def broadened(self, sigma_pixel: float, *, resolving_power: float) -> Self:
        """Return this emulator with its spectra smoothed by a Gaussian; exact, for it is linear.

        Parameters
        ----------
        sigma_pixel : float
            Standard deviation [pixel].
        resolving_power : float
            R of what comes out, for the new specification.

        Examples
        --------
        >>> from scalespec.models.payne import Payne
        >>> spec = EmulatorSpec("toy", ("teff",), [4e3], [6e3], 5000.0 + torch.arange(9).numpy())
        >>> sharp = Payne(spec, hidden=(2,))
        >>> with torch.no_grad():
        ...     _ = sharp.output.weight.zero_(), sharp.output.bias.fill_(1.0)
        ...     sharp.output.bias[4] = 0.0  # one line, of one pixel
        >>> blurred = sharp.broadened(1.0, resolving_power=1800.0)
        >>> blurred.forward_scaled(torch.zeros(1, 1))[0, 2:7].detach().round(decimals=2)
        tensor([0.9500, 0.7600, 0.6000, 0.7600, 0.9500])
        """
        spec = replace(self.spec, resolving_power=resolving_power)
        blurred = self._like(spec)
        state = self.state_dict()
        state["output.weight"] = smoothed_pixels(state["output.weight"].T, sigma_pixel).T
        state["output.bias"] = smoothed_pixels(state["output.bias"][None], sigma_pixel)[0]
        blurred.load_state_dict(state)
        return blurred

    def _like(self, spec: EmulatorSpec) -> Self:
        """Return a new one of the same kind and options, for other spectra."""
        kind: Callable[..., Self] = type(self)
        return kind(spec, **self.options).to(self.scatter)
