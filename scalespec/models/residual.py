"""Fully connected networks, with shortcuts (the residual ANN) and without (the plain one)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scalespec.models.heads import Head, Shape, dense, lecun_

SMALL_GAIN = 3**-0.5
"""Of weights before a GELU: near 0 it is a parabola about a line, where learning begins slowly but
ends better than from larger weights (measured on Gaia XP spectra)."""
FURTHEST = 20.0
"""Amplitudes of components, whose mean square is 1, stand still beyond this."""
LEAST_SPREAD = 1e-5
"""Of a component, in units of the largest: below it there is rounding alone to enlarge."""
PCA_ITERATIONS = 6
"""Rounds of subspace iteration: leading components to float32's accuracy where they stand apart."""
LEAST_NOISE = 1e-6
"""Variance in units of the training spread's: below it a weight, in float32, says no more."""


class Given(torch.nn.Module):
    """What a fully connected network is given: pixels, principal components, or both.

    Parameters
    ----------
    shape : Shape
    pca : int
        Leading principal components of the scaled flux; 0: pixels alone. `learn` sets them; their
        mean square over all components is 1.
    whiten : float
        Power of its spread that each component is divided by: with 0 they keep the ratio of their
        spreads, with 1 all have the same. The lines that tell abundances apart lie in components
        of little spread, which a network learns late if it sees them small.
    pixels : bool
        With `pca`: pixels stand beside the components, not only the mean of their weights.
    noise : int
        Bands of neighboring pixels in each of which the mean logarithm of the noise is given, in
        the place of every pixel's weight; 0: weights. What is best to say of a spectrum depends on
        its noise, which all bands hold in a few numbers.

    Raises
    ------
    ValueError
        If there are fewer pixels than components or bands, `whiten` is not in [0, 1], or there are
        no weights to tell the noise.
    """

    components: Tensor
    noise_mean: Tensor
    noise_std: Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        pca: int = 0,
        whiten: float = 0.0,
        pixels: bool = False,
        noise: int = 0,
    ) -> None:
        super().__init__()
        if pca > shape.n_pixel:
            raise ValueError(f"pca = {pca} components of {shape.n_pixel} pixels")
        if not 0 <= whiten <= 1:
            raise ValueError(f"whiten = {whiten}: wanted 0 to 1")
        if not 0 <= noise <= shape.n_pixel or (noise and shape.n_channel < 2):
            raise ValueError(
                f"noise = {noise} bands of {shape.n_pixel} pixels: wanted no more, and use_ivar"
            )
        self.pca, self.whiten, self.pixels, self.noise = pca, whiten, pixels or not pca, noise
        self.register_buffer("components", torch.zeros(pca, shape.n_pixel))
        weights = noise or (shape.n_channel - 1) * (shape.n_pixel if self.pixels else 1)
        if noise:
            self.register_buffer("noise_mean", torch.zeros(noise))
            self.register_buffer("noise_std", torch.ones(noise))
        self.size = pca + shape.n_pixel * self.pixels + weights + shape.n_input
        """Numbers that the network is given."""

    def learn(self, x: Tensor) -> None:
        """Learn components of the first channel of `x` (n, n_channel, n_pixel), and usual noise."""
        if self.noise:
            bands = self._log_noise(x)
            self.noise_mean.copy_(bands.mean(dim=0))
            spread = bands.std(dim=0, correction=0)
            self.noise_std.copy_(torch.where(spread > 0, spread, 1.0))
        if self.pca:
            vectors, spread = principal(x[:, 0], self.pca)
            spread = spread.clamp(min=LEAST_SPREAD * float(spread[0]))
            seen = spread ** (1 - self.whiten)
            scale = spread**-self.whiten / seen.square().mean().sqrt().clamp(min=1e-6)
            self.components.copy_(vectors * scale[:, None])

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return the numbers (n, size) of spectra (n, n_channel, n_pixel) and inputs beside."""
        given = [x[:, 0], self._weights(x), extra] if self.pixels else [self._weights(x), extra]
        if self.pca:
            with torch.autocast(x.device.type, enabled=False):  # small components are differences
                amplitude = x[:, 0] @ self.components.T  # not linear: that may be rounded, too
            given.insert(0, amplitude.clamp(-FURTHEST, FURTHEST))
        return torch.cat(given, dim=1)

    def _weights(self, x: Tensor) -> Tensor:
        """Return what is given of the pixels' weights, which are the other channels."""
        if self.noise:
            scaled = (self._log_noise(x) - self.noise_mean) / self.noise_std
            return scaled.clamp(-FURTHEST, FURTHEST)
        return x[:, 1:].flatten(1) if self.pixels else x[:, 1:].mean(dim=2)

    def _log_noise(self, x: Tensor) -> Tensor:
        """Return the mean logarithm (n, noise) of the good pixels' noise variance in each band."""
        weight = x[:, 1].float()
        good = weight > 0
        noise = torch.where(good, (1 / weight.clamp(min=1e-9) - 1).clamp(min=LEAST_NOISE).log(), 0)
        bands = zip(
            noise.tensor_split(self.noise, 1), good.tensor_split(self.noise, 1), strict=True
        )
        return torch.stack([n.sum(1) / g.sum(1).clamp(min=1) for n, g in bands], dim=1)


class ResidualMLP(torch.nn.Module):
    """The residual ANN: blocks ``x + F(x)`` of two SELU layers each.

    Parameters
    ----------
    shape : Shape
    width : int
        Units of every layer.
    blocks : int
    dropout : float
        Alpha dropout after each block.
    **given
        ``pca``, ``whiten``, ``pixels`` and ``noise``: see `Given`.

    References
    ----------
    He et al. 2016, CVPR, arXiv:1512.03385; SELU and LeCun weights: Klambauer et al. 2017, NeurIPS,
    arXiv:1706.02515.
    """

    def __init__(
        self, shape: Shape, *, width: int = 512, blocks: int = 3, dropout: float = 0.0, **given: Any
    ) -> None:
        super().__init__()
        self.given = Given(shape, **given)
        self.first = torch.nn.Linear(self.given.size, width)
        self.blocks = torch.nn.ModuleList(
            dense((width, width, width), torch.nn.SELU) for _ in range(blocks)
        )
        self.dropout = torch.nn.AlphaDropout(dropout)
        lecun_(self)
        self.head = Head(width, shape.n_label)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return means and log variances (n, 2, n_label) of scaled labels."""
        y = torch.nn.functional.selu(self.first(self.given(x, extra)))
        for block in self.blocks:
            y = self.dropout(y + block(y))
        made: Tensor = self.head(y)
        return made


class PlainMLP(torch.nn.Module):
    """The plain ANN: layers one after another.

    Parameters
    ----------
    shape : Shape
    hidden : sequence of int
        Units of each layer.
    activation : {"selu", "gelu"}
        After each layer.
    dropout : float
        After each layer; alpha dropout with SELU.
    **given
        ``pca``, ``whiten``, ``pixels`` and ``noise``: see `Given`.

    Raises
    ------
    ValueError
        If there is no such activation.

    References
    ----------
    GELU: Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: Sequence[int] = (512, 512, 512),
        activation: str = "selu",
        dropout: float = 0.0,
        **given: Any,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"no activation '{activation}'; there are {sorted(_ACTIVATIONS)}")
        self.given = Given(shape, **given)
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(n_in, n_out)
            for n_in, n_out in zip((self.given.size, *hidden[:-1]), hidden, strict=True)
        )
        act, drop, gain = _ACTIVATIONS[activation]
        self.activation, self.dropout = act(), drop(dropout)
        lecun_(self, gain)
        self.head = Head(hidden[-1], shape.n_label)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return means and log variances (n, 2, n_label) of scaled labels."""
        y = self.given(x, extra)
        for layer in self.layers:
            y = self.dropout(self.activation(layer(y)))
        made: Tensor = self.head(y)
        return made


_ACTIVATIONS: dict[str, tuple[type[torch.nn.Module], type[torch.nn.Module], float]] = {
    "selu": (torch.nn.SELU, torch.nn.AlphaDropout, 1.0),
    "gelu": (torch.nn.GELU, torch.nn.Dropout, SMALL_GAIN),
}
"""Layer, its kind of dropout, and the gain that its weights are drawn with."""


def principal(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return leading principal directions of rows about 0, and the rows' spread along them.

    Parameters
    ----------
    x : (n_row, n_pixel) float tensor
    n : int
        How many; at most n_pixel. Directions beyond the rank of `x` have spread 0.

    Returns
    -------
    (n, n_pixel) and (n,) tensors
        Orthonormal directions, largest spread first; root mean squares.

    References
    ----------
    Halko, Martinsson & Tropp 2011, SIAM Review 53, 217, algorithm 4.4.

    Examples
    --------
    >>> vectors, spread = principal(torch.tensor([[3.0, 0.0], [-3.0, 0.1], [3.0, -0.1]]), 1)
    >>> vectors.abs().round(decimals=1), spread.round(decimals=1)
    (tensor([[1., 0.]]), tensor([3.]))
    """
    draw = torch.Generator().manual_seed(0)
    width = min(n + 8, x.shape[1])  # a few more than wanted: the last ones converge slowly
    basis = torch.randn(x.shape[1], width, generator=draw).to(x)
    for _ in range(PCA_ITERATIONS):
        basis = torch.linalg.qr(x.T @ (x @ basis)).Q
    _, singular, right = torch.linalg.svd(x @ basis, full_matrices=False)
    k = min(n, len(singular))
    vectors = torch.linalg.qr(basis).Q[:, :n].T.clone()
    vectors[:k] = (basis @ right.T).T[:k]
    spread = torch.nn.functional.pad(singular[:k], (0, n - k)) / len(x) ** 0.5
    return vectors, spread
