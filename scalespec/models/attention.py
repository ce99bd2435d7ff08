"""Blocks of attention over few tokens, shared by the transformers; float32, no biases in products.

Pre-normalized residual blocks: Xiong et al. 2020, ICML 119, 10524; normalization without gains, as
TransformerPayne's (Różański & Ting 2025, ApJ 980, 66), so that decay of weights shrinks no norm.
"""

import math
from typing import cast

import torch
from torch import Tensor

FFN_EXPANSION = 2
"""Width of a feed-forward layer's inside, in units of its ends."""
LABEL_GAIN = 2.0
"""First weights of labels are so much larger than others: scaled labels are smaller than 0.5."""
_EPSILON = 1e-6


def rms_normalized(h: Tensor) -> Tensor:
    """Return `h` over the root of its mean square along the last axis.

    Examples
    --------
    >>> rms_normalized(torch.tensor([[3.0, -3.0]])).round(decimals=3)
    tensor([[ 1., -1.]])
    """
    return h * torch.rsqrt(h.square().mean(dim=-1, keepdim=True) + _EPSILON)


class Attention(torch.nn.Module):
    """Each query takes a weighted mean of tokens, once per head.

    With few tokens it is cheapest to bring the tokens to the queries' side: the products of query
    and key weights and of value and output weights are made per spectrum, and a query then costs
    ``2 * width * heads * tokens`` multiplications instead of ``2 * width**2`` and the attention's.

    Parameters
    ----------
    width : int
        Of queries and tokens.
    heads : int
        Divides `width`.
    gain : float
        Of the first output weights: small for one of many residual blocks.
    """

    def __init__(self, width: int, heads: int, gain: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = torch.nn.Linear(width, width, bias=False)
        self.key = torch.nn.Linear(width, width, bias=False)
        self.value = torch.nn.Linear(width, width, bias=False)
        self.output = torch.nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.output.weight.mul_(gain)

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        """Return what queries `h` ((n or 1), m, width) take of `tokens` (n, t, width)."""
        n, t, width = tokens.shape
        heads, each = self.heads, width // self.heads
        tokens, h = rms_normalized(tokens), rms_normalized(h)
        key = self.key(tokens).view(n, t, heads, each)
        value = self.value(tokens).view(n, t, heads, each)
        # (n, width, heads * t): what a query is multiplied by, and what its weights are.
        ask = torch.einsum("nthe,hed->ndht", key, self.query.weight.view(heads, each, width))
        give = torch.einsum("nthe,dhe->nhtd", value, self.output.weight.view(width, heads, each))
        scores = torch.matmul(h, ask.reshape(n, width, heads * t)) / math.sqrt(each)
        # No -1 for the queries: of no spectra their number cannot be told.
        weight = scores.view(n, scores.shape[1], heads, t).softmax(dim=-1)
        return torch.matmul(weight.view_as(scores), give.reshape(n, heads * t, width))


class Block(torch.nn.Module):
    """Attention to tokens, then a feed-forward layer, each beside an identity.

    Parameters
    ----------
    width, heads : int
        As of `Attention`.
    layers : int
        How many such blocks follow each other; the first weights shrink with it.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        gain = 1 / math.sqrt(2 * layers)
        self.attention = Attention(width, heads, gain)
        self.inside = torch.nn.Linear(width, FFN_EXPANSION * width)
        self.outside = torch.nn.Linear(FFN_EXPANSION * width, width)
        with torch.no_grad():
            self.outside.weight.mul_(gain)

    def forward(self, h: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return (n, m, width) for `h` ((n or 1), m, width), which attends to itself by default."""
        h = h + self.attention(h, h if tokens is None else tokens)
        inside = torch.nn.functional.silu(self.inside(rms_normalized(h)))
        return cast("Tensor", h + self.outside(inside))


class MixedTokens(torch.nn.Module):
    """All labels together make a few tokens: TransformerPayne's embedding."""

    def __init__(self, n_label: int, tokens: int, width: int) -> None:
        super().__init__()
        self.shape = (tokens, width)
        self.inside = torch.nn.Linear(n_label, 4 * width)
        self.outside = torch.nn.Linear(4 * width, tokens * width)
        with torch.no_grad():
            self.inside.weight.mul_(LABEL_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (n, t, width) of scaled labels (n, n_label)."""
        tokens: Tensor = self.outside(torch.nn.functional.silu(self.inside(x)))
        return tokens.view(len(x), *self.shape)


class LabelTokens(torch.nn.Module):
    """Each label makes a token of its own, so that a pixel can ask for it and for no other."""

    def __init__(self, n_label: int, width: int) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(LABEL_GAIN * torch.randn(n_label, width))
        self.name = torch.nn.Parameter(torch.randn(n_label, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (n, n_label, width) of scaled labels (n, n_label)."""
        return x[..., None] * self.value + self.name


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1, and a ``width`` that ``heads`` does not divide.

    Raises
    ------
    ValueError
        Naming the size.

    Examples
    --------
    >>> check_sizes(width=64, heads=4)
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if sizes["width"] % sizes["heads"]:
        raise ValueError(f"heads must divide width, got {sizes['heads']} and {sizes['width']}")
