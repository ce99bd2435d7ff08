"""Fully connected networks, with shortcuts (the residual ANN) and without (the plain one)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scalespec.models.heads import Head, Shape, dense, lecun_

PCA_ITERATIONS = 6
"""Rounds of subspace iteration: leading components to float32's accuracy where they stand apart."""


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
    pca : int
        Leading principal components of the scaled flux that are seen instead of its pixels; 0: the
        pixels. They are learned by `prepare`, and keep the ratio of their spreads.

    References
    ----------
    He et al. 2016, CVPR, arXiv:1512.03385; SELU and LeCun weights: Klambauer et al. 2017, NeurIPS,
    arXiv:1706.02515.
    """

    components: Tensor

    def __init__(
        self, shape: Shape, *, width: int = 512, blocks: int = 3, dropout: float = 0.0, pca: int = 0
    ) -> None:
        super().__init__()
        if pca > shape.n_pixel:
            raise ValueError(f"pca = {pca} components of {shape.n_pixel} pixels")
        n_seen = pca + shape.n_channel - 1 if pca else shape.n_pixel * shape.n_channel
        self.pca = pca
        self.register_buffer("components", torch.zeros(pca, shape.n_pixel))
        self.first = torch.nn.Linear(n_seen + shape.n_input, width)
        self.blocks = torch.nn.ModuleList(
            dense((width, width, width), torch.nn.SELU) for _ in range(blocks)
        )
        self.dropout = torch.nn.AlphaDropout(dropout)
        lecun_(self)
        self.head = Head(width, shape.n_label)

    def prepare(self, x: Tensor) -> None:
        """Learn the principal components of the first channel of `x` (n, n_channel, n_pixel)."""
        if self.pca:
            vectors, spread = principal(x[:, 0], self.pca)
            self.components.copy_(vectors / spread.square().mean().sqrt().clamp(min=1e-6))

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return means and log variances (n, 2, n_label) of scaled labels."""
        y = torch.nn.functional.selu(self.first(torch.cat([self._seen(x), extra], dim=1)))
        for block in self.blocks:
            y = self.dropout(y + block(y))
        made: Tensor = self.head(y)
        return made

    def _seen(self, x: Tensor) -> Tensor:
        """Return the pixels, or the components and the pixels' mean weight."""
        if not self.pca:
            return x.flatten(1)
        amplitude = torch.nn.functional.linear(x[:, 0], self.components)
        return torch.cat([amplitude, x[:, 1:].mean(dim=2)], dim=1)


class PlainMLP(torch.nn.Module):
    """The plain ANN: SELU layers one after another.

    Parameters
    ----------
    shape : Shape
    hidden : sequence of int
        Units of each layer.
    dropout : float
        Alpha dropout after each layer.
    """

    def __init__(
        self, shape: Shape, *, hidden: Sequence[int] = (512, 512, 512), dropout: float = 0.0
    ) -> None:
        super().__init__()
        n_seen = shape.n_pixel * shape.n_channel + shape.n_input
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(n_in, n_out)
            for n_in, n_out in zip((n_seen, *hidden[:-1]), hidden, strict=True)
        )
        self.dropout = torch.nn.AlphaDropout(dropout)
        lecun_(self)
        self.head = Head(hidden[-1], shape.n_label)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return means and log variances (n, 2, n_label) of scaled labels."""
        y = torch.cat([x.flatten(1), extra], dim=1)
        for layer in self.layers:
            y = self.dropout(torch.nn.functional.selu(layer(y)))
        made: Tensor = self.head(y)
        return made


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
