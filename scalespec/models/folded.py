"""A two-dimensional convolutional network on spectra folded, back and forth, into images."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from scalespec.models.heads import Head, Shape, dense, lecun_


class FoldedCNN(torch.nn.Module):
    """Convolutions with a pooling after each, then dense layers; ReLU, He's weights.

    The image is square, 64 by 64 for 4,096 pixels; fewer pixels are followed by nothing.

    Parameters
    ----------
    shape : Shape
    channels : sequence of int
        Filters of each convolution; a pooling of 2 by 2 follows it.
    kernel : int
        Lines and columns of a filter; odd.
    hidden : sequence of int
        Units of the dense layers.

    Raises
    ------
    ValueError
        If `kernel` is even.

    References
    ----------
    Xie et al. 2021, on LAMOST's very metal-poor stars: 9 by 9 filters, 64, 128 and 256 of them,
    dense layers of 128 and 64, mean absolute error as loss.
    """

    order: Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        channels: Sequence[int] = (64, 128, 256),
        kernel: int = 9,
        hidden: Sequence[int] = (128, 64),
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel has a middle, so it is odd; got {kernel}")
        self.side = image_side(shape.n_pixel, len(channels))
        self.register_buffer("order", _folded(self.side), persistent=False)
        sizes = (shape.n_channel, *channels)
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
            for n_in, n_out in pairwise(sizes)
        )
        n_flat = channels[-1] * (self.side >> len(channels)) ** 2 + shape.n_input
        self.dense = dense((n_flat, *hidden), torch.nn.ReLU)
        lecun_(self, gain=2**0.5)
        self.head = Head(hidden[-1], shape.n_label)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return means and log variances (n, 2, n_label) of scaled labels."""
        padded = torch.nn.functional.pad(x, (0, self.side**2 - x.shape[-1]))
        y = padded.index_select(2, self.order).reshape(*x.shape[:2], self.side, self.side)
        y = y.contiguous(memory_format=torch.channels_last)  # learns up to a sixth faster
        for convolution in self.convolutions:
            y = torch.nn.functional.max_pool2d(torch.relu(convolution(y)), 2)
        made: Tensor = self.head(self.dense(torch.cat([y.flatten(1), extra], dim=1)))
        return made


def image_side(n_pixel: int, n_pooling: int) -> int:
    """Return lines of the smallest square image that holds a spectrum and can be halved so often.

    Examples
    --------
    >>> image_side(4096, 3), image_side(3909, 3), image_side(143, 3)
    (64, 64, 16)
    """
    step = 1 << n_pooling
    return -(-int(np.ceil(np.sqrt(n_pixel))) // step) * step


def _folded(side: int) -> Tensor:
    """Return the pixel shown at each place of the image, line by line: every other one reversed."""
    image = torch.arange(side * side).reshape(side, side)
    image[1::2] = image[1::2].flip(1)
    return image.flatten()
