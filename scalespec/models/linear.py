"""Normal equations of linear output layers, and sums over the ranks that train together."""

import math

import torch
from torch import Tensor

RIDGE = 1e-7
"""Penalty on the squares of output weights, in units of the features' mean square; see `solve`."""


def all_sum(tensor: Tensor) -> Tensor:
    """Return `tensor` summed over all ranks of a distributed training; itself if there is none."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor


def world_size() -> int:
    """Return how many ranks train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def solve(gram: Tensor, right: Tensor, ridge: float = RIDGE) -> Tensor:
    """Solve ridge normal equations whose last unknown is a constant, free of penalty.

    Parameters
    ----------
    gram : (n_feature + 1, n_feature + 1) float64 tensor
        Weighted mean of the products of features, the last one being 1.
    right : (n_feature + 1, n) float64 tensor
        Weighted mean of features times targets.
    ridge : float
        Penalty, in the units of `gram`.

    Returns
    -------
    (n_feature + 1, n) float64 tensor
        Weights; the constants last.

    Examples
    --------
    >>> design = with_constant(torch.tensor([[0.0], [1.0], [2.0]]))
    >>> target = torch.tensor([[1.0], [3.0], [5.0]], dtype=torch.float64)
    >>> solve(design.T @ design / 3, design.T @ target / 3, 1e-12).round(decimals=3)
    tensor([[2.],
            [1.]], dtype=torch.float64)
    """
    penalty = torch.full((len(gram),), ridge, dtype=gram.dtype, device=gram.device)
    penalty[-1] = ridge**2  # enough to be solvable where no spectrum has weight
    factor = torch.linalg.cholesky(gram + torch.diag(penalty))
    return torch.cholesky_solve(right, factor)


def with_constant(features: Tensor) -> Tensor:
    """Return features in float64 with a last column of ones: what normal equations are made of."""
    ones = torch.ones(len(features), 1, dtype=torch.float64, device=features.device)
    return torch.cat([features.double(), ones], dim=1)


def joined(
    gram: Tensor, right: Tensor, slopes: Tensor, target: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """Return normal equations with what is asked of derivatives; the constant has none."""
    slopes = slopes.double()
    weighted = (slopes * share[:, None]).T
    gram, right = gram.clone(), right.clone()
    gram[:-1, :-1] += weighted @ slopes
    right[:-1] += weighted @ target.double()
    return gram, right


def smoothed_pixels(rows: Tensor, sigma_pixel: float) -> Tensor:
    """Return rows (n, n_pixel) smoothed by a Gaussian of `sigma_pixel`; ends repeat.

    Examples
    --------
    >>> smoothed_pixels(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]), 0.5).round(decimals=2)
    tensor([[0.0000, 0.1100, 0.7900, 0.1100, 0.0000]])
    """
    reach = math.ceil(5 * sigma_pixel)
    offset = torch.arange(-reach, reach + 1, dtype=rows.dtype, device=rows.device)
    kernel = torch.exp(-0.5 * (offset / sigma_pixel) ** 2)
    padded = torch.nn.functional.pad(rows[:, None], (reach, reach), mode="replicate")
    return torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]
