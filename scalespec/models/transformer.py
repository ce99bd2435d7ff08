"""Wavelength-query transformer: each pixel asks the labels' tokens what its flux is.

Labels become a few tokens, a wavelength becomes a query by sinusoids of its logarithm, and blocks
of cross-attention turn queries into flux, so the wavelengths may be any: TransformerPayne, Różański
& Ting 2025, ApJ 980, 66. Wavelengths are vacuum Å, shifts pixels of the model's grid.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scalespec.models.attention import (
    Block,
    LabelTokens,
    MixedTokens,
    check_sizes,
    rms_normalized,
)
from scalespec.models.base import Emulator, EmulatorSpec

log = logging.getLogger(__name__)

SHORTEST_PIXELS = 2.0
"""Shortest period of the sinusoids: what a grid can show."""
FLOATS_AT_ONCE = 1 << 24
"""Most floats of one layer held at a time, 64 MiB: bounds the memory of whole spectra."""

Answer = Callable[[Tensor, Tensor | None, Tensor], Tensor]
Precision = Literal["float32", "bfloat16"]


class SpectrumTransformer(Emulator):
    """Labels -> tokens; wavelengths -> queries; blocks of cross-attention -> flux per wavelength.

    Parameters
    ----------
    spec : EmulatorSpec
        Labels, ranges, grid.
    width : int
        Of tokens and queries.
    layers, heads : int
        Blocks of cross-attention; heads divide the width.
    tokens : int
        Tokens that all labels together are made into, as TransformerPayne's; 0: one per label,
        which learns from fewer spectra, as most pixels depend on few labels.
    encoder : int
        Blocks of attention between tokens before they are asked, as PhDLspec's.
    waves : int
        Sinusoids that a wavelength is told by.
    periods : (float, float), optional
        Shortest and longest period of the sinusoids, in log10 of wavelength; from the grid if not
        given. They belong to the weights: a cut grid keeps them.
    seed : int
        Of the first weights; the flux starts at 1.

    Attributes
    ----------
    precision : {"float32", "bfloat16"}
        Of the products within the blocks; derivatives for fits are always float32's.

    Raises
    ------
    ValueError
        If a size is not positive, the heads do not divide the width, or periods are no range.

    Examples
    --------
    >>> spec = EmulatorSpec("toy", ("teff", "logg"), [4000, 0], [6000, 5], [5000.0, 5001.0, 5002.0])
    >>> model = SpectrumTransformer(spec, width=8, layers=1, heads=2, tokens=3, waves=4)
    >>> model(torch.tensor([[5000.0, 2.5]])).shape
    torch.Size([1, 3])
    >>> [tensor.shape for tensor in model.flux_and_jacobian(torch.zeros(4, 2))]
    [torch.Size([4, 3]), torch.Size([4, 2, 3])]
    """

    phase: Tensor
    rate: Tensor
    pixel_step: Tensor

    def __init__(
        self,
        spec: EmulatorSpec,
        *,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
        tokens: int = 0,
        encoder: int = 0,
        waves: int = 512,
        periods: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(spec)
        check_sizes(width=width, heads=heads, layers=layers, waves=waves)
        if min(tokens, encoder) < 0:
            raise ValueError(f"tokens and encoder must not be negative, got {tokens}, {encoder}")
        self.width, self.heads, self.tokens, self.waves = width, heads, tokens, waves
        self.precision: Precision = "float32"
        self._fast: Answer | None = None
        self.periods = _periods(spec) if periods is None else tuple(map(float, periods))
        self._encode(spec)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            self.embed_labels = (
                MixedTokens(spec.n_label, tokens, width)
                if tokens
                else LabelTokens(spec.n_label, width)
            )
            self.encoder = torch.nn.ModuleList(Block(width, heads, encoder) for _ in range(encoder))
            self.embed_wave = torch.nn.Linear(2 * waves, width)
            self.blocks = torch.nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
            self.inside = torch.nn.Linear(width, width)
            self.flux = torch.nn.Linear(width, 1)
        with torch.no_grad():
            self.embed_wave.weight.mul_(math.sqrt(6.0))  # of sines: now queries have variance 1
            self.flux.weight.zero_()
            self.flux.bias.fill_(1.0)

    def _encode(self, spec: EmulatorSpec) -> None:
        """Make the sinusoids' phases; not saved, for the grid and the periods say them."""
        short, long = self.periods
        if not 0 < short < long:
            raise ValueError(f"periods must rise from above 0, got {self.periods}")
        position = np.log10(spec.wavelength)
        step = np.gradient(position) if spec.n_pixel > 1 else np.full(1, short / SHORTEST_PIXELS)
        # Evenly spaced: a grid has as many independent patterns as frequencies below its own.
        cycles = np.linspace(1 / long, 1 / short, self.waves)
        # In float64: a wavelength is thousands of the shortest periods.
        phase = np.mod(position[:, None] * cycles, 1.0) * 2 * np.pi
        for name, value in (("phase", phase), ("rate", 2 * np.pi * cycles), ("pixel_step", step)):
            tensor = torch.from_numpy(value.astype(np.float32))
            self.register_buffer(name, tensor, persistent=False)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the constructor that matter once there are weights."""
        sizes = {name: getattr(self, name) for name in ("width", "heads", "tokens", "waves")}
        depths = {"layers": len(self.blocks), "encoder": len(self.encoder)}
        return {**sizes, **depths, "periods": list(self.periods)}

    def forward(
        self, labels: Tensor, shift: Tensor | None = None, pixels: Tensor | None = None
    ) -> Tensor:
        """Return flux for physical `labels` (n, n_label), compiled if `compile_blocks` did so."""
        return self._flux(self.scale(labels), shift, pixels, self._fast or self._answer)

    def forward_scaled(self, x: Tensor) -> Tensor:
        """Return flux (n, n_pixel) for scaled labels `x` (n, n_label), some pixels at a time."""
        return self._flux(x, None, None, self._answer)

    def flux_at(
        self, x: Tensor, shift: Tensor | None = None, pixels: Tensor | None = None
    ) -> Tensor:
        """Return flux (n, m) of some pixels, asked at the wavelengths that `shift` brings there."""
        return self._flux(x, shift, pixels, self._answer)

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return flux (n, n_pixel) and its derivatives (n, n_label, n_pixel) by scaled labels.

        Forward-mode, in parts of the grid: exact, and in bounded memory.
        """
        flux, slopes = [], []
        precision, self.precision = self.precision, "float32"
        try:
            for pixels in self._parts(len(x) * self.spec.n_label):
                value, slope = self._forward_mode(partial(self.flux_at, pixels=pixels), x)
                flux.append(value)
                slopes.append(slope)
        finally:
            self.precision = precision
        return torch.cat(flux, dim=1), torch.cat(slopes, dim=2)

    def slice_grid(self, start: int, stop: int) -> "SpectrumTransformer":
        """Return this emulator for pixels ``[start, stop)`` only; it shares no memory with this.

        Raises
        ------
        ValueError
            If the range is empty or leaves the grid.
        """
        return self.on_grid(self.spec.slice(start, stop).wavelength)

    def on_grid(self, wavelength: NDArray[np.float64]) -> "SpectrumTransformer":
        """Return this emulator for other wavelengths, of the same resolution.

        Parameters
        ----------
        wavelength : (n,) float64 [Å, vacuum]
            Ascending, within what was learned from: beyond it, nothing is known.

        Raises
        ------
        ValueError
            If it is not ascending, or leaves the grid.
        """
        own = self.spec.wavelength
        spec = replace(self.spec, wavelength=wavelength)
        if spec.wavelength[0] < own[0] or spec.wavelength[-1] > own[-1]:
            raise ValueError(
                f"wavelengths {spec.wavelength[0]:.2f} to {spec.wavelength[-1]:.2f} Å leave what "
                f"was learned, {own[0]:.2f} to {own[-1]:.2f} Å"
            )
        other = SpectrumTransformer(spec, **self.options).to(self.scatter)
        scatter = np.interp(spec.wavelength, own, self.scatter.cpu().numpy())
        state = self.state_dict() | {"scatter": torch.from_numpy(scatter).to(self.scatter)}
        other.load_state_dict(state)
        other.precision = self.precision
        return other

    def broadened(self, sigma_pixel: float, *, resolving_power: float) -> "SpectrumTransformer":
        """Refuse: flux is made pixel by pixel here.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            f"{self.spec.name}: a transformer is not broadened by {sigma_pixel:.3g} pixels to "
            f"R = {resolving_power:g}: train it at that resolution, or distil it into a Payne"
        )

    def compile_blocks(self) -> bool:
        """Compile what training calls; say so and stay with what is there if that cannot be done.

        Derivatives by labels stay uncompiled: torch compiles no forward-mode differentiation.
        """
        compiled = torch.compile(self._answer, dynamic=True)
        try:  # it compiles at the first call
            with torch.no_grad():
                pixels = torch.arange(self.spec.n_pixel, device=self.scatter.device)
                compiled(self._tokens(self.scatter.new_zeros(3, self.spec.n_label)), None, pixels)
        except RuntimeError as error:
            log.warning("%s runs uncompiled: torch.compile failed: %s", self.spec.name, error)
            return False
        self._fast = compiled
        return True

    def _flux(
        self, x: Tensor, shift: Tensor | None, pixels: Tensor | None, answer: Answer
    ) -> Tensor:
        """Return flux of some pixels at once, or of all in parts.

        Where all are wanted with derivatives by labels, nothing but the flux is kept, and each part
        is made again when its turn comes.
        """
        tokens = self._tokens(x)
        if pixels is not None:
            return answer(tokens, shift, pixels)
        parts = self._parts(len(x))
        if len(parts) > 1 and torch.is_grad_enabled() and x.requires_grad:
            made = [checkpoint(answer, tokens, shift, part, use_reentrant=False) for part in parts]
        else:
            made = [answer(tokens, shift, part) for part in parts]
        return torch.cat(cast("list[Tensor]", made), dim=1)

    def _parts(self, rows: int) -> tuple[Tensor, ...]:
        """Return all pixels in parts that `rows` spectra hold in memory together."""
        size = max(FLOATS_AT_ONCE // (max(rows, 1) * 4 * self.width), 16)
        pixels = torch.arange(self.spec.n_pixel, device=self.scatter.device)
        return torch.split(pixels, size)

    def _tokens(self, x: Tensor) -> Tensor:
        """Return tokens (n, t, width) of scaled labels (n, n_label)."""
        tokens: Tensor = self.embed_labels(x)
        for block in self.encoder:
            tokens = block(tokens)
        return tokens

    def _answer(self, tokens: Tensor, shift: Tensor | None, pixels: Tensor) -> Tensor:
        """Return flux (n, m) that tokens (n, t, width) give to some pixels."""
        device = tokens.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            h = self._queries(shift, pixels).to(self.phase.dtype)  # sums of blocks stay exact
            for block in self.blocks:
                h = block(h, tokens)
            inside = torch.nn.functional.silu(self.inside(rms_normalized(h)))
        # Not in bfloat16: flux 1 - 0.001 must differ from 1.
        with torch.autocast(device, enabled=False):
            flux: Tensor = self.flux(inside.to(self.flux.weight.dtype))[..., 0]
        return flux

    def _queries(self, shift: Tensor | None, pixels: Tensor) -> Tensor:
        """Return queries (1 or n, m, width); lines that stand to the red are asked for bluer."""
        phase = self.phase[pixels][None]
        if shift is not None:
            moved = shift[:, None, None] * self.pixel_step[pixels][:, None]  # (n, m, 1)
            phase = phase - moved * self.rate
        waves = torch.cat([phase.sin(), phase.cos()], dim=-1)
        queries: Tensor = self.embed_wave(waves)
        return queries


def _periods(spec: EmulatorSpec) -> tuple[float, float]:
    """Return the shortest and longest period, in log10 of wavelength, that a grid asks for."""
    position = np.log10(spec.wavelength)
    if spec.n_pixel < 2:
        return 2e-4, 1.0
    short = SHORTEST_PIXELS * float(np.diff(position).min())
    return short, max(2 * float(position[-1] - position[0]), 2 * short)
