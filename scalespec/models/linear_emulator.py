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
