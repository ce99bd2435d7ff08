"""StarNet: a one-dimensional convolutional network on the spectrum."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from scalespec.models.heads import Head, Shape, dense, lecun_

TOGETHER = 8
"""Neighboring output pixels that one row of a matrix product makes."""


class StarNet(torch.nn.Module):
    """Two convolutions, a pooling over pixels, two dense layers; ReLU, He's weights.

    Parameters
    ----------
    shape : Shape
    channels : sequence of two int
        Filters of the convolutions.
    kernel : int
        Pixels of a filter.
    pool : int
        Pixels of which the largest is kept.
    hidden : sequence of int
        Units of the dense layers.

    References
    ----------
    Fabbro et al. 2018, MNRAS 475, 2978.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        channels: Sequence[int] = (4, 16),
        kernel: int = 8,
        pool: int = 4,
        hidden: Sequence[int] = (256, 128),
    ) -> None:
        super().__init__()
        sizes = (shape.n_channel, *channels)
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv1d(n_in, n_out, kernel) for n_in, n_out in pairwise(sizes)
        )
        self.pool = pool
        padded = -(-shape.n_pixel // pool) * pool
        n_flat = padded // pool * sizes[-1] + shape.n_input
        self.dense = dense((n_flat, *hidden), torch.nn.ReLU)
        lecun_(self, gain=2**0.5)
        self.head = Head(hidden[-1], shape.n_label)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return means and log variances (n, 2, n_label) of scaled labels."""
        y = x.transpose(1, 2)  # (n, n_pixel, n_channel): channels last, as the products want them
        *first, last = self.convolutions
        for convolution in first:
            y = convolved(y, convolution)
        y = convolved(y, last, pool=self.pool).flatten(1)
        made: Tensor = self.head(self.dense(torch.cat([y, extra], dim=1)))
        return made


def convolved(x: Tensor, convolution: torch.nn.Module, *, pool: int = 1) -> Tensor:
    """Convolve along pixels, take what is positive, and the largest of every `pool` pixels.

    Parameters
    ----------
    x : (n, n_pixel, n_in) tensor
    convolution : torch.nn.Conv1d
        Its weight (n_out, n_in, kernel) and bias (n_out,) are used, not its padding: as many
        pixels come out as in.
    pool : int

    Returns
    -------
    (n, n_pixel / pool rounded up, n_out) tensor

    Examples
    --------
    >>> next_pixel = torch.nn.Conv1d(1, 1, 3, bias=True)
    >>> _ = next_pixel.load_state_dict(
    ...     {"weight": torch.tensor([[[0.0, 0.0, 1.0]]]), "bias": torch.zeros(1)}
    ... )
    >>> x = torch.tensor([0.0, 1.0, -2.0, 3.0]).reshape(1, 4, 1)
    >>> with torch.inference_mode():
    ...     convolved(x, next_pixel).flatten(), convolved(x, next_pixel, pool=2).flatten()
    (tensor([1., 0., 3., 0.]), tensor([1., 3.]))
    """
    weight, bias = cast(Tensor, convolution.weight), cast(Tensor, convolution.bias)
    if TOGETHER % pool == 0 and not torch.is_grad_enabled():
        return _by_products(x, weight, bias, pool)
    kernel = weight.shape[2]
    before = (kernel - 1) // 2
    padded = torch.nn.functional.pad(x.transpose(1, 2), (before, kernel - 1 - before))
    y = torch.relu(torch.nn.functional.conv1d(padded, weight, bias).transpose(1, 2))
    y = torch.nn.functional.pad(y, (0, 0, 0, -x.shape[1] % pool))
    return y.reshape(len(x), -1, pool, len(weight)).amax(2)


def _by_products(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
    """Do so by one matrix product, of rows that make `TOGETHER` output pixels each.

    A filter of few channels alone gives rows too short for the processor. (Rows of 15 pixels in and
    8 out are about twice the multiplications, done some ten times faster.)
    """
    n, n_pixel, n_in = x.shape
    n_out, _, kernel = weight.shape
    before, reach = (kernel - 1) // 2, TOGETHER + kernel - 1
    n_row = -(-n_pixel // TOGETHER)
    after = n_row * TOGETHER + kernel - 1 - before - n_pixel
    padded = torch.nn.functional.pad(x, (0, 0, before, after)).contiguous()
    rows = padded.as_strided((n, n_row, reach * n_in), (padded.shape[1] * n_in, TOGETHER * n_in, 1))
    # Output pixel i of a row sees input pixels i to i + kernel of it: a band of the matrix. Pixels
    # that are pooled stand furthest apart, so that the largest is taken of whole vectors.
    band = weight.new_zeros(pool, TOGETHER // pool, n_out, reach, n_in)
    for i in range(TOGETHER):
        band[i % pool, i // pool, :, i : i + kernel] = weight.transpose(1, 2)
    made = torch.nn.functional.linear(rows, band.reshape(-1, reach * n_in), bias.repeat(TOGETHER))
    made = made.reshape(n, n_row, pool, TOGETHER // pool, n_out)
    if left := n_pixel % pool:  # pixels that are not there pool with the last ones
        group = n_pixel // pool
        made[:, group * pool // TOGETHER, left:, group % (TOGETHER // pool)] = 0
    largest = made.amax(2) if pool > 1 else made
    return largest.reshape(n, -1, n_out)[:, : -(-n_pixel // pool)].relu_()
